"""When a connection may be lent to the data plane, how it goes there and how it comes back.

Read first: prediction.py for the common case that this is about, dataplane/tcp_flow.py and vhost/tcp_flow.h for who looks
after it.  While it is lent, the variables below are out of date here: whoever wants to know or change anything takes it
back first.
"""

from math import inf

from swos_net.dataplane.tcp_flow import FIELDS, TRANSMISSIONS, LentFlow
from swos_net.tcp.recovery import window_full
from swos_net.tcp.scoreboard import Transmission
from swos_net.tcp.state import State
from swos_net.tcp.tcb import Tcb

TRANSMISSIONS_MAX = TRANSMISSIONS // 2  # so that there is place for more
_VARIABLES_FROM = FIELDS.index("snd_una")


def lendable(tcb: Tcb) -> bool:
    """Whether what comes next is likely to be the common case, and nothing here has been asked for that it leaves out."""
    timers, recovery, board, congestion = tcb.timers, tcb.recovery, tcb.scoreboard, tcb.congestion
    records = board.records
    return not (
        tcb.state is not State.ESTABLISHED
        or tcb.send_ring is None or tcb.receive_ring is None or tcb.rtt.srtt is None
        # something is about to happen
        or tcb.events or tcb.replies or tcb.fin_wanted or tcb.fin_seq is not None or tcb.receive_shut or tcb.error
        or tcb.probe_now or tcb.loss_probe_wanted or tcb.push_now or tcb.dsack is not None
        # something is missing, or being tried again
        or tcb.out_of_order.ranges or recovery.phase or recovery.duplicate_acks or recovery.undo_possible or recovery.prefer_new
        or recovery.probe_end is not None or board.sacked_octets or board.lost_octets or tcb.rtt.backoff
        or tcb.retransmissions or tcb.persist_backoff or tcb.keepalive_probes
        or timers.persist is not None or timers.reordering is not None or timers.pacing is not None or timers.time_wait is not None
        or tcb.snd_max != tcb.snd_nxt or not tcb.snd_wnd
        # the congestion window may have to move
        or congestion.counts_every_ack or congestion.uses_ecn or window_full(tcb)
        or tcb.send_limit < tcb.send_buffer and tcb.send_limit < 2 * congestion.cwnd
        # what few users ask for
        or tcb.ecn or tcb.paced or tcb.cork or tcb.more_follows or tcb.not_sent_low or tcb.receive_low != 1 or tcb.user_timeout
        or tcb.quick_ack_on is not None or tcb.mtu_probe is not None or tcb.trace is not None or tcb.config.dialect != "linux"
        or len(records) > TRANSMISSIONS_MAX or any(record.retransmissions for record in records)
        or records and records[0].sent_at < recovery.rack_sent_at
    )  # fmt: skip


