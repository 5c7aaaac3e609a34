"""Frames through the device: a driver in the same process fills and empties real rings."""

import os
import random
import select

import pytest

from swos_net.dataplane.batch import Batch
from swos_net.dataplane.burst import FRAMES, Burst
from swos_net.device.vhost_user.device import VhostUserDevice
from swos_net.device.vhost_user.features import Feature, mask
from swos_net.device.vhost_user.message import U64, VRING_NO_FD, Request, VringState
from swos_net.testing.vhost_front_end import VhostGuest
from swos_net.testing.virtio_driver import GuestRam

ALL = (1 << 64) - 1
PLAIN = mask(Feature.VERSION_1, Feature.PROTOCOL_FEATURES)


class Bench:
    """A device, its guest, and what the device told."""

    def __init__(self, path: str, *, queue_pairs: int = 1, **options):
        self.events: list[tuple[str, dict]] = []
        self.path = path
        self.queue_pairs = queue_pairs
        self.device = VhostUserDevice(
            path, queue_pairs=queue_pairs, event=lambda name, **details: self.events.append((name, details)), **options
        )
        self.burst = Burst(False)
        self.ram = GuestRam(1 << 22)
        self.guest = None

    def connect(self) -> VhostGuest:
        self.guest = VhostGuest.connect(
            self.path, turn=self.device.handle_ready, ram=self.ram, queue_pairs=self.queue_pairs
        )
        return self.guest

    def start(self, features: int = ALL, size: int = 256) -> VhostGuest:
        guest = self.connect()
        guest.start(features, size)
        return guest

    def take(self) -> list[bytes]:
        """What one receive() gives, released."""
        count = self.device.receive(self.burst)
        frames = [self.burst.copy(index, 0, 65536) for index in range(count)]
        if count:
            self.device.release(self.burst)
        return frames

    def take_all(self) -> list[bytes]:
        frames = []
        while part := self.take():
            frames += part
        return frames

    @property
    def readable(self) -> bool:
        return bool(select.select([self.device], [], [], 0)[0])

    def of(self, name: str) -> list[dict]:
        return [details for seen, details in self.events if seen == name]

    def close(self) -> None:
        if self.guest is not None:
            self.guest.close()
        self.device.close()
        self.ram.close()


@pytest.fixture
def bench(tmp_path):
    bench = Bench(str(tmp_path / "socket"))
    yield bench
    bench.close()


@pytest.fixture
def wide(tmp_path):
    bench = Bench(str(tmp_path / "socket"), queue_pairs=2)
    yield bench
    bench.close()


def frame(number: int, length: int = 60) -> bytes:
    return (b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + number.to_bytes(4, "big")).ljust(length, b".")


def batch_of(frames) -> Batch:
    batch = Batch()
    for item in frames:
        batch.add_frame(item)
    batch.seal()
    return batch


EVERY_RING = pytest.mark.parametrize(
    "features",
    [ALL, ALL & ~mask(Feature.EVENT_IDX), PLAIN, PLAIN | mask(Feature.EVENT_IDX), mask(Feature.PROTOCOL_FEATURES)],
    ids=["all", "without event index", "plain", "plain with event index", "legacy"],
)


@EVERY_RING
def test_frames_in_both_directions(bench, features):
    guest = bench.start(features)
    driver = guest.drivers[0]
    bench.take_all()
    sent = [frame(number, 60 + number) for number in range(100)]
    for item in sent:
        driver.send(item)
    assert bench.take_all() == sent
    assert driver.reap() == 100
    assert bench.device.transmit(batch_of(sent[:FRAMES]))
    received = driver.receive()
    assert [data for _, data in received] == sent[:FRAMES]
    counters = bench.device.counters()
    assert counters["receive_frames"] == 100
    assert counters["receive_bytes"] == sum(map(len, sent))
    assert counters["transmit_frames"] == FRAMES
    assert counters["transmit_bytes"] == sum(map(len, sent[:FRAMES]))


@EVERY_RING
def test_guest_is_signalled(bench, features):
    guest = bench.start(features)
    driver = guest.drivers[0]
    driver.reap()
    guest.called(1)
    driver.send(frame(1))
    bench.take_all()
    assert guest.called(1) == 1
    guest.called(0)
    bench.device.transmit(batch_of([frame(2), frame(3)]))
    assert guest.called(0) == 1


