"""The driver of a stack that event loops serve.

Read first: runtime/driver.py.  A loop sends and polls in its selector, where it sleeps anyway (see selector.py), or with
descriptors and a timer (runner.py).  Any thread may enter: the stack's lock is held for one call at a time, never while
a callback runs.  Who waits for a socket in a thread while no loop is at work serves the stack himself meanwhile.
"""

import errno
import math
import select
from _thread import get_ident
from collections.abc import Callable
from typing import Protocol

from swos_net import clock
from swos_net.runtime.driver import LockedDriver, Waiter
from swos_net.runtime.poll import Poller

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
        """The driver's device is gone for good; every connection has been told.  For any thread, inside the stack."""


class LoopDriver(LockedDriver):
    """Serves one stack from any number of event loops, one after another or at once.

    `lock` is to be held for every call into the stack, briefly: `with driver.lock: core.send(...)`.  What that leaves to
    be sent goes out when a loop of the thread goes to sleep; `entered()` sends it at once in threads without.
    """

    def __init__(self, poller: Poller, time: Callable[[], float] = clock.monotonic):
        """`time` is the stack's `now`, and that of the loops."""
        super().__init__(poller, time)
        self.more = False  # the last poll may have left something
        self._loops: list[tuple[int, ServingLoop]] = []  # those that run, with their threads
        self._leader: int | None = None  # the thread that serves the stack because no loop does
        self._stopped = False
        self._failure: OSError | None = None  # of a device that is gone

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
        self._served_from_here()
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
            if self._refusal is not None:
                return None
            try:
                self.poller.flush(now)
            except OSError as error:
                self._device_failed(error, now)
                return None
            return now if self.more else self.poller.next_deadline()

    def due_at(self, now: float) -> bool:
        """Whether the stack wants to be polled now."""
        with self.lock:
            return self.more or self._refusal is not None or self.poller.due_at(now)

    def poll(self, now: float) -> None:
        """Takes what has come and does what is due at `now`; `flush` follows when the callbacks have run."""
        with self.lock:
            if self._refusal is not None:
                self._tell_loops(self._failure or OSError(*self._refusal))
                return
            try:
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
            self.flush(now)
            if self._refusal is None:
                self._give_up("its loop has been stopped", now)
            if self._leader is None or self._leader == get_ident():
                self._close()
            else:
                self._ring()  # that thread sleeps on the descriptors: it closes them

    def finish(self, timeout: float) -> bool:
        """Serves the stack until closed connections have delivered what was sent; False after `timeout` seconds."""
        self._serve(lambda: not self.delivering, self.clock() + timeout)
        return not self.delivering

    @property
    def delivering(self) -> bool:
        """Whether what was sent by connections that are closed by now is still on its way."""
        with self.lock:
            return any(flow.delivering for flow in self.stack.tcp.flows.values())

    def _device_failed(self, error: OSError, now: float) -> None:
        """Gone for good: everybody hears of it, once.  With the lock held."""
        self._give_up(f"its device is gone: {error}", now)
        self._failure = error
        self._tell_loops(error)

    def _tell_loops(self, error: OSError) -> None:
        for _, loop in self._loops:
            loop.device_failed(self, error)

    def _give_up(self, why: str, now: float) -> None:
        self.refuse(errno.ENETDOWN, f"{self.stack.name} is no longer served: {why}")
        self.more = False
        self.poller.failed(now)
        self._nudge_all()
        if self._leader is not None:
            self._ring()

    # As a driver

    def wake(self) -> None:
        me = get_ident()
        for thread, loop in self._loops:
            if thread != me:  # a loop looks before it sleeps
                loop.wake()
        if self._leader is not None and self._leader != me:
            self._ring()

    def forked(self) -> None:
        super().forked()
        self._stopped = True  # the devices are the other process's, whose descriptors and socket these are
        self._loops.clear()
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

    def _wait_begins(self) -> None:
        self.flush(self.clock())  # the thread of a loop does not do that on its way out
        if self._leader is not None:
            self._ring()

    def _wait_for(self, waiter: Waiter, deadline: float | None) -> None:
        while not waiter.ready and self._refusal is None:
            if deadline is not None and self.clock() >= deadline:
                raise TimeoutError("timed out")
            if not self._lead(waiter, deadline):
                waiter.sleep(STUCK if deadline is None else min(STUCK, max(0.0, deadline - self.clock())))

    def _lead(self, waiter: Waiter, deadline: float | None) -> bool:
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

    def _served_elsewhere(self, waiter: Waiter) -> bool:
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
            self._silence()
