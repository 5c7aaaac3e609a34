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
from swos_net.tcp.congestion import make_controller
from swos_net.tcp.ensemble import Ensemble
from swos_net.tcp.events import Event
from swos_net.tcp.lifecycle import closed, fail
from swos_net.tcp.options import MSS_MIN, set_mss, syn_received, window_scale_for
from swos_net.tcp.receive_window import opened as window_opened
from swos_net.tcp.segment import Segment
from swos_net.tcp.seqnum import MASK, unwrap
from swos_net.tcp.state import SENDING, State
from swos_net.tcp.tcb import Tcb
from swos_net.tcp.timeouts import handle_timeout


class Connection:
    """A transmission control block and what may be done with it."""

    __slots__ = ("ipv4", "tcb")

    def __init__(self, config: TcpConfig, iss: int, link_mss: int, *, ipv4: bool, super_segment: int = 65535,
                 ts_offset: int = 0, counters: dict[str, int] | None = None, ensemble: Ensemble | None = None):  # fmt: skip
        """`iss` of isn.py; `link_mss` and `super_segment` in payload bytes as in `Tcb`; `counters` as the SNMP MIBs name
        them are counted up where given; `ensemble` is shared by the connections to one host."""
        self.ipv4 = ipv4
        self.tcb = Tcb(config, iss, link_mss, super_segment=super_segment, ts_offset=ts_offset, counters=counters, ensemble=ensemble)
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
        self.tcb.syn_wanted = True
        self.tcb.progress_since = now

    def accept_syn(self, segment: Segment, now: float) -> None:
        """The SYN of a new connection reached a listener (3.10.7.2): a SYN,ACK is ready to go out."""
        tcb = self.tcb
        tcb.passive = True
        tcb.irs = segment.seq
        tcb.receive_base = tcb.rcv_nxt = tcb.rcv_adv = tcb.irs + 1
        tcb.snd_wl1 = segment.seq
        tcb.snd_wnd = segment.window
        tcb.last_received = tcb.progress_since = now
        syn_received(tcb, segment, self.ipv4, now)
        tcb.state = State.SYN_RECEIVED
        tcb.syn_wanted = True

    def syn_ack_was_sent(self, now: float) -> None:
        """After `accept_syn`, for a SYN,ACK that went out without this connection (syn_cookie.py)."""
        tcb = self.tcb
        tcb.syn_wanted = False
        if tcb.window_scaling:
            tcb.rcv_wscale = window_scale_for(tcb.config.receive_buffer)  # whatever size the socket asked for since
        tcb.snd_nxt = tcb.snd_max = tcb.iss + 1
        tcb.rcv_wnd = min(tcb.receive_room, 65535)
        tcb.rcv_adv = tcb.rcv_nxt + tcb.rcv_wnd
        tcb.last_ack_sent = tcb.rcv_nxt

    def send(self, data) -> int:
        """Queues a bytes-like object of single bytes; returns how many there was room for (0: wait for WRITABLE).

        BrokenPipeError after the sending side was shut, the connection's own error after it failed.
        """
        tcb = self.tcb
        ring = tcb.send_ring
        if ring is None or tcb.fin_wanted or tcb.state is not State.ESTABLISHED:
            ring = self._send_ring()
        c = ring.c
        room = tcb.send_limit - c.tail + c.head
        if tcb.not_sent_low:
            room = min(room, self._not_sent_room())
        length = len(data)
        if length > room:
            tcb.was_full = True
            if room <= 0:
                return 0
            return ring.write(memoryview(data)[:room])
        taken = ring.write(data)
        if taken < length:
            tcb.was_full = True
        return taken

    def send_file(self, descriptor: int, offset: int | None, length: int) -> int:
        """Queues bytes of a file without making Python objects of them; 0 when full or at the end of the file."""
        ring = self._send_ring()
        room = min(self.tcb.send_limit - len(ring), self._not_sent_room())
        if room <= 0:
            self.tcb.was_full = True
            return 0
        taken = ring.fill_from_file(descriptor, offset, min(length, room))
        if len(ring) >= self.tcb.send_limit:
            self.tcb.was_full = True
        return taken

    def _not_sent_room(self) -> int:
        """What TCP_NOTSENT_LOWAT leaves room for, in whole segments."""
        tcb = self.tcb
        if not tcb.not_sent_low:
            return tcb.send_limit
        room = tcb.not_sent_low - (tcb.data_end - tcb.snd_nxt)
        return -(-room // tcb.mss) * tcb.mss if room > 0 else 0

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
        return self.tcb.send_limit if ring is None else max(min(ring.room, self.tcb.send_limit - len(ring), self._not_sent_room()), 0)

    @property
    def writable(self) -> bool:
        """Whether a writer should go on; once this was False, WRITABLE follows when it would be True."""
        tcb = self.tcb
        if tcb.writable:
            return True
        tcb.was_full = True
        return False

    @property
    def readable(self) -> int:
        """Bytes that `receive` would give now."""
        ring = self.tcb.receive_ring
        return 0 if ring is None else len(ring)

    @property
    def readable_enough(self) -> bool:
        """Whether a reader should come (SO_RCVLOWAT)."""
        ring = self.tcb.receive_ring
        return ring is not None and len(ring) >= self.tcb.receive_low

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
        if data:
            window_opened(self.tcb)
        return data

    def receive_into(self, buffer, length: int | None = None) -> int:
        """Takes bytes into a writable buffer; returns how many."""
        ring = self.tcb.receive_ring
        if ring is None:
            return 0
        taken = ring.read_into(buffer, length)
        if taken:
            window_opened(self.tcb)
        return taken

    def consume(self, length: int) -> None:
        """Drops bytes that were looked at in the receive ring."""
        self.tcb.receive_ring.consume(length)
        window_opened(self.tcb)

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
        """The user sees the end of the stream once everything that is there has been read."""
        self.tcb.receive_shut = True

    def close(self, now: float) -> None:
        """The user lets go: an orderly end, or a reset when received data was never read (RFC 2525 2.17)."""
        tcb = self.tcb
        if tcb.state is State.SYN_SENT:
            closed(tcb)
            return
        if self.readable:
            self.abort(now)
            return
        tcb.receive_shut = tcb.orphan = True
        self.shutdown_send(now)
        if tcb.state is State.FIN_WAIT_2 and tcb.timers.time_wait is None:
            tcb.timers.time_wait = now + tcb.fin_wait_2

    def abort(self, now: float) -> None:
        """ABORT (3.10.5): a reset goes out, everything queued is dropped."""
        tcb = self.tcb
        if tcb.state not in (State.CLOSED, State.SYN_SENT, State.TIME_WAIT):
            tcb.replies.append(tcp_output.reset_segment(tcb))
        if tcb.state is not State.CLOSED:
            tcb.error = tcb.error or errno.ECONNABORTED
            closed(tcb)

    def forget(self) -> None:
        """The end of TIME-WAIT before its time (RFC 9293 3.10.7.4 would have it wait: memory is short)."""
        if self.tcb.state is State.TIME_WAIT:
            closed(self.tcb)

    def fail(self, code: int) -> None:
        """The link is gone: the connection ends with an error and nothing is sent."""
        if self.tcb.state is not State.CLOSED:
            fail(self.tcb, code)

    def set_keepalive(self, on: bool, now: float) -> None:
        """SO_KEEPALIVE (3.8.4)."""
        tcb = self.tcb
        tcb.keepalive_on = on
        tcb.timers.keepalive = now + tcb.keepalive_idle if on and tcb.state >= State.ESTABLISHED else None

    def set_congestion(self, name: str) -> None:
        """TCP_CONGESTION: another controller goes on from the present window; ValueError for an unknown name."""
        tcb = self.tcb
        before = tcb.congestion
        tcb.congestion = make_controller(name, tcb.mss, tcb.config.initial_window_segments, hystart=tcb.config.hystart)
        if tcb.state > State.SYN_RECEIVED:
            tcb.congestion.cwnd = before.cwnd
            tcb.congestion.ssthresh = before.ssthresh

    def set_pacing_rate(self, octets_per_second: float | None) -> None:
        """SO_MAX_PACING_RATE; None takes the limit away."""
        self.tcb.pacing_rate_max = octets_per_second
        self.tcb.paced = self.tcb.config.pacing or octets_per_second is not None

    def set_send_buffer(self, octets: int) -> None:
        """SO_SNDBUF: a fixed size instead of auto-tuning; a queue that exists keeps its capacity."""
        tcb = self.tcb
        tcb.send_buffer = tcb.send_limit = octets if tcb.send_ring is None else min(octets, tcb.send_ring.capacity)

    def set_receive_buffer(self, octets: int) -> None:
        """SO_RCVBUF: a fixed size instead of auto-tuning; what was offered is not taken back (RFC 9293 3.8.6)."""
        tcb = self.tcb
        tcb.receive_buffer = tcb.receive_limit = octets if tcb.receive_ring is None else min(octets, tcb.receive_ring.capacity)
        if tcb.snd_max == tcb.iss and (tcb.window_scaling if tcb.irs_known else tcb.config.window_scaling):
            tcb.rcv_wscale = window_scale_for(octets)  # our SYN has not said it yet

    def set_receive_low(self, octets: int) -> int:
        """SO_RCVLOWAT: READABLE waits for so many octets, half of the buffer at most; returns how many it will be."""
        tcb = self.tcb
        tcb.receive_low = max(min(octets, tcb.receive_buffer // 2), 1)
        tcb.receive_limit = max(tcb.receive_limit, min(2 * tcb.receive_low, tcb.receive_buffer))
        if self.readable_enough:
            tcb.events.append(Event.READABLE)
        return tcb.receive_low

    def trim(self) -> None:
        """Gives back the memory of queues that are empty: a connection that idles is small."""
        for ring in (self.tcb.send_ring, self.tcb.receive_ring):
            if ring is not None:
                ring.trim()

    # The five verbs

    def segment_arrives(self, segment: Segment, now: float) -> None:
        """RFC 9293 3.10.7."""
        tcp_input.segment_arrives(self.tcb, segment, now, self.ipv4)

    def segments_to_send(self, now: float, sink: tcp_output.SegmentSink, budget: int) -> bool:
        """Hands at most `budget` segments to `sink`; True when it should be asked again at once."""
        return tcp_output.segments_to_send(self.tcb, now, sink, budget)

    @property
    def has_output(self) -> bool:
        """Whether `segments_to_send` has anything to look at."""
        tcb = self.tcb
        if tcb.ack_now or tcb.replies or tcb.syn_wanted or tcb.fin_wanted:
            return True
        ring = tcb.send_ring
        if ring is not None and tcb.snd_nxt < tcb.send_base + ring.c.tail:
            return True
        return tcb.scoreboard.lost_octets > 0 or tcb.loss_probe_wanted or tcb.probe_now

    def next_deadline(self) -> float | None:
        return self.tcb.timers.next_deadline()

    def handle_timeout(self, now: float) -> None:
        """Every deadline that has passed takes its effect; output may be waiting afterwards."""
        handle_timeout(self.tcb, now)

    # What the path says

    def quoted_sequence_valid(self, sequence: int) -> bool:
        """Whether an ICMP error that quotes this sequence number can be about us (RFC 5927 4.1)."""
        tcb = self.tcb
        return tcb.snd_una <= unwrap(sequence & MASK, tcb.snd_una) < tcb.snd_max

    def path_error(self, code: int) -> None:
        """An ICMP error as an errno: fatal while opening, a hint afterwards (RFC 1122 4.2.3.9, RFC 5461)."""
        if self.tcb.state is State.SYN_SENT:
            fail(self.tcb, code)
        else:
            self.tcb.soft_error = code

    def path_mtu_changed(self, mss: int) -> None:
        """The path carries `mss` payload bytes per segment (without options); what was too big goes again."""
        tcb = self.tcb
        mss = max(mss, MSS_MIN)
        if tcb.mtu_probe is not None:
            tcb.mtu_probe.low = min(tcb.mtu_probe.low, mss)
            tcb.mtu_probe.high = min(tcb.mtu_probe.high, mss)
        if mss >= tcb.path_mss:
            return
        set_mss(tcb, mss)
        if tcb.state > State.SYN_RECEIVED:
            # RFC 1191 6.3: what was too big is lost, which says nothing of congestion
            tcb.scoreboard.mark_all_lost()
            tcb.recovery.forced = True
