"""From a TCP segment to its connection or listener, and what connections share: ports, ISNs, resets."""

import errno
from weakref import WeakValueDictionary

from swos_net.address import BROADCAST4, UNSPECIFIED4, UNSPECIFIED6, is_ipv4, is_multicast, is_unspecified
from swos_net.capability import Capability
from swos_net.dataplane.burst import DropReason
from swos_net.errors import os_error
from swos_net.stack.ports import REUSE_ADDRESS, REUSE_PORT, BoundPorts, PortClaim, overlap, port_bytes
from swos_net.stack.syn_cookies import SynCookies
from swos_net.stack.tcp_endpoint import TcpEndpoint, TcpListener
from swos_net.tcp.congestion import check_controller
from swos_net.tcp.connection import Connection
from swos_net.tcp.ensemble import Ensemble
from swos_net.tcp.isn import flow_numbers, initial_sequence_number, isn_at
from swos_net.tcp.segment import ACK, FIN, RST, SYN, Segment
from swos_net.tcp.state import State
from swos_net.wire import ipv4, ipv6, tcp

HEADERS4 = 40  # IPv4 and TCP without options
HEADERS6 = 60
PACKET_MAX = 65535
SUPER_SEGMENT = 1 << 19  # octets handed to the data plane at once, which cuts them to what the link takes
TIME_WAIT_ISN_STEP = 65537  # between what a connection sent and the ISN of the one that takes its place


def flow_key(local: bytes, local_port: int, remote: bytes, remote_port: int) -> bytes:
    """The 36 bytes that the data plane calls a frame's flow."""
    return local + remote + port_bytes(local_port) + port_bytes(remote_port)


