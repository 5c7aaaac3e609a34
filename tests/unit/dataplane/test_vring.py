"""A ring's set-up, its signals and kicks, and the driver model against both rings.

Each test of a check carries the check's name: V ring set-up, R memory, N net header, T hand-over.  Their rules
stand in vhost/vring.c.
"""

import errno
import os

import pytest

from swos_net._dataplane import ffi
from swos_net.dataplane.batch import Batch, link_limits
from swos_net.dataplane.burst import Burst
from swos_net.dataplane.guest_memory import GuestMemory
from swos_net.dataplane.vring import RingFault, Vring
from swos_net.link import LinkFeatures
from swos_net.testing.virtio_driver import (
    AVAIL_NO_INTERRUPT,
    USED_NO_NOTIFY,
    Buffer,
    Feature,
    GuestRam,
    NetDriver,
    NetHeader,
)

MODERN = Feature.VERSION_1
EVENT = MODERN | Feature.EVENT_IDX
MERGE = MODERN | Feature.MRG_RXBUF
HEADER = NetHeader().pack()
FRAME = bytes(12) + b"\x88\xb5" + bytes(range(200))  # an experimental EtherType: the ring does not care
PLAIN = link_limits(LinkFeatures())


@pytest.mark.parametrize("size", [0, 3, 24, 32767, 32769, 65536, 1 << 31])
def test_V1_size_is_a_power_of_two_up_to_32768(setup, size):
    s = setup(start=False)
    with pytest.raises(OSError, match="V1") as caught:
        s.start(size=size)
    assert caught.value.errno == errno.EINVAL
    assert not s.ring.running


def test_V1_smallest_and_largest_rings_work(setup):
    for size in (1, 32768):
        s = setup(size=size)
        s.send()
        assert s.receive() == 1 and s.frames() == [FRAME]


@pytest.mark.parametrize("part, step", [("desc", 8), ("avail", 1), ("used", 2)])
def test_V2_parts_are_aligned(setup, part, step):
    s = setup(start=False)
    addresses = dict(zip(("desc", "avail", "used"), s.queue.addresses, strict=True))
    with pytest.raises(OSError, match="V2") as caught:
        s.start(**{part: addresses[part] + step})
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("part, length", [("desc", 16 * 16), ("avail", 6 + 2 * 16), ("used", 6 + 8 * 16)])
def test_V3_each_part_lies_whole_in_one_region(setup, part, length):
    s = setup(start=False, regions=2)
    first, second = s.ram.regions
    step = {"desc": 16, "avail": 2, "used": 4}[part]
    fitting = (first.user_address + first.size - length) // step * step
    s.start(**{part: fitting})
    for address in (fitting + step, second.user_address - step, 0, (1 << 64) - step):
        with pytest.raises(OSError, match="V3") as caught:
            s.start(**{part: address})
        assert caught.value.errno == errno.EFAULT
        assert not s.ring.running


def test_V3_ring_addresses_are_not_guest_physical(setup):
    s = setup(start=False)
    with pytest.raises(OSError, match="V3"):
        s.start(desc=s.queue.desc)


def test_V6_more_available_at_start_than_the_ring_holds(setup):
    s = setup(size=16, start=False)
    s.queue.avail_index = 17
    with pytest.raises(OSError, match="V6"):
        s.start(base=0)
    assert s.ring.broken is RingFault.AVAIL_JUMP
    assert s.errors() == 1
    s.start(base=1)
    assert s.ring.available == 16
    assert s.ring.broken is RingFault.SOUND


def test_V6_base_has_16_bits(setup):
    s = setup(start=False)
    with pytest.raises(OverflowError):
        s.start(base=65536)


def test_start_takes_the_used_index_from_the_guest_and_asks_for_kicks(setup):
    s = setup(features=MODERN | Feature.EVENT_IDX, start=False)
    s.queue.used_index = 7
    s.queue.avail_index = 9
    s.start(base=9)
    assert (s.ring.next_avail, s.ring.next_used) == (9, 7)
    assert s.queue.avail_event == 9 and s.queue.used_flags == 0
    assert s.ring.kicks_enabled

    s = setup(start=False)
    s.ram.write(s.queue.used, b"\x01\x00")
    s.start()
    assert s.queue.used_flags == 0


@pytest.mark.parametrize(
    "features, size",
    [(0, 10), (Feature.CSUM, 10), (MODERN, 12), (Feature.MRG_RXBUF, 12), (MODERN | Feature.MRG_RXBUF, 12)],
)
def test_N5_header_size_follows_from_the_features(setup, features, size):
    s = setup(features=features)
    assert s.ring.header_size == size
    s.send(NetHeader().pack(size) + FRAME)
    assert s.receive() == 1 and s.frames() == [FRAME]


