"""From a TCP segment to its connection or listener, and what connections share: ports, ISNs, resets."""

import errno

from swos_net.address import UNSPECIFIED4, UNSPECIFIED6, is_ipv4, is_multicast, is_unspecified
from swos_net.capability import Capability
from swos_net.dataplane.burst import DropReason
from swos_net.errors import os_error
from swos_net.link import LinkFeatures, Offload
from swos_net.stack.ports import BoundPorts, port_bytes
from swos_net.stack.tcp_endpoint import TcpEndpoint, TcpListener
from swos_net.tcp.congestion import check_controller
from swos_net.tcp.connection import Connection
from swos_net.tcp.isn import initial_sequence_number, timestamp_offset
from swos_net.tcp.segment import ACK, FIN, RST, SYN, Segment
from swos_net.wire import ipv4, ipv6, tcp

HEADERS4 = 40  # IPv4 and TCP without options
HEADERS6 = 60
OPTIONS_MAX = 40
PACKET_MAX = 65535


def _packet_max(link: LinkFeatures, ipv4_flow: bool) -> int:
    """The longest packet worth handing to the data plane, which cuts it to segments where the link does not."""
    if link.offloads & (Offload.TSO4 if ipv4_flow else Offload.TSO6):
        return min(PACKET_MAX, link.frame_max - link.link_header)
    return PACKET_MAX


def flow_key(local: bytes, local_port: int, remote: bytes, remote_port: int) -> bytes:
    """The 36 bytes that the data plane calls a frame's flow."""
    return local + remote + port_bytes(local_port) + port_bytes(remote_port)


