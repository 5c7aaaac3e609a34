"""ARP on one interface: answers for our addresses, asks for others, and notices who else uses ours.

Read first: RFC 826, RFC 5227.  What is learned goes into the neighbour cache; an address is in use here only once it
is ready, and nothing answers for it before.  This file does not choose addresses and, once one is lost, does not
look for another.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from random import Random

from swos_net.address import UNSPECIFIED4, is_ipv4, is_loopback, is_multicast
from swos_net.address import BROADCAST4 as ADDRESS_BROADCAST
from swos_net.errors import WireError
from swos_net.neighbor.cache import NeighborCache
from swos_net.wire import arp
from swos_net.wire.ethernet import BROADCAST, is_group

# Packets that wait for `packets_to_send`; a burst of requests beyond that goes unanswered (S5: bounded memory).
_OUTPUT_MAX = 256


@dataclass(frozen=True, slots=True)
class ArpConfig:
    """The constants of RFC 5227 1.1; times in seconds."""

    probe_wait: float = 1.0
    probe_number: int = 3
    probe_min: float = 1.0
    probe_max: float = 2.0
    announce_wait: float = 2.0
    announce_number: int = 2
    announce_interval: float = 2.0
    max_conflicts: int = 10
    rate_limit_interval: float = 60.0
    defend_interval: float = 10.0


@dataclass(slots=True)
class AddressReady:
    """`address` is ours: packets may be sent from it."""

    address: bytes


@dataclass(slots=True)
class Conflict:
    """The host `link_address` uses `address` too.  When `lost`, we have stopped using it (RFC 5227 2.1.1, 2.4 (b))
    and its connections are to be reset; otherwise it was defended."""

    address: bytes
    link_address: bytes
    lost: bool


ArpEvent = AddressReady | Conflict


@dataclass(slots=True)
class ArpCounters:
    malformed: int = 0
    requests_received: int = 0
    replies_received: int = 0
    conflicts: int = 0
    output_dropped: int = 0


class _Phase(IntEnum):
    PROBING = 0
    WAITING = 1     # after the last probe, ANNOUNCE_WAIT
    ANNOUNCING = 2  # ready; announcements are still due
    READY = 3


@dataclass(slots=True)
class _Address:
    address: bytes
    keep: bool
    phase: _Phase
    deadline: float | None
    left: int                           # probes or announcements still to be sent
    conflict_at: float = float("-inf")  # last conflict, RFC 5227 2.4 (b)
    defended_at: float = float("-inf")


class Arp:
    """ARP for the addresses given to `add_address`, on an interface with the link address `link_address`.

    `source_for(address)` names one of our addresses to ask for `address` from, or None to not ask.
    """

    def __init__(
        self,
        cache: NeighborCache,
        link_address: bytes,
        source_for: Callable[[bytes], bytes | None],
        *,
        random: Random,
        config: ArpConfig | None = None,
    ):
        self.cache = cache
        self.link_address = link_address
        self.config = config or ArpConfig()
        self.counters = ArpCounters()
        self._source_for = source_for
        self._random = random
        self._addresses: dict[bytes, _Address] = {}
        self._output: deque[tuple[bytes, bytes]] = deque()
        self._events: deque[ArpEvent] = deque()
        self._conflicts = 0  # since an address last became ready, for RFC 5227 2.1.1's rate limit

    # Our addresses

    def add_address(self, address: bytes, now: float, *, probe: bool, keep: bool = True) -> None:
        """Makes `address` ours, after probing for it (RFC 5227 2.1) or at once; `AddressReady` tells.

        `keep` decides on a conflict that comes later: True defends the address for ever, as suits one set by the user
        (RFC 5227 2.4 (c)), False gives it up when defending it once did not help (b), as suits one from DHCP.
        """
        if address in self._addresses:
            return
        if not probe:
            entry = self._addresses[address] = _Address(address, keep, _Phase.PROBING, None, 0)
            self._become_ready(entry, now)
            return
        if self._conflicts >= self.config.max_conflicts:
            # RFC 5227 2.1.1: after MAX_CONFLICTS no more than one new address per RATE_LIMIT_INTERVAL
            wait = self.config.rate_limit_interval
        else:
            wait = self._random.uniform(0, self.config.probe_wait)
        self._addresses[address] = _Address(address, keep, _Phase.PROBING, now + wait, self.config.probe_number)
        self.handle_timeout(now)

    def remove_address(self, address: bytes) -> None:
        """Stops answering for `address`, without an event."""
        self._addresses.pop(address, None)

    def is_ready(self, address: bytes) -> bool:
        """Whether `address` is ours and no longer tentative."""
        entry = self._addresses.get(address)
        return entry is not None and entry.phase >= _Phase.ANNOUNCING

    def announce(self, now: float) -> None:
        """Announces every ready address anew (RFC 5227 2.3), as after the link came up or moved."""
        for entry in self._addresses.values():
            if entry.phase >= _Phase.ANNOUNCING:
                self._start_announcing(entry, now)

    # Packets

    def solicit(self, address: bytes, unicast_link_address: bytes | None, now: float) -> None:
        """Queues a request for `address`; to be given to `NeighborCache`."""
        source = self._source_for(address)
        # RFC 5227 2.1.1: a tentative address is not used as a sender
        if source is None or (source in self._addresses and not self.is_ready(source)):
            return
        self._queue(unicast_link_address or BROADCAST, arp.request(self.link_address, source, address))

    def packet_received(self, payload: bytes, now: float) -> None:
        """An ARP packet, from behind its Ethernet header."""
        try:
            packet = arp.parse(payload)
        except WireError:
            self.counters.malformed += 1
            return
        sender, sender_link = packet.sender_address, packet.sender_link_address
        if sender_link == self.link_address:
            # One of our own that a bridge or a loop brought back.
            return
        if is_group(sender_link) or not any(sender_link) or _never_a_host(sender):
            self.counters.malformed += 1
            return
        request = packet.operation == arp.REQUEST
        if request:
            self.counters.requests_received += 1
        else:
            self.counters.replies_received += 1
        own = self._addresses.get(sender)
        if own is not None:
            self._conflict(own, sender_link, now)
            return
        target = self._addresses.get(packet.target_address)
        if target is not None and target.phase < _Phase.ANNOUNCING:
            # RFC 5227 2.1.1: another host probes for the address we probe for
            if request and sender == UNSPECIFIED4:
                self._conflict(target, sender_link, now)
            target = None
        if sender != UNSPECIFIED4:
            self._learn(packet, request, target is not None, now)
        if request and target is not None:
            # RFC 826; to a probe this is the defence of RFC 5227 2.1.1
            self._queue(sender_link, arp.reply(self.link_address, packet.target_address, sender_link, sender))

    def packets_to_send(self, now: float) -> list[tuple[bytes, bytes]]:
        """(link destination, ARP payload) pairs, for ETHERTYPE_ARP frames."""
        packets = list(self._output)
        self._output.clear()
        return packets

    # Time and events

    def next_deadline(self) -> float | None:
        """When `handle_timeout` is due."""
        return min(
            (entry.deadline for entry in self._addresses.values() if entry.deadline is not None), default=None
        )

    def handle_timeout(self, now: float) -> None:
        """Sends the probes and announcements that are due."""
        for entry in self._addresses.values():
            if entry.deadline is None or entry.deadline > now:
                continue
            if entry.phase == _Phase.PROBING and entry.left:
                entry.left -= 1
                self._queue(BROADCAST, arp.probe(self.link_address, entry.address))
                if entry.left:
                    entry.deadline = now + self._random.uniform(self.config.probe_min, self.config.probe_max)
                else:
                    entry.phase = _Phase.WAITING
                    entry.deadline = now + self.config.announce_wait
            elif entry.phase < _Phase.ANNOUNCING:
                self._become_ready(entry, now)
            else:
                self._send_announcement(entry, now)

    def next_event(self) -> ArpEvent | None:
        """The next thing that happened, in order."""
        return self._events.popleft() if self._events else None

    # Inside

    def _become_ready(self, entry: _Address, now: float) -> None:
        self._conflicts = 0
        self._events.append(AddressReady(entry.address))
        self._start_announcing(entry, now)

    def _start_announcing(self, entry: _Address, now: float) -> None:
        # RFC 5227 2.3
        entry.phase = _Phase.ANNOUNCING
        entry.left = self.config.announce_number
        self._send_announcement(entry, now)

    def _send_announcement(self, entry: _Address, now: float) -> None:
        if entry.left:
            entry.left -= 1
            self._queue(BROADCAST, arp.announcement(self.link_address, entry.address))
        if entry.left:
            entry.deadline = now + self.config.announce_interval
        else:
            entry.phase = _Phase.READY
            entry.deadline = None

    def _conflict(self, entry: _Address, link_address: bytes, now: float) -> None:
        """Another host has sent from, or probes for, an address of ours (RFC 5227 2.1.1 and 2.4)."""
        self.counters.conflicts += 1
        if entry.phase < _Phase.ANNOUNCING:
            self._conflicts += 1
            self._lose(entry, link_address)
            return
        previous, entry.conflict_at = entry.conflict_at, now
        if not entry.keep and now - previous < self.config.defend_interval:
            # 2.4 (b): a second conflict within DEFEND_INTERVAL
            self._lose(entry, link_address)
        elif now - entry.defended_at >= self.config.defend_interval:
            # 2.4 (c): no more than one defence per DEFEND_INTERVAL, or two hosts would answer each other for ever
            entry.defended_at = now
            self._queue(BROADCAST, arp.announcement(self.link_address, entry.address))
            self._events.append(Conflict(entry.address, link_address, False))

    def _lose(self, entry: _Address, link_address: bytes) -> None:
        del self._addresses[entry.address]
        self._events.append(Conflict(entry.address, link_address, True))

    def _learn(self, packet: arp.ArpPacket, request: bool, for_us: bool, now: float) -> None:
        """RFC 826: update an entry that is there; make one only for who asks for us, since we shall answer."""
        self.cache.learned(
            packet.sender_address,
            packet.sender_link_address,
            now,
            # Only a reply sent to us alone shows that our packets arrive.
            solicited=not request and for_us and packet.target_link_address == self.link_address,
            create=request and for_us,
        )

    def _queue(self, destination: bytes, payload: bytes) -> None:
        if len(self._output) >= _OUTPUT_MAX:
            self.counters.output_dropped += 1
            return
        self._output.append((destination, payload))


def _never_a_host(address: bytes) -> bool:
    return not is_ipv4(address) or is_multicast(address) or is_loopback(address) or address == ADDRESS_BROADCAST
