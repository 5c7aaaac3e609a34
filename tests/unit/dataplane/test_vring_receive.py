"""The guest's transmit queue against a driver that may lie; each test of a check carries the check's name."""

import os

import pytest

from swos_net._dataplane import lib
from swos_net.dataplane.vring import RingFault
from swos_net.testing.virtio_driver import (
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    DESCRIPTOR,
    Buffer,
    Feature,
    NetHeader,
    indirect_table,
    split,
)

MODERN = Feature.VERSION_1
OFFLOADS = MODERN | Feature.CSUM | Feature.HOST_TSO4 | Feature.HOST_TSO6
WITH_INDIRECT = MODERN | Feature.INDIRECT_DESC
HEADER = NetHeader().pack()
FRAME = bytes(12) + b"\x88\xb5" + bytes(range(200))  # an experimental EtherType: the ring does not care

LAYOUTS = {
    "one descriptor": (),
    "header apart": (12,),
    "header and headers apart": (12, 54),
    "header with headers": (66,),
    "header in three": (5, 5, 2),
    "border inside header": (7,),
    "bytes": (1,) * 225,
    "zeros between": (0, 12, 0, 0, 100, 0),
}


def wild(border):
    """Addresses and lengths that are not all memory, `border` being its end."""
    top = 1 << 64
    return [(0, 1), (border, 1), (border - 100, 101), (border - 100, 0xFFFFFF00), (top - 100, 200), (top - 1, 1)]


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_N2_any_layout_of_header_and_frame(setup, layout, indirect):
    s = setup(size=256, features=MODERN | Feature.INDIRECT_DESC)
    head = s.send(layout=layout, indirect=indirect)
    assert s.receive() == 1
    assert s.frames() == [FRAME]
    assert (s.ring.frames, s.ring.bytes, s.ring.bursts, s.ring.dropped) == (1, len(FRAME), 1, 0)
    assert s.queue.used_index == 0
    assert s.release() == 0
    assert s.queue.take_used() == [(head, 0)]
    assert len(s.burst) == 0


def test_N2_header_is_taken_from_all_its_pieces(setup):
    s = setup(features=OFFLOADS, size=256)
    header = NetHeader(flags=1, gso_type=1, hdr_len=54, gso_size=1460, csum_start=34, csum_offset=16)
    s.send(header.pack() + FRAME, layout=(1,) * 20)
    assert s.receive() == 1
    assert s.burst.offload(0) == (lib.CHECKSUM_PARTIAL, lib.GSO_TCPV4, 1460)
    assert s.frames() == [FRAME]


@pytest.mark.parametrize("before", range(1, 13 + 16))
def test_R3_buffer_that_crosses_a_region_border(setup, before):
    s = setup(regions=4)
    border = s.ram.regions[2].guest_address
    at = s.place(HEADER + FRAME, border - before)
    s.queue.submit([Buffer(at, len(HEADER + FRAME))])
    assert s.receive() == 1
    assert s.frames() == [FRAME]


def test_R3_buffer_over_several_regions(setup):
    s = setup(regions=8, ram_size=8 * 4096 * 4, size=8)
    frame = bytes(12) + b"\x88\xb5" + os.urandom(40000)
    at = s.place(HEADER + frame, s.ram.regions[2].guest_address + 4090)
    s.queue.submit([Buffer(at, len(HEADER + frame))])
    assert s.receive() == 1
    assert s.frames() == [frame]


def test_receive_takes_up_to_budget_in_order(setup):
    s = setup(size=16)
    heads = [s.send(HEADER + FRAME + bytes([i])) for i in range(10)]
    assert s.ring.available == 10
    assert s.receive(budget=0) == 0
    assert s.receive(budget=3) == 3
    assert s.receive(budget=4) == 4
    assert s.frames() == [FRAME + bytes([i]) for i in range(7)]
    assert s.ring.available == 3
    assert s.release() == 0
    assert [head for head, _ in s.queue.take_used()] == heads[:7]
    assert s.receive() == 3
    assert s.receive() == 0
    assert s.release() == 0
    assert s.queue.take_used() == [(head, 0) for head in heads[7:]]


def test_burst_limits_what_is_taken(setup):
    s = setup(size=128)
    for _ in range(100):
        s.send()
    assert s.receive(budget=100) == lib.BURST_FRAMES
    assert s.receive(budget=100) == 0
    assert s.ring.enable_kicks() is True
    assert s.release() == 0
    assert s.receive(budget=100) == 100 - lib.BURST_FRAMES


