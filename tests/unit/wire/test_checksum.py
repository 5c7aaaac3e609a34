import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.address import parse_address
from swos_net.wire.checksum import internet_checksum, pseudo_header_sum


def rfc1071(data: bytes, initial: int = 0) -> int:
    """The loop of RFC 1071 4.1, word by word."""
    total = initial
    for (word,) in struct.iter_unpack("!H", data + b"\0" * (len(data) & 1)):
        total += word
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_rfc1071_example():
    # RFC 1071 3: the bytes 00 01 f2 03 f4 f5 f6 f7 sum to ddf2
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2 ^ 0xFFFF


@pytest.mark.parametrize("data", [b"", bytes(20), b"\xff\xff", b"\xff\xff" * 9, b"\xff\xff\xff", b"\0\0\0", b"\x01"])
def test_both_zeros(data):
    assert internet_checksum(data) == rfc1071(data)


@given(st.binary(max_size=200), st.integers(0, 1 << 40))
def test_equals_the_loop_of_the_rfc(data, initial):
    assert internet_checksum(data, initial) == rfc1071(data, initial)
    assert internet_checksum(memoryview(data), initial) == rfc1071(data, initial)


@given(st.binary(min_size=2, max_size=100).filter(lambda data: len(data) % 2 == 0))
def test_over_its_own_checksum_is_zero(data):
    assert internet_checksum(data + internet_checksum(data).to_bytes(2, "big")) == 0


@pytest.mark.parametrize(
    ("source", "destination", "packed"),
    [
        ("10.0.0.1", "192.168.255.254", "0a000001 c0a8fffe 00 06 0123"),
        (
            "2001:db8::1",
            "ff02::1:ff00:2",
            "20010db8000000000000000000000001 ff0200000000000000000001ff000002 00000123 000000 06",
        ),
    ],
)
def test_pseudo_header_equals_its_bytes(source, destination, packed):
    pseudo = pseudo_header_sum(parse_address(source), parse_address(destination), 6, 0x123)
    assert internet_checksum(b"", pseudo) == rfc1071(bytes.fromhex(packed.replace(" ", "")))


def test_pseudo_header_of_a_length_beyond_16_bits():
    source, destination = parse_address("fd00::1"), parse_address("fd00::2")
    expected = rfc1071(source + destination + struct.pack("!II", 0x12345, 6))
    assert internet_checksum(b"", pseudo_header_sum(source, destination, 6, 0x12345)) == expected
