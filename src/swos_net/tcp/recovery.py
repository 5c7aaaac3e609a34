"""Loss recovery: what an acknowledgment means for what was sent, and how much may be sent while losses are repaired.

Read first: scoreboard.py.  Here: fast recovery entered by RACK or duplicate ACKs (RFC 8985, 6675, 6582), proportional
rate reduction (RFC 9937, formerly 6937), timeouts with F-RTO (RFC 5682), and the undoing of reductions that were not needed
(RFC 3522, 3708, 4015).  rack.py says which records are lost; the congestion controller how far the window shrinks.
"""

from swos_net.tcp import mtu_probing, rack, tail_loss
from swos_net.tcp.congestion.base import AckSample
from swos_net.tcp.recovery_state import Phase
from swos_net.tcp.scoreboard import Delivered
from swos_net.tcp.segment import ECE, HAS_SACK, HAS_TIMESTAMPS, Segment
from swos_net.tcp.seqnum import MASK
from swos_net.tcp.tcb import Tcb

RTT_MAX = 600.0  # more is a timestamp that nobody sent


def flight(tcb: Tcb) -> int:
    """RFC 5681's FlightSize, as far as the window was used."""
    return min(tcb.snd_nxt - tcb.snd_una, max(tcb.congestion.cwnd, tcb.mss))


def pipe(tcb: Tcb) -> int:
    """Octets believed to be in the network (RFC 6675 3); without SACK each duplicate ACK stands for a segment that left it."""
    in_flight = tcb.scoreboard.in_flight
    recovery = tcb.recovery
    if recovery.duplicate_acks and not tcb.sack_permitted:
        return max(in_flight - recovery.duplicate_acks * tcb.mss, 0)
    return in_flight


def acknowledged(tcb: Tcb, segment: Segment, delivered: Delivered, advance: int, duplicate: bool, now: float) -> None:
    """One ACK with the news it brought: `advance` octets in order, `delivered` in all; `duplicate` as in RFC 5681 2."""
    recovery = tcb.recovery
    board = tcb.scoreboard
    recovery.delivered_total += delivered.octets
    rtt = _measure(tcb, segment, delivered, now)
    if delivered.octets:
        rack.update(tcb, segment, delivered, now)
    if delivered.duplicate_end:
        rack.duplicate_reported(tcb)
    if recovery.probe_end is not None:
        tail_loss.acknowledged(tcb, segment, delivered, duplicate, now)
    if not tcb.sack_permitted:
        _count_duplicates(tcb, advance, duplicate, delivered)

    lost_before = board.lost_octets
    phase = recovery.phase
    if phase is Phase.LOSS:
        _in_loss(tcb, segment, delivered, advance, duplicate, now)
    elif recovery.undo_possible and _was_needless(tcb, segment, delivered, advance):
        undo(tcb)
    elif phase is Phase.RECOVERY and advance and not tcb.sack_permitted and tcb.snd_una < recovery.recover:
        board.mark_first_lost(tcb.mss)  # RFC 6582 3.2 (3), partial acknowledgment
        recovery.forced = True
    if phase is not Phase.OPEN and tcb.snd_una >= recovery.recover and recovery.phase > Phase.DISORDER:
        _leave(tcb)
    if board.records:
        detect_losses(tcb, now, delivered.octets)
    elif recovery.phase is Phase.DISORDER:
        recovery.phase = Phase.OPEN
    marked = bool(segment.flags & ECE) and tcb.ecn
    if marked and advance:
        _marked(tcb, now, delivered.octets)

    phase = recovery.phase
    if phase is Phase.RECOVERY or phase is Phase.CWR:
        _reduce_rate(tcb, delivered.octets, advance > 0 and board.lost_octets <= lost_before)
        if tcb.congestion.uses_ecn:
            tcb.congestion.observe(_sample(tcb, delivered, rtt, marked))
    elif advance and delivered.octets:  # RFC 5681 3.1: what is acknowledged in order lets the window grow, not what is sacked
        tcb.congestion.on_ack(_sample(tcb, delivered, rtt, marked), now)