def test_T5_chains_that_do_not_fit_the_pieces_wait_for_the_next_burst(setup):
    s = setup(size=4096, features=MODERN | Feature.INDIRECT_DESC)
    frames = [FRAME + bytes([i]) * 786 for i in range(6)]
    for frame in frames:
        s.send(HEADER + frame, layout=(1,) * 999, indirect=True)
    assert s.receive() == 4
    assert s.ring.enable_kicks() is True
    assert s.frames() == frames[:4]
    s.release()
    assert s.receive() == 2
    assert s.frames() == frames[4:]
    assert s.ring.dropped == 0


def test_T5_frame_with_more_pieces_than_any_burst_has_is_dropped(setup):
    s = setup(size=8192)
    s.send(HEADER + FRAME + bytes(5000), layout=(1,) * 5000)
    s.send()
    assert s.receive() == 2
    assert s.frames() == [FRAME]
    assert s.ring.dropped == 1
    assert s.release() == 0
    assert len(s.queue.take_used()) == 2


def test_T5_piece_table_to_its_last_entry(setup):
    s = setup(size=8192)
    frame = FRAME + bytes(lib.BURST_PIECES - len(FRAME))
    s.send(HEADER + frame, layout=(12,) + (1,) * lib.BURST_PIECES)
    s.send()
    assert s.receive() == 1
    assert s.frames() == [frame]
    s.release()
    assert s.receive() == 1
    assert s.frames() == [FRAME]


def test_discard_completes_and_delivers_nothing(setup):
    s = setup()
    heads = [s.send() for _ in range(3)]
    s.queue.set_descriptor(heads[1], 0xDEAD << 48, 100)  # nobody looks at what nobody gets
    assert s.receive(discard=True) == 3
    assert len(s.burst) == 0
    assert s.queue.take_used() == [(head, 0) for head in heads]
    assert s.ring.frames == 0
    assert s.signals() == 1
    assert s.receive(discard=True) == 0
    s.queue.offer(99)
    s.queue.publish()
    s.assert_broken(RingFault.BAD_HEAD, s.receive(discard=True))


@pytest.mark.parametrize("base", [65535, 65530, 32767])
def test_indices_wrap_at_16_bits(setup, base):
    s = setup(size=8, base=base, features=MODERN | Feature.EVENT_IDX)
    for round_ in range(20):
        heads = [s.send(HEADER + FRAME + bytes([round_, i])) for i in range(5)]
        assert s.receive() == 5
        assert s.frames() == [FRAME + bytes([round_, i]) for i in range(5)]
        assert s.release() == 0
        assert [head for head, _ in s.queue.take_used()] == heads
        assert s.queue.used_index == (base + 5 * (round_ + 1)) & 0xFFFF
    assert s.ring.stop() == (base + 100) & 0xFFFF


def test_D2_head_beyond_the_table_breaks_the_ring(setup):
    s = setup(size=16)
    s.queue.offer(16)
    s.queue.publish()
    s.assert_broken(RingFault.BAD_HEAD, s.receive())


def test_D2_next_beyond_the_table_breaks_the_ring(setup):
    s = setup(size=16)
    s.queue.set_descriptor(0, s.place(HEADER), 12, DESC_NEXT, 16)
    s.queue.offer(0)
    s.queue.publish()
    s.assert_broken(RingFault.BAD_NEXT, s.receive())


def test_D2_next_beyond_an_indirect_table_breaks_the_ring(setup):
    s = setup(size=256, features=MODERN | Feature.INDIRECT_DESC)
    data = s.place(HEADER + FRAME)
    table = DESCRIPTOR.pack(data, 12, DESC_NEXT, 2) + DESCRIPTOR.pack(data + 12, 100, 0, 0)
    s.queue.set_descriptor(0, s.place(table), len(table), DESC_INDIRECT)
    s.queue.offer(0)
    s.queue.publish()
    s.assert_broken(RingFault.BAD_NEXT, s.receive())


@pytest.mark.parametrize("length", [0, 1])
def test_D3_descriptor_loop_breaks_the_ring(setup, length):
    s = setup(size=16)
    data = s.place(HEADER + FRAME)
    for i in range(4):
        s.queue.set_descriptor(i, data, length, DESC_NEXT, (i + 1) % 4)
    s.queue.offer(0)
    s.queue.publish()
    s.assert_broken(RingFault.LOOP, s.receive())


def test_D3_descriptor_that_follows_itself_breaks_the_ring(setup):
    s = setup(size=1)
    s.queue.set_descriptor(0, s.place(HEADER), 12, DESC_NEXT, 0)
    s.queue.offer(0)
    s.queue.publish()
    s.assert_broken(RingFault.LOOP, s.receive())


