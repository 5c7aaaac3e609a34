"""The user's calls (RFC 9293 3.10.1 to 3.10.6), timers, and what the path says."""

import errno

import pytest

from swos_net.tcp.events import Event
from swos_net.tcp.segment import ACK, FIN, RST, SYN
from swos_net.tcp.state import State
from swos_net.wire.tcp import TcpOptions


class TestSend:
    def test_a_full_queue_takes_what_fits_and_tells_when_there_is_room(self, tcp):
        harness = tcp(send_buffer=4096).established()
        assert harness.connection.send_room == 4096
        assert harness.connection.send(bytes(10_000)) == 4096
        assert harness.connection.send(b"x") == 0 and harness.connection.send_room == 0
        harness.output()
        harness.arrives(ACK, 1, 101)
        assert Event.WRITABLE not in harness.events, "woken for a hundred bytes"
        harness.arrives(ACK, 1, 4097)
        assert harness.events.count(Event.WRITABLE) == 1

    def test_any_bytes_like_object(self, tcp):
        harness = tcp().established()
        taken = [harness.connection.send(data) for data in (b"ab", bytearray(b"cd"), memoryview(b"xefx")[1:3])]
        assert taken == [2, 2, 2]
        (segment,) = harness.output()
        assert segment.data == b"abcdef"

    def test_before_the_handshake_is_done_data_waits(self, tcp):
        harness = tcp().open()
        assert harness.connection.send(b"early") == 5
        assert harness.output() == []
        sent = harness.arrives(SYN | ACK, 0, 1, options=TcpOptions(mss=1460))
        assert [segment.data for segment in sent] == [b"early"]

    def test_after_shutdown_it_is_a_broken_pipe(self, tcp):
        harness = tcp().established()
        harness.connection.shutdown_send(harness.now)
        with pytest.raises(BrokenPipeError):
            harness.connection.send(b"x")

    def test_after_a_failure_it_is_the_failure(self, tcp):
        harness = tcp().established()
        harness.arrives(RST, 1)
        with pytest.raises(ConnectionResetError):
            harness.connection.send(b"x")

    def test_a_file_goes_out_byte_for_byte(self, tcp, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(bytes(range(256)) * 10)
        harness = tcp(send_buffer=4096).established()
        with path.open("rb") as file:
            assert harness.connection.send_file(file.fileno(), 1000, 500) == 500
            assert harness.connection.send_file(file.fileno(), 2500, 500) == 60
            assert harness.connection.send_file(file.fileno(), 2560, 500) == 0
        data = b"".join(segment.data for segment in harness.output())
        assert data == path.read_bytes()[1000:1500] + path.read_bytes()[2500:]


class TestReceive:
    def test_up_to_what_was_asked_for(self, tcp):
        harness = tcp().established()
        assert harness.connection.receive(10) == b"" and not harness.connection.at_end
        harness.arrives(ACK, 1, 1, b"hello world")
        assert harness.connection.readable == 11
        buffer = bytearray(5)
        assert harness.connection.receive_into(buffer) == 5 and buffer == b"hello"
        harness.connection.consume(1)
        assert harness.connection.receive_into(bytearray(100), 2) == 2
        assert harness.connection.receive(100) == b"rld"

    def test_the_end_comes_after_the_data(self, tcp):
        harness = tcp().established()
        harness.arrives(ACK | FIN, 1, 1, b"bye")
        assert not harness.connection.at_end
        assert harness.connection.receive(10) == b"bye"
        assert harness.connection.at_end and harness.connection.receive(10) == b""

    def test_reading_opens_a_closed_window_by_itself(self, tcp):
        harness = tcp(receive_buffer=4096).established()
        assert harness.arrives(ACK, 1, 1, bytes(4096))[-1].window == 0
        harness.connection.receive(4096)
        (update,) = harness.output()
        assert update.window == 4096


class TestClosing:
    """3.6: every order of two closes"""

    def test_we_first(self, tcp):
        harness = tcp().established()
        harness.connection.close(harness.now)
        (fin,) = harness.output()
        assert fin.flags & FIN and harness.tcb.state is State.FIN_WAIT_1
        harness.arrives(ACK, 1, 2)
        assert harness.tcb.state is State.FIN_WAIT_2
        harness.arrives(ACK | FIN, 1, 2)
        assert harness.tcb.state is State.TIME_WAIT
        assert harness.path[2:] == [State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2, State.TIME_WAIT]

    def test_the_peer_first(self, tcp):
        harness = tcp().established()
        harness.arrives(ACK | FIN, 1, 1)
        assert harness.tcb.state is State.CLOSE_WAIT
        harness.connection.send(b"still here")
        assert harness.output()[0].data == b"still here"
        harness.connection.close(harness.now)
        (fin,) = harness.output()
        assert fin.flags & FIN and fin.seq == 11 and harness.tcb.state is State.LAST_ACK
        harness.arrives(ACK, 2, 12)
        assert harness.tcb.state is State.CLOSED and harness.tcb.error == 0

    def test_both_at_once(self, tcp):
        harness = tcp().established()
        harness.connection.close(harness.now)
        harness.output()
        harness.arrives(ACK | FIN, 1, 1)
        harness.arrives(ACK, 2, 2)
        assert harness.path[-2:] == [State.CLOSING, State.TIME_WAIT]

    def test_while_opening(self, tcp):
        harness = tcp().open()
        harness.connection.close(harness.now)
        harness.check()
        assert harness.tcb.state is State.CLOSED and harness.output() == []

    def test_in_syn_received_the_fin_waits_for_the_handshake(self, tcp):
        harness = tcp().accepted()
        harness.connection.close(harness.now)
        assert harness.output() == []
        (fin,) = harness.arrives(ACK, 1, 1)
        assert fin.flags & FIN and harness.tcb.state is State.FIN_WAIT_1

    def test_with_unread_data_it_is_a_reset(self, tcp):
        harness = tcp().established()
        harness.arrives(ACK, 1, 1, b"unread")
        harness.connection.close(harness.now)
        (reset,) = harness.output()
        assert reset.flags & RST and harness.tcb.state is State.CLOSED  # RFC 2525 2.17

    def test_queued_data_goes_before_the_fin_and_is_repeated_with_it(self, tcp):
        harness = tcp().established()
        harness.connection.send(b"last words")
        harness.connection.close(harness.now)
        for segment in harness.passes(5):
            assert segment.data == b"last words" and segment.flags & FIN
        harness.arrives(ACK, 1, 11)
        (fin,) = harness.passes(5)[:1]
        assert (fin.seq, fin.data) == (11, b"") and fin.flags & FIN

    def test_fin_wait_2_of_nobody_ends(self, tcp):
        harness = tcp(fin_wait_2=60.0).established()
        harness.connection.close(harness.now)
        harness.output()
        harness.arrives(ACK, 1, 2)
        harness.passes(61)
        assert harness.tcb.state is State.CLOSED

    def test_fin_wait_2_of_somebody_who_still_reads_does_not(self, tcp):
        harness = tcp(fin_wait_2=60.0).established()
        harness.connection.shutdown_send(harness.now)
        harness.output()
        harness.arrives(ACK, 1, 2)
        harness.passes(10_000)
        assert harness.tcb.state is State.FIN_WAIT_2
        harness.connection.close(harness.now)
        harness.passes(61)
        assert harness.tcb.state is State.CLOSED

    def test_delivering_until_the_peer_has_everything(self, tcp):
        harness = tcp().established()
        harness.connection.send(b"x")
        assert not harness.connection.delivering
        harness.connection.close(harness.now)
        harness.output()
        assert harness.connection.delivering
        harness.arrives(ACK, 1, 3)
        assert not harness.connection.delivering

    def test_closing_twice_is_closing_once(self, tcp):
        harness = tcp().established()
        harness.connection.close(harness.now)
        harness.output()
        harness.connection.close(harness.now)
        assert harness.output() == [] and harness.tcb.state is State.FIN_WAIT_1


class TestAbort:
    def test_a_reset_and_nothing_else(self, tcp):
        harness = tcp().established()
        harness.connection.send(bytes(1000))
        harness.connection.abort(harness.now)
        (reset,) = harness.output()
        assert reset.flags == RST | ACK and (reset.seq, reset.ack) == (1, 1)
        assert harness.tcb.state is State.CLOSED and harness.tcb.error == errno.ECONNABORTED
        assert harness.tcb.send_ring is None

    @pytest.mark.parametrize("opened", [False, True])
    def test_without_a_peer_nothing_goes_out(self, tcp, opened):
        harness = tcp()
        if opened:
            harness.open()
        harness.connection.abort(harness.now)
        assert harness.output() == []

    def test_in_syn_received(self, tcp):
        harness = tcp().accepted()
        harness.connection.abort(harness.now)
        (reset,) = harness.output()
        assert reset.flags & RST and reset.seq == 1


class TestRetransmission:
    """RFC 6298 (5.4) to (5.7), RFC 9293 3.8.3"""

    def test_it_gives_up_after_the_last_retry_with_a_reset(self, tcp):
        harness = tcp(data_retries=3).established()
        harness.connection.send(b"anybody there?")
        sent = harness.passes(1000)
        assert [segment.data for segment in sent[:-1]] == [b"anybody there?"] * 4
        assert sent[-1].flags & RST
        assert harness.tcb.error == errno.ETIMEDOUT
        assert harness.events[-2:] == [Event.FAILED, Event.CLOSED]

    def test_an_acknowledgment_stops_the_timer_and_starts_the_count_anew(self, tcp):
        harness = tcp().established()
        harness.connection.send(b"x")
        harness.passes(2)
        assert harness.tcb.retransmissions > 0
        harness.arrives(ACK, 1, 2)
        assert harness.tcb.retransmissions == 0 and harness.connection.next_deadline() is None

    def test_an_acknowledgment_of_some_restarts_the_timer(self, tcp):
        harness = tcp().established()
        harness.connection.send(bytes(2920))
        harness.output()
        harness.now += 0.15
        harness.arrives(ACK, 1, 1461)
        assert harness.tcb.timers.retransmission == pytest.approx(harness.now + harness.tcb.rtt.rto)  # (5.3)


class TestKeepalive:
    """3.8.4"""

    def idle(self, tcp):
        harness = tcp(keepalive_idle=100.0, keepalive_interval=10.0, keepalive_probes=3).established()
        harness.connection.set_keepalive(True, harness.now)
        return harness

    def test_probes_and_then_the_end(self, tcp):
        harness = self.idle(tcp)
        assert harness.passes(99) == []
        sent = harness.passes(1000)
        assert [(segment.seq, segment.flags, segment.data) for segment in sent[:3]] == [(0, ACK, b"")] * 3
        assert sent[3].flags & RST and len(sent) == 4
        assert harness.tcb.error == errno.ETIMEDOUT

    def test_an_answer_starts_the_idle_time_anew(self, tcp):
        harness = self.idle(tcp)
        for _ in range(10):
            (probe,) = harness.passes(101)
            harness.arrives(ACK, 1, 1)
        assert harness.tcb.state is State.ESTABLISHED

    def test_traffic_means_no_probes(self, tcp):
        harness = self.idle(tcp)
        for number in range(20):
            harness.arrives(ACK, 1 + number, 1, b"x")
            assert all(segment.seq == 1 for segment in harness.passes(60))

    def test_off_and_not_before_there_is_a_connection(self, tcp):
        harness = self.idle(tcp)
        harness.connection.set_keepalive(False, harness.now)
        assert harness.passes(10_000) == []
        harness = tcp(keepalive_idle=100.0).open()
        harness.connection.set_keepalive(True, harness.now)
        assert harness.tcb.timers.keepalive is None
        harness.arrives(SYN | ACK, 0, 1, options=TcpOptions(mss=1460))
        assert harness.tcb.timers.keepalive == pytest.approx(harness.now + 100.0)


class TestPath:
    def test_a_smaller_mtu_sends_what_was_too_big_again_in_smaller_pieces(self, tcp):
        harness = tcp(super_segment=1460).established()
        harness.connection.send(bytes(4380))
        harness.output()
        window = harness.tcb.congestion.cwnd
        harness.connection.path_mtu_changed(500)
        sent = harness.output()
        assert [segment.seq for segment in sent][:2] == [1, 501 + sum(len(segment.data) - 500 for segment in sent[:1])]
        assert all(segment.segment_size == 500 for segment in sent)
        assert harness.tcb.congestion.cwnd == window  # RFC 1191 6.5: no sign of congestion

    @pytest.mark.parametrize("mss", [1460, 9000])
    def test_a_larger_mtu_changes_nothing(self, tcp, mss):
        harness = tcp().established()
        harness.connection.send(bytes(1460))
        harness.output()
        harness.connection.path_mtu_changed(mss)
        assert harness.output() == [] and harness.tcb.mss == 1460

    def test_an_absurd_mtu_leaves_segments_of_some_size(self, tcp):
        harness = tcp(timestamps=True).established(options=TcpOptions(mss=1460, ts_val=1, ts_ecr=0))
        harness.connection.path_mtu_changed(-1000)
        assert harness.tcb.mss >= 36

    def test_which_quoted_sequence_numbers_can_be_ours(self, tcp):
        harness = tcp().established()
        harness.connection.send(bytes(100))
        harness.output()
        una, top = harness.tcb.snd_una, harness.tcb.snd_max
        valid = harness.connection.quoted_sequence_valid
        assert valid(una & 0xFFFFFFFF) and valid((top - 1) & 0xFFFFFFFF)
        assert not valid((una - 1) & 0xFFFFFFFF) and not valid(top & 0xFFFFFFFF)  # RFC 5927 4.1

    def test_an_error_ends_only_what_is_not_open_yet(self, tcp):
        harness = tcp().open()
        harness.connection.path_error(errno.EHOSTUNREACH)
        assert harness.tcb.error == errno.EHOSTUNREACH
        harness = tcp().established()
        harness.connection.path_error(errno.EHOSTUNREACH)
        assert harness.tcb.state is State.ESTABLISHED and not harness.tcb.error  # RFC 1122 4.2.3.9