def acknowledged_in_order(tcb: Tcb, segment: Segment, ack: int, advance: int, now: float) -> bool:
    """The usual case of `acknowledged`, in fewer steps: nothing is lost, sacked, probed, marked or being undone.

    False, with nothing touched, when it is not that case.
    """
    recovery = tcb.recovery
    board = tcb.scoreboard
    if (
        recovery.phase or recovery.duplicate_acks or recovery.undo_possible or recovery.probe_end is not None
        or board.sacked_octets or board.lost_octets or segment.options_present & HAS_SACK or segment.flags & ECE
    ):  # fmt: skip
        return False
    records = board.records
    newest = None
    gone = 0
    for record in records:
        if record.start >= ack:
            break
        if record.retransmissions:
            return False
        newest = record
        if record.end > ack:
            break
        gone += 1
    if newest is None or newest.sent_at < recovery.rack_sent_at:
        return False
    if newest.end > ack:
        newest.start = ack
    if gone:
        del records[:gone]
    board.by_time = None
    rtt = now - newest.sent_at
    if tcb.timestamps and segment.options_present & HAS_TIMESTAMPS and segment.ts_ecr:
        echoed = ((tcb.timestamp(now) - segment.ts_ecr) & MASK) / 1000 + 0.001
        if echoed < rtt:
            rtt = echoed
    estimator = tcb.rtt
    estimator.measured(rtt, ack, tcb.snd_nxt)
    ensemble = tcb.ensemble
    if ensemble is not None:
        ensemble.measured(rtt, tcb, now)
    recovery.delivered_total += advance
    recovery.rack_rtt = rtt
    recovery.rack_sent_at = newest.sent_at
    recovery.rack_end = ack
    recovery.delivered_high = ack
    congestion = tcb.congestion
    if (full := window_full(tcb)) or congestion.counts_every_ack:
        congestion.on_ack(AckSample(advance, tcb.snd_nxt - ack, rtt, estimator.srtt, ack, tcb.snd_nxt, full), now)
    else:
        congestion.on_ack_unlimited(now)
    return True


def _sample(tcb: Tcb, delivered: Delivered, rtt: float | None, marked: bool) -> AckSample:
    octets = delivered.octets
    if tcb.recovery.phase is Phase.LOSS and not tcb.sack_permitted:
        octets = min(octets, 2 * tcb.mss)  # RFC 3465 2.3: it may have arrived long ago
    return AckSample(octets, tcb.scoreboard.in_flight, rtt, tcb.rtt.srtt, tcb.snd_una, tcb.snd_nxt, window_full(tcb), marked)


def window_full(tcb: Tcb) -> bool:
    """Whether the congestion window has been what limits us; in slow start, whether half of it was used."""
    congestion = tcb.congestion
    if congestion.cwnd < congestion.ssthresh:
        return tcb.cwnd_limited or congestion.cwnd < 2 * tcb.flight_high
    return tcb.cwnd_limited


def note_flight(tcb: Tcb, limited: bool) -> None:
    """After sending: how much of the congestion window one round trip uses (RFC 7661 4.2)."""
    in_flight = tcb.snd_nxt - tcb.snd_una
    if tcb.snd_una >= tcb.flight_round_end or limited or (in_flight > tcb.flight_high and not tcb.cwnd_limited):
        tcb.flight_round_end = tcb.snd_nxt
        tcb.flight_high = in_flight
        tcb.cwnd_limited = limited


def _measure(tcb: Tcb, segment: Segment, delivered: Delivered, now: float) -> float | None:
    """RFC 6298 3: Karn's rule, or RFC 7323 4 where an echoed timestamp tells which transmission was acknowledged."""
    if not delivered.octets:
        return None
    rtt = None
    if delivered.rtt_sent_at is not None and not delivered.retransmitted:
        rtt = now - delivered.rtt_sent_at
    if tcb.timestamps and segment.options_present & HAS_TIMESTAMPS and segment.ts_ecr:
        echoed = max(((tcb.timestamp(now) - segment.ts_ecr) & MASK) / 1000, 0.001)
        # an ACK that was lost makes the first look long, a coarse clock the second
        if rtt is None:
            rtt = echoed
        elif echoed + 0.001 < rtt:
            rtt = echoed + 0.001
    if rtt is None or rtt > RTT_MAX:
        return None
    tcb.rtt.measured(rtt, tcb.snd_una, tcb.snd_nxt)
    if tcb.ensemble is not None:
        tcb.ensemble.measured(rtt, tcb, now)
    return rtt


