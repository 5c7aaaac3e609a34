"""Header prediction is only a shorter way: with it and without it a connection does the same."""

import random

import pytest

from swos_net.tcp import input as tcp_input
from swos_net.tcp import prediction
from swos_net.tcp.segment import ACK, FIN, PSH
from swos_net.wire.tcp import TcpOptions

MSS = 1000
NOT_COMPARED = ("config", "counters", "timers", "rtt", "congestion", "scoreboard", "recovery", "send_ring", "receive_ring", "out_of_order", "trace", "ensemble")


def variables(thing):
    return {name: getattr(thing, name) for name in thing.__slots__ if hasattr(thing, name)}


def snapshot(harness):
    """Everything a connection remembers, in comparable form."""
    tcb = harness.tcb
    state = {name: value for name, value in variables(tcb).items() if name not in NOT_COMPARED}
    for part in (tcb.timers, tcb.rtt, tcb.recovery):
        state |= {f"{type(part).__name__}.{name}": value for name, value in variables(part).items() if name != "_config"}
    state["cwnd"] = tcb.congestion.cwnd, tcb.congestion.ssthresh
    state["records"] = [repr(record) for record in tcb.scoreboard.records]
    state["out of order"] = list(tcb.out_of_order.ranges)
    state["rings"] = [None if ring is None else (ring.head, ring.tail) for ring in (tcb.send_ring, tcb.receive_ring)]
    return state


def conversation(tcp, seed, stamps, congestion):
    """What a connection sends and remembers, step by step, while a peer does what peers do."""
    chance = random.Random(seed)
    harness = tcp(sack=True, timestamps=stamps, congestion=congestion, delayed_ack=0.04).sending(chance.choice((1, 30_000)), stamps=stamps)
    connection, tcb = harness.connection, harness.tcb
    peer_next, story = 1, []

    def arrives(seq, data=b"", flags=ACK, window=65535):
        ack = tcb.snd_una - tcb.iss + chance.choice((0, 0, 1)) * chance.randint(0, max(tcb.snd_nxt - tcb.snd_una, 0))
        options = TcpOptions(ts_val=harness.stamp() - chance.choice((0, 0, 0, 5)), ts_ecr=harness.stamp()) if stamps else None
        return harness.arrives(flags, seq, ack, data, window, options)

    for _ in range(120):
        what = chance.choice(("text",) * 9 + ("ack",) * 9 + ("send", "read", "time") * 2 + ("gap", "old", "ahead", "window", "end"))
        sent = []
        if what == "text":
            data = bytes(chance.randint(1, MSS))
            sent = arrives(peer_next, data, chance.choice((ACK, ACK | PSH)))
            peer_next = max(peer_next, tcb.rcv_nxt - tcb.irs)
        elif what == "ack":
            sent = arrives(peer_next)
        elif what == "gap":
            sent = arrives(peer_next + chance.randint(1, 3000), bytes(500))
        elif what == "old":
            sent = arrives(max(1, peer_next - chance.randint(1, 600)), bytes(chance.randint(1, 1200)))
        elif what == "ahead":
            sent = arrives(peer_next + chance.randint(1, 1500), window=chance.choice((30_000, 65535)))
        elif what == "window":
            sent = arrives(peer_next, window=chance.choice((0, 100, 65535)))
        elif what == "send" and not tcb.error:
            connection.send(bytes(chance.randint(1, 5000)))
            sent = harness.output()
        elif what == "read":
            connection.receive(chance.randint(1, 4000))
            sent = harness.output()
        elif what == "time":
            sent = harness.passes(chance.choice((0.001, 0.03, 0.25)))
        elif what == "end" and chance.random() < 0.05:
            sent = arrives(peer_next, b"", FIN | ACK)
        sent += harness.passes(0.0007)
        peer_next = max(peer_next, tcb.rcv_nxt - tcb.irs)
        story.append((what, sent, snapshot(harness)))
        if tcb.state.name == "CLOSED":
            break
    return story


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("stamps", [False, True], ids=["plain", "timestamps"])
def test_the_short_way_leads_to_the_same(tcp, monkeypatch, seed, stamps):
    congestion = ("reno", "cubic")[seed % 2]
    taken = []

    def counted(tcb, segment, now):
        done = prediction.expected(tcb, segment, now)
        taken.append(done)
        return done

    monkeypatch.setattr(tcp_input, "expected", counted)
    short = conversation(tcp, seed, stamps, congestion)
    monkeypatch.setattr(tcp_input, "expected", lambda tcb, segment, now: False)
    long = conversation(tcp, seed, stamps, congestion)
    for step, (mine, theirs) in enumerate(zip(short, long, strict=True)):
        assert mine[:2] == theirs[:2], step
        assert not {name: (value, theirs[2][name]) for name, value in mine[2].items() if value != theirs[2][name]}, (step, mine[0])
    assert any(taken), "otherwise nothing was compared"


def test_the_window_of_an_overtaken_segment_is_old(tcp):
    """RFC 9293 3.10.7.4: an ACK that came first, with a higher sequence number, said more lately how much may be sent."""
    harness = tcp(sack=True).sending(1)
    harness.output()
    harness.arrives(ACK, 101, 1, window=60_000)
    harness.arrives(ACK | PSH, 1, 1, bytes(100), window=500)
    assert harness.tcb.rcv_nxt - harness.tcb.irs == 101 and harness.tcb.snd_wnd == 60_000
