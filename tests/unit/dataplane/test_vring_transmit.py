"""The guest's receive queue: frames into buffers, and buffers that are no good."""

import os
import struct

import pytest

from swos_net._dataplane import lib
from swos_net.dataplane.batch import Batch, FlowPath, link_limits
from swos_net.dataplane.byte_ring import ByteRing
from swos_net.dataplane.vring import RingFault
from swos_net.link import LinkFeatures, Offload
from swos_net.testing.virtio_driver import DESC_NEXT, DESC_WRITE, USED_NO_NOTIFY, Buffer, Feature, NetHeader

MODERN = Feature.VERSION_1
EVENT = MODERN | Feature.EVENT_IDX
MERGE = MODERN | Feature.MRG_RXBUF
HEADER = NetHeader().pack()
FRAME = bytes(12) + b"\x88\xb5" + bytes(range(200))  # an experimental EtherType: the ring does not care
PLAIN = link_limits(LinkFeatures())
CHECKSUM = link_limits(LinkFeatures(offloads=Offload.CHECKSUM | Offload.TSO4 | Offload.TSO6))

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


def tcp_batch(payload_length, segment_size=1460):
    """One TCP (super-)segment; returns the batch and its payload."""
    batch = Batch()
    local, remote = b"\0" * 10 + b"\xff\xff\x0a\0\0\x01", b"\0" * 10 + b"\xff\xff\x0a\0\0\x02"
    path = FlowPath(local, 80, remote, 40000, 64, 7)
    path.set_link(b"\x52\x54\0\0\0\x01", b"\x52\x54\0\0\0\x02")
    batch.kept.append(path)
    batch.path = path.pointer
    ring = ByteRing(1 << 17)
    payload = os.urandom(payload_length)
    # the payload wraps round the end of the ring
    lib.byte_ring_advance(ring.c, ring.capacity - payload_length // 3)
    lib.byte_ring_consume(ring.c, ring.capacity - payload_length // 3)
    assert ring.write(payload) == payload_length
    batch.add_tcp(1000, 2000, 0x18, 500, b"", ring, ring.head, payload_length, segment_size)
    batch.seal()
    return batch, payload


def merged(s, elements, rooms):
    """Header and frame of one delivery, whose buffers are `rooms`: {head: address}."""
    data = b"".join(s.ram.read(rooms[head], length) for head, length in elements)
    return NetHeader.unpack(data[:12]), data[12:]


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("features", [MODERN, MERGE], ids=["one buffer", "mergeable"])
def test_frame_goes_into_any_layout(setup, features, layout, indirect):
    s = setup(size=256, features=features | Feature.INDIRECT_DESC)
    at, head = s.offer_room(1000, layout, indirect)
    s.ram.write(at, b"\xee" * 1000)
    assert s.transmit(FRAME) == 0
    assert s.queue.take_used() == [(head, 12 + len(FRAME))]
    assert s.ram.read(at, 12 + len(FRAME)) == NetHeader(num_buffers=1).pack() + FRAME
    assert s.ram.read(at + 12 + len(FRAME), 1000 - 12 - len(FRAME)) == b"\xee" * (1000 - 12 - len(FRAME))
    assert (s.ring.frames, s.ring.bytes, s.batch.c.frames, s.batch.c.bytes) == (1, len(FRAME), 1, len(FRAME))
    assert s.signals() == 1


@pytest.mark.parametrize("before", range(1, 30))
def test_R3_frame_goes_over_a_region_border(setup, before):
    s = setup(regions=2, features=MERGE)
    at = s.ram.regions[1].guest_address - before
    head = s.queue.submit([Buffer(at, 300, True)])
    assert s.transmit(FRAME) == 0
    assert s.queue.take_used() == [(head, 12 + len(FRAME))]
    assert s.ram.read(at, 12 + len(FRAME)) == NetHeader(num_buffers=1).pack() + FRAME


def test_legacy_header_has_no_num_buffers(setup):
    s = setup(features=0)
    at, head = s.offer_room(300, (10,))
    assert s.transmit(FRAME) == 0
    assert s.queue.take_used() == [(head, 10 + len(FRAME))]
    assert s.ram.read(at, 10 + len(FRAME)) == bytes(10) + FRAME


def test_whole_batch_is_published_and_signalled_once(setup):
    s = setup(features=EVENT)
    rooms = [s.offer_room(300) for _ in range(5)]
    frames = [FRAME + bytes([i]) for i in range(5)]
    assert s.transmit(*frames) == 0
    assert s.queue.take_used() == [(head, 13 + len(FRAME)) for _, head in rooms]
    assert [s.ram.read(at + 12, 1 + len(FRAME)) for at, _ in rooms] == frames
    assert s.signals() == s.ring.signals == s.ring.bursts == 1


def test_empty_batch_changes_nothing(setup):
    s = setup()
    s.offer_room(300)
    image = s.ram.image()[: s.queue.used - s.ram.guest_address]
    assert s.transmit() == 0
    assert s.ram.image()[: s.queue.used - s.ram.guest_address] == image
    assert s.queue.used_index == 0 and s.signals() == 0


@pytest.mark.parametrize("size", [12, 13, 100, 226, 1536])
def test_N7_mergeable_buffers_are_filled_in_order(setup, size):
    s = setup(size=256, features=MERGE)
    frame = FRAME * 10
    rooms = {}
    while sum(size for _ in rooms) < 12 + len(frame) + 5 * size:
        at, head = s.offer_room(size)
        rooms[head] = at
    assert s.transmit(frame) == 0
    elements = s.queue.take_used()
    needed = -(-(12 + len(frame)) // size)
    assert [head for head, _ in elements] == list(rooms)[:needed]
    assert [length for _, length in elements[:-1]] == [size] * (needed - 1)
    header, data = merged(s, elements, rooms)
    assert (header.flags, header.gso_type, header.num_buffers) == (0, 0, needed)
    assert data == frame
    assert s.signals() == 1


@pytest.mark.parametrize("base", [0, 65500])
def test_super_segment_over_43_buffers(setup, base):
    s = setup(size=64, features=MERGE, base=base)
    batch, payload = tcp_batch(65160)
    rooms = {}
    for _ in range(64):
        at, head = s.offer_room(1536)
        rooms[head] = at
    assert s.ring.transmit(batch, CHECKSUM) == 0
    elements = s.queue.take_used()
    assert len(elements) == 43
    header, frame = merged(s, elements, rooms)
    assert header == NetHeader(
        flags=1, gso_type=1, hdr_len=54, gso_size=1460, csum_start=34, csum_offset=16, num_buffers=43
    )
    assert len(frame) == 54 + 65160 and frame[54:] == payload
    assert s.queue.used_index == (base + 43) & 0xFFFF
    assert batch.sent and batch.c.frames == 1


def test_link_without_offloads_gets_whole_frames_with_checksums(setup):
    s = setup(size=64, features=MERGE)
    batch, payload = tcp_batch(10000)
    rooms = [s.offer_room(1536) for _ in range(20)]
    assert s.ring.transmit(batch, PLAIN) == 0
    elements = s.queue.take_used()
    assert len(elements) == batch.c.frames == 7
    got = b""
    for (at, _), (_, length) in zip(rooms, elements, strict=False):
        data = s.ram.read(at, length)
        assert data[:12] == NetHeader(num_buffers=1).pack(), "5.1.6.4.1: flags are zero without GUEST_CSUM"
        tcp = data[12 + 34 :]
        pseudo = data[12 + 26 : 12 + 34] + struct.pack(">HH", 6, len(tcp))
        assert lib.checksum_of(pseudo + tcp, len(pseudo + tcp)) == 0
        got += tcp[20:]
    assert got == payload


def test_T4_too_few_buffers_take_none_and_ask_for_a_kick(setup):
    s = setup(size=16, features=MERGE | Feature.EVENT_IDX)
    frame = FRAME * 10
    rooms = {}

    def offer(count):
        wanted = False
        for _ in range(count):
            at = s.ram.allocate(500)
            head = s.queue.add([Buffer(at, 500, True)])
            s.queue.offer(head)
            rooms[head] = at
            wanted = s.queue.publish() or wanted
        return wanted

    offer(3)
    assert s.transmit(frame) == 1
    assert s.queue.take_used() == [] and s.queue.used_index == 0
    assert s.signals() == 0
    assert s.ring.next_avail == 0 and s.ring.available == 3
    assert s.ring.kicks_enabled
    assert s.ring.enable_kicks() is False, "three buffers are no work for a frame that needs five"
    assert offer(1), "the driver kicks for the fourth"
    assert s.ring.enable_kicks() is True
    assert s.ring.transmit(s.batch, PLAIN) == 1
    assert offer(3)
    assert s.ring.transmit(s.batch, PLAIN) == 0
    elements = s.queue.take_used()
    assert len(elements) == 5
    assert merged(s, elements, rooms)[1] == frame
    assert not s.ring.kicks_enabled
    assert not offer(1), "nobody waits for more"


def test_kicks_of_a_starved_ring_without_event_index(setup):
    s = setup(features=MERGE)
    assert s.transmit(FRAME) == 1
    assert s.queue.used_flags == 0
    s.offer_room(300)
    assert s.ring.transmit(s.batch, PLAIN) == 0
    assert s.queue.used_flags == USED_NO_NOTIFY


def test_batch_goes_on_where_buffers_ran_out(setup):
    s = setup(size=16, features=MERGE)
    frames = [FRAME + bytes([i]) for i in range(6)]
    rooms = {}
    for _ in range(4):
        at, head = s.offer_room(300)
        rooms[head] = at
    assert s.transmit(*frames) == 1
    assert s.batch.c.next == s.batch.c.frames == 4
    got = [merged(s, [element], rooms)[1] for element in s.queue.take_used()]
    for _ in range(4):
        at, head = s.offer_room(300)
        rooms[head] = at
    assert s.ring.transmit(s.batch, PLAIN) == 0
    got += [merged(s, [element], rooms)[1] for element in s.queue.take_used()]
    assert got == frames
    assert s.ring.available == 2


def test_segment_of_several_frames_goes_on_in_its_middle(setup):
    s = setup(size=16, features=MERGE)
    batch, payload = tcp_batch(10000)
    got = b""
    result = 1
    while result:
        rooms = {}
        for _ in range(3):
            at, head = s.offer_room(1536)
            rooms[head] = at
        result = s.ring.transmit(batch, PLAIN)
        got += b"".join(merged(s, [element], rooms)[1][54:] for element in s.queue.take_used())
    assert got == payload
    assert batch.c.frames == 7


def test_N6_frame_longer_than_its_one_buffer_is_dropped(setup):
    s = setup(features=MODERN)
    at, head = s.offer_room(300, (12, 100, 100))
    assert s.transmit(FRAME * 3, FRAME) == 0
    assert s.ring.dropped == 1
    assert s.queue.take_used() == [(head, 12 + len(FRAME))]
    assert s.ram.read(at + 12, len(FRAME)) == FRAME
    assert s.batch.c.frames == 1, "a dropped frame was not sent"


def test_N6_buffer_that_fits_to_the_byte(setup):
    s = setup(features=MODERN)
    at, head = s.offer_room(12 + len(FRAME))
    assert s.transmit(FRAME + b"!", FRAME) == 0
    assert s.ring.dropped == 1
    assert s.queue.take_used() == [(head, 12 + len(FRAME))]


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("layout", [(), (12, 20), (10, 10, 10, 10)])
def test_N6_frame_longer_than_the_whole_ring_is_dropped(setup, layout, indirect):
    s = setup(size=16, features=MERGE | Feature.INDIRECT_DESC)
    count = 16 if indirect else 16 // (len(layout) + 1)
    rooms = {}
    for _ in range(count):
        at, head = s.offer_room(100, layout, indirect)
        rooms[head] = at
    assert s.transmit(FRAME * 20, FRAME) == 0
    assert s.ring.dropped == 1
    elements = s.queue.take_used()
    assert merged(s, elements, rooms)[1] == FRAME


def test_N6_frame_waits_while_the_guest_can_still_add_buffers(setup):
    s = setup(size=16, features=MERGE)
    for _ in range(15):
        s.offer_room(100)
    assert s.transmit(FRAME * 20) == 1
    assert s.ring.dropped == 0
    s.offer_room(100)
    assert s.ring.transmit(s.batch, PLAIN) == 0
    assert s.ring.dropped == 1


def test_N6_frame_that_needs_more_pieces_than_there_are_is_dropped(setup):
    s = setup(size=8192, features=MERGE)
    s.offer_room(lib.VRING_PIECES + 1, (1,) * (lib.VRING_PIECES + 1))
    assert s.transmit(FRAME + bytes(lib.VRING_PIECES - 11 - len(FRAME)), FRAME) == 0
    assert s.ring.dropped == 1
    assert s.queue.take_used() == [(0, 12 + len(FRAME))]


def test_N6_frame_may_take_every_piece_there_is(setup):
    s = setup(size=8192, features=MERGE)
    frame = FRAME + bytes(lib.VRING_PIECES - 12 - len(FRAME))
    at, head = s.offer_room(lib.VRING_PIECES + 1, (1,) * (lib.VRING_PIECES + 1))
    assert s.transmit(frame) == 0
    assert s.queue.take_used() == [(head, lib.VRING_PIECES)]
    assert s.ram.read(at + 12, len(frame)) == frame


def test_segment_that_no_link_takes_is_dropped(setup):
    s = setup()
    s.offer_room(300)
    assert s.transmit(bytes(70000), FRAME) == 0
    assert s.ring.dropped == 1 and s.batch.c.frames == 1


def test_N1_receive_buffer_without_room_for_the_header_breaks_the_ring(setup):
    for features in (MODERN, MERGE):
        s = setup(features=features)
        s.offer_room(11)
        s.assert_broken(RingFault.RUNT, s.transmit(FRAME))


def test_N1_empty_receive_buffers_break_the_ring(setup):
    s = setup(features=MERGE)
    s.offer_room(100)
    s.queue.submit([Buffer(0, 0, True)])
    s.assert_broken(RingFault.RUNT, s.transmit(FRAME))
    assert s.queue.used_index == 0


def test_D2_bad_receive_chains_break_the_ring(setup):
    s = setup()
    s.queue.offer(16)
    s.queue.publish()
    s.assert_broken(RingFault.BAD_HEAD, s.transmit(FRAME))
    s = setup()
    s.queue.set_descriptor(0, s.place(bytes(20)), 20, DESC_WRITE | DESC_NEXT, 16)
    s.queue.offer(0)
    s.queue.publish()
    s.assert_broken(RingFault.BAD_NEXT, s.transmit(FRAME))


def test_D3_loop_of_receive_buffers_breaks_the_ring(setup):
    s = setup()
    s.queue.set_descriptor(0, s.place(bytes(20)), 1, DESC_WRITE | DESC_NEXT, 0)
    s.queue.offer(0)
    s.queue.publish()
    s.assert_broken(RingFault.LOOP, s.transmit(FRAME))


def test_D4_bad_indirect_receive_buffer_breaks_the_ring(setup):
    s = setup()
    s.offer_room(300, indirect=True)
    s.assert_broken(RingFault.BAD_INDIRECT, s.transmit(FRAME))


def test_D5_receive_descriptors_of_no_bytes(setup):
    s = setup()
    at = s.ram.allocate(300)
    empty = Buffer(1 << 63, 0, True)
    head = s.queue.submit([empty, Buffer(at, 20, True), empty, Buffer(at + 20, 280, True)])
    assert s.transmit(FRAME) == 0
    assert s.queue.take_used() == [(head, 12 + len(FRAME))]
    assert s.ram.read(at + 12, len(FRAME)) == FRAME


def test_D6_readable_buffer_in_the_receive_queue_breaks_the_ring(setup):
    s = setup()
    at = s.ram.allocate(300)
    s.queue.submit([Buffer(at, 20, True), Buffer(at + 20, 280)])
    s.assert_broken(RingFault.BAD_DIRECTION, s.transmit(FRAME))


@pytest.mark.parametrize("address, length", wild(0x40000000 + (1 << 22)))
def test_D8_receive_buffer_outside_memory_breaks_the_ring(setup, address, length):
    s = setup()
    s.queue.submit([Buffer(s.place(HEADER), 12, True), Buffer(address, length, True)])
    s.assert_broken(RingFault.BAD_ADDRESS, s.transmit(FRAME))


def test_D8_frames_before_a_bad_buffer_are_not_published(setup):
    s = setup()
    s.offer_room(300)
    s.queue.offer(77)
    s.queue.publish()
    assert s.transmit(FRAME, FRAME) == -1
    assert s.queue.used_index == 0
    assert s.ring.stop() == 0


def test_D7_receive_index_that_jumps_breaks_the_ring(setup):
    for index in (17, 0xFFFF):
        s = setup(size=16)
        s.queue.avail_index = index
        s.assert_broken(RingFault.AVAIL_JUMP, s.transmit(FRAME))
