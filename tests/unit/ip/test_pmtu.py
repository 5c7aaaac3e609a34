"""The path MTU cache."""

import pytest

from swos_net.address import parse_address
from swos_net.ip.pmtu import PathMtuCache, next_plateau

HOST = parse_address("192.0.2.1")
HOST6 = parse_address("2001:db8::1")


def test_unknown_path_takes_what_the_link_takes():
    assert PathMtuCache().mtu(HOST, 1500, 0.0) == 1500


@pytest.mark.parametrize("destination, reported, taken", [
    (HOST, 1400, True), (HOST, 68, True), (HOST, 67, False), (HOST, 0, False),
    (HOST6, 1400, True), (HOST6, 1280, True), (HOST6, 1279, False), (HOST6, 0, False),
])
def test_report_below_the_minimum_is_discarded(destination, reported, taken):
    cache = PathMtuCache()
    assert cache.update(destination, reported, 0.0) is taken
    assert cache.mtu(destination, 1500, 0.0) == (reported if taken else 1500)


def test_report_never_raises_the_estimate():
    cache = PathMtuCache()
    assert cache.update(HOST, 1400, 0.0)
    assert not cache.update(HOST, 1400, 1.0) and not cache.update(HOST, 1450, 1.0)
    assert cache.update(HOST, 1300, 1.0)
    assert cache.mtu(HOST, 1500, 1.0) == 1300
    assert cache.mtu(HOST6, 1500, 1.0) == 1500


def test_link_may_take_less_than_the_path():
    cache = PathMtuCache()
    cache.update(HOST, 9000, 0.0)
    assert cache.mtu(HOST, 1500, 0.0) == 1500 and cache.mtu(HOST, 65535, 0.0) == 9000


def test_estimates_age():
    cache = PathMtuCache()
    assert cache.next_deadline() is None
    cache.update(HOST, 1400, 0.0)
    cache.update(HOST6, 1400, 100.0)
    assert cache.next_deadline() == 600.0
    assert cache.handle_timeout(599.9) == [] and cache.mtu(HOST, 1500, 599.9) == 1400
    assert cache.mtu(HOST, 1500, 600.0) == 1500  # even when nobody called handle_timeout yet
    assert cache.handle_timeout(600.0) == [HOST]
    assert len(cache) == 1 and cache.next_deadline() == 700.0
    assert cache.update(HOST, 1450, 601.0)


def test_a_smaller_report_starts_the_time_again():
    cache = PathMtuCache()
    cache.update(HOST, 1400, 0.0)
    cache.update(HOST6, 1400, 1.0)
    cache.update(HOST, 1300, 2.0)
    assert cache.handle_timeout(601.5) == [HOST6] and cache.next_deadline() == 602.0


def test_cache_is_bounded():
    cache = PathMtuCache(size=3)
    for number in range(10):
        assert cache.update(parse_address(f"192.0.2.{number}"), 1400, float(number))
        assert len(cache) <= 3
    assert [cache.mtu(parse_address(f"192.0.2.{number}"), 1500, 9.0) for number in (0, 6, 7, 9)] == [
        1500, 1500, 1400, 1400]


def test_plateaus_of_rfc_1191():
    chain = [65535]
    while chain[-1] > 68:
        chain.append(next_plateau(chain[-1]))
    assert chain == [65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68]


@pytest.mark.parametrize("length, plateau", [
    (1500, 1492), (1492, 1006), (65535, 32000), (297, 296), (68, 68), (20, 68)])
def test_next_plateau(length, plateau):
    assert next_plateau(length) == plateau
