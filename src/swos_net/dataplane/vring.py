"""One split virtqueue, seen from the device.  Read first: vhost/vring.h, where each call's rules are.

Waiting for kicks, the eventfds themselves and the order of set-up messages are the device's business.
"""

import errno
from enum import IntEnum

from swos_net._dataplane import ffi, lib
from swos_net.dataplane.guest_memory import GuestMemory
from swos_net.errors import os_error

FRAMES = lib.BURST_FRAMES


class RingFault(IntEnum):
    """Why a ring is broken (vring.broken)."""

    SOUND = lib.VRING_SOUND
    AVAIL_JUMP = lib.VRING_AVAIL_JUMP
    BAD_HEAD = lib.VRING_BAD_HEAD
    BAD_NEXT = lib.VRING_BAD_NEXT
    LOOP = lib.VRING_LOOP
    BAD_INDIRECT = lib.VRING_BAD_INDIRECT
    BAD_DIRECTION = lib.VRING_BAD_DIRECTION
    BAD_ADDRESS = lib.VRING_BAD_ADDRESS
    TOO_LONG = lib.VRING_TOO_LONG
    RUNT = lib.VRING_RUNT


_CHECKS = {
    RingFault.SOUND: "",
    RingFault.AVAIL_JUMP: "V6: more chains available than the ring holds",
    RingFault.BAD_HEAD: "D2: head of a chain beyond the descriptor table",
    RingFault.BAD_NEXT: "D2: next descriptor beyond its table",
    RingFault.LOOP: "D3: more descriptors in a chain than in its table",
    RingFault.BAD_INDIRECT: "D4: indirect descriptor not allowed here, or a bad table",
    RingFault.BAD_DIRECTION: "D6: buffer of the wrong direction",
    RingFault.BAD_ADDRESS: "D8: buffer outside the guest's memory",
    RingFault.TOO_LONG: "D6: chain longer than 4 GiB",
    RingFault.RUNT: "N1: receive buffer without room for the header",
}


class Vring:
    """A ring; one thread owns it.  Calls release the GIL, so the owner must not share it between threads either.

    `call_fd` and `err_fd` stay the caller's, who closes them after the ring has another or none.
    """

    __slots__ = ("_memory", "_owner", "c")

    def __init__(self) -> None:
        self.c = lib.vring_new()
        if self.c == ffi.NULL:
            raise MemoryError("no memory for a ring")
        self._owner = ffi.gc(self.c, lib.vring_free)
        self._memory: GuestMemory | None = None

    def start(self, memory: GuestMemory, size: int, features: int, desc: int, avail: int, used: int, base: int) -> None:
        """Starts at available index `base`; `size` in descriptors, `features` negotiated, addresses front-end-virtual.

        OSError EINVAL (V1, V2, V6) or EFAULT (V3); OverflowError when `base` has more than 16 bits.
        """
        code = -lib.vring_start(self.c, memory.c, size, features, desc, avail, used, base)
        if code == errno.EFAULT:
            raise os_error(code, "V3: each part of a ring lies whole in one region of the guest's memory")
        if code and self.c.broken:
            raise os_error(code, self.broken_check)
        if code:
            raise os_error(
                code, "V1, V2: a ring has a power of two descriptors up to 32768, its parts are aligned to 16, 2, 4"
            )
        self._memory = memory

    def stop(self) -> int:
        """Stops and returns the next available index not yet completed; guest memory is not touched after that."""
        base = lib.vring_stop(self.c)
        self._memory = None
        return base

    def receive(self, burst, budget: int = FRAMES, discard: bool = False) -> int:
        """Takes up to `budget` chains of the guest's transmit queue into a Burst (vring_receive)."""
        return lib.vring_receive(self.c, burst.c, budget, discard)

    def receive_and_answer(self, burst, responder, back: "Vring", limits) -> int:
        """The same, and answers what an EchoResponder answers into `back`, the guest's receive queue (echo_receive)."""
        return lib.echo_receive(responder.c, self.c, burst.c, FRAMES, back.c, limits)

    def release(self, burst, quiet: bool = False) -> int:
        """Gives the burst's chains back, signals, clears the burst; -1 when broken or stopped meanwhile.

        `quiet`: without a signal for now, `remind` follows (vring_release).
        """
        return lib.vring_release(self.c, burst.c, quiet)

    def remind(self) -> None:
        """Signals what was given back quietly, unless the guest has seen it."""
        lib.vring_remind(self.c)

    @property
    def undecided(self) -> bool:
        """Whether `remind` has something to decide."""
        return bool(self.c.undecided)

    def transmit(self, batch, limits) -> int:
        """Writes a sealed Batch to the guest's receive queue: 0 all went, 1 no more buffers, -1 broken."""
        return lib.vring_transmit(self.c, batch.c, limits)

    def enable_kicks(self) -> bool:
        """Asks for a kick; True when there is work already."""
        return bool(lib.vring_enable_kicks(self.c))

    def settle(self, kick: int | None) -> bool:
        """With an event index: leaves it to `kick` to tell of what comes; True when there is work that it may not tell of."""
        return bool(lib.vring_settle(self.c, -1 if kick is None else kick))

    def disable_kicks(self) -> None:
        lib.vring_disable_kicks(self.c)

    @property
    def available(self) -> int:
        """Chains the guest has made available and the ring has not taken."""
        return lib.vring_available(self.c)

    @property
    def call_fd(self) -> int:
        """The eventfd that signals the guest, -1 for none; it must not block."""
        return self.c.call_fd

    @call_fd.setter
    def call_fd(self, descriptor: int) -> None:
        lib.vring_set_call(self.c, descriptor)

    @property
    def err_fd(self) -> int:
        """The eventfd that is told when the ring breaks, -1 for none; it must not block."""
        return self.c.err_fd

    @err_fd.setter
    def err_fd(self, descriptor: int) -> None:
        self.c.err_fd = descriptor

    @property
    def running(self) -> bool:
        return bool(self.c.running)

    @property
    def kicks_enabled(self) -> bool:
        return bool(self.c.kicks_enabled)

    @property
    def broken(self) -> RingFault:
        return RingFault(self.c.broken)

    @property
    def broken_check(self) -> str:
        """The check that broke the ring, in words; empty while it is sound."""
        return _CHECKS[RingFault(self.c.broken)]

    @property
    def next_avail(self) -> int:
        return self.c.next_avail

    @property
    def next_used(self) -> int:
        return self.c.next_used

    @property
    def header_size(self) -> int:
        """Bytes of virtio_net_hdr before each frame."""
        return self.c.header_size

    @property
    def frames(self) -> int:
        return self.c.frames

    @property
    def bytes(self) -> int:
        """Of those frames, without virtio_net_hdr."""
        return self.c.bytes

    @property
    def dropped(self) -> int:
        """Chains without an acceptable frame; frames that fit no buffer."""
        return self.c.dropped

    @property
    def bursts(self) -> int:
        return self.c.bursts

    @property
    def signals(self) -> int:
        return self.c.signals

    @property
    def kicks(self) -> int:
        """Kicks received, as counted by whoever reads the kick descriptor."""
        return self.c.kicks

    @kicks.setter
    def kicks(self, count: int) -> None:
        self.c.kicks = count
