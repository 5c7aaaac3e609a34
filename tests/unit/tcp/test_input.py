"""SEGMENT ARRIVES (RFC 9293 3.10.7), with RFC 5961, 7323 5, 5681 and 6582."""

import errno

import pytest

from swos_net.tcp.events import Event
from swos_net.tcp.recovery_state import Phase
from swos_net.tcp.segment import ACK, FIN, PSH, RST, SYN
from swos_net.tcp.state import State
from swos_net.wire.tcp import TcpOptions

PLAIN = TcpOptions(mss=1460)
TIMES = TcpOptions(mss=1460, ts_val=1000, ts_ecr=0)


def stamp(ts_val, ts_ecr=0):
    return TcpOptions(ts_val=ts_val, ts_ecr=ts_ecr)


class TestSynSent:
    """3.10.7.3"""

    def test_a_syn_ack_establishes(self, tcp):
        harness = tcp().open()
        (ack,) = harness.arrives(SYN | ACK, 0, 1, options=PLAIN)
        assert (ack.flags, ack.seq, ack.ack) == (ACK, 1, 1)
        assert harness.tcb.state is State.ESTABLISHED
        assert harness.events == [Event.CONNECTED]
        assert harness.connection.next_deadline() is None

    @pytest.mark.parametrize("ack", [0, 2, -1, 1 << 31])
    def test_an_ack_of_something_never_sent_is_reset(self, tcp, ack):
        harness = tcp().open()
        (reset,) = harness.arrives(SYN | ACK, 0, ack, options=PLAIN)
        assert reset.flags == RST and reset.seq == ack & 0xFFFFFFFF
        assert harness.tcb.state is State.SYN_SENT
        assert harness.arrives(RST | ACK, 0, ack) == []
        assert harness.tcb.state is State.SYN_SENT

    def test_a_reset_of_our_syn_refuses(self, tcp):
        harness = tcp().open()
        assert harness.arrives(RST | ACK, 0, 1) == []
        assert harness.tcb.state is State.CLOSED and harness.tcb.error == errno.ECONNREFUSED
        assert harness.events == [Event.FAILED, Event.CLOSED]

    def test_a_reset_without_ack_is_nobodys(self, tcp):
        harness = tcp().open()
        harness.arrives(RST)
        assert harness.tcb.state is State.SYN_SENT

    def test_data_and_fin_with_the_syn_ack(self, tcp):
        harness = tcp().open()
        (ack,) = harness.arrives(SYN | ACK | FIN, 0, 1, b"hello", options=PLAIN)
        assert ack.ack == 7
        assert harness.connection.receive(100) == b"hello"
        assert harness.connection.at_end and harness.tcb.state is State.CLOSE_WAIT

    def test_the_round_trip_of_the_syn_is_measured_unless_it_was_sent_twice(self, tcp):
        harness = tcp().open()
        harness.now += 0.3
        harness.arrives(SYN | ACK, 0, 1, options=PLAIN)
        assert harness.tcb.rtt.srtt == pytest.approx(0.3)
        harness = tcp().open()
        assert [sent.flags for sent in harness.passes(1.1)] == [SYN]
        harness.arrives(SYN | ACK, 0, 1, options=PLAIN)
        assert harness.tcb.rtt.srtt is None, "Karn's rule"


class TestSimultaneousOpen:
    """3.5, figure 8"""

    def test_both_syns_cross(self, tcp):
        harness = tcp().open()
        (answer,) = harness.arrives(SYN, 0, options=PLAIN)
        assert (answer.flags, answer.seq, answer.ack) == (SYN | ACK, 0, 1)
        assert harness.tcb.state is State.SYN_RECEIVED
        sent = harness.arrives(SYN | ACK, 0, 1, options=PLAIN)
        assert harness.tcb.state is State.ESTABLISHED, "line 6 of figure 8"
        assert all(not segment.flags & SYN for segment in sent), "the two would answer each other for ever"

    def test_the_peers_ack_alone_will_do(self, tcp):
        harness = tcp().open()
        harness.arrives(SYN, 0, options=PLAIN)
        harness.arrives(ACK, 1, 1)
        assert harness.tcb.state is State.ESTABLISHED

    def test_a_syn_ack_with_a_wrong_ack_is_reset(self, tcp):
        harness = tcp().open()
        harness.arrives(SYN, 0, options=PLAIN)
        harness.arrives(SYN | ACK, 0, 77, options=PLAIN)
        assert harness.tcb.state is State.SYN_RECEIVED


