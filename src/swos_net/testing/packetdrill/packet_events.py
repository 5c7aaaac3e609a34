"""Packets of a script: those it sends into the stack, and those it waits for."""

import re
from dataclasses import replace

from swos_net.testing.packetdrill.flows import Flow, Flows
from swos_net.testing.packetdrill.host import Host
from swos_net.testing.packetdrill.live import (
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    LivePacket,
    LiveTcp,
    emit_ip,
    emit_tcp,
    flag_bits,
)
from swos_net.testing.packetdrill.matching import Rules, ip_differences, may_continue, merged, tcp_differences
from swos_net.testing.packetdrill.outcome import Mismatch, Unsupported
from swos_net.testing.packetdrill.packet_text import packet_text, tcp_text
from swos_net.testing.packetdrill.script import IcmpPacket, PacketEvent, TcpPacket, UdpPacket
from swos_net.wire import icmpv4, icmpv6, udp
from swos_net.wire.tcp import ACK, PSH, SYN

_CODES4 = {
    "net_unreachable": 0, "host_unreachable": 1, "protocol_unreachable": 2, "port_unreachable": 3, "frag_needed": 4,
    "source_route_failed": 5, "net_unknown": 6, "host_unknown": 7, "source_host_isolated": 8, "net_prohibited": 9,
    "host_prohibited": 10, "net_unreachable_for_tos": 11, "host_unreachable_for_tos": 12, "packet_filtered": 13,
    "admin_prohibited": 13, "precedence_violation": 14, "precedence_cutoff": 15,
    "ttl_exceeded_in_transit": 0, "ttl_exceeded": 0, "frag_reass_exceeded": 1, "reassembly_exceeded": 1,
}  # fmt: skip
_TYPES4 = {
    "unreachable": 3, "source_quench": 4, "redirect": 5, "time_exceeded": 11, "parameter_problem": 12, "echo_request": 8,
    "echo_reply": 0,
}  # fmt: skip
_CODES6 = {
    "no_route": 0, "net_unreachable": 0, "admin_prohibited": 1, "not_neighbour": 2, "beyond_scope": 2,
    "address_unreachable": 3, "host_unreachable": 3, "port_unreachable": 4, "ingress_policy": 5, "reject_route": 6,
    "exceeded_hop_limit": 0, "exceeded_frag_time": 1, "header_field": 0, "unknown_next_header": 1, "unknown_option": 2,
}  # fmt: skip
_TYPES6 = {"unreachable": 1, "packet_too_big": 2, "time_exceeded": 3, "parameter_problem": 4, "echo_request": 128, "echo_reply": 129}
_NUMBERED = re.compile(r"(?:code_|type_)?(\d+)")
_FAST_OPEN = ("FO", "FOEXP")


