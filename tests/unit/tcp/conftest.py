"""One connection and the far end of its wire: segments in, segments out, time by hand."""

from typing import NamedTuple

import pytest

from swos_net.config import TcpConfig
from swos_net.dataplane.burst import BytesPayload
from swos_net.tcp.connection import Connection
from swos_net.tcp.segment import ACK, HAS_OTHER_OPTIONS, HAS_SACK, HAS_TIMESTAMPS, NO_PAYLOAD, SYN, Segment
from swos_net.tcp.state import TRANSITIONS, State
from swos_net.testing.invariants import check_connection
from swos_net.wire.tcp import TcpOptions, emit_options, parse_options

ISS = 0x7FFFFFF0  # ours: sequence numbers cross 2^31 soon
IRS = 0xFFFFFFF0  # the peer's: they wrap soon


class Sent(NamedTuple):
    """A segment that went out; `seq` and `ack` count from the two ISNs, `data` are its payload bytes."""

    seq: int
    ack: int
    flags: int
    window: int
    options: TcpOptions
    option_bytes: bytes
    data: bytes
    segment_size: int
    ecn: int = 0


class Recorder:
    """A SegmentSink."""

    def __init__(self):
        self.sent = []

    def add_tcp(self, seq, ack, flags, window, options=b"", ring=None, position=0, length=0, segment_size=0, ecn=0):
        data = ring.peek_at(position, length) if length else b""
        assert len(data) == length, "bytes that the ring does not hold"
        assert 0 <= window <= 65535 and len(options) % 4 == 0 and len(options) <= 40
        self.sent.append(Sent((seq - ISS) & 0xFFFFFFFF, (ack - IRS) & 0xFFFFFFFF if ack else 0, flags, window,
                              parse_options(options), options, data, segment_size, ecn))  # fmt: skip


