import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.address import IPV4_PREFIX, parse_address
from swos_net.errors import WireError
from swos_net.wire import ipv4
from swos_net.wire.checksum import internet_checksum
from swos_net.wire.ipv4 import Ipv4Header

address = st.binary(min_size=4, max_size=4).map(lambda packed: IPV4_PREFIX + packed)
headers = st.builds(
    Ipv4Header,
    source=address,
    destination=address,
    protocol=st.integers(0, 255),
    ttl=st.integers(0, 255),
    tos=st.integers(0, 255),
    identification=st.integers(0, 0xFFFF),
    flags=st.integers(0, 7).map(lambda bits: bits << 13),
    fragment_offset=st.integers(0, 0x1FFF).map(lambda units: units * 8),
    options=st.integers(0, 10).flatmap(lambda words: st.binary(min_size=words * 4, max_size=words * 4)),
)


def packet_of(payload: bytes = b"", **fields) -> bytes:
    return ipv4.emit(Ipv4Header(parse_address("10.0.0.1"), parse_address("10.0.0.2"), 17, **fields), payload)


def with_checksum(packet: bytearray, length: int = 20) -> bytes:
    packet[10:12] = bytes(2)
    packet[10:12] = internet_checksum(packet[:length]).to_bytes(2, "big")
    return bytes(packet)


@given(headers, st.binary(max_size=80), st.binary(max_size=20))
def test_round_trip_with_link_padding(header, payload, padding):
    packet = ipv4.emit(header, payload)
    parsed = ipv4.parse(memoryview(packet + padding))
    header.total_length = len(packet)
    assert parsed == header
    assert packet[parsed.header_length : parsed.total_length] == payload


@given(st.binary(max_size=80))
def test_any_bytes_parse_or_are_a_wire_error(data):
    for parse in (ipv4.parse, ipv4.parse_quoted):
        try:
            parse(data)
        except WireError:
            pass


def test_a_well_known_header():
    packet = bytes.fromhex("4500003044224000800600008c7c19acae241e2b")
    packet = with_checksum(bytearray(packet)) + bytes(28)
    assert packet[10:12] == bytes.fromhex("442e")
    assert ipv4.parse(packet) == Ipv4Header(
        parse_address("140.124.25.172"),
        parse_address("174.36.30.43"),
        ipv4.PROTOCOL_TCP,
        ttl=128,
        identification=0x4422,
        flags=ipv4.DONT_FRAGMENT,
        total_length=48,
    )


def test_the_headers_of_linux(frames):
    for name in ("udp4", "syn4", "port_unreachable4", "echo_request4"):
        packet = frames[name][14:]
        header = ipv4.parse(packet)
        assert ipv4.emit(header, packet[20:]) == packet


def test_options_are_padded():
    header = ipv4.parse(packet_of(b"data", options=b"\x94\x04\x00\x00\x01"))
    assert header.options == b"\x94\x04\x00\x00\x01\0\0\0"
    assert header.header_length == 28


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({0: 0x65}, "bad_ip_version"),
        ({0: 0x44}, "bad_ip_header"),
        ({0: 0x40}, "bad_ip_header"),
        ({0: 0x4F}, "truncated"),
        ({2: 0, 3: 19}, "bad_ip_header"),
        ({2: 0, 3: 0}, "bad_ip_header"),
        ({2: 0xFF, 3: 0xFF}, "truncated"),
    ],
)
def test_malformed_headers(change, reason):
    packet = bytearray(packet_of(b"data"))
    for position, value in change.items():
        packet[position] = value
    with pytest.raises(WireError, match=reason):
        ipv4.parse(with_checksum(packet))


@pytest.mark.parametrize("position", range(20))
def test_a_flipped_bit_is_noticed(position):
    packet = bytearray(packet_of(b"data"))
    packet[position] ^= 0x10
    with pytest.raises(WireError):
        ipv4.parse(packet)


def test_a_quoted_packet_may_be_cut_and_have_another_ttl():
    packet = bytearray(packet_of(bytes(100), ttl=9))
    packet[8] = 1
    quoted = bytes(packet[:28])
    with pytest.raises(WireError):
        ipv4.parse(quoted)
    header = ipv4.parse_quoted(quoted)
    assert (header.ttl, header.total_length, header.header_length) == (1, 120, 20)


@pytest.mark.parametrize(
    ("fields", "payload"),
    [({"options": bytes(41)}, b""), ({}, bytes(65516)), ({"fragment_offset": 4}, b"")],
)
def test_what_does_not_fit_is_a_value_error(fields, payload):
    with pytest.raises(ValueError):
        packet_of(payload, **fields)
