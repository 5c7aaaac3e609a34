"""Group membership messages of IPv4: IGMP 1, 2 and 3; and what they have in common with IPv6's (mld.py).

Read first: RFC 3376 4, RFC 2236 2, RFC 1112 appendix I.  When they are sent is in `swos_net.ip.membership`.
"""

import struct
from dataclasses import dataclass

from swos_net.address import IPV4_PREFIX, UNSPECIFIED4, is_ipv4, is_multicast
from swos_net.errors import WireError
from swos_net.wire.checksum import internet_checksum

HEADER_LENGTH = 8
QUERY3_LENGTH = 12
RECORD_LENGTH = 8

QUERY = 0x11
REPORT1 = 0x12
REPORT2 = 0x16
LEAVE = 0x17
REPORT3 = 0x22

ALL_SYSTEMS = IPV4_PREFIX + bytes((224, 0, 0, 1))
ALL_ROUTERS = IPV4_PREFIX + bytes((224, 0, 0, 2))
ALL_REPORT_ROUTERS = IPV4_PREFIX + bytes((224, 0, 0, 22))  # RFC 3376 4.2.14

ROUTER_ALERT = b"\x94\x04\0\0"  # RFC 2113, as an option of the IPv4 header

# Record.kind (RFC 3376 4.2.12, RFC 3810 5.2.12)
MODE_IS_INCLUDE = 1
MODE_IS_EXCLUDE = 2
CHANGE_TO_INCLUDE_MODE = 3
CHANGE_TO_EXCLUDE_MODE = 4
ALLOW_NEW_SOURCES = 5
BLOCK_OLD_SOURCES = 6

RESPONSE_TIME1 = 10.0  # RFC 2236 4: what a query of version 1 means, which says none
SUPPRESS = 8           # in the octet of `robustness`

_HEADER = struct.Struct("!BBH4s")
_RECORD = struct.Struct("!BBH4s")


@dataclass(slots=True)
class Query:
    """A router asks who is in which group.

    `group` None: about all of them.  `version` counts as IGMP's: 2 and 3 stand for 1 and 2 of MLD.  Times in
    seconds.  `robustness` is 0 when the message does not say it.
    """

    group: bytes | None
    response_time: float
    version: int
    sources: tuple[bytes, ...] = ()
    robustness: int = 0
    interval: float = 0.0


@dataclass(slots=True)
class Record:
    """What a report says of one group."""

    kind: int
    group: bytes
    sources: tuple[bytes, ...] = ()


@dataclass(slots=True)
class Report:
    """A host says which groups it is in; before version 3 it is one group, in a record of MODE_IS_EXCLUDE."""

    version: int
    records: tuple[Record, ...]


@dataclass(slots=True)
class Leave:
    """A host left a group, said before version 3."""

    group: bytes


Message = Query | Report | Leave


def decode_time(code: int, bits: int = 8) -> int:
    """RFC 3376 4.1.1: an integer, or from the highest bit on a floating-point number."""
    mantissa_bits = bits - 4
    if code < 1 << (bits - 1):
        return code
    mantissa = code & ((1 << mantissa_bits) - 1) | 1 << mantissa_bits
    return mantissa << ((code >> mantissa_bits & 7) + 3)


def encode_time(value: int, bits: int = 8) -> int:
    """The code of the largest number that is not above `value`, as far as there is one."""
    mantissa_bits = bits - 4
    if value < 1 << (bits - 1):
        return value
    exponent = min(value.bit_length() - mantissa_bits - 4, 7)
    mantissa = min(value >> (exponent + 3), (2 << mantissa_bits) - 1)
    return 1 << (bits - 1) | exponent << mantissa_bits | mantissa & ((1 << mantissa_bits) - 1)


