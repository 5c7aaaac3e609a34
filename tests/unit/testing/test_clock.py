"""Time that passes only when it is told to."""

import pytest

from swos_net.testing.clock import FakeClock


def test_it_stands_still():
    clock = FakeClock(5.0)
    assert clock.now == clock() == clock() == 5.0


def test_advancing():
    clock = FakeClock()
    assert clock.advance(1.5) == 1.5
    assert clock.advance(0.0) == clock() == 1.5
    with pytest.raises(ValueError):
        clock.advance(-0.1)
    assert clock.now == 1.5


def test_jumping_to_what_comes_next():
    clock = FakeClock(10.0)
    assert clock.autojump(12.0) and clock.now == 12.0
    assert not clock.autojump(12.0) and not clock.autojump(3.0) and not clock.autojump(None)
    assert clock.now == 12.0
