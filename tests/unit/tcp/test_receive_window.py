"""The window that we offer: never taken back, no silly ones, and large enough before it limits the path."""

import random

import pytest

from swos_net.tcp.segment import ACK, SYN
from swos_net.testing.invariants import check_connection
from swos_net.wire.tcp import TcpOptions

MSS = 1000


@pytest.fixture
def receiver(tcp):
    """Established by a peer that scales; `offered` counts octets from its first data octet."""

    def make(**config):
        harness = tcp(**{"window_scaling": True, "delayed_ack": 0.04} | config)
        harness.connection.accept_syn(harness.segment(SYN, options=TcpOptions(mss=MSS, window_scale=7)), harness.now)
        (answer,) = harness.output()
        harness.now += 0.05
        harness.arrives(ACK, 1, 1)
        assert answer.options.window_scale == harness.tcb.rcv_wscale
        return harness

    return make


def edge(harness, segment):
    """The right edge of the window that a segment announces."""
    return segment.ack + (segment.window << harness.tcb.rcv_wscale)


class TestAutoTuning:
    def bulk(self, harness, rtt, seconds, *, read=True):
        """A sender in slow start fills whatever it is offered, doubling each round trip; gives the windows in turn."""
        seq, limit, windows = 1, 1 + harness.tcb.rcv_adv - harness.tcb.rcv_nxt, []
        cwnd = 10 * MSS
        end = harness.now + seconds
        while harness.now < end:
            sent = []
            target = min(seq + cwnd, limit)
            while seq + MSS <= target:
                sent += harness.arrives(ACK, seq, 1, bytes(MSS))
                if read:
                    harness.connection.receive(1 << 20)
                    sent += harness.output()
                seq += MSS
            sent += harness.passes(rtt)
            limit = max([limit, *(edge(harness, segment) for segment in sent)])
            windows.append(limit - seq)
            cwnd *= 2
        return windows

    def test_opens_as_fast_as_a_sender_doubles(self, receiver):
        """The window never holds up slow start: it is ahead of what the sender's own window allows."""
        harness = receiver(receive_buffer=4 << 20, receive_buffer_initial=65536)
        windows = self.bulk(harness, 0.1, 0.8)
        for number, window in enumerate(windows[:7]):
            assert window >= min(10 * MSS * 2 ** (number + 1), 2_000_000), windows

    def test_up_to_the_buffer_and_no_further(self, receiver):
        harness = receiver(receive_buffer=200_000, receive_buffer_initial=65536)
        windows = self.bulk(harness, 0.1, 1.0)
        assert harness.tcb.receive_limit == 200_000 and max(windows) <= 200_000

    def test_a_reader_that_does_not_read_is_offered_no_more(self, receiver):
        harness = receiver(receive_buffer=4 << 20, receive_buffer_initial=65536)
        self.bulk(harness, 0.1, 2.0, read=False)
        assert harness.tcb.receive_limit <= 3 * 65536 and harness.connection.readable <= harness.tcb.receive_limit

    def test_a_slow_sender_leaves_it_small(self, receiver):
        harness = receiver(receive_buffer=4 << 20, receive_buffer_initial=65536)
        for number in range(100):
            harness.arrives(ACK, 1 + number * MSS, 1, bytes(MSS))
            harness.connection.receive(1 << 20)
            harness.passes(0.1)
        assert harness.tcb.receive_limit == 65536

    def test_switched_off_it_is_all_there_from_the_start(self, receiver):
        harness = receiver(auto_tuning=False, receive_buffer=1 << 20)
        assert harness.tcb.receive_limit == 1 << 20

    def test_a_size_that_was_asked_for_stays(self, receiver):
        harness = receiver(receive_buffer=4 << 20)
        harness.connection.set_receive_buffer(100_000)
        self.bulk(harness, 0.1, 1.0)
        assert harness.tcb.receive_limit == 100_000


