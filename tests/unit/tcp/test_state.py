"""The table of transitions, and every state against every kind of segment."""

import itertools
import random

import pytest

from swos_net.tcp.segment import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG
from swos_net.tcp.state import RECEIVING, SENDING, TRANSITIONS, State
from swos_net.wire.tcp import TcpOptions

FLAGS = [
    0, ACK, SYN, FIN, RST, SYN | ACK, FIN | ACK, RST | ACK, PSH | ACK, FIN | PSH | ACK, SYN | FIN, SYN | RST,
    SYN | FIN | ACK, SYN | RST | ACK, FIN | RST | ACK, URG | ACK, SYN | FIN | RST | ACK | PSH | URG | ECE | CWR,
]  # fmt: skip


def test_every_state_is_reached_and_every_state_ends():
    assert set(TRANSITIONS) == set(State)
    assert frozenset().union(*TRANSITIONS.values()) == set(State)
    assert all(after is not state for state, all_after in TRANSITIONS.items() for after in all_after)
    assert TRANSITIONS[State.TIME_WAIT] == {State.CLOSED}


def test_who_may_send_and_receive_data():
    assert State.CLOSE_WAIT in SENDING and State.CLOSE_WAIT not in RECEIVING
    assert State.FIN_WAIT_2 in RECEIVING and State.FIN_WAIT_2 not in SENDING
    assert not (SENDING | RECEIVING) & {State.CLOSED, State.LISTEN, State.SYN_SENT, State.SYN_RECEIVED, State.TIME_WAIT}


def reach(harness, state, options):
    """Takes a connection there by the shortest way."""
    fin = FIN | ACK
    given = TcpOptions(ts_val=10, ts_ecr=0) if options.ts_val is not None else None
    if state is State.CLOSED:
        return harness
    if state is State.SYN_SENT:
        return harness.open()
    if state is State.SYN_RECEIVED:
        return harness.accepted(options=options)
    harness.established(options=options)
    if state is State.ESTABLISHED:
        return harness
    if state in (State.CLOSE_WAIT, State.LAST_ACK):
        harness.arrives(fin, 1, 1, options=given)
        if state is State.LAST_ACK:
            harness.connection.shutdown_send(harness.now)
            harness.output()
        return harness
    harness.connection.shutdown_send(harness.now)
    harness.output()
    if state is State.FIN_WAIT_2 or state is State.TIME_WAIT:
        harness.arrives(ACK, 1, 2, options=given)
    if state is State.TIME_WAIT:
        harness.arrives(fin, 1, 2, options=given)
    if state is State.CLOSING:
        harness.arrives(fin, 1, 1, options=given)
    return harness


STATES = [state for state in State if state is not State.LISTEN]
PLAIN, RICH = TcpOptions(mss=1460), TcpOptions(mss=1460, window_scale=4, sack_permitted=True, ts_val=10, ts_ecr=0)


