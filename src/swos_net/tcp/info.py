"""What TCP_INFO tells of a connection, with the kernel's field names (linux/tcp.h, struct tcp_info)."""

import struct
from dataclasses import astuple, dataclass

from swos_net.tcp.recovery import pipe
from swos_net.tcp.seqnum import MASK
from swos_net.tcp.state import State
from swos_net.tcp.tcb import Tcb

# tcpi_options
TCPI_OPT_TIMESTAMPS = 1
TCPI_OPT_SACK = 2
TCPI_OPT_WSCALE = 4
TCPI_OPT_ECN = 8

_KERNEL_STATE = {
    State.ESTABLISHED: 1, State.SYN_SENT: 2, State.SYN_RECEIVED: 3, State.FIN_WAIT_1: 4, State.FIN_WAIT_2: 5,
    State.TIME_WAIT: 6, State.CLOSED: 7, State.CLOSE_WAIT: 8, State.LAST_ACK: 9, State.LISTEN: 10, State.CLOSING: 11,
}  # fmt: skip
_LAYOUT = struct.Struct("=8B 24I 4Q 6I 4Q 2I 2Q 5I")
_SSTHRESH_INFINITE = 0x7FFFFFFF


@dataclass(slots=True)
class TcpInfo:
    """Times in microseconds (those of `last_*` in milliseconds), windows and counts in segments, as the kernel has them.

    Not measured here, and therefore 0: tcpi_fackets, tcpi_max_pacing_rate and tcpi_pacing_rate, the busy and limited
    times, tcpi_rcv_rtt where no round trip was seen.
    """

    tcpi_state: int = 0
    tcpi_ca_state: int = 0
    tcpi_retransmits: int = 0
    tcpi_probes: int = 0
    tcpi_backoff: int = 0
    tcpi_options: int = 0
    tcpi_wscale: int = 0  # send in the lower, receive in the upper four bits
    tcpi_app_limited: int = 0
    tcpi_rto: int = 0
    tcpi_ato: int = 0
    tcpi_snd_mss: int = 0
    tcpi_rcv_mss: int = 0
    tcpi_unacked: int = 0
    tcpi_sacked: int = 0
    tcpi_lost: int = 0
    tcpi_retrans: int = 0
    tcpi_fackets: int = 0
    tcpi_last_data_sent: int = 0
    tcpi_last_ack_sent: int = 0
    tcpi_last_data_recv: int = 0
    tcpi_last_ack_recv: int = 0
    tcpi_pmtu: int = 0
    tcpi_rcv_ssthresh: int = 0
    tcpi_rtt: int = 0
    tcpi_rttvar: int = 0
    tcpi_snd_ssthresh: int = 0
    tcpi_snd_cwnd: int = 0
    tcpi_advmss: int = 0
    tcpi_reordering: int = 3
    tcpi_rcv_rtt: int = 0
    tcpi_rcv_space: int = 0
    tcpi_total_retrans: int = 0
    tcpi_pacing_rate: int = 0
    tcpi_max_pacing_rate: int = 0
    tcpi_bytes_acked: int = 0
    tcpi_bytes_received: int = 0
    tcpi_segs_out: int = 0
    tcpi_segs_in: int = 0
    tcpi_notsent_bytes: int = 0
    tcpi_min_rtt: int = 0
    tcpi_data_segs_in: int = 0
    tcpi_data_segs_out: int = 0
    tcpi_delivery_rate: int = 0
    tcpi_busy_time: int = 0
    tcpi_rwnd_limited: int = 0
    tcpi_sndbuf_limited: int = 0
    tcpi_delivered: int = 0
    tcpi_delivered_ce: int = 0
    tcpi_bytes_sent: int = 0
    tcpi_bytes_retrans: int = 0
    tcpi_dsack_dups: int = 0
    tcpi_reord_seen: int = 0
    tcpi_rcv_ooopack: int = 0
    tcpi_snd_wnd: int = 0
    tcpi_rcv_wnd: int = 0

    def pack(self) -> bytes:
        """The bytes of struct tcp_info."""
        return _LAYOUT.pack(*astuple(self))