class TestSynReceived:
    def test_the_ack_establishes(self, tcp):
        harness = tcp().accepted()
        assert harness.arrives(ACK, 1, 1, window=500) == []
        assert harness.tcb.state is State.ESTABLISHED and harness.tcb.snd_wnd == 500
        assert Event.CONNECTED in harness.events

    def test_data_with_the_ack(self, tcp):
        harness = tcp().accepted()
        harness.arrives(ACK | PSH | FIN, 1, 1, b"all of it")
        assert harness.connection.receive(100) == b"all of it"
        assert harness.tcb.state is State.CLOSE_WAIT

    def test_a_wrong_ack_is_reset(self, tcp):
        harness = tcp().accepted()
        (reset,) = harness.arrives(ACK, 1, 5)
        assert reset.flags == RST and reset.seq == 5
        assert harness.tcb.state is State.SYN_RECEIVED

    def test_the_syn_again_is_answered_again(self, tcp):
        harness = tcp().accepted()
        (answer,) = harness.arrives(SYN, 0, options=PLAIN)
        assert (answer.flags, answer.seq, answer.ack) == (SYN | ACK, 0, 1)

    @pytest.mark.parametrize("active", [False, True])
    def test_the_ack_overtakes_our_syn_that_was_to_go_again(self, tcp, active):
        """Both in one burst: nothing is sent in between."""
        harness = tcp().open() if active else tcp().accepted()
        if active:
            harness.now = harness.connection.next_deadline()
            harness.connection.handle_timeout(harness.now)
            harness.connection.segment_arrives(harness.segment(SYN | ACK, 0, 1, options=PLAIN), harness.now)
        else:
            harness.connection.segment_arrives(harness.segment(SYN, 0, options=PLAIN), harness.now)
            harness.connection.segment_arrives(harness.segment(ACK, 1, 1), harness.now)
        assert harness.tcb.state is State.ESTABLISHED
        harness.connection.send(b"hello")
        assert b"".join(segment.data for segment in harness.output()) == b"hello"
        harness.connection.shutdown_send(harness.now)
        assert harness.output()[-1].seq == 6

    def test_a_reset_ends_it(self, tcp):
        harness = tcp().accepted()
        harness.arrives(RST, 1)
        assert harness.tcb.state is State.CLOSED

    def test_the_syn_ack_is_sent_again_until_there_is_no_hope(self, tcp):
        harness = tcp(syn_ack_retries=2).accepted()
        assert [sent.flags for sent in harness.passes(60)] == [SYN | ACK] * 2
        assert harness.tcb.state is State.CLOSED and harness.tcb.error == errno.ETIMEDOUT


