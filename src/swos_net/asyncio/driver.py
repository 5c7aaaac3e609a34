"""The driver of a stack that event loops serve.

Read first: runtime/driver.py.  A loop sends and polls in its selector, where it sleeps anyway (see selector.py), or with
descriptors and a timer (runner.py).  Any thread may enter: the stack's lock is held for one call at a time, never while
a callback runs.  Who waits for a socket in a thread while no loop is at work serves the stack himself meanwhile.
"""

import contextlib
import errno
import math
import os
import select
import threading
from _thread import allocate_lock, get_ident
from collections.abc import Callable
from typing import Any, Protocol

from swos_net import clock
from swos_net.runtime.driver import Driver
from swos_net.runtime.poll import Poller

ALWAYS = select.POLLERR | select.POLLHUP | select.POLLNVAL  # poll(2) reports these asked or not
MILLISECONDS_MAX = 3_600_000
STUCK = 0.1  # seconds in which a loop that is not asleep has to look at the stack


class ServingLoop(Protocol):
    """What a driver asks of a loop that runs."""

    turns: int
    """How often it has looked at its stacks."""

    asleep: bool
    """Whether it waits for its stacks right now."""

    def wake(self) -> None:
        """Ends its sleep; for any thread."""

    def stack_entered(self, due: float | None) -> None:
        """Another thread has been inside the stack, which now wants to be polled at `due`."""

    def device_failed(self, driver: "LoopDriver", error: OSError) -> None:
        """The driver's device is gone for good; every connection has been told."""


class _Entry:
    """What `entered()` gives: one object for all, its state is the lock's owner's."""

    __slots__ = ("_driver",)

    def __init__(self, driver: "LoopDriver"):
        self._driver = driver

    def __enter__(self) -> float:
        driver = self._driver
        if driver._refusal is not None:  # before the lock, which a fork may have left locked for ever
            driver.check_serving()
        driver.lock.acquire()
        if driver._refusal is not None:
            driver.lock.release()
            driver.check_serving()
        driver._depth += 1
        return driver.clock()

    def __exit__(self, *exception: object) -> None:
        driver = self._driver
        try:
            if driver._depth == 1 and driver._refusal is None:
                driver._leave()
        finally:
            driver._depth -= 1
            driver.lock.release()


class _Waiter:
    """One thread that waits for one socket, a watcher of it."""

    __slots__ = ("_gate", "_mask", "core", "ready", "turns")

    def __init__(self, core: Any, mask: int):
        self.core = core
        self.ready = False
        self.turns: int | None = None  # of the loops, when they were last looked at
        self._mask = mask
        self._gate = allocate_lock()
        self._gate.acquire()

    def __call__(self, mask: int) -> None:
        if mask & self._mask:
            self.ready = True
            self.nudge()

    def nudge(self) -> None:
        """Has it look again; with the stack's lock held."""
        if self._gate.locked():
            self._gate.release()

    def sleep(self, timeout: float) -> None:
        """For at most `timeout` seconds.  A signal's handler runs, and may raise."""
        self._gate.acquire(True, timeout)


