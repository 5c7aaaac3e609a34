"""Frames over one descriptor: a TAP or TUN, a datagram socket, a stream socket.  Read first: vhost/fd_link.h.

Opening, waiting for and closing the descriptor are the device's business.
"""

import errno
import os

from swos_net._dataplane import ffi, lib
from swos_net.dataplane.burst import FRAMES
from swos_net.link import Medium, Offload

PACKETS = lib.FD_LINK_PACKETS
STREAM = lib.FD_LINK_STREAM


class FdLink:
    """Reads bursts from a non-blocking descriptor and writes batches to it; calls release the GIL.

    `mode` is PACKETS (a read or write is a frame) or STREAM (a 32-bit length before each frame).  `header_size` is
    that of virtio_net_hdr before each packet: 0, 10 or 12 bytes.  `offloads` are what the other end may use towards us.
    """

    __slots__ = ("_owner", "c", "packets")

    def __init__(self, descriptor: int, mode: int, medium: Medium, *, header_size: int = 0, offloads: Offload = Offload.NONE):
        if header_size not in (0, 10, 12):
            raise ValueError(f"a virtio_net_hdr has 10 or 12 bytes, not {header_size}; 0 is none")
        self.c = lib.fd_link_new(descriptor, mode, medium, header_size, offloads)
        if self.c == ffi.NULL:
            raise MemoryError("no memory for a link over a descriptor")
        self._owner = ffi.gc(self.c, lib.fd_link_free)
        self.packets = mode == PACKETS

    def receive(self, burst) -> int:
        """Fills a cleared Burst that has an arena; returns how many frames it holds, 0 when nothing is there.

        EOFError at the end of the stream (for PACKETS: an empty datagram), OSError when reading failed, EPROTO when
        what came is no frame and the next one cannot be found.
        """
        result = lib.fd_link_receive(self.c, burst.c)
        if result == -1:
            raise EOFError("the other end closed the connection")
        if result < 0:
            raise _failure(-result)
        if result < FRAMES and self.packets:
            burst.more = False  # the rest waits in the descriptor, which stays readable for it
        return result

    def transmit(self, batch, limits) -> bool:
        """Writes a sealed Batch; False when the descriptor takes no more now: call again with the same batch."""
        result = lib.fd_link_transmit(self.c, batch.c, limits)
        if result < 0:
            raise _failure(-result)
        return result == 0

    def counters(self) -> dict[str, int]:
        """`dropped`: frames without an acceptable header, and frames that the link refused."""
        c = self.c
        return {
            "receive_frames": c.frames_received,
            "receive_bytes": c.bytes_received,
            "transmit_frames": c.frames_sent,
            "transmit_bytes": c.bytes_sent,
            "dropped": c.dropped,
        }


NO_TRAFFIC = dict.fromkeys(("receive_frames", "receive_bytes", "transmit_frames", "transmit_bytes", "dropped"), 0)


def _failure(code: int) -> OSError:
    if code == errno.EPROTO:
        return OSError(code, f"{os.strerror(code)}: a frame's length is 1 to {lib.FRAME_BYTES_MAX} bytes")
    return OSError(code, os.strerror(code))
