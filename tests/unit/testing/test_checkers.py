"""Rules that every frame is held to: they pass what is right and see what is wrong."""

import pytest

from swos_net.address import parse_address
from swos_net.testing.checkers import Checksums, NoNeedlessRetransmission, PeerWindow, SegmentCounts, SoundStream
from swos_net.testing.network import Network
from swos_net.testing.packet import Crossing, Frame
from swos_net.wire import ethernet, ipv4, tcp
from swos_net.wire.tcp import ACK, FIN, SYN, TcpHeader, TcpOptions, emit_options

EVERYTHING = (Checksums, PeerWindow, NoNeedlessRetransmission, SoundStream)
A, B = parse_address("10.0.0.1"), parse_address("10.0.0.2")


class Exchange:
    """Segments by hand between two ends, whose sequence numbers start at 1000 and wrap soon."""

    starts = (1000, 0xFFFFFFF0)

    def __init__(self, checker):
        self.checker = checker
        network = Network()
        self.wires = network.link(network.add_host("a"), network.add_host("b")).wires
        self.now = 0.0

    def send(self, end, flags, seq=0, ack=0, window=1000, length=0, options=b"", fate="", delay=0.0, raw=None):
        """From end 0 or 1; seq and ack count from the SYNs."""
        self.now += 0.01
        ours, theirs = self.starts[end], self.starts[1 - end]
        addresses = (A, B) if end == 0 else (B, A)
        header = TcpHeader(7, 7, (ours + seq) & 0xFFFFFFFF, (theirs + ack) & 0xFFFFFFFF if flags & ACK else 0, flags, window, options)
        segment = raw or tcp.emit(header, bytes(length), *addresses)
        packet = ipv4.emit(ipv4.Ipv4Header(*addresses, 6), segment)
        frame = Frame(ethernet.emit(ethernet.EthernetHeader(bytes(6), bytes(6), ethernet.ETHERTYPE_IPV4), packet))
        arrivals = () if fate == "lost" else (self.now + delay,)
        self.checker(Crossing(self.now, self.wires[end], 0, frame, fate, arrivals))
        return self

    def open(self, scale=None):
        options = b"" if scale is None else emit_options(TcpOptions(window_scale=scale))
        self.send(0, SYN, options=options)
        self.send(1, SYN | ACK, ack=1, options=options)
        return self.send(0, ACK, 1, 1)


def fails(match):
    return pytest.raises(AssertionError, match=match)


@pytest.mark.parametrize("conditions", [
    dict(), dict(delay=0.05, loss=0.1), dict(delay=0.02, reorder=0.1, duplicate=0.1), dict(bandwidth=2e6, queue_packets=5, delay=0.02),
    dict(corrupt=0.05), dict(mtu=600, jitter=0.01),
], ids=lambda conditions: "-".join(conditions) or "plain")  # fmt: skip
@pytest.mark.parametrize("address", ["10.0.0.2", "2001:db8::2"])
def test_a_real_connection_breaks_no_rule(conditions, address):
    network = Network(5)
    checkers = [network.observe(checker()) for checker in EVERYTHING]
    counts = network.observe(SegmentCounts())
    client = network.add_host("client", ["10.0.0.1/24", "2001:db8::1/64"])
    server = network.add_host("server", ["10.0.0.2/24", "2001:db8::2/64"])
    network.link(client, server, **({"mtu": 1500} | conditions))
    server.listen(80, lambda stream: stream.send(bytes(60_000)).close())
    stream = client.connect(address, 80)
    network.run(until=lambda: stream.ended)
    stream.close()
    network.run(until=network.now + 10.0)
    assert len(stream.received) == 60_000
    assert all(checker.checked == network.links[0].wires[0].sent + network.links[0].wires[1].sent for checker in checkers)
    assert counts.data_bytes - counts.again_bytes == 60_000 and counts.pure_acks and not counts.resets
    wire = network.links[0].wires[1]
    assert counts.again or not wire.lost + wire.overflowed
    if not wire.lost + wire.overflowed + wire.corrupted + wire.reordered:
        assert not counts.again


