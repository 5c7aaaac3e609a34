"""What the paths to destinations are known to take.

Read first: RFC 1191 3 and 6.3, RFC 8201 4 and 5.2.  Fed by validated ICMP messages: whether a message belongs to
something we sent is the caller's to say.  No probing (RFC 4821, RFC 8899).
"""

from dataclasses import dataclass

from swos_net.address import is_ipv4

MINIMUM4 = 68  # RFC 791 3.2
MINIMUM6 = 1280  # RFC 8200 5
_PLATEAUS = (32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68)  # RFC 1191 7, table 7-1


def next_plateau(length: int) -> int:
    """The MTU to try after an IPv4 packet of `length` bytes was too big for a router that does not say (RFC 1191 7)."""
    return next((plateau for plateau in _PLATEAUS if plateau < length), MINIMUM4)


@dataclass(slots=True)
class _Path:
    mtu: int
    expires: float


class PathMtuCache:
    """Path MTUs below the link's, each for `lifetime` seconds (RFC 1191 6.3, RFC 8201 5.2: ten minutes).

    At most `size` destinations: the one told of longest ago makes way.
    """

    def __init__(self, lifetime: float = 600.0, size: int = 4096):
        self._lifetime = lifetime
        self._size = size
        self._paths: dict[bytes, _Path] = {}  # in the order of their expiry

    def __len__(self) -> int:
        return len(self._paths)

    def update(self, destination: bytes, mtu: int, now: float) -> bool:
        """Notes a reported `mtu`; returns whether less than before fits now.

        A report never raises the value.  A router older than RFC 1191 reports 0: give `next_plateau` instead.
        """
        if mtu < (MINIMUM4 if is_ipv4(destination) else MINIMUM6):
            return False  # RFC 1191 3, RFC 8201 4: no link takes less than the minimum of the family
        known = self._current(destination, now)
        if known is not None and mtu >= known:
            return False  # RFC 8201 4
        self._paths.pop(destination, None)
        while len(self._paths) >= self._size:
            del self._paths[next(iter(self._paths))]
        self._paths[destination] = _Path(mtu, now + self._lifetime)
        return True

    def mtu(self, destination: bytes, link_mtu: int, now: float) -> int:
        """Bytes of an IP packet that fit on the way to `destination` through a link of `link_mtu`."""
        if not self._paths:
            return link_mtu
        known = self._current(destination, now)
        return link_mtu if known is None or known > link_mtu else known

    def next_deadline(self) -> float | None:
        for path in self._paths.values():
            return path.expires
        return None

    def handle_timeout(self, now: float) -> list[bytes]:
        """Forgets what is due and returns those destinations: more may fit again (RFC 1191 6.3)."""
        due = []
        for destination, path in self._paths.items():
            if path.expires > now:
                break
            due.append(destination)
        for destination in due:
            del self._paths[destination]
        return due

    def _current(self, destination: bytes, now: float) -> int | None:
        path = self._paths.get(destination)
        return None if path is None or path.expires <= now else path.mtu
