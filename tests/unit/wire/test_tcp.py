import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.address import IPV4_PREFIX, parse_address
from swos_net.errors import WireError
from swos_net.wire import tcp
from swos_net.wire.tcp import TcpHeader, TcpOptions

A4, B4 = parse_address("10.9.0.1"), parse_address("10.9.0.2")
A6, B6 = parse_address("fd09::1"), parse_address("fd09::2")

packed = st.binary(min_size=4, max_size=4).map(lambda value: IPV4_PREFIX + value)
addresses = st.tuples(packed, packed) | st.tuples(*[st.binary(min_size=16, max_size=16)] * 2)
u8, u16, u32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
headers = st.builds(
    TcpHeader,
    u16,
    u16,
    u32,
    u32,
    u8,
    u16,
    st.integers(0, 10).flatmap(lambda words: st.binary(min_size=words * 4, max_size=words * 4)),
    u16,
)
timestamps = st.tuples(u32, u32)


@st.composite
def syn_options(draw):
    stamps = draw(st.none() | timestamps) or (None, None)
    return TcpOptions(
        draw(st.none() | u16), draw(st.none() | u8), draw(st.booleans()), ts_val=stamps[0], ts_ecr=stamps[1]
    )


@st.composite
def sack_options(draw):
    stamps = draw(st.none() | timestamps) or (None, None)
    blocks = draw(st.lists(st.tuples(u32, u32), max_size=4 if stamps[0] is None else 3))
    return TcpOptions(sack_blocks=tuple(blocks), ts_val=stamps[0], ts_ecr=stamps[1])


@given(headers, st.binary(max_size=60), addresses)
def test_round_trip(header, payload, pair):
    segment = tcp.emit(header, payload, *pair)
    parsed = tcp.parse(memoryview(segment))
    assert parsed == header
    assert segment[parsed.header_length :] == payload
    assert tcp.checksum_valid(segment, *pair)


@given(syn_options() | sack_options())
def test_options_round_trip(options):
    data = tcp.emit_options(options)
    assert len(data) % 4 == 0 and len(data) <= tcp.OPTIONS_LENGTH_MAX
    assert tcp.parse_options(data) == options
    assert tcp.parse_options(memoryview(data)) == options


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_are_a_wire_error(data):
    for parse in (tcp.parse, tcp.parse_options):
        try:
            parse(data)
        except WireError:
            pass


@given(st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 8, 10, 18, 255]), max_size=40).map(bytes))
def test_any_likely_options_parse_or_are_a_wire_error(data):
    try:
        options = tcp.parse_options(data)
    except WireError:
        return
    assert len(options.sack_blocks) <= 4
    assert (options.ts_val is None) == (options.ts_ecr is None)


@pytest.mark.parametrize(
    ("name", "start", "pair", "payload", "options"),
    [
        ("syn4", 34, (A4, B4), b"", TcpOptions(1460, 10, True, (), 0x433084B3, 0)),
        ("syn_ack4", 34, (B4, A4), b"", TcpOptions(1460, 10, True, (), 0x34DB2B96, 0x433084B3)),
        ("data4", 34, (A4, B4), b"hello tcp", TcpOptions(ts_val=0x433084B3, ts_ecr=0x34DB2B96)),
        ("syn6", 54, (A6, B6), b"", TcpOptions(1440, 10, True, (), 0xDA0187DE, 0)),
        ("data6", 54, (A6, B6), b"hello tcp", TcpOptions(ts_val=0xDA0187DE, ts_ecr=0xB7762901)),
    ],
)
def test_the_segments_of_linux(frames, name, start, pair, payload, options):
    segment = frames[name][start:]
    assert tcp.checksum_valid(segment, *pair)
    header = tcp.parse(segment)
    assert tcp.parse_options(header.options) == options
    assert tcp.emit_options(options) == header.options
    assert tcp.emit(header, payload, *pair) == segment


def test_flags_of_linux(frames):
    assert tcp.parse(frames["syn4"][34:]).flags == tcp.SYN
    assert tcp.parse(frames["syn_ack4"][34:]).flags == tcp.SYN | tcp.ACK
    assert tcp.parse(frames["data4"][34:]).flags == tcp.PSH | tcp.ACK


