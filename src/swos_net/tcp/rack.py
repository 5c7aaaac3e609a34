"""Which records are lost: RACK by time (RFC 8985), or RFC 6675's threshold where RACK is switched off.

Read first: scoreboard.py.  RACK's variables live in `recovery_state.Recovery`.
"""

from swos_net.tcp.recovery_state import Phase
from swos_net.tcp.scoreboard import Delivered
from swos_net.tcp.segment import HAS_TIMESTAMPS, Segment
from swos_net.tcp.seqnum import MASK
from swos_net.tcp.tcb import Tcb

CLOCK_STEP = 1e-6  # times that differ by less are the same
REORDERING_WINDOW_ROUNDS = 16  # RFC 8985 6.2 step 4: recoveries without a DSACK until the window shrinks again


def update(tcb: Tcb, segment: Segment, delivered: Delivered, now: float) -> None:
    """RFC 8985 6.2 steps 1 to 3: the most recent transmission that arrived, and signs of reordering."""
    recovery = tcb.recovery
    sent_at = delivered.newest_sent_at
    if sent_at >= 0:
        rtt = now - sent_at
        genuine = True
        if delivered.newest_retransmitted:
            stamped = tcb.timestamps and segment.options_present & HAS_TIMESTAMPS and segment.ts_ecr
            if stamped and (segment.ts_ecr - tcb.timestamp(sent_at)) & MASK >= 0x80000000:
                genuine = False  # step 2: it acknowledges an earlier transmission
            elif tcb.rtt.min_rtt is not None and rtt < tcb.rtt.min_rtt - CLOCK_STEP:
                genuine = False
        if genuine:
            recovery.rack_rtt = rtt
            if (sent_at, delivered.newest_end) > (recovery.rack_sent_at, recovery.rack_end):
                recovery.rack_sent_at = sent_at
                recovery.rack_end = delivered.newest_end
    if delivered.original and delivered.original_start < recovery.delivered_high:
        if not recovery.reordering_seen:
            tcb.counters["TcpExtTCPSACKReorder"] += 1
        recovery.reordering_seen = True  # step 3
    high = tcb.snd_una
    board = tcb.scoreboard
    if board.sacked_octets and board.highest_sacked > high:
        high = board.highest_sacked
    if high > recovery.delivered_high:
        recovery.delivered_high = high


def duplicate_reported(tcb: Tcb) -> None:
    """RFC 8985 6.2 step 4: a DSACK widens the reordering window, once a round trip."""
    recovery = tcb.recovery
    if recovery.dsack_round is not None and tcb.snd_una < recovery.dsack_round:
        return
    recovery.dsack_round = tcb.snd_nxt
    recovery.window_multiplier += 1
    recovery.window_persist = REORDERING_WINDOW_ROUNDS


def recovered(tcb: Tcb) -> None:
    """RFC 8985 6.2 step 4: after so many recoveries without a DSACK the reordering window shrinks again."""
    recovery = tcb.recovery
    recovery.window_persist -= 1
    if recovery.window_persist <= 0:
        recovery.window_multiplier = 1


def reordering_window(tcb: Tcb) -> float:
    """RACK_update_reo_wnd (RFC 8985 6.2 step 4), in seconds."""
    recovery = tcb.recovery
    if not recovery.reordering_seen:
        if recovery.phase >= Phase.RECOVERY or tcb.scoreboard.sacked_octets > (tcb.config.duplicate_threshold - 1) * tcb.mss:
            return 0.0
    minimum = tcb.rtt.min_rtt or 0.0
    return min(recovery.window_multiplier * minimum / 4, tcb.rtt.srtt or 0.0)


def detect_losses(tcb: Tcb, now: float) -> None:
    """RACK_detect_loss (RFC 8985 6.2 step 5), and the timer for what may still be reordered."""
    recovery = tcb.recovery
    tcb.timers.reordering = None
    rack_sent_at = recovery.rack_sent_at
    if rack_sent_at < 0:
        return
    board = tcb.scoreboard
    if recovery.phase < Phase.RECOVERY and not board.sacked_octets and not board.lost_octets:
        if board.records[0].sent_at > rack_sent_at:
            return  # all of it went out later: the usual case (retransmissions are not in the order of their times)
    allowance = recovery.rack_rtt + reordering_window(tcb)
    rack_end = recovery.rack_end
    wait = 0.0
    entries = board.in_time_order()
    kept = []
    walked = 0
    for entry in entries:
        sent_at, record = entry
        if sent_at > rack_sent_at:
            break
        walked += 1
        if record.sacked or record.lost or record.sent_at != sent_at:
            continue
        if sent_at == rack_sent_at and record.end >= rack_end:
            kept.append(entry)
            continue
        left = sent_at + allowance - now
        if left <= 1e-9:
            board.mark_lost(record)
        else:
            wait = max(wait, left)
            kept.append(entry)
    entries[:walked] = kept
    if wait:
        tcb.timers.reordering = now + wait


def mark_timed_out(tcb: Tcb, now: float) -> None:
    """RFC 8985 6.3: the first segment, and what went out so long ago that it would have been acknowledged."""
    board = tcb.scoreboard
    allowance = max(tcb.recovery.rack_rtt, tcb.rtt.srtt or 0.0) + reordering_window(tcb)
    board.mark_first_lost(tcb.mss)
    for record in board.records:
        if not record.sacked and not record.lost and record.sent_at + allowance <= now:
            board.mark_lost(record)


def detect_losses_by_threshold(tcb: Tcb) -> None:
    """RFC 6675 4, IsLost: more than DupThresh - 1 segments above it have arrived."""
    board = tcb.scoreboard
    threshold = tcb.config.duplicate_threshold
    above = board.sacked_octets
    pieces = sum(record.sacked for record in board.records)
    for record in board.records:
        if record.sacked:
            above -= record.end - record.start
            pieces -= 1
        elif above > (threshold - 1) * tcb.mss or pieces >= threshold:
            if not record.lost and not record.retransmissions:
                board.mark_lost(record)
        else:
            break
