"""Connections end: every order of closing, resets, TIME-WAIT."""

import errno

import pytest

from swos_net.tcp.state import State
from swos_net.wire.tcp import FIN, RST, SYN


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("first", ["client", "server"])
def test_one_after_the_other(pair, first, family):
    net = pair()
    streams = dict(zip(("client", "server"), net.open(family)))
    one = streams.pop(first)
    (other,) = streams.values()
    one.send(b"goodbye").close()
    net.run(lambda: other.ended)
    assert other.received == b"goodbye" and other.state is State.CLOSE_WAIT
    other.close()
    net.run(lambda: other.closed)
    assert one.state is State.TIME_WAIT and not other.error
    net.run(lambda: one.closed, limit=61)
    assert not net.client.stack.tcp.flows and not net.server.stack.tcp.flows


def test_both_at_once(pair):
    net = pair(delay=0.1)
    client, server = net.open()
    net.rest(1.0)
    client.close()
    server.close()
    net.run(lambda: client.state is State.TIME_WAIT and server.state is State.TIME_WAIT, limit=5)
    net.run(lambda: client.closed and server.closed, limit=61)


def test_half_closed_the_other_half_still_works(pair):
    net = pair()
    client, server = net.open()
    client.send(b"question").shutdown()
    net.run(lambda: server.ended)
    server.send(bytes(200_000)).close()
    net.run(lambda: client.ended)
    assert len(client.received) == 200_000
    with pytest.raises(BrokenPipeError):
        client.send(b"more")


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_lost_fin_is_sent_again(pair, who):
    net = pair()
    client, server = net.open()
    net.rest(1.0)
    one, other = (client, server) if who == "client" else (server, client)
    lost = net.link.towards(net.server if who == "client" else net.client).drop(
        where=lambda packet: packet.is_tcp and packet.flags & FIN, times=2
    )
    one.close()
    net.run(lambda: other.ended)
    assert lost.done
    other.close()
    net.run(lambda: one.closed and other.closed, limit=100)


def test_a_reset_tells_the_other_side(pair):
    net = pair()
    client, server = net.open()
    client.send(b"before")
    net.run(lambda: server.received)
    client.abort()
    net.run(lambda: server.closed)
    assert server.error == errno.ECONNRESET and server.received == b"before"


def test_closing_with_unread_data_resets(pair):
    net = pair()
    client, server = net.open()
    server.pause()
    client.send(b"nobody will read this")
    net.rest(1.0)
    server.close()
    net.run(lambda: client.closed)
    assert client.error == errno.ECONNRESET


def test_data_for_one_who_has_closed_is_reset(pair):
    net = pair()
    client, server = net.open()
    server.close()
    net.run(lambda: client.ended)
    client.send(b"too late")
    net.run(lambda: client.closed and server.closed)
    assert client.error in (errno.EPIPE, errno.ECONNRESET)


def test_time_wait_gives_way_to_a_new_syn_of_the_same_flow(pair):
    """RFC 9293 3.6.1, RFC 6191: at once, not after a challenge and a second."""
    for timestamps in (True, False):
        net = pair(tcp=dict(timestamps=timestamps))
        acceptor = net.server.listen(80, lambda stream: stream.send(b"hello").close())
        for count in range(1, 6):
            started = net.now
            client = net.client.connect(net.server_address[4], 80, local_port=4000)
            net.run(lambda client=client: client.ended)
            assert client.received == b"hello" and net.now - started < 0.5
            client.close()
            net.run(lambda client=client: client.closed)
            assert acceptor.streams[-1].state is State.TIME_WAIT and len(acceptor.streams) == count
            net.rest(2.0)


def test_a_flow_in_time_wait_here_is_not_opened_from_here(pair):
    net = pair()
    net.server.listen(80)
    client = net.client.connect(net.server_address[4], 80, local_port=4000)
    net.run(lambda: client.connected)
    client.close()
    net.rest(1.0)
    with pytest.raises(OSError) as caught:
        net.client.connect(net.server_address[4], 80, local_port=4000)
    assert caught.value.errno == errno.EADDRINUSE


def test_time_wait_does_not_keep_a_port_from_listening(pair):
    net = pair()
    client, server = net.open(port=80)
    server.close()
    net.run(lambda: client.ended)
    client.close()
    net.run(lambda: server.state is State.TIME_WAIT)
    net.server.listen(80)


def test_a_peer_that_vanished_in_the_middle_is_noticed(pair):
    net = pair(tcp=dict(data_retries=4))
    client, server = net.open()
    net.link.change(loss=1.0)
    client.send(b"hello?")
    net.run(lambda: client.closed, limit=600)
    assert client.error in (errno.ETIMEDOUT, errno.EHOSTUNREACH)  # the neighbour is gone as well
    assert server.state is State.ESTABLISHED, "it was never told, and has nothing to say"


def test_a_peer_that_rebooted_resets(pair):
    net = pair()
    client, server = net.open()
    net.server.stack.tcp.flows.clear()
    client.send(b"remember me?")
    net.run(lambda: client.closed)
    assert client.error == errno.ECONNRESET


def test_keepalive_finds_out(pair):
    keepalive = dict(keepalive_idle=100.0, keepalive_interval=10.0, keepalive_probes=3)
    net = pair(tcp=keepalive)
    client, _ = net.open()
    client.endpoint.connection.set_keepalive(True, net.now)
    net.client.stack.deadlines.schedule(client.endpoint)
    net.rest(1000.0)
    assert client.connected, "a live peer answers"
    net.link.change(loss=1.0)
    net.run(lambda: client.closed, limit=200)
    assert client.error in (errno.ETIMEDOUT, errno.EHOSTUNREACH)  # the neighbour is gone as well


def test_fin_and_syn_are_seen_once_each_on_a_good_link(pair):
    net = pair(delay=0.1)
    net.resolve()
    client, server = net.open()
    client.close()
    net.run(lambda: server.ended)
    server.close()
    net.run(lambda: client.closed, limit=100)
    flags = [header.flags for _, header, _, _ in net.segments()]
    assert [sum(bool(flag & bit) for flag in flags) for bit in (SYN, FIN, RST)] == [2, 2, 0]
