"""Frames through the device: a driver in the same process fills and empties real rings."""

import random

import pytest

from swos_net.dataplane.burst import FRAMES, Burst
from swos_net.device.vhost_user.features import Feature, mask
from swos_net.device.vhost_user.message import Request, VringState

ALL = (1 << 64) - 1


def test_frames_in_both_directions(bench, features):
    guest = bench.start(features)
    driver = guest.drivers[0]
    bench.take_all()
    sent = [bench.frame(number, 60 + number) for number in range(100)]
    for item in sent:
        driver.send(item)
    assert bench.take_all() == sent
    assert driver.reap() == 100
    assert bench.device.transmit(bench.batch(sent[:FRAMES]))
    received = driver.receive()
    assert [data for _, data in received] == sent[:FRAMES]
    counters = bench.device.counters()
    assert counters["receive_frames"] == 100
    assert counters["receive_bytes"] == sum(map(len, sent))
    assert counters["transmit_frames"] == FRAMES
    assert counters["transmit_bytes"] == sum(map(len, sent[:FRAMES]))


def test_guest_is_signalled(bench, features):
    guest = bench.start(features)
    driver = guest.drivers[0]
    driver.reap()
    guest.called(1)
    driver.send(bench.frame(1))
    bench.take_all()
    assert guest.called(1) == 1
    guest.called(0)
    bench.device.transmit(bench.batch([bench.frame(2), bench.frame(3)]))
    assert guest.called(0) == 1


def test_kicks_are_off_while_there_is_work_and_on_before_waiting(bench, features):
    guest = bench.start(features)
    driver = guest.drivers[0]
    kicks = []
    driver.kick_transmit = lambda: (kicks.append(1), guest.kick(1))
    assert bench.take_all() == []
    driver.send(bench.frame(1))
    assert len(kicks) == 1
    assert bench.take() == [bench.frame(1)]
    for number in range(2, 6):
        driver.send(bench.frame(number))
    assert len(kicks) == 1
    assert bench.readable
    assert bench.take_all() == [bench.frame(number) for number in range(2, 6)]
    assert not bench.readable
    driver.send(bench.frame(6))
    assert len(kicks) == 2
    assert bench.readable
    assert bench.take_all() == [bench.frame(6)]


def test_a_ring_that_was_filled_before_it_started_needs_no_kick(bench, features):
    guest = bench.connect()
    guest.negotiate(features)
    driver = guest._driver(0, 64)
    driver.kick_transmit = driver.kick_receive = lambda: None
    for number in range(3):
        driver.send(bench.frame(number))
    guest.share(guest.ram)
    for index, queue in enumerate((driver.receive_queue, driver.transmit_queue)):
        guest.enable_ring(index)
        guest.set_up_ring(index, queue, primed=False)
    assert bench.readable
    assert bench.take_all() == [bench.frame(number) for number in range(3)]


class Racing:
    """A ring whose guest adds a frame right after a look that found nothing, `times` times, and kicks if asked to."""

    def __init__(self, vring, bench, times):
        self.vring = vring
        self.bench = bench
        self.driver = bench.guest.drivers[0]
        self.times = times

    def __getattr__(self, name):
        return getattr(self.vring, name)

    def receive(self, burst, discard):
        taken = 0 if self.times > 5 else self.vring.receive(burst, discard=discard)
        if not taken and self.times:
            self.times -= 1
            self.driver.reap()
            self.driver.send(self.bench.frame(self.times))
        return taken


@pytest.mark.parametrize("times", [1, 3, 30])
def test_frame_that_comes_between_the_last_look_and_the_wait(bench, features, times):
    guest = bench.start(features)
    driver = guest.drivers[0]
    bench.take_all()
    driver.send(bench.frame(99))
    port = bench.device._rings.ports[1]
    port.vring = Racing(port.vring, bench, times)
    frames = []
    for _ in range(100):
        if not bench.readable:
            break
        frames += bench.take()
        if port.vring.next_avail != driver.transmit_queue.avail_index:
            assert bench.readable
    assert frames == [bench.frame(99)] + [bench.frame(number) for number in reversed(range(times))]


def test_chains_without_a_frame_are_given_back(bench):
    driver = bench.start().drivers[0]
    for _ in range(3):
        driver.send(b"")
    assert bench.take_all() == []
    assert driver.reap() == 3
    assert bench.device.counters()["receive_dropped"] == 3
    driver.send(bench.frame(1))
    assert bench.take_all() == [bench.frame(1)]


