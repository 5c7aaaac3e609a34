"""What goes out and when: segmentation, Nagle, silly windows, persist, acknowledgments (RFC 9293 3.7, 3.8)."""

import errno

import pytest

from swos_net.tcp.segment import ACK, FIN, PSH, RST, SYN
from swos_net.tcp.state import State
from swos_net.wire.tcp import TcpOptions

MSS = 1460


def lengths(sent):
    return [len(segment.data) for segment in sent]


def drained(harness, total, **arguments):
    """Acknowledges all that goes out until `total` bytes have; gives the segments."""
    sent, acked = harness.output(), 1
    collected = list(sent)
    while acked < total + 1:
        assert sent, f"stopped after {acked - 1} bytes"
        acked = max(segment.seq + len(segment.data) for segment in sent)
        sent = harness.arrives(ACK, 1, acked, **arguments)
        collected += sent
    return collected


class TestSegmentation:
    def test_a_stream_goes_out_whole_and_in_order(self, tcp):
        harness = tcp().established()
        data = bytes(range(256)) * 500
        harness.connection.send(data)
        sent = drained(harness, len(data))
        assert b"".join(segment.data for segment in sent) == data
        assert [segment.seq for segment in sent] == [1 + sum(lengths(sent)[:number]) for number in range(len(sent))]

    def test_super_segments_are_whole_segments_but_the_last(self, tcp):
        harness = tcp(super_segment=65000, auto_tuning=False).established()
        harness.tcb.congestion.cwnd = 1 << 20
        harness.connection.send(bytes(200_000))
        sent = drained(harness, 200_000)
        assert max(lengths(sent)) > 60_000
        assert all(segment.segment_size == MSS for segment in sent)
        assert all(length % MSS == 0 for length in lengths(sent)[:-1])

    def test_push_and_fin_are_on_the_last_segment_only(self, tcp):
        harness = tcp(super_segment=MSS).established()
        harness.connection.send(bytes(3 * MSS))
        harness.connection.shutdown_send(harness.now)
        assert [segment.flags for segment in harness.output()] == [ACK, ACK, ACK | PSH | FIN]

    def test_no_more_than_asked_for_and_the_rest_later(self, tcp):
        harness = tcp(super_segment=MSS).established()
        harness.connection.send(bytes(5 * MSS))
        sent = harness.output(budget=2)
        assert lengths(sent) == [MSS] * 2
        assert lengths(harness.output(budget=64)) == [MSS] * 3

    @pytest.mark.parametrize("budget", [1, 2, 3])
    def test_a_small_budget_never_overflows_and_never_forgets(self, tcp, budget):
        harness = tcp(super_segment=MSS).established()
        harness.connection.send(bytes(10 * MSS))
        harness.connection.shutdown_send(harness.now)
        recorded = []
        for turn in range(40):
            harness.tcb.probe_now = harness.tcb.ack_now = turn % 8 == 0
            recorded += harness.output(budget)
        assert max(segment.seq + len(segment.data) for segment in recorded if segment.data) == 10 * MSS + 1
        assert any(segment.flags & FIN for segment in recorded)

    def test_a_fin_that_found_no_room_is_asked_for_again(self, tcp):
        harness = tcp().established()
        harness.connection.send(b"x")
        harness.output()
        harness.connection.shutdown_send(harness.now)
        harness.tcb.scoreboard.mark_all_lost()
        harness.tcb.recovery.forced = True

        class Sink:
            def add_tcp(self, *arguments, **keywords):
                pass

        assert harness.connection.segments_to_send(harness.now, Sink(), 1) is True

    def test_never_beyond_the_window(self, tcp):
        harness = tcp().established(window=3000)
        harness.connection.send(bytes(10_000))
        assert sum(lengths(harness.output())) <= 3000
        for ack in (1461, 2921):
            for segment in harness.arrives(ACK, 1, ack, window=3000):
                assert segment.seq + len(segment.data) <= ack + 3000

    def test_never_beyond_the_congestion_window(self, tcp):
        harness = tcp().established()
        harness.connection.send(bytes(100_000))
        assert sum(lengths(harness.output())) == 10 * MSS

    def test_after_an_idle_time_the_window_starts_anew(self, tcp):
        harness = tcp().established()
        harness.tcb.congestion.cwnd = 40 * MSS
        harness.connection.send(b"x")
        drained(harness, 1)
        harness.passes(10)
        harness.connection.send(bytes(100_000))
        assert sum(lengths(harness.output())) == 10 * MSS  # RFC 5681 4.1


