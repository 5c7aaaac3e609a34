"""Tail loss probes (RFC 8985 7): a loss at the end of a flight is found without waiting for the RTO."""

from swos_net.tcp.recovery_state import Phase
from swos_net.tcp.scoreboard import Delivered
from swos_net.tcp.segment import HAS_SACK, Segment
from swos_net.tcp.tcb import Tcb

WORST_DELAYED_ACK = 0.2  # RFC 8985 7.2: WCDelAckT
PTO_WITHOUT_RTT = 1.0


def schedule(tcb: Tcb, now: float) -> None:
    """TLP_calc_PTO (RFC 8985 7.2), when new data went out or was acknowledged in order."""
    recovery = tcb.recovery
    board = tcb.scoreboard
    timers = tcb.timers
    timers.loss_probe = None
    if (
        recovery.phase or recovery.probe_end is not None or board.sacked_octets or not board.records
        or not tcb.sack_permitted or not tcb.config.tail_loss_probe
    ):  # fmt: skip
        return
    srtt = tcb.rtt.srtt
    if srtt is None:
        timeout = PTO_WITHOUT_RTT
    else:
        timeout = 2 * srtt
        if tcb.snd_nxt - tcb.snd_una <= tcb.mss:
            timeout += WORST_DELAYED_ACK
    if timers.retransmission is not None:
        timers.loss_probe = min(now + timeout, timers.retransmission)
        recovery.probe_timer_since = now


def timed_out(tcb: Tcb, now: float) -> None:
    """The probe timer expired (7.3): output.py sends new data if there is some, or the last segment again."""
    timers = tcb.timers
    timers.loss_probe = None
    if tcb.ensemble is not None and timers.retransmission is not None and timers.retransmission > now:
        # RFC 9040: others to the same host have found the round trip longer since, so that 2 SRTT (7.2) came out too short
        since = tcb.recovery.probe_timer_since
        timeout = 2 * tcb.ensemble.rtt_of_others(tcb, since)
        if since + timeout > now:
            timers.loss_probe = min(since + timeout, timers.retransmission)
            return
    if tcb.scoreboard.records:
        tcb.loss_probe_wanted = True
        # at its end little of a flight is left
        tcb.recovery.probe_flight = max(tcb.flight_high, tcb.snd_nxt - tcb.snd_una)
        tcb.timers.retransmission = now + tcb.rtt.rto


def acknowledged(tcb: Tcb, segment: Segment, delivered: Delivered, duplicate: bool, now: float) -> None:
    """TLP_process_ack (7.4.2): did the probe repair a loss that nobody noticed?"""
    recovery = tcb.recovery
    end = recovery.probe_end
    if tcb.snd_una < end:
        return
    if not recovery.probe_retransmitted or delivered.duplicate_end == end:
        recovery.probe_end = None  # nothing was lost
    elif tcb.snd_una > end:
        recovery.probe_end = None
        tcb.counters["TcpExtTCPLossProbeRecovery"] += 1
        if recovery.phase is Phase.CWR:
            return  # the window is on its way down
        # the probe repaired a loss: the congestion response without the recovery
        congestion = tcb.congestion
        congestion.on_loss(min(recovery.probe_flight, congestion.cwnd), now)
        congestion.cwnd = min(congestion.cwnd, congestion.ssthresh)
        tcb.cwr_wanted = tcb.ecn
    elif duplicate and not segment.options_present & HAS_SACK:
        recovery.probe_end = None
