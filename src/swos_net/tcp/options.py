"""What two ends agree on SYN, and the options of every later segment (RFC 9293 3.7.1, 7323, 2018)."""

import struct

from swos_net.errors import WireError
from swos_net.tcp.segment import ACK, CWR, ECE, Segment
from swos_net.tcp.tcb import MSS_DEFAULT, Tcb
from swos_net.wire.tcp import TcpOptions, emit_options, parse_options

_TIMESTAMPS = struct.Struct("!BBBBII")
WINDOW_SCALE_MAX = 14  # RFC 7323 2.3
MSS_MIN = 48  # below that the options alone would fill a segment
TIMESTAMPS_LENGTH = 12


def window_scale_for(buffer: int) -> int:
    """The shift with which a window of `buffer` bytes fits 16 bits."""
    return min(max(0, buffer.bit_length() - 16), WINDOW_SCALE_MAX)


def syn_options(tcb: Tcb, now: float) -> bytes:
    """Options of our SYN, or of our SYN,ACK: there only what the peer's SYN had (RFC 7323 1.3, RFC 2018 2)."""
    config = tcb.config
    answering = tcb.irs_known
    timestamps = tcb.timestamps if answering else config.timestamps
    scale = tcb.window_scaling if answering else config.window_scaling
    options = TcpOptions(
        mss=tcb.link_mss,
        sack_permitted=tcb.sack_permitted if answering else config.sack,
        ts_val=tcb.timestamp(now) if timestamps else None,
        ts_ecr=tcb.ts_recent if timestamps else None,
        window_scale=tcb.rcv_wscale if scale else None,
    )
    return _freebsd_syn_options(options) if config.dialect == "freebsd" else emit_options(options)


def _freebsd_syn_options(options: TcpOptions) -> bytes:
    """FreeBSD's order: MSS, window scale, SACK permitted, timestamps; what is left over at the end is filled with EOL."""
    out = b"\x02\x04" + options.mss.to_bytes(2, "big")
    if options.window_scale is not None:
        out += b"\x01\x03\x03" + bytes((options.window_scale,))
    if options.sack_permitted:
        out += b"\x04\x02"
    if options.ts_val is not None:
        out += b"" if options.sack_permitted else b"\x01\x01"
        out += struct.pack("!BBII", 8, 10, options.ts_val, options.ts_ecr or 0)
    return out + bytes(-len(out) & 3)


def syn_received(tcb: Tcb, segment: Segment, ipv4: bool, now: float) -> None:
    """Takes over what the peer's SYN or SYN,ACK says."""
    option_bytes = segment.option_bytes
    try:
        options = parse_options(option_bytes) if option_bytes else TcpOptions()
    except WireError:
        options = TcpOptions()
    config = tcb.config
    tcb.irs_known = True
    tcb.timestamps = config.timestamps and options.ts_val is not None
    if tcb.timestamps:
        tcb.ts_recent = options.ts_val
        tcb.ts_recent_age = now
    tcb.sack_permitted = config.sack and options.sack_permitted
    tcb.rcv_mss_max = tcb.link_mss - (TIMESTAMPS_LENGTH if tcb.timestamps else 0)
    tcb.window_scaling = config.window_scaling and options.window_scale is not None
    if tcb.window_scaling:
        tcb.snd_wscale = min(options.window_scale, WINDOW_SCALE_MAX)  # RFC 7323 2.3
    else:
        tcb.rcv_wscale = 0
    tcb.ecn = ecn_agreed(tcb, segment.flags)
    peer = options.mss if options.mss is not None else MSS_DEFAULT[ipv4]
    set_mss(tcb, max(min(peer, tcb.link_mss), MSS_MIN))
    tcb.congestion.agree(tcb.mss, config.initial_window_segments)
    if tcb.retransmissions:
        tcb.congestion.cwnd = tcb.mss  # RFC 5681 3.1: a SYN was lost


def ecn_agreed(tcb: Tcb, flags: int) -> bool:
    """RFC 3168 6.1.1: a SYN with ECE and CWR asks, a SYN,ACK with ECE alone agrees."""
    asked = "on" if tcb.congestion.uses_ecn else tcb.config.ecn
    if flags & ACK:
        return asked == "on" and tcb.retransmitted_segments <= tcb.config.ecn_syn_retries and flags & (ECE | CWR) == ECE
    return asked != "off" and flags & (ECE | CWR) == ECE | CWR


def set_mss(tcb: Tcb, size: int) -> None:
    """`size` counts payload of a segment without options (RFC 6691); what timestamps take is taken off."""
    tcb.path_mss = size
    tcb.mss = size - TIMESTAMPS_LENGTH if tcb.timestamps else size
    tcb.congestion.mss = tcb.mss


def segment_options(tcb: Tcb, now: float) -> bytes:
    """Timestamps and, while data is missing or came twice, SACK blocks."""
    out = b""
    if tcb.timestamps:
        out = _TIMESTAMPS.pack(1, 1, 8, 10, tcb.timestamp(now), tcb.ts_recent)
    if (tcb.out_of_order.ranges or tcb.dsack is not None) and tcb.sack_permitted:
        blocks = sack_blocks(tcb, (40 - len(out) - 4) // 8)
        out += struct.pack("!BBBB", 1, 1, 5, 2 + 8 * len(blocks))
        for left, right in blocks:
            out += struct.pack("!II", left & 0xFFFFFFFF, right & 0xFFFFFFFF)
    return out


def sack_blocks(tcb: Tcb, most: int) -> list[tuple[int, int]]:
    """What came twice (RFC 2883 4), then the blocks in the order in which they last grew (RFC 2018 4)."""
    blocks = [] if tcb.dsack is None else [tcb.dsack]
    twice = len(blocks)
    queue = tcb.out_of_order
    for position in tcb.sack_recency:
        if len(blocks) >= most:
            return blocks
        block = queue.around(position)
        if block is not None and block not in blocks[twice:]:
            blocks.append(block)
    for block in queue.ranges:
        if len(blocks) >= most:
            break
        if block not in blocks[twice:]:
            blocks.append(block)
    return blocks
