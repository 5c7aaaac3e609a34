"""IP packets in memory, for who embeds a stack and has a link of their own: packets are fed in and taken out."""

import os
import threading
from collections import deque
from collections.abc import Callable

from swos_net.dataplane.batch import link_limits
from swos_net.dataplane.fd_link import NO_TRAFFIC
from swos_net.device.options import checked_mtu
from swos_net.link import LinkFeatures, Medium, Offload

QUEUE_PACKETS = 1024  # in each direction


class PacketDevice:
    """A link without link addresses and without offloads: a packet has at most `mtu` bytes and whole checksums.

    `feed` and `take` may be called from any thread.  `on_output`, when set, is called by the thread that runs the
    stack after packets appeared where none were; it must not block.
    """

    wants_write = False
    link_up = True

    def __init__(self, *, mtu: int = 1500, on_output: Callable[[], None] | None = None):
        self.link = LinkFeatures(Medium.IP, checked_mtu(mtu), None, Offload.NONE, mtu)
        self.on_output = on_output
        self._limits = link_limits(self.link)
        self._fed: deque[bytes] = deque()
        self._out: deque[bytes] = deque()
        self._lock = threading.Lock()  # held for a few lines at a time: a wake must not be lost between two threads
        self._blocked = False
        self._counters = dict(NO_TRAFFIC)
        self._event: int | None = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    # The embedder's side

    def feed(self, packet) -> bool:
        """Gives the stack one IP packet (any bytes-like object); False when its queue is full and the packet dropped.

        What the packet contains is the stack's to judge; ValueError when it is empty or longer than any IP packet.
        """
        packet = bytes(packet)
        if not 0 < len(packet) <= 65535:
            raise ValueError(f"an IP packet has 1 to 65535 bytes, not {len(packet)}")
        with self._lock:
            if self._event is None or len(self._fed) >= QUEUE_PACKETS:
                self._counters["dropped"] += 1
                return False
            self._fed.append(packet)
            os.eventfd_write(self._event, 1)
        return True

    def take(self) -> list[bytes]:
        """All packets that the stack has sent since the last call, oldest first."""
        with self._lock:
            packets = list(self._out)
            self._out.clear()
            if self._blocked and self._event is not None:
                self._blocked = False
                os.eventfd_write(self._event, 1)
        return packets

    # The stack's side

    def fileno(self) -> int:
        return -1 if self._event is None else self._event

    def receive(self, burst) -> int:
        fed = self._fed
        with self._lock:
            if not fed and self._event is not None:
                try:
                    os.eventfd_read(self._event)
                except BlockingIOError:
                    pass
            while fed and burst.add(fed[0], Medium.IP):
                self._counters["receive_bytes"] += len(fed.popleft())
        self._counters["receive_frames"] += len(burst)
        return len(burst)

    def release(self, burst) -> None:
        pass

    def transmit(self, batch) -> bool:
        with self._lock:
            if self._event is None:
                return True
            was_empty = not self._out
            if len(self._out) >= QUEUE_PACKETS:
                self._blocked = True
                return False
            before = len(self._out)
            for packet, _checksum, _gso_type, _gso_size in batch.frames(self._limits):
                self._out.append(packet)
                self._counters["transmit_bytes"] += len(packet)
            appeared = len(self._out) - before
            self._counters["transmit_frames"] += appeared
        if was_empty and appeared and self.on_output is not None:
            self.on_output()
        return True

    def counters(self) -> dict[str, int]:
        return dict(self._counters)

    def close(self) -> None:
        with self._lock:
            if self._event is not None:
                os.close(self._event)
                self._event = None
            self._fed.clear()