@pytest.mark.parametrize("options", [PLAIN, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_the_way_there(tcp, state, options):
    harness = reach(tcp(timestamps=True, window_scaling=True, sack=True), state, options)
    assert harness.tcb.state is state


def pairs():
    for state in STATES:
        yield state, 0, PLAIN
        yield state, 0, RICH
        if state in (State.SYN_SENT, State.ESTABLISHED, State.CLOSE_WAIT):
            yield state, 100_000, RICH


@pytest.mark.parametrize("state, queued, options", list(pairs()), ids=lambda value: getattr(value, "name", None))
def test_every_segment_in_every_state(tcp, state, queued, options):
    """The invariants and transitions of `Harness.check`, and nothing raised."""
    sequences = {"last": -1, "next": 0, "inside": 1000, "edge": 65535, "opposite": 1 << 31}
    acknowledgments = {"old": -3, "iss": 0, "first": 1, "fin": 2, "unsent": 1 << 20, "opposite": 1 << 31}
    for flags, seq, ack in itertools.product(FLAGS, sequences.values(), acknowledgments.values()):
        for data, window in ((b"", 65535), (b"x", 0), (b"y" * 3000, 1)):
            harness = reach(tcp(timestamps=True, window_scaling=True, sack=True), state, options)
            if queued:
                harness.connection.send(bytes(queued))
                harness.output()
            rcv_nxt = harness.tcb.rcv_nxt - harness.tcb.irs if state > State.SYN_SENT else 1
            given = None if options is PLAIN else TcpOptions(ts_val=11 if data else 9, ts_ecr=0)
            sent = harness.arrives(flags, rcv_nxt + seq, ack, data, window, given)
            after = harness.tcb.state
            if flags & RST:
                assert not any(segment.flags & RST for segment in sent), "a reset was answered with a reset"
            if state is State.CLOSED:
                assert not sent
            elif flags & RST and state is not State.SYN_SENT:
                # RFC 5961 3.2: only the exact sequence number resets
                assert (after is State.CLOSED) is (seq == 0 and state is not State.TIME_WAIT)  # RFC 1337
            elif flags & SYN and state > State.SYN_RECEIVED:
                assert after is state or state is State.TIME_WAIT
            elif not flags & (ACK | SYN | RST):
                assert after is state, "a segment without ACK changed the state"


def test_a_connection_left_alone_always_ends(tcp):
    """From every state, with a peer that is gone, CLOSED is reached by time alone once both sides were let go."""
    for state in STATES:
        harness = reach(tcp(), state, PLAIN)
        if state is not State.CLOSED:
            harness.connection.close(harness.now)
        harness.passes(3600)
        assert harness.tcb.state is State.CLOSED, state.name


def near(generator, values):
    """Mostly a number that means something, give or take one."""
    return generator.choice(values) + generator.choice((0, 0, 0, 0, -1, 1, generator.randrange(-5000, 5000)))


@pytest.mark.parametrize("seed", range(60))
def test_random_walks_break_nothing_and_end(tcp, seed):
    """Segments, calls and time in any order, several segments before the next output: the invariants hold."""
    generator = random.Random(seed)
    steps = 0
    while steps < 400:
        rich = generator.random() < 0.5
        sizes = dict(receive_buffer=generator.choice((4096, 65536)), link_mss=generator.choice((100, 1460)))
        harness = tcp(timestamps=rich, window_scaling=rich, sack=rich, send_buffer=8192, data_retries=5, **sizes)
        reach(harness, generator.choice((State.ESTABLISHED, *STATES[1:])), RICH if rich else PLAIN)
        stamp = 10
        for _ in range(100):
            steps += 1
            stamp = step(harness, generator, rich, stamp)
            harness.check()
            if harness.tcb.state is State.CLOSED:
                break
        harness.output()
        harness.connection.close(harness.now)
        harness.passes(20_000)
        assert harness.tcb.state is State.CLOSED


def step(harness, generator, rich, stamp):
    connection, tcb = harness.connection, harness.tcb
    action = generator.random()
    if action < 0.6:
        rcv, irs, iss = tcb.rcv_nxt, tcb.irs, tcb.iss
        seq = near(generator, (0, rcv - irs, rcv - irs, tcb.rcv_adv - irs, rcv - irs + 100)) if tcb.irs_known else 0
        ack = near(generator, (tcb.snd_una - iss, tcb.snd_max - iss, tcb.snd_max - iss, tcb.snd_nxt - iss, 1))
        flags = generator.choice((ACK, ACK, ACK, ACK | PSH))
        if generator.random() < 0.1:
            flags = generator.choice((ACK | FIN, SYN, SYN | ACK, 0, RST))
        data = bytes(generator.choice((0, 0, 1, 100, 1460)))
        window = generator.choice((0, 1, 100, 5000, 65535))
        stamp += generator.choice((0, 0, 1, 5))
        given = (
            TcpOptions(mss=1460 if flags & SYN else None, ts_val=stamp - (generator.random() < 0.1), ts_ecr=0)
            if rich
            else None
        )
        connection.segment_arrives(
            harness.segment(flags, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, data, window, given), harness.now
        )
    elif action < 0.72:
        harness.output(generator.choice((1, 2, 64)))
    elif action < 0.8:
        harness.passes(generator.choice((0.01, 0.1, 1.0, 30.0)))
    elif action < 0.9 and not tcb.fin_wanted and tcb.state is not State.TIME_WAIT:
        connection.send(bytes(generator.choice((1, 50, 5000))))
    elif action < 0.98:
        connection.receive(generator.choice((1, 100, 10_000)))
    else:
        generator.choice((
            lambda: connection.shutdown_send(harness.now) if tcb.state > State.SYN_SENT else None,
            connection.shutdown_receive,
            lambda: connection.set_keepalive(generator.random() < 0.5, harness.now),
            lambda: connection.path_mtu_changed(generator.choice((50, 500, 1400))),
        ))()  # fmt: skip
    return stamp
