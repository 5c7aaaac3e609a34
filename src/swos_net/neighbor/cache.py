"""The neighbour cache of one interface: link addresses, their reachability, and packets that wait for them.

Read first: RFC 4861 7.2, 7.3 and appendix C, whose states serve ARP as well.  Theory of operation: only INCOMPLETE,
DELAY and PROBE have a timer.  REACHABLE carries the time until which it holds and turns STALE when it is next looked
at, so an upper-layer confirmation, which comes with every acknowledgement, costs two assignments.  This file sends
nothing: it asks for solicitations through a callable, and what it finds out is told by `next_event`.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from random import Random

from swos_net.config import NeighborConfig

# RFC 4861 10: ReachableTime is drawn between these factors of the base value
_MIN_RANDOM_FACTOR = 0.5
_MAX_RANDOM_FACTOR = 1.5
# A router may tell us its timers (RFC 4861 6.3.4); no router makes us flood the link or trust a neighbour for a day.
_REACHABLE_TIME_MAX = 3600.0
_RETRANSMIT_TIMER_MIN = 0.1
_RETRANSMIT_TIMER_MAX = 60.0


class NeighborState(IntEnum):
    """RFC 4861 7.3.2, and PERMANENT for an entry set by the user, which no packet changes."""

    INCOMPLETE = 0
    REACHABLE = 1
    STALE = 2
    DELAY = 3
    PROBE = 4
    PERMANENT = 5


@dataclass(slots=True)
class Resolved:
    """The link address of an address asked for is known now; `held` are the packets given to `hold`, in order."""

    address: bytes
    link_address: bytes
    held: list[bytes]


@dataclass(slots=True)
class Changed:
    """A known neighbor has another link address: whoever keeps the old one must replace it."""

    address: bytes
    link_address: bytes


@dataclass(slots=True)
class Unreachable:
    """Nobody answers for `address` (any more); its entry is gone, and the `held` packets were not sent."""

    address: bytes
    held: list[bytes]


NeighborEvent = Resolved | Changed | Unreachable


@dataclass(slots=True)
class NeighborCounters:
    held_dropped: int = 0   # packets pushed out of a full queue, or with their entry
    evicted: int = 0        # entries that made room for others
    unreachable: int = 0    # resolutions and probes nobody answered


@dataclass(slots=True)
class Neighbor:
    """One entry as `entries` shows it."""

    address: bytes
    link_address: bytes | None
    state: NeighborState
    is_router: bool


@dataclass(slots=True)
class _Entry:
    address: bytes
    link_address: bytes | None
    state: NeighborState
    reachable_until: float = 0.0
    deadline: float | None = None   # of INCOMPLETE, DELAY and PROBE
    timer: int = 0                  # the timer item that counts, while there is a deadline
    solicitations: int = 0          # sent in this state
    is_router: bool = False
    held: deque[bytes] = field(default_factory=deque)


class NeighborCache:
    """Addresses of the link, at most `config.cache_size` of them that are not permanent.

    `solicit(address, unicast_link_address, now)` is called when an ARP request or Neighbor Solicitation must go out,
    with None for one to all.  It may queue a packet, but must not call back into the cache.
    """

    def __init__(
        self,
        config: NeighborConfig,
        solicit: Callable[[bytes, bytes | None, float], None],
        *,
        random: Random | None = None,
    ):
        """Without `random` the reachable time is the base value exactly."""
        self.config = config
        self.counters = NeighborCounters()
        self.retransmit_timer = config.retransmit_timer
        self.reachable_time = config.reachable_time
        self._base_reachable_time = config.reachable_time
        self._solicit = solicit
        self._random = random
        # Least recently used first; permanent entries are apart, so that the first is always the one to evict.
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._permanent: dict[bytes, _Entry] = {}
        # A heap of (deadline, number, entry).  An item is never removed but left to count no more.
        self._timers: list[tuple[float, int, _Entry]] = []
        self._timer_number = 0
        self._events: deque[NeighborEvent] = deque()
        self._draw_reachable_time()

    # Asking

    def known(self, address: bytes, now: float) -> bytes | None:
        """What `resolve` gives where asking changes nothing, so that no deadline moves; None for any other address."""
        entry = self._entries.get(address)
        if entry is None or entry.state == NeighborState.STALE:
            return None
        if entry.state == NeighborState.REACHABLE and now >= entry.reachable_until:
            return None
        self._entries.move_to_end(address)
        return entry.link_address

    def resolve(self, address: bytes, now: float) -> bytes | None:
        """The link address to send to now, or None while it is being found out: then `hold` the packet.

        To be asked for every packet that is sent, since that is what makes a stale neighbor be probed.
        """
        entry = self._entries.get(address)
        if entry is None:
            permanent = self._permanent.get(address)
            if permanent is not None:
                return permanent.link_address
            entry = self._insert(address, None, NeighborState.INCOMPLETE)
            self._send_solicitation(entry, now)
            return None
        self._entries.move_to_end(address)
        state = entry.state
        if state == NeighborState.REACHABLE and now >= entry.reachable_until:
            state = entry.state = NeighborState.STALE
        if state == NeighborState.STALE:
            # RFC 4861 7.3.3: the first packet to a stale neighbor is sent at once, and its state becomes DELAY
            entry.state = NeighborState.DELAY
            self._arm(entry, now + self.config.delay_first_probe)
        return entry.link_address

    def hold(self, address: bytes, packet: bytes) -> None:
        """Keeps a packet until `address` is resolved (RFC 4861 7.2.2); it comes back in a `Resolved` or
        `Unreachable`.  Dropped and counted are the oldest beyond `config.held_packets`, and those of an entry that is
        evicted or forgotten."""
        entry = self._entries.get(address) or self._permanent.get(address)
        if entry is None:
            self.counters.held_dropped += 1
            return
        if entry.link_address is not None:
            # Resolved since the caller asked.
            self._events.append(Resolved(address, entry.link_address, [packet]))
            return
        if len(entry.held) >= self.config.held_packets:
            self.counters.held_dropped += 1
            if not entry.held:
                return
            entry.held.popleft()
        entry.held.append(packet)

    def lookup(self, address: bytes) -> Neighbor | None:
        """The entry of `address`, without any effect on it; a reachable time that has run out is not yet seen."""
        entry = self._entries.get(address) or self._permanent.get(address)
        return None if entry is None else Neighbor(address, entry.link_address, entry.state, entry.is_router)

    def entries(self) -> list[Neighbor]:
        """All entries, the permanent ones first, then the least recently used first."""
        return [
            Neighbor(entry.address, entry.link_address, entry.state, entry.is_router)
            for entries in (self._permanent, self._entries)
            for entry in entries.values()
        ]

    # Learning

    def learned(
        self,
        address: bytes,
        link_address: bytes | None,
        now: float,
        *,
        solicited: bool,
        override: bool = True,
        is_router: bool | None = None,
        create: bool = True,
    ) -> None:
        """Takes in what a packet says about a neighbor.

        A Neighbor Advertisement is passed with its S, O and R flags and `create=False` (RFC 4861 7.2.5),
        `link_address` None when it has no target link-layer address option.  The source link-layer address of other
        messages, and the sender of an ARP packet, are passed with `solicited=False` (7.2.3, appendix C).
        """
        entry = self._entries.get(address)
        if entry is None:
            if create and link_address is not None and address not in self._permanent:
                # RFC 4861 7.2.3: an entry made for an unsolicited packet is STALE
                entry = self._insert(address, link_address, NeighborState.STALE)
                entry.is_router = bool(is_router)
                if solicited:
                    self._set_reachable(entry, now)
            return
        if entry.state == NeighborState.INCOMPLETE:
            if link_address is None:
                # RFC 4861 7.2.5: without a link address the advertisement says nothing here
                return
            entry.link_address = link_address
            entry.deadline = None
            self._events.append(Resolved(address, link_address, list(entry.held)))
            entry.held.clear()
            if solicited:
                self._set_reachable(entry, now)
            else:
                entry.state = NeighborState.STALE
        else:
            differs = link_address is not None and link_address != entry.link_address
            if differs and not override:
                # RFC 4861 7.2.5 I: doubt the entry if it is thought reachable, change nothing else
                if entry.state == NeighborState.REACHABLE:
                    entry.state = NeighborState.STALE
                return
            if differs:
                entry.link_address = link_address
                self._events.append(Changed(address, link_address))
            if solicited:
                self._set_reachable(entry, now)
            elif differs:
                entry.deadline = None
                entry.state = NeighborState.STALE
        if is_router is not None:
            entry.is_router = is_router

    def confirmed(self, address: bytes, now: float) -> None:
        """An upper layer made forward progress with `address` (RFC 4861 7.3.1), which is thereby reachable."""
        entry = self._entries.get(address)
        if entry is not None and entry.link_address is not None:
            self._set_reachable(entry, now)

    def add_permanent(self, address: bytes, link_address: bytes) -> None:
        """An entry that neither packets nor time change, beyond `config.cache_size`."""
        entry = self._entries.pop(address, None) or self._permanent.get(address)
        if entry is None:
            entry = _Entry(address, link_address, NeighborState.PERMANENT)
        elif entry.link_address is None:
            self._events.append(Resolved(address, link_address, list(entry.held)))
            entry.held.clear()
        elif entry.link_address != link_address:
            self._events.append(Changed(address, link_address))
        entry.link_address = link_address
        entry.state = NeighborState.PERMANENT
        entry.deadline = None
        self._permanent[address] = entry

    def forget(self, address: bytes) -> None:
        """Removes an entry, a permanent one too, without an event; packets held for it are dropped."""
        self._permanent.pop(address, None)
        entry = self._entries.pop(address, None)
        if entry is not None:
            self._drop(entry)

    def set_timers(self, reachable_time: float | None = None, retransmit_timer: float | None = None) -> None:
        """What a router advertises (RFC 4861 6.3.4), in seconds, within reason; None leaves a value as it is."""
        if reachable_time is not None and reachable_time != self._base_reachable_time:
            self._base_reachable_time = min(reachable_time, _REACHABLE_TIME_MAX)
            self._draw_reachable_time()
        if retransmit_timer is not None:
            self.retransmit_timer = min(max(retransmit_timer, _RETRANSMIT_TIMER_MIN), _RETRANSMIT_TIMER_MAX)

    # Time

    def next_deadline(self) -> float | None:
        """When `handle_timeout` is due."""
        timers = self._timers
        while timers:
            deadline, number, entry = timers[0]
            if entry.deadline is not None and entry.timer == number:
                return deadline
            heapq.heappop(timers)
        return None

    def handle_timeout(self, now: float) -> None:
        """Sends what is due again, gives up on those who do not answer."""
        while True:
            deadline = self.next_deadline()
            if deadline is None or deadline > now:
                return
            entry = heapq.heappop(self._timers)[2]
            entry.deadline = None
            if entry.state == NeighborState.DELAY:
                # RFC 4861 7.3.3: no confirmation came while it was waited for
                entry.state = NeighborState.PROBE
                entry.solicitations = 0
                self._send_solicitation(entry, now)
            elif entry.solicitations < self._solicitations_max(entry):
                self._send_solicitation(entry, now)
            else:
                self._give_up(entry)

    def next_event(self) -> NeighborEvent | None:
        """The next thing that happened, in order; to be asked until None after every call that takes `now`."""
        return self._events.popleft() if self._events else None

    # Inside

    def _insert(self, address: bytes, link_address: bytes | None, state: NeighborState) -> _Entry:
        while len(self._entries) >= max(self.config.cache_size, 1):
            _, evicted = self._entries.popitem(last=False)
            self.counters.evicted += 1
            self._drop(evicted)
        entry = self._entries[address] = _Entry(address, link_address, state)
        return entry

    def _drop(self, entry: _Entry) -> None:
        entry.deadline = None
        self.counters.held_dropped += len(entry.held)
        entry.held.clear()

    def _set_reachable(self, entry: _Entry, now: float) -> None:
        entry.state = NeighborState.REACHABLE
        entry.reachable_until = now + self.reachable_time
        entry.deadline = None

    def _arm(self, entry: _Entry, deadline: float) -> None:
        self._timer_number += 1
        entry.deadline = deadline
        entry.timer = self._timer_number
        if len(self._timers) > 4 * len(self._entries) + 64:
            # Items that count no more are popped in time, but a neighbor that keeps changing makes many.
            self._timers = [
                (armed.deadline, armed.timer, armed) for armed in self._entries.values() if armed.deadline is not None
            ]
            heapq.heapify(self._timers)
        else:
            heapq.heappush(self._timers, (deadline, self._timer_number, entry))

    def _send_solicitation(self, entry: _Entry, now: float) -> None:
        entry.solicitations += 1
        self._arm(entry, now + self.retransmit_timer)
        self._solicit(entry.address, entry.link_address, now)

    def _solicitations_max(self, entry: _Entry) -> int:
        if entry.state == NeighborState.INCOMPLETE:
            return self.config.max_multicast_solicit
        return self.config.max_unicast_solicit

    def _give_up(self, entry: _Entry) -> None:
        # RFC 4861 7.2.2 and 7.3.3: the entry goes, and resolution starts anew with the next packet
        del self._entries[entry.address]
        self.counters.unreachable += 1
        self._events.append(Unreachable(entry.address, list(entry.held)))

    def _draw_reachable_time(self) -> None:
        # RFC 4861 6.3.2: a uniformly distributed value keeps neighbors from probing in step
        factor = self._random.uniform(_MIN_RANDOM_FACTOR, _MAX_RANDOM_FACTOR) if self._random is not None else 1.0
        self.reachable_time = self._base_reachable_time * factor
