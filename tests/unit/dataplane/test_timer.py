"""The timer descriptor."""

import os
import select

import pytest

from swos_net.dataplane.timer import timer_open, timer_set


@pytest.fixture
def timer():
    fd = timer_open()
    yield fd
    os.close(fd)


def readable(fd: int, seconds: float) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])


def test_expires_once(timer):
    assert not os.get_inheritable(timer)
    timer_set(timer, 0.001)
    assert readable(timer, 5)
    assert int.from_bytes(os.read(timer, 8), "little") == 1
    with pytest.raises(BlockingIOError):
        os.read(timer, 8)


def test_repeats(timer):
    timer_set(timer, 0.001, 0.001)
    for _ in range(3):
        assert readable(timer, 5)
        os.read(timer, 8)


def test_disarmed_it_forgets(timer):
    timer_set(timer, 0.001)
    assert readable(timer, 5)
    timer_set(timer, 0)
    assert not readable(timer, 0)


def test_longer_than_a_second(timer):
    timer_set(timer, 3600.5)
    assert not readable(timer, 0)


def test_not_a_timer():
    with pytest.raises(OSError):
        timer_set(0, 1.0)
