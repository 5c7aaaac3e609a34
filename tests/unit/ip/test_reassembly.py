"""Reassembly: every order, every limit, every way a sender can contradict itself."""

import pytest
from hypothesis import given, strategies as st

from swos_net.address import parse_address
from swos_net.config import ReassemblyConfig
from swos_net.ip.reassembly import ReassembledDatagram, Reassembler, TimedOut

SOURCE, DESTINATION = parse_address("10.0.2.15"), parse_address("10.0.2.2")
KEY = (SOURCE, DESTINATION, 17, 77)
KEY6 = (parse_address("2001:db8::1"), parse_address("2001:db8::2"), 0, 77)
HEADER = bytes(20)


def pattern(length, start=0):
    return bytes((start + index) * 7 % 251 for index in range(length))


@pytest.fixture
def reassembler():
    return Reassembler(ReassemblyConfig())


def give(reassembler, offset, length, more=True, key=KEY, header=HEADER, now=0.0, data=None):
    return reassembler.fragment_received(
        key, offset, more, pattern(length, offset) if data is None else data, header, now)


def dropped(reassembler, **counters):
    assert dict(reassembler.counters) == counters
    return True


def idle(reassembler):
    return len(reassembler) == 0 and reassembler.bytes_held == 0 and reassembler.next_deadline() is None


@given(st.lists(st.integers(1, 40).map(lambda eights: eights * 8), min_size=1, max_size=12), st.integers(1, 100),
       st.randoms())
def test_any_order_gives_the_payload(lengths, tail, random):
    reassembler = Reassembler(ReassemblyConfig())
    pieces, offset = [], 0
    for length in lengths:
        pieces.append((offset, length, True))
        offset += length
    pieces.append((offset, tail, False))
    random.shuffle(pieces)
    *early, final = pieces
    for piece in early:
        header = b"first" if piece[0] == 0 else b"later"
        assert give(reassembler, *piece, header=header) is None
    whole = give(reassembler, *final, header=b"first" if final[0] == 0 else b"later")
    assert whole == ReassembledDatagram(b"first", pattern(offset + tail))
    assert idle(reassembler) and not reassembler.counters


def test_caller_may_reuse_its_buffers(reassembler):
    data, header = bytearray(pattern(8)), bytearray(HEADER)
    reassembler.fragment_received(KEY, 0, True, memoryview(data), memoryview(header), 0.0)
    data[:] = header[:8] = b"\xff" * 8
    assert give(reassembler, 8, 3, more=False) == ReassembledDatagram(HEADER, pattern(11))


@pytest.mark.parametrize("other", [
    (DESTINATION, SOURCE, 17, 77), (SOURCE, SOURCE, 17, 77), (SOURCE, DESTINATION, 6, 77),
    (SOURCE, DESTINATION, 17, 78)])
def test_datagrams_are_told_apart_by_the_whole_key(reassembler, other):
    give(reassembler, 0, 8)
    assert give(reassembler, 8, 8, more=False, key=other) is None
    assert len(reassembler) == 2
    assert give(reassembler, 8, 8, more=False).payload == pattern(16)


def test_atomic_fragment_stands_alone(reassembler):
    give(reassembler, 0, 8)
    assert give(reassembler, 0, 20, more=False) == ReassembledDatagram(HEADER, pattern(20))
    assert give(reassembler, 8, 8, more=False).payload == pattern(16)


def test_exact_duplicates_do_no_harm(reassembler):
    for _ in range(3):
        give(reassembler, 0, 16)
    for _ in range(2):
        give(reassembler, 24, 5, more=False)
    assert give(reassembler, 16, 8).payload == pattern(29)
    assert dropped(reassembler, duplicate=3)


@pytest.mark.parametrize("offset, length, more", [
    (8, 16, True), (24, 16, True), (24, 8, True), (16, 8, True), (8, 32, True), (0, 24, True), (16, 24, True),
    (16, 16, False), (8, 12, False), (0 + 8, 9, False)])
def test_overlap_ends_the_datagram(reassembler, offset, length, more):
    give(reassembler, 16, 16)
    assert give(reassembler, offset, length, more=more) is None
    assert dropped(reassembler, overlap=1) and reassembler.bytes_held == 0
    assert not reassembler._datagrams[KEY].fragments  # nothing is held, and not only by the books
    # RFC 5722 4: fragments still to come are dropped as well, and nothing is said at the end
    for late in ((0, 16, True), (16, 16, True), (32, 4, False)):
        assert give(reassembler, *late) is None
    assert dropped(reassembler, overlap=1, abandoned=3)
    assert reassembler.handle_timeout(30.0) == [] and idle(reassembler)


def test_same_place_with_other_bytes_is_an_overlap(reassembler):
    give(reassembler, 0, 8)
    give(reassembler, 0, 8, data=b"attacker")
    assert dropped(reassembler, overlap=1)


@pytest.mark.parametrize("second", [(16, 9, False), (24, 8, False), (24, 8, True), (8, 4, False), (16, 8, True)])
def test_two_ends_contradict_each_other(reassembler, second):
    give(reassembler, 16, 8, more=False)
    assert give(reassembler, *second) is None
    assert dropped(reassembler, overlap=1)


def test_last_fragment_before_data_already_held(reassembler):
    give(reassembler, 32, 8)
    give(reassembler, 8, 8, more=False)
    assert dropped(reassembler, overlap=1)


@pytest.mark.parametrize("offset, length, more, reason", [
    (8, 0, True, "zero_length"), (8, 0, False, "zero_length"), (0, 0, True, "zero_length"),
    (0, 7, True, "not_multiple_of_8"), (8, 9, True, "not_multiple_of_8"),
    (65504, 12, False, "too_long"), (65512, 8, True, "too_long"), (64000, 2000, True, "too_long")])