class LoopDriver(Driver):
    """Serves one stack from any number of event loops, one after another or at once.

    `lock` is to be held for every call into the stack, briefly: `with driver.lock: core.send(...)`.  What that leaves to
    be sent goes out when a loop of the thread goes to sleep; `entered()` sends it at once in threads without.
    """

    def __init__(self, poller: Poller, time: Callable[[], float] = clock.monotonic):
        """`time` is the stack's `now`, and that of the loops."""
        super().__init__(poller.stack)
        self.poller = poller
        self.clock = time
        self.lock = threading.RLock()
        self._depth = 0
        self.more = False  # the last poll may have left something
        self._entry = _Entry(self)
        self._loops: list[tuple[int, ServingLoop]] = []  # those that run, with their threads
        self._waiters: list[_Waiter] = []
        self._leader: int | None = None  # the thread that serves the stack because no loop does
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # wakes that thread
        self._stopped = False

    @classmethod
    def of(cls, poller: Poller) -> "LoopDriver":
        """The driver that the stack has already, or a new one; RuntimeError when something else serves the stack."""
        driver = poller.stack.driver
        if driver is None:
            return cls(poller)
        if not isinstance(driver, LoopDriver):
            raise RuntimeError(f"{poller.stack.name} is served by {driver!r} already")
        return driver

    # What a loop calls

    def begin(self, loop: ServingLoop) -> None:
        """The loop runs from now on, in this thread."""
        with self.lock:
            self._loops.append((get_ident(), loop))
            if self._leader is not None:
                self._ring()

    def end(self, loop: ServingLoop) -> None:
        """The loop runs no more."""
        with self.lock:
            self._loops = [entry for entry in self._loops if entry[1] is not loop]
            if self._refusal is None:
                self.flush(self.clock())
                self._nudge_all()  # somebody else has to serve

    def flush(self, now: float) -> float | None:
        """Sends what is ready; gives the time at which the stack wants to be polled, None for never."""
        with self.lock:
            if self._abandoned:
                self.close_abandoned(now)
            self.poller.flush(now)
            return now if self.more else self.poller.next_deadline()

    def poll(self, now: float) -> None:
        """Takes what has come and does what is due at `now`; `flush` follows when the callbacks have run."""
        try:
            with self.lock:
                self.more = self.poller.take(now)
        except OSError as error:
            self._device_failed(error, now)

    def stop(self) -> None:
        """Sends what is ready, ends what is still open with ENETDOWN and closes the devices; idempotent."""
        with self.lock:
            if self._stopped:
                return
            self._stopped = True
            now = self.clock()
            if self._refusal is None:
                self.flush(now)
                self._give_up("its loop has been stopped", now)
            if self._leader is None or self._leader == get_ident():
                self._close()
            else:
                self._ring()  # that thread sleeps on the descriptors: it closes them

    def _close(self) -> None:
        for port in self.poller.ports:
            port.device.close()
        os.close(self._bell)
        self._bell = -1

    def finish(self, timeout: float) -> bool:
        """Serves the stack until closed connections have delivered what was sent; False after `timeout` seconds."""
        self._serve(lambda: not self.delivering, self.clock() + timeout)
        return not self.delivering

    @property
    def delivering(self) -> bool:
        """Whether what was sent by connections that are closed by now is still on its way."""
        with self.lock:
            return any(flow.connection.delivering for flow in self.stack.tcp.flows.values())

    def _device_failed(self, error: OSError, now: float) -> None:
        """Gone for good: everybody hears of it, once."""
        with self.lock:
            loops = [loop for _, loop in self._loops]
            self._give_up(f"its device is gone: {error}", now)
        for loop in loops:
            loop.device_failed(self, error)

    def _give_up(self, why: str, now: float) -> None:
        self.refuse(errno.ENETDOWN, f"{self.stack.name} is no longer served: {why}")
        self.more = False
        self.poller.failed(now)
        self._nudge_all()
        if self._leader is not None:
            self._ring()

    # As a driver

    def entered(self) -> _Entry:
        return self._entry

    def wake(self) -> None:
        me = get_ident()
        for thread, loop in self._loops:
            if thread != me:  # a loop looks before it sleeps
                loop.wake()
        if self._leader is not None and self._leader != me:
            self._ring()

    def woken(self, core: Any) -> None:
        for waiter in self._waiters:
            if waiter.core is core:
                waiter(ALWAYS)

    def forked(self) -> None:
        super().forked()
        # its owner, if any, is a thread that this process does not have
        self.lock = threading.RLock()
        self._depth = 0
        self._loops.clear()
        self._waiters.clear()
        self._leader = None

    def _leave(self) -> None:
        """A thread without a running loop has done something."""
        me = get_ident()
        if any(thread == me for thread, _ in self._loops):
            return
        due = self.flush(self.clock())
        for _, loop in self._loops:
            loop.stack_entered(due)
        if self._leader is not None and self._leader != me:
            self._ring()

    # Threads that wait

    def wait(self, core: Any, mask: int, deadline: float | None) -> None:
        waiter = _Waiter(core, mask | ALWAYS)
        with self._entry:
            if core.poll() & (mask | ALWAYS):
                return
            core.watch(waiter)
            self._waiters.append(waiter)
            self.flush(self.clock())  # the thread of a loop does not do that on its way out
            if self._leader is not None:
                self._ring()
        try:
            while not waiter.ready and self._refusal is None:
                if deadline is not None and self.clock() >= deadline:
                    raise TimeoutError("timed out")
                if not self._lead(waiter, deadline):
                    waiter.sleep(STUCK if deadline is None else min(STUCK, max(0.0, deadline - self.clock())))
        finally:
            with self.lock:
                core.unwatch(waiter)
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)

    def _lead(self, waiter: _Waiter, deadline: float | None) -> bool:
        """Serves the stack until the wait is over; False when somebody else does."""
        with self.lock:
            if self._leader is not None or self._served_elsewhere(waiter):
                return False
            self._leader = get_ident()
        try:
            self._serve(lambda: waiter.ready or self._served_elsewhere(waiter), deadline)
        finally:
            with self.lock:
                self._leader = None
                if self._stopped:
                    self._close()
                self._nudge_all()
        return True

    def _served_elsewhere(self, waiter: _Waiter) -> bool:
        """Whether a loop of another thread looks after the stack.

        One that has not looked for a while is stuck in a callback, perhaps because that waits for this thread.
        """
        me = get_ident()
        turns = [(loop.turns, loop.asleep) for thread, loop in self._loops if thread != me]
        if any(asleep for _, asleep in turns):
            waiter.turns = None
            return True
        now = sum(count for count, _ in turns)
        if turns and now != waiter.turns:
            waiter.turns = now
            return True
        return False

    def _serve(self, done: Callable[[], bool], until: float | None) -> None:
        """What a loop does, without one: sends, sleeps and polls until it is `done` or the clock says `until`."""
        while self._refusal is None:
            now = self.clock()
            due = self.flush(now)
            if done() or until is not None and until <= now:
                return
            if until is not None:
                due = until if due is None else min(due, until)
            self._sleep(None if due is None else due - now)
            for port in self.poller.ports:
                if port.device.wants_write:
                    port.blocked = False
            self.poll(self.clock())

    def _sleep(self, timeout: float | None) -> None:
        """Until a device has something, the bell rings, or `timeout` seconds have passed."""
        sleeper = select.poll()
        sleeper.register(self._bell, select.POLLIN)
        for port in self.poller.ports:
            writable = select.POLLOUT if port.blocked and port.device.wants_write else 0
            sleeper.register(port.device.fileno(), select.POLLIN | writable)
        milliseconds = None if timeout is None else min(MILLISECONDS_MAX, math.ceil(max(0.0, timeout) * 1000))
        if sleeper.poll(milliseconds):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bell)

    def _nudge_all(self) -> None:
        for waiter in self._waiters:
            waiter.nudge()

    def _ring(self) -> None:
        if self._bell >= 0:
            os.eventfd_write(self._bell, 1)
