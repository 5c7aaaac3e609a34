"""Connections begin: both families, lost SYNs, refusals, backlogs, simultaneous opens."""

import errno

import pytest

from swos_net.config import StackConfig, TcpConfig
from swos_net.ip.fragmentation import fragment
from swos_net.tcp.state import State
from swos_net.wire.tcp import ACK, FIN, PSH, RST, SYN, URG, TcpHeader, parse_options

FAMILIES = [4, 6]


@pytest.mark.parametrize("family", FAMILIES)
def test_three_segments_open_a_connection(pair, family):
    net = pair(delay=0.1)
    net.resolve()
    client, server = net.open(family)
    net.rest(1.0)
    flags = [header.flags for _, header, _, _ in net.segments()]
    assert flags == [SYN, SYN | ACK, ACK]
    assert client.state is server.state is State.ESTABLISHED
    times = [now for now, *_ in net.segments()]
    assert times[2] - times[0] == pytest.approx(0.2)
    assert server.endpoint.remote_port == client.endpoint.local_port


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unresolved_neighbour_only_costs_its_resolution(pair, family):
    net = pair(delay=0.1)
    client, _ = net.open(family)
    assert net.now == pytest.approx(0.4), "ARP or NDP there and back, SYN there, SYN,ACK back (the ACK follows)"


@pytest.mark.parametrize("lost", range(3))
def test_a_lost_segment_of_the_handshake_is_repaired(pair, tools, lost):
    seen = []

    def drop(packet):
        if packet.is_tcp:
            seen.append(packet)
            return len(seen) == lost + 1

    net = pair()
    net.resolve()
    for wire in net.link.wires:
        wire.drop(where=drop, times=None)
    client, server = net.open()
    client.send(b"hello")
    net.run(lambda: server.received == b"hello", limit=10)


def test_a_port_without_listener_refuses(pair):
    net = pair()
    for family in FAMILIES:
        stream = net.client.connect(net.server_address[family], 81)
        net.run(lambda: stream.closed, limit=1)
        assert stream.error == errno.ECONNREFUSED
    assert net.server.stack.counters["TcpOutRsts"] == 2


@pytest.mark.parametrize("flags, answer", [(SYN, 1), (ACK, 1), (SYN | ACK, 1), (0, 1), (RST, 0), (RST | ACK, 0)])
def test_what_belongs_to_no_connection_is_reset_but_never_a_reset(pair, tools, flags, answer):
    """RFC 9293 3.10.7.1"""
    net = pair()
    net.resolve()
    header = TcpHeader(7777, 81, 1000, 2000 if flags & ACK else 0, flags, 100)
    packet = tools.tcp_packet(net.client_address[4], net.server_address[4], header, b"data")
    net.link.inject(tools.framed(packet, net.server.interface.link.address), net.server)
    net.rest(0.1)
    resets = [header for _, header, _, _ in net.segments()]
    assert len(resets) == answer
    for reset in resets:
        if flags & ACK:
            assert (reset.flags, reset.seq) == (RST, 2000)
        else:
            occupied = 4 + bool(flags & SYN)
            assert (reset.flags, reset.seq, reset.ack) == (RST | ACK, 0, 1000 + occupied)


@pytest.mark.parametrize("flags", [0, FIN, PSH | URG, FIN | PSH | URG])
@pytest.mark.parametrize("payload", [b"", b"text"])
def test_a_listener_is_silent_about_what_neither_begins_nor_acknowledges(pair, tools, flags, payload):
    """RFC 9293 3.10.7.2, fourth; a port without a listener answers the same with a reset (3.10.7.1)."""
    net = pair()
    net.resolve()
    net.server.listen(80)
    for port, answers in ((80, 0), (81, 1)):
        packet = tools.tcp_packet(net.client_address[4], net.server_address[4], TcpHeader(5000, port, 1000, 0, flags, 100), payload)
        start = len(net.frames)
        net.link.inject(tools.framed(packet, net.server.interface.link.address, net.client.interface.link.address), net.server)
        net.rest(0.5)
        assert len(net.segments(start)) == answers


