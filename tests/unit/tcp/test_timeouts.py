"""Deadlines: giving up, user timeouts, keepalives, persisting against a closed window, corked tails."""

import errno

import pytest

from swos_net.tcp.events import Event
from swos_net.tcp.recovery_state import Phase
from swos_net.tcp.segment import ACK, FIN, RST, SYN
from swos_net.tcp.state import State

MSS = 1000


def gaps(harness, seconds):
    """Intervals between what goes out by itself."""
    times = []
    end = harness.now + seconds
    harness.output()
    while (deadline := harness.connection.next_deadline()) is not None and deadline <= end:
        harness.now = max(deadline, harness.now)
        harness.connection.handle_timeout(harness.now)
        times += [harness.now] * len(harness.output())
    harness.now = end
    return [round(after - before, 3) for before, after in zip(times, times[1:])]


class TestRetransmission:
    def test_backs_off_exponentially_up_to_a_minute(self, tcp):
        """RFC 6298 (5.5), (2.5)"""
        harness = tcp().sending(MSS, sack=False)
        waits = gaps(harness, 400.0)
        assert waits[:8] == pytest.approx([0.6 * 2**count for count in range(7)] + [60.0], rel=0.01)
        assert max(waits) == 60.0

    def test_gives_up_with_a_reset(self, tcp):
        harness = tcp(data_retries=3).sending(MSS, sack=False)
        sent = harness.passes(100.0)
        assert harness.tcb.state is State.CLOSED and harness.tcb.error == errno.ETIMEDOUT
        assert [bool(segment.flags & RST) for segment in sent] == [False] * 4 + [True]

    def test_says_what_the_path_said(self, tcp):
        """RFC 1122 4.2.3.9"""
        harness = tcp(data_retries=3).sending(MSS, sack=False)
        harness.connection.path_error(errno.EHOSTUNREACH)
        harness.passes(100.0)
        assert harness.tcb.error == errno.EHOSTUNREACH

    def test_progress_counts_anew(self, tcp):
        harness = tcp(data_retries=3).sending(20 * MSS, sack=False)
        for number in range(1, 10):
            harness.output()
            harness.passes(harness.tcb.rtt.rto * 2.5)
            assert harness.tcb.state is State.ESTABLISHED, number
            harness.acknowledges(1 + number * MSS)

    def test_a_lost_syn_without_a_sample_means_three_seconds(self, tcp):
        """RFC 6298 (5.7)"""
        harness = tcp().open()
        harness.passes(1.0)
        harness.now += 0.1
        harness.arrives(SYN | ACK, 0, 1)
        assert harness.tcb.rtt.srtt is None and harness.tcb.rtt.rto == 3.0
        harness.connection.send(b"x")
        harness.output()
        harness.now += 0.1
        harness.acknowledges(2)
        assert harness.tcb.rtt.rto == pytest.approx(0.3)

    def test_after_a_lost_syn_the_window_is_one_segment(self, tcp):
        """RFC 5681 3.1"""
        harness = tcp().open()
        harness.passes(1.0)
        harness.arrives(SYN | ACK, 0, 1)
        assert harness.tcb.congestion.cwnd == harness.tcb.mss


class TestUserTimeout:
    """RFC 5482"""

    def test_data_is_given_up_when_it_is_over_not_at_the_next_backing_off(self, tcp):
        harness = tcp(user_timeout=10.0).sending(MSS, sack=False)
        harness.output()
        harness.passes(9.9)
        assert harness.tcb.state is State.ESTABLISHED
        harness.passes(0.2)
        assert harness.tcb.state is State.CLOSED and harness.tcb.error == errno.ETIMEDOUT

    def test_it_may_be_longer_than_all_retransmissions(self, tcp):
        harness = tcp(user_timeout=3600.0, data_retries=3).sending(MSS, sack=False)
        harness.passes(3500.0)
        assert harness.tcb.state is State.ESTABLISHED
        harness.passes(200.0)
        assert harness.tcb.state is State.CLOSED

    def test_progress_begins_it_anew(self, tcp):
        harness = tcp(user_timeout=10.0).sending(30 * MSS, sack=False)
        for number in range(1, 8):
            harness.passes(8.0)
            harness.acknowledges(1 + number * MSS)
            assert harness.tcb.state is State.ESTABLISHED

    def test_idleness_does_not_count(self, tcp):
        harness = tcp(user_timeout=10.0).sending(MSS, sack=False)
        harness.output()
        harness.acknowledges(1 + MSS)
        harness.passes(1000.0)
        harness.connection.send(b"x")
        harness.output()
        harness.passes(9.0)
        assert harness.tcb.state is State.ESTABLISHED
        harness.acknowledges(2 + MSS)

    def test_an_open_is_given_up_as_well(self, tcp):
        harness = tcp(user_timeout=5.0).open()
        harness.passes(4.9)
        assert harness.tcb.state is State.SYN_SENT
        harness.passes(0.2)
        assert harness.tcb.state is State.CLOSED

    def test_a_passive_handshake_has_all_of_it(self, tcp):
        harness = tcp(user_timeout=5.0).accepted()
        assert len(harness.passes(4.0)) >= 1 and harness.tcb.state is State.SYN_RECEIVED
        harness.passes(1.1)
        assert harness.tcb.state is State.CLOSED

    def test_a_closed_window_counts_too(self, tcp):
        harness = tcp(user_timeout=10.0).sending(MSS, sack=False)
        harness.output()
        harness.acknowledges(1 + MSS, window=0)
        harness.connection.send(b"more")
        harness.passes(9.9)
        assert harness.tcb.state is State.ESTABLISHED
        harness.passes(0.2)
        assert harness.tcb.state is State.CLOSED