def test_D3_loop_in_an_indirect_table_breaks_the_ring(setup):
    s = setup(features=MODERN | Feature.INDIRECT_DESC)
    data = s.place(HEADER + FRAME)
    table = DESCRIPTOR.pack(data, 12, DESC_NEXT, 1) + DESCRIPTOR.pack(data + 12, 1, DESC_NEXT, 1)
    s.queue.set_descriptor(0, s.place(table), len(table), DESC_INDIRECT)
    s.queue.offer(0)
    s.queue.publish()
    s.assert_broken(RingFault.LOOP, s.receive())


def test_D3_chain_of_the_whole_table_is_no_loop(setup):
    s = setup(size=16, features=MODERN | Feature.INDIRECT_DESC)
    s.send(layout=(8,) * 15)
    assert s.receive() == 1 and s.frames() == [FRAME]
    s.release()
    s.queue.take_used()
    s.send(layout=(8,) * 15, indirect=True)
    assert s.receive() == 1 and s.frames() == [FRAME]


def test_D4_direct_descriptors_may_lead_to_an_indirect_one(setup):
    s = setup(features=MODERN | Feature.INDIRECT_DESC)
    data = s.place(HEADER + FRAME)
    table = s.place(indirect_table(split(data + 20, len(FRAME) - 8, (30, 40))))
    s.queue.set_descriptor(3, data, 20, DESC_NEXT, 5)
    s.queue.set_descriptor(5, table, 48, DESC_INDIRECT | DESC_WRITE)  # 2.7.5.3.2: WRITE means nothing here
    s.queue.offer(3)
    s.queue.publish()
    assert s.receive() == 1
    assert s.frames() == [FRAME]


@pytest.mark.parametrize("shift", [1, 4, 15])
def test_D4_indirect_table_need_not_be_aligned(setup, shift):
    s = setup(features=MODERN | Feature.INDIRECT_DESC)
    data = s.place(HEADER + FRAME)
    table = indirect_table(split(data, len(HEADER + FRAME), (30, 40)))
    s.queue.set_descriptor(0, s.place(bytes(shift) + table) + shift, len(table), DESC_INDIRECT)
    s.queue.offer(0)
    s.queue.publish()
    assert s.receive() == 1
    assert s.frames() == [FRAME]


@pytest.mark.parametrize("before", [1, 8, 15, 16, 24, 47])
def test_D4_indirect_table_may_cross_a_region_border(setup, before):
    s = setup(features=MODERN | Feature.INDIRECT_DESC, regions=2)
    data = s.place(HEADER + FRAME)
    table = indirect_table(split(data, len(HEADER + FRAME), (30, 40)))
    s.queue.set_descriptor(0, s.place(table, s.ram.regions[1].guest_address - before), len(table), DESC_INDIRECT)
    s.queue.offer(0)
    s.queue.publish()
    assert s.receive() == 1
    assert s.frames() == [FRAME]


def test_D4_indirect_table_over_three_regions(setup):
    s = setup(features=MODERN | Feature.INDIRECT_DESC, regions=4, ram_size=4 * 4096, size=8)
    data = s.place(HEADER + FRAME)
    table = indirect_table(split(data, len(HEADER + FRAME), (0,) * 300))
    s.queue.set_descriptor(0, s.place(table, s.ram.regions[1].guest_address + 4000), len(table), DESC_INDIRECT)
    s.queue.offer(0)
    s.queue.publish()
    assert s.receive() == 1
    assert s.frames() == [FRAME]


def bad_indirect(setup, features, length, flags=0, *, address=None, inner_flags=0):
    s = setup(features=features)
    data = s.place(HEADER + FRAME)
    if address is None:
        address = s.place(DESCRIPTOR.pack(data, len(HEADER + FRAME), inner_flags, 0))
    s.queue.set_descriptor(0, address, length, DESC_INDIRECT | flags, 1)
    s.queue.set_descriptor(1, data, 12)
    s.queue.offer(0)
    s.queue.publish()
    s.assert_broken(RingFault.BAD_INDIRECT, s.receive())


def test_D4_indirect_that_was_not_negotiated_breaks_the_ring(setup):
    bad_indirect(setup, MODERN, 16)


@pytest.mark.parametrize("length", [0, 1, 15, 17, 24, 16 * 1025, 0xFFFFFFF0])
def test_D4_length_of_an_indirect_table(setup, length):
    bad_indirect(setup, WITH_INDIRECT, length)


