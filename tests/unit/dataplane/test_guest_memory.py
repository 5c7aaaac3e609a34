"""The table of guest memory: which regions it takes, and where an address leads."""

import errno
import os
import random
import socket

import pytest

from swos_net._dataplane import ffi, lib
from swos_net.dataplane.guest_memory import REGIONS, GuestMemory
from swos_net.testing.virtio_driver import GuestRam

TOP = 1 << 64
USER = 0x7F0000000000


@pytest.fixture
def memory():
    table = GuestMemory()
    yield table
    table.close()


@pytest.fixture
def memfd():
    descriptor = os.memfd_create("regions")
    os.ftruncate(descriptor, 64 * 4096)
    yield descriptor
    os.close(descriptor)


def translate(memory, address, length):
    """(bytes of the file there, contiguous length), or None."""
    contiguous = ffi.new("uint64_t *")
    host = lib.guest_memory_translate(memory.c, address, length, contiguous)
    return None if host == ffi.NULL else (bytes(ffi.buffer(host, contiguous[0])), contiguous[0])


def refused(memory, *arguments):
    before = memory.regions
    with pytest.raises(OSError) as caught:
        memory.add(*arguments)
    assert memory.regions == before
    return caught.value


def test_R1_size_zero_is_refused(memory, memfd):
    assert refused(memory, 0, 0, USER, 0, memfd).errno == errno.EINVAL


@pytest.mark.parametrize(
    "guest, size, user, offset",
    [
        pytest.param(TOP - 4096, 8192, USER, 0, id="guest"),
        pytest.param(0, 8192, TOP - 4096, 0, id="user"),
        pytest.param(0, 8192, USER, TOP - 4096, id="offset"),
        pytest.param(4096, TOP - 1, USER, 0, id="size"),
    ],
)
def test_R1_overflow_is_refused(memory, memfd, guest, size, user, offset):
    error = refused(memory, guest, size, user, offset, memfd)
    assert error.errno == errno.EINVAL and "R1" in str(error)


def test_R1_region_may_end_at_the_last_address(memory, memfd):
    memory.add(TOP - 4096, 4096, TOP - 4096, 0, memfd)
    assert translate(memory, TOP - 1, 10)[1] == 1
    assert translate(memory, 0, 1) is None
    assert lib.guest_memory_translate_user(memory.c, TOP - 16, 16) != ffi.NULL
    assert lib.guest_memory_translate_user(memory.c, TOP - 16, 17) == ffi.NULL


@pytest.mark.parametrize("size, offset", [(65 * 4096, 0), (4097, 63 * 4096), (1, 64 * 4096)])
def test_R2_file_shorter_than_the_region_is_refused(memory, memfd, size, offset):
    error = refused(memory, 0, size, USER, offset, memfd)
    assert error.errno == errno.ERANGE and "R2" in str(error)


@pytest.mark.parametrize("guest, user, offset", [(16, 0, 0), (0, 2048, 0), (0, 0, 4095)])
def test_R2_unaligned_region_is_refused(memory, memfd, guest, user, offset):
    assert refused(memory, guest, 4096, user, offset, memfd).errno == errno.EINVAL


def test_R2_only_regular_files(memory):
    pair = socket.socketpair()
    reading, writing = os.pipe()
    directory = os.open("/", os.O_RDONLY)
    zero = os.open("/dev/zero", os.O_RDWR)
    try:
        for descriptor in (pair[0].fileno(), reading, directory, zero):
            assert refused(memory, 0, 4096, USER, 0, descriptor).errno == errno.EMEDIUMTYPE
    finally:
        for descriptor in (reading, writing, directory, zero):
            os.close(descriptor)
        pair[0].close()
        pair[1].close()


def test_closed_descriptor_and_read_only_file_say_so(memory, tmp_path):
    assert refused(memory, 0, 4096, USER, 0, -1).errno == errno.EBADF
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    descriptor = os.open(path, os.O_RDONLY)
    assert refused(memory, 0, 4096, USER, 0, descriptor).errno == errno.EACCES
    os.close(descriptor)


@pytest.mark.parametrize("guest", [0x10000 - 4096, 0x10000, 0x11000, 0x13000])
def test_R4_overlapping_guest_addresses_are_refused(memory, memfd, guest):
    memory.add(0x10000, 4 * 4096, USER, 0, memfd)
    error = refused(memory, guest, 2 * 4096, USER + (1 << 20), 0, memfd)
    assert error.errno == errno.EEXIST and "R4" in str(error)


def test_R4_overlap_of_a_single_byte_is_refused(memory, memfd):
    memory.add(0x10000, 4096, USER, 0, memfd)
    assert refused(memory, 0xF000, 4097, USER, 0, memfd).errno == errno.EEXIST
    memory.add(0x20000, 4097, USER, 0, memfd)
    assert refused(memory, 0x21000, 4096, USER, 0, memfd).errno == errno.EEXIST