def test_one_receive_one_burst_at_most(bench):
    driver = bench.start().drivers[0]
    for number in range(FRAMES + 10):
        driver.send(bench.frame(number))
    assert len(bench.take()) == FRAMES
    assert bench.readable
    assert len(bench.take()) == 10
    assert bench.take() == []


def test_release_comes_before_the_next_receive(bench):
    bench.start().drivers[0].send(bench.frame(1))
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
    guest.drivers[0].send(bench.frame(1))
    assert bench.device.receive(bench.burst) == 1
    guest.send(Request.GET_VRING_BASE, VringState(1, 0))
    bench.device.handle_ready()
    assert bench.device.link_up
    assert bench.burst.copy(0, 0, 100) == bench.frame(1)
    bench.device.release(bench.burst)
    bench.device.handle_ready()
    assert guest.receive(Request.GET_VRING_BASE).num == 1
    assert guest.drivers[0].reap() == 1


def test_close_while_a_burst_is_out(bench):
    guest = bench.start()
    guest.drivers[0].send(bench.frame(1))
    assert bench.device.receive(bench.burst) == 1
    bench.device.close()
    assert len(bench.burst) == 0
    assert guest.drivers[0].reap() == 1


# towards the guest


def test_no_buffers_keeps_the_batch(bench):
    guest = bench.start(size=64)
    driver = guest.drivers[0]
    bench.take_all()
    frames = [bench.frame(number) for number in range(FRAMES)]
    assert bench.device.transmit(bench.batch(frames))
    batch = bench.batch(frames)
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
    frames = [bench.frame(number) for number in range(30)]
    batch = bench.batch(frames)
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
    batch = bench.batch([bench.frame(1), bench.frame(2)])
    assert bench.device.transmit(batch)
    assert bench.device.counters()["transmit_discarded"] == 2
    guest = bench.start()
    guest.stop_ring(0)
    assert bench.device.transmit(bench.batch([bench.frame(1)]))
    assert bench.device.counters()["transmit_discarded"] == 3


def test_waiting_batch_is_given_up_with_the_link(bench):
    guest = bench.start(size=64)
    bench.take_all()
    frames = [bench.frame(number) for number in range(FRAMES)]
    bench.device.transmit(bench.batch(frames))
    batch = bench.batch(frames)
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
        first.send(wide.frame(number))
        second.send(wide.frame(1000 + number))
    bursts = []
    while taken := wide.take():
        bursts.append(taken)
    assert len(bursts) == 6
    owners = [int.from_bytes(taken[0][14:18], "big") >= 1000 for taken in bursts]
    assert owners in ([False, True] * 3, [True, False] * 3)
    assert [item for taken in bursts for item in taken if item[14:18] < (1000).to_bytes(4, "big")] == [
        wide.frame(number) for number in range(3 * FRAMES)
    ]


def test_disabled_transmit_ring_is_consumed_and_discarded(wide):
    guest = wide.start()
    first, second = guest.drivers
    guest.enable_ring(3, False)
    for number in range(3 * FRAMES):
        second.send(wide.frame(number))
    first.send(wide.frame(7))
    assert wide.take_all() == [wide.frame(7)]
    assert second.reap() == 3 * FRAMES
    guest.enable_ring(3)
    second.send(wide.frame(8))
    assert wide.take_all() == [wide.frame(8)]


def test_transmit_goes_to_the_first_pair_that_is_enabled(wide):
    guest = wide.start()
    first, second = guest.drivers
    wide.take_all()
    wide.device.transmit(wide.batch([wide.frame(1)]))
    guest.enable_ring(0, False)
    assert wide.device.link_up
    wide.device.transmit(wide.batch([wide.frame(2)]))
    guest.enable_ring(2, False)
    assert not wide.device.link_up
    assert [data for _, data in first.receive()] == [wide.frame(1)]
    assert [data for _, data in second.receive()] == [wide.frame(2)]


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
            second.send(wide.frame(1))
            return receive(burst, discard=discard)

    port_vring = port.vring
    port.vring = Refilled()
    assert wide.take() == []
    assert wide.readable
    port.vring = port_vring
    assert wide.take_all() == []
    assert not wide.readable


@pytest.mark.parametrize("seed", range(8))
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
                driver.send(wide.frame(number))
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
                batch = wide.batch([wide.frame(number)] * rng.choice((1, 20)))
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
