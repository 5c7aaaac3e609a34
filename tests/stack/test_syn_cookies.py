"""Floods of SYNs, and handshakes through cookies (RFC 4987 3.6)."""

import pytest

from swos_net.config import StackConfig, TcpConfig
from swos_net.tcp.state import State
from swos_net.wire.tcp import ACK, RST, SYN, TcpHeader, TcpOptions, emit_options, parse_options

ALWAYS = dict(syn_cookies="always")


def counters(net):
    return {name.removeprefix("TcpExt"): net.server.stack.counters["TcpExt" + name] for name in
            ("SyncookiesSent", "SyncookiesRecv", "SyncookiesFailed", "TCPReqQFullDrop")}  # fmt: skip


def syn(net, tools, port, number=1000, options=b"\x02\x04\x05\xb4", source="10.0.0.77"):
    packet = tools.tcp_packet(source, net.server_address[4], TcpHeader(port, 80, number, 0, SYN, 65535, options))
    inject(net, tools, packet)


def inject(net, tools, packet):
    net.link.inject(
        tools.framed(packet, net.server.interface.link.address, net.client.interface.link.address), net.server
    )
    net.rest(0.01)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    "client", [{}, {"timestamps": False}, {"sack": False}, {"window_scaling": False}, {"ecn": "on"}]
)
def test_a_handshake_through_a_cookie(pair, family, client):
    net = pair(tcp=client, server_tcp=ALWAYS)
    stream, served = net.open(family)
    assert counters(net)["SyncookiesSent"] == counters(net)["SyncookiesRecv"] == 1
    tcb, there = served.endpoint.connection.tcb, stream.endpoint.connection.tcb
    # with timestamps everything that was agreed is known again; without them only the MSS
    stamped = client.get("timestamps", True)
    assert tcb.timestamps == there.timestamps == stamped
    assert tcb.sack_permitted == there.sack_permitted == (stamped and client.get("sack", True))
    assert tcb.window_scaling == there.window_scaling == (stamped and client.get("window_scaling", True))
    assert tcb.snd_wscale == there.rcv_wscale and tcb.rcv_wscale == there.snd_wscale
    assert tcb.ecn == there.ecn == (stamped and client.get("ecn") == "on")
    assert tcb.mss == there.mss
    stream.send(bytes(300_000)).shutdown()
    net.run(lambda: served.ended, limit=20)
    assert len(served.received) == 300_000
    served.send(bytes(300_000)).close()
    net.run(lambda: stream.ended, limit=20)
    assert len(stream.received) == 300_000 and not stream.error and not served.error


def test_the_first_text_may_come_before_the_acknowledgment(pair):
    """The third segment is lost: the text that follows says the same."""
    net = pair(server_tcp=ALWAYS)
    net.resolve()
    acceptor = net.server.listen(80)
    lost = net.link.towards(net.server).drop(where=lambda packet: packet.is_tcp and packet.flags == ACK, times=1)
    stream = net.client.connect(net.server_address[4], 80)
    net.run(lambda: stream.state is State.ESTABLISHED)
    net.rest(0.1)
    assert lost.done and not acceptor.streams
    stream.send(b"hello")
    net.run(lambda: acceptor.streams and acceptor.streams[0].received == b"hello", limit=5)


class TestFlood:
    @pytest.fixture
    def net(self, pair):
        net = pair(server_config=StackConfig(half_open_limit=16))
        net.resolve()
        return net

    def test_a_flood_keeps_nobody_out_and_is_not_remembered(self, net, tools):
        net.server.listen(80)
        for port in range(2000, 2200):
            syn(net, tools, port)
        assert len(net.server.stack.tcp.flows) == 16
        assert counters(net)["SyncookiesSent"] == 200 - 16
        stream = net.client.connect(net.server_address[4], 80)
        net.run(lambda: stream.state is State.ESTABLISHED, limit=1)
        stream.send(b"x")
        net.rest(0.1)
        assert counters(net)["SyncookiesRecv"] == 1 and not stream.error

    def test_without_cookies_it_does(self, pair, tools):
        net = pair(server_config=StackConfig(half_open_limit=16, tcp=TcpConfig(syn_cookies="never")))
        net.resolve()
        net.server.listen(80)
        for port in range(2000, 2050):
            syn(net, tools, port)
        stream = net.client.connect(net.server_address[4], 80)
        net.rest(0.5)
        assert stream.state is State.SYN_SENT and counters(net)["TCPReqQFullDrop"] == 35
        assert counters(net)["SyncookiesSent"] == 0

    def test_an_accept_queue_that_is_full_answers_nobody(self, pair, tools):
        """There would be no place for the connection."""
        net = pair(server_tcp=ALWAYS)
        net.resolve()
        stack = net.server.stack
        listener = stack.tcp_listen(stack.root, bytes(16), 80, 1, dual_stack=True)
        first = net.client.connect(net.server_address[4], 80)
        net.run(lambda: first.state is State.ESTABLISHED)
        net.rest(0.1)
        second = net.client.connect(net.server_address[4], 80)
        net.rest(0.5)
        assert counters(net)["SyncookiesSent"] == 1 and second.state is State.SYN_SENT
        assert listener.accept() is not None
        net.run(lambda: second.state is State.ESTABLISHED, limit=10)


