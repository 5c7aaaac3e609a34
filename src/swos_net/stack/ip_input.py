"""From a burst of decoded frames to the endpoints.

Read first: vhost/frame.h for what a record says.  An established connection's segment takes the short way: one look-up
by the flow's 36 bytes.  Everything else is sorted out step by step below it.
"""

from swos_net.address import is_ipv4, is_loopback, is_unspecified
from swos_net.dataplane.burst import Burst, BytesPayload, DropReason, FrameFlag, FramePayload
from swos_net.dataplane.flow_turn import FlowTurn
from swos_net.ip.reassembly import Reassembler
from swos_net.link import Medium
from swos_net.stack.interface import BROADCAST, UNICAST
from swos_net.tcp.events import Event
from swos_net.tcp.input import segment_arrives
from swos_net.tcp.segment import ACK, HAS_OTHER_OPTIONS, HAS_SACK, NO_PAYLOAD, SYN, Segment
from swos_net.errors import WireError
from swos_net.wire import icmpv4, icmpv6, ipv4, ipv6, mld

PROTOCOL_ICMP = 1
PROTOCOL_IGMP = 2
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
PROTOCOL_ICMPV6 = 58
ECHO_PROTOCOLS = (PROTOCOL_ICMP, PROTOCOL_ICMPV6)
ETHERTYPE_ARP = 0x0806
FRAGMENT = int(FrameFlag.FRAGMENT)
HOP_BY_HOP = int(FrameFlag.HOP_BY_HOP)
LINK_GROUP = int(FrameFlag.LINK_BROADCAST | FrameFlag.LINK_MULTICAST)
NO_FAULT = (int(DropReason.MERGED), int(DropReason.TAKEN))
BAD_EXTENSION = int(DropReason.BAD_EXTENSION)
UNKNOWN_PROTOCOL = int(FrameFlag.UNKNOWN_PROTOCOL)
LOOK_AT_OPTIONS = HAS_SACK | HAS_OTHER_OPTIONS
QUOTE_BYTES = 1280
PAYLOAD_LENGTH_POINTER = 4  # in the IPv6 header
UPPER_HEADERS = {PROTOCOL_TCP: 20, PROTOCOL_UDP: 8, PROTOCOL_ICMPV6: 4}  # what of them has to be in a first fragment


