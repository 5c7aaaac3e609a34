"""RFC 5681, 3465 and 6928 with their numbers."""

import pytest

from swos_net.tcp.congestion import make_controller
from swos_net.tcp.congestion.base import AckSample

MSS = 1460


def acked(octets, *, full=True):
    return AckSample(octets, 9 * MSS, None, 0.1, 0, 1, full)


@pytest.fixture
def reno():
    return make_controller("reno", MSS, 10)


@pytest.mark.parametrize("mss, window", [(1460, 14600), (536, 5360), (8960, 17920), (48, 480)])
def test_the_initial_window(mss, window):
    assert make_controller("reno", mss, 10).cwnd == window  # RFC 6928 2


def test_slow_start_doubles_in_a_round_trip(reno):
    for _ in range(10):
        reno.on_ack(acked(MSS), 0.0)
    assert reno.cwnd == 20 * MSS


def test_slow_start_ends_at_ssthresh(reno):
    reno.ssthresh = 12 * MSS
    reno.on_ack(acked(10 * MSS), 0.0)
    assert reno.cwnd <= 13 * MSS, "an ACK for many segments must not jump over ssthresh"


def test_after_a_timeout_one_ack_for_much_does_not_open_the_window_at_once(reno):
    reno.cwnd = 100 * MSS
    reno.on_timeout(100 * MSS, 0.0, True)
    assert (reno.cwnd, reno.ssthresh) == (MSS, 50 * MSS)
    reno.on_ack(acked(100 * MSS), 0.0)
    assert reno.cwnd <= 51 * MSS


def test_avoidance_adds_one_segment_in_a_round_trip(reno):
    reno.ssthresh = reno.cwnd
    window = reno.cwnd
    for _ in range(10):
        reno.on_ack(acked(MSS), 0.0)
    assert reno.cwnd == window + MSS  # RFC 5681 3.1, RFC 3465 2.1
    for _ in range(5):
        reno.on_ack(acked(MSS), 0.0)
    assert reno.cwnd == window + MSS


def test_a_window_that_is_not_used_does_not_grow(reno):
    reno.on_ack(acked(MSS, full=False), 0.0)
    assert reno.cwnd == 10 * MSS


def test_loss_halves_what_was_in_flight(reno):
    reno.on_loss(10 * MSS, 0.0)
    assert reno.ssthresh == 5 * MSS  # equation (4)
    reno.on_loss(MSS, 0.0)
    assert reno.ssthresh == 2 * MSS


def test_a_second_timeout_of_the_same_segment_leaves_ssthresh(reno):
    reno.on_timeout(10 * MSS, 0.0, True)
    reno.on_timeout(MSS, 1.0, False)
    assert (reno.cwnd, reno.ssthresh) == (MSS, 5 * MSS)  # RFC 5681 3.1


def test_idleness_takes_back_to_the_initial_window(reno):
    reno.cwnd = 40 * MSS
    reno.on_idle(0.0)
    assert reno.cwnd == 10 * MSS  # RFC 5681 4.1
    reno.cwnd = 2 * MSS
    reno.on_idle(0.0)
    assert reno.cwnd == 2 * MSS


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(ValueError, match="reno"):
        make_controller("vegas", MSS, 10)
