"""Fast recovery with and without SACK, proportional rate reduction, F-RTO, undoing, reneging."""

import pytest

from swos_net.tcp import recovery
from swos_net.tcp.recovery_state import Phase
from swos_net.wire.tcp import TcpOptions

MSS = 1000
IN_FLIGHT = 20


def segment(first, last=None):
    """Sequence numbers that segments number `first` to `last` take."""
    return 1 + MSS * first, 1 + MSS * ((first if last is None else last) + 1)


def numbers(sent):
    """Which segments went out, by number."""
    assert all((piece.seq - 1) % MSS == 0 for piece in sent if piece.data)
    return [(piece.seq - 1) // MSS for piece in sent if piece.data]


@pytest.fixture
def sender(tcp):
    """Twenty segments in flight and more to send, a round trip of 0.1 s ago."""

    def make(queued=80, *, in_flight=IN_FLIGHT, sack=True, stamps=False, **config):
        config = {"tail_loss_probe": False, "initial_window_segments": in_flight} | config
        harness = tcp(sack=sack, timestamps=stamps, super_segment=MSS, **config).sending(
            queued * MSS, sack=sack, stamps=stamps
        )
        assert numbers(harness.output()) == list(range(min(in_flight, queued)))
        harness.after(0.1)
        return harness

    return make


class TestProportionalRateReduction:
    """RFC 9937."""

    def test_one_loss_of_twenty(self, sender):
        """The example of RFC 6937 4.1: two by limited transmit, the retransmission, then one for two acknowledgments."""
        harness = sender()
        sent = [numbers(harness.acknowledges(1, segment(1, last))) for last in range(1, IN_FLIGHT)]
        assert sent[:3] == [[20], [21], [0]]
        assert all(len(each) <= 1 for each in sent)
        assert sum(map(len, sent[3:])) == 7 and all(len(one) + len(two) <= 1 for one, two in zip(sent[3:], sent[4:]))
        tcb = harness.tcb
        assert tcb.congestion.ssthresh == 10 * MSS
        assert recovery.pipe(tcb) + MSS >= 10 * MSS >= recovery.pipe(tcb), (
            "down at ssthresh when the round trip is over"
        )
        harness.after(0.1)
        harness.acknowledges(1 + 20 * MSS, segment(20, 21))
        assert tcb.recovery.phase is Phase.RECOVERY, "what went out before it began is not all acknowledged"
        harness.acknowledges(1 + 22 * MSS)
        assert tcb.recovery.phase is Phase.OPEN and 10 * MSS <= tcb.congestion.cwnd <= 11 * MSS

    def test_recover_fs_counts_what_the_first_acknowledgment_delivers(self, sender):
        """RFC 9937 6.1: bytes that were SACKed before are no longer part of it, those of this ACK are."""
        harness = sender()
        harness.acknowledges(1, segment(1))
        harness.acknowledges(1, segment(1, 9))
        assert harness.tcb.recovery.phase is Phase.RECOVERY
        assert harness.tcb.recovery.flight_at_start == (21 - 10 + 9) * MSS

    def test_the_sum_that_goes_out_keeps_to_the_proportion(self, sender):
        harness = sender()
        state = harness.tcb.recovery
        for last in range(3, IN_FLIGHT, 2):
            harness.acknowledges(1, segment(1, last))
            if recovery.pipe(harness.tcb) > harness.tcb.congestion.ssthresh:
                bound = -(-state.prr_delivered * harness.tcb.congestion.ssthresh // state.flight_at_start)
                assert state.prr_out <= max(bound, MSS)

    def test_after_a_burst_of_losses_one_goes_out_for_one_that_arrives(self, sender):
        """Below ssthresh: packet conservation while more losses turn up, slow start once there are none (SafeACK)."""
        harness = sender()
        for last in range(15, 18):
            sent = numbers(harness.acknowledges(1, segment(15, last)))
        assert harness.tcb.recovery.phase is Phase.RECOVERY and sent == [0]
        assert numbers(harness.acknowledges(1, segment(15, 18))) == [1]
        assert numbers(harness.acknowledges(1, segment(15, 19))) == [2]
        harness.after(0.1)
        sent = numbers(harness.acknowledges(1 + MSS, segment(15, 19)))
        assert sent == [3, 4], "one for the segment that arrived and one more"

    def test_a_loss_more_is_no_safe_acknowledgment(self, sender):
        harness = sender()
        harness.acknowledges(1, segment(15, 18))
        out = harness.tcb.recovery.prr_out
        harness.acknowledges(1, segment(15, 19))
        assert harness.tcb.recovery.prr_out - out <= MSS

    def test_the_first_retransmission_waits_for_nothing(self, sender):
        harness = sender(in_flight=4)
        sent = numbers(harness.acknowledges(1, segment(1, 3)))
        assert sent[0] == 0

    def test_the_window_is_reduced_once_in_a_recovery(self, sender):
        harness = sender()
        harness.acknowledges(1, segment(1, 5))
        ssthresh = harness.tcb.congestion.ssthresh
        harness.after(0.05)
        harness.acknowledges(1, segment(1, 5), segment(8, 12))
        harness.acknowledges(1, segment(1, 5), segment(8, 19))
        assert harness.tcb.congestion.ssthresh == ssthresh == 10 * MSS
        assert harness.tcb.counters["TcpExtTCPSackRecovery"] == 1

    def test_a_loss_in_the_next_flight_reduces_again(self, sender):
        harness = sender()
        harness.acknowledges(1, segment(1, 19))
        harness.after(0.1)
        harness.acknowledges(harness.tcb.snd_nxt - harness.tcb.iss)
        una, nxt = harness.tcb.snd_una - harness.tcb.iss, harness.tcb.snd_nxt - harness.tcb.iss
        assert harness.tcb.recovery.phase is Phase.OPEN and nxt - una == harness.tcb.congestion.cwnd
        harness.after(0.1)
        harness.acknowledges(una, (una + MSS, nxt))
        assert (
            harness.tcb.congestion.ssthresh == (nxt - una) // 2 and harness.tcb.counters["TcpExtTCPSackRecovery"] == 2
        )


class TestWithoutSack:
    """RFC 5681, 6582, 3042."""

    def test_the_third_duplicate_sends_again(self, sender):
        harness = sender(sack=False)
        assert numbers(harness.acknowledges(1)) == [20]  # RFC 3042
        assert numbers(harness.acknowledges(1)) == [21]
        assert numbers(harness.acknowledges(1)) == [0]
        assert harness.tcb.recovery.phase is Phase.RECOVERY and harness.tcb.congestion.ssthresh == 10 * MSS
        assert harness.tcb.counters["TcpExtTCPRenoRecovery"] == 1

    def test_without_limited_transmit_nothing_goes_before(self, sender):
        harness = sender(sack=False, limited_transmit=False)
        assert [numbers(harness.acknowledges(1)) for _ in range(3)] == [[], [], [0]]

    def test_a_partial_acknowledgment_sends_the_next_hole_at_once(self, sender):
        harness = sender(sack=False)
        for _ in range(15):
            harness.acknowledges(1)
        harness.after(0.1)
        sent = numbers(harness.acknowledges(1 + 5 * MSS))
        assert sent[0] == 5 and harness.tcb.recovery.phase is Phase.RECOVERY
        harness.after(0.1)
        harness.acknowledges(1 + 20 * MSS)
        assert harness.tcb.recovery.phase is Phase.RECOVERY
        harness.acknowledges(harness.tcb.recovery.recover - harness.tcb.iss)
        assert harness.tcb.recovery.phase is Phase.OPEN and harness.tcb.counters["TcpExtTCPRenoRecovery"] == 1
        assert harness.tcb.congestion.ssthresh == 10 * MSS

    def test_at_the_end_there_is_no_burst(self, sender):
        """RFC 6582 3.2, full acknowledgment, (1)."""
        harness = sender(20, sack=False)
        for _ in range(19):
            harness.acknowledges(1)
        harness.connection.send(bytes(30 * MSS))
        harness.after(0.1)
        recover = harness.tcb.recovery.recover - harness.tcb.iss
        assert recover == 1 + 20 * MSS
        sent = harness.acknowledges(recover)
        assert (
            harness.tcb.recovery.phase is Phase.OPEN and len(sent) <= 3 and harness.tcb.congestion.ssthresh == 10 * MSS
        )

    def test_duplicates_of_what_went_out_before_a_timeout_mean_nothing(self, sender):
        """RFC 6582 3.2 (1) and 4: `recover`."""
        harness = sender(sack=False, f_rto=False)
        harness.passes(0.5)
        assert harness.tcb.recovery.phase is Phase.LOSS
        again = [numbers(harness.acknowledges(1)) for _ in range(5)]
        assert [] == sum(again, []) and harness.tcb.recovery.phase is Phase.LOSS

    def test_a_duplicate_is_no_window_update_and_carries_no_text(self, sender):
        harness = sender(sack=False)
        for window in (65000, 64000, 63000, 62000):
            assert harness.acknowledges(1, window=window) == []
        assert harness.tcb.recovery.duplicate_acks == 0


class TestTimeout:
    def test_window_threshold_and_backing_off(self, sender):
        harness = sender(f_rto=False)
        rto = harness.tcb.rtt.rto
        sent = harness.passes(rto)
        assert numbers(sent) == [0] and harness.tcb.recovery.phase is Phase.LOSS
        assert harness.tcb.congestion.ssthresh == 10 * MSS and harness.tcb.congestion.cwnd == MSS
        assert harness.tcb.rtt.rto == pytest.approx(2 * rto)
        sent = harness.passes(2 * rto)
        assert numbers(sent) == [0]
        assert harness.tcb.congestion.ssthresh == 10 * MSS, "RFC 5681 3.1: held constant when it is sent again"

    def test_slow_start_goes_through_what_is_lost(self, sender):
        harness = sender(f_rto=False)
        harness.passes(0.5)
        assert numbers(harness.acknowledges(1 + MSS)) == [1, 2]
        assert numbers(harness.acknowledges(1 + 3 * MSS)) == [3, 4, 5, 6]

    def test_without_sack_one_acknowledgment_opens_it_by_two_at_most(self, sender):
        """RFC 3465 2.3."""
        harness = sender(sack=False, f_rto=False)
        harness.passes(0.5)
        assert len(harness.acknowledges(1 + 15 * MSS)) <= 3

    def test_what_the_peer_has_is_not_sent_again(self, sender):
        harness = sender(f_rto=False, rack=False)
        harness.acknowledges(1, segment(10, 11))  # not enough to begin recovery
        sent = numbers(harness.passes(0.5))
        for number in range(1, 10):
            sent += numbers(harness.acknowledges(1 + number * MSS, segment(10, 11)))
        assert not {10, 11} & set(sent) and set(range(10)) <= set(sent)

    def test_a_peer_that_reneges(self, sender):
        """RFC 2018 8: it acknowledges up to a SACKed segment, and not that one."""
        harness = sender(f_rto=False)
        harness.acknowledges(1, segment(1, 2))
        harness.acknowledges(1 + MSS, (1 + MSS + 1, 1 + 3 * MSS))
        assert harness.tcb.scoreboard.records[0].sacked
        harness.passes(1.0)
        assert harness.tcb.counters["TcpExtTCPSACKReneging"] == 1
        assert harness.tcb.scoreboard.sacked_octets == 0
        sent = []
        while harness.tcb.snd_una - harness.tcb.iss < 1 + 20 * MSS:
            sent += numbers(harness.acknowledges(harness.tcb.snd_una - harness.tcb.iss + MSS))
        assert {1, 2} <= set(sent) | {1}

    def test_an_acknowledgment_of_everything_ends_it(self, sender):
        harness = sender(20)
        harness.passes(0.5)
        harness.acknowledges(1 + 20 * MSS)
        assert harness.tcb.recovery.phase is Phase.OPEN and harness.tcb.timers.retransmission is None


class TestForwardRtoRecovery:
    """RFC 5682.  Segments were late, not lost; or they were lost."""

    def timed_out(self, sender, **config):
        harness = sender(**config)
        assert numbers(harness.passes(harness.tcb.timers.retransmission - harness.now)) == [0]
        assert harness.tcb.recovery.f_rto
        return harness

    @pytest.mark.parametrize("sack", [True, False])
    def test_the_first_acknowledgment_lets_new_data_out(self, sender, sack):
        harness = self.timed_out(sender, sack=sack)
        # with SACK an original that arrives settles it, so the retransmission alone is acknowledged here
        sent = numbers(harness.acknowledges(1 + MSS))
        assert sent and min(sent) >= IN_FLIGHT, "(2b): two new segments, not the next that was given up"
        assert len(sent) == 2

    def test_a_second_advance_means_that_nothing_was_lost(self, sender):
        harness = self.timed_out(sender, sack=False)
        harness.acknowledges(1 + MSS)
        sent = numbers(harness.acknowledges(1 + 2 * MSS))
        assert harness.tcb.recovery.phase is Phase.OPEN and harness.tcb.counters["TcpExtTCPSpuriousRTOs"] == 1
        assert harness.tcb.congestion.cwnd >= 20 * MSS and harness.tcb.rtt.backoff == 0  # RFC 4015
        assert not sent or min(sent) > IN_FLIGHT

    def test_a_duplicate_instead_means_that_something_was(self, sender):
        harness = self.timed_out(sender, sack=False)
        harness.acknowledges(1 + MSS)
        sent = numbers(harness.acknowledges(1 + MSS))
        assert harness.tcb.recovery.phase is Phase.LOSS and not harness.tcb.recovery.f_rto
        assert 1 in sent and harness.tcb.counters["TcpExtTCPSpuriousRTOs"] == 0

    def test_a_duplicate_at_once_ends_it_as_well(self, sender):
        harness = self.timed_out(sender, sack=False)
        harness.acknowledges(1)
        assert not harness.tcb.recovery.f_rto

    def test_with_sack_any_original_that_arrives_decides(self, sender):
        harness = self.timed_out(sender)
        harness.acknowledges(1, segment(1))
        assert harness.tcb.recovery.phase is not Phase.LOSS and harness.tcb.counters["TcpExtTCPSpuriousRTOs"] == 1

    def test_with_sack_only_new_data_that_arrives_means_loss(self, sender):
        harness = self.timed_out(sender)
        assert len(harness.acknowledges(1 + MSS)) == 2
        sent = numbers(harness.acknowledges(1 + MSS, segment(20)))
        assert harness.tcb.recovery.phase is Phase.LOSS and not harness.tcb.recovery.f_rto and 1 in sent

    def test_without_new_data_the_old_goes_again(self, sender):
        harness = self.timed_out(sender, queued=20, sack=False)
        assert numbers(harness.acknowledges(1 + MSS)) == [1, 2]
        assert not harness.tcb.recovery.prefer_new

    def test_neither_does_it_wait_for_a_window_that_is_full(self, sender):
        harness = self.timed_out(sender, sack=False)
        assert numbers(harness.acknowledges(1 + MSS, window=19 * MSS)) == [1, 2]

    def test_not_a_second_time_in_a_row(self, sender):
        harness = self.timed_out(sender)
        harness.passes(harness.tcb.timers.retransmission - harness.now)
        assert not harness.tcb.recovery.f_rto

    def test_an_acknowledgment_of_everything_decides_nothing(self, sender):
        harness = self.timed_out(sender, queued=20)
        harness.acknowledges(1 + 20 * MSS)
        assert harness.tcb.counters["TcpExtTCPSpuriousRTOs"] == 0
        assert harness.tcb.congestion.ssthresh == 10 * MSS


class TestUndoing:
    def test_a_timestamp_from_before_the_retransmission(self, sender):
        """Eifel (RFC 3522): the original arrived after all."""
        harness = sender(stamps=True)
        before = harness.stamp() - 100
        harness.acknowledges(1, segment(1, 3), ts_ecr=before)
        assert harness.tcb.recovery.phase is Phase.RECOVERY and harness.tcb.congestion.ssthresh == 10 * MSS
        harness.after(0.02)
        harness.acknowledges(1 + 4 * MSS, ts_ecr=before)
        assert harness.tcb.recovery.phase is Phase.OPEN and harness.tcb.congestion.cwnd >= 20 * MSS
        assert harness.tcb.counters["TcpExtTCPFullUndo"] == 1

    def test_one_from_the_retransmission_leaves_it(self, sender):
        harness = sender(stamps=True)
        before = harness.stamp() - 100
        harness.acknowledges(1, segment(1, 3), ts_ecr=before)
        resent = harness.stamp()
        harness.after(0.1)
        harness.acknowledges(1 + 4 * MSS, ts_ecr=resent)
        assert harness.tcb.recovery.phase is Phase.RECOVERY and harness.tcb.counters["TcpExtTCPFullUndo"] == 0

    def test_after_a_timeout_likewise(self, sender):
        harness = sender(stamps=True, f_rto=False)
        before = harness.stamp() - 100
        harness.passes(0.5)
        assert harness.tcb.congestion.ssthresh == 10 * MSS
        harness.acknowledges(1 + MSS, ts_ecr=before)
        assert harness.tcb.recovery.phase is Phase.OPEN and harness.tcb.congestion.cwnd >= 20 * MSS
        assert harness.tcb.scoreboard.lost_octets == 0

    def recovered(self, sender, lost=1):
        harness = sender()
        harness.acknowledges(1, segment(lost, lost + 4))
        sent = harness.tcb.recovery.stale_retransmissions
        assert sent == lost
        harness.after(0.05)
        return harness

    def test_a_duplicate_report_of_all_that_went_again(self, sender):
        """RFC 3708."""
        harness = self.recovered(sender)
        harness.acknowledges(1 + 6 * MSS, segment(0))
        assert harness.tcb.recovery.phase is Phase.OPEN and harness.tcb.congestion.cwnd >= 20 * MSS

    def test_it_may_come_when_recovery_is_over(self, sender):
        harness = self.recovered(sender)
        recover = harness.tcb.recovery.recover - harness.tcb.iss
        harness.acknowledges(recover)
        assert harness.tcb.recovery.phase is Phase.OPEN and harness.tcb.congestion.cwnd <= 11 * MSS
        harness.acknowledges(recover, segment(0))
        assert harness.tcb.congestion.cwnd >= 20 * MSS

    def test_even_when_nothing_is_in_flight(self, sender):
        harness = sender(20)
        harness.acknowledges(1, segment(1, 4))
        harness.after(0.05)
        harness.acknowledges(1 + 20 * MSS)
        assert harness.tcb.congestion.cwnd <= 11 * MSS and not harness.tcb.scoreboard.records
        harness.acknowledges(1 + 20 * MSS, segment(0))
        assert harness.tcb.congestion.cwnd >= 20 * MSS

    def test_a_report_of_something_older_does_not_count(self, sender):
        harness = sender()
        harness.acknowledges(1 + 5 * MSS)
        harness.after(0.1)
        harness.acknowledges(1 + 5 * MSS, segment(6, 9))
        assert harness.tcb.recovery.phase is Phase.RECOVERY
        harness.acknowledges(1 + 5 * MSS, segment(2), segment(6, 10))
        assert harness.tcb.recovery.phase is Phase.RECOVERY and harness.tcb.counters["TcpExtTCPFullUndo"] == 0

    def test_a_loss_that_was_real_begins_recovery_again(self, sender):
        harness = sender(stamps=True)
        before = harness.stamp() - 100
        harness.acknowledges(1, segment(1, 4), segment(18, 19), ts_ecr=before)
        assert harness.tcb.counters["TcpExtTCPSackRecovery"] == 1
        harness.after(0.02)
        harness.acknowledges(1 + 5 * MSS, segment(18, 19), ts_ecr=before)  # the first had only been late
        assert harness.tcb.recovery.phase is Phase.DISORDER and harness.tcb.counters["TcpExtTCPFullUndo"] == 1
        harness.passes(0.03)
        assert harness.tcb.recovery.phase is Phase.RECOVERY and harness.tcb.counters["TcpExtTCPSackRecovery"] == 2


class TestDuplicateReports:
    """RFC 2883 4, the sender's side."""

    def test_below_the_acknowledgment(self, sender):
        harness = sender()
        harness.acknowledges(1 + 3 * MSS, segment(1))
        assert harness.tcb.recovery.dsacks_received == harness.tcb.counters["TcpExtTCPDSACKRecv"] == 1
        assert harness.tcb.scoreboard.sacked_octets == 0

    def test_within_the_second_block(self, sender):
        harness = sender()
        harness.acknowledges(1, segment(2), segment(1, 3))
        assert harness.tcb.recovery.dsacks_received == 1 and harness.tcb.scoreboard.sacked_octets == 3 * MSS

    def test_a_late_acknowledgment_reports_nothing_twice(self, sender):
        """Its blocks lay above it when it was sent: they are judged by its own number, not by ours."""
        harness = sender()
        harness.acknowledges(1 + 8 * MSS)
        harness.acknowledges(1 + 2 * MSS, segment(3, 5))
        assert harness.tcb.recovery.dsacks_received == 0

    @pytest.mark.parametrize("block", [(1, 1), (5000, 4000), (200_000, 201_000), (-80_000, -70_000)])
    def test_blocks_that_cannot_be_true(self, sender, block):
        harness = sender()
        harness.acknowledges(1, block)
        assert harness.tcb.recovery.dsacks_received == 0 and harness.tcb.scoreboard.sacked_octets == 0


class TestSmallSegments:
    def test_a_lost_small_segment_goes_again_when_there_is_room_for_it(self, tcp):
        """However small, it need not wait until a full-sized one would be allowed."""
        harness = tcp(sack=True, tail_loss_probe=False).sending(0)
        harness.tcb.nodelay = True
        for _ in range(10):
            harness.connection.send(bytes(100))
            harness.output()
        harness.after(0.1)
        harness.acknowledges(1, (1 + 800, 1 + 900))
        sent = harness.passes(0.05) + harness.acknowledges(1, (1 + 800, 1 + 1000))
        assert harness.tcb.recovery.phase is Phase.RECOVERY
        resent = {piece.seq + offset for piece in sent for offset in range(len(piece.data))}
        assert len(resent) >= 200


class TestShrunkWindow:
    """A peer that takes back window it had offered (RFC 9293 3.8.6: it should not, and we must bear it)."""

    def test_what_fits_goes_again_although_the_whole_does_not(self, tcp):
        harness = tcp(sack=True, tail_loss_probe=False, f_rto=False, rack=False).sending(10 * MSS)
        assert sum(len(piece.data) for piece in harness.output()) == 10 * MSS
        harness.passes(0.5)  # all of it is given up; the first goes again
        sent = harness.acknowledges(1 + MSS, window=2 * MSS)
        assert sent and sent[-1].seq + len(sent[-1].data) == 1 + 3 * MSS

    def test_beyond_the_window_only_the_first_is_tried(self, tcp):
        harness = tcp(sack=True, tail_loss_probe=False, f_rto=False).sending(10 * MSS)
        harness.output()
        harness.acknowledges(1, window=0)
        sent = harness.passes(3.0)
        assert sent and all(piece.seq == 1 and len(piece.data) <= MSS for piece in sent)
        sent = harness.acknowledges(1, window=65535)
        assert sent[0].seq == 1


def test_options_of_another_kind_are_no_sack(sender):
    harness = sender()
    harness.arrives(0x10, 1, 1, options=TcpOptions(mss=1000))
    assert harness.tcb.scoreboard.sacked_octets == 0
