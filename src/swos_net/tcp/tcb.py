"""The transmission control block: the variables of one connection, named as in RFC 9293 3.3.1.

Sequence numbers are unbounded integers (seqnum.py).  A byte's place in a ring is its sequence number minus
`send_base` or `receive_base`, the sequence numbers of the first data byte each way.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from swos_net.config import TcpConfig
from swos_net.dataplane.byte_ring import ByteRing
from swos_net.storage.ranges import RangeSet
from swos_net.tcp.congestion import make_controller
from swos_net.tcp.congestion.base import CongestionController
from swos_net.tcp.ensemble import Ensemble
from swos_net.tcp.events import Event
from swos_net.tcp.recovery_state import Recovery
from swos_net.tcp.rtt import RoundTripEstimator
from swos_net.tcp.scoreboard import Scoreboard
from swos_net.tcp.state import State
from swos_net.tcp.timers import Timers

OUT_OF_ORDER_RANGES = 4096  # gaps that are kept: as many as a window of 16 MiB may have when a queue has overflowed
MSS_DEFAULT = {True: 536, False: 1220}  # RFC 9293 3.7.1: when the peer names none, by "is IPv4"


class Tcb:
    """Everything one connection remembers."""

    __slots__ = (
        "ack_now", "ack_pending", "acks_owed", "autotune_copied", "autotune_since", "autotune_taken", "autotune_window", "challenge_credit",
        "challenge_second", "config", "congestion", "cork", "counters", "cwnd_limited", "cwr_wanted", "data_segments_in", "data_segments_out", "defer_until", "deferring", "dsack", "ece_wanted",
        "ecn", "ensemble", "error", "events", "fin_received", "fin_seq", "fin_wait_2", "fin_wanted", "flight_high", "flight_round_end", "irs",
        "interactive", "irs_known", "iss", "keepalive_idle", "keepalive_interval", "keepalive_on", "keepalive_probe_limit", "keepalive_probes",
        "last_ack_sent", "last_data_received", "last_received", "last_send", "link_mss", "loss_probe_wanted", "max_send_window",
        "may_complete", "more_follows", "mss", "mtu_probe", "nodelay", "not_sent_low", "orphan", "out_of_order", "out_of_order_segments", "paced", "paced_until", "pacing_rate_max", "passive", "path_mss", "persist_backoff", "probe_now", "progress_since", "push_now",
        "quick_ack_on", "quick_acks", "rcv_adv", "rcv_ce", "rcv_mss", "rcv_mss_max", "rcv_nxt", "rcv_wnd", "rcv_wscale", "receive_base",
        "receive_buffer", "receive_limit", "receive_low", "receive_ring", "receive_shut", "recovery", "replies", "retransmissions",
        "retransmitted_octets", "retransmitted_segments", "rtt", "sack_permitted", "sack_recency", "scoreboard", "segments_in", "segments_out", "send_base", "send_buffer",
        "send_limit", "send_ring", "small_until", "snd_max", "snd_nxt", "snd_una", "snd_wl1", "snd_wl2", "snd_wnd",
        "snd_wscale", "soft_error", "state", "super_segment", "syn_retries", "syn_wanted", "timers", "timestamps", "trace", "ts_offset", "ts_recent",
        "ts_recent_age", "user_timeout", "was_full", "window_scaling",
    )  # fmt: skip

    def __init__(self, config: TcpConfig, iss: int, link_mss: int, *, super_segment: int = 65535, ts_offset: int = 0,
                 counters: dict[str, int] | None = None, ensemble: Ensemble | None = None):  # fmt: skip
        """`link_mss`: payload bytes that a segment without options carries on our link; `super_segment`: payload
        bytes handed down at once (the link's segmentation makes packets of it); `ensemble`: of the connections to the
        same host."""
        self.config = config
        self.ensemble = ensemble
        self.state = State.CLOSED
        self.events: list[Event] = []
        self.error = 0  # errno of FAILED
        self.soft_error = 0  # what the path said last (RFC 1122 4.2.3.9)

        # send sequence variables
        self.iss = iss
        self.send_base = iss + 1
        self.snd_una = iss
        self.snd_nxt = iss
        self.snd_max = iss  # highest sent: a window probe goes beyond snd_nxt
        self.syn_wanted = False
        self.snd_wnd = 0
        self.snd_wl1 = 0
        self.snd_wl2 = 0
        self.snd_wscale = 0
        self.max_send_window = 0
        # receive sequence variables
        self.irs = 0
        self.irs_known = False
        self.receive_base = 0
        self.rcv_nxt = 0
        self.rcv_adv = 0  # right edge advertised; never moves left (RFC 9293 3.8.6)
        self.rcv_wnd = 0  # what was advertised last
        self.rcv_wscale = 0
        self.last_ack_sent = 0

        self.link_mss = link_mss
        self.path_mss = link_mss  # payload bytes per segment that path and peer take, without options (RFC 6691)
        self.mtu_probe: Any = None  # mtu_probing.MtuProbe
        self.mss = link_mss  # payload bytes per segment we send, options taken off
        self.rcv_mss = min(link_mss, MSS_DEFAULT[True])  # largest seen to arrive: "full-sized" for delayed ACKs
        self.rcv_mss_max = link_mss  # of one segment: a super-segment is longer
        self.super_segment = super_segment
        self.send_buffer = config.send_buffer
        self.receive_buffer = config.receive_buffer
        # what is offered and queued for now; with auto-tuning it grows to the buffers' sizes
        self.send_limit = min(config.send_buffer_initial, config.send_buffer) if config.auto_tuning else config.send_buffer
        self.receive_limit = min(config.receive_buffer_initial, config.receive_buffer) if config.auto_tuning else config.receive_buffer
        self.autotune_since = 0.0
        self.autotune_copied = 0
        self.autotune_window = 0
        self.autotune_taken = 0
        self.send_ring: ByteRing | None = None  # made when first used: an idle connection stays small
        self.receive_ring: ByteRing | None = None
        self.out_of_order = RangeSet(OUT_OF_ORDER_RANGES)
        self.sack_recency: list[int] = []  # where text arrived out of order, the newest first (RFC 2018 4)

        # what was agreed on SYN
        self.timestamps = False
        self.ts_recent = 0
        self.ts_recent_age = 0.0
        self.ts_offset = ts_offset
        self.sack_permitted = False
        self.window_scaling = False

        self.timers = Timers()
        self.rtt = RoundTripEstimator(config)
        self.congestion: CongestionController = make_controller(
            config.congestion, link_mss, config.initial_window_segments, hystart=config.hystart
        )
        self.scoreboard = Scoreboard()
        self.recovery = Recovery(iss)
        self.cwnd_limited = False
        self.paced = config.pacing
        self.paced_until = 0.0
        self.pacing_rate_max: float | None = None  # SO_MAX_PACING_RATE, octets a second
        self.flight_high = 0  # what one round trip had in flight, at most
        self.flight_round_end = iss
        self.retransmissions = 0  # timeouts since something was last acknowledged
        self.progress_since = 0.0  # when that began: what a user timeout counts from
        self.persist_backoff = 0
        self.retransmitted_segments = 0
        self.retransmitted_octets = 0
        self.segments_in = self.segments_out = 0
        self.data_segments_in = self.data_segments_out = 0
        self.out_of_order_segments = 0
        self.counters: dict[str, int] = counters if counters is not None else Counter()
        self.trace: Callable[[str, float, Tcb, object], None] | None = None

        # RFC 3168
        self.ecn = False
        self.ece_wanted = False  # tell the peer of a mark until it says CWR
        self.cwr_wanted = False  # tell the peer that the window is down
        self.rcv_ce = False      # RFC 8257 3.2: DCTCP.CE

        # pending output
        self.ack_now = False
        self.ack_pending = 0  # bytes received since the last ACK went out
        self.acks_owed = 0  # duplicate ACKs for segments of one burst (RFC 5681 4.2)
        self.quick_acks = config.quick_acks
        self.interactive = False  # our data answers theirs
        self.quick_ack_on: bool | None = None  # TCP_QUICKACK, where it was set
        self.dsack: tuple[int, int] | None = None  # RFC 2883: what arrived twice
        self.probe_now = False
        self.loss_probe_wanted = False
        self.replies: list[tuple[int, int, int]] = []  # (seq, ack, flags) that go out before anything else
        self.challenge_credit = config.challenge_acks_per_second
        self.challenge_second = -1

        # the user's wishes
        self.passive = False
        self.may_complete: Callable[[], bool] | None = None  # the listener's word on the end of a passive handshake
        self.defer_until: float | None = None  # TCP_DEFER_ACCEPT: before it an ACK without text completes nothing
        self.deferring = False  # such an ACK has come
        self.fin_wait_2 = config.fin_wait_2
        self.fin_wanted = False
        self.fin_received = False
        self.fin_seq: int | None = None  # where the peer's stream ends, once known
        self.receive_shut = False
        self.orphan = False
        self.nodelay = False
        self.small_until = iss  # where the last segment ended that was not full-sized
        self.cork = False
        self.more_follows = False  # the last write said so: its end is no reason for PSH (RFC 9293 3.9.1.2)
        self.push_now = False  # what a cork or Nagle holds back goes out this once
        self.was_full = False
        self.not_sent_low = 0  # TCP_NOTSENT_LOWAT; 0: none
        self.receive_low = 1  # SO_RCVLOWAT
        self.keepalive_on = False
        self.keepalive_probes = 0
        self.keepalive_idle = config.keepalive_idle
        self.keepalive_interval = config.keepalive_interval
        self.keepalive_probe_limit = config.keepalive_probes
        self.user_timeout = config.user_timeout
        self.syn_retries: int | None = None  # TCP_SYNCNT
        self.last_received = 0.0
        self.last_data_received = 0.0
        self.last_send = 0.0

    @property
    def data_end(self) -> int:
        """Sequence number after the last byte queued (a FIN would have this one), until our FIN is acknowledged."""
        ring = self.send_ring
        return self.send_base if ring is None else self.send_base + ring.c.tail

    @property
    def writable(self) -> bool:
        """Whether a writer should go on: a third of the queue is free, and little of it has not been sent yet.

        Less room is taken by who asks, but is not worth waking for (Linux's sk_stream_is_writeable).
        """
        ring = self.send_ring
        if ring is None:
            return True
        c = ring.c
        queued = c.tail - c.head
        if 2 * (self.send_limit - queued) < queued:
            return False
        return not self.not_sent_low or self.data_end - self.snd_nxt < self.not_sent_low

    @property
    def receive_room(self) -> int:
        """Bytes of receive buffer that are free."""
        ring = self.receive_ring
        if ring is None:
            return self.receive_limit
        c = ring.c
        room = self.receive_limit - c.tail + c.head
        return room if room > 0 else 0

    def timestamp(self, now: float) -> int:
        """Our timestamp clock: milliseconds (RFC 7323 5.4)."""
        return (int(now * 1000) + self.ts_offset) & 0xFFFFFFFF