def test_R5_ring_is_found_again_after_the_memory_table_changed(setup):
    s = setup()
    s.send()
    s.memory.close()
    s.ram.share_with(s.memory)
    assert s.receive() == 1 and s.frames() == [FRAME]
    assert s.release() == 0 and s.queue.take_used() == [(0, 0)]


def test_R5_ring_breaks_when_just_its_region_goes(setup):
    s = setup(regions=2)
    s.send()
    ring, other = s.ram.regions
    assert s.memory.remove(other.guest_address, other.size, other.user_address)
    assert s.receive() == 1 and s.release() == 0
    assert s.memory.remove(ring.guest_address, ring.size, ring.user_address)
    assert s.receive() == -1
    assert s.ring.broken is RingFault.BAD_ADDRESS


@pytest.mark.parametrize("call", ["receive", "release", "transmit", "enable_kicks", "available"])
def test_R5_ring_without_its_memory_breaks(setup, call):
    s = setup()
    s.memory.close()
    if call == "available":
        assert s.ring.available == 0
    elif call == "enable_kicks":
        assert s.ring.enable_kicks() is False
    elif call == "transmit":
        assert s.transmit(FRAME) == -1
    else:
        assert getattr(s, call)() == -1
    assert s.ring.broken is RingFault.BAD_ADDRESS
    assert s.errors() == 1


def test_T1_stopped_ring_touches_and_signals_nothing(setup):
    s = setup()
    s.send()
    s.send()
    assert s.receive(budget=1) == 1
    assert s.ring.stop() == 0, "what was taken but not given back counts as never taken"
    image = s.ram.image()
    assert s.receive() == 0
    assert s.release() == -1
    assert s.transmit(FRAME) == 1
    assert s.ring.enable_kicks() is False
    s.ring.disable_kicks()
    assert s.ring.available == 0
    assert s.ram.image() == image
    assert s.signals() == s.errors() == 0


def test_T1_burst_from_before_a_restart_is_not_given_back(setup):
    s = setup()
    s.send()
    assert s.receive() == 1
    base = s.ring.stop()
    s.start(base=base)
    assert s.release() == -1
    assert s.queue.used_index == 0
    assert s.receive() == 1 and s.frames() == [FRAME]
    assert s.release() == 0
    assert s.queue.take_used() == [(0, 0)]
    assert s.ring.stop() == 1


def complete(s, count):
    for _ in range(count):
        s.send()
    assert s.receive() == count
    assert s.release() == 0
    s.queue.take_used()


def test_signal_follows_the_available_flags_without_event_index(setup):
    s = setup()
    complete(s, 3)
    assert s.signals() == 1, "one signal for the whole burst"
    s.queue.avail_flags = AVAIL_NO_INTERRUPT
    complete(s, 3)
    assert s.signals() == 0
    s.queue.avail_flags = 0
    complete(s, 1)
    assert s.signals() == 1
    assert s.ring.signals == 2


def test_first_signal_after_start_is_unconditional_with_event_index(setup):
    s = setup(features=EVENT)
    s.queue.used_event = 1000
    complete(s, 1)
    assert s.signals() == 1
    complete(s, 1)
    assert s.signals() == 0
    s.start(base=s.ring.stop())
    complete(s, 1)
    assert s.signals() == 1


@pytest.mark.parametrize("base", [0, 100, 65530, 65535])
@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("distance", [-2, -1, 0, 1, 2, 3, 7, 8, 9, 40000])
def test_signal_with_event_index(setup, base, count, distance):
    """A signal is due when the used element of index used_event is among those written since the last decision."""
    s = setup(features=EVENT, base=base)
    complete(s, 1)
    assert s.signals() == 1
    s.queue.avail_flags = AVAIL_NO_INTERRUPT  # 2.7.7.1: ignored with an event index
    s.queue.used_event = base + 1 + distance
    complete(s, count)
    assert s.signals() == (1 if 0 <= distance < count else 0)


def test_no_signal_for_a_release_of_nothing(setup):
    s = setup()
    assert s.release() == 0
    assert s.signals() == 0 and s.queue.used_index == 0