class TestForgeries:
    """An ACK out of nowhere makes a connection only when its number is a cookie of ours for that flow, and fresh."""

    @pytest.fixture
    def net(self, pair):
        net = pair(server_tcp=ALWAYS)
        net.resolve()
        self.acceptor = net.server.listen(80)
        return net

    def answered(self, net, tools, options=b"\x02\x04\x05\xb4"):
        start = len(net.frames)
        syn(net, tools, 4000, source=net.client_address[4], options=options)
        return next(header for _, header, _, _ in net.segments(start) if header.flags & SYN)

    def acknowledge(self, net, tools, answer, *, port=4000, seq=1001, ack=None, flags=ACK, options=b""):
        ack = (answer.seq + 1) & 0xFFFFFFFF if ack is None else ack
        start = len(net.frames)
        header = TcpHeader(port, 80, seq, ack, flags, 65535, options)
        inject(net, tools, tools.tcp_packet(net.client_address[4], net.server_address[4], header))
        return [header.flags for _, header, _, _ in net.segments(start)]

    def test_the_true_one(self, net, tools):
        answer = self.answered(net, tools)
        assert not net.server.stack.tcp.flows, "nothing is remembered"
        assert parse_options(answer.options).mss == 1460 and answer.ack == 1001
        self.acknowledge(net, tools, answer)
        assert len(net.server.stack.tcp.flows) == len(self.acceptor.streams) == 1

    @pytest.mark.parametrize("change", [{"port": 4001}, {"seq": 1002}, {"ack": 12345}])
    def test_another_flow_or_number_is_reset(self, net, tools, change):
        answer = self.answered(net, tools)
        assert RST in self.acknowledge(net, tools, answer, **change)
        assert not net.server.stack.tcp.flows and counters(net)["SyncookiesFailed"] == 1

    def test_an_old_one_is_reset(self, net, tools):
        answer = self.answered(net, tools)
        net.rest(200.0)
        assert RST in self.acknowledge(net, tools, answer)

    @pytest.mark.parametrize("flags", [RST | ACK, SYN | ACK])
    def test_other_flags_make_no_connection(self, net, tools, flags):
        answer = self.answered(net, tools)
        self.acknowledge(net, tools, answer, flags=flags)
        assert not net.server.stack.tcp.flows

    def test_without_cookies_issued_nothing_is_computed(self, pair, tools):
        net = pair()
        net.resolve()
        net.server.listen(80)
        header = TcpHeader(4000, 80, 5, 6, ACK, 100)
        inject(net, tools, tools.tcp_packet(net.client_address[4], net.server_address[4], header))
        assert counters(net)["SyncookiesFailed"] == 0

    def test_old_timestamps_are_refused_afterwards(self, net, tools):
        """PAWS works from the first segment on."""
        answer = self.answered(net, tools, emit_options(TcpOptions(mss=1460, ts_val=5000, ts_ecr=0)))
        echoed = parse_options(answer.options).ts_val
        stamped = emit_options(TcpOptions(ts_val=5001, ts_ecr=echoed))
        self.acknowledge(net, tools, answer, options=stamped)
        (endpoint,) = net.server.stack.tcp.flows.values()
        assert endpoint.connection.tcb.ts_recent == 5001
        old = emit_options(TcpOptions(ts_val=4000, ts_ecr=echoed))
        header = TcpHeader(4000, 80, 1001, (answer.seq + 1) & 0xFFFFFFFF, ACK, 65535, old)
        inject(net, tools, tools.tcp_packet(net.client_address[4], net.server_address[4], header, b"late"))
        assert endpoint.connection.readable == 0 and net.server.stack.counters["TcpExtPAWSEstab"] == 1

    def test_our_timestamps_go_on_from_the_one_that_held_the_options(self, net, tools):
        answer = self.answered(
            net, tools, emit_options(TcpOptions(mss=1460, window_scale=7, sack_permitted=True, ts_val=5000, ts_ecr=0))
        )
        echoed = parse_options(answer.options).ts_val
        self.acknowledge(net, tools, answer, options=emit_options(TcpOptions(ts_val=5001, ts_ecr=echoed)))
        (endpoint,) = net.server.stack.tcp.flows.values()
        tcb = endpoint.connection.tcb
        assert (tcb.snd_wscale, tcb.sack_permitted) == (7, True)
        assert (tcb.timestamp(net.now) - echoed) & 0xFFFFFFFF < 0x80000000