def test_R4_neighbours_do_not_overlap(memory, memfd):
    memory.add(0x10000, 4096, USER, 0, memfd)
    memory.add(0x11000, 4096, USER, 0, memfd)  # the same front-end address twice: an alias in the guest
    memory.add(0xF000, 4096, USER, 0, memfd)
    assert [region[0] for region in memory.regions] == [0xF000, 0x10000, 0x11000]


def test_no_slot_is_left_after_the_last(memory, memfd):
    for i in range(REGIONS):
        memory.add(i * 8192, 4096, USER + i * 8192, 0, memfd)
    assert refused(memory, REGIONS * 8192, 4096, USER, 0, memfd).errno == errno.ENOSPC
    assert memory.remove(0, 4096, USER)
    memory.add(REGIONS * 8192, 4096, USER, 0, memfd)
    assert len(memory) == REGIONS


def test_regions_are_found_whatever_the_order_they_came_in(memory, memfd):
    chance = random.Random(1)
    os.pwrite(memfd, b"".join(bytes([i]) * 4096 for i in range(64)), 0)
    pages = chance.sample(range(64), REGIONS)
    for page in pages:
        memory.add(0x100000 + page * 4096, 4096, USER + page * 4096, page * 4096, memfd)
    assert [region[0] for region in memory.regions] == [0x100000 + page * 4096 for page in sorted(pages)]
    for page in range(64):
        found = translate(memory, 0x100000 + page * 4096 + 7, 5)
        assert found == ((bytes([page]) * 5, 5) if page in pages else None)
        host = lib.guest_memory_translate_user(memory.c, USER + page * 4096 + 7, 5)
        assert (host != ffi.NULL) == (page in pages)


def test_R3_translation_is_cut_at_the_region_border(memory):
    ram = GuestRam(2 * 4096, guest_address=0x8000, regions=2)
    ram.share_with(memory)
    ram.write(0x8FFC, b"abcdefgh")
    assert translate(memory, 0x8FFC, 8) == (b"abcd", 4)
    assert translate(memory, 0x9000, 4) == (b"efgh", 4)
    assert translate(memory, 0x9FFF, 1 << 60)[1] == 1
    ram.close()


def test_R3_outside_or_empty_is_nowhere(memory, memfd):
    assert translate(memory, 0, 1) is None
    memory.add(0x8000, 4096, USER, 0, memfd)
    assert translate(memory, 0x7FFF, 8) is None
    assert translate(memory, 0x9000, 1) is None
    assert translate(memory, 0x8000, 0) is None
    assert lib.guest_memory_translate_user(memory.c, USER, 0) == ffi.NULL


def test_R3_a_user_range_lies_in_one_region_or_nowhere(memory):
    ram = GuestRam(2 * 4096, regions=2)
    ram.share_with(memory)
    first = ram.regions[0].user_address
    assert lib.guest_memory_translate_user(memory.c, first, 4096) != ffi.NULL
    assert lib.guest_memory_translate_user(memory.c, first + 1, 4096) == ffi.NULL
    assert lib.guest_memory_translate_user(memory.c, first - 1, 4) == ffi.NULL
    assert lib.guest_memory_translate_user(memory.c, first, TOP - 1) == ffi.NULL
    ram.close()


def test_has_and_remove_want_exactly_the_region(memory, memfd):
    memory.add(0x8000, 8192, USER, 4096, memfd)
    for wrong in [(0x8000, 4096, USER), (0x8000, 8192, USER + 4096), (0x9000, 8192, USER)]:
        assert not memory.has(*wrong)
        assert not memory.remove(*wrong)
    assert memory.has(0x8000, 8192, USER)
    assert memory.remove(0x8000, 8192, USER)
    assert not memory.remove(0x8000, 8192, USER)
    assert translate(memory, 0x8000, 1) is None


def test_offset_need_not_be_a_multiple_of_the_mapping_unit(memory, memfd):
    os.pwrite(memfd, b"here", 3 * 4096)
    memory.add(0x8000, 100, USER, 3 * 4096, memfd)
    assert translate(memory, 0x8000, 4)[0] == b"here"
    assert translate(memory, 0x8000, 4096)[1] == 100


def test_mapping_outlives_the_descriptor_and_ends_with_close():
    descriptor = os.memfd_create("region")
    os.ftruncate(descriptor, 4096)
    inode = os.fstat(descriptor).st_ino
    memory = GuestMemory()
    memory.add(0, 4096, USER, 0, descriptor)
    os.close(descriptor)
    assert _mapped(inode)
    assert translate(memory, 0, 4) == (bytes(4), 4)
    memory.close()
    assert not _mapped(inode)
    assert len(memory) == 0


def test_repeated_add_and_remove_leaves_no_mapping_behind(memory, memfd):
    inode = os.fstat(memfd).st_ino
    for _ in range(100):
        memory.add(0, 64 * 4096, USER, 0, memfd)
        assert memory.remove(0, 64 * 4096, USER)
    assert not _mapped(inode)


def _mapped(inode: int) -> bool:
    with open("/proc/self/maps") as maps:
        return any(line.split()[4] == str(inode) and "memfd" in line for line in maps)