def _count_duplicates(tcb: Tcb, advance: int, duplicate: bool, delivered: Delivered) -> None:
    """Without SACK each duplicate ACK says that one more segment arrived (RFC 6582)."""
    recovery = tcb.recovery
    if advance:
        known = min(recovery.duplicate_acks * tcb.mss, max(delivered.octets - tcb.mss, 0))
        delivered.octets -= known  # they were counted when they were reported
        if recovery.phase is Phase.RECOVERY and tcb.snd_una < recovery.recover:
            recovery.duplicate_acks = max(recovery.duplicate_acks - max(advance // tcb.mss - 1, 0), 0)
        else:
            recovery.duplicate_acks = 0
    elif duplicate and (recovery.phase is not Phase.LOSS or tcb.snd_nxt > recovery.recover):
        # after a timeout only for new data: the others answer what had arrived before (RFC 6582 4)
        recovery.duplicate_acks += 1
        delivered.octets += tcb.mss


def reordering_timed_out(tcb: Tcb, now: float) -> None:
    """What might have been reordered has had its time (RFC 8985 6.2 step 5)."""
    lost = tcb.scoreboard.lost_octets
    detect_losses(tcb, now)
    if tcb.scoreboard.lost_octets > lost and tcb.recovery.phase is Phase.RECOVERY:
        _reduce_rate(tcb, 0, False)  # no ACK has said how much may go out instead


def detect_losses(tcb: Tcb, now: float, delivered: int = 0) -> None:
    """Marks what must be lost by now and begins recovery when something is new among it; `delivered` by this ACK."""
    recovery = tcb.recovery
    board = tcb.scoreboard
    before = board.lost_octets
    phase = recovery.phase
    if tcb.sack_permitted:
        outstanding = board.in_flight + delivered
        if tcb.config.rack:
            rack.detect_losses(tcb, now)
        elif board.sacked_octets:
            rack.detect_losses_by_threshold(tcb)
        if board.lost_octets > before and phase < Phase.RECOVERY:
            _answer_loss(tcb, now, outstanding)
        elif phase is Phase.OPEN and board.sacked_octets:
            recovery.phase = Phase.DISORDER
        elif phase is Phase.DISORDER and not board.sacked_octets:
            recovery.phase = Phase.OPEN
    elif phase < Phase.RECOVERY:
        if recovery.duplicate_acks >= tcb.config.duplicate_threshold and tcb.snd_una > recovery.recover:
            outstanding = board.in_flight
            board.mark_first_lost(tcb.mss)
            _answer_loss(tcb, now, outstanding)
        elif phase is not Phase.CWR:
            recovery.phase = Phase.DISORDER if recovery.duplicate_acks else Phase.OPEN


def _answer_loss(tcb: Tcb, now: float, in_flight: int) -> None:
    recovery = tcb.recovery
    if tcb.mtu_probe is not None and mtu_probing.only_probe_lost(tcb, now):
        recovery.forced = True
        if not tcb.sack_permitted:
            recovery.duplicate_acks = 0
            recovery.recover = tcb.snd_nxt  # the duplicate ACKs still on their way mean the same loss
        return
    if recovery.phase is not Phase.CWR:
        _reduce_window(tcb, now, in_flight)
    recovery.phase = Phase.RECOVERY
    recovery.recover = tcb.snd_nxt
    recovery.forced = True
    tcb.counters["TcpExtTCPSackRecovery" if tcb.sack_permitted else "TcpExtTCPRenoRecovery"] += 1
    tcb.timers.loss_probe = None


def _reduce_window(tcb: Tcb, now: float, in_flight: int) -> None:
    """The state of RFC 9937 5 and of RFC 4015 3.2 at the start of a reduction."""
    recovery = tcb.recovery
    _remember(tcb)
    tcb.congestion.on_loss(flight(tcb), now)
    recovery.prr_delivered = recovery.prr_out = 0
    recovery.flight_at_start = max(in_flight, tcb.mss)
    tcb.cwr_wanted = tcb.ecn


def _remember(tcb: Tcb) -> None:
    recovery = tcb.recovery
    recovery.prior_cwnd = tcb.congestion.cwnd
    recovery.undo_possible = True
    recovery.undo_start = tcb.snd_una
    recovery.retransmit_stamp = None
    # a tail loss probe still on its way may be reported as well
    recovery.stale_retransmissions = 1 if recovery.probe_end is not None and recovery.probe_retransmitted else 0
    recovery.probe_end = None  # this reduction answers its loss too


def _marked(tcb: Tcb, now: float, delivered: int) -> None:
    """RFC 3168 6.1.2: once per window of data."""
    recovery = tcb.recovery
    if recovery.phase > Phase.DISORDER or tcb.snd_una <= recovery.recover:
        return  # the peer repeats the mark until it has seen CWR, which went out after `recover`
    recovery.prior_cwnd = tcb.congestion.cwnd
    recovery.undo_possible = False
    # what was in flight before this ACK: the mark was set among all of it, however much the ACK covers
    tcb.congestion.on_mark(min(flight(tcb) + delivered, max(recovery.prior_cwnd, tcb.mss)), now)
    recovery.prr_delivered = recovery.prr_out = 0
    recovery.flight_at_start = max(pipe(tcb) + delivered, tcb.mss)
    recovery.phase = Phase.CWR
    recovery.recover = tcb.snd_nxt
    tcb.cwr_wanted = True


def _reduce_rate(tcb: Tcb, delivered: int, safe: bool) -> None:
    """RFC 9937 6: the window follows what is delivered until it is down at ssthresh."""
    recovery = tcb.recovery
    congestion = tcb.congestion
    in_flight = pipe(tcb)
    ssthresh = congestion.ssthresh
    recovery.prr_delivered += delivered
    if in_flight > ssthresh:
        send = -(-recovery.prr_delivered * ssthresh // recovery.flight_at_start) - recovery.prr_out
    else:
        send = max(recovery.prr_delivered - recovery.prr_out, delivered)
        if safe:
            send += tcb.mss
        send = min(ssthresh - in_flight, send)
    congestion.cwnd = in_flight + max(send, 0)


def _leave(tcb: Tcb) -> None:
    """Everything that was out when it began has been acknowledged."""
    recovery = tcb.recovery
    if recovery.phase is Phase.RECOVERY or recovery.phase is Phase.CWR:
        tcb.congestion.cwnd = tcb.congestion.ssthresh
        if not tcb.sack_permitted and recovery.phase is Phase.RECOVERY:
            # RFC 6582 3.2 (3), full acknowledgment, (1): no burst
            tcb.congestion.cwnd = min(tcb.congestion.ssthresh, max(tcb.snd_nxt - tcb.snd_una, tcb.mss) + tcb.mss)
    if recovery.phase is not Phase.CWR:
        rack.recovered(tcb)
    recovery.phase = Phase.DISORDER if tcb.scoreboard.sacked_octets else Phase.OPEN
    recovery.f_rto = recovery.prefer_new = recovery.forced = False
    recovery.undo_possible = recovery.undo_possible and recovery.stale_retransmissions > 0  # a DSACK may still come
    recovery.duplicate_acks = 0


def _was_needless(tcb: Tcb, segment: Segment, delivered: Delivered, advance: int) -> bool:
    """Whether the reduction answered no loss: the original arrived (RFC 3522), or the peer got everything twice (RFC 3708)."""
    recovery = tcb.recovery
    stamp = recovery.retransmit_stamp
    if advance and stamp is not None and tcb.timestamps and segment.options_present & HAS_TIMESTAMPS and segment.ts_ecr:
        if (segment.ts_ecr - stamp) & MASK >= 0x80000000:
            return True
    if delivered.duplicate_end > recovery.undo_start and recovery.stale_retransmissions > 0:
        recovery.stale_retransmissions -= -(-(delivered.duplicate_end - delivered.duplicate_start) // tcb.mss)
        return recovery.stale_retransmissions <= 0 and tcb.scoreboard.lost_octets == 0
    return False


def undo(tcb: Tcb) -> None:
    """RFC 4015 3.2: the state before the reduction."""
    recovery = tcb.recovery
    tcb.congestion.on_spurious(recovery.prior_cwnd)
    tcb.scoreboard.unmark_lost()
    recovery.phase = Phase.DISORDER if tcb.scoreboard.sacked_octets else Phase.OPEN
    recovery.undo_possible = recovery.f_rto = recovery.prefer_new = recovery.forced = False
    recovery.duplicate_acks = 0
    tcb.cwr_wanted = False
    tcb.rtt.backoff = 0
    tcb.counters["TcpExtTCPFullUndo"] += 1


def timed_out(tcb: Tcb, now: float) -> None:
    """The retransmission timer expired with data in flight (RFC 6298 5.4 to 5.7, RFC 5681 3.1, RFC 8985 6.3)."""
    recovery = tcb.recovery
    board = tcb.scoreboard
    first = tcb.retransmissions == 1
    fresh = recovery.phase < Phase.RECOVERY
    if fresh:
        _remember(tcb)
    tcb.congestion.on_timeout(flight(tcb), now, first and recovery.phase is not Phase.LOSS)
    recovery.f_rto = tcb.config.f_rto and fresh  # RFC 5682 2.1 (1)
    recovery.prefer_new = False
    recovery.phase = Phase.LOSS
    recovery.recover = tcb.snd_nxt
    recovery.duplicate_acks = 0
    recovery.probe_end = None
    if board.records[0].sacked:
        board.forget_sacked()  # RFC 2018 8: the peer has reneged
        tcb.counters["TcpExtTCPSACKReneging"] += 1
    if tcb.sack_permitted and tcb.config.rack:
        rack.mark_timed_out(tcb, now)
    else:
        board.mark_all_lost()
    recovery.forced = True
    tcb.congestion.cwnd = pipe(tcb) + tcb.mss
    tcb.cwr_wanted = tcb.ecn
    tcb.timers.loss_probe = tcb.timers.reordering = None
    tcb.counters["TcpExtTCPTimeouts"] += 1


def _in_loss(tcb: Tcb, segment: Segment, delivered: Delivered, advance: int, duplicate: bool, now: float) -> None:
    """RFC 5682 2.1 and 3.1: was the timeout spurious?"""
    recovery = tcb.recovery
    if recovery.undo_possible and _was_needless(tcb, segment, delivered, advance):
        _spurious_timeout(tcb)
        return
    if not recovery.f_rto:
        return
    if tcb.snd_una >= recovery.recover:
        recovery.f_rto = recovery.prefer_new = False  # (2a): it covers everything, which decides nothing
    elif tcb.sack_permitted:
        if delivered.original and delivered.original_start < recovery.recover:
            _spurious_timeout(tcb)  # SACK-enhanced (3b): what went out once only has arrived
        elif delivered.sacked_octets or duplicate or (advance and recovery.prefer_new):
            recovery.f_rto = recovery.prefer_new = False  # (3a)
        elif advance:
            recovery.prefer_new = True  # (2b)
    elif duplicate:
        recovery.f_rto = recovery.prefer_new = False  # (2a), (3a)
    elif advance:
        if recovery.prefer_new:
            _spurious_timeout(tcb)  # (3b)
        else:
            recovery.prefer_new = True  # (2b)


def _spurious_timeout(tcb: Tcb) -> None:
    tcb.counters["TcpExtTCPSpuriousRTOs"] += 1
    undo(tcb)
