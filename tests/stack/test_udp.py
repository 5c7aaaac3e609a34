"""Datagrams: delivery, fragments, errors, limits."""

import errno

import pytest

from swos_net.address import parse_address
from swos_net.config import ReassemblyConfig, StackConfig
from swos_net.stack.endpoint import Ready
from swos_net.wire import icmpv4, icmpv6, ipv4, ipv6

FAMILIES = [4, 6]


def exchange(net, family, payload, limit=5):
    server = net.server.open_udp(5353, address=net.server_address[family])
    client = net.client.open_udp()
    net.client.send_udp(client, payload, net.server_address[family], 5353)
    datagram = net.run(server.receive, limit)
    server.close(net.now)
    assert datagram.remote == parse_address(net.client_address[family]) and datagram.remote_port == client.local_port
    return datagram


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [0, 1, 1000, 1432, 1472, 1473, 1480, 9000, 65507, 65527])
def test_a_datagram_arrives_whole(pair, family, size):
    if family == 4 and size > 65507:
        pytest.skip("the IPv4 length field ends there")
    net = pair()
    payload = bytes(number * 7 & 255 for number in range(size))
    assert exchange(net, family, payload).payload == payload
    assert max(len(frame) for _, frame, _ in net.frames) <= 1514


@pytest.mark.parametrize("family", FAMILIES)
def test_fragments_in_any_order_and_twice(pair, family):
    net = pair(5, reorder=0.5, duplicate=0.3)
    net.resolve()
    payload = bytes(range(256)) * 60
    assert exchange(net, family, payload).payload == payload


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lost_fragment_loses_the_datagram_and_is_reported(pair, tools, family):
    """RFC 792, RFC 8200 4.5: the sender is told when the first fragment had arrived."""
    net = pair(server_config=StackConfig(reassembly=ReassemblyConfig(timeout=30.0)))
    net.resolve()
    server = net.server.open_udp(5353)
    client = net.client.open_udp()
    client.connect(parse_address(net.server_address[family]), 5353)
    first = net.link.towards(net.server).sent
    net.link.towards(net.server).drop(where=lambda packet: packet.number == first + 2)
    net.client.send_udp(client, bytes(5000), net.server_address[family], 5353)
    net.rest(1.0)
    assert server.receive() is None
    assert len(net.server.stack.input.reassembler) == 1
    net.rest(31.0)
    assert len(net.server.stack.input.reassembler) == 0
    with pytest.raises(OSError) as caught:
        client.receive()
    assert caught.value.errno == errno.EHOSTUNREACH


@pytest.mark.parametrize("family", FAMILIES)
def test_nobody_at_the_port(pair, family):
    net = pair()
    client = net.client.open_udp()
    client.connect(parse_address(net.server_address[family]), 9999)
    net.client.send_udp(client, b"anybody?", net.server_address[family], 9999)
    net.run(lambda: client.ready() & Ready.ERROR, limit=2)
    with pytest.raises(ConnectionRefusedError):
        client.receive()
    assert client.receive() is None, "told once"


def test_an_unconnected_endpoint_hears_of_no_errors(pair):
    net = pair()
    client = net.client.open_udp()
    net.client.send_udp(client, b"anybody?", net.server_address[4], 9999)
    net.rest(1.0)
    assert client.receive() is None


def test_a_connected_endpoint_hears_its_peer_only(pair):
    net = pair()
    server = net.server.open_udp(5353)
    server.connect(parse_address(net.client_address[4]), 1000)
    for port in (1000, 1001):
        sender = net.client.open_udp(port)
        net.client.send_udp(sender, b"%d" % port, net.server_address[4], 5353)
    net.rest(1.0)
    assert server.receive().payload == b"1000"
    assert server.receive() is None


def test_the_receive_queue_is_bounded_and_fills_again(pair):
    net = pair(server_config=StackConfig(udp_receive_buffer=10_000))
    net.resolve()
    server = net.server.open_udp(5353)
    client = net.client.open_udp()
    for _ in range(100):
        net.client.send_udp(client, bytes(744), net.server_address[4], 5353)
    net.rest(1.0)
    received = []
    while (datagram := server.receive()) is not None:
        received.append(datagram)
    assert len(received) == 10 and server.dropped == 90
    net.client.send_udp(client, b"again", net.server_address[4], 5353)
    assert net.run(server.receive).payload == b"again"


