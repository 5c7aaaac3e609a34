"""Answers SYNs without keeping them, when a listener's SYN queue is full (RFC 4987 3.6).

Read first: tcp/syn_cookie.py for what a cookie holds, tcp_demux.py for who calls.
"""

from swos_net.address import is_ipv4
from swos_net.dataplane.burst import DropReason
from swos_net.errors import WireError
from swos_net.tcp import syn_cookie
from swos_net.tcp.isn import timestamp_offset
from swos_net.tcp.options import window_scale_for
from swos_net.tcp.segment import ACK, CWR, ECE, FIN, HAS_TIMESTAMPS, RST, SYN, Segment
from swos_net.wire import tcp
from swos_net.wire.tcp import TcpOptions, emit_options, parse_options

LIFETIME = syn_cookie.COUNTER_SECONDS * syn_cookie.COUNTERS_VALID


class SynCookies:
    """For one stack; `issued_until` says how long an ACK out of nowhere may still be an answer to one."""

    __slots__ = ("_stack", "issued_until")

    def __init__(self, stack):
        self._stack = stack
        self.issued_until = -1.0

    def answer(self, interface, flow: bytes, segment: Segment, mss: int, now: float) -> DropReason:
        """A SYN,ACK for a SYN that nobody will remember."""
        stack = self._stack
        config = stack.config.tcp
        try:
            asked = parse_options(segment.option_bytes)
        except WireError:
            asked = TcpOptions()
        ecn = config.ecn != "off" and segment.flags & (ECE | CWR) == ECE | CWR
        sack = asked.sack_permitted and config.sack
        scale = asked.window_scale if config.window_scaling else None
        options = TcpOptions(mss=mss)
        if asked.ts_val is not None and config.timestamps:
            clock = int(now * 1000) + timestamp_offset(stack.secret, flow) & 0xFFFFFFFF
            options.ts_val = syn_cookie.stamp(clock, scale, sack, ecn)
            options.ts_ecr = asked.ts_val
            options.sack_permitted = sack
            options.window_scale = window_scale_for(config.receive_buffer) if scale is not None else None
        else:
            ecn = False
        peer_mss = asked.mss if asked.mss is not None else (536 if is_ipv4(flow[:16]) else 1220)
        cookie = syn_cookie.make(stack.secret, flow, segment.seq, min(peer_mss, mss), now)
        self.issued_until = now + LIFETIME
        stack.counters["TcpExtSyncookiesSent"] += 1
        header = tcp.TcpHeader(
            int.from_bytes(flow[32:34], "big"), int.from_bytes(flow[34:36], "big"), cookie, (segment.seq + 1) & 0xFFFFFFFF,
            SYN | ACK | (ECE if ecn else 0), min(config.receive_buffer, 65535), emit_options(options),
        )  # fmt: skip
        stack.tcp.answer(interface, flow, header, now)
        return DropReason.NONE

    def restore(self, flow: bytes, segment: Segment, now: float) -> Segment | None:
        """The SYN that an ACK without a connection stands for, or None when it answers no cookie of ours."""
        if now > self.issued_until or segment.flags & (ACK | SYN | RST | FIN) != ACK:
            return None
        stack = self._stack
        peer_isn = (segment.seq - 1) & 0xFFFFFFFF
        mss = syn_cookie.check(stack.secret, flow, peer_isn, (segment.ack - 1) & 0xFFFFFFFF, now)
        if mss is None:
            stack.counters["TcpExtSyncookiesFailed"] += 1
            return None
        stack.counters["TcpExtSyncookiesRecv"] += 1
        stamped = segment.options_present & HAS_TIMESTAMPS and stack.config.tcp.timestamps
        known = syn_cookie.options(mss, segment.ts_ecr if stamped else None)
        options = emit_options(
            TcpOptions(mss=known.mss, window_scale=known.window_scale, sack_permitted=known.sack_permitted,
                       ts_val=segment.ts_val if stamped else None, ts_ecr=0)
        )  # fmt: skip
        return Segment(peer_isn, 0, SYN | (ECE | CWR if known.ecn else 0), segment.window, option_bytes=options)
