"""The stack: interfaces, routes and endpoints joined together; bytes, `now` and random numbers come from outside.

    receive_burst(interface, burst, now)   frames in
    fill(interface, batch, now)            segments out
    next_deadline()                        when next
    handle_timeout(now)                    time passed

Read first: ip_input.py for the way in, interface.py for the way out.  One stack belongs to one thread at a time; the
`runtime` package sees to that.  Several stacks live in one process: nothing here is global.
"""

import errno
import random as random_module
from collections.abc import Callable

from swos_net.address import (
    BROADCAST4,
    LOOPBACK4,
    LOOPBACK6,
    format_address,
    from_packed,
    is_ipv4,
    is_link_local,
    is_loopback,
    is_multicast,
    link_local_from_mac,
    parse_address,
    prefix_matches,
)
from swos_net.capability import Capability, _root
from swos_net.config import StackConfig
from swos_net.dataplane.batch import Batch, FlowPath
from swos_net.dataplane.burst import Burst
from swos_net.dns.config import Names
from swos_net.errors import os_error
from swos_net.ip.fragmentation import fragment
from swos_net.ip.pmtu import PathMtuCache
from swos_net.ip.routing import Route, RouteTable
from swos_net.link import LinkFeatures
from swos_net.stack.counters import Counters
from swos_net.stack.deadlines import Deadlines
from swos_net.stack.groups import Groups
from swos_net.stack.icmp_handler import IcmpHandler
from swos_net.stack.interface import Interface
from swos_net.stack.ip_input import IpInput
from swos_net.stack.lending import Lending
from swos_net.stack.loopback import LoopbackInterface
from swos_net.stack.raw_endpoint import RawDemux
from swos_net.stack.tcp_demux import TcpDemux, flow_key
from swos_net.stack.tcp_endpoint import TcpEndpoint, TcpListener
from swos_net.stack.trimmer import Trimmer
from swos_net.stack.udp_demux import UdpDemux
from swos_net.stack.udp_endpoint import UdpEndpoint
from swos_net.wire import ipv4, ipv6, udp

LINK_LOCAL6 = parse_address("fe80::")


