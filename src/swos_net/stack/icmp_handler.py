"""ICMP of both families: echo, errors to endpoints, Packet Too Big to the path MTUs, and the errors we send."""

import errno

from swos_net.address import is_ipv4
from swos_net.dataplane.burst import DropReason
from swos_net.icmp.echo import echo_reply, reflected_options
from swos_net.icmp.errors import IcmpErrorPolicy, QuotedPacket, parse_error
from swos_net.ip.pmtu import next_plateau
from swos_net.stack.interface import UNICAST
from swos_net.stack.tcp_demux import HEADERS4, HEADERS6, flow_key
from swos_net.wire import icmpv4, icmpv6, ipv4, ipv6

NEIGHBOR_DISCOVERY = range(133, 138)  # RFC 4861 4

# (type, code) of Destination Unreachable to errno, as RFC 1122 3.2.2.1 and Linux read them
_UNREACHABLE4 = {0: errno.ENETUNREACH, 1: errno.EHOSTUNREACH, 2: errno.ENOPROTOOPT, 3: errno.ECONNREFUSED,
                 5: errno.EOPNOTSUPP, 6: errno.ENETUNREACH, 7: errno.EHOSTDOWN, 13: errno.EHOSTUNREACH}  # fmt: skip
_UNREACHABLE6 = {0: errno.ENETUNREACH, 1: errno.EACCES, 2: errno.EHOSTUNREACH, 3: errno.EHOSTUNREACH,
                 4: errno.ECONNREFUSED, 5: errno.EACCES, 6: errno.EACCES}  # fmt: skip
PROTOCOL_ICMP = 1
PROTOCOL_ICMPV6 = 58
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17


