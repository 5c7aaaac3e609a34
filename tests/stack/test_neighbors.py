"""ARP and NDP as part of a stack: resolution, failure, probes for addresses."""

import pytest

from swos_net.address import parse_address
from swos_net.neighbor.cache import NeighborState
from swos_net.wire import arp, ethernet
from swos_net.wire.arp import ArpPacket


def arp_packets(net):
    return [
        arp.parse(frame[14:]) for _, frame, _ in net.frames if ethernet.parse(frame).ethertype == ethernet.ETHERTYPE_ARP
    ]


def solicitations(net):
    ipv6_frames = [frame for _, frame, _ in net.frames if ethernet.parse(frame).ethertype == ethernet.ETHERTYPE_IPV6]
    return [frame for frame in ipv6_frames if frame[20] == 58 and frame[54] == 135]


def test_one_question_one_answer(pair):
    net = pair()
    net.rest(10.0)
    net.frames.clear()
    stream, _ = net.open(4)
    assert [packet.operation for packet in arp_packets(net)] == [arp.REQUEST, arp.REPLY]
    entry = net.client.interface.neighbors.lookup(parse_address(net.server_address[4]))
    assert entry.link_address == net.server.interface.link.address


def test_ndp_asks_the_solicited_node_group(pair):
    net = pair()
    net.rest(10.0)
    net.frames.clear()
    net.open(6)
    (first, *rest) = solicitations(net)
    assert first[:6] == b"\x33\x33\xff\x00\x00\x02"
    assert len(rest) <= 1


@pytest.mark.parametrize("family", [4, 6])
def test_three_questions_then_silence(pair, family):
    net = pair()
    net.rest(10.0)
    net.frames.clear()
    client = net.client.open_udp()
    net.client.send_udp(client, b"?", net.nobody[family], 53)
    net.rest(60.0)
    assert len(arp_packets(net) if family == 4 else solicitations(net)) == 3
    assert net.client.interface.neighbors.lookup(parse_address(net.nobody[family])) is None
    assert net.client.stack.counters["NeighborUnreachable"] == 1


def test_a_stale_neighbour_is_used_and_probed(pair):
    net = pair()
    client, server = net.open(4)
    net.rest(200.0)
    net.frames.clear()
    client.send(b"x")
    net.run(lambda: server.received == b"x", limit=0.1)
    net.rest(20.0)
    assert [packet.operation for packet in arp_packets(net)][:2] == [arp.REQUEST, arp.REPLY]
    entry = net.client.interface.neighbors.lookup(parse_address(net.server_address[4]))
    assert entry.state in (NeighborState.REACHABLE, NeighborState.STALE)


def test_a_neighbour_that_moved_is_followed(pair, tools):
    """Its announcement changes the address frames go to, in the middle of a connection."""
    net = pair()
    client, server = net.open(4)
    net.rest(10.0)
    new = b"\x02\x00\x00\x00\x00\x77"
    packet = arp.emit(
        ArpPacket(
            arp.REQUEST, new, parse_address(net.server_address[4]), bytes(6), parse_address(net.server_address[4])
        )
    )
    frame = ethernet.emit(ethernet.EthernetHeader(b"\xff" * 6, new, ethernet.ETHERTYPE_ARP), packet)
    net.link.inject(frame, net.client)
    net.rest(0.1)
    net.frames.clear()
    client.send(b"x")
    net.rest(0.01)
    assert net.frames[0][1][:6] == new


def test_an_address_is_probed_before_it_is_used(pair):
    """RFC 5227 2.1"""
    net = pair()
    net.rest(10.0)
    net.frames.clear()
    address = parse_address("10.0.0.7")
    net.client.stack.add_address(net.client.interface, address, 24, net.now, probe=True)
    assert not net.client.stack.is_local(address)
    net.rest(10.0)
    probes = [packet for packet in arp_packets(net) if packet.sender_address == parse_address("0.0.0.0")]
    assert len(probes) == 3 and net.client.stack.is_local(address)


@pytest.mark.parametrize("address, length", [("10.0.0.2", 24), ("2001:db8::2", 64)])
def test_an_address_that_somebody_has_is_not_used(pair, address, length):
    net = pair()
    net.rest(10.0)
    events = []
    net.client.stack.on_event = lambda event, interface: events.append(event)
    net.client.stack.add_address(net.client.interface, parse_address(address), length, net.now, probe=True)
    net.rest(20.0)
    assert not net.client.stack.is_local(parse_address(address))
    assert net.client.interface.counters["AddressConflicts"] >= 1
    assert events
    stream, _ = net.open(4)
    assert stream.endpoint.local == parse_address(net.client_address[4])


def test_packets_for_one_neighbour_are_held_within_limits(pair):
    net = pair()
    net.link.change(loss=1.0)
    client = net.client.open_udp()
    held = net.client.stack.config.neighbor.held_packets
    for number in range(held + 100):
        net.client.send_udp(client, b"%d" % number, net.server_address[4], 53)
    net.rest(0.5)
    assert net.client.interface.neighbors.counters.held_dropped == 100
    net.link.change(loss=0.0)
    server = net.server.open_udp(53)
    net.rest(5.0)
    received = []
    while (datagram := server.receive()) is not None:
        received.append(int(datagram.payload))
    assert received == list(range(100, held + 100)), "the newest are kept, in order"


def test_connections_that_begin_at_once_all_wait_for_their_neighbour(pair):
    net = pair(delay=0.01)
    net.server.listen(80)
    streams = [net.client.connect(net.server_address[4], 80) for _ in range(64)]
    net.run(lambda: all(stream.connected for stream in streams), limit=0.5)
    assert not any(stream.endpoint.connection.tcb.retransmitted_segments for stream in streams)


def test_a_burst_of_data_survives_a_neighbour_that_is_not_known_yet(pair, tools):
    """Super-segments that wait for their neighbour wait whole."""
    net = pair(delay=0.01)
    client, server = net.open(4)
    net.rest(1.0)
    neighbors = net.client.interface.neighbors
    neighbors.forget(parse_address(net.server_address[4]))
    net.frames.clear()
    client.send(bytes(10_000))
    net.run(lambda: len(server.received) == 10_000, limit=1)
    data = [payload for _, _, payload, _ in net.segments() if payload]
    assert sum(map(len, data)) == 10_000, "something was sent twice"
    assert client.endpoint.connection.tcb.retransmitted_segments == 0
