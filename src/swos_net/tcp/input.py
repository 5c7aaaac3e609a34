"""SEGMENT ARRIVES (RFC 9293 3.10.7), a function per state, in the order of the RFC's text.

Read first: tcb.py for the variables, seqnum.py for why comparisons are plain.  Also here: RFC 5961 (blind attacks),
RFC 7323 5 (PAWS).  Not here: the short way of most segments (prediction.py), the ACK field (acknowledgment.py), text and
FIN (text.py), what goes out (output.py) and LISTEN (listener.py).
"""

import errno

from swos_net.tcp.acknowledgment import process_ack
from swos_net.tcp.events import Event
from swos_net.tcp.lifecycle import become_established, closed, fail
from swos_net.tcp.options import syn_received
from swos_net.tcp.output import acceptable_seq
from swos_net.tcp.prediction import expected
from swos_net.tcp.receive_window import right_edge
from swos_net.tcp.segment import ACK, FIN, HAS_TIMESTAMPS, RST, SYN, Segment
from swos_net.tcp.seqnum import MASK, newer_timestamp, unwrap
from swos_net.tcp.state import State
from swos_net.tcp.tcb import Tcb
from swos_net.tcp.text import deliver_early_text, keep_early_text, process_fin, process_text, report_duplicate

PAWS_IDLE = 24 * 86400.0  # RFC 7323 5.5
REPLIES_MAX = 16  # resets and the like that wait for the link to take them


def segment_arrives(tcb: Tcb, segment: Segment, now: float, ipv4: bool = True) -> None:
    """Takes one segment in; what it means is left in `tcb.events` and the output marks."""
    tcb.segments_in += 1
    if tcb.trace is not None:
        tcb.trace("received", now, tcb, segment)
    if expected(tcb, segment, now):
        return
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
    if not flags & SYN or (flags & FIN and tcb.config.drop_syn_fin):
        return
    tcb.irs = segment.seq
    tcb.receive_base = tcb.rcv_nxt = tcb.irs + 1
    tcb.rcv_adv = tcb.rcv_nxt + min(tcb.receive_room, 65535)  # what our SYN said
    tcb.last_ack_sent = tcb.rcv_nxt
    syn_received(tcb, segment, ipv4, now)
    tcb.last_received = now
    tcb.snd_wnd = segment.window  # a SYN's window is never scaled (RFC 7323 2.2)
    tcb.snd_wl1 = segment.seq
    tcb.max_send_window = tcb.snd_wnd
    if not ack_acceptable:
        # simultaneous open: our SYN goes again, now with ACK
        tcb.state = State.SYN_RECEIVED
        tcb.syn_wanted = True
        if segment.length:
            keep_early_text(tcb, segment, tcb.rcv_nxt)
        return
    tcb.snd_una = tcb.snd_wl2 = ack
    _measure_handshake(tcb, segment, now)
    become_established(tcb, now)
    tcb.ack_now = True
    if segment.length or flags & FIN:
        segment.seq = (segment.seq + 1) & MASK
        process_text(tcb, segment, tcb.rcv_nxt, now)
        process_fin(tcb, segment, tcb.receive_base, now)


def _measure_handshake(tcb: Tcb, segment: Segment, now: float) -> None:
    """The round trip of our SYN: sent once (Karn), or told apart by its timestamp."""
    if tcb.timers.retransmission is None:
        return  # a cookie: nobody knows when it went out
    if not tcb.retransmitted_segments:
        tcb.rtt.measured(now - tcb.last_send, tcb.snd_una, tcb.snd_nxt)
    elif tcb.timestamps and segment.options_present & HAS_TIMESTAMPS and segment.ts_ecr:
        tcb.rtt.measured(max(((tcb.timestamp(now) - segment.ts_ecr) & MASK) / 1000, 0.001), tcb.snd_una, tcb.snd_nxt)


