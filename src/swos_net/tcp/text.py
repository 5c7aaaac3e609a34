"""Segment text and FIN (RFC 9293 3.10.7.4, seventh and eighth), reassembly, and when to acknowledge.

Also: SACK and DSACK towards the peer (RFC 2018, 2883), congestion marks towards the peer (RFC 3168 6.1.3, RFC 8257 3.2).
"""

import errno

from swos_net.dataplane.byte_ring import ByteRing
from swos_net.tcp import receive_window
from swos_net.tcp.events import Event
from swos_net.tcp.lifecycle import fail, to_time_wait
from swos_net.tcp.output import acceptable_seq
from swos_net.tcp.segment import ACK, CWR, ECE, FIN, RST, Segment
from swos_net.tcp.state import RECEIVING, State
from swos_net.tcp.tcb import Tcb

CONGESTION_EXPERIENCED = 3  # RFC 3168 5
SACK_RECENCY = 8  # arrivals that are remembered: enough for four different blocks


def process_text(tcb: Tcb, segment: Segment, seq: int, now: float) -> None:
    """Takes what lies in the window, in order or not."""
    if tcb.state not in RECEIVING:
        return  # 3.10.7.4: "this should not occur": after a FIN there is no text
    rcv_nxt = tcb.rcv_nxt
    length = segment.length
    tcb.data_segments_in += 1
    tcb.last_data_received = now
    if length > tcb.rcv_mss:
        tcb.rcv_mss = min(length, tcb.rcv_mss_max)
    end = seq + length
    if tcb.fin_seq is not None:
        end = min(end, tcb.fin_seq)
    skip = 0
    if seq < rcv_nxt:
        skip = rcv_nxt - seq
        report_duplicate(tcb, seq, min(end, rcv_nxt))
    end = min(end, receive_window.right_edge(tcb))
    take = end - seq - skip
    if take <= 0:
        tcb.ack_now = True
        return
    if tcb.receive_shut and tcb.orphan:
        # RFC 1122 4.2.2.13: data for a user who has gone is reset, as a closed port does (RFC 9293 3.10.7.1)
        tcb.replies.append((segment.ack, 0, RST))
        tcb.counters["TcpExtTCPAbortOnData"] += 1
        fail(tcb, errno.ECONNRESET)
        return
    if tcb.ecn:
        _congestion_mark(tcb, segment)
    if tcb.receive_ring is None:
        tcb.receive_ring = ByteRing(tcb.receive_buffer)
    if seq + skip == rcv_nxt and not tcb.out_of_order:
        _append(tcb, segment, skip, take)
    elif not _reassemble(tcb, segment, tcb.receive_ring, seq + skip, skip, end, now):
        return
    _text_came(tcb, skip, now)


def take_in_order(tcb: Tcb, segment: Segment, length: int, now: float) -> None:
    """As `process_text` for text that begins at `rcv_nxt`, lies in the window and meets no gap; prediction.py sees to that."""
    tcb.data_segments_in += 1
    tcb.last_data_received = now
    if length > tcb.rcv_mss:
        tcb.rcv_mss = min(length, tcb.rcv_mss_max)
    if tcb.receive_ring is None:
        tcb.receive_ring = ByteRing(tcb.receive_buffer)
    _append(tcb, segment, 0, length)
    _text_came(tcb, 0, now)


def _append(tcb: Tcb, segment: Segment, skip: int, take: int) -> None:
    taken = segment.payload.append_to(tcb.receive_ring, skip, take)
    rcv_nxt = tcb.rcv_nxt = tcb.rcv_nxt + taken
    if rcv_nxt > tcb.rcv_adv:
        tcb.rcv_adv = rcv_nxt
    tcb.ack_pending += taken
    if taken < take:
        tcb.ack_now = True


