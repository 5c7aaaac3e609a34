import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.address import IPV4_PREFIX, parse_address
from swos_net.errors import WireError
from swos_net.wire import ipv6
from swos_net.wire.ipv6 import ExtensionProblem, FragmentHeader, Ipv6Header

SOURCE, DESTINATION = parse_address("fd00::1"), parse_address("fd00::2")

address = st.binary(min_size=16, max_size=16).filter(lambda value: value[:12] != IPV4_PREFIX)
headers = st.builds(
    Ipv6Header,
    source=address,
    destination=address,
    next_header=st.integers(0, 255),
    hop_limit=st.integers(0, 255),
    traffic_class=st.integers(0, 255),
    flow_label=st.integers(0, 0xFFFFF),
)


def packet_of(next_header: int, *parts: bytes) -> bytes:
    return ipv6.emit(Ipv6Header(SOURCE, DESTINATION, next_header), b"".join(parts))


def options_header(next_header: int, options: bytes) -> bytes:
    """A hop-by-hop or destination options header, whose options fill it exactly."""
    assert len(options) % 8 == 6
    return bytes((next_header, len(options) // 8)) + options


PAD6 = b"\x01\x04\0\0\0\0"


def walk(packet: bytes) -> ipv6.ExtensionChain:
    return ipv6.walk_extensions(packet, ipv6.parse(packet).next_header)


# The fixed header


@given(headers, st.binary(max_size=60), st.binary(max_size=20))
def test_round_trip_with_link_padding(header, payload, padding):
    packet = ipv6.emit(header, payload)
    parsed = ipv6.parse(memoryview(packet + padding))
    header.payload_length = len(payload)
    assert parsed == header


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_are_a_wire_error(data):
    for parse in (ipv6.parse, ipv6.parse_quoted):
        try:
            parse(data)
        except WireError:
            pass


def test_the_headers_of_linux(frames):
    for name in ("udp6", "syn6", "port_unreachable6", "mld_report6"):
        packet = frames[name][14:]
        assert ipv6.emit(ipv6.parse(packet), packet[40:]) == packet


def test_malformed_headers():
    packet = packet_of(59, b"data")
    with pytest.raises(WireError, match="truncated"):
        ipv6.parse(packet[:39])
    with pytest.raises(WireError, match="truncated"):
        ipv6.parse(packet[:-1])
    with pytest.raises(WireError, match="bad_ip_version"):
        ipv6.parse(b"\x45" + packet[1:])
    assert ipv6.parse_quoted(packet[:-1]).payload_length == 4


@pytest.mark.parametrize("field", ["source", "destination"])
def test_a_mapped_address_on_the_wire_is_refused(field):
    fields = {"source": SOURCE, "destination": DESTINATION, field: parse_address("10.0.0.1")}
    packet = ipv6.emit(Ipv6Header(**fields, next_header=59))
    with pytest.raises(WireError, match="bad_source"):
        ipv6.parse(packet)


# The walk over extension headers


def test_no_extension():
    chain = walk(packet_of(6, bytes(20)))
    assert (chain.protocol, chain.offset, chain.next_header_pointer) == (6, 40, 6)
    assert chain.fragment is None and chain.problem is None and not chain.router_alert


def test_the_router_alert_of_linux(frames):
    packet = frames["mld_report6"][14:]
    chain = walk(packet)
    assert (chain.protocol, chain.offset, chain.next_header_pointer, chain.router_alert) == (58, 48, 40, True)
    assert packet[40:48] == ipv6.emit_router_alert(58)


def test_all_of_them_in_the_order_of_the_rfc():
    packet = packet_of(
        ipv6.HOP_BY_HOP,
        options_header(ipv6.DESTINATION_OPTIONS, PAD6),
        options_header(ipv6.ROUTING, PAD6 + b"\x1e\x02ab" + b"\0" * 4),
        bytes((ipv6.FRAGMENT, 2, 0, 0)) + bytes(20),
        ipv6.emit_fragment(FragmentHeader(17, 1448, True, 0xDEADBEEF)),
        b"fragment data",
    )
    chain = walk(packet)
    assert chain.fragment == FragmentHeader(17, 1448, True, 0xDEADBEEF)
    assert (chain.protocol, packet[chain.offset :]) == (17, b"fragment data")
    assert chain.problem is None


def test_an_atomic_fragment_is_walked_through():
    packet = packet_of(
        ipv6.FRAGMENT,
        ipv6.emit_fragment(FragmentHeader(ipv6.DESTINATION_OPTIONS, 0, False, 7)),
        options_header(17, PAD6),
        b"datagram",
    )
    chain = walk(packet)
    assert chain.fragment is None
    assert (chain.protocol, packet[chain.offset :], chain.next_header_pointer) == (17, b"datagram", 48)


def test_nothing_behind_a_fragment_header_is_walked():
    packet = packet_of(ipv6.FRAGMENT, ipv6.emit_fragment(FragmentHeader(ipv6.HOP_BY_HOP, 8, False, 1)), b"\xff")
    chain = walk(packet)
    assert (chain.protocol, chain.offset) == (ipv6.HOP_BY_HOP, 48)
    assert chain.fragment.offset == 8 and chain.problem is None


@pytest.mark.parametrize(
    ("top_bits", "problem"),
    [
        (0x00, None),
        (0x40, ExtensionProblem(None)),
        (0x80, ExtensionProblem(ipv6.UNRECOGNIZED_OPTION, 43, True)),
        (0xC0, ExtensionProblem(ipv6.UNRECOGNIZED_OPTION, 43, False)),
    ],
)
@pytest.mark.parametrize("kind", [ipv6.HOP_BY_HOP, ipv6.DESTINATION_OPTIONS])
def test_unknown_options_by_their_top_bits(kind, top_bits, problem):
    packet = packet_of(kind, options_header(59, bytes((0, top_bits | 0x1E, 3, 1, 2, 3))))
    assert walk(packet).problem == problem


def test_hop_by_hop_only_stands_first():
    packet = packet_of(ipv6.DESTINATION_OPTIONS, options_header(ipv6.HOP_BY_HOP, PAD6), options_header(59, PAD6))
    assert walk(packet).problem == ExtensionProblem(ipv6.UNRECOGNIZED_NEXT_HEADER, 40)


@pytest.mark.parametrize("kind", [0, 2, 4, 200])
def test_a_routing_header_with_segments_left(kind):
    packet = packet_of(ipv6.ROUTING, bytes((59, 0, kind, 1)) + bytes(4))
    assert walk(packet).problem == ExtensionProblem(ipv6.ERRONEOUS_FIELD, 42)
    used_up = packet_of(ipv6.ROUTING, bytes((59, 0, kind, 0)) + bytes(4))
    assert walk(used_up).problem is None


def test_a_router_alert_among_destination_options_is_just_skipped():
    assert not walk(packet_of(ipv6.DESTINATION_OPTIONS, options_header(59, b"\x05\x02\0\0\x01\0"))).router_alert


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (packet_of(ipv6.HOP_BY_HOP, b"\x3b"), "truncated"),
        (packet_of(ipv6.HOP_BY_HOP, b"\x3b\x01" + PAD6), "truncated"),
        (packet_of(ipv6.ROUTING, b"\x3b\xff" + bytes(100)), "truncated"),
        (packet_of(ipv6.FRAGMENT, bytes(7)), "truncated"),
        (packet_of(ipv6.HOP_BY_HOP, b"\x3b\x00\x01\x05\0\0\0\0"), "bad_extension"),
        (packet_of(ipv6.HOP_BY_HOP, b"\x3b\x00\0\0\0\0\0\x01"), "bad_extension"),
        (packet_of(ipv6.DESTINATION_OPTIONS, b"\x3b\x20" + b"\x1e\0" * 131), "bad_extension"),
    ],
)
def test_malformed_extensions(packet, reason):
    with pytest.raises(WireError, match=reason):
        walk(packet)