class TestAcceptability:
    """3.10.7.4, "first, check sequence number", table 6"""

    @pytest.mark.parametrize("seq, data", [(-10, b""), (0, b""), (65536, b""), (-10, b"0123456789"), (65536, b"x")])
    def test_outside_the_window_is_answered_with_an_ack(self, tcp, seq, data):
        harness = tcp(receive_buffer=65535).established()
        (ack,) = harness.arrives(ACK, seq, 1, data)
        assert (ack.flags, ack.seq, ack.ack) == (ACK, 1, 1)
        assert not harness.connection.readable

    def test_what_hangs_over_either_edge_is_trimmed(self, tcp):
        harness = tcp(receive_buffer=4096).established()
        harness.arrives(ACK, 1, 1, b"abc")
        harness.arrives(ACK, 2, 1, b"bcdef")
        assert harness.connection.receive(100) == b"abcdef"
        harness.arrives(ACK, 7, 1, bytes(10_000))
        assert harness.connection.readable <= 4096

    def test_with_a_closed_window_the_ack_still_counts(self, tcp):
        harness = tcp(receive_buffer=4096).established()
        harness.connection.send(b"x" * 10)
        harness.output()
        harness.arrives(ACK, 1, 1, bytes(4096))
        (ack,) = harness.arrives(ACK, 4097, 11, b"y")
        assert (ack.ack, ack.window) == (4097, 0)
        assert harness.tcb.snd_una == harness.tcb.snd_max

    def test_old_pure_acks_are_not_answered_without_end(self, tcp):
        """Two ends that disagree must not answer each other's ACKs for ever (RFC 5961 7)."""
        harness = tcp().established()
        answers = sum(len(harness.arrives(ACK, -100, 1)) for _ in range(1000))
        assert 0 < answers <= 10

    def test_a_retransmission_is_always_answered(self, tcp):
        harness = tcp().established()
        harness.arrives(ACK, 1, 1, bytes(10))
        harness.output()
        assert all(len(harness.arrives(ACK, 1, 1, bytes(10))) == 1 for _ in range(50))


class TestBlindAttacks:
    """RFC 5961"""

    def test_a_reset_inside_the_window_is_challenged(self, tcp):
        harness = tcp().established()
        (ack,) = harness.arrives(RST, 2)
        assert (ack.flags, ack.ack) == (ACK, 1)
        assert harness.tcb.state is State.ESTABLISHED
        assert harness.arrives(RST, 70_000_000) == []
        harness.arrives(RST, 1)
        assert harness.tcb.error == errno.ECONNRESET

    def test_a_syn_is_challenged_wherever_it_lies(self, tcp):
        harness = tcp().established()
        for seq in (1, 2, -5, 1 << 30):
            (ack,) = harness.arrives(SYN, seq)
            assert (ack.flags, ack.ack) == (ACK, 1)
        assert harness.tcb.state is State.ESTABLISHED

    def test_challenges_are_limited(self, tcp):
        harness = tcp().established()
        assert sum(len(harness.arrives(SYN, 5)) for _ in range(100)) == 10
        harness.now += 1.0
        assert sum(len(harness.arrives(SYN, 5)) for _ in range(100)) == 10

    @pytest.mark.parametrize("ack", [5000, 1 << 31, -70_000])
    def test_an_ack_out_of_range_is_challenged_and_its_data_dropped(self, tcp, ack):
        harness = tcp().established()
        (challenge,) = harness.arrives(ACK, 1, ack, b"evil")
        assert challenge.ack == 1
        assert not harness.connection.readable

    def test_a_segment_without_ack_is_dropped(self, tcp):
        harness = tcp().established()
        assert harness.arrives(0, 1, data=b"evil") == []
        assert harness.arrives(FIN, 1, data=b"evil") == []
        assert not harness.connection.readable and harness.tcb.state is State.ESTABLISHED


