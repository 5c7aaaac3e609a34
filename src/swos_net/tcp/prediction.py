"""Header prediction: the segments that come when all goes well, in one step each.

Read first: input.py, whose checks these are, done together: an established connection, the next expected octet, an
acknowledgment of what is in flight, nothing missing either way.  Whatever else a segment is, is input.py's.
"""

from swos_net.tcp.acknowledgment import advance_in_order
from swos_net.tcp.segment import ACK, HAS_TIMESTAMPS, PSH, Segment
from swos_net.tcp.seqnum import MASK
from swos_net.tcp.state import State
from swos_net.tcp.tcb import Tcb
from swos_net.tcp.text import take_in_order

_EXPECTED = (ACK, ACK | PSH)
_ESTABLISHED = State.ESTABLISHED


def expected(tcb: Tcb, segment: Segment, now: float) -> bool:
    """Takes the segment in if it is one of those; False, with nothing touched, if it is not."""
    length = segment.length
    rcv_nxt = tcb.rcv_nxt
    snd_una = tcb.snd_una
    advance = (segment.ack - snd_una) & MASK
    window = segment.window << tcb.snd_wscale
    timers = tcb.timers
    stamped = tcb.timestamps
    if (
        tcb.state is not _ESTABLISHED or segment.flags not in _EXPECTED or (segment.seq - rcv_nxt) & MASK
        or segment.options_present != (HAS_TIMESTAMPS if stamped else 0) or advance > tcb.snd_nxt - snd_una
        or not window or not tcb.snd_wnd or tcb.out_of_order.ranges or tcb.fin_seq is not None or timers.persist is not None
        or tcb.ecn or tcb.receive_shut
    ):  # fmt: skip
        return False
    if stamped and (segment.ts_val - tcb.ts_recent) & MASK >= 0x80000000:
        return False  # RFC 7323 5.3 R1
    if length:
        if rcv_nxt + length > tcb.rcv_adv:
            return False
        if not advance and (tcb.recovery.probe_end is not None or tcb.snd_wl1 > rcv_nxt):
            return False  # SND.WL1: an ACK that came first was sent after it, and its window counts
    elif not advance:
        return False  # a duplicate
    if advance and not advance_in_order(tcb, segment, snd_una + advance, advance, now):
        return False
    if stamped and rcv_nxt <= tcb.last_ack_sent:
        tcb.ts_recent = segment.ts_val  # RFC 7323 4.3 (2)
        tcb.ts_recent_age = now
    tcb.last_received = now
    tcb.keepalive_probes = 0
    tcb.snd_wnd = window
    tcb.snd_wl1 = rcv_nxt
    tcb.snd_wl2 = snd_una + advance
    if window > tcb.max_send_window:
        tcb.max_send_window = window
    if length:
        take_in_order(tcb, segment, length, now)
    return True
