"""Established TCP connections that the data plane looks after while nothing unusual happens.

Read first: vhost/tcp_flow.h.  What may be lent, and how it comes back, is said in tcp/lending.py.
"""

import struct
from collections.abc import Iterator
from math import inf

from swos_net._dataplane import ffi, lib
from swos_net.dataplane.batch import Batch, FlowPath
from swos_net.dataplane.burst import Burst
from swos_net.dataplane.byte_ring import ByteRing

READABLE = lib.FLOW_READABLE
WRITABLE = lib.FLOW_WRITABLE
OUTPUT = lib.FLOW_OUTPUT
EARLIER = lib.FLOW_EARLIER
NOT_MINE = lib.FLOW_NOT_MINE
TRANSMISSIONS = lib.FLOW_TRANSMISSIONS
KEY_LENGTH = 36
SCRATCH = 16384  # bytes; longer reads do not go through it

_FIELDS = ffi.typeof("flow_state").fields
FIELDS = tuple(name for name, _ in _FIELDS)  # in the order of `LentFlow.pack`
_STATE = struct.Struct("=" + "".join("d" if field.type.cname == "double" else "Q" for _, field in _FIELDS))
assert _STATE.size == ffi.sizeof("flow_state")
_NEWS = struct.Struct("=II")
_TRANSMISSION = struct.Struct("=QQd")


def new_ensemble():
    """A `flow_ensemble *`, and its address for C."""
    pointer = ffi.new("flow_ensemble *")
    return pointer, int(ffi.cast("uintptr_t", pointer))


class FlowTable:
    """The lent flows of one stack, by the 36 bytes that the decoder calls a frame's flow.

    `flows` keeps those alive that C has pointers to.
    """

    __slots__ = ("_news", "_owner", "c", "flows", "scratch", "scratch_view")

    def __init__(self, seed: int):
        self.c = lib.flow_table_new(seed)
        if self.c == ffi.NULL:
            raise MemoryError("no memory for a table of flows")
        self._owner = ffi.gc(self.c, lib.flow_table_free)
        self._news = memoryview(ffi.buffer(self.c.news))
        self.flows: set[LentFlow] = set()
        self.scratch = ffi.new("uint8_t[]", SCRATCH)
        self.scratch_view = ffi.buffer(self.scratch)

    def __len__(self) -> int:
        return len(self.flows)

    def receive(self, burst: Burst, now: float) -> tuple[int, int, Iterator[tuple[int, int]]]:
        """(segments taken, records left to Python, (number, news) of every flow that has any)."""
        c = self.c
        lib.flow_table_receive(c, burst.c, now)
        return c.segments, c.left, _NEWS.iter_unpack(self._news[: c.news_count * _NEWS.size])


class LentFlow:
    """One connection's row, and the queues that it refers to."""

    __slots__ = ("_state", "_table", "_transmissions", "c", "path", "receive_ring", "segments_before", "send_ring")

    def __init__(self, table: FlowTable, key: bytes, path: FlowPath):
        """`key`: local and remote address and port, as they lie on the wire."""
        self.c = ffi.new("tcp_flow *")
        self.c.key = key
        self.path = path
        self.send_ring: ByteRing | None = None
        self.receive_ring: ByteRing | None = None
        self.segments_before = 0  # that had come when it was lent
        self._table = table
        self._state = memoryview(ffi.buffer(ffi.addressof(self.c, "state")))
        self._transmissions = memoryview(ffi.buffer(self.c.transmissions))

    # Lending

    def add_to_table(self, number: int, scheduled: float | None) -> bool:
        """`number` names it in news; False when there is no memory."""
        self.c.number = number
        self.c.scheduled = inf if scheduled is None else scheduled
        if lib.flow_table_add(self._table.c, self.c) != 0:
            return False
        self._table.flows.add(self)
        return True

    def remove_from_table(self) -> None:
        lib.flow_table_remove(self._table.c, self.c)
        self._table.flows.discard(self)

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
        ring = self.receive_ring
        c = ring.c
        held = c.tail - c.head
        if length > held:
            length = held
        if length > SCRATCH:
            return ring.read(length), lib.flow_received(self.c)
        table = self._table
        news = lib.flow_read(self.c, table.scratch, length) >> 32
        return table.scratch_view[:length], news

    def receive_into(self, buffer, length: int | None) -> tuple[int, int]:
        """(bytes taken into a writable buffer, OUTPUT or 0)."""
        taken = self.receive_ring.read_into(buffer, length)
        return taken, lib.flow_received(self.c) if taken else 0

    @property
    def readable(self) -> int:
        """Bytes that `receive` would give."""
        c = self.receive_ring.c
        return c.tail - c.head

    @property
    def writable(self) -> bool:
        """Whether a writer should go on; if not, WRITABLE will follow."""
        return bool(lib.flow_writable(self.c))

    # Output and time

    def transmit(self, batch: Batch, now: float) -> int:
        """Adds what may go out now; how many segments that were in the low 8 bits, news << 8."""
        result = lib.flow_transmit(self.c, batch.c, batch.count, now)
        added = result & 255
        if added:
            batch.count += added
            batch.kept.append(self)
        return result

    def timed_out(self, now: float) -> bool:
        """Does what follows from a delayed acknowledgment's timer; False when another has expired."""
        return bool(lib.flow_timed_out(self.c, now))

    def next_deadline(self, scheduled: float | None) -> float | None:
        """The earliest timer; its owner looks after it then, or at `scheduled` if that is earlier."""
        deadline = lib.flow_deadline(self.c)
        self.c.scheduled = deadline if scheduled is None or deadline < scheduled else scheduled
        return None if deadline == inf else deadline