@EVERY_RING
def test_kicks_are_off_while_there_is_work_and_on_before_waiting(bench, features):
    guest = bench.start(features)
    driver = guest.drivers[0]
    kicks = []
    driver.kick_transmit = lambda: (kicks.append(1), guest.kick(1))
    assert bench.take_all() == []
    driver.send(frame(1))
    assert len(kicks) == 1
    assert bench.take() == [frame(1)]
    for number in range(2, 6):
        driver.send(frame(number))
    assert len(kicks) == 1
    assert bench.readable
    assert bench.take_all() == [frame(number) for number in range(2, 6)]
    assert not bench.readable
    driver.send(frame(6))
    assert len(kicks) == 2
    assert bench.readable
    assert bench.take_all() == [frame(6)]


@EVERY_RING
def test_a_ring_that_was_filled_before_it_started_needs_no_kick(bench, features):
    guest = bench.connect()
    guest.negotiate(features)
    driver = guest._driver(0, 64)
    driver.kick_transmit = driver.kick_receive = lambda: None
    for number in range(3):
        driver.send(frame(number))
    guest.share(guest.ram)
    for index, queue in enumerate((driver.receive_queue, driver.transmit_queue)):
        guest.enable_ring(index)
        guest.set_up_ring(index, queue, primed=False)
    assert bench.readable
    assert bench.take_all() == [frame(number) for number in range(3)]


class Racing:
    """A ring whose guest adds a frame right after each look that found nothing, `times` times, and kicks if asked to."""

    def __init__(self, vring, driver, times):
        self.vring = vring
        self.driver = driver
        self.times = times

    def __getattr__(self, name):
        return getattr(self.vring, name)

    def receive(self, burst, discard):
        taken = 0 if self.times > 5 else self.vring.receive(burst, discard=discard)
        if not taken and self.times:
            self.times -= 1
            self.driver.reap()
            self.driver.send(frame(self.times))
        return taken


@pytest.mark.parametrize("times", [1, 3, 30])
@EVERY_RING
def test_frame_that_comes_between_the_last_look_and_the_wait(bench, features, times):
    guest = bench.start(features)
    driver = guest.drivers[0]
    bench.take_all()
    driver.send(frame(99))
    port = bench.device._rings.ports[1]
    port.vring = Racing(port.vring, driver, times)
    frames = []
    for _ in range(100):
        if not bench.readable:
            break
        frames += bench.take()
        if port.vring.next_avail != driver.transmit_queue.avail_index:
            assert bench.readable
    assert frames == [frame(99)] + [frame(number) for number in reversed(range(times))]


def test_chains_without_a_frame_are_given_back(bench):
    driver = bench.start().drivers[0]
    for _ in range(3):
        driver.send(b"")
    assert bench.take_all() == []
    assert driver.reap() == 3
    assert bench.device.counters()["receive_dropped"] == 3
    driver.send(frame(1))
    assert bench.take_all() == [frame(1)]


def test_one_receive_one_burst_at_most(bench):
    driver = bench.start().drivers[0]
    for number in range(FRAMES + 10):
        driver.send(frame(number))
    assert len(bench.take()) == FRAMES
    assert bench.readable
    assert len(bench.take()) == 10
    assert bench.take() == []


def test_release_comes_before_the_next_receive(bench):
    bench.start().drivers[0].send(frame(1))
    assert bench.device.receive(bench.burst) == 1
    with pytest.raises(RuntimeError, match="release"):
        bench.device.receive(Burst(False))
    bench.device.release(bench.burst)
    assert len(bench.burst) == 0
    assert bench.device.receive(bench.burst) == 0


def test_release_of_nothing(bench):
    bench.device.release(bench.burst)


def test_messages_wait_while_a_burst_is_out(bench):
    """T1: the memory that the burst points into cannot go."""
    guest = bench.start()
    guest.drivers[0].send(frame(1))
    assert bench.device.receive(bench.burst) == 1
    guest.send(Request.GET_VRING_BASE, VringState(1, 0))
    bench.device.handle_ready()
    assert bench.device.link_up
    assert bench.burst.copy(0, 0, 100) == frame(1)
    bench.device.release(bench.burst)
    bench.device.handle_ready()
    assert guest.receive(Request.GET_VRING_BASE).num == 1
    assert guest.drivers[0].reap() == 1


def test_close_while_a_burst_is_out(bench):
    guest = bench.start()
    guest.drivers[0].send(frame(1))
    assert bench.device.receive(bench.burst) == 1
    bench.device.close()
    assert len(bench.burst) == 0
    assert guest.drivers[0].reap() == 1


# towards the guest


