"""Wire formats: `parse` and `emit` only, no state, no clock, no policy; re-exports nothing.

Every module has the same verbs: `parse(data)` takes bytes-like data and returns a plain record, `emit(record, ...)`
returns bytes, lengths are module constants.  IP addresses in records are 16 bytes (see `swos_net.address`), link
addresses 6.  Malformed input raises `WireError` with a short reason and nothing else; a record whose fields
do not fit their format raises `ValueError` or `struct.error`.
"""
