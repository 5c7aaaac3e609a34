"""Serves a stack from a background thread, for programs that block.

The stack belongs to whoever holds `lock`: the thread while it polls, a caller while it is inside `entered()`.  What a
caller queued goes out before it leaves, so nothing waits for the thread to wake up.
"""

import contextlib
import errno
import logging
import os
import select
import threading
import weakref
from collections.abc import Iterator

from swos_net import clock
from swos_net.errors import os_error
from swos_net.runtime.poll import Poller

log = logging.getLogger(__name__)


class ThreadedRunner:
    """`with ThreadedRunner(poller) as runner:` serves the devices until the block ends, then closes them."""

    def __init__(self, poller: Poller):
        self.poller = poller
        self.stack = poller.stack
        self.lock = threading.RLock()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._masks: dict[int, int] = {}
        self._sleeping_until: float | None = 0.0
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._conditions: weakref.WeakSet[threading.Condition] = weakref.WeakSet()

    def __enter__(self) -> "ThreadedRunner":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def new_condition(self) -> threading.Condition:
        """A condition on the stack's lock, notified as well when the stack is no longer served."""
        condition = threading.Condition(self.lock)
        self._conditions.add(condition)
        return condition

    def start(self) -> None:
        for port in self.poller.ports:
            self._masks[port.device.fileno()] = select.EPOLLIN
            self._epoll.register(port.device.fileno(), select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name=f"swos_net {self.stack.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Sends what is ready, ends the thread and closes the devices; idempotent."""
        if self._stopping:
            return
        with self.lock:
            self.poller.flush(clock.monotonic())
            self._stopping = True
            self._notify()
        self.wake()
        if self._thread is not None:
            self._thread.join()
        for port in self.poller.ports:
            port.device.close()
        self._epoll.close()
        os.close(self._wake)

    @property
    def serving(self) -> bool:
        """Whether the stack still goes on."""
        return self._failure is None and not self._stopping

    def wake(self) -> None:
        """Makes the thread look again."""
        os.eventfd_write(self._wake, 1)

    @contextlib.contextmanager
    def entered(self) -> Iterator[float]:
        """The right to call the stack; gives `now`.  Output that appeared inside is sent on the way out.

        ENETDOWN when nobody serves the stack any more.
        """
        with self.lock:
            if self._failure is not None:
                raise os_error(errno.ENETDOWN, f"the device of this stack is gone: {self._failure}")
            if self._stopping:
                raise os_error(errno.ENETDOWN, "the runner of this stack has been stopped")
            now = clock.monotonic()
            try:
                yield now
            finally:
                if not self._stopping:
                    self._leave(now)

    def _leave(self, now: float) -> None:
        self.poller.flush(now)
        if self._thread is not None:
            self._follow_writability()  # the thread may sleep for long
        deadline = self.poller.next_deadline()
        asleep = self._sleeping_until
        if deadline is not None and (asleep is None or deadline < asleep):
            self.wake()

    def _notify(self) -> None:
        """Wakes everybody who waits; what they try next tells them why."""
        for condition in list(self._conditions):
            condition.notify_all()

    def _run(self) -> None:
        try:
            while not self._stopping:
                with self.lock:
                    now = clock.monotonic()
                    more = self.poller.poll(now)
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
                self._failure = error
                self.poller.failed(clock.monotonic())
                self._notify()

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
