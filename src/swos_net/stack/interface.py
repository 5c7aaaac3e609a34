"""One network interface: its addresses, its neighbours, and what waits to go out through it.

Read first: neighbor/cache.py.  Frames that are complete wait in `control`, datagrams in `datagrams`, endpoints that
have something to say in `output_ready`; `fill` turns them into a batch when the device has room.
"""

import errno
from collections import deque
from collections.abc import Callable

from swos_net.address import (
    ALL_NODES6,
    ALL_ROUTERS6,
    BROADCAST4,
    is_ipv4,
    is_link_local,
    is_multicast,
    link_local_from_mac,
    multicast_mac,
    parse_address,
    prefix_matches,
    solicited_node,
)
from swos_net.dataplane.batch import Batch, FlowPath, link_limits
from swos_net.errors import os_error
from swos_net.ip.routing import InterfaceAddress, select_source
from swos_net.link import LinkFeatures, Medium, Offload
from swos_net.neighbor import arp, cache, ndisc
from swos_net.neighbor.router_advertiser import RouterAdvertiser, RouterAdvertiserConfig
from swos_net.stack.counters import Counters
from swos_net.wire import ipv6

CONTROL_FRAMES_MAX = 1024
BROADCAST_MAC = b"\xff" * 6
ETHERTYPE_ARP = b"\x08\x06"
ETHERTYPE_IPV4 = b"\x08\x00"
ETHERTYPE_IPV6 = b"\x86\xdd"
ALL_HOSTS4 = parse_address("224.0.0.1")

UNICAST = 1
MULTICAST = 2
BROADCAST = 3


def plain_packet_limits(link: LinkFeatures):
    """For packets that wait for their neighbour: no link header yet, and nothing left to the link."""
    return link_limits(LinkFeatures(Medium.IP, link.mtu, None, Offload.NONE, link.mtu))


