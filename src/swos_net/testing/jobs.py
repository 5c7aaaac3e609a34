"""Calls in threads, in a network whose time only passes when nobody computes: what the loop of aio.py really waits for.

Read first: aio.py, runtime/driver.py.  Everything here is changed with the network's lock held.
"""

import errno
import threading
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from swos_net.errors import os_error
from swos_net.runtime.driver import ALWAYS


class Job:
    """One call in an executor."""

    __slots__ = ("cancelled", "finished", "function", "started")

    def __init__(self, function: Callable):
        self.function = function
        self.started = self.finished = self.cancelled = False


class Wait:
    """A job's thread that waits for a socket; a watcher of it."""

    __slots__ = ("core", "error", "gate", "job", "jobs", "mask", "over", "resting", "timer")

    def __init__(self, jobs: "Jobs", job: Job, core: Any, mask: int):
        self.jobs = jobs
        self.job = job
        self.core = core
        self.mask = mask | ALWAYS
        self.gate = threading.Lock()
        self.gate.acquire()
        self.resting = False  # whether time passes for it
        self.timer: TimerHandle | None = None
        self.error: OSError | None = None
        self.over = False

    def __call__(self, mask: int) -> None:
        if mask & self.mask:
            self.end()

    def end(self, error: OSError | None = None) -> None:
        """Has the thread go on: time stands still again until it waits or is done."""
        if not self.over:
            self.over = True
            self.error = error
            self.jobs.rises(self)
            self.gate.release()

    def time_out(self) -> None:
        """In the loop."""
        with self.jobs.lock:
            self.end(TimeoutError("timed out"))


class Jobs:
    """Those of one loop."""

    def __init__(self, lock: Any, loop: AbstractEventLoop):
        """`lock` is the network's."""
        self.lock = lock
        self.ending = False  # the executor's threads come to their end
        self._loop = loop
        self._running: set[Job] = set()
        self._waits: list[Wait] = []
        self._by_thread: dict[int, Job] = {}

    @property
    def awaited(self) -> bool:
        """Whether time stands still for them."""
        return bool(self._running) or self.ending and not self._waits

    def add(self, job: Job) -> None:
        """It is about to be handed to an executor."""
        with self.lock:
            self._running.add(job)

    def in_thread(self, job: Job) -> Callable:
        """What to call instead of the job's function, in its thread."""

        def work(*arguments: Any) -> Any:
            thread = threading.get_ident()
            with self.lock:
                job.started = True
                self._by_thread[thread] = job
            try:
                return job.function(*arguments)
            finally:
                with self.lock:
                    del self._by_thread[thread]
                    job.finished = True
                    if job.cancelled:  # otherwise time stands still until the loop has got the result
                        self._running.discard(job)
                        self._tell(_nothing)

        return work

    def returned(self, job: Job, cancelled: bool) -> None:
        """The loop has its result, or wants it no more; a thread that has begun is waited for all the same."""
        with self.lock:
            job.cancelled = cancelled
            if not cancelled or job.finished or not job.started:
                self._running.discard(job)

    # Threads that wait

    def wait(self, core: Any, mask: int, deadline: float | None) -> None:
        """As `Driver.wait`; RuntimeError in a thread without a job."""
        with self.lock:
            if core.poll() & (mask | ALWAYS):
                return
            job = self._by_thread.get(threading.get_ident())
            if job is None:
                raise RuntimeError("a call that blocks would stop time for all hosts: "
                                   "use asyncio's, or make it in a job, with asyncio.to_thread")  # fmt: skip
            wait = Wait(self, job, core, mask)
            core.watch(wait)
            self._waits.append(wait)
        try:
            self._loop.call_soon_threadsafe(self._rests, wait, deadline)
            wait.gate.acquire()
        finally:
            with self.lock:
                core.unwatch(wait)
                self._waits.remove(wait)
        if wait.error is not None:
            raise wait.error

    def _rests(self, wait: Wait, deadline: float | None) -> None:
        """In the loop: time may pass."""
        with self.lock:
            if wait.over:
                return
            if deadline is not None:
                wait.timer = self._loop.call_at(max(deadline, self._loop.time()), wait.time_out)
            wait.resting = True
            self._running.discard(wait.job)

    def rises(self, wait: Wait) -> None:
        """The wait is over."""
        if wait.resting:
            self._running.add(wait.job)
        if wait.timer is not None:
            self._tell(wait.timer.cancel)

    def socket_closed(self, core: Any) -> None:
        """Who waits for it learns of that."""
        with self.lock:
            for wait in list(self._waits):
                if wait.core is core:
                    wait.end()

    def interrupt(self) -> bool:
        """Has everybody who waits fail with ECANCELED; whether anybody does."""
        with self.lock:
            for wait in self._waits:
                wait.end(os_error(errno.ECANCELED, "the run has ended"))
            return bool(self._waits)

    def _tell(self, call: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call)


def _nothing() -> None:
    """A reason for the loop to look."""
