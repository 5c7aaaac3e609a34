"""A simulated link: two ends in memory, joined by wires with delay, bandwidth, queues and bad luck.

Read first: impairment.py for what can happen to a frame, device/base.py for what a stack sees.  The two directions are
independent `Wire`s.  Nothing here waits or reads a clock: `network.Network` says when frames are due.
"""

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import ceil, sqrt
from random import Random
from typing import Protocol

from swos_net.dataplane.batch import Batch, link_limits
from swos_net.dataplane.burst import Burst
from swos_net.link import LinkFeatures, Medium
from swos_net.testing.clock import FakeClock
from swos_net.testing.impairment import GilbertElliott, Impairment
from swos_net.testing.packet import Crossing, Decoder, Frame, Packet, corrupted, marked
from swos_net.testing.scripted import DROP, MARK, Action, Rule


class End(Protocol):
    """What a wire leads to: a `SimulatedDevice` or a port of a router."""

    link: LinkFeatures
    wire: "Wire | None"

    def arrive(self, frames: Iterable[Frame], now: float) -> None: ...


class Wire:
    """One direction of a link.

    Counters of frames: `sent` into it, `delivered` (copies included), and of those that fared otherwise `lost`,
    `dropped` (by a script), `overflowed` (the queue was full, or CoDel dropped it), `too_long`, `duplicated`,
    `reordered`, `corrupted`, `marked`; `sent_bytes` counts bytes of those sent.  Every kind of luck has random numbers
    of its own: switching one on changes nothing about the others.
    """

    def __init__(self, end: End, impairment: Impairment, seed: str, wake: Callable[[float, "Wire"], None], *,
                 medium: Medium = Medium.ETHERNET, name: str = "", decoder: Decoder | None = None):  # fmt: skip
        """`end` is the far one; `wake` is told when `deliver` should be called next, if that became earlier."""
        self.end = end
        self.name = name
        self.medium = medium
        self.decoder = decoder or Decoder()
        self.observers: list[Callable[[Crossing], object]] = []
        self.rules: list[Rule] = []
        self.opposite: Wire | None = None  # the other direction of its link
        self.sent = self.sent_bytes = self.delivered = self.lost = self.dropped = self.overflowed = self.too_long = 0
        self.duplicated = self.reordered = self.corrupted = self.marked = 0
        self._wake = wake
        self._seed = seed
        self._flight: deque[tuple[float, int, Frame]] = deque()  # by arrival
        self._arrivals = 0
        self._idle_at = 0.0  # when the last frame has left, with a limited bandwidth
        self._leaving: deque[float] = deque()  # when each frame of the queue has left
        self._last_arrival = 0.0  # jitter does not reorder
        self._bad = False  # GilbertElliott
        self._codel = CoDelState()
        self._lucks: dict[str, Random] = {}
        self.impairment = impairment

    def __repr__(self) -> str:
        return f"<Wire {self.name}: {', '.join(f'{count} {what}' for what, count in self.counters().items() if count)}>"

    def change(self, **conditions: object) -> None:
        """Replaces parts of the impairment, for frames sent from now on: `wire.change(loss=1.0)` cuts the wire."""
        self.impairment = replace(self.impairment, **conditions)

    def observe(self, observer: Callable[[Crossing], object]) -> Callable[[Crossing], object]:
        """Calls `observer` with a `Crossing` for every frame sent from now on; returns it."""
        self.observers.append(observer)
        return observer

    def counters(self) -> dict[str, int]:
        names = ("sent", "sent_bytes", "delivered", "lost", "dropped", "overflowed", "too_long", "duplicated", "reordered",
                 "corrupted", "marked")  # fmt: skip
        return {name: getattr(self, name) for name in names}

    # Scripts (scripted.py); `chosen` are segment, offset, where and times of a `Rule`

    def drop(self, **chosen) -> Rule:
        """Loses the chosen frames: `wire.drop(segment=3, times=3)`."""
        return self._add_rule(DROP, chosen)

    def postpone(self, seconds: float, **chosen) -> Rule:
        """Delivers the chosen frames so much later."""
        return self._add_rule(Action("late", delay=seconds), chosen)

    def duplicate(self, copies: int = 2, **chosen) -> Rule:
        """Delivers the chosen frames so many times."""
        return self._add_rule(Action("duplicated", copies=copies), chosen)

    def mark(self, **chosen) -> Rule:
        """Puts Congestion Experienced into the chosen frames, those that are ECN-capable."""
        return self._add_rule(MARK, chosen)

    def _add_rule(self, action: Action, chosen: dict) -> Rule:
        rule = Rule(action, **chosen)
        self.rules.append(rule)
        return rule

    # Frames

    def send(self, frame: Frame | tuple, now: float) -> None:
        """What becomes of one frame is decided when it is sent."""
        number = self.sent
        self.sent = number + 1
        data = frame[0]
        length = len(data)
        self.sent_bytes += length
        impairment = self.impairment
        # luck is drawn for every frame, so that what a script or a queue drops does not change that of the others
        loss = impairment.loss
        lost = loss and self._loses(loss)
        copies = 2 if impairment.duplicate and self._luck("duplicate").random() < impairment.duplicate else 1
        late = impairment.reorder and self._luck("reorder").random() < impairment.reorder
        spoiled = impairment.corrupt and self._luck("corrupt").random() < impairment.corrupt
        jitter = impairment.jitter and self._luck("jitter").random() * impairment.jitter
        action = self._scripted(frame, number) if self.rules else None

        arrivals: tuple[float, ...] = ()
        fates = []
        if impairment.packet_max is not None and length - (14 if self.medium is Medium.ETHERNET else 0) > impairment.packet_max:
            self.too_long += 1
            fates.append("too long")
        else:
            sent = frame
            left: float | None = now
            mark = False
            if impairment.bandwidth is not None:
                left, mark = self._queue(length, now, frame)
            if mark or (action is not None and action.mark):
                with_mark = marked(data, self.medium)
                if with_mark is not None:
                    sent = Frame(with_mark, *frame[1:])
                    self.marked += 1
                    fates.append("marked")
            if left is None:
                self.overflowed += 1
                fates.append("queue full")
            elif action is not None and action.drop:
                self.dropped += 1
                fates.append(action.fate)
            elif lost:
                self.lost += 1
                fates.append("lost")
            else:
                at = left + impairment.delay
                if jitter:
                    at = self._last_arrival = max(at + jitter, self._last_arrival)
                first = at
                if late:
                    self.reordered += 1
                    first += impairment.reorder_delay
                    fates.append("late")
                if action is not None and not action.mark:
                    copies = max(copies, action.copies)
                    first += action.delay
                    if action.delay:
                        fates.append(action.fate)
                if spoiled:
                    with_errors = corrupted(sent[0], self.medium, self._luck("errors"))
                    if with_errors is not sent[0]:
                        sent = Frame(with_errors, *frame[1:])
                        self.corrupted += 1
                        fates.append("corrupted")
                if copies > 1:
                    self.duplicated += copies - 1
                    fates.append("duplicated")
                if impairment.coalesce:
                    first, at = (ceil(time / impairment.coalesce - 1e-9) * impairment.coalesce for time in (first, at))
                arrivals = (first,) + (at,) * (copies - 1) if copies > 1 else (first,)
                for time in arrivals:
                    self._fly(time, sent)
        if self.observers:
            crossing = Crossing(now, self, number, Frame(*frame), ", ".join(fates), arrivals)
            for observer in self.observers:
                observer(crossing)

    def inject(self, frame: bytes, now: float) -> None:
        """A frame out of nowhere, as a test wants it; it arrives at once, whatever the conditions."""
        self._fly(now, Frame(bytes(frame)))

    def deliver(self, now: float) -> float | None:
        """Hands over what has arrived; returns when there will be more, None when nothing is under way."""
        flight = self._flight
        frames = []
        while flight and flight[0][0] <= now:
            frames.append(flight.popleft()[2])
        if frames:
            self.delivered += len(frames)
            self.end.arrive(frames, now)
        return flight[0][0] if flight else None

    def _fly(self, at: float, frame: Frame) -> None:
        # what arrives at the same time arrives in the order in which it was sent
        self._arrivals += 1
        item = (at, self._arrivals, frame)
        flight = self._flight
        if not flight:
            flight.append(item)
            self._wake(at, self)
        elif at >= flight[-1][0]:
            flight.append(item)
        else:
            insort(flight, item)
            if flight[0] is item:
                self._wake(at, self)

    def _queue(self, length: int, now: float, frame: Frame) -> tuple[float | None, bool]:
        """When the frame has left (None: dropped), and whether it is to be marked."""
        impairment = self.impairment
        bandwidth = impairment.bandwidth
        idle_at = self._idle_at
        if idle_at <= now:
            if impairment.queue_packets is not None:
                self._leaving.clear()
                self._leaving.append(now + length * 8 / bandwidth)
            self._idle_at = now + length * 8 / bandwidth
            if impairment.codel is not None:
                self._codel.decide(impairment.codel, now, 0.0, bandwidth)
            return self._idle_at, False
        waiting = (idle_at - now) * bandwidth / 8
        if impairment.queue_bytes is not None and waiting + length > impairment.queue_bytes:
            return None, False
        if impairment.queue_packets is not None:
            leaving = self._leaving
            while leaving and leaving[0] <= now:
                leaving.popleft()
            if len(leaving) >= impairment.queue_packets:
                return None, False
        mark = impairment.ecn_threshold is not None and waiting > impairment.ecn_threshold
        if impairment.codel is not None and self._codel.decide(impairment.codel, idle_at, idle_at - now, bandwidth):
            if not impairment.codel.ecn or marked(frame[0], self.medium) is None:
                return None, False
            mark = True
        self._idle_at = idle_at + length * 8 / bandwidth
        if impairment.queue_packets is not None:
            self._leaving.append(self._idle_at)
        return self._idle_at, mark

    def _loses(self, loss: "float | GilbertElliott") -> bool:
        random = self._luck("loss").random
        if not isinstance(loss, GilbertElliott):
            return random() < loss
        self._bad = random() >= loss.to_good if self._bad else random() < loss.to_bad
        return random() < (loss.loss_when_bad if self._bad else loss.loss_when_good)

    def _luck(self, kind: str) -> Random:
        luck = self._lucks.get(kind)
        if luck is None:
            luck = self._lucks[kind] = Random(f"{self._seed} {kind}")
        return luck

    def _scripted(self, frame: Frame, number: int) -> Action | None:
        packet: Packet = self.decoder.decode(Frame(*frame), number, self.medium)
        chosen = None
        for rule in self.rules:
            if rule.wants(packet) and chosen is None:
                chosen = rule.action
        return chosen