class TestTimestamps:
    """RFC 7323 4.3 and 5"""

    def established(self, tcp):
        return tcp(timestamps=True).established(options=TIMES)

    def test_an_older_timestamp_is_refused(self, tcp):
        harness = self.established(tcp)
        (ack,) = harness.arrives(ACK, 1, 1, b"old", options=stamp(999))
        assert ack.options.ts_ecr == 1000
        assert not harness.connection.readable

    def test_a_reset_needs_no_new_timestamp(self, tcp):
        harness = self.established(tcp)
        harness.arrives(RST, 1, options=stamp(5))
        assert harness.tcb.state is State.CLOSED

    def test_the_timestamp_of_the_oldest_unacknowledged_segment_is_echoed(self, tcp):
        harness = self.established(tcp)
        harness.arrives(ACK, 1, 1, bytes(10), options=stamp(1001))
        harness.arrives(ACK, 11, 1, bytes(10), options=stamp(1002))
        (ack,) = harness.passes(1)
        assert (ack.ack, ack.options.ts_ecr) == (21, 1001)  # RFC 7323 4.3 (2): of two segments one ACK, the first one's

    @pytest.mark.parametrize("seq", [-5000, -(1 << 30), 1 << 30])
    def test_a_segment_outside_the_window_does_not_set_the_clock(self, tcp, seq):
        """R3 comes after R2: one forged segment must not make PAWS refuse the true ones."""
        harness = self.established(tcp)
        harness.arrives(ACK, seq, 1, b"forged", options=stamp(1000 + (1 << 30)))
        harness.arrives(ACK, 1, 1, b"true", options=stamp(1001))
        assert harness.connection.receive(100) == b"true"

    def test_a_forged_ack_does_not_set_the_clock(self, tcp):
        harness = self.established(tcp)
        harness.arrives(ACK, 1, 1 << 30, b"", options=stamp(1000 + (1 << 30)))
        harness.arrives(ACK, 1, 1, b"true", options=stamp(1001))
        assert harness.connection.receive(100) == b"true"

    def test_a_reset_does_not_turn_the_clock_back(self, tcp):
        harness = self.established(tcp)
        harness.arrives(RST, 0, options=stamp(1))
        assert harness.tcb.ts_recent == 1000

    def test_after_24_days_of_silence_any_timestamp_will_do(self, tcp):
        harness = self.established(tcp)
        harness.now += 25 * 86400
        harness.arrives(ACK, 1, 1, b"hello again", options=stamp(5))
        assert harness.connection.receive(100) == b"hello again"

    def test_refused_segments_are_not_answered_without_end(self, tcp):
        harness = self.established(tcp)
        assert sum(len(harness.arrives(ACK, 1, 1, options=stamp(5))) for _ in range(100)) <= 10


