"""DHCP on one interface of a stack: the server or the client machine, its datagrams, and what a lease changes.

Read first: dhcp/server.py, dhcp/client.py.  Here datagrams get their UDP and IP headers, since the other side may have
no address yet and the neighbour cache has nothing to say about it.
"""

import errno

from swos_net.address import BROADCAST4
from swos_net.dhcp import DhcpDatagram
from swos_net.dhcp.client import DhcpClient, DhcpClientConfig, FallbackUsed, LeaseBound, LeaseLost
from swos_net.dhcp.leases import DhcpServerConfig
from swos_net.dhcp.server import DhcpServer
from swos_net.errors import os_error
from swos_net.stack.interface import BROADCAST_MAC, Interface
from swos_net.wire import ipv4, udp

SERVER_PORT = 67
CLIENT_PORT = 68


class _DhcpService:
    """What server and client have in common."""

    port: int

    def __init__(self, interface: Interface, machine):
        self.interface = interface
        self.stack = interface.stack
        self.machine = machine
        self.scheduled: float | None = None
        if (interface.index, self.port) in self.stack.udp.services:
            raise os_error(errno.EADDRINUSE, f"{interface.name} has a DHCP service on port {self.port} already")
        self.stack.udp.services[interface.index, self.port] = self._datagram_received

    def _datagram_received(self, payload: bytes, remote: bytes, remote_port: int, local: bytes, link_source: bytes, now: float) -> None:
        self.machine.message_received(payload, remote, now)
        self.pump(now)

    def pump(self, now: float) -> None:
        for datagram in self.machine.messages_to_send(now):
            self._send(datagram, now)
        while (event := self.machine.next_event()) is not None:
            self._event(event, now)
            self.stack.tell(event, self.interface)
        self.stack.deadlines.schedule(self)

    def _send(self, datagram: DhcpDatagram, now: float) -> None:
        header = udp.UdpHeader(self.port, datagram.destination_port)
        transport = udp.emit(header, datagram.payload, datagram.source, datagram.destination)
        packet = ipv4.emit(ipv4.Ipv4Header(datagram.source, datagram.destination, ipv4.PROTOCOL_UDP), transport)
        if datagram.destination_link_address is not None:
            self.interface.send_packet_to_link(packet, datagram.destination_link_address)
        elif datagram.destination == BROADCAST4:
            self.interface.send_packet_to_link(packet, BROADCAST_MAC)
        else:
            self.interface.send_packet(packet, datagram.destination, now)

    def _event(self, event: object, now: float) -> None:
        """What the stack itself has to do about it."""

    def next_deadline(self) -> float | None:
        return self.machine.next_deadline()

    def handle_timeout(self, now: float) -> None:
        self.machine.handle_timeout(now)
        self.pump(now)

    def close(self) -> None:
        self.stack.udp.services.pop((self.interface.index, self.port), None)


class DhcpServerService(_DhcpService):
    """Leases for the hosts on the link."""

    port = SERVER_PORT

    def __init__(self, interface: Interface, config: DhcpServerConfig):
        super().__init__(interface, DhcpServer(config, interface.stack.random))


class DhcpClientService(_DhcpService):
    """An IPv4 address and a gateway from a server on the link (or SwiftOS's fallback)."""

    port = CLIENT_PORT

    def __init__(self, interface: Interface, config: DhcpClientConfig, now: float):
        super().__init__(interface, DhcpClient(config, interface.link.address or bytes(6), interface.stack.random))
        self._address: bytes | None = None
        self.machine.start(now)
        self.pump(now)

    def _event(self, event: object, now: float) -> None:
        if isinstance(event, (LeaseBound, FallbackUsed)):
            if event.address != self._address:
                self._drop(now)
                self._address = event.address
                self.stack.add_address(self.interface, event.address, event.prefix_length, now)
            if event.router is not None:
                self.stack.add_gateway(self.interface, event.router)
            self.stack.names.learnt[self.interface.index] = event.dns
        elif isinstance(event, LeaseLost):
            self._drop(now)

    def _drop(self, now: float) -> None:
        self.stack.names.learnt.pop(self.interface.index, None)
        if self._address is not None:
            self.stack.remove_address(self.interface, self._address, now)
            self._address = None