class TestNagle:
    """3.7.4"""

    def test_a_small_tail_waits_for_the_acknowledgment(self, tcp):
        harness = tcp().established()
        harness.connection.send(b"first")
        assert lengths(harness.output()) == [5]
        harness.connection.send(b"second")
        assert harness.output() == []
        assert lengths(harness.arrives(ACK, 1, 6)) == [6]

    def test_full_segments_do_not_wait(self, tcp):
        harness = tcp().established()
        harness.connection.send(b"first")
        harness.output()
        harness.connection.send(bytes(MSS + 5))
        assert lengths(harness.output()) == [MSS]

    def test_the_end_of_a_long_write_does_not_wait_for_what_is_full_sized(self, tcp):
        harness = tcp().established()
        harness.connection.send(bytes(12 * MSS + 5))
        assert sum(lengths(harness.output())) == 10 * MSS
        assert sum(lengths(harness.arrives(ACK, 1, 1 + 2 * MSS))) == 2 * MSS + 5

    def test_one_write_from_an_idle_connection_goes_out_with_its_tail(self, tcp):
        harness = tcp().established()
        harness.connection.send(bytes(3 * MSS + 5))
        assert sum(lengths(harness.output())) == 3 * MSS + 5

    def test_switched_off(self, tcp):
        harness = tcp().established()
        harness.tcb.nodelay = True
        for _ in range(3):
            harness.connection.send(b"x")
            assert lengths(harness.output()) == [1]

    def test_the_tail_before_a_fin_does_not_wait(self, tcp):
        harness = tcp().established()
        harness.connection.send(b"first")
        harness.output()
        harness.connection.send(b"last")
        harness.connection.shutdown_send(harness.now)
        (segment,) = harness.output()
        assert segment.data == b"last" and segment.flags & FIN


class TestSillyWindows:
    """3.8.6.2"""

    def test_a_window_that_opens_by_crumbs_is_not_filled_by_crumbs(self, tcp):
        harness = tcp().established(window=5 * MSS)
        harness.connection.send(bytes(20 * MSS))
        harness.output()
        sent = harness.arrives(ACK, 1, 1 + 5 * MSS, window=100)
        assert lengths(sent) == []
        assert harness.tcb.timers.persist is not None
        assert lengths(harness.arrives(ACK, 1, 1 + 5 * MSS, window=MSS)) == [MSS]
        assert harness.tcb.timers.persist is None

    def test_half_of_the_largest_window_is_worth_a_segment(self, tcp):
        harness = tcp().established(window=1000)
        harness.connection.send(bytes(5000))
        assert lengths(harness.output()) == [1000]
        assert lengths(harness.arrives(ACK, 1, 1001, window=400)) == []
        assert lengths(harness.arrives(ACK, 1, 1001, window=500)) == [500]

    def test_our_window_opens_by_worthwhile_steps(self, tcp):
        harness = tcp(receive_buffer=16384).established()
        for number in range(8):
            sent = harness.arrives(ACK, 1 + 2048 * number, 1, bytes(2048))
        assert sent[-1].window == 0
        for _ in range(20):
            harness.connection.receive(10)
            assert all(segment.window == 0 for segment in harness.output()), "a crumb was advertised"
        harness.connection.receive(8192)
        (update,) = harness.output()
        assert update.window >= 8192

    def test_the_right_edge_never_moves_left(self, tcp):
        harness = tcp(receive_buffer=8192).established()
        edge = 0
        for number in range(200):
            for segment in harness.arrives(ACK, 1 + 100 * number, 1, bytes(100)):
                assert segment.ack + segment.window >= edge
                edge = segment.ack + segment.window
            if number % 7 == 0:
                harness.connection.receive(1000)
                for segment in harness.output():
                    assert segment.ack + segment.window >= edge
                    edge = segment.ack + segment.window

    def test_a_scaled_window_fits_its_field(self, tcp):
        harness = tcp(window_scaling=True, receive_buffer=1 << 24, auto_tuning=False).established(
            options=TcpOptions(mss=MSS, window_scale=0)
        )
        (ack,) = harness.arrives(ACK, 5, 1, b"x")
        assert ack.window << 9 == 1 << 24


