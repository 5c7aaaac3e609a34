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
    UNSPECIFIED4,
    UNSPECIFIED6,
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
from swos_net.dataplane.echo import EchoResponder
from swos_net.errors import WireError, os_error
from swos_net.ip.membership import Membership
from swos_net.ip.routing import InterfaceAddress, select_source
from swos_net.link import LinkFeatures, Medium, Offload
from swos_net.neighbor import arp, cache, ndisc
from swos_net.neighbor.router_advertiser import RouterAdvertiser, RouterAdvertiserConfig
from swos_net.stack.counters import Counters
from swos_net.wire import igmp, ipv4, ipv6, mld
from swos_net.wire.igmp import Message, Query, Report

CONTROL_FRAMES_MAX = 1024
INTERNETWORK_CONTROL = 0xC0  # RFC 3376 4, of the TOS field
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
        self.responder: EchoResponder | None = None  # of a device that answers pings
        config = stack.config.neighbor
        self.neighbors = cache.NeighborCache(config, self._solicit, random=stack.random)
        mac = link.address or bytes(6)
        self.arp = arp.Arp(self.neighbors, mac, self.source_towards, random=stack.random)
        self.ndisc = ndisc.NeighborDiscovery(self.neighbors, mac, config, self.source_towards, random=stack.random)
        # on other media nobody keeps account of groups
        ethernet = link.medium is Medium.ETHERNET
        self.igmp = Membership(ipv4=True, mtu=link.mtu, random=stack.random) if ethernet else None
        self.mld = Membership(ipv4=False, mtu=link.mtu, random=stack.random) if ethernet else None

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
            self.join_group(solicited_node(address), now)  # RFC 4862 5.4.2: before anything is sent from it
        if not probe:
            self.destinations[address] = UNICAST
        self.update_responder()
        if self.link.medium is Medium.ETHERNET:
            machine = self.arp if is_ipv4(address) else self.ndisc
            machine.add_address(address, now, probe=probe)
            self.pump(now)

    def remove_address(self, address: bytes, now: float) -> None:
        self.addresses = [entry for entry in self.addresses if entry.address != address]
        self.destinations.pop(address, None)
        self.update_responder()
        if not is_ipv4(address) and (self.number, solicited_node(address)) not in self.stack.groups.members:
            self.leave_group(solicited_node(address), now)
        if self.link.medium is Medium.ETHERNET:
            (self.arp if is_ipv4(address) else self.ndisc).remove_address(address)

    def make_responder(self) -> EchoResponder:
        """For a device that answers pings to our addresses by itself."""
        self.responder = EchoResponder(self.stack.config.hop_limit)
        self.update_responder()
        return self.responder

    def update_responder(self) -> None:
        """Pings may be answered by the device, unless somebody here wants to see them."""
        if self.responder is None:
            return
        if self.link.medium is not Medium.ETHERNET or self.stack.raw.protocols:
            self.responder.stop()
            return
        own, broadcast = ([address for address, kind in self.destinations.items() if kind == wanted] for wanted in (UNICAST, BROADCAST))
        self.responder.use(self.link.address, self.link.mtu + self.link.link_header, own, broadcast)

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
        membership = self.igmp if is_ipv4(group) else self.mld
        if membership is not None:
            membership.join(group, now)
            self.pump(now)

    def leave_group(self, group: bytes, now: float) -> None:
        """Nobody wants to hear it any more."""
        if group in self._own_groups():
            return
        self.destinations.pop(group, None)
        membership = self.igmp if is_ipv4(group) else self.mld
        if membership is not None:
            membership.leave(group, now)
            self.pump(now)

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
        self.join_group(ALL_ROUTERS6, now)
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
        neighbors = self.neighbors
        link_address = neighbors.known(next_hop, now)
        if link_address is not None:
            return link_address
        if self.link.medium is not Medium.ETHERNET:
            return self.no_link_address
        if is_multicast(next_hop):
            return multicast_mac(next_hop)
        if self.destinations.get(next_hop) == BROADCAST:
            return BROADCAST_MAC
        link_address = neighbors.resolve(next_hop, now)
        if link_address is None:
            self.pump(now)
        else:
            self.stack.deadlines.schedule(self)  # a stale neighbour that is used will be probed
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

    def igmp_received(self, destination: bytes, hop_limit: int, options: bytes, message: bytes, now: float) -> bool:
        """A packet of protocol 2; False when it is malformed."""
        try:
            parsed = igmp.parse(message)
        except WireError:
            return False
        # RFC 3376 9.1: queries without Router Alert are to be ignored; those of version 1 know no such thing
        alert = igmp.ROUTER_ALERT[:2] in options or (isinstance(parsed, Query) and parsed.version == 1)
        self._membership_heard(self.igmp, parsed, hop_limit == 1 and alert, destination == igmp.ALL_SYSTEMS, now)
        return True

    def mld_received(self, source: bytes, destination: bytes, hop_limit: int, alert: bool, message: bytes, now: float) -> bool:
        """An ICMPv6 message of `mld.TYPES`; False when it is malformed.  `alert`: the packet had that option."""
        try:
            parsed = mld.parse(message, source, destination)
        except WireError:
            return False
        # RFC 3810 6: from a link-local address, with a hop limit of 1 and Router Alert
        valid = hop_limit == 1 and alert and is_link_local(source)
        self._membership_heard(self.mld, parsed, valid, destination == ALL_NODES6, now)
        return True

    def _membership_heard(self, membership: Membership | None, message: Message, valid: bool, to_all: bool, now: float) -> None:
        if membership is None or not valid:
            return
        if isinstance(message, Query):
            if to_all or message.group is not None:  # RFC 3376 9.1
                membership.query_received(message, now)
        elif isinstance(message, Report):
            membership.report_heard(message, now)
        self.pump(now)

    def _queue_memberships(self, now: float) -> None:
        """RFC 3376 4, RFC 3810 5: with a hop limit of 1 and Router Alert, from an unspecified address while there is none."""
        for destination, message in self.igmp.packets_to_send(now):
            source = self.source_towards(destination) or UNSPECIFIED4
            header = ipv4.Ipv4Header(source, destination, ipv4.PROTOCOL_IGMP, 1, tos=INTERNETWORK_CONTROL, options=igmp.ROUTER_ALERT)
            self._queue_packet(multicast_mac(destination), ipv4.emit(header, igmp.emit(message)))
        for destination, message in self.mld.packets_to_send(now):
            own = (entry.address for entry in self.addresses if not entry.tentative and not is_ipv4(entry.address))
            source = next(filter(is_link_local, own), UNSPECIFIED6)
            payload = ipv6.emit_router_alert(ipv6.PROTOCOL_ICMPV6) + mld.emit(message, source, destination)
            packet = ipv6.emit(ipv6.Ipv6Header(source, destination, ipv6.HOP_BY_HOP, 1), payload)
            self._queue_packet(multicast_mac(destination), packet)

    def pump(self, now: float) -> None:
        """Moves what the neighbour machines have to say into frames, and acts on their events."""
        self.stack.lending.links_may_change()
        if self.mld is not None:
            self._queue_memberships(now)
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
                    self._address_ready(event.address, now)
                elif isinstance(event, (arp.Conflict, ndisc.DuplicateAddress)):
                    self.counters["AddressConflicts"] += 1
                    if event.lost:
                        self.remove_address(event.address, now)
                self.stack.tell(event, self)
        self.stack.deadlines.schedule(self)

    def _address_ready(self, address: bytes, now: float) -> None:
        for entry in self.addresses:
            if entry.address == address:
                entry.tentative = False
                self.destinations[address] = UNICAST
                self.update_responder()
        if not is_ipv4(address) and is_link_local(address) and self.mld is not None:
            self.mld.announce(now)

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
        ready, lending = self.output_ready, self.stack.lending
        waiting = len(ready)
        while waiting and batch.room:
            done = lending.transmit(self, waiting, batch, now) if lending.count else 0
            if not done:
                done = 1
                endpoint = ready.popleft()
                endpoint.output_pending = False
                if endpoint.transmit(batch, now):
                    self.continue_output(endpoint)
            waiting -= done
        # resolving a neighbour on the way may have left solicitations
        while control and batch.room:
            batch.add_frame(control.popleft())

    def continue_output(self, endpoint) -> None:
        """It has more than the batch had room for: another turn, after the others."""
        if not endpoint.output_pending:
            endpoint.output_pending = True
            self.output_ready.append(endpoint)

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

    @property
    def _machines(self) -> tuple:
        return self.neighbors, self.arp, self.ndisc, self.advertiser, self.igmp, self.mld

    def next_deadline(self) -> float | None:
        deadlines = [machine.next_deadline() for machine in self._machines if machine is not None]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        for machine in self._machines:
            if machine is not None:
                machine.handle_timeout(now)
        self.pump(now)

    # Links change while they run

    def link_changed(self, link: LinkFeatures) -> None:
        """The device negotiated anew."""
        self.link = link
        self.plain_packets = plain_packet_limits(link)
        self.update_responder()