class TestText:
    def test_in_order(self, tcp):
        harness = tcp().established()
        assert harness.arrives(ACK | PSH, 1, 1, b"hello") == []
        assert harness.events == [Event.READABLE]
        assert harness.connection.receive(3) == b"hel" and harness.connection.receive(100) == b"lo"
        (ack,) = harness.passes(0.5)
        assert ack.ack == 6

    def test_out_of_order_is_acknowledged_at_once_and_put_in_order(self, tcp):
        harness = tcp().established()
        (ack,) = harness.arrives(ACK, 6, 1, b"world")
        assert ack.ack == 1 and not harness.connection.readable
        (ack,) = harness.arrives(ACK, 1, 1, b"hello")
        assert ack.ack == 11
        assert harness.connection.receive(100) == b"helloworld"

    def test_every_second_full_sized_segment_is_acknowledged(self, tcp):
        """RFC 9293 3.8.6.3: full-sized is what the peer sends, options and path taken off."""
        for size, options in ((1460, PLAIN), (1448, TIMES), (536, PLAIN)):
            harness = tcp(timestamps=True).established(options=options)
            seq = 1
            acks = []
            for number in range(20):
                given = stamp(1001 + number) if options is TIMES else None
                acks.append(len(harness.arrives(ACK, seq, 1, bytes(size), options=given)))
                seq += size
            assert sum(acks[4:]) >= 8, f"segments of {size} bytes: {acks}"

    def test_an_ack_is_delayed_for_no_more_than_the_configuration_says(self, tcp):
        harness = tcp(delayed_ack=0.04).established()
        harness.arrives(ACK, 1, 1, b"x")
        assert harness.connection.next_deadline() == pytest.approx(harness.now + 0.04)
        harness.connection.send(b"answer")
        (answer,) = harness.output()
        assert answer.ack == 2 and harness.tcb.timers.delayed_ack is None, "data carries the ACK"

    def test_holes_are_bounded_and_the_rest_still_arrives(self, tcp):
        harness = tcp(receive_buffer=1 << 20).established()
        harness.tcb.out_of_order.limit = 256
        for number in range(400):
            harness.arrives(ACK, 3 + 2 * number, 1, b"b")
        assert len(harness.tcb.out_of_order) == 256
        for number in range(400):
            harness.arrives(ACK, 2 + 2 * number, 1, b"ab")
        harness.arrives(ACK, 1, 1, b"b")
        assert harness.connection.receive(100_000) == b"b" + b"ab" * 400

    def test_text_after_a_fin_is_not_text(self, tcp):
        harness = tcp().established()
        harness.arrives(ACK | FIN, 1, 1, b"end")
        harness.arrives(ACK, 5, 1, b"more")
        assert harness.connection.receive(100) == b"end" and harness.connection.at_end

    def test_data_for_a_user_who_has_gone_is_reset(self, tcp):
        harness = tcp().established()
        harness.connection.close(harness.now)
        harness.output()
        (reset,) = harness.arrives(ACK, 1, 2, b"anybody?")
        assert reset.flags & RST and reset.seq == 2
        assert harness.tcb.state is State.CLOSED  # RFC 1122 4.2.2.13

    def test_after_shutdown_of_receiving_what_is_there_can_still_be_read(self, tcp):
        harness = tcp().established()
        harness.arrives(ACK, 1, 1, b"before")
        harness.connection.shutdown_receive()
        harness.arrives(ACK, 7, 1, b"after")
        assert harness.connection.receive(100) == b"beforeafter"
        assert harness.connection.at_end and harness.tcb.state is State.ESTABLISHED

    def test_a_fin_out_of_order_waits_for_what_is_missing(self, tcp):
        harness = tcp().established()
        harness.arrives(ACK | FIN, 6, 1, b"world")
        assert harness.tcb.state is State.ESTABLISHED
        (ack,) = harness.arrives(ACK, 1, 1, b"hello")
        assert ack.ack == 12 and harness.tcb.state is State.CLOSE_WAIT
        assert harness.connection.receive(100) == b"helloworld" and harness.connection.at_end

    def test_a_fin_beyond_the_window_waits(self, tcp):
        harness = tcp(receive_buffer=4096).established()
        harness.arrives(ACK | FIN, 1, 1, bytes(5000))
        assert harness.tcb.state is State.ESTABLISHED
        harness.connection.receive(5000)
        harness.output()
        harness.arrives(ACK | FIN, 1, 1, bytes(5000))
        assert harness.tcb.state is State.CLOSE_WAIT

    def test_a_fin_again_is_acknowledged_again(self, tcp):
        harness = tcp().established()
        for _ in range(3):
            (ack,) = harness.arrives(ACK | FIN, 1, 1)
            assert ack.ack == 2
        assert harness.events.count(Event.PEER_CLOSED) == 1

    def test_fin_wait_1_with_fin_and_its_ack_together(self, tcp):
        harness = tcp().established()
        harness.connection.shutdown_send(harness.now)
        harness.output()
        harness.arrives(ACK | FIN, 1, 2)
        assert harness.tcb.state is State.TIME_WAIT

    def test_closing(self, tcp):
        harness = tcp().established()
        harness.connection.shutdown_send(harness.now)
        harness.output()
        (ack,) = harness.arrives(ACK | FIN, 1, 1)
        assert harness.tcb.state is State.CLOSING and ack.ack == 2
        harness.arrives(ACK, 2, 2)
        assert harness.tcb.state is State.TIME_WAIT


