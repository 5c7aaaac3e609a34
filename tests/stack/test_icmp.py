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


# options of a Destination Options header: its length is 8 bytes, so that one fits
def options_header(kind, next_header=58):
    return bytes((next_header, 0, kind, 4, 1, 2, 3, 4))


ECHO6 = bytes((128, 0, 0, 0, 0, 7, 0, 9))
ROUTING, FRAGMENT, OPTIONS = 43, 44, 60


@pytest.mark.parametrize(("first", "chain", "group", "answer"), [
    (OPTIONS, options_header(0x1E), False, "reply"),  # RFC 8200 4.2: 00 is skipped
    (OPTIONS, options_header(0x5E), False, None),  # 01 discards
    (OPTIONS, options_header(0x9E), False, (2, 42)),
    (OPTIONS, options_header(0xDE), False, (2, 42)),
    (OPTIONS, options_header(0x9E), True, (2, 42)),
    (OPTIONS, options_header(0xDE), True, None),  # 11: not for a group
    (0, options_header(0x9E), False, (2, 42)),
    (0, options_header(0x1E, 0) + options_header(0x1E), False, (1, 40)),  # RFC 8200 4.1: twice
    (ROUTING, bytes((58, 0, 0, 0)) + bytes(4), False, "reply"),  # RFC 8200 4.4: no segments left
    (ROUTING, bytes((58, 0, 0, 1)) + bytes(4), False, (0, 42)),  # RFC 5095 3
    (ROUTING, bytes((58, 0, 77, 1)) + bytes(4), True, None),
    (OPTIONS, options_header(0x1E, 253), False, (1, 40)),  # points at where 253 stands
    (OPTIONS, options_header(0x1E, 59), False, None),  # RFC 8200 4.7
])  # fmt: skip
def test_extension_headers_are_answered_as_their_rules_say(pair, tools, first, chain, group, answer):
    net = pair()
    net.resolve()
    client, server = parse_address(net.client_address[6]), parse_address(net.server_address[6])
    target = parse_address("ff02::1") if group else server
    checksum = internet_checksum(ECHO6, pseudo_header_sum(client, target, 58, len(ECHO6)))
    packet = ipv6.emit(ipv6.Ipv6Header(client, target, first), chain + ECHO6[:2] + checksum.to_bytes(2, "big") + ECHO6[4:])
    mac = bytes.fromhex("333300000001") if group else net.server.interface.link.address
    net.link.inject(tools.framed(packet, mac, net.client.interface.link.address), net.server)
    net.rest(0.5)
    messages = [frame[54:] for _, frame, _ in net.frames]
    if answer is None:
        assert not messages
    elif answer == "reply":
        assert [message[0] for message in messages] == [icmpv6.ECHO_REPLY]
    else:
        ((kind, code, _, _, *rest),) = [message[:8] for message in messages]
        assert (kind, (code, int.from_bytes(bytes(rest), "big"))) == (icmpv6.PARAMETER_PROBLEM, answer)
        assert messages[0][8:] == packet


def fragments6(pieces, next_header=58):
    """(Fragment header and data) for each (offset, more, data)."""
    return [ipv6.emit_fragment(ipv6.FragmentHeader(next_header, offset, more, 99)) + data for offset, more, data in pieces]


@pytest.mark.parametrize(("payloads", "answer"), [
    (fragments6([(0, True, ECHO6 + bytes(4))]), (0, 4)),  # RFC 8200 4.5: no multiple of 8; points at the payload length
    (fragments6([(65528, False, bytes(16))]), (0, 42)),  # beyond 65,535 bytes; points at the offset
    (fragments6([(0, True, bytes((58, 4)) + bytes(6))], OPTIONS), None),  # RFC 7112: the chain goes on in the next one
    (fragments6([(0, True, bytes(8))], 6), (3, 0)),
    (fragments6([(0, True, bytes((58, 0, 0, 1)) + bytes(4)), (8, False, ECHO6)], ROUTING), (0, 42)),
    (fragments6([(0, True, options_header(0x1E)), (8, False, ECHO6)], 0), (1, 40)),
    (fragments6([(0, True, options_header(0x9E)), (8, False, ECHO6)], OPTIONS), (2, 42)),
    (fragments6([(0, True, bytes(8)), (8, False, bytes(8))], 253), (1, 6)),
])  # fmt: skip
def test_fragments_are_answered_as_their_rules_say(pair, tools, payloads, answer):
    net = pair()
    net.resolve()
    client, server = parse_address(net.client_address[6]), parse_address(net.server_address[6])
    for payload in payloads:
        packet = ipv6.emit(ipv6.Ipv6Header(client, server, FRAGMENT), payload)
        net.link.inject(tools.framed(packet, net.server.interface.link.address, net.client.interface.link.address), net.server)
    net.rest(0.5)
    messages = [frame[54:62] for _, frame, _ in net.frames]
    if answer is None:  # what may be an ICMP error itself is not answered (RFC 4443 2.4 e.1)
        assert not messages
        return
    ((kind, code, _, _, *rest),) = messages
    assert (kind, (code, int.from_bytes(bytes(rest), "big"))) == (icmpv6.PARAMETER_PROBLEM, answer)


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
