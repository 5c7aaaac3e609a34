"""A kernel descriptor that is readable and writable whenever a socket of the stack is: for select, poll and epoll.

It is one end of an AF_UNIX socket pair.  A byte waiting in it makes it readable, a full send buffer makes it not
writable; so all four states can be shown, level-triggered.  Made when `fileno()` is first called: sockets whose number
nobody asks for need no descriptors.  Nothing of the socket's data goes through it: `os.read` on it is of no use.
"""

import _socket
import errno
import fcntl
import functools
import os
from select import POLLERR, POLLHUP, POLLIN, POLLOUT
from typing import Any

from swos_net.errors import os_error
from swos_net.runtime.driver import Driver, drivers

# what select(2) takes for readable and for writable
READABLE = POLLIN | POLLHUP | POLLERR
WRITABLE = POLLOUT | POLLERR

_FILL = bytes(8192)  # more than the smallest send buffer takes
_READ, _WRITE = 1, 2

# calls after which a socket may be ready for less than before
_CALLS = (
    "accept", "bind", "connect", "getsockopt", "listen", "receive", "receive_from", "receive_from_into", "receive_into",
    "receive_message", "receive_message_into", "send", "send_file", "send_message", "send_to", "setsockopt", "shutdown",
)  # fmt: skip


class Mirror:
    """The readiness of one socket, as any number of descriptors for the same thing.

    Everything but `descriptors_of` is called inside the stack.  `update` costs no system call as long as nothing changed.
    """

    __slots__ = ("_descriptors", "_far", "_identity", "_near", "_shown", "core", "driver")

    def __init__(self, core: Any, driver: Driver):
        self.core = core
        self.driver = driver
        self._near, self._far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        for end in (self._near, self._far):
            end.settimeout(None)  # a default timeout would have every call wait; each says MSG_DONTWAIT itself
        self._near.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, 1)  # the smallest there is
        # os.sendfile, which would put the file into the pair, refuses such a descriptor (splice: EINVAL), and its users
        # then read and send
        fcntl.fcntl(self._near, fcntl.F_SETFL, os.O_RDWR | os.O_APPEND)
        status = os.fstat(self._near.fileno())
        self._identity = status.st_dev, status.st_ino
        self._descriptors = [self._near.fileno()]
        self._shown = _WRITE
        driver.descriptors[self._near.fileno()] = self
        core.watch(self._grown)
        core.mirror = self
        core.__class__ = _mirrored(type(core))
        self.update()

    @property
    def descriptor(self) -> int:
        return self._descriptors[0]

    def update(self) -> None:
        """Shows what the socket is ready for now."""
        ready = self.core.poll()
        wanted = (_READ if ready & READABLE else 0) | (_WRITE if ready & WRITABLE else 0)
        changed = wanted ^ self._shown
        if not changed:
            return
        self._shown = wanted
        try:
            if changed & _READ:
                if wanted & _READ:
                    self._far.send(b"\0", _socket.MSG_DONTWAIT)
                else:
                    self._near.recv(1, _socket.MSG_DONTWAIT)
            if changed & _WRITE:
                if wanted & _WRITE:
                    while len(self._far.recv(len(_FILL), _socket.MSG_DONTWAIT)):
                        pass
                else:
                    while self._near.send(_FILL, _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL):
                        pass
        except BlockingIOError:
            pass  # empty or full, as wanted
        except OSError:
            pass  # closed behind our back

    def _grown(self, mask: int) -> None:
        self.update()

    def is_at(self, descriptor: int) -> bool:
        """Whether the number still stands for this mirror: somebody may have closed it with os.close()."""
        try:
            status = os.fstat(descriptor)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def duplicate(self) -> int:
        """One more descriptor."""
        descriptor = os.dup(self.descriptor)
        self._descriptors.append(descriptor)
        self.driver.descriptors[descriptor] = self
        return descriptor

    def close(self, descriptor: int) -> bool:
        """Closes one; True when it was the last, and the socket is to be closed.  EBADF when it is closed already."""
        if self.driver.descriptors.get(descriptor) is not self or descriptor not in self._descriptors:
            raise os_error(errno.EBADF, "the descriptor has been closed")
        del self.driver.descriptors[descriptor]
        self._descriptors.remove(descriptor)
        if not self.is_at(descriptor):
            if self._near.fileno() == descriptor:
                self._near.detach()
            if not self._descriptors:
                self._far.close()
                raise os_error(errno.EBADF, "the descriptor was closed with os.close()")
            return False
        if self._descriptors:
            if self._near.fileno() == descriptor:
                self._near.detach()
                self._near = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, self._descriptors[0])
                self._near.settimeout(None)
            os.close(descriptor)
            return False
        self._near.detach()
        os.close(descriptor)
        self._far.close()
        return True


@functools.lru_cache(maxsize=None)
def _mirrored(cls: type) -> type:
    """The class of sockets that keep a mirror: others do not pay for it with a test in every call."""

    def keeps_up(name: str) -> Any:
        call = getattr(cls, name)

        @functools.wraps(call)
        def method(self: Any, *arguments: Any) -> Any:
            try:
                return call(self, *arguments)
            finally:
                self.mirror.update()

        return method

    return type(cls.__name__, (cls,), {"__slots__": (), **{name: keeps_up(name) for name in _CALLS}})


def mirror_of(core: Any, driver: Driver) -> Mirror:
    """The mirror of a socket, made if there is none.  Inside the stack."""
    return core.mirror or Mirror(core, driver)


def mirror_at(descriptor: int) -> Mirror | None:
    """What a descriptor stands for; None for one that is not ours."""
    for driver in drivers():
        mirror = driver.descriptors.get(descriptor)
        if mirror is not None and mirror.is_at(descriptor):
            return mirror
    return None


def set_blocking(descriptor: int, blocking: bool) -> None:
    """O_NONBLOCK, for those who ask the descriptor; a descriptor closed meanwhile has none."""
    try:
        os.set_blocking(descriptor, blocking)
    except OSError:
        pass
