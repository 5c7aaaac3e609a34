"""The simulated network itself: a user's first test, determinism, limits, and what it says when nothing comes."""

import errno
import socket
import time

import pytest

from swos_net.config import StackConfig, TcpConfig
from swos_net.link import Medium
from swos_net.tcp.state import State
from swos_net.testing.network import Network


def two_hosts(seed=1, trace=None, config=None, **link):
    network = Network(seed, trace=trace)
    client = network.add_host("client", ["10.0.0.1/24"], config=config)
    server = network.add_host("server", ["10.0.0.2/24"])
    network.link(client, server, **link)
    return network, client, server


def test_five_percent_loss_and_a_round_trip_of_200_ms():
    network = Network(seed=1)
    client = network.add_host("client", addresses=["10.0.0.1/24"])
    server = network.add_host("server", addresses=["10.0.0.2/24"])
    network.link(client, server, delay=0.1, loss=0.05)
    server.listen(80, lambda stream: stream.send(bytes(100_000)).close())
    stream = client.connect("10.0.0.2", 80)
    network.run(until=lambda: stream.ended)
    assert len(stream.received) == 100_000


def test_virtual_hours_take_no_time():
    network, client, server = two_hosts()
    server.listen(80)
    stream = client.connect("10.0.0.2", 80)
    started = time.monotonic()
    network.run(until=7 * 86400.0)
    assert network.now == 7 * 86400.0 and stream.connected
    assert time.monotonic() - started < 5


def trace_of(seed):
    lines = []
    network, client, server = two_hosts(seed, lines.append, delay=0.03, loss=0.1, reorder=0.1, duplicate=0.1)
    server.listen(80, lambda stream: stream.send(bytes(30_000)).close())
    stream = client.connect("10.0.0.2", 80)
    network.run(until=lambda: stream.ended)
    return lines


def test_the_same_seed_gives_the_same_run_to_the_last_frame():
    assert trace_of(7) == trace_of(7)
    assert trace_of(7) != trace_of(8)


def test_the_trace_can_be_read():
    lines = trace_of(7)
    assert any("client > server: IP 10.0.0.1." in line and "Flags [S]" in line for line in lines)
    assert any(line.endswith("[lost]") for line in lines)
    times = [float(line.split()[0]) for line in lines]
    assert times == sorted(times)


def test_another_host_does_not_change_the_luck_of_the_first_two():
    def run(more):
        network, client, server = two_hosts(3, loss=0.2, delay=0.05)
        if more:
            network.add_host("third", ["10.9.0.1/24"])
        server.listen(80, lambda stream: stream.send(bytes(20_000)).close())
        stream = client.connect("10.0.0.2", 80)
        network.run(until=lambda: stream.ended)
        return network.now

    assert run(False) == run(True)


def test_what_never_comes_is_a_timeout_that_says_where_things_stand():
    network, client, server = two_hosts(loss=1.0)
    client.connect("10.0.0.2", 80)
    with pytest.raises(TimeoutError, match="client .*10.0.0.1:.* > 10.0.0.2:80 SYN_SENT"):
        network.run(until=lambda: False, limit=1.0)


def test_when_nothing_will_ever_happen_it_says_so_at_once():
    network = Network()
    with pytest.raises(TimeoutError, match="no frame is under way and no timer runs"):
        network.run(until=lambda: False, limit=1e9)


def test_until_a_time_is_that_time_and_a_result_is_handed_back():
    network, client, server = two_hosts()
    assert network.run(until=1.25) is None and network.now == 1.25
    assert network.run(until=lambda: "yes") == "yes" and network.now == 1.25


def test_frames_that_go_to_and_fro_without_time_are_noticed():
    network, client, server = two_hosts(delay=0.0)
    network.events_per_instant = 1000
    server.open_udp(7).watch(lambda mask: None)
    one, other = client.open_udp(7), server.stack.udp.find(bytes(10) + b"\xff\xff\x0a\0\0\2" + bytes(16) + b"\0\7\0\0")

    def bounce(endpoint, address, host):
        def ready(mask):
            while endpoint.receive() is not None:
                host.send_udp(endpoint, b"ball", address, 7)

        endpoint.watch(ready)

    bounce(one, "10.0.0.2", client)
    bounce(other, "10.0.0.1", server)
    client.send_udp(one, b"ball", "10.0.0.2", 7)
    with pytest.raises(RuntimeError, match="nothing but more frames"):
        network.run(until=1.0)


def test_one_direction_can_be_cut():
    network, client, server = two_hosts()
    link = network.links[0]
    received = server.open_udp(53)
    network.run(until=1.0)
    client.send_udp(client.open_udp(), b"first", "10.0.0.2", 53)
    network.run(until=received.receive)
    link.towards(server).change(loss=1.0)
    client.send_udp(client.open_udp(), b"second", "10.0.0.2", 53)
    network.run(until=3.0)
    assert received.receive() is None
    assert link.towards(server).lost >= 1 and link.towards(client).lost == 0


