"""Which local ports are taken, and the choice of an ephemeral one (RFC 6056)."""

import errno
from collections.abc import Callable

from swos_net.address import UNSPECIFIED4, UNSPECIFIED6, is_unspecified
from swos_net.errors import os_error
from swos_net.tcp.isn import port_offset

EPHEMERAL_FIRST = 49152  # RFC 6335 6
EPHEMERAL_LAST = 65535


def port_bytes(port: int) -> bytes:
    return port.to_bytes(2, "big")


class BoundPorts:
    """(local address, port) to endpoint for one protocol; the unspecified address stands for every one of a family."""

    __slots__ = ("_bound", "_protocol")

    def __init__(self, protocol: str):
        self._protocol = protocol
        self._bound: dict[bytes, object] = {}

    def bind(self, address: bytes, port: int, endpoint: object) -> None:
        """EADDRINUSE when it, or a wildcard that covers it, is taken."""
        suffix = port_bytes(port)
        wildcard = UNSPECIFIED4 if len(address) == 16 and address[:12] == UNSPECIFIED4[:12] else UNSPECIFIED6
        taken = address + suffix in self._bound or wildcard + suffix in self._bound
        if not taken and is_unspecified(address):
            taken = any(key[16:] == suffix and (key[:12] == UNSPECIFIED4[:12]) == (wildcard == UNSPECIFIED4) for key in self._bound)
        if taken:
            raise os_error(errno.EADDRINUSE, f"{self._protocol} port {port} is taken: choose another or close its owner")
        self._bound[address + suffix] = endpoint

    def release(self, address: bytes, port: int, endpoint: object) -> None:
        key = address + port_bytes(port)
        if self._bound.get(key) is endpoint:
            del self._bound[key]

    def find(self, address: bytes, port: bytes, wildcard: bytes):
        """The endpoint for a packet to `address`; `port` as its two bytes on the wire."""
        return self._bound.get(address + port) or self._bound.get(wildcard + port)

    def choose(self, address: bytes, secret: bytes, peer: bytes, taken: Callable[[int], bool]) -> int:
        """An ephemeral port, unguessable but spread per peer (RFC 6056 3.3.3); EADDRNOTAVAIL when none is left."""
        size = EPHEMERAL_LAST - EPHEMERAL_FIRST + 1
        offset = port_offset(secret, address + peer)
        for attempt in range(size):
            port = EPHEMERAL_FIRST + (offset + attempt) % size
            if address + port_bytes(port) not in self._bound and not taken(port):
                return port
        raise os_error(errno.EADDRNOTAVAIL, f"every ephemeral {self._protocol} port is in use")
