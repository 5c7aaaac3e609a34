"""Two devices in memory, each the other's far end: for tests and for stacks that live in one process."""

import contextlib
import os
from collections import deque
from threading import Lock

from swos_net.dataplane.batch import Batch, link_limits
from swos_net.dataplane.burst import Burst
from swos_net.link import LinkFeatures, Medium, Offload

QUEUE_FRAMES = 1024


class PairDevice:
    """One end; made by `make_pair`.  Super-segments cross whole, checksums are not computed: nothing can go wrong."""

    def __init__(self, link: LinkFeatures):
        self.link = link
        self.link_up = True
        self.peer: PairDevice | None = None
        self.wants_write = False
        self._limits = link_limits(link)
        self._queue: deque[tuple[bytes, int, int, int]] = deque()
        self._event: int | None = None
        self._event_kept = Lock()  # nobody closes it meanwhile: the ends may belong to two threads
        self._blocked = False
        self._frames = self._bytes = 0

    def fileno(self) -> int:
        if self._event is None:
            self._event = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return self._event

    def _wake(self) -> None:
        with self._event_kept:
            if self._event is not None:
                os.eventfd_write(self._event, 1)

    def receive(self, burst: Burst) -> int:
        queue = self._queue
        while queue:
            frame, checksum, gso_type, gso_size = queue[0]
            if not burst.add(frame, self.link.medium, checksum=checksum, gso_type=gso_type, gso_size=gso_size):
                break
            queue.popleft()
        if not queue:
            if self._event is not None:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._event)
            burst.more = bool(queue)  # in this order: what another thread adds now wakes
        peer = self.peer
        if peer is not None and peer._blocked:
            peer._blocked = False
            peer._wake()
        return len(burst)

    def release(self, burst: Burst) -> None:
        pass

    def transmit(self, batch: Batch) -> bool:
        peer = self.peer
        if peer is None:
            return True
        if len(peer._queue) >= QUEUE_FRAMES:
            self._blocked = True
            if len(peer._queue) >= QUEUE_FRAMES:  # in this order: room that another thread makes now wakes
                return False
            self._blocked = False
        for frame in batch.frames(self._limits):
            peer._queue.append(frame)
            self._frames += 1
            self._bytes += len(frame[0])
        peer._wake()
        return True

    def counters(self) -> dict[str, int]:
        return {"frames_sent": self._frames, "bytes_sent": self._bytes}

    def close(self) -> None:
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.link_up = False
            peer.peer = None
        with self._event_kept:
            if self._event is not None:
                os.close(self._event)
                self._event = None


def make_pair(
    *, medium: Medium = Medium.ETHERNET, mtu: int = 1500, offloads: Offload = Offload.CHECKSUM | Offload.TSO4 | Offload.TSO6,
    addresses: tuple[bytes, bytes] = (b"\x02\x00\x00\x00\x00\x01", b"\x02\x00\x00\x00\x00\x02"),
) -> tuple[PairDevice, PairDevice]:  # fmt: skip
    """Two ends of a wire; `addresses` are their MAC addresses (6 bytes)."""
    ethernet = medium is Medium.ETHERNET
    frame_max = 65549 if offloads & (Offload.TSO4 | Offload.TSO6) else mtu + (14 if ethernet else 0)
    first, second = (
        PairDevice(LinkFeatures(medium, mtu, address if ethernet else None, offloads, frame_max)) for address in addresses
    )
    first.peer, second.peer = second, first
    return first, second