class TcpDemux:
    """Connections by flow and listeners by port, of one stack."""

    def __init__(self, stack):
        self.stack = stack
        self.flows: dict[bytes, TcpEndpoint] = {}
        self.ports = BoundPorts("TCP")
        check_controller(stack.config.tcp.congestion)
        self._local_ports: dict[tuple[bytes, int], int] = {}  # connections on a local port, for the choice of one

    # Calls of the user

    def connect(self, capability: Capability, remote: bytes, remote_port: int, now: float, local: bytes | None = None,
                local_port: int = 0) -> TcpEndpoint:  # fmt: skip
        """Starts an active open.

        EACCES without authority, ENETUNREACH without a route, EADDRINUSE when that flow exists, EADDRNOTAVAIL when no
        local port is left.
        """
        stack = self.stack
        if is_unspecified(remote) or is_multicast(remote) or not 0 < remote_port < 65536:
            raise os_error(errno.EINVAL, f"{stack.describe(remote, remote_port)} cannot be connected to")
        capability.check("connect", "tcp", remote, remote_port)
        if local_port:
            capability.check("bind", "tcp", local or (UNSPECIFIED4 if is_ipv4(remote) else UNSPECIFIED6), local_port)
        interface, next_hop, source = stack.route_to(remote, local)
        peer = remote + port_bytes(remote_port)
        if not local_port:
            local_port = self.ports.choose(
                source, stack.secret, peer,
                lambda port: self.ports.taken(source, port) or flow_key(source, port, remote, remote_port) in self.flows,
            )  # fmt: skip
        flow = flow_key(source, local_port, remote, remote_port)
        if flow in self.flows:
            raise os_error(errno.EADDRINUSE, f"a connection from port {local_port} to that peer exists")
        endpoint = self._make(capability, flow, source, local_port, remote, remote_port, interface, next_hop, now)
        endpoint.connection.open(now)
        stack.counters["TcpActiveOpens"] += 1
        endpoint.changed(now)
        return endpoint

    def listen(self, capability: Capability, local: bytes, local_port: int, backlog: int, *, dual_stack: bool = False) -> TcpListener:
        """`local` may be unspecified; with `dual_stack` the unspecified address takes both families."""
        stack = self.stack
        addresses = (UNSPECIFIED6, UNSPECIFIED4) if dual_stack and is_unspecified(local) else (local,)
        if not is_unspecified(local) and not stack.is_local(local):
            raise os_error(errno.EADDRNOTAVAIL, f"{stack.describe(local, local_port)} is not an address of this stack")
        for address in addresses:
            capability.check("bind", "tcp", address, local_port)
            capability.check("listen", "tcp", address, local_port)
        if not local_port:
            taken = self.ports.any_taken
            local_port = self.ports.choose(local, stack.secret, b"listen", lambda port: taken(addresses, port))
        listener = TcpListener(stack, capability, local, local_port, addresses, backlog)
        bound = []
        try:
            for address in addresses:
                self.ports.bind(address, local_port, listener)
                bound.append(address)
        except OSError:
            for address in bound:
                self.ports.release(address, local_port, listener)
            raise
        return listener

    def unlisten(self, listener: TcpListener) -> None:
        for address in listener.addresses:
            self.ports.release(address, listener.local_port, listener)

    def closed(self, endpoint: TcpEndpoint) -> None:
        if self.flows.get(endpoint.flow) is endpoint:
            del self.flows[endpoint.flow]
        self.stack.deadlines.forget(endpoint)

    def _make(self, capability, flow, local, local_port, remote, remote_port, interface, next_hop, now, listener=None) -> TcpEndpoint:
        stack = self.stack
        if len(self.flows) >= stack.config.max_connections:
            raise os_error(errno.ENOBUFS, "this stack holds as many connections as its configuration allows")
        ipv4_flow = is_ipv4(remote)
        headers = HEADERS4 if ipv4_flow else HEADERS6
        mtu = stack.path_mtus.mtu(remote, interface.link.mtu, now)
        mss = mtu - headers
        connection = Connection(
            stack.config.tcp,
            initial_sequence_number(stack.secret, flow, now),
            mss,
            ipv4=ipv4_flow,
            super_segment=_packet_max(interface.link, ipv4_flow) - headers - OPTIONS_MAX,
            ts_offset=timestamp_offset(stack.secret, flow),
        )
        endpoint = TcpEndpoint(stack, capability, connection, flow, local, local_port, remote, remote_port, interface, next_hop, listener)
        self.flows[flow] = endpoint
        return endpoint

    # Segments

    def segment_without_flow(self, interface, flow: bytes, segment: Segment, now: float) -> DropReason:
        """A segment to an address of ours that belongs to no connection (RFC 9293 3.10.7.1, 3.10.7.2)."""
        flags = segment.flags
        local = flow[:16]
        if flags & RST:
            return DropReason.NO_SOCKET
        if flags & SYN and not flags & ACK:
            wildcard = UNSPECIFIED4 if is_ipv4(local) else UNSPECIFIED6
            listener = self.ports.find(local, flow[32:34], wildcard)
            if isinstance(listener, TcpListener):
                return self._syn_for(listener, interface, flow, segment, now)
        self._refuse(interface, flow, segment, now)
        return DropReason.NO_SOCKET

    def _syn_for(self, listener: TcpListener, interface, flow: bytes, segment: Segment, now: float) -> DropReason:
        local, remote = flow[:16], flow[16:32]
        local_port, remote_port = int.from_bytes(flow[32:34], "big"), int.from_bytes(flow[34:36], "big")
        if not listener.capability.allows("accept", "tcp", remote, local_port):
            return DropReason.NOT_ALLOWED  # before the SYN,ACK: nothing is half open, nothing is told
        if not listener.queue.may_take_syn() or len(self.flows) >= self.stack.config.max_connections:
            return DropReason.QUEUE_FULL
        capability = listener.capability.narrowed_to_peer("tcp", local, local_port, remote, remote_port)
        try:
            next_hop = self.stack.next_hop_on(interface, remote)
        except OSError:
            return DropReason.NOT_FOR_US
        endpoint = self._make(capability, flow, local, local_port, remote, remote_port, interface, next_hop, now, listener)
        listener.queue.syn_taken(endpoint)
        self.stack.counters["TcpPassiveOpens"] += 1
        endpoint.connection.tcb.may_complete = listener.queue.may_complete
        endpoint.connection.accept_syn(segment, now)
        endpoint.changed(now)
        return DropReason.NONE

    def _refuse(self, interface, flow: bytes, segment: Segment, now: float) -> None:
        """<SEQ=SEG.ACK><CTL=RST>, or <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK> (3.10.7.1)."""
        flags = segment.flags
        if flags & ACK:
            seq, ack, reset = segment.ack, 0, RST
        else:
            occupied = segment.length + bool(flags & SYN) + bool(flags & FIN)
            seq, ack, reset = 0, (segment.seq + occupied) & 0xFFFFFFFF, RST | ACK
        local, remote = flow[:16], flow[16:32]
        header = tcp.TcpHeader(int.from_bytes(flow[32:34], "big"), int.from_bytes(flow[34:36], "big"), seq, ack, reset, 0)
        raw = tcp.emit(header, b"", local, remote)
        if is_ipv4(local):
            packet = ipv4.emit(ipv4.Ipv4Header(local, remote, 6, self.stack.config.hop_limit, flags=ipv4.DONT_FRAGMENT), raw)
        else:
            packet = ipv6.emit(ipv6.Ipv6Header(local, remote, 6, self.stack.config.hop_limit), raw)
        self.stack.counters["TcpOutRsts"] += 1
        self.stack.answer(interface, packet, remote, now)
