"""Two connections over a channel that loses, repeats and disorders: every byte arrives once, in order, and both end."""

import errno
import heapq
import random
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swos_net.config import TcpConfig
from swos_net.dataplane.burst import BytesPayload
from swos_net.tcp.connection import Connection
from swos_net.tcp.segment import ACK, HAS_SACK, HAS_TIMESTAMPS, NO_PAYLOAD, RST, SYN, Segment
from swos_net.tcp.state import TRANSITIONS, State
from swos_net.testing.invariants import check_connection
from swos_net.wire.tcp import parse_options

SYNCHRONIZED_END = {State.CLOSED, State.TIME_WAIT}


class End:
    """One side: its connection, what its user wants to send, and what its user has read."""

    def __init__(self, world, config, iss, data, link_mss):
        self.world = world
        self.connection = Connection(config, iss, link_mss, ipv4=True, super_segment=4 * link_mss, ts_offset=iss)
        self.to_send = data
        self.received = bytearray()
        self.other = None
        self.state = State.CLOSED

    def add_tcp(self, seq, ack, flags, window, options=b"", ring=None, position=0, length=0, segment_size=0, ecn=0):
        """A link that cuts super-segments as the data plane does."""
        data = ring.peek_at(position, length) if length else b""
        assert len(data) == length
        step = segment_size or 1 << 20
        for offset in range(0, max(length, 1), step):
            last = offset + step >= length
            piece = data[offset : offset + step]
            if ecn and self.world.random.random() < self.world.marks:
                ecn = 3
            if len(piece) + len(options) <= self.world.largest or not piece:
                self.world.carry(self.other, seq + offset, ack, flags if last else flags & ~9, window, options, piece, ecn)

    def arrives(self, seq, ack, flags, window, options, data, ecn):
        parsed = parse_options(options)
        present = (HAS_TIMESTAMPS if parsed.ts_val is not None else 0) | (HAS_SACK if parsed.sack_blocks else 0)
        payload = BytesPayload(data) if data else NO_PAYLOAD
        segment = Segment(seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, flags, window, payload, len(data), present,
                          parsed.ts_val or 0, parsed.ts_ecr or 0, options)  # fmt: skip
        segment.ecn = ecn
        if (
            self.connection.state is State.CLOSED
            and flags & SYN
            and not flags & ACK
            and not self.received
            and self.world.passive is self
        ):
            self.connection.accept_syn(segment, self.world.now)
        elif self.connection.state is State.CLOSED:
            if not flags & RST:  # 3.10.7.1: what a stack answers when nothing of the connection is left
                self.world.carry(self.other, ack, 0, RST, 0, b"", b"", 0)
        else:
            self.connection.segment_arrives(segment, self.world.now)
        self.check()

    def check(self, resting=False):
        tcb = self.connection.tcb
        check_connection(self.connection, resting=resting)
        if tcb.state is not self.state:
            one = TRANSITIONS[self.state]
            assert tcb.state in one or any(tcb.state in TRANSITIONS[between] for between in one)
            self.state = tcb.state
        tcb.events.clear()

    def output(self):
        while self.connection.segments_to_send(self.world.now, self, 3):
            self.check()
        self.check(resting=True)

    def write(self, length):
        taken = self.connection.send(self.to_send[:length]) if self.to_send else 0
        self.to_send = self.to_send[taken:]

    def read(self, length):
        self.received += self.connection.receive(length)


class World:
    def __init__(self, seed, configs, sizes, *, loss, duplicate, reorder, delay=0.05, marks=0.0, largest=1 << 20):
        """`marks`: share of ECN-capable packets that are marked; `largest`: octets of options and payload that pass."""
        self.random = random.Random(seed)
        self.now = 1.0
        self.marks, self.largest = marks, largest
        self.loss, self.duplicate, self.reorder, self.delay = loss, duplicate, reorder, delay
        self.under_way = []
        self.order = count()
        self.data = [self.random.randbytes(size) for size in sizes]
        self.ends = [End(self, config, self.random.getrandbits(32), data, self.random.choice([100, 536, 1460]))
                     for config, data in zip(configs, self.data)]  # fmt: skip
        self.ends[0].other, self.ends[1].other = self.ends[1], self.ends[0]
        self.passive = self.ends[1]

    def carry(self, end, *segment):
        if self.random.random() < self.loss:
            return
        for _ in range(1 + (self.random.random() < self.duplicate)):
            at = self.now + self.delay + (self.random.random() * 0.2 if self.random.random() < self.reorder else 0)
            heapq.heappush(self.under_way, (at, next(self.order), end, segment))

    def step(self):
        """The next thing that happens; False when nothing will."""
        for end in self.ends:
            end.output()
        times = [end.connection.next_deadline() for end in self.ends] + [
            self.under_way[0][0] if self.under_way else None
        ]
        times = [time for time in times if time is not None]
        if not times:
            return False
        self.now = max(self.now, min(times))
        while self.under_way and self.under_way[0][0] <= self.now:
            _, _, end, segment = heapq.heappop(self.under_way)
            end.arrives(*segment)
        for end in self.ends:
            deadline = end.connection.next_deadline()
            if deadline is not None and deadline <= self.now:
                end.connection.handle_timeout(self.now)
                end.check()
        return True


