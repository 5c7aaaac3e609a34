"""The wire in memory: what is sent at one end is received at the other, with its offload metadata."""

import pytest

from swos_net.dataplane.burst import Burst
from swos_net.device.pair import QUEUE_FRAMES, make_pair
from swos_net.link import Medium, Offload


@pytest.fixture
def pair(kit):
    first, second = make_pair(addresses=(kit.OUR_MAC, kit.PEER_MAC))
    for device in (first, second):
        device.fileno()  # a new descriptor is readable until somebody looks
        device.receive(Burst())
    yield first, second
    first.close()
    second.close()


def test_frames_arrive_in_order_with_their_bytes(pair, kit):
    first, second = pair
    assert first.transmit(kit.udp_batch(b"one", b"two"))
    frames = kit.received(second)
    assert [frame[42:] for frame in frames] == [b"one", b"two"]
    assert all(frame[:14] == kit.PEER_MAC + kit.OUR_MAC + b"\x08\x00" for frame in frames)
    assert first.counters() == {"frames_sent": 2, "bytes_sent": 90}


@pytest.mark.parametrize("six", [False, True])
def test_a_super_segment_crosses_whole_and_a_plain_link_cuts_it(kit, six):
    data = bytes(range(250)) * 40
    for offloads, sizes in ((Offload.CHECKSUM | Offload.TSO4 | Offload.TSO6, [10000]), (Offload.NONE, [1440] * 6 + [1360])):
        first, second = make_pair(offloads=offloads)
        first.transmit(kit.tcp_batch(data, 1440, six=six))
        burst = Burst()
        count = second.receive(burst)
        records = list(burst.records())
        assert [record[14] for record in records] == sizes
        assert not any(record[1] for record in records)
        whole = len(sizes) == 1
        assert burst.offload(0) == ((1, 4 if six else 1, 1440) if whole else (0, 0, 0))
        headers = 14 + (40 if six else 20) + 20
        assert b"".join(burst.copy(index, headers, 70000) for index in range(count)) == data
        first.close()
        second.close()


def test_the_descriptor_is_readable_exactly_while_there_is_something(pair, kit):
    first, second = pair
    kit.received(second)
    assert not kit.readable(second)
    first.transmit(kit.udp_batch(b"x"))
    assert kit.readable(second)
    assert kit.received(second) and not kit.received(second)
    assert not kit.readable(second)


def test_more_than_a_burst_stays_for_the_next(pair, kit):
    first, second = pair
    for _ in range(3):
        first.transmit(kit.udp_batch(*[b"x"] * 30))
    assert [len(kit.received(second)) for _ in range(3)] == [64, 26, 0]


def test_a_full_queue_is_told_and_room_wakes(pair, kit):
    first, second = pair
    for _ in range(QUEUE_FRAMES // 64):
        assert first.transmit(kit.udp_batch(*[b"x"] * 64))
    kit.received(first)
    assert not kit.readable(first)
    batch = kit.udp_batch(b"late")
    assert not first.transmit(batch)
    kit.received(second)
    assert kit.readable(first)
    assert first.transmit(batch) and batch.sent


def test_an_end_without_another_takes_frames_and_loses_them(pair, kit):
    first, second = pair
    second.close()
    assert not first.link_up
    assert first.transmit(kit.udp_batch(b"x"))
    assert kit.received(first) == []


def test_a_link_of_ip_packets_has_no_link_addresses(kit):
    first, second = make_pair(medium=Medium.IP)
    assert first.link.address is None and first.link.link_header == 0
    first.transmit(kit.udp_batch(b"packet"))
    assert kit.received(second)[0][28:] == b"packet"
    first.close()
    second.close()


def test_room_that_is_made_just_as_the_queue_was_found_full_is_not_missed(pair, kit):
    """The other end reads in another thread: here, at the worst moment."""
    first, second = pair
    for _ in range(QUEUE_FRAMES // 64):
        first.transmit(kit.udp_batch(*[b"x"] * 64))
    queue = second._queue

    class Raced(type(queue)):
        def __len__(self):
            found = super().__len__()
            if found >= QUEUE_FRAMES:
                second._queue = queue
                kit.received(second)
            return found

    kit.received(first)
    second._queue = Raced(queue)
    batch = kit.udp_batch(b"late")
    assert first.transmit(batch) or kit.readable(first)
