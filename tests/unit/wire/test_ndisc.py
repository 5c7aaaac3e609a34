import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.address import ALL_NODES6, parse_address, solicited_node
from swos_net.errors import WireError
from swos_net.wire import icmpv6, ndisc
from swos_net.wire.ndisc import (
    NdOptions,
    NeighborAdvertisement,
    NeighborSolicitation,
    PrefixInformation,
    RecursiveServers,
    Redirect,
    RouterAdvertisement,
    RouterSolicitation,
    SearchList,
)

A, B = parse_address("fe80::a"), parse_address("fe80::b")
GLOBAL = parse_address("2001:db8::1")
UNSPECIFIED = bytes(16)
MAC_A, MAC_B = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")

address = st.binary(min_size=16, max_size=16)
link = st.binary(min_size=6, max_size=6)
u8, u16, u32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
domain = st.lists(st.from_regex(r"[a-z0-9_-]{1,63}", fullmatch=True), min_size=1, max_size=3).map(".".join)
options = st.builds(
    NdOptions,
    source_link_address=st.none() | link,
    target_link_address=st.none() | link,
    prefixes=st.lists(
        st.builds(PrefixInformation, address, st.integers(0, 128), st.booleans(), st.booleans(), u32, u32), max_size=3
    ),
    redirected=st.none() | st.integers(1, 6).flatmap(lambda units: st.binary(min_size=units * 8, max_size=units * 8)),
    mtu=st.none() | u32,
    nonce=st.none() | st.binary(min_size=6, max_size=6),
    recursive_servers=st.lists(
        st.builds(RecursiveServers, u32, st.lists(address, min_size=1, max_size=3)), max_size=2
    ),
    search_lists=st.lists(st.builds(SearchList, u32, st.lists(domain, min_size=1, max_size=3)), max_size=2),
)
messages = st.one_of(
    st.builds(RouterSolicitation, options, u8),
    st.builds(RouterAdvertisement, u8, st.booleans(), st.booleans(), u16, u32, u32, options, u8),
    st.builds(NeighborSolicitation, address, options, u8),
    st.builds(NeighborAdvertisement, address, st.booleans(), st.booleans(), st.booleans(), options, u8),
    st.builds(Redirect, address, address, options, u8),
)


def checksummed(data: bytes) -> bytes:
    data = data[:2] + b"\0\0" + data[4:]
    return data[:2] + icmpv6.checksum(data, A, B).to_bytes(2, "big") + data[4:]


@given(messages, address, address)
def test_round_trip(message, source, destination):
    data = ndisc.emit(message, source, destination)
    assert len(data) % 8 == 0
    assert ndisc.parse(memoryview(data), source, destination) == message


@given(st.integers(130, 140), st.binary(max_size=100))
def test_any_bytes_parse_or_are_a_wire_error(kind, data):
    try:
        message = ndisc.parse(checksummed(bytes((kind, 0, 0, 0)) + data), A, B)
    except WireError:
        return
    try:
        ndisc.validate(message, A, B, 255)
    except WireError:
        pass


@given(st.binary(max_size=200))
def test_any_options_parse_or_are_a_wire_error(data):
    try:
        ndisc.parse_options(data)
    except WireError:
        pass


# Messages of Linux


@pytest.mark.parametrize(
    ("name", "source", "destination", "message"),
    [
        (
            "dad6",
            "::",
            "ff02::1:ff00:a",
            NeighborSolicitation(
                parse_address("fe80::ff:fe00:a"), NdOptions(nonce=bytes.fromhex("c47463093357"))
            ),
        ),
        (
            "router_solicitation6",
            "fe80::ff:fe00:a",
            "ff02::2",
            RouterSolicitation(NdOptions(source_link_address=MAC_A)),
        ),
        (
            "neighbor_solicitation6",
            "fd09::1",
            "ff02::1:ff00:2",
            NeighborSolicitation(parse_address("fd09::2"), NdOptions(source_link_address=MAC_A)),
        ),
        (
            "neighbor_advertisement6",
            "fd09::2",
            "fd09::1",
            NeighborAdvertisement(
                parse_address("fd09::2"),
                solicited=True,
                override=True,
                options=NdOptions(target_link_address=MAC_B),
            ),
        ),
    ],
)
def test_the_messages_of_linux(frames, name, source, destination, message):
    source, destination = parse_address(source), parse_address(destination)
    data = frames[name][54:]
    assert ndisc.parse(data, source, destination) == message
    assert ndisc.emit(message, source, destination) == data
    ndisc.validate(message, source, destination, 255)


