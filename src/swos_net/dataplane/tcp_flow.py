"""Established TCP connections that the data plane looks after while nothing unusual happens.

Read first: vhost/tcp_flow.h.  What may be lent, and how it comes back, is said in tcp/lending.py.
"""

import struct
from collections.abc import Iterator
from math import inf

from swos_net._dataplane import ffi, lib
from swos_net.dataplane.batch import SEGMENTS, Batch, FlowPath
from swos_net.dataplane.burst import Burst
from swos_net.dataplane.byte_ring import ByteRing

READABLE = lib.FLOW_READABLE
WRITABLE = lib.FLOW_WRITABLE
OUTPUT = lib.FLOW_OUTPUT
EARLIER = lib.FLOW_EARLIER
NOT_MINE = lib.FLOW_NOT_MINE
TRANSMISSIONS = lib.FLOW_TRANSMISSIONS
BUCKETS_FIRST = 16

_FIELDS = ffi.typeof("flow_state").fields
FIELDS = tuple(name for name, _ in _FIELDS)  # in the order of `LentFlow.pack`
_STATE = struct.Struct("=" + "".join("d" if field.type.cname == "double" else "Q" for _, field in _FIELDS))
assert _STATE.size == ffi.sizeof("flow_state")
NEWS = struct.Struct("=II")
_TRANSMISSION = struct.Struct("=QQd")
_POINTERS = [struct.Struct(f"={count}Q") for count in range(SEGMENTS + 1)]
_allocate = ffi.new_allocator(should_clear_after_alloc=False)


def new_ensemble():
    """A `flow_ensemble *`, and its address for C."""
    pointer = ffi.new("flow_ensemble *")
    return pointer, int(ffi.cast("uintptr_t", pointer))


class FlowTable:
    """The lent flows of one stack, by the 36 bytes that the decoder calls a frame's flow.

    All of its memory is Python's, so that finalizers may use it at any time.
    """

    __slots__ = ("_buckets", "_flows", "_news", "_outgoing", "c")

    def __init__(self, seed: int):
        """`seed`: 64 bits that nobody outside knows."""
        self.c = ffi.new("flow_table *", {"seed": seed})
        self._news = memoryview(ffi.buffer(self.c.news))
        self._outgoing = memoryview(ffi.buffer(self.c.outgoing))
        self._flows: set[LentFlow] = set()  # C has pointers to them
        self._use_buckets(BUCKETS_FIRST)

    def __len__(self) -> int:
        return len(self._flows)

    def _use_buckets(self, count: int) -> None:
        buckets = ffi.new("tcp_flow *[]", count)
        lib.flow_table_use(self.c, buckets, count)
        self._buckets = buckets

    def add(self, flow: "LentFlow") -> None:
        """From now on its segments are taken in here."""
        if len(self._flows) >= self.c.bucket_count:
            self._use_buckets(2 * self.c.bucket_count)
        self._flows.add(flow)
        lib.flow_table_add(self.c, flow.c)

    def remove(self, flow: "LentFlow") -> None:
        """Idempotent."""
        lib.flow_table_remove(self.c, flow.c)
        self._flows.discard(flow)

    def receive(self, burst: Burst, now: float) -> tuple[int, int, Iterator[tuple[int, int]]]:
        """(segments taken, records left to Python, (number, news) of every flow that has any)."""
        c = self.c
        lib.flow_table_receive(c, burst.c, now)
        return c.segments, c.left, NEWS.iter_unpack(self._news[: c.news_count * NEWS.size])

    def transmit(self, flows: list["LentFlow"], batch: Batch, now: float) -> tuple[int, int, Iterator[tuple[int, int]]]:
        """Adds what at most SEGMENTS flows may send now: each in turn, once, as far as there is room.

        (segments added, flows it has been through, (index, news) of every flow that has any).  NOT_MINE is the last one's.
        """
        c = self.c
        _POINTERS[len(flows)].pack_into(self._outgoing, 0, *[flow.pointer for flow in flows])
        done = lib.flow_table_transmit(c, len(flows), batch.c, batch.count, now)
        added = c.segments
        if added:
            batch.count += added
            batch.kept += flows[:done]
        count = c.news_count
        return added, done, NEWS.iter_unpack(self._news[: count * NEWS.size]) if count else ()


