import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.errors import WireError
from swos_net.wire import icmpv4
from swos_net.wire.icmpv4 import Icmpv4Message

messages = st.builds(
    Icmpv4Message, st.integers(0, 255), st.integers(0, 255), st.integers(0, 0xFFFFFFFF), st.binary(max_size=80)
)


@given(messages)
def test_round_trip(message):
    assert icmpv4.parse(memoryview(icmpv4.emit(message))) == message


@given(st.binary(max_size=40))
def test_any_bytes_parse_or_are_a_wire_error(data):
    try:
        message = icmpv4.parse(data)
    except WireError:
        return
    assert icmpv4.parse(icmpv4.emit(message)) == message


def test_the_messages_of_linux(frames):
    for name in ("echo_request4", "echo_reply4", "port_unreachable4"):
        data = frames[name][34:]
        assert icmpv4.emit(icmpv4.parse(data)) == data
    echo = icmpv4.parse(frames["echo_request4"][34:])
    assert echo == icmpv4.echo_request(77, 1, b"ping data odd")
    assert (echo.identifier, echo.sequence) == (77, 1)
    assert icmpv4.parse(frames["echo_reply4"][34:]) == icmpv4.echo_reply(77, 1, b"ping data odd")
    quoted = icmpv4.parse(frames["port_unreachable4"][34:])
    assert quoted == icmpv4.unreachable(icmpv4.PORT_UNREACHABLE, frames["udp4"][14:])


def test_fields_by_type():
    packet = bytes(range(60))
    too_big = icmpv4.parse(icmpv4.emit(icmpv4.unreachable(icmpv4.FRAGMENTATION_NEEDED, packet, 1400)))
    assert (too_big.type, too_big.code, too_big.next_hop_mtu, too_big.payload) == (3, 4, 1400, packet)
    problem = icmpv4.parse(icmpv4.emit(icmpv4.parameter_problem(20, packet)))
    assert (problem.type, problem.pointer) == (12, 20)
    late = icmpv4.parse(icmpv4.emit(icmpv4.time_exceeded(icmpv4.REASSEMBLY_TIME_EXCEEDED, packet)))
    assert (late.type, late.code) == (11, 1)


def test_an_error_is_at_most_576_bytes_of_packet():
    message = icmpv4.unreachable(icmpv4.HOST_UNREACHABLE, bytes(1500))
    assert len(icmpv4.emit(message)) + 20 == 576


def test_which_are_errors():
    assert [kind for kind in range(256) if icmpv4.is_error(kind)] == [3, 4, 5, 11, 12]


def test_malformed():
    data = icmpv4.emit(icmpv4.echo_request(1, 2, b"data"))
    with pytest.raises(WireError, match="truncated"):
        icmpv4.parse(data[:7])
    with pytest.raises(WireError, match="bad_icmp_checksum"):
        icmpv4.parse(data[:-1] + b"b")
