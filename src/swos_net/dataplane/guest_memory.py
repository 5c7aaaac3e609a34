"""A guest's memory, mapped from the descriptors its front-end shared.  Read first: vhost/guest_memory.h."""

import errno

from swos_net._dataplane import ffi, lib
from swos_net.errors import os_error

REGIONS = lib.MEMORY_REGIONS

_ADVICE = {
    errno.EINVAL: "R1, R2: a region has at least one byte, ends within 64 bits and starts at multiples of 4096",
    errno.EEXIST: "R4: guest addresses of two regions overlap; remove the old region first",
    errno.ERANGE: "R2: the file is shorter than the region; give the memory back-end its whole size",
    errno.ENOSPC: f"no slot left for another region, there are {REGIONS}",
    errno.EMEDIUMTYPE: "R2: not a regular file or memfd; use memory-backend-memfd or memory-backend-file with share=on",
    errno.EACCES: "the descriptor has to be open for reading and writing",
}


class GuestMemory:
    """Regions of one guest, for the rings that lie in them.

    Regions may change while rings run, but not during a ring's call and not while a burst of it is out.
    """

    __slots__ = ("_owner", "c")

    def __init__(self) -> None:
        self.c = lib.guest_memory_new()
        if self.c == ffi.NULL:
            raise MemoryError("no memory for a table of guest memory")
        self._owner = ffi.gc(self.c, lib.guest_memory_free)

    def __len__(self) -> int:
        return self.c.count

    @property
    def regions(self) -> list[tuple[int, int, int]]:
        """(guest address, size, front-end-virtual address) in the order of guest addresses."""
        return [(r.guest_address, r.size, r.user_address) for r in self.c.regions[0 : self.c.count]]

    def add(self, guest_address: int, size: int, user_address: int, offset: int, descriptor: int) -> None:
        """Maps `size` bytes of a file from `offset`; the descriptor stays the caller's and may be closed.

        OSError: EINVAL, EEXIST, ERANGE, ENOSPC or EMEDIUMTYPE with the check that failed, or what fstat and mmap say.
        """
        code = -lib.guest_memory_add(self.c, guest_address, size, user_address, offset, descriptor)
        if code:
            raise os_error(code, _ADVICE.get(code, "the memory region cannot be mapped"))

    def has(self, guest_address: int, size: int, user_address: int) -> bool:
        """Whether exactly this region is mapped already."""
        return bool(lib.guest_memory_has(self.c, guest_address, size, user_address))

    def remove(self, guest_address: int, size: int, user_address: int) -> bool:
        """Unmaps exactly this region; False when there is none such."""
        return lib.guest_memory_remove(self.c, guest_address, size, user_address) == 0

    def close(self) -> None:
        """Unmaps everything.  A ring that still runs in it breaks at its next call; regions can be added anew."""
        lib.guest_memory_clear(self.c)
