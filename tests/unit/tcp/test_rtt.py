"""RFC 6298 with its own numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.config import TcpConfig
from swos_net.tcp.rtt import RoundTripEstimator


@pytest.fixture
def rtt():
    return RoundTripEstimator(TcpConfig())


def test_before_any_sample(rtt):
    assert rtt.rto == 1.0  # (2.1)
    assert rtt.srtt is None


def test_the_first_sample(rtt):
    rtt.measured(0.4)
    assert (rtt.srtt, rtt.rttvar) == (0.4, 0.2)  # (2.2)
    assert rtt.rto == pytest.approx(0.4 + 4 * 0.2)


def test_the_next_sample_uses_the_old_srtt_for_the_variance(rtt):
    rtt.measured(0.4)
    rtt.measured(0.8)
    assert rtt.rttvar == pytest.approx(0.75 * 0.2 + 0.25 * 0.4)  # (2.3)
    assert rtt.srtt == pytest.approx(0.875 * 0.4 + 0.125 * 0.8)
    assert rtt.min_rtt == 0.4


def test_the_floor_stands_on_a_steady_path(rtt):
    for _ in range(200):
        rtt.measured(0.1)
    assert rtt.rto == pytest.approx(0.1 + 0.2)


def test_backing_off_doubles_to_the_ceiling_and_a_sample_ends_it(rtt):
    timeouts = []
    for rtt.backoff in range(8):
        timeouts.append(rtt.rto)
    assert timeouts == [1, 2, 4, 8, 16, 32, 60, 60]  # (5.5), (2.5)
    rtt.measured(0.1)
    assert rtt.backoff == 0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_whatever_is_measured_the_timeout_stays_between_its_bounds(samples):
    rtt = RoundTripEstimator(TcpConfig())
    for sample in samples:
        rtt.measured(sample)
        assert 0.2 <= rtt.rto <= 60.0
        assert 0 <= rtt.srtt <= max(samples) * (1 + 1e-9)
