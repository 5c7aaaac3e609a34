"""The deadline of a connection is the earliest of its timers."""

from itertools import permutations

import pytest

from swos_net.tcp.timers import Timers

NAMES = Timers.__slots__


def test_without_timers_there_is_no_deadline():
    assert Timers().next_deadline() is None


@pytest.mark.parametrize("name", NAMES)
def test_each_timer_alone_is_the_deadline(name):
    timers = Timers()
    setattr(timers, name, 3.5)
    assert timers.next_deadline() == 3.5


@pytest.mark.parametrize("first, second", list(permutations(NAMES, 2)))
def test_of_two_the_earlier_counts(first, second):
    timers = Timers()
    setattr(timers, first, 1.0)
    setattr(timers, second, 2.0)
    assert timers.next_deadline() == 1.0


def test_cancel_all_leaves_none():
    timers = Timers()
    for name in NAMES:
        setattr(timers, name, 1.0)
    timers.cancel_all()
    assert timers.next_deadline() is None
    assert all(getattr(timers, name) is None for name in NAMES)
