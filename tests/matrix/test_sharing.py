"""What several flows make of one link, and one flow of a long fat one."""

import pytest

from swos_net.config import StackConfig, TcpConfig
from swos_net.tcp.congestion import CONTROLLERS
from swos_net.testing.network import Network


def share(controller, flows=2, *, seed, rtt=0.06, seconds=16.0, **bottleneck):
    """Bits per second that flows from as many hosts get through one bottleneck, after the first quarter of the time."""
    network = Network(seed)
    config = StackConfig(tcp=TcpConfig(congestion=controller, ecn="on"))
    router = network.add_router("router")
    receiver = network.add_host("receiver", ["10.99.0.1/24"], config=config)
    network.link(router, receiver, **bottleneck)
    senders = [network.add_host(f"sender{number}", [f"10.{number}.0.1/24"], config=config) for number in range(flows)]
    for sender in senders:
        # without jitter the same flow finds the queue full every time
        network.link(sender, router, delay=rtt / 2, jitter=rtt / 20)
    acceptor = receiver.listen(80)
    streams = [sender.connect("10.99.0.1", 80).send(bytes(int(bottleneck["bandwidth"] * seconds / 8))) for sender in senders]
    network.run(until=seconds / 4)
    received = {stream.endpoint.remote: stream for stream in acceptor.streams}
    order = [received[stream.endpoint.local] for stream in streams]
    before = [len(stream.received) for stream in order]
    network.run(until=seconds)
    return [(len(stream.received) - start) * 8 / (seconds * 0.75) for stream, start in zip(order, before)]


@pytest.mark.parametrize("controller", ["reno", "cubic"])
@pytest.mark.parametrize("queue", [dict(queue_packets=25), dict(queue_packets=100, ecn_threshold=25_000)], ids=["drop-tail", "ecn"])
def test_two_flows_share_alike(controller, queue):
    runs = [share(controller, seed=seed, bandwidth=4e6, **queue) for seed in (1, 2, 3)]
    first, second = (sum(rates) / len(runs) for rates in zip(*runs))
    assert max(first, second) < 1.2 * min(first, second), runs
    for rates in runs:
        assert sum(rates) > 0.8 * 4e6 and max(rates) < 2 * min(rates), runs


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_four_flows_use_the_link_and_none_starves(controller):
    rates = share(controller, 4, rtt=0.02, seed=1, bandwidth=4e6, queue_packets=40)
    assert sum(rates) > 0.9 * 4e6
    assert min(rates) > 0.1 * 4e6, rates


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_gigabit_over_a_tenth_of_a_second(controller):
    """More than 12 MB must be under way at all times; frames are handed over in groups, as a network card does."""
    network = Network(1)
    config = StackConfig(tcp=TcpConfig(congestion=controller, send_buffer=1 << 26, receive_buffer=1 << 26))
    client, server = (network.add_host(name, [f"10.0.0.{number}/24"], config=config) for number, name in enumerate(("client", "server"), 1))
    network.link(client, server, delay=0.05, bandwidth=1e9, coalesce=0.0005)
    acceptor = server.listen(80)
    client.connect("10.0.0.2", 80).send(bytes(90_000_000))
    network.run(until=lambda: acceptor.streams, limit=2)
    (stream,) = acceptor.streams
    network.run(until=lambda: len(stream.received) > 50_000_000, limit=10)
    started, before = network.now, len(stream.received)
    assert started < 5
    network.run(until=started + 0.2)
    assert (len(stream.received) - before) * 8 / 0.2 > 0.9e9
