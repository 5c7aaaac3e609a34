"""The rings, the guest's memory and the descriptors of one connection: what a session's decisions are done with.

Read first: session.py (Performer), dataplane/vring.py.  It knows no socket: control messages are the session's, frames
go through device.py.
"""

import errno
import fcntl
import os
import select
import sys
from collections import deque
from collections.abc import Callable, Iterable
from math import inf

from swos_net.dataplane.guest_memory import GuestMemory
from swos_net.dataplane.vring import Vring
from swos_net.device.vhost_user.connection import close_fds
from swos_net.device.vhost_user.message import MemoryRegion
from swos_net.device.vhost_user.session import Refused, Ring
from swos_net.dataplane.timer import timer_open, timer_set

# How often a ring without a kick descriptor is looked at, in seconds.
POLL_INTERVAL = 0.001
# So many kicks with nothing in the ring, ever, are no coincidence (one is: QEMU's descriptors start out readable).
KICKS_IN_VAIN = 3

_MEMORY_CHECKS = {
    errno.EINVAL: ("R1", "size, address or offset is zero, not aligned or too large"),
    errno.ERANGE: ("R2", "the file is shorter than the region"),
    errno.EMEDIUMTYPE: ("R2", "the descriptor is not of a file that can be mapped"),
    errno.EEXIST: ("R4", "regions overlap"),
    errno.ENOSPC: ("M9", "too many regions"),
}


class RingPort:
    """One ring with its descriptors.  Even indices are what the guest receives from, odd ones what it transmits to."""

    __slots__ = ("call", "enabled", "err", "foreseen", "index", "kick", "kicked", "kicks", "polled", "running", "vring")

    def __init__(self, index: int):
        self.index = index
        self.vring = Vring()
        self.kick: int | None = None
        self.call: int | None = None
        self.err: int | None = None
        self.enabled = False
        self.running = False
        # The kick descriptor was readable and has not been drained since.
        self.kicked = False
        # Nobody has seen that yet.
        self.foreseen = False
        self.polled = False
        self.kicks = 0

    @property
    def is_transmit(self) -> bool:
        return bool(self.index & 1)


