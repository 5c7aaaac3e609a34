"""QEMU's `-netdev stream`, and what else sends Ethernet frames over a stream socket, each after its 32-bit length.

Read first: vhost/fd_link.h, unix_socket.py.  No offloads cross such a link: every frame is complete and checksummed.
"""

import errno
import logging
import os
import select
import socket

from swos_net.dataplane.batch import link_limits
from swos_net.dataplane.fd_link import NO_TRAFFIC, STREAM, FdLink
from swos_net.device.options import plain_ethernet
from swos_net.device.unix_socket import Rendezvous
from swos_net.errors import DeviceError, os_error
from swos_net.link import Medium

log = logging.getLogger(__name__)


class StreamDevice:
    """An Ethernet link over one stream connection at a time.

    `path` is the socket's: as "listen" the other end (QEMU's `addr.type=unix,addr.path=PATH,server=off`) connects to
    it, as "connect" (`server=on`, passt) we do; either way it may come and go, and `link_up` says whether it is there.
    Instead of a path, `sock` is a connection that the device takes over; when that ends the device has gone.  `mac` is
    our address, a random one when it is None; `mtu` is the guest's.

    OSError when the socket cannot be made.  Nothing here blocks.
    """

    wants_write = False  # the nested poller says both

    def __init__(
        self,
        path: str | os.PathLike | None = None,
        *,
        sock: socket.socket | None = None,
        role: str = "listen",
        mac: bytes | None = None,
        mtu: int = 1500,
    ):
        if (path is None) == (sock is None):
            raise TypeError("a stream device has either a path or a connected socket")
        if sock is not None and sock.type != socket.SOCK_STREAM:
            raise os_error(errno.EPROTOTYPE, "a stream device needs a stream socket (SOCK_STREAM)")
        self.link = plain_ethernet(mac, mtu)
        self.link_up = False
        self._limits = link_limits(self.link)
        self._ended = dict(NO_TRAFFIC)  # what earlier connections carried
        self._connections = self._discarded = 0
        self._sock: socket.socket | None = None
        self._frames: FdLink | None = None
        self._waits_for_room = False
        self._poller = select.epoll()
        self._rendezvous: Rendezvous | None = None
        self._closed = False
        try:
            if sock is not None:
                self._begin(sock)
            else:
                self._rendezvous = Rendezvous(path, role, self._poller)
                self._find()
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        return self._poller.fileno()

    def receive(self, burst) -> int:
        if self._frames is None:
            self._find()
            if self._frames is None:
                return 0
        if self._waits_for_room:
            self._set_waits_for_room(False)  # the caller tries to send again
        try:
            received = self._frames.receive(burst)
        except (EOFError, OSError) as error:
            self._lost(error)
            return 0
        if received and self._rendezvous is not None:
            self._rendezvous.succeeded()
        return received

    def release(self, burst) -> None:
        pass

    def transmit(self, batch) -> bool:
        """Without a connection the batch is discarded, as on a cable without a plug."""
        if self._frames is None:
            self._discarded += batch.c.count - batch.c.next
            return True
        try:
            sent = self._frames.transmit(batch, self._limits)
        except OSError as error:
            self._discarded += batch.c.count - batch.c.next
            self._lost(error)
            return True
        if not sent:
            self._set_waits_for_room(True)
        return sent

    def counters(self) -> dict[str, int]:
        """Since the device was made, over all connections."""
        counters = dict(self._ended)
        if self._frames is not None:
            for name, value in self._frames.counters().items():
                counters[name] += value
        return counters | {"connections": self._connections, "transmit_discarded": self._discarded}

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._end()
        if self._rendezvous is not None:
            self._rendezvous.close()
        self._poller.close()

    def _find(self) -> None:
        if self._rendezvous is None:
            raise DeviceError("the connection of this stream device has ended", errno.ENOTCONN)
        sock = self._rendezvous.connection()
        if sock is not None:
            self._begin(sock)

    def _begin(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._poller.register(sock, select.EPOLLIN)
        self._sock = sock
        self._frames = FdLink(sock.fileno(), STREAM, Medium.ETHERNET)
        self._waits_for_room = False
        self._connections += 1
        self.link_up = True
        log.info("%s: connected", self._name)

    def _end(self) -> None:
        self.link_up = False
        if self._sock is None:
            return
        for name, value in self._frames.counters().items():
            self._ended[name] += value
        self._poller.unregister(self._sock)
        self._sock.close()
        self._sock = self._frames = None

    def _lost(self, reason: Exception) -> None:
        self._end()
        log.info("%s: disconnected: %s", self._name, reason)
        if self._rendezvous is None:
            raise DeviceError(f"the connection of this stream device has ended: {reason}", errno.ENOTCONN) from None
        self._rendezvous.look_again()

    def _set_waits_for_room(self, waits: bool) -> None:
        if waits != self._waits_for_room:
            self._waits_for_room = waits
            self._poller.modify(self._sock, select.EPOLLIN | (select.EPOLLOUT if waits else 0))

    @property
    def _name(self) -> str:
        return self._rendezvous.path if self._rendezvous is not None else "stream device"
