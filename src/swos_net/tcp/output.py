"""What to send now: segmentation, Nagle, silly-window avoidance, retransmissions, ACKs, probes (RFC 9293 3.8, 3.10).

Read first: tcb.py, scoreboard.py.  One function, `segments_to_send`, is asked by the layer that owns the link; nothing
here waits.  How much may be in flight is the congestion controller's `cwnd` against `recovery.pipe`.
"""

from typing import Protocol

from swos_net.tcp import mtu_probing, pacing, tail_loss
from swos_net.tcp.events import Event
from swos_net.tcp.options import TIMESTAMPS_LENGTH, segment_options, syn_options
from swos_net.tcp.receive_window import advertised_window
from swos_net.tcp.recovery import note_flight, pipe
from swos_net.tcp.recovery_state import Phase
from swos_net.tcp.scoreboard import Transmission
from swos_net.tcp.segment import ACK, CWR, ECE, ECT0, FIN, PSH, RST, SYN
from swos_net.tcp.state import SENDING, State
from swos_net.tcp.tcb import Tcb
from swos_net.tcp.trace import TracedSink


class SegmentSink(Protocol):
    """Where segments go: a `dataplane.batch.Batch`, or a list in a test."""

    def add_tcp(self, seq: int, ack: int, flags: int, window: int, options: bytes = b"", ring=None, position: int = 0,
                length: int = 0, segment_size: int = 0, ecn: int = 0) -> None: ...  # fmt: skip


DUPLICATE_ACKS_MAX = 8  # that go out for one burst


def segments_to_send(tcb: Tcb, now: float, sink: SegmentSink, budget: int) -> bool:
    """Hands at most `budget` segments to `sink`; True when more could go at once."""
    if tcb.trace is not None:
        sink = TracedSink(sink, tcb, now)
    while tcb.replies:
        if budget <= 0:
            return True
        seq, ack, flags = tcb.replies.pop(0)
        window = 0 if flags & RST else min(advertised_window(tcb) >> tcb.rcv_wscale, 65535)
        stamped = not flags & RST or (tcb.timestamps and tcb.config.dialect == "linux")  # RFC 7323 3.2: MAY
        sink.add_tcp(seq, ack, flags, window, segment_options(tcb, now) if stamped else b"")
        if flags & RST:
            tcb.counters["TcpOutRsts"] += 1
        budget -= 1
    state = tcb.state
    if state is State.CLOSED:
        return False
    if budget <= 0:
        return True
    if state is State.SYN_SENT or state is State.SYN_RECEIVED:
        _send_syn(tcb, now, sink)
        return False
    more = False
    if tcb.acks_owed > 1 and not tcb.sack_permitted:
        budget -= _duplicate_acks(tcb, now, sink, budget)
    tcb.acks_owed = 0
    if state in SENDING:
        if tcb.scoreboard.lost_octets and budget > 0 and not tcb.recovery.prefer_new:
            budget = _retransmit(tcb, now, sink, budget)
            more = budget <= 0
        if tcb.loss_probe_wanted and budget > 0:
            tcb.loss_probe_wanted = False
            budget -= _probe_loss(tcb, now, sink)
        if tcb.probe_now and budget > 0:
            tcb.probe_now = False
            budget -= _probe_window(tcb, now, sink)
        data_end = tcb.data_end
        if tcb.snd_nxt < data_end or tcb.fin_wanted:
            more = _send_data(tcb, now, sink, budget, data_end) or more
            if tcb.not_sent_low and tcb.was_full and tcb.writable:
                tcb.was_full = False
                tcb.events.append(Event.WRITABLE)
        recovery = tcb.recovery
        if recovery.prefer_new and tcb.snd_nxt == recovery.recover and budget > 0:
            recovery.prefer_new = False  # RFC 5682 2.1 (2b): there is nothing new to send, or no window for it
            if tcb.scoreboard.lost_octets:
                more = _retransmit(tcb, now, sink, budget) <= 0
    if tcb.ack_now and budget > 0:
        if state is State.CLOSING and tcb.config.dialect == "freebsd" and tcb.snd_nxt > tcb.data_end:
            _emit(tcb, now, sink, tcb.snd_nxt - 1, ACK | FIN)
        else:
            _emit(tcb, now, sink, acceptable_seq(tcb), ACK)
    return more or tcb.probe_now or tcb.ack_now


