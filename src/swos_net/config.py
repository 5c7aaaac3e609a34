"""Tunables as frozen data, each default with its source.  Configuration is replaced whole, never edited."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TcpConfig:
    """TCP limits and timers; times in seconds, sizes in bytes."""

    send_buffer: int = 1 << 22
    receive_buffer: int = 1 << 21
    # RFC 6298 2.1, 2.4, 2.5; the floor is Linux's, below the RFC's SHOULD of 1 s
    rto_initial: float = 1.0
    rto_min: float = 0.2
    rto_max: float = 60.0
    # RFC 9293 3.8.3: R2 at least 100 s for data and 3 minutes for SYN; counted in retransmissions like Linux
    data_retries: int = 15
    syn_retries: int = 6
    syn_ack_retries: int = 5
    delayed_ack: float = 0.04          # RFC 9293 3.8.6.3: below 0.5 s
    time_wait: float = 60.0            # 2 MSL
    fin_wait_2: float = 60.0           # an orphan's life in FIN-WAIT-2
    keepalive_idle: float = 7200.0     # RFC 9293 3.8.4
    keepalive_interval: float = 75.0
    keepalive_probes: int = 9
    persist_max: float = 60.0          # RFC 9293 3.8.6.1
    initial_window_segments: int = 10  # RFC 6928
    timestamps: bool = True            # RFC 7323
    window_scaling: bool = True
    sack: bool = True                  # RFC 2018
    dsack: bool = True                 # RFC 2883
    congestion: str = "reno"          # the names of tcp.congestion.CONTROLLERS
    rack: bool = True                  # RFC 8985; off: RFC 6675's duplicate threshold alone
    tail_loss_probe: bool = True       # RFC 8985 7
    f_rto: bool = True                 # RFC 5682
    limited_transmit: bool = True      # RFC 3042
    duplicate_threshold: int = 3       # RFC 5681 3.2
    slow_start_after_idle: bool = True  # RFC 5681 4.1
    hystart: bool = True               # RFC 9406
    pacing: bool = False               # spreads a window over its round trip
    ecn: str = "passive"               # RFC 3168: "off", "passive" (when the peer asks), "on" (ask for it)
    ecn_syn_retries: int = 0           # RFC 3168 6.1.1.1: SYNs sent again that still ask for ECN
    auto_tuning: bool = True           # windows grow from *_buffer_initial to *_buffer
    receive_buffer_initial: int = 65536
    send_buffer_initial: int = 131072
    user_timeout: float = 0.0          # RFC 5482; 0: data_retries alone decides
    quick_acks: int = 16               # segments acknowledged at once while a stream begins
    challenge_acks_per_second: int = 10  # RFC 5961 7, per connection
    syn_cookies: str = "overflow"      # RFC 4987 3.6: "never", "overflow" (when the SYN queue is full), "always"
    mtu_probing: str = "black-hole"    # RFC 4821: "off", "black-hole" (after timeouts), "on"
    base_mss: int = 1024               # RFC 4821 7.2: what a black hole falls back to
    time_wait_max: int = 16384         # connections in TIME-WAIT; the oldest makes room
    # RFC 6191: seconds in TIME-WAIT after which connect() may use the same ports again, given timestamps; None: never
    time_wait_reuse: float | None = 1.0
    orphan_retries: int = 8            # of an orphan whose peer keeps its window shut
    orphans_max: int = 8192            # connections that no user holds; beyond it they are reset
    reset_in_window: bool = False      # any RST in the window is believed (RFC 793 instead of RFC 5961 3.2)
    syn_in_window: bool = False        # a SYN in the window resets (RFC 793 instead of RFC 5961 4.2)
    drop_syn_fin: bool = False         # segments with both are not looked at
    ignore_reset_in_time_wait: bool = True  # RFC 1337 3, fix F1
    lending: bool = True               # the data plane looks after connections while nothing unusual happens
    # what RFCs leave open, "linux" or "freebsd": the order of options, PSH on super-segments, timestamps on RST, whether
    # an ACK repeats a FIN, whether text beyond the advertised window is taken while the buffer has room, whether TIME-WAIT
    # answers segments without ACK
    dialect: str = "linux"


@dataclass(frozen=True, slots=True)
class NeighborConfig:
    """RFC 4861 section 10; times in seconds."""

    reachable_time: float = 30.0
    retransmit_timer: float = 1.0
    delay_first_probe: float = 5.0
    max_multicast_solicit: int = 3
    max_unicast_solicit: int = 3
    cache_size: int = 1024
    held_packets: int = 101           # waiting for one neighbor to be found, as many as Linux keeps (unres_qlen)
    dad_transmits: int = 1


@dataclass(frozen=True, slots=True)
class ReassemblyConfig:
    """Limits on fragments in flight (RFC 791 3.2, RFC 8200 4.5, RFC 8900)."""

    timeout: float = 30.0
    datagrams: int = 64
    bytes: int = 4 << 20
    fragments_per_datagram: int = 64


@dataclass(frozen=True, slots=True)
class StackConfig:
    """Everything tunable of one stack."""

    tcp: TcpConfig = field(default_factory=TcpConfig)
    neighbor: NeighborConfig = field(default_factory=NeighborConfig)
    reassembly: ReassemblyConfig = field(default_factory=ReassemblyConfig)
    hop_limit: int = 64
    icmp_errors_per_second: float = 1000.0  # RFC 1812 4.3.2.8, RFC 4443 2.4 (f)
    icmp_error_burst: int = 50
    max_connections: int = 65536
    max_endpoints: int = 65536
    udp_receive_buffer: int = 212992
    udp_send_buffer: int = 1 << 20
    socket_buffer_max: int = 4 << 20  # what SO_RCVBUF and SO_SNDBUF may ask for
    half_open_limit: int = 4096