@pytest.mark.parametrize("source, destination", [
    ("10.0.0.255", "10.0.0.2"), ("255.255.255.255", "10.0.0.2"), ("0.0.0.0", "10.0.0.2"), ("::", "2001:db8::2"),
    ("127.0.0.1", "10.0.0.2"), ("::1", "2001:db8::2"),
    ("10.0.0.1", "10.0.0.255"), ("10.0.0.1", "224.0.0.1"), ("2001:db8::1", "ff02::1"),
])  # fmt: skip
@pytest.mark.parametrize("port", [80, 81])
def test_a_syn_from_or_to_many_is_ignored(pair, tools, source, destination, port):
    """RFC 9293 3.9.2.3"""
    net = pair()
    net.server.listen(80)
    net.resolve()
    packet = tools.tcp_packet(source, destination, TcpHeader(7777, port, 1000, 0, SYN, 100))
    net.link.inject(tools.framed(packet, net.server.interface.link.address), net.server)
    parts = tools.tcp_packet(source, destination, TcpHeader(7777, port, 1000, 0, SYN, 100), bytes(2000))
    for part in fragment(parts, 1400, 7):
        net.link.inject(tools.framed(part, net.server.interface.link.address), net.server)
    net.rest(0.1)
    assert net.frames == [] and not net.server.stack.tcp.flows


@pytest.mark.parametrize("family", FAMILIES)
def test_a_host_that_is_not_there_is_unreachable(pair, family):
    net = pair()
    stream = net.client.connect(net.nobody[family], 80)
    net.run(lambda: stream.closed, limit=60)
    assert stream.error == errno.EHOSTUNREACH
    assert net.now < 10, "told when resolution fails, not when TCP gives up"


def test_a_host_that_does_not_answer_times_out(pair):
    net = pair(tcp=dict(syn_retries=3))
    net.resolve()
    net.link.towards(net.server).change(loss=1.0)
    stream = net.client.connect(net.server_address[4], 80)
    net.run(lambda: stream.closed, limit=600)
    assert stream.error == errno.ETIMEDOUT
    assert sum(header.flags == SYN for _, header, _, _ in net.segments()) == 4


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8:1::1"])
def test_without_a_route_the_network_is_unreachable(pair, address):
    net = pair()
    with pytest.raises(OSError, match="gateway") as caught:
        net.client.connect(address, 80)
    assert caught.value.errno == errno.ENETUNREACH


@pytest.mark.parametrize("family", FAMILIES)
def test_simultaneous_open(pair, family):
    """RFC 9293 3.5, figure 8"""
    net = pair(delay=0.1)
    net.resolve()
    one = net.client.connect(net.server_address[family], 2000, local_port=1000)
    other = net.server.connect(net.client_address[family], 1000, local_port=2000)
    net.run(lambda: one.connected and other.connected, limit=2)
    one.send(b"from one")
    other.send(b"from the other")
    net.run(lambda: one.received == b"from the other" and other.received == b"from one", limit=5)
    assert sum(bool(header.flags & SYN) for _, header, _, _ in net.segments()) == 4


def test_a_full_backlog_drops_syns_until_somebody_accepts(pair):
    net = pair()
    root = net.server.stack.root
    listener = net.server.stack.tcp_listen(root, bytes(16), 80, 2, dual_stack=True)
    streams = [net.client.connect(net.server_address[4], 80) for _ in range(5)]
    net.rest(0.5)
    assert len(listener.queue.accepted) == 2
    assert listener.queue.overflows > 0
    streams[4].send(b"early")
    net.rest(5.0)
    assert len(listener.queue.accepted) == 2
    accepted = []
    net.run(lambda: accepted.append(listener.accept()) or len(list(filter(None, accepted))) == 5, limit=60)
    endpoints = list(filter(None, accepted))
    net.run(lambda: any(endpoint.connection.readable for endpoint in endpoints), limit=60)
    assert all(stream.connected for stream in streams)


