"""MLD messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.address import parse_address
from swos_net.errors import WireError
from swos_net.wire import icmpv6, mld
from swos_net.wire.igmp import CHANGE_TO_EXCLUDE_MODE, MODE_IS_EXCLUDE, Leave, Query, Record, Report

HERE, ALL = parse_address("fe80::1"), mld.ALL_NODES
GROUP, OTHER = parse_address("ff05::1:3"), parse_address("ff02::fb")
HOSTS = [parse_address("2001:db8::1"), parse_address("fd00::7")]

groups = st.sampled_from([GROUP, OTHER])
sources = st.lists(st.sampled_from(HOSTS), max_size=4).map(tuple)
seconds = st.integers(0, 32767).map(lambda milliseconds: milliseconds / 1000)
records = st.builds(Record, st.integers(1, 6), groups, sources)
messages = st.one_of(
    st.builds(Query, st.none() | groups, seconds, st.just(2)),
    st.builds(Query, st.none(), seconds, st.just(3), st.just(()), st.integers(0, 7), st.integers(0, 127).map(float)),
    st.builds(Query, groups, seconds, st.just(3), sources, st.integers(0, 7), st.integers(0, 127).map(float)),
    st.builds(Report, st.just(2), st.builds(lambda group: (Record(MODE_IS_EXCLUDE, group),), groups)),
    st.builds(Report, st.just(3), st.lists(records, max_size=5).map(tuple)),
    st.builds(Leave, groups),
)


def summed(data):
    data = data[:2] + bytes(2) + data[4:]
    return data[:2] + icmpv6.checksum(data, HERE, ALL).to_bytes(2, "big") + data[4:]


@given(messages)
def test_round_trip(message):
    assert mld.parse(memoryview(mld.emit(message, HERE, ALL)), HERE, ALL) == message


@given(st.binary(min_size=4, max_size=80), st.booleans())
def test_any_bytes_parse_or_are_a_wire_error(data, right):
    if right:
        data = summed(bytes([sorted(mld.TYPES)[data[0] % 4]]) + data[1:])
    try:
        message = mld.parse(data, HERE, ALL)
    except WireError:
        return
    assert isinstance(message, Query | Report | Leave)


def test_what_is_on_the_wire():
    raw = mld.emit(Report(3, (Record(CHANGE_TO_EXCLUDE_MODE, OTHER),)), HERE, mld.ALL_REPORT_ROUTERS)
    assert raw[:2] + raw[4:] == bytes.fromhex("8f00 0000 0001 04000000 ff0200000000000000000000000000fb")
    raw = mld.emit(Query(None, 10.0, 2), HERE, ALL)
    assert raw[:2] + raw[4:] == bytes.fromhex("8200 2710 0000") + bytes(16)


@pytest.mark.parametrize("data", [
    "8200", "82000000 00000000", "83000000 00000000" + "20010db8" + "00" * 12, "8f000000 00000001", "82000000 00000000" + "00" * 18,
    "8f000000 00000001 04000001 ff020000000000000000000000000002", "82000000 00000000 fe80" + "00" * 14,
    "82000000 00000000" + "00" * 16 + "02000001" + "00" * 16, "80000000 00000000" + "00" * 16,
])  # fmt: skip
def test_malformed(data):
    raw = bytes.fromhex(data)
    with pytest.raises(WireError):
        mld.parse(summed(raw) if len(raw) >= 4 else raw, HERE, ALL)


def test_the_checksum_covers_the_addresses():
    with pytest.raises(WireError, match="bad_icmp_checksum"):
        mld.parse(mld.emit(Leave(GROUP), HERE, ALL), HERE, GROUP)
