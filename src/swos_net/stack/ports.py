"""Which local ports are taken, and the choice of an ephemeral one (RFC 6056)."""

import errno
from collections import Counter
from collections.abc import Callable, Iterable

from swos_net.address import UNSPECIFIED4, UNSPECIFIED6, is_ipv4, is_unspecified
from swos_net.errors import os_error
from swos_net.tcp.isn import port_offset

EPHEMERAL_FIRST = 49152  # RFC 6335 6
EPHEMERAL_LAST = 65535


def port_bytes(port: int) -> bytes:
    return port.to_bytes(2, "big")


class BoundPorts:
    """(local address, port) to endpoint for one protocol; the unspecified address stands for every one of a family."""

    __slots__ = ("_addresses", "_bound", "_next_ephemeral", "_protocol")

    def __init__(self, protocol: str):
        self._protocol = protocol
        self._next_ephemeral = 0
        self._bound: dict[bytes, object] = {}
        self._addresses: Counter[tuple[int, bool]] = Counter()  # how many of a family are bound at a port

    def bind(self, address: bytes, port: int, endpoint: object) -> None:
        """EADDRINUSE when it, or a wildcard that covers it, is taken."""
        if self.taken(address, port):
            raise os_error(errno.EADDRINUSE, f"{self._protocol} port {port} is taken: choose another or close its owner")
        self._bound[address + port_bytes(port)] = endpoint
        self._addresses[port, is_ipv4(address)] += 1

    def taken(self, address: bytes, port: int) -> bool:
        """Whether `bind` would refuse."""
        suffix = port_bytes(port)
        if is_unspecified(address):
            return self._addresses[port, is_ipv4(address)] > 0
        wildcard = UNSPECIFIED4 if is_ipv4(address) else UNSPECIFIED6
        return address + suffix in self._bound or wildcard + suffix in self._bound

    def any_taken(self, addresses: Iterable[bytes], port: int) -> bool:
        return any(self.taken(address, port) for address in addresses)

    def release(self, address: bytes, port: int, endpoint: object) -> None:
        key = address + port_bytes(port)
        if self._bound.get(key) is endpoint:
            del self._bound[key]
            self._addresses[port, is_ipv4(address)] -= 1
            if not self._addresses[port, is_ipv4(address)]:
                del self._addresses[port, is_ipv4(address)]

    def find(self, address: bytes, port: bytes, wildcard: bytes):
        """The endpoint for a packet to `address`; `port` as its two bytes on the wire."""
        return self._bound.get(address + port) or self._bound.get(wildcard + port)

    def choose(self, address: bytes, secret: bytes, peer: bytes, taken: Callable[[int], bool]) -> int:
        """An ephemeral port that is not `taken`, unguessable but spread per peer (RFC 6056 3.3.3).

        EADDRNOTAVAIL when none is left.
        """
        size = EPHEMERAL_LAST - EPHEMERAL_FIRST + 1
        offset = port_offset(secret, address + peer)
        for _ in range(size):
            port = EPHEMERAL_FIRST + (offset + self._next_ephemeral) % size
            self._next_ephemeral += 1
            if not taken(port):
                return port
        raise os_error(errno.EADDRNOTAVAIL, f"every ephemeral {self._protocol} port is in use")