# Options


def test_a_router_advertisement_byte_for_byte():
    message = RouterAdvertisement(
        64,
        managed=False,
        other=True,
        router_lifetime=1800,
        options=NdOptions(
            source_link_address=MAC_A,
            prefixes=[PrefixInformation(parse_address("fd12::"), 64, True, True, 86400, 14400)],
            mtu=65520,
            recursive_servers=[RecursiveServers(1200, [parse_address("fd12::53")])],
            search_lists=[SearchList(1200, ["lab.example"])],
        ),
    )
    expected = (
        "8600 0000 40 40 0708 00000000 00000000"
        "0101 02000000000a"
        "0304 40 c0 00015180 00003840 00000000 fd120000000000000000000000000000"
        "0501 0000 0000fff0"
        "1903 0000 000004b0 fd120000000000000000000000000053"
        "1f03 0000 000004b0 03 6c6162 07 6578616d706c65 00 000000"
    )
    assert ndisc.emit(message, A, ALL_NODES6)[4:] == bytes.fromhex(expected.replace(" ", ""))[4:]


def test_options_out_of_order_and_unknown_ones():
    unknown = bytes((24, 2)) + bytes(14)
    data = unknown + b"\x02\x01" + MAC_B + unknown + b"\x01\x01" + MAC_A + b"\x01\x01" + MAC_B
    assert ndisc.parse_options(data) == NdOptions(source_link_address=MAC_A, target_link_address=MAC_B)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x01\x00" + MAC_A, "bad_nd_option"),
        (b"\xfe\x00" + bytes(6), "bad_nd_option"),
        (b"\x01", "truncated"),
        (b"\x01\x02" + MAC_A, "truncated"),
        (b"\x01\x02" + bytes(14), "bad_nd_option"),
        (b"\x02\x02" + bytes(14), "bad_nd_option"),
        (b"\x03\x01" + bytes(6), "bad_nd_option"),
        (b"\x03\x04\x81" + bytes(29), "bad_nd_option"),
        (b"\x05\x02" + bytes(14), "bad_nd_option"),
        (b"\x19\x01" + bytes(6), "bad_nd_option"),
        (b"\x19\x02" + bytes(14), "bad_nd_option"),
        (b"\x1f\x01" + bytes(6), "bad_nd_option"),
        (b"\x1f\x02" + bytes(6) + b"\x09abcdefg", "bad_nd_option"),
        (b"\x1f\x02" + bytes(6) + b"\x07abcdefg", "bad_nd_option"),
        (b"\x1f\x02" + bytes(6) + b"\x02a.\0\0\0\0\0", "bad_nd_option"),
        (b"\x1f\x02" + bytes(6) + b"\x02a\xff\0\0\0\0\0", "bad_nd_option"),
        (b"\x1f\x02" + bytes(6) + b"\xc0\x00\0\0\0\0\0\0", "bad_nd_option"),
        (b"\xfe\x01" + bytes(6), None),
    ],
)
def test_malformed_options(data, reason):
    if reason is None:
        ndisc.parse_options(data)
        return
    with pytest.raises(WireError, match=reason):
        ndisc.parse_options(data)


def test_a_domain_name_has_a_longest_length():
    def option(labels):
        names = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
        return ndisc._emit_option(31, struct.pack("!HI", 0, 60) + names)

    longest = [b"a" * 63] * 3 + [b"a" * 61]
    assert [len(name) for name in ndisc.parse_options(option(longest)).search_lists[0].domains] == [253]
    with pytest.raises(WireError, match="bad_nd_option"):
        ndisc.parse_options(option([b"a" * 63] * 3 + [b"a" * 62]))


def test_the_number_of_options_is_bounded():
    option = b"\xfe\x01" + bytes(6)
    ndisc.parse_options(option * 255)
    with pytest.raises(WireError, match="bad_nd_option"):
        ndisc.parse_options(option * 257)