def acceptable_seq(tcb: Tcb) -> int:
    """The sequence number of a segment without text: after everything sent, but not beyond the peer's window, or the
    peer would not look at it (RFC 9293 3.10.7.4, first)."""
    edge = tcb.snd_una + tcb.snd_wnd
    # a scaled window is rounded down, which may take back what was sent into the last one
    if tcb.snd_nxt <= edge or (tcb.snd_wnd and tcb.snd_nxt - edge < 1 << tcb.snd_wscale):
        return tcb.snd_nxt
    return edge


def _acknowledgment(tcb: Tcb, now: float) -> tuple[int, bytes]:
    """(window field, options): what an ACK says of the receiving side, the same for every segment of one turn."""
    window = advertised_window(tcb) >> tcb.rcv_wscale
    return window if window < 65535 else 65535, segment_options(tcb, now)


def _emit(tcb: Tcb, now: float, sink: SegmentSink, seq: int, flags: int, length: int = 0,
          acknowledgment: tuple[int, bytes] | None = None, ecn: int = 0) -> None:  # fmt: skip
    """One segment of an established connection, with everything an ACK carries."""
    window, options = acknowledgment or _acknowledgment(tcb, now)
    if tcb.ece_wanted:
        flags |= ECE
    tcb.segments_out += 1
    if length:
        tcb.data_segments_out += -(-length // tcb.mss)
        # RFC 6691: what SACK blocks take comes off the payload
        size = tcb.mss + (TIMESTAMPS_LENGTH if tcb.timestamps else 0) - len(options)
        sink.add_tcp(seq, tcb.rcv_nxt, flags, window, options, tcb.send_ring, seq - tcb.send_base, length, size, ecn)
    else:
        sink.add_tcp(seq, tcb.rcv_nxt, flags, window, options, ecn=ecn if tcb.congestion.uses_ecn else 0)
    tcb.last_ack_sent = tcb.rcv_nxt
    tcb.ack_now = False
    tcb.ack_pending = 0
    tcb.dsack = None
    tcb.timers.delayed_ack = None


def _duplicate_acks(tcb: Tcb, now: float, sink: SegmentSink, budget: int) -> int:
    """One for each segment of a burst that lay beyond a gap: a peer without SACK counts them (RFC 5681 3.2, 4.2)."""
    count = min(tcb.acks_owed - 1, DUPLICATE_ACKS_MAX, budget)
    acknowledgment = _acknowledgment(tcb, now)
    for _ in range(count):
        _emit(tcb, now, sink, acceptable_seq(tcb), ACK, 0, acknowledgment)
    tcb.ack_now = True
    return count


def _send_syn(tcb: Tcb, now: float, sink: SegmentSink) -> None:
    if not tcb.syn_wanted:
        if tcb.ack_now and tcb.state is State.SYN_RECEIVED:
            _emit(tcb, now, sink, tcb.snd_nxt, ACK)
        tcb.ack_now = False
        return
    tcb.syn_wanted = False
    window = min(tcb.receive_room, 65535)  # a SYN's window is never scaled (RFC 7323 2.2)
    tcb.rcv_wnd = window
    again = tcb.snd_max > tcb.iss
    if tcb.state is State.SYN_SENT:
        flags = SYN
        # RFC 3168 6.1.1.1: a network that drops a SYN with ECN gets one without
        if (tcb.config.ecn == "on" or tcb.congestion.uses_ecn) and tcb.retransmissions <= tcb.config.ecn_syn_retries:
            flags |= ECE | CWR
        sink.add_tcp(tcb.iss, 0, flags, window, syn_options(tcb, now))
    else:
        flags = SYN | ACK | (ECE if tcb.ecn else 0)
        sink.add_tcp(tcb.iss, tcb.rcv_nxt, flags, window, syn_options(tcb, now))
        tcb.rcv_adv = max(tcb.rcv_adv, tcb.rcv_nxt + window)
        tcb.last_ack_sent = tcb.rcv_nxt
    if again:
        tcb.retransmitted_segments += 1
        tcb.counters["TcpRetransSegs"] += 1
    tcb.last_send = now
    tcb.snd_nxt = tcb.snd_max = tcb.iss + 1
    tcb.ack_now = False
    tcb.timers.retransmission = before_user_timeout(tcb, now + tcb.rtt.rto)


def _retransmit(tcb: Tcb, now: float, sink: SegmentSink, budget: int) -> int:
    """What is given up as lost goes again, the lowest first (RFC 6675 5 (C)); returns the budget left."""
    board = tcb.scoreboard
    recovery = tcb.recovery
    congestion = tcb.congestion
    mss = tcb.mss
    acknowledgment = None
    while budget > 0 and (index := board.first_lost()) >= 0:
        allowance = congestion.cwnd - pipe(tcb)
        if recovery.forced:
            allowance = max(allowance, mss)
        record = board.records[index]
        size = record.end - record.start
        if allowance < min(mss, size):
            return budget
        if size > allowance:
            size = allowance - allowance % mss
        size = min(size, tcb.super_segment)
        room = tcb.snd_una + tcb.snd_wnd - record.start
        if size > room:
            # the peer took back window (RFC 9293 3.8.6): beyond it only the first segment may try
            if room <= 0 and (index or not recovery.forced):
                return budget
            size = min(size, room if room > 0 else mss)
        recovery.forced = False
        record = board.take_lost(index, size, now)
        if acknowledgment is None:
            acknowledgment = _acknowledgment(tcb, now)
        _resend(tcb, now, sink, record, acknowledgment)
        budget -= 1
    return budget


def _resend(tcb: Tcb, now: float, sink: SegmentSink, record: Transmission, acknowledgment: tuple[int, bytes] | None = None) -> None:
    """A record that is marked as sent again goes out."""
    recovery = tcb.recovery
    length = record.end - record.start
    segments = -(-length // tcb.mss)
    flags = ACK
    if record.end > tcb.data_end:
        flags |= FIN
        length -= 1
    if length and record.end >= tcb.data_end and not tcb.more_follows:
        flags |= PSH
    tcb.retransmitted_segments += segments
    tcb.retransmitted_octets += length
    tcb.counters["TcpRetransSegs"] += segments
    if recovery.phase is Phase.RECOVERY or recovery.phase is Phase.CWR:
        recovery.prr_out += length
    if recovery.retransmit_stamp is None:
        recovery.retransmit_stamp = tcb.timestamp(now)
    recovery.stale_retransmissions += segments
    _emit(tcb, now, sink, record.start, flags, length, acknowledgment)
    tcb.last_send = now
    if tcb.timers.retransmission is None or record.start == tcb.snd_una:
        tcb.timers.retransmission = before_user_timeout(tcb, now + tcb.rtt.rto)  # RFC 6298 (5.1); RFC 6675 5, the first anew
        tcb.timers.persist = None


def _probe_loss(tcb: Tcb, now: float, sink: SegmentSink) -> int:
    """RFC 8985 7.3: new data where the windows allow it, else the last segment once more."""
    recovery = tcb.recovery
    recovery.probe_end = tcb.snd_nxt
    recovery.probe_retransmitted = False
    tcb.counters["TcpExtTCPLossProbes"] += 1
    room = min(tcb.data_end - tcb.snd_nxt, tcb.snd_una + tcb.snd_wnd - tcb.snd_nxt, tcb.mss)
    if room > 0:
        _new_data(tcb, now, sink, tcb.snd_nxt, room, ACK | PSH, None)
        recovery.probe_end = tcb.snd_nxt
        return 1
    record = tcb.scoreboard.take_last(tcb.mss, now)
    if record is None:
        recovery.probe_end = None
        return 0
    recovery.probe_retransmitted = True
    _resend(tcb, now, sink, record)
    tcb.timers.retransmission = now + tcb.rtt.rto
    return 1


def _send_data(tcb: Tcb, now: float, sink: SegmentSink, budget: int, data_end: int) -> bool:
    mss = tcb.mss
    snd_una = tcb.snd_una
    snd_nxt = tcb.snd_nxt
    congestion = tcb.congestion
    recovery = tcb.recovery
    in_flight = pipe(tcb)
    if snd_nxt == snd_una and tcb.last_send and now - tcb.last_send > tcb.rtt.rto and tcb.config.slow_start_after_idle:
        congestion.on_idle(now)
    if recovery.phase is Phase.DISORDER:
        in_flight = _limited_transmit(tcb, in_flight)
    usable = congestion.cwnd - in_flight
    window_end = snd_una + tcb.snd_wnd
    acknowledgment = None
    limited = False
    nagle = not tcb.push_now and (tcb.cork or (not tcb.nodelay and tcb.small_until > snd_una))
    tcb.push_now = False
    while budget > 0:
        seq = tcb.snd_nxt
        remaining = data_end - seq
        if remaining <= 0:
            if tcb.fin_wanted and seq == data_end:
                _new_data(tcb, now, sink, seq, 0, FIN | ACK, acknowledgment)
            break
        room = window_end - seq
        length = tcb.super_segment
        if tcb.paced and not (length := min(length, pacing.allowance(tcb, now))):
            break
        if length > remaining:
            length = remaining
        if length > room:
            length = room
        if length > usable:
            length = usable
        if length < remaining:
            if usable < remaining and usable <= room:
                limited = True
            if length >= mss:
                length -= length % mss
            elif length <= 0 or usable < room or length < tcb.max_send_window // 2 or seq > snd_una:
                # RFC 9293 3.8.6.2.1: neither full-sized, nor all there is, nor half the window
                _maybe_persist(tcb, now)
                break
        elif nagle and length % mss and not tcb.fin_wanted:
            # Nagle (3.7.4) as appendix A.3 has it: a small tail waits while another small segment is unacknowledged
            length -= length % mss
            if not length:
                if tcb.cork:
                    _hold_corked(tcb, now)
                break
        if tcb.mtu_probe is not None and mtu_probing.ready(tcb, now, remaining, min(room, usable)):
            length = mtu_probing.begin(tcb)
            _new_data(tcb, now, sink, seq, length, ACK | PSH, acknowledgment, whole=True)
            usable -= length
            budget -= 1
            continue
        if tcb.cwr_wanted and length > mss:
            length = mss  # the mark belongs on one segment
        flags = ACK
        if (length == remaining and not tcb.more_follows) or (length > mss and tcb.config.dialect == "linux"):
            flags |= PSH  # at the end of what was written; on a super-segment so that the peer does not wait for more
        if length == remaining and tcb.fin_wanted:
            flags |= FIN
        if acknowledgment is None:
            acknowledgment = _acknowledgment(tcb, now)
        _new_data(tcb, now, sink, seq, length, flags, acknowledgment)
        usable -= length
        budget -= 1
    if tcb.snd_nxt > snd_nxt:
        tail_loss.schedule(tcb, now)
        if tcb.data_segments_in and now - tcb.last_data_received < tcb.config.delayed_ack:
            # a conversation: our data carries the ACKs
            tcb.quick_acks = 0
            tcb.interactive = True
    if limited or tcb.snd_nxt > snd_nxt:
        note_flight(tcb, limited)
    return budget <= 0 and (tcb.snd_nxt < data_end or (tcb.fin_wanted and tcb.snd_nxt == data_end))


def _limited_transmit(tcb: Tcb, in_flight: int) -> int:
    """Segments that left the network let as many new ones in (RFC 3042: two at most, and only without SACK's knowledge)."""
    if tcb.config.limited_transmit:
        if tcb.sack_permitted:
            return in_flight
        return max(tcb.scoreboard.in_flight - min(tcb.recovery.duplicate_acks, 2) * tcb.mss, 0)
    return tcb.scoreboard.outstanding


def _new_data(tcb: Tcb, now: float, sink: SegmentSink, seq: int, length: int, flags: int,
              acknowledgment: tuple[int, bytes] | None, *, whole: bool = False) -> None:  # fmt: skip
    """Data that goes out for the first time, a FIN with it when `flags` say so."""
    mss = tcb.mss
    if length % mss and not whole:
        tcb.small_until = seq + length
    if tcb.cwr_wanted:
        tcb.cwr_wanted = False
        flags |= CWR  # RFC 3168 6.1.2
    occupied = length + (flags & FIN)
    end = tcb.snd_nxt = seq + occupied
    tcb.scoreboard.sent(seq, end, now)
    if end > tcb.snd_max:
        tcb.snd_max = end
    recovery = tcb.recovery
    if recovery.phase is Phase.RECOVERY or recovery.phase is Phase.CWR:
        recovery.prr_out += occupied
    if tcb.paced:
        pacing.sent(tcb, occupied, now)
    tcb.last_send = now
    timers = tcb.timers
    if timers.retransmission is None:
        timers.retransmission = now + tcb.rtt.rto  # RFC 6298 (5.1)
        timers.persist = None
        tcb.progress_since = now
    if whole:
        # the packet that carries it is larger than those of this connection: it must not be cut
        window, options = acknowledgment or _acknowledgment(tcb, now)
        sink.add_tcp(seq, tcb.rcv_nxt, flags | (ECE if tcb.ece_wanted else 0), window, options, tcb.send_ring, seq - tcb.send_base,
                     length, length, ECT0 if tcb.ecn else 0)  # fmt: skip
        tcb.segments_out += 1
        tcb.data_segments_out += 1
        return
    _emit(tcb, now, sink, seq, flags, length, acknowledgment, ECT0 if tcb.ecn else 0)


def before_user_timeout(tcb: Tcb, deadline: float) -> float:
    """`deadline`, or the end of the user's patience where that comes first (RFC 5482 3)."""
    return min(deadline, tcb.progress_since + tcb.user_timeout) if tcb.user_timeout else deadline


def _maybe_persist(tcb: Tcb, now: float) -> None:
    """Without a retransmission timer nobody else would ever ask again (RFC 9293 3.8.6.1).  Data may be in flight all
    the same: its timer has expired, and the peer has shrunk its window."""
    if tcb.timers.retransmission is None and tcb.timers.persist is None:
        tcb.timers.persist = now + min(tcb.rtt.rto * (1 << min(tcb.persist_backoff, 10)), tcb.config.persist_max)
        tcb.progress_since = now


def _hold_corked(tcb: Tcb, now: float) -> None:
    """A corked tail goes out after a while by itself: the persist timer sends it."""
    if tcb.timers.retransmission is None and tcb.timers.persist is None:
        tcb.timers.persist = now + tcb.rtt.rto


def _probe_window(tcb: Tcb, now: float, sink: SegmentSink) -> int:
    """One octet beyond the window (or a small segment held back too long)."""
    seq = tcb.snd_nxt if tcb.snd_wnd else tcb.snd_una
    length = min(tcb.data_end - seq, max(1, min(tcb.snd_una + tcb.snd_wnd - seq, tcb.mss)))
    if length <= 0:
        return 0
    if tcb.snd_wnd:
        _new_data(tcb, now, sink, seq, length, ACK | PSH, None)
        return 1
    tcb.snd_max = max(tcb.snd_max, seq + length)
    tcb.counters["TcpExtTCPWinProbe"] += 1
    _emit(tcb, now, sink, seq, ACK, length)
    return 1


def reset_segment(tcb: Tcb) -> tuple[int, int, int]:
    """The RST of an abort (RFC 9293 3.10.5)."""
    return (acceptable_seq(tcb), tcb.rcv_nxt, RST | ACK)


def keepalive_segment(tcb: Tcb) -> tuple[int, int, int]:
    """An old sequence number, so that the peer has to answer (RFC 9293 3.8.4)."""
    return (tcb.snd_una - 1, tcb.rcv_nxt, ACK)
