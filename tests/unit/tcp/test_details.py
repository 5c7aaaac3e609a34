"""Small rules that scripts of other projects found broken once, each with its place in an RFC."""

import pytest

from swos_net.tcp.segment import ACK, CWR, ECE, FIN, PSH, SYN
from swos_net.wire.tcp import TcpOptions

SACK = TcpOptions(mss=1000, sack_permitted=True)


def test_a_tail_loss_probe_is_never_later_than_the_timeout(tcp):
    """RFC 8985 7.2: PTO is 2*SRTT + 0.2 s here, RTO 3*SRTT: the probe takes the time-out's place, which then follows."""
    harness = tcp(sack=True, rto_min=0.2).open()
    harness.now += 0.1
    harness.arrives(SYN | ACK, 0, 1, options=SACK)
    harness.connection.send(b"x" * 10)
    harness.output()
    began = harness.now
    assert harness.connection.next_deadline() == pytest.approx(began + 0.3)
    (probe,) = harness.passes(0.3 + 1e-6)
    assert probe.data == b"x" * 10
    assert harness.tcb.rtt.backoff == 0, "a probe backs nothing off"
    assert harness.connection.next_deadline() == pytest.approx(began + 0.6)


def test_what_is_only_sacked_does_not_open_the_congestion_window(tcp):
    """RFC 5681 3.1: an ACK that acknowledges new data does, and it does so in order."""
    harness = tcp(sack=True, initial_window_segments=10).open()
    harness.now += 0.1
    harness.arrives(SYN | ACK, 0, 1, options=SACK)
    harness.connection.send(bytes(10000))
    harness.output()
    before = harness.tcb.congestion.cwnd
    harness.now += 0.1
    harness.arrives(ACK, 1, 1, options=blocks((9001, 10001)))
    assert harness.tcb.congestion.cwnd == before
    harness.arrives(ACK, 1, 1001, options=blocks((9001, 10001)))
    assert harness.tcb.congestion.cwnd > before


def blocks(*pairs):
    """SACK blocks of our sequence space, counted from the ISN as the harness does."""
    iss = 0x7FFFFFF0
    return TcpOptions(sack_blocks=tuple((iss + left & 0xFFFFFFFF, iss + right & 0xFFFFFFFF) for left, right in pairs))


@pytest.mark.parametrize(
    "start, length, duplicate",
    [(250, 100, (250, 300)), (100, 150, (200, 250)), (150, 300, (200, 300)), (200, 100, (200, 300)), (320, 50, None)],
)
def test_the_first_octets_that_came_twice_are_told(tcp, start, length, duplicate):
    """RFC 2883 4: wherever they lie in the segment, and also where they are the whole of a block."""
    harness = tcp(sack=True).established(options=SACK)
    harness.arrives(ACK, 200, 1, bytes(100))
    harness.arrives(ACK, 400, 1, bytes(100))
    (ack,) = harness.arrives(ACK, start, 1, bytes(length))
    irs = 0xFFFFFFF0
    told = [(left - irs & 0xFFFFFFFF, right - irs & 0xFFFFFFFF) for left, right in ack.options.sack_blocks]
    if duplicate is None:
        assert told[0] == (start, start + length)
    else:
        assert told[0] == duplicate
        left, right = told[1]
        assert left <= duplicate[0] and duplicate[1] <= right, "the second block holds the first"


def test_icmp_is_believed_about_what_is_in_flight(tcp):
    """RFC 5927 4.1: SND.UNA <= SEG.SEQ < SND.NXT."""
    harness = tcp().open()
    valid = harness.connection.quoted_sequence_valid
    iss = 0x7FFFFFF0
    assert [valid(iss + offset) for offset in (-1, 0, 1)] == [False, True, False]


def test_the_last_write_decides_on_psh(tcp):
    """RFC 9293 3.9.1.2: PSH at the end of what was written, unless the writer said that more follows."""
    harness = tcp().established()
    harness.tcb.more_follows = True
    harness.connection.send(b"more follows")
    (segment,) = harness.output()
    assert not segment.flags & PSH
    harness.tcb.more_follows = False
    harness.arrives(ACK, 1, 13)
    harness.connection.send(b"done")
    (segment,) = harness.output()
    assert segment.flags & PSH


def test_a_fin_by_itself_pushes_nothing(tcp):
    harness = tcp().established()
    harness.connection.shutdown_send(harness.now)
    first, *again = harness.output() + harness.passes(5)
    assert first.flags == FIN | ACK
    assert again and all(segment.flags == FIN | ACK for segment in again)


def test_nodelay_lets_go_of_what_a_cork_holds(tcp):
    harness = tcp().established()
    harness.tcb.cork = True
    harness.connection.send(b"held")
    assert harness.output() == []
    harness.tcb.push_now = True
    assert [segment.data for segment in harness.output()] == [b"held"]
    harness.connection.send(b"held again")
    assert harness.output() == []


@pytest.mark.parametrize("retries, asking", [(0, 1), (1, 2), (2, 3)])
def test_how_often_a_syn_asks_for_ecn(tcp, retries, asking):
    """RFC 3168 6.1.1.1."""
    harness = tcp(ecn="on", ecn_syn_retries=retries)
    harness.connection.open(harness.now)
    syns = harness.passes(20)
    flags = [bool(segment.flags & (ECE | CWR)) for segment in syns]
    assert flags == [True] * asking + [False] * (len(flags) - asking)


def test_a_reply_to_nothing_does_not_end_the_quick_acknowledgments(tcp):
    """Our own first words are no answer: what comes back is acknowledged at once."""
    harness = tcp(quick_acks=16).established()
    harness.connection.send(b"hello")
    harness.output()
    harness.now += 0.1
    (ack,) = harness.arrives(ACK, 1, 6, b"world")
    assert ack.ack == 6


def test_text_of_a_simultaneous_open_waits_for_the_delayed_acknowledgment(tcp):
    harness = tcp(delayed_ack=0.04).open()
    (answer,) = harness.arrives(SYN, 0, 0, b"abc", options=TcpOptions(mss=1460))
    assert answer.flags == SYN | ACK and answer.ack == 1
    assert harness.arrives(ACK, 4, 1) == []
    assert harness.connection.receive(10) == b"abc"
    (ack,) = harness.passes(0.05)
    assert ack.ack == 4


@pytest.mark.parametrize("acknowledged", [1001, 5001, 9001])
def test_a_mark_reduces_by_what_was_in_flight_before_its_ack(tcp, acknowledged):
    """RFC 3168 6.1.2: half of the window, however much of it the ACK that echoes the mark covers."""
    harness = tcp(ecn="on", initial_window_segments=10)
    harness.connection.open(harness.now)
    harness.output()
    harness.now += 0.1
    harness.arrives(SYN | ACK | ECE, 0, 1, options=TcpOptions(mss=1000))
    harness.connection.send(bytes(10000))
    harness.output()
    harness.now += 0.1
    harness.arrives(ACK | ECE, 1, acknowledged)
    assert harness.tcb.congestion.ssthresh == 5000
