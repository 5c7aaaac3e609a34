"""RFC 4821: trial sizes, and what a path without ICMP swallows."""

import pytest

from swos_net.tcp.mtu_probing import SEARCH_AGAIN, SEARCH_STEP
from swos_net.tcp.recovery_state import Phase
from swos_net.wire.tcp import TcpOptions

LINK = 1460


@pytest.fixture
def sender(tcp):
    """Established; `acknowledge` takes everything in that is no larger than the path carries."""

    def make(*, sack=True, link_mss=LINK, peer_mss=LINK, **config):
        config = {"tail_loss_probe": False, "base_mss": 500, "initial_window_segments": 40} | config
        harness = tcp(sack=sack, link_mss=link_mss, **config)
        harness.open()
        harness.now += 0.1
        harness.arrives(0x12, 0, 1, options=TcpOptions(mss=peer_mss, sack_permitted=sack))
        return harness

    return make


def probes(sent, harness):
    """Segments that go out whole although they are longer than the others."""
    return [piece for piece in sent if piece.segment_size == len(piece.data) > harness.tcb.mss]


class TestSearch:
    def queue(self, harness, octets=200_000):
        harness.connection.send(bytes(octets))
        return harness.output()

    def acknowledged(self, harness, sent):
        """All of it arrives a round trip later, and there is always more."""
        harness.after(0.1)
        sent = harness.acknowledges(max(piece.seq + len(piece.data) for piece in sent))
        return sent + self.queue(harness)

    def test_begins_with_a_size_that_gets_through(self, sender):
        harness = sender(mtu_probing="on")
        assert harness.tcb.path_mss == harness.tcb.mss == 500

    @pytest.mark.parametrize(
        "config", [{"mtu_probing": "off"}, {"mtu_probing": "black-hole"}, {"mtu_probing": "on", "base_mss": 1460}]
    )
    def test_not_unless_it_is_wanted(self, sender, config):
        harness = sender(**config)
        assert harness.tcb.path_mss == LINK and harness.tcb.mtu_probe is None
        assert probes(self.queue(harness), harness) == []

    def test_halves_what_is_unknown(self, sender):
        harness = sender(mtu_probing="on")
        (probe,) = probes(self.queue(harness), harness)
        assert len(probe.data) == (500 + 1460 + 1) // 2

    def test_one_that_arrives_becomes_the_size(self, sender):
        harness = sender(mtu_probing="on")
        sent = self.queue(harness)
        sizes = [500]
        while harness.tcb.path_mss < LINK - SEARCH_STEP:
            sent = self.acknowledged(harness, sent)
            assert harness.tcb.path_mss > sizes[-1]
            sizes.append(harness.tcb.path_mss)
        assert sizes[:3] == [500, 980, 1220] and len(sizes) <= 7
        assert harness.tcb.counters["TcpExtTCPMTUPSuccess"] == len(sizes) - 1
        assert harness.tcb.mtu_probe.next_search == pytest.approx(harness.now + SEARCH_AGAIN)
        assert probes(self.acknowledged(harness, sent), harness) == []

    def test_never_more_than_the_peer_takes(self, sender):
        harness = sender(mtu_probing="on", peer_mss=1000)
        sent = self.queue(harness)
        for _ in range(10):
            assert all(len(piece.data) <= 1000 for piece in probes(sent, harness))
            sent = self.acknowledged(harness, sent)
        assert 1000 - SEARCH_STEP <= harness.tcb.path_mss <= 1000

    def test_only_with_enough_behind_it(self, sender):
        """7.4: a probe that is lost must be found by what follows."""
        harness = sender(mtu_probing="on")
        assert probes(self.queue(harness, 5000), harness) == []

    def test_not_while_losses_are_repaired(self, sender):
        harness = sender(mtu_probing="on")
        harness.tcb.mtu_probe.next_search = harness.now + 0.05
        self.queue(harness)
        harness.after(0.1)
        sent = harness.acknowledges(1, (5001, 15001))
        assert harness.tcb.recovery.phase is Phase.RECOVERY and probes(sent, harness) == []


