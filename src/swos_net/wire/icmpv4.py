"""ICMPv4 messages.

Read first: icmp.py, RFC 792, RFC 1191 4 (next-hop MTU), RFC 1812 4.3.2.3 (how much is quoted).  When an error may
be sent is decided in `swos_net.icmp`.
"""

from dataclasses import dataclass

from swos_net.errors import WireError
from swos_net.wire.checksum import internet_checksum
from swos_net.wire.icmp import HEADER, HEADER_LENGTH, IcmpMessage

# RFC 1812 4.3.2.3: an error is as long as it can be without exceeding 576 bytes
QUOTE_MAX = 576 - 20 - HEADER_LENGTH

ECHO_REPLY = 0
DESTINATION_UNREACHABLE = 3
SOURCE_QUENCH = 4
REDIRECT = 5
ECHO_REQUEST = 8
TIME_EXCEEDED = 11
PARAMETER_PROBLEM = 12

# Codes of DESTINATION_UNREACHABLE
NETWORK_UNREACHABLE = 0
HOST_UNREACHABLE = 1
PROTOCOL_UNREACHABLE = 2
PORT_UNREACHABLE = 3
FRAGMENTATION_NEEDED = 4
SOURCE_ROUTE_FAILED = 5
ADMINISTRATIVELY_PROHIBITED = 13

# Codes of TIME_EXCEEDED
TTL_EXCEEDED = 0
REASSEMBLY_TIME_EXCEEDED = 1

_ERRORS = frozenset((DESTINATION_UNREACHABLE, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETER_PROBLEM))


@dataclass(slots=True)
class Icmpv4Message(IcmpMessage):
    """`rest` of an error says more: see the properties."""

    @property
    def next_hop_mtu(self) -> int:
        """Of FRAGMENTATION_NEEDED, 0 from a router older than RFC 1191."""
        return self.rest & 0xFFFF

    @property
    def pointer(self) -> int:
        """Of PARAMETER_PROBLEM: the byte of the quoted packet that was wrong."""
        return self.rest >> 24


def parse(data: bytes) -> Icmpv4Message:
    """A message after the IP header, its checksum verified."""
    if len(data) < HEADER_LENGTH:
        raise WireError("truncated")
    if internet_checksum(data) != 0:
        raise WireError("bad_icmp_checksum")
    kind, code, _checksum, rest = HEADER.unpack_from(data)
    return Icmpv4Message(kind, code, rest, bytes(data[HEADER_LENGTH:]))


def emit(message: Icmpv4Message) -> bytes:
    initial = message.type << 8 | message.code
    checksum = internet_checksum(message.payload, initial + message.rest)
    return HEADER.pack(message.type, message.code, checksum, message.rest) + message.payload


def is_error(kind: int) -> bool:
    """Whether a message of this type is never to be answered with an error (RFC 1122 3.2.2)."""
    return kind in _ERRORS


def echo_request(identifier: int, sequence: int, data: bytes = b"") -> Icmpv4Message:
    return Icmpv4Message(ECHO_REQUEST, 0, identifier << 16 | sequence, data)


def echo_reply(identifier: int, sequence: int, data: bytes = b"") -> Icmpv4Message:
    return Icmpv4Message(ECHO_REPLY, 0, identifier << 16 | sequence, data)


def unreachable(code: int, packet: bytes, next_hop_mtu: int = 0) -> Icmpv4Message:
    """Destination Unreachable about `packet` (from its IP header on, cut to QUOTE_MAX); the MTU belongs to
    FRAGMENTATION_NEEDED."""
    return Icmpv4Message(DESTINATION_UNREACHABLE, code, next_hop_mtu, bytes(packet[:QUOTE_MAX]))


def time_exceeded(code: int, packet: bytes) -> Icmpv4Message:
    return Icmpv4Message(TIME_EXCEEDED, code, 0, bytes(packet[:QUOTE_MAX]))


def parameter_problem(pointer: int, packet: bytes, code: int = 0) -> Icmpv4Message:
    """Parameter Problem at byte `pointer` of `packet`; code 1 says that a required option is missing."""
    return Icmpv4Message(PARAMETER_PROBLEM, code, pointer << 24, bytes(packet[:QUOTE_MAX]))
