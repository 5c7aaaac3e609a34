import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.address import parse_address
from swos_net.errors import WireError
from swos_net.wire import icmpv6
from swos_net.wire.icmpv6 import Icmpv6Message

A, B = parse_address("fd09::1"), parse_address("fd09::2")

address = st.binary(min_size=16, max_size=16)
messages = st.builds(
    Icmpv6Message, st.integers(0, 255), st.integers(0, 255), st.integers(0, 0xFFFFFFFF), st.binary(max_size=80)
)


@given(messages, address, address)
def test_round_trip(message, source, destination):
    assert icmpv6.parse(memoryview(icmpv6.emit(message, source, destination)), source, destination) == message


@given(st.binary(max_size=40))
def test_any_bytes_parse_or_are_a_wire_error(data):
    try:
        message = icmpv6.parse(data, A, B)
    except WireError:
        return
    assert icmpv6.parse(icmpv6.emit(message, A, B), A, B) == message


def test_the_messages_of_linux(frames):
    assert icmpv6.parse(frames["echo_reply6"][54:], B, A) == icmpv6.echo_reply(77, 1, b"ping data odd")
    unreachable = icmpv6.unreachable(icmpv6.PORT_UNREACHABLE, frames["udp6"][14:])
    assert icmpv6.emit(unreachable, B, A) == frames["port_unreachable6"][54:]


def test_the_checksum_covers_the_addresses():
    data = icmpv6.emit(icmpv6.echo_request(1, 2), A, B)
    with pytest.raises(WireError, match="bad_icmp_checksum"):
        icmpv6.parse(data, A, parse_address("fd09::3"))
    with pytest.raises(WireError, match="truncated"):
        icmpv6.parse(data[:7], A, B)


def test_fields_by_type():
    packet = bytes(range(60))
    echo = icmpv6.echo_request(0x1234, 0x5678, b"x")
    assert (echo.type, echo.identifier, echo.sequence) == (128, 0x1234, 0x5678)
    too_big = icmpv6.parse(icmpv6.emit(icmpv6.packet_too_big(0x12345, packet), A, B), A, B)
    assert (too_big.type, too_big.mtu, too_big.payload) == (2, 0x12345, packet)
    problem = icmpv6.parameter_problem(icmpv6.UNRECOGNIZED_NEXT_HEADER, 40, packet)
    assert (problem.type, problem.code, problem.pointer) == (4, 1, 40)
    late = icmpv6.time_exceeded(icmpv6.REASSEMBLY_TIME_EXCEEDED, packet)
    assert (late.type, late.code, late.payload) == (3, 1, packet)


def test_an_error_is_at_most_the_minimum_mtu():
    message = icmpv6.unreachable(icmpv6.NO_ROUTE, bytes(1500))
    assert len(icmpv6.emit(message, A, B)) + 40 == 1280


def test_which_are_errors():
    assert [kind for kind in range(256) if icmpv6.is_error(kind)] == [*range(128), icmpv6.REDIRECT]
