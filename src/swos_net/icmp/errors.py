"""When an ICMP error is sent, what it quotes, and whom a received one concerns.

Read first: RFC 1122 3.2.2, RFC 1812 4.3.2, RFC 4443 2.4.  What a received error does to a connection is decided by its
endpoint (RFC 5927 for TCP).  No redirects, no source quench (RFC 6633), no extensions (RFC 4884).
"""

from collections import Counter
from dataclasses import dataclass

from swos_net.address import BROADCAST4, UNSPECIFIED4, UNSPECIFIED6, is_ipv4, is_loopback, is_multicast
from swos_net.config import StackConfig
from swos_net.errors import WireError
from swos_net.wire import icmpv4, icmpv6, ipv4, ipv6

_REDIRECT6 = 137  # RFC 4861 4.5


@dataclass(slots=True)
class QuotedPacket:
    """A received ICMP error by what it says about a packet of ours.

    `kind` and `code` are the ICMP type and code of the family.  `info` is the MTU of Fragmentation Needed (0 from a
    router older than RFC 1191) and Packet Too Big, the pointer of Parameter Problem, else 0.  `local` and `remote`
    are source and destination of the quoted packet, 16 bytes each.  Ports are those of TCP and UDP; of a quoted echo
    message `local_port` is the identifier; 0 otherwise.  `sequence` is TCP's or that of the echo message, else None.
    `length` is that of the whole quoted packet as its header says.
    """

    kind: int
    code: int
    info: int
    local: bytes
    remote: bytes
    protocol: int
    local_port: int
    remote_port: int
    sequence: int | None
    length: int


class IcmpErrorPolicy:
    """Makes the errors that may be sent; one for a stack, as the rate limit is the node's (RFC 4443 2.4 (f)).

    `counters` counts "sent" and the reasons for silence: malformed, icmp_error, fragment, broadcast, multicast,
    source, rate_limited.
    """

    def __init__(self, config: StackConfig):
        self._config = config
        self._tokens = float(config.icmp_error_burst)
        self._refilled: float | None = None
        self.counters: Counter[str] = Counter()

    def error_for(self, packet: bytes, kind: int, code: int, *, info: int = 0, source: bytes,
                  link_broadcast: bool, now: float) -> bytes | None:
        """A complete IP packet with the error, or None when it must not be sent.

        `packet` is the packet it is about, from its IP header on; padding of the link may follow.  `kind` and `code`
        belong to the packet's family; `info` is an MTU or a pointer.  `source` is an address of ours.
        `link_broadcast` says that the frame was a link-layer broadcast or multicast.
        """
        try:
            if packet[0] >> 4 == 4:
                reason, error = self._error4(packet, kind, code, info, source, link_broadcast)
            else:
                reason, error = self._error6(packet, kind, code, info, source, link_broadcast)
        except (WireError, IndexError):
            reason, error = "malformed", None
        if error is not None and not self._take_token(now):
            reason, error = "rate_limited", None
        self.counters[reason] += 1
        return error

    def _error4(self, packet: bytes, kind: int, code: int, info: int, source: bytes,
                link_broadcast: bool) -> tuple[str, bytes | None]:
        header = ipv4.parse_quoted(packet)
        packet = packet[:header.total_length]
        # RFC 1122 3.2.2 lists what no error is sent about
        if header.fragment_offset:
            return "fragment", None
        if header.protocol == ipv4.PROTOCOL_ICMP and icmpv4.is_error(packet[header.header_length]):
            return "icmp_error", None
        if link_broadcast or header.destination == BROADCAST4:
            return "broadcast", None
        if is_multicast(header.destination):
            return "multicast", None
        if not _is_single_host4(header.source) and not _within_host(header.source, header.destination):
            return "source", None
        rest = info << 24 if kind == icmpv4.PARAMETER_PROBLEM else info
        message = icmpv4.Icmpv4Message(kind, code, rest, bytes(packet[:icmpv4.QUOTE_MAX]))
        # RFC 6864 4.1: a packet that is never fragmented needs no identification
        outer = ipv4.Ipv4Header(source, header.source, ipv4.PROTOCOL_ICMP, ttl=self._config.hop_limit,
                                flags=ipv4.DONT_FRAGMENT)
        return "sent", ipv4.emit(outer, icmpv4.emit(message))

    def _error6(self, packet: bytes, kind: int, code: int, info: int, source: bytes,
                link_broadcast: bool) -> tuple[str, bytes | None]:
        header = ipv6.parse_quoted(packet)
        packet = packet[:ipv6.HEADER_LENGTH + header.payload_length]
        protocol, offset, first = _upper_header6(packet, header.next_header)
        # RFC 4443 2.4 (e.3): what path MTU discovery and option checks of multicast need
        exempt = kind == icmpv6.PACKET_TOO_BIG or (
            kind == icmpv6.PARAMETER_PROBLEM and code == icmpv6.UNRECOGNIZED_OPTION)
        if not first:
            # RFC 8200 4.5 asks for Parameter Problems about fragments wherever they belong
            if kind not in (icmpv6.PACKET_TOO_BIG, icmpv6.PARAMETER_PROBLEM):
                return "fragment", None
        elif protocol == ipv6.PROTOCOL_ICMPV6:
            if icmpv6.is_error(packet[offset]) or packet[offset] == _REDIRECT6:  # (e.1), (e.2)
                return "icmp_error", None
        if is_multicast(header.destination) and not exempt:  # (e.3)
            return "multicast", None
        if link_broadcast and not exempt:  # (e.4), (e.5)
            return "broadcast", None
        if header.source == UNSPECIFIED6 or is_multicast(header.source):  # (e.6)
            return "source", None
        if is_loopback(header.source) and not _within_host(header.source, header.destination):
            return "source", None
        message = icmpv6.Icmpv6Message(kind, code, info, bytes(packet[:icmpv6.QUOTE_MAX]))
        outer = ipv6.Ipv6Header(source, header.source, ipv6.PROTOCOL_ICMPV6, hop_limit=self._config.hop_limit)
        return "sent", ipv6.emit(outer, icmpv6.emit(message, source, header.source))

    def _take_token(self, now: float) -> bool:
        """The token bucket of RFC 4443 2.4 (f)."""
        if self._refilled is not None:
            grown = self._tokens + (now - self._refilled) * self._config.icmp_errors_per_second
            self._tokens = min(float(self._config.icmp_error_burst), grown)
        self._refilled = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def parse_error(family: int, message: bytes) -> QuotedPacket | None:
    """What the ICMP `message` (from its type on, checksum verified) says about a packet of ours.

    `family` is 4 or 6.  None when it is no error message that concerns an endpoint, or quotes too little to tell
    which; RFC 6633 has source quench ignored, and redirects are not obeyed.
    """
    try:
        return _parse_error4(message) if family == 4 else _parse_error6(message)
    except (WireError, IndexError):
        return None


