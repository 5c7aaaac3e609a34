"""From a UDP datagram to its endpoint, and what UDP endpoints share."""

import errno
from collections.abc import Callable

from swos_net.address import UNSPECIFIED4, UNSPECIFIED6, is_ipv4, is_unspecified
from swos_net.capability import Capability
from swos_net.errors import os_error
from swos_net.stack.ports import BoundPorts
from swos_net.stack.udp_endpoint import Datagram, UdpEndpoint

# payload, remote, remote port, local, link source, now: a protocol of the stack's own on one interface (DHCP)
Service = Callable[[bytes, bytes, int, bytes, bytes, float], None]


class UdpDemux:
    """Endpoints by port, and services that a stack runs itself, by interface and port."""

    def __init__(self, stack):
        self.stack = stack
        self.ports = BoundPorts("UDP")
        self.services: dict[tuple[int, int], Service] = {}

    def open(self, capability: Capability, local: bytes, local_port: int, *, dual_stack: bool = False) -> UdpEndpoint:
        """Binds a port (0: any); the unspecified address takes every one of its family, or both with `dual_stack`."""
        stack = self.stack
        if not is_unspecified(local) and not stack.is_local(local):
            raise os_error(errno.EADDRNOTAVAIL, f"{stack.describe(local, local_port)} is not an address of this stack")
        addresses = (UNSPECIFIED6, UNSPECIFIED4) if dual_stack and is_unspecified(local) else (local,)
        if local_port:
            for address in addresses:
                capability.check("bind", "udp", address, local_port)
        else:
            secret = stack.random.randbytes(16)
            local_port = self.ports.choose(local, secret, b"", lambda port: self.ports.any_taken(addresses, port))
        endpoint = UdpEndpoint(stack, capability, local, local_port, addresses)
        bound = []
        try:
            for address in addresses:
                self.ports.bind(address, local_port, endpoint)
                bound.append(address)
        except OSError:
            for address in bound:
                self.ports.release(address, local_port, endpoint)
            raise
        return endpoint

    def closed(self, endpoint: UdpEndpoint) -> None:
        for address in endpoint.addresses:
            self.ports.release(address, endpoint.local_port, endpoint)

    def find(self, local: bytes, local_port: bytes, remote: bytes, remote_port: int) -> UdpEndpoint | None:
        endpoint = self.ports.find(local, local_port, UNSPECIFIED4 if is_ipv4(local) else UNSPECIFIED6)
        if endpoint is None or (endpoint.remote is not None and (endpoint.remote, endpoint.remote_port) != (remote, remote_port)):
            return None
        return endpoint

    def deliver(self, endpoint: UdpEndpoint, datagram: Datagram) -> bool:
        """False when its capability does not let this peer in, or its queue is full."""
        capability = endpoint.capability
        if endpoint.remote is None and not capability.allows("accept", "udp", datagram.remote, endpoint.local_port):
            # an answer to what it sent is let in by the right to send there
            if not capability.allows("send", "udp", datagram.remote, datagram.remote_port):
                return False
        return endpoint.deliver(datagram)