class Stack:
    """One host on any number of links.

    `root` is the capability for everything this stack can do; all others are derived from it.  `system` is that of
    what the stack sends of its own accord: ARP, neighbour discovery, ICMP errors, resets, DHCP, name queries.  `names` is what it knows about names.  `on_event`, when set,
    is called with whatever the protocols report (leases, address conflicts) and the interface it happened on.
    """

    def __init__(self, config: StackConfig | None = None, *, random: random_module.Random | None = None, name: str = "stack"):
        """`random`: a seeded generator makes a run repeatable; the default draws from the system."""
        self.name = name
        self.config = config or StackConfig()
        self.random = random or random_module.SystemRandom()
        self.secret = self.random.randbytes(16)
        self.root: Capability = _root(name, self)
        self.names = Names(name)
        self.system: Capability = self.root.attenuate(str(self.root), f"{name} itself")
        self.counters = Counters()
        self.deadlines = Deadlines()
        self.interfaces: list[Interface] = []
        self.routes = RouteTable()
        self.path_mtus = PathMtuCache()
        self.on_event: Callable[[object, Interface], None] | None = None
        self.driver: object | None = None  # who serves this stack, for those who must find it (see runtime.driver)
        self.groups = Groups(self)
        self.loopback = LoopbackInterface(self)
        self.tcp = TcpDemux(self)
        self.lending = Lending(self.secret)
        self.udp = UdpDemux(self)
        self.raw = RawDemux(self)
        self.icmp = IcmpHandler(self)
        self.input = IpInput(self)
        self.trimmer = Trimmer(self)
        self._endpoints = 0

    # Interfaces, addresses, routes

    def add_interface(self, link: LinkFeatures, now: float, name: str = "") -> Interface:
        """A new link; on Ethernet with its link-local IPv6 address (RFC 4291 2.8)."""
        interface = Interface(self, len(self.interfaces), link, name or f"link{len(self.interfaces)}")
        self.interfaces.append(interface)
        self.routes = RouteTable((*self.routes.routes, Route(LINK_LOCAL6, 10, interface.index)))
        if link.address is not None:
            interface.add_address(link_local_from_mac(link.address), 64, now)
        return interface

    def add_address(self, interface: Interface, address: bytes, prefix_length: int, now: float, *, probe: bool = False) -> None:
        """An address of ours and the route to its prefix; `probe` looks for another owner first."""
        interface.add_address(address, prefix_length, now, probe=probe)
        width = 32 if is_ipv4(address) else 128
        value = int.from_bytes(address, "big") >> (width - prefix_length) << (width - prefix_length)
        self.add_route(Route(value.to_bytes(16, "big"), prefix_length, interface.index))

    def remove_address(self, interface: Interface, address: bytes, now: float) -> None:
        """An address that is ours no more, with its connections and the routes that lead through its prefix."""
        entry = next((entry for entry in interface.addresses if entry.address == address), None)
        if entry is None:
            return
        interface.remove_address(address, now)
        kept = []
        for route in self.routes.routes:
            connected = route.interface == interface.index and route.gateway is None and route.length == entry.prefix_length
            through = route.gateway is not None and prefix_matches(route.gateway, address, entry.prefix_length)
            if not (connected and prefix_matches(address, route.prefix, route.length)) and not (route.interface == interface.index and through):
                kept.append(route)
        self.routes = RouteTable(kept)
        for endpoint in [endpoint for endpoint in self.tcp.flows.values() if endpoint.local == address]:
            endpoint.abort(now)

    def add_route(self, route: Route) -> None:
        if route not in self.routes.routes:
            self.routes = RouteTable((*self.routes.routes, route))

    def add_gateway(self, interface: Interface, gateway: bytes) -> None:
        """The default route of the gateway's family."""
        prefix = parse_address("0.0.0.0" if is_ipv4(gateway) else "::")
        self.add_route(Route(prefix, 0, interface.index, gateway))

    def is_local(self, address: bytes) -> bool:
        return self.interface_with(address) is not None

    def interface_with(self, address: bytes) -> Interface | None:
        for interface in self.interfaces:
            if interface.has_address(address):
                return interface
        return self.loopback if is_loopback(address) else None

    def interface_numbered(self, number: int) -> Interface | None:
        """By the number that socket addresses and options name it with: 1 is the loopback, links follow."""
        if number == self.loopback.number:
            return self.loopback
        return self.interfaces[number - 2] if 2 <= number < len(self.interfaces) + 2 else None

    def broadcast_interface(self, address: bytes) -> Interface | None:
        """The interface on which that is a broadcast address."""
        return next((interface for interface in self.interfaces if interface.is_broadcast(address)), None)

    def route_to(self, remote: bytes, local: bytes | None = None, *, broadcast: bool = False,
                 number: int = 0) -> tuple[Interface, bytes, bytes]:  # fmt: skip
        """(interface, next hop, source address) for packets to `remote`; `number` is that of the only interface to use.

        ENETUNREACH without a route, EADDRNOTAVAIL without an address of the right kind, EACCES for a broadcast that
        was not asked for, EINVAL from a loopback address to a link.
        """
        interface = None
        if local is not None:
            if is_ipv4(local) != is_ipv4(remote):
                raise os_error(errno.ENETUNREACH, f"there is no way from {format_address(local)} to {format_address(remote)}")
            interface = self.interface_with(local)
            if interface is None:
                raise os_error(errno.EADDRNOTAVAIL, f"{format_address(local)} is not an address of this stack")
        if is_loopback(remote):
            return self.loopback, remote, local or (LOOPBACK4 if is_ipv4(remote) else LOOPBACK6)
        if self.is_local(remote):
            return self.loopback, remote, local or remote  # RFC 1122 3.2.1.3: it never leaves the host
        if number:
            interface = self.interface_numbered(number)
            if interface is None:
                raise os_error(errno.ENODEV, f"there is no interface {number}")
        elif interface is self.loopback and not is_multicast(remote):
            raise os_error(errno.EINVAL, f"{format_address(local)} is an address of this host alone")
        if interface is self.loopback:
            return interface, remote, local or (LOOPBACK4 if is_ipv4(remote) else LOOPBACK6)
        only = interface is not None and (number or is_multicast(remote) or is_link_local(remote))
        route = self.routes.lookup(remote, interface.index if only else None)
        if route is None and (remote == BROADCAST4 or is_multicast(remote)) and self.interfaces:
            interface = interface or self.interfaces[0]
            next_hop = remote
        elif route is None:
            raise os_error(errno.ENETUNREACH, f"no route to {format_address(remote)}: add a gateway or an address on its network")
        else:
            interface = self.interfaces[route.interface]
            next_hop = route.gateway or remote
        if interface.is_broadcast(remote) and not broadcast:
            raise os_error(errno.EACCES, "set SO_BROADCAST to send to a broadcast address")
        source = local or (route.source if route else None) or interface.source_towards(remote)
        if source is None:
            family = "IPv4" if is_ipv4(remote) else "IPv6"
            raise os_error(errno.EADDRNOTAVAIL, f"interface {interface.name} has no {family} address to send from")
        return interface, next_hop, source

    def next_hop_on(self, interface: Interface, remote: bytes) -> bytes:
        """Where an answer to `remote` goes on the interface that the question came from."""
        if interface.on_link(remote) or is_multicast(remote) or interface.is_broadcast(remote):
            return remote
        route = self.routes.lookup(remote, interface.index)
        if route is None:
            raise os_error(errno.ENETUNREACH, f"no route to {format_address(remote)} on {interface.name}")
        return route.gateway or remote

    # Packets of the stack's own

    def answer(self, interface: Interface, packet: bytes, remote: bytes, now: float) -> None:
        """A complete packet back to where one came from; dropped when there is no way."""
        try:
            next_hop = self.next_hop_on(interface, remote)
        except OSError:
            self.counters["IpOutNoRoutes"] += 1
            return
        interface.send_packet(packet, next_hop, now)

    def fragments(self, interface: Interface, packet: bytes, now: float) -> list[bytes]:
        """What a packet of ours is sent as: itself, or its fragments where the path takes no more."""
        if len(packet) <= interface.link.mtu and not self.path_mtus:
            return [packet]
        ipv4_packet = packet[0] >> 4 == 4
        destination = from_packed(packet[16:20] if ipv4_packet else packet[24:40])
        mtu = self.path_mtus.mtu(destination, interface.link.mtu, now)
        try:
            return fragment(packet, mtu, self.random.getrandbits(16 if ipv4_packet else 32))
        except OSError:
            if len(packet) <= interface.link.mtu:
                return [packet]  # it must not be fragmented here, so a router will say what it takes
            self.counters["IpFragFails"] += 1
            return []

    def send_ip(self, interface: Interface, source: bytes, remote: bytes, protocol: int, payload: bytes, now: float,
                hop_limit: int | None = None, traffic_class: int = 0, options: bytes = b"") -> None:  # fmt: skip
        """An IP packet around `payload`, fragmented where it must be; `options` are of an IPv4 header."""
        hop_limit = self.config.hop_limit if hop_limit is None else hop_limit
        if is_ipv4(remote):
            header = ipv4.Ipv4Header(source, remote, protocol, hop_limit, traffic_class, self.random.getrandbits(16), options=options)
            packet = ipv4.emit(header, payload)
        else:
            packet = ipv6.emit(ipv6.Ipv6Header(source, remote, protocol, hop_limit, traffic_class), payload)
        self.answer(interface, packet, remote, now)

    def send_udp_fragmented(self, path: FlowPath, payload: bytes, interface: Interface, now: float) -> None:
        """A datagram longer than the path's MTU."""
        local, remote = bytes(path.c.local), bytes(path.c.remote)
        datagram = udp.emit(udp.UdpHeader(path.c.local_port, path.c.remote_port), payload, local, remote)
        self.send_ip(interface, local, remote, ipv4.PROTOCOL_UDP, datagram, now, path.c.hop_limit, path.c.traffic_class)

    def neighbor_unreachable(self, interface: Interface, address: bytes, held: list[bytes], now: float) -> None:
        """Nobody answered for `address`: who waited is told (RFC 1122 3.3.2, RFC 4861 7.2.2)."""
        self.counters["NeighborUnreachable"] += 1
        for packet in held:
            if packet[0] >> 4 == 4:
                header = ipv4.parse_quoted(packet)
                protocol, transport = header.protocol, packet[header.header_length :]
            else:
                header = ipv6.parse_quoted(packet)
                protocol, transport = header.next_header, packet[40:]
            if protocol not in (6, 17) or len(transport) < 4:
                continue
            ports = int.from_bytes(transport[:2], "big"), int.from_bytes(transport[2:4], "big")
            if protocol == 6:
                endpoint = self.tcp.flows.get(flow_key(header.source, ports[0], header.destination, ports[1]))
            else:
                endpoint = self.udp.find(header.source + header.destination + transport[:4])
            if endpoint is not None:
                endpoint.path_error(errno.EHOSTUNREACH, now)

    def tell(self, event: object, interface: Interface) -> None:
        if self.on_event is not None:
            self.on_event(event, interface)

    def interface_failed(self, interface: Interface, now: float) -> None:
        """Its device is gone for good: connections over it end with ENETDOWN, what waited to be sent is dropped."""
        for endpoint in [endpoint for endpoint in self.tcp.flows.values() if endpoint.interface is interface]:
            endpoint.fail(errno.ENETDOWN, now)
        interface.control.clear()
        interface.datagrams.clear()
        interface.output_ready.clear()

    # Endpoints

    def endpoint_opened(self) -> None:
        """Counts one that is no connection; ENOBUFS when the configuration allows no more."""
        if self._endpoints >= self.config.max_endpoints:
            raise os_error(errno.ENOBUFS, "this stack holds as many endpoints as its configuration allows")
        self._endpoints += 1

    def endpoint_closed(self) -> None:
        self._endpoints -= 1

    def tcp_connect(self, capability: Capability, remote: bytes, remote_port: int, now: float, *, local: bytes | None = None,
                    local_port: int = 0) -> TcpEndpoint:  # fmt: skip
        """Starts a connection; watch it for WRITABLE or ERROR.  See `TcpDemux.connect` for the errors."""
        return self.tcp.connect(capability, remote, remote_port, now, local, local_port)

    def tcp_listen(self, capability: Capability, local: bytes, local_port: int, backlog: int = 128, *, dual_stack: bool = False) -> TcpListener:
        """A listening port; watch it for READABLE."""
        return self.tcp.listen(capability, local, local_port, backlog, dual_stack=dual_stack)

    def udp_open(self, capability: Capability, local: bytes, local_port: int = 0, *, dual_stack: bool = False) -> UdpEndpoint:
        return self.udp.open(capability, local, local_port, dual_stack=dual_stack)

    def tcp_closed(self, endpoint: TcpEndpoint) -> None:
        self.tcp.closed(endpoint)

    def tcp_unlisten(self, listener: TcpListener) -> None:
        self.tcp.unlisten(listener)


    # The verbs

    def receive_burst(self, interface: Interface, burst: Burst, now: float) -> None:
        """Frames in.  Whatever they contain, nothing is raised: bad ones are counted by reason."""
        self.input.receive_burst(interface, burst, now)

    def fill(self, interface: Interface, batch: Batch, now: float) -> None:
        """Segments out: adds what waits for this link, as far as there is room."""
        interface.fill(batch, now)

    def next_deadline(self) -> float | None:
        return self.deadlines.next_deadline()

    def handle_timeout(self, now: float) -> None:
        for owner in self.deadlines.due(now):
            owner.handle_timeout(now)
            self.deadlines.schedule(owner)

    @staticmethod
    def describe(address: bytes, port: int) -> str:
        """An address and port for a message."""
        text = format_address(address)
        return f"{text}:{port}" if is_ipv4(address) else f"[{text}]:{port}"
