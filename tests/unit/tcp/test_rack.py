"""RFC 8985 6: losses found by time, the reordering window, and RFC 6675's threshold where RACK is off."""

import pytest

from swos_net.tcp import rack
from swos_net.tcp.recovery_state import Phase
from swos_net.testing.invariants import check_scoreboard

MSS = 1000


def starts(sent):
    """First sequence numbers of the segments with text, of super-segments each."""
    return [
        piece
        for segment in sent
        for piece in range(segment.seq, segment.seq + len(segment.data), segment.segment_size or 1)
        if segment.data
    ]


@pytest.fixture
def sender(tcp):
    """Ten segments are in flight; the round trip is 0.1 s."""

    def make(octets=10 * MSS, *, stamps=False, **config):
        harness = tcp(sack=True, timestamps=stamps, tail_loss_probe=False, **config).sending(octets, stamps=stamps)
        sent = harness.output()
        assert starts(sent) == [1 + MSS * number for number in range(min(octets // MSS, 10))]
        harness.after(0.1)
        return harness

    return make


def segment(first, last=None):
    """Sequence numbers that segments number `first` to `last` take."""
    return 1 + MSS * first, 1 + MSS * ((first if last is None else last) + 1)


class TestDetection:
    def test_three_segments_beyond_a_hole_need_no_more_time(self, sender):
        harness = sender()
        sent = harness.acknowledges(1, segment(1, 3))
        assert starts(sent)[0] == 1 and harness.tcb.recovery.phase is Phase.RECOVERY

    def test_fewer_wait_a_quarter_of_the_shortest_round_trip(self, sender):
        harness = sender(2 * MSS)
        assert harness.acknowledges(1, segment(1)) == []
        assert harness.tcb.recovery.phase is Phase.DISORDER
        assert harness.tcb.timers.reordering == pytest.approx(harness.now + 0.025)
        assert harness.passes(0.024) == []
        assert starts(harness.passes(0.002)) == [1]
        assert harness.tcb.recovery.phase is Phase.RECOVERY and harness.tcb.timers.reordering is None

    def test_what_arrives_in_the_meantime_was_only_reordered(self, sender):
        harness = sender(2 * MSS)
        harness.acknowledges(1, segment(1))
        harness.after(0.01)
        assert harness.acknowledges(1 + 2 * MSS) == []
        assert harness.tcb.recovery.phase is Phase.OPEN and harness.tcb.recovery.reordering_seen
        assert harness.passes(0.1) == []

    def test_what_was_sent_later_is_not_lost(self, sender):
        harness = sender(20 * MSS)
        harness.acknowledges(1 + MSS)  # lets two more out, a round trip after the first
        later = harness.tcb.scoreboard.records[-1]
        assert later.sent_at == harness.now
        harness.acknowledges(1 + MSS, segment(2, 9))
        assert not later.lost and harness.tcb.scoreboard.lost_octets == 0, (
            "all of the first flight has arrived or goes again"
        )
        assert starts(harness.acknowledges(1 + MSS, segment(2, 9))) == []

    def test_a_retransmission_that_is_lost_is_found_by_what_was_sent_after_it(self, sender):
        harness = sender(30 * MSS)
        sent = harness.acknowledges(1, segment(1, 5))
        assert starts(sent)[0] == 1
        harness.after(0.05)
        again = harness.acknowledges(1, segment(1, 9))  # new data goes out behind the retransmission
        assert min(starts(again)) > 9 * MSS
        harness.after(0.1)
        sent = harness.acknowledges(1, segment(1, 10))
        assert 1 in starts(sent), "RFC 8985 6.2: its time is over as well"

    def test_the_timer_of_reordering_reduces_the_rate_too(self, sender):
        """Losses that a timer finds must not all go again in one burst."""
        harness = sender(10 * MSS)
        harness.tcb.recovery.reordering_seen = True  # or three SACKed segments would settle it at once
        assert harness.acknowledges(1, segment(9)) == []
        sent = harness.passes(0.03)
        assert harness.tcb.recovery.phase is Phase.RECOVERY and harness.tcb.congestion.ssthresh == 5 * MSS
        assert starts(sent) == [1], "nine are lost: proportional rate reduction lets the first go"

    def test_all_in_order_needs_no_scan(self, sender):
        harness = sender()
        for number in range(10):
            assert harness.acknowledges(1 + MSS * (number + 1)) == []
        assert harness.tcb.recovery.phase is Phase.OPEN and not harness.tcb.recovery.reordering_seen


class TestReorderingWindow:
    def duplicate(self, harness):
        """The peer reports that it got a segment twice."""
        harness.acknowledges(harness.tcb.snd_una - harness.tcb.iss, segment(0))

    def test_it_grows_once_a_round_trip_with_duplicates(self, sender):
        harness = sender(30 * MSS)
        harness.acknowledges(1 + MSS)
        recovery = harness.tcb.recovery
        recovery.reordering_seen = True
        self.duplicate(harness)
        assert recovery.window_multiplier == 2
        self.duplicate(harness)
        assert recovery.window_multiplier == 2, "once a round trip"
        harness.after(0.1)
        harness.acknowledges(1 + 12 * MSS)
        self.duplicate(harness)
        assert recovery.window_multiplier == 3
        assert rack.reordering_window(harness.tcb) == pytest.approx(3 * 0.1 / 4)

    def test_it_is_never_longer_than_a_round_trip(self, sender):
        harness = sender()
        harness.tcb.recovery.reordering_seen = True
        harness.tcb.recovery.window_multiplier = 50
        assert rack.reordering_window(harness.tcb) == pytest.approx(harness.tcb.rtt.srtt)

    def test_sixteen_recoveries_without_a_duplicate_shrink_it(self, sender):
        harness = sender(30 * MSS)
        harness.acknowledges(1 + MSS)
        self.duplicate(harness)
        recovery = harness.tcb.recovery
        assert recovery.window_multiplier == 2
        for number in range(16):
            assert recovery.window_multiplier == 2, number
            harness.tcb.congestion.cwnd = 10 * MSS
            harness.connection.send(bytes(5 * MSS))
            harness.output()
            una, nxt = harness.tcb.snd_una - harness.tcb.iss, harness.tcb.snd_nxt - harness.tcb.iss
            harness.after(0.1)
            harness.acknowledges(una, (una + MSS, nxt))
            assert recovery.phase is Phase.RECOVERY
            harness.after(0.1)
            harness.acknowledges(harness.tcb.snd_nxt - harness.tcb.iss)
            assert recovery.phase is Phase.OPEN
        assert recovery.window_multiplier == 1


class TestSpuriousSamples:
    def test_a_retransmission_acknowledged_too_soon_says_nothing(self, sender):
        """RFC 8985 6.2 step 2: sooner than any round trip took, it must have been the original."""
        harness = sender(20 * MSS)
        harness.acknowledges(1, segment(1, 4))
        newest = harness.tcb.recovery.rack_sent_at
        harness.after(0.01)
        harness.acknowledges(1 + 5 * MSS)
        assert harness.tcb.recovery.rack_sent_at == newest

    def test_a_timestamp_from_before_the_retransmission_says_so_as_well(self, sender):
        harness = sender(20 * MSS, stamps=True)
        before = harness.stamp() - 100
        harness.acknowledges(1, segment(1, 3), ts_ecr=before)
        newest = harness.tcb.recovery.rack_sent_at
        harness.after(0.15)
        harness.acknowledges(1 + 4 * MSS, ts_ecr=before)
        assert harness.tcb.recovery.rack_sent_at == newest


class TestThreshold:
    """TcpConfig.rack off: RFC 6675."""

    def test_two_segments_beyond_a_hole_are_not_enough(self, sender):
        harness = sender(rack=False)
        assert harness.acknowledges(1, segment(1, 2)) == [] and harness.tcb.recovery.phase is Phase.DISORDER
        assert harness.passes(0.05) == [], "no timer either"
        assert starts(harness.acknowledges(1, segment(1, 3))) == [1]

    def test_three_pieces_are(self, sender):
        harness = sender(rack=False)
        harness.acknowledges(1, (1501, 1600), (2501, 2600))
        assert harness.tcb.recovery.phase is Phase.DISORDER
        sent = harness.acknowledges(1, (3501, 3600), (1501, 1600), (2501, 2600))
        assert starts(sent)[0] == 1

    def test_a_retransmission_is_not_given_up_again(self, sender):
        harness = sender(30 * MSS, rack=False)
        harness.acknowledges(1, segment(1, 5))
        harness.after(0.1)
        sent = harness.acknowledges(1, segment(1, 9)) + harness.acknowledges(1, segment(1, 11))
        assert 1 not in starts(sent)

    def test_holes_below_the_threshold_are_not_lost(self, sender):
        harness = sender(rack=False)
        harness.acknowledges(1, segment(1, 3), segment(5))
        lost = [
            (record.start - harness.tcb.iss)
            for record in harness.tcb.scoreboard.records
            if record.lost or record.retransmissions
        ]
        assert lost == [1], "one segment beyond the second hole says little"
        check_scoreboard(harness.tcb.scoreboard, harness.tcb.snd_una, harness.tcb.snd_nxt)
