"""What is true of every connection at every moment, for tests that look inside one.

    check_connection(connection)                 between any two calls
    check_connection(connection, resting=True)   after output that was not cut short

A broken rule is an AssertionError.  Read first: tcp/tcb.py, tcp/scoreboard.py.
"""

from swos_net.tcp.connection import Connection
from swos_net.tcp.scoreboard import Scoreboard
from swos_net.tcp.state import SENDING, State
from swos_net.tcp.tcb import Tcb


def check_connection(connection: Connection, *, resting: bool = False) -> None:
    """RFC 9293 3.3.1, the scoreboard against its counters, and that nothing waits without a timer."""
    tcb = connection.tcb
    assert tcb.iss <= tcb.snd_una <= tcb.snd_nxt <= tcb.snd_max
    if tcb.state is State.CLOSED:
        assert connection.next_deadline() is None, "a timer of a connection that is gone"
        assert not tcb.scoreboard.records
        return
    if tcb.state in SENDING:
        assert tcb.snd_max <= tcb.data_end + 1
        check_scoreboard(tcb.scoreboard, tcb.snd_una, tcb.snd_nxt)
        assert tcb.congestion.cwnd >= 0 and tcb.congestion.ssthresh > 0
        if resting:
            check_timers(tcb)
    else:
        assert not tcb.scoreboard.records, "sent data outlives its acknowledgment"
    if tcb.state > State.SYN_SENT:
        assert tcb.rcv_nxt <= tcb.rcv_adv, "received more than was offered"
    ring = tcb.receive_ring
    if ring is not None:
        assert tcb.receive_base + ring.tail == tcb.rcv_nxt - tcb.fin_received, (
            "the receive queue ends elsewhere than RCV.NXT"
        )
        early = tcb.state is State.SYN_RECEIVED  # text that came with the peer's SYN waits there
        for start, end in tcb.out_of_order.ranges:
            assert tcb.rcv_nxt < start + early and start < end <= tcb.receive_base + ring.head + ring.capacity


def check_scoreboard(board: Scoreboard, snd_una: int, snd_nxt: int) -> None:
    """Records without gaps, and the counters that are kept beside them."""
    records = board.records
    if not records:
        assert snd_una == snd_nxt, f"nothing recorded of [{snd_una}:{snd_nxt}]"
        assert not board.sacked_octets and not board.lost_octets
        return
    assert records[0].start == snd_una and records[-1].end == snd_nxt, f"{records} for [{snd_una}:{snd_nxt}]"
    for record, following in zip(records, records[1:]):
        assert record.end == following.start, f"a gap after {record}"
        assert not (record.sacked and following.sacked), f"{record} and {following} were not joined"
    for record in records:
        assert record.start < record.end, f"empty: {record}"
        assert not (record.sacked and record.lost), f"delivered and lost: {record}"
    assert board.sacked_octets == sum(record.end - record.start for record in records if record.sacked)
    assert board.lost_octets == sum(record.end - record.start for record in records if record.lost)
    assert board.in_flight == sum(
        record.end - record.start for record in records if not record.lost and not record.sacked
    )
    if board.by_time is not None:
        times = [sent_at for sent_at, _ in board.by_time]
        assert times == sorted(times)
        known = {(sent_at, id(record)) for sent_at, record in board.by_time}
        for record in records:
            assert record.sacked or record.lost or (record.sent_at, id(record)) in known, f"RACK will not find {record}"
    if board.sacked_octets:
        assert board.highest_sacked == max(record.end for record in records if record.sacked)


def check_timers(tcb: Tcb) -> None:
    """Whatever waits for the peer has a timer, or it would wait for ever (RFC 6298 5.1, RFC 9293 3.8.6.1)."""
    timers = tcb.timers
    if tcb.scoreboard.records:
        assert timers.retransmission is not None or timers.persist is not None, "in flight without a timer"
    elif tcb.snd_nxt < tcb.data_end or (tcb.fin_wanted and tcb.snd_nxt <= tcb.data_end):
        assert timers.retransmission is not None or timers.persist is not None or timers.pacing is not None, (
            "data waits without a timer"
        )
    if tcb.ack_pending and not tcb.ack_now:
        assert timers.delayed_ack is not None, "an acknowledgment waits without a timer"
