"""One end of a TCP connection without a network around it, held to what must always be true.

`End` writes and expects streams whose every byte is known by its place, so that nothing can be lost, doubled or altered
without being seen.
"""

from typing import NamedTuple

import pytest

from swos_net.config import TcpConfig
from swos_net.dataplane.burst import BytesPayload
from swos_net.tcp.connection import Connection
from swos_net.tcp.segment import (
    ACK,
    FIN,
    HAS_OTHER_OPTIONS,
    HAS_SACK,
    HAS_TIMESTAMPS,
    NO_PAYLOAD,
    RST,
    SYN,
    Segment,
)
from swos_net.tcp.state import TRANSITIONS, State
from swos_net.wire.tcp import TcpOptions, emit_options, parse_options

MASK = 0xFFFFFFFF
PERIOD = 251
ISS = {"a": 0x7FFFFFF0, "b": 0xFFFFFFE0}  # both cross a border soon
_STREAM = {name: bytes((number * factor + number // 7) & 0xFF for number in range(PERIOD)) * 300 for name, factor in (("a", 7), ("b", 11))}


def stream_bytes(name: str, start: int, length: int) -> bytes:
    """What end `name` writes at `start` of its stream."""
    start %= PERIOD
    assert start + length <= PERIOD * 300
    return _STREAM[name][start : start + length]


class Wired(NamedTuple):
    """A segment on its way."""

    seq: int
    ack: int
    flags: int
    window: int
    options: bytes
    data: bytes
    ecn: int = 0

    def segment(self) -> Segment:
        """As the data plane would hand it over; its options are well-formed."""
        options = parse_options(self.options)
        present = (HAS_TIMESTAMPS if options.ts_val is not None else 0) | (HAS_SACK if options.sack_blocks else 0)
        if options.mss is not None or options.window_scale is not None or options.sack_permitted:
            present |= HAS_OTHER_OPTIONS
        payload = BytesPayload(self.data) if self.data else NO_PAYLOAD
        segment = Segment(self.seq & MASK, self.ack & MASK, self.flags, self.window, payload, len(self.data), present,
                          options.ts_val or 0, options.ts_ecr or 0, self.options)  # fmt: skip
        if hasattr(segment, "ecn"):
            segment.ecn = self.ecn
        return segment


def reachable(state: State) -> frozenset:
    """States after one segment or call: one transition, or two or three where several things come together."""
    found = frozenset({state})
    for _ in range(3):
        found |= frozenset(after for between in found for after in TRANSITIONS[between])
    return found


class End:
    """A connection, its user and what is known about both."""

    def __init__(self, name: str, *, link_mss: int = 1000, ipv4: bool = True, super_segment: int = 8000, **config):
        self.name, self.peer = name, "b" if name == "a" else "a"
        self.config = TcpConfig(**config)
        self.connection = Connection(self.config, ISS[name], link_mss, ipv4=ipv4, super_segment=super_segment)
        self.tcb = self.connection.tcb
        self.link_mss = link_mss
        self.written = self.read = 0
        self.edge: int | None = None  # how far the peer has let us send, in our stream
        self.scale = self.peer_scale = None  # of the SYNs
        self.shown = -1  # right edge of the receive window that we have shown
        self.acked = 0
        self.delivered: list[tuple[int, int]] = []  # of the peer's stream
        self.fin_at: set[int] = set()  # where a FIN was seen in the peer's stream
        self.state = self.tcb.state

    @property
    def peer_start(self) -> int:
        """Sequence number of the first byte of the peer's stream."""
        return (self.tcb.irs if self.tcb.irs_known else ISS[self.peer]) + 1

    # The user

    def write(self, length: int) -> int:
        if self.tcb.state in (State.CLOSED, State.TIME_WAIT) or self.tcb.fin_wanted:
            with pytest.raises(OSError):
                self.connection.send(b"x")
            return 0
        taken = self.connection.send(stream_bytes(self.name, self.written, length))
        self.written += taken
        return taken

    def take(self, length: int) -> int:
        data = self.connection.receive(length)
        assert data == stream_bytes(self.peer, self.read, len(data)), "received bytes are not those that were sent"
        self.read += len(data)
        return len(data)

    # The wire

    def arrives(self, wired: Wired, now: float) -> None:
        flags = wired.flags
        if flags & SYN:
            if self.peer_scale is None and self.tcb.state in (State.SYN_SENT, State.CLOSED):
                scale = parse_options(wired.options).window_scale
                self.peer_scale = -1 if scale is None else min(scale, 14)
        if flags & ACK:
            near = self.tcb.snd_una
            ack = near + (((wired.ack - near) + 0x80000000) & MASK) - 0x80000000 - (ISS[self.name] + 1)
            scaled = not flags & SYN and self.scale is not None and self.peer_scale not in (None, -1)
            self.edge = max(self.edge or 0, ack + (wired.window << (self.peer_scale if scaled else 0)))
        elif flags & SYN:
            self.edge = max(self.edge or 0, wired.window)
        if self.tcb.irs_known:
            first = self.tcb.rcv_nxt
            seq = first + (((wired.seq - first) + 0x80000000) & MASK) - 0x80000000 - self.peer_start + (flags >> 1 & 1)
        else:
            seq = 0  # its SYN says where its stream begins
        if wired.data:
            self.delivered.append((seq, seq + len(wired.data)))
        if flags & FIN:
            self.fin_at.add(seq + len(wired.data))
        self.connection.segment_arrives(wired.segment(), now)
        self.check()

    def arrives_syn(self, wired: Wired) -> None:
        """The SYN that `accept_syn` got."""
        scale = parse_options(wired.options).window_scale
        self.peer_scale = -1 if scale is None else min(scale, 14)
        self.edge = wired.window
        self.check()

    def output(self, now: float, budget: int = 64) -> list[Wired]:
        """What goes out, cut to what a link carries, each checked."""
        sent: list[Wired] = []
        for _ in range(1000):
            sink = Sink()
            again = self.connection.segments_to_send(now, sink, budget)
            assert len(sink.sent) <= budget, "more segments than asked for"
            for item in sink.sent:
                sent += self._checked(*item)
            self.check()
            if not again:
                return sent
        raise AssertionError("output without end")

    def _checked(self, seq, ack, flags, window, options, data, segment_size, ecn) -> list[Wired]:
        assert 0 <= window <= 0xFFFF and len(options) <= 40 and len(options) % 4 == 0
        parsed = parse_options(options)
        near = self.tcb.snd_una
        offset = near + (((seq - near) + 0x80000000) & MASK) - 0x80000000 - (ISS[self.name] + 1) + (flags >> 1 & 1)
        if flags & SYN:
            if parsed.window_scale is not None:
                self.scale = parsed.window_scale
        if data:
            assert 0 <= offset and offset + len(data) <= self.written, "bytes that nobody wrote"
            assert data == stream_bytes(self.name, offset, len(data)), "sent bytes are not those that were written"
            assert segment_size and segment_size + len(options) <= self.link_mss, "longer than the link carries"
            assert self.edge is not None and (offset + len(data) <= self.edge or len(data) == 1), "beyond the peer's window"
        if flags & FIN:
            assert offset + len(data) == self.written, "a FIN before the end"
        if flags & ACK and not flags & RST:
            self._check_acknowledgment(ack, flags, window)
        size = segment_size or max(len(data), 1)
        pieces = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
        return [
            Wired(seq + number * size, ack, flags if number == len(pieces) - 1 else flags & ~FIN, window, options, piece, ecn)
            for number, piece in enumerate(pieces)
        ]

    def _check_acknowledgment(self, ack: int, flags: int, window: int) -> None:
        start = self.peer_start
        acked = start + self.acked + (((ack - start - self.acked) + 0x80000000) & MASK) - 0x80000000 - start
        contiguous = 0
        for low, high in sorted(self.delivered):
            if low <= contiguous:
                contiguous = max(contiguous, high)
        assert acked <= contiguous + (1 if any(at <= contiguous for at in self.fin_at) else 0), "acknowledges what never arrived"
        assert acked >= self.acked, "an acknowledgment goes back"
        self.acked = acked
        scaled = not flags & SYN and self.scale is not None and self.peer_scale not in (None, -1)
        scale = self.scale if scaled else 0
        edge = acked + (window << scale)
        assert edge >= self.shown - (1 << scale) + 1, "the window shrinks"
        self.shown = max(self.shown, edge)

    # Time

    def times_out(self, now: float) -> None:
        deadline = self.connection.next_deadline()
        self.connection.handle_timeout(now)
        if deadline is not None and deadline <= now:
            after = self.connection.next_deadline()
            assert after is None or after > now or after != deadline, "time does not get past a deadline"
        self.check()

    def check(self) -> None:
        """What is true of every connection at every moment."""
        tcb = self.tcb
        assert tcb.iss <= tcb.snd_una <= tcb.snd_nxt
        if tcb.state not in (State.CLOSED, State.FIN_WAIT_2, State.TIME_WAIT):  # the send queue goes with our FIN
            assert tcb.snd_nxt <= tcb.data_end + 1
        if tcb.state not in (State.CLOSED, State.SYN_SENT):
            assert tcb.rcv_nxt <= tcb.rcv_adv
        assert tcb.state in reachable(self.state), f"{self.state.name} to {tcb.state.name}"
        self.state = tcb.state
        if tcb.state is State.CLOSED:
            assert self.connection.next_deadline() is None
        tcb.events.clear()


class Sink:
    """A SegmentSink."""

    def __init__(self):
        self.sent = []

    def add_tcp(self, seq, ack, flags, window, options=b"", ring=None, position=0, length=0, segment_size=0, ecn=0):
        data = ring.peek_at(position, length) if length else b""
        assert len(data) == length, "bytes that the ring does not hold"
        self.sent.append((seq, ack, flags, window, options, data, segment_size, ecn))


class Tools:
    End, Wired, TcpOptions = End, Wired, TcpOptions
    emit_options, stream_bytes = staticmethod(emit_options), staticmethod(stream_bytes)


@pytest.fixture(scope="session")
def tools():
    return Tools