def _parse_error4(message: bytes) -> QuotedPacket | None:
    kind, code, quote = message[0], message[1], message[icmpv4.HEADER_LENGTH:]
    if kind not in (icmpv4.DESTINATION_UNREACHABLE, icmpv4.TIME_EXCEEDED, icmpv4.PARAMETER_PROBLEM):
        return None
    info = 0
    if kind == icmpv4.PARAMETER_PROBLEM:
        info = message[4]
    elif kind == icmpv4.DESTINATION_UNREACHABLE and code == icmpv4.FRAGMENTATION_NEEDED:
        info = int.from_bytes(message[6:8], "big")
    header = ipv4.parse_quoted(quote)
    if header.fragment_offset:
        return None
    return _quoted(kind, code, info, header.source, header.destination, header.protocol,
                   quote[header.header_length:], header.total_length)


def _parse_error6(message: bytes) -> QuotedPacket | None:
    kind, code, quote = message[0], message[1], message[icmpv6.HEADER_LENGTH:]
    # RFC 4443 2.4 (a): an error of unknown type goes to its endpoint too
    if not icmpv6.is_error(kind):
        return None
    info = 0
    if kind in (icmpv6.PACKET_TOO_BIG, icmpv6.PARAMETER_PROBLEM):
        info = int.from_bytes(message[4:8], "big")
    header = ipv6.parse_quoted(quote)
    protocol, offset, first = _upper_header6(quote, header.next_header)
    if not first:
        return None
    return _quoted(kind, code, info, header.source, header.destination, protocol, quote[offset:],
                   ipv6.HEADER_LENGTH + header.payload_length)


def _quoted(kind: int, code: int, info: int, local: bytes, remote: bytes, protocol: int, upper: bytes,
            length: int) -> QuotedPacket | None:
    local_port = remote_port = 0
    sequence = None
    # RFC 792 quotes at least 8 bytes beyond the IP header, which is all that is looked at here
    if protocol in (ipv4.PROTOCOL_TCP, ipv4.PROTOCOL_UDP):
        if len(upper) < (8 if protocol == ipv4.PROTOCOL_TCP else 4):
            return None
        local_port, remote_port = int.from_bytes(upper[:2], "big"), int.from_bytes(upper[2:4], "big")
        if protocol == ipv4.PROTOCOL_TCP:
            sequence = int.from_bytes(upper[4:8], "big")
    elif protocol == (ipv4.PROTOCOL_ICMP if is_ipv4(local) else ipv6.PROTOCOL_ICMPV6):
        if len(upper) < 8:
            return None
        if upper[0] in ((icmpv4.ECHO_REQUEST, icmpv4.ECHO_REPLY) if is_ipv4(local) else
                        (icmpv6.ECHO_REQUEST, icmpv6.ECHO_REPLY)):
            local_port, sequence = int.from_bytes(upper[4:6], "big"), int.from_bytes(upper[6:8], "big")
    return QuotedPacket(kind, code, info, local, remote, protocol, local_port, remote_port, sequence, length)


def _upper_header6(packet: bytes, next_header: int) -> tuple[int, int, bool]:
    """(type of the upper header, its offset, whether it is there at all: not in a fragment but the first).

    Steps over extension headers without judging them: the packet may be the very one that is in error, or a quote
    cut short.  WireError when it ends before the upper header.
    """
    offset = ipv6.HEADER_LENGTH
    for _ in range(ipv6.EXTENSIONS_MAX):
        if next_header not in (ipv6.HOP_BY_HOP, ipv6.ROUTING, ipv6.FRAGMENT, ipv6.DESTINATION_OPTIONS):
            return next_header, offset, True
        if offset + 8 > len(packet):
            raise WireError("truncated")
        length = 8
        if next_header != ipv6.FRAGMENT:
            length = (packet[offset + 1] + 1) * 8
        elif ipv6.parse_fragment(packet, offset).offset:
            return packet[offset], offset + length, False
        next_header = packet[offset]
        offset += length
    raise WireError("bad_extension")


def _is_single_host4(source: bytes) -> bool:
    """RFC 1122 3.2.2: not zero, loopback, broadcast, multicast or class E."""
    return source != UNSPECIFIED4 and not is_loopback(source) and source[12] < 0xE0


def _within_host(source: bytes, destination: bytes) -> bool:
    """Whether the packet can only have come over the loopback: no link brings one with such a source."""
    return is_loopback(source) and is_loopback(destination)
