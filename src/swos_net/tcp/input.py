"""SEGMENT ARRIVES (RFC 9293 3.10.7), a function per state, in the order of the RFC's text.

Read first: tcb.py for the variables, seqnum.py for why comparisons are plain.  Also here: RFC 5961 (blind attacks),
RFC 7323 5 (PAWS), RFC 5681 and 6582 (duplicate ACKs).  Not here: what goes out (output.py) and LISTEN (listener.py).
"""

import errno

from swos_net.dataplane.byte_ring import ByteRing
from swos_net.tcp.events import Event
from swos_net.tcp.options import syn_received
from swos_net.tcp.output import acceptable_seq
from swos_net.tcp.segment import ACK, FIN, HAS_TIMESTAMPS, RST, SYN, Segment
from swos_net.tcp.seqnum import MASK, newer_timestamp, unwrap
from swos_net.tcp.state import RECEIVING, State
from swos_net.tcp.tcb import Tcb

DUPLICATE_ACK_THRESHOLD = 3  # RFC 5681 3.2
PAWS_IDLE = 24 * 86400.0  # RFC 7323 5.5
CHALLENGE_ACKS_PER_SECOND = 10  # RFC 5961 7, per connection
REPLIES_MAX = 16  # resets and the like that wait for the link to take them


def segment_arrives(tcb: Tcb, segment: Segment, now: float, ipv4: bool = True) -> None:
    """Takes one segment in; what it means is left in `tcb.events` and the output marks."""
    state = tcb.state
    if state is State.SYN_SENT:
        _syn_sent(tcb, segment, now, ipv4)
    elif state is not State.CLOSED:
        _synchronized(tcb, segment, now)


def _syn_sent(tcb: Tcb, segment: Segment, now: float, ipv4: bool) -> None:
    """3.10.7.3"""
    flags = segment.flags
    ack_acceptable = False
    if flags & ACK:
        ack = unwrap(segment.ack, tcb.snd_nxt)
        if ack <= tcb.iss or ack > tcb.snd_max:
            if not flags & RST:
                _reply(tcb, ack, 0, RST)
            return
        ack_acceptable = True
    if flags & RST:
        if ack_acceptable:
            fail(tcb, errno.ECONNREFUSED)
        return
    if not flags & SYN:
        return
    tcb.irs = segment.seq
    tcb.receive_base = tcb.rcv_nxt = tcb.irs + 1
    tcb.rcv_adv = tcb.rcv_nxt + min(tcb.receive_room, 65535)  # what our SYN said
    tcb.last_ack_sent = tcb.rcv_nxt
    syn_received(tcb, segment.option_bytes, ipv4, now)
    tcb.last_received = now
    tcb.snd_wnd = segment.window  # a SYN's window is never scaled (RFC 7323 2.2)
    tcb.snd_wl1 = segment.seq
    tcb.max_send_window = tcb.snd_wnd
    if not ack_acceptable:
        # simultaneous open: our SYN goes again, now with ACK
        tcb.state = State.SYN_RECEIVED
        tcb.snd_nxt = tcb.iss
        return
    tcb.snd_una = tcb.snd_wl2 = ack
    if tcb.timed_seq is not None:
        tcb.rtt.measured(now - tcb.timed_since)
        tcb.timed_seq = None
    _become_established(tcb, now)
    tcb.ack_now = True
    if segment.length or flags & FIN:
        segment.seq = (segment.seq + 1) & MASK
        _process_text(tcb, segment, tcb.rcv_nxt, now)
        _process_fin(tcb, segment, tcb.receive_base, now)


def _become_established(tcb: Tcb, now: float) -> None:
    tcb.state = State.ESTABLISHED
    tcb.snd_nxt = tcb.snd_max  # our SYN may have been about to go again
    tcb.retransmissions = 0
    tcb.timers.retransmission = None
    if tcb.fin_wanted:
        tcb.state = State.FIN_WAIT_1  # 3.10.4: a CLOSE that came in SYN-RECEIVED was queued
    if tcb.keepalive_on:
        tcb.timers.keepalive = now + tcb.config.keepalive_idle
    tcb.events.append(Event.CONNECTED)


