"""HyStart++ (RFC 9406): slow start that stops when the round trips grow."""

import pytest

from swos_net.tcp.congestion import make_controller
from swos_net.tcp.congestion.base import AckSample
from swos_net.tcp.congestion.hystart import CSS_ROUNDS, RTT_SAMPLES

MSS = 1000


class Path:
    """Acknowledges a controller's window segment by segment, a round trip at a time."""

    def __init__(self, name="reno", hystart=True):
        self.controller = make_controller(name, MSS, 10, hystart=hystart)
        self.una = self.nxt = 0

    def round(self, rtt, acks=None):
        """All that was in flight is acknowledged; gives by how many segments the window grew."""
        before = self.controller.cwnd
        self.nxt = self.una + before
        for _ in range(acks or before // MSS):
            self.una += MSS
            self.controller.on_ack(
                AckSample(MSS, 0, rtt, rtt, self.una, self.nxt + self.controller.cwnd - before, True), 0.0
            )
        return (self.controller.cwnd - before) / MSS

    @property
    def conservative(self):
        return self.controller.slow_start.conservative


@pytest.fixture
def path():
    return Path()


def test_doubles_while_the_round_trips_stay(path):
    grown = [path.round(0.1) for _ in range(4)]
    assert grown == [10, 20, 40, 80] and not path.conservative


def test_slower_once_they_grow_by_an_eighth(path):
    path.round(0.1)
    path.round(0.1)
    window = path.controller.cwnd // MSS
    grown = path.round(0.1 + 0.1 / 8 + 0.0001)  # RTT_THRESH = lastRoundMinRTT / MIN_RTT_DIVISOR
    assert path.conservative
    assert window / 4 <= grown <= window / 4 + RTT_SAMPLES, "4.2: a quarter of the growth from then on"


@pytest.mark.parametrize(("base", "threshold"), [(0.1, 0.0125), (0.01, 0.004), (0.5, 0.016)])
def test_the_threshold_is_bounded(base, threshold):
    """4.2: between MIN_RTT_THRESH and MAX_RTT_THRESH."""
    below, above = Path(), Path()
    for each, rise in ((below, threshold - 0.0005), (above, threshold + 0.0005)):
        each.round(base)
        each.round(base)
        each.round(base + rise)
    assert above.conservative and not below.conservative


def test_few_samples_decide_nothing(path):
    path.round(0.1)
    path.round(0.1)
    path.round(0.2, acks=RTT_SAMPLES - 1)
    assert not path.conservative
    path.round(0.2, acks=2)
    assert path.conservative


def test_goes_on_when_the_rise_was_passing(path):
    path.round(0.1)
    path.round(0.1)
    path.round(0.12)
    assert path.conservative
    path.round(0.11)
    assert not path.conservative, "4.2: below the baseline: slow start again"
    window = path.controller.cwnd / MSS
    assert path.round(0.11) == window


def test_ends_after_five_rounds(path):
    path.round(0.1)
    path.round(0.1)
    rounds = 0
    while path.controller.cwnd < path.controller.ssthresh:
        path.round(0.2)
        rounds += 1
        assert rounds <= CSS_ROUNDS + 1
    assert rounds >= CSS_ROUNDS - 1
    window = path.controller.cwnd
    assert window == pytest.approx(path.controller.ssthresh, abs=2 * MSS)
    path.round(0.2)
    assert path.controller.cwnd <= window + 2 * MSS, "congestion avoidance"


def test_not_after_a_timeout():
    """4.3: ssthresh is known then."""
    path = Path()
    path.controller.on_timeout(100 * MSS, 0.0, True)
    path.controller.cwnd = 10 * MSS
    path.round(0.1)
    path.round(0.3)
    assert not path.conservative


def test_starts_anew_after_idleness(path):
    path.round(0.1)
    path.round(0.1)
    path.round(0.2)
    assert path.conservative
    path.controller.on_idle(10.0)
    assert not path.conservative


@pytest.mark.parametrize("name", ["reno", "cubic", "dctcp"])
def test_can_be_switched_off(name):
    path = Path(name, hystart=False)
    assert [path.round(rtt) for rtt in (0.1, 0.1, 0.5, 0.5)] == [10, 20, 40, 80] and not path.conservative
