"""What a stack's watchers have to tell to callbacks of a loop: collected inside the stack, delivered outside.

A watcher runs inside the stack, perhaps in another thread's turn, where a protocol must not run.  It only puts its sink
here; the loop delivers at the place where it runs callbacks.
"""

from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any


class Sink:
    """Something to be called in a loop: `deliver()` in `context`, at most once for everything that came before.

    `pending` is the mask of what its watcher has been told since.
    """

    __slots__ = ("context", "pending", "queued")

    def __init__(self, context: Context):
        self.context = context
        self.pending = 0
        self.queued = False

    def deliver(self) -> None:
        raise NotImplementedError


class Deliveries:
    """The sinks of one loop that have something to tell, in order; `calls` are the calls of programs that wait for one."""

    __slots__ = ("_wake", "calls", "waiting")

    def __init__(self, wake: Callable[[], None]):
        """`wake()` is called inside the stack, for the first sink of a round; it must see to it that `run` is called."""
        self.waiting: deque[Any] = deque()
        self.calls: set[Any] = set()
        self._wake = wake

    def add(self, sink: Any) -> None:
        if not sink.queued:
            sink.queued = True
            self.waiting.append(sink)
            if len(self.waiting) == 1:
                self._wake()

    def run(self) -> None:
        """Delivers to those that wait: what is added by their callbacks is for the next turn."""
        waiting = self.waiting
        for _ in range(len(waiting)):
            sink = waiting.popleft()
            sink.queued = False
            sink.context.run(sink.deliver)

    def abandon(self) -> None:
        """The loop is closed: nobody is told anything more, and no stack refers to a call that waited in it."""
        while self.calls:
            self.calls.pop().abandon()
        self.waiting.clear()