# Options


@pytest.mark.parametrize(
    "text",
    [
        "02", "01 02", "02 00 05 b4", "02 01 05 b4", "02 05 05 b4", "08 0a 00 00", "fe", "fe 00", "fe 01", "fe 03",
        "05 0a 00 00 00 01 00 00 00", "01 01 01 08", "03 03 07 05",
    ],
)  # fmt: skip
def test_a_length_that_cannot_be_is_an_error(text):
    with pytest.raises(WireError, match="bad_options"):
        tcp.parse_options(bytes.fromhex(text))


@pytest.mark.parametrize(
    "text",
    [
        "02 03 05", "02 05 05 b4 00", "03 02", "03 04 01 02", "04 03 00", "05 02", "05 09 00 00 00 00 00 00 00",
        "08 02", "08 09 00 00 00 00 00 00 00", "fe 02", "fe 06 00 00 00 00", "00 02 04 05 b4", "01 01 00 ff", "",
    ],
)  # fmt: skip
def test_unknown_options_and_known_ones_of_another_length_are_skipped(text):
    data = bytes.fromhex(text)
    assert tcp.parse_options(data) == TcpOptions()
    if data[:1] != b"\0" and b"\0\xff" not in data:
        assert tcp.parse_options(data + b"\x02\x04\x05\xb4") == TcpOptions(mss=1460)


def test_an_option_given_twice():
    assert tcp.parse_options(bytes.fromhex("020405b402040218")).mss == 536


def test_options_stop_at_end_of_option_list():
    assert tcp.parse_options(bytes.fromhex("020405b4 00 030307")) == TcpOptions(mss=1460)


def test_only_the_sack_blocks_there_is_room_for():
    blocks = tuple((n * 100, n * 100 + 50) for n in range(6))
    assert tcp.parse_options(tcp.emit_options(TcpOptions(sack_blocks=blocks))).sack_blocks == blocks[:4]
    with_stamps = tcp.emit_options(TcpOptions(sack_blocks=blocks, ts_val=1, ts_ecr=2))
    assert tcp.parse_options(with_stamps).sack_blocks == blocks[:3]
    assert len(with_stamps) == 40
    everything = tcp.emit_options(TcpOptions(1460, 7, True, ((1, 2), (3, 4), (5, 6)), 3, 4))
    assert tcp.parse_options(everything) == TcpOptions(1460, 7, True, ((1, 2), (3, 4)), 3, 4)


def test_the_layout_of_sack_and_timestamps():
    data = tcp.emit_options(TcpOptions(sack_blocks=((1, 2),), ts_val=3, ts_ecr=4))
    assert data == bytes.fromhex("0101080a0000000300000004 0101050a0000000100000002")


# Segments


@pytest.mark.parametrize(
    ("position", "value", "reason"),
    [(12, 0x40, "bad_transport_header"), (12, 0x00, "bad_transport_header"), (12, 0xF0, "truncated")],
)
def test_malformed_offset(position, value, reason):
    segment = bytearray(tcp.emit(TcpHeader(1, 2, 3, 4, tcp.ACK, 5), b"data", A4, B4))
    segment[position] = value
    with pytest.raises(WireError, match=reason):
        tcp.parse(segment)


def test_truncated():
    with pytest.raises(WireError, match="truncated"):
        tcp.parse(bytes(19))


def test_a_wrong_checksum():
    segment = tcp.emit(TcpHeader(1, 2, 3, 4, tcp.ACK, 5), b"data", A6, B6)
    assert tcp.checksum_valid(segment, A6, B6)
    assert not tcp.checksum_valid(segment, A6, A6)
    assert not tcp.checksum_valid(segment[:-1] + b"b", A6, B6)


@pytest.mark.parametrize("options", [b"\x01", bytes(44)])
def test_options_that_do_not_fit_are_a_value_error(options):
    with pytest.raises(ValueError):
        tcp.emit(TcpHeader(1, 2, 3, 4, tcp.ACK, 5, options), b"", A4, B4)
