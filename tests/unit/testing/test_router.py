"""Routers between hosts: ways, lifetimes, what does not fit, and silence."""

import errno

import pytest

from swos_net.address import parse_address
from swos_net.link import Medium, Offload
from swos_net.testing.checkers import Checksums, SoundStream
from swos_net.testing.network import Network
from swos_net.testing.recorder import Recorder

LEFT, RIGHT = ["10.1.0.1/24", "2001:db8:1::1/64"], ["10.2.0.1/24", "2001:db8:2::1/64"]
TARGET = {4: "10.2.0.1", 6: "2001:db8:2::1"}
FAMILIES = (4, 6)


def three(seed=1, *, silent=False, medium=Medium.ETHERNET, first=None, second=None):
    """left - router - right"""
    network = Network(seed)
    left, right = network.add_host("left", LEFT), network.add_host("right", RIGHT)
    router = network.add_router("router", silent=silent)
    network.link(left, router, medium=medium, **(first or {}))
    network.link(router, right, medium=medium, **(second or {}))
    network.observe(Checksums())
    return network, left, router, right


def transfer(network, client, server, address, size=50_000, limit=60.0):
    acceptor = server.listen(80)
    stream = client.connect(address, 80).send(bytes(size)).shutdown()
    network.run(until=lambda: acceptor.streams and acceptor.streams[0].ended, limit=limit)
    acceptor.close()
    assert len(acceptor.streams[0].received) == size
    return stream


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("medium", list(Medium))
def test_a_connection_through_a_router(family, medium):
    network, left, router, right = three(medium=medium)
    recorder = network.observe(Recorder())
    network.observe(SoundStream())
    transfer(network, left, right, TARGET[family])
    assert router.counters["forwarded"] > 35 and "forwarded" in repr(router)
    header = 14 if medium is Medium.ETHERNET else 0
    lifetimes = {crossing.wire.name: crossing.frame.data[header + (8 if family == 4 else 7)] for crossing in recorder.segments()}
    assert lifetimes == {"left > router": 64, "router > right": 63, "right > router": 64, "router > left": 63}


def test_routers_in_a_row_and_the_shortest_way():
    network = Network()
    left, right = network.add_host("left", LEFT), network.add_host("right", RIGHT)
    routers = [network.add_router(f"r{number}") for number in range(5)]
    network.link(left, routers[0])
    for number in range(4):
        network.link(routers[number], routers[number + 1])
    network.link(routers[4], right)
    transfer(network, left, right, TARGET[6])
    assert all(router.counters["forwarded"] for router in routers)
    network.link(routers[0], routers[4])
    network.run(until=network.now + 1.0)
    before = routers[2].counters["forwarded"]
    transfer(network, left, right, TARGET[4])
    assert routers[2].counters["forwarded"] == before


@pytest.mark.parametrize("family", FAMILIES)
def test_nobody_there(family):
    network, left, router, _ = three()
    stream = left.connect({4: "10.9.0.1", 6: "2001:db8:9::1"}[family], 80)
    network.run(until=lambda: stream.closed, limit=5.0)
    assert stream.error == errno.ENETUNREACH and router.counters["no_route"] == 1


def test_packets_do_not_go_round_for_ever():
    network, left, router, right = three()
    network.run(until=1.0)
    endpoint = left.open_udp()
    left.send_udp(endpoint, b"", "10.2.0.1", 9)
    network.run(until=2.0)
    recorder = network.observe(Recorder())
    link = network.links[0]
    left.send_udp(endpoint, b"x", "10.2.0.1", 9)
    network.run(until=3.0)
    frame = next(crossing.frame.data for crossing in recorder if crossing.packet.protocol == 17)
    expiring = bytearray(frame)
    expiring[22] = 1
    expiring[24:26] = ((int.from_bytes(frame[24:26], "big") + (frame[22] - 1 << 8)) % 0xFFFF).to_bytes(2, "big")
    recorder.clear()
    link.inject(bytes(expiring), router)
    network.run(until=4.0)
    (answer,) = recorder
    assert router.counters["expired"] == 1 and "ICMP time exceeded" in str(answer) and answer.packet.source == "10.1.0.254"
    damaged = bytearray(frame)
    damaged[30] ^= 1
    link.inject(bytes(damaged), router)
    network.run(until=5.0)
    assert router.counters["bad_header"] == 1 and len(recorder) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_smaller_path_is_said_and_found_out(family):
    network, left, router, right = three(second=dict(packet_max=1300))
    transfer(network, left, right, TARGET[family])
    assert 0 < router.counters["too_big"] <= 20
    assert network.links[1].wires[0].too_long == 0


