"""What a host tells its link of its groups, and whom it answers."""

import pytest

from swos_net.address import parse_address
from swos_net.wire import ethernet, icmpv4, igmp, ipv4, ipv6, mld
from swos_net.wire.igmp import CHANGE_TO_EXCLUDE_MODE, CHANGE_TO_INCLUDE_MODE, MODE_IS_EXCLUDE, Query

GROUP4, GROUP6 = parse_address("239.1.2.3"), parse_address("ff05::1:3")
ROUTER4, ROUTER6 = parse_address("10.0.0.1"), parse_address("fe80::99")
ALL4, ALL6 = parse_address("224.0.0.1"), parse_address("ff02::1")


def messages(net):
    """(MAC, header, message) of the membership messages that were sent."""
    out = []
    for _, frame, _ in net.frames:
        packet = frame[14:]
        if frame[12:14] == b"\x08\x00" and packet[9] == 2:
            header = ipv4.parse(packet)
            out.append((frame[:6], header, igmp.parse(packet[header.header_length : header.total_length])))
        elif frame[12:14] == b"\x86\xdd" and packet[6] == ipv6.HOP_BY_HOP:
            header = ipv6.parse(packet)
            assert ipv6.walk_extensions(packet, packet[6]).router_alert
            out.append((frame[:6], header, mld.parse(packet[48:], header.source, header.destination)))
    return out


def said(net, *groups):
    """{(group, kind)} of the reports."""
    return {(record.group, record.kind) for _, _, report in messages(net) for record in report.records if not groups or record.group in groups}


@pytest.fixture
def net(pair):
    net = pair()
    net.rest(5.0)
    net.frames.clear()
    return net


@pytest.fixture
def member(net):
    """A UDP endpoint of the server in both groups, when all that has been said."""
    endpoint = net.server.open_udp(5000)
    for group in (GROUP4, GROUP6):
        net.server.stack.groups.join(endpoint, group, 2, net.now)
    net.rest(5.0)
    net.frames.clear()
    return endpoint


def query4(group=None, *, ttl=1, options=igmp.ROUTER_ALERT, destination=None, version=3, source=ROUTER4):
    destination = destination or group or ALL4
    header = ipv4.Ipv4Header(source, destination, 2, ttl, options=options)
    return ipv4.emit(header, igmp.emit(Query(group, 1.0, version)))


def query6(group=None, *, hops=1, alert=True, source=ROUTER6, destination=None, version=3):
    destination = destination or group or ALL6
    message = mld.emit(Query(group, 1.0, version), source, destination)
    if alert:
        return ipv6.emit(ipv6.Ipv6Header(source, destination, 0, hops), ipv6.emit_router_alert(58) + message)
    return ipv6.emit(ipv6.Ipv6Header(source, destination, 58, hops), message)


def ask(net, tools, packet):
    net.link.inject(tools.framed(packet, b"\x01\x00\x5e\x00\x00\x01" if packet[0] >> 4 == 4 else b"\x33\x33\0\0\0\1"), net.server)
    net.rest(3.0)


def test_joining_and_leaving(net):
    endpoint = net.server.open_udp(5000)
    groups = net.server.stack.groups
    groups.join(endpoint, GROUP4, 2, net.now)
    groups.join(endpoint, GROUP6, 2, net.now)
    net.rest(5.0)
    assert said(net) == {(GROUP4, CHANGE_TO_EXCLUDE_MODE), (GROUP6, CHANGE_TO_EXCLUDE_MODE)}
    assert len(messages(net)) == 4, "each twice"
    for mac, header, _ in messages(net):
        if isinstance(header, ipv4.Ipv4Header):
            assert (header.destination, header.ttl, header.tos, header.options) == (igmp.ALL_REPORT_ROUTERS, 1, 0xC0, igmp.ROUTER_ALERT)
            assert header.source == parse_address("10.0.0.2") and mac == b"\x01\x00\x5e\x00\x00\x16"
        else:
            assert (header.destination, header.hop_limit) == (mld.ALL_REPORT_ROUTERS, 1)
            assert header.source[:2] == b"\xfe\x80" and mac == b"\x33\x33\0\0\0\x16"
    net.frames.clear()
    other = net.server.open_udp(5001)
    groups.join(other, GROUP4, 2, net.now)
    groups.leave(other, GROUP4, 0, net.now)
    net.rest(5.0)
    assert not messages(net), "somebody else is in it"
    endpoint.close(net.now)
    net.rest(5.0)
    assert said(net) == {(GROUP4, CHANGE_TO_INCLUDE_MODE), (GROUP6, CHANGE_TO_INCLUDE_MODE)}


