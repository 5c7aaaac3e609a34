"""The table of lent flows, and the user's calls on one of them; what it does with segments is tests/property/test_lending.py's."""

import gc

import pytest

from swos_net.address import parse_address
from swos_net.dataplane import tcp_flow
from swos_net.dataplane.batch import Batch, FlowPath
from swos_net.dataplane.burst import Burst
from swos_net.dataplane.byte_ring import ByteRing
from swos_net.dataplane.tcp_flow import FIELDS, FlowTable, LentFlow
from swos_net.link import Medium
from swos_net.wire import ipv4, tcp

LOCAL, REMOTE = parse_address("10.0.0.1"), parse_address("10.0.0.2")
PORT = 80
ACK_ONLY = {"snd_una": 1, "snd_nxt": 1, "snd_wnd": 1000, "rcv_nxt": 1, "rcv_adv": 50_000, "rcv_mss": 1000, "receive_limit": 50_000,
            "receive_buffer": 50_000, "mss": 1000, "cwnd": 10_000, "ssthresh": 1, "send_limit": 1 << 16, "send_base": 1, "super_segment": 65000,
            "last_ack_sent": 1, "rcv_mss_max": 1000, "nodelay": 1}  # fmt: skip
NEVER = {"retransmission", "loss_probe", "delayed_ack", "keepalive"}


def key(remote_port):
    return LOCAL + REMOTE + PORT.to_bytes(2, "big") + remote_port.to_bytes(2, "big")


def lent(table, remote_port=1000, number=0, **values):
    flow = LentFlow(key(remote_port), FlowPath(LOCAL, PORT, REMOTE, remote_port, 64), number, None)
    flow.send_ring, flow.receive_ring = ByteRing(1 << 16), ByteRing(1 << 16)
    rings = {"send_ring": flow.send_ring.pointer, "receive_ring": flow.receive_ring.pointer, "path": flow.path.pointer}
    state = ACK_ONLY | rings | {name: float("inf") for name in NEVER} | values
    flow.pack(*(state.get(name, 0) for name in FIELDS))
    table.add(flow)
    return flow


def transmitted(table, flows, batch):
    added, done, news = table.transmit(flows, batch, 1.0)
    return added, done, [(index, what & ~tcp_flow.EARLIER) for index, what in news if what & ~tcp_flow.EARLIER]


def burst_of(*segments):
    """(remote port, seq, flags, payload) each."""
    burst = Burst(arena=False)
    for remote_port, seq, flags, payload in segments:
        text = tcp.emit(tcp.TcpHeader(remote_port, PORT, seq, 1, flags, 500), payload, REMOTE, LOCAL)
        packet = ipv4.emit(ipv4.Ipv4Header(REMOTE, LOCAL, ipv4.PROTOCOL_TCP, 64), text)
        assert burst.add(packet, Medium.IP)
    return burst


@pytest.fixture
def table():
    return FlowTable(7)


def test_an_empty_table_leaves_everything(table):
    segments, left, news = table.receive(burst_of((1000, 1, tcp.ACK, b"x")), 1.0)
    assert (segments, left, list(news)) == (0, 1, [])


def test_each_flow_gets_its_own(table):
    """More of them than the table has buckets at first, half of them gone again."""
    flows = {port: lent(table, port, port) for port in range(1000, 1300)}
    assert len(table) == 300
    for port in range(1000, 1300, 2):
        table.remove(flows[port])
    assert len(table) == 150
    for port in range(1000, 1300, 50):
        burst = burst_of(*((other, 1, tcp.ACK, b"%d" % other) for other in range(port, port + 50)))
        segments, left, news = table.receive(burst, 1.0)
        assert (segments, left) == (25, 25)
        assert [number for number, _ in news] == list(range(port + 1, port + 50, 2))
    for port, flow in flows.items():
        assert flow.receive(100)[0] == (b"%d" % port if port % 2 else b"")


def test_removing_one_that_is_not_there(table):
    flow = lent(table)
    table.remove(flow)
    table.remove(flow)
    assert len(table) == 0


def test_one_that_nobody_else_refers_to(table):
    """C has pointers to it."""
    lent(table)
    gc.collect()
    assert table.receive(burst_of((1000, 1, tcp.ACK, b"x")), 1.0)[:2] == (1, 0)


def test_a_finalizer_may_still_use_what_is_thrown_away(table):
    """In a cycle of garbage destructors run in any order."""

    class Owner:
        def __init__(self, table):
            self.myself, self.table, self.flow = self, table, lent(table)

        def __del__(self):
            left.append((self.flow.send(b"late"), self.flow.receive(10), self.table.transmit([self.flow], Batch(), 1.0)[0]))
            self.table.remove(self.flow)

    left = []
    for _ in range(20):
        Owner(FlowTable(1))
    gc.collect()
    assert len(left) == 20 and all(data == b"" for _, (data, _), _ in left)


def test_several_segments_are_told_once(table):
    lent(table, number=5)
    segments, left, news = table.receive(burst_of(*((1000, 1 + 10 * turn, tcp.ACK, bytes(10)) for turn in range(3))), 1.0)
    assert (segments, left) == (3, 0)
    ((number, what),) = news
    assert number == 5 and what & tcp_flow.READABLE


def test_what_follows_a_surprise_is_left_too(table):
    """Order within a connection is kept: after a FIN nothing is taken."""
    flow = lent(table)
    burst = burst_of((1000, 1, tcp.ACK, bytes(10)), (1000, 11, tcp.ACK | tcp.FIN, b""), (1000, 11, tcp.ACK, bytes(10)))
    segments, left, _ = table.receive(burst, 1.0)
    assert (segments, left) == (1, 2) and flow.readable == 10
    segments, left, _ = table.receive(burst_of((1000, 11, tcp.ACK, bytes(10))), 1.0)
    assert (segments, left) == (1, 0)


