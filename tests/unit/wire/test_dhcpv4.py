import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.address import IPV4_PREFIX, UNSPECIFIED4, parse_address
from swos_net.errors import WireError
from swos_net.wire import dhcpv4
from swos_net.wire.dhcpv4 import DhcpMessage, MessageType

MAC = bytes.fromhex("02000000000a")

# What busybox udhcpc 1.35.0 broadcasts, from the UDP payload on
DISCOVER = (
    bytes.fromhex("0101060005 1ef364 0000 0000" + "00" * 16 + "02000000000a")
    + bytes(10 + 64 + 128)
    + bytes.fromhex(
        "63825363 350101 39020240 37070103060c0f1c2a 3c0c75646863 7020312e33352e30 3d070102000000000a ff"
    )
).ljust(300, b"\0")

address = st.binary(min_size=4, max_size=4).map(lambda packed: IPV4_PREFIX + packed)
codes = st.integers(1, 254).filter(lambda code: code != dhcpv4.OVERLOAD)


def text_field(length: int):
    return st.binary(max_size=length).map(lambda value: value.rstrip(b"\0"))


messages = st.builds(
    DhcpMessage,
    operation=st.sampled_from([dhcpv4.BOOT_REQUEST, dhcpv4.BOOT_REPLY]),
    transaction_id=st.integers(0, 0xFFFFFFFF),
    hardware_address=st.binary(max_size=16),
    options=st.dictionaries(codes, st.binary(max_size=600), max_size=4),
    seconds=st.integers(0, 0xFFFF),
    flags=st.integers(0, 0xFFFF),
    client_address=address,
    your_address=address,
    server_address=address,
    relay_address=address,
    hops=st.integers(0, 255),
    server_name=text_field(64),
    boot_file=text_field(128),
    hardware_type=st.integers(0, 255),
)


def raw_message(options: bytes, server_name: bytes = b"", boot_file: bytes = b"") -> bytes:
    return (
        bytes.fromhex("02010600 00000001")
        + bytes(36)
        + server_name.ljust(64, b"\0")
        + boot_file.ljust(128, b"\0")
        + dhcpv4.COOKIE
        + options
    )


def with_options(**options: bytes) -> DhcpMessage:
    return DhcpMessage(dhcpv4.BOOT_REPLY, 1, MAC, {getattr(dhcpv4, name): value for name, value in options.items()})


@given(messages)
def test_round_trip(message):
    data = dhcpv4.emit(message, dhcpv4.MESSAGE_LENGTH_MAX)
    assert len(data) >= dhcpv4.MESSAGE_LENGTH_MIN
    assert dhcpv4.parse(memoryview(data)) == message


@given(st.binary(max_size=120), st.binary(max_size=64), st.binary(max_size=128))
def test_any_options_parse_or_are_a_wire_error(options, server_name, boot_file):
    data = raw_message(options, server_name, boot_file)
    try:
        message = dhcpv4.parse(data)
    except WireError:
        return
    # However the helpers are called, a malformed value is no exception.
    for code in range(1, 255):
        dhcpv4.address_option(message, code)
        dhcpv4.integer_option(message, code)
        dhcpv4.text_option(message, code)
    dhcpv4.prefix_length(message)


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_are_a_wire_error(data):
    try:
        dhcpv4.parse(data)
    except WireError:
        pass


def test_a_discover_of_udhcpc():
    message = dhcpv4.parse(DISCOVER)
    assert message == DhcpMessage(
        dhcpv4.BOOT_REQUEST,
        0x051EF364,
        MAC,
        {
            dhcpv4.MESSAGE_TYPE: b"\x01",
            dhcpv4.MAXIMUM_MESSAGE_SIZE: b"\x02\x40",
            dhcpv4.PARAMETER_REQUEST_LIST: bytes((1, 3, 6, 12, 15, 28, 42)),
            dhcpv4.VENDOR_CLASS: b"udhcp 1.35.0",
            dhcpv4.CLIENT_IDENTIFIER: b"\x01" + MAC,
        },
    )
    assert message.message_type == MessageType.DISCOVER
    assert dhcpv4.emit(message) == DISCOVER


# Options


def test_pieces_of_an_option_are_put_together():
    message = dhcpv4.parse(raw_message(b"\x0c\x02ab\x35\x01\x02\x0c\x00\x0c\x02cd\xff"))
    assert message.options == {dhcpv4.HOST_NAME: b"abcd", dhcpv4.MESSAGE_TYPE: b"\x02"}


def test_a_long_option_is_emitted_in_pieces():
    data = dhcpv4.emit(with_options(CLASSLESS_ROUTES=bytes(300)), 1024)
    assert data[240:242] == b"\x79\xff" and data[497:499] == b"\x79\x2d"


@pytest.mark.parametrize(
    ("overload", "expected"),
    [
        (1, {12: b"of"}),
        (2, {12: b"os"}),
        (3, {12: b"ofs"}),
    ],
)
def test_overload(overload, expected):
    # RFC 3396 5: options, then file, then sname
    data = raw_message(bytes((52, 1, overload)) + b"\x0c\x01o\xff", b"\x0c\x01s\xff", b"\x0c\x01f\xff")
    message = dhcpv4.parse(data)
    assert message.options == expected
    assert (message.boot_file == b"") == bool(overload & 1)
    assert (message.server_name == b"") == bool(overload & 2)


