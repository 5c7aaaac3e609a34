"""What connections may cost that nobody uses any more: TIME-WAIT and orphans are bounded."""

import errno

import pytest

from swos_net.config import StackConfig, TcpConfig
from swos_net.tcp.state import State


def opened(net, count):
    """So many connections to one port: pairs of (client's, server's) streams."""
    acceptor = net.server.listen(80)
    streams = [net.client.connect(net.server_address[4], 80) for _ in range(count)]
    net.run(lambda: len(acceptor.streams) == count, limit=20)
    by_port = {stream.endpoint.remote_port: stream for stream in acceptor.streams}
    return [(stream, by_port[stream.endpoint.local_port]) for stream in streams]


def closed_in_order(net, pairs):
    """The clients close first, one after the other: theirs is TIME-WAIT."""
    for client, server in pairs:
        client.close()
        net.run(lambda server=server: server.ended, limit=5)
        server.close()
        net.run(lambda client=client: client.state in (State.TIME_WAIT, State.CLOSED), limit=5)
        net.rest(0.01)


class TestTimeWait:
    def test_the_oldest_makes_room(self, pair):
        net = pair(tcp=dict(time_wait_max=3))
        pairs = opened(net, 5)
        closed_in_order(net, pairs)
        stack = net.client.stack
        assert [client.state for client, _ in pairs] == [State.CLOSED] * 2 + [State.TIME_WAIT] * 3
        assert len(stack.tcp.flows) == len(stack.tcp.time_waiting) == 3
        assert stack.counters["TcpExtTCPTimeWaitOverflow"] == 2
        net.rest(61.0)
        assert not stack.tcp.flows and not stack.tcp.time_waiting

    def test_so_it_does_for_a_new_connection_when_there_is_no_other_place(self, pair):
        net = pair(config=StackConfig(max_connections=3))
        pairs = opened(net, 3)
        with pytest.raises(OSError) as caught:
            net.client.connect(net.server_address[4], 80)
        assert caught.value.errno == errno.ENOBUFS
        closed_in_order(net, pairs[:1])
        assert pairs[0][0].state is State.TIME_WAIT
        net.client.connect(net.server_address[4], 80)
        assert pairs[0][0].state is State.CLOSED and len(net.client.stack.tcp.flows) == 3

    def test_its_port_is_free_then(self, pair):
        net = pair(tcp=dict(time_wait_max=1))
        acceptor = net.server.listen(80)
        for port in (4000, 4001):
            client = net.client.connect(net.server_address[4], 80, local_port=port)
            net.run(lambda client=client: client.connected and acceptor.streams, limit=5)
            net.rest(0.1)
            closed_in_order(net, [(client, acceptor.streams.pop())])
        again = net.client.connect(net.server_address[4], 80, local_port=4000)
        net.run(lambda: again.connected, limit=5)
        with pytest.raises(OSError):
            net.client.connect(net.server_address[4], 80, local_port=4001)


class TestOrphans:
    def test_one_too_many_is_reset(self, pair):
        net = pair(tcp=dict(orphans_max=2))
        pairs = opened(net, 3)
        for _, server in pairs:
            server.pause()
        for client, _ in pairs:
            client.send(bytes(500_000))
        net.rest(0.5)
        for client, _ in pairs:
            client.endpoint.close(net.now)
        assert len(net.client.stack.tcp.orphans) == 2
        assert net.client.stack.counters["TcpExtTCPAbortOnMemory"] == 1
        net.rest(0.5)
        assert [client.state is State.CLOSED for client, _ in pairs] == [False, False, True]
        assert pairs[2][1].error == errno.ECONNRESET or pairs[2][1].state is State.CLOSED

    def test_those_that_end_are_not_counted(self, pair):
        net = pair(tcp=dict(orphans_max=1, time_wait=1.0))
        pairs = opened(net, 4)
        for client, server in pairs:
            client.send(b"bye")
            net.run(lambda server=server: server.received, limit=5)
            client.close()
            server.close()
            net.run(lambda client=client: client.state is State.CLOSED, limit=10)
        assert net.client.stack.counters["TcpExtTCPAbortOnMemory"] == 0 and not net.client.stack.tcp.orphans

    def test_one_whose_peer_keeps_its_window_shut_ends(self, pair):
        net = pair(server_tcp=dict(receive_buffer=8192), tcp=dict(orphan_retries=4))
        client, server = net.open()
        server.pause()
        client.send(bytes(100_000))
        net.rest(2.0)
        client.close()
        net.run(lambda: client.state is State.CLOSED, limit=300)
        assert not net.client.stack.tcp.flows and not net.client.stack.tcp.orphans

    def test_one_whose_peer_never_closes_ends(self, pair):
        """FIN-WAIT-2 of an orphan."""
        net = pair(config=StackConfig(tcp=TcpConfig(fin_wait_2=5.0)))
        client, server = net.open()
        client.close()
        net.run(lambda: server.ended, limit=5)
        net.rest(0.5)
        assert client.state is State.FIN_WAIT_2
        net.run(lambda: client.state is State.CLOSED, limit=6)
        assert server.state is State.CLOSE_WAIT and not net.client.stack.tcp.flows
