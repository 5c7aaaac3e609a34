"""One TCP connection, sans-IO: the calls of RFC 9293 3.10 and the five verbs of every protocol machine here.

    segment_arrives(segment, now)      bytes in
    segments_to_send(now, sink, n)     segments out
    next_deadline()                    when next
    handle_timeout(now)                time passed
    events                             what to tell the user (drained by the owner)

Read first: state.py, tcb.py, then input.py and output.py.  Knows nothing of IP, ports or sockets.
"""

import errno

from swos_net.config import TcpConfig
from swos_net.dataplane.byte_ring import ByteRing
from swos_net.errors import os_error
from swos_net.tcp import input as tcp_input
from swos_net.tcp import output as tcp_output
from swos_net.tcp.events import Event
from swos_net.tcp.options import MSS_MIN, set_mss, syn_received, window_scale_for
from swos_net.tcp.segment import Segment
from swos_net.tcp.seqnum import MASK, unwrap
from swos_net.tcp.state import SENDING, State
from swos_net.tcp.tcb import Tcb


class Connection:
    """A transmission control block and what may be done with it."""

    __slots__ = ("ipv4", "tcb")

    def __init__(self, config: TcpConfig, iss: int, link_mss: int, *, ipv4: bool, super_segment: int = 65535,
                 ts_offset: int = 0):  # fmt: skip
        """`iss` of isn.py; `link_mss` and `super_segment` in payload bytes as in `Tcb`."""
        self.ipv4 = ipv4
        self.tcb = Tcb(config, iss, link_mss, super_segment=super_segment, ts_offset=ts_offset)
        self.tcb.rcv_wscale = window_scale_for(config.receive_buffer) if config.window_scaling else 0

    @property
    def state(self) -> State:
        return self.tcb.state

    @property
    def events(self) -> list[Event]:
        return self.tcb.events

    # The user's calls (RFC 9293 3.10.1 to 3.10.6)

    def open(self, now: float) -> None:
        """Active OPEN: a SYN is ready to go out."""
        self.tcb.state = State.SYN_SENT

    def accept_syn(self, segment: Segment, now: float) -> None:
        """The SYN of a new connection reached a listener (3.10.7.2): a SYN,ACK is ready to go out."""
        tcb = self.tcb
        tcb.passive = True
        tcb.irs = segment.seq
        tcb.receive_base = tcb.rcv_nxt = tcb.rcv_adv = tcb.irs + 1
        tcb.snd_wl1 = segment.seq
        tcb.snd_wnd = segment.window
        tcb.last_received = now
        syn_received(tcb, segment.option_bytes, self.ipv4, now)
        tcb.state = State.SYN_RECEIVED

    def send(self, data) -> int:
        """Queues a bytes-like object of single bytes; returns how many there was room for (0: wait for WRITABLE).

        BrokenPipeError after the sending side was shut, the connection's own error after it failed.
        """
        ring = self._send_ring()
        taken = ring.write(data)
        if taken < len(data):
            self.tcb.was_full = True
        return taken

    def send_file(self, descriptor: int, offset: int | None, length: int) -> int:
        """Queues bytes of a file without making Python objects of them; 0 when full or at the end of the file."""
        ring = self._send_ring()
        taken = ring.fill_from_file(descriptor, offset, length)
        if not ring.room:
            self.tcb.was_full = True
        return taken

    def _send_ring(self) -> ByteRing:
        tcb = self.tcb
        if tcb.fin_wanted or tcb.state is State.CLOSED or tcb.state is State.TIME_WAIT:
            if tcb.error and tcb.error != errno.EPIPE:
                raise os_error(tcb.error, "the connection has failed")
            raise os_error(errno.EPIPE, "the sending side is closed")
        if tcb.send_ring is None:
            tcb.send_ring = ByteRing(tcb.send_buffer)
        return tcb.send_ring

    @property
    def send_room(self) -> int:
        """Bytes that `send` would take now."""
        ring = self.tcb.send_ring
        return self.tcb.send_buffer if ring is None else ring.room

    @property
    def readable(self) -> int:
        """Bytes that `receive` would give now."""
        ring = self.tcb.receive_ring
        return 0 if ring is None else len(ring)

    @property
    def delivering(self) -> bool:
        """Whether the user has let go and the peer has not acknowledged everything yet."""
        tcb = self.tcb
        return tcb.orphan and tcb.state in SENDING

    @property
    def at_end(self) -> bool:
        """Whether nothing more will ever be readable."""
        tcb = self.tcb
        return not self.readable and (tcb.fin_received or tcb.state is State.CLOSED or tcb.receive_shut)

    def receive(self, length: int) -> bytes:
        """Takes up to `length` bytes; b"" when there are none (see `at_end`)."""
        ring = self.tcb.receive_ring
        if ring is None or not length:
            return b""
        data = ring.read(length)
        self._window_opened()
        return data

    def receive_into(self, buffer, length: int | None = None) -> int:
        """Takes bytes into a writable buffer; returns how many."""
        ring = self.tcb.receive_ring
        if ring is None:
            return 0
        taken = ring.read_into(buffer, length)
        self._window_opened()
        return taken

    def consume(self, length: int) -> None:
        """Drops bytes that were looked at in the receive ring."""
        self.tcb.receive_ring.consume(length)
        self._window_opened()

    def _window_opened(self) -> None:
        """RFC 9293 3.8.6.2.2: a window update of its own only when the peer is about to run dry."""
        tcb = self.tcb
        advertised = tcb.rcv_adv - tcb.rcv_nxt
        if advertised >= tcb.receive_buffer // 2 or tcb.fin_received:
            return
        gain = tcb.receive_room - advertised
        if gain >= 2 * tcb.rcv_mss or gain >= tcb.receive_buffer // 2:
            tcb.ack_now = True

    def shutdown_send(self, now: float) -> None:
        """No more data from us: a FIN follows what is queued (3.10.4)."""
        tcb = self.tcb
        if tcb.fin_wanted:
            return
        tcb.fin_wanted = True
        if tcb.state is State.ESTABLISHED:
            tcb.state = State.FIN_WAIT_1
        elif tcb.state is State.CLOSE_WAIT:
            tcb.state = State.LAST_ACK

    def shutdown_receive(self) -> None:
        """The user wants no more data; what comes is acknowledged and forgotten."""
        tcb = self.tcb
        tcb.receive_shut = True
        if tcb.receive_ring is not None:
            tcb.receive_ring.consume(len(tcb.receive_ring))
            self._window_opened()

    def close(self, now: float) -> None:
        """The user lets go: an orderly end, or a reset when received data was never read (RFC 2525 2.17)."""
        tcb = self.tcb
        if tcb.state is State.SYN_SENT:
            tcp_input.closed(tcb)
            return
        if self.readable:
            self.abort(now)
            return
        tcb.receive_shut = tcb.orphan = True
        self.shutdown_send(now)
        if tcb.state is State.FIN_WAIT_2 and tcb.timers.time_wait is None:
            tcb.timers.time_wait = now + tcb.config.fin_wait_2

    def abort(self, now: float) -> None:
        """ABORT (3.10.5): a reset goes out, everything queued is dropped."""
        tcb = self.tcb
        if tcb.state not in (State.CLOSED, State.SYN_SENT, State.TIME_WAIT):
            tcb.replies.append(tcp_output.reset_segment(tcb))
        if tcb.state is not State.CLOSED:
            tcb.error = tcb.error or errno.ECONNABORTED
            tcp_input.closed(tcb)

    def fail(self, code: int) -> None:
        """The link is gone: the connection ends with an error and nothing is sent."""
        if self.tcb.state is not State.CLOSED:
            tcp_input.fail(self.tcb, code)

    def set_keepalive(self, on: bool, now: float) -> None:
        """SO_KEEPALIVE (3.8.4)."""
        tcb = self.tcb
        tcb.keepalive_on = on
        tcb.timers.keepalive = now + tcb.config.keepalive_idle if on and tcb.state >= State.ESTABLISHED else None

    # The five verbs

    def segment_arrives(self, segment: Segment, now: float) -> None:
        """RFC 9293 3.10.7."""
        tcp_input.segment_arrives(self.tcb, segment, now, self.ipv4)

    def segments_to_send(self, now: float, sink: tcp_output.SegmentSink, budget: int) -> bool:
        """Hands at most `budget` segments to `sink`; True when it should be asked again at once."""
        return tcp_output.segments_to_send(self.tcb, now, sink, budget)

    def next_deadline(self) -> float | None:
        return self.tcb.timers.next_deadline()

    def handle_timeout(self, now: float) -> None:
        """Every deadline that has passed takes its effect; output may be waiting afterwards."""
        tcb = self.tcb
        timers = tcb.timers
        if timers.delayed_ack is not None and timers.delayed_ack <= now:
            timers.delayed_ack = None
            tcb.ack_now = True
        if timers.time_wait is not None and timers.time_wait <= now:
            tcp_input.closed(tcb)
            return
        if timers.retransmission is not None and timers.retransmission <= now:
            self._retransmission_timeout(now)
        if timers.persist is not None and timers.persist <= now:
            self._persist_timeout(now)
        if timers.keepalive is not None and timers.keepalive <= now:
            self._keepalive_timeout(now)

    def _retransmission_timeout(self, now: float) -> None:
        """RFC 6298 (5.4) to (5.7)."""
        tcb = self.tcb
        config = tcb.config
        tcb.timers.retransmission = None
        tcb.retransmissions += 1
        limit = config.data_retries
        if tcb.state is State.SYN_SENT:
            limit = config.syn_retries
        elif tcb.state is State.SYN_RECEIVED:
            limit = config.syn_ack_retries
        if tcb.retransmissions > limit:
            if tcb.state > State.SYN_RECEIVED:
                tcb.replies.append(tcp_output.reset_segment(tcb))
            tcp_input.fail(tcb, errno.ETIMEDOUT)
            return
        tcb.rtt.backoff += 1
        tcb.timed_seq = None
        if tcb.state is State.SYN_SENT or tcb.state is State.SYN_RECEIVED:
            tcb.snd_nxt = tcb.iss
            tcb.congestion.cwnd = tcb.mss  # RFC 5681 3.1: a lost SYN,ACK means an initial window of one segment
            return
        tcb.congestion.on_timeout(tcb.snd_max - tcb.snd_una, now, tcb.retransmissions == 1)
        tcb.recovering = False
        tcb.duplicate_acks = 0
        tcb.recover = tcb.snd_max  # RFC 6582 3.2 (4)
        tcb.snd_nxt = tcb.snd_una

    def _persist_timeout(self, now: float) -> None:
        tcb = self.tcb
        if tcb.snd_una >= tcb.data_end:
            tcb.timers.persist = None  # a probe took the last byte with it
            return
        tcb.retransmissions += 1
        if tcb.retransmissions > tcb.config.data_retries:
            tcb.replies.append(tcp_output.reset_segment(tcb))
            tcp_input.fail(tcb, errno.ETIMEDOUT)
            return
        tcb.persist_backoff += 1
        tcb.timers.persist = now + min(tcb.rtt.rto * (1 << min(tcb.persist_backoff, 10)), tcb.config.persist_max)
        tcb.probe_now = True

    def _keepalive_timeout(self, now: float) -> None:
        tcb = self.tcb
        config = tcb.config
        idle_until = tcb.last_received + config.keepalive_idle
        if tcb.keepalive_probes == 0 and idle_until > now:
            tcb.timers.keepalive = idle_until
            return
        if tcb.keepalive_probes >= config.keepalive_probes:
            tcb.replies.append(tcp_output.reset_segment(tcb))
            tcp_input.fail(tcb, errno.ETIMEDOUT)
            return
        tcb.keepalive_probes += 1
        tcb.replies.append(tcp_output.keepalive_segment(tcb))
        tcb.timers.keepalive = now + config.keepalive_interval

    # What the path says

    def quoted_sequence_valid(self, sequence: int) -> bool:
        """Whether an ICMP error that quotes this sequence number can be about us (RFC 5927 4.1)."""
        tcb = self.tcb
        return tcb.snd_una <= unwrap(sequence & MASK, tcb.snd_una) <= tcb.snd_max

    def path_error(self, code: int) -> None:
        """An ICMP error as an errno: fatal while opening, a hint afterwards (RFC 1122 4.2.3.9, RFC 5461)."""
        if self.tcb.state is State.SYN_SENT:
            tcp_input.fail(self.tcb, code)

    def path_mtu_changed(self, mss: int) -> None:
        """The path carries `mss` payload bytes per segment (without options); what was too big goes again."""
        tcb = self.tcb
        mss = max(mss, MSS_MIN)
        if mss >= tcb.mss + (12 if tcb.timestamps else 0):
            return
        set_mss(tcb, mss)
        if tcb.snd_max > tcb.snd_una and tcb.state > State.SYN_RECEIVED:
            tcb.snd_nxt = tcb.snd_una
            tcb.timed_seq = None
