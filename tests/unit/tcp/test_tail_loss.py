"""RFC 8985 7: probes at the end of a flight."""

import pytest

from swos_net.tcp.ensemble import Ensemble
from swos_net.tcp.recovery_state import Phase
from swos_net.tcp.segment import ACK, FIN

MSS = 1000


@pytest.fixture
def sender(tcp):
    def make(octets, **config):
        harness = tcp(**{"sack": True} | config).sending(octets)
        harness.tcb.nodelay = True
        harness.output()
        return harness

    return make


class TestSchedule:
    def test_two_round_trips_after_the_last_segment(self, sender):
        harness = sender(3 * MSS)
        assert harness.tcb.timers.loss_probe == pytest.approx(harness.now + 0.2)
        assert harness.tcb.timers.loss_probe < harness.tcb.timers.retransmission

    def test_one_segment_may_meet_a_delayed_acknowledgment(self, sender):
        harness = sender(MSS, rto_min=1.0)
        assert harness.tcb.timers.loss_probe == pytest.approx(harness.now + 0.4)

    def test_never_later_than_the_retransmission_timer(self, sender):
        harness = sender(MSS)  # RTO is 0.3 s here, the probe would come at 0.4 s
        assert harness.tcb.timers.loss_probe == harness.tcb.timers.retransmission == pytest.approx(harness.now + 0.3)
        (probe,) = harness.passes(0.31)
        assert probe.seq == 1 and harness.tcb.recovery.phase is Phase.OPEN, "it goes instead of the timeout"

    def test_an_acknowledgment_in_order_starts_it_anew(self, sender):
        harness = sender(3 * MSS)
        harness.after(0.15)
        harness.acknowledges(1 + MSS)
        assert harness.tcb.timers.loss_probe == pytest.approx(harness.now + 2 * harness.tcb.rtt.srtt)
        harness.after(0.05)
        harness.acknowledges(1 + 3 * MSS)
        assert harness.tcb.timers.loss_probe is None

    @pytest.mark.parametrize("config", [{"sack": False}, {"tail_loss_probe": False}])
    def test_not_without_sack_nor_when_switched_off(self, tcp, config):
        harness = tcp(**{"sack": True} | config).sending(3 * MSS, sack=config.get("sack", True))
        harness.output()
        assert harness.tcb.timers.loss_probe is None

    def test_not_while_segments_are_missing_nor_in_recovery(self, sender):
        harness = sender(10 * MSS)
        harness.after(0.1)
        harness.acknowledges(1, (1 + 9 * MSS, 1 + 10 * MSS))
        harness.acknowledges(1 + MSS, (1 + 9 * MSS, 1 + 10 * MSS))
        assert harness.tcb.recovery.phase is Phase.DISORDER and harness.tcb.timers.loss_probe is None


class TestOthersToTheSameHost:
    """RFC 9040: what other connections measured since the timer was set."""

    @pytest.fixture
    def sender(self, sender):
        harness = sender(3 * MSS, rto_min=1.0)
        harness.tcb.ensemble = Ensemble()
        return harness

    def measures(self, harness, after, rtt):
        """Another connection takes a sample `after` seconds from now."""
        harness.after(after)
        harness.tcb.ensemble.measured(rtt, object(), harness.now)

    def test_a_queue_that_grows_holds_the_probe_back(self, sender):
        begin = sender.now
        self.measures(sender, 0.15, 0.14)
        assert not sender.passes(0.1), "not after 0.2 s"
        assert sender.tcb.timers.loss_probe == pytest.approx(begin + 0.28)
        (probe,) = sender.passes(0.04)
        assert probe.seq == 1 + 2 * MSS

    def test_again_when_it_grows_on_but_never_beyond_the_retransmission_timer(self, sender):
        retransmission = sender.tcb.timers.retransmission
        self.measures(sender, 0.15, 0.14)
        sender.passes(0.1)
        self.measures(sender, 0.01, 10.0)
        assert not sender.passes(0.5)
        assert sender.tcb.timers.loss_probe == retransmission
        assert len(sender.passes(retransmission - sender.now)) == 1

    def test_what_was_known_before_does_not_count(self, tcp):
        harness = tcp(sack=True, rto_min=1.0).sending(3 * MSS)
        harness.tcb.ensemble = Ensemble()
        harness.tcb.ensemble.measured(0.5, object(), harness.now - 0.001)
        harness.tcb.nodelay = True
        harness.output()
        assert len(harness.passes(0.21)) == 1

    def test_nor_what_it_measured_itself(self, sender):
        sender.after(0.1)
        sender.tcb.ensemble.measured(0.5, sender.tcb, sender.now)
        assert len(sender.passes(0.11)) == 1

    def test_every_sample_is_told_to_the_others(self, sender):
        sender.after(0.12)
        sender.acknowledges(1 + MSS)
        assert sender.tcb.ensemble.rtt_of_others(object(), sender.now) == pytest.approx(0.12)


