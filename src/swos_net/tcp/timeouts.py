"""What happens when a deadline of a connection has passed; one function per timer."""

from swos_net.tcp import mtu_probing, output, recovery, tail_loss
from swos_net.tcp.lifecycle import closed, timed_out
from swos_net.tcp.state import State
from swos_net.tcp.tcb import Tcb


def handle_timeout(tcb: Tcb, now: float) -> None:
    """Every deadline that has passed takes its effect; output may be waiting afterwards."""
    timers = tcb.timers
    if tcb.trace is not None:
        tcb.trace("timeout", now, tcb, timers.next_deadline())
    if timers.time_wait is not None and timers.time_wait <= now:
        closed(tcb)
        return
    if timers.delayed_ack is not None and timers.delayed_ack <= now:
        timers.delayed_ack = None
        tcb.ack_now = True
        tcb.counters["TcpExtDelayedACKs"] += 1
    if timers.pacing is not None and timers.pacing <= now:
        timers.pacing = None
    if timers.reordering is not None and timers.reordering <= now:
        timers.reordering = None
        if tcb.scoreboard.records:
            recovery.reordering_timed_out(tcb, now)
    if timers.loss_probe is not None and timers.loss_probe <= now:
        tail_loss.timed_out(tcb, now)  # first, where both are due: RFC 8985 7.2, the probe is never later than the RTO
    elif timers.retransmission is not None and timers.retransmission <= now:
        _retransmission(tcb, now)
    if timers.persist is not None and timers.persist <= now:
        _persist(tcb, now)
    if timers.keepalive is not None and timers.keepalive <= now:
        _keepalive(tcb, now)


def _give_up(tcb: Tcb) -> None:
    if tcb.state > State.SYN_RECEIVED:
        tcb.replies.append(output.reset_segment(tcb))
    tcb.counters["TcpExtTCPAbortOnTimeout"] += 1
    timed_out(tcb)


def _user_timeout_passed(tcb: Tcb, now: float) -> bool:
    """RFC 5482 3: data has been unacknowledged for longer than the user bears."""
    return bool(tcb.user_timeout) and now - tcb.progress_since >= tcb.user_timeout - 1e-9


def _retransmission(tcb: Tcb, now: float) -> None:
    """RFC 6298 (5.4) to (5.7)."""
    config = tcb.config
    tcb.timers.retransmission = None
    if tcb.deferring:  # nothing was lost: the peer is asked for its ACK once more
        tcb.deferring = False
        tcb.syn_wanted = True
        return
    tcb.retransmissions += 1
    limit = config.data_retries
    if tcb.state is State.SYN_SENT:
        limit = config.syn_retries if tcb.syn_retries is None else tcb.syn_retries
    elif tcb.state is State.SYN_RECEIVED:
        limit = config.syn_ack_retries
    elif tcb.orphan and tcb.snd_wnd == 0:
        limit = min(limit, config.orphan_retries)
    expired = tcb.retransmissions > limit if not tcb.user_timeout else _user_timeout_passed(tcb, now)
    if expired:
        _give_up(tcb)
        return
    tcb.rtt.backoff += 1
    if tcb.state is State.SYN_SENT or tcb.state is State.SYN_RECEIVED:
        tcb.syn_wanted = True
        tcb.congestion.cwnd = tcb.mss  # RFC 5681 3.1: a lost SYN,ACK means an initial window of one segment
        return
    if not tcb.scoreboard.records:
        return
    recovery.timed_out(tcb, now)
    mtu_probing.timed_out(tcb, now)


def _persist(tcb: Tcb, now: float) -> None:
    tcb.timers.persist = None
    if tcb.snd_nxt >= tcb.data_end:
        return  # a probe took the last byte with it
    if tcb.snd_wnd and tcb.cork:
        tcb.probe_now = True  # no probe but a corked tail
        return
    tcb.retransmissions += 1
    limit = min(tcb.config.data_retries, tcb.config.orphan_retries) if tcb.orphan else tcb.config.data_retries
    expired = tcb.retransmissions > limit if not tcb.user_timeout else _user_timeout_passed(tcb, now)
    if expired:
        _give_up(tcb)
        return
    tcb.persist_backoff += 1
    wait = min(tcb.rtt.rto * (1 << min(tcb.persist_backoff, 10)), tcb.config.persist_max)
    tcb.timers.persist = output.before_user_timeout(tcb, now + wait)
    tcb.probe_now = True


def _keepalive(tcb: Tcb, now: float) -> None:
    idle_until = max(tcb.last_received, tcb.last_send if tcb.scoreboard.records else 0.0) + tcb.keepalive_idle
    if tcb.keepalive_probes == 0 and idle_until > now:
        tcb.timers.keepalive = idle_until
        return
    over = tcb.keepalive_probes >= tcb.keepalive_probe_limit
    if tcb.user_timeout and tcb.keepalive_probes:
        over = now - tcb.last_received >= tcb.user_timeout  # RFC 5482 4.2: it takes the place of the count
    if over:
        _give_up(tcb)
        return
    tcb.keepalive_probes += 1
    tcb.counters["TcpExtTCPKeepAlive"] += 1
    tcb.replies.append(output.keepalive_segment(tcb))
    tcb.timers.keepalive = now + max(tcb.keepalive_interval, 0.001)
