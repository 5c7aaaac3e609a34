"""DCTCP with the numbers of RFC 8257, and the receiver's side of its marks."""

import pytest

from swos_net.tcp.congestion import make_controller
from swos_net.tcp.congestion.base import AckSample
from swos_net.tcp.recovery_state import Phase
from swos_net.tcp.segment import ACK, CWR, ECE, SYN
from swos_net.wire.tcp import TcpOptions

MSS = 1000
CE = 3


@pytest.fixture
def dctcp():
    controller = make_controller("dctcp", MSS, 10)
    controller.ssthresh = controller.cwnd
    return controller


class TestSender:
    def window(self, controller, marked, total=10, start=0):
        """One window of `total` segments, so many of them marked."""
        for number in range(total):
            una = start + (number + 1) * MSS
            controller.observe(AckSample(MSS, 0, None, 0.1, una, start + total * MSS, True, number < marked))
        return start + total * MSS

    def test_alpha_begins_with_the_worst(self, dctcp):
        assert dctcp.alpha == 1.0  # 4.2
        dctcp.on_mark(10 * MSS, 0.0)
        assert dctcp.ssthresh == 5 * MSS

    def test_alpha_follows_the_share_of_marked_octets(self, dctcp):
        dctcp.observe(AckSample(0, 0, None, 0.1, 1, 10 * MSS, True))  # a window begins
        dctcp.alpha = 0.5
        end = self.window(dctcp, 4)
        dctcp.observe(AckSample(MSS, 0, None, 0.1, end + MSS, end + 10 * MSS, True, False))
        # 3.3 (6): alpha = (1 - g) alpha + g M, M over the window and the ACK that ends it
        assert dctcp.alpha == pytest.approx(0.5 * 15 / 16 + 4 / 11 / 16)

    def test_alpha_fades_without_marks(self, dctcp):
        end = 0
        for _ in range(200):
            end = self.window(dctcp, 0, start=end)
            dctcp.observe(AckSample(MSS, 0, None, 0.1, end + 1, end + 10 * MSS, True, False))
        assert dctcp.alpha < 0.01
        dctcp.on_mark(10 * MSS, 0.0)
        assert dctcp.ssthresh > 9.9 * MSS, "3.3 (9): cwnd (1 - alpha / 2)"

    def test_loss_halves_as_ever(self, dctcp):
        dctcp.alpha = 0.0
        dctcp.on_loss(10 * MSS, 0.0)
        assert dctcp.ssthresh == 5 * MSS  # 3.5

    def test_unmarked_octets_count_while_the_window_shrinks(self, tcp):
        """Or the share of the marked ones would look larger than it is."""
        harness = tcp(congestion="dctcp", ecn="on", tail_loss_probe=False)
        harness.connection.open(harness.now)
        harness.output()
        harness.now += 0.1
        harness.arrives(SYN | ACK | ECE, 0, 1, options=TcpOptions(mss=MSS))
        harness.tcb.congestion.ssthresh = 10 * MSS
        harness.connection.send(bytes(60 * MSS))
        harness.output()
        harness.after(0.1)
        harness.acknowledges(1 + MSS)
        harness.acknowledges(1 + 2 * MSS, flags=ACK | ECE)
        assert harness.tcb.recovery.phase is Phase.CWR
        controller = harness.tcb.congestion
        before = controller.alpha
        harness.after(0.05)
        for number in range(3, 10):
            harness.acknowledges(1 + number * MSS)
            assert harness.tcb.recovery.phase is Phase.CWR
        harness.after(0.05)
        harness.acknowledges(harness.tcb.snd_nxt - harness.tcb.iss)
        assert controller.alpha < before * 15 / 16 + 0.25 / 16


class TestReceiver:
    """RFC 8257 3.2: the ECE of every ACK says what the segments were that it acknowledges."""

    def receiver(self, tcp):
        harness = tcp(congestion="dctcp", delayed_ack=0.2)
        harness.connection.accept_syn(harness.segment(SYN | ECE | CWR, options=TcpOptions(mss=MSS)), harness.now)
        (answer,) = harness.output()
        assert answer.flags == SYN | ACK | ECE
        harness.arrives(ACK, 1, 1)
        return harness

    def text(self, harness, number, ecn):
        segment = harness.segment(ACK, 1 + number * 500, 1, bytes(500))
        segment.ecn = ecn
        harness.connection.segment_arrives(segment, harness.now)
        return [(sent.ack, bool(sent.flags & ECE)) for sent in harness.output()]

    def test_a_change_is_told_at_once_and_apart(self, tcp):
        harness = self.receiver(tcp)
        assert self.text(harness, 0, 2) == []
        assert self.text(harness, 1, CE) == [(501, False), (1001, True)]
        assert self.text(harness, 2, CE) == []
        assert self.text(harness, 3, 2) == [(1501, True), (2001, False)]

    def test_without_anything_pending_one_acknowledgment_is_enough(self, tcp):
        harness = self.receiver(tcp)
        assert self.text(harness, 0, CE) == [(501, True)]
        assert self.text(harness, 1, 2) == [(1001, False)]

    def test_cwr_changes_nothing(self, tcp):
        harness = self.receiver(tcp)
        self.text(harness, 0, CE)
        segment = harness.segment(ACK | CWR, 501, 1, bytes(500))
        segment.ecn = CE
        harness.connection.segment_arrives(segment, harness.now)
        harness.output()
        assert harness.tcb.ece_wanted
