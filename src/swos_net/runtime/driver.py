"""Who serves a stack, as seen by those who use it: exclusive entry, and waiting for a socket.

`runtime.threaded.ThreadedRunner` is a driver for programs that block; an event loop can be another.  `Stack.driver`
names the one that serves a stack.  `LockedDriver` is what those with a lock, devices and threads that wait have in
common.  Read next: threaded.py.
"""

import abc
import contextlib
import errno
import os
import select
import weakref
from _thread import RLock, allocate_lock
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from swos_net import clock
from swos_net.dataplane.prompt import Prompt
from swos_net.dataplane.processor import run_promptly
from swos_net.device.base import PromptDevice
from swos_net.errors import os_error
from swos_net.runtime.poll import Poller

ALWAYS = select.POLLERR | select.POLLHUP | select.POLLNVAL  # poll(2) reports these asked or not

# fork copies every stack at once and tells nobody in particular
_drivers: weakref.WeakSet["Driver"] = weakref.WeakSet()


class Driver(abc.ABC):
    """Serves one stack; its constructor makes it known as `stack.driver`.

    `descriptors` maps a kernel descriptor that mirrors a socket's readiness to its mirror (see `socket.readiness`).
    `clock()` is the stack's `now`, and what the deadlines of `wait` are reckoned from.
    """

    clock: Callable[[], float] = staticmethod(clock.monotonic)

    def __init__(self, stack: Any):
        self.stack = stack
        self.descriptors: dict[int, Any] = {}
        self._abandoned: deque[Any] = deque()
        self._refusal: tuple[int, str] | None = None
        stack.driver = self
        _drivers.add(self)

    @abc.abstractmethod
    def entered(self) -> AbstractContextManager[float]:
        """The exclusive right to call the stack, for a `with` block; gives `now`.  May be nested.

        What was queued inside is on its way when the block ends.  ENETDOWN when nobody serves the stack any more, and
        in a process that was forked from the one that serves it.
        """

    @abc.abstractmethod
    def wait(self, core: Any, mask: int, deadline: float | None) -> None:
        """Blocks the calling thread until `core.poll()` has a bit of `mask`, POLLERR or POLLHUP.

        Returns as well when the socket was closed or the stack is no longer served: the caller tries again and learns
        why.  TimeoutError once the clock has passed `deadline`; None waits for ever.  Not to be called inside
        `entered()`.
        """

    @abc.abstractmethod
    def wake(self) -> None:
        """Makes who serves the stack look at it again; for any thread, and for finalizers."""

    def woken(self, core: Any) -> None:
        """Ends every `wait` for a socket that has been closed.  Called inside `entered()`."""

    @property
    def serving(self) -> bool:
        """Whether the stack still goes on."""
        return self._refusal is None

    def abandon(self, core: Any) -> None:
        """Closes a socket that nobody refers to any more, soon.

        A finalizer calls this; it may run at any point of the program, inside the stack too, and so does not enter.
        """
        self._abandoned.append(core)
        if self._refusal is None:
            self.wake()

    def close_abandoned(self, now: float) -> None:
        """To be called by the driver inside the stack, whenever it looks."""
        abandoned = self._abandoned
        while abandoned:
            abandoned.popleft().close(now)

    def refuse(self, code: int, advice: str) -> None:
        """From now on `entered()` raises this."""
        self._refusal = code, advice

    def check_serving(self) -> None:
        """Raises why the stack is no longer served, if it is not."""
        if self._refusal is not None:
            raise os_error(*self._refusal)

    def forked(self) -> None:
        """Called in the child after a fork, where the stack is a copy that must not speak for the parent's."""
        self.refuse(errno.ENETDOWN, "this process was forked from the one that serves the stack: open another stack here")
        self._abandoned.clear()


class Entry:
    """What `LockedDriver.entered()` gives: one object for all, its state is the lock's owner's."""

    __slots__ = ("_driver",)

    def __init__(self, driver: "LockedDriver"):
        self._driver = driver

    def __enter__(self) -> float:
        driver = self._driver
        if driver._refusal is not None:  # before the lock, which a fork may have left locked for ever
            driver.check_serving()
        driver.lock.__enter__()
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


class Waiter:
    """One thread that waits for one socket, a watcher of it."""

    __slots__ = ("_gate", "_mask", "ready", "turns")

    def __init__(self, mask: int):
        self.ready = False
        self.turns: int | None = None  # of those who serve the stack, when they were last looked at
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

    def sleep(self, timeout: float) -> bool:
        """False when `timeout` seconds have passed; -1 is for ever.  A signal's handler runs, and may raise."""
        return self._gate.acquire(True, timeout)