class IcmpHandler:
    """One for a stack."""

    def __init__(self, stack):
        self.stack = stack
        self.policy = IcmpErrorPolicy(stack.config)

    def message_received(self, interface, local: bytes, remote: bytes, message: bytes, hop_limit: int, destination_kind: int,
                         link_source: bytes | None, now: float, options: bytes = b"") -> DropReason:  # fmt: skip
        """`message` from its type on, checksum verified; `options` are those of its IPv4 header."""
        stack = self.stack
        stack.counters["IcmpInMsgs"] += 1
        kind = message[0]
        if is_ipv4(local):
            if kind == icmpv4.ECHO_REQUEST:
                return self._echo(interface, local, remote, message, destination_kind, now, options)
            if icmpv4.is_error(kind):
                return self._error(4, message, now)
            return DropReason.NONE
        if kind in NEIGHBOR_DISCOVERY:
            interface.ndisc_received(remote, local, hop_limit, message, link_source, now)
            return DropReason.NONE
        if kind == icmpv6.ECHO_REQUEST:
            return self._echo(interface, local, remote, message, destination_kind, now)
        if icmpv6.is_error(kind):
            return self._error(6, message, now)
        return DropReason.NONE

    def _echo(self, interface, local: bytes, remote: bytes, message: bytes, destination_kind: int, now: float,
              options: bytes = b"") -> DropReason:  # fmt: skip
        source = local
        if destination_kind != UNICAST:
            if is_ipv4(local):
                return DropReason.NOT_FOR_US  # RFC 1122 3.2.2.6 permits silence, and amplifiers are abused
            source = interface.source_towards(remote)
            if source is None:
                return DropReason.NOT_FOR_US
        reply = echo_reply(message, source, remote)
        if reply is None:
            return DropReason.BAD_ICMP
        self.stack.counters["IcmpOutEchoReps"] += 1
        if options:
            options = reflected_options(options, source, now)
        self.stack.send_ip(interface, source, remote, 1 if is_ipv4(remote) else 58, reply, now, options=options)
        return DropReason.NONE

    def _error(self, family: int, message: bytes, now: float) -> DropReason:
        quoted = parse_error(family, message)
        if quoted is None:
            return DropReason.BAD_ICMP
        stack = self.stack
        endpoint = None
        if quoted.protocol == PROTOCOL_TCP:
            endpoint = stack.tcp.flows.get(flow_key(quoted.local, quoted.local_port, quoted.remote, quoted.remote_port))
            # RFC 5927 4.1: an attacker off the path does not know the sequence numbers
            if endpoint is None or quoted.sequence is None or not endpoint.connection.quoted_sequence_valid(quoted.sequence):
                return DropReason.NO_SOCKET
        elif quoted.protocol == PROTOCOL_UDP:
            ports = quoted.local_port.to_bytes(2, "big") + quoted.remote_port.to_bytes(2, "big")
            endpoint = stack.udp.find(quoted.local + quoted.remote + ports)
            if endpoint is None:
                return DropReason.NO_SOCKET
        elif quoted.protocol == (PROTOCOL_ICMP if family == 4 else PROTOCOL_ICMPV6):
            endpoint = stack.raw.echo_with(family == 4, quoted.local_port)
            if endpoint is None:
                return DropReason.NO_SOCKET
        else:
            return DropReason.NO_SOCKET
        if self._too_big(family, quoted):
            self._path_mtu(family, quoted, endpoint, now)
            return DropReason.NONE
        unreachable = icmpv4.DESTINATION_UNREACHABLE if family == 4 else icmpv6.DESTINATION_UNREACHABLE
        if quoted.kind == unreachable:
            codes = _UNREACHABLE4 if family == 4 else _UNREACHABLE6
            endpoint.path_error(codes.get(quoted.code, errno.EHOSTUNREACH), now)
        elif quoted.kind == (icmpv4.TIME_EXCEEDED if family == 4 else icmpv6.TIME_EXCEEDED):
            endpoint.path_error(errno.EHOSTUNREACH, now)
        return DropReason.NONE

    @staticmethod
    def _too_big(family: int, quoted: QuotedPacket) -> bool:
        if family == 6:
            return quoted.kind == icmpv6.PACKET_TOO_BIG
        return quoted.kind == icmpv4.DESTINATION_UNREACHABLE and quoted.code == icmpv4.FRAGMENTATION_NEEDED

    def _path_mtu(self, family: int, quoted: QuotedPacket, endpoint, now: float) -> None:
        mtu = quoted.info or next_plateau(quoted.length)  # RFC 1191 5: a router that names none
        stack = self.stack
        if not stack.path_mtus.update(quoted.remote, mtu, now) or quoted.protocol != PROTOCOL_TCP:
            return
        mtu = stack.path_mtus.mtu(quoted.remote, endpoint.interface.link.mtu, now)
        endpoint.connection.path_mtu_changed(mtu - (HEADERS4 if family == 4 else HEADERS6))
        endpoint.changed(now)

    def port_unreachable(self, interface, packet: bytes, source: bytes, link_broadcast: bool, now: float) -> None:
        """No endpoint at that UDP port (RFC 1122 4.1.3.1)."""
        if packet[0] >> 4 == 4:
            self.send_error(interface, packet, icmpv4.DESTINATION_UNREACHABLE, icmpv4.PORT_UNREACHABLE, source, link_broadcast, now)
        else:
            self.send_error(interface, packet, icmpv6.DESTINATION_UNREACHABLE, icmpv6.PORT_UNREACHABLE, source, link_broadcast, now)

    def protocol_unreachable(self, interface, packet: bytes, source: bytes, pointer: int, link_broadcast: bool, now: float) -> None:
        """Nobody here speaks that protocol (RFC 1122 3.2.2.1, RFC 8200 4)."""
        if packet[0] >> 4 == 4:
            self.send_error(interface, packet, icmpv4.DESTINATION_UNREACHABLE, icmpv4.PROTOCOL_UNREACHABLE, source, link_broadcast, now)
        else:
            self.send_error(interface, packet, icmpv6.PARAMETER_PROBLEM, icmpv6.UNRECOGNIZED_NEXT_HEADER, source, link_broadcast, now,
                            info=pointer)  # fmt: skip

    def send_error(self, interface, packet: bytes, kind: int, code: int, source: bytes, link_broadcast: bool, now: float,
                   info: int = 0) -> None:  # fmt: skip
        error = self.policy.error_for(packet, kind, code, info=info, source=source, link_broadcast=link_broadcast, now=now)
        if error is None:
            return
        self.stack.counters["IcmpOutErrors"] += 1
        header = ipv4.parse_quoted(error) if error[0] >> 4 == 4 else ipv6.parse_quoted(error)
        self.stack.answer(interface, error, header.destination, now)
