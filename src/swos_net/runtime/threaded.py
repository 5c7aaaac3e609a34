"""Serves a stack from a background thread, for programs that block.

The stack belongs to whoever holds `lock`: the thread while it polls, a caller while it is inside `entered()`.  What a
caller queued goes out before it leaves, so nothing waits for the thread to wake up.  Who waits for a socket sleeps on
a lock of its own, which a watcher inside the stack opens; nobody sleeps with the stack's lock held.
"""

import atexit
import contextlib
import errno
import logging
import os
import select
import threading
from _thread import allocate_lock
from typing import Any

from swos_net import clock
from swos_net.runtime.driver import Driver
from swos_net.runtime.poll import Poller

log = logging.getLogger(__name__)

POLLS_PER_TURN = 16  # before callers get theirs
ALWAYS = select.POLLERR | select.POLLHUP | select.POLLNVAL  # poll(2) reports these asked or not


class _Entry:
    """What `entered()` gives: one object for all, its state is the lock's owner's."""

    __slots__ = ("_runner",)

    def __init__(self, runner: "ThreadedRunner"):
        self._runner = runner

    def __enter__(self) -> float:
        runner = self._runner
        if runner._refusal is not None:  # before the lock, which a fork may have left locked for ever
            runner.check_serving()
        runner.lock.acquire()
        if runner._refusal is not None:
            runner.lock.release()
            runner.check_serving()
        runner._depth += 1
        return clock.monotonic()

    def __exit__(self, *exception: object) -> None:
        runner = self._runner
        try:
            if runner._depth == 1 and runner._refusal is None:
                runner._leave(clock.monotonic())
        finally:
            runner._depth -= 1
            runner.lock.release()


class _Waiter:
    """One thread that waits for one socket; called as a watcher of that socket."""

    __slots__ = ("_gate", "_mask")

    def __init__(self, mask: int):
        self._mask = mask
        self._gate = allocate_lock()
        self._gate.acquire()

    def __call__(self, mask: int) -> None:
        if mask & self._mask:
            self.open()

    def open(self) -> None:
        """With the stack's lock held."""
        if self._gate.locked():
            self._gate.release()

    def sleep(self, timeout: float) -> bool:
        """False when `timeout` seconds have passed; -1 is for ever.  A signal's handler runs, and may raise."""
        return self._gate.acquire(True, timeout)


class ThreadedRunner(Driver):
    """`with ThreadedRunner(poller) as runner:` serves the devices until the block ends, then closes them."""

    def __init__(self, poller: Poller):
        super().__init__(poller.stack)
        self.poller = poller
        self.lock = threading.RLock()
        self._entry = _Entry(self)
        self._depth = 0
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._masks: dict[int, int] = {}
        self._sleeping_until: float | None = 0.0
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._waiters: dict[_Waiter, Any] = {}

    def __enter__(self) -> "ThreadedRunner":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        for port in self.poller.ports:
            self._masks[port.device.fileno()] = select.EPOLLIN
            self._epoll.register(port.device.fileno(), select.EPOLLIN)
        atexit.register(self.stop)  # a thread inside the stack while the interpreter goes would keep its lock
        self._thread = threading.Thread(target=self._run, name=f"swos_net {self.stack.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Sends what is ready, ends the thread and closes the devices; idempotent.  Nothing in a forked child."""
        if self._stopping or self._refusal is not None and self._thread is None:
            return
        with self.lock:
            now = clock.monotonic()
            self.close_abandoned(now)
            self.poller.flush(now)
            self._stopping = True
            if self._refusal is None:
                self.refuse(errno.ENETDOWN, "the runner of this stack has been stopped")
            self._open_all()
        self.wake()
        if self._thread is not None:
            self._thread.join()
        atexit.unregister(self.stop)
        for port in self.poller.ports:
            port.device.close()
        self._epoll.close()
        wake, self._wake = self._wake, -1
        os.close(wake)

    # As a driver

    def entered(self) -> _Entry:
        return self._entry

    def wait(self, core: Any, mask: int, deadline: float | None) -> None:
        waiter = _Waiter(mask | ALWAYS)
        with self._entry:
            if core.poll() & (mask | ALWAYS):
                return
            core.watch(waiter)
            self._waiters[waiter] = core
        try:
            timeout = -1.0
            if deadline is not None:
                timeout = min(max(0.0, deadline - clock.monotonic()), threading.TIMEOUT_MAX)
            if not waiter.sleep(timeout):
                raise TimeoutError("timed out")
        finally:
            with self.lock:
                core.unwatch(waiter)
                self._waiters.pop(waiter, None)

    def woken(self, core: Any) -> None:
        for waiter, waited_for in self._waiters.items():
            if waited_for is core:
                waiter.open()

    def wake(self) -> None:
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def forked(self) -> None:
        super().forked()
        # its owner, if any, is a thread that this process does not have
        self.lock = threading.RLock()
        self._thread = None
        self._waiters.clear()

    def _open_all(self) -> None:
        """Wakes everybody who waits; what they try next tells them why."""
        for waiter in self._waiters:
            waiter.open()

    def _leave(self, now: float) -> None:
        if self._abandoned:
            self.close_abandoned(now)
        self.poller.flush(now)
        if self._thread is not None:
            self._follow_writability()  # the thread may sleep for long
        deadline = self.poller.next_deadline()
        asleep = self._sleeping_until
        if deadline is not None and (asleep is None or deadline < asleep):
            self._sleeping_until = deadline  # woken once is enough
            self.wake()

    # The thread

    def _run(self) -> None:
        try:
            while not self._stopping:
                with self.lock:
                    now = clock.monotonic()
                    self.close_abandoned(now)
                    for _ in range(POLLS_PER_TURN):
                        more = self.poller.poll(now)
                        if not more:
                            break
                    self._follow_writability()
                    deadline = 0.0 if more else self.poller.next_deadline()
                    self._sleeping_until = deadline
                timeout = -1.0 if deadline is None else max(0.0, deadline - clock.monotonic())
                self._epoll.poll(timeout)
                self._drain_wake()
        except Exception as error:
            # a device that is gone, or a defect: either way nobody may wait for ever
            log.exception("%s is no longer served", self.stack.name)
            with self.lock:
                self.refuse(errno.ENETDOWN, f"the device of this stack is gone: {error}")
                self.poller.failed(clock.monotonic())
                self._open_all()

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _follow_writability(self) -> None:
        for port in self.poller.ports:
            if not port.device.wants_write and self._masks[port.device.fileno()] == select.EPOLLIN:
                continue
            wanted = select.EPOLLIN | (select.EPOLLOUT if port.blocked and port.device.wants_write else 0)
            descriptor = port.device.fileno()
            if self._masks[descriptor] != wanted:
                self._masks[descriptor] = wanted
                self._epoll.modify(descriptor, wanted)
