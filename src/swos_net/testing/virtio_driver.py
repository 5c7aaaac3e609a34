"""The driver's side of a virtio network device, in a guest whose memory is a memfd.  Read first: VIRTIO 1.2, 2.7.

`GuestRam` is the memory, `DriverQueue` one split virtqueue in it down to single descriptors (so that a test can lie
in any of them), `NetDriver` a well-behaved network driver over two of these.  Ring indices are stored with one
16-bit write each; there are no further barriers, so a device may run in another thread of this process, but timing
on weakly ordered machines is not what this models.
"""

import mmap
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntFlag

from swos_net._dataplane import ffi, lib

DESC_NEXT = 1
DESC_WRITE = 2
DESC_INDIRECT = 4
AVAIL_NO_INTERRUPT = 1
USED_NO_NOTIFY = 1

DESCRIPTOR = struct.Struct("<QIHH")  # address, length, flags, next
NET_HEADER = struct.Struct("<BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
PAGE = 4096


class Feature(IntFlag):
    """The feature bits that a ring or its frames depend on."""

    CSUM = 1 << lib.VIRTIO_NET_F_CSUM
    GUEST_CSUM = 1 << lib.VIRTIO_NET_F_GUEST_CSUM
    GUEST_TSO4 = 1 << lib.VIRTIO_NET_F_GUEST_TSO4
    GUEST_TSO6 = 1 << lib.VIRTIO_NET_F_GUEST_TSO6
    HOST_TSO4 = 1 << lib.VIRTIO_NET_F_HOST_TSO4
    HOST_TSO6 = 1 << lib.VIRTIO_NET_F_HOST_TSO6
    MRG_RXBUF = 1 << lib.VIRTIO_NET_F_MRG_RXBUF
    INDIRECT_DESC = 1 << lib.VIRTIO_F_INDIRECT_DESC
    EVENT_IDX = 1 << lib.VIRTIO_F_EVENT_IDX
    VERSION_1 = 1 << lib.VIRTIO_F_VERSION_1


@dataclass(frozen=True, slots=True)
class Region:
    """One entry of the memory table, as a front-end would send it."""

    guest_address: int
    size: int
    user_address: int
    offset: int


class GuestRam:
    """`size` bytes of guest memory from `guest_address`, in `regions` regions of equal size.

    Neighbours in guest-physical space are neighbours neither in the file nor in the front-end's address space, so
    a buffer that crosses a border is in two places for the device.
    """

    def __init__(self, size: int = 1 << 22, guest_address: int = 0x40000000, regions: int = 1,
                 user_address: int = 0x7F0000000000):  # fmt: skip
        """`size` is rounded up to whole pages per region."""
        part = -(-size // (regions * PAGE)) * PAGE
        self.size = part * regions
        self.guest_address = guest_address
        self.regions = [
            Region(guest_address + i * part, part, user_address + 2 * i * part, (regions - 1 - i) * part)
            for i in range(regions)
        ]
        self.fd = os.memfd_create("guest-ram", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, self.size)
        self._map = mmap.mmap(self.fd, self.size)
        self._view = ffi.from_buffer("uint8_t[]", self._map, require_writable=True)
        self._next = guest_address
        self._free: dict[int, list[int]] = {}

    def close(self) -> None:
        ffi.release(self._view)
        self._map.close()
        os.close(self.fd)

    def share_with(self, memory) -> None:
        """Adds all regions to a device's table (swos_net.dataplane.guest_memory.GuestMemory)."""
        for region in self.regions:
            memory.add(region.guest_address, region.size, region.user_address, region.offset, self.fd)

    def region_of(self, address: int) -> Region:
        """IndexError when the address is outside."""
        if address < self.guest_address:
            raise IndexError(f"{address:#x} is below the guest's memory")
        return self.regions[(address - self.guest_address) // self.regions[0].size]

    def user_address(self, address: int) -> int:
        """What the front-end calls this guest-physical address."""
        region = self.region_of(address)
        return region.user_address + address - region.guest_address

    def read(self, address: int, length: int) -> bytes:
        parts = []
        while length > 0:
            region = self.region_of(address)
            start = address - region.guest_address
            part = min(length, region.size - start)
            parts.append(self._map[region.offset + start : region.offset + start + part])
            address += part
            length -= part
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            region = self.region_of(address + done)
            start = address + done - region.guest_address
            part = min(len(data) - done, region.size - start)
            self._map[region.offset + start : region.offset + start + part] = data[done : done + part]
            done += part

    def image(self) -> bytes:
        """All of it, by guest address."""
        return self.read(self.guest_address, self.size)

    def index_at(self, address: int):
        """A `uint16_t *` for fields that the device reads while we write."""
        region = self.region_of(address)
        return ffi.cast("uint16_t *", self._view + (region.offset + address - region.guest_address))

    def allocate(self, length: int, align: int = 16) -> int:
        """A guest address for `length` bytes that `free` may get back; MemoryError when full."""
        size = _size_class(length)
        free = self._free.get(size)
        return free.pop() if free and align <= 16 else self._carve(size, align)

    def free(self, address: int, length: int) -> None:
        """Gives an allocation of that length back."""
        self._free.setdefault(_size_class(length), []).append(address)

    def reserve(self, length: int, align: int = 16) -> int:
        """A guest address for exactly `length` bytes in one region, for good; MemoryError when full."""
        part = self.regions[0].size
        start = -(-self._next // align) * align - self.guest_address
        if start % part + length > part:
            self._next = self.guest_address + -(-start // part) * part
        if length > part:
            raise MemoryError(f"no region of the guest's memory holds {length} bytes")
        return self._carve(length, align)

    def _carve(self, length: int, align: int) -> int:
        address = -(-self._next // align) * align
        if address + length > self.guest_address + self.size:
            raise MemoryError(f"no {length} bytes left in the guest's memory")
        self._next = address + length
        return address


def _size_class(length: int) -> int:
    return 1 << max(4, (length - 1).bit_length())


@dataclass(frozen=True, slots=True)
class Buffer:
    """What one descriptor points at."""

    address: int
    length: int
    writable: bool = False


class DriverQueue:
    """One split virtqueue as its driver keeps it.

    A chain is written by `add`, put into the available ring by `offer` and seen by the device after `publish`.
    """

    def __init__(self, ram: GuestRam, size: int = 256, *, event_idx: bool = False, base: int = 0):
        """`base` is where both indices start, as if so many chains had gone before."""
        self.ram = ram
        self.size = size
        self.event_idx = event_idx
        self.desc = ram.reserve(16 * size, 16)
        self.avail = ram.reserve(6 + 2 * size, 2)
        self.used = ram.reserve(6 + 8 * size, 4)
        ram.write(self.desc, bytes(16 * size))
        ram.write(self.avail, bytes(6 + 2 * size))
        ram.write(self.used, bytes(6 + 8 * size))
        self._avail_words = ram.index_at(self.avail)
        self._used_words = ram.index_at(self.used)
        self.free: deque[int] = deque(range(size))
        self.chains: dict[int, list[int]] = {}  # head: descriptors of the ring it holds
        self.tables: dict[int, tuple[int, int]] = {}  # head: address and length of its indirect table
        self.offered = base  # index after the last chain in the available ring
        self.published = base
        self.taken = base  # used elements we have seen
        self.avail_index = base
        self.used_index = base

    @property
    def addresses(self) -> tuple[int, int, int]:
        """Front-end-virtual addresses of descriptors, available and used ring, in the order of `Vring.start`."""
        return tuple(self.ram.user_address(part) for part in (self.desc, self.avail, self.used))

    # --- single fields ---

    @property
    def avail_index(self) -> int:
        return self._avail_words[1]

    @avail_index.setter
    def avail_index(self, value: int) -> None:
        self._avail_words[1] = value & 0xFFFF

    @property
    def used_index(self) -> int:
        return self._used_words[1]

    @used_index.setter
    def used_index(self, value: int) -> None:
        self._used_words[1] = value & 0xFFFF

    @property
    def avail_flags(self) -> int:
        return self._avail_words[0]

    @avail_flags.setter
    def avail_flags(self, value: int) -> None:
        self._avail_words[0] = value

    @property
    def used_flags(self) -> int:
        return self._used_words[0]

    @property
    def used_event(self) -> int:
        return self._avail_words[2 + self.size]

    @used_event.setter
    def used_event(self, value: int) -> None:
        """Asks for a signal when the device writes the used element of this index."""
        self._avail_words[2 + self.size] = value & 0xFFFF

    @property
    def avail_event(self) -> int:
        return self._used_words[2 + 4 * self.size]

    def set_descriptor(self, index: int, address: int, length: int, flags: int = 0, next_: int = 0) -> None:
        self.ram.write(self.desc + 16 * index, DESCRIPTOR.pack(address, length, flags, next_))

    def descriptor(self, index: int) -> tuple[int, int, int, int]:
        return DESCRIPTOR.unpack(self.ram.read(self.desc + 16 * index, 16))

    def used_element(self, index: int) -> tuple[int, int]:
        """(head, length) in the slot of a free-running index."""
        return struct.unpack("<II", self.ram.read(self.used + 4 + 8 * (index % self.size), 8))

    # --- whole chains ---

    def add(self, buffers: Sequence[Buffer], indirect: bool = False) -> int:
        """Writes a chain into free descriptors and returns its head; IndexError when there are too few."""
        if indirect:
            table = self.ram.allocate(16 * len(buffers))
            self.ram.write(table, indirect_table(buffers))
            head = self.free.popleft()
            self.set_descriptor(head, table, 16 * len(buffers), DESC_INDIRECT)
            self.chains[head] = [head]
            self.tables[head] = (table, 16 * len(buffers))
            return head
        if len(buffers) > len(self.free):
            raise IndexError(f"{len(self.free)} descriptors are free, a chain of {len(buffers)} does not fit")
        ids = [self.free.popleft() for _ in buffers]
        for i, (index, buffer) in enumerate(zip(ids, buffers, strict=True)):
            last = i + 1 == len(ids)
            flags = (DESC_WRITE if buffer.writable else 0) | (0 if last else DESC_NEXT)
            self.set_descriptor(index, buffer.address, buffer.length, flags, 0 if last else ids[i + 1])
        self.chains[ids[0]] = ids
        return ids[0]

    def offer(self, head: int) -> None:
        """Puts a head into the next slot of the available ring."""
        self._avail_words[2 + self.offered % self.size] = head
        self.offered += 1

    def publish(self) -> bool:
        """Makes all offered chains available; True when the device wants a kick (2.7.10)."""
        old, self.published = self.published, self.offered
        self.avail_index = self.offered
        if self.event_idx:
            return (self.offered - self.avail_event - 1) & 0xFFFF < (self.offered - old) & 0xFFFF
        return not self.used_flags & USED_NO_NOTIFY

    def submit(self, buffers: Sequence[Buffer], indirect: bool = False) -> int:
        """add, offer and publish of one chain; returns its head."""
        head = self.add(buffers, indirect)
        self.offer(head)
        self.publish()
        return head

    def take_used(self) -> list[tuple[int, int]]:
        """The used elements (head, length) since the last call; their descriptors are free again."""
        elements = []
        while self.taken & 0xFFFF != self.used_index:
            head, length = self.used_element(self.taken)
            self.taken += 1
            self.free.extend(self.chains.pop(head, ()))
            if head in self.tables:
                self.ram.free(*self.tables.pop(head))
            elements.append((head, length))
        return elements


def indirect_table(buffers: Sequence[Buffer]) -> bytes:
    """The table of an indirect descriptor, its entries chained in order."""
    return b"".join(
        DESCRIPTOR.pack(
            buffer.address,
            buffer.length,
            (DESC_WRITE if buffer.writable else 0) | (DESC_NEXT if i + 1 < len(buffers) else 0),
            i + 1 if i + 1 < len(buffers) else 0,
        )
        for i, buffer in enumerate(buffers)
    )


@dataclass(slots=True)
class NetHeader:
    """struct virtio_net_hdr (5.1.6)."""

    flags: int = 0
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0
    num_buffers: int = 0

    def pack(self, size: int = 12) -> bytes:
        """10 bytes, or 12 with num_buffers."""
        fields = (self.flags, self.gso_type, self.hdr_len, self.gso_size, self.csum_start, self.csum_offset)
        head = NET_HEADER.pack(*fields)
        return head + struct.pack("<H", self.num_buffers) if size == 12 else head

    @classmethod
    def unpack(cls, data: bytes) -> "NetHeader":
        """From 10 or 12 bytes."""
        return cls(*NET_HEADER.unpack_from(data), struct.unpack_from("<H", data, 10)[0] if len(data) >= 12 else 0)


class NetDriver:
    """A network driver with one receive and one transmit queue, for tests that want frames and not descriptors.

    `kick_receive` and `kick_transmit` are called when the device asked to be told of new buffers or frames.
    """

    def __init__(self, ram: GuestRam, features: int, size: int = 256, *, buffer_size: int = 1536,
                 kick_receive: Callable[[], object] = lambda: None,
                 kick_transmit: Callable[[], object] = lambda: None):  # fmt: skip
        """`buffer_size` is that of a receive buffer, header included."""
        self.ram = ram
        self.features = Feature(features)
        self.header_size = 12 if features & (Feature.VERSION_1 | Feature.MRG_RXBUF) else 10
        event_idx = bool(features & Feature.EVENT_IDX)
        self.receive_queue = DriverQueue(ram, size, event_idx=event_idx)
        self.transmit_queue = DriverQueue(ram, size, event_idx=event_idx)
        self.buffer_size = buffer_size
        self.kick_receive = kick_receive
        self.kick_transmit = kick_transmit
        self._sent: dict[int, tuple[int, int]] = {}  # head: address, length
        self._posted: dict[int, int] = {}  # head: address

    def post(self, count: int | None = None) -> int:
        """Offers receive buffers (default: as many as there are descriptors); returns how many."""
        queue = self.receive_queue
        count = len(queue.free) if count is None else min(count, len(queue.free))
        for _ in range(count):
            address = self.ram.allocate(self.buffer_size)
            head = queue.add([Buffer(address, self.buffer_size, True)])
            self._posted[head] = address
            queue.offer(head)
        if count and queue.publish():
            self.kick_receive()
        return count

    def receive(self, repost: bool = True) -> list[tuple[NetHeader, bytes]]:
        """Frames the device has delivered, each merged from its buffers; offers new buffers in their place."""
        queue = self.receive_queue
        frames = []
        rest = 0
        header, frame = NetHeader(), bytearray()
        for head, length in queue.take_used():
            address = self._posted.pop(head)
            data = self.ram.read(address, length)
            self.ram.free(address, self.buffer_size)
            if rest == 0:
                header = NetHeader.unpack(data[: self.header_size])
                frame = bytearray(data[self.header_size :])
                rest = header.num_buffers if self.features & Feature.MRG_RXBUF else 1
            else:
                frame += data
            rest -= 1
            if rest == 0:
                frames.append((header, bytes(frame)))
        if rest:
            raise AssertionError(f"the device published a frame that lacks {rest} buffers")
        if queue.event_idx:
            queue.used_event = queue.taken
        if repost and frames:
            self.post()
        return frames

    def send(self, frame: bytes, header: NetHeader | None = None, layout: Iterable[int] = (),
             indirect: bool = False) -> int:  # fmt: skip
        """Puts one frame into the transmit queue and returns its head.

        `layout` are the lengths of the first descriptors, header included; one more takes what is left.
        IndexError when there are too few free descriptors (call `reap` first).
        """
        data = (header or NetHeader()).pack(self.header_size) + frame
        layout = tuple(layout)
        if len(self.transmit_queue.free) < (1 if indirect else len(layout) + 1):
            raise IndexError("too few descriptors are free for another frame")
        address = self.ram.allocate(len(data))
        self.ram.write(address, data)
        head = self.transmit_queue.add(split(address, len(data), layout), indirect)
        self._sent[head] = (address, len(data))
        self.transmit_queue.offer(head)
        if self.transmit_queue.publish():
            self.kick_transmit()
        return head

    def reap(self) -> int:
        """Frees what the device has sent; returns how many frames."""
        used = self.transmit_queue.take_used()
        for head, _ in used:
            self.ram.free(*self._sent.pop(head))
        if self.transmit_queue.event_idx:
            self.transmit_queue.used_event = self.transmit_queue.taken
        return len(used)


def split(address: int, length: int, layout: Iterable[int] = (), writable: bool = False) -> list[Buffer]:
    """Buffers over `length` contiguous bytes: the lengths of `layout` first, then the rest."""
    buffers = []
    for part in layout:
        part = min(part, length)
        buffers.append(Buffer(address, part, writable))
        address += part
        length -= part
    if length or not buffers:
        buffers.append(Buffer(address, length, writable))
    return buffers


def writable(buffers: Iterable[Buffer]) -> list[Buffer]:
    """The same buffers for a device to write."""
    return [replace(buffer, writable=True) for buffer in buffers]