def test_no_buffers_keeps_the_batch(bench):
    guest = bench.start(size=64)
    driver = guest.drivers[0]
    bench.take_all()
    frames = [frame(number) for number in range(FRAMES)]
    assert bench.device.transmit(batch_of(frames))
    batch = batch_of(frames)
    assert not bench.device.transmit(batch)
    assert not bench.readable
    assert not bench.device.transmit(batch)
    received = []
    for _ in range(3):
        # the driver takes what there is and posts as many buffers
        received += [data for _, data in driver.receive()]
        assert bench.readable
        assert bench.take() == []
        if bench.device.transmit(batch):
            break
    received += [data for _, data in driver.receive()]
    assert received == frames * 2


@pytest.mark.parametrize("features", [ALL, ALL & ~mask(Feature.EVENT_IDX)])
def test_part_of_a_batch_goes_on_where_it_stopped(bench, features):
    guest = bench.connect()
    guest.negotiate(features)
    driver = guest._driver(0, 64)
    guest.drivers = [driver]
    guest.share(guest.ram)
    for index, queue in enumerate(guest.queues):
        guest.enable_ring(index)
        guest.set_up_ring(index, queue)
    driver.post(10)
    bench.take_all()
    frames = [frame(number) for number in range(30)]
    batch = batch_of(frames)
    got = []
    for expected in (False, False, True):
        assert bench.device.transmit(batch) == expected
        got += [data for _, data in driver.receive(repost=False)]
        assert not bench.readable
        driver.post(10)
        assert bench.readable == (not expected)
        bench.take_all()
    assert got == frames


def test_without_a_link_frames_are_discarded(bench):
    batch = batch_of([frame(1), frame(2)])
    assert bench.device.transmit(batch)
    assert bench.device.counters()["transmit_discarded"] == 2
    guest = bench.start()
    guest.stop_ring(0)
    assert bench.device.transmit(batch_of([frame(1)]))
    assert bench.device.counters()["transmit_discarded"] == 3


def test_waiting_batch_is_given_up_with_the_link(bench):
    guest = bench.start(size=64)
    bench.take_all()
    frames = [frame(number) for number in range(FRAMES)]
    bench.device.transmit(batch_of(frames))
    batch = batch_of(frames)
    assert not bench.device.transmit(batch)
    guest.close()
    bench.guest = None
    assert bench.readable
    assert bench.take() == []
    assert bench.device.transmit(batch)


# queue pairs


def test_rings_take_turns(wide):
    first, second = wide.start().drivers
    for number in range(3 * FRAMES):
        first.send(frame(number))
        second.send(frame(1000 + number))
    bursts = []
    while taken := wide.take():
        bursts.append(taken)
    assert len(bursts) == 6
    owners = [int.from_bytes(taken[0][14:18], "big") >= 1000 for taken in bursts]
    assert owners in ([False, True] * 3, [True, False] * 3)
    assert [item for taken in bursts for item in taken if item[14:18] < (1000).to_bytes(4, "big")] == [
        frame(number) for number in range(3 * FRAMES)
    ]


def test_disabled_transmit_ring_is_consumed_and_discarded(wide):
    guest = wide.start()
    first, second = guest.drivers
    guest.enable_ring(3, False)
    for number in range(3 * FRAMES):
        second.send(frame(number))
    first.send(frame(7))
    assert wide.take_all() == [frame(7)]
    assert second.reap() == 3 * FRAMES
    guest.enable_ring(3)
    second.send(frame(8))
    assert wide.take_all() == [frame(8)]


def test_transmit_goes_to_the_first_pair_that_is_enabled(wide):
    guest = wide.start()
    first, second = guest.drivers
    wide.take_all()
    wide.device.transmit(batch_of([frame(1)]))
    guest.enable_ring(0, False)
    assert wide.device.link_up
    wide.device.transmit(batch_of([frame(2)]))
    guest.enable_ring(2, False)
    assert not wide.device.link_up
    assert [data for _, data in first.receive()] == [frame(1)]
    assert [data for _, data in second.receive()] == [frame(2)]


def test_endless_work_of_a_disabled_ring_does_not_keep_the_caller(wide):
    """T5: it gets its turn although the guest fills the ring as fast as it is emptied."""
    guest = wide.start()
    second = guest.drivers[1]
    guest.enable_ring(3, False)
    port = wide.device._rings.ports[3]
    receive = port.vring.receive

    class Refilled:
        """The ring, with a guest behind it that never stops."""

        def __getattr__(self, name):
            return getattr(port_vring, name)

        def receive(self, burst, discard):
            second.reap()
            second.send(frame(1))
            return receive(burst, discard=discard)

    port_vring = port.vring
    port.vring = Refilled()
    assert wide.take() == []
    assert wide.readable
    port.vring = port_vring
    assert wide.take_all() == []
    assert not wide.readable


