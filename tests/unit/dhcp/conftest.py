"""A link of DHCP: a server, messages of a client written by hand, and what came back."""

import random

import pytest

from swos_net.address import UNSPECIFIED4, parse_address, parse_mac, to_packed
from swos_net.dhcp.server import DhcpServer, DhcpServerConfig
from swos_net.wire import dhcpv4
from swos_net.wire.dhcpv4 import DhcpMessage, MessageType

MAC = parse_mac("52:54:00:12:34:56")


class Guest:
    """Sends what a client would; `send` returns the replies as (message, datagram) pairs."""

    def __init__(self, server, mac=MAC, identifier=None):
        self.server = server
        self.mac = mac
        self.identifier = identifier
        self.now = 0.0

    def send(self, kind, options=None, source=UNSPECIFIED4, **fields):
        options = {dhcpv4.MESSAGE_TYPE: bytes([kind])} | (options or {})
        if self.identifier is not None:
            options[dhcpv4.CLIENT_IDENTIFIER] = self.identifier
        fields.setdefault("hardware_address", self.mac)
        message = DhcpMessage(dhcpv4.BOOT_REQUEST, 0xC0FFEE, options=options, **fields)
        self.server.message_received(dhcpv4.emit(message), source, self.now)
        return [(dhcpv4.parse(one.payload), one) for one in self.server.messages_to_send(self.now)]

    def discover(self, options=None, **fields):
        return self.send(MessageType.DISCOVER, options, **fields)

    def select(self, address, server=None, options=None, **fields):
        return self.send(MessageType.REQUEST, {
            dhcpv4.REQUESTED_ADDRESS: to_packed(address),
            dhcpv4.SERVER_IDENTIFIER: to_packed(server or parse_address("10.0.2.2"))} | (options or {}), **fields)

    def reboot(self, address, **fields):
        return self.send(MessageType.REQUEST, {dhcpv4.REQUESTED_ADDRESS: to_packed(address)}, **fields)

    def renew(self, address, **fields):
        return self.send(MessageType.REQUEST, source=address, client_address=address, **fields)

    def bind(self, **discover):
        """DISCOVER to ACK; returns the address."""
        (offer, _), = self.discover(**discover)
        (ack, _), = self.select(offer.your_address)
        assert ack.message_type == MessageType.ACK
        return ack.your_address


def events(server):
    return list(iter(server.next_event, None))


@pytest.fixture
def make_server():
    def make(**changes):
        fields = dict(
            server_address=parse_address("10.0.2.2"), pool_first=parse_address("10.0.2.15"),
            pool_last=parse_address("10.0.2.31"), router=parse_address("10.0.2.2"),
            dns=(parse_address("10.0.2.3"),), domain="guest.example", mtu=1400, lease_seconds=3600)
        return DhcpServer(DhcpServerConfig(**fields | changes), random.Random(1))
    return make


@pytest.fixture
def server(make_server):
    return make_server()


@pytest.fixture
def guest(server):
    return Guest(server)


@pytest.fixture
def new_guest():
    return Guest


@pytest.fixture
def drain():
    return events
