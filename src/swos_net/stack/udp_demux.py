"""From a UDP datagram to its endpoint, and what UDP endpoints share."""

import errno
from collections.abc import Callable

from swos_net.address import UNSPECIFIED4, UNSPECIFIED6, is_ipv4, is_multicast, is_unspecified
from swos_net.capability import Capability
from swos_net.dataplane.burst import DropReason
from swos_net.errors import os_error
from swos_net.stack.ports import BoundPorts, port_bytes
from swos_net.stack.udp_endpoint import Datagram, UdpEndpoint

# payload, remote, remote port, local, link source, now: a protocol of the stack's own on one interface (DHCP)
Service = Callable[[bytes, bytes, int, bytes, bytes, float], None]


class UdpDemux:
    """Endpoints by port and, when they are connected, by flow; and services that a stack runs itself."""

    def __init__(self, stack):
        self.stack = stack
        self.ports = BoundPorts("UDP", stack.random.getrandbits(32))
        self.flows: dict[bytes, UdpEndpoint] = {}
        self.services: dict[tuple[int, int], Service] = {}  # by interface and port

    def create(self, capability: Capability, local: bytes) -> UdpEndpoint:
        """An endpoint without a port; `local` is the unspecified address of its family.  ENOBUFS when there are too many."""
        self.stack.endpoint_opened()
        return UdpEndpoint(self.stack, capability, local)

    def open(self, capability: Capability, local: bytes, local_port: int, *, dual_stack: bool = False) -> UdpEndpoint:
        """Binds a port (0: any); the unspecified address takes every one of its family, or both with `dual_stack`."""
        endpoint = self.create(capability, local)
        try:
            self.bind(endpoint, (UNSPECIFIED6, UNSPECIFIED4) if dual_stack and is_unspecified(local) else (local,), local_port)
        except BaseException:
            endpoint.close(0.0)
            raise
        return endpoint

    def bind(self, endpoint: UdpEndpoint, addresses: tuple[bytes, ...], port: int) -> None:
        """Holds a port (0: any) and hears it.

        EADDRNOTAVAIL when an address is not ours, EACCES without authority, EADDRINUSE when the port cannot be shared.
        """
        stack = self.stack
        for address in addresses:
            if not is_unspecified(address) and not is_multicast(address) and stack.broadcast_interface(address) is None:
                if not stack.is_local(address):
                    raise os_error(errno.EADDRNOTAVAIL, f"{stack.describe(address, port)} is not an address of this stack")
        asked = bool(port)
        endpoint.addresses = endpoint.bound_addresses = addresses
        endpoint.local = addresses[0]
        try:
            if port:
                for address in addresses:
                    endpoint.capability.check("bind", "udp", address, port)
            else:
                secret = stack.random.randbytes(16)
                port = self.ports.choose(addresses[0], secret, b"", lambda port: self.ports.held(port, addresses))
            self.ports.claim(endpoint, port)
        except OSError:
            endpoint.addresses = endpoint.bound_addresses = ()
            raise
        endpoint.port_asked = asked
        self.ports.listen(endpoint, addresses, port)

    def connect(self, endpoint: UdpEndpoint, remote: bytes, remote_port: int) -> None:
        """See `UdpEndpoint.connect`, which has asked the capability."""
        stack = self.stack
        bound = endpoint.bound_addresses
        local = next((address for address in bound if not is_unspecified(address)), None)
        groups = endpoint.groups
        number, source = endpoint.device, local
        if groups is not None and is_multicast(remote):
            number = number or (groups.interface4 if is_ipv4(remote) else groups.interface6)
            source = source or (groups.source if is_ipv4(remote) else None)
        _, _, source = stack.route_to(remote, source, broadcast=endpoint.broadcast, number=number)
        endpoint.bind_anywhere(endpoint.addresses or (endpoint.local,))
        self._deaf(endpoint)
        endpoint.remote, endpoint.remote_port = remote, remote_port
        endpoint.local = source
        endpoint.addresses = (source,)
        endpoint.forget_paths()
        self.flows[self._flow(endpoint)] = endpoint

    def disconnect(self, endpoint: UdpEndpoint) -> None:
        if endpoint.remote is None:
            return
        self._deaf(endpoint)
        family = UNSPECIFIED4 if is_ipv4(endpoint.local) else UNSPECIFIED6
        endpoint.remote, endpoint.remote_port = None, 0
        endpoint.forget_paths()
        endpoint.addresses = endpoint.bound_addresses
        endpoint.local = endpoint.addresses[0] if endpoint.addresses else family
        if endpoint.port_asked:
            self.ports.listen(endpoint, endpoint.addresses, endpoint.local_port)
        else:
            self.ports.release(endpoint)
            endpoint.local_port = 0

    def closed(self, endpoint: UdpEndpoint) -> None:
        self._deaf(endpoint)
        self.ports.release(endpoint)
        self.stack.endpoint_closed()

    def _deaf(self, endpoint: UdpEndpoint) -> None:
        if endpoint.remote is None:
            self.ports.unlisten(endpoint, endpoint.addresses, endpoint.local_port)
        elif self.flows.get(self._flow(endpoint)) is endpoint:
            del self.flows[self._flow(endpoint)]

    @staticmethod
    def _flow(endpoint: UdpEndpoint) -> bytes:
        return endpoint.local + endpoint.remote + port_bytes(endpoint.local_port) + port_bytes(endpoint.remote_port)

    # Datagrams

    def find(self, flow: bytes) -> UdpEndpoint | None:
        """Who hears this flow (36 bytes): a connected endpoint, or one bound to the address or its wildcard."""
        return self.flows.get(flow) or self.ports.find(flow)

    def received(self, number: int, flow: bytes, payload: bytes, hop_limit: int, traffic_class: int, to_many: bool) -> DropReason:
        """A datagram over interface `number`; `to_many`: to a group or broadcast address."""
        stack = self.stack
        if to_many:
            local_port, remote_port = int.from_bytes(flow[32:34], "big"), int.from_bytes(flow[34:36], "big")
            return self.to_all(number, flow[:16], local_port, payload, flow[16:32], remote_port, hop_limit, traffic_class)
        endpoint = self.flows.get(flow) or self.ports.find(flow)
        if endpoint is None or endpoint.device not in (0, number):
            stack.counters["UdpNoPorts"] += 1
            return DropReason.NO_SOCKET
        stack.counters["UdpInDatagrams"] += 1
        datagram = Datagram(payload, flow[16:32], int.from_bytes(flow[34:36], "big"), flow[:16], hop_limit, traffic_class, number)
        return DropReason.NONE if self.deliver(endpoint, datagram) else DropReason.NOT_ALLOWED

    def to_all(self, number: int, local: bytes, local_port: int, payload: bytes, remote: bytes, remote_port: int, hop_limit: int,
               traffic_class: int) -> DropReason:  # fmt: skip
        """A datagram to a group or broadcast address: everybody who hears the port gets it."""
        stack = self.stack
        group = is_multicast(local)
        datagram = Datagram(payload, remote, remote_port, local, hop_limit, traffic_class, number)
        reason = DropReason.NO_SOCKET
        for endpoint in self.ports.all_at(local, port_bytes(local_port)):
            if endpoint.device not in (0, number) or (group and not stack.groups.takes(endpoint, local, number)):
                continue
            reason = DropReason.NONE
            stack.counters["UdpInDatagrams"] += 1
            self.deliver(endpoint, datagram)
        if reason:
            stack.counters["UdpNoPorts"] += 1
        return reason

    def deliver(self, endpoint: UdpEndpoint, datagram: Datagram) -> bool:
        """False when its capability does not let this peer in, or its queue is full."""
        capability = endpoint.capability
        if endpoint.remote is None and not capability.allows("accept", "udp", datagram.remote, endpoint.local_port):
            # an answer to what it sent is let in by the right to send there
            if not capability.allows("send", "udp", datagram.remote, datagram.remote_port):
                return False
        return endpoint.deliver(datagram)
