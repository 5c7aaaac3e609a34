"""Group membership messages of IPv4: IGMP 1, 2 and 3; and what they have in common with IPv6's (mld.py).

That serves addresses of both lengths: `prefix` is what those on the wire lack to be 16 bytes.

Read first: RFC 3376 4, RFC 2236 2, RFC 1112 appendix I.  When they are sent is in `swos_net.ip.membership`.
"""

import struct
from dataclasses import dataclass

from swos_net.address import IPV4_PREFIX, UNSPECIFIED4, is_multicast
from swos_net.errors import WireError
from swos_net.wire.checksum import internet_checksum

HEADER_LENGTH = 8
RECORD_LENGTH = 8  # without sources

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
_QUERY3 = struct.Struct("!BBH")  # behind the group: flags and robustness, interval, number of sources
_REPORT3 = struct.Struct("!BBHHH")
_RECORD = struct.Struct("!BBH")  # before the group: kind, words of auxiliary data, number of sources


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
        return Report(3, parse_records(data, IPV4_PREFIX))
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
    return parse_query3(data, HEADER_LENGTH, asked, decode_time(code) / 10, IPV4_PREFIX)


def parse_query3(data: bytes, at: int, asked: bytes | None, response_time: float, prefix: bytes) -> Query:
    """A query of version 3, which goes on at byte `at` (RFC 3376 4.1, RFC 3810 5.1)."""
    if at + _QUERY3.size > len(data):
        raise WireError("truncated")
    flags, interval_code, count = _QUERY3.unpack_from(data, at)
    sources, _end = _parse_addresses(data, at + _QUERY3.size, count, prefix)
    if sources and asked is None:
        raise WireError("bad_group")  # RFC 3376 4.1.12 knows no such query
    return Query(asked, response_time, 3, sources, flags & 7, float(decode_time(interval_code)))


def parse_records(data: bytes, prefix: bytes) -> tuple[Record, ...]:
    """What a report of version 3 holds (RFC 3376 4.2, RFC 3810 5.2)."""
    records = []
    at = _REPORT3.size
    for _ in range(int.from_bytes(data[6:8], "big")):
        if at + _RECORD.size > len(data):
            raise WireError("truncated")
        kind, auxiliary, count = _RECORD.unpack_from(data, at)
        (group, *sources), at = _parse_addresses(data, at + _RECORD.size, 1 + count, prefix)
        at += 4 * auxiliary  # RFC 3376 4.2.11: auxiliary data is ignored
        if at > len(data):
            raise WireError("truncated")
        if not is_multicast(group):
            raise WireError("bad_group")
        records.append(Record(kind, group, tuple(sources)))
    return tuple(records)


def _parse_addresses(data: bytes, at: int, count: int, prefix: bytes) -> tuple[tuple[bytes, ...], int]:
    """So many from byte `at` on, and where they end."""
    length = 16 - len(prefix)
    end = at + count * length
    if end > len(data):
        raise WireError("truncated")
    return tuple(prefix + bytes(data[start : start + length]) for start in range(at, end, length)), end


def emit(message: Message) -> bytes:
    """A message with its checksum.  ValueError when it holds what its version cannot say."""
    if isinstance(message, Query):
        raw = _emit_query(message)
    elif isinstance(message, Leave):
        raw = _HEADER.pack(LEAVE, 0, 0, _packed(message.group, IPV4_PREFIX))
    elif message.version == 3:
        raw = emit_report3(REPORT3, message.records, IPV4_PREFIX)
    else:
        (record,) = message.records
        raw = _HEADER.pack(REPORT1 if message.version == 1 else REPORT2, 0, 0, _packed(record.group, IPV4_PREFIX))
    return raw[:2] + internet_checksum(raw).to_bytes(2, "big") + raw[4:]


def _emit_query(query: Query) -> bytes:
    group = bytes(4) if query.group is None else _packed(query.group, IPV4_PREFIX)
    code = 0 if query.version == 1 else encode_time(int(query.response_time * 10))
    raw = _HEADER.pack(QUERY, code, 0, group)
    return raw if query.version < 3 else raw + emit_query3(query, IPV4_PREFIX)


def emit_query3(query: Query, prefix: bytes) -> bytes:
    """What version 3 says behind the group."""
    head = _QUERY3.pack(query.robustness, encode_time(int(query.interval)), len(query.sources))
    return head + _emit_addresses(query.sources, prefix)


def emit_report3(kind: int, records: tuple[Record, ...], prefix: bytes) -> bytes:
    """A report of version 3, its checksum 0."""
    parts = [_REPORT3.pack(kind, 0, 0, 0, len(records))]
    for record in records:
        parts.append(_RECORD.pack(record.kind, 0, len(record.sources)))
        parts.append(_emit_addresses((record.group, *record.sources), prefix))
    return b"".join(parts)


def _emit_addresses(addresses: tuple[bytes, ...], prefix: bytes) -> bytes:
    return b"".join([_packed(address, prefix) for address in addresses])


def _packed(address: bytes, prefix: bytes) -> bytes:
    if not address.startswith(prefix):
        raise ValueError("IGMP speaks of IPv4 addresses")
    return address[len(prefix) :]