class LentFlow:
    """One connection's row, and the queues that it refers to."""

    __slots__ = ("_state", "_transmissions", "c", "path", "pointer", "receive_ring", "segments_before", "send_ring")

    def __init__(self, key: bytes, path: FlowPath, number: int, scheduled: float | None):
        """`key`: local and remote address and port, as they lie on the wire; `number` names it in news; `scheduled`: when
        its owner looks after it at the latest."""
        self.c = ffi.new("tcp_flow *", {"key": key, "number": number, "scheduled": inf if scheduled is None else scheduled})
        self.pointer = int(ffi.cast("uintptr_t", self.c))
        self.path = path
        self.send_ring: ByteRing | None = None
        self.receive_ring: ByteRing | None = None
        self.segments_before = 0  # that had come when it was lent
        self._state = memoryview(ffi.buffer(ffi.addressof(self.c, "state")))
        self._transmissions = memoryview(ffi.buffer(self.c.transmissions))

    # Lending

    def pack(self, *values) -> None:
        """Sets every field, in the order of FIELDS."""
        _STATE.pack_into(self._state, 0, *values)

    def unpack(self) -> tuple:
        return _STATE.unpack_from(self._state)

    def set_transmissions(self, records: list[tuple[int, int, float]]) -> None:
        """(start, end, sent_at) of what is in flight, at most TRANSMISSIONS."""
        for index, record in enumerate(records):
            _TRANSMISSION.pack_into(self._transmissions, index * _TRANSMISSION.size, *record)
        self.c.transmission_count = len(records)

    def transmissions(self) -> Iterator[tuple[int, int, float]]:
        return _TRANSMISSION.iter_unpack(self._transmissions[: self.c.transmission_count * _TRANSMISSION.size])

    # The user's calls

    def send(self, data) -> int:
        """Queues bytes-like data; returns how many bytes there was room for."""
        if data.__class__ is not bytes:  # these cffi passes as they are, in less time
            data = ffi.from_buffer(data)
        return lib.flow_send(self.c, data, len(data))

    def send_file(self, descriptor: int, offset: int | None, length: int) -> int:
        """Queues bytes of a file; 0 when there is no room now or the file has ended."""
        taken = self.send_ring.fill_from_file(descriptor, offset, min(length, room)) if (room := self.send_room) else 0
        if not self.send_room:
            self.c.state.was_full = 1
        return taken

    @property
    def send_room(self) -> int:
        """Bytes that `send` would take now."""
        return max(self.c.state.send_limit - len(self.send_ring), 0)

    def receive(self, length: int) -> tuple[bytes, int]:
        """(up to `length` bytes, OUTPUT or 0)."""
        ring = self.receive_ring.c
        readable = ring.tail - ring.head
        if readable < length:
            length = readable
        buffer = _allocate("uint8_t[]", length)
        result = lib.flow_receive(self.c, buffer, length)  # less where a signal handler has read meanwhile
        return ffi.buffer(buffer, result >> 8)[:], result & OUTPUT

    def receive_into(self, buffer, length: int | None) -> tuple[int, int]:
        """(bytes taken into a writable buffer, OUTPUT or 0)."""
        target = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)
        result = lib.flow_receive(self.c, target, len(target) if length is None else min(length, len(target)))
        return result >> 8, result & OUTPUT

    @property
    def readable(self) -> int:
        """Bytes that `receive` would give."""
        c = self.receive_ring.c
        return c.tail - c.head

    @property
    def writable(self) -> bool:
        """Whether a writer should go on; if not, WRITABLE will follow."""
        return bool(lib.flow_writable(self.c))

    # Time

    def timed_out(self, now: float) -> bool:
        """Does what follows from a delayed acknowledgment's timer; False when another has expired."""
        return bool(lib.flow_timed_out(self.c, now))

    def next_deadline(self, scheduled: float | None) -> float | None:
        """The earliest timer.  For `Deadlines.schedule` alone, whose entry is `scheduled`: EARLIER is said of what comes
        before the earlier of the two."""
        deadline = lib.flow_deadline(self.c)
        self.c.scheduled = deadline if scheduled is None or deadline < scheduled else scheduled
        return None if deadline == inf else deadline
