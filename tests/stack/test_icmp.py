"""Echo and errors."""

import errno

import pytest

from swos_net.address import parse_address
from swos_net.config import StackConfig
from swos_net.wire import icmpv4, icmpv6, ipv4, ipv6
from swos_net.wire.checksum import internet_checksum, pseudo_header_sum
from swos_net.wire.tcp import SYN, TcpHeader


def echo(net, tools, family, data, destination=None, source=None):
    """Injects an echo request; gives the IP packets that came back."""
    source = parse_address(source or net.client_address[family])
    target = parse_address(destination or net.server_address[family])
    if family == 4:
        packet = ipv4.emit(ipv4.Ipv4Header(source, target, 1), icmpv4.emit(icmpv4.echo_request(7, 9, data)))
    else:
        message = icmpv6.Icmpv6Message(icmpv6.ECHO_REQUEST, 0, 7 << 16 | 9, data)
        packet = ipv6.emit(ipv6.Ipv6Header(source, target, 58), icmpv6.emit(message, source, target))
    start = len(net.frames)
    net.link.inject(
        tools.framed(packet, net.server.interface.link.address, net.client.interface.link.address), net.server
    )
    net.rest(0.5)
    return [frame[14:] for _, frame, _ in net.frames[start:]]


@pytest.mark.parametrize("size", [0, 1, 56, 1000])
def test_echo4(pair, tools, size):
    net = pair()
    net.resolve()
    data = bytes(range(256)) * 4
    (packet,) = echo(net, tools, 4, data[:size])
    header = ipv4.parse(packet)
    message = icmpv4.parse(packet[20:])
    assert (header.source, header.destination) == (
        parse_address(net.server_address[4]),
        parse_address(net.client_address[4]),
    )
    assert (message.type, message.identifier, message.sequence, message.payload) == (
        icmpv4.ECHO_REPLY,
        7,
        9,
        data[:size],
    )


@pytest.mark.parametrize("size", [0, 1, 56, 1000])
def test_echo6(pair, tools, size):
    net = pair()
    net.resolve()
    (packet,) = echo(net, tools, 6, bytes(size))
    header = ipv6.parse(packet)
    assert (
        internet_checksum(packet[40:], pseudo_header_sum(header.source, header.destination, 58, len(packet) - 40)) == 0
    )
    assert (packet[40], packet[44:48], packet[48:]) == (icmpv6.ECHO_REPLY, bytes((0, 7, 0, 9)), bytes(size))


@pytest.mark.parametrize("destination", ["10.0.0.255", "255.255.255.255", "224.0.0.1"])
def test_groups_are_not_echoed(pair, tools, destination):
    """RFC 1122 3.2.2.6"""
    net = pair()
    net.resolve()
    assert echo(net, tools, 4, b"smurf", destination) == []


@pytest.mark.parametrize("source", ["10.0.0.255", "255.255.255.255", "224.0.0.9", "0.0.0.0"])
def test_a_group_as_the_source_is_not_answered(pair, tools, source):
    """RFC 1122 3.2.1.3: or one packet would bring an answer to everybody."""
    net = pair()
    net.resolve()
    assert echo(net, tools, 4, b"smurf", source=source) == []


def test_all_nodes_are_echoed_from_a_real_address(pair, tools):
    """RFC 4443 4.2 permits it, and ping ff02::1 is how links are explored."""
    net = pair()
    net.resolve()
    (packet,) = echo(net, tools, 6, b"who?", "ff02::1")
    assert ipv6.parse(packet).source == parse_address(net.server_address[6])


@pytest.mark.parametrize("family", [4, 6])
def test_an_unknown_protocol_is_reported(pair, tools, family):
    net = pair()
    net.resolve()
    packet = tools.ip_packet(
        parse_address(net.client_address[family]), parse_address(net.server_address[family]), 253, b"experiment"
    )
    net.link.inject(tools.framed(packet, net.server.interface.link.address), net.server)
    net.rest(0.5)
    ((_, frame, _),) = net.frames
    answer = frame[14:]
    if family == 4:
        assert (answer[20], answer[21]) == (icmpv4.DESTINATION_UNREACHABLE, icmpv4.PROTOCOL_UNREACHABLE)
        assert answer[28 : 28 + len(packet)] == packet
    else:
        assert (answer[40], answer[41], answer[44:48]) == (
            icmpv6.PARAMETER_PROBLEM,
            1,
            bytes((0, 0, 0, 6)),
        )  # points at Next Header


