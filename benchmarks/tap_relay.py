"""The simulated link of swos_net.testing between two TAP devices, in real time: what our stack meets in virtual time, for the kernel.

Read first: swos_net/testing/link.py.  Two network namespaces are joined; with the same seed the same frames of each
direction, counted from the first, are lost as in a simulation.  One thread, no copies kept; at most some ten thousand
frames per second.
"""

import contextlib
import ctypes
import os
import select
import time
from collections.abc import Callable, Iterable, Iterator

from lab.namespaces import Namespace
from swos_net.device.tap import TapDevice
from swos_net.link import LinkFeatures
from swos_net.testing.impairment import Impairment
from swos_net.testing.link import Wire
from swos_net.testing.packet import Frame

FRAMES_AT_ONCE = 64
LOOK_INTERVAL = 0.02  # seconds between questions whether to go on
PR_SET_TIMERSLACK = 29
FRAME_MAX = 65549


class TapEnd:
    """What a wire leads to: the kernel behind a TAP device."""

    def __init__(self, device: TapDevice):
        self.device = device
        self.link: LinkFeatures = device.link
        self.wire: Wire | None = None  # where its frames go
        self.longest = self.refused = 0

    def arrive(self, frames: Iterable[Frame], now: float) -> None:
        for frame in frames:
            try:
                os.write(self.device.fileno(), frame.data)
            except OSError:  # the interface is down, or its queue is full
                self.refused += 1

    def read(self, now: float) -> None:
        for _ in range(FRAMES_AT_ONCE):
            try:
                data = os.read(self.device.fileno(), FRAME_MAX)
            except BlockingIOError:
                return
            self.longest = max(self.longest, len(data))
            self.wire.send(Frame(data), now)


class Relay:
    """Both directions between two TAP devices.

    `lateness` is by how many seconds frames were delivered late, in all: divided by their number a length that the
    path had besides its own.  Too much of it, and the machine was too busy for what came out to mean anything.
    """

    def __init__(self, devices: tuple[TapDevice, TapDevice], impairment: Impairment, seed: int):
        self.ends = [TapEnd(device) for device in devices]
        self.wires: list[Wire] = []
        self.lateness = 0.0
        self._began = time.monotonic()
        self._due: dict[Wire, float] = {}
        for number, (end, far) in enumerate(zip(self.ends, reversed(self.ends))):
            # the luck of a network's first link
            end.wire = Wire(far, impairment, f"{seed} link 0 wire {number}", self._wake, name=f"wire {number}")
            self.wires.append(end.wire)

    def run(self, until: Callable[[], object], limit: float) -> None:
        """Carries frames until `until` gives something true; TimeoutError after `limit` seconds."""
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
        descriptors = {end.device.fileno(): end for end in self.ends}
        next_look = 0.0
        while True:
            now = self._now()
            if now >= next_look:
                if until():
                    return
                if now > limit:
                    raise TimeoutError(f"not done after {limit:g} s")
                next_look = now + LOOK_INTERVAL
            for wire, at in list(self._due.items()):
                if at <= now:
                    del self._due[wire]
                    before = wire.delivered
                    following = wire.deliver(now)
                    self.lateness += (now - at) * (wire.delivered - before)
                    if following is not None:
                        self._due[wire] = following
            wait = max(min(next_look, *self._due.values(), next_look) - self._now(), 0.0)
            readable, _, _ = select.select(list(descriptors), [], [], wait)
            now = self._now()
            for descriptor in readable:
                descriptors[descriptor].read(now)

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _wake(self, at: float, wire: Wire) -> None:
        self._due[wire] = min(at, self._due.get(wire, at))


@contextlib.contextmanager
def joined_namespaces(addresses: tuple[str, str], impairment: Impairment, seed: int, mtu: int = 1500) -> Iterator[tuple[Namespace, Namespace, Relay]]:
    """Two namespaces with a device tap0 and an address each ("10.0.0.1/24"), and the relay between them, not yet running."""
    with contextlib.ExitStack() as stack:
        namespaces, devices = [], []
        for address in addresses:
            namespace = stack.enter_context(Namespace())
            with namespace.entered():
                device = TapDevice("tap0", offloads=False, mtu=mtu)
            stack.callback(device.close)
            namespace.configure("tap0", [address])
            namespaces.append(namespace)
            devices.append(device)
        yield namespaces[0], namespaces[1], Relay((devices[0], devices[1]), impairment, seed)