def lend(tcb: Tcb, flow: LentFlow) -> None:
    """Fills in everything about a connection that is `lendable`."""
    config, timers, recovery, rtt, congestion, ensemble = tcb.config, tcb.timers, tcb.recovery, tcb.rtt, tcb.congestion, tcb.ensemble
    flow.send_ring, flow.receive_ring = tcb.send_ring, tcb.receive_ring
    flow.segments_before = tcb.segments_in
    flow.set_transmissions([(record.start, record.end, record.sent_at) for record in tcb.scoreboard.records])
    flow.pack(
        tcb.send_ring.pointer, tcb.receive_ring.pointer, flow.path.pointer, 0 if ensemble is None else ensemble.pointer, id(tcb),
        tcb.send_base, tcb.mss, tcb.super_segment, tcb.snd_wscale, tcb.rcv_wscale, tcb.ts_offset, tcb.send_limit,
        tcb.receive_buffer, tcb.rcv_mss_max, congestion.cwnd, congestion.ssthresh, tcb.timestamps,
        tcb.sack_permitted and config.tail_loss_probe, tcb.nodelay, config.slow_start_after_idle,
        config.delayed_ack, config.rto_min, config.rto_max, _time(timers.keepalive),
        tcb.snd_una, tcb.snd_nxt, tcb.snd_wnd, tcb.snd_wl1, tcb.snd_wl2, tcb.max_send_window, tcb.small_until, tcb.flight_high,
        tcb.flight_round_end, tcb.cwnd_limited, tcb.was_full,
        tcb.rcv_nxt, tcb.rcv_adv, tcb.rcv_wnd, tcb.rcv_mss, tcb.receive_limit, tcb.last_ack_sent, tcb.ts_recent,
        tcb.ack_now, tcb.ack_pending, tcb.quick_acks, tcb.interactive,
        tcb.autotune_window, tcb.autotune_copied, tcb.autotune_taken,
        tcb.segments_in, tcb.segments_out, tcb.data_segments_in, tcb.data_segments_out,
        recovery.delivered_total, recovery.rack_end, max(rtt.round_end, 0),
        recovery.rack_sent_at, recovery.rack_rtt, recovery.probe_timer_since,
        rtt.srtt, rtt.rttvar, rtt.base, rtt.rto, rtt.min_rtt, rtt.latest,
        tcb.ts_recent_age, tcb.last_received, tcb.last_data_received, tcb.last_send, tcb.progress_since, tcb.autotune_since,
        -1.0, _time(timers.retransmission), _time(timers.loss_probe), _time(timers.delayed_ack),
    )  # fmt: skip


def take_back(tcb: Tcb, flow: LentFlow) -> None:
    """Brings the connection up to date."""
    timers, recovery, rtt = tcb.timers, tcb.recovery, tcb.rtt
    (
        tcb.snd_una, tcb.snd_nxt, tcb.snd_wnd, tcb.snd_wl1, tcb.snd_wl2, tcb.max_send_window, tcb.small_until, tcb.flight_high,
        tcb.flight_round_end, cwnd_limited, was_full,
        tcb.rcv_nxt, tcb.rcv_adv, tcb.rcv_wnd, tcb.rcv_mss, tcb.receive_limit, tcb.last_ack_sent, tcb.ts_recent,
        ack_now, tcb.ack_pending, tcb.quick_acks, interactive,
        tcb.autotune_window, tcb.autotune_copied, tcb.autotune_taken,
        tcb.segments_in, tcb.segments_out, tcb.data_segments_in, tcb.data_segments_out,
        recovery.delivered_total, recovery.rack_end, rtt.round_end,
        recovery.rack_sent_at, recovery.rack_rtt, recovery.probe_timer_since,
        rtt.srtt, rtt.rttvar, rtt.base, rtt.rto, rtt.min_rtt, rtt.latest,
        tcb.ts_recent_age, tcb.last_received, tcb.last_data_received, tcb.last_send, tcb.progress_since, tcb.autotune_since,
        unlimited_at, retransmission, loss_probe, delayed_ack,
    ) = flow.unpack()[_VARIABLES_FROM:]  # fmt: skip
    tcb.snd_max = tcb.snd_nxt
    tcb.cwnd_limited = bool(cwnd_limited)
    tcb.was_full = bool(was_full)
    tcb.ack_now = bool(ack_now)
    tcb.interactive = bool(interactive)
    timers.retransmission = _timer(retransmission)
    timers.loss_probe = _timer(loss_probe)
    timers.delayed_ack = _timer(delayed_ack)
    board = tcb.scoreboard
    board.records = [Transmission(start, end, sent_at) for start, end, sent_at in flow.transmissions()]
    board.by_time = None
    if unlimited_at >= 0:
        recovery.delivered_high = tcb.snd_una
        tcb.congestion.on_ack_unlimited(unlimited_at)


def _time(timer: float | None) -> float:
    return inf if timer is None else timer


def _timer(time: float) -> float | None:
    return None if time == inf else time
