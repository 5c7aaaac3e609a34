"""The TCP header and its options.

Read first: RFC 9293 3.1 and 3.2, RFC 7323 2 and 3, RFC 2018 2 and 3.  Segments with data are read and written by the
data plane; here are the options it leaves to Python, and whole segments for tests and traces.  What an option
means is in `swos_net.tcp`.
"""

import struct
from dataclasses import dataclass

from swos_net.errors import WireError
from swos_net.wire.checksum import internet_checksum, pseudo_header_sum

HEADER_LENGTH = 20
OPTIONS_LENGTH_MAX = 40
PROTOCOL_TCP = 6

# TcpHeader.flags
FIN = 0x01
SYN = 0x02
RST = 0x04
PSH = 0x08
ACK = 0x10
URG = 0x20
ECE = 0x40
CWR = 0x80

_END = 0
_NOP = 1
_MSS = 2
_WINDOW_SCALE = 3
_SACK_PERMITTED = 4
_SACK = 5
_TIMESTAMPS = 8

_HEADER = struct.Struct("!HHIIBBHHH")
_U16 = struct.Struct("!H")
_TWO_U32 = struct.Struct("!II")


@dataclass(slots=True)
class TcpHeader:
    """`window` is as on the wire, not scaled.  `options` are the bytes between header and data."""

    source_port: int
    destination_port: int
    seq: int
    ack: int
    flags: int
    window: int
    options: bytes = b""
    urgent_pointer: int = 0

    @property
    def header_length(self) -> int:
        return HEADER_LENGTH + len(self.options)


@dataclass(slots=True)
class TcpOptions:
    """Options by name, None or empty when they are not there.  `window_scale` is the shift as on the wire (RFC 7323
    2.3 has the receiver take more than 14 for 14); `sack_blocks` are (left edge, right edge) pairs."""

    mss: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False
    sack_blocks: tuple[tuple[int, int], ...] = ()
    ts_val: int | None = None
    ts_ecr: int | None = None


def parse(data: bytes) -> TcpHeader:
    """The header of a segment; its data begins at `header.header_length`.  See `checksum_valid`."""
    if len(data) < HEADER_LENGTH:
        raise WireError("truncated")
    source_port, destination_port, seq, ack, offset, flags, window, _checksum, urgent = _HEADER.unpack_from(data)
    header_length = (offset >> 4) * 4
    if header_length < HEADER_LENGTH:
        raise WireError("bad_transport_header")
    if header_length > len(data):
        raise WireError("truncated")
    options = bytes(data[HEADER_LENGTH:header_length])
    return TcpHeader(source_port, destination_port, seq, ack, flags, window, options, urgent)


def checksum_valid(data: bytes, source: bytes, destination: bytes) -> bool:
    """Whether the checksum of a whole segment is right."""
    return internet_checksum(data, pseudo_header_sum(source, destination, PROTOCOL_TCP, len(data))) == 0


def emit(header: TcpHeader, payload: bytes, source: bytes, destination: bytes) -> bytes:
    """A segment with its checksum, from and to these addresses; `options` come padded to 4 (see `emit_options`)."""
    options = header.options
    if len(options) & 3 or len(options) > OPTIONS_LENGTH_MAX:
        raise ValueError("TCP options are a multiple of 4 bytes and at most 40")
    raw = (
        _HEADER.pack(
            header.source_port,
            header.destination_port,
            header.seq,
            header.ack,
            (HEADER_LENGTH + len(options)) << 2,
            header.flags,
            header.window,
            0,
            header.urgent_pointer,
        )
        + options
        + payload
    )
    checksum = internet_checksum(raw, pseudo_header_sum(source, destination, PROTOCOL_TCP, len(raw)))
    return raw[:16] + checksum.to_bytes(2, "big") + raw[18:]


def parse_options(data: bytes) -> TcpOptions:
    """The options between header and data.

    WireError when a length runs over the end or is less than 2 (RFC 9293 3.1, MUST-7).  A known option of the wrong
    length counts as unknown, and an unknown one is stepped over (MUST-6).  Of an option given twice the last counts.
    """
    options = TcpOptions()
    offset = 0
    end = len(data)
    while offset < end:
        kind = data[offset]
        if kind == _NOP:
            offset += 1
            continue
        if kind == _END:
            break
        if offset + 1 >= end:
            raise WireError("bad_options")
        length = data[offset + 1]
        if length < 2 or offset + length > end:
            raise WireError("bad_options")
        if kind == _TIMESTAMPS:
            if length == 10:
                options.ts_val, options.ts_ecr = _TWO_U32.unpack_from(data, offset + 2)
        elif kind == _SACK:
            # RFC 2018 3: n blocks of 8 bytes
            if length > 2 and (length - 2) & 7 == 0:
                options.sack_blocks = tuple(_TWO_U32.iter_unpack(data[offset + 2 : offset + length]))
        elif kind == _MSS:
            if length == 4:
                options.mss = _U16.unpack_from(data, offset + 2)[0]
        elif kind == _WINDOW_SCALE:
            if length == 3:
                options.window_scale = data[offset + 2]
        elif kind == _SACK_PERMITTED:
            if length == 2:
                options.sack_permitted = True
        offset += length
    return options


def emit_options(options: TcpOptions) -> bytes:
    """Options for a header, padded with NOP to a multiple of 4 bytes, 40 at most.

    Of the SACK blocks as many are written as there is room for (RFC 2018 3), the first ones first.
    """
    parts = []
    if options.mss is not None:
        parts.append(b"\x02\x04" + _U16.pack(options.mss))
    if options.ts_val is not None:
        # Timestamps share the 4-byte group of SACK permitted when both are there (RFC 7323 appendix A).
        parts.append(b"\x04\x02\x08\x0a" if options.sack_permitted else b"\x01\x01\x08\x0a")
        parts.append(_TWO_U32.pack(options.ts_val, options.ts_ecr or 0))
    elif options.sack_permitted:
        parts.append(b"\x01\x01\x04\x02")
    if options.window_scale is not None:
        parts.append(b"\x01\x03\x03" + bytes((options.window_scale,)))
    if options.sack_blocks:
        room = (OPTIONS_LENGTH_MAX - 4 - sum(map(len, parts))) // 8
        blocks = options.sack_blocks[:room]
        if blocks:
            parts.append(b"\x01\x01\x05" + bytes((2 + 8 * len(blocks),)))
            for left, right in blocks:
                parts.append(_TWO_U32.pack(left, right))
    return b"".join(parts)