def _text_came(tcb: Tcb, skip: int, now: float) -> None:
    """Tells the reader, and decides when to acknowledge; `skip` octets of the segment had come before."""
    ring = tcb.receive_ring
    if tcb.receive_low == 1 or len(ring) >= tcb.receive_low:
        tcb.events.append(Event.READABLE)
    if tcb.receive_limit < tcb.receive_buffer:
        receive_window.tune(tcb, ring, now)
    if tcb.ack_now:
        return
    delayed = tcb.timers.delayed_ack is not None
    if tcb.ack_pending >= 2 * tcb.rcv_mss or tcb.quick_ack_on:
        tcb.ack_now = True  # RFC 9293 3.8.6.3: at least every second full-sized segment
    elif tcb.quick_acks > 0 and tcb.quick_ack_on is None:
        tcb.quick_acks -= 1
        tcb.ack_now = True
    elif not delayed:
        tcb.timers.delayed_ack = now + tcb.config.delayed_ack
    if tcb.config.dialect == "freebsd" and (skip or delayed):
        tcb.ack_now = True  # every second segment, however short


def _reassemble(tcb: Tcb, segment: Segment, ring: ByteRing, start: int, skip: int, end: int, now: float) -> bool:
    """Text beyond a gap, or text that fills one; True when `rcv_nxt` moved."""
    rcv_nxt = tcb.rcv_nxt
    tcb.ack_now = True  # RFC 5681 4.2: at once, for a gap and for what fills one
    if not skip:
        known = tcb.out_of_order.first_overlap(start, end)
        if known is not None:
            report_duplicate(tcb, *known)  # RFC 2883 4: the first of what came twice
    if not tcb.out_of_order.add(start, end):
        return False
    recency = tcb.sack_recency
    recency.insert(0, start)
    del recency[SACK_RECENCY:]
    segment.payload.store_in(ring, start - tcb.receive_base, skip, end - start)
    in_order = tcb.out_of_order.take_from(rcv_nxt)
    if in_order == rcv_nxt:
        tcb.acks_owed += 1
        tcb.out_of_order_segments += 1
        tcb.counters["TcpExtTCPOFOQueue"] += 1
        return False
    ring.advance(in_order - rcv_nxt)
    tcb.rcv_nxt = in_order
    if in_order > tcb.rcv_adv:
        tcb.rcv_adv = in_order
    return True


def keep_early_text(tcb: Tcb, segment: Segment, seq: int) -> None:
    """Text that comes with a SYN of a simultaneous open waits for ESTABLISHED (RFC 9293 3.10.7.3)."""
    if tcb.receive_ring is None:
        tcb.receive_ring = ByteRing(tcb.receive_buffer)
    take = min(segment.length, tcb.rcv_adv - seq)
    if take > 0 and tcb.out_of_order.add(seq, seq + take):
        segment.payload.store_in(tcb.receive_ring, seq - tcb.receive_base, 0, take)


def deliver_early_text(tcb: Tcb, now: float) -> None:
    """ESTABLISHED: what `keep_early_text` kept."""
    in_order = tcb.out_of_order.take_from(tcb.rcv_nxt)
    if in_order > tcb.rcv_nxt:
        tcb.receive_ring.advance(in_order - tcb.rcv_nxt)
        tcb.rcv_nxt = in_order
        tcb.timers.delayed_ack = now + tcb.config.delayed_ack
        tcb.events.append(Event.READABLE)


def report_duplicate(tcb: Tcb, start: int, end: int) -> None:
    """RFC 2883 4: octets that came twice go into the next SACK option."""
    if tcb.sack_permitted and end > start and tcb.config.dsack:
        tcb.dsack = (start, end)


def _congestion_mark(tcb: Tcb, segment: Segment) -> None:
    marked = segment.ecn == CONGESTION_EXPERIENCED
    if tcb.congestion.uses_ecn:
        if marked != tcb.rcv_ce:
            if tcb.ack_pending:  # RFC 8257 3.2: what came before the change is acknowledged as it was
                tcb.replies.append((acceptable_seq(tcb), tcb.rcv_nxt, ACK | (ECE if tcb.rcv_ce else 0)))
            tcb.ack_now = True
        tcb.rcv_ce = tcb.ece_wanted = marked
        return
    if segment.flags & CWR:
        tcb.ece_wanted = False  # RFC 3168 6.1.3
    if marked and not tcb.ece_wanted:
        tcb.ece_wanted = True
        tcb.ack_now = True


def process_fin(tcb: Tcb, segment: Segment, seq: int, now: float) -> None:
    """The end of the peer's stream, when everything before it is here."""
    if segment.flags & FIN and tcb.fin_seq is None and not tcb.fin_received:
        end = seq + segment.length
        if end <= receive_window.right_edge(tcb):
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