class TestTimeWait:
    def there(self, tcp, options=PLAIN, **config):
        harness = tcp(**config).established(options=options)
        harness.connection.shutdown_send(harness.now)
        harness.output()
        harness.arrives(ACK | FIN, 1, 2, options=stamp(1001) if options is TIMES else None)
        assert harness.tcb.state is State.TIME_WAIT
        harness.events.clear()
        return harness

    @pytest.mark.parametrize("ignored", [True, False])
    def test_a_reset_does_not_end_it_unless_it_may(self, tcp, ignored):
        """RFC 1337 3, fix F1; RFC 9293 3.10.7.4 leaves it open."""
        harness = self.there(tcp, ignore_reset_in_time_wait=ignored)
        assert harness.arrives(RST, 2, 0) == []
        assert harness.tcb.state is (State.TIME_WAIT if ignored else State.CLOSED) and not harness.tcb.error

    def test_it_lasts_two_msl(self, tcp):
        harness = self.there(tcp, time_wait=60.0)
        harness.passes(59.9)
        assert harness.tcb.state is State.TIME_WAIT
        harness.passes(0.2)
        assert harness.events == [Event.CLOSED]

    def test_the_fin_again_is_acknowledged_and_the_time_starts_anew(self, tcp):
        harness = self.there(tcp)
        harness.passes(50)
        (ack,) = harness.arrives(ACK | FIN, 1, 2)
        assert ack.ack == 2
        harness.passes(50)
        assert harness.tcb.state is State.TIME_WAIT

    @pytest.mark.parametrize("seq", [3, 1000, 65535, 66_000, 250_000, 1 << 30])
    def test_a_new_syn_beyond_the_old_stream_opens_anew(self, tcp, seq):
        """RFC 9293 3.6.1 (MAY-2): inside the old window too, where a clock-driven ISN usually lies."""
        harness = self.there(tcp)
        assert harness.arrives(SYN, seq, options=PLAIN) == []
        assert harness.events == [Event.REOPEN] and harness.tcb.state is State.CLOSED

    @pytest.mark.parametrize("seq", [1, 2, 0, -5000, -(1 << 30)])
    def test_an_old_syn_does_not(self, tcp, seq):
        harness = self.there(tcp)
        harness.arrives(SYN, seq, options=PLAIN)
        assert harness.tcb.state is State.TIME_WAIT

    @pytest.mark.parametrize("seq", [1000, -5000, 1 << 30, -(1 << 30)])
    def test_a_newer_timestamp_opens_anew_whatever_the_number(self, tcp, seq):
        harness = self.there(tcp, TIMES, timestamps=True)  # RFC 6191 2
        harness.arrives(SYN, seq, options=TcpOptions(mss=1460, ts_val=2000, ts_ecr=0))
        assert harness.events == [Event.REOPEN]

    def test_an_older_timestamp_does_not(self, tcp):
        harness = self.there(tcp, TIMES, timestamps=True)
        harness.arrives(SYN, 1000, options=TcpOptions(mss=1460, ts_val=900, ts_ecr=0))
        assert harness.tcb.state is State.TIME_WAIT

    def test_it_holds_no_buffers(self, tcp):
        harness = tcp().established()
        harness.connection.send(bytes(5000))
        harness.output()
        harness.connection.shutdown_send(harness.now)
        harness.arrives(ACK, 1, 5001)
        harness.arrives(ACK | FIN, 1, 5002)
        assert harness.tcb.state is State.TIME_WAIT
        assert harness.tcb.send_ring is None, "pages of a ring for nothing, for a minute"


class TestReset:
    @pytest.mark.parametrize("closed_by_peer, code", [(False, errno.ECONNRESET), (True, errno.EPIPE)])
    def test_the_error_depends_on_what_went_before(self, tcp, closed_by_peer, code):
        harness = tcp().established()
        if closed_by_peer:
            harness.arrives(ACK | FIN, 1, 1)
        harness.arrives(RST, 1 + closed_by_peer)
        assert harness.tcb.error == code

    def test_what_was_received_before_stays_readable(self, tcp):
        harness = tcp().established()
        harness.arrives(ACK, 1, 1, b"last words")
        harness.arrives(RST, 11)
        assert harness.connection.receive(100) == b"last words" and harness.connection.at_end


