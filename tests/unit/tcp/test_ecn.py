"""Explicit congestion notification (RFC 3168): what is agreed, what is echoed, and what a mark costs."""

import pytest

from swos_net.tcp.recovery_state import Phase
from swos_net.tcp.segment import ACK, CWR, ECE, ECT0, SYN
from swos_net.wire.tcp import TcpOptions

MSS = 1000
CE = 3


@pytest.fixture
def sender(tcp):
    """ECN is agreed on, ten segments are in flight since a round trip."""

    def make(queued=60, **config):
        harness = tcp(**{"ecn": "on", "sack": True, "tail_loss_probe": False, "super_segment": MSS} | config)
        harness.connection.open(harness.now)
        (syn,) = harness.output()
        assert syn.flags == SYN | ECE | CWR
        harness.now += 0.1
        harness.arrives(SYN | ACK | ECE, 0, 1, options=TcpOptions(mss=MSS, sack_permitted=harness.config.sack))
        assert harness.tcb.ecn
        harness.connection.send(bytes(queued * MSS))
        sent = harness.output()
        assert len(sent) == 10 and all(segment.ecn == ECT0 for segment in sent)
        harness.after(0.1)
        return harness

    return make


class TestAgreement:
    """6.1.1"""

    @pytest.mark.parametrize(
        ("mode", "flags", "agreed"),
        [("on", ECE, True), ("on", 0, False), ("on", ECE | CWR, False), ("passive", ECE, False), ("off", ECE, False)],
    )
    def test_who_opens(self, tcp, mode, flags, agreed):
        harness = tcp(ecn=mode)
        harness.connection.open(harness.now)
        (syn,) = harness.output()
        assert syn.flags == (SYN | ECE | CWR if mode == "on" else SYN)
        harness.arrives(SYN | ACK | flags, 0, 1)
        assert harness.tcb.ecn is agreed

    @pytest.mark.parametrize(
        ("mode", "flags", "agreed"),
        [
            ("on", ECE | CWR, True),
            ("passive", ECE | CWR, True),
            ("passive", ECE, False),
            ("passive", 0, False),
            ("off", ECE | CWR, False),
        ],
    )
    def test_who_is_asked(self, tcp, mode, flags, agreed):
        harness = tcp(ecn=mode)
        harness.connection.accept_syn(harness.segment(SYN | flags), harness.now)
        (answer,) = harness.output()
        assert answer.flags == (SYN | ACK | ECE if agreed else SYN | ACK) and answer.ecn == 0
        assert harness.tcb.ecn is agreed

    def test_a_syn_that_is_lost_goes_again_without(self, tcp):
        """6.1.1.1: perhaps the path drops what it does not know."""
        harness = tcp(ecn="on")
        harness.connection.open(harness.now)
        first, *again = harness.output() + harness.passes(1.0)
        assert first.flags == SYN | ECE | CWR and [segment.flags for segment in again] == [SYN]

    def test_nothing_is_marked_capable_unless_agreed(self, tcp):
        harness = tcp(ecn="passive").sending(10 * MSS, sack=False)
        assert {segment.ecn for segment in harness.output()} == {0}