def parse(data: bytes) -> Message:
    """A message after the IP header, its checksum verified.  What follows the fields of a known version is ignored."""
    if len(data) < HEADER_LENGTH:
        raise WireError("truncated")
    if internet_checksum(data) != 0:
        raise WireError("bad_icmp_checksum")
    kind, code, _checksum, packed = _HEADER.unpack_from(data)
    group = IPV4_PREFIX + packed
    if kind == QUERY:
        return _parse_query(data, code, group)
    if kind == REPORT3:
        return Report(3, _parse_records(data))
    if kind not in (REPORT1, REPORT2, LEAVE):
        raise WireError("bad_igmp_type")
    if not is_multicast(group):
        raise WireError("bad_group")
    if kind == LEAVE:
        return Leave(group)
    return Report(1 if kind == REPORT1 else 2, (Record(MODE_IS_EXCLUDE, group),))


def _parse_query(data: bytes, code: int, group: bytes) -> Query:
    asked = None if group == UNSPECIFIED4 else group
    if asked is not None and not is_multicast(asked):
        raise WireError("bad_group")
    if len(data) == HEADER_LENGTH:  # RFC 3376 7.1: versions are told apart by length and code
        return Query(asked, code / 10 if code else RESPONSE_TIME1, 2 if code else 1)
    if len(data) < QUERY3_LENGTH:
        raise WireError("truncated")
    flags, interval_code = data[8], data[9]
    count = int.from_bytes(data[10:12], "big")
    end = QUERY3_LENGTH + 4 * count
    if end > len(data):
        raise WireError("truncated")
    sources = tuple(IPV4_PREFIX + bytes(data[at : at + 4]) for at in range(QUERY3_LENGTH, end, 4))
    if sources and asked is None:
        raise WireError("bad_group")  # 4.1.12 knows no such query
    return Query(asked, decode_time(code) / 10, 3, sources, flags & 7, float(decode_time(interval_code)))


def _parse_records(data: bytes) -> tuple[Record, ...]:
    records = []
    at = HEADER_LENGTH
    for _ in range(int.from_bytes(data[6:8], "big")):
        if at + RECORD_LENGTH > len(data):
            raise WireError("truncated")
        kind, auxiliary, count, packed = _RECORD.unpack_from(data, at)
        at += RECORD_LENGTH
        end = at + 4 * count
        if end + 4 * auxiliary > len(data):
            raise WireError("truncated")
        group = IPV4_PREFIX + packed
        if not is_multicast(group):
            raise WireError("bad_group")
        records.append(Record(kind, group, tuple(IPV4_PREFIX + bytes(data[s : s + 4]) for s in range(at, end, 4))))
        at = end + 4 * auxiliary  # RFC 3376 4.2.11: auxiliary data is ignored
    return tuple(records)


def emit(message: Message) -> bytes:
    """A message with its checksum.  ValueError when it holds what its version cannot say."""
    if isinstance(message, Query):
        raw = _emit_query(message)
    elif isinstance(message, Leave):
        raw = _HEADER.pack(LEAVE, 0, 0, _packed(message.group))
    elif message.version == 3:
        raw = struct.pack("!BBHHH", REPORT3, 0, 0, 0, len(message.records)) + b"".join(map(_emit_record, message.records))
    else:
        (record,) = message.records
        raw = _HEADER.pack(REPORT1 if message.version == 1 else REPORT2, 0, 0, _packed(record.group))
    return raw[:2] + internet_checksum(raw).to_bytes(2, "big") + raw[4:]


def _emit_query(query: Query) -> bytes:
    group = bytes(4) if query.group is None else _packed(query.group)
    code = 0 if query.version == 1 else encode_time(int(query.response_time * 10))
    raw = _HEADER.pack(QUERY, code, 0, group)
    if query.version < 3:
        return raw
    sources = b"".join(map(_packed, query.sources))
    return raw + struct.pack("!BBH", query.robustness, encode_time(int(query.interval)), len(query.sources)) + sources


def _emit_record(record: Record) -> bytes:
    sources = b"".join(map(_packed, record.sources))
    return _RECORD.pack(record.kind, 0, len(record.sources), _packed(record.group)) + sources


def _packed(address: bytes) -> bytes:
    if not is_ipv4(address):
        raise ValueError("IGMP speaks of IPv4 addresses")
    return address[12:]
