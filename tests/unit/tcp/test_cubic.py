"""CUBIC with the numbers of RFC 9438."""

import pytest

from swos_net.tcp.congestion import make_controller
from swos_net.tcp.congestion.base import AckSample

MSS = 1000
RTT = 0.1
C, BETA = 0.4, 0.7


@pytest.fixture
def cubic():
    return make_controller("cubic", MSS, 10, hystart=False)


def acked(octets=MSS, *, full=True, srtt=RTT):
    return AckSample(octets, 0, srtt, srtt, 0, 1, full)


def round_trips(controller, count, start, rtt=RTT):
    """A window's worth is acknowledged in each; gives the window in segments after each."""
    windows = []
    for number in range(count):
        for _ in range(controller.cwnd // MSS):
            controller.on_ack(acked(srtt=rtt), start + number * rtt)
        windows.append(controller.cwnd / MSS)
    return windows


def reduced(controller, segments):
    """As after a recovery that began with a window of so many segments."""
    controller.cwnd = segments * MSS
    controller.on_loss(segments * MSS, 0.0)
    controller.cwnd = controller.ssthresh


def test_loss_takes_three_tenths(cubic):
    reduced(cubic, 100)
    assert cubic.cwnd == cubic.ssthresh == 70 * MSS  # 4.6


def test_no_less_than_two_segments(cubic):
    cubic.on_loss(MSS, 0.0)
    assert cubic.ssthresh == 2 * MSS


def test_back_at_the_old_window_after_k(cubic):
    """4.2: concave up to W_max at K = cbrt(W_max (1 - beta) / C), then convex.  A long path, far from Reno's pace."""
    reduced(cubic, 1000)
    k = (1000 * (1 - BETA) / C) ** (1 / 3)
    windows = round_trips(cubic, int(2 * k / 0.2), 10.0, rtt=0.2)
    at_k = windows[int(k / 0.2)]
    assert at_k == pytest.approx(1000, rel=0.01)
    assert windows[int(k / 0.4)] == pytest.approx(C * (k / 2 - k) ** 3 + 1000, rel=0.02)
    growth = [after - before for before, after in zip(windows, windows[1:])]
    middle = int(k / 0.2)
    assert growth[2] > growth[middle // 2] > growth[middle - 1], "concave: slower and slower towards W_max"
    assert growth[-1] > growth[middle + 5] > growth[middle], "convex beyond it"


def test_never_faster_than_half_a_window_in_a_round_trip(cubic):
    reduced(cubic, 100)
    cubic.on_ack(acked(), 0.0)
    before = cubic.cwnd
    for _ in range(before // MSS):
        cubic.on_ack(acked(), 1000.0)  # far in the convex region
    assert before < cubic.cwnd <= before * 1.5 * 1.5  # 4.2: the target is 1.5 cwnd


def test_on_a_short_path_no_slower_than_reno(cubic):
    """4.3: W_est grows by alpha = 3 (1 - beta) / (1 + beta) a round trip."""
    reduced(cubic, 20)
    start = cubic.cwnd / MSS
    windows = round_trips(cubic, 10, 0.0, rtt=0.001)
    alpha = 3 * (1 - BETA) / (1 + BETA)
    assert windows[-1] - start == pytest.approx(10 * alpha, rel=0.05)


def test_as_fast_as_reno_when_the_old_window_is_reached(cubic):
    """4.3: alpha is 1 from cwnd_prior on, which fast convergence does not lower."""
    reduced(cubic, 20)
    windows = round_trips(cubic, 20, 0.0, rtt=0.001)
    above = [window for window in windows if window > 20.5]
    assert len(above) > 3
    assert above[-1] - above[-2] == pytest.approx(1.0, rel=0.1)
    below = make_controller("cubic", MSS, 10, hystart=False)
    reduced(below, 40)
    reduced(below, 20)  # fast convergence: W_max is 17 now, cwnd_prior 20
    windows = round_trips(below, 30, 0.0, rtt=0.001)
    grown = [(before, after - before) for before, after in zip(windows, windows[1:])]
    assert all(step < 0.75 for window, step in grown if 17.2 < window < 19), "not before cwnd_prior"


def test_fast_convergence(cubic):
    """4.7: a window that grew less than the last time leaves room."""
    reduced(cubic, 100)
    reduced(cubic, 80)
    k = ((80 * (1 + BETA) / 2 - 56) / C) ** (1 / 3)
    windows = round_trips(cubic, int(k / 0.2) + 1, 0.0, rtt=0.2)
    assert windows[-1] == pytest.approx(68, rel=0.05)


def test_after_a_timeout_the_epoch_begins_anew(cubic):
    """4.8: K = 0 and W_max is the window at which congestion avoidance begins."""
    cubic.cwnd = 1000 * MSS
    cubic.on_timeout(1000 * MSS, 0.0, True)
    assert (cubic.cwnd, cubic.ssthresh) == (MSS, 700 * MSS)
    cubic.cwnd = cubic.ssthresh
    windows = round_trips(cubic, 10, 100.0, rtt=0.1)
    assert windows[-1] == pytest.approx(700 + C * 1.1**3, abs=8), "flat at first, where an old W_max would pull it up"
    with_loss = make_controller("cubic", MSS, 10, hystart=False)
    reduced(with_loss, 1000)
    assert round_trips(with_loss, 10, 100.0, rtt=0.1)[-1] > windows[-1] + 50


def test_what_was_no_loss_is_taken_back(cubic):
    """4.9"""
    reduced(cubic, 500)
    round_trips(cubic, 5, 0.0)
    undisturbed = make_controller("cubic", MSS, 10, hystart=False)
    reduced(undisturbed, 500)
    round_trips(undisturbed, 5, 0.0)
    window = cubic.cwnd
    cubic.on_loss(window, 0.5)
    cubic.cwnd = cubic.ssthresh
    cubic.on_spurious(window)
    assert cubic.cwnd == window == undisturbed.cwnd
    assert round_trips(cubic, 5, 0.5) == pytest.approx(round_trips(undisturbed, 5, 0.5))


def test_time_in_which_the_window_was_not_used_does_not_count(cubic):
    """4.2, 5.8: no jump after the application has been slow."""
    reduced(cubic, 100)
    round_trips(cubic, 3, 0.0)
    window = cubic.cwnd
    now = 0.3
    while now < 60.0:
        cubic.on_ack(acked(full=False), now)
        now += RTT
    assert cubic.cwnd == window
    used = make_controller("cubic", MSS, 10, hystart=False)
    reduced(used, 100)
    round_trips(used, 3, 0.0)
    assert round_trips(cubic, 3, now) == pytest.approx(round_trips(used, 3, 0.3), abs=0.5)


def test_idleness_begins_a_new_epoch(cubic):
    reduced(cubic, 100)
    round_trips(cubic, 3, 0.0)
    cubic.on_idle(100.0)
    assert cubic.cwnd == 10 * MSS
    cubic.cwnd = cubic.ssthresh
    window = cubic.cwnd / MSS
    assert round_trips(cubic, 1, 100.0)[0] < window * 1.2


def test_no_octet_of_growth_is_lost(cubic):
    """Many small acknowledgments grow the window as one large one does."""
    reduced(cubic, 100)
    for _ in range(700):
        cubic.on_ack(acked(100), 0.0)
    other = make_controller("cubic", MSS, 10, hystart=False)
    reduced(other, 100)
    for _ in range(70):
        other.on_ack(acked(1000), 0.0)
    assert cubic.cwnd == pytest.approx(other.cwnd, abs=MSS // 20)
    assert cubic.cwnd > 70 * MSS
