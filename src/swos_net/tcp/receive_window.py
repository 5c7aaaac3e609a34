"""The window that we offer: how large it may be, and when a change is worth saying (RFC 9293 3.8.6.2.2).

Auto-tuning: a reader that takes a window's worth within a round trip is offered twice as much, so that the window does
not limit the path; a slow reader's queue stays short.  The idea is Fisk and Feng's dynamic right-sizing.
"""

from swos_net.dataplane.byte_ring import ByteRing
from swos_net.tcp.state import State
from swos_net.tcp.tcb import Tcb

TUNING_INTERVAL_MIN = 0.001
SEGMENTS_AHEAD = 16


def advertised_window(tcb: Tcb) -> int:
    """The window field, unscaled octets; moves `rcv_adv` right by worthwhile steps only (RFC 9293 3.8.6.2.2)."""
    rcv_nxt = tcb.rcv_nxt
    edge = rcv_nxt + tcb.receive_room
    rcv_adv = tcb.rcv_adv
    if tcb.config.dialect == "freebsd":
        if tcb.receive_room >= min(tcb.receive_limit // 4, tcb.rcv_mss):
            rcv_adv = max(edge, rcv_adv)  # all there is, once that is no silly window
    else:
        step = tcb.receive_limit // 2
        if step > tcb.rcv_mss:
            step = tcb.rcv_mss
        if edge - rcv_adv >= step:
            rcv_adv = edge
        elif edge >= rcv_nxt + tcb.rcv_wnd > rcv_adv and tcb.rcv_wnd >= step:
            rcv_adv = rcv_nxt + tcb.rcv_wnd  # as large as before, while there is room for it, and no silly window
    tcb.rcv_adv = rcv_adv
    window = rcv_adv - rcv_nxt
    if window < 0:
        window = 0
    elif window > (most := 65535 << tcb.rcv_wscale):
        window = most
    tcb.rcv_wnd = window
    return window


def right_edge(tcb: Tcb) -> int:
    """Text before it is taken: what was advertised, or all that there is room for."""
    if tcb.config.dialect == "freebsd" and not (tcb.passive and tcb.state is State.SYN_RECEIVED):
        return max(tcb.rcv_adv, tcb.rcv_nxt + tcb.receive_room)
    return tcb.rcv_adv


def opened(tcb: Tcb) -> None:
    """The user has read: a window update of its own goes out only when the peer is about to run dry.

    A reader that has taken everything of a stream that goes one way does not let its writer wait for a delayed ACK: with
    Nagle's algorithm each small write would cost one.
    """
    if tcb.timers.delayed_ack is not None and not tcb.interactive and tcb.config.dialect == "linux":
        if not len(tcb.receive_ring) and tcb.quick_ack_on is not False:
            tcb.ack_now = True
            return
    advertised = tcb.rcv_adv - tcb.rcv_nxt
    if advertised >= tcb.receive_limit // 2 or tcb.fin_received:
        return
    gain = tcb.receive_room - advertised
    if gain >= 2 * tcb.rcv_mss or gain >= tcb.receive_limit // 2:
        tcb.ack_now = True


def tune(tcb: Tcb, ring: ByteRing, now: float) -> None:
    """Once a round trip: the limit becomes twice what the user took meanwhile."""
    if tcb.receive_limit >= tcb.receive_buffer:
        return
    elapsed = now - tcb.autotune_since
    if elapsed < TUNING_INTERVAL_MIN:
        return
    if tcb.autotune_window == 0:
        tcb.autotune_since = now
        tcb.autotune_window = tcb.rcv_adv
        tcb.autotune_copied = ring.head
        return
    # a window that was offered at the start has been filled: that took at least one round trip
    srtt = tcb.rtt.srtt
    if tcb.rcv_nxt < tcb.autotune_window and (srtt is None or elapsed < srtt):
        return
    taken = ring.head - tcb.autotune_copied
    wanted = 2 * taken + SEGMENTS_AHEAD * tcb.rcv_mss
    if taken > tcb.autotune_taken:
        # a sender in slow start: what it will send is ahead of what was measured by a round trip
        wanted += wanted * (taken - tcb.autotune_taken) // max(tcb.autotune_taken, 4 * tcb.rcv_mss)
    tcb.autotune_taken = taken
    if wanted > tcb.receive_limit:
        tcb.receive_limit = min(wanted, tcb.receive_buffer)
    tcb.autotune_since = now
    tcb.autotune_window = tcb.rcv_adv
    tcb.autotune_copied = ring.head
