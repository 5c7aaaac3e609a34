"""What a capability does not allow leaves no trace on the link."""

import errno
import io
from random import Random

import pytest

from swos_net.address import parse_address
from swos_net.capability import CapabilityError
from swos_net.device.pair import make_pair
from swos_net.device.pcap import PcapTap
from swos_net.runtime.open_stack import open_stack


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


def test_denied_operations_leave_nothing_in_a_capture():
    """Neither a packet nor a question for a neighbour's address, with the errors that tell the program."""
    capture = io.BytesIO()
    ours, theirs = make_pair()
    poller = open_stack(PcapTap(ours, capture), addresses=["10.0.0.1/24"], dhcp_server=False, random=Random(1), now=0.0)
    stack = poller.stack

    def recorded(until, begin):
        for step in range(10 * (until - begin)):
            while poller.poll(begin + step / 10):
                pass
        poller.ports[0].device._flush()
        return len(capture.getvalue())

    announced = recorded(20, 0)
    neighbour = parse_address("10.0.0.2")
    only = stack.root.attenuate("tcp:connect:10.0.0.0/24:* udp:send:10.0.0.0/24:* tcp:bind:*:*", deny="*:*:10.0.0.2:*")
    refused(stack.tcp_connect, only, neighbour, 80, 20.0)
    refused(stack.tcp_connect, only, parse_address("::ffff:10.0.0.2"), 80, 20.0)
    refused(stack.tcp_listen, only, parse_address("10.0.0.1"), 80)
    endpoint = stack.udp_open(only, parse_address("0.0.0.0"))
    for payload in (b"", b"x", bytes(4000)):
        refused(endpoint.send_to, payload, neighbour, 53, 20.0)
    refused(endpoint.connect, neighbour, 53)
    assert recorded(80, 20) == announced
    endpoint.send_to(b"x", parse_address("10.0.0.3"), 53, 80.0)
    assert recorded(81, 80) > announced, "the capture does not see what is sent"
    theirs.close()


def test_what_was_not_granted_does_not_go_out_whoever_forgot_to_ask(pair):
    """The last line: an endpoint whose capability is exchanged for one that nobody asked stays silent."""
    net = quiet(pair())
    other = net.client.stack.root.attenuate("tcp:connect:10.0.0.77:80 udp:send:10.0.0.77:*")
    stream = net.client.connect(net.server_address[4], 80)
    stream.endpoint.capability = other
    datagrams = net.client.open_udp()
    net.client.send_udp(datagrams, b"x", net.server_address[4], 53)
    datagrams.capability = other
    net.rest(30.0)
    assert net.frames == []
    assert net.client.stack.counters["OutNotAllowed"] >= 2


def test_who_accepts_is_asked_before_anything_is_answered(pair):
    """Denials count for those who come, too."""
    net = quiet(pair())
    only = net.server.stack.root.attenuate("*:*:*:*", deny="*:accept:10.0.0.1:* udp:send:10.0.0.1:*")
    acceptor = net.server.listen(80, address="0.0.0.0", capability=only)
    endpoint = net.server.open_udp(53, address="0.0.0.0", capability=only)
    net.client.connect(net.server_address[4], 80)
    net.client.send_udp(net.client.open_udp(), b"x", net.server_address[4], 53)
    net.rest(5.0)
    assert not acceptor.streams and endpoint.receive() is None
    assert net.server.interface.counters["DropNotAllowed"] >= 2
    assert all(header.destination_port == 80 for _, header, _, _ in net.segments())
