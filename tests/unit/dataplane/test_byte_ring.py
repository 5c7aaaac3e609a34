"""The ring against a bytearray that does the same."""

import gc
import os

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from swos_net._dataplane import lib
from swos_net.dataplane.byte_ring import CAPACITY_MIN, ByteRing

lengths = st.one_of(st.integers(0, 50), st.integers(0, 6000))


def pattern(seed, length):
    return bytes((seed + number * 31) & 255 for number in range(length))


class RingMachine(RuleBasedStateMachine):
    """`stream` is every byte by position, `known` the positions whose bytes have been put somewhere."""

    def __init__(self):
        super().__init__()
        self.ring = ByteRing(CAPACITY_MIN)
        self.head = self.tail = 0
        self.ahead = {}  # position to byte, stored beyond tail
        self.held = bytearray()
        self.seed = 0

    def data(self, length):
        self.seed += 7
        return pattern(self.seed, length)

    @rule(length=lengths)
    def write(self, length):
        data = self.data(length)
        taken = self.ring.write(data)
        assert taken == min(length, CAPACITY_MIN - len(self.held))
        self.held += data[:taken]
        for position in range(self.tail, self.tail + taken):
            self.ahead.pop(position, None)
        self.tail += taken

    @rule(gap=st.integers(-100, 5000), length=lengths)
    def store(self, gap, length):
        data = self.data(length)
        position = self.tail + gap
        if position < 0:
            return
        end = self.head + CAPACITY_MIN
        inside = [at for at in range(position, position + length) if self.head <= at < end]
        if any(at < self.tail for at in inside):
            return  # TCP never writes over what is in order
        assert self.ring.store(position, data) == len(inside)
        for at in inside:
            self.ahead[at] = data[at - position]

    @rule()
    def advance(self):
        length = 0
        while self.tail + length in self.ahead:
            length += 1
        self.ring.advance(length)
        for _ in range(length):
            self.held.append(self.ahead.pop(self.tail))
            self.tail += 1

    @rule(length=lengths, how=st.sampled_from(["read", "read_into", "consume"]))
    def take(self, length, how):
        expected = bytes(self.held[:length])
        if how == "read":
            assert self.ring.read(length) == expected
        elif how == "read_into":
            buffer = bytearray(length + 3)
            assert self.ring.read_into(buffer, length) == len(expected)
            assert buffer == expected + bytes(len(buffer) - len(expected))
        else:
            self.ring.consume(length)
        del self.held[:length]
        self.head += len(expected)

    @rule(length=lengths, offset=lengths)
    def peek(self, length, offset):
        assert self.ring.peek(length, offset) == bytes(self.held[offset : offset + length])

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def peek_at(self, data):
        at = data.draw(st.integers(0, len(self.held) - 1))
        length = data.draw(st.integers(0, len(self.held) - at))
        assert self.ring.peek_at(self.head + at, length) == bytes(self.held[at : at + length])

    @invariant()
    def agrees(self):
        assert (self.ring.head, self.ring.tail, len(self.ring)) == (self.head, self.tail, len(self.held))
        assert self.ring.room == CAPACITY_MIN - len(self.held)


TestRing = RingMachine.TestCase
TestRing.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize(
    "asked, given", [(1, 4096), (4096, 4096), (4097, 8192), (1 << 20, 1 << 20), ((1 << 20) + 1, 1 << 21)]
)
def test_the_capacity_is_a_power_of_two(asked, given):
    assert ByteRing(asked).capacity == given


def test_a_closed_one_is_empty_and_takes_nothing():
    """Finalizers may look at a ring whose memory is gone already."""
    ring = ByteRing(4096)
    ring.write(b"data")
    lib.byte_ring_close(ring.c)
    assert (len(ring), ring.read(10), ring.write(b"more"), ring.store(3, b"x"), ring.peek(2), ring.trim()) == (0, b"", 0, 0, b"", False)
    lib.byte_ring_close(ring.c)


def test_too_much_is_a_memory_error():
    with pytest.raises(MemoryError):
        ByteRing(1 << 40)


def test_a_file_into_the_ring_and_out_of_it(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(pattern(3, 10_000))
    ring = ByteRing(4096)
    ring.write(bytes(3000))
    ring.consume(2900)  # what follows wraps around
    with source.open("rb") as file:
        assert ring.fill_from_file(file.fileno(), 1000, 500) == 500
        assert ring.fill_from_file(file.fileno(), None, 700) == 700
        assert ring.fill_from_file(file.fileno(), None, 5000) == 4096 - 1300
        assert ring.fill_from_file(file.fileno(), 0, 10) == 0, "the ring is full"
        assert file.seek(0, os.SEEK_CUR) is not None
    ring.consume(100)
    with target.open("wb", buffering=0) as file:
        assert ring.drain_to_file(file.fileno(), 2000) == 2000
        assert ring.drain_to_file(file.fileno(), 1 << 20) == 1996
        assert ring.drain_to_file(file.fileno(), 10) == 0
    data = source.read_bytes()
    assert target.read_bytes() == data[1000:1500] + data[:700] + data[700 : 700 + 2796]


def test_the_end_of_a_file_and_a_file_that_is_none(tmp_path):
    path = tmp_path / "empty"
    path.touch()
    ring = ByteRing(4096)
    with path.open("rb") as file:
        assert ring.fill_from_file(file.fileno(), 0, 100) == 0
        closed = file.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        ring.fill_from_file(closed, 0, 100)
    ring.write(b"x")
    with pytest.raises(OSError, match="Bad file descriptor"):
        ring.drain_to_file(closed, 100)
    assert len(ring) == 1


def test_a_buffer_that_cannot_be_written():
    ring = ByteRing(4096)
    ring.write(b"abc")
    with pytest.raises(BufferError):
        ring.read_into(b"immutable")
    assert len(ring) == 3


def test_data_of_wide_items_counts_in_bytes():
    ring = ByteRing(4096)
    assert ring.write(memoryview(b"abcdefgh").cast("I")) == 8
    assert ring.read(100) == b"abcdefgh"


def test_memory_goes_back_when_the_ring_does():
    def mapped():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    gc.collect()
    before = mapped()
    for _ in range(200):
        ByteRing(1 << 24)
    gc.collect()
    assert mapped() - before < 20 * (1 << 24)