def _synchronized(tcb: Tcb, segment: Segment, now: float) -> None:
    """3.10.7.4: SYN-RECEIVED and all states after it."""
    flags = segment.flags
    rcv_nxt = tcb.rcv_nxt
    seq = unwrap(segment.seq, rcv_nxt)
    length = segment.length

    # RFC 7323 5.3 R1: PAWS comes before the window check
    stamped = tcb.timestamps and segment.options_present & HAS_TIMESTAMPS
    if stamped and newer_timestamp(tcb.ts_recent, segment.ts_val) and not flags & RST:
        if now - tcb.ts_recent_age < PAWS_IDLE:
            _refuse(tcb, length or flags & FIN, now)
            return
    if flags & SYN:
        if tcb.state is State.TIME_WAIT and not flags & (ACK | RST):
            # RFC 9293 3.6.1 (MAY-2), RFC 6191 2: beyond the old stream, or later by its timestamp, it opens anew
            if seq > rcv_nxt or (stamped and segment.ts_val != tcb.ts_recent):
                tcb.state = State.CLOSED
                tcb.timers.cancel_all()
                tcb.events.append(Event.REOPEN)
                return
        elif tcb.state is State.SYN_RECEIVED and flags & (ACK | RST | FIN) == ACK and seq == tcb.irs and not length:
            # 3.5, figure 8, line 6: the peer's SYN of a simultaneous open again; what is new is its ACK
            flags = ACK
            seq += 1

    # first, check sequence number
    occupied = length + (1 if flags & FIN else 0) + (1 if flags & SYN else 0)
    window = tcb.rcv_adv - rcv_nxt
    if occupied == 0:
        acceptable = seq == rcv_nxt if window <= 0 else rcv_nxt <= seq < rcv_nxt + window
    else:
        acceptable = window > 0 and seq < rcv_nxt + window and seq + occupied > rcv_nxt
        if window <= 0 and seq == rcv_nxt and not flags & RST:
            acceptable = True  # "special allowance": its ACK counts, its text is cut to nothing
    if not acceptable:
        _unacceptable(tcb, segment, seq, now)
        return

    # second, check the RST bit (with RFC 5961 3.2)
    if flags & RST:
        if seq == rcv_nxt:
            _reset_arrived(tcb)
        else:
            _challenge(tcb, now)
        return
    # fourth, check the SYN bit (RFC 5961 4.2)
    if flags & SYN:
        _challenge(tcb, now)
        return
    # fifth, check the ACK field
    if not flags & ACK:
        return
    ack = unwrap(segment.ack, tcb.snd_una)
    if tcb.state is State.SYN_RECEIVED:
        if not tcb.snd_una < ack <= tcb.snd_max:
            _reply(tcb, ack, 0, RST)
            return
        if tcb.may_complete is not None and not tcb.may_complete():
            return  # the handshake stays open; our SYN,ACK, sent again, brings the ACK again
        tcb.snd_wnd = segment.window << tcb.snd_wscale
        tcb.snd_wl1 = seq
        tcb.snd_wl2 = ack
        tcb.max_send_window = tcb.snd_wnd
        tcb.snd_una = ack
        if tcb.timed_seq is not None:
            tcb.rtt.measured(now - tcb.timed_since)
            tcb.timed_seq = None
        _become_established(tcb, now)
    if ack > tcb.snd_max or ack < tcb.snd_una - max(tcb.max_send_window, 65535):
        _challenge(tcb, now)  # RFC 5961 5.2
        return
    if stamped and seq <= tcb.last_ack_sent:
        # RFC 7323 4.3 (2), after every check (5.3 R3): a forged segment must not make PAWS refuse the true ones
        tcb.ts_recent = segment.ts_val
        tcb.ts_recent_age = now
    tcb.last_received = now
    tcb.keepalive_probes = 0
    _process_ack(tcb, segment, seq, ack, now)
    if tcb.state is State.CLOSED:
        return
    # sixth, the URG bit: bounded by being ignored; urgent data stays in the stream (RFC 6093 3.1)
    # seventh, process the segment text
    if length:
        _process_text(tcb, segment, seq, now)
    # eighth, check the FIN bit
    if (flags & FIN or tcb.fin_seq is not None) and tcb.state is not State.CLOSED:
        _process_fin(tcb, segment, seq, now)


