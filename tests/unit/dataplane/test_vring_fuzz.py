"""Rings against descriptor tables that nobody meant: F2 random ones, F3 such as change while they are read.

The oracle of F2 is a model of the rules in Python, written from the rules and not from the C.  Under
AddressSanitizer both tests also look for accesses that leave the data plane's own memory.
"""

import os
import random
import struct
import threading

import pytest

from swos_net._dataplane import ffi, lib
from swos_net.dataplane.batch import Batch, link_limits
from swos_net.dataplane.burst import Burst
from swos_net.dataplane.guest_memory import GuestMemory
from swos_net.dataplane.vring import RingFault, Vring
from swos_net.link import LinkFeatures
from swos_net.testing.virtio_driver import (
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    DESCRIPTOR,
    DriverQueue,
    Feature,
    GuestRam,
    NetHeader,
    indirect_table,
    split,
)

RAM = 1 << 16
TABLES = 0x2000  # offset of indirect tables
DATA = 0x3000  # offset of buffers
PLAIN = link_limits(LinkFeatures())
FEATURES = [Feature.EVENT_IDX, Feature.INDIRECT_DESC, Feature.MRG_RXBUF, Feature.VERSION_1, Feature.CSUM,
            Feature.HOST_TSO4, Feature.HOST_TSO6]  # fmt: skip


class Guest:
    """One ring with random contents in 64 KiB of two regions."""

    def __init__(self, chance: random.Random):
        self.chance = chance
        self.ram = GuestRam(RAM, regions=2)
        self.memory = GuestMemory()
        self.ram.share_with(self.memory)
        self.ring = Vring()
        self.start_of_ram = self.ram.guest_address
        self.blank = chance.randbytes(RAM)

    def close(self):
        self.ring.stop()
        self.memory.close()
        self.ram.close()

    def restart(self, direction):
        """A new ring, of which `direction` (DESC_WRITE or 0) buffers are right."""
        chance = self.chance
        self.ram.write(self.start_of_ram, self.blank)
        self.ram._next = self.start_of_ram
        self.size = 1 << chance.randrange(5)
        self.features = Feature(sum(bit for bit in FEATURES if chance.random() < 0.7))
        self.header_size = 12 if self.features & (Feature.VERSION_1 | Feature.MRG_RXBUF) else 10
        self.base = chance.choice([0, 65535, chance.randrange(65536)])
        self.queue = DriverQueue(self.ram, self.size, event_idx=bool(self.features & Feature.EVENT_IDX), base=self.base)
        for i in range(self.size):
            self.ram.write(self.queue.desc + 16 * i, self.descriptor(direction, self.size, i, True))
        table = b"".join(self.descriptor(direction, 64, i, False) for i in range(64))
        self.ram.write(self.start_of_ram + TABLES, table)
        self.ring.stop()
        self.ring.start(self.memory, self.size, self.features, *self.queue.addresses, self.base)

    def descriptor(self, direction, table_size, index, may_be_indirect):
        chance = self.chance
        length = chance.choice([0, 1, 12, 13, 26, 40, 300, chance.randrange(2000), chance.randrange(40000)])
        address = self.start_of_ram + chance.randrange(DATA, RAM)
        following = min(index + 1, table_size - 1)
        flags = direction | (DESC_NEXT if chance.random() < 0.5 else 0)
        if chance.random() < 0.02:
            length = chance.choice([0xFFFFFFFF, 1 << 31, 70000])
        if address + length > self.start_of_ram + RAM and chance.random() < 0.95:
            length = self.start_of_ram + RAM - address
        if chance.random() < 0.02:
            edges = [0, (1 << 64) - 1, self.start_of_ram - 1, self.start_of_ram + RAM]
            address = chance.choice([*edges, chance.getrandbits(64)])
        if chance.random() < 0.1:
            following = chance.randrange(table_size + 1)
        if chance.random() < 0.02:
            flags ^= DESC_WRITE
        if chance.random() < (0.3 if may_be_indirect else 0.01):
            flags = flags & ~DESC_NEXT | DESC_INDIRECT if chance.random() < 0.95 else flags | DESC_INDIRECT
            address = self.start_of_ram + TABLES + chance.choice([0, 0, 16, 64, 8])
            length = 16 * chance.randrange(1, 8) if chance.random() < 0.95 else chance.randrange(2000)
        return DESCRIPTOR.pack(address & (1 << 64) - 1, length, flags, following)

    def offer(self):
        """A few heads, sane or not."""
        chance = self.chance
        for _ in range(chance.randint(0, self.size - (self.queue.offered - self.queue.taken))):
            head = chance.randrange(self.size) if chance.random() < 0.98 else chance.randrange(65536)
            self.queue.offer(head)
            if chance.random() < 0.7 and head < self.size:  # a net header that is none by chance
                address, length, flags, _ = self.queue.descriptor(head)
                in_data = self.mapped(address, 12) and address >= self.start_of_ram + DATA
                if not flags & DESC_INDIRECT and length >= 12 and in_data:
                    self.ram.write(address, bytes(12))
        self.queue.publish()
        if chance.random() < 0.01:
            self.queue.avail_index = self.queue.offered + self.size + 1

    def mapped(self, address, length):
        return self.start_of_ram <= address and address + length <= self.start_of_ram + RAM

    def used_area(self):
        start = self.queue.used - self.start_of_ram
        return start, start + 6 + 8 * self.size


