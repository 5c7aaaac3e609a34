"""The IPv4 header.

Read first: RFC 791 3.1, RFC 1122 3.2.1.  Options are carried as bytes and not looked into; source routes are not
obeyed.  Reassembly is in `swos_net.ip`.
"""

import struct
from dataclasses import dataclass

from swos_net.address import IPV4_PREFIX
from swos_net.errors import WireError
from swos_net.wire.checksum import internet_checksum

HEADER_LENGTH = 20
HEADER_LENGTH_MAX = 60
PACKET_LENGTH_MAX = 65535

# Ipv4Header.flags, as they stand in the flags and fragment offset field
RESERVED_FLAG = 0x8000
DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000

PROTOCOL_ICMP = 1
PROTOCOL_IGMP = 2
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17

_HEADER = struct.Struct("!BBHHHBBH4s4s")


@dataclass(slots=True)
class Ipv4Header:
    """`fragment_offset` counts bytes.  `total_length` is what `parse` read; `emit` computes its own."""

    source: bytes
    destination: bytes
    protocol: int
    ttl: int = 64
    tos: int = 0
    identification: int = 0
    flags: int = 0
    fragment_offset: int = 0
    options: bytes = b""
    total_length: int = 0

    @property
    def header_length(self) -> int:
        return HEADER_LENGTH + len(self.options)


def parse(data: bytes) -> Ipv4Header:
    """The header of a packet; its payload is `data[header.header_length:header.total_length]`."""
    header = parse_quoted(data)
    if header.total_length < header.header_length:
        raise WireError("bad_ip_header")
    if internet_checksum(data[: header.header_length]) != 0:
        raise WireError("bad_ip_checksum")
    if header.total_length > len(data):
        raise WireError("truncated")
    return header


def parse_quoted(data: bytes) -> Ipv4Header:
    """The header of a packet quoted in an ICMP error: the payload may be cut off, and neither length nor
    checksum is looked at, since routers on the way have changed the header (RFC 1122 3.2.2)."""
    if len(data) < HEADER_LENGTH:
        raise WireError("truncated")
    (first, tos, total_length, identification, fragment, ttl, protocol, _checksum, source, destination) = (
        _HEADER.unpack_from(data)
    )
    if first >> 4 != 4:
        raise WireError("bad_ip_version")
    header_length = (first & 15) * 4
    if header_length < HEADER_LENGTH:
        raise WireError("bad_ip_header")
    if header_length > len(data):
        raise WireError("truncated")
    return Ipv4Header(
        IPV4_PREFIX + source,
        IPV4_PREFIX + destination,
        protocol,
        ttl,
        tos,
        identification,
        fragment & 0xE000,
        (fragment & 0x1FFF) * 8,
        bytes(data[HEADER_LENGTH:header_length]),
        total_length,
    )


def emit(header: Ipv4Header, payload: bytes = b"") -> bytes:
    """Header with its checksum, and payload.  `options` are padded to 4 bytes with End of Option List."""
    options = header.options
    if len(options) & 3:
        options += bytes(-len(options) & 3)
    header_length = HEADER_LENGTH + len(options)
    total_length = header_length + len(payload)
    if header_length > HEADER_LENGTH_MAX or total_length > PACKET_LENGTH_MAX or header.fragment_offset & 7:
        raise ValueError("no IPv4 packet: options over 40 bytes, packet over 65535 or a fragment offset not in eights")
    raw = _HEADER.pack(
        0x40 | header_length >> 2,
        header.tos,
        total_length,
        header.identification,
        header.flags | header.fragment_offset >> 3,
        header.ttl,
        header.protocol,
        0,
        header.source[12:],
        header.destination[12:],
    )
    checksum = internet_checksum(raw + options)
    return b"".join((raw[:10], checksum.to_bytes(2, "big"), raw[12:], options, payload))
