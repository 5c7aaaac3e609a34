"""How a connection changes state other than by SEGMENT ARRIVES' own text: established, failed, closed, TIME-WAIT."""

import errno

from swos_net.tcp import mtu_probing
from swos_net.tcp.events import Event
from swos_net.tcp.state import State
from swos_net.tcp.tcb import Tcb


def become_established(tcb: Tcb, now: float) -> None:
    """The handshake is complete."""
    tcb.state = State.ESTABLISHED
    tcb.snd_nxt = tcb.snd_max
    tcb.syn_wanted = False
    tcb.retransmissions = 0
    tcb.timers.retransmission = None
    tcb.recovery.delivered_high = tcb.snd_una
    if tcb.rtt.srtt is None and tcb.retransmitted_segments:
        tcb.rtt.syn_was_lost()
    mtu_probing.start(tcb)
    if tcb.fin_wanted:
        tcb.state = State.FIN_WAIT_1  # RFC 9293 3.10.4: a CLOSE that came in SYN-RECEIVED was queued
    if tcb.keepalive_on:
        tcb.timers.keepalive = now + tcb.keepalive_idle
    tcb.events.append(Event.CONNECTED)


def fail(tcb: Tcb, code: int) -> None:
    """The connection ends with an error; what was received stays readable."""
    tcb.error = code
    tcb.events.append(Event.FAILED)
    closed(tcb)


def closed(tcb: Tcb) -> None:
    """Nothing more is sent or taken."""
    tcb.state = State.CLOSED
    tcb.timers.cancel_all()
    tcb.send_ring = None
    tcb.scoreboard.clear()
    tcb.ack_now = False
    tcb.acks_owed = 0
    tcb.events.append(Event.CLOSED)


def to_fin_wait_2(tcb: Tcb, now: float) -> None:
    tcb.state = State.FIN_WAIT_2
    if tcb.orphan:
        tcb.timers.time_wait = now + tcb.fin_wait_2


def to_time_wait(tcb: Tcb, now: float) -> None:
    tcb.state = State.TIME_WAIT
    tcb.timers.cancel_all()
    tcb.timers.time_wait = now + tcb.config.time_wait
    tcb.events.append(Event.TIME_WAIT)
    if tcb.receive_ring is not None and not len(tcb.receive_ring):
        tcb.receive_ring = None


FIN_ACKNOWLEDGED = {
    State.FIN_WAIT_1: to_fin_wait_2,
    State.CLOSING: to_time_wait,
    State.LAST_ACK: lambda tcb, now: closed(tcb),
}


def timed_out(tcb: Tcb) -> None:
    """R2 is passed (RFC 9293 3.8.3): the user is told of what the path last said, if it said anything."""
    fail(tcb, tcb.soft_error or errno.ETIMEDOUT)
