"""IGMP messages, and the numbers of IGMP and MLD that are written as floating point."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.address import parse_address
from swos_net.errors import WireError
from swos_net.wire import igmp
from swos_net.wire.checksum import internet_checksum
from swos_net.wire.igmp import Leave, Query, Record, Report

GROUP, OTHER = parse_address("239.1.2.3"), parse_address("224.0.0.251")
HOSTS = [parse_address("10.0.0.1"), parse_address("192.0.2.7")]

groups = st.sampled_from([GROUP, OTHER])
sources = st.lists(st.sampled_from(HOSTS), max_size=4).map(tuple)
records = st.builds(Record, st.integers(1, 6), groups, sources)
queries = st.one_of(
    st.builds(Query, st.none() | groups, st.just(10.0), st.just(1)),
    st.builds(Query, st.none() | groups, st.integers(1, 127).map(lambda tenths: tenths / 10), st.just(2)),
    st.builds(Query, st.none(), st.integers(0, 127).map(lambda tenths: tenths / 10), st.just(3), st.just(()), st.integers(0, 7),
              st.integers(0, 127).map(float)),
    st.builds(Query, groups, st.integers(0, 127).map(lambda tenths: tenths / 10), st.just(3), sources, st.integers(0, 7),
              st.integers(0, 127).map(float)),
)  # fmt: skip
reports = st.one_of(
    st.builds(Report, st.sampled_from([1, 2]), st.builds(lambda group: (Record(igmp.MODE_IS_EXCLUDE, group),), groups)),
    st.builds(Report, st.just(3), st.lists(records, max_size=5).map(tuple)),
)


def summed(data):
    """With a right checksum, so that what is behind it is looked at."""
    data = data[:2] + bytes(2) + data[4:]
    return data[:2] + internet_checksum(data).to_bytes(2, "big") + data[4:]


@given(queries | reports | st.builds(Leave, groups))
def test_round_trip(message):
    assert igmp.parse(memoryview(igmp.emit(message))) == message


@given(st.binary(min_size=4, max_size=60), st.booleans())
def test_any_bytes_parse_or_are_a_wire_error(data, right):
    if right:
        data = summed(bytes([(0x11, 0x12, 0x16, 0x17, 0x22)[data[0] % 5]]) + data[1:])
    try:
        message = igmp.parse(data)
    except WireError:
        return
    assert isinstance(message, Query | Report | Leave)


def test_what_is_on_the_wire():
    assert igmp.emit(Report(3, (Record(igmp.CHANGE_TO_EXCLUDE_MODE, GROUP),))).hex() == "2200e8f90000000104000000ef010203"
    assert igmp.emit(Report(2, (Record(igmp.MODE_IS_EXCLUDE, GROUP),))).hex() == "1600f8faef010203"
    assert igmp.emit(Leave(GROUP)).hex() == "1700f7faef010203"
    assert igmp.emit(Query(None, 10.0, 2)).hex() == "1164ee9b00000000"
    assert igmp.emit(Query(None, 10.0, 1)).hex() == "1100eeff00000000"


@pytest.mark.parametrize(("code", "bits", "value"), [(127, 8, 127), (128, 8, 128), (0x8F, 8, 31 << 3), (0xFF, 8, 31 << 10),
                                                     (32767, 16, 32767), (0x8000, 16, 32768), (0xFFFF, 16, 0x1FFF << 10)])  # fmt: skip
def test_floating_point(code, bits, value):
    assert igmp.decode_time(code, bits) == value and igmp.encode_time(value, bits) == code


@given(st.integers(0, 40_000), st.sampled_from([8, 16]))
def test_encoding_rounds_down(value, bits):
    code = igmp.encode_time(value, bits)
    assert igmp.decode_time(code, bits) <= value
    if code + 1 < 1 << bits:
        assert igmp.decode_time(code + 1, bits) > value


@pytest.mark.parametrize("data", [
    "", "1100", "11000000 0a000001", "12000000 0a000001", "22000000 00000001", "22000000 00000001 04000001 ef010203",
    "22000000 00000001 04010000 ef010203", "22000000 00000001 04000000 0a000001", "1100000000000000 0000", "11000000 ef010203 00000001",
    "11000000 00000000 00000001 0a000001", "13000000 ef010203",
])  # fmt: skip
def test_malformed(data):
    raw = bytes.fromhex(data)
    with pytest.raises(WireError):
        igmp.parse(summed(raw) if len(raw) >= 8 else raw)


def test_a_wrong_checksum():
    data = bytearray(igmp.emit(Leave(GROUP)))
    data[7] ^= 1
    with pytest.raises(WireError, match="bad_icmp_checksum"):
        igmp.parse(bytes(data))


def test_what_follows_is_ignored():
    query = igmp.emit(Query(GROUP, 1.0, 3, tuple(HOSTS), 2, 125.0))
    assert igmp.parse(summed(query + b"more!!")).sources == tuple(HOSTS)
    auxiliary = bytes.fromhex("22000000 00000002 04010000 ef010203 aabbccdd 03000000 e00000fb")
    assert [record.group for record in igmp.parse(summed(auxiliary)).records] == [GROUP, OTHER]


def test_ipv6_addresses_do_not_fit():
    with pytest.raises(ValueError, match="IPv4"):
        igmp.emit(Leave(parse_address("ff02::1")))
