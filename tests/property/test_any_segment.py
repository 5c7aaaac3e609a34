"""Every state meets every kind of segment, and one connection meets any sequence of segments, timers and calls.

Read first: conftest.py.  The peer here may be broken or hostile in everything but the bytes of its stream.
"""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swos_net.tcp.segment import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG
from swos_net.tcp.state import State

ISS, PEER_ISS = 0x7FFFFFF0, 0xFFFFFFE0  # of ends a and b
MASK = 0xFFFFFFFF

STATES = [state for state in State if state is not State.LISTEN]
FLAGS = [0, ACK, SYN, SYN | ACK, FIN | ACK, RST, RST | ACK, FIN, ACK | PSH, ACK | URG, ACK | ECE, ACK | CWR | PSH, SYN | ECE | CWR,
         SYN | FIN | RST | ACK | PSH | URG, FIN | SYN]  # fmt: skip
# seq relative to what the peer would send next; ack relative to what we have sent
SEQS = {"old": -5000, "before": -1, "next": 0, "inside": 700, "edge": 4095, "beyond": 4096, "far": 1 << 20, "opposite": 1 << 31}
ACKS = {"old": -70_000, "before": -1, "first": 0, "half": 500, "all": None, "never": 1 << 20, "opposite": 1 << 31}
LENGTHS = [0, 1, 1000, 9000]
WINDOWS = [0, 1, 4096, 0xFFFF]


def connection(tools, state, **config):
    """End a in `state`, with data of its own under way where it may have some; and the time."""
    end, now = tools.End("a", **{"receive_buffer": 4096, "send_buffer": 65536} | config), 50.0
    peer = Peer(tools, end)
    if state is State.CLOSED:
        return end, peer, now
    if state is State.SYN_RECEIVED:
        syn = peer.wired(SYN, -1, options=tools.TcpOptions(mss=1000, window_scale=0, sack_permitted=True, ts_val=1000, ts_ecr=0))
        end.connection.accept_syn(syn.segment(), now)
        end.arrives_syn(syn)
        end.output(now)
        return end, peer, now
    end.connection.open(now)
    end.output(now)
    if state is State.SYN_SENT:
        return end, peer, now
    peer.timestamps = end.config.timestamps
    end.arrives(peer.wired(SYN | ACK, -1, None, options=tools.TcpOptions(
        mss=1000, window_scale=0, sack_permitted=True, ts_val=1000, ts_ecr=0)), now)  # fmt: skip
    end.write(3000)
    end.output(now)
    if state in (State.CLOSE_WAIT, State.LAST_ACK):
        end.arrives(peer.wired(ACK | FIN, 0, 0), now)
        peer.sent = 1
    if state >= State.FIN_WAIT_1 and state is not State.CLOSE_WAIT:
        end.connection.shutdown_send(now)
    end.output(now)
    if state is State.CLOSING:
        end.arrives(peer.wired(ACK | FIN, 0, 0), now)
        peer.sent = 1
    if state in (State.FIN_WAIT_2, State.TIME_WAIT):
        for _ in range(10):
            end.arrives(peer.wired(ACK, 0, None), now)
            end.output(now)
    if state is State.TIME_WAIT:
        end.arrives(peer.wired(ACK | FIN, 0, None), now)
        peer.sent = 1
    end.output(now)
    assert end.state is state
    return end, peer, now


class Peer:
    """Makes segments of end b, in relation to what end a has sent and received."""

    def __init__(self, tools, end):
        self.tools, self.end = tools, end
        self.timestamps = False
        self.sent = 0

    def wired(self, flags, seq=0, ack=0, length=0, window=0xFFFF, options=None, ecn=0):
        """`seq` from what a expects next; `ack` from a's snd_una, None for all that it sent."""
        tcb = self.end.tcb
        expected = tcb.rcv_nxt if tcb.irs_known else PEER_ISS + 1
        number = (expected + seq) & MASK
        acknowledged = getattr(tcb, "snd_max", tcb.snd_nxt) if ack is None else tcb.snd_una + ack
        if options is None and self.timestamps:
            options = self.tools.TcpOptions(ts_val=1000, ts_ecr=0)
        raw = self.tools.emit_options(options) if options else b""
        # the stream of b has one content, wherever a segment of it lies
        opens = flags & SYN and not tcb.irs_known
        place = 0 if opens else number + (flags >> 1 & 1) - self.end.peer_start
        data = self.tools.stream_bytes("b", ((place + (1 << 31)) & MASK) - (1 << 31), length) if length else b""
        return self.tools.Wired(number, acknowledged & MASK if flags & ACK else 0, flags, window, raw, data, ecn)