class TestLossRecovery:
    """RFC 5681 3.2, 6582"""

    def sending(self, tcp, count, **config):
        harness = tcp(super_segment=1460, **config).established()
        harness.tcb.congestion.cwnd = 100_000
        harness.connection.send(bytes(1460 * count))
        assert len(harness.output()) == count
        return harness

    def test_three_duplicates_send_the_first_segment_again(self, tcp):
        harness = self.sending(tcp, 10)
        assert harness.arrives(ACK, 1, 1) == [] and harness.arrives(ACK, 1, 1) == []
        (again,) = harness.arrives(ACK, 1, 1)
        assert (again.seq, len(again.data)) == (1, 1460)
        assert harness.tcb.congestion.ssthresh == 5 * 1460

    def test_a_partial_ack_sends_the_next_hole(self, tcp):
        harness = self.sending(tcp, 10)
        for _ in range(3):
            harness.arrives(ACK, 1, 1)
        (again,) = harness.arrives(ACK, 1, 1461)
        assert again.seq == 1461 and harness.tcb.recovery.phase is Phase.RECOVERY
        harness.arrives(ACK, 1, 14601)
        assert harness.tcb.recovery.phase is not Phase.RECOVERY

    @pytest.mark.parametrize("changed", [dict(window=60000), dict(data=b"x"), dict(flags=ACK | FIN)])
    def test_what_is_not_a_duplicate(self, tcp, changed):
        harness = self.sending(tcp, 10)
        for _ in range(4):
            harness.arrives(**(dict(flags=ACK, seq=1, ack=1) | changed))
            if "window" in changed:
                changed["window"] -= 1
        assert harness.tcb.recovery.phase is not Phase.RECOVERY

    def test_fast_retransmit_sends_nothing_that_was_never_sent(self, tcp):
        harness = tcp(super_segment=1460).established()
        for _ in range(5):
            harness.connection.send(b"x" * 10)
            harness.tcb.nodelay = True
            harness.output()
        harness.tcb.nodelay = False
        harness.connection.send(b"y" * 1000)  # Nagle holds it back
        sent = []
        for _ in range(3):
            harness.tcb.congestion.cwnd = 50
            sent += harness.arrives(ACK, 1, 1)
        assert [segment.seq for segment in sent] == [1]
        end = 1 + len(sent[0].data)
        assert harness.arrives(ACK, 1, end) is not None
        assert harness.tcb.snd_una - harness.tcb.iss == end, "an ACK of what we sent was not believed"

    def test_answers_to_window_probes_are_not_duplicates(self, tcp):
        harness = tcp().established(window=1000)
        harness.connection.send(bytes(5000))
        harness.output()
        harness.arrives(ACK, 1, 1001, window=0)
        for _ in range(12):
            for sent in harness.passes(60):
                assert len(sent.data) == 1, "more than a probe into a closed window"
            harness.arrives(ACK, 1, 1001, window=0)
        assert harness.tcb.recovery.phase is not Phase.RECOVERY and harness.tcb.state is State.ESTABLISHED

    def test_timeout_goes_back_to_the_first_unacknowledged(self, tcp):
        harness = self.sending(tcp, 10)
        sent = harness.passes(0.25)
        assert [segment.seq for segment in sent] == [1]
        assert harness.tcb.congestion.cwnd == 1460
        sent = harness.arrives(ACK, 1, 1461)
        assert [segment.seq for segment in sent] == [1461, 2921]

    def test_an_echoed_timestamp_ends_the_backing_off(self, tcp):
        harness = tcp(timestamps=True).established(options=TIMES)
        harness.connection.send(b"x")
        harness.output()
        harness.passes(3.5)
        assert harness.tcb.rtt.backoff > 0
        harness.arrives(ACK, 1, 2, options=stamp(1001, harness.tcb.timestamp(harness.now - 0.25)))
        assert harness.tcb.rtt.backoff == 0 and 0 < harness.tcb.rtt.srtt < 0.5

    def test_replies_do_not_pile_up_when_nobody_asks_for_output(self, tcp):
        harness = tcp().open()
        for _ in range(10_000):
            harness.connection.segment_arrives(harness.segment(ACK, 0, 500), harness.now)
        assert len(harness.tcb.replies) <= 64, "a flood fills memory while the link is blocked"
