"""What a capability does not allow leaves no trace on the link."""

import errno

import pytest

from swos_net.address import parse_address
from swos_net.capability import CapabilityError


def quiet(net):
    """Lets announcements and the like pass; `frames` start anew."""
    net.rest(20.0)
    net.frames.clear()
    return net


def refused(call, *arguments, **keywords):
    with pytest.raises(CapabilityError) as caught:
        call(*arguments, **keywords)
    assert caught.value.errno == errno.EACCES and isinstance(caught.value, PermissionError)


def test_connecting(pair):
    net = quiet(pair())
    only = net.client.stack.root.attenuate("tcp:connect:10.0.0.2:80")
    for address, port in ((net.server_address[4], 81), (net.nobody[4], 80), (net.server_address[6], 80)):
        refused(net.client.connect, address, port, capability=only)
    refused(net.client.connect, net.server_address[4], 80, local_port=4000, capability=only)
    refused(net.client.open_udp, 5353, capability=only)
    refused(net.client.listen, 80, capability=only)
    net.rest(30.0)
    assert net.frames == [] and not net.client.stack.tcp.flows
    net.server.listen(80)
    stream = net.client.connect(net.server_address[4], 80, capability=only)
    net.run(lambda: stream.connected)


def test_sending_datagrams(pair):
    net = quiet(pair())
    only = net.client.stack.root.attenuate("udp:send:10.0.0.2:53")
    endpoint = net.client.open_udp(capability=only)
    refused(net.client.send_udp, endpoint, b"x", net.server_address[4], 54)
    refused(net.client.send_udp, endpoint, b"x", net.server_address[6], 53)
    refused(endpoint.connect, parse_address(net.nobody[4]), 53)
    refused(net.client.send_udp, endpoint, bytes(5000), net.server_address[4], 54)
    net.rest(30.0)
    assert net.frames == []


def test_a_listener_answers_only_those_it_may_accept(pair):
    """Others get no SYN,ACK and no RST: the port looks like nothing."""
    net = quiet(pair())
    only = net.server.stack.root.attenuate("tcp:bind,listen:0.0.0.0/0:80 tcp:accept:10.0.0.77:80")
    acceptor = net.server.listen(80, address="0.0.0.0", capability=only)
    stream = net.client.connect(net.server_address[4], 80)
    net.rest(20.0)
    assert not stream.connected and not stream.closed
    assert not acceptor.streams and not net.server.stack.tcp.flows
    assert all(header.destination_port == 80 for _, header, _, _ in net.segments()), "the server answered"


def test_an_accepted_connection_may_send_to_its_peer_and_nowhere_else(pair):
    net = pair()
    client, server = net.open()
    capability = server.endpoint.capability
    assert capability.allows("send", "tcp", server.endpoint.remote, server.endpoint.remote_port)
    refused(net.server.connect, net.client_address[4], 80, capability=capability)
    refused(net.server.open_udp, 53, capability=capability)


def test_datagrams_from_strangers_are_not_delivered(pair):
    net = quiet(pair())
    only = net.server.stack.root.attenuate("udp:bind:0.0.0.0/0:5353 udp:accept:10.0.0.77:5353")
    endpoint = net.server.open_udp(5353, address="0.0.0.0", capability=only)
    net.client.send_udp(net.client.open_udp(), b"let me in", net.server_address[4], 5353)
    net.rest(1.0)
    assert endpoint.receive() is None
    assert net.server.interface.counters["DropNotAllowed"] == 1


def test_an_answer_to_what_was_sent_is_delivered(pair):
    net = quiet(pair())
    only = net.client.stack.root.attenuate("udp:send:10.0.0.2:53")
    client = net.client.open_udp(capability=only)
    server = net.server.open_udp(53)
    net.client.send_udp(client, b"question", net.server_address[4], 53)
    question = net.run(server.receive)
    server.send_to(b"answer", question.remote, question.remote_port, net.now)
    assert net.run(client.receive).payload == b"answer"