def test_D4_indirect_table_of_1024_entries_is_allowed(setup):
    s = setup(features=WITH_INDIRECT, size=8)
    s.send(layout=(0,) * 1023, indirect=True)
    assert s.receive() == 1 and s.frames() == [FRAME]


def test_D4_nested_indirect_breaks_the_ring(setup):
    bad_indirect(setup, WITH_INDIRECT, 16, inner_flags=DESC_INDIRECT)


def test_D4_indirect_with_next_breaks_the_ring(setup):
    bad_indirect(setup, WITH_INDIRECT, 16, DESC_NEXT)


def test_D4_indirect_table_outside_memory_breaks_the_ring(setup):
    bad_indirect(setup, WITH_INDIRECT, 16, address=0x1000)


def test_D4_indirect_table_that_leaves_memory_breaks_the_ring(setup):
    bad_indirect(setup, WITH_INDIRECT, 32, address=0x40000000 + (1 << 22) - 16)


def test_D5_descriptor_of_no_bytes_is_not_looked_up(setup):
    s = setup()
    data = s.place(HEADER + FRAME)
    s.queue.submit([Buffer(0xDEAD << 48, 0), Buffer(data, len(HEADER + FRAME)), Buffer(0, 0)])
    assert s.receive() == 1
    assert s.frames() == [FRAME]


def test_D6_writable_buffer_in_the_transmit_queue_breaks_the_ring(setup):
    s = setup()
    data = s.place(HEADER + FRAME)
    s.queue.submit([Buffer(data, 100), Buffer(data + 100, 100, writable=True)])
    s.assert_broken(RingFault.BAD_DIRECTION, s.receive())


def test_D6_chain_longer_than_4_gib_breaks_the_ring(setup):
    s = setup(ram_size=2 << 30, start=False)  # of which almost nothing is ever touched
    s.start()
    at = s.ram.guest_address
    s.queue.submit([Buffer(at, 2 << 30), Buffer(at, 2 << 30)])
    assert s.receive() == 1
    assert s.ring.dropped == 1, "4 GiB are no rule broken, just no frame (N8)"
    s.release()
    s.queue.submit([Buffer(at, 2 << 30), Buffer(at, 2 << 30), Buffer(at, 1)])
    assert s.receive() == -1
    assert s.ring.broken is RingFault.TOO_LONG


def test_D7_more_available_than_the_ring_holds_breaks_it(setup):
    s = setup(size=16)
    s.queue.avail_index = 17
    s.assert_broken(RingFault.AVAIL_JUMP, s.receive())
    s = setup(size=16)
    s.queue.avail_index = 0xFFFF
    s.assert_broken(RingFault.AVAIL_JUMP, s.receive())


def test_D7_chains_not_given_back_count_as_held(setup):
    s = setup(size=4)
    for _ in range(4):
        s.send()
    assert s.receive(budget=3) == 3
    s.queue.avail_index = 5
    s.assert_broken(RingFault.AVAIL_JUMP, s.receive())


@pytest.mark.parametrize("address, length", wild(0x40000000 + (1 << 22)))
def test_D8_buffer_outside_memory_breaks_the_ring(setup, address, length):
    s = setup()
    s.queue.submit([Buffer(s.place(HEADER), 12), Buffer(address, length)])
    s.assert_broken(RingFault.BAD_ADDRESS, s.receive())


def test_D8_buffer_does_not_wrap_round_the_address_space(setup):
    s = setup(size=4)
    memfd = os.memfd_create("edges")
    os.ftruncate(memfd, 8192)
    s.memory.add(0, 4096, 0x1000, 0, memfd)
    s.memory.add((1 << 64) - 4096, 4096, 0x100000, 4096, memfd)
    os.close(memfd)
    s.queue.submit([Buffer((1 << 64) - 100, 200)])
    s.assert_broken(RingFault.BAD_ADDRESS, s.receive())


def test_D8_other_rings_go_on_and_a_restart_mends(setup):
    s, other = setup(), setup()
    other.send()
    s.queue.offer(77)
    s.queue.publish()
    assert s.receive() == -1
    assert other.receive() == 1 and other.release() == 0
    assert s.ring.running
    assert s.ring.stop() == 0
    s.queue.avail_index = 0
    s.start()
    assert s.ring.broken is RingFault.SOUND and s.ring.broken_check == ""


def test_D8_chains_before_the_bad_one_are_not_completed(setup):
    s = setup()
    s.send()
    s.queue.offer(77)
    s.queue.publish()
    assert s.receive() == -1
    assert s.release() == -1
    assert s.queue.used_index == 0
    assert s.ring.stop() == 0
