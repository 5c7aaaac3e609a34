"""The interface to the host itself: 127.0.0.0/8, ::1 and every address of the other interfaces, without a device.

Read first: interface.py.  What goes out through it comes in again at the next `turn`, which runtime/poll.py takes; never
from inside a call of the user, so that nothing recurses.  Capabilities count here as on any link.
"""

from swos_net.address import LOOPBACK4, LOOPBACK6, is_loopback, is_multicast
from swos_net.dataplane.batch import Batch, link_limits
from swos_net.dataplane.burst import Burst
from swos_net.ip.routing import InterfaceAddress
from swos_net.link import LinkFeatures, Medium, Offload
from swos_net.stack.interface import MULTICAST, UNICAST, Interface

MTU = 65536
PACKET_MAX = 65535
LINK = LinkFeatures(Medium.IP, MTU, None, Offload.CHECKSUM | Offload.TSO4 | Offload.TSO6, PACKET_MAX)


class _Destinations:
    """What `Interface.destinations` is asked, answered from the whole stack's addresses."""

    __slots__ = ("groups", "stack")

    def __init__(self, stack):
        self.stack = stack
        self.groups: set[bytes] = set()

    def get(self, address: bytes) -> int | None:
        if is_loopback(address):
            return UNICAST
        if is_multicast(address):
            return MULTICAST if address in self.groups else None
        return UNICAST if self.stack.is_local(address) else None


class LoopbackInterface(Interface):
    """Made by the stack; number 1, and in none of its lists."""

    def __init__(self, stack):
        super().__init__(stack, -1, LINK, "lo")
        self.addresses = [InterfaceAddress(LOOPBACK4, 8), InterfaceAddress(LOOPBACK6, 128)]
        self.destinations = _Destinations(stack)
        self._limits = link_limits(LINK)
        self._batch: Batch | None = None  # made when the host first talks to itself
        self._burst: Burst | None = None
        self._turning = False
        self._looped = stack.groups.looped

    def on_link(self, address: bytes) -> bool:
        return True

    def has_address(self, address: bytes) -> bool:
        return is_loopback(address)

    def is_broadcast(self, address: bytes) -> bool:
        return False

    def join_group(self, group: bytes, now: float) -> None:
        self.destinations.groups.add(group)

    def leave_group(self, group: bytes, now: float) -> None:
        self.destinations.groups.discard(group)

    def wanted(self) -> None:
        if self.wants_output is not None:
            self.wants_output()

    @property
    def has_output(self) -> bool:
        return bool(self.control or self.datagrams or self.output_ready or self._looped)

    def turn(self, now: float) -> None:
        """One batch from the way out to the way in.  A call from inside a turn does nothing: the turn's caller goes on."""
        if self._turning:
            return
        self._turning = True
        try:
            self.stack.groups.deliver(now)
            if self._batch is None:
                self._batch, self._burst = Batch(), Burst()
            batch, burst = self._batch, self._burst
            self.fill(batch, now)
            batch.seal()
            while batch.move_to(burst, self._limits):
                self.stack.receive_burst(self, burst, now)
                burst.clear()
            self.counters["OutFrames"] += batch.c.frames
            self.counters["OutOctets"] += batch.c.bytes
        finally:
            if self._batch is not None:
                self._burst.clear()
                self._batch.clear()
            self._turning = False
