"""Path MTU discovery without ICMP (RFC 4821, RFC 8899's black holes): segments of a trial size, and a fall-back.

The variables are `tcb.mtu_probe`, made when `TcpConfig.mtu_probing` asks for it.
"""

from swos_net.tcp.options import set_mss
from swos_net.tcp.tcb import Tcb

BLACK_HOLE_TIMEOUTS = 3  # RFC 4821 7.7: full-sized segments time out in a row; RFC 9293's R1
SEARCH_STEP = 32         # octets: a finer search is not worth its losses
SEARCH_AGAIN = 600.0     # RFC 4821 7.3: seconds until a larger size is tried again
WINDOW_SEGMENTS = 11     # RFC 4821 7.4: so much more must follow that a lost probe is found by duplicate ACKs


class MtuProbe:
    """Sizes are payload octets without options, as `link_mss` is."""

    __slots__ = ("high", "low", "next_search", "probe_end", "probe_size", "probe_start")

    def __init__(self, low: int, high: int):
        self.low = low    # what certainly gets through
        self.high = high  # what might
        self.probe_start = 0
        self.probe_end = 0
        self.probe_size = 0  # 0: none in flight
        self.next_search = 0.0


def timed_out(tcb: Tcb) -> None:
    """After a retransmission timeout: perhaps nothing of this size gets through (RFC 4821 7.7)."""
    config = tcb.config
    if config.mtu_probing == "off" or tcb.retransmissions < BLACK_HOLE_TIMEOUTS:
        return
    size = min(config.base_mss, tcb.link_mss)
    if tcb.retransmissions > BLACK_HOLE_TIMEOUTS + 2:
        size = min(size, 536)
    headroom = tcb.link_mss if tcb.mtu_probe is None else tcb.mtu_probe.high
    largest = max((record.end - record.start for record in tcb.scoreboard.records), default=0)
    if size >= tcb.path_mss or largest <= size:
        return
    tcb.mtu_probe = MtuProbe(size, max(headroom, size))
    set_mss(tcb, size)
    tcb.counters["TcpExtTCPMTUPFail"] += 1
    tcb.scoreboard.mark_all_lost()


def ready(tcb: Tcb, now: float, remaining: int, room: int) -> bool:
    """Whether a probe may go out now (RFC 4821 7.4, 7.5.3)."""
    probe = tcb.mtu_probe
    if probe.probe_size or tcb.recovery.phase or now < probe.next_search or probe.high - probe.low < SEARCH_STEP:
        return False
    size = (probe.low + probe.high + 1) // 2
    return remaining >= size + WINDOW_SEGMENTS * tcb.mss and room >= size + tcb.mss and tcb.congestion.cwnd >= WINDOW_SEGMENTS * tcb.mss


def begin(tcb: Tcb) -> int:
    """The size of the probe that goes out at snd_nxt, in payload octets."""
    probe = tcb.mtu_probe
    probe.probe_size = (probe.low + probe.high + 1) // 2
    length = probe.probe_size - (tcb.path_mss - tcb.mss)
    probe.probe_start = tcb.snd_nxt
    probe.probe_end = tcb.snd_nxt + length
    return length


def acknowledged(tcb: Tcb, now: float) -> None:
    """After an ACK: did the probe arrive, or is it given up?"""
    probe = tcb.mtu_probe
    if not probe.probe_size:
        return
    if tcb.snd_una >= probe.probe_end:
        lost = False
    else:
        lost = any(record.lost and record.start <= probe.probe_start < record.end for record in tcb.scoreboard.records)
        if not lost:
            return
    size, probe.probe_size = probe.probe_size, 0
    if lost:
        probe.high = size - 1
        tcb.counters["TcpExtTCPMTUPFail"] += 1
    else:
        probe.low = size
        set_mss(tcb, size)
        tcb.counters["TcpExtTCPMTUPSuccess"] += 1
    if probe.high - probe.low < SEARCH_STEP:
        probe.next_search = now + SEARCH_AGAIN
        probe.high = tcb.link_mss
