"""Idle connections give their queues' memory back, and nobody is woken for that while nothing happens."""

import random

from swos_net.address import LOOPBACK4, UNSPECIFIED4
from swos_net.runtime.poll import Poller
from swos_net.stack.stack import Stack
from swos_net.stack.trimmer import INTERVAL, SLICE


def connected(count):
    stack = Stack(random=random.Random(1))
    poller = Poller(stack)
    listener = stack.tcp_listen(stack.root, UNSPECIFIED4, 80, count)
    clients = [stack.tcp_connect(stack.root, LOOPBACK4, 80, 1.0) for _ in range(count)]
    poller.flush(1.0)
    return stack, poller, clients, [listener.accept() for _ in range(count)]


def run(poller, until):
    while (deadline := poller.next_deadline()) is not None and deadline <= until:
        poller.poll(deadline)


def touched(endpoint):
    rings = endpoint.connection.tcb.send_ring, endpoint.connection.tcb.receive_ring
    return [bool(ring.c.touched) for ring in rings if ring is not None]


def test_empty_queues_are_given_back_and_full_ones_are_not():
    _, poller, (client, other), (server, unread) = connected(2)
    for endpoint in (client, other):
        endpoint.send(b"x" * 1000, 1.0)
    poller.flush(1.0)
    assert server.receive(2000, 1.0) == b"x" * 1000
    run(poller, 1.0 + 3 * INTERVAL)
    assert touched(client) == [False] and touched(server) == [False]
    assert touched(unread) == [True] and unread.receive(2000, 9.0) == b"x" * 1000
    client.send(b"y" * 1000, 9.0)
    poller.flush(9.0)
    assert server.receive(2000, 9.0) == b"y" * 1000


def test_it_rests_when_nothing_happens_and_goes_on_when_something_does():
    stack, poller, (client,), (server,) = connected(1)
    run(poller, 60.0)
    assert stack.trimmer.resting and stack.trimmer.next_deadline() is None
    client.send(b"x", 60.0)
    poller.flush(60.0)
    assert not stack.trimmer.resting
    server.receive(1, 60.0)
    run(poller, 120.0)
    assert stack.trimmer.resting and touched(client) == [False]


def test_many_are_looked_at_in_slices():
    stack, _, clients, _ = connected(3)
    stack.tcp.flows = {number: clients[number % 3] for number in range(2 * SLICE + 1)}
    stack.trimmer.handle_timeout(10.0)
    assert len(stack.trimmer._left) == SLICE + 1 and stack.trimmer.next_deadline() < 10.1
    stack.trimmer.handle_timeout(10.1)
    stack.trimmer.handle_timeout(10.2)
    assert not stack.trimmer._left