def test_an_overload_inside_an_overloaded_field_is_without_effect():
    data = raw_message(b"\x34\x01\x01\xff", b"\x0c\x01s\xff", b"\x34\x01\x02\x0c\x01f\xff")
    message = dhcpv4.parse(data)
    assert message.options == {12: b"f"}
    assert message.server_name == b"\x0c\x01s\xff"


def test_a_missing_end_and_padding_in_between():
    assert dhcpv4.parse(raw_message(b"\0\0\x35\x01\x05\0\0")).message_type == MessageType.ACK
    assert dhcpv4.parse(raw_message(b"")).message_type is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (DISCOVER[:239], "truncated"),
        (raw_message(bytes(4000)), "bad_dhcp_length"),
        (b"\x03" + DISCOVER[1:], "bad_dhcp_operation"),
        (DISCOVER[:2] + b"\x11" + DISCOVER[3:], "bad_dhcp_hardware"),
        (DISCOVER[:236] + bytes(64), "bad_dhcp_cookie"),
        (raw_message(b"\x35"), "bad_dhcp_option"),
        (raw_message(b"\x35\x02\x01"), "bad_dhcp_option"),
        (raw_message(b"\x34\x00\xff"), "bad_dhcp_option"),
        (raw_message(b"\x34\x01\x04\xff"), "bad_dhcp_option"),
        (raw_message(b"\x34\x01\x01\xff", b"", b"\x0c\xff"), "bad_dhcp_option"),
    ],
)
def test_malformed(data, reason):
    with pytest.raises(WireError, match=reason):
        dhcpv4.parse(data)


def test_what_does_not_fit_is_a_value_error():
    with pytest.raises(ValueError, match="over the limit of 548"):
        dhcpv4.emit(with_options(MESSAGE=bytes(400)))
    for change in ({"hardware_address": bytes(17)}, {"server_name": bytes(65)}, {"boot_file": bytes(129)}):
        message = DhcpMessage(**{"operation": 1, "transaction_id": 1, "hardware_address": MAC} | change)
        with pytest.raises(ValueError):
            dhcpv4.emit(message)


# Values of options


def test_typed_values():
    message = with_options(
        ROUTER=bytes((10, 0, 0, 1)),
        DNS_SERVER=bytes((10, 0, 0, 53, 10, 0, 1, 53)),
        LEASE_TIME=struct.pack("!I", 86400),
        INTERFACE_MTU=struct.pack("!H", 1400),
        DOMAIN_NAME=b"lab.example\0",
        SUBNET_MASK=bytes((255, 255, 240, 0)),
    )
    assert dhcpv4.address_option(message, dhcpv4.ROUTER) == parse_address("10.0.0.1")
    assert dhcpv4.addresses_option(message, dhcpv4.DNS_SERVER) == [
        parse_address("10.0.0.53"),
        parse_address("10.0.1.53"),
    ]
    assert dhcpv4.integer_option(message, dhcpv4.LEASE_TIME) == 86400
    assert dhcpv4.integer_option(message, dhcpv4.INTERFACE_MTU, 2) == 1400
    assert dhcpv4.text_option(message, dhcpv4.DOMAIN_NAME) == "lab.example"
    assert dhcpv4.prefix_length(message) == 20
    assert dhcpv4.address_option(message, dhcpv4.SERVER_IDENTIFIER) is None


def test_malformed_values_are_as_good_as_missing():
    message = with_options(
        ROUTER=bytes(5),
        LEASE_TIME=bytes(3),
        DOMAIN_NAME=b"lab\n",
        SUBNET_MASK=bytes((255, 0, 255, 0)),
        MESSAGE_TYPE=b"\x01\x02",
    )
    assert dhcpv4.address_option(message, dhcpv4.ROUTER) is None
    assert dhcpv4.integer_option(message, dhcpv4.LEASE_TIME) is None
    assert dhcpv4.text_option(message, dhcpv4.DOMAIN_NAME) is None
    assert dhcpv4.prefix_length(message) is None
    assert message.message_type is None


@pytest.mark.parametrize("length", range(33))
def test_masks(length):
    message = with_options(SUBNET_MASK=dhcpv4.emit_mask(length))
    assert dhcpv4.prefix_length(message) == length


def test_classless_routes_of_the_rfc():
    # RFC 3442, the table of examples: 0.0.0.0/0, 10.0.0.0/8, 10.17.0.0/16, 10.229.0.128/25, 10.198.122.47/32
    router = parse_address("10.0.0.1")
    routes = [
        (parse_address("0.0.0.0"), 0, router),
        (parse_address("10.0.0.0"), 8, router),
        (parse_address("10.17.0.0"), 16, router),
        (parse_address("10.229.0.128"), 25, UNSPECIFIED4),
        (parse_address("10.198.122.47"), 32, router),
    ]
    value = bytes.fromhex(
        "00 0a000001 080a 0a000001 100a11 0a000001 190ae50080 00000000 200ac67a2f 0a000001"
    )
    assert dhcpv4.emit_classless_routes(routes) == value
    assert dhcpv4.parse_classless_routes(value) == routes


def test_bits_behind_a_prefix_are_dropped():
    assert dhcpv4.parse_classless_routes(bytes.fromhex("0cac1f 0a000001"))[0][0] == parse_address("172.16.0.0")


@pytest.mark.parametrize("text", ["21 0a00000001 0a000001", "08 0a 0a0000", "18"])
def test_malformed_classless_routes(text):
    with pytest.raises(WireError, match="bad_dhcp_option"):
        dhcpv4.parse_classless_routes(bytes.fromhex(text))