def test_more_than_the_window_is_left(table):
    flow = lent(table, rcv_adv=50)
    assert table.receive(burst_of((1000, 1, tcp.ACK, bytes(50))), 1.0)[:2] == (0, 1)
    assert flow.readable == 0


def test_more_than_the_ring_holds_is_left(table):
    """Whatever was advertised."""
    flow = lent(table, rcv_adv=1 << 20)
    flow.receive_ring.write(bytes((1 << 16) - 5))
    assert table.receive(burst_of((1000, 1, tcp.ACK, bytes(6))), 1.0)[:2] == (0, 1)
    assert table.receive(burst_of((1000, 1, tcp.ACK, bytes(5))), 1.0)[:2] == (1, 0)
    assert flow.readable == 1 << 16


@pytest.mark.parametrize("length", [1, 40_000])
def test_reading(table, length):
    flow = lent(table)
    data = bytes(index % 251 for index in range(50_000))
    flow.receive_ring.write(data)
    first, _ = flow.receive(length)
    assert first == data[:length]
    buffer = bytearray(60_000)
    taken, _ = flow.receive_into(buffer, None)
    assert buffer[:taken] == data[length:] and flow.receive(10) == (b"", 0)


def test_who_reads_much_lets_the_other_end_know(table):
    flow = lent(table, rcv_nxt=50_000, rcv_adv=50_000, interactive=1)
    flow.receive_ring.write(bytes(50_000))
    assert flow.receive(100)[1] == 0
    assert flow.receive(40_000)[1] == tcp_flow.OUTPUT


def test_sending_until_there_is_no_room(table):
    flow = lent(table, send_limit=3000)
    assert flow.send(b"x" * 2000) == 2000 and flow.send_room == 1000
    assert flow.send(memoryview(bytearray(2000))) == 1000
    assert flow.send(b"more") == 0 and flow.send_room == 0
    assert not flow.writable and flow.c.state.was_full


def test_sending_a_file(table, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(200)) * 20)
    flow = lent(table, send_limit=3000)
    with path.open("rb") as file:
        assert flow.send_file(file.fileno(), 100, 10_000) == 3000
        assert flow.c.state.was_full
        assert flow.send_ring.peek(3) == bytes((100, 101, 102))
        flow.send_ring.consume(3000)
        assert flow.send_file(file.fileno(), 4000, 10) == 0  # its end


def test_what_is_sent_goes_into_the_batch(table):
    flow, batch = lent(table, snd_wnd=50_000), Batch()
    flow.send(bytes(2500))
    assert transmitted(table, [flow], batch) == (1, 1, [])
    assert len(batch) == 1
    assert flow in batch.kept
    batch.seal()
    assert len(batch.packet(0)) == 1000 + 40  # the first of what the link cuts it into


def test_a_full_batch_is_asked_for_again(table):
    flow, batch = lent(table, snd_wnd=50_000), Batch()
    flow.send(b"x")
    batch.count = 64
    assert transmitted(table, [flow], batch) == (0, 0, [])
    batch.clear()
    assert transmitted(table, [flow], batch) == (1, 1, [])


def test_who_finds_no_more_room_in_its_turn_says_so(table):
    flow, batch = lent(table, snd_wnd=50_000, super_segment=1000), Batch()
    flow.send(bytes(2500))
    batch.count = 63
    assert transmitted(table, [flow], batch) == (1, 1, [(0, tcp_flow.OUTPUT)])


def test_several_in_turn(table):
    flows, batch = [lent(table, 1000 + number, number, snd_wnd=50_000) for number in range(5)], Batch()
    for number, flow in enumerate(flows[:4]):
        flow.send(bytes(number))
    assert transmitted(table, flows, batch) == (3, 5, [])
    assert batch.kept == flows
    batch.seal()
    assert [len(batch.packet(index)) for index in range(3)] == [41, 42, 43]


def test_those_that_come_after_the_last_place_wait(table):
    flows, batch = [lent(table, 1000 + number, number, snd_wnd=50_000) for number in range(3)], Batch()
    for flow in flows:
        flow.send(b"x")
    batch.count = 62
    assert transmitted(table, flows, batch) == (2, 2, [])


def test_the_order_is_kept_where_python_has_to_see_to_one(table):
    """Which has been taken away while the list was made, or has met something unusual."""
    flows, batch = [lent(table, 1000 + number, number, snd_wnd=50_000) for number in range(3)], Batch()
    for flow in flows:
        flow.send(b"x")
    table.remove(flows[1])
    assert transmitted(table, flows, batch) == (1, 2, [(1, tcp_flow.NOT_MINE)])
    assert transmitted(table, flows[2:], batch) == (1, 1, [])


@pytest.mark.parametrize("limit", [{"cwnd": 2000}, {"snd_wnd": 500}])
def test_a_window_that_is_in_the_way_is_not_its_business(table, limit):
    flow, batch = lent(table, **{"snd_wnd": 50_000} | limit), Batch()
    flow.send(bytes(2500))
    assert transmitted(table, [flow], batch) == (0, 1, [(0, tcp_flow.NOT_MINE)])


def test_its_deadline(table):
    flow = lent(table, keepalive=50.0)
    assert flow.next_deadline(None) == 50.0
    assert flow.next_deadline(10.0) == 50.0 and flow.c.scheduled == 10.0
    flow.c.state.delayed_ack = 20.0
    assert flow.next_deadline(40.0) == 20.0 and flow.c.scheduled == 20.0
    flow.c.state.keepalive = flow.c.state.delayed_ack = float("inf")
    assert flow.next_deadline(None) is None