def _unacceptable(tcb: Tcb, segment: Segment, seq: int, now: float) -> None:
    flags = segment.flags
    if flags & RST:
        return
    if tcb.state is State.TIME_WAIT:
        tcb.timers.time_wait = now + tcb.config.time_wait
    if tcb.state is State.SYN_RECEIVED and flags & SYN and seq == tcb.irs:
        tcb.snd_nxt = tcb.iss  # the peer did not see our SYN,ACK
        return
    if flags & SYN:
        _challenge(tcb, now)
        return
    _refuse(tcb, segment.length or flags & FIN, now)


def _refuse(tcb: Tcb, occupied: int, now: float) -> None:
    """Answers a segment that was not acceptable: one that may be a retransmission always, a mere ACK within limits, or
    two ends that disagree would answer each other for ever (RFC 5961 7)."""
    if occupied:
        tcb.ack_now = True
    else:
        _challenge(tcb, now)


def _reply(tcb: Tcb, seq: int, ack: int, flags: int) -> None:
    if len(tcb.replies) < REPLIES_MAX:
        tcb.replies.append((seq, ack, flags))


def _challenge(tcb: Tcb, now: float) -> None:
    """A challenge ACK, at most so many each second (RFC 5961 7)."""
    second = int(now)
    if second != tcb.challenge_second:
        tcb.challenge_second = second
        tcb.challenge_credit = CHALLENGE_ACKS_PER_SECOND
    if tcb.challenge_credit > 0:
        tcb.challenge_credit -= 1
        tcb.ack_now = True


def _reset_arrived(tcb: Tcb) -> None:
    if tcb.state is State.SYN_RECEIVED:
        fail(tcb, errno.ECONNREFUSED)
    elif tcb.state in (State.CLOSING, State.LAST_ACK, State.TIME_WAIT):
        closed(tcb)
    else:
        fail(tcb, errno.EPIPE if tcb.state is State.CLOSE_WAIT else errno.ECONNRESET)


def fail(tcb: Tcb, code: int) -> None:
    """The connection ends with an error; what was received stays readable."""
    tcb.error = code
    tcb.events.append(Event.FAILED)
    closed(tcb)


def closed(tcb: Tcb) -> None:
    tcb.state = State.CLOSED
    tcb.timers.cancel_all()
    tcb.send_ring = None
    tcb.ack_now = False
    tcb.events.append(Event.CLOSED)


def _process_ack(tcb: Tcb, segment: Segment, seq: int, ack: int, now: float) -> None:
    snd_una = tcb.snd_una
    if ack > snd_una:
        _acknowledged(tcb, segment, ack, now)
    elif ack == snd_una and tcb.snd_max > snd_una and not segment.length and not segment.flags & FIN and (
        segment.window << tcb.snd_wscale == tcb.snd_wnd and tcb.timers.persist is None
    ):
        _duplicate_ack(tcb, now)  # RFC 5681 2, "duplicate acknowledgment"; the answer to a window probe says nothing of loss
    # the send window, unless the segment is older than the last one used
    if tcb.snd_wl1 < seq or (tcb.snd_wl1 == seq and tcb.snd_wl2 <= ack):
        window = segment.window << tcb.snd_wscale
        if window and not tcb.snd_wnd:
            tcb.timers.persist = None
            tcb.persist_backoff = 0
        tcb.snd_wnd = window
        tcb.snd_wl1 = seq
        tcb.snd_wl2 = ack
        if window > tcb.max_send_window:
            tcb.max_send_window = window
    if tcb.timers.persist is not None and not tcb.orphan:
        # RFC 9293 3.8.6.1: a peer that answers probes may keep its window shut for ever, while the user does not mind
        tcb.retransmissions = 0