def test_a_host_on_two_links():
    network = Network()
    left, middle, right = (network.add_host(name, [address]) for name, address in
                           (("left", "10.1.0.1/24"), ("middle", "10.1.0.2/24"), ("right", "10.2.0.1/24")))  # fmt: skip
    network.link(left, middle)
    network.link(right, middle, addresses=(["10.2.0.1/24"], ["10.2.0.2/24"]))
    middle.listen(80)
    streams = [left.connect("10.1.0.2", 80), right.connect("10.2.0.2", 80)]
    network.run(until=lambda: all(stream.connected for stream in streams))
    assert len(middle.interfaces) == 2 and middle.interface is middle.interfaces[0]
    with pytest.raises(ValueError, match="addresses"):
        network.link(left, right)


def test_a_gateway():
    network = Network()
    host = network.add_host("host", ["10.0.0.1/24"], gateways=["10.0.0.254"])
    router = network.add_host("router", ["10.0.0.254/24"])
    link = network.link(host, router, medium=Medium.IP)
    seen = []
    link.towards(router).observe(lambda crossing: seen.append(crossing.frame.data))
    host.connect("192.0.2.1", 80)
    network.run(until=0.1)
    assert seen[0][16:20] == bytes((192, 0, 2, 1))


class TestStreams:
    def test_more_than_the_buffers_hold_both_ways(self):
        config = StackConfig(tcp=TcpConfig(send_buffer=8192, receive_buffer=8192))
        network, client, server = two_hosts(config=config)
        acceptor = server.listen(80, lambda stream: stream.send(bytes(50_000)).shutdown())
        stream = client.connect("10.0.0.2", 80)
        network.run(until=lambda: stream.connected)
        stream.send(bytes(70_000)).shutdown()
        network.run(until=lambda: stream.ended and acceptor.streams[0].ended)
        assert len(stream.received) == 50_000 and len(acceptor.streams[0].received) == 70_000
        assert acceptor.port == 80 and len(acceptor.streams) == 1

    def test_an_end_before_the_beginning(self):
        network, client, server = two_hosts()
        acceptor = server.listen(80)
        client.connect("10.0.0.2", 80).send(b"all there is").shutdown()
        client.connect("10.0.0.2", 80).send(b"all there is").close()
        gone = client.connect("10.0.0.2", 80).close()
        assert gone.closed
        network.run(until=lambda: len(acceptor.streams) == 2 and all(stream.ended for stream in acceptor.streams), limit=1.0)
        assert [stream.received for stream in acceptor.streams] == [b"all there is"] * 2

    def test_pausing(self):
        network, client, server = two_hosts()
        acceptor = server.listen(80)
        stream = client.connect("10.0.0.2", 80)
        network.run(until=lambda: acceptor.streams)
        acceptor.streams[0].pause()
        stream.send(b"wait")
        network.run(until=network.now + 1.0)
        assert acceptor.streams[0].received == b""
        assert acceptor.streams[0].resume().received == b"wait"

    def test_an_error_is_kept(self):
        network, client, server = two_hosts()
        stream = client.connect("10.0.0.2", 80)
        network.run(until=lambda: stream.closed)
        assert stream.error and stream.ended and not stream.connected
        assert "CLOSED" in repr(stream)
        with pytest.raises(OSError):
            stream.send(b"x")

    def test_aborting(self):
        network, client, server = two_hosts()
        acceptor = server.listen(80)
        stream = client.connect("10.0.0.2", 80)
        network.run(until=lambda: acceptor.streams)
        stream.send(bytes(10)).abort()
        network.run(until=lambda: acceptor.streams[0].error)
        acceptor.close()
        assert stream.state is State.CLOSED


class TestSocketsOfAHost:
    """Those of the standard library, without blocking."""

    def connected(self):
        network, client, server = two_hosts(delay=0.01)
        acceptor = server.listen(80)
        with client.capability.activate():
            sock = socket.socket()
        sock.setblocking(False)
        assert sock.connect_ex(("10.0.0.2", 80)) == errno.EINPROGRESS
        network.run(until=lambda: acceptor.streams)
        return network, client, server, sock, acceptor.streams[0]

    def test_there_and_back(self):
        network, _, _, sock, stream = self.connected()
        with sock:
            sock.send(b"question")
            network.run(until=lambda: stream.received == b"question")
            stream.send(b"answer")
            network.run(until=network.now + 1)
            assert sock.recv(100) == b"answer"
            with pytest.raises(BlockingIOError):
                sock.recv(100)

    def test_one_that_nobody_refers_to(self):
        network, _, _, sock, stream = self.connected()
        with pytest.warns(ResourceWarning, match="unclosed"):
            del sock
        started = network.now
        network.run(until=lambda: stream.ended)
        assert network.now < started + 0.1

    def test_one_that_is_dropped_inside_the_stack(self):
        """While the host has its turn, so that it is not waiting for another."""
        network, client, server, sock, stream = self.connected()
        held = [sock]
        del sock
        udp = client.open_udp(9)
        udp.watch(lambda mask: held.clear())
        server.send_udp(server.open_udp(), b"drop it", "10.0.0.1", 9)
        started = network.now
        with pytest.warns(ResourceWarning, match="unclosed"):
            network.run(until=lambda: stream.ended)
        assert network.now < started + 0.1

    def test_waiting_has_no_meaning(self):
        network, client, server = two_hosts()
        with client.capability.activate(), socket.create_server(("", 80)) as sock, pytest.raises(RuntimeError, match="Network.run"):
            sock.accept()

    def test_names(self):
        network, client, server = two_hosts()
        with client.capability.activate():
            assert socket.gethostbyname("server") == "10.0.0.2" and socket.gethostname() == "client"
