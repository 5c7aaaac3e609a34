"""A burst of received frames, decoded by C into flat records."""

import struct
from collections.abc import Iterator
from enum import IntEnum, IntFlag

from swos_net._dataplane import ffi, lib

FRAMES = lib.BURST_FRAMES

# frame_record, field by field; the flow is local and remote address and port as they lie on the wire
_RECORD = struct.Struct("=36sHHBBBBBBHHHHHIIIIIIHHIH2x")
assert _RECORD.size == ffi.sizeof("frame_record")


class DropReason(IntEnum):
    """Why a frame was not delivered; the first ones are the verdicts of the C decoder."""

    NONE = lib.FRAME_OK
    TRUNCATED = lib.FRAME_TRUNCATED
    BAD_ETHERTYPE = lib.FRAME_BAD_ETHERTYPE
    BAD_IP_VERSION = lib.FRAME_BAD_IP_VERSION
    BAD_IP_HEADER = lib.FRAME_BAD_IP_HEADER
    BAD_IP_CHECKSUM = lib.FRAME_BAD_IP_CHECKSUM
    BAD_EXTENSION = lib.FRAME_BAD_EXTENSION
    BAD_TRANSPORT_HEADER = lib.FRAME_BAD_TRANSPORT_HEADER
    BAD_TRANSPORT_CHECKSUM = lib.FRAME_BAD_TRANSPORT_CHECKSUM
    BAD_OPTIONS = lib.FRAME_BAD_OPTIONS
    HEADERS_TOO_LONG = lib.FRAME_HEADERS_TOO_LONG
    BAD_OFFLOAD = lib.FRAME_BAD_OFFLOAD
    BAD_SOURCE = lib.FRAME_BAD_SOURCE
    MERGED = lib.FRAME_MERGED  # no fault, as the next
    TAKEN = lib.FRAME_TAKEN
    NOT_FOR_US = 32
    NO_SOCKET = 33
    NOT_ALLOWED = 34
    QUEUE_FULL = 35
    BAD_ARP = 36
    BAD_ICMP = 37
    BAD_FRAGMENT = 38
    TOO_MANY = 39


class FrameFlag(IntFlag):
    """frame_record.flags"""

    LINK_BROADCAST = lib.FRAME_LINK_BROADCAST
    LINK_MULTICAST = lib.FRAME_LINK_MULTICAST
    FRAGMENT = lib.FRAME_FRAGMENT
    HOP_BY_HOP = lib.FRAME_HOP_BY_HOP_ALERT
    UNKNOWN_PROTOCOL = lib.FRAME_UNKNOWN_PROTOCOL
    CHECKSUM_TRUSTED = lib.FRAME_CHECKSUM_TRUSTED


class Burst:
    """Up to FRAMES frames.  A device fills it, the stack reads it, the device takes its buffers back."""

    __slots__ = ("_owner", "_records", "c", "kept", "more")

    def __init__(self, arena: bool = True):
        """`arena`: with memory of its own, for devices that read frames from a descriptor."""
        self.c = lib.burst_new(arena)
        if self.c == ffi.NULL:
            raise MemoryError("no memory for a burst of frames")
        self._owner = ffi.gc(self.c, lib.burst_free)
        self._records = memoryview(ffi.buffer(self.c.records))
        self.kept: list = []
        self.more = True

    def __len__(self) -> int:
        return self.c.count

    def clear(self) -> None:
        lib.burst_clear(self.c)
        if self.kept:
            self.kept.clear()
        self.more = True

    def records(self) -> Iterator[tuple]:
        """One tuple per frame, in the order of `frame_record` (flow first)."""
        return _RECORD.iter_unpack(self._records[: self.c.count * _RECORD.size])

    def merge_runs(self) -> None:
        """Joins segments of one flow that continue each other: one record then stands for several frames."""
        lib.burst_merge_runs(self.c)

    def add(self, frame, medium: int, *, checksum: int = 0, gso_type: int = 0, gso_size: int = 0) -> bool:
        """Adds one frame from a buffer that is kept alive with the burst; False when the burst is full."""
        view = ffi.from_buffer(frame)
        self.kept.append(view)
        return lib.burst_add_bytes(self.c, view, len(frame), (checksum, gso_type, gso_size), medium) >= 0

    def copy(self, index: int, offset: int, length: int) -> bytes:
        """Bytes of frame `index` from `offset`, as many of `length` as there are."""
        buffer = ffi.new("uint8_t[]", length)
        return ffi.buffer(buffer, lib.burst_copy(self.c, index, offset, length, buffer))[:]

    def header(self, index: int, start: int, end: int) -> bytes:
        """Bytes of the checked header copy (at most its first 256)."""
        return ffi.buffer(self.c.headers[index])[start:end]

    def echo_reply(self, index: int, medium: int, hop_limit: int) -> bytes | None:
        """The frame that answers echo request `index`, or None when it is no plain one."""
        buffer = ffi.new("uint8_t[]", self.c.records[index].frame_length)
        length = lib.burst_echo_reply(self.c, index, medium, hop_limit, buffer)
        return ffi.buffer(buffer)[:] if length else None

    def offload(self, index: int) -> tuple[int, int, int]:
        """(checksum state, gso_type, gso_size) as the link gave them."""
        meta = self.c.offloads[index]
        return meta.checksum, meta.gso_type, meta.gso_size


class FramePayload:
    """Payload that still lies where the device put it; valid until the burst is released."""

    __slots__ = ("burst", "index", "length", "offset")

    def __init__(self, burst, index: int, offset: int, length: int):
        self.burst = burst
        self.index = index
        self.offset = offset
        self.length = length

    def __len__(self) -> int:
        return self.length

    def append_to(self, ring, skip: int, length: int) -> int:
        """Copies payload[skip : skip + length] to the ring's tail; returns how much fitted."""
        return lib.burst_append_to_ring(self.burst, self.index, self.offset + skip, length, ring.c)

    def store_in(self, ring, position: int, skip: int, length: int) -> int:
        """Copies payload[skip : skip + length] to a position of the ring, out of order."""
        return lib.burst_to_ring(self.burst, self.index, self.offset + skip, length, ring.c, position)

    def tobytes(self) -> bytes:
        buffer = ffi.new("uint8_t[]", self.length)
        return ffi.buffer(buffer, lib.burst_copy(self.burst, self.index, self.offset, self.length, buffer))[:]


class BytesPayload:
    """The same for bytes in hand (a reassembled datagram, a test)."""

    __slots__ = ("data",)

    def __init__(self, data: bytes):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def append_to(self, ring, skip: int, length: int) -> int:
        return ring.write(self.data[skip : skip + length])

    def store_in(self, ring, position: int, skip: int, length: int) -> int:
        return ring.store(position, self.data[skip : skip + length])

    def tobytes(self) -> bytes:
        return bytes(self.data)