def _defer(tcb: Tcb, segment: Segment, now: float) -> None:
    """TCP_DEFER_ACCEPT: the ACK of our SYN,ACK counts when text comes with it; the last call is the SYN,ACK again."""
    if not tcb.deferring:
        tcb.deferring = True
        _measure_handshake(tcb, segment, now)
        tcb.timers.retransmission = tcb.defer_until
    tcb.counters["TcpExtTCPDeferAcceptDrop"] += 1


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
            tcb.counters["TcpExtPAWSEstab"] += 1
            _refuse(tcb, length or flags & FIN, now)
            return
    if flags & SYN:
        if flags & FIN and tcb.config.drop_syn_fin:
            return
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
    if tcb.state is State.TIME_WAIT and not flags & ACK and tcb.config.dialect == "freebsd":
        return

    # first, check sequence number
    occupied = length + (1 if flags & FIN else 0) + (1 if flags & SYN else 0)
    window = right_edge(tcb) - rcv_nxt
    if occupied == 0:
        acceptable = seq == rcv_nxt if window <= 0 else rcv_nxt <= seq < rcv_nxt + window
    else:
        acceptable = window > 0 and seq < rcv_nxt + window and seq + occupied > rcv_nxt
        if window <= 0 and seq == rcv_nxt and not flags & RST:
            acceptable = True  # "special allowance": its ACK counts, its text is cut to nothing
    if not acceptable:
        if stamped and occupied and seq + occupied == rcv_nxt:
            # all of it came before: the answer echoes this transmission's timestamp, or the peer would measure from the first
            tcb.ts_recent = segment.ts_val
            tcb.ts_recent_age = now
        _unacceptable(tcb, segment, seq, now)
        return

    # second, check the RST bit (with RFC 5961 3.2)
    if flags & RST:
        if tcb.state is State.TIME_WAIT and tcb.config.ignore_reset_in_time_wait:
            return  # RFC 1337 3, fix F1
        if seq == rcv_nxt or tcb.config.reset_in_window:
            _reset_arrived(tcb)
        else:
            _challenge(tcb, now)
        return
    # fourth, check the SYN bit (RFC 5961 4.2)
    if flags & SYN:
        if tcb.config.syn_in_window and tcb.state is not State.TIME_WAIT:
            _reply(tcb, acceptable_seq(tcb), tcb.rcv_nxt, RST | ACK)
            fail(tcb, errno.ECONNRESET)
            return
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
        if tcb.defer_until is not None and not occupied and now < tcb.defer_until:
            _defer(tcb, segment, now)
            return
        if tcb.may_complete is not None and not tcb.may_complete():
            return  # the handshake stays open; our SYN,ACK, sent again, brings the ACK again
        tcb.snd_wnd = segment.window << tcb.snd_wscale
        tcb.snd_wl1 = seq
        tcb.snd_wl2 = ack
        tcb.max_send_window = tcb.snd_wnd
        tcb.snd_una = ack
        if tcb.rtt.srtt is None:
            _measure_handshake(tcb, segment, now)
        become_established(tcb, now)
        if tcb.out_of_order:
            deliver_early_text(tcb, now)
            rcv_nxt = tcb.rcv_nxt
    if ack > tcb.snd_max or ack < tcb.snd_una - max(tcb.max_send_window, 65535):
        _challenge(tcb, now)  # RFC 5961 5.2
        return
    if stamped and seq <= tcb.last_ack_sent:
        # RFC 7323 4.3 (2), after every check (5.3 R3): a forged segment must not make PAWS refuse the true ones
        tcb.ts_recent = segment.ts_val
        tcb.ts_recent_age = now
    tcb.last_received = now
    tcb.keepalive_probes = 0
    process_ack(tcb, segment, seq, ack, now)
    if tcb.state is State.CLOSED:
        return
    if tcb.state is State.TIME_WAIT and seq != rcv_nxt:
        _challenge(tcb, now)  # whoever sent it has not seen that both have closed
    # sixth, the URG bit: bounded by being ignored; urgent data stays in the stream (RFC 6093 3.1)
    # seventh, process the segment text
    if length:
        process_text(tcb, segment, seq, now)
    # eighth, check the FIN bit
    if (flags & FIN or tcb.fin_seq is not None) and tcb.state is not State.CLOSED:
        process_fin(tcb, segment, seq, now)


def _unacceptable(tcb: Tcb, segment: Segment, seq: int, now: float) -> None:
    flags = segment.flags
    if flags & RST:
        return
    if tcb.state is State.TIME_WAIT:
        tcb.timers.time_wait = now + tcb.config.time_wait
    if tcb.state is State.SYN_RECEIVED and flags & SYN and seq == tcb.irs:
        tcb.syn_wanted = True  # the peer did not see our SYN,ACK
        if tcb.timestamps and segment.options_present & HAS_TIMESTAMPS:
            tcb.ts_recent = segment.ts_val  # or the peer would measure from its first SYN
        return
    if flags & SYN:
        _challenge(tcb, now)
        return
    if segment.length and seq < tcb.rcv_nxt:
        report_duplicate(tcb, seq, min(seq + segment.length, tcb.rcv_nxt))
    if flags & FIN and tcb.state is State.CLOSING and tcb.config.dialect == "freebsd":
        # who repeats its FIN with every ACK (output.py) has to take the peer's ACKs in that form
        ack = unwrap(segment.ack, tcb.snd_una)
        if flags & ACK and tcb.snd_una <= ack <= tcb.snd_max:
            process_ack(tcb, segment, seq, ack, now)
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
        tcb.challenge_credit = tcb.config.challenge_acks_per_second
    if tcb.challenge_credit > 0:
        tcb.challenge_credit -= 1
        if tcb.config.dialect == "freebsd":
            _reply(tcb, acceptable_seq(tcb), tcb.rcv_nxt, ACK)
        else:
            tcb.ack_now = True
        tcb.counters["TcpExtTCPChallengeACK"] += 1


def _reset_arrived(tcb: Tcb) -> None:
    if tcb.state is State.SYN_RECEIVED:
        fail(tcb, errno.ECONNREFUSED)
    elif tcb.state is State.TIME_WAIT or (tcb.orphan and tcb.state in (State.CLOSING, State.LAST_ACK)):
        closed(tcb)
    else:
        fail(tcb, errno.EPIPE if tcb.state is State.CLOSE_WAIT else errno.ECONNRESET)