def _segments(octets: int, mss: int) -> int:
    return -(-octets // mss)


def _retransmitted_in_flight(tcb: Tcb) -> int:
    records = tcb.scoreboard.records
    return sum(_segments(record.end - record.start, tcb.mss) for record in records
               if record.retransmissions and not record.sacked and not record.lost)  # fmt: skip


def tcp_info(tcb: Tcb, now: float) -> TcpInfo:
    """A snapshot of one connection."""
    mss = tcb.mss
    rtt = tcb.rtt
    board = tcb.scoreboard
    congestion = tcb.congestion
    options = TCPI_OPT_TIMESTAMPS if tcb.timestamps else 0
    options |= TCPI_OPT_SACK if tcb.sack_permitted else 0
    options |= TCPI_OPT_WSCALE if tcb.window_scaling else 0
    options |= TCPI_OPT_ECN if tcb.ecn else 0
    data_end = tcb.data_end
    sent = max(tcb.snd_nxt - tcb.iss - 1 - (tcb.snd_nxt > data_end), 0)  # without SYN and FIN
    return TcpInfo(
        tcpi_state=_KERNEL_STATE[tcb.state],
        tcpi_ca_state=int(tcb.recovery.phase),
        tcpi_retransmits=min(tcb.retransmissions, 255),
        tcpi_probes=min(tcb.persist_backoff or tcb.keepalive_probes, 255),
        tcpi_backoff=min(rtt.backoff, 255),
        tcpi_options=options,
        tcpi_wscale=tcb.snd_wscale | tcb.rcv_wscale << 4,
        tcpi_app_limited=int(not tcb.cwnd_limited),
        tcpi_rto=int(rtt.rto * 1e6),
        tcpi_ato=int(tcb.config.delayed_ack * 1e6),
        tcpi_snd_mss=mss,
        tcpi_rcv_mss=tcb.rcv_mss,
        tcpi_unacked=sum(_segments(record.end - record.start, mss) for record in board.records),
        tcpi_sacked=_segments(board.sacked_octets, mss) or (0 if tcb.sack_permitted else tcb.recovery.duplicate_acks),
        tcpi_lost=_segments(board.lost_octets, mss) + _retransmitted_in_flight(tcb),
        tcpi_retrans=_retransmitted_in_flight(tcb),
        tcpi_last_data_sent=int((now - tcb.last_send) * 1000) if tcb.last_send else 0,
        tcpi_last_data_recv=int((now - (tcb.last_data_received or tcb.last_received)) * 1000),
        tcpi_last_ack_recv=int((now - tcb.last_received) * 1000) if tcb.last_received else 0,
        tcpi_pmtu=tcb.path_mss + (40 if tcb.link_mss > 0 else 0),
        tcpi_rcv_ssthresh=tcb.receive_limit,
        tcpi_rtt=int((rtt.srtt or 0.0) * 1e6),
        tcpi_rttvar=int(rtt.rttvar * 1e6),
        tcpi_snd_ssthresh=min(congestion.ssthresh // mss, _SSTHRESH_INFINITE),
        tcpi_snd_cwnd=max(congestion.cwnd // mss, 1),
        tcpi_advmss=tcb.link_mss,
        tcpi_reordering=tcb.config.duplicate_threshold,
        tcpi_rcv_rtt=int((rtt.srtt or 0.0) * 1e6),
        tcpi_rcv_space=tcb.receive_limit,
        tcpi_total_retrans=tcb.retransmitted_segments,
        tcpi_bytes_acked=max(tcb.snd_una - tcb.iss - 1 - (tcb.snd_una > data_end), 0),
        tcpi_bytes_received=max(tcb.rcv_nxt - tcb.receive_base - tcb.fin_received, 0),
        tcpi_segs_out=tcb.segments_out,
        tcpi_segs_in=tcb.segments_in,
        tcpi_notsent_bytes=max(data_end - tcb.snd_nxt, 0),
        tcpi_min_rtt=MASK if rtt.min_rtt is None else int(rtt.min_rtt * 1e6),
        tcpi_data_segs_in=tcb.data_segments_in,
        tcpi_data_segs_out=tcb.data_segments_out,
        tcpi_delivery_rate=int(max(pipe(tcb), mss) / rtt.srtt) if rtt.srtt else 0,
        tcpi_delivered=_segments(tcb.recovery.delivered_total, mss),
        tcpi_bytes_sent=sent + tcb.retransmitted_octets,
        tcpi_bytes_retrans=tcb.retransmitted_octets,
        tcpi_dsack_dups=tcb.recovery.dsacks_received,
        tcpi_reord_seen=int(tcb.recovery.reordering_seen),
        tcpi_rcv_ooopack=tcb.out_of_order_segments,
        tcpi_snd_wnd=tcb.snd_wnd,
        tcpi_rcv_wnd=max(tcb.rcv_adv - tcb.rcv_nxt, 0),
    )