def test_the_chain_has_a_longest_length():
    def chained(count):
        return packet_of(
            ipv6.DESTINATION_OPTIONS,
            *[options_header(ipv6.DESTINATION_OPTIONS, PAD6)] * (count - 1),
            options_header(59, PAD6),
        )

    assert walk(chained(ipv6.EXTENSIONS_MAX)).protocol == 59
    with pytest.raises(WireError, match="bad_extension"):
        walk(chained(ipv6.EXTENSIONS_MAX + 1))


def test_a_long_run_of_padding_is_no_attack():
    assert walk(packet_of(ipv6.HOP_BY_HOP, options_header(59, bytes(2038)))).problem is None


@given(st.binary(max_size=120), st.sampled_from([0, 43, 44, 60]))
def test_any_chain_ends_inside_the_packet_or_is_a_wire_error(data, next_header):
    packet = packet_of(next_header, data)
    try:
        chain = walk(packet)
    except WireError:
        return
    assert 40 <= chain.offset <= len(packet)
    if chain.problem is not None and chain.problem.code is not None:
        assert chain.problem.pointer < len(packet)


@given(
    st.builds(
        FragmentHeader,
        st.integers(0, 255),
        st.integers(0, 0x1FFF).map(lambda units: units * 8),
        st.booleans(),
        st.integers(0, 0xFFFFFFFF),
    )
)
def test_fragment_header_round_trip(fragment):
    data = ipv6.emit_fragment(fragment)
    assert len(data) == ipv6.FRAGMENT_HEADER_LENGTH
    assert ipv6.parse_fragment(b"xy" + data, 2) == fragment


def test_a_fragment_offset_counts_in_eights():
    with pytest.raises(ValueError):
        ipv6.emit_fragment(FragmentHeader(6, 4, False, 1))


def test_a_payload_beyond_16_bits_is_refused():
    with pytest.raises((ValueError, struct.error)):
        packet_of(59, bytes(65536))