def test_a_wrong_checksum():
    exchange = Exchange(Checksums()).open()
    good = tcp.emit(TcpHeader(7, 7, 1001, 0, ACK, 0), b"data", A, B)
    with fails("BAD_TRANSPORT_CHECKSUM.*\n(.*\n)*.*\\[S\\] seq 0"):
        exchange.send(0, ACK, raw=good[:-1] + b"b")


def test_the_peers_window():
    exchange = Exchange(PeerWindow()).open()
    exchange.send(0, ACK, 1, 1, length=600).send(0, ACK, 601, 1, length=400)
    with fails("1 bytes beyond"):
        exchange.send(0, ACK, 1001, 1, length=1)


def test_a_window_counts_when_it_has_arrived():
    exchange = Exchange(PeerWindow()).open()
    exchange.send(1, ACK, 1, 1, window=2000, delay=0.5)
    with fails("1000 bytes beyond"):
        exchange.send(0, ACK, 1, 1, length=2000)
    exchange.now += 0.6
    exchange.send(0, ACK, 1, 1, length=2000)
    exchange.send(1, ACK, 1, 1, window=4000, fate="lost")
    with fails("bytes beyond"):
        exchange.send(0, ACK, 1, 1, length=2001)


def test_scaled_windows_after_the_handshake():
    exchange = Exchange(PeerWindow()).open(scale=2)
    exchange.send(1, ACK, 1, 1, window=1000).send(0, ACK, 1, 1, length=4000)
    with fails("4 bytes beyond"):
        exchange.send(0, ACK, 1, 1, length=4004)


def test_one_byte_may_probe_a_closed_window():
    exchange = Exchange(PeerWindow()).open().send(0, ACK, 1, 1, length=1000).send(1, ACK, 1, 1001, window=0)
    exchange.send(0, ACK, 1001, 1, length=1)
    with fails("2 bytes beyond"):
        exchange.send(0, ACK, 1001, 1, length=2)


def test_needless_retransmissions():
    exchange = Exchange(NoNeedlessRetransmission()).open().send(0, ACK, 1, 1, length=100)
    with fails("sent again"):
        exchange.send(0, ACK, 51, 1, length=100)


@pytest.mark.parametrize("end", [0, 1])
def test_retransmissions_after_a_loss_either_way(end):
    exchange = Exchange(NoNeedlessRetransmission()).open().send(0, ACK, 1, 1, length=100)
    exchange.send(end, ACK, 101 if end == 0 else 1, 1 if end == 0 else 101, fate="lost").send(0, ACK, 1, 1, length=100)


def test_keepalives_and_probes_are_no_retransmissions():
    exchange = Exchange(NoNeedlessRetransmission()).open().send(0, ACK, 1, 1, length=100)
    exchange.send(0, ACK, 100, 1).send(0, ACK, 100, 1, length=1)
    exchange.send(0, ACK | FIN, 101, 1)
    with fails("sent again"):
        exchange.send(0, ACK | FIN, 101, 1)


def test_a_sound_stream():
    exchange = Exchange(SoundStream()).open().send(0, ACK, 1, 1, length=100).send(1, ACK, 1, 101, window=900)
    exchange.send(1, ACK, 1, 101, window=900)
    for message, arguments in (
        ("a gap of 5 bytes", (0, ACK, 106, 1)), ("7 bytes that were never sent", (1, ACK, 1, 108)),
        ("goes back by 1", (1, ACK, 1, 100)), ("moves left by 1", (1, ACK, 1, 101, 899)),
    ):  # fmt: skip
        with fails(message):
            exchange.send(*arguments)


def test_a_scaled_window_may_be_rounded_down():
    exchange = Exchange(SoundStream()).open(scale=3).send(0, ACK, 1, 1, length=107).send(1, ACK, 1, 101, window=150)
    exchange.send(1, ACK, 1, 108, window=149)
    with fails("moves left by 9"):
        exchange.send(1, ACK, 1, 108, window=148)
