"""A host that talks to itself: delivery without a link, checks without exception, turns without end."""

import errno
import random

import pytest

from swos_net.address import LOOPBACK4, LOOPBACK6, UNSPECIFIED4, UNSPECIFIED6, parse_address
from swos_net.config import StackConfig
from swos_net.runtime.poll import LOOPBACK_TURNS, Poller
from swos_net.stack.endpoint import Ready
from swos_net.stack.stack import Stack


class Host:
    def __init__(self, config=None):
        self.stack = Stack(config, random=random.Random(1))
        self.poller = Poller(self.stack)
        self.now = 1.0

    def settle(self, seconds=0.0):
        end = self.now + seconds
        while self.poller.poll(self.now):
            pass
        while (deadline := self.poller.next_deadline()) is not None and deadline <= end:
            self.now = max(deadline, self.now)
            self.poller.poll(self.now)
        self.now = end

    def streams(self, address=LOOPBACK4):
        listener = self.stack.tcp_listen(self.stack.root, UNSPECIFIED6, 80, dual_stack=True)
        client = self.stack.tcp_connect(self.stack.root, address, 80, self.now)
        self.poller.flush(self.now)
        server = listener.accept()
        listener.close(self.now)
        return client, server


@pytest.fixture
def host():
    return Host()


@pytest.mark.parametrize("address", [LOOPBACK4, LOOPBACK6, parse_address("127.1.2.3")])
def test_a_stream_to_itself(host, address):
    client, server = host.streams(address)
    assert server.local == address and server.remote == client.local
    assert client.local == (LOOPBACK6 if address == LOOPBACK6 else LOOPBACK4)
    payload = bytes(range(256)) * 40_000
    sent = received = 0
    while received < len(payload):
        sent += client.send(memoryview(payload)[sent:], host.now)
        host.settle(0.05)
        data = server.receive(1 << 24, host.now)
        assert data == payload[received : received + len(data or b"")]
        received += len(data)
    client.close(host.now)
    host.settle()
    assert server.receive(1, host.now) == b""
    server.close(host.now)
    host.settle(120.0)
    assert not host.stack.tcp.flows


def test_segments_are_long_and_lose_nothing(host):
    client, server = host.streams()
    assert client.connection.tcb.mss > 65000
    frames = host.stack.loopback.counters["OutFrames"]
    for _ in range(16):
        client.send(bytes(65000), host.now)
        host.settle()
        server.receive(1 << 20, host.now)
    assert host.stack.loopback.counters["OutFrames"] - frames < 50
    assert client.connection.tcb.retransmitted_segments == 0


def test_nobody_listens(host):
    client = host.stack.tcp_connect(host.stack.root, LOOPBACK4, 81, host.now)
    host.poller.flush(host.now)
    assert client.take_error() == errno.ECONNREFUSED


@pytest.mark.parametrize("size", [0, 1, 1472, 9000, 65507])
def test_a_datagram_of_any_length(host, size):
    server = host.stack.udp_open(host.stack.root, UNSPECIFIED4, 53)
    client = host.stack.udp_open(host.stack.root, UNSPECIFIED4)
    client.send_to(bytes(size), LOOPBACK4, 53, host.now)
    host.poller.flush(host.now)
    assert server.receive().payload == bytes(size)


def test_no_turn_inside_a_turn_and_no_flush_without_end(host):
    """Two who answer each other from their watchers neither recurse nor keep a caller for ever."""
    one = host.stack.udp_open(host.stack.root, UNSPECIFIED4, 1000)
    other = host.stack.udp_open(host.stack.root, UNSPECIFIED4, 1001)
    depth = deepest = balls = 0

    def bounce(endpoint, port):
        def ready(mask):
            nonlocal depth, deepest, balls
            depth += 1
            deepest = max(deepest, depth)
            while endpoint.receive() is not None:
                balls += 1
                endpoint.send_to(b"ball", LOOPBACK4, port, host.now)
                host.poller.flush(host.now)
            depth -= 1

        return ready

    one.watch(bounce(one, 1001))
    other.watch(bounce(other, 1000))
    one.send_to(b"ball", LOOPBACK4, 1001, host.now)
    host.poller.flush(host.now)
    assert deepest == 1 and balls == LOOPBACK_TURNS
    assert host.poller.next_deadline() <= host.now, "there is more to do at once"
    assert host.poller.poll(host.now) and balls == 2 * LOOPBACK_TURNS


def test_a_watcher_that_fails_leaves_the_interface_usable(host):
    server = host.stack.udp_open(host.stack.root, UNSPECIFIED4, 53)
    client = host.stack.udp_open(host.stack.root, UNSPECIFIED4)
    broken = True

    def ready(mask):
        if broken:
            raise ZeroDivisionError

    server.watch(ready)
    client.send_to(b"x", LOOPBACK4, 53, host.now)
    with pytest.raises(ZeroDivisionError):
        host.poller.flush(host.now)
    broken = False
    client.send_to(b"y", LOOPBACK4, 53, host.now)
    host.poller.flush(host.now)
    assert [server.receive().payload, server.receive().payload] == [b"x", b"y"]


def test_from_itself_to_a_link_and_back_is_no_way(host):
    with pytest.raises(OSError) as caught:
        host.stack.tcp_connect(host.stack.root, parse_address("192.0.2.1"), 80, host.now, local=LOOPBACK4)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError) as caught:
        host.stack.tcp_connect(host.stack.root, LOOPBACK4, 80, host.now, local=LOOPBACK6)
    assert caught.value.errno == errno.ENETUNREACH


def test_capabilities_count_here_too(host):
    only = host.stack.root.attenuate("tcp:connect:127.0.0.1:80 tcp:bind,listen:0.0.0.0/0:80 tcp:accept:127.0.0.2:80")
    with pytest.raises(PermissionError):
        host.stack.tcp_connect(only, LOOPBACK4, 81, host.now)
    listener = host.stack.tcp_listen(only, UNSPECIFIED4, 80)
    client = host.stack.tcp_connect(only, LOOPBACK4, 80, host.now)
    host.settle(10.0)
    assert listener.accept() is None and not client.connected, "accepting from 127.0.0.1 is not allowed"
    client = host.stack.tcp_connect(host.stack.root, LOOPBACK4, 80, host.now, local=parse_address("127.0.0.2"))
    host.poller.flush(host.now)
    assert listener.accept() is not None and client.connected


def test_who_runs_the_stack_hears_of_output(host):
    heard = []
    host.poller.watch_output(lambda: heard.append(True))
    host.stack.udp_open(host.stack.root, UNSPECIFIED4).send_to(b"x", LOOPBACK4, 9, host.now)
    assert heard and host.poller.next_deadline() == 0.0
    host.poller.watch_output(None)


def test_a_failed_stack_ends_connections_to_itself(host):
    client, server = host.streams()
    host.poller.failed(host.now)
    assert client.take_error() == server.take_error() == errno.ENETDOWN
    assert client.ready() & Ready.HANGUP


def test_reassembly_and_errors_work_as_on_a_link(host):
    client = host.stack.udp_open(host.stack.root, UNSPECIFIED6)
    client.connect(LOOPBACK6, 9)
    client.send_to(b"x", LOOPBACK6, 9, host.now)
    host.poller.flush(host.now)
    with pytest.raises(ConnectionRefusedError):
        client.receive()


def test_max_connections_counts(host):
    host = Host(StackConfig(max_connections=3))
    host.streams()
    with pytest.raises(OSError) as caught:
        for _ in range(4):
            host.stack.tcp_connect(host.stack.root, LOOPBACK4, 80, host.now)
    assert caught.value.errno == errno.ENOBUFS