class Interface:
    """Made by `Stack.add_interface`."""

    # what `link_address_of` gives on a medium without link addresses
    no_link_address = b""

    def __init__(self, stack, index: int, link: LinkFeatures, name: str):
        self.stack = stack
        self.index = index
        self.name = name
        self.link = link
        self.plain_packets = plain_packet_limits(link)
        self.addresses: list[InterfaceAddress] = []
        self.destinations: dict[bytes, int] = {ALL_NODES6: MULTICAST, ALL_HOSTS4: MULTICAST, BROADCAST4: BROADCAST}
        self.counters = Counters()
        self.control: deque[bytes] = deque()
        self.datagrams: deque[tuple] = deque()
        self.output_ready: deque = deque()
        self.wants_output: Callable[[], None] | None = None  # set by who runs the stack: output appeared
        self.advertiser: RouterAdvertiser | None = None
        self.scheduled: float | None = None
        config = stack.config.neighbor
        self.neighbors = cache.NeighborCache(config, self._solicit, random=stack.random)
        mac = link.address or bytes(6)
        self.arp = arp.Arp(self.neighbors, mac, self.source_towards, random=stack.random)
        self.ndisc = ndisc.NeighborDiscovery(self.neighbors, mac, config, self.source_towards, random=stack.random)

    # Addresses

    def add_address(self, address: bytes, prefix_length: int, now: float, *, probe: bool = False) -> None:
        """`probe`: use it only after nobody on the link claims it (RFC 5227, RFC 4862 5.4)."""
        entry = InterfaceAddress(address, prefix_length, tentative=probe)
        self.addresses.append(entry)
        if is_ipv4(address):
            if prefix_length < 31:
                host_bits = (1 << (32 - prefix_length)) - 1
                network = int.from_bytes(address[12:], "big") | host_bits
                self.destinations[address[:12] + network.to_bytes(4, "big")] = BROADCAST
        else:
            self.destinations[solicited_node(address)] = MULTICAST
        if not probe:
            self.destinations[address] = UNICAST
        if self.link.medium is Medium.ETHERNET:
            machine = self.arp if is_ipv4(address) else self.ndisc
            machine.add_address(address, now, probe=probe)
            self.pump(now)

    def remove_address(self, address: bytes, now: float) -> None:
        self.addresses = [entry for entry in self.addresses if entry.address != address]
        self.destinations.pop(address, None)
        if self.link.medium is Medium.ETHERNET:
            (self.arp if is_ipv4(address) else self.ndisc).remove_address(address)

    def has_address(self, address: bytes) -> bool:
        return self.destinations.get(address) == UNICAST

    def is_broadcast(self, address: bytes) -> bool:
        return self.destinations.get(address) == BROADCAST

    @property
    def number(self) -> int:
        """What socket addresses and options call it: 1 is the loopback."""
        return self.index + 2

    def join_group(self, group: bytes, now: float) -> None:
        """Somebody here wants to hear a multicast group."""
        self.destinations[group] = MULTICAST

    def leave_group(self, group: bytes, now: float) -> None:
        """Nobody wants to hear it any more."""
        if group not in self._own_groups():
            self.destinations.pop(group, None)

    def _own_groups(self) -> set[bytes]:
        """Groups that the host itself is in."""
        own = {ALL_NODES6, ALL_HOSTS4} | {solicited_node(entry.address) for entry in self.addresses if not is_ipv4(entry.address)}
        return own | {ALL_ROUTERS6} if self.advertiser is not None else own

    def source_towards(self, destination: bytes) -> bytes | None:
        """RFC 6724: the address of ours to send from, or None."""
        return select_source(destination, self.addresses)

    def advertise(self, config: RouterAdvertiserConfig, now: float) -> None:
        """Sends router advertisements from our link-local address, so that hosts on the link configure themselves."""
        if self.link.address is None:
            raise os_error(errno.EOPNOTSUPP, "router advertisements need a link with link-local addresses")
        source = link_local_from_mac(self.link.address)
        self.destinations[ALL_ROUTERS6] = MULTICAST
        self.ndisc.is_router = True
        self.advertiser = RouterAdvertiser(config, self.link.address, source, random=self.stack.random, cache=self.neighbors)
        self.advertiser.start(now)
        self.pump(now)

    def on_link(self, address: bytes) -> bool:
        """Whether the address is in the prefix of one of ours."""
        if not is_ipv4(address) and is_link_local(address):
            return True
        return any(prefix_matches(address, entry.address, entry.prefix_length) for entry in self.addresses)

    # Neighbours

    def link_address_of(self, next_hop: bytes, now: float) -> bytes | None:
        """Where frames for `next_hop` go; None while it is being resolved."""
        if self.link.medium is not Medium.ETHERNET:
            return self.no_link_address
        if is_multicast(next_hop):
            return multicast_mac(next_hop)
        if self.destinations.get(next_hop) == BROADCAST:
            return BROADCAST_MAC
        link_address = self.neighbors.resolve(next_hop, now)
        if link_address is None:
            self.pump(now)
        else:
            deadline = self.neighbors.next_deadline()  # a stale neighbour that is used will be probed
            if deadline is not None and (self.scheduled is None or deadline < self.scheduled):
                self.stack.deadlines.schedule(self)
        return link_address

    def hold(self, next_hop: bytes, packet: bytes) -> None:
        """An IP packet that waits for its neighbour's address."""
        self.neighbors.hold(next_hop, packet)

    def _solicit(self, address: bytes, link_address: bytes | None, now: float) -> None:
        (self.arp if is_ipv4(address) else self.ndisc).solicit(address, link_address, now)

    def arp_received(self, payload: bytes, now: float) -> None:
        self.arp.packet_received(payload, now)
        self.pump(now)

    def ndisc_received(self, source: bytes, destination: bytes, hop_limit: int, message: bytes, link_source: bytes | None,
                       now: float) -> None:  # fmt: skip
        if self.advertiser is not None:
            self.advertiser.message_received(source, destination, hop_limit, message, link_source, now)
        self.ndisc.message_received(source, destination, hop_limit, message, link_source, now)
        self.pump(now)

    def pump(self, now: float) -> None:
        """Moves what the neighbour machines have to say into frames, and acts on their events."""
        for destination, payload in self.arp.packets_to_send(now):
            self.queue_frame(destination + self.link.address + ETHERTYPE_ARP + payload)
        while packets := self.ndisc.packets_to_send(now):  # resolving one's destination may ask for another
            for source, destination, hop_limit, message in packets:
                self._queue_icmpv6(source, destination, hop_limit, message, now)
        if self.advertiser is not None:
            for source, destination, hop_limit, message in self.advertiser.packets_to_send(now):
                self._queue_icmpv6(source, destination, hop_limit, message, now)
        while (event := self.neighbors.next_event()) is not None:
            if isinstance(event, cache.Resolved):
                for packet in event.held:
                    self._queue_fitting(event.link_address, packet, now)
            elif isinstance(event, cache.Unreachable):
                self.stack.neighbor_unreachable(self, event.address, event.held, now)
        for machine in (self.arp, self.ndisc):
            while (event := machine.next_event()) is not None:
                if isinstance(event, (arp.AddressReady, ndisc.AddressReady)):
                    self._address_ready(event.address)
                elif isinstance(event, (arp.Conflict, ndisc.DuplicateAddress)):
                    self.counters["AddressConflicts"] += 1
                    if event.lost:
                        self.remove_address(event.address, now)
                self.stack.tell(event, self)
        self.stack.deadlines.schedule(self)

    def _address_ready(self, address: bytes) -> None:
        for entry in self.addresses:
            if entry.address == address:
                entry.tentative = False
                self.destinations[address] = UNICAST

    def _queue_icmpv6(self, source: bytes, destination: bytes, hop_limit: int, message: bytes, now: float) -> None:
        packet = ipv6.emit(ipv6.Ipv6Header(source, destination, ipv6.PROTOCOL_ICMPV6, hop_limit), message)
        if is_multicast(destination):
            self._queue_packet(multicast_mac(destination), packet)
            return
        link_address = self.neighbors.resolve(destination, now)
        if link_address is None:
            self.neighbors.hold(destination, packet)
        else:
            self._queue_packet(link_address, packet)

    # Output

    def send_packet(self, packet: bytes, next_hop: bytes, now: float) -> None:
        """A complete IP packet, to be framed and sent, in fragments if need be, when the neighbour is known."""
        link_address = self.link_address_of(next_hop, now)
        if link_address is None:
            self.neighbors.hold(next_hop, packet)
        else:
            self._queue_fitting(link_address, packet, now)

    def send_packet_to_link(self, packet: bytes, link_address: bytes) -> None:
        """To a station that has no IP address yet (DHCP)."""
        self._queue_packet(link_address, packet)

    def _queue_fitting(self, link_address: bytes, packet: bytes, now: float) -> None:
        for part in self.stack.fragments(self, packet, now):
            self._queue_packet(link_address, part)

    def _queue_packet(self, link_address: bytes, packet: bytes) -> None:
        if self.link.medium is not Medium.ETHERNET:
            self.queue_frame(packet)
            return
        ethertype = ETHERTYPE_IPV4 if packet[0] >> 4 == 4 else ETHERTYPE_IPV6
        self.queue_frame(link_address + self.link.address + ethertype + packet)

    def queue_frame(self, frame: bytes) -> None:
        """Complete frames wait here; beyond a limit they are dropped, as a full transmit queue would."""
        if len(self.control) >= CONTROL_FRAMES_MAX:
            self.counters["OutDiscards"] += 1
            return
        self.control.append(frame)
        if self.wants_output is not None:
            self.wants_output()

    def queue_datagram(self, owner, path: FlowPath, next_hop: bytes, payload: bytes) -> None:
        """A UDP datagram that fits the MTU; `owner.datagram_left(size)` is called when it goes."""
        self.datagrams.append((owner, path, next_hop, payload))
        if self.wants_output is not None:
            self.wants_output()

    @property
    def has_output(self) -> bool:
        return bool(self.control or self.datagrams or self.output_ready)

    def fill(self, batch: Batch, now: float) -> None:
        """Adds what waits, as far as the batch has room: complete frames first, then every endpoint in turn."""
        control = self.control
        while control and batch.room:
            batch.add_frame(control.popleft())
        while self.datagrams and batch.room:
            self._fill_datagram(batch, now)
        ready = self.output_ready
        for _ in range(len(ready)):
            if not batch.room:
                break
            endpoint = ready.popleft()
            endpoint.output_pending = False
            if endpoint.transmit(batch, now) and not endpoint.output_pending:
                endpoint.output_pending = True
                ready.append(endpoint)
        # resolving a neighbour on the way may have left solicitations
        while control and batch.room:
            batch.add_frame(control.popleft())

    def _fill_datagram(self, batch: Batch, now: float) -> None:
        owner, path, next_hop, payload = self.datagrams.popleft()
        owner.datagram_left(len(payload))
        if path.granted is not owner.capability:
            self.stack.counters["OutNotAllowed"] += 1
            return
        link_address = self.link_address_of(next_hop, now)
        batch.path = path.pointer
        if link_address is None:
            waiting = Batch()
            waiting.path = path.pointer
            waiting.add_udp(payload)
            self.neighbors.hold(next_hop, waiting.packet(0))
            return
        if link_address and path.link_destination != link_address:
            path.set_link(self.link.address, link_address)
        batch.add_udp(payload)
        batch.kept.append(path)
        self.stack.counters["UdpOutDatagrams"] += 1

    # Time

    def next_deadline(self) -> float | None:
        machines = (self.neighbors, self.arp, self.ndisc, self.advertiser)
        deadlines = [machine.next_deadline() for machine in machines if machine is not None]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        for machine in (self.neighbors, self.arp, self.ndisc, self.advertiser):
            if machine is not None:
                machine.handle_timeout(now)
        self.pump(now)

    # Links change while they run

    def link_changed(self, link: LinkFeatures) -> None:
        """The device negotiated anew."""
        self.link = link
        self.plain_packets = plain_packet_limits(link)
