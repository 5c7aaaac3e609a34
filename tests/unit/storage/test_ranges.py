"""Ranges against a plain set of integers."""

from hypothesis import given
from hypothesis import strategies as st

from swos_net.storage.ranges import RangeSet

spans = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda item: (item[0], item[0] + item[1])), max_size=25
)


def holes_apart(ranges):
    return all(low < high for low, high in ranges) and all(
        high < low for (_, high), (low, _) in zip(ranges, ranges[1:])
    )


@given(spans)
def test_the_ranges_hold_exactly_what_was_added(added):
    ranges, model = RangeSet(), set()
    for low, high in added:
        assert ranges.add(low, high)
        model |= set(range(low, high))
        assert holes_apart(ranges.ranges), "ranges that touch are one"
        assert {number for low, high in ranges.ranges for number in range(low, high)} == model
    assert bool(ranges) == bool(model)


@given(spans, st.integers(0, 80))
def test_taking_in_order(added, position):
    ranges, model = RangeSet(), set()
    for low, high in added:
        ranges.add(low, high)
        model |= set(range(low, high))
    end = ranges.take_from(position)
    expected = position
    while expected in model or any(
        number >= expected and low <= expected for low, high in added for number in range(low, high)
    ):
        expected += 1
    assert end == expected
    assert all(low > end for low, _ in ranges.ranges)
    assert {number for low, high in ranges.ranges for number in range(low, high)} == {
        number for number in model if number >= end
    }


@given(spans, st.integers(-1, 80))
def test_the_range_around_a_position(added, position):
    ranges = RangeSet()
    for low, high in added:
        ranges.add(low, high)
    expected = [span for span in ranges.ranges if span[0] <= position < span[1]]
    assert ranges.around(position) == (expected[0] if expected else None)


@given(spans, st.integers(1, 4))
def test_beyond_the_limit_nothing_is_lost_but_what_is_refused(added, limit):
    ranges, model = RangeSet(limit), set()
    for low, high in added:
        if ranges.add(low, high):
            model |= set(range(low, high))
        assert len(ranges) <= limit
        assert {number for low, high in ranges.ranges for number in range(low, high)} == model


def test_the_limit_refuses_a_new_hole_but_not_one_that_is_filled():
    ranges = RangeSet(2)
    assert ranges.add(10, 20) and ranges.add(30, 40)
    assert not ranges.add(50, 60)
    assert ranges.add(20, 30)
    assert ranges.ranges == [(10, 40)]
    assert ranges.add(50, 60)
    ranges.clear()
    assert not ranges and len(ranges) == 0


@given(spans, st.integers(0, 80), st.integers(1, 20))
def test_the_first_part_that_is_there_already(added, start, length):
    ranges = RangeSet()
    for low, high in added:
        ranges.add(low, high)
    parts = [(max(low, start), min(high, start + length)) for low, high in ranges.ranges]
    expected = [(low, high) for low, high in parts if low < high]
    assert ranges.first_overlap(start, start + length) == (expected[0] if expected else None)
