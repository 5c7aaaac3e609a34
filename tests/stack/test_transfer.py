"""Data moves: loss, disorder, duplicates, slow readers, closed windows, small paths, every kind of link."""

import itertools
import random

import pytest

from swos_net.config import StackConfig, TcpConfig
from swos_net.link import Medium, Offload
from swos_net.tcp.state import State
from swos_net.testing.network import Network
from swos_net.wire import icmpv4, icmpv6, ipv4, ipv6
from swos_net.wire.tcp import SYN

EVERYTHING = Offload.CHECKSUM | Offload.TSO4 | Offload.TSO6


def exchange(net, client, server, size, limit=3600.0):
    """Both send `size` bytes and close; both must have received exactly them."""
    data = [random.Random(side).randbytes(size) for side in (1, 2)]
    client.send(data[0]).shutdown()
    server.send(data[1]).shutdown()
    net.run(lambda: client.ended and server.ended, limit)
    assert not client.error and not server.error
    assert client.received == data[1] and server.received == data[0]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("offloads", [Offload.NONE, Offload.CHECKSUM, EVERYTHING], ids=["plain", "checksum", "tso"])
def test_both_ways_over_every_kind_of_link(pair, family, offloads):
    net = pair(offloads=offloads)
    exchange(net, *net.open(family), 1_000_000)
    longest = max(len(frame) for _, frame, _ in net.frames)
    assert longest > 20_000 if offloads is EVERYTHING else longest <= 1514


def test_over_a_link_without_link_addresses():
    network = Network()
    one, other = network.add_host("one", ["10.0.0.1/24"]), network.add_host("other", ["10.0.0.2/24"])
    network.link(one, other, medium=Medium.IP)
    acceptor = other.listen(80)
    stream = one.connect("10.0.0.2", 80)
    network.run(lambda: acceptor.streams)
    exchange(network, stream, acceptor.streams[0], 100_000)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("conditions", [
    dict(loss=0.05, delay=0.1), dict(loss=0.2), dict(reorder=0.2), dict(duplicate=0.3),
    dict(loss=0.03, reorder=0.1, duplicate=0.1), dict(bandwidth=1e6, delay=0.05, loss=0.01),
], ids=lambda conditions: "-".join(conditions))  # fmt: skip
def test_everything_arrives_over_a_bad_line(pair, conditions, seed):
    net = pair(seed, **conditions)
    exchange(net, *net.open(), 100_000)


@pytest.mark.parametrize("switches", list(itertools.product([True, False], repeat=3)))
def test_whatever_was_agreed_on(pair, switches):
    options = dict(zip(("timestamps", "window_scaling", "sack"), switches))
    net = pair(tcp=options, loss=0.03, reorder=0.05, delay=0.02)
    exchange(net, *net.open(), 100_000)


def test_a_single_loss_costs_a_round_trip_not_a_timeout(pair):
    """RFC 5681 3.2: frames that arrive one by one are acknowledged one by one."""
    net = pair(delay=0.05, bandwidth=10e6)
    client, server = net.open()
    net.rest(1.0)
    dropped = net.link.towards(net.server).drop(segment=5)
    client.send(bytes(100_000))
    net.run(lambda: len(server.received) == 100_000)
    assert dropped.done
    seq = dropped.hits[0].seq
    first, second = [now for now, header, payload, _ in net.segments() if payload and header.seq == seq]
    assert second - first < 0.14  # RFC 8985 6.2: and a quarter of it, for what may only be late
    assert client.endpoint.connection.tcb.retransmitted_segments == 1


def test_the_bandwidth_of_the_link_is_used(pair):
    net = pair(delay=0.01, bandwidth=10e6)
    client, server = net.open()
    started = net.now
    client.send(bytes(2_000_000))
    net.run(lambda: len(server.received) == 2_000_000)
    assert 2_000_000 * 8 / (net.now - started) > 0.85 * 10e6


def test_a_long_fat_path_needs_and_uses_a_scaled_window(pair):
    net = pair(delay=0.1)
    client, server = net.open()
    started = net.now
    client.send(bytes(4_000_000))
    net.run(lambda: len(server.received) == 4_000_000)
    assert net.now - started < 4_000_000 / 65535 * 0.2 / 2


def test_a_slow_reader_stops_the_sender_and_lets_it_go_on(pair):
    net = pair(tcp=dict(receive_buffer=16384, send_buffer=16384))
    client, server = net.open()
    server.pause()
    client.send(bytes(100_000))
    net.rest(300.0)
    assert server.endpoint.connection.readable == 16384
    probes = [payload for now, _, payload, _ in net.segments() if payload and now > 10]
    assert probes and all(len(payload) == 1 for payload in probes), "more than probes into a closed window"
    server.resume()
    net.run(lambda: len(server.received) == 100_000, limit=5)


def test_a_closed_window_one_way_does_not_stop_the_other_way(pair):
    net = pair(tcp=dict(receive_buffer=16384))
    client, server = net.open()
    server.pause()
    client.send(bytes(50_000))
    net.rest(20.0)
    server.send(bytes(500_000))
    net.run(lambda: len(client.received) == 500_000, limit=20)


def test_a_lost_window_update_is_found_out_by_a_probe(pair):
    net = pair(tcp=dict(receive_buffer=8192))
    client, server = net.open()
    server.pause()
    client.send(bytes(20_000))
    net.rest(2.0)
    net.link.towards(net.client).change(loss=1.0)
    server.resume()
    net.rest(0.1)
    net.link.towards(net.client).change(loss=0.0)
    net.run(lambda: len(server.received) == 20_000, limit=30)