def test_a_flood_of_syns_is_bounded(pair, tools):
    config = StackConfig(half_open_limit=32)
    net = pair(server_config=config)
    net.resolve()
    net.server.listen(80)
    for number in range(500):
        header = TcpHeader(1024 + number, 80, number, 0, SYN, 1000)
        packet = tools.tcp_packet("10.0.0.77", net.server_address[4], header)
        net.link.inject(tools.framed(packet, net.server.interface.link.address), net.server)
    net.rest(1.0)
    assert len(net.server.stack.tcp.flows) == 32
    net.rest(300.0)
    assert len(net.server.stack.tcp.flows) == 0


def test_closing_a_listener_resets_what_nobody_accepted(pair):
    net = pair()
    listener = net.server.stack.tcp_listen(net.server.stack.root, bytes(16), 80, 5, dual_stack=True)
    stream = net.client.connect(net.server_address[4], 80)
    net.run(lambda: listener.queue.accepted)
    listener.close(net.now)
    net.run(lambda: stream.closed, limit=5)
    assert stream.error == errno.ECONNRESET
    again = net.client.connect(net.server_address[4], 80)
    net.run(lambda: again.closed, limit=5)
    assert again.error == errno.ECONNREFUSED


def test_options_are_offered_and_left_out_as_configured(pair):
    for name, option in (("timestamps", "ts_val"), ("window_scaling", "window_scale"), ("sack", "sack_permitted")):
        for on in (True, False):
            net = pair(tcp={name: on}, server_tcp={})
            net.resolve()
            client, server = net.open()
            for _, header, _, _ in net.segments()[:2]:
                value = getattr(parse_options(header.options), option)
                assert bool(value not in (None, False)) is on, name
            client.send(bytes(50_000))
            net.run(lambda: len(server.received) == 50_000)


@pytest.mark.parametrize("mtu", [576, 1280, 1500, 9000])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_mss_follows_the_mtu(pair, mtu, family):
    if family == 6 and mtu < 1280:
        pytest.skip("RFC 8200 5: no IPv6 link takes less than 1280")
    net = pair(mtu=mtu, tcp=dict(timestamps=False))
    net.resolve()
    client, server = net.open(family)
    syn = net.segments()[0][1]
    assert parse_options(syn.options).mss == mtu - (40 if family == 4 else 60)
    client.send(bytes(100_000))
    net.run(lambda: len(server.received) == 100_000)
    assert max(len(frame) for _, frame, _ in net.frames) == mtu + 14


def test_a_port_that_is_taken(pair):
    net = pair()
    net.server.listen(80)
    with pytest.raises(OSError) as caught:
        net.server.listen(80)
    assert caught.value.errno == errno.EADDRINUSE
    net.client.connect(net.server_address[4], 80, local_port=5000)
    with pytest.raises(OSError) as caught:
        net.client.connect(net.server_address[4], 80, local_port=5000)
    assert caught.value.errno == errno.EADDRINUSE


def test_a_free_port_is_found_next_to_taken_ones(pair):
    """Port 0 never fails while there are ports, whatever was bound to wildcards and single addresses before."""
    net = pair()
    ports = set()
    for number in range(300):
        address = (None, net.server_address[4], net.server_address[6], "0.0.0.0", "::")[number % 5]
        ports.add(net.server.listen(0, address=address).port)
    assert all(49152 <= port <= 65535 for port in ports)


def test_as_many_connections_as_the_configuration_allows(pair):
    net = pair(config=StackConfig(max_connections=2, tcp=TcpConfig()))
    net.client.connect(net.server_address[4], 80)
    net.client.connect(net.server_address[4], 80)
    with pytest.raises(OSError) as caught:
        net.client.connect(net.server_address[4], 80)
    assert caught.value.errno == errno.ENOBUFS


def test_a_congestion_control_that_does_not_exist_is_named_when_the_stack_is_made(pair):
    """Not when the first SYN arrives, in the middle of a poll."""
    with pytest.raises(ValueError, match="reno"):
        pair(tcp=dict(congestion="vegas"))
