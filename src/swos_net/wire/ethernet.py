"""The Ethernet II header.

Read first: RFC 894, RFC 2464.  802.3 length fields, VLAN tags and SNAP are not decoded: their type value is
returned as it stands.
"""

import struct
from dataclasses import dataclass

from swos_net.errors import WireError

HEADER_LENGTH = 14
ADDRESS_LENGTH = 6
BROADCAST = b"\xff" * 6
UNSPECIFIED = bytes(6)

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_VLAN = 0x8100
ETHERTYPE_IPV6 = 0x86DD

_HEADER = struct.Struct("!6s6sH")


@dataclass(slots=True)
class EthernetHeader:
    destination: bytes
    source: bytes
    ethertype: int


def parse(data: bytes) -> EthernetHeader:
    """The first 14 bytes of a frame; the payload is `data[HEADER_LENGTH:]`, link padding included."""
    if len(data) < HEADER_LENGTH:
        raise WireError("truncated")
    return EthernetHeader(*_HEADER.unpack_from(data))


def emit(header: EthernetHeader, payload: bytes = b"") -> bytes:
    """Header and payload; the frame is not padded to 60 bytes, which a device does where its link asks for it."""
    return _HEADER.pack(header.destination, header.source, header.ethertype) + payload


def is_group(address: bytes) -> bool:
    """A broadcast or multicast link address, which no frame may come from."""
    return bool(address[0] & 1)
