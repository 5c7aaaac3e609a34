"""TIME-WAIT gives way: to the peer's new SYN, to our own new connection, to nobody too early (RFC 6191)."""

import errno
import random

import pytest

from swos_net.address import LOOPBACK4, UNSPECIFIED4, parse_address
from swos_net.config import StackConfig, TcpConfig
from swos_net.runtime.poll import Poller
from swos_net.stack import ports
from swos_net.stack.stack import Stack
from swos_net.tcp.state import State

FIRST, PORTS = ports.EPHEMERAL_FIRST, 8


class Host:
    """A host that connects to itself, with few ephemeral ports."""

    def __init__(self, monkeypatch, **tcp):
        monkeypatch.setattr(ports, "EPHEMERAL_LAST", FIRST + PORTS - 1)
        self.stack = Stack(StackConfig(tcp=TcpConfig(**tcp)), random=random.Random(1))
        self.poller = Poller(self.stack)
        self.now = 1.0
        self.listener = self.stack.tcp_listen(self.stack.root, UNSPECIFIED4, 80)

    def connect(self, local_port=0):
        client = self.stack.tcp_connect(self.stack.root, LOOPBACK4, 80, self.now, local_port=local_port)
        self.poller.flush(self.now)
        assert client.connected
        return client, self.listener.accept()

    def end(self, first, second):
        for endpoint in (first, second):
            endpoint.close(self.now)
            self.poller.flush(self.now)
        assert first.connection.state is State.TIME_WAIT and second.connection.state is State.CLOSED

    def use_up(self):
        """Every port is left in TIME-WAIT; returns the clients in their order."""
        made = []
        for _ in range(PORTS):
            client, server = self.connect()
            client.send(bytes(300), self.now)
            self.poller.flush(self.now)
            assert server.receive(1000, self.now)
            self.end(client, server)
            made.append(client)
        return made


def test_one_pair_of_addresses_makes_as_many_connections_as_it_likes(monkeypatch):
    host = Host(monkeypatch)
    before = host.use_up()
    with pytest.raises(OSError) as caught:
        host.connect()
    assert caught.value.errno == errno.EADDRNOTAVAIL, "none has waited long enough"
    for _ in range(3):
        host.now += 1.0
        after = host.use_up()
        assert [client.local_port for client in after] == [client.local_port for client in before], "the oldest first"
        for old, new in zip(before, after):
            assert old.connection.state is State.CLOSED
            assert 0 < (new.connection.tcb.iss - old.connection.tcb.snd_max) & 0xFFFFFFFF < 1 << 31
        before = after
    assert host.stack.counters["TcpExtTWRecycled"] == 3 * PORTS
    assert len(host.stack.tcp.time_waiting) == PORTS


def test_the_isn_lies_beyond_what_was_sent(monkeypatch):
    """More than the clock of the ISN has counted meanwhile."""
    host = Host(monkeypatch)
    client, server = host.connect(5000)
    sent = 0
    while sent < 4_000_000:
        sent += client.send(bytes(60_000), host.now)
        host.poller.flush(host.now)
        server.receive(1 << 20, host.now)
    end = client.connection.tcb.snd_max
    host.end(client, server)
    host.now += 1.0
    again, _ = host.connect(5000)
    assert 0 < (again.connection.tcb.iss - end) & 0xFFFFFFFF < 1 << 31


def test_a_reopened_connection_of_the_peer_begins_beyond_it_too(monkeypatch):
    host = Host(monkeypatch)
    client, server = host.connect(5000)
    sent = 0
    while sent < 4_000_000:
        sent += server.send(bytes(60_000), host.now)
        host.poller.flush(host.now)
        client.receive(1 << 20, host.now)
    end = server.connection.tcb.snd_max
    host.end(server, client)
    host.now += 1.0
    _, again = host.connect(5000)
    assert server.connection.state is State.CLOSED
    assert 0 < (again.connection.tcb.iss - end) & 0xFFFFFFFF < 1 << 31


@pytest.mark.parametrize("tcp", [dict(timestamps=False), dict(time_wait_reuse=None)])
def test_not_without_timestamps_nor_where_it_is_off(monkeypatch, tcp):
    host = Host(monkeypatch, **tcp)
    host.use_up()
    host.now += 59.0
    with pytest.raises(OSError) as caught:
        host.connect()
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_a_named_port_too(monkeypatch):
    host = Host(monkeypatch)
    host.end(*host.connect(5000))
    host.now += 0.999
    with pytest.raises(OSError) as caught:
        host.connect(5000)
    assert caught.value.errno == errno.EADDRINUSE
    host.now += 0.001
    client, server = host.connect(5000)
    with pytest.raises(OSError) as caught:
        host.connect(5000)
    assert caught.value.errno == errno.EADDRINUSE, "a living one gives way to nobody"
    server.send(b"new", host.now)
    host.poller.flush(host.now)
    assert client.receive(10, host.now) == b"new"


def test_a_port_that_somebody_holds_is_left_alone(monkeypatch):
    host = Host(monkeypatch)
    clients = host.use_up()
    claim = ports.PortClaim((UNSPECIFIED4,), reuse_address=True)
    host.stack.tcp.ports.claim(claim, clients[0].local_port)
    host.now += 1.0
    again, _ = host.connect()
    assert again.local_port == clients[1].local_port


def test_bind_finds_a_port_among_connections_of_another_address(monkeypatch):
    host = Host(monkeypatch)
    host.use_up()
    other = ports.PortClaim((parse_address("127.0.0.2"),))
    host.stack.tcp.claim(host.stack.root, other, 0)
    assert other.local_port >= FIRST
    with pytest.raises(OSError) as caught:
        host.stack.tcp.claim(host.stack.root, ports.PortClaim((LOOPBACK4,)), 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    with pytest.raises(OSError) as caught:
        host.stack.tcp.claim(host.stack.root, ports.PortClaim((LOOPBACK4,)), FIRST)
    assert caught.value.errno == errno.EADDRINUSE
