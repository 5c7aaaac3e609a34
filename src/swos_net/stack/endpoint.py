"""What every endpoint has: one capability, readiness, and watchers that are told when it changes."""

from collections.abc import Callable

from swos_net.capability import Capability


class Ready:
    """Readiness bits, with the values and meanings of poll(2); plain integers, as they are combined per segment."""

    NONE = 0
    READABLE = 1
    WRITABLE = 4
    ERROR = 8
    HANGUP = 16


Watcher = Callable[[int], None]


class Endpoint:
    """Base of TCP connections, listeners and UDP endpoints."""

    __slots__ = ("__weakref__", "_watchers", "capability", "local", "local_port", "stack")

    def __init__(self, stack, capability: Capability, local: bytes, local_port: int):
        self.stack = stack
        self.capability = capability
        self.local = local
        self.local_port = local_port
        self._watchers: tuple[Watcher, ...] = ()

    def ready(self) -> int:
        """What could be done now without waiting (a `Ready` mask)."""
        raise NotImplementedError

    def watch(self, watcher: Watcher) -> None:
        """Calls `watcher(mask)` whenever readiness grows, from inside the stack: it must not block."""
        self._watchers += (watcher,)

    def unwatch(self, watcher: Watcher) -> None:
        self._watchers = tuple(other for other in self._watchers if other != watcher)

    def notify(self, mask: int) -> None:
        for watcher in self._watchers:
            watcher(mask)