class TestSender:
    def test_a_mark_shrinks_the_window_without_any_retransmission(self, sender):
        """6.1.2"""
        harness = sender()
        sent = harness.acknowledges(1 + MSS, flags=ACK | ECE)
        assert harness.tcb.recovery.phase is Phase.CWR and harness.tcb.congestion.ssthresh == 5 * MSS
        assert all(segment.seq >= 1 + 10 * MSS for segment in sent)

    def test_the_peer_is_told_with_the_next_new_segment_once(self, sender):
        harness = sender()
        sent = []
        for number in range(1, 11):
            sent += harness.acknowledges(1 + number * MSS, flags=ACK | ECE)
        assert [bool(segment.flags & CWR) for segment in sent] == [True] + [False] * (len(sent) - 1)

    def test_one_window_shrinks_once(self, sender):
        """The peer repeats the mark until it has seen CWR, the ACK of the last segment before that included."""
        harness = sender()
        for number in range(1, 11):
            harness.acknowledges(1 + number * MSS, flags=ACK | ECE)
        assert harness.tcb.congestion.ssthresh == 5 * MSS and harness.tcb.recovery.phase is Phase.OPEN
        harness.after(0.1)
        harness.acknowledges(1 + 11 * MSS)
        assert harness.tcb.congestion.ssthresh == 5 * MSS

    def test_a_mark_in_the_next_window_shrinks_again(self, sender):
        harness = sender()
        for number in range(1, 11):
            harness.acknowledges(1 + number * MSS, flags=ACK | ECE)
        harness.after(0.1)
        harness.acknowledges(1 + 11 * MSS, flags=ACK | ECE)
        assert harness.tcb.congestion.ssthresh < 5 * MSS

    def test_the_rate_falls_evenly(self, sender):
        """RFC 9937: about one segment for two acknowledged, not a pause of half a round trip."""
        harness = sender()
        sent = [len(harness.acknowledges(1 + number * MSS, flags=ACK | ECE)) for number in range(1, 11)]
        assert (
            sum(sent) == 5
            and max(sent) == 1
            and not any(one + two + three == 0 for one, two, three in zip(sent, sent[1:], sent[2:]))
        )

    def test_a_loss_in_the_same_window_costs_nothing_more(self, sender):
        harness = sender()
        harness.acknowledges(1 + MSS, flags=ACK | ECE)
        harness.acknowledges(1 + MSS, (1 + 2 * MSS, 1 + 8 * MSS), flags=ACK | ECE)
        assert harness.tcb.recovery.phase is Phase.RECOVERY and harness.tcb.congestion.ssthresh == 5 * MSS

    def test_retransmissions_are_not_marked_capable(self, sender):
        """6.1.5"""
        harness = sender()
        sent = harness.acknowledges(1, (1 + MSS, 1 + 9 * MSS))
        again = [segment for segment in sent if segment.seq < 1 + 10 * MSS]
        assert again and {segment.ecn for segment in again} == {0}
        assert not any(segment.flags & CWR for segment in again), "6.1.2: CWR is for new data"

    def test_after_a_loss_the_peer_is_told_as_well(self, sender):
        harness = sender()
        sent = harness.acknowledges(1, (1 + MSS, 1 + 9 * MSS))
        for number in range(10, 14):
            harness.after(0.02)
            sent += harness.acknowledges(1, (1 + MSS, 1 + number * MSS))
        new = [segment for segment in sent if segment.seq >= 1 + 10 * MSS]
        assert new and new[0].flags & CWR and not any(segment.flags & CWR for segment in new[1:])

    def test_probes_of_a_window_and_pure_acknowledgments_are_not_marked_capable(self, sender):
        """6.1.4, 6.1.6"""
        harness = sender(10)
        harness.acknowledges(1 + 10 * MSS, window=0)
        harness.connection.send(b"xyz")
        probes = harness.passes(1.0)
        assert probes and {segment.ecn for segment in probes} == {0}
        answer = harness.arrives(ACK, 1, 1 + 10 * MSS, b"text", window=0) + harness.passes(0.1)
        assert answer and {segment.ecn for segment in answer} == {0}

    def test_without_agreement_ece_means_nothing(self, tcp):
        harness = tcp(ecn="off").sending(30 * MSS, sack=False)
        harness.output()
        harness.after(0.1)
        harness.acknowledges(1 + MSS, flags=ACK | ECE)
        assert harness.tcb.recovery.phase is Phase.OPEN


class TestReceiver:
    """6.1.3"""

    @pytest.fixture
    def receiver(self, tcp):
        harness = tcp(ecn="passive", delayed_ack=0.2)
        harness.connection.accept_syn(harness.segment(SYN | ECE | CWR, options=TcpOptions(mss=MSS)), harness.now)
        harness.output()
        harness.arrives(ACK, 1, 1)
        return harness

    def text(self, harness, seq, ecn, flags=ACK):
        segment = harness.segment(flags, seq, 1, bytes(MSS))
        segment.ecn = ecn
        harness.connection.segment_arrives(segment, harness.now)
        return [bool(sent.flags & ECE) for sent in harness.output() + harness.passes(0.3)]

    def test_a_mark_is_echoed_until_the_sender_says_that_it_knows(self, receiver):
        assert self.text(receiver, 1, ECT0) == [False]
        assert self.text(receiver, 1 + MSS, CE) == [True]
        assert self.text(receiver, 1 + 2 * MSS, ECT0) == [True]
        assert self.text(receiver, 1 + 3 * MSS, ECT0, ACK | CWR) == [False]
        assert self.text(receiver, 1 + 4 * MSS, ECT0) == [False]

    def test_a_segment_that_says_so_may_be_marked_itself(self, receiver):
        self.text(receiver, 1, CE)
        assert self.text(receiver, 1 + MSS, CE, ACK | CWR) == [True]

    def test_our_own_data_carries_the_echo(self, receiver):
        self.text(receiver, 1, CE)
        receiver.connection.send(b"answer")
        (sent,) = receiver.output()
        assert sent.data and sent.flags & ECE

    def test_what_lies_outside_the_window_is_not_believed(self, receiver):
        """6.1.5: anybody could send it."""
        self.text(receiver, 1, ECT0)
        assert self.text(receiver, 1, CE) == [False]
        assert self.text(receiver, 200_000, CE) == [False]
        assert not receiver.tcb.ece_wanted
