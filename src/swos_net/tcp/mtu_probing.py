"""Path MTU discovery without ICMP (RFC 4821, RFC 8899's black holes): segments of a trial size, and a fall-back.

The variables are `tcb.mtu_probe`, made when `TcpConfig.mtu_probing` asks for it: "on" searches upwards from `base_mss`
as soon as the connection is established, "black-hole" begins when full-sized segments keep timing out.
"""

from swos_net.tcp.options import set_mss
from swos_net.tcp.tcb import Tcb

BLACK_HOLE_TIMEOUTS = 3  # RFC 4821 7.7: full-sized segments time out in a row; RFC 9293's R1
SEARCH_STEP = 32         # octets: a finer search is not worth its losses
SEARCH_AGAIN = 600.0     # RFC 4821 7.3: seconds until a larger size is tried again
WINDOW_SEGMENTS = 11     # RFC 4821 7.4: so much more must follow that a lost probe is found by duplicate ACKs


class MtuProbe:
    """Sizes are payload octets without options, as `link_mss` is."""

    __slots__ = ("high", "limit", "low", "next_search", "probe_end", "probe_size", "probe_start")

    def __init__(self, low: int, limit: int):
        self.low = low      # what certainly gets through
        self.high = limit   # what might
        self.limit = limit  # what peer and link take
        self.probe_start = 0
        self.probe_end = 0
        self.probe_size = 0  # 0: none in flight
        self.next_search = 0.0


def start(tcb: Tcb) -> None:
    """The connection is established: "on" begins with a size that gets through nearly everywhere (RFC 4821 7.2)."""
    size = min(tcb.config.base_mss, tcb.path_mss)
    if tcb.config.mtu_probing == "on" and size < tcb.path_mss:
        tcb.mtu_probe = MtuProbe(size, tcb.path_mss)
        set_mss(tcb, size)


def timed_out(tcb: Tcb, now: float) -> None:
    """After a retransmission timeout: perhaps nothing of this size gets through (RFC 4821 7.7)."""
    config = tcb.config
    probe = tcb.mtu_probe
    if probe is not None and probe.probe_size:
        if tcb.snd_una == probe.probe_start:
            _failed(tcb, now)  # 7.6.3, and nothing after it was reported either
        probe.probe_size = 0
    if config.mtu_probing == "off" or tcb.retransmissions < BLACK_HOLE_TIMEOUTS:
        return
    size = min(config.base_mss, tcb.link_mss)
    if tcb.retransmissions > BLACK_HOLE_TIMEOUTS + 2:
        size = min(size, 536)
    largest = max((record.end - record.start for record in tcb.scoreboard.records), default=0)
    if size >= tcb.path_mss or largest <= size:
        return
    tcb.mtu_probe = MtuProbe(size, tcb.path_mss if probe is None else probe.limit)
    set_mss(tcb, size)
    tcb.counters["TcpExtTCPMTUPFail"] += 1
    tcb.scoreboard.mark_all_lost()


def ready(tcb: Tcb, now: float, remaining: int, room: int) -> bool:
    """Whether a probe may go out now (RFC 4821 7.4, 7.5.3)."""
    probe = tcb.mtu_probe
    if probe.probe_size or tcb.recovery.phase or now < probe.next_search or probe.high - probe.low < SEARCH_STEP:
        return False
    if tcb.out_of_order or tcb.dsack is not None:
        return False  # SACK blocks would make the packet larger than its trial size
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


def only_probe_lost(tcb: Tcb, now: float) -> bool:
    """After losses were found: whether the probe is all that is missing, which says nothing of congestion (RFC 4821
    7.6.2).  With others lost beside it the probe says nothing of the path, and is forgotten (7.6.4)."""
    probe = tcb.mtu_probe
    if not probe.probe_size:
        return False
    board = tcb.scoreboard
    start, end = probe.probe_start, probe.probe_end
    if any(record.lost and (record.start < start or record.end > end) for record in board.records):
        probe.probe_size = 0
        return False
    board.mark_range_lost(start, end)  # without SACK only its beginning is known to be missing
    _failed(tcb, now)
    return True


def acknowledged(tcb: Tcb, now: float) -> None:
    """After an ACK: did the probe arrive?"""
    probe = tcb.mtu_probe
    if not probe.probe_size or tcb.snd_una < probe.probe_end:
        return
    probe.low, probe.probe_size = probe.probe_size, 0
    set_mss(tcb, probe.low)
    tcb.counters["TcpExtTCPMTUPSuccess"] += 1
    _narrowed(tcb, now)


def _failed(tcb: Tcb, now: float) -> None:
    probe = tcb.mtu_probe
    probe.high, probe.probe_size = probe.probe_size - 1, 0
    tcb.counters["TcpExtTCPMTUPFail"] += 1
    _narrowed(tcb, now)


def _narrowed(tcb: Tcb, now: float) -> None:
    probe = tcb.mtu_probe
    if probe.high - probe.low < SEARCH_STEP:
        probe.next_search = now + SEARCH_AGAIN
        probe.high = probe.limit
