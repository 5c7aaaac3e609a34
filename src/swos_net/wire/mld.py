"""Group membership messages of IPv6: MLD 1 and 2, ICMPv6 messages that say what IGMP's say.

Read first: igmp.py for the records, RFC 3810 5, RFC 2710 3.  When they are sent is in `swos_net.ip.membership`.
"""

import struct

from swos_net.address import UNSPECIFIED6, is_multicast, parse_address
from swos_net.errors import WireError
from swos_net.wire import icmpv6
from swos_net.wire.igmp import (
    MODE_IS_EXCLUDE,
    Leave,
    Message,
    Query,
    Record,
    Report,
    decode_time,
    emit_query3,
    emit_report3,
    encode_time,
    parse_query3,
    parse_records,
)

HEADER_LENGTH = 24
REPORT2_HEADER_LENGTH = 8
RECORD_LENGTH = 20  # without sources
PREFIX = b""  # addresses are whole on the wire

QUERY = 130
REPORT1 = 131
DONE = 132
REPORT2 = 143
TYPES = frozenset({QUERY, REPORT1, DONE, REPORT2})

ALL_NODES = parse_address("ff02::1")
ALL_ROUTERS = parse_address("ff02::2")
ALL_REPORT_ROUTERS = parse_address("ff02::16")  # RFC 3810 5.2.14

_HEADER = struct.Struct("!BBHHH16s")


def parse(data: bytes, source: bytes, destination: bytes) -> Message:
    """A message after the IP headers, its checksum verified.  `version` is one more than MLD's own, as IGMP counts."""
    if len(data) < REPORT2_HEADER_LENGTH:
        raise WireError("truncated")
    if icmpv6.checksum(data, source, destination) != 0:
        raise WireError("bad_icmp_checksum")
    kind = data[0]
    if kind == REPORT2:
        return Report(3, parse_records(data, PREFIX))
    if kind not in TYPES:
        raise WireError("bad_mld_type")
    if len(data) < HEADER_LENGTH:
        raise WireError("truncated")
    _kind, _code, _checksum, delay, _reserved, group = _HEADER.unpack_from(data)
    if kind == QUERY:
        return _parse_query(data, delay, group)
    if not is_multicast(group):
        raise WireError("bad_group")
    return Leave(group) if kind == DONE else Report(2, (Record(MODE_IS_EXCLUDE, group),))


def _parse_query(data: bytes, delay: int, group: bytes) -> Query:
    asked = None if group == UNSPECIFIED6 else group
    if asked is not None and not is_multicast(asked):
        raise WireError("bad_group")
    if len(data) == HEADER_LENGTH:  # RFC 3810 8.1
        return Query(asked, delay / 1000, 2)
    return parse_query3(data, HEADER_LENGTH, asked, decode_time(delay, 16) / 1000, PREFIX)


def emit(message: Message, source: bytes, destination: bytes) -> bytes:
    """A message with its checksum, from and to these addresses."""
    if isinstance(message, Query):
        raw = _emit_query(message)
    elif isinstance(message, Leave):
        raw = _HEADER.pack(DONE, 0, 0, 0, 0, message.group)
    elif message.version == 3:
        raw = emit_report3(REPORT2, message.records, PREFIX)
    else:
        (record,) = message.records
        raw = _HEADER.pack(REPORT1, 0, 0, 0, 0, record.group)
    return raw[:2] + icmpv6.checksum(raw, source, destination).to_bytes(2, "big") + raw[4:]


def _emit_query(query: Query) -> bytes:
    milliseconds = int(query.response_time * 1000)
    delay = min(milliseconds, 0xFFFF) if query.version < 3 else encode_time(milliseconds, 16)
    raw = _HEADER.pack(QUERY, 0, 0, delay, 0, query.group or UNSPECIFIED6)
    return raw if query.version < 3 else raw + emit_query3(query, PREFIX)
