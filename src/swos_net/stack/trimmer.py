"""Gives back the memory of empty queues some time after traffic, so that thousands of connections that idle cost little.

A queue's memory is pages of the system: those that were written to stay until somebody says that they are not needed.
"""

INTERVAL = 2.0  # seconds from traffic to looking for what is empty
SLICE = 1000  # connections that are looked at in one go; the rest follows SLICE_PAUSE seconds later
SLICE_PAUSE = 0.01


class Trimmer:
    """One for a stack; rests while nothing arrives."""

    def __init__(self, stack):
        self.stack = stack
        self.scheduled: float | None = None
        self.resting = True
        self._due: float | None = None
        self._seen = 0  # segments that had arrived when it last began
        self._left: list = []

    def wake(self, now: float) -> None:
        """Something arrived."""
        self.resting = False
        self._seen = self.stack.counters["TcpInSegs"]
        self._due = now + INTERVAL
        self.stack.deadlines.schedule(self)

    def next_deadline(self) -> float | None:
        return self._due

    def handle_timeout(self, now: float) -> None:
        if not self._left:
            self._left = list(self.stack.tcp.flows.values())
        for _ in range(min(SLICE, len(self._left))):
            self._left.pop().trim(now - INTERVAL)
        arrived = self.stack.counters["TcpInSegs"]
        if self._left:
            self._due = now + SLICE_PAUSE
        elif arrived != self._seen:
            self._seen = arrived
            self._due = now + INTERVAL
        else:
            self.resting = True
            self._due = None
