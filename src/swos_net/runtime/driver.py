"""Who serves a stack, as seen by those who use it: exclusive entry, and waiting for a socket.

`runtime.threaded.ThreadedRunner` is a driver for programs that block; an event loop can be another.  `Stack.driver`
names the one that serves a stack.  Read next: threaded.py.
"""

import abc
import errno
import os
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from swos_net import clock
from swos_net.errors import os_error

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


def drivers() -> list[Driver]:
    """All that live in this process."""
    return list(_drivers)


def _after_fork_in_child() -> None:
    for driver in drivers():
        driver.forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
