"""UDP endpoints: a queue of datagrams in, datagrams out (RFC 768, RFC 1122 4.1)."""

import errno
from collections import deque
from typing import NamedTuple

from swos_net.address import is_ipv4, is_multicast, is_unspecified
from swos_net.capability import Capability
from swos_net.dataplane.batch import FlowPath
from swos_net.errors import os_error
from swos_net.stack.endpoint import Endpoint, Ready
from swos_net.stack.groups import GroupOptions

UDP_PAYLOAD_MAX4 = 65507
UDP_PAYLOAD_MAX6 = 65527
DATAGRAM_OVERHEAD = 256  # what a queued datagram counts beyond its bytes, so that empty ones are bounded too
PATHS_MAX = 1024


class Datagram(NamedTuple):
    """One received datagram; addresses are 16 bytes, `interface` is the number of the interface it came over."""

    payload: bytes
    remote: bytes
    remote_port: int
    local: bytes
    hop_limit: int
    traffic_class: int
    interface: int = 0


class SendOptions(NamedTuple):
    """What one datagram is sent with in place of its endpoint's own; None: as the endpoint has it."""

    source: bytes | None = None
    interface: int | None = None  # a number
    hop_limit: int | None = None
    traffic_class: int | None = None


ORDINARY = SendOptions()


