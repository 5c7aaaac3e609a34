"""A heap of (deadline, endpoint) behind `Stack.next_deadline()`.

Most deadlines move later all the time (every ACK moves a retransmission timeout).  An entry therefore stays where it
is until it comes up, and is then compared with what its owner says by now.
"""

import heapq
from collections.abc import Iterator
from itertools import count
from math import inf
from typing import Any


class Deadlines:
    """Owners have `next_deadline()` and an attribute `scheduled` (a float or None) that belongs to this class."""

    __slots__ = ("_heap", "_live", "_order")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Any]] = []
        self._live = 0  # owners that are scheduled
        self._order = count()

    def __len__(self) -> int:
        """Entries, those that count no more included."""
        return len(self._heap)

    def schedule(self, owner: Any) -> None:
        """To be called whenever the owner's deadline may have become earlier."""
        deadline = owner.next_deadline()
        if deadline is not None and (owner.scheduled is None or deadline < owner.scheduled):
            if owner.scheduled is None:
                self._live += 1
            owner.scheduled = deadline
            heapq.heappush(self._heap, (deadline, next(self._order), owner))
            self._trim()

    def forget(self, owner: Any) -> None:
        """For an owner that is gone: it is not kept alive until a deadline that may be hours away."""
        if owner.scheduled is not None:
            owner.scheduled = None
            self._live -= 1
            self._trim()

    def _trim(self) -> None:
        """Takes out entries that count no more once they are the greater part."""
        if len(self._heap) > 2 * self._live + 64:
            self._heap = [entry for entry in self._heap if entry[0] == entry[2].scheduled]
            heapq.heapify(self._heap)

    def next_deadline(self) -> float | None:
        """Never late, perhaps early: an early wake-up only moves the entry."""
        heap = self._heap
        while heap and heap[0][0] != heap[0][2].scheduled:
            heapq.heappop(heap)  # replaced by an earlier entry of the same owner
        return heap[0][0] if heap else None

    def due_at(self, now: float) -> bool:
        """Whether a deadline has really come; entries that have moved later go to their places."""
        while self._heap and self._heap[0][0] <= now:
            deadline, _, owner = self._heap[0]
            if owner.scheduled != deadline:
                heapq.heappop(self._heap)
                continue
            actual = owner.next_deadline()
            if actual is not None and actual <= now:
                return True
            heapq.heappop(self._heap)
            owner.scheduled = None
            self._live -= 1
            self.schedule(owner)
        return False

    def first_two(self) -> tuple[Any, float]:
        """(the owner of the next deadline, or None; a time before which no other comes)."""
        if self.next_deadline() is None:
            return None, inf
        heap = self._heap
        return heap[0][2], min((entry[0] for entry in heap[1:3]), default=inf)

    def due(self, now: float) -> Iterator[Any]:
        """Owners whose deadline has really come; each is off the heap and must be scheduled again."""
        while self.due_at(now):
            owner = heapq.heappop(self._heap)[2]
            owner.scheduled = None
            self._live -= 1
            yield owner