class IpInput:
    """Receives for one stack."""

    def __init__(self, stack):
        self.stack = stack
        self.reassembler = Reassembler(stack.config.reassembly)
        self.scheduled: float | None = None
        self._datagram_burst = Burst(arena=False)

    def receive_burst(self, interface, burst: Burst, now: float, taken_in: bool = False) -> None:
        """Every frame of the burst; nothing of it is used after the call.  `taken_in`: lent flows have had theirs."""
        flows = self.stack.tcp.flows
        counters = interface.counters
        counters["InFrames"] += burst.c.count
        counters["InOctets"] += burst.c.bytes
        counters["InBursts"] += 1
        pointer = burst.c
        if pointer.count > 1 and not taken_in:
            burst.merge_runs()
        tcp_segments, left = 0, pointer.count
        lending = self.stack.lending
        if lending.count and not taken_in:
            tcp_segments, left = lending.receive(burst, now)
            if tcp_segments and self.stack.trimmer.resting:
                self.stack.trimmer.wake(now)
        touched: list = []  # connections that tell their watchers once for the whole burst
        last = None
        for index, record in enumerate(burst.records() if left else ()):
            (flow, verdict, _ethertype, protocol, _hop_limit, traffic_class, flags, tcp_flags, options, window, network,
             transport, payload_offset, _segment_size, payload_length, frame_length, seq, ack, ts_val, ts_ecr,
             _fragment_offset, _more, _identification, _run) = record  # fmt: skip
            if verdict:
                if verdict not in NO_FAULT:
                    counters.drop(DropReason(verdict))
                    if verdict == BAD_EXTENSION and self._for_us(interface, burst, index, flags):
                        packet = burst.copy(index, network, frame_length - network)
                        self._bad_extension(interface, packet, flow[:16], flow[16:32], bool(flags & LINK_GROUP), now)
                continue
            if protocol == PROTOCOL_TCP and not flags & FRAGMENT:
                tcp_segments += 1
                option_bytes = b""
                if tcp_flags & SYN or options & LOOK_AT_OPTIONS:
                    option_bytes = burst.header(index, transport + 20, payload_offset)
                payload = FramePayload(pointer, index, payload_offset, payload_length) if payload_length else NO_PAYLOAD
                segment = Segment(seq, ack, tcp_flags, window, payload, payload_length, options, ts_val, ts_ecr, option_bytes)
                if traffic_class:
                    segment.ecn = traffic_class & 3
                endpoint = flows.get(flow)
                if endpoint is not None:
                    connection = endpoint.connection
                    segment_arrives(connection.tcb, segment, now, connection.ipv4)
                    if endpoint is not last:
                        touched.append(endpoint)
                        last = endpoint
                    if not tcp_flags & SYN or Event.REOPEN not in endpoint.connection.events:
                        continue
                    # TIME-WAIT gave way to a new SYN, which is the listener's
                    endpoint.changed(now)
                reason = self._tcp_without_flow(interface, burst, index, flow, flags, segment, now, endpoint)
            elif protocol in ECHO_PROTOCOLS and not flags and self._answer_echo(interface, burst, index, flow):
                reason = DropReason.NONE
            else:
                reason = self._other(interface, burst, index, record, now)
            if reason:
                counters.drop(reason)
        for endpoint in touched:
            endpoint.changed(now)
        if touched and self.stack.trimmer.resting:
            self.stack.trimmer.wake(now)
        self.stack.counters["TcpInSegs"] += tcp_segments

    def _answer_echo(self, interface, burst: Burst, index: int, flow: bytes) -> bool:
        """The short way for an ordinary ping to one of our addresses, straight back to who sent it."""
        destinations = interface.destinations
        if self.stack.raw.protocols:
            return False  # somebody wants to see it, too
        if destinations.get(flow[:16]) != UNICAST or destinations.get(flow[16:32]) == BROADCAST or not any(flow[28:32]):
            return False
        medium = interface.link.medium
        if medium is Medium.ETHERNET and burst.header(index, 0, 6) != interface.link.address:
            return False
        reply = burst.echo_reply(index, medium, self.stack.config.hop_limit)
        if reply is None or len(reply) > interface.link.mtu + interface.link.link_header:
            return False
        counters = self.stack.counters
        counters["IcmpInMsgs"] += 1
        counters["IcmpOutEchoReps"] += 1
        interface.queue_frame(reply)
        return True

    def count_echoes(self, interface) -> None:
        """What the device has answered."""
        answered, octets, unseen, frames_in, octets_in = interface.responder.news()
        for name in ("IcmpInMsgs", "IcmpOutEchoReps"):
            self.stack.counters[name] += answered
        counters = interface.counters
        counters["OutFrames"] += answered
        counters["OutOctets"] += octets
        counters["OutBursts"] += 1
        counters["InBursts"] += unseen
        counters["InFrames"] += frames_in
        counters["InOctets"] += octets_in

    def count_turn(self, interface, turn: FlowTurn) -> None:
        """What the data plane has taken in and sent by itself."""
        (bursts_received, frames_received, bytes_received, segments_received, segments_added, bursts_sent, frames_sent,
         bytes_sent) = turn.counts()  # fmt: skip
        counters = interface.counters
        counters["InBursts"] += bursts_received
        counters["InFrames"] += frames_received
        counters["InOctets"] += bytes_received
        counters["OutBursts"] += bursts_sent
        counters["OutFrames"] += frames_sent
        counters["OutOctets"] += bytes_sent
        stack = self.stack
        stack.counters["TcpInSegs"] += segments_received
        stack.counters["TcpOutSegs"] += segments_added
        if stack.trimmer.resting:
            stack.trimmer.wake(turn.made_at)

    def _for_us(self, interface, burst: Burst, index: int, flags: int) -> bool:
        """Whether the link delivered this frame to us and not to somebody else on it."""
        if interface.link.medium is not Medium.ETHERNET or flags & LINK_GROUP:
            return True
        return burst.header(index, 0, 6) == interface.link.address

    @staticmethod
    def _forged(interface, remote: bytes) -> bool:
        """RFC 1122 3.2.1.3: no loopback address comes over a link, and an answer to a broadcast one goes to everybody."""
        return interface.destinations.get(remote) == BROADCAST or (is_loopback(remote) and interface is not interface.stack.loopback)

    def _tcp_without_flow(self, interface, burst, index, flow, flags, segment, now, before) -> DropReason:
        if flags & LINK_GROUP or not self._for_us(interface, burst, index, flags):
            return DropReason.NOT_FOR_US
        return self._new_flow(interface, flow, segment, now, before)

    def _new_flow(self, interface, flow: bytes, segment: Segment, now: float, before=None) -> DropReason:
        if interface.destinations.get(flow[:16]) != UNICAST:
            return DropReason.NOT_FOR_US  # RFC 9293 3.9.2.3: never to a group or broadcast address
        if is_unspecified(flow[16:32]) or self._forged(interface, flow[16:32]):
            return DropReason.BAD_SOURCE
        return self.stack.tcp.segment_without_flow(interface, flow, segment, now, before)

    def _other(self, interface, burst: Burst, index: int, record: tuple, now: float) -> DropReason:
        (flow, _verdict, ethertype, protocol, hop_limit, traffic_class, flags, _tcp_flags, _options, _window, network,
         transport, payload_offset, _segment_size, payload_length, frame_length, _seq, _ack, _ts_val, _ts_ecr,
         fragment_offset, more_fragments, identification, _run) = record  # fmt: skip
        if not self._for_us(interface, burst, index, flags):
            return DropReason.NOT_FOR_US
        if ethertype == ETHERTYPE_ARP:
            interface.arp_received(burst.copy(index, network, frame_length - network), now)
            return DropReason.NONE
        local, remote = flow[:16], flow[16:32]
        kind = interface.destinations.get(local)
        if kind is None:
            return DropReason.NOT_FOR_US
        if self._forged(interface, remote):
            return DropReason.BAD_SOURCE
        if flags & FRAGMENT:
            return self._fragment(interface, burst, index, local, remote, protocol, network, transport, payload_length, fragment_offset,
                                  more_fragments, identification, now)  # fmt: skip
        if protocol == PROTOCOL_IGMP and is_ipv4(local):
            options = burst.header(index, network + ipv4.HEADER_LENGTH, transport)
            if not interface.igmp_received(local, hop_limit, options, burst.copy(index, transport, payload_length), now):
                return DropReason.BAD_ICMP
            flags &= ~UNKNOWN_PROTOCOL
        if protocol in self.stack.raw.protocols:
            packet = burst.copy(index, network, transport - network + payload_length)
            if self.stack.raw.received(interface.number, local, remote, protocol, packet, transport - network, hop_limit, traffic_class):
                flags &= ~UNKNOWN_PROTOCOL
                if protocol not in ECHO_PROTOCOLS:
                    return DropReason.NONE
        if protocol == PROTOCOL_UDP:
            payload = burst.copy(index, payload_offset, payload_length)
            link_source = burst.header(index, 6, 12)
            reason = self._udp(interface, flow, payload, hop_limit, traffic_class, link_source, now)
            if reason is DropReason.NO_SOCKET and kind == UNICAST:
                packet = burst.copy(index, network, min(frame_length - network, QUOTE_BYTES))
                self.stack.icmp.port_unreachable(interface, packet, local, bool(flags & LINK_GROUP), now)
            return reason
        if flags & UNKNOWN_PROTOCOL:
            packet = burst.copy(index, network, min(frame_length - network, QUOTE_BYTES))
            self._unknown_protocol(interface, packet, local, protocol, kind, bool(flags & LINK_GROUP), now)
            return DropReason.NO_SOCKET
        if protocol == PROTOCOL_IGMP:
            return DropReason.NONE
        if is_unspecified(remote) and is_ipv4(local):
            return DropReason.BAD_SOURCE
        link_source = burst.header(index, 6, 12) if interface.link.medium is Medium.ETHERNET else None
        message = burst.copy(index, transport, payload_length)
        if message[0] in mld.TYPES and protocol == PROTOCOL_ICMPV6:
            alert = bool(flags & HOP_BY_HOP) and self._router_alert(burst.copy(index, network, transport - network + 4))
            heard = interface.mld_received(remote, local, hop_limit, alert, message, now)
            return DropReason.NONE if heard else DropReason.BAD_ICMP
        options = burst.header(index, network + ipv4.HEADER_LENGTH, transport) if is_ipv4(local) else b""
        return self.stack.icmp.message_received(interface, local, remote, message, hop_limit, kind, link_source, now, options)

    @staticmethod
    def _router_alert(packet: bytes) -> bool:
        try:
            return ipv6.walk_extensions(packet, packet[6]).router_alert
        except WireError:
            return False  # more options than anybody needs

    def _unknown_protocol(self, interface, packet: bytes, local: bytes, protocol: int, kind: int, link_group: bool, now: float) -> None:
        pointer = 0
        if not is_ipv4(local):
            if protocol == ipv6.NO_NEXT_HEADER:
                return  # RFC 8200 4.7: nothing follows, so that nothing is unknown
            pointer = ipv6.walk_extensions(packet, packet[6]).next_header_pointer
        if kind == UNICAST:
            self.stack.icmp.protocol_unreachable(interface, packet, local, pointer, link_group, now)

    def _bad_extension(self, interface, packet: bytes, local: bytes, remote: bytes, link_group: bool, now: float) -> None:
        """Tells the sender why an IPv6 packet was discarded, where RFC 8200 4 wants that told."""
        kind = interface.destinations.get(local)
        if kind is None or self._forged(interface, remote):
            return
        packet = packet[: ipv6.HEADER_LENGTH + int.from_bytes(packet[4:6], "big")]  # link padding may follow
        try:
            problem = ipv6.walk_extensions(packet, packet[6]).problem
        except WireError:
            return  # a header that goes beyond the packet
        if problem is not None and problem.code is not None:
            self._parameter_problem(interface, packet, problem, local, remote, kind, link_group, now)

    def _parameter_problem(self, interface, packet: bytes, problem, local: bytes, remote: bytes, kind: int, link_group: bool,
                           now: float) -> None:  # fmt: skip
        if kind != UNICAST and not problem.multicast_too:
            return
        source = local if kind == UNICAST else interface.source_towards(remote)
        if source is not None:
            self.stack.icmp.send_error(interface, packet[:QUOTE_BYTES], icmpv6.PARAMETER_PROBLEM, problem.code, source, link_group, now,
                                       info=problem.pointer)  # fmt: skip

    def _udp(self, interface, flow: bytes, payload: bytes, hop_limit: int, traffic_class: int, link_source: bytes, now: float) -> DropReason:
        stack = self.stack
        local, remote = flow[:16], flow[16:32]
        local_port, remote_port = int.from_bytes(flow[32:34], "big"), int.from_bytes(flow[34:36], "big")
        service = stack.udp.services.get((interface.index, local_port))
        if service is not None:
            service(payload, remote, remote_port, local, link_source, now)
            return DropReason.NONE
        if is_unspecified(remote):
            return DropReason.BAD_SOURCE
        to_many = interface.destinations.get(local) != UNICAST
        return stack.udp.received(interface.number, flow, payload, hop_limit, traffic_class, to_many)

    def _fragment(self, interface, burst, index, local, remote, protocol, network, transport, length, offset, more, identification,
                  now) -> DropReason:  # fmt: skip
        """RFC 791 3.2, RFC 8200 4.5."""
        ipv4_packet = is_ipv4(local)
        header = burst.header(index, network, transport)
        data = burst.copy(index, transport, length)
        if not ipv4_packet and (problem := self._fragment_problem(header, data, offset, bool(more))) is not None:
            kind = interface.destinations.get(local)
            self._parameter_problem(interface, header + data, problem, local, remote, kind, False, now)
            return DropReason.BAD_FRAGMENT
        key = (remote, local, protocol if ipv4_packet else 0, identification)
        datagram = self.reassembler.fragment_received(key, offset, bool(more), data, header, now)
        self.stack.deadlines.schedule(self)
        if datagram is None:
            return DropReason.NONE
        if ipv4_packet:
            parsed = ipv4.parse_quoted(datagram.header)
            parsed.flags = parsed.fragment_offset = 0
            packet = ipv4.emit(parsed, datagram.payload)
        elif datagram.header[-8] == ipv6.HOP_BY_HOP:
            # RFC 8200 4.1: without the Fragment header it would stand where it may
            problem = ipv6.ExtensionProblem(ipv6.UNRECOGNIZED_NEXT_HEADER, len(datagram.header) - 8)
            length = len(datagram.header) - ipv6.HEADER_LENGTH + len(datagram.payload)
            packet = datagram.header[:4] + length.to_bytes(2, "big") + datagram.header[6:] + datagram.payload
            kind = interface.destinations.get(local)
            self._parameter_problem(interface, packet, problem, local, remote, kind, False, now)
            return DropReason.BAD_EXTENSION
        else:
            # the fragment header is the last 8 bytes of what came before the data; what named it now names its successor
            unfragmentable = bytearray(datagram.header[:-8])
            unfragmentable[self._next_header_offset(unfragmentable)] = datagram.header[-8]
            unfragmentable[4:6] = (len(unfragmentable) - 40 + len(datagram.payload)).to_bytes(2, "big")
            packet = bytes(unfragmentable) + datagram.payload
        whole = self._datagram_burst
        whole.clear()
        whole.add(packet, Medium.IP)
        self._receive_whole(interface, whole, now)
        return DropReason.NONE

    @staticmethod
    def _fragment_problem(header: bytes, data: bytes, offset: int, more: bool) -> ipv6.ExtensionProblem | None:
        """What RFC 8200 4.5 and RFC 7112 5 forbid a fragment; `header` ends with the Fragment header."""
        if more and len(data) % 8:
            return ipv6.ExtensionProblem(ipv6.ERRONEOUS_FIELD, PAYLOAD_LENGTH_POINTER)
        if len(header) - 48 + offset + len(data) > 65535:
            return ipv6.ExtensionProblem(ipv6.ERRONEOUS_FIELD, len(header) - 6)
        if offset:
            return None
        try:
            chain = ipv6.walk_extensions(header + data, header[-8], len(header), len(header) - 8)
        except WireError:
            return ipv6.ExtensionProblem(ipv6.INCOMPLETE_HEADER_CHAIN)
        # a chain in error is looked at when all of the packet is there
        if chain.problem is None and len(header) + len(data) - chain.offset < UPPER_HEADERS.get(chain.protocol, 0):
            return ipv6.ExtensionProblem(ipv6.INCOMPLETE_HEADER_CHAIN)
        return None

    @staticmethod
    def _next_header_offset(chain: bytearray) -> int:
        """Where the last next-header field of an IPv6 header chain is."""
        field, at = 6, 40
        while at + 2 <= len(chain):
            field, at = at, at + chain[at + 1] * 8 + 8
        return field

    def _receive_whole(self, interface, burst: Burst, now: float) -> None:
        """A reassembled datagram: no link header, and no fragment again (RFC 5722 and the decoder see to it)."""
        for index, record in enumerate(burst.records()):
            flow, verdict, protocol, flags = record[0], record[1], record[3], record[6]
            kind = interface.destinations.get(flow[:16])
            if verdict == BAD_EXTENSION:
                self._bad_extension(interface, burst.copy(index, 0, record[15]), flow[:16], flow[16:32], False, now)
            if verdict or flags & FRAGMENT or kind is None:
                interface.counters.drop(DropReason(verdict) if verdict else DropReason.BAD_FRAGMENT)
                continue
            if protocol == PROTOCOL_TCP:
                seq, ack, ts_val, ts_ecr = record[16:20]
                payload = BytesPayload(burst.copy(index, record[12], record[14]))
                segment = Segment(seq, ack, record[7], record[9], payload, len(payload), record[8], ts_val, ts_ecr,
                                  burst.header(index, record[11] + 20, record[12]))  # fmt: skip
                endpoint = self.stack.tcp.flows.get(flow)
                if endpoint is not None:
                    endpoint.deliver(segment, now)
                elif reason := self._new_flow(interface, flow, segment, now):
                    interface.counters.drop(reason)
            elif protocol == PROTOCOL_UDP:
                payload = burst.copy(index, record[12], record[14])
                reason = self._udp(interface, flow, payload, record[4], record[5], b"", now)
                if reason:
                    interface.counters.drop(reason)
                if reason is DropReason.NO_SOCKET and kind == UNICAST:
                    packet = burst.copy(index, 0, QUOTE_BYTES)
                    self.stack.icmp.port_unreachable(interface, packet, flow[:16], False, now)
            elif flags & UNKNOWN_PROTOCOL:
                self._unknown_protocol(interface, burst.copy(index, 0, QUOTE_BYTES), flow[:16], protocol, kind, False, now)
            elif protocol in (PROTOCOL_ICMP, PROTOCOL_ICMPV6):
                message = burst.copy(index, record[11], record[14])
                self.stack.icmp.message_received(interface, flow[:16], flow[16:32], message, record[4], kind, None, now)

    # Time: fragments that never became whole

    def next_deadline(self) -> float | None:
        return self.reassembler.next_deadline()

    def handle_timeout(self, now: float) -> None:
        for timed_out in self.reassembler.handle_timeout(now):
            packet = timed_out.first_fragment
            local = timed_out.key[1]
            interface = self.stack.interface_with(local)
            if packet is None or interface is None:
                continue
            kind = icmpv4.TIME_EXCEEDED if is_ipv4(local) else icmpv6.TIME_EXCEEDED
            self.stack.icmp.send_error(interface, packet, kind, 1, local, False, now)
        self.stack.deadlines.schedule(self)