class TestPersist:
    """3.8.6.1"""

    def closed_window(self, tcp, queued=5000, **config):
        harness = tcp(**config).established(window=1000)
        harness.connection.send(bytes(queued))
        harness.output()
        harness.arrives(ACK, 1, 1001, window=0)
        return harness

    def test_probes_carry_one_octet_and_back_off(self, tcp):
        harness = self.closed_window(tcp, persist_max=60.0)
        start, times = harness.now, []
        for _ in range(8):
            harness.now = harness.connection.next_deadline()
            harness.connection.handle_timeout(harness.now)
            (probe,) = harness.output()
            assert (probe.seq, len(probe.data)) == (1001, 1)
            times.append(harness.now - start)
            harness.arrives(ACK, 1, 1001, window=0)
        gaps = [later - earlier for earlier, later in zip(times, times[1:])]
        assert all(later >= earlier for earlier, later in zip(gaps, gaps[1:]))
        assert gaps[0] < 2 and gaps[-1] <= 60

    def test_a_window_may_stay_closed_for_ever_while_the_peer_answers(self, tcp):
        harness = self.closed_window(tcp)
        for _ in range(100):
            for _probe in harness.passes(61):
                harness.arrives(ACK, 1, 1001, window=0)
        assert harness.tcb.state is State.ESTABLISHED
        assert sum(lengths(harness.arrives(ACK, 1, 1001, window=5000))) == 4000

    def test_without_answers_the_connection_fails(self, tcp):
        harness = self.closed_window(tcp, data_retries=5)
        harness.passes(600)
        assert harness.tcb.error == errno.ETIMEDOUT

    def test_a_user_who_has_gone_is_not_kept_waiting_by_a_closed_window(self, tcp):
        """Else a peer could hold any number of full send queues for ever."""
        harness = self.closed_window(tcp, data_retries=8)
        harness.connection.close(harness.now)
        for _ in range(60):
            for _probe in harness.passes(61):
                if harness.tcb.state is not State.CLOSED:
                    harness.arrives(ACK, 1, 1001, window=0)
        assert harness.tcb.state is State.CLOSED

    def test_a_probe_that_is_taken_goes_on_from_there(self, tcp):
        harness = self.closed_window(tcp)
        (probe,) = harness.passes(1.1)[:1]
        sent = harness.arrives(ACK, 1, 1002, window=2000)
        assert sent[0].seq == 1002 and lengths(sent) == [MSS]

    def test_an_idle_connection_whose_last_byte_went_as_a_probe_lives_on(self, tcp):
        harness = self.closed_window(tcp, queued=1001, data_retries=3)
        harness.passes(1.1)
        harness.arrives(ACK, 1, 1002, window=0)
        assert harness.passes(1000) == []
        assert harness.tcb.state is State.ESTABLISHED

    def test_a_window_shrunk_over_data_in_flight_does_not_stop_us_for_ever(self, tcp):
        """RFC 9293 3.8.6: robust against shrinking."""
        harness = tcp().established(window=4000)
        harness.connection.send(bytes(4000))
        harness.output()
        harness.arrives(ACK, 1, 1461, window=0)
        sent = harness.passes(30)
        assert sent, "nothing asks for the window any more"
        assert all(segment.seq == 1461 and len(segment.data) <= MSS for segment in sent), "only the first one may try"
        sent = harness.arrives(ACK, 1, 1461, window=4000)
        assert sent[0].seq == 1461

    def test_a_window_too_small_for_what_was_lost_does_not_stop_us_for_ever(self, tcp):
        harness = tcp().established(window=4000)
        harness.connection.send(bytes(10_000))
        harness.output()
        harness.arrives(ACK, 1, 1461, window=300)
        assert any(segment.seq == 1461 for segment in harness.passes(30))

    def test_our_acknowledgments_are_acceptable_while_we_probe(self, tcp):
        """The peer takes no sequence number beyond its closed window: its data would never be acknowledged."""
        harness = self.closed_window(tcp)
        harness.passes(1.1)
        (ack,) = harness.arrives(ACK, 5, 1001, b"x", window=0)
        assert (ack.seq, ack.flags) == (1001, ACK)


class TestAcknowledgments:
    def test_a_pure_ack_comes_after_everything_sent(self, tcp):
        harness = tcp().established()
        harness.connection.send(bytes(3000))
        harness.output()
        harness.passes(1.1)  # back to snd_una
        (ack,) = harness.arrives(ACK, 5, 1, b"x")
        assert ack.seq == 3001

    def test_a_reset_is_where_the_peer_expects_it_after_a_timeout(self, tcp):
        """RFC 5961 3.2: anywhere else the peer would only challenge it."""
        harness = tcp().established()
        harness.connection.send(bytes(3000))
        harness.output()
        harness.passes(1.1)
        harness.connection.abort(harness.now)
        (reset,) = harness.output()
        assert reset.flags == RST | ACK and reset.seq == 3001

    def test_a_syn_is_repeated_with_growing_pauses(self, tcp):
        harness = tcp(syn_retries=3).open()
        start = harness.now
        times = []
        while harness.tcb.state is State.SYN_SENT:
            harness.now = harness.connection.next_deadline()
            harness.connection.handle_timeout(harness.now)
            times += [harness.now - start] * len([sent for sent in harness.output() if sent.flags == SYN])
        assert times == [1, 3, 7]
        assert harness.tcb.error == errno.ETIMEDOUT

    def test_after_a_lost_syn_the_first_window_is_one_segment(self, tcp):
        harness = tcp().open()
        harness.passes(1.1)
        harness.arrives(SYN | ACK, 0, 1, options=TcpOptions(mss=MSS))
        harness.connection.send(bytes(20 * MSS))
        assert sum(lengths(harness.output())) == MSS  # RFC 5681 3.1