def test_an_address_brings_its_solicited_node_group(pair):
    net = pair()
    net.rest(5.0)
    own = {group for group, _ in said(net)}
    assert parse_address("ff02::1:ff00:2") in own and parse_address("ff02::1:ff00:1") in own
    net.frames.clear()
    address = parse_address("2001:db8::abcd")
    net.server.stack.add_address(net.server.interface, address, 64, net.now, probe=True)
    net.rest(5.0)
    first = next(frame[14:] for _, frame, _ in net.frames)
    assert first[6] == ipv6.HOP_BY_HOP, "before anybody is asked whose it is"
    net.frames.clear()
    net.server.stack.remove_address(net.server.interface, address, net.now)
    net.rest(5.0)
    assert said(net) == {(parse_address("ff02::1:ff00:abcd"), CHANGE_TO_INCLUDE_MODE)}


@pytest.mark.parametrize("packet", [query4(), query4(GROUP4), query4(GROUP4, destination=parse_address("10.0.0.2")),
                                    query4(options=b"\x01\x01\x01\x01" + igmp.ROUTER_ALERT), query4(version=1, options=b"")])  # fmt: skip
def test_who_asks_is_answered(net, member, tools, packet):
    ask(net, tools, packet)
    net.rest(10.0)
    assert said(net) == {(GROUP4, MODE_IS_EXCLUDE)}


@pytest.mark.parametrize("packet", [query6(), query6(GROUP6)])
def test_who_asks_is_answered_6(net, member, tools, packet):
    ask(net, tools, packet)
    assert (GROUP6, MODE_IS_EXCLUDE) in said(net)


@pytest.mark.parametrize("packet", [
    query4(ttl=2), query4(options=b""), query4(destination=parse_address("10.0.0.2")), query4(parse_address("239.9.9.9")),
    query6(hops=255), query6(alert=False), query6(source=parse_address("2001:db8::99")), query6(destination=parse_address("2001:db8::2")),
    query6(parse_address("ff05::9")), query4(source=parse_address("127.0.0.1")),
])  # fmt: skip
def test_who_is_not(net, member, tools, packet):
    ask(net, tools, packet)
    assert not messages(net)


def test_what_is_malformed_is_counted(net, member, tools):
    broken = [
        ipv4.emit(ipv4.Ipv4Header(ROUTER4, ALL4, 2, 1, options=igmp.ROUTER_ALERT), payload)
        for payload in (b"", b"\x11", b"\x11" * 8, igmp.emit(Query(None, 1.0, 3))[:-1])
    ]
    raw = mld.emit(Query(None, 1.0, 3), ROUTER6, ALL6)
    broken.append(ipv6.emit(ipv6.Ipv6Header(ROUTER6, ALL6, 0, 1), ipv6.emit_router_alert(58) + raw[:26]))
    before = sum(net.server.interface.counters.values())
    for packet in broken:
        ask(net, tools, packet)
    assert not messages(net) and sum(net.server.interface.counters.values()) > before


def test_no_answer_is_ever_an_error(net, tools):
    """IGMP is spoken here: no Protocol Unreachable, whoever it was sent to."""
    ask(net, tools, query4(GROUP4, destination=parse_address("10.0.0.2")))
    assert not net.server.stack.counters["IcmpOutErrors"]


def ping(net, tools, options):
    packet = ipv4.emit(ipv4.Ipv4Header(ROUTER4, parse_address("10.0.0.2"), 1, options=options), icmpv4.emit(icmpv4.echo_request(1, 2, b"hello")))
    net.frames.clear()
    net.link.inject(tools.framed(packet, net.server.interface.link.address), net.server)
    net.rest(3.0)
    replies = [ipv4.parse(frame[14:]) for _, frame, _ in net.frames if ethernet.parse(frame).ethertype == 0x0800 and frame[23] == 1]
    return replies[0].options if replies else None


def test_a_ping_with_options(net, tools):
    """RFC 1122 3.2.2.6, RFC 7126 4.3 to 4.6."""
    assert ping(net, tools, b"\x07\x07\x04\0\0\0\0\x01") == b"\x07\x07\x08\x0a\0\0\2\0"
    assert ping(net, tools, b"\x94\x04\0\0") == b""
    for route in (131, 137):
        assert ping(net, tools, bytes((route, 7, 4, 10, 0, 0, 9, 0))) is None
        assert ping(net, tools, bytes((1, 1, route, 3, 4, 0, 0, 0))) is None
    assert ping(net, tools, b"\x01\x82\0\0") == b""