class TestLostProbe:
    @pytest.fixture(params=[True, False], ids=["sack", "no sack"])
    def lost(self, request, sender):
        """A probe went out first and was lost; what followed arrived."""
        harness = sender(mtu_probing="on", sack=request.param)
        harness.connection.send(bytes(30_000))
        sent = harness.output()
        (probe,) = probes(sent, harness)
        assert probe.seq == 1
        harness.after(0.1)
        return harness, probe, len(probe.data)

    def report(self, harness, end, segments=6):
        """The peer says that what follows the probe has arrived."""
        if harness.tcb.sack_permitted:
            return harness.acknowledges(1, (end, end + 500 * segments))
        return sum((harness.acknowledges(1) for _ in range(segments)), [])

    def test_costs_no_window(self, lost):
        """7.6.2: it says nothing of congestion."""
        harness, probe, size = lost
        window = harness.tcb.congestion.cwnd
        self.report(harness, 1 + size)
        assert harness.tcb.recovery.phase < Phase.RECOVERY and harness.tcb.congestion.cwnd >= window
        assert harness.tcb.congestion.ssthresh > window
        assert harness.tcb.counters["TcpExtTCPMTUPFail"] == 1 and harness.tcb.mtu_probe.high == size - 1

    def test_goes_again_in_segments_of_the_old_size(self, lost):
        harness, probe, size = lost
        sent = self.report(harness, 1 + size)
        again = [piece for piece in sent if piece.seq < 1 + size]
        assert sum(len(piece.data) for piece in again) == size and all(piece.segment_size <= 500 for piece in again)

    def test_is_no_success_when_its_octets_arrive_in_other_segments(self, lost):
        harness, probe, size = lost
        self.report(harness, 1 + size)
        harness.after(0.1)
        harness.acknowledges(1 + size + 500 * 6)
        assert harness.tcb.path_mss == 500 and harness.tcb.counters["TcpExtTCPMTUPSuccess"] == 0

    def test_a_timeout_of_it_is_a_failure(self, sender):
        harness = sender(mtu_probing="on")
        harness.connection.send(bytes(30_000))
        harness.output()
        harness.passes(0.5)
        assert harness.tcb.mtu_probe.probe_size == 0 and harness.tcb.counters["TcpExtTCPMTUPFail"] == 1

    def test_other_losses_beside_it_are_answered_and_decide_nothing(self, sender):
        harness = sender(mtu_probing="on")
        harness.connection.send(bytes(30_000))
        (probe,) = probes(harness.output(), harness)
        size = len(probe.data)
        harness.after(0.1)
        harness.acknowledges(1, (1 + size + 1000, 1 + size + 5000))
        assert harness.tcb.recovery.phase is Phase.RECOVERY
        assert harness.tcb.mtu_probe.probe_size == 0 and harness.tcb.mtu_probe.high == LINK
        assert harness.tcb.counters["TcpExtTCPMTUPFail"] == 0


class TestBlackHole:
    def test_timeouts_in_a_row_shrink_the_segments(self, sender):
        """7.7"""
        harness = sender(mtu_probing="black-hole")
        harness.connection.send(bytes(20_000))
        harness.output()
        sent = harness.passes(3.0)
        assert harness.tcb.path_mss == 500 and harness.tcb.counters["TcpExtTCPMTUPFail"] == 1
        assert sent[-1].segment_size == 500
        harness.acknowledges(1 + 500)
        assert harness.tcb.state.name == "ESTABLISHED" and harness.tcb.mtu_probe.limit == LINK

    def test_small_segments_that_time_out_mean_something_else(self, sender):
        harness = sender(mtu_probing="black-hole")
        harness.connection.send(bytes(400))
        harness.output()
        harness.passes(20.0)
        assert harness.tcb.path_mss == LINK

    def test_off_is_off(self, sender):
        harness = sender(mtu_probing="off")
        harness.connection.send(bytes(20_000))
        harness.output()
        harness.passes(20.0)
        assert harness.tcb.path_mss == LINK

    def test_if_that_does_not_help_it_goes_lower(self, sender):
        harness = sender(mtu_probing="black-hole", base_mss=1024)
        harness.connection.send(bytes(20_000))
        harness.output()
        harness.passes(60.0)
        assert harness.tcb.path_mss == 536

    def test_afterwards_it_searches_upwards(self, sender):
        harness = sender(mtu_probing="black-hole", base_mss=1024)
        harness.connection.send(bytes(200_000))
        harness.output()
        harness.passes(3.0)
        assert harness.tcb.path_mss == 1024
        largest = 1024
        for _ in range(60):
            harness.after(0.01)
            una, nxt = harness.tcb.snd_una - harness.tcb.iss, harness.tcb.snd_nxt - harness.tcb.iss
            harness.acknowledges(nxt if harness.tcb.recovery.phase is Phase.OPEN else min(una + 5000, nxt))
            largest = max(largest, harness.tcb.path_mss)
        assert largest > 1300


class TestToldByThePath:
    def test_a_probe_that_was_too_big_bounds_the_search(self, sender):
        """An ICMP error about the probe: larger than what is used, and still news."""
        harness = sender(mtu_probing="on")
        harness.connection.send(bytes(200_000))
        harness.output()
        harness.connection.path_mtu_changed(700)
        assert harness.tcb.path_mss == 500 and harness.tcb.mtu_probe.high == 700

    def test_a_smaller_path_sends_again_what_was_too_big_and_shrinks_no_window(self, sender):
        harness = sender(mtu_probing="off")
        harness.connection.send(bytes(20_000))
        harness.output()
        window = harness.tcb.congestion.cwnd
        harness.connection.path_mtu_changed(1000)
        sent = harness.output()
        assert sent[0].seq == 1 and {piece.segment_size for piece in sent} == {1000}
        assert harness.tcb.congestion.cwnd == window and harness.tcb.recovery.phase is Phase.OPEN  # RFC 1191 6.3