# the life of a ring


def test_stop_and_start_again_loses_and_repeats_nothing(bench):
    guest = bench.start()
    driver = guest.drivers[0]
    for number in range(10):
        driver.send(frame(number))
    assert len(bench.take()) == 10
    for number in range(10, 15):
        driver.send(frame(number))
    base = guest.stop_ring(1)
    assert base == 10
    assert not bench.device._rings.ports[1].vring.running  # T1
    assert guest.stop_ring(1) == 10
    assert bench.take_all() == []
    guest.set_up_ring(1, driver.transmit_queue, base=base)
    assert bench.take_all() == [frame(number) for number in range(10, 15)]


def test_reconnect_at_the_used_index_loses_and_repeats_nothing(bench):
    guest = bench.start()
    driver = guest.drivers[0]
    for number in range(10):
        driver.send(frame(number))
    # taken, but not given back when the connection goes
    assert bench.device.receive(bench.burst) == 10
    bench.device.release(bench.burst)
    for number in range(10, 15):
        driver.send(frame(number))
    guest.close()
    bench.take_all()
    again = bench.connect()
    again.negotiate(ALL)
    again.share(again.ram)
    for index, queue in enumerate((driver.receive_queue, driver.transmit_queue)):
        again.set_up_ring(index, queue, base=queue.used_index)
    # Nothing is enabled from before.
    assert not bench.device.link_up
    for index in (0, 1):
        again.enable_ring(index)
    assert bench.device.link_up
    assert bench.take_all() == [frame(number) for number in range(10, 15)]


def test_new_memory_while_frames_wait(bench):
    guest = bench.start()
    driver = guest.drivers[0]
    for number in range(5):
        driver.send(frame(number))
    guest.share(guest.ram)
    assert bench.take_all() == [frame(number) for number in range(5)]
    driver.send(frame(5))
    assert bench.take_all() == [frame(5)]
    bench.device.transmit(batch_of([frame(6)]))
    assert [data for _, data in driver.receive()] == [frame(6)]


def test_new_kick_descriptor_while_frames_wait(bench):
    """V4: a kick that went to the old one is not missed."""
    guest = bench.start()
    bench.take_all()
    driver = guest.drivers[0]
    driver.kick_transmit = lambda: None
    driver.send(frame(1))
    assert not bench.readable
    guest.set_kick(1)
    assert bench.readable
    assert bench.take_all() == [frame(1)]


def test_t2_replaced_kick_descriptor_is_not_watched(bench):
    """The front-end still has it open, so closing ours alone does not end the watch."""
    guest = bench.start()
    bench.take_all()
    old = os.dup(guest.kicks[1])
    guest.set_kick(1)
    bench.take_all()
    os.eventfd_write(old, 1)
    assert not bench.readable
    guest.stop_ring(1)
    guest.kick(1)
    assert not bench.readable
    os.close(old)


def test_new_call_descriptor_is_signalled_once(bench):
    """A signal may have gone to the one before, which nobody reads any more."""
    guest = bench.start()
    guest.drivers[0].send(frame(1))
    bench.take_all()
    guest.set_call(1)
    assert guest.called(1) == 1
    guest.stop_ring(1)
    guest.set_call(1)
    assert guest.called(1) == 0


def test_signal_without_a_call_descriptor_is_made_up_for(bench):
    guest = bench.start()
    guest.request(Request.SET_VRING_CALL, U64(1 | VRING_NO_FD))
    guest.drivers[0].send(frame(1))
    bench.take_all()
    guest.set_call(1)
    assert guest.called(1)


def test_ring_without_kick_descriptor_is_looked_at(bench):
    guest = bench.start()
    driver = guest.drivers[0]
    bench.take_all()
    guest.request(Request.SET_VRING_KICK, U64(1 | VRING_NO_FD))
    driver.kick_transmit = lambda: None
    bench.take_all()
    for number in range(3):
        driver.send(frame(number))
        assert select.select([bench.device], [], [], 5)[0]
        assert bench.take_all() == [frame(number)]
    assert not bench.of("kicked_in_vain")


def test_kick_descriptor_that_would_block(bench):
    guest = bench.start()
    bench.take_all()
    blocking = os.eventfd(0)
    guest.request(Request.SET_VRING_KICK, U64(1), [blocking])
    guest.drivers[0].kick_transmit = lambda: os.eventfd_write(blocking, 1)
    bench.take_all()
    guest.drivers[0].send(frame(1))
    assert bench.take_all() == [frame(1)]
    os.close(blocking)


