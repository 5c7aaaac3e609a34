"""Sequence numbers against the definition in RFC 9293 3.4: arithmetic modulo 2^32."""

from hypothesis import given
from hypothesis import strategies as st

from swos_net.tcp.seqnum import newer_timestamp, unwrap

wire = st.integers(0, 0xFFFFFFFF)
unbounded = st.integers(0, 1 << 70)


@given(wire, unbounded)
def test_unwrap_gives_the_closest_congruent_number(value, near):
    number = unwrap(value, near)
    assert number % (1 << 32) == value
    assert -(1 << 31) <= number - near < 1 << 31


@given(unbounded, st.integers(-(1 << 31), (1 << 31) - 1))
def test_unwrap_takes_back_what_the_wire_lost(near, distance):
    assert unwrap((near + distance) & 0xFFFFFFFF, near) == near + distance


@given(wire, st.integers(1, (1 << 31) - 1))
def test_a_timestamp_is_newer_by_less_than_half_the_circle(value, step):
    later = (value + step) & 0xFFFFFFFF
    assert newer_timestamp(later, value)
    assert not newer_timestamp(value, later)


@given(wire)
def test_a_timestamp_is_not_newer_than_itself_or_its_opposite(value):
    assert not newer_timestamp(value, value)
    assert not newer_timestamp((value + (1 << 31)) & 0xFFFFFFFF, value)