class CoDelState:
    """RFC 8289 5.3 to 5.6, asked in the order in which frames leave.

    What a frame waits is known when it comes, so everything is decided then; a frame that takes longer to send than
    `target` raises it, where the RFC looks whether another full one waits.
    """

    __slots__ = ("count", "drop_next", "dropping", "first_above", "last_count")

    def __init__(self) -> None:
        self.first_above = 0.0
        self.drop_next = 0.0
        self.count = self.last_count = 0
        self.dropping = False

    def decide(self, codel, leaves: float, waited: float, bandwidth: float) -> bool:
        """Whether the frame that leaves the queue at `leaves` is dropped or marked."""
        if waited < max(codel.target, 1514 * 8 / bandwidth):
            self.first_above = 0.0
            self.dropping = False
            return False
        if not self.first_above:
            self.first_above = leaves + codel.interval
            return False
        if leaves < self.first_above:
            return False
        if not self.dropping:
            self.dropping = True
            # 5.4: where the last rate of drops held it, begin near that rate
            recent = leaves - self.drop_next < 16 * codel.interval
            self.count = max(self.count - self.last_count, 1) if recent else 1
            self.last_count = self.count
        elif leaves < self.drop_next:
            return False
        else:
            self.count += 1
        self.drop_next = leaves + codel.interval / sqrt(self.count)
        return True