def test_errors_are_limited(pair, tools):
    net = pair(server_config=StackConfig(icmp_errors_per_second=10.0, icmp_error_burst=5))
    net.resolve()
    for _ in range(200):
        packet = tools.udp_packet(net.client_address[4], net.server_address[4], 1, 9)
        net.link.inject(tools.framed(packet, net.server.interface.link.address), net.server)
    net.rest(0.05)
    assert len(net.frames) == 5


def test_an_error_longer_than_the_link_or_path_raises_nothing(pair, tools):
    """It must not be fragmented; a peer that says its path is tiny still gets it, one on a tiny link does not."""
    net = pair(mtu=400)
    net.resolve()
    packet = tools.udp_packet(net.client_address[4], net.server_address[4], 1, 9, bytes(372))
    net.link.inject(tools.framed(packet, net.server.interface.link.address), net.server)
    net.rest(0.1)
    assert net.frames == [] and net.server.stack.counters["IpFragFails"] == 1
    net = pair()
    net.resolve()
    net.server.stack.path_mtus.update(parse_address(net.client_address[4]), 100, net.now)
    net.link.inject(tools.framed(packet, net.server.interface.link.address), net.server)
    net.rest(0.1)
    assert len(net.frames) == 1


def unreachable(net, code, quoted):
    source = parse_address("10.0.0.50")
    message = icmpv4.emit(icmpv4.unreachable(code, quoted))
    return ipv4.emit(ipv4.Ipv4Header(source, parse_address(net.client_address[4]), 1), message)


@pytest.mark.parametrize(
    "code, expected",
    [(0, errno.ENETUNREACH), (1, errno.EHOSTUNREACH), (3, errno.ECONNREFUSED), (13, errno.EHOSTUNREACH)],
)
def test_an_error_ends_an_opening_connection(pair, tools, code, expected):
    net = pair()
    net.resolve()
    net.link.towards(net.server).change(loss=1.0)
    stream = net.client.connect(net.server_address[4], 80)
    net.rest(0.1)
    (syn,) = [frame[14:] for _, frame, _ in net.frames]
    net.link.inject(tools.framed(unreachable(net, code, syn), net.client.interface.link.address), net.client)
    net.run(lambda: stream.closed, limit=0.1)
    assert stream.error == expected


def test_an_error_that_quotes_what_was_never_sent_is_ignored(pair, tools):
    """RFC 5927 4.1"""
    net = pair()
    net.resolve()
    net.link.towards(net.server).change(loss=1.0)
    stream = net.client.connect(net.server_address[4], 80)
    net.rest(0.1)
    (syn,) = net.segments()
    for seq, port in ((syn[1].seq + 5, syn[1].source_port), (syn[1].seq, syn[1].source_port ^ 1)):
        header = TcpHeader(port, 80, seq & 0xFFFFFFFF, 0, SYN, 0)
        quoted = tools.tcp_packet(net.client_address[4], net.server_address[4], header)
        net.link.inject(tools.framed(unreachable(net, 3, quoted), net.client.interface.link.address), net.client)
    net.rest(0.1)
    assert not stream.closed


def test_an_established_connection_survives_errors(pair, tools):
    net = pair()
    client, server = net.open()
    net.frames.clear()
    client.send(b"x")
    net.rest(0.001)
    sent = next(frame[14:] for _, frame, _ in net.frames if tools.parse_tcp(frame))
    for code in (0, 1, 2, 3, 13):
        net.link.inject(tools.framed(unreachable(net, code, sent), net.client.interface.link.address), net.client)
    net.rest(0.1)
    assert client.connected and not client.error  # RFC 1122 4.2.3.9
