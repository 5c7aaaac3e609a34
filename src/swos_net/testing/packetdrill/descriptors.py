"""What a script's file descriptors stand for: sockets, epoll instances and files."""

import select
from collections.abc import Callable

from swos_net.socket.core import SocketCore

O_RDWR = 0o2
O_NONBLOCK = 0o4000
_ALWAYS = select.EPOLLERR | select.EPOLLHUP


class OpenFile:
    """Base; `flags` are those of F_GETFL."""

    def __init__(self, flags: int = O_RDWR):
        self.flags = flags

    @property
    def blocking(self) -> bool:
        return not self.flags & O_NONBLOCK

    def poll(self) -> int:
        """Readiness, in the bits of poll(2)."""
        return select.POLLIN | select.POLLOUT

    def close(self, now: float) -> None:
        pass


class Socket(OpenFile):
    def __init__(self, core: SocketCore, flags: int = O_RDWR):
        super().__init__(flags)
        self.core = core
        self.listening = False
        self.local_port = 0  # what bind() was told
        self.closed_hooks: list[Callable[[], None]] = []

    def poll(self) -> int:
        return self.core.poll()

    def close(self, now: float) -> None:
        for hook in self.closed_hooks:
            hook()
        self.core.close(now)


class File(OpenFile):
    """A file of zeros, for sendfile()."""

    def __init__(self, file, flags: int = 0):
        super().__init__(flags)
        self.file = file

    def close(self, now: float) -> None:
        self.file.close()


class _Interest:
    """One descriptor in an epoll instance."""

    def __init__(self, events: int, data: int):
        self.events = events
        self.data = data
        self.woken = True  # something happened since it was last reported (edge-triggered)
        self.enabled = True  # one-shot: not reported since it was armed

    def wake(self, _mask: int) -> None:
        self.woken = True


class Epoll(OpenFile):
    """Readiness of sockets as epoll(7) reports it: level- and edge-triggered, one-shot."""

    def __init__(self):
        super().__init__()
        self.interests: dict[Socket, _Interest] = {}

    def add(self, file: Socket, events: int, data: int) -> None:
        interest = _Interest(events, data)
        self.interests[file] = interest
        file.core.watch(interest.wake)
        file.closed_hooks.append(lambda: self.interests.pop(file, None))

    def modify(self, file: Socket, events: int, data: int) -> None:
        interest = self.interests[file]
        interest.events, interest.data = events, data
        interest.woken = interest.enabled = True

    def remove(self, file: Socket) -> None:
        file.core.unwatch(self.interests.pop(file).wake)

    def ready(self, limit: int) -> list[tuple[int, int]]:
        """(events, data) of at most `limit` descriptors; what is edge-triggered or one-shot counts as told."""
        found = []
        for file, interest in self.interests.items():
            if len(found) == limit:
                break
            mask = file.poll() & (interest.events & 0xFFFFFF | _ALWAYS)
            if not mask or not interest.enabled or (interest.events & select.EPOLLET and not interest.woken):
                continue
            interest.woken = False
            if interest.events & select.EPOLLONESHOT:
                interest.enabled = False
            found.append((mask, interest.data))
        return found