class TestProbe:
    def probed(self, sender, octets=3 * MSS, **config):
        harness = sender(octets, rto_min=1.0, **config)
        deadline = harness.tcb.timers.loss_probe
        sent = harness.passes(deadline - harness.now)
        assert harness.now == pytest.approx(deadline)
        return harness, sent

    def test_the_last_segment_goes_again(self, sender):
        harness, (probe,) = self.probed(sender)
        assert (probe.seq, len(probe.data)) == (1 + 2 * MSS, MSS)
        assert harness.tcb.recovery.probe_retransmitted and harness.tcb.recovery.phase is Phase.OPEN
        assert harness.tcb.timers.retransmission == pytest.approx(harness.now + harness.tcb.rtt.rto), "RFC 8985 7.3"

    def test_new_data_goes_instead_where_the_peer_takes_it(self, sender):
        harness = sender(12 * MSS, rto_min=1.0)
        harness.tcb.congestion.cwnd = 10 * MSS  # which is used up: a probe goes all the same
        (probe,) = harness.passes(0.2)
        assert probe.seq == 1 + 10 * MSS and len(probe.data) == MSS
        assert not harness.tcb.recovery.probe_retransmitted

    def test_a_fin_goes_again_with_the_last_segment(self, sender):
        harness = sender(2 * MSS, rto_min=1.0)
        harness.connection.shutdown_send(harness.now)
        harness.output()
        (probe,) = harness.passes(0.2)
        assert probe.flags & FIN and probe.seq + len(probe.data) == 1 + 2 * MSS

    def test_one_probe_in_a_flight(self, sender):
        harness, _ = self.probed(sender)
        assert harness.passes(0.9) == [] and harness.tcb.timers.loss_probe is None

    def test_a_probe_shows_the_hole_at_the_end(self, sender):
        """The point of it all: fast recovery instead of a timeout."""
        harness, (probe,) = self.probed(sender)
        harness.after(0.1)
        sent = harness.acknowledges(1, (1 + 2 * MSS, 1 + 3 * MSS)) + harness.passes(0.1)
        assert sent[0].seq == 1 and harness.tcb.recovery.phase is Phase.RECOVERY
        assert harness.tcb.counters["TcpExtTCPTimeouts"] == 0


class TestAnswer:
    """RFC 8985 7.4.2."""

    def after_probe(self, sender, octets=10 * MSS):
        harness = sender(octets, rto_min=1.0)
        harness.after(0.1)
        harness.acknowledges(1 + octets - MSS)  # all but the last has arrived
        cwnd = harness.tcb.congestion.cwnd
        (probe,) = harness.passes(harness.tcb.timers.loss_probe - harness.now)
        assert probe.seq == 1 + octets - MSS
        harness.after(0.1)
        return harness, cwnd

    def test_a_repaired_loss_costs_window(self, sender):
        harness, cwnd = self.after_probe(sender)
        harness.acknowledges(1 + 10 * MSS)
        assert harness.tcb.recovery.probe_end is not None, "nobody knows yet which of the two arrived"
        harness.connection.send(bytes(MSS))
        harness.output()
        harness.after(0.1)
        harness.acknowledges(1 + 11 * MSS)
        assert harness.tcb.recovery.probe_end is None
        # half of the flight that suffered it, not of the lonely segment at its end
        assert harness.tcb.congestion.ssthresh == harness.tcb.congestion.cwnd == 5 * MSS
        assert harness.tcb.counters["TcpExtTCPLossProbeRecovery"] == 1

    def test_a_duplicate_report_means_that_nothing_was_lost(self, sender):
        harness, cwnd = self.after_probe(sender)
        harness.acknowledges(1 + 10 * MSS)
        harness.acknowledges(1 + 10 * MSS, (1 + 9 * MSS, 1 + 10 * MSS))  # nothing is in flight any more
        assert harness.tcb.recovery.probe_end is None
        harness.connection.send(bytes(MSS))
        harness.output()
        harness.after(0.1)
        harness.acknowledges(1 + 11 * MSS)
        assert harness.tcb.congestion.cwnd >= cwnd and harness.tcb.counters["TcpExtTCPLossProbeRecovery"] == 0

    def test_so_does_a_second_acknowledgment_of_a_peer_without_such_reports(self, sender):
        harness, cwnd = self.after_probe(sender)
        harness.acknowledges(1 + 10 * MSS)
        harness.acknowledges(1 + 10 * MSS)
        assert harness.tcb.recovery.probe_end is None and harness.tcb.congestion.cwnd >= cwnd

    def test_new_data_that_arrives_says_nothing_of_loss(self, sender):
        harness = sender(11 * MSS, rto_min=1.0)
        harness.passes(0.2)
        cwnd = harness.tcb.congestion.cwnd
        harness.acknowledges(1 + 11 * MSS)
        assert harness.tcb.recovery.probe_end is None and harness.tcb.congestion.cwnd >= cwnd

    def test_afterwards_the_next_flight_gets_its_probe(self, sender):
        harness, _ = self.after_probe(sender)
        harness.acknowledges(1 + 10 * MSS)
        harness.acknowledges(1 + 10 * MSS, (1 + 9 * MSS, 1 + 10 * MSS))
        harness.connection.send(bytes(2 * MSS))
        harness.output()
        assert harness.tcb.timers.loss_probe is not None

    def test_recovery_that_begins_meanwhile_has_reduced_the_window_already(self, sender):
        harness = sender(10 * MSS, rto_min=1.0)
        harness.passes(0.2)
        harness.after(0.1)
        harness.acknowledges(1, (1 + 5 * MSS, 1 + 10 * MSS))
        assert harness.tcb.recovery.phase is Phase.RECOVERY and harness.tcb.recovery.probe_end is None
        ssthresh = harness.tcb.congestion.ssthresh
        harness.connection.send(bytes(2 * MSS))
        harness.passes(0.05)
        harness.acknowledges(harness.tcb.snd_nxt - harness.tcb.iss)
        assert harness.tcb.congestion.ssthresh == ssthresh and harness.tcb.counters["TcpExtTCPLossProbeRecovery"] == 0

    def test_a_timeout_ends_it(self, sender):
        harness = sender(3 * MSS, rto_min=1.0)
        sent = harness.passes(2.0)
        assert [segment.flags & ACK and segment.seq for segment in sent[:2]] == [1 + 2 * MSS, 1]
        assert harness.tcb.recovery.phase is Phase.LOSS and harness.tcb.recovery.probe_end is None