def test_a_label_that_is_too_long_is_not_emitted():
    for name in ("a" * 64 + ".example", "a..b"):
        with pytest.raises(ValueError):
            ndisc.emit_options(NdOptions(search_lists=[SearchList(1, [name])]))


# Fixed parts and validity


@pytest.mark.parametrize(("kind", "length"), [(133, 8), (134, 16), (135, 24), (136, 24), (137, 40)])
def test_shorter_than_the_fixed_part(kind, length):
    data = bytes((kind, 0)) + bytes(length - 2)
    ndisc.parse(checksummed(data), A, B)
    with pytest.raises(WireError, match="truncated"):
        ndisc.parse(checksummed(data[:-1]), A, B)


def test_checksum_and_type():
    data = ndisc.emit(NeighborSolicitation(B), A, B)
    with pytest.raises(WireError, match="bad_icmp_checksum"):
        ndisc.parse(data[:-1] + b"\x77", A, B)
    with pytest.raises(WireError, match="bad_nd_type"):
        ndisc.parse(checksummed(b"\x80\0\0\0" + bytes(20)), A, B)


VALID = [
    (NeighborSolicitation(GLOBAL), A, solicited_node(GLOBAL)),
    (NeighborSolicitation(GLOBAL, NdOptions(source_link_address=MAC_A)), A, GLOBAL),
    (NeighborSolicitation(GLOBAL), UNSPECIFIED, solicited_node(GLOBAL)),
    (NeighborAdvertisement(GLOBAL, solicited=True), GLOBAL, A),
    (NeighborAdvertisement(GLOBAL), GLOBAL, ALL_NODES6),
    (RouterSolicitation(), UNSPECIFIED, B),
    (RouterSolicitation(NdOptions(source_link_address=MAC_A)), A, B),
    (RouterAdvertisement(), A, ALL_NODES6),
    (Redirect(B, GLOBAL), A, GLOBAL),
    (Redirect(GLOBAL, GLOBAL), A, B),
]


@pytest.mark.parametrize(("message", "source", "destination"), VALID)
def test_valid_messages(message, source, destination):
    ndisc.validate(message, source, destination, 255)
    with pytest.raises(WireError, match="bad_nd_hop_limit"):
        ndisc.validate(message, source, destination, 254)


@pytest.mark.parametrize(
    ("message", "source", "destination", "reason"),
    [
        (NeighborSolicitation(GLOBAL, code=1), A, GLOBAL, "bad_nd_code"),
        (NeighborSolicitation(ALL_NODES6), A, GLOBAL, "bad_nd_target"),
        (NeighborSolicitation(UNSPECIFIED), A, GLOBAL, "bad_nd_target"),
        (NeighborSolicitation(parse_address("10.0.0.1")), A, GLOBAL, "bad_nd_target"),
        (NeighborSolicitation(GLOBAL), UNSPECIFIED, GLOBAL, "bad_nd_source"),
        (
            NeighborSolicitation(GLOBAL, NdOptions(source_link_address=MAC_A)),
            UNSPECIFIED,
            solicited_node(GLOBAL),
            "bad_nd_source",
        ),
        (NeighborAdvertisement(ALL_NODES6), A, B, "bad_nd_target"),
        (NeighborAdvertisement(parse_address("10.0.0.1")), A, B, "bad_nd_target"),
        (NeighborAdvertisement(GLOBAL, solicited=True), A, ALL_NODES6, "bad_nd_target"),
        (RouterSolicitation(NdOptions(source_link_address=MAC_A)), UNSPECIFIED, B, "bad_nd_source"),
        (RouterAdvertisement(), GLOBAL, B, "bad_nd_source"),
        (Redirect(B, GLOBAL), GLOBAL, B, "bad_nd_source"),
        (Redirect(B, ALL_NODES6), A, B, "bad_nd_target"),
        (Redirect(parse_address("2001:db8::2"), GLOBAL), A, B, "bad_nd_target"),
    ],
)
def test_invalid_messages(message, source, destination, reason):
    with pytest.raises(WireError, match=reason):
        ndisc.validate(message, source, destination, 255)