class Rings:
    """A session's Performer.

    Kick descriptors are watched by `poller`; `notify(name, **details)` hears of everything that is not about a ring.
    `busy` holds the transmit rings of the guest that may have frames, `resting` those that are left alone for a moment
    because bulk data goes through them: they are looked at by a timer, the guest need not kick.
    """

    def __init__(self, queue_pairs: int, poller: select.epoll, notify: Callable[..., None]):
        self.ports = [RingPort(index) for index in range(2 * queue_pairs)]
        self.busy: deque[RingPort] = deque()
        self.resting: list[RingPort] = []
        self.broken = 0
        self._poller = poller
        self._notify = notify
        self._memory = GuestMemory()
        self._by_kick: dict[int, RingPort] = {}
        self._share_advice_given = False
        self._rest_timer: int | None = None
        self._remind_timer: int | None = None
        self._remind_after = inf  # what it was last set to, while it runs
        self._to_remind: list[RingPort] = []

    # what a session orders

    def map_memory(self, regions: list[MemoryRegion], fds: list[int]) -> None:
        memory = GuestMemory()
        try:
            for region, fd in zip(regions, fds, strict=True):
                memory.add(region.guest_address, region.size, region.user_address, region.offset, fd)
        except OSError as error:
            memory.close()
            check, text = _MEMORY_CHECKS.get(error.errno, ("R2", os.strerror(error.errno)))
            raise Refused(check, text) from None
        if not all(_may_not_shrink(fd) for fd in fds):
            # A front-end that truncates the file kills us: it is trusted not to.
            self._notify("memory_can_shrink")
        self._memory.close()
        self._memory = memory

    def start_ring(self, index: int, ring: Ring, features: int) -> None:
        port = self.ports[index]
        address = ring.address
        try:
            port.vring.start(self._memory, ring.size, features, address.desc, address.avail, address.used, ring.base)
        except OSError as error:
            if error.errno == errno.EFAULT:
                raise Refused("V3", f"each part of ring {index} has to lie in one region of memory") from None
            # V6 is left, the guest's mistake and not the front-end's: the ring is broken and the connection goes on.
            self.ring_broke(port)
            return
        port.running = True
        port.kicks = 0
        self._notify("ring_started", index=index)
        # A guest that filled the ring already does not kick again.
        self._set_busy(port)

    def stop_ring(self, index: int) -> int:
        port = self.ports[index]
        self._set_idle(port)
        if port.running:
            port.running = False
            self._notify("ring_stopped", index=index)
        return port.vring.stop()

    def enable_ring(self, index: int, enabled: bool) -> None:
        self.ports[index].enabled = enabled

    def set_kick(self, index: int, fd: int | None) -> None:
        port = self.ports[index]
        polled = fd is None
        if polled:
            fd = timer_open()
        try:
            os.set_blocking(fd, False)
            if polled:
                timer_set(fd, POLL_INTERVAL, POLL_INTERVAL)
            self._poller.register(fd, select.EPOLLIN)
        except OSError as error:
            os.close(fd)
            raise Refused("M3", f"the kick descriptor of ring {index} cannot be watched: {error.strerror}") from None
        self.drop_kick(index)
        port.kick = fd
        port.polled = polled
        self._by_kick[fd] = port
        # V4: the old descriptor may have been kicked just before.
        self._set_busy(port)

    def drop_kick(self, index: int) -> None:
        port = self.ports[index]
        if port.kick is not None:
            # T2: the poller forgets it first, as it watches the open file, which the front-end has, too.
            self._poller.unregister(port.kick)
            del self._by_kick[port.kick]
            os.close(port.kick)
            port.kick = None
        port.kicked = False

    def set_call(self, index: int, fd: int | None) -> None:
        port = self.ports[index]
        old, port.call = port.call, _not_blocking(fd)
        port.vring.call_fd = -1 if fd is None else fd
        if old is not None:
            os.close(old)
        if fd is not None and port.running:
            # A signal may have gone to the old descriptor when nobody listened to it any more.
            poke(fd)

    def set_err(self, index: int, fd: int | None) -> None:
        port = self.ports[index]
        old, port.err = port.err, _not_blocking(fd)
        port.vring.err_fd = -1 if fd is None else fd
        if old is not None:
            os.close(old)

    def features_negotiated(self, features: int) -> None:
        self._notify("negotiated", features=features)

    def mtu_set(self, mtu: int) -> None:
        self._notify("mtu_set", mtu=mtu)

    def guest_moved(self, address: bytes) -> None:
        self._notify("guest_moved", address=address)

    def warn(self, text: str) -> None:
        self._notify("warning", text=text)

    # what the device does with them

    def kicked(self, fds: Iterable[int]) -> None:
        """Notes which of these readable descriptors are kicks."""
        for fd in fds:
            port = self._by_kick.get(fd)
            if port is None:
                if fd == self._rest_timer:
                    self._rest_is_over()
                elif fd == self._remind_timer:
                    self._remind()
                continue
            if port.is_transmit and port.running:
                port.kicked = True
                port.foreseen = False
                self._set_busy(port)
            else:
                # A receive ring's kick has done its work by waking whoever holds frames for it.
                self._drain(port)

    def found(self, port: RingPort) -> None:
        """There are frames in an idle ring with an event index, and nobody has seen a kick yet."""
        # only with an event index, which is left where it is: the guest has kicked for them, or will
        port.kicked = port.foreseen = True
        self._set_busy(port)

    def left(self, port: RingPort) -> None:
        """There are frames in a ring that perhaps no kick tells of."""
        self._set_busy(port)
        port.kicked = False

    def remind_later(self, port: RingPort, seconds: float) -> None:
        """The ring has given chains back quietly: within `seconds` the guest is told if it has not looked."""
        if seconds < self._remind_after:
            try:
                if self._remind_timer is None:
                    self._remind_timer = self._watched_timer()
                timer_set(self._remind_timer, seconds)
            except OSError:
                port.vring.remind()  # no descriptors are left
                return
            self._remind_after = seconds
        if port not in self._to_remind:
            self._to_remind.append(port)

    def _watched_timer(self) -> int:
        timer = timer_open()
        self._poller.register(timer, select.EPOLLIN)
        return timer

    def _remind(self) -> None:
        if not _expired(self._remind_timer):
            return
        self._remind_after = inf
        while self._to_remind:
            self._to_remind.pop().vring.remind()

    def settle(self, port: RingPort) -> None:
        """Called when the ring gave nothing: waits for its next kick, unless frames came in between."""
        # V4: drained before the last look, so that a later kick is seen; one that nobody saw yet is seen then.
        if port.kicked:
            self._drain(port)
        if port.vring.enable_kicks():
            port.vring.disable_kicks()
        else:
            self.busy.remove(port)

    def rest(self, port: RingPort, seconds: float) -> None:
        """Called instead of `settle` when bulk data goes through: the ring is looked at again after `seconds`, its kicks
        stay disabled and what it was used for is signalled in fewer, larger steps."""
        if port.kicked:
            self._drain(port)
        self.busy.remove(port)
        self.resting.append(port)
        if self._rest_timer is None:
            self._rest_timer = self._watched_timer()
        if len(self.resting) == 1:
            timer_set(self._rest_timer, seconds)

    def _rest_is_over(self) -> None:
        if not _expired(self._rest_timer):
            return
        self.busy.extend(self.resting)
        self.resting.clear()

    def ring_broke(self, port: RingPort) -> None:
        """D8: this ring is left alone from now on (the guest was signalled by the data plane); others go on."""
        self.broken += 1
        self._set_idle(port)
        port.running = False
        self._notify("ring_broken", index=port.index, check=port.vring.broken_check)

    @property
    def work_unseen(self) -> bool:
        """Whether a busy ring has no readable descriptor that would tell of it."""
        for port in self.busy:
            if not port.kicked:
                return True
        return False

    def usable_pair(self) -> RingPort | None:
        """The receive ring of the guest's first queue pair that runs and is enabled."""
        for port in self.ports[::2]:
            if port.running and port.enabled and self.ports[port.index + 1].running:
                return port
        return None

    def close(self) -> None:
        """Stops all, gives up the guest's memory and every descriptor."""
        for port in self.ports:
            if port.running:
                self.stop_ring(port.index)
            self.drop_kick(port.index)
            port.vring.call_fd = port.vring.err_fd = -1
            close_fds([fd for fd in (port.call, port.err) if fd is not None])
            port.call = port.err = None
            port.enabled = False
        for timer in (self._rest_timer, self._remind_timer):
            if timer is not None:
                self._poller.unregister(timer)
                os.close(timer)
        self._rest_timer = self._remind_timer = None
        self._remind_after = inf
        self._to_remind.clear()
        self._memory.close()

    def _set_busy(self, port: RingPort) -> None:
        if port.is_transmit and port.running and port not in self.busy:
            if port in self.resting:
                self.resting.remove(port)
            port.vring.disable_kicks()
            self.busy.append(port)

    def _set_idle(self, port: RingPort) -> None:
        if port in self.busy:
            self.busy.remove(port)
        if port in self.resting:
            self.resting.remove(port)
        port.kicked = False

    def _drain(self, port: RingPort) -> None:
        port.kicked, foreseen = False, port.foreseen
        port.foreseen = False
        if port.kick is None:
            return
        try:
            # M10: a front-end may have made it one that blocks, which matters where it need not be readable
            count = _read_at_once(port.kick) if foreseen else os.read(port.kick, 8)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            count = b""
        if len(count) < 8:
            # Not an eventfd, or the end of a pipe: it would be readable for ever.
            self._notify("warning", text=f"the kick descriptor of ring {port.index} failed and is no longer watched")
            self.drop_kick(port.index)
            return
        port.kicks += int.from_bytes(count, sys.byteorder)
        vring = port.vring
        vring.kicks += 1
        if port.kicks < KICKS_IN_VAIN or port.polled or self._share_advice_given:
            return
        if port.running and not (vring.next_avail or vring.frames or vring.available):
            self._share_advice_given = True
            self._notify("kicked_in_vain", index=port.index)


def _expired(timer: int) -> bool:
    try:
        os.read(timer, 8)
    except BlockingIOError:
        return False
    return True


def _read_at_once(fd: int) -> bytes:
    """BlockingIOError when nothing is there, or when that cannot be told: it is read once it is seen to be readable."""
    count = bytearray(8)
    try:
        return bytes(count[: os.preadv(fd, [count], -1, os.RWF_NOWAIT)])
    except OSError as error:
        raise BlockingIOError(errno.EAGAIN, "not now") from error


def poke(fd: int) -> None:
    """Adds one to an eventfd; T3: a counter that is full is as good."""
    try:
        os.write(fd, (1).to_bytes(8, sys.byteorder))
    except OSError:
        pass


def _not_blocking(fd: int | None) -> int | None:
    """The data plane writes to it and must not wait for whoever reads (M10)."""
    if fd is not None:
        os.set_blocking(fd, False)
    return fd


def _may_not_shrink(fd: int) -> bool:
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:
        return False