class Harness:
    """`connection` under test.  The peer's segments are described relative to the ISNs: its SYN is 0."""

    def __init__(self, *, link_mss=1460, ipv4=True, super_segment=65000, ts_offset=0, now=100.0, **config):
        self.config = TcpConfig(**{"timestamps": False, "window_scaling": False, "sack": False, "quick_acks": 0, "congestion": "reno"} | config)
        self.connection = Connection(
            self.config, ISS, link_mss, ipv4=ipv4, super_segment=super_segment, ts_offset=ts_offset
        )
        self.tcb = self.connection.tcb
        self.now = now
        self.events = []
        self.path = [State.CLOSED]

    # The far end

    def segment(self, flags, seq=0, ack=0, data=b"", window=65535, options=None):
        raw = emit_options(options) if options else b""
        present = 0
        if options:
            present = (HAS_TIMESTAMPS if options.ts_val is not None else 0) | (HAS_SACK if options.sack_blocks else 0)
            if options.mss is not None or options.window_scale is not None or options.sack_permitted:
                present |= HAS_OTHER_OPTIONS
        return Segment((IRS + seq) & 0xFFFFFFFF, (ISS + ack) & 0xFFFFFFFF if flags & ACK else 0, flags, window,
                       BytesPayload(data) if data else NO_PAYLOAD, len(data), present,
                       (options and options.ts_val) or 0, (options and options.ts_ecr) or 0, raw)  # fmt: skip

    def arrives(self, flags, seq=0, ack=0, data=b"", window=65535, options=None):
        """A segment comes in; gives what goes out because of it."""
        self.connection.segment_arrives(self.segment(flags, seq, ack, data, window, options), self.now)
        return self.output()

    def acknowledges(self, ack, *blocks, flags=ACK, seq=1, window=65535, ts_ecr=None):
        """An ACK comes in, with SACK blocks; gives what goes out because of it."""
        absolute = tuple(((ISS + left) & 0xFFFFFFFF, (ISS + right) & 0xFFFFFFFF) for left, right in blocks)
        stamps = {} if ts_ecr is None else {"ts_val": self.stamp(), "ts_ecr": ts_ecr}
        options = TcpOptions(sack_blocks=absolute, **stamps) if blocks or stamps else None
        return self.arrives(flags, seq, ack, window=window, options=options)

    def stamp(self):
        """Our timestamp now; the peer's clock shows the same."""
        return self.tcb.timestamp(self.now)

    def sending(self, octets, *, sack=True, stamps=False, window=65535, rtt=0.1):
        """Established after a round trip of `rtt`, with segments of 1000 octets of payload, and `octets` queued."""
        self.open()
        self.now += rtt
        stamp = self.stamp() if stamps else None
        options = TcpOptions(mss=1012 if stamps else 1000, sack_permitted=sack, ts_val=stamp, ts_ecr=stamp and stamp - round(rtt * 1000))
        self.arrives(SYN | ACK, 0, 1, window=window, options=options)
        assert self.tcb.mss == 1000 and self.tcb.sack_permitted is sack and self.tcb.timestamps is stamps
        assert self.connection.send(bytes(octets)) == octets
        return self

    def after(self, seconds):
        """Time passes, and no deadline with it."""
        deadline = self.connection.next_deadline()
        self.now += seconds
        assert deadline is None or deadline >= self.now, "a deadline was missed"
        return self

    def output(self, budget=64):
        recorder = Recorder()
        self.check()
        more = self.connection.segments_to_send(self.now, recorder, budget)
        assert len(recorder.sent) <= budget, "more segments than asked for"
        self.check()
        check_connection(self.connection, resting=not more)
        return recorder.sent

    def passes(self, seconds):
        """Time passes deadline by deadline; gives what goes out meanwhile."""
        end = self.now + seconds
        sent = self.output()
        while (deadline := self.connection.next_deadline()) is not None and deadline <= end:
            assert deadline >= self.now - 1e-9, "a deadline in the past"
            self.now = max(deadline, self.now)
            self.connection.handle_timeout(self.now)
            sent += self.output()
            assert self.connection.next_deadline() != deadline, "time does not get past a deadline"
        self.now = end
        return sent

    def check(self):
        """What is true of every connection at every moment (RFC 9293 3.3.1)."""
        tcb = self.tcb
        assert tcb.snd_una <= tcb.snd_nxt <= tcb.snd_max
        if tcb.state not in (State.CLOSED, State.FIN_WAIT_2, State.TIME_WAIT):  # the send queue goes with our FIN
            assert tcb.snd_max <= tcb.data_end + 1
        assert tcb.iss <= tcb.snd_una
        assert tcb.rcv_nxt <= tcb.rcv_adv or tcb.state in (State.CLOSED, State.SYN_SENT)
        assert tcb.state is self.path[-1] or tcb.state in reachable(self.path[-1]), (
            f"{self.path[-1].name} to {tcb.state.name}"
        )
        if tcb.state is State.CLOSED:
            assert self.connection.next_deadline() is None
        if tcb.state is not self.path[-1]:
            self.path.append(tcb.state)
        self.events += tcb.events
        tcb.events.clear()

    # Ways into the states

    def open(self):
        self.connection.open(self.now)
        (syn,) = self.output()
        assert syn.flags == SYN and syn.seq == 0
        return self

    def established(self, *, window=65535, options=None):
        """By active open."""
        self.open()
        (ack,) = self.arrives(SYN | ACK, 0, 1, window=window, options=options or TcpOptions(mss=1460))
        assert ack.flags == ACK and (ack.seq, ack.ack) == (1, 1)
        self.events.clear()
        return self

    def accepted(self, *, window=65535, options=None):
        """SYN-RECEIVED, by passive open, the SYN,ACK sent."""
        self.connection.accept_syn(self.segment(SYN, window=window, options=options or TcpOptions(mss=1460)), self.now)
        (answer,) = self.output()
        assert answer.flags == SYN | ACK and (answer.seq, answer.ack) == (0, 1)
        return self


def reachable(state):
    """States that one segment or call may lead to: one transition, or two where ACK and FIN come together."""
    one = TRANSITIONS[state]
    return one | frozenset(after for between in one for after in TRANSITIONS[between])


@pytest.fixture
def tcp():
    """Makes harnesses."""
    return Harness