def transfer(world, *, reads=(1, 5000), writes=(1, 20000)):
    """Both users write all they have and then shut down; both read until the end."""
    first, second = world.ends
    first.connection.open(world.now)
    for _ in range(200_000):
        for end in world.ends:
            if end.connection.state in (State.ESTABLISHED, State.CLOSE_WAIT):
                if end.to_send:
                    end.write(world.random.randint(*writes))
                else:
                    end.connection.shutdown_send(world.now)
            if world.random.random() < 0.5 and end.connection.state is not State.CLOSED or end.connection.at_end:
                end.read(world.random.randint(*reads))
        if not world.step():
            break
        if all(end.connection.at_end and end.connection.state in SYNCHRONIZED_END for end in world.ends):
            break
    for end in world.ends:
        while end.connection.readable:
            end.read(1 << 20)
        # the last acknowledgment was lost, and the peer's TIME-WAIT is over: all had arrived
        forgotten = end.other.connection.state is State.CLOSED and not end.other.connection.tcb.error
        assert not end.connection.tcb.error or (forgotten and end.connection.tcb.error == errno.ECONNRESET)
    assert bytes(second.received) == world.data[0]
    assert bytes(first.received) == world.data[1]
    assert all(end.connection.state in SYNCHRONIZED_END for end in world.ends), [
        end.connection.state.name for end in world.ends
    ]


configs = st.builds(
    TcpConfig,
    send_buffer=st.sampled_from([4096, 16384, 1 << 20]),
    receive_buffer=st.sampled_from([4096, 16384, 1 << 21]),
    timestamps=st.booleans(),
    window_scaling=st.booleans(),
    sack=st.booleans(),
    dsack=st.booleans(),
    congestion=st.sampled_from(["reno", "cubic", "dctcp"]),
    ecn=st.sampled_from(["off", "passive", "on"]),
    rack=st.booleans(),
    tail_loss_probe=st.booleans(),
    f_rto=st.booleans(),
    pacing=st.booleans(),
    mtu_probing=st.sampled_from(["off", "black-hole", "on"]),
    base_mss=st.sampled_from([200, 1024]),
    receive_buffer_initial=st.sampled_from([2048, 65536]),
    send_buffer_initial=st.sampled_from([2048, 131072]),
    data_retries=st.just(100),
    syn_retries=st.just(100),
    syn_ack_retries=st.just(100),
)
rates = st.sampled_from([0.0, 0.05, 0.2])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 1 << 32),
    configs,
    configs,
    st.tuples(st.integers(0, 40_000), st.integers(0, 40_000)),
    rates,
    rates,
    rates,
    rates,
)
def test_every_byte_exactly_once_and_in_order(seed, one, other, sizes, loss, duplicate, reorder, marks):
    transfer(World(seed, (one, other), sizes, loss=loss, duplicate=duplicate, reorder=reorder, marks=marks))


@pytest.mark.parametrize("mode", ["black-hole", "on"])
@pytest.mark.parametrize("sack", [True, False])
def test_through_a_path_that_swallows_large_packets(mode, sack):
    config = TcpConfig(mtu_probing=mode, base_mss=536, sack=sack, data_retries=100)
    for seed in range(4):
        world = World(seed, (config, config), (300_000, 20_000), loss=0.0, duplicate=0.0, reorder=0.0, largest=1000)
        transfer(world)
        tcb = world.ends[0].connection.tcb
        assert tcb.path_mss <= 1000


@pytest.mark.parametrize("seed", range(6))
def test_readers_that_stop_for_a_while_and_tiny_windows(seed):
    config = TcpConfig(receive_buffer=4096, send_buffer=8192, data_retries=100)
    transfer(World(seed, (config, config), (60_000, 60_000), loss=0.03, duplicate=0.02, reorder=0.1), reads=(0, 700))


@pytest.mark.parametrize("seed", range(4))
def test_a_simultaneous_open_delivers_as_well(seed):
    config = TcpConfig(syn_retries=100, data_retries=100)
    world = World(seed, (config, config), (5000, 5000), loss=0.1, duplicate=0.1, reorder=0.1)
    world.passive = None
    world.ends[1].connection.open(world.now)
    world.ends[1].output()
    transfer(world)


def test_sequence_numbers_wrap_many_times():
    config = TcpConfig()
    world = World(7, (config, config), (200_000, 200_000), loss=0.02, duplicate=0.0, reorder=0.0)
    for end in world.ends:
        tcb = end.connection.tcb
        tcb.iss = tcb.snd_una = tcb.snd_nxt = tcb.snd_max = tcb.recovery.recover = (1 << 36) - 20_000
        tcb.send_base = tcb.iss + 1
    transfer(world)
    assert all(end.connection.tcb.snd_max > 1 << 36 for end in world.ends)
