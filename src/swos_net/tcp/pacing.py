"""Pacing: a window's segments spread over its round trip instead of back to back, for paths with short queues.

Off unless `TcpConfig.pacing` or SO_MAX_PACING_RATE asks for it: every quantum costs a timer.
"""

from swos_net.tcp.tcb import Tcb

GAIN_SLOW_START = 2.0  # the window doubles within the round trip over which it is spread
GAIN = 1.2             # headroom, so that the window and not the pace stays the limit
QUANTUM_SECONDS = 0.001


def rate(tcb: Tcb) -> float | None:
    """Octets a second, None for as fast as the link takes them."""
    paced = None
    if tcb.config.pacing and tcb.rtt.srtt:
        congestion = tcb.congestion
        gain = GAIN_SLOW_START if congestion.cwnd < congestion.ssthresh // 2 else GAIN
        paced = gain * congestion.cwnd / tcb.rtt.srtt
    if tcb.pacing_rate_max is not None:
        return tcb.pacing_rate_max if paced is None else min(paced, tcb.pacing_rate_max)
    return paced


def allowance(tcb: Tcb, now: float) -> int:
    """Octets that may go out at once; 0 arms the timer that asks again."""
    pace = rate(tcb)
    if pace is None:
        return tcb.super_segment
    if now < tcb.paced_until - 1e-9:
        tcb.timers.pacing = tcb.paced_until
        return 0
    return max(int(pace * QUANTUM_SECONDS), 2 * tcb.mss)


def sent(tcb: Tcb, octets: int, now: float) -> None:
    """Accounts for what went out."""
    pace = rate(tcb)
    if pace is not None:
        tcb.paced_until = max(tcb.paced_until, now) + octets / pace