class TestEdge:
    @pytest.mark.parametrize("seed", range(15))
    @pytest.mark.parametrize("dialect", ["linux", "freebsd"])
    def test_the_right_edge_never_moves_left(self, receiver, seed, dialect):
        """RFC 9293 3.8.6; what scaling rounds off aside."""
        generator = random.Random(seed)
        buffer = generator.choice([3000, 20_000, 300_000])
        harness = receiver(
            receive_buffer=buffer, receive_buffer_initial=generator.choice([2000, 65536]), dialect=dialect
        )
        rounding = (1 << harness.tcb.rcv_wscale) - 1
        seq, highest = 1, 0
        for _ in range(300):
            room = harness.tcb.rcv_adv - harness.tcb.rcv_nxt
            length = min(generator.choice([1, 10, 536, MSS]), room)
            ahead = generator.choice([0, 0, 0, 1500])
            sent = []
            if length > 0 and length + ahead <= room:
                sent = harness.arrives(ACK, seq + ahead, 1, bytes(length))
                seq = harness.tcb.rcv_nxt - harness.tcb.irs
            if generator.random() < 0.4:
                harness.connection.receive(generator.choice([1, 100, 2000, 1 << 20]))
            sent += harness.output() + harness.passes(generator.choice([0.0, 0.01, 0.3]))
            for segment in sent:
                assert edge(harness, segment) + rounding >= highest
                highest = max(highest, edge(harness, segment))
            check_connection(harness.connection, resting=True)

    def test_a_full_buffer_shuts_it_and_reading_opens_it(self, receiver):
        harness = receiver(receive_buffer=5000, receive_buffer_initial=5000)
        sent = []
        for number in range(5):
            sent += harness.arrives(ACK, 1 + number * MSS, 1, bytes(MSS))
        sent += harness.passes(0.1)
        assert sent[-1].window << harness.tcb.rcv_wscale == 0
        harness.connection.receive(500)
        assert harness.output() == [], "RFC 9293 3.8.6.2.2: half a segment is a silly window"
        harness.connection.receive(2000)
        (update,) = harness.output()
        assert update.window << harness.tcb.rcv_wscale == 2500

    def test_a_small_window_is_not_offered_over_and_over(self, receiver):
        """A reader that takes a little at a time: the peer would send silly segments for ever."""
        harness = receiver(receive_buffer=5000, receive_buffer_initial=5000)
        seq = 1
        for length in (MSS, MSS, MSS, MSS, 900):
            harness.arrives(ACK, seq, 1, bytes(length))
            seq += length
        harness.passes(0.1)
        offered = set()
        for _ in range(20):
            harness.connection.receive(100)
            room = harness.tcb.rcv_adv - harness.tcb.rcv_nxt
            if room:
                harness.arrives(ACK, seq, 1, bytes(min(room, MSS)))
                seq += min(room, MSS)
            offered |= {segment.window << harness.tcb.rcv_wscale for segment in harness.output() + harness.passes(0.1)}
        assert offered and all(window == 0 or window >= MSS for window in offered), offered

    def test_text_beyond_it_is_cut_off(self, receiver):
        harness = receiver(receive_buffer=5000, receive_buffer_initial=5000)
        room = harness.tcb.rcv_adv - harness.tcb.rcv_nxt
        harness.arrives(ACK, 1, 1, bytes(room + 500))
        assert harness.connection.readable == room


def test_a_reader_that_has_taken_everything_does_not_let_a_one_way_writer_wait(tcp):
    harness = tcp().established()
    assert harness.arrives(ACK, 1, 1, b"small") == []
    harness.connection.receive(100)
    (ack,) = harness.output()
    assert ack.ack == 6
    harness.connection.send(b"answer")
    harness.output()
    harness.arrives(ACK, 6, 7, b"again")
    harness.connection.receive(100)
    assert harness.output() == [], "in a conversation the ACK waits for the answer"
