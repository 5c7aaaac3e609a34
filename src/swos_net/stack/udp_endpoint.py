"""UDP endpoints: a queue of datagrams in, datagrams out (RFC 768, RFC 1122 4.1).  Read first: datagram_endpoint.py."""

import errno

from swos_net.address import is_ipv4, is_multicast
from swos_net.capability import Capability
from swos_net.dataplane.batch import FlowPath
from swos_net.errors import os_error
from swos_net.stack.datagram_endpoint import DATAGRAM_OVERHEAD, ORDINARY, Datagram, DatagramEndpoint, SendOptions
from swos_net.stack.endpoint import Ready

UDP_PAYLOAD_MAX4 = 65507
UDP_PAYLOAD_MAX6 = 65527
PATHS_MAX = 1024

__all__ = ["ORDINARY", "Datagram", "SendOptions", "UdpEndpoint"]


class UdpEndpoint(DatagramEndpoint):
    """One port, bound or not yet, perhaps connected.  Made by `UdpDemux.create` and `UdpDemux.open`."""

    __slots__ = ("_paths", "_routes", "_send_bytes", "bound_addresses", "port_asked", "reuse_address", "reuse_port")

    listening = False  # for the sharing of ports: no UDP endpoint keeps others out

    def __init__(self, stack, capability: Capability, local: bytes):
        super().__init__(stack, capability, local)
        self.bound_addresses: tuple[bytes, ...] = ()  # those of bind(), where it hears again after it was connected
        self.port_asked = False  # bind() named it; one of the stack's choice ends with a connection, as on Linux
        self.reuse_address = False
        self.reuse_port = False
        self._send_bytes = 0
        self._paths: dict[tuple, tuple[FlowPath, bytes, object]] = {}
        self._routes = None

    @property
    def unsent(self) -> int:
        return self._send_bytes

    def bind(self, addresses: tuple[bytes, ...], port: int) -> None:
        """See `UdpDemux.bind`."""
        self.stack.udp.bind(self, addresses, port)

    def bind_anywhere(self, addresses: tuple[bytes, ...]) -> None:
        if not self.local_port:
            self.stack.udp.bind(self, addresses, 0)
            self.bound_addresses = ()

    def connect(self, remote: bytes, remote_port: int) -> None:
        """Only this peer from now on; checked once against the capability.

        A wildcard becomes the address that packets to the peer are sent from.
        """
        self.capability.check("send", "udp", remote, remote_port)
        self.stack.udp.connect(self, remote, remote_port)

    def disconnect(self) -> None:
        self.stack.udp.disconnect(self)

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
            self.bind_anywhere(self.addresses or (self.local,))
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
        if is_multicast(remote) or (self.broadcast and interface.is_broadcast(remote)):
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
            choice = self.choose(remote, options)
            path = FlowPath(choice.source, self.local_port, remote, remote_port, choice.hop_limit, self.stack.random.getrandbits(16))
            path.c.traffic_class = choice.traffic_class
            path.granted = self.capability  # `send_to` has asked it
            known = self._paths[key] = (path, choice.next_hop, choice.interface)
        return known

    def forget_paths(self) -> None:
        self._paths.clear()

    def datagram_left(self, size: int) -> None:
        """A queued datagram went out (or was dropped)."""
        was_full = self._send_bytes >= self.send_buffer
        self._send_bytes -= size + DATAGRAM_OVERHEAD
        if was_full and self._send_bytes < self.send_buffer:
            self.notify(Ready.WRITABLE)

    def _let_go(self) -> None:
        self.stack.udp.closed(self)
