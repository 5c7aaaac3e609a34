"""ARP packets that map IPv4 to Ethernet addresses.

Read first: RFC 826, RFC 5227 1.1 for the words probe and announcement.  Other hardware and protocol types are
refused.
"""

import struct
from dataclasses import dataclass

from swos_net.address import IPV4_PREFIX, UNSPECIFIED4
from swos_net.errors import WireError
from swos_net.wire.ethernet import UNSPECIFIED

PACKET_LENGTH = 28

REQUEST = 1
REPLY = 2

_PACKET = struct.Struct("!8s6s4s6s4s")
# hardware type Ethernet, protocol type IPv4, address lengths 6 and 4
_FIXED = bytes.fromhex("000108000604")


@dataclass(slots=True)
class ArpPacket:
    """The protocol addresses are 16 bytes, IPv4-mapped."""

    operation: int
    sender_link_address: bytes
    sender_address: bytes
    target_link_address: bytes
    target_address: bytes


def parse(data: bytes) -> ArpPacket:
    """An ARP packet after the Ethernet header; what follows its 28 bytes is padding."""
    if len(data) < PACKET_LENGTH:
        raise WireError("truncated")
    fixed, sender_link, sender, target_link, target = _PACKET.unpack_from(data)
    if fixed[:6] != _FIXED:
        raise WireError("bad_arp_type")
    operation = fixed[6] << 8 | fixed[7]
    if operation != REQUEST and operation != REPLY:
        raise WireError("bad_arp_operation")
    return ArpPacket(operation, sender_link, IPV4_PREFIX + sender, target_link, IPV4_PREFIX + target)


def emit(packet: ArpPacket) -> bytes:
    return _PACKET.pack(
        _FIXED + packet.operation.to_bytes(2, "big"),
        packet.sender_link_address,
        packet.sender_address[12:],
        packet.target_link_address,
        packet.target_address[12:],
    )


def request(sender_link_address: bytes, sender_address: bytes, target_address: bytes) -> bytes:
    """Who has `target_address`?  The target link address is left zero (RFC 826)."""
    return emit(ArpPacket(REQUEST, sender_link_address, sender_address, UNSPECIFIED, target_address))


def reply(
    sender_link_address: bytes, sender_address: bytes, target_link_address: bytes, target_address: bytes
) -> bytes:
    return emit(ArpPacket(REPLY, sender_link_address, sender_address, target_link_address, target_address))


def probe(sender_link_address: bytes, address: bytes) -> bytes:
    """ARP Probe: a request with an all-zero sender, so that no cache is changed (RFC 5227 2.1.1)."""
    return request(sender_link_address, UNSPECIFIED4, address)


def announcement(sender_link_address: bytes, address: bytes) -> bytes:
    """ARP Announcement: a request whose sender and target are both `address` (RFC 5227 2.3)."""
    return request(sender_link_address, address, address)