def test_the_send_queue_is_bounded_and_drains(pair):
    net = pair()
    net.resolve()
    client = net.client.open_udp()
    results = [net.client.send_udp(client, bytes(1400), net.server_address[4], 5353) for _ in range(2000)]
    assert 0 in results and not client.ready() & Ready.WRITABLE
    net.rest(1.0)
    assert client.ready() & Ready.WRITABLE
    assert net.client.send_udp(client, bytes(1400), net.server_address[4], 5353) == 1400


def test_datagrams_wait_for_their_neighbour(pair):
    net = pair(delay=0.2)
    server = net.server.open_udp(5353)
    client = net.client.open_udp()
    for number in range(5):
        net.client.send_udp(client, b"%d" % number, net.server_address[4], 5353)
    net.rest(2.0)
    assert [server.receive().payload for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("family", FAMILIES)
def test_nobody_on_the_link(pair, family):
    net = pair()
    client = net.client.open_udp()
    client.connect(parse_address(net.nobody[family]), 53)
    net.client.send_udp(client, b"?", net.nobody[family], 53)
    net.run(lambda: client.ready() & Ready.ERROR, limit=10)
    with pytest.raises(OSError) as caught:
        client.receive()
    assert caught.value.errno == errno.EHOSTUNREACH


def test_broadcast_needs_to_be_asked_for(pair):
    net = pair()
    server = net.server.open_udp(5353)
    client = net.client.open_udp(address=net.client_address[4])
    for address in ("255.255.255.255", "10.0.0.255"):
        with pytest.raises(PermissionError, match="SO_BROADCAST"):
            net.client.send_udp(client, b"all", address, 5353)
    client.broadcast = True
    for address in ("255.255.255.255", "10.0.0.255"):
        net.client.send_udp(client, b"all", address, 5353)
        assert net.run(server.receive, limit=2).payload == b"all"


def test_what_cannot_be_sent(pair):
    net = pair()
    client = net.client.open_udp()
    for payload, address, port, code in (
        (bytes(65508), net.server_address[4], 53, errno.EMSGSIZE),
        (bytes(65528), net.server_address[6], 53, errno.EMSGSIZE),
        (b"", net.server_address[4], 0, errno.EINVAL),
        (b"", "192.0.2.1", 53, errno.ENETUNREACH),
    ):
        with pytest.raises(OSError) as caught:
            net.client.send_udp(client, payload, address, port)
        assert caught.value.errno == code
    net.client.open_udp(53)
    with pytest.raises(OSError) as caught:
        net.client.open_udp(53)
    assert caught.value.errno == errno.EADDRINUSE
    with pytest.raises(OSError) as caught:
        net.client.open_udp(54, address=net.server_address[4])
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("family", FAMILIES)
def test_a_smaller_path_makes_smaller_fragments(pair, tools, family):
    """RFC 8201 5.1: an IPv6 source fragments to the path; its routers never do."""
    net = pair()
    net.resolve()
    server = net.server.open_udp(5353)
    client = net.client.open_udp()

    def router(sent):
        packet = sent.frame[14:]
        if len(packet) <= 1300:
            return False
        if family == 4:
            header = ipv4.parse(packet)
            message = icmpv4.emit(icmpv4.unreachable(icmpv4.FRAGMENTATION_NEEDED, packet, 1300))
            error = ipv4.emit(ipv4.Ipv4Header(header.destination, header.source, 1), message)
        else:
            header = ipv6.parse(packet)
            message = icmpv6.emit(
                icmpv6.Icmpv6Message(icmpv6.PACKET_TOO_BIG, 0, 1300, packet[:1000]), header.destination, header.source
            )
            error = ipv6.emit(ipv6.Ipv6Header(header.destination, header.source, 58), message)
        net.link.inject(tools.framed(error, net.client.interface.link.address), net.client)
        return True

    net.link.towards(net.server).drop(where=router, times=None)
    for size in (1400, 1400, 5000):
        net.client.send_udp(client, bytes(size), net.server_address[family], 5353)
        net.rest(1.0)
    assert [len(server.receive().payload) for _ in range(2)] == [1400, 5000]


def test_a_source_that_is_nobody_is_not_answered(pair, tools):
    """RFC 4291 2.5.2, RFC 1122 3.2.1.3: unspecified and broadcast addresses are no sources."""
    net = pair()
    net.resolve()
    server = net.server.open_udp(5353)
    mac = net.server.interface.link.address
    for source in ("::", "0.0.0.0", "10.0.0.255", "255.255.255.255", "127.0.0.1", "::1"):
        destination = net.server_address[6 if ":" in source else 4]
        for port in (5353, 5354):
            net.link.inject(tools.framed(tools.udp_packet(source, destination, 1, port, b"x"), mac), net.server)
    net.rest(1.0)
    assert server.receive() is None
    assert net.frames == []
