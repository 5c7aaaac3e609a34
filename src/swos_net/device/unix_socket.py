"""AF_UNIX sockets at a path, for devices that meet their other end there and never wait for it.

What is said over a connection is the device's business.
"""

import contextlib
import errno
import logging
import os
import select
import socket
import stat

from swos_net.dataplane.timer import timer_open, timer_set
from swos_net.errors import os_error

log = logging.getLogger(__name__)

PATH_BYTES_MAX = 107  # sockaddr_un.sun_path holds 108 bytes, the last one 0
RETRY_FIRST, RETRY_LAST = 0.1, 2.0  # seconds between looks for a peer that is not there
ABSENT = (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN)


def checked_path(path: str | os.PathLike) -> str:
    """The path as text; OSError ENAMETOOLONG when no socket can have it."""
    path = os.fspath(path)
    if not path:
        raise ValueError("a socket needs a path")
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise os_error(errno.ENAMETOOLONG, f"a socket's path has at most {PATH_BYTES_MAX} bytes: {path}")
    return path


class BoundSocket:
    """A non-blocking socket bound to `path`, for its owner alone (mode 0600).

    A socket file that nobody listens on is replaced.  OSError EADDRINUSE when somebody does, or when something else is
    there; ENOENT or EACCES when the directory does not allow it.
    """

    def __init__(self, path: str, kind: int):
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
        try:
            _remove_stale_socket(path, kind)
            # Before bind(): the file never has another mode, so nobody gets in between.
            os.fchmod(self.sock.fileno(), 0o600)
            self.sock.bind(path)
            self._identity = _identity(path)
        except (FileNotFoundError, PermissionError) as error:
            self.sock.close()
            raise os_error(error.errno, f"{path}: the directory of the socket has to be there and writable") from None
        except BaseException:
            self.sock.close()
            raise

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        """Removes the file too, unless it is another's by now; idempotent."""
        if self.sock.fileno() < 0:
            return
        with contextlib.suppress(OSError):
            if _identity(self.path) == self._identity:
                os.unlink(self.path)
        self.sock.close()


class Rendezvous:
    """Finds one stream connection at a time at a path, as the "listen" or the "connect" side.

    `poller` (an epoll object of the caller's) becomes readable when `connection()` may have one, which is called once
    right after this too.  `close()` comes before `poller` is closed.
    """

    def __init__(self, path: str | os.PathLike, role: str, poller: select.epoll):
        self.path = checked_path(path)
        if role not in ("listen", "connect"):
            raise ValueError(f'role is "listen" or "connect", not {role!r}')
        self._poller = poller
        self._bound: BoundSocket | None = None
        self._timer = -1
        self._retry_delay = RETRY_FIRST
        self._first = True
        if role == "listen":
            self._bound = BoundSocket(self.path, socket.SOCK_STREAM)
            self._bound.sock.listen(1)
            poller.register(self._bound, select.EPOLLIN)
        else:
            self._timer = timer_open()
            poller.register(self._timer, select.EPOLLIN)

    def connection(self) -> socket.socket | None:
        """A new connection, or None; after one, `look_again()` comes before the next call.

        OSError from the first call when the path can never be connected to.
        """
        return self._accept() if self._bound is not None else self._connect()

    def look_again(self) -> None:
        """The connection has gone: another one is welcome."""
        if self._bound is not None:
            self._poller.modify(self._bound, select.EPOLLIN)
        else:
            self._retry_later()

    def succeeded(self) -> None:
        """The connection was of use: when it goes, the next try comes soon."""
        self._retry_delay = RETRY_FIRST

    def _accept(self) -> socket.socket | None:
        try:
            sock, _address = self._bound.sock.accept()
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                log.info("%s: nobody there to accept: %s", self.path, error)  # it may have gone again
            return None
        # One at a time: another one waits in the backlog until this one has gone.
        self._poller.modify(self._bound, 0)
        return sock

    def _connect(self) -> socket.socket | None:
        first, self._first = self._first, False
        try:
            os.read(self._timer, 8)
        except BlockingIOError:
            if not first:
                return None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self.path)
        except OSError as error:
            sock.close()
            if first and error.errno not in ABSENT:
                raise
            self._retry_later()
            return None
        return sock

    def _retry_later(self) -> None:
        timer_set(self._timer, self._retry_delay)
        self._retry_delay = min(2 * self._retry_delay, RETRY_LAST)

    def close(self) -> None:
        """Idempotent."""
        if self._bound is not None:
            self._poller.unregister(self._bound)
            self._bound.close()
            self._bound = None
        if self._timer >= 0:
            self._poller.unregister(self._timer)
            os.close(self._timer)
            self._timer = -1


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _remove_stale_socket(path: str, kind: int) -> None:
    """Removes a socket file that nobody listens on; OSError EADDRINUSE for anything else that is there."""
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise os_error(errno.EADDRINUSE, f"{path} is there and is not a socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EPROTOTYPE):
                raise
            # Its backlog is full, or it is of another type: it lives.
    raise os_error(errno.EADDRINUSE, f"another process listens on {path}; end it or choose another path")
