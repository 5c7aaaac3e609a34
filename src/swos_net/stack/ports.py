"""Which local ports are taken, who hears what comes to them, and the choice of an ephemeral one (RFC 6056).

Holding a port and hearing its packets are two things: a bound TCP socket holds its port before it listens, a connected
UDP endpoint holds it and hears by its flow.  The rules of sharing are those of Linux's SO_REUSEADDR and SO_REUSEPORT.
"""

import errno
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol
from zlib import crc32

from swos_net.address import UNSPECIFIED4, UNSPECIFIED6, is_ipv4, is_unspecified
from swos_net.errors import os_error
from swos_net.tcp.isn import port_offset

EPHEMERAL_FIRST = 49152  # RFC 6335 6
EPHEMERAL_LAST = 65535

REUSE_ADDRESS = 1
REUSE_PORT = 2


def port_bytes(port: int) -> bytes:
    return port.to_bytes(2, "big")


class PortOwner(Protocol):
    """Who holds a port: `addresses` are where (the unspecified address is every one of its family)."""

    addresses: tuple[bytes, ...]
    local_port: int
    reuse_address: bool
    reuse_port: bool
    listening: bool


class PortClaim:
    """A port that is held by a TCP socket, listening or not."""

    __slots__ = ("addresses", "listening", "local_port", "reuse_address", "reuse_port")

    def __init__(self, addresses: tuple[bytes, ...], *, reuse_address: bool = False, reuse_port: bool = False):
        self.addresses = addresses
        self.local_port = 0
        self.reuse_address = reuse_address
        self.reuse_port = reuse_port
        self.listening = False

    @property
    def reuse(self) -> int:
        """REUSE_* of the connections that this port gives birth to."""
        return REUSE_ADDRESS * self.reuse_address | REUSE_PORT * self.reuse_port


def overlap(one: Iterable[bytes], other: Iterable[bytes]) -> bool:
    """Whether a packet's destination could belong to both."""
    return any(
        first == second or (is_ipv4(first) == is_ipv4(second) and (is_unspecified(first) or is_unspecified(second)))
        for first in one
        for second in other
    )


class _Sharers:
    """Several who hear one address and port."""

    __slots__ = ("members",)

    def __init__(self, members: list):
        self.members = members

    def pick(self, flow: bytes, seed: int):
        """SO_REUSEPORT spreads flows over the group; without it the last one bound hears all, as on Linux."""
        last = self.members[-1]
        if not last.reuse_port:
            return last
        group = [member for member in self.members if member.reuse_port]
        return group[crc32(flow, seed) * len(group) >> 32]


class BoundPorts:
    """The ports of one protocol."""

    __slots__ = ("_flows", "_next_ephemeral", "_owners", "_protocol", "_receivers", "_seed")

    def __init__(self, protocol: str, seed: int = 0):
        """`seed` makes the spreading over SO_REUSEPORT groups unpredictable from outside."""
        self._protocol = protocol
        self._seed = seed
        self._next_ephemeral = 0
        self._owners: dict[int, list[PortOwner]] = {}
        self._receivers: dict[bytes, object] = {}
        self._flows: Counter[int] = Counter()  # connections by local port, family and REUSE_*

    # Holding

    def claim(self, owner: PortOwner, port: int) -> None:
        """Holds `port` for `owner.addresses`; EADDRINUSE when it cannot be shared."""
        if self.conflict(owner, port):
            raise os_error(errno.EADDRINUSE, f"{self._protocol} port {port} is taken: choose another or close its owner")
        owner.local_port = port
        self._owners.setdefault(port, []).append(owner)

    def conflict(self, owner: PortOwner, port: int) -> bool:
        """Whether somebody else holds the port and one of the two does not share it.

        Both must have SO_REUSEPORT, or both SO_REUSEADDR while the other one does not listen.  Connections, those in
        TIME-WAIT too, count with what their socket had set.
        """
        for other in self._owners.get(port, ()):
            if other is owner or not overlap(owner.addresses, other.addresses):
                continue
            if owner.reuse_address and other.reuse_address and not other.listening:
                continue
            if not (owner.reuse_port and other.reuse_port):
                return True
        return False

    def flows_in_the_way(self, owner: PortOwner, port: int) -> bool:
        """Whether connections on the port, perhaps of another address, do not share it."""
        flows = self._flows
        if not flows:
            return False
        for address in owner.addresses:
            base = port << 3 | is_ipv4(address) << 2
            for reuse in range(4):
                if flows.get(base | reuse) and not (
                    (reuse & REUSE_ADDRESS and owner.reuse_address) or (reuse & REUSE_PORT and owner.reuse_port)
                ):
                    return True
        return False

    def held(self, port: int, addresses: tuple[bytes, ...]) -> bool:
        """Whether anybody at all holds it at one of these addresses."""
        return any(overlap(addresses, other.addresses) for other in self._owners.get(port, ()))

    def release(self, owner: PortOwner) -> None:
        """Idempotent."""
        owners = self._owners.get(owner.local_port)
        if owners is None or owner not in owners:
            return
        owners.remove(owner)
        if not owners:
            del self._owners[owner.local_port]

    def flow_opened(self, port: int, ipv4: bool, reuse: int) -> None:
        self._flows[port << 3 | ipv4 << 2 | reuse] += 1

    def flow_closed(self, port: int, ipv4: bool, reuse: int) -> None:
        key = port << 3 | ipv4 << 2 | reuse
        self._flows[key] -= 1
        if self._flows[key] <= 0:
            del self._flows[key]

    # Hearing

    def listen(self, receiver, addresses: Iterable[bytes], port: int) -> None:
        """Packets to these addresses and the port are `receiver`'s, which has `reuse_port`."""
        for address in addresses:
            key = address + port_bytes(port)
            present = self._receivers.get(key)
            if present is None:
                self._receivers[key] = receiver
            elif isinstance(present, _Sharers):
                present.members.append(receiver)
            else:
                self._receivers[key] = _Sharers([present, receiver])

    def unlisten(self, receiver, addresses: Iterable[bytes], port: int) -> None:
        for address in addresses:
            key = address + port_bytes(port)
            present = self._receivers.get(key)
            if present is receiver:
                del self._receivers[key]
            elif isinstance(present, _Sharers) and receiver in present.members:
                present.members.remove(receiver)
                if len(present.members) == 1:
                    self._receivers[key] = present.members[0]

    def find(self, flow: bytes):
        """Who hears a packet of this flow (local, remote, local port, remote port: 36 bytes); None when nobody does."""
        port = flow[32:34]
        wildcard = UNSPECIFIED4 if is_ipv4(flow) else UNSPECIFIED6
        found = self._receivers.get(flow[:16] + port) or self._receivers.get(wildcard + port)
        return found.pick(flow, self._seed) if isinstance(found, _Sharers) else found

    def all_at(self, address: bytes, port: bytes) -> list:
        """Everybody bound to an address or its family's wildcard: who a datagram to a group may be for."""
        wildcard = UNSPECIFIED4 if is_ipv4(address) else UNSPECIFIED6
        found = []
        for key in (address + port, wildcard + port):
            present = self._receivers.get(key)
            if present is not None:
                found += present.members if isinstance(present, _Sharers) else [present]
        return found

    # Choosing

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