def _acknowledged(tcb: Tcb, segment: Segment, ack: int, now: float) -> None:
    acked = ack - tcb.snd_una
    tcb.snd_una = ack
    if tcb.snd_nxt < ack:
        tcb.snd_nxt = ack
    data_end = tcb.data_end
    ring = tcb.send_ring
    if ring is not None:
        consumed = min(ack, data_end) - tcb.send_base - ring.head
        if consumed > 0:
            ring.consume(consumed)
            # a writer that had to wait is woken for a worthwhile step, not for every ACK
            if tcb.was_full and ring.room >= ring.capacity // 4:
                tcb.was_full = False
                tcb.events.append(Event.WRITABLE)
    if tcb.timed_seq is not None and ack > tcb.timed_seq:
        tcb.rtt.measured(now - tcb.timed_since)
        tcb.timed_seq = None
    elif tcb.rtt.backoff and tcb.timestamps and segment.options_present & HAS_TIMESTAMPS and segment.ts_ecr:
        # RFC 7323 4.1: an echoed timestamp is a sample even for data sent twice
        tcb.rtt.measured(max(((tcb.timestamp(now) - segment.ts_ecr) & MASK) / 1000, 0.001))
    tcb.retransmissions = 0
    tcb.duplicate_acks = 0
    if tcb.recovering:
        if ack >= tcb.recover:
            tcb.recovering = False  # RFC 6582 3.2 (3), full acknowledgment
            tcb.congestion.cwnd = min(tcb.congestion.ssthresh, max(tcb.snd_max - ack, tcb.mss) + tcb.mss)
        else:
            tcb.retransmit_one = True  # partial acknowledgment
            congestion = tcb.congestion
            congestion.cwnd = max(congestion.cwnd - acked, 0) + tcb.mss
    else:
        tcb.congestion.on_ack(acked, tcb.snd_max - ack, now, tcb.rtt.srtt)
    if ack == tcb.snd_max:
        tcb.timers.retransmission = None  # RFC 6298 (5.2)
    else:
        tcb.timers.retransmission = now + tcb.rtt.rto  # (5.3)
    state = tcb.state
    if ack > data_end and tcb.fin_wanted and state in _FIN_ACKNOWLEDGED:
        tcb.send_ring = None  # nothing of it will be sent again, and TIME-WAIT is long
        _FIN_ACKNOWLEDGED[state](tcb, now)


def _to_fin_wait_2(tcb: Tcb, now: float) -> None:
    tcb.state = State.FIN_WAIT_2
    if tcb.orphan:
        tcb.timers.time_wait = now + tcb.config.fin_wait_2


def to_time_wait(tcb: Tcb, now: float) -> None:
    tcb.state = State.TIME_WAIT
    tcb.timers.cancel_all()
    tcb.timers.time_wait = now + tcb.config.time_wait
    if tcb.receive_ring is not None and not len(tcb.receive_ring):
        tcb.receive_ring = None


_FIN_ACKNOWLEDGED = {
    State.FIN_WAIT_1: _to_fin_wait_2,
    State.CLOSING: to_time_wait,
    State.LAST_ACK: lambda tcb, now: closed(tcb),
}


def _duplicate_ack(tcb: Tcb, now: float) -> None:
    """RFC 5681 3.2 with RFC 6582."""
    tcb.duplicate_acks += 1
    if tcb.recovering:
        tcb.congestion.cwnd += tcb.mss
    elif tcb.duplicate_acks == DUPLICATE_ACK_THRESHOLD and tcb.snd_una > tcb.recover:
        tcb.congestion.on_loss(tcb.snd_max - tcb.snd_una, now)
        tcb.congestion.cwnd += DUPLICATE_ACK_THRESHOLD * tcb.mss
        tcb.recovering = True
        tcb.recover = tcb.snd_max
        tcb.retransmit_one = True
        tcb.timed_seq = None


