"""The stack under test with one link that carries IP packets, under a clock of its own: no thread, no descriptor of the
kernel that anything waits for, nothing that takes time.

`usecs` counts from the start of the script.  `advance_to` lets time pass: the stack's timers run at the very
microsecond they are due at, and what it sends waits in `sent` with the time at which it left.
"""

from collections import deque
from collections.abc import Callable
from random import Random

from swos_net.address import is_ipv4
from swos_net.config import StackConfig
from swos_net.device.packets import PacketDevice
from swos_net.runtime.poll import Poller
from swos_net.stack.stack import Stack
from swos_net.testing.clock import FakeClock
from swos_net.testing.packetdrill.live import LivePacket, dissect

EPOCH = 1000.0  # the stack's clock when a script starts; anything but 0, so that nobody takes the two for one
EVENTS_PER_INSTANT = 10_000


class Host:
    """Made once for every run.  `progressed` is called whenever the stack has done something."""

    def __init__(self, config: StackConfig, addresses: list[tuple[bytes, int]], gateways: list[bytes], mtu: int, seed: int = 1):
        self.clock = FakeClock(EPOCH)
        self.stack = Stack(config, random=Random(seed), name="packetdrill")
        self.device = PacketDevice(mtu=mtu)
        self.poller = Poller(self.stack)
        self.interface = self.poller.attach(self.device, self.clock.now)
        for address, length in addresses:
            self.stack.add_address(self.interface, address, length, self.clock.now)
        for gateway in gateways:
            self.stack.add_gateway(self.interface, gateway)
        self.sent: deque[LivePacket] = deque()
        self.progressed: Callable[[], None] | None = None

    @property
    def now(self) -> float:
        return self.clock.now

    @property
    def usecs(self) -> int:
        return round((self.clock.now - EPOCH) * 1_000_000)

    def local_address(self, family: int) -> bytes | None:
        return next((entry.address for entry in self.interface.addresses if is_ipv4(entry.address) == (family == 4)), None)

    def inject(self, packet: bytes) -> None:
        """An IP packet arrives."""
        self.device.feed(packet)
        self.settle()

    def settle(self) -> None:
        """The stack does all it can do now."""
        for _ in range(EVENTS_PER_INSTANT):
            more = self.poller.poll(self.clock.now)
            self._collect()
            if not more:
                break
        else:
            raise RuntimeError(f"the stack finds no rest at {self.usecs} us")
        if self.progressed is not None:
            self.progressed()

    def flush(self) -> None:
        """Sends what a call of the user left to send."""
        self.poller.flush(self.clock.now)
        self._collect()

    def next_usecs(self) -> int | None:
        """When the stack's next timer is due, rounded up to a microsecond."""
        deadline = self.poller.next_deadline()
        if deadline is None:
            return None
        exact = (deadline - EPOCH) * 1_000_000
        usecs = round(exact)
        return usecs if abs(usecs - exact) < 0.01 else int(exact) + 1

    def step(self, limit: int | None = None) -> bool:
        """Lets time pass to the stack's next timer, or to `limit` if that comes first; False when neither is ahead."""
        due = self.next_usecs()
        if due is None or (limit is not None and due > limit):
            if limit is None or limit <= self.usecs:
                return False
            self._jump(limit)
            return True
        self._jump(max(due, self.usecs))
        self.settle()
        return True

    def advance_to(self, usecs: int, until: Callable[[], bool] | None = None) -> None:
        """Lets time pass to `usecs`, or until `until()` holds."""
        instant, events = self.usecs, 0
        while until is None or not until():
            due = self.next_usecs()
            if due is None or due > usecs:
                self._jump(max(usecs, self.usecs))
                return
            self.step(usecs)
            events = events + 1 if self.usecs == instant else 0
            instant = self.usecs
            if events > EVENTS_PER_INSTANT:
                raise RuntimeError(f"timers are due over and over at {instant} us")

    def _jump(self, usecs: int) -> None:
        # a due timer must be due by the stack's own reckoning, whatever the last bit of the sum
        deadline = self.poller.next_deadline()
        now = EPOCH + usecs / 1_000_000
        if deadline is not None and 0 < deadline - now < 1e-6:
            now = deadline
        if now > self.clock.now:
            self.clock.now = now

    def _collect(self) -> None:
        usecs = self.usecs
        for raw in self.device.take():
            self.sent.append(dissect(raw, usecs))

    def close(self) -> None:
        self.device.close()
