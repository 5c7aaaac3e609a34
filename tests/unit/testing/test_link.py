"""What a simulated wire does to frames."""

from random import Random

import pytest

from swos_net.dataplane.batch import Batch
from swos_net.dataplane.burst import FRAMES, Burst
from swos_net.link import LinkFeatures, Medium, Offload
from swos_net.testing.clock import FakeClock
from swos_net.testing.link import LinkConditions, SimulatedDevice, SimulatedFrame, Wire


class Rig:
    """A wire and what arrived at its end: (time, frame)."""

    def __init__(self, seed=1, **conditions):
        self.arrivals = []
        self.wire = Wire(
            None,
            LinkConditions(**conditions),
            Random(seed),
            lambda at, device, frame: self.arrivals.append((at, frame.data)),
        )

    def send(self, *frames, at=0.0):
        for frame in frames:
            self.wire.send(SimulatedFrame(frame), at)
        return self.arrivals


def numbered(count):
    return [number.to_bytes(2, "big") for number in range(count)]


def test_delay():
    assert Rig(delay=0.25).send(b"a", b"b", at=1.0) == [(1.25, b"a"), (1.25, b"b")]


def test_bandwidth_makes_frames_wait_for_each_other():
    rig = Rig(delay=1.0, bandwidth=8000.0)
    rig.send(bytes(100), bytes(100))
    assert [at for at, _ in rig.arrivals] == [pytest.approx(1.1), pytest.approx(1.2)]
    rig.send(bytes(100), at=50.0)
    assert rig.arrivals[2][0] == pytest.approx(51.1), "an idle link starts at once"


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_loss(rate):
    rig = Rig(loss=rate)
    rig.send(*numbered(2000))
    assert len(rig.arrivals) == pytest.approx(2000 * (1 - rate), abs=80)
    assert rig.wire.sent == 2000 and rig.wire.lost == 2000 - len(rig.arrivals)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_duplicates(rate):
    rig = Rig(duplicate=rate)
    rig.send(*numbered(1000))
    assert len(rig.arrivals) == 1000 + rig.wire.duplicated == pytest.approx(1000 * (1 + rate), abs=60)


def test_reordered_frames_are_overtaken():
    rig = Rig(delay=0.1, reorder=0.2, reorder_delay=0.5)
    rig.send(*numbered(1000))
    late = [frame for at, frame in rig.arrivals if at > 0.3]
    assert len(late) == rig.wire.reordered == pytest.approx(200, abs=60)
    assert all(at in (pytest.approx(0.1), pytest.approx(0.6)) for at, _ in rig.arrivals)


def test_a_script_that_drops():
    rig = Rig(drop=lambda frame, number: number in (1, 3) or frame == b"\0\5")
    assert [frame for _, frame in rig.send(*numbered(7))] == [numbered(7)[index] for index in (0, 2, 4, 6)]


def test_a_script_does_not_change_the_luck_of_the_others():
    lucky = [frame for _, frame in Rig(loss=0.3).send(*numbered(200))]
    scripted = [frame for _, frame in Rig(loss=0.3, drop=lambda frame, number: number == 7).send(*numbered(200))]
    assert scripted == [frame for frame in lucky if frame != b"\0\7"]


def test_conditions_change_in_the_middle():
    rig = Rig(delay=0.1)
    rig.send(b"a")
    rig.wire.change(loss=1.0)
    rig.send(b"b")
    rig.wire.change(loss=0.0, delay=0.2)
    assert rig.send(b"c") == [(pytest.approx(0.1), b"a"), (pytest.approx(0.2), b"c")]


def test_observers_see_every_frame_and_its_fate():
    seen = []
    rig = Rig(drop=lambda frame, number: number == 1)
    rig.wire.observers.append(lambda now, frame, fate: seen.append((now, frame, fate)))
    rig.send(b"a", b"b", at=2.0)
    rig.wire.change(duplicate=1.0)
    rig.send(b"c", at=3.0)
    assert seen == [(2.0, b"a", ""), (2.0, b"b", "lost"), (3.0, b"c", "duplicated")]


def test_injected_frames_arrive_at_once():
    rig = Rig(delay=5.0, loss=1.0)
    rig.wire.inject(b"forged", 1.0)
    assert rig.arrivals == [(1.0, b"forged")] and rig.wire.sent == 0


@pytest.mark.parametrize(
    "conditions",
    [dict(loss=-0.1), dict(loss=5), dict(duplicate=2), dict(reorder=-1), dict(delay=-1), dict(bandwidth=0)],
)
def test_conditions_that_make_no_sense(conditions):
    with pytest.raises(ValueError):
        LinkConditions(**conditions)


def test_a_device_hands_over_what_arrived_in_bursts():
    device = SimulatedDevice(LinkFeatures(Medium.IP, 1500, None, Offload.NONE, 1500), FakeClock())
    for frame in numbered(FRAMES + 5):
        device.arrived.append(SimulatedFrame(frame, 2))
    burst = Burst()
    assert device.receive(burst) == FRAMES
    device.release(burst)
    assert burst.offload(0) == (2, 0, 0)
    burst.clear()
    assert device.receive(burst) == 5
    burst.clear()
    assert device.receive(burst) == 0
    assert device.counters()["receive_frames"] == FRAMES + 5


def test_a_device_sends_into_its_wire_until_it_is_closed():
    clock = FakeClock(7.0)
    device = SimulatedDevice(LinkFeatures(Medium.ETHERNET, 1500, bytes(6), Offload.NONE, 1514), clock)
    rig = Rig(delay=1.0)
    device.wire = rig.wire
    for _ in range(2):
        batch = Batch()
        batch.add_frame(b"frame")
        batch.seal()
        assert device.transmit(batch)
        device.close()
    assert rig.arrivals == [(8.0, b"frame")]
