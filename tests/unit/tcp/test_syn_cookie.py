"""What an ISN and a timestamp hold when nothing is remembered (RFC 4987 3.6)."""

import random

import pytest

from swos_net.tcp import syn_cookie
from swos_net.tcp.syn_cookie import COUNTER_SECONDS, COUNTERS_VALID, MSS_TABLE, CookieOptions

SECRET = bytes(range(32))
FLOW = bytes(36)
PEER = 0x12345678


def cookie(now=1000.0, mss=1460):
    return syn_cookie.make(SECRET, FLOW, PEER, mss, now)


def checked(value, now=1000.0, *, secret=SECRET, flow=FLOW, peer=PEER):
    return syn_cookie.check(secret, flow, peer, value, now)


@pytest.mark.parametrize("mss", [*MSS_TABLE, 65535, 1461, 1459, 537])
def test_the_mss_comes_back_never_larger(mss):
    back = checked(cookie(mss=mss))
    assert back == max(size for size in MSS_TABLE if size <= mss)


def test_a_tiny_mss_becomes_the_smallest_there_is():
    assert checked(cookie(mss=100)) == MSS_TABLE[0]


def test_it_is_good_for_a_while_and_no_longer():
    start = 10 * COUNTER_SECONDS
    value = cookie(start)
    assert checked(value, start + COUNTER_SECONDS * COUNTERS_VALID - 0.1) == 1460
    assert checked(value, start + COUNTER_SECONDS * COUNTERS_VALID) is None
    assert checked(value, start - 1) is None, "from the future"
    assert checked(value, start + 32 * COUNTER_SECONDS) is None, "the same five bits of another time"


def test_at_the_very_beginning():
    assert checked(cookie(0.0), 0.0) == 1460


@pytest.mark.parametrize(
    "other",
    [{"secret": bytes(32)}, {"flow": bytes(35) + b"\x01"}, {"peer": PEER + 1}],
    ids=["secret", "flow", "peer's ISN"],
)
def test_it_belongs_to_one_handshake(other):
    assert checked(cookie(), **other) is None


def test_guesses_fail():
    generator = random.Random(1)
    assert sum(checked(generator.getrandbits(32)) is not None for _ in range(20_000)) == 0


def test_cookies_of_one_second_differ_by_flow():
    values = {syn_cookie.make(SECRET, number.to_bytes(36, "big"), PEER, 1460, 5.0) & 0xFFFFFF for number in range(1000)}
    assert len(values) > 990


@pytest.mark.parametrize("scale", [None, 0, 7, 14])
@pytest.mark.parametrize("sack", [True, False])
@pytest.mark.parametrize("ecn", [True, False])
@pytest.mark.parametrize("clock", [0, 63, 64, 1_000_000, 0xFFFFFFFF])
def test_a_timestamp_holds_the_options_and_is_never_ahead(scale, sack, ecn, clock):
    value = syn_cookie.stamp(clock, scale, sack, ecn)
    assert 0 <= value <= 0xFFFFFFFF
    assert (clock - value) & 0xFFFFFFFF < 128, "not ahead of the clock, or PAWS would refuse what follows"
    assert syn_cookie.options(1460, value) == CookieOptions(1460, scale, sack, ecn)


def test_a_scale_beyond_the_limit_is_the_limit():
    assert syn_cookie.options(1460, syn_cookie.stamp(1 << 20, 15, False, False)).window_scale == 14  # RFC 7323 2.3


def test_without_a_timestamp_only_the_mss_is_known():
    assert syn_cookie.options(1220, None) == CookieOptions(1220, None, False, False)