class TestClosedWindow:
    """RFC 9293 3.8.6.1"""

    def shut(self, tcp, waiting=b"waiting", **config):
        harness = tcp(**config).sending(MSS, sack=False)
        harness.output()
        harness.after(0.1)
        harness.acknowledges(1 + MSS, window=0)
        if waiting:
            harness.connection.send(waiting)
        assert harness.output() == []
        return harness

    def test_probes_back_off_up_to_a_minute(self, tcp):
        waits = gaps(self.shut(tcp), 600.0)
        assert waits[:4] == pytest.approx([waits[0] * 2**count for count in range(4)], rel=0.01) and max(waits) == 60.0

    def test_a_peer_that_answers_may_keep_it_shut_for_ever(self, tcp):
        harness = self.shut(tcp, data_retries=3)
        for _ in range(50):
            (probe,) = harness.passes(harness.connection.next_deadline() - harness.now)
            assert len(probe.data) == 1 and probe.seq == 1 + MSS
            harness.acknowledges(1 + MSS, window=0)
        assert harness.tcb.state is State.ESTABLISHED

    def test_one_that_does_not_is_given_up(self, tcp):
        harness = self.shut(tcp, data_retries=3)
        harness.passes(300.0)
        assert harness.tcb.state is State.CLOSED and harness.tcb.error == errno.ETIMEDOUT

    def test_nobody_waits_for_ever_on_behalf_of_nobody(self, tcp):
        """An orphan's peer keeps its window shut, and answers."""
        harness = self.shut(tcp, orphan_retries=3)
        harness.connection.close(harness.now)
        for _ in range(20):
            harness.passes(30.0)
            if harness.tcb.state is State.CLOSED:
                return
            harness.acknowledges(1 + MSS, window=0)
        pytest.fail("probes without end")

    def test_it_opens(self, tcp):
        harness = self.shut(tcp)
        harness.passes(5.0)
        (sent,) = harness.acknowledges(1 + MSS)
        assert sent.data == b"waiting" and harness.tcb.timers.persist is None and harness.tcb.persist_backoff == 0

    def test_an_octet_that_a_probe_brought_is_not_sent_again(self, tcp):
        harness = self.shut(tcp)
        (probe,) = harness.passes(0.7)
        assert probe.data == b"w"
        (sent,) = harness.acknowledges(2 + MSS)
        assert sent.data == b"aiting" and sent.seq == 2 + MSS

    def test_a_window_that_stays_small_costs_the_same_wait_each_time(self, tcp):
        """RFC 9293 3.8.6.2.1: the override timeout does not back off while there is progress."""
        harness = tcp(persist_max=60.0).sending(10 * MSS, sack=False, window=65535)
        harness.output()
        acked = 1 + 10 * MSS
        harness.after(0.1)
        harness.acknowledges(acked)
        harness.connection.send(bytes(5 * MSS))
        harness.tcb.snd_wnd = 0
        harness.acknowledges(acked, window=100)
        times = []
        for _ in range(8):
            began = harness.now
            while not (sent := harness.output()):
                harness.now = harness.connection.next_deadline()
                harness.connection.handle_timeout(harness.now)
            assert len(sent[0].data) == 100
            times.append(harness.now - began)
            acked += 100
            harness.acknowledges(acked, window=100)
        assert max(times) < 1.0, times

    def test_a_fin_waits_with_the_data(self, tcp):
        harness = self.shut(tcp)
        harness.connection.shutdown_send(harness.now)
        assert all(not segment.flags & FIN for segment in harness.passes(3.0))
        sent = harness.acknowledges(1 + MSS)
        assert sent[-1].flags & FIN


