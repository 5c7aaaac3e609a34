"""ICMPv6 messages other than Neighbor Discovery.

Read first: icmp.py, RFC 4443.  Neighbor Discovery messages are in `ndisc`, over the same checksum.  When an error
may be sent is decided in `swos_net.icmp`.
"""

from dataclasses import dataclass

from swos_net.errors import WireError
from swos_net.wire.checksum import internet_checksum, pseudo_header_sum
from swos_net.wire.icmp import HEADER, HEADER_LENGTH, IcmpMessage
from swos_net.wire.ipv6 import MINIMUM_MTU, PROTOCOL_ICMPV6
from swos_net.wire.ipv6 import HEADER_LENGTH as IPV6_HEADER_LENGTH

# RFC 4443 2.4 (c): an error is as long as it can be without exceeding the minimum IPv6 MTU
QUOTE_MAX = MINIMUM_MTU - IPV6_HEADER_LENGTH - HEADER_LENGTH

DESTINATION_UNREACHABLE = 1
PACKET_TOO_BIG = 2
TIME_EXCEEDED = 3
PARAMETER_PROBLEM = 4
ECHO_REQUEST = 128
ECHO_REPLY = 129
REDIRECT = 137

# Codes of DESTINATION_UNREACHABLE
NO_ROUTE = 0
ADMINISTRATIVELY_PROHIBITED = 1
BEYOND_SCOPE = 2
ADDRESS_UNREACHABLE = 3
PORT_UNREACHABLE = 4

# Codes of TIME_EXCEEDED
HOP_LIMIT_EXCEEDED = 0
REASSEMBLY_TIME_EXCEEDED = 1

# Codes of PARAMETER_PROBLEM
ERRONEOUS_FIELD = 0
UNRECOGNIZED_NEXT_HEADER = 1
UNRECOGNIZED_OPTION = 2


@dataclass(slots=True)
class Icmpv6Message(IcmpMessage):
    """`rest` of an error says more: see the properties."""

    @property
    def mtu(self) -> int:
        """Of PACKET_TOO_BIG."""
        return self.rest

    @property
    def pointer(self) -> int:
        """Of PARAMETER_PROBLEM: the byte of the quoted packet that was wrong."""
        return self.rest


def checksum(data: bytes, source: bytes, destination: bytes) -> int:
    """RFC 4443 2.3: the checksum of a message, 0 when `data` holds its own correct one."""
    return internet_checksum(data, pseudo_header_sum(source, destination, PROTOCOL_ICMPV6, len(data)))


def parse(data: bytes, source: bytes, destination: bytes) -> Icmpv6Message:
    """A message after the IP headers, its checksum verified."""
    if len(data) < HEADER_LENGTH:
        raise WireError("truncated")
    if checksum(data, source, destination) != 0:
        raise WireError("bad_icmp_checksum")
    kind, code, _checksum, rest = HEADER.unpack_from(data)
    return Icmpv6Message(kind, code, rest, bytes(data[HEADER_LENGTH:]))


def emit(message: Icmpv6Message, source: bytes, destination: bytes) -> bytes:
    """A message with its checksum, from and to these addresses."""
    raw = HEADER.pack(message.type, message.code, 0, message.rest) + message.payload
    return raw[:2] + checksum(raw, source, destination).to_bytes(2, "big") + raw[4:]


def is_error(kind: int) -> bool:
    """Whether a message of this type is never to be answered with an error (RFC 4443 2.4 (e.1), (e.2))."""
    return kind < 128 or kind == REDIRECT


def echo_request(identifier: int, sequence: int, data: bytes = b"") -> Icmpv6Message:
    return Icmpv6Message(ECHO_REQUEST, 0, identifier << 16 | sequence, data)


def echo_reply(identifier: int, sequence: int, data: bytes = b"") -> Icmpv6Message:
    return Icmpv6Message(ECHO_REPLY, 0, identifier << 16 | sequence, data)


def unreachable(code: int, packet: bytes) -> Icmpv6Message:
    """Destination Unreachable about `packet` (from its IPv6 header on, cut to QUOTE_MAX)."""
    return Icmpv6Message(DESTINATION_UNREACHABLE, code, 0, bytes(packet[:QUOTE_MAX]))


def packet_too_big(mtu: int, packet: bytes) -> Icmpv6Message:
    return Icmpv6Message(PACKET_TOO_BIG, 0, mtu, bytes(packet[:QUOTE_MAX]))


def time_exceeded(code: int, packet: bytes) -> Icmpv6Message:
    return Icmpv6Message(TIME_EXCEEDED, code, 0, bytes(packet[:QUOTE_MAX]))


def parameter_problem(code: int, pointer: int, packet: bytes) -> Icmpv6Message:
    """Parameter Problem at byte `pointer` of `packet`, which may lie beyond what is quoted (RFC 4443 3.4)."""
    return Icmpv6Message(PARAMETER_PROBLEM, code, pointer, bytes(packet[:QUOTE_MAX]))
