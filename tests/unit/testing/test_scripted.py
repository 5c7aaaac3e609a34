"""Rules that choose frames."""

import pytest

from swos_net.link import Medium
from swos_net.testing.network import Network
from swos_net.testing.packet import Decoder, Frame
from swos_net.testing.scripted import DROP, Rule
from swos_net.wire.tcp import ACK, FIN, SYN

from swos_net.address import parse_address
from swos_net.wire import ipv4, tcp


def packet(seq, length, port=1000, flags=ACK):
    addresses = parse_address("10.0.0.1"), parse_address("10.0.0.2")
    raw = tcp.emit(tcp.TcpHeader(port, 80, seq & 0xFFFFFFFF, 0, flags, 0), bytes(length), *addresses)
    return Decoder().decode(Frame(ipv4.emit(ipv4.Ipv4Header(*addresses, 6), raw)), 0, Medium.IP)


def chosen(rule, *packets):
    return [index for index, one in enumerate(packets) if rule.wants(one)]


START = 0xFFFFFF00


def test_a_segment_and_its_retransmissions():
    rule = Rule(DROP, segment=2, times=2)
    assert chosen(rule, packet(START - 1, 0, flags=SYN), packet(START, 200), packet(START, 0), packet(START + 200, 200),
                  packet(START, 200), packet(START + 400, 200), packet(START + 100, 250), packet(START + 200, 200)) == [3, 6]  # fmt: skip
    assert rule.done and [hit.length for hit in rule.hits] == [200, 250]


def test_a_byte_of_the_stream():
    rule = Rule(DROP, offset=500, times=None)
    assert chosen(rule, packet(START, 200), packet(START + 200, 300), packet(START + 500, 1), packet(START + 501, 200),
                  packet(START + 300, 201), packet(START + 500, 10, port=1001)) == [2, 4]  # fmt: skip
    assert not rule.done


def test_segments_of_all_connections_are_counted_and_one_is_chosen():
    rule = Rule(DROP, segment=2, times=None)
    assert chosen(rule, packet(100, 50, port=1), packet(700, 50, port=2), packet(150, 50, port=1), packet(700, 50, port=2)) == [1, 3]


def test_a_predicate_alone_and_besides():
    assert chosen(Rule(DROP, where=lambda p: p.flags & FIN), packet(1, 2), packet(3, 0, flags=FIN), packet(3, 0, flags=FIN)) == [1]
    rule = Rule(DROP, offset=0, where=lambda p: p.length > 10)
    assert chosen(rule, packet(1, 10), packet(1, 20)) == [1]


def test_the_next_frames_whatever_they_are():
    assert chosen(Rule(DROP, times=2), packet(1, 0), packet(1, 5), packet(1, 7)) == [0, 1]


@pytest.mark.parametrize("chosen", [dict(segment=1, offset=2), dict(segment=0), dict(offset=-1), dict(times=None)])
def test_rules_that_make_no_sense(chosen):
    with pytest.raises(ValueError):
        Rule(DROP, **chosen)


def two_hosts(**link):
    network = Network(1)
    client, server = (network.add_host(name, [f"10.0.0.{number}/24"]) for number, name in enumerate(("client", "server"), 1))
    network.link(client, server, **link)
    acceptor = server.listen(80)
    stream = client.connect("10.0.0.2", 80)
    network.run(until=lambda: acceptor.streams)
    return network, network.links[0].towards(server), stream, acceptor.streams[0]


def test_dropping_in_a_network():
    network, wire, stream, received = two_hosts(delay=0.05)
    rule = wire.drop(segment=3, times=3)
    stream.send(bytes(50_000)).shutdown()
    network.run(until=lambda: received.ended)
    assert len(rule.hits) == wire.dropped == 3 and len({hit.seq for hit in rule.hits}) == 1
    assert len(received.received) == 50_000 and network.now > 0.6, "a timeout or two"


def test_postponing_and_duplicating_and_marking():
    network, wire, stream, received = two_hosts()
    rules = wire.postpone(1.0, segment=1), wire.duplicate(3, segment=2), wire.mark(segment=3)
    stream.send(bytes(1000))
    network.run(until=network.now + 0.15)
    assert not received.received and rules[0].done
    before = wire.delivered
    stream.send(bytes(1000))
    network.run(until=lambda: len(received.received) == 2000)
    stream.send(bytes(1000))
    network.run(until=lambda: len(received.received) == 3000)
    assert wire.duplicated == 2 and wire.delivered > before and all(rule.done for rule in rules)
    assert wire.marked == 0, "this sender is not ECN-capable"
