"""What may be lent to the data plane, that all of it gets there, and that it comes back as it was."""

import pytest

from swos_net.dataplane.batch import FlowPath
from swos_net.dataplane.tcp_flow import FIELDS, LentFlow
from swos_net.tcp import lending
from swos_net.tcp.segment import ACK
from swos_net.tcp.state import State
from swos_net.tcp.timers import Timers
from swos_net.wire.tcp import TcpOptions

# fields that are not variables of the same name in the block
ELSEWHERE = {
    "delivered_total": "recovery", "rack_end": "recovery", "rack_sent_at": "recovery", "rack_rtt": "recovery", "probe_timer_since": "recovery",
    "srtt": "rtt", "rttvar": "rtt", "rto": "rtt", "min_rtt": "rtt",
    "retransmission": "timers", "loss_probe": "timers", "delayed_ack": "timers", "keepalive": "timers",
    "cwnd": "congestion", "ssthresh": "congestion", "slow_start_after_idle": "config", "rto_min": "config", "rto_max": "config",
}  # fmt: skip
RENAMED = {"rtt_round_end": "round_end", "rtt_base": "base", "latest_rtt": "latest"}
OF_THE_LOAN = {"send_ring", "receive_ring", "path", "ensemble", "identity", "loss_probes", "delayed_ack_time", "unlimited_at"}


@pytest.fixture
def flow():
    return LentFlow(bytes(36), FlowPath(bytes(16), 1, bytes(16), 2, 64), 0, None)


@pytest.fixture
def conversing(tcp):
    """Established, with a little in flight and something received, so that few variables are zero."""

    def make(**config):
        harness = tcp(sack=True, timestamps=True, **config).sending(3000, stamps=True)
        harness.output()
        harness.now += 0.05
        harness.acknowledges(3001, ts_ecr=harness.stamp() - 50)
        harness.now += 0.01
        options = TcpOptions(ts_val=harness.stamp(), ts_ecr=harness.stamp())
        harness.arrives(ACK, 1, 3001, bytes(700), options=options)
        harness.connection.send(bytes(900))
        harness.output()
        return harness

    return make




def everything(tcb):
    """Every number that the block and its parts hold."""
    found = {}
    for part in (tcb, tcb.timers, tcb.rtt, tcb.recovery, tcb.congestion):
        for name in part.__slots__:
            value = getattr(part, name, None)
            if isinstance(value, (int, float, type(None))):
                found[type(part).__name__, name] = value
    found["records"] = [repr(record) for record in tcb.scoreboard.records]
    return found


def test_every_field_goes_to_its_place(conversing, flow):
    tcb = conversing().tcb
    lending.lend(tcb, flow)
    for name in FIELDS:
        if name in OF_THE_LOAN:
            continue
        owner = getattr(tcb, ELSEWHERE[name]) if name in ELSEWHERE else tcb.rtt if name in RENAMED else tcb
        value = getattr(owner, RENAMED.get(name, name))
        packed = getattr(flow.c.state, name)
        assert packed == (float("inf") if value is None else value), name


def test_it_comes_back_as_it_went(conversing, flow):
    tcb = conversing().tcb
    before = everything(tcb)
    assert tcb.scoreboard.records and lending.lendable(tcb)
    lending.lend(tcb, flow)
    lending.take_back(tcb, flow)
    assert everything(tcb) == before


def test_changes_come_back(conversing, flow):
    """Each variable by itself: none is forgotten, none lands in another's place."""
    tcb = conversing().tcb
    lending.lend(tcb, flow)
    variables = FIELDS[FIELDS.index("snd_una") :]
    for number, name in enumerate(variables, 1):
        setattr(flow.c.state, name, number)
    flow.c.transmission_count = 0
    lending.take_back(tcb, flow)
    for number, name in enumerate(variables, 1):
        if name in OF_THE_LOAN:
            continue
        owner = getattr(tcb, ELSEWHERE[name]) if name in ELSEWHERE else tcb.rtt if name in RENAMED else tcb
        value = getattr(owner, RENAMED.get(name, name))
        assert value == number or value is True, name
    assert tcb.snd_max == tcb.snd_nxt and not tcb.scoreboard.records
    assert tcb.recovery.delivered_high == tcb.snd_una  # an ACK had come


def set_timer(name):
    return lambda tcb: setattr(tcb.timers, name, 200.0)


def set_variable(name, value=True):
    return lambda tcb: setattr(tcb, name, value)


REASONS = {
    "closing": set_variable("state", State.CLOSE_WAIT),
    "our end is to follow": set_variable("fin_wanted"),
    "their end is known": set_variable("fin_seq", 5),
    "a reset waits": lambda tcb: tcb.replies.append((0, 0, 4)),
    "news for the user": lambda tcb: tcb.events.append(object()),
    "a gap": lambda tcb: tcb.out_of_order.add(tcb.rcv_nxt + 5, tcb.rcv_nxt + 9),
    "recovery": lambda tcb: setattr(tcb.recovery, "phase", 2),
    "loss": lambda tcb: setattr(tcb.scoreboard, "lost_octets", 10),
    "a probe is out": lambda tcb: setattr(tcb.recovery, "probe_end", 10),
    "something went twice": lambda tcb: setattr(tcb.scoreboard.records[0], "retransmissions", 1),
    "a timeout": lambda tcb: setattr(tcb.rtt, "backoff", 1),
    "a closed window": set_variable("snd_wnd", 0),
    "ECN": set_variable("ecn"),
    "pacing": set_variable("paced"),
    "a cork": set_variable("cork"),
    "a trace": set_variable("trace", print),
    "an unread low mark": set_variable("receive_low", 5),
    "an unsent low mark": set_variable("not_sent_low", 5),
    "quick ACKs by order": set_variable("quick_ack_on", False),
    "a user's patience": set_variable("user_timeout", 5.0),
    "no queue yet": set_variable("receive_ring", None),
    "no round trip yet": lambda tcb: setattr(tcb.rtt, "srtt", None),
    "a window in use": set_variable("cwnd_limited"),
    "persist": set_timer("persist"),
    "reordering": set_timer("reordering"),
}


@pytest.mark.parametrize("spoil", REASONS.values(), ids=REASONS)
def test_what_is_not_lent(conversing, spoil):
    tcb = conversing().tcb
    assert lending.lendable(tcb)
    spoil(tcb)
    assert not lending.lendable(tcb)


@pytest.mark.parametrize("config", [{"dialect": "freebsd"}, {"pacing": True}])
def test_whose_connections_are_not_lent(conversing, config):
    assert not lending.lendable(conversing(**config).tcb)


def test_every_timer_is_lent_or_a_reason_not_to(conversing, flow):
    """A timer that somebody adds must not be lost."""
    lent = {"retransmission", "loss_probe", "delayed_ack", "keepalive"}
    for name in set(Timers.__slots__) - lent:
        tcb = conversing().tcb
        setattr(tcb.timers, name, 200.0)
        assert not lending.lendable(tcb), name