class StackLock(RLock):
    """Whoever holds it, by a `with` statement, has the stack and its devices for himself: those that do something in
    somebody's sleep have stopped."""

    __slots__ = ("answering",)

    def __init__(self) -> None:
        self.answering: list[Prompt] = []  # what answers for the stack while somebody sleeps

    def __enter__(self) -> bool:
        self.acquire()
        if self.answering:
            try:
                self.end_answering()
            except BaseException:
                self.release()
                raise
        return True

    def end_answering(self) -> None:
        for prompt in self.answering:
            prompt.close()
        self.answering.clear()


class LockedDriver(Driver):
    """Serves the devices of one stack, which belongs to whoever holds `lock`.

    Who waits for a socket sleeps on a lock of its own, which a watcher inside the stack opens; nobody sleeps with the
    stack's lock held.
    """

    def __init__(self, poller: Poller, time: Callable[[], float] = clock.monotonic):
        """`time` is the stack's `now`."""
        super().__init__(poller.stack)
        self.poller = poller
        self.clock = time
        self.lock = StackLock()
        self._depth = 0  # of `entered()`
        self._entry = Entry(self)
        self._waiters: dict[Waiter, Any] = {}  # what each waits for
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # wakes the thread that sleeps on the devices

    def entered(self) -> Entry:
        return self._entry

    def begin_answering(self, prompts: Iterable[Prompt]) -> None:
        """Lets devices answer what they can by themselves, for who is about to sleep; not while the stack is in use."""
        if self.lock.acquire(False):
            try:
                answering = self.lock.answering
                self.lock.end_answering()  # what another loop has begun
                held = any(port.held for port in self.poller.ports)
                for prompt in prompts if self._refusal is None and not held else ():
                    if prompt not in answering:
                        answering.append(prompt)  # first of all, so that it is closed whatever happens
                    prompt.open(self.clock is clock.monotonic)
            finally:
                self.lock.release()

    @abc.abstractmethod
    def _leave(self) -> None:
        """The outermost `entered()` ends: sends what was queued.  Not called once the stack is no longer served."""

    def wait(self, core: Any, mask: int, deadline: float | None) -> None:
        waiter = Waiter(mask | ALWAYS)
        with self._entry:
            if core.poll() & (mask | ALWAYS):
                return
            core.watch(waiter)
            self._waiters[waiter] = core
            self._wait_begins()
        try:
            self._wait_for(waiter, deadline)
        finally:
            with self.lock:
                core.unwatch(waiter)
                self._waiters.pop(waiter, None)

    def _wait_begins(self) -> None:
        """There is one more waiter.  Called inside `entered()`."""

    @abc.abstractmethod
    def _wait_for(self, waiter: Waiter, deadline: float | None) -> None:
        """Sleeps until the waiter's socket is ready or the stack no longer served; TimeoutError after `deadline`."""

    def woken(self, core: Any) -> None:
        for waiter, waited_for in self._waiters.items():
            if waited_for is core:
                waiter(ALWAYS)

    def _served_from_here(self) -> None:
        """The calling thread serves the stack from now on: while it has not run, a guest waits."""
        if any(isinstance(port.device, PromptDevice) for port in self.poller.ports):
            run_promptly()

    def _nudge_all(self) -> None:
        """Has everybody who waits look again; with the lock held."""
        for waiter in self._waiters:
            waiter.nudge()

    def forked(self) -> None:
        super().forked()
        # its owner, if any, is a thread that this process does not have
        self.lock = StackLock()
        for port in self.poller.ports:
            if isinstance(port.device, PromptDevice):
                port.device.prompt.forget()  # nobody sleeps here
        self._depth = 0
        self._waiters.clear()

    def _ring(self) -> None:
        """Wakes who sleeps on the devices; nothing once they are closed."""
        if self._bell >= 0:
            os.eventfd_write(self._bell, 1)

    def _silence(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def _close(self) -> None:
        self.lock.end_answering()
        for port in self.poller.ports:
            port.device.close()
        bell, self._bell = self._bell, -1
        os.close(bell)


def drivers() -> list[Driver]:
    """All that live in this process."""
    return list(_drivers)


def _after_fork_in_child() -> None:
    for driver in drivers():
        driver.forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