class SimulatedDevice:
    """The end of a simulated link that a stack sees."""

    wants_write = False

    def __init__(self, link: LinkFeatures, clock: FakeClock):
        self.link = link
        self.link_up = True
        self.wire: Wire | None = None  # where its frames go
        self.arrived: deque[Frame | tuple] = deque()
        self.on_arrival: Callable[[], None] | None = None
        self._clock = clock
        self._limits = link_limits(link)
        self._received = self._transmitted = 0

    def arrive(self, frames: Iterable[Frame], now: float) -> None:
        """From the wire."""
        self.arrived.extend(frames)
        if self.on_arrival is not None:
            self.on_arrival()

    def fileno(self) -> int:
        """There is no descriptor to wait for: the network knows when a frame arrives."""
        return -1

    def receive(self, burst: Burst) -> int:
        arrived = self.arrived
        if not arrived:
            return 0
        medium = self.link.medium
        count = 0
        while arrived:
            data, checksum, gso_type, gso_size = arrived[0]
            if not burst.add(data, medium, checksum=checksum, gso_type=gso_type, gso_size=gso_size):
                break
            arrived.popleft()
            count += 1
        self._received += count
        return count

    def release(self, burst: Burst) -> None:
        pass

    def transmit(self, batch: Batch) -> bool:
        now = self._clock.now
        wire = self.wire if self.link_up else None
        for frame in batch.frames(self._limits):
            self._transmitted += 1
            if wire is not None:
                wire.send(frame, now)
        return True

    def counters(self) -> dict[str, int]:
        return {"receive_frames": self._received, "transmit_frames": self._transmitted}

    def close(self) -> None:
        self.link_up = False
        self.arrived.clear()
