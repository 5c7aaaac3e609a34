"""Serves a stack from a background thread, for programs that block.

Read first: driver.py.  The stack belongs to the thread while it polls, to a caller while it is inside `entered()`.
What a caller queued goes out before it leaves, so nothing waits for the thread to wake up.
"""

import atexit
import errno
import logging
import select
import threading

from swos_net.runtime.driver import LockedDriver, Waiter
from swos_net.runtime.poll import Poller

log = logging.getLogger(__name__)

POLLS_PER_TURN = 16  # before callers get theirs


class ThreadedRunner(LockedDriver):
    """`with ThreadedRunner(poller) as runner:` serves the devices until the block ends, then closes them."""

    def __init__(self, poller: Poller):
        super().__init__(poller)
        self._epoll = select.epoll()
        self._epoll.register(self._bell, select.EPOLLIN)
        self._masks: dict[int, int] = {}
        self._sleeping_until: float | None = 0.0
        self._stopping = False
        self._thread: threading.Thread | None = None

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
            now = self.clock()
            self.close_abandoned(now)
            if self._refusal is None:
                self._flush(now)
            self._stopping = True
            if self._refusal is None:
                self.refuse(errno.ENETDOWN, "the runner of this stack has been stopped")
            self._nudge_all()
        self._ring()
        if self._thread is not None:
            self._thread.join()
        atexit.unregister(self.stop)
        self._epoll.close()
        self._close()

    # As a driver

    def wake(self) -> None:
        self._ring()

    def forked(self) -> None:
        super().forked()
        self._thread = None

    def _wait_for(self, waiter: Waiter, deadline: float | None) -> None:
        timeout = -1.0
        if deadline is not None:
            timeout = min(max(0.0, deadline - self.clock()), threading.TIMEOUT_MAX)
        if not waiter.sleep(timeout):
            raise TimeoutError("timed out")

    def _leave(self) -> None:
        now = self.clock()
        if self._abandoned:
            self.close_abandoned(now)
        if not self._flush(now):
            return
        if self._thread is not None:
            self._follow_writability()  # the thread may sleep for long
        deadline = self.poller.next_deadline()
        asleep = self._sleeping_until
        if deadline is not None and (asleep is None or deadline < asleep):
            self._sleeping_until = deadline  # woken once is enough
            self._ring()

    def _flush(self, now: float) -> bool:
        """False when that showed the device to be gone: whoever is inside did nothing wrong, and hears of it in his own way."""
        try:
            self.poller.flush(now)
        except OSError as error:
            self._fail(error, now)
            self._ring()  # the thread has nothing to do any more
            return False
        return True

    def _fail(self, error: Exception, now: float) -> None:
        """A device that is gone, or a defect: either way nobody may wait for ever.  With the lock held, in an `except`."""
        log.exception("%s is no longer served", self.stack.name)
        self.refuse(errno.ENETDOWN, f"the device of this stack is gone: {error}")
        self.poller.failed(now)
        self._nudge_all()

    # The thread

    def _run(self) -> None:
        self._served_from_here()
        try:
            while not self._stopping and self._refusal is None:
                with self.lock:
                    now = self.clock()
                    self.close_abandoned(now)
                    for _ in range(POLLS_PER_TURN):
                        more = self.poller.poll(now)
                        if not more:
                            break
                    self._follow_writability()
                    deadline = 0.0 if more else self.poller.next_deadline()
                    self._sleeping_until = deadline
                timeout = -1.0 if deadline is None else max(0.0, deadline - self.clock())
                self._epoll.poll(timeout)
                self._silence()
        except Exception as error:
            with self.lock:
                self._fail(error, self.clock())

    def _follow_writability(self) -> None:
        for port in self.poller.ports:
            if not port.device.wants_write and self._masks[port.device.fileno()] == select.EPOLLIN:
                continue
            wanted = select.EPOLLIN | (select.EPOLLOUT if port.blocked and port.device.wants_write else 0)
            descriptor = port.device.fileno()
            if self._masks[descriptor] != wanted:
                self._masks[descriptor] = wanted
                self._epoll.modify(descriptor, wanted)
