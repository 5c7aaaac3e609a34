import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.address import IPV4_PREFIX, parse_address
from swos_net.errors import WireError
from swos_net.wire import udp
from swos_net.wire.udp import UdpHeader

A4, B4 = parse_address("10.9.0.1"), parse_address("10.9.0.2")
A6, B6 = parse_address("fd09::1"), parse_address("fd09::2")

packed = st.binary(min_size=4, max_size=4).map(lambda value: IPV4_PREFIX + value)
addresses = st.tuples(packed, packed) | st.tuples(*[st.binary(min_size=16, max_size=16)] * 2)
port = st.integers(0, 0xFFFF)


@given(port, port, st.binary(max_size=80), addresses, st.binary(max_size=10))
def test_round_trip_with_padding(source_port, destination_port, payload, pair, padding):
    datagram = udp.emit(UdpHeader(source_port, destination_port), payload, *pair)
    header = udp.parse(memoryview(datagram + padding))
    assert (header.source_port, header.destination_port) == (source_port, destination_port)
    assert header.length == len(datagram) == udp.HEADER_LENGTH + len(payload)
    assert header.checksum != 0
    assert udp.checksum_valid(datagram + padding, header, *pair)


@given(st.binary(max_size=20))
def test_any_bytes_parse_or_are_a_wire_error(data):
    try:
        header = udp.parse(data)
    except WireError:
        return
    assert udp.HEADER_LENGTH <= header.length <= len(data)


def test_the_datagrams_of_linux(frames):
    for datagram, pair in ((frames["udp4"][34:], (A4, B4)), (frames["udp6"][54:], (A6, B6))):
        header = udp.parse(datagram)
        assert udp.checksum_valid(datagram, header, *pair)
        assert udp.emit(header, b"hello udp", *pair) == datagram


def test_a_sum_of_zero_is_sent_as_ones():
    # The last two bytes of the payload are chosen so that everything sums to ffff.
    partial = udp.parse(udp.emit(UdpHeader(1, 2), b"\0\0", A4, B4)).checksum
    datagram = udp.emit(UdpHeader(1, 2), partial.to_bytes(2, "big"), A4, B4)
    header = udp.parse(datagram)
    assert header.checksum == 0xFFFF
    assert udp.checksum_valid(datagram, header, A4, B4)


def test_no_checksum_is_for_ipv4_only():
    datagram = udp.emit(UdpHeader(1, 2), b"data", A4, B4)
    datagram = datagram[:6] + b"\0\0" + datagram[8:]
    header = udp.parse(datagram)
    assert udp.checksum_valid(datagram, header, A4, B4)
    assert not udp.checksum_valid(datagram, header, A6, B6)


def test_a_wrong_checksum():
    datagram = udp.emit(UdpHeader(1, 2), b"data", A6, B6)
    assert not udp.checksum_valid(datagram, udp.parse(datagram), A6, A6)
    changed = datagram[:-1] + b"b"
    assert not udp.checksum_valid(changed, udp.parse(changed), A6, B6)


def test_malformed():
    datagram = udp.emit(UdpHeader(1, 2), b"data", A4, B4)
    with pytest.raises(WireError, match="truncated"):
        udp.parse(datagram[:7])
    with pytest.raises(WireError, match="truncated"):
        udp.parse(datagram[:-1])
    with pytest.raises(WireError, match="bad_transport_header"):
        udp.parse(datagram[:4] + b"\0\x07" + datagram[6:])
    assert udp.parse_quoted(datagram[:8]).length == 12
