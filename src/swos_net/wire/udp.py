"""The UDP header.

Read first: RFC 768, RFC 8200 8.1 (no datagram without a checksum over IPv6).
"""

import struct
from dataclasses import dataclass

from swos_net.address import is_ipv4
from swos_net.errors import WireError
from swos_net.wire.checksum import internet_checksum, pseudo_header_sum

HEADER_LENGTH = 8
PROTOCOL_UDP = 17

_HEADER = struct.Struct("!HHHH")


@dataclass(slots=True)
class UdpHeader:
    """`length` counts header and payload.  It and `checksum` are what `parse` read; `emit` computes its own."""

    source_port: int
    destination_port: int
    length: int = 0
    checksum: int = 0


def parse(data: bytes) -> UdpHeader:
    """The header of a datagram; its payload is `data[HEADER_LENGTH:header.length]`.  See `checksum_valid`."""
    header = parse_quoted(data)
    if header.length < HEADER_LENGTH:
        raise WireError("bad_transport_header")
    if header.length > len(data):
        raise WireError("truncated")
    return header


def parse_quoted(data: bytes) -> UdpHeader:
    """The header of a datagram quoted in an ICMP error, whose payload may be cut off."""
    if len(data) < HEADER_LENGTH:
        raise WireError("truncated")
    return UdpHeader(*_HEADER.unpack_from(data))


def checksum_valid(data: bytes, header: UdpHeader, source: bytes, destination: bytes) -> bool:
    """Whether the datagram's checksum is right; 0 says over IPv4 that there is none, and is wrong over IPv6."""
    if header.checksum == 0:
        return is_ipv4(destination)
    pseudo = pseudo_header_sum(source, destination, PROTOCOL_UDP, header.length)
    return internet_checksum(data[: header.length], pseudo) == 0


def emit(header: UdpHeader, payload: bytes, source: bytes, destination: bytes) -> bytes:
    """A datagram with its checksum, from and to these addresses."""
    length = HEADER_LENGTH + len(payload)
    raw = _HEADER.pack(header.source_port, header.destination_port, length, 0) + payload
    # RFC 768: a computed checksum of zero is transmitted as all ones
    checksum = internet_checksum(raw, pseudo_header_sum(source, destination, PROTOCOL_UDP, length)) or 0xFFFF
    return raw[:6] + checksum.to_bytes(2, "big") + raw[8:]