class UdpEndpoint(Endpoint):
    """One port, bound or not yet, perhaps connected.  Made by `UdpDemux.create` and `UdpDemux.open`."""

    __slots__ = (
        "_error", "_paths", "_queued_bytes", "_received", "_routes", "_send_bytes", "addresses", "bound_addresses", "broadcast", "closed",
        "device", "dropped", "errors_wanted", "fragment", "groups", "hop_limit4", "hop_limit6", "receive_buffer", "remote",
        "remote_port", "reuse_address", "reuse_port", "send_buffer", "traffic_class4", "traffic_class6",
    )  # fmt: skip

    listening = False  # for the sharing of ports: no UDP endpoint keeps others out

    def __init__(self, stack, capability: Capability, local: bytes):
        super().__init__(stack, capability, local, 0)
        self.addresses: tuple[bytes, ...] = ()  # where it hears
        self.bound_addresses: tuple[bytes, ...] = ()  # those of bind(), where it hears again after it was connected
        self.remote: bytes | None = None
        self.remote_port = 0
        self.reuse_address = False
        self.reuse_port = False
        self.broadcast = False
        self.errors_wanted = False  # IP_RECVERR: ICMP errors are told although the endpoint is not connected
        self.fragment = True  # False: EMSGSIZE for what the path takes only in fragments
        self.device = 0  # number of the only interface it uses; 0: any
        self.hop_limit4: int | None = None
        self.hop_limit6: int | None = None
        self.traffic_class4 = self.traffic_class6 = 0
        self.groups: GroupOptions | None = None
        self.receive_buffer = stack.config.udp_receive_buffer
        self.send_buffer = stack.config.udp_send_buffer
        self.closed = False
        self.dropped = 0
        self._received: deque[Datagram] = deque()
        self._queued_bytes = 0
        self._send_bytes = 0
        self._paths: dict[tuple, tuple[FlowPath, bytes, object]] = {}
        self._routes = None
        self._error = 0

    def ready(self) -> int:
        mask = Ready.READABLE if self._received or self._error else Ready.NONE
        if self._send_bytes < self.send_buffer:
            mask |= Ready.WRITABLE
        return mask | (Ready.ERROR if self._error else 0)

    @property
    def error(self) -> int:
        """The errno that the next call will raise, or 0."""
        return self._error

    @property
    def queued(self) -> int:
        """Bytes that wait to be received, each datagram with its overhead."""
        return self._queued_bytes

    @property
    def unsent(self) -> int:
        """Bytes that wait for the link, each datagram with its overhead."""
        return self._send_bytes

    @property
    def next_length(self) -> int | None:
        """Payload bytes of the oldest datagram, None when there is none."""
        return len(self._received[0].payload) if self._received else None

    def connect(self, remote: bytes, remote_port: int) -> None:
        """Only this peer from now on; checked once against the capability.

        A wildcard becomes the address that packets to the peer are sent from.
        """
        self.capability.check("send", "udp", remote, remote_port)
        self.stack.udp.connect(self, remote, remote_port)

    def disconnect(self) -> None:
        """Any peer again."""
        self.stack.udp.disconnect(self)

    def take_error(self) -> int:
        error, self._error = self._error, 0
        return error

    def send_to(self, payload: bytes, remote: bytes, remote_port: int, now: float, options: SendOptions = ORDINARY) -> int:
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
        if self._send_bytes >= self.send_buffer:
            return 0
        if not self.local_port:
            self.stack.udp.bind(self, self.addresses or (self.local,), 0)
        path, next_hop, interface = self._path_to(remote, remote_port, options)
        overhead = 28 if is_ipv4(remote) else 48
        if len(payload) + overhead > self.stack.path_mtus.mtu(remote, interface.link.mtu, now):
            if not self.fragment:
                raise os_error(errno.EMSGSIZE, "the path takes no packet of this length whole")
            self.stack.send_udp_fragmented(path, bytes(payload), interface, now)
        else:
            payload = bytes(payload)
            self._send_bytes += len(payload) + DATAGRAM_OVERHEAD
            interface.queue_datagram(self, path, next_hop, payload)
        if is_multicast(remote) or self.broadcast and interface.is_broadcast(remote):
            self.stack.groups.sent(self, interface, path, bytes(payload))
        return len(payload)

    def _path_to(self, remote: bytes, remote_port: int, options: SendOptions):
        if self._routes is not self.stack.routes:
            self._paths.clear()  # the routes were swapped
            self._routes = self.stack.routes
        key = (remote, remote_port, options)
        known = self._paths.get(key)
        if known is None:
            if len(self._paths) >= PATHS_MAX:
                self._paths.clear()
            known = self._paths[key] = self._find_path(remote, remote_port, options)
        return known

    def forget_paths(self) -> None:
        """An option changed that packets are made with."""
        self._paths.clear()

    def _find_path(self, remote: bytes, remote_port: int, options: SendOptions):
        stack = self.stack
        local = options.source or (None if is_unspecified(self.local) else self.local)
        number = options.interface or self.device
        ipv4 = is_ipv4(remote)
        hop_limit = self.hop_limit4 if ipv4 else self.hop_limit6
        if is_multicast(remote):
            hop_limit = 1  # RFC 1112 6.1: unless it was asked for more
            if self.groups is not None:
                hop_limit = self.groups.hop_limit
                number = number or self.groups.interface
                local = local or self.groups.source
        if options.hop_limit is not None:
            hop_limit = options.hop_limit
        interface, next_hop, source = stack.route_to(remote, local, broadcast=self.broadcast, number=number)
        path = FlowPath(source, self.local_port, remote, remote_port, stack.config.hop_limit if hop_limit is None else hop_limit,
                        stack.random.getrandbits(16))  # fmt: skip
        traffic_class = self.traffic_class4 if ipv4 else self.traffic_class6
        path.c.traffic_class = traffic_class if options.traffic_class is None else options.traffic_class
        path.granted = self.capability  # `send_to` has asked it
        return path, next_hop, interface

    def receive(self) -> Datagram | None:
        """The oldest datagram, or None.  Raises an ICMP error that came for a connected endpoint."""
        if self._error:
            raise os_error(self.take_error(), "the peer answered with an ICMP error")
        if not self._received:
            return None
        datagram = self._received.popleft()
        self._queued_bytes -= len(datagram.payload) + DATAGRAM_OVERHEAD
        return datagram

    def peek(self) -> Datagram | None:
        """What `receive` would give, left where it is."""
        if self._error:
            raise os_error(self.take_error(), "the peer answered with an ICMP error")
        return self._received[0] if self._received else None

    def deliver(self, datagram: Datagram) -> bool:
        """False: the queue is full and the datagram is dropped."""
        size = len(datagram.payload) + DATAGRAM_OVERHEAD
        if self._queued_bytes + size > self.receive_buffer and (self._queued_bytes or size - DATAGRAM_OVERHEAD > self.receive_buffer):
            self.dropped += 1
            return False
        self._received.append(datagram)
        self._queued_bytes += size
        self.notify(Ready.READABLE)
        return True

    def path_error(self, code: int, now: float) -> None:
        """RFC 1122 4.1.3.3: told to the user of a connected endpoint."""
        if self.remote is not None or self.errors_wanted:
            self._error = code
            self.notify(Ready.READABLE | Ready.WRITABLE | Ready.ERROR)

    def datagram_left(self, size: int) -> None:
        """A queued datagram went out (or was dropped)."""
        was_full = self._send_bytes >= self.send_buffer
        self._send_bytes -= size + DATAGRAM_OVERHEAD
        if was_full and self._send_bytes < self.send_buffer:
            self.notify(Ready.WRITABLE)

    def close(self, now: float) -> None:
        if self.closed:
            return
        self.closed = True
        self.stack.udp_closed(self, now)
        self._received.clear()
        self._watchers = ()