class TcpDemux:
    """Connections by flow and listeners by port, of one stack."""

    def __init__(self, stack):
        self.stack = stack
        self.flows: dict[bytes, TcpEndpoint] = {}
        self.ensembles: WeakValueDictionary[bytes, Ensemble] = WeakValueDictionary()  # by remote address
        self.ports = BoundPorts("TCP", stack.random.getrandbits(32))
        self.cookies = SynCookies(stack)
        self.time_waiting: dict[TcpEndpoint, None] = {}  # the oldest first
        self.orphans: set[TcpEndpoint] = set()  # closed by their users, and not done yet
        check_controller(stack.config.tcp.congestion)

    # Calls of the user

    def claim(self, capability: Capability, claim: PortClaim, port: int) -> None:
        """bind(): holds a port (0: any) for a socket that will listen or connect.

        EACCES without authority, EADDRNOTAVAIL when the address is not ours, EADDRINUSE when it cannot be shared.
        """
        stack = self.stack
        for address in claim.addresses:
            if not is_unspecified(address) and not stack.is_local(address):
                raise os_error(errno.EADDRNOTAVAIL, f"{stack.describe(address, port)} is not an address of this stack")
            if port:
                capability.check("bind", "tcp", address, port)
        if not port:
            port = self._any_port(claim)
        elif self.ports.conflict(claim, port) or (self.ports.flows_in_the_way(claim, port) and port in self._ports_of_flows(claim)):
            raise os_error(errno.EADDRINUSE, f"TCP port {port} is taken: choose another or close its owner")
        self.ports.claim(claim, port)

    def _any_port(self, claim: PortClaim) -> int:
        """One without connections if there is any, since whose connections those are takes long to find out."""
        ports, address, secret = self.ports, claim.addresses[0], self.stack.secret
        try:
            return ports.choose(address, secret, b"bind", lambda port: ports.conflict(claim, port) or ports.flows_in_the_way(claim, port))
        except OSError:
            taken = self._ports_of_flows(claim)
            return ports.choose(address, secret, b"bind", lambda port: ports.conflict(claim, port) or port in taken)

    def _ports_of_flows(self, claim: PortClaim) -> set[int]:
        """Ports whose connections exclude the claim."""
        shared = REUSE_ADDRESS * claim.reuse_address | REUSE_PORT * claim.reuse_port
        return {
            endpoint.local_port
            for endpoint in self.flows.values()
            if not endpoint.reuse & shared and overlap(claim.addresses, (endpoint.local,))
        }

    def connect(self, capability: Capability, remote: bytes, remote_port: int, now: float, local: bytes | None = None,
                local_port: int = 0, claim: PortClaim | None = None) -> TcpEndpoint:  # fmt: skip
        """Starts an active open; `claim` is what bind() held, whose port is used.

        EACCES without authority, ENETUNREACH without a route, EADDRINUSE when that flow exists (with a claim
        EADDRNOTAVAIL), EADDRNOTAVAIL when no local port is left.
        """
        stack = self.stack
        if is_unspecified(remote) or not 0 <= remote_port < 65536:
            raise os_error(errno.EINVAL, f"{stack.describe(remote, remote_port)} cannot be connected to")
        if is_multicast(remote) or remote == BROADCAST4:
            raise os_error(errno.ENETUNREACH, f"{stack.describe(remote, remote_port)} is no single host")
        capability.check("connect", "tcp", remote, remote_port)
        if claim is not None:
            local_port = claim.local_port
        elif local_port:
            capability.check("bind", "tcp", local or (UNSPECIFIED4 if is_ipv4(remote) else UNSPECIFIED6), local_port)
        interface, next_hop, source = stack.route_to(remote, local)
        if not local_port:
            local_port = self._ephemeral(source, remote, remote_port, now)
        flow = flow_key(source, local_port, remote, remote_port)
        before = self.flows.get(flow)
        if before is not None and not self._may_replace(before, now):
            code = errno.EADDRINUSE if claim is None else errno.EADDRNOTAVAIL  # as bind() or connect() would say
            raise os_error(code, f"a connection from port {local_port} to that peer exists")
        reuse = claim.reuse if claim is not None else 0
        iss = self._replace(before, now) if before is not None else None
        endpoint = self._make(capability, flow, source, local_port, remote, remote_port, interface, next_hop, now, reuse=reuse, iss=iss)
        endpoint.path.granted = capability
        endpoint.connection.open(now)
        stack.counters["TcpActiveOpens"] += 1
        endpoint.changed(now)
        return endpoint

    def _ephemeral(self, source: bytes, remote: bytes, remote_port: int, now: float) -> int:
        """A port for a connection to that peer.  Ports in TIME-WAIT count as free once they may be had again: the search
        goes round, so that the next one is the one that has waited longest."""
        addresses = source + remote
        port_there = port_bytes(remote_port)
        flows, held = self.flows, self.ports.held

        def taken(port: int) -> bool:
            before = flows.get(addresses + port_bytes(port) + port_there)
            return (before is not None and not self._may_replace(before, now)) or held(port, (source,))

        return self.ports.choose(source, self.stack.secret, remote + port_there, taken)

    def _may_replace(self, endpoint: TcpEndpoint, now: float) -> bool:
        """Whether a new connection may take the place of this one: RFC 6191 1, for the end that opens.

        Only with timestamps, by which the peer tells the two apart, and when their clock has moved on since.
        """
        tcb = endpoint.connection.tcb
        after = self.stack.config.tcp.time_wait_reuse
        return (
            tcb.state is State.TIME_WAIT
            and tcb.timestamps
            and after is not None
            and now - tcb.timers.time_wait + tcb.config.time_wait >= after
        )

    def _replace(self, endpoint: TcpEndpoint, now: float) -> int:
        """Ends a connection in TIME-WAIT; returns an ISN beyond everything that it sent (RFC 9293 3.4.3)."""
        self.stack.counters["TcpExtTWRecycled"] += 1
        endpoint.connection.forget()
        endpoint.events_happened()
        return self._isn_after(endpoint, now)

    def _isn_after(self, endpoint: TcpEndpoint, now: float) -> int:
        iss = initial_sequence_number(self.stack.secret, endpoint.flow, now)
        beyond = (endpoint.connection.tcb.snd_max + TIME_WAIT_ISN_STEP) & 0xFFFFFFFF
        return iss if (iss - beyond) & 0xFFFFFFFF < 1 << 31 else beyond

    def listen(self, capability: Capability, local: bytes, local_port: int, backlog: int, *, dual_stack: bool = False) -> TcpListener:
        """`local` may be unspecified; with `dual_stack` the unspecified address takes both families.

        Connections of an earlier listener keep nobody from the port, as with SO_REUSEADDR.
        """
        addresses = (UNSPECIFIED6, UNSPECIFIED4) if dual_stack and is_unspecified(local) else (local,)
        for address in addresses:
            capability.check("bind", "tcp", address, local_port)
            capability.check("listen", "tcp", address, local_port)
        claim = PortClaim(addresses, reuse_address=True)
        self.claim(capability, claim, local_port)
        return self.listen_at(capability, claim, backlog)

    def listen_at(self, capability: Capability, claim: PortClaim, backlog: int) -> TcpListener:
        """listen(): makes a listener of a held port, which the listener releases when it closes.

        EADDRINUSE when it is shared with somebody who listens already.
        """
        port = claim.local_port
        for address in claim.addresses:
            # a rule about port 0 stands for whatever port is chosen
            if not capability.allows("listen", "tcp", address, 0):
                capability.check("listen", "tcp", address, port)
        claim.listening = True
        if self.ports.conflict(claim, port):
            claim.listening = False
            raise os_error(errno.EADDRINUSE, f"somebody listens on TCP port {port}: choose another or close its owner")
        listener = TcpListener(self.stack, capability, claim.addresses[0], port, claim, backlog)
        self.ports.listen(listener, claim.addresses, port)
        return listener

    def unlisten(self, listener: TcpListener) -> None:
        claim = listener.claim
        self.ports.unlisten(listener, claim.addresses, claim.local_port)
        claim.listening = False
        self.ports.release(claim)

    def orphaned(self, endpoint: TcpEndpoint) -> bool:
        """The user has let go; False when there are so many of them that this one has to be reset."""
        if len(self.orphans) >= self.stack.config.tcp.orphans_max:
            self.stack.counters["TcpExtTCPAbortOnMemory"] += 1
            return False
        self.orphans.add(endpoint)
        return True

    def time_wait_entered(self, endpoint: TcpEndpoint) -> None:
        """Only the memory of a connection is left; the oldest goes when there are too many."""
        self.orphans.discard(endpoint)
        self.time_waiting[endpoint] = None
        if len(self.time_waiting) > self.stack.config.tcp.time_wait_max:
            self._forget_oldest_time_wait()

    def _forget_oldest_time_wait(self) -> bool:
        if not self.time_waiting:
            return False
        endpoint = next(iter(self.time_waiting))
        self.stack.counters["TcpExtTCPTimeWaitOverflow"] += 1
        endpoint.connection.forget()
        endpoint.events_happened()
        return True

    def closed(self, endpoint: TcpEndpoint) -> None:
        self.time_waiting.pop(endpoint, None)
        self.orphans.discard(endpoint)
        if self.flows.get(endpoint.flow) is endpoint:
            del self.flows[endpoint.flow]
            self.ports.flow_closed(endpoint.local_port, is_ipv4(endpoint.local), endpoint.reuse)
        self.stack.deadlines.forget(endpoint)

    def _make(self, capability, flow, local, local_port, remote, remote_port, interface, next_hop, now, listener=None,
              reuse: int = 0, iss: int | None = None) -> TcpEndpoint:  # fmt: skip
        stack = self.stack
        if len(self.flows) >= stack.config.max_connections and not self._forget_oldest_time_wait():
            raise os_error(errno.ENOBUFS, "this stack holds as many connections as its configuration allows")
        ipv4_flow = is_ipv4(remote)
        mss = self._mss(interface, remote, now)
        isn_offset, ts_offset, label = flow_numbers(stack.secret, flow)
        connection = Connection(
            stack.config.tcp,
            isn_at(isn_offset, now) if iss is None else iss,
            mss,
            ipv4=ipv4_flow,
            super_segment=SUPER_SEGMENT,
            ts_offset=ts_offset,
            counters=stack.counters,
            ensemble=self.ensembles.setdefault(remote, Ensemble()),
        )
        endpoint = TcpEndpoint(stack, capability, connection, flow, local, local_port, remote, remote_port, interface, next_hop, listener)
        endpoint.reuse = listener.claim.reuse if listener is not None else reuse
        if not ipv4_flow:
            endpoint.path.c.flow_label = label
        self.flows[flow] = endpoint
        self.ports.flow_opened(local_port, ipv4_flow, endpoint.reuse)
        return endpoint

    def _mss(self, interface, remote: bytes, now: float) -> int:
        """Payload octets of a segment without options on the path to `remote` (RFC 6691)."""
        mtu = self.stack.path_mtus.mtu(remote, interface.link.mtu, now)
        return min(mtu, PACKET_MAX) - (HEADERS4 if is_ipv4(remote) else HEADERS6)

    # Segments

    def segment_without_flow(self, interface, flow: bytes, segment: Segment, now: float, before: TcpEndpoint | None = None) -> DropReason:
        """A segment to an address of ours that belongs to no connection (RFC 9293 3.10.7.1, 3.10.7.2).

        `before` is the connection in TIME-WAIT that gave way to it.
        """
        flags = segment.flags
        local = flow[:16]
        if flags & RST or (flags & SYN and flags & FIN and self.stack.config.tcp.drop_syn_fin):
            return DropReason.NO_SOCKET
        listener = self.ports.find(flow)
        if listener is not None:
            if flags & ACK:
                syn = self.cookies.restore(flow, segment, now)
                if syn is not None:
                    return self._cookie_returned(listener, interface, flow, syn, segment, now)
            elif flags & SYN:
                return self._syn_for(listener, interface, flow, segment, now, before)
            else:
                return DropReason.NO_SOCKET  # RFC 9293 3.10.7.2, fourth: no answer
        self._refuse(interface, flow, segment, now)
        return DropReason.NO_SOCKET

    def _syn_for(self, listener: TcpListener, interface, flow: bytes, segment: Segment, now: float, before: TcpEndpoint | None) -> DropReason:
        local, remote = flow[:16], flow[16:32]
        local_port, remote_port = int.from_bytes(flow[32:34], "big"), int.from_bytes(flow[34:36], "big")
        if not listener.capability.allows("accept", "tcp", remote, local_port):
            return DropReason.NOT_ALLOWED  # before the SYN,ACK: nothing is half open, nothing is told
        queue = listener.queue
        if queue.accept_queue_full:
            queue.overflows += 1
            self.stack.counters["TcpExtListenOverflows"] += 1
            return DropReason.QUEUE_FULL
        cookies = self.stack.config.tcp.syn_cookies
        full = queue.syn_queue_full or (len(self.flows) >= self.stack.config.max_connections and not self.time_waiting)
        if cookies == "always" or (full and cookies != "never"):
            return self.cookies.answer(interface, flow, segment, self._mss(interface, remote, now), now)
        if full:
            queue.overflows += 1
            self.stack.counters["TcpExtTCPReqQFullDrop"] += 1
            return DropReason.QUEUE_FULL
        # RFC 9293 3.6.1: larger than what the connection before it used
        iss = self._isn_after(before, now) if before is not None else None
        endpoint = self._passive(listener, interface, flow, segment, now, iss)
        if endpoint is None:
            return DropReason.NOT_FOR_US
        endpoint.changed(now)
        return DropReason.NONE

    def _passive(self, listener: TcpListener, interface, flow: bytes, syn: Segment, now: float, iss: int | None = None) -> TcpEndpoint | None:
        """A connection in SYN-RECEIVED; None when there is no way back to the peer."""
        local, remote = flow[:16], flow[16:32]
        local_port, remote_port = int.from_bytes(flow[32:34], "big"), int.from_bytes(flow[34:36], "big")
        capability = listener.capability.narrowed_to_peer("tcp", local, local_port, remote, remote_port)
        try:
            next_hop = self.stack.next_hop_on(interface, remote)
        except OSError:
            return None
        endpoint = self._make(capability, flow, local, local_port, remote, remote_port, interface, next_hop, now, listener, iss=iss)
        endpoint.path.granted = capability
        listener.queue.syn_taken(endpoint)
        self.stack.counters["TcpPassiveOpens"] += 1
        endpoint.connection.tcb.may_complete = listener.queue.may_complete
        if listener.prepare is not None:
            listener.prepare(endpoint, now)
        endpoint.connection.accept_syn(syn, now)
        return endpoint

    def _cookie_returned(self, listener: TcpListener, interface, flow: bytes, syn: Segment, segment: Segment, now: float) -> DropReason:
        """The third segment of a handshake that was not remembered: the connection is made now."""
        remote, local_port = flow[16:32], int.from_bytes(flow[32:34], "big")
        if not listener.capability.allows("accept", "tcp", remote, local_port):
            return DropReason.NOT_ALLOWED
        if listener.queue.accept_queue_full or (len(self.flows) >= self.stack.config.max_connections and not self.time_waiting):
            return DropReason.QUEUE_FULL
        endpoint = self._passive(listener, interface, flow, syn, now, (segment.ack - 1) & 0xFFFFFFFF)
        if endpoint is None:
            return DropReason.NOT_FOR_US
        endpoint.connection.syn_ack_was_sent(now)
        endpoint.deliver(segment, now)
        return DropReason.NONE

    def _refuse(self, interface, flow: bytes, segment: Segment, now: float) -> None:
        """<SEQ=SEG.ACK><CTL=RST>, or <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK> (3.10.7.1)."""
        flags = segment.flags
        if flags & ACK:
            seq, ack, reset = segment.ack, 0, RST
        else:
            occupied = segment.length + bool(flags & SYN) + bool(flags & FIN)
            seq, ack, reset = 0, (segment.seq + occupied) & 0xFFFFFFFF, RST | ACK
        header = tcp.TcpHeader(int.from_bytes(flow[32:34], "big"), int.from_bytes(flow[34:36], "big"), seq, ack, reset, 0)
        self.stack.counters["TcpOutRsts"] += 1
        self.answer(interface, flow, header, now)

    def answer(self, interface, flow: bytes, header: tcp.TcpHeader, now: float) -> None:
        """A segment without text that no connection stands behind."""
        local, remote = flow[:16], flow[16:32]
        raw = tcp.emit(header, b"", local, remote)
        if is_ipv4(local):
            packet = ipv4.emit(ipv4.Ipv4Header(local, remote, 6, self.stack.config.hop_limit, flags=ipv4.DONT_FRAGMENT), raw)
        else:
            packet = ipv6.emit(ipv6.Ipv6Header(local, remote, 6, self.stack.config.hop_limit), raw)
        self.stack.answer(interface, packet, remote, now)
