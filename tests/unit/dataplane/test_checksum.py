"""The Internet checksum in C against the one in Python."""

from hypothesis import given
from hypothesis import strategies as st

from swos_net._dataplane import ffi, lib
from swos_net.wire.checksum import internet_checksum, pseudo_header_sum

MAPPED = bytes(10) + b"\xff\xff"
addresses = st.one_of(
    st.tuples(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4)).map(
        lambda pair: (MAPPED + pair[0], MAPPED + pair[1])
    ),
    st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16)).filter(
        lambda pair: pair[1][:12] != MAPPED
    ),
)


@given(st.binary(max_size=300))
def test_the_whole_of_some_bytes(data):
    assert lib.checksum_of(data, len(data)) == internet_checksum(data)


@given(st.lists(st.binary(max_size=70), max_size=8))
def test_pieces_of_any_length_sum_up_to_the_whole(pieces):
    total = done = 0
    for piece in pieces:
        total = lib.checksum_add(total, piece, len(piece), done & 1)
        done += len(piece)
    assert lib.checksum_finish(total) == internet_checksum(b"".join(pieces))


@given(st.binary(min_size=1, max_size=200), st.integers(0, 7))
def test_any_alignment(data, shift):
    buffer = ffi.from_buffer(bytes(shift) + data)
    assert lib.checksum_of(ffi.cast("const uint8_t *", buffer) + shift, len(data)) == internet_checksum(data)


@given(addresses, st.integers(0, 255), st.integers(0, 70_000))
def test_the_pseudo_header(pair, protocol, length):
    total = lib.checksum_pseudo_header(*pair, protocol, length)
    assert lib.checksum_finish(total) == internet_checksum(b"", pseudo_header_sum(*pair, protocol, length))


def test_long_runs_do_not_overflow():
    data = b"\xff" * 65535
    assert lib.checksum_of(data, len(data)) == internet_checksum(data)
    total = 0
    for _ in range(300):
        total = lib.checksum_add(total, data[:65534], 65534, 0)
    assert lib.checksum_finish(total) == internet_checksum(data[:65534] * 300)


def test_the_two_zeros():
    assert lib.checksum_of(b"\0\0", 2) == 0xFFFF
    assert lib.checksum_of(b"\xff\xff", 2) == 0
