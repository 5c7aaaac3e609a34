"""Turns of a transfer that are made while Python sleeps.  Read first: vhost/flow_turn.h."""

from collections.abc import Callable, Iterator
from math import inf

from swos_net._dataplane import ffi, lib
from swos_net.dataplane.batch import Batch
from swos_net.dataplane.burst import Burst
from swos_net.dataplane.tcp_flow import NEWS, FlowTable, LentFlow


Plans = tuple[bool, LentFlow | None, float]
"""(whether there is more to send than the batch; the flow whose timer is the first, if it is one's; when another follows)"""


class FlowTurn:
    """The turns of one device for the flows of one table, and what Python has to do after them."""

    __slots__ = ("_batch", "_burst", "_news", "_plans", "_table", "c", "ended")

    def __init__(self, table: FlowTable, burst: Burst, batch: Batch, plans: Callable[[], Plans], ended: Callable[[], None]):
        """`burst` and `batch` are those that the device is asked with otherwise; `plans()` is asked before a sleep;
        `ended()` is called, with nobody at work in any of them, when there have been turns."""
        self.c = ffi.new("flow_turn *", {"table": table.c, "burst": burst.c, "batch": batch.c, "look_at": inf, "remind_at": inf})
        self._table, self._burst, self._batch = table, burst, batch
        self._news = memoryview(ffi.buffer(self.c.news))
        self._plans = plans
        self.ended = ended

    def prepare(self, kick: int, back_kick: int | None) -> None:
        """Turns may follow: these are the kick descriptors of the guest's transmit and receive queue."""
        c = self.c
        c.kick, c.back_kick = kick, -1 if back_kick is None else back_kick
        c.output_waits, due, c.due_after = self._plans()
        c.due = ffi.NULL if due is None else due.c

    @property
    def knows_deadline(self) -> bool:
        """Whether it can tell when somebody has to look at the stack's timers."""
        return self.c.due != ffi.NULL

    def lead_through(self, link_number: int) -> None:
        """For flows through this interface alone, which is the device's."""
        self.c.link_number = link_number

    def moderate(self, bulk_bytes: int, rest_bytes: int, rest_min: float, rest_max: float) -> None:
        """After `bulk_bytes` the ring is left alone for a while, about as long as `rest_bytes` take; for at most `rest_max`
        seconds, 0 for never."""
        c = self.c
        c.bulk_bytes, c.rest_bytes, c.rest_min, c.rest_max = bulk_bytes, rest_bytes, rest_min, rest_max

    @property
    def left(self) -> int:
        """Frames of the burst that have to be looked at; those that count as taken have been taken in."""
        return self.c.left

    @property
    def made_at(self) -> float:
        """When the last turn was, by the stack's clock."""
        return self.c.made_at

    def news(self) -> Iterator[tuple[int, int]]:
        """(number, WRITABLE | EARLIER | OUTPUT) of flows; `told()` when they have heard it."""
        return NEWS.iter_unpack(self._news[: self.c.news_count * NEWS.size])

    def told(self) -> None:
        self.c.news_count = 0

    @property
    def owes_signal(self) -> bool:
        """Whether the guest may not know yet of chains that it has been given back; asks once."""
        owes, self.c.remind_at = self.c.remind_at < inf, inf
        return owes

    def counts(self) -> tuple[int, ...]:
        """Since it was last asked: (bursts, frames and bytes received, segments taken in, segments added; bursts, frames and
        bytes sent)."""
        c = self.c
        counts = (c.bursts_received, c.frames_received, c.bytes_received, c.segments_received, c.segments_added,
                  c.bursts_sent, c.frames_sent, c.bytes_sent)  # fmt: skip
        c.turns = c.bursts_received = c.frames_received = c.bytes_received = c.segments_received = c.segments_added = 0
        c.bursts_sent = c.frames_sent = c.bytes_sent = 0
        return counts