def test_T3_signal_without_a_descriptor_is_made_up_for(setup):
    s = setup()
    s.ring.call_fd = -1
    complete(s, 1)
    assert s.signals() == 0
    s.ring.call_fd = s.call
    assert s.signals() == 1
    s.ring.call_fd = s.call
    assert s.signals() == 0, "once"
    s.queue.avail_flags = AVAIL_NO_INTERRUPT
    s.ring.call_fd = -1
    complete(s, 1)
    s.ring.call_fd = s.call
    assert s.signals() == 0, "none was due"
    s.queue.avail_flags = 0
    s.ring.call_fd = -1
    complete(s, 1)
    s.ring.stop()
    s.ring.call_fd = s.call
    assert s.signals() == 0, "a stopped ring signals nothing"


def test_T3_full_or_closed_eventfd_does_not_hurt(setup):
    s = setup()
    os.eventfd_write(s.call, (1 << 64) - 2)
    complete(s, 1)
    assert s.signals() == (1 << 64) - 2
    reading, writing = os.pipe()
    os.close(writing)
    s.ring.call_fd = reading  # not open for writing: EBADF
    complete(s, 1)
    os.close(reading)
    assert s.ring.broken is RingFault.SOUND


def test_kicks_without_event_index(setup):
    s = setup()
    assert s.queue.used_flags == 0
    s.ring.disable_kicks()
    assert s.queue.used_flags == USED_NO_NOTIFY and not s.ring.kicks_enabled
    assert s.ring.enable_kicks() is False
    assert s.queue.used_flags == 0 and s.ring.kicks_enabled
    s.send()
    assert s.ring.enable_kicks() is True
    s.receive()
    assert s.ring.enable_kicks() is False


@pytest.mark.parametrize("base", [0, 65534])
def test_kicks_with_event_index(setup, base):
    s = setup(features=EVENT, base=base)
    data = s.place(HEADER + FRAME)

    def publish_wants_a_kick():
        s.queue.offer(s.queue.add([Buffer(data, 100)]))
        return s.queue.publish()

    assert publish_wants_a_kick(), "asked for at the start"
    assert not publish_wants_a_kick(), "once is enough"
    assert s.receive() == 2
    s.ring.disable_kicks()
    assert s.queue.used_flags == 0, "2.7.10.1: the flag stays zero with an event index"
    assert not publish_wants_a_kick()
    assert s.ring.enable_kicks() is True, "came while nobody asked"
    assert s.receive() == 1
    assert s.ring.enable_kicks() is False
    assert s.queue.avail_event == (base + 3) & 0xFFFF
    assert publish_wants_a_kick()


@pytest.mark.parametrize("features", [Feature(0), MODERN, EVENT, MERGE, MERGE | EVENT | Feature.INDIRECT_DESC])
def test_driver_model_and_rings_exchange_frames(features):
    """Frames both ways through many laps of both rings, the driver signalled and kicked as the rules say."""
    ram = GuestRam()
    kicks = []
    driver = NetDriver(
        ram,
        features,
        16,
        buffer_size=512 if features & Feature.MRG_RXBUF else 2048,
        kick_receive=lambda: kicks.append("receive"),
        kick_transmit=lambda: kicks.append("transmit"),
    )
    memory = GuestMemory()
    ram.share_with(memory)
    to_guest, from_guest = Vring(), Vring()
    burst, got_up, got_down = Burst(arena=False), [], []
    driver.post()
    for ring, queue in ((to_guest, driver.receive_queue), (from_guest, driver.transmit_queue)):
        ring.start(memory, 16, features, *queue.addresses, 0)
    frames = [FRAME[:14] + os.urandom(1 + 37 * (i % 40)) for i in range(200)]
    for i in range(0, 200, 4):
        batch = Batch()
        for frame in frames[i : i + 4]:
            driver.send(frame, layout=(12, 20), indirect=bool(features & Feature.INDIRECT_DESC))
            batch.add_frame(frame)
        assert from_guest.receive(burst) == 4
        got_up += [burst.copy(j, 0, 65536) for j in range(len(burst))]
        assert from_guest.release(burst) == 0
        assert from_guest.enable_kicks() is False
        assert driver.reap() == 4
        batch.seal()
        while to_guest.transmit(batch, PLAIN) == 1:
            got_down += [frame for _, frame in driver.receive()]
        got_down += [frame for _, frame in driver.receive()]
    assert got_up == frames and got_down == frames
    assert kicks.count("transmit") >= 50
    assert to_guest.dropped == from_guest.dropped == 0
    for ring in (to_guest, from_guest):
        ring.stop()
    memory.close()
    ram.close()


def test_vring_reports_numbers_of_its_own_struct():
    ring = Vring()
    assert (ring.call_fd, ring.err_fd, ring.running, ring.broken_check, ring.kicks) == (-1, -1, False, "", 0)
    ring.kicks += 1
    assert ring.c.kicks == 1
    assert ffi.typeof(ring.c) is ffi.typeof("vring *")
