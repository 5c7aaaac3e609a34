"""UDP endpoints: a queue of datagrams in, datagrams out (RFC 768, RFC 1122 4.1)."""

import errno
from collections import deque
from typing import NamedTuple

from swos_net.address import is_ipv4, is_unspecified
from swos_net.capability import Capability
from swos_net.dataplane.batch import FlowPath
from swos_net.errors import os_error
from swos_net.stack.endpoint import Endpoint, Ready

UDP_PAYLOAD_MAX4 = 65507
UDP_PAYLOAD_MAX6 = 65527
SEND_QUEUE_BYTES = 1 << 20
DATAGRAM_OVERHEAD = 256  # what a queued datagram counts beyond its bytes, so that empty ones are bounded too


class Datagram(NamedTuple):
    """One received datagram; addresses are 16 bytes."""

    payload: bytes
    remote: bytes
    remote_port: int
    local: bytes
    hop_limit: int
    traffic_class: int


class UdpEndpoint(Endpoint):
    """One bound, perhaps connected, port."""

    __slots__ = (
        "_error", "_paths", "_queued_bytes", "_received", "_routes", "_send_bytes", "addresses", "broadcast", "closed", "dropped",
        "remote", "remote_port",
    )  # fmt: skip

    def __init__(self, stack, capability: Capability, local: bytes, local_port: int, addresses: tuple[bytes, ...]):
        super().__init__(stack, capability, local, local_port)
        self.addresses = addresses
        self.remote: bytes | None = None
        self.remote_port = 0
        self.broadcast = False
        self.closed = False
        self.dropped = 0
        self._received: deque[Datagram] = deque()
        self._queued_bytes = 0
        self._send_bytes = 0
        self._paths: dict[tuple[bytes, int], tuple[FlowPath, bytes, object]] = {}
        self._routes = None
        self._error = 0

    def ready(self) -> int:
        mask = Ready.READABLE if self._received or self._error else Ready.NONE
        if self._send_bytes < SEND_QUEUE_BYTES:
            mask |= Ready.WRITABLE
        return mask | (Ready.ERROR if self._error else 0)

    def connect(self, remote: bytes, remote_port: int) -> None:
        """Only this peer from now on; checked once against the capability."""
        self.capability.check("send", "udp", remote, remote_port)
        self.remote = remote
        self.remote_port = remote_port

    def take_error(self) -> int:
        error, self._error = self._error, 0
        return error

    def send_to(self, payload: bytes, remote: bytes, remote_port: int, now: float) -> int:
        """Sends one datagram.

        EMSGSIZE when it is longer than any packet, EACCES without authority or for a broadcast without SO_BROADCAST,
        ENETUNREACH without a route, 0 when the send queue is full.
        """
        if self._error:
            raise os_error(self.take_error(), "an earlier datagram was answered with an ICMP error")
        most = UDP_PAYLOAD_MAX4 if is_ipv4(remote) else UDP_PAYLOAD_MAX6
        if len(payload) > most:
            raise os_error(errno.EMSGSIZE, f"a datagram carries at most {most} bytes")
        self.capability.check("send", "udp", remote, remote_port)
        if not remote_port:
            raise os_error(errno.EINVAL, "port 0 cannot be sent to")
        if self._send_bytes >= SEND_QUEUE_BYTES:
            return 0
        path, next_hop, interface = self._path_to(remote, remote_port)
        overhead = 28 if is_ipv4(remote) else 48
        if len(payload) + overhead > self.stack.path_mtus.mtu(remote, interface.link.mtu, now):
            self.stack.send_udp_fragmented(path, bytes(payload), now)
            return len(payload)
        self._send_bytes += len(payload) + DATAGRAM_OVERHEAD
        interface.queue_datagram(self, path, next_hop, bytes(payload))
        return len(payload)

    def _path_to(self, remote: bytes, remote_port: int):
        if self._routes is not self.stack.routes:
            self._paths.clear()  # the routes were swapped
            self._routes = self.stack.routes
        key = (remote, remote_port)
        known = self._paths.get(key)
        if known is None:
            if len(self._paths) >= 1024:
                self._paths.clear()
            local = None if is_unspecified(self.local) else self.local
            interface, next_hop, source = self.stack.route_to(remote, local, broadcast=self.broadcast)
            identification = self.stack.random.getrandbits(16)
            path = FlowPath(source, self.local_port, remote, remote_port, self.stack.config.hop_limit, identification)
            known = self._paths[key] = (path, next_hop, interface)
        return known

    def receive(self) -> Datagram | None:
        """The oldest datagram, or None.  Raises an ICMP error that came for a connected endpoint."""
        if not self._received:
            if self._error:
                raise os_error(self.take_error(), "the peer answered with an ICMP error")
            return None
        datagram = self._received.popleft()
        self._queued_bytes -= len(datagram.payload) + DATAGRAM_OVERHEAD
        return datagram

    def deliver(self, datagram: Datagram) -> bool:
        """False: the queue is full and the datagram is dropped."""
        size = len(datagram.payload) + DATAGRAM_OVERHEAD
        if self._queued_bytes + size > self.stack.config.udp_receive_buffer:
            self.dropped += 1
            return False
        self._received.append(datagram)
        self._queued_bytes += size
        self.notify(Ready.READABLE)
        return True

    def path_error(self, code: int, now: float) -> None:
        """RFC 1122 4.1.3.3: told to the user of a connected endpoint."""
        if self.remote is not None:
            self._error = code
            self.notify(Ready.READABLE | Ready.WRITABLE | Ready.ERROR)

    def datagram_left(self, size: int) -> None:
        """A queued datagram went out (or was dropped)."""
        was_full = self._send_bytes >= SEND_QUEUE_BYTES
        self._send_bytes -= size + DATAGRAM_OVERHEAD
        if was_full and self._send_bytes < SEND_QUEUE_BYTES:
            self.notify(Ready.WRITABLE)

    def close(self, now: float) -> None:
        self.closed = True
        self.stack.udp_closed(self)
        self._watchers = ()