class PacketEvents:
    """`family` is that of the packets on the wire, 4 or 6."""

    def __init__(self, host: Host, flows: Flows, rules: Rules, family: int, *, strict_segments: bool = False):
        self.host = host
        self.flows = flows
        self.rules = rules
        self.family = family
        self.strict_segments = strict_segments
        self.ignored: list[LivePacket] = []

    # Inbound

    def inject(self, event: PacketEvent) -> None:
        _refuse_unsupported(event)
        packet = event.packet
        if isinstance(packet, TcpPacket):
            raw = self._tcp(event, packet)
        elif isinstance(packet, UdpPacket):
            raw = self._udp(event, packet)
        else:
            raw = self._icmp(event, packet)
        self.host.inject(raw)

    def _tcp(self, event: PacketEvent, packet: TcpPacket) -> bytes:
        flow = self.flows.arriving(TCP, packet.ports)
        flags = flag_bits(packet.flags)
        if flags & SYN and not flags & ACK and not self._alive(flow) and flow.local_port:
            flow.forget_numbers()
        local = flow.local
        if not flow.local_port:
            raise Mismatch("the stack has sent nothing yet: the port that this packet is for is not known")
        segment = flow.inbound(packet, self.rules.mss)
        try:
            raw = emit_tcp(flow.remote, local, segment, bytes(packet.length))
        except ValueError as error:
            raise Unsupported(str(error)) from None
        return emit_ip(self.family, flow.remote, local, TCP, raw, event.ip)

    def _alive(self, flow: Flow) -> bool:
        return any(
            (endpoint.local_port, endpoint.remote_port, endpoint.remote) == (*flow.ports, flow.remote)
            for endpoint in self.host.stack.tcp.flows.values()
        )

    def _udp(self, event: PacketEvent, packet: UdpPacket) -> bytes:
        flow = self.flows.arriving(UDP, packet.ports)
        header = udp.UdpHeader(flow.remote_port, flow.local_port)
        raw = udp.emit(header, bytes(packet.length), flow.remote, flow.local)
        return emit_ip(self.family, flow.remote, flow.local, UDP, raw, event.ip)

    def _icmp(self, event: PacketEvent, packet: IcmpPacket) -> bytes:
        kinds, codes = (_TYPES4, _CODES4) if self.family == 4 else (_TYPES6, _CODES6)
        kind = _number(packet.type, kinds, "type")
        code = _number(packet.code, codes, "code") if packet.code else 0
        local, remote = self.flows.local, self.flows.remote
        payload = b"" if packet.type.startswith("echo_") else self._quoted(packet.quoted)
        rest = packet.mtu or 0
        if packet.identifier is not None:
            rest = packet.identifier << 16
        if isinstance(packet.quoted, int):
            payload = bytes(packet.quoted)
        if self.family == 4:
            raw = icmpv4.emit(icmpv4.Icmpv4Message(kind, code, rest, payload))
            return emit_ip(4, remote, local, ICMP, raw, event.ip)
        raw = icmpv6.emit(icmpv6.Icmpv6Message(kind, code, rest, payload), remote, local)
        return emit_ip(6, remote, local, ICMPV6, raw, event.ip)

    def _quoted(self, quoted: TcpPacket | UdpPacket | int | None) -> bytes:
        """The beginning of a packet of ours: its IP header and 8 bytes."""
        flow = self.flows.current
        if flow is None:
            raise Mismatch("there is no connection that this ICMP message could be about")
        if isinstance(quoted, UdpPacket) or (quoted is None and flow.protocol == UDP):
            length = quoted.length if isinstance(quoted, UdpPacket) else 0
            raw = udp.emit(udp.UdpHeader(flow.local_port, flow.remote_port), bytes(length), flow.local, flow.remote)
            packet = emit_ip(self.family, flow.local, flow.remote, UDP, raw)
        else:
            start = quoted.start or 0 if isinstance(quoted, TcpPacket) else 0
            length = quoted.length if isinstance(quoted, TcpPacket) else 0
            segment = LiveTcp(flow.local_port, flow.remote_port, flow.to_wire(start), 0, ACK, 0, 0, (), length)
            raw = emit_tcp(flow.local, flow.remote, segment, bytes(length))
            packet = emit_ip(self.family, flow.local, flow.remote, TCP, raw)
        return packet[: (20 if self.family == 4 else 40) + 8]

    # Outbound

    def next_sent(self, event: PacketEvent) -> LivePacket | None:
        """The next packet that the event can be about; others are set aside.  None when there is none yet."""
        sent = self.host.sent
        while sent:
            packet = sent[0]
            if self._concerns(event.packet, packet):
                return packet
            self.ignored.append(sent.popleft())
        return None

    def _concerns(self, expected: TcpPacket | UdpPacket | IcmpPacket, packet: LivePacket) -> bool:
        if isinstance(expected, IcmpPacket):
            return packet.protocol in (ICMP, ICMPV6)
        if packet.protocol in (ICMP, ICMPV6):
            return packet.protocol == ICMP or packet.transport.type not in range(130, 138)  # neighbours' business
        flow = self.flow_of(packet)
        if flow is None:
            return True
        if expected.ports is not None:
            return expected.ports in (flow.ports, flow.script_ports)
        return self.flows.current is None or flow is self.flows.current

    def flow_of(self, packet: LivePacket) -> Flow | None:
        transport = packet.transport
        if not isinstance(transport, (LiveTcp, udp.UdpHeader)):
            return None
        return self.flows.of_packet(
            packet.protocol, packet.source, transport.source_port, packet.destination, transport.destination_port
        )

    def match(self, event: PacketEvent) -> list[LivePacket]:
        """Takes the packets that the event is about off the queue; Mismatch when they are not what it says."""
        _refuse_unsupported(event)
        packet = self.host.sent.popleft()
        expected = event.packet
        if isinstance(expected, TcpPacket):
            return self._match_tcp(event, expected, packet)
        differences = ip_differences(event.ip, packet)
        if isinstance(expected, UdpPacket):
            if packet.protocol != UDP:
                raise Mismatch(f"a UDP datagram expected, seen: {packet_text(packet)}")
            if packet.length != expected.length:
                differences.append(f"{expected.length} bytes expected, {packet.length} seen")
        else:
            differences += self._icmp_differences(expected, packet)
        if differences:
            raise Mismatch(f"{'; '.join(differences)}; seen: {packet_text(packet)}")
        return [packet]

    def _match_tcp(self, event: PacketEvent, expected: TcpPacket, packet: LivePacket) -> list[LivePacket]:
        if not isinstance(packet.transport, LiveTcp):
            raise Mismatch(f"a TCP segment expected, seen: {packet_text(packet)}")
        flow = self.flow_of(packet)
        if flow is None:
            transport = packet.transport
            flow = Flow(TCP, packet.source, transport.source_port, packet.destination, transport.destination_port)
            self.flows.flows.append(flow)
            self.flows.current = flow
        flow.learn(expected, packet.transport)
        seen = replace(packet.transport) if expected.absolute else flow.outbound(packet.transport)
        packets = [packet]
        sent = self.host.sent
        # what the script shows as one segment may leave in pieces: the link here cuts nothing by itself
        while not self.strict_segments and 0 < seen.length < expected.length and sent:
            following = sent[0]
            if not isinstance(following.transport, LiveTcp) or self.flow_of(following) is not flow:
                break
            piece = flow.outbound(following.transport)
            if not may_continue(seen, piece):
                break
            seen = merged(seen, piece)
            packets.append(sent.popleft())
        if len(packets) > 1:
            # which pieces say PSH depends on how much the sender's offload cut at once
            seen.flags = seen.flags & ~PSH | flag_bits(expected.flags) & PSH
        differences = tcp_differences(expected, seen, flow, self.rules)
        for part in packets:
            differences += ip_differences(event.ip, part)
        if differences:
            raise Mismatch(f"{'; '.join(dict.fromkeys(differences))}; seen: > {tcp_text(seen)}")
        return packets

    def _icmp_differences(self, expected: IcmpPacket, packet: LivePacket) -> list[str]:
        kinds, codes = (_TYPES4, _CODES4) if self.family == 4 else (_TYPES6, _CODES6)
        message = packet.transport
        if message is None or packet.protocol not in (ICMP, ICMPV6):
            return ["an ICMP message expected"]
        differences = []
        kind = _number(expected.type, kinds, "type")
        if message.type != kind:
            differences.append(f"ICMP type {kind} expected, {message.type} seen")
        if expected.code is not None and message.code != _number(expected.code, codes, "code"):
            differences.append(f"ICMP code {expected.code} expected, {message.code} seen")
        if expected.mtu is not None and message.rest != expected.mtu:
            differences.append(f"mtu {expected.mtu} expected, {message.rest} seen")
        return differences

    def describe(self, packet: LivePacket) -> str:
        """A sent packet in the script's numbers, where it belongs to a flow."""
        flow = self.flow_of(packet)
        if flow is not None and isinstance(packet.transport, LiveTcp):
            return packet_text(packet, flow.outbound(packet.transport))
        return packet_text(packet)


def _number(text: str, names: dict[str, int], what: str) -> int:
    if text in names:
        return names[text]
    match = _NUMBERED.fullmatch(text)
    if match is None:
        raise Unsupported(f"ICMP {what} {text} of this family")
    return int(match[1])


def _refuse_unsupported(event: PacketEvent) -> None:
    if event.wrapped:
        raise Unsupported(f"packets within {', '.join(event.wrapped)}")
    packet = event.packet
    if isinstance(packet, TcpPacket):
        if packet.udp_ports is not None:
            raise Unsupported("TCP over UDP")
        if any(option.kind in _FAST_OPEN for option in packet.options or ()):
            raise Unsupported("TCP Fast Open options")
    if isinstance(packet, IcmpPacket) and isinstance(packet.quoted, TcpPacket) and packet.quoted.udp_ports is not None:
        raise Unsupported("TCP over UDP")