def test_a_smaller_link_between_routers_is_said_and_found_out():
    network = Network()
    left, right = network.add_host("left", LEFT), network.add_host("right", RIGHT)
    routers = network.add_router("near"), network.add_router("far")
    network.link(left, routers[0])
    network.link(*routers, mtu=1300)
    network.link(routers[1], right)
    transfer(network, left, right, TARGET[6])
    assert routers[0].counters["too_big"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_path_shrinks_in_the_middle(family):
    network, left, router, right = three(first=dict(delay=0.01))
    network.at(0.2, lambda: network.links[1].change(packet_max=1280))
    acceptor = right.listen(80)
    stream = left.connect(TARGET[family], 80)
    stream.send(bytes(20_000))
    network.run(until=0.2)
    assert len(acceptor.streams[0].received) == 20_000 and not router.counters["too_big"]
    stream.send(bytes(20_000))
    network.run(until=lambda: len(acceptor.streams[0].received) == 40_000, limit=5)
    assert router.counters["too_big"]


def test_a_silent_router_is_a_black_hole():
    network, left, router, right = three(silent=True, second=dict(packet_max=1300))
    recorder = network.links[0].towards(left).observe(Recorder())
    right.listen(80)
    left.connect(TARGET[4], 80).send(bytes(50_000))
    network.run(until=1.0)
    assert router.counters["too_big"] and not any("ICMP" in str(crossing) for crossing in recorder)


def test_datagrams_are_cut_where_they_may_be():
    network, left, router, right = three(second=dict(mtu=600))
    received = right.open_udp(53)
    left.send_udp(left.open_udp(), bytes(1400), "10.2.0.1", 53)
    datagram = network.run(until=received.receive, limit=5)
    assert len(datagram.payload) == 1400 and router.counters["fragmented"] == 1


def test_addresses_and_gateways_by_hand():
    network = Network()
    left, right = network.add_host("left", ["10.1.0.1/24"], gateways=["10.1.0.9"]), network.add_host("right", ["10.2.0.1/31"])
    router = network.add_router("router")
    network.link(left, router, addresses=(["10.1.0.1/24"], ["10.1.0.9/24"]))
    network.link(right, router, addresses=(["10.2.0.1/31"], ["10.2.0.0/31"]))
    transfer(network, left, right, "10.2.0.1")
    assert router.ports[0].addresses == [parse_address("10.1.0.9")]


def test_two_flows_share_what_there_is():
    network = Network()
    senders = [network.add_host(f"sender{number}", [f"10.{number}.0.1/24"]) for number in (1, 2)]
    receiver, router = network.add_host("receiver", ["10.3.0.1/24"]), network.add_router("router")
    for sender in senders:
        network.link(sender, router)
    link = network.link(router, receiver, bandwidth=10e6, queue_packets=20)
    acceptor = receiver.listen(80)
    for sender in senders:
        sender.connect("10.3.0.1", 80).send(bytes(1_000_000)).shutdown()
    network.run(until=lambda: len(acceptor.streams) == 2 and all(stream.ended for stream in acceptor.streams), limit=10)
    assert network.now > 2_000_000 * 8 / 10e6
    assert link.towards(receiver).overflowed


@pytest.mark.parametrize("conditions", [dict(offloads=Offload.CHECKSUM), dict(offloads=Offload.CHECKSUM, corrupt=0.1)])
def test_links_that_make_no_sense(conditions):
    network = Network()
    host, other = network.add_host("host", LEFT), network.add_host("other", RIGHT)
    far = other if "corrupt" in conditions else network.add_router("router")
    with pytest.raises(ValueError, match="no offloads"):
        network.link(host, far, **conditions)