def proceeds(end, now):
    """Output and time go on after whatever came; the answers are few."""
    assert len(end.output(now)) <= 80
    for _ in range(3):
        deadline = end.connection.next_deadline()
        if deadline is None:
            break
        now = max(deadline, now)
        end.times_out(now)
        end.output(now)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_every_state_and_every_kind_of_segment(tools, state):
    """All pairs of (flags, seq), (flags, ack) and so on, by going through each list at its own pace."""
    kinds = list(itertools.product(FLAGS, SEQS.values(), ACKS.values()))
    for number, (flags, seq, ack) in enumerate(kinds):
        end, peer, now = connection(tools, state)
        length, window = LENGTHS[number % 4], WINDOWS[number // 4 % 4]
        answered = bool(flags & RST)
        before = end.tcb.rcv_nxt
        end.arrives(peer.wired(flags, seq, ack, length, window, ecn=number % 4), now)
        answers = end.output(now)
        if answered:
            assert not any(answer.flags & RST for answer in answers), "a reset is never answered with a reset"
        if state is State.CLOSED:
            assert not answers
        if state is not State.SYN_SENT and length and seq > 0:
            assert end.tcb.rcv_nxt == before, "what does not follow is not taken"
        end.take(1 << 20)
        proceeds(end, now)


def blocks(una, sent):
    """SACK blocks, honest and not; numbers are those of the wire."""
    places = [una - 2000, una - 1, una, una + 1, una + 1000, sent - 1, sent, sent + 1, sent + (1 << 20), una + (1 << 31)]
    return [((left & MASK), (right & MASK)) for left, right in itertools.product(places, places)]


@pytest.mark.parametrize("state", [state for state in STATES if state > State.SYN_RECEIVED], ids=lambda state: state.name)
def test_every_kind_of_sack_block(tools, state):
    end, _, _ = connection(tools, state)
    every = blocks(end.tcb.snd_una, end.tcb.snd_nxt)
    for number, block in enumerate(every):
        end, peer, now = connection(tools, state)
        chosen = (block, every[(number * 37 + 11) % len(every)])[: 1 + number % 2]
        for ack in (0, 500):
            options = tools.TcpOptions(sack_blocks=chosen, ts_val=1001, ts_ecr=0)
            end.arrives(peer.wired(ACK, 0, ack, options=options), now)
            end.output(now)
        proceeds(end, now)


WEIRD = [b"", b"\x01" * 40, b"\0" * 4, b"\x08\x0a" + bytes(8) + b"\0\0", b"\x05\x02\0\0", b"\x05\x0a" + bytes(8) + b"\0\0",
         b"\x02\x04\0\0", b"\x02\x04\xff\xff", b"\x03\x03\xff\0", b"\x04\x02\x04\x02", b"\x1e\x04\0\0", b"\xfd\x28" + bytes(38),
         b"\x08\x0a\xff\xff\xff\xff\xff\xff\xff\xff\0\0", b"\x13\x12" + bytes(16) + b"\0\0", b"\x05\x22" + b"\xff" * 32 + bytes(6)]  # fmt: skip


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_weird_options(tools, state):
    for options, flags in itertools.product(WEIRD, (ACK, SYN, SYN | ACK, FIN | ACK, RST)):
        end, peer, now = connection(tools, state)
        end.arrives(peer.wired(flags, -1 if flags & SYN else 0, None, 10 if flags == ACK else 0)._replace(options=options), now)
        end.output(now)
        end.take(100)
        proceeds(end, now)


SEGMENT = st.tuples(
    st.just("segment"), st.sampled_from(FLAGS + [ACK] * 15), st.one_of(st.sampled_from([*SEQS.values(), 0, 0, 0]), st.integers(-3000, 6000)),
    st.one_of(st.sampled_from([*ACKS.values(), None, None]), st.integers(-3000, 9000)), st.integers(0, 3000),
    st.sampled_from(WINDOWS), st.integers(0, 3), st.sampled_from([None, "none", "old", "new", "sack"]), st.integers(0, 99),
)  # fmt: skip
CALL = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 20_000)), st.tuples(st.just("read"), st.integers(1, 20_000)),
    st.tuples(st.just("time"), st.sampled_from([0.0, 0.01, 0.3, 5.0])), st.tuples(st.just("timeout")),
    st.tuples(st.sampled_from(["shutdown", "shutdown_receive", "keepalive"])), st.tuples(st.sampled_from(["close", "abort"])),
    st.tuples(st.just("mtu"), st.integers(0, 1500)), st.tuples(st.just("icmp"), st.sampled_from([111, 113])),
)  # fmt: skip


@settings(max_examples=400)
@given(state=st.sampled_from(STATES), steps=st.lists(st.one_of(SEGMENT, SEGMENT, CALL), max_size=40))
def test_any_sequence_of_segments_timers_and_calls(tools, state, steps):
    end, peer, now = connection(tools, state)
    tcp = end.connection
    for what, *arguments in steps:
        if what == "segment":
            flags, seq, ack, length, window, ecn, stamp, number = arguments
            options = None
            if stamp == "sack":
                every = blocks(end.tcb.snd_una, end.tcb.snd_nxt)
                options = tools.TcpOptions(ts_val=1000, ts_ecr=0, sack_blocks=(every[number], every[number * 7 % 100]))
            elif stamp is not None and stamp != "none":
                options = tools.TcpOptions(ts_val=1000 + (number if stamp == "new" else -number), ts_ecr=number)
            wired = peer.wired(flags, seq, ack, length, window, options, ecn)
            end.arrives(wired._replace(options=b"") if stamp == "none" else wired, now)
        elif what == "write" and end.state is not State.CLOSED:
            end.write(arguments[0])
        elif what == "read":
            end.take(arguments[0])
        elif what == "time":
            now += arguments[0]
        elif what == "shutdown" and end.state > State.SYN_SENT:
            tcp.shutdown_send(now)
        elif what == "shutdown_receive":
            tcp.shutdown_receive()
            end.read = None
        elif what == "keepalive":
            tcp.set_keepalive(True, now)
        elif what == "close" and end.state is not State.CLOSED:
            tcp.close(now)
        elif what == "abort":
            tcp.abort(now)
        elif what == "mtu" and end.state > State.SYN_RECEIVED:
            tcp.path_mtu_changed(arguments[0])
        elif what == "icmp":
            tcp.path_error(arguments[0])
        deadline = tcp.next_deadline()
        if deadline is not None and (what == "timeout" or deadline <= now):
            now = max(deadline, now)
            end.times_out(now)
        end.check()
        end.output(now)
        if end.read is None:
            break
    proceeds(end, now)
