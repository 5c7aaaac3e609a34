"""Neighbor Discovery of a host on one interface: answers for our addresses, asks for others, finds duplicates, and
tells what routers advertise.

Read first: RFC 4861 6.3, 7 and 8, RFC 4862 5.4, RFC 7527 (nonces).  What is learned goes into the neighbour cache.
This file forms no addresses and keeps no list of routers or prefixes: it hands up events with lifetimes.  Group
membership (RFC 4861 7.2.1) is the stack's: it receives for, and reports, the solicited-node groups of `groups`.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from swos_net.address import (
    ALL_NODES6,
    ALL_ROUTERS6,
    UNSPECIFIED6,
    is_ipv4,
    is_link_local,
    is_multicast,
    solicited_node,
)
from swos_net.config import NeighborConfig
from swos_net.neighbor.cache import NeighborCache
from swos_net.neighbor.nd_check import parse_valid
from swos_net.wire import ndisc
from swos_net.wire.ndisc import (
    NdOptions,
    NeighborAdvertisement,
    NeighborSolicitation,
    PrefixInformation,
    RecursiveServers,
    Redirect,
    RouterAdvertisement,
    RouterSolicitation,
    SearchList,
)

# Packets that wait for `packets_to_send`; a burst of solicitations beyond that goes unanswered (S5: bounded memory).
_OUTPUT_MAX = 256
# Events about routers that wait for `next_event`: one advertisement may carry dozens of prefixes.
_EVENTS_MAX = 1024
_NONCE_LENGTH = 6
# A conflict with a ready address is reported once in this many seconds.
_CONFLICT_INTERVAL = 10.0


@dataclass(frozen=True, slots=True)
class NdConfig:
    """Constants of RFC 4861 10 and RFC 4862 5.4.2; times in seconds.

    `dad_delay` is the longest random wait before the first packet about a new address, which keeps hosts that start
    at once from speaking at once (MAX_RTR_SOLICITATION_DELAY); `unsolicited_advertisements` are sent for a new
    address, at most MAX_NEIGHBOR_ADVERTISEMENT of them.
    """

    dad_delay: float = 1.0
    router_solicitation_delay: float = 1.0
    router_solicitation_interval: float = 4.0
    router_solicitations: int = 3
    unsolicited_advertisements: int = 1


@dataclass(slots=True)
class AddressReady:
    """`address` passed Duplicate Address Detection, or needed none: packets may be sent from it."""

    address: bytes


@dataclass(slots=True)
class DuplicateAddress:
    """Another node uses `address` (RFC 4862 5.4).  When `lost`, it was tentative and is ours no more; otherwise it
    was ready, stays ours, and an operator must decide.  `link_address` is the other's, None when it is not known."""

    address: bytes
    link_address: bytes | None
    lost: bool


@dataclass(slots=True)
class RouterDiscovered:
    """A Router Advertisement of `router`, a default router for `lifetime` more seconds; 0 says that it is none (any
    more).  `hop_limit` and `mtu` are None when the advertisement does not say; `managed` and `other` point to DHCPv6
    (RFC 4861 4.2)."""

    router: bytes
    lifetime: int
    hop_limit: int | None
    mtu: int | None
    managed: bool
    other: bool


@dataclass(slots=True)
class RouterLost:
    """A router has said that it is a host now: it is no default router (RFC 4861 7.2.5)."""

    router: bytes


@dataclass(slots=True)
class PrefixDiscovered:
    """A prefix as `router` advertises it (RFC 4861 6.3.4, RFC 4862 5.5.3); a valid lifetime of 0 withdraws it."""

    router: bytes
    prefix: PrefixInformation


@dataclass(slots=True)
class ServersDiscovered:
    """RDNSS and DNSSL options of `router` (RFC 8106), as they came."""

    router: bytes
    recursive_servers: list[RecursiveServers]
    search_lists: list[SearchList]


@dataclass(slots=True)
class Redirected:
    """`router` says that `target` is a better first hop for `destination`.  Whether `router` is the current first hop
    (RFC 4861 8.1) is the stack's to check; then it tells the cache of `target_link_address`, if there is one."""

    router: bytes
    destination: bytes
    target: bytes
    target_link_address: bytes | None


NdEvent = (
    AddressReady
    | DuplicateAddress
    | RouterDiscovered
    | RouterLost
    | PrefixDiscovered
    | ServersDiscovered
    | Redirected
)


