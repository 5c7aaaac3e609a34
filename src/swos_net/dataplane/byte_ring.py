"""The send or receive queue of one connection: bytes addressed by absolute position."""

from swos_net._dataplane import ffi, lib
from swos_net.errors import checked

CAPACITY_MIN = 4096
_allocate = ffi.new_allocator(should_clear_after_alloc=False)


class ByteRing:
    """A ring whose memory is only touched as it is used.

    Positions count bytes since the ring was made.  Bytes in [head, tail) are held in order; what `store` put
    beyond tail waits for `advance`.
    """

    __slots__ = ("_memory", "c", "capacity", "pointer")

    def __init__(self, capacity: int):
        """`capacity` in bytes is rounded up to a power of two.  MemoryError when there is none."""
        self.capacity = 1 << (max(capacity, CAPACITY_MIN) - 1).bit_length()
        self.c = ffi.new("byte_ring *")
        if lib.byte_ring_open(self.c, self.capacity) != 0:
            raise MemoryError(f"no memory for a ring of {self.capacity} bytes")
        # where all of a stack is garbage this may be closed while finalizers still look at the ring
        self._memory = ffi.gc(self.c, lib.byte_ring_close, self.capacity >> 6)
        self.pointer = int(ffi.cast("uintptr_t", self.c))

    def __len__(self) -> int:
        return self.c.tail - self.c.head

    @property
    def head(self) -> int:
        return self.c.head

    @property
    def tail(self) -> int:
        return self.c.tail

    @property
    def room(self) -> int:
        """Bytes that can be appended now."""
        return self.capacity - (self.c.tail - self.c.head)

    def write(self, data) -> int:
        """Appends bytes-like data; returns how many bytes fitted."""
        if data.__class__ is not bytes:  # these cffi passes as they are, in less time
            data = ffi.from_buffer(data)
        return lib.byte_ring_write(self.c, data, len(data))

    def store(self, position: int, data) -> int:
        """Puts bytes at a position without making them readable; returns how many lay inside the ring."""
        view = ffi.from_buffer(data)
        return lib.byte_ring_store(self.c, position, view, len(view))

    def advance(self, length: int) -> None:
        """Makes `length` stored bytes after tail readable."""
        lib.byte_ring_advance(self.c, length)

    def peek(self, length: int, offset: int = 0) -> bytes:
        """Up to `length` bytes from head + offset, which stay."""
        length = max(0, min(length, len(self) - offset))
        buffer = _allocate("uint8_t[]", length)
        lib.byte_ring_peek(self.c, offset, buffer, length)
        return ffi.buffer(buffer, length)[:]

    def peek_at(self, position: int, length: int) -> bytes:
        """`length` bytes from an absolute position in [head, tail)."""
        return self.peek(length, position - self.c.head)

    def read(self, length: int) -> bytes:
        """Takes up to `length` bytes."""
        c = self.c
        length = max(0, min(length, c.tail - c.head))
        buffer = _allocate("uint8_t[]", length)
        taken = lib.byte_ring_read(c, buffer, length)  # less where a signal handler has read meanwhile
        return ffi.buffer(buffer, taken)[:]

    def read_into(self, buffer, length: int | None = None) -> int:
        """Takes up to `length` (default: all of `buffer`) bytes into a writable buffer; returns how many."""
        target = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)
        return lib.byte_ring_read(self.c, target, len(target) if length is None else min(length, len(target)))

    def trim(self) -> bool:
        """Gives the memory of an empty ring back to the system; whether there was any."""
        return bool(lib.byte_ring_trim(self.c))

    def consume(self, length: int) -> None:
        lib.byte_ring_consume(self.c, length)

    def fill_from_file(self, descriptor: int, offset: int | None, length: int) -> int:
        """Appends file bytes without a Python object; 0 at end of file or when full, OSError on failure."""
        return checked(lib.byte_ring_fill_from_fd(self.c, descriptor, -1 if offset is None else offset, length))

    def drain_to_file(self, descriptor: int, length: int) -> int:
        """Writes bytes to a file and takes them; OSError on failure."""
        return checked(lib.byte_ring_drain_to_fd(self.c, descriptor, length))