def _process_text(tcb: Tcb, segment: Segment, seq: int, now: float) -> None:
    if tcb.state not in RECEIVING:
        return  # 3.10.7.4: "this should not occur": after a FIN there is no text
    rcv_nxt = tcb.rcv_nxt
    length = segment.length
    if length > tcb.rcv_mss:
        tcb.rcv_mss = min(length, tcb.rcv_mss_max)
    end = seq + length
    if tcb.fin_seq is not None:
        end = min(end, tcb.fin_seq)
    skip = rcv_nxt - seq if seq < rcv_nxt else 0
    end = min(end, tcb.rcv_adv)
    take = end - seq - skip
    if take <= 0:
        tcb.ack_now = True
        return
    if tcb.receive_shut and tcb.orphan:
        # RFC 1122 4.2.2.13: data for a user who has gone is answered with a reset
        _reply(tcb, acceptable_seq(tcb), tcb.rcv_nxt, RST | ACK)
        fail(tcb, errno.ECONNRESET)
        return
    ring = tcb.receive_ring
    if ring is None:
        ring = tcb.receive_ring = ByteRing(tcb.receive_buffer)
    if seq + skip == rcv_nxt and not tcb.out_of_order:
        taken = segment.payload.append_to(ring, skip, take)
        tcb.rcv_nxt = rcv_nxt = rcv_nxt + taken
        tcb.ack_pending += taken
        if taken < take:
            tcb.ack_now = True
    else:
        start = seq + skip
        if not tcb.out_of_order.add(start, end):
            tcb.ack_now = True
            return
        tcb.last_out_of_order = start
        segment.payload.store_in(ring, start - tcb.receive_base, skip, take)
        tcb.ack_now = True  # RFC 5681 4.2: at once, for a gap and for what fills one
        in_order = tcb.out_of_order.take_from(rcv_nxt)
        if in_order == rcv_nxt:
            return
        ring.advance(in_order - rcv_nxt)
        tcb.rcv_nxt = in_order
    if tcb.receive_shut:
        ring.consume(len(ring))
    tcb.events.append(Event.READABLE)
    if tcb.ack_pending >= 2 * tcb.rcv_mss:
        tcb.ack_now = True  # RFC 9293 3.8.6.3: at least every second full-sized segment
    elif tcb.timers.delayed_ack is None and not tcb.ack_now:
        tcb.timers.delayed_ack = now + tcb.config.delayed_ack


def _process_fin(tcb: Tcb, segment: Segment, seq: int, now: float) -> None:
    if segment.flags & FIN and tcb.fin_seq is None and not tcb.fin_received:
        end = seq + segment.length
        if end <= tcb.rcv_adv:
            tcb.fin_seq = end
    if tcb.fin_received:
        if segment.flags & FIN:
            tcb.ack_now = True
            if tcb.state is State.TIME_WAIT:
                tcb.timers.time_wait = now + tcb.config.time_wait
        return
    if tcb.fin_seq is None or tcb.fin_seq != tcb.rcv_nxt:
        return
    tcb.fin_received = True
    tcb.rcv_nxt += 1
    tcb.rcv_adv = max(tcb.rcv_adv, tcb.rcv_nxt)
    tcb.ack_now = True
    tcb.events.append(Event.PEER_CLOSED)
    state = tcb.state
    if state is State.ESTABLISHED or state is State.SYN_RECEIVED:
        tcb.state = State.CLOSE_WAIT
    elif state is State.FIN_WAIT_1:
        # our FIN's acknowledgment, had it come, would have been handled above
        tcb.state = State.CLOSING
    elif state is State.FIN_WAIT_2:
        to_time_wait(tcb, now)