class TestCork:
    def test_a_tail_is_held_back_and_goes_by_itself_in_the_end(self, tcp):
        harness = tcp().sending(0, sack=False)
        harness.tcb.cork = True
        harness.connection.send(b"header")
        assert harness.output() == []
        assert harness.passes(harness.tcb.rtt.rto - 0.01) == []
        (sent,) = harness.passes(0.02)
        assert sent.data == b"header" and harness.tcb.timers.retransmission is not None

    def test_full_segments_go_at_once(self, tcp):
        harness = tcp().sending(0, sack=False)
        harness.tcb.cork = True
        harness.connection.send(bytes(2 * MSS + 10))
        (sent,) = harness.output()
        assert len(sent.data) == 2 * MSS

    def test_pulled_it_lets_the_tail_go(self, tcp):
        harness = tcp().sending(0, sack=False)
        harness.tcb.cork = True
        harness.connection.send(b"header")
        harness.output()
        harness.tcb.cork = False
        (sent,) = harness.output()
        assert sent.data == b"header"

    def test_the_end_of_the_stream_goes_at_once(self, tcp):
        harness = tcp().sending(0, sack=False)
        harness.tcb.cork = True
        harness.connection.send(b"last")
        harness.connection.shutdown_send(harness.now)
        (sent,) = harness.output()
        assert sent.data == b"last" and sent.flags & FIN


class TestKeepalive:
    """RFC 9293 3.8.4"""

    def alive(self, tcp, **config):
        harness = tcp(
            **{"keepalive_idle": 100.0, "keepalive_interval": 10.0, "keepalive_probes": 3} | config
        ).established()
        harness.connection.set_keepalive(True, harness.now)
        return harness

    def test_only_where_it_is_wanted(self, tcp):
        harness = tcp(keepalive_idle=100.0).established()
        assert harness.passes(10_000.0) == [] and harness.connection.next_deadline() is None

    def test_probes_after_idleness_and_gives_up(self, tcp):
        harness = self.alive(tcp)
        assert harness.passes(99.0) == []
        sent = harness.passes(40.0)
        assert [(segment.seq, segment.data) for segment in sent[:3]] == [(0, b"")] * 3
        assert sent[3].flags & RST and harness.tcb.error == errno.ETIMEDOUT

    def test_an_answer_is_enough(self, tcp):
        harness = self.alive(tcp)
        for _ in range(5):
            assert len(harness.passes(101.0)) == 1
            harness.arrives(ACK, 1, 1)
        assert harness.tcb.state is State.ESTABLISHED and harness.tcb.keepalive_probes == 0

    def test_traffic_puts_it_off(self, tcp):
        harness = self.alive(tcp)
        for _ in range(10):
            assert harness.passes(90.0) == []
            harness.arrives(ACK, 1, 1)

    def test_a_user_timeout_takes_the_place_of_the_count(self, tcp):
        """RFC 5482 4.2"""
        harness = self.alive(tcp, user_timeout=150.0)
        harness.passes(140.0)
        assert harness.tcb.state is State.ESTABLISHED, "three probes are past"
        harness.passes(20.0)
        assert harness.tcb.state is State.CLOSED

    def test_switched_off_it_is_silent(self, tcp):
        harness = self.alive(tcp)
        harness.connection.set_keepalive(False, harness.now)
        assert harness.passes(1000.0) == []


class TestSeveralAtOnce:
    def test_a_late_call_serves_all_that_is_due(self, tcp):
        harness = tcp(delayed_ack=0.2).sending(MSS, sack=False)
        harness.output()
        harness.arrives(ACK, 1, 1, b"text")
        harness.now += 5.0
        harness.connection.handle_timeout(harness.now)
        sent = harness.output()
        assert any(segment.ack == 5 for segment in sent) and harness.tcb.recovery.phase is Phase.LOSS

    def test_the_end_of_time_wait_is_the_end(self, tcp):
        harness = tcp().established()
        harness.connection.shutdown_send(harness.now)
        harness.output()
        harness.arrives(ACK | FIN, 1, 2)
        assert harness.tcb.state is State.TIME_WAIT
        harness.passes(59.9)
        assert harness.tcb.state is State.TIME_WAIT
        harness.passes(0.2)
        assert harness.tcb.state is State.CLOSED and Event.CLOSED in harness.events