def test_a_fragment_that_cannot_be_is_dropped_alone(reassembler, offset, length, more, reason):
    give(reassembler, 0, 8)
    assert give(reassembler, offset, length, more=more) is None
    assert dropped(reassembler, **{reason: 1})
    assert give(reassembler, 8, 4, more=False).payload == pattern(12)


def test_longest_datagrams_there_are():
    reassembler = Reassembler(ReassemblyConfig())
    assert give(reassembler, 65504, 11, more=False) is None  # 20 + 65515 = 65535
    assert give(reassembler, 0, 65504).payload == pattern(65515)
    # IPv6 counts neither the fixed header nor the Fragment header, which goes
    assert give(reassembler, 65528, 7, more=False, key=KEY6, header=bytes(48)) is None
    assert len(give(reassembler, 0, 65528, key=KEY6, header=bytes(48)).payload) == 65535
    # with 8 bytes of other extension headers
    assert give(reassembler, 65520, 8, more=False, key=KEY6, header=bytes(56)) is None
    assert dropped(reassembler, too_long=1)
    assert give(reassembler, 65520, 7, more=False, key=KEY6, header=bytes(56)) is None
    assert len(give(reassembler, 0, 65520, key=KEY6, header=bytes(56)).payload) == 65527


def test_longer_header_of_the_first_fragment_counts(reassembler):
    for last, whole in ((7, True), (8, False)):
        assert give(reassembler, 65504, last, more=False) is None
        assert give(reassembler, 0, 65496, header=bytes(24)) is None
        assert (give(reassembler, 65496, 8) is not None) is whole
    assert dropped(reassembler, too_long=1) and idle(reassembler)


def test_timeout_quotes_the_first_fragment_when_there_is_one(reassembler):
    other = (SOURCE, DESTINATION, 17, 78)
    give(reassembler, 0, 8, header=b"header", now=1.0)
    give(reassembler, 8, 8, key=other, now=2.0)
    give(reassembler, 16, 8, now=20.0)  # does not start the time again
    assert reassembler.next_deadline() == 31.0
    assert reassembler.handle_timeout(30.9) == []
    assert reassembler.handle_timeout(31.0) == [TimedOut(KEY, b"header" + pattern(8))]
    assert reassembler.next_deadline() == 32.0
    assert reassembler.handle_timeout(99.0) == [TimedOut(other, None)]
    assert idle(reassembler) and dropped(reassembler, timeout=2)


def test_number_of_datagrams_is_bounded():
    reassembler = Reassembler(ReassemblyConfig(datagrams=4))
    for identification in range(10):
        give(reassembler, 0, 8, key=(SOURCE, DESTINATION, 17, identification), now=float(identification))
    assert len(reassembler) == 4 and reassembler.bytes_held == 4 * 28
    assert dropped(reassembler, evicted=6)
    assert give(reassembler, 8, 8, more=False, key=(SOURCE, DESTINATION, 17, 9), now=9.0) is not None  # newest kept
    assert give(reassembler, 8, 8, more=False, key=(SOURCE, DESTINATION, 17, 5), now=9.0) is None


def test_memory_is_bounded():
    reassembler = Reassembler(ReassemblyConfig(bytes=10000))
    for identification in range(10):
        give(reassembler, 0, 3000, key=(SOURCE, DESTINATION, 17, identification))
        assert reassembler.bytes_held <= 10000
    assert dropped(reassembler, evicted=7) and len(reassembler) == 3
    give(reassembler, 0, 16000)  # more than all on its own: everything goes, this one included
    assert idle(reassembler)


def test_abandoned_datagrams_are_not_evicted_for_memory_they_do_not_hold():
    reassembler = Reassembler(ReassemblyConfig(bytes=1000))
    give(reassembler, 0, 8)
    give(reassembler, 0, 8, data=b"attacker")
    give(reassembler, 0, 800, key=(SOURCE, DESTINATION, 17, 1))
    give(reassembler, 0, 800, key=(SOURCE, DESTINATION, 17, 2))
    assert dropped(reassembler, overlap=1, evicted=1) and reassembler.bytes_held == 820
    give(reassembler, 8, 8)
    assert reassembler.counters["abandoned"] == 1


def test_number_of_fragments_is_bounded():
    reassembler = Reassembler(ReassemblyConfig(fragments_per_datagram=4))
    for index in range(4):
        give(reassembler, 8 * index, 8)
    give(reassembler, 32, 8)
    give(reassembler, 40, 8, more=False)
    assert dropped(reassembler, too_many_fragments=1, abandoned=1) and reassembler.bytes_held == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6).map(lambda n: n * 8), st.integers(0, 24), st.booleans(),
                          st.integers(0, 1)), max_size=60))
def test_whatever_comes_the_books_balance(fragments):
    config = ReassemblyConfig(datagrams=2, bytes=150, fragments_per_datagram=3, timeout=5.0)
    reassembler = Reassembler(config)
    now = 0.0
    for identification, offset, length, more, fill in fragments:
        now += 0.5
        reassembler.handle_timeout(now)
        whole = reassembler.fragment_received((SOURCE, DESTINATION, 17, identification), offset, more,
                                              bytes([fill]) * length, HEADER, now)
        assert whole is None or len(whole.payload) >= length
        assert len(reassembler) <= 2 and 0 <= reassembler.bytes_held <= 150
        deadline = reassembler.next_deadline()
        assert (deadline is None) == (len(reassembler) == 0) and (deadline is None or now < deadline <= now + 5)
    reassembler.handle_timeout(now + 5.0)
    assert idle(reassembler)
