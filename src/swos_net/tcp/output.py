"""What to send now: segmentation, Nagle, silly-window avoidance, ACKs, window updates, probes (RFC 9293 3.8, 3.10).

Read first: tcb.py.  One function, `segments_to_send`, is asked by the layer that owns the link; nothing here waits.
"""

from typing import Protocol

from swos_net.tcp.options import TIMESTAMPS_LENGTH, segment_options, syn_options
from swos_net.tcp.segment import ACK, FIN, PSH, RST, SYN
from swos_net.tcp.state import SENDING, State
from swos_net.tcp.tcb import Tcb


class SegmentSink(Protocol):
    """Where segments go: a `dataplane.batch.Batch`, or a list in a test."""

    def add_tcp(self, seq: int, ack: int, flags: int, window: int, options: bytes = b"", ring=None, position: int = 0,
                length: int = 0, segment_size: int = 0, ecn: int = 0) -> None: ...  # fmt: skip


def segments_to_send(tcb: Tcb, now: float, sink: SegmentSink, budget: int) -> bool:
    """Hands at most `budget` segments to `sink`; True when more could go at once."""
    while tcb.replies:
        if budget <= 0:
            return True
        seq, ack, flags = tcb.replies.pop(0)
        window = 0 if flags & RST else min(advertised_window(tcb) >> tcb.rcv_wscale, 65535)
        sink.add_tcp(seq, ack, flags, window, b"" if flags & RST else segment_options(tcb, now))
        budget -= 1
    state = tcb.state
    if state is State.CLOSED:
        return False
    if budget <= 0:
        return True
    if state is State.SYN_SENT or state is State.SYN_RECEIVED:
        _send_syn(tcb, now, sink)
        return False
    if tcb.retransmit_one:
        tcb.retransmit_one = False
        budget -= _retransmit_first(tcb, now, sink)
    if tcb.probe_now and budget > 0:
        tcb.probe_now = False
        budget -= _probe_window(tcb, now, sink)
    more = False
    if state in SENDING and (tcb.snd_nxt < tcb.data_end or tcb.fin_wanted):
        more = _send_data(tcb, now, sink, budget)
    if tcb.ack_now:
        _emit(tcb, now, sink, acceptable_seq(tcb), ACK)
    return more or tcb.probe_now


def acceptable_seq(tcb: Tcb) -> int:
    """The sequence number of a segment without text: after everything sent, but not beyond the peer's window, or the
    peer would not look at it (RFC 9293 3.10.7.4, first)."""
    edge = tcb.snd_una + tcb.snd_wnd
    # a scaled window is rounded down, which may take back what was sent into the last one
    if tcb.snd_max <= edge or (tcb.snd_wnd and tcb.snd_max - edge < 1 << tcb.snd_wscale):
        return tcb.snd_max
    return edge