def test_the_link_comes_back_after_a_minute(pair):
    net = pair()
    client, server = net.open()
    client.send(bytes(100_000))
    net.link.change(loss=1.0)
    net.rest(60.0)
    net.link.change(loss=0.0)
    net.run(lambda: len(server.received) == 100_000, limit=120)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("names_mtu", [True, False])
def test_a_smaller_path_is_found_out(pair, tools, family, names_mtu):
    """RFC 1191, RFC 8201: a router that can't pass a packet on says so, an old one without saying how much it could."""
    if family == 6 and not names_mtu:
        pytest.skip("Packet Too Big always names the MTU")
    net = pair()
    client, server = net.open(family)
    errors = []

    def router(sent):
        packet = sent.frame[14:]
        if len(packet) <= 1300:
            return False
        if family == 4:
            source, header = ipv4.parse(packet).destination, ipv4.parse(packet)
            message = icmpv4.emit(icmpv4.unreachable(icmpv4.FRAGMENTATION_NEEDED, packet, 1300 if names_mtu else 0))
            error = ipv4.emit(ipv4.Ipv4Header(source, header.source, 1), message)
        else:
            header = ipv6.parse(packet)
            message = icmpv6.emit(
                icmpv6.Icmpv6Message(icmpv6.PACKET_TOO_BIG, 0, 1300, packet[:1000]), header.destination, header.source
            )
            error = ipv6.emit(ipv6.Ipv6Header(header.destination, header.source, 58), message)
        errors.append(error)
        net.link.inject(tools.framed(error, net.client.interface.link.address), net.client)
        return True

    net.link.towards(net.server).drop(where=router, times=None)
    client.send(bytes(200_000))
    net.run(lambda: len(server.received) == 200_000, limit=10)
    assert errors
    again = net.client.connect(net.server_address[family], 81)
    net.rest(0.1)
    syns = [header for _, header, _, _ in net.segments() if header.flags == SYN]
    assert again.closed and len(syns) >= 2
    mss = again.endpoint.connection.tcb.link_mss
    assert mss <= 1300 - (40 if family == 4 else 60), "what was learned holds for the next connection"


def test_sack_blocks_never_make_a_frame_too_long(pair):
    """Data both ways with holes both ways: the options grow, the frames must not."""
    net = pair(3, loss=0.1, delay=0.02)
    client, server = net.open()
    exchange(net, client, server, 200_000)
    assert max(len(frame) for _, frame, _ in net.frames) <= 1514
    assert net.now < 120, "data with SACK blocks were dropped on the way to the link"


def test_a_neighbour_that_is_forgotten_in_the_middle_costs_nothing(pair):
    net = pair(delay=0.01)
    client, server = net.open()
    client.send(bytes(200_000))
    net.rest(0.03)
    address = next(
        entry.address for entry in net.client.interface.neighbors.entries() if entry.address == server.endpoint.local
    )
    net.client.interface.neighbors.forget(address)
    net.run(lambda: len(server.received) == 200_000, limit=5)
    assert client.endpoint.connection.tcb.retransmissions == 0
    assert client.endpoint.connection.tcb.retransmitted_segments <= 64


def test_many_connections_at_once(pair):
    net = pair(loss=0.02, delay=0.01)
    acceptor = net.server.listen(80, lambda stream: stream.send(bytes(5000)).close())
    streams = [net.client.connect(net.server_address[number % 2 * 2 + 4], 80) for number in range(150)]
    net.run(lambda: all(stream.ended for stream in streams), limit=600)
    assert all(len(stream.received) == 5000 and not stream.error for stream in streams)
    assert len(acceptor.streams) == 150
    for stream in streams:
        stream.close()
    net.rest(200.0)
    assert not net.client.stack.tcp.flows and not net.server.stack.tcp.flows


def test_closed_connections_leave_nothing_behind(pair):
    """Deadlines that are far away (keepalive: two hours) must not keep a connection and its buffers."""
    net = pair()
    net.server.listen(80, lambda stream: stream.endpoint.connection.set_keepalive(True, net.now))
    for _ in range(300):
        client = net.client.connect(net.server_address[4], 80)
        net.run(lambda: client.connected)
        net.rest(0.1)
        client.abort()
        net.rest(0.1)
    for host in (net.client, net.server):
        assert not host.stack.tcp.flows
        assert len(host.stack.deadlines) < 200


def test_a_busy_connection_with_a_distant_deadline_keeps_few_entries(pair):
    net = pair()
    client, server = net.open()
    client.endpoint.connection.set_keepalive(True, net.now)
    for _ in range(2000):
        server.send(b"x")
        net.rest(0.1)
    assert len(net.client.stack.deadlines) < 200


def test_a_small_configuration_works_too(pair):
    config = StackConfig(tcp=TcpConfig(send_buffer=4096, receive_buffer=4096))
    net = pair(config=config, server_config=config)
    exchange(net, *net.open(), 50_000)


def test_a_lock_step_protocol_is_not_slowed_by_nagle_and_delayed_acks(pair):
    net = pair(delay=0.001)
    client, server = net.open()
    started = net.now
    for number in range(50):
        client.send(b"request")
        net.run(lambda number=number: len(server.received) == 7 * (number + 1))
        server.send(b"answer")
        net.run(lambda number=number: len(client.received) == 6 * (number + 1))
    assert net.now - started < 50 * 0.0025
    assert client.state is State.ESTABLISHED