class Broken(Exception):
    def __init__(self, fault):
        self.fault = fault


def model_walk(guest, head, direction):
    """The pieces (address, length) of a chain, or Broken."""
    if head >= guest.size:
        raise Broken(RingFault.BAD_HEAD)
    table, entries, index, steps, nested, total = guest.queue.desc, guest.size, head, 0, False, 0
    pieces = []
    while True:
        steps += 1
        if steps > entries:
            raise Broken(RingFault.LOOP)
        address, length, flags, following = DESCRIPTOR.unpack(guest.ram.read(table + 16 * index, 16))
        if flags & DESC_INDIRECT:
            sane = Feature.INDIRECT_DESC in guest.features and not nested and not flags & DESC_NEXT
            if not sane or length == 0 or length % 16 or length > 16 * 1024 or not guest.mapped(address, length):
                raise Broken(RingFault.BAD_INDIRECT)
            table, entries, index, steps, nested = address, length // 16, 0, 0, True
            continue
        if flags & DESC_WRITE != direction:
            raise Broken(RingFault.BAD_DIRECTION)
        total += length
        if total > 1 << 32:
            raise Broken(RingFault.TOO_LONG)
        if length and not guest.mapped(address, length):
            raise Broken(RingFault.BAD_ADDRESS)
        pieces.append((address, length))
        if not flags & DESC_NEXT:
            return pieces
        if following >= entries:
            raise Broken(RingFault.BAD_NEXT)
        index = following


def model_frame(guest, head):
    """The frame that a chain carries, None when it is to be dropped, or Broken."""
    data = b"".join(guest.ram.read(*piece) for piece in model_walk(guest, head, 0))
    frame = data[guest.header_size :]
    if len(frame) <= 14 or len(frame) > 65600:
        return None
    header = NetHeader.unpack(data[: guest.header_size])
    partial = header.flags & 1
    if partial and (Feature.CSUM not in guest.features or header.csum_start < 14):
        return None
    if partial and header.csum_start + header.csum_offset + 2 > len(frame):
        return None
    needs = {0: Feature(0), 1: Feature.HOST_TSO4, 4: Feature.HOST_TSO6}.get(header.gso_type & 0x7F)
    if needs is None or needs and (needs not in guest.features or not partial or not header.gso_size):
        return None
    return frame


def model_receive(guest, count):
    """(frames, dropped, fault) of the next `count` chains."""
    frames, dropped = [], 0
    if (guest.queue.avail_index - guest.queue.taken) & 0xFFFF > guest.size:
        return frames, dropped, RingFault.AVAIL_JUMP
    for i in range(guest.queue.taken, guest.queue.taken + count):
        head = struct.unpack("<H", guest.ram.read(guest.queue.avail + 4 + 2 * (i % guest.size), 2))[0]
        try:
            frame = model_frame(guest, head)
        except Broken as broken:
            return frames, dropped, broken.fault
        if frame is None:
            dropped += 1
        else:
            frames.append(frame)
    return frames, dropped, RingFault.SOUND


def only_differ_within(before, after, areas):
    """Whether two images agree outside the areas (start, end)."""
    if before == after:
        return True
    before, after = bytearray(before), bytearray(after)
    for start, end in areas:
        before[start:end] = after[start:end] = bytes(end - start)
    return before == after