def advertised_window(tcb: Tcb) -> int:
    """The window field, unscaled bytes; moves `rcv_adv` right by worthwhile steps only (RFC 9293 3.8.6.2.2)."""
    edge = tcb.rcv_nxt + tcb.receive_room
    if edge - tcb.rcv_adv >= min(tcb.receive_buffer // 2, tcb.rcv_mss):
        tcb.rcv_adv = edge
    return max(tcb.rcv_adv - tcb.rcv_nxt, 0)


def _acknowledgment(tcb: Tcb, now: float) -> tuple[int, bytes]:
    """(window field, options): what an ACK says of the receiving side, the same for every segment of one turn."""
    return min(advertised_window(tcb) >> tcb.rcv_wscale, 65535), segment_options(tcb, now)


def _emit(tcb: Tcb, now: float, sink: SegmentSink, seq: int, flags: int, length: int = 0,
          acknowledgment: tuple[int, bytes] | None = None) -> None:  # fmt: skip
    """One segment of an established connection, with everything an ACK carries."""
    window, options = acknowledgment or _acknowledgment(tcb, now)
    if length:
        # RFC 6691: what SACK blocks take comes off the payload
        size = tcb.mss + (TIMESTAMPS_LENGTH if tcb.timestamps else 0) - len(options)
        sink.add_tcp(seq, tcb.rcv_nxt, flags, window, options, tcb.send_ring, seq - tcb.send_base, length, size)
    else:
        sink.add_tcp(seq, tcb.rcv_nxt, flags, window, options)
    tcb.last_ack_sent = tcb.rcv_nxt
    tcb.ack_now = False
    tcb.ack_pending = 0
    tcb.timers.delayed_ack = None


def _send_syn(tcb: Tcb, now: float, sink: SegmentSink) -> None:
    if tcb.snd_nxt != tcb.iss:
        if tcb.ack_now and tcb.state is State.SYN_RECEIVED:
            _emit(tcb, now, sink, tcb.snd_nxt, ACK)
        tcb.ack_now = False
        return
    window = min(tcb.receive_room, 65535)  # a SYN's window is never scaled (RFC 7323 2.2)
    if tcb.state is State.SYN_SENT:
        sink.add_tcp(tcb.iss, 0, SYN, window, syn_options(tcb, now))
    else:
        sink.add_tcp(tcb.iss, tcb.rcv_nxt, SYN | ACK, window, syn_options(tcb, now))
        tcb.rcv_adv = max(tcb.rcv_adv, tcb.rcv_nxt + window)
        tcb.last_ack_sent = tcb.rcv_nxt
    if tcb.snd_max == tcb.iss:
        tcb.timed_seq = tcb.iss
        tcb.timed_since = now
    else:
        tcb.timed_seq = None  # Karn
    tcb.snd_nxt = tcb.snd_max = tcb.iss + 1
    tcb.ack_now = False
    tcb.timers.retransmission = now + tcb.rtt.rto


def _send_data(tcb: Tcb, now: float, sink: SegmentSink, budget: int) -> bool:
    mss = tcb.mss
    data_end = tcb.data_end
    snd_una = tcb.snd_una
    if tcb.snd_max == snd_una and now - tcb.last_send > tcb.rtt.rto and tcb.last_send:
        tcb.congestion.on_idle(now)
    cwnd = tcb.congestion.cwnd
    if not tcb.recovering and tcb.duplicate_acks:
        cwnd += min(tcb.duplicate_acks, 2) * mss  # RFC 3042: limited transmit
    limit = snd_una + min(tcb.snd_wnd, cwnd)
    acknowledgment = None
    nagle = tcb.cork or (not tcb.nodelay and tcb.small_until > snd_una)
    while budget > 0:
        seq = tcb.snd_nxt
        remaining = data_end - seq
        if remaining <= 0:
            if tcb.fin_wanted and seq == data_end:
                _sent(tcb, now, seq, 1)
                _emit(tcb, now, sink, seq, FIN | ACK)
            return False
        usable = limit - seq
        length = min(remaining, usable, tcb.super_segment)
        if length <= 0:
            _maybe_persist(tcb, now)
            return False
        if length < remaining:
            if length >= mss:
                length -= length % mss
            elif length < tcb.max_send_window // 2 or tcb.snd_max > snd_una:
                # RFC 9293 3.8.6.2.1: neither full-sized, nor all there is, nor half the window
                _maybe_persist(tcb, now)
                return False
        elif nagle and length % mss and seq == tcb.snd_max and not tcb.fin_wanted:
            # Nagle (3.7.4) as appendix A.3 has it: a small tail waits while another small segment is unacknowledged
            length -= length % mss
            if not length:
                return False
        if length % mss:
            tcb.small_until = seq + length
        flags = ACK
        fin = 0
        if length == remaining:
            flags |= PSH
            if tcb.fin_wanted:
                flags |= FIN
                fin = 1
        _sent(tcb, now, seq, length + fin)
        if acknowledgment is None:
            acknowledgment = _acknowledgment(tcb, now)
        _emit(tcb, now, sink, seq, flags, length, acknowledgment)
        budget -= 1
    return tcb.snd_nxt < data_end or (tcb.fin_wanted and tcb.snd_nxt == data_end)


def _sent(tcb: Tcb, now: float, seq: int, occupied: int) -> None:
    """Accounts for sequence space that goes out at `seq`."""
    if seq == tcb.snd_max:
        if tcb.timed_seq is None:
            tcb.timed_seq = seq
            tcb.timed_since = now
    else:
        tcb.retransmitted_segments += 1
        tcb.timed_seq = None
    tcb.snd_nxt = seq + occupied
    if tcb.snd_nxt > tcb.snd_max:
        tcb.snd_max = tcb.snd_nxt
    tcb.last_send = now
    if tcb.timers.retransmission is None:
        tcb.timers.retransmission = now + tcb.rtt.rto  # RFC 6298 (5.1)
        tcb.timers.persist = None


def _retransmit_first(tcb: Tcb, now: float, sink: SegmentSink) -> int:
    """The segment at snd_una again, without touching snd_nxt (RFC 5681 3.2 step 2)."""
    seq = tcb.snd_una
    if seq >= tcb.snd_max:
        return 0
    length = min(tcb.data_end - seq, tcb.snd_max - seq, tcb.mss)  # not what Nagle or the window still holds back
    fin = FIN if tcb.fin_wanted and seq + length == tcb.data_end and tcb.snd_max > tcb.data_end else 0
    tcb.retransmitted_segments += 1
    tcb.timed_seq = None
    _emit(tcb, now, sink, seq, ACK | fin, length)
    tcb.timers.retransmission = now + tcb.rtt.rto
    return 1


def _maybe_persist(tcb: Tcb, now: float) -> None:
    """Without a retransmission timer nobody else would ever ask again (RFC 9293 3.8.6.1).  Data may be in flight all
    the same: its timer has expired, and the peer has shrunk its window."""
    if tcb.timers.retransmission is None and tcb.timers.persist is None:
        tcb.timers.persist = now + min(tcb.rtt.rto * (1 << min(tcb.persist_backoff, 10)), tcb.config.persist_max)


def _probe_window(tcb: Tcb, now: float, sink: SegmentSink) -> int:
    """One octet beyond the window (or a small segment held back too long)."""
    seq = tcb.snd_una
    length = min(tcb.data_end - seq, max(1, min(tcb.snd_wnd, tcb.mss)))
    if length <= 0:
        return 0
    tcb.snd_max = max(tcb.snd_max, seq + length)
    if tcb.snd_wnd:
        tcb.snd_nxt = max(tcb.snd_nxt, seq + length)
    tcb.timed_seq = None
    _emit(tcb, now, sink, seq, ACK, length)
    return 1


def reset_segment(tcb: Tcb) -> tuple[int, int, int]:
    """The RST of an abort (RFC 9293 3.10.5)."""
    return (acceptable_seq(tcb), tcb.rcv_nxt, RST | ACK)


def keepalive_segment(tcb: Tcb) -> tuple[int, int, int]:
    """An old sequence number, so that the peer has to answer (RFC 9293 3.8.4)."""
    return (tcb.snd_una - 1, tcb.rcv_nxt, ACK)