@dataclass(slots=True)
class NdCounters:
    malformed: int = 0
    invalid: int = 0                # well-formed but against the rules of RFC 4861
    solicitations_received: int = 0
    advertisements_received: int = 0
    router_advertisements_received: int = 0
    redirects_received: int = 0
    duplicates: int = 0
    output_dropped: int = 0
    events_dropped: int = 0


@dataclass(slots=True)
class _Address:
    address: bytes
    ready: bool                     # no longer tentative
    deadline: float | None
    left: int                       # solicitations or unsolicited advertisements still to be sent
    nonces: set[bytes] = field(default_factory=set)
    reported_at: float = float("-inf")


class NeighborDiscovery:
    """Neighbor Discovery for the addresses given to `add_address`, on an interface with a link address.

    `source_for(address)` names one of our addresses to ask for `address` from, or None to not ask.  `is_router` is
    what our advertisements say of us.
    """

    def __init__(
        self,
        cache: NeighborCache,
        link_address: bytes,
        config: NeighborConfig,
        source_for: Callable[[bytes], bytes | None],
        *,
        random: Random,
        nd_config: NdConfig | None = None,
        is_router: bool = False,
    ):
        self.cache = cache
        self.link_address = link_address
        self.config = config
        self.nd_config = nd_config or NdConfig()
        self.is_router = is_router
        self.counters = NdCounters()
        self._source_for = source_for
        self._random = random
        self._addresses: dict[bytes, _Address] = {}
        self._output: deque[tuple[bytes, bytes, int, bytes]] = deque()
        self._events: deque[NdEvent] = deque()
        self._router_deadline: float | None = None
        self._router_solicitations_left = 0

    # Our addresses

    def add_address(self, address: bytes, now: float, *, probe: bool) -> None:
        """Makes `address` ours, after Duplicate Address Detection or at once; `AddressReady` tells.

        With `probe` the address is tentative until `config.dad_transmits` solicitations went unanswered.
        """
        if address in self._addresses:
            return
        transmits = self.config.dad_transmits if probe else 0
        entry = self._addresses[address] = _Address(address, False, None, transmits)
        if not transmits:
            self._become_ready(entry, now)
            return
        # RFC 4862 5.4.2
        entry.deadline = now + self._random.uniform(0, self.nd_config.dad_delay)
        self.handle_timeout(now)

    def remove_address(self, address: bytes) -> None:
        """Stops answering for `address`, without an event."""
        self._addresses.pop(address, None)

    def is_ready(self, address: bytes) -> bool:
        """Whether `address` is ours and no longer tentative."""
        entry = self._addresses.get(address)
        return entry is not None and entry.ready

    def groups(self) -> set[bytes]:
        """The solicited-node groups to receive for, those of tentative addresses included."""
        return {solicited_node(address) for address in self._addresses}

    def announce(self, now: float) -> None:
        """Advertises every ready address to all nodes (RFC 4861 7.2.6), as after the link came up or moved."""
        for entry in self._addresses.values():
            if entry.ready:
                self._start_advertising(entry, now)

    # Routers

    def solicit_routers(self, now: float) -> None:
        """Asks for Router Advertisements until one has come (RFC 4861 6.3.7)."""
        self._router_solicitations_left = self.nd_config.router_solicitations
        self._router_deadline = now + self._random.uniform(0, self.nd_config.router_solicitation_delay)
        self.handle_timeout(now)

    # Packets

    def solicit(self, address: bytes, unicast_link_address: bytes | None, now: float) -> None:
        """Queues a Neighbor Solicitation for `address`, to itself when its link address is known and else to its
        solicited-node group (RFC 4861 7.2.2); to be given to `NeighborCache`."""
        source = self._source_for(address)
        # RFC 4862 5.4: a tentative address is not used as a source
        if source is None or (source in self._addresses and not self.is_ready(source)):
            return
        message = NeighborSolicitation(address, NdOptions(source_link_address=self.link_address))
        self._queue(source, address if unicast_link_address else solicited_node(address), message)

    def message_received(
        self, source: bytes, destination: bytes, hop_limit: int, message: bytes, link_source: bytes | None, now: float
    ) -> None:
        """An ICMPv6 message of type 133 to 137 from its type byte on; `link_source` is whom the frame came from."""
        record = parse_valid(message, source, destination, hop_limit, self.counters)
        if record is None:
            return
        if not self._link_addresses_usable(record.options):
            self.counters.invalid += 1
            return
        kind = type(record)
        if kind is NeighborSolicitation:
            self._solicitation_received(source, record, link_source, now)
        elif kind is NeighborAdvertisement:
            self._advertisement_received(record, link_source, now)
        elif kind is RouterAdvertisement:
            self._router_advertisement_received(source, record, now)
        elif kind is Redirect:
            self._redirect_received(source, record)
        # RFC 4861 6.2.6: a host silently discards Router Solicitations; a router's go to RouterAdvertiser

    def packets_to_send(self, now: float) -> list[tuple[bytes, bytes, int, bytes]]:
        """(source, destination, hop limit, ICMPv6 message) for each IPv6 packet to go out on this interface."""
        packets = list(self._output)
        self._output.clear()
        return packets

    # Time and events

    def next_deadline(self) -> float | None:
        """When `handle_timeout` is due."""
        deadlines = [entry.deadline for entry in self._addresses.values() if entry.deadline is not None]
        if self._router_deadline is not None:
            deadlines.append(self._router_deadline)
        return min(deadlines, default=None)

    def handle_timeout(self, now: float) -> None:
        """Sends the solicitations and advertisements that are due; finishes Duplicate Address Detection."""
        for entry in self._addresses.values():
            if entry.deadline is None or entry.deadline > now:
                continue
            if entry.ready:
                self._send_unsolicited(entry, now)
            elif entry.left:
                self._send_dad(entry, now)
            else:
                self._become_ready(entry, now)
        if self._router_deadline is not None and self._router_deadline <= now:
            self._send_router_solicitation(now)

    def next_event(self) -> NdEvent | None:
        """The next thing that happened, in order."""
        return self._events.popleft() if self._events else None

    # Receiving

    def _link_addresses_usable(self, options: NdOptions) -> bool:
        """A group or zero address is nobody's."""
        for address in (options.source_link_address, options.target_link_address):
            if address is not None and (address[0] & 1 or not any(address)):
                return False
        return True

    def _solicitation_received(
        self, source: bytes, message: NeighborSolicitation, link_source: bytes | None, now: float
    ) -> None:
        self.counters.solicitations_received += 1
        entry = self._addresses.get(message.target)
        if entry is None:
            return
        if not entry.ready:
            # RFC 4862 5.4.3: from an address somebody resolves, which is ignored; from none, another node's DAD,
            # unless RFC 7527 4.1 shows by the nonce that it is our own come back
            if source == UNSPECIFIED6 and message.options.nonce not in entry.nonces:
                self._lose(entry, link_source)
            return
        if source in self._addresses:
            # Our own solicitation come back, or somebody pretends; either way nothing to learn.
            return
        options = NdOptions(target_link_address=self.link_address)
        if source == UNSPECIFIED6:
            # RFC 4861 7.2.4: a node in DAD cannot be answered alone
            self._queue(
                message.target,
                ALL_NODES6,
                NeighborAdvertisement(message.target, self.is_router, False, True, options),
            )
            return
        if message.options.source_link_address is not None:
            self.cache.learned(source, message.options.source_link_address, now, solicited=False)
        self._queue(message.target, source, NeighborAdvertisement(message.target, self.is_router, True, True, options))

    def _advertisement_received(self, message: NeighborAdvertisement, link_source: bytes | None, now: float) -> None:
        self.counters.advertisements_received += 1
        target, link_address = message.target, message.options.target_link_address
        entry = self._addresses.get(target)
        if entry is not None:
            sender = link_address or link_source
            if not entry.ready:
                # RFC 4862 5.4.4.  We advertise no tentative address, so even one with our link address is another's.
                self._lose(entry, sender)
            elif sender == self.link_address:
                # Our own come back.
                return
            elif now - entry.reported_at >= _CONFLICT_INTERVAL:
                entry.reported_at = now
                self.counters.duplicates += 1
                self._events.append(DuplicateAddress(target, sender, False))
            return
        known = self.cache.lookup(target)
        if known is None:
            # RFC 4861 7.2.5: nobody asked
            return
        self.cache.learned(
            target,
            link_address,
            now,
            solicited=message.solicited,
            override=message.override,
            is_router=message.router,
            create=False,
        )
        after = self.cache.lookup(target)
        if known.is_router and after is not None and not after.is_router:
            self._tell(RouterLost(target))

    def _router_advertisement_received(self, source: bytes, message: RouterAdvertisement, now: float) -> None:
        self.counters.router_advertisements_received += 1
        if source in self._addresses:
            # Our own, from a RouterAdvertiser on this interface, come back.
            return
        options = message.options
        if message.router_lifetime:
            # RFC 4861 6.3.7: a router is known, solicitations end
            self._router_deadline = None
        if options.source_link_address is not None:
            self.cache.learned(source, options.source_link_address, now, solicited=False, is_router=True)
        elif self.cache.lookup(source) is not None:
            self.cache.learned(source, None, now, solicited=False, is_router=True, create=False)
        # RFC 4861 6.3.4: zero leaves a value as it is
        self.cache.set_timers(
            message.reachable_time / 1000 if message.reachable_time else None,
            message.retransmit_timer / 1000 if message.retransmit_timer else None,
        )
        # RFC 4861 6.3.4: an MTU below the minimum of RFC 8200 5 is ignored; one above the link's is the stack's to cut
        mtu = options.mtu if options.mtu is not None and options.mtu >= 1280 else None
        self._tell(
            RouterDiscovered(
                source, message.router_lifetime, message.hop_limit or None, mtu, message.managed, message.other
            )
        )
        for prefix in options.prefixes:
            # RFC 4861 6.3.4: the link-local prefix is ignored; so is one whose lifetimes cannot be (RFC 4862 5.5.3 c)
            if (
                is_link_local(prefix.prefix)
                or is_multicast(prefix.prefix)
                or is_ipv4(prefix.prefix)
                or prefix.preferred_lifetime > prefix.valid_lifetime
            ):
                continue
            self._tell(PrefixDiscovered(source, prefix))
        if options.recursive_servers or options.search_lists:
            self._tell(ServersDiscovered(source, options.recursive_servers, options.search_lists))

    def _redirect_received(self, source: bytes, message: Redirect) -> None:
        self.counters.redirects_received += 1
        self._tell(Redirected(source, message.destination, message.target, message.options.target_link_address))

    # Duplicate Address Detection and what follows

    def _send_dad(self, entry: _Address, now: float) -> None:
        entry.left -= 1
        nonce = self._random.randbytes(_NONCE_LENGTH)
        entry.nonces.add(nonce)
        # RFC 4862 5.4.2, with the nonce of RFC 7527 4.1
        message = NeighborSolicitation(entry.address, NdOptions(nonce=nonce))
        self._queue(UNSPECIFIED6, solicited_node(entry.address), message)
        entry.deadline = now + self.cache.retransmit_timer

    def _become_ready(self, entry: _Address, now: float) -> None:
        entry.ready = True
        self._events.append(AddressReady(entry.address))
        self._start_advertising(entry, now)

    def _start_advertising(self, entry: _Address, now: float) -> None:
        entry.left = self.nd_config.unsolicited_advertisements
        self._send_unsolicited(entry, now)

    def _send_unsolicited(self, entry: _Address, now: float) -> None:
        """RFC 4861 7.2.6: to all nodes, a retransmit timer apart."""
        if entry.left:
            entry.left -= 1
            options = NdOptions(target_link_address=self.link_address)
            message = NeighborAdvertisement(entry.address, self.is_router, False, True, options)
            self._queue(entry.address, ALL_NODES6, message)
        entry.deadline = now + self.cache.retransmit_timer if entry.left else None

    def _lose(self, entry: _Address, link_address: bytes | None) -> None:
        self.counters.duplicates += 1
        del self._addresses[entry.address]
        self._events.append(DuplicateAddress(entry.address, link_address, True))

    # Sending

    def _send_router_solicitation(self, now: float) -> None:
        if not self._router_solicitations_left:
            self._router_deadline = None
            return
        self._router_solicitations_left -= 1
        usable = (entry.address for entry in self._addresses.values() if entry.ready and is_link_local(entry.address))
        source = next(usable, UNSPECIFIED6)
        # RFC 4861 4.1: no source link-layer address option without a source
        options = NdOptions(source_link_address=self.link_address if source != UNSPECIFIED6 else None)
        self._queue(source, ALL_ROUTERS6, RouterSolicitation(options))
        self._router_deadline = (
            now + self.nd_config.router_solicitation_interval if self._router_solicitations_left else None
        )

    def _queue(self, source: bytes, destination: bytes, message: ndisc.NdMessage) -> None:
        if len(self._output) >= _OUTPUT_MAX:
            self.counters.output_dropped += 1
            return
        self._output.append((source, destination, ndisc.HOP_LIMIT, ndisc.emit(message, source, destination)))

    def _tell(self, event: NdEvent) -> None:
        """An event that others cause as often as they like."""
        if len(self._events) >= _EVENTS_MAX:
            self.counters.events_dropped += 1
            return
        self._events.append(event)