@pytest.mark.parametrize("seed", range(4))
def test_F2_random_transmit_queues_follow_the_model(seed):
    guest = Guest(random.Random(seed))
    burst = Burst(arena=False)
    seen = dict.fromkeys(RingFault, 0)
    delivered = lost = 0
    for _ in range(400):
        guest.restart(0)
        for _ in range(4):
            guest.offer()
            budget = guest.chance.choice([1, 3, 64])
            count = min(budget, (guest.queue.avail_index - guest.queue.taken) & 0xFFFF)
            dropped_before = guest.ring.dropped
            before = guest.ram.image()
            frames, dropped, fault = model_receive(guest, count)
            result = guest.ring.receive(burst, budget)
            assert guest.ring.broken is fault
            assert result == (-1 if fault else count)
            assert [burst.copy(i, 0, 1 << 17) for i in range(len(burst))] == frames
            assert guest.ring.dropped - dropped_before == dropped
            assert guest.ring.release(burst) == (-1 if fault else 0)
            assert only_differ_within(before, guest.ram.image(), [guest.used_area()])
            seen[fault] += 1
            delivered += len(frames)
            lost += dropped
            if fault:
                assert guest.queue.take_used() == []
                break
            heads = [struct.unpack("<H", guest.ram.read(guest.queue.avail + 4 + 2 * (i % guest.size), 2))[0]
                     for i in range(guest.queue.taken, guest.queue.taken + count)]  # fmt: skip
            assert guest.queue.take_used() == [(head, 0) for head in heads]
    guest.close()
    assert delivered > 100 and lost > 50
    assert all(count for fault, count in seen.items() if fault not in (RingFault.TOO_LONG, RingFault.RUNT)), seen


def writable_areas(guest):
    """Every byte that some descriptor, in the ring or in the indirect tables, gives to the device."""
    areas = []
    ring = guest.ram.read(guest.queue.desc, 16 * guest.size)
    tables = guest.ram.read(guest.start_of_ram + TABLES, 16 * 72)
    entries = [ring, tables, tables[8:-8]]  # some indirect tables start in the middle of an entry
    for address, length, flags, _ in (entry for table in entries for entry in DESCRIPTOR.iter_unpack(table)):
        start, end = max(address - guest.start_of_ram, DATA), min(address + length - guest.start_of_ram, RAM)
        if flags & DESC_WRITE and not flags & DESC_INDIRECT and start < end:
            areas.append((start, end))
    return areas


def frames_in(guest, elements):
    """The frames that used elements hold, or None where buffers overlap and contents are anybody's guess."""
    pieces, data = [], []
    for head, length in elements:
        parts = []
        for address, room in bounded_walk(guest, head, length):
            parts.append(guest.ram.read(address, room))
            pieces.append((address, room))
        data.append(b"".join(parts))
        assert len(data[-1]) == length, "no used length exceeds its chain"
    pieces.sort()
    if any(a + length > b for (a, length), (b, _) in zip(pieces, pieces[1:], strict=False)):
        return None
    frames = []
    while data:
        first = data.pop(0)
        header = NetHeader.unpack(first[: guest.header_size])
        count = header.num_buffers if guest.header_size == 12 else 1
        assert count >= 1
        frames.append(b"".join([first, *data[: count - 1]])[guest.header_size :])
        del data[: count - 1]
    return frames


def bounded_walk(guest, head, wanted):
    """The first `wanted` bytes of a chain; what comes after them may be broken."""
    table, index = guest.queue.desc, head
    while wanted:
        address, length, flags, following = DESCRIPTOR.unpack(guest.ram.read(table + 16 * index, 16))
        if flags & DESC_INDIRECT:
            table, index = address, 0
            continue
        assert flags & DESC_WRITE
        if length:
            yield address, min(length, wanted)
        wanted -= min(length, wanted)
        index = following


@pytest.mark.parametrize("seed", range(4))
def test_F2_random_receive_queues_get_nothing_but_frames(seed):
    guest = Guest(random.Random(seed))
    chance = guest.chance
    seen = dict.fromkeys(RingFault, 0)
    delivered = checked = 0
    for _ in range(400):
        guest.restart(DESC_WRITE)
        for _ in range(4):
            guest.offer()
            batch = Batch()
            frames = [chance.randbytes(chance.choice([15, 60, 300, 1514])) for _ in range(chance.randint(1, 6))]
            for frame in frames:
                batch.add_frame(frame)
            batch.seal()
            dropped = guest.ring.dropped
            before = guest.ram.image()
            areas = writable_areas(guest)
            result = guest.ring.transmit(batch, PLAIN)
            fault = guest.ring.broken
            seen[fault] += 1
            assert (result == -1) == bool(fault)
            assert only_differ_within(before, guest.ram.image(), [*areas, guest.used_area()])
            first = guest.queue.taken
            elements = guest.queue.take_used()
            assert len(elements) <= (guest.queue.offered - first)
            for i, (head, _) in enumerate(elements, first):
                slot = guest.queue.avail + 4 + 2 * (i % guest.size)
                assert struct.unpack("<H", guest.ram.read(slot, 2))[0] == head, "in order, and only what was offered"
            if fault:
                assert elements == []
                break
            assert batch.c.next == batch.c.frames + guest.ring.dropped - dropped
            assert result == 1 or batch.sent
            delivered += batch.c.frames
            got = frames_in(guest, elements)
            if got is not None:
                assert len(got) == batch.c.frames
                assert batch.c.next > batch.c.frames or got == frames[: len(got)]
                checked += len(got)
    guest.close()
    assert delivered > 100 and checked > 50
    expected = set(RingFault) - {RingFault.TOO_LONG, RingFault.BAD_NEXT}
    assert all(seen[fault] for fault in expected), seen


