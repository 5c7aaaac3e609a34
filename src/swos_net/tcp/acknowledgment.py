"""The ACK field, SACK blocks and the window (RFC 9293 3.10.7.4, fifth; RFC 2018, 2883).

Read first: scoreboard.py; then recovery.py for what follows from the news.
"""

from swos_net.errors import WireError
from swos_net.tcp import mtu_probing, recovery, tail_loss
from swos_net.tcp.events import Event
from swos_net.tcp.lifecycle import FIN_ACKNOWLEDGED
from swos_net.tcp.scoreboard import Delivered
from swos_net.tcp.segment import FIN, HAS_SACK, Segment
from swos_net.tcp.seqnum import unwrap
from swos_net.tcp.tcb import Tcb
from swos_net.wire.tcp import parse_options


def process_ack(tcb: Tcb, segment: Segment, seq: int, ack: int, now: float) -> None:
    """Takes in what the peer has and how much it would take."""
    snd_una = tcb.snd_una
    advance = ack - snd_una
    records = tcb.scoreboard.records
    if advance > 0:
        _advance(tcb, segment, ack, advance, now)
    elif advance == 0:
        # with nothing in flight it may still say that what was sent again had arrived before
        if records or tcb.recovery.probe_end is not None or segment.options_present & HAS_SACK:
            _repeated(tcb, segment, now)
    elif segment.options_present & HAS_SACK and tcb.sack_permitted:
        _news(tcb, segment, ack, 0, False, now)
    # the send window, unless the segment is older than the last one used; new data acknowledged says that it is not
    if advance > 0 or tcb.snd_wl1 < seq or (tcb.snd_wl1 == seq and tcb.snd_wl2 <= ack):
        window = segment.window << tcb.snd_wscale
        if window and not tcb.snd_wnd:
            tcb.timers.persist = None
            tcb.persist_backoff = 0
            if records:
                # what went beyond a window that was taken back is not waited for any longer
                tcb.scoreboard.mark_first_lost(tcb.mss)
                tcb.recovery.forced = True
        tcb.snd_wnd = window
        tcb.snd_wl1 = seq
        tcb.snd_wl2 = ack
        if window > tcb.max_send_window:
            tcb.max_send_window = window
    if not tcb.orphan and (tcb.timers.persist is not None or not tcb.snd_wnd):
        # RFC 9293 3.8.6.1: a peer that answers probes may keep its window shut for ever, while the user does not mind
        tcb.retransmissions = 0


def _repeated(tcb: Tcb, segment: Segment, now: float) -> None:
    """An ACK of what was acknowledged already."""
    sack = segment.options_present & HAS_SACK and tcb.sack_permitted
    # RFC 5681 2, "duplicate acknowledgment"; the answer to a window probe says nothing of loss
    duplicate = not segment.length and not segment.flags & FIN and (
        segment.window << tcb.snd_wscale == tcb.snd_wnd and tcb.timers.persist is None
    )  # fmt: skip
    if sack or duplicate:
        _news(tcb, segment, tcb.snd_una, 0, duplicate, now)


def _news(tcb: Tcb, segment: Segment, ack: int, advance: int, duplicate: bool, now: float) -> Delivered:
    delivered = Delivered()
    if advance:
        tcb.scoreboard.acknowledged(ack, delivered)
    if segment.options_present & HAS_SACK and tcb.sack_permitted:
        _selective(tcb, segment, ack, delivered)
    recovery.acknowledged(tcb, segment, delivered, advance, duplicate, now)
    return delivered


def _selective(tcb: Tcb, segment: Segment, ack: int, delivered: Delivered) -> None:
    """The blocks of a SACK option that came with `ack`; those that cannot be true are ignored."""
    try:
        blocks = parse_options(segment.option_bytes).sack_blocks
    except WireError:
        return
    board = tcb.scoreboard
    snd_una = tcb.snd_una
    previous = None
    for number, (left, right) in enumerate(blocks):
        start = unwrap(left, snd_una)
        end = unwrap(right, snd_una)
        if number == 0:
            # RFC 2883 4: the first block lies below the acknowledgment that it came with, or within the second
            below = start < end <= ack
            if not below and len(blocks) > 1 and start < end:
                second = unwrap(blocks[1][0], snd_una), unwrap(blocks[1][1], snd_una)
                below = second[0] <= start and end <= second[1]
            if below and end > tcb.iss and snd_una - start <= max(tcb.max_send_window, 65535):
                delivered.duplicate_start, delivered.duplicate_end = start, end
                tcb.counters["TcpExtTCPDSACKRecv"] += 1
                tcb.recovery.dsacks_received += 1
                continue
        if snd_una < start < end <= tcb.snd_nxt and (start, end) != previous:
            board.selectively_acknowledged(start, end, delivered)
            previous = (start, end)


def _advance(tcb: Tcb, segment: Segment, ack: int, advance: int, now: float) -> None:
    if tcb.snd_nxt < ack:
        tcb.snd_nxt = ack  # a window probe beyond it was taken
    if not advance_in_order(tcb, segment, ack, advance, now):
        _take_octets(tcb, ack, now)
        _news(tcb, segment, ack, advance, False, now)
        if tcb.mtu_probe is not None:
            mtu_probing.acknowledged(tcb, now)
        _go_on(tcb, ack, now)


def advance_in_order(tcb: Tcb, segment: Segment, ack: int, advance: int, now: float) -> bool:
    """`advance` octets of what is in flight were acknowledged, and there is no other news; False, with nothing touched,
    where there may be."""
    if tcb.mtu_probe is not None or not recovery.acknowledged_in_order(tcb, segment, ack, advance, now):
        return False
    _take_octets(tcb, ack, now)
    _go_on(tcb, ack, now)
    return True


def _take_octets(tcb: Tcb, ack: int, now: float) -> None:
    tcb.snd_una = ack
    ring = tcb.send_ring
    if ring is not None:
        c = ring.c
        head, tail = c.head, c.tail
        position = ack - tcb.send_base  # one beyond the tail when our FIN was acknowledged
        if position > tail:
            position = tail
        if position > head:
            ring.consume(position - head)
    tcb.retransmissions = tcb.persist_backoff = 0
    tcb.progress_since = now


def _go_on(tcb: Tcb, ack: int, now: float) -> None:
    """What follows from fewer octets in flight, whatever else was learned."""
    if tcb.send_ring is not None:
        limit = tcb.send_limit
        if limit < tcb.send_buffer and limit < 2 * tcb.congestion.cwnd:
            # auto-tuning: the queue holds what is in flight and as much again, so that the writer never holds up the window
            tcb.send_limit = min(2 * tcb.congestion.cwnd, tcb.send_buffer)
        # a writer that had to wait is woken for a worthwhile step, not for every ACK
        if tcb.was_full and tcb.writable:
            tcb.was_full = False
            tcb.events.append(Event.WRITABLE)
    timers = tcb.timers
    if tcb.scoreboard.records:
        timers.retransmission = now + tcb.rtt.rto  # RFC 6298 (5.3)
        tail_loss.schedule(tcb, now)
    else:
        timers.retransmission = timers.loss_probe = timers.reordering = None  # (5.2)
    if tcb.fin_wanted and ack > tcb.data_end and tcb.state in FIN_ACKNOWLEDGED:
        tcb.send_ring = None  # nothing of it will be sent again, and TIME-WAIT is long
        FIN_ACKNOWLEDGED[tcb.state](tcb, now)
