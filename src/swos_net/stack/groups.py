"""Multicast groups: which endpoints are in which, and the datagrams that come back to their own host (RFC 1112 6.1)."""

import errno
from collections import deque

from swos_net.address import is_ipv4, is_multicast
from swos_net.dataplane.batch import FlowPath
from swos_net.errors import os_error
from swos_net.stack.interface import MULTICAST

JOINED_MAX = 256  # groups of one endpoint; Linux stops at 20 for IPv4
LOOPED_MAX = 1024


class GroupOptions:
    """What one endpoint has to do with groups: IP_MULTICAST_*, IPV6_MULTICAST_* and its memberships."""

    __slots__ = ("everything4", "everything6", "hop_limit4", "hop_limit6", "interface4", "interface6", "joined", "loop4", "loop6", "source")

    def __init__(self) -> None:
        self.interface4 = self.interface6 = 0  # number of the interface that groups are sent to; 0: the route says
        self.source: bytes | None = None  # IP_MULTICAST_IF by address
        self.hop_limit4 = self.hop_limit6 = 1
        self.loop4 = self.loop6 = True
        self.everything4 = self.everything6 = True  # IP_MULTICAST_ALL: groups that others of this stack joined, too
        self.joined: set[tuple[int, bytes]] = set()  # (number of the interface, group)


class Groups:
    """The memberships of one stack."""

    def __init__(self, stack):
        self.stack = stack
        self.members: dict[tuple[int, bytes], int] = {}  # endpoints by (number of the interface, group)
        self.looped: deque[tuple] = deque()

    def join(self, endpoint, group: bytes, number: int, now: float) -> None:
        """EADDRINUSE when it is in the group already, ENODEV without the interface, EINVAL for no group."""
        options = endpoint.groups = endpoint.groups or GroupOptions()
        interface = self._interface(group, number)
        key = (interface.number, group)
        if key in options.joined:
            raise os_error(errno.EADDRINUSE, "the socket is in that group already")
        if len(options.joined) >= JOINED_MAX:
            raise os_error(errno.ENOBUFS, f"a socket can be in {JOINED_MAX} groups")
        endpoint.capability.check("bind", "udp", group, endpoint.local_port)
        options.joined.add(key)
        self.members[key] = self.members.get(key, 0) + 1
        if self.members[key] == 1:
            interface.join_group(group, now)

    def leave(self, endpoint, group: bytes, number: int, now: float) -> None:
        """EADDRNOTAVAIL when it is not in the group."""
        joined = endpoint.groups.joined if endpoint.groups is not None else set()
        if not is_multicast(group):
            raise os_error(errno.EINVAL, "that is no multicast group")
        key = next((key for key in joined if key[1] == group and number in (0, key[0])), None)
        if key is None:
            raise os_error(errno.EADDRNOTAVAIL, "the socket is not in that group")
        joined.discard(key)
        self._left(key, now)

    def leave_all(self, endpoint, now: float) -> None:
        if endpoint.groups is not None:
            for key in endpoint.groups.joined:
                self._left(key, now)
            endpoint.groups.joined.clear()

    def _left(self, key: tuple[int, bytes], now: float) -> None:
        self.members[key] -= 1
        if not self.members[key]:
            del self.members[key]
            interface = self.stack.interface_numbered(key[0])
            if interface is not None:
                interface.leave_group(key[1], now)

    def _interface(self, group: bytes, number: int):
        if not is_multicast(group):
            raise os_error(errno.EINVAL, "that is no multicast group")
        stack = self.stack
        if number:
            interface = stack.interface_numbered(number)
            if interface is None:
                raise os_error(errno.ENODEV, f"there is no interface {number}")
            return interface
        route = stack.routes.lookup(group)
        if route is not None:
            return stack.interfaces[route.interface]
        return stack.interfaces[0] if stack.interfaces else stack.loopback

    def takes(self, endpoint, group: bytes, number: int) -> bool:
        """Whether a datagram to `group` that came over interface `number` is for this endpoint."""
        options = endpoint.groups
        if options is not None and (number, group) in options.joined:
            return True
        if options is not None and not (options.everything4 if is_ipv4(group) else options.everything6):
            return False
        return (number, group) in self.members

    def sent(self, endpoint, interface, path: FlowPath, payload: bytes) -> None:
        """A datagram went to a group or a broadcast address: those on this host hear it too."""
        remote = bytes(path.c.remote)
        if is_multicast(remote):
            options = endpoint.groups
            if options is not None and not (options.loop4 if is_ipv4(remote) else options.loop6):
                return
            if (interface.number, remote) not in self.members:
                return
        if interface is not self.stack.loopback and len(self.looped) < LOOPED_MAX:
            self.looped.append((interface, path, payload))
            self.stack.loopback.wanted()

    def deliver(self, now: float) -> None:
        """Hands out what waits."""
        for _ in range(len(self.looped)):
            interface, path, payload = self.looped.popleft()
            c = path.c
            self.stack.udp.to_all(interface.number, bytes(c.remote), c.remote_port, payload, bytes(c.local), c.local_port,
                                  c.hop_limit, c.traffic_class)  # fmt: skip