def test_full_call_descriptor_is_no_obstacle(bench):
    """T3, M10: neither blocks nor fails."""
    guest = bench.start()
    full = os.eventfd(0)
    os.eventfd_write(full, (1 << 64) - 2)
    guest.request(Request.SET_VRING_CALL, U64(1), [full])
    guest.drivers[0].send(frame(1))
    assert bench.take_all() == [frame(1)]
    os.close(full)


def test_d8_broken_ring_is_left_alone_and_others_go_on(wide):
    guest = wide.start()
    first, second = guest.drivers
    wide.take_all()
    queue = second.transmit_queue
    queue.offer(queue.size)  # D2
    queue.publish()
    guest.kick(3)
    assert wide.take_all() == []
    assert [details["check"][:2] for details in wide.of("ring_broken")] == ["D2"]
    assert wide.of("ring_broken")[0]["index"] == 3
    assert guest.reported(3) == 1
    assert wide.device.counters()["rings_broken"] == 1
    guest.kick(3)
    assert wide.take_all() == []
    assert not wide.readable
    first.send(frame(1))
    assert wide.take_all() == [frame(1)]
    assert wide.device.link_up
    # it can be set up again
    assert guest.stop_ring(3) == 0
    queue.ram.write(queue.avail + 4, b"\0\0")
    queue.avail_index = 0
    guest.set_up_ring(3, queue)
    assert wide.take_all() == []
    assert len(wide.of("ring_broken")) == 1


def test_d8_broken_receive_ring_takes_the_link_down(bench):
    guest = bench.start()
    queue = guest.drivers[0].receive_queue
    queue.avail_index = queue.avail_index + queue.size + 1  # V6
    assert bench.device.transmit(batch_of([frame(1)]))
    assert not bench.device.link_up
    assert bench.of("ring_broken")[0]["check"].startswith("V6")
    assert bench.device.counters()["transmit_discarded"] == 1
    assert guest.reported(0) == 1


def test_v6_ring_that_is_broken_when_it_starts(bench):
    guest = bench.start()
    queue = guest.drivers[0].transmit_queue
    guest.stop_ring(1)
    queue.avail_index = 300
    guest.set_up_ring(1, queue, base=0)
    assert bench.of("ring_broken")[0]["check"].startswith("V6")
    assert not bench.of("protocol_error")
    assert not bench.device.link_up


def test_kicks_of_memory_that_is_not_shared_are_explained_once(bench, caplog):
    guest = bench.start()
    queue = guest.drivers[0].transmit_queue
    for _ in range(5):
        assert queue.avail_index == 0
        guest.kick(1)
        bench.take_all()
    assert bench.of("kicked_in_vain") == [{"index": 1}]
    assert "share=on" in caplog.text


def test_kicks_of_a_healthy_ring_need_no_explanation(bench):
    guest = bench.start()
    for number in range(10):
        guest.drivers[0].send(frame(number))
        bench.take_all()
        guest.kick(0)
        guest.kick(1)
        bench.take_all()
    assert not bench.of("kicked_in_vain")


@pytest.mark.parametrize("seed", range(8))
@EVERY_RING
def test_no_wake_up_is_lost(wide, features, seed):
    """Whenever frames wait, the descriptor says so, whatever the owner did last."""
    rng = random.Random(seed)
    guest = wide.start(features, size=64)
    waiting = [0, 0]
    number = 0
    held = 0
    batch = None
    for _ in range(400):
        action = rng.randrange(6)
        if action < 2:
            pair = rng.randrange(2)
            driver = guest.drivers[pair]
            driver.reap()
            for _ in range(rng.choice((1, 1, 3, 40))):
                if not driver.transmit_queue.free:
                    break
                driver.send(frame(number))
                waiting[pair] += 1
                number += 1
        elif action == 2 and not held:
            held = wide.device.receive(wide.burst)
        elif action == 3 and held:
            wide.device.release(wide.burst)
            held = 0
        elif action == 4:
            wide.device.handle_ready()
        elif action == 5:
            if batch is None:
                batch = batch_of([frame(number)] * rng.choice((1, 20)))
            if wide.device.transmit(batch):
                batch = None
            if rng.random() < 0.5:
                for driver in guest.drivers:
                    driver.receive()
        left = sum(
            (driver.transmit_queue.avail_index - wide.device._rings.ports[2 * pair + 1].vring.next_avail) & 0xFFFF
            for pair, driver in enumerate(guest.drivers)
        )
        if left:
            assert wide.readable
    if held:
        wide.device.release(wide.burst)
    wide.take_all()
    assert not wide.readable
    assert wide.device.counters()["receive_frames"] == sum(waiting) == number
