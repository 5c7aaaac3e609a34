"""A simulated link: two devices in memory with delay, bandwidth, loss and whatever else a wire does to frames.

Read first: device/base.py.  The two directions are independent `Wire`s.  Nothing here waits or reads a clock: frames
are handed to a schedule with the time of their arrival, and `network.Network` is the schedule.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

from swos_net.dataplane.batch import Batch, link_limits
from swos_net.dataplane.burst import Burst
from swos_net.link import LinkFeatures
from swos_net.testing.clock import FakeClock


class SimulatedFrame(NamedTuple):
    """A frame under way and what its sender's offloads left open (see `Burst.add`)."""

    data: bytes
    checksum: int = 0
    gso_type: int = 0
    gso_size: int = 0


Schedule = Callable[[float, "SimulatedDevice", SimulatedFrame], None]
# the frame from its link header on, and its number in this direction, counted from 0; true: the wire loses it
DropFilter = Callable[[bytes, int], object]


@dataclass(frozen=True, slots=True)
class LinkConditions:
    """What one direction of a link does to frames.  Conditions are replaced whole, in the middle of a run too.

    `delay` is one way, in seconds: a round trip takes twice that.  `bandwidth` is in bits per second, None for no
    limit; frames that must wait for their turn wait in an endless queue.  `loss`, `duplicate` and `reorder` are
    probabilities; a reordered frame arrives `reorder_delay` seconds later than it would have, and what was sent after
    it overtakes it.  `drop` is asked first, for losses that a test wants to script.
    """

    delay: float = 0.0005
    bandwidth: float | None = None
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_delay: float = 0.01
    drop: DropFilter | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability: 0 to 1, not {getattr(self, name)}")
        if self.delay < 0 or self.reorder_delay < 0 or (self.bandwidth is not None and self.bandwidth <= 0):
            raise ValueError("delays are not negative, a bandwidth is positive")


class Wire:
    """One direction of a link.

    `sent`, `lost`, `duplicated` and `reordered` count frames.  `observers` are called with (now, frame, fate) for each
    frame offered, where `fate` is "", "lost" or "duplicated".
    """

    def __init__(self, device: "SimulatedDevice", conditions: LinkConditions, random: Random, schedule: Schedule):
        """`device` is the one at the far end."""
        self.device = device
        self.conditions = conditions
        self.sent = self.lost = self.duplicated = self.reordered = 0
        self.observers: list[Callable[[float, bytes, str], None]] = []
        self._random = random
        self._schedule = schedule
        self._idle_at = 0.0  # when the last frame has left, with a limited bandwidth

    def change(self, **conditions: object) -> None:
        """Replaces some conditions, for frames sent from now on: `wire.change(loss=1.0)` cuts the wire."""
        self.conditions = replace(self.conditions, **conditions)

    def send(self, frame: SimulatedFrame, now: float) -> None:
        """What becomes of one frame is decided when it is sent."""
        conditions, random = self.conditions, self._random
        number = self.sent
        self.sent += 1
        dropped = conditions.drop is not None and conditions.drop(frame.data, number)
        # as many draws for every frame, so that a script that drops one does not change the luck of the others
        lost = random.random() < conditions.loss
        duplicated = random.random() < conditions.duplicate
        late = random.random() < conditions.reorder, random.random() < conditions.reorder
        if dropped or lost:
            self.lost += 1
            self._observed(now, frame, "lost")
            return
        self._observed(now, frame, "duplicated" if duplicated else "")
        self.duplicated += duplicated
        for copy in range(1 + duplicated):
            at = now
            if conditions.bandwidth is not None:
                at = self._idle_at = max(now, self._idle_at) + len(frame.data) * 8 / conditions.bandwidth
            at += conditions.delay
            if late[copy]:
                self.reordered += 1
                at += conditions.reorder_delay
            self._schedule(at, self.device, frame)

    def inject(self, frame: bytes, now: float) -> None:
        """A frame out of nowhere, as a test wants it; it arrives at once, whatever the conditions."""
        self._schedule(now, self.device, SimulatedFrame(bytes(frame)))

    def _observed(self, now: float, frame: SimulatedFrame, fate: str) -> None:
        for observer in self.observers:
            observer(now, frame.data, fate)


class SimulatedDevice:
    """One end of a simulated link."""

    wants_write = False

    def __init__(self, link: LinkFeatures, clock: FakeClock):
        self.link = link
        self.link_up = True
        self.wire: Wire | None = None  # where its frames go
        self.arrived: deque[SimulatedFrame] = deque()
        self._clock = clock
        self._limits = link_limits(link)
        self._received = self._transmitted = 0

    def fileno(self) -> int:
        """There is no descriptor to wait for: the network knows when a frame arrives."""
        return -1

    def receive(self, burst: Burst) -> int:
        arrived = self.arrived
        while arrived:
            frame = arrived[0]
            if not burst.add(frame.data, self.link.medium, checksum=frame.checksum, gso_type=frame.gso_type,
                             gso_size=frame.gso_size):  # fmt: skip
                break
            arrived.popleft()
        self._received += len(burst)
        return len(burst)

    def release(self, burst: Burst) -> None:
        pass

    def transmit(self, batch: Batch) -> bool:
        now = self._clock.now
        for frame in batch.frames(self._limits):
            self._transmitted += 1
            if self.wire is not None and self.link_up:
                self.wire.send(SimulatedFrame(*frame), now)
        return True

    def counters(self) -> dict[str, int]:
        return {"receive_frames": self._received, "transmit_frames": self._transmitted}

    def close(self) -> None:
        self.link_up = False
        self.arrived.clear()