@pytest.mark.parametrize("direction", [0, DESC_WRITE], ids=["transmit queue", "receive queue"])
def test_F3_descriptors_that_change_while_they_are_read(direction):
    """Another thread swaps the tables between sane and wild; what was checked must be what is used."""
    size, chain = 256, 64
    features = Feature.VERSION_1 | Feature.INDIRECT_DESC | Feature.MRG_RXBUF
    ram = GuestRam(1 << 18, regions=2)
    memory = GuestMemory()
    ram.share_with(memory)
    queue = DriverQueue(ram, size)
    room = ram.reserve(chain * 40)
    tables = ram.reserve(16 * chain, 4096)
    good_table = indirect_table(split(room, chain * 40, (12,) + (40,) * (chain - 2), writable=bool(direction)))
    bad_table = b"".join(
        DESCRIPTOR.pack(address, length ^ 0xFFFFFFFF, flags ^ DESC_WRITE, following + chain)
        for address, length, flags, following in DESCRIPTOR.iter_unpack(good_table)
    )
    good_ring = DESCRIPTOR.pack(tables, 16 * chain, DESC_INDIRECT, 0) * size
    bad_ring = DESCRIPTOR.pack(tables - (1 << 30), 16 * chain * 512, DESC_INDIRECT | DESC_NEXT, 65535) * size
    for head in range(size):
        queue.offer(head)
    ram.write(queue.desc, good_ring)
    ram.write(tables, good_table)
    targets = [(_file_offset(ram, queue.desc), good_ring, bad_ring), (_file_offset(ram, tables), good_table, bad_table)]
    index = _file_offset(ram, queue.avail + 2)
    hosts = [(int(ffi.cast("uintptr_t", r.host)), r.size) for r in memory.c.regions[0 : memory.c.count]]
    done = threading.Event()

    def flip():
        chance = random.Random(3)
        while not done.is_set():
            for offset, good, bad in targets:
                start = 4 * chance.randrange(len(good) // 4)
                length = chance.choice([4, 16, 4096])
                os.pwrite(ram.fd, bad[start : start + length], offset + start)
                os.pwrite(ram.fd, good, offset)
            os.pwrite(ram.fd, struct.pack("<H", chance.randrange(size + 1)), index)  # it may even go back

    flipper = threading.Thread(target=flip)
    flipper.start()
    ring, burst = Vring(), Burst(arena=False)
    sound = broken = 0
    frame = bytes(range(256)) * 8
    try:
        for turn in range(20_000):
            if turn >= 600 and sound and broken:
                break  # a busy machine may give the other thread its turn late
            queue.used_index = 0
            ring.stop()
            ring.start(memory, size, features, *queue.addresses, 0)
            for _ in range(4):
                if direction:
                    batch = Batch()
                    for _ in range(32):
                        batch.add_frame(frame)
                    batch.seal()
                    result = ring.transmit(batch, PLAIN)
                else:
                    result = ring.receive(burst)
                    for i in range(burst.c.pieces_used):
                        piece = burst.c.pieces[i]
                        base = int(ffi.cast("uintptr_t", piece.base))
                        assert any(start <= base and base + piece.length <= start + length for start, length in hosts)
                    ring.release(burst)
                assert queue.used_index <= size
                assert all(queue.used_element(i)[0] == i for i in range(queue.used_index))
                broken += result < 0
                sound += result >= 0
    finally:
        done.set()
        flipper.join()
        ring.stop()
        memory.close()
        ram.close()
    assert sound and broken, "the race was run in both ways"


def _file_offset(ram, address):
    region = ram.region_of(address)
    return region.offset + address - region.guest_address


def test_the_fuzz_model_agrees_on_a_plain_frame():
    """The oracle itself: a chain that is right in every way is a frame for it."""
    guest = Guest(random.Random(9))
    guest.restart(0)
    guest.features = Feature.VERSION_1
    guest.header_size, guest.size = 12, 1
    frame = bytes(range(40))
    guest.ram.write(guest.start_of_ram + DATA, bytes(12) + frame)
    guest.queue.set_descriptor(0, guest.start_of_ram + DATA, 52)
    assert model_frame(guest, 0) == frame
    guest.queue.set_descriptor(0, guest.start_of_ram + DATA, 26)
    assert model_frame(guest, 0) is None
    guest.queue.set_descriptor(0, guest.start_of_ram + DATA, 52, DESC_WRITE)
    with pytest.raises(Broken):
        model_frame(guest, 0)
    guest.close()
