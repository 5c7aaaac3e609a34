"""QEMU's `-netdev dgram` over AF_UNIX: each datagram is one Ethernet frame.

Read first: vhost/fd_link.h, unix_socket.py.  No offloads cross such a link: every frame is complete and checksummed.
"""

import ctypes
import logging
import os
import select
import socket
import sys

from swos_net.dataplane.batch import link_limits
from swos_net.dataplane.fd_link import PACKETS, FdLink
from swos_net.device.options import plain_ethernet
from swos_net.device.unix_socket import BoundSocket, checked_path
from swos_net.dataplane.timer import timer_open, timer_set
from swos_net.link import Medium

log = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0  # seconds between looks whether the other end is (still, or again) at its path
BUFFER_BYTES = 1 << 20
# connect(2): an address of family AF_UNSPEC dissolves the association; Python's connect() has no way to say it.
_NOWHERE = socket.AF_UNSPEC.to_bytes(2, sys.byteorder) + bytes(14)
_libc = ctypes.CDLL(None)
EMPTY_DATAGRAMS_MAX = 64  # looked past in one call, so that a flood of them does not hold the caller


class DgramDevice:
    """An Ethernet link between two datagram sockets.

    `local` is our path (QEMU's `remote.path`), `remote` the other end's (its `local.path`); without it, whoever sends
    the first frame is the other end.  The socket is connected, so that the kernel lets nobody else in and tells when
    the other end's queue has room.  `mac` is our address, a random one when it is None; `mtu` is the guest's.

    `link_up` says whether the other end was there when last looked.  OSError when the socket cannot be made.  Nothing
    here blocks.
    """

    wants_write = False  # the nested poller says both

    def __init__(
        self, local: str | os.PathLike, remote: str | os.PathLike | None = None, *, mac: bytes | None = None, mtu: int = 1500
    ):
        self.link = plain_ethernet(mac, mtu)
        self.link_up = False
        self.remote = None if remote is None else checked_path(remote)
        self._learns = remote is None
        self._limits = link_limits(self.link)
        self._discarded = 0
        self._waits_for_room = False
        self._closed = False
        self._bound = BoundSocket(checked_path(local), socket.SOCK_DGRAM)
        sock = self._bound.sock
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        self._frames = FdLink(sock.fileno(), PACKETS, Medium.ETHERNET)
        self._timer = timer_open()
        self._poller = select.epoll()
        self._poller.register(sock, select.EPOLLIN)
        self._poller.register(self._timer, select.EPOLLIN)
        timer_set(self._timer, LOOK_INTERVAL, LOOK_INTERVAL)
        self._look()

    def fileno(self) -> int:
        return self._poller.fileno()

    def receive(self, burst) -> int:
        if self._waits_for_room:
            self._set_waits_for_room(False)  # the caller tries to send again
        try:
            os.read(self._timer, 8)
        except BlockingIOError:
            pass
        else:
            self._look()
        if not self.link_up:
            self._meet_sender()
        for _ in range(EMPTY_DATAGRAMS_MAX):
            try:
                return self._frames.receive(burst)
            except EOFError:
                continue  # an empty datagram is no end
            except OSError as error:
                self._lost(error)
                break
        return 0

    def release(self, burst) -> None:
        pass

    def transmit(self, batch) -> bool:
        """Without the other end the batch is discarded, as on a cable without a plug."""
        if self.link_up:
            try:
                sent = self._frames.transmit(batch, self._limits)
            except OSError as error:
                self._lost(error)
            else:
                if not sent:
                    self._set_waits_for_room(True)
                return sent
        self._discarded += batch.c.count - batch.c.next
        return True

    def counters(self) -> dict[str, int]:
        return self._frames.counters() | {"transmit_discarded": self._discarded}

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.link_up = False
        self._poller.close()
        self._bound.close()
        os.close(self._timer)

    def _look(self) -> None:
        """Connects again: one that was restarted has a new socket at the old path, and could not reach us before."""
        if self.remote is None:
            return
        try:
            self._bound.sock.connect(self.remote)
        except OSError as error:
            self._lost(error)
        else:
            if not self.link_up:
                log.info("%s: %s is there", self._bound.path, self.remote)
            self.link_up = True

    def _meet_sender(self) -> None:
        """Not connected, so anybody may have sent: the sender of the first frame becomes the other end."""
        if not self._learns:
            self._look()
            return
        try:
            _data, _ancillary, _flags, sender = self._bound.sock.recvmsg(1, 0, socket.MSG_PEEK)
        except OSError:
            return
        if sender and isinstance(sender, str):
            self.remote = sender
            self._look()

    def _lost(self, error: OSError) -> None:
        if self.link_up:
            log.info("%s: %s has gone: %s", self._bound.path, self.remote, error)
        self.link_up = False
        if self._learns:
            self.remote = None
        # As long as it is connected to a dead socket nobody can send to ours.
        _libc.connect(self._bound.fileno(), _NOWHERE, len(_NOWHERE))

    def _set_waits_for_room(self, waits: bool) -> None:
        if waits != self._waits_for_room:
            self._waits_for_room = waits
            self._poller.modify(self._bound.sock, select.EPOLLIN | (select.EPOLLOUT if waits else 0))
