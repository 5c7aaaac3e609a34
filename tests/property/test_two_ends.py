"""Two ends of a connection and a wire in the hands of an adversary, who gets tired in the end: everything arrives.

Read first: conftest.py, where it is said what must hold at every step.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from swos_net.tcp.segment import SYN
from swos_net.tcp.state import State

PATIENT = dict(data_retries=10_000, syn_retries=10_000, syn_ack_retries=10_000)

WHO = st.sampled_from("ab")
STEP = st.one_of(
    st.tuples(st.just("write"), WHO, st.integers(1, 9000)),
    st.tuples(st.just("read"), WHO, st.integers(1, 20_000)),
    st.tuples(st.sampled_from(["deliver", "deliver", "deliver", "drop", "double", "mark"]), WHO, st.integers(0, 30)),
    st.tuples(st.just("all"), WHO, st.just(0)),
    st.tuples(st.just("time"), WHO, st.sampled_from([0.0, 0.001, 0.05, 0.3, 2.0])),
    st.tuples(st.just("timeout"), WHO, st.just(0)),
    st.tuples(st.just("shutdown"), WHO, st.just(0)),
)
CONFIG = st.fixed_dictionaries({}, optional=dict(
    timestamps=st.booleans(), window_scaling=st.booleans(), sack=st.booleans(),
    send_buffer=st.sampled_from([4096, 65536]), receive_buffer=st.sampled_from([4096, 20_000, 1 << 18]),
))  # fmt: skip


class Pair:
    """Ends a and b; `under_way` holds what goes to each."""

    def __init__(self, tools, configs, both_open):
        self.now = 10.0
        self.ends = {name: tools.End(name, **PATIENT, **config) for name, config in zip("ab", configs)}
        self.under_way = {"a": [], "b": []}
        self.wired = tools.Wired
        self.passive = not both_open
        for name in "ab" if both_open else "a":
            self.ends[name].connection.open(self.now)
        self.pump()

    def other(self, name):
        return "b" if name == "a" else "a"

    def pump(self):
        for name, end in self.ends.items():
            self.under_way[self.other(name)] += end.output(self.now)

    def deliver(self, name, index, *, keep=False, mark=False):
        queue = self.under_way[name]
        if not queue:
            return
        index %= len(queue)
        wired = queue[index] if keep else queue.pop(index)
        if mark and wired.ecn:
            wired = wired._replace(ecn=3)
        end = self.ends[name]
        if end.state is State.CLOSED and self.passive and name == "b":
            if wired.flags & SYN:
                end.peer_scale = None
                end.connection.accept_syn(wired.segment(), self.now)
                end.arrives_syn(wired)
                self.passive = False
        else:
            end.arrives(wired, self.now)

    def step(self, what, name, argument):
        end = self.ends[name]
        if what == "write":
            if end.state is not State.CLOSED:
                end.write(argument)
        elif what == "read":
            end.take(argument)
        elif what == "drop":
            if self.under_way[name]:
                self.under_way[name].pop(argument % len(self.under_way[name]))
        elif what in ("deliver", "double", "mark"):
            self.deliver(name, argument, keep=what == "double", mark=what == "mark")
        elif what == "all":
            for _ in range(len(self.under_way[name])):
                self.deliver(name, 0)
        elif what == "time":
            self.pass_time(self.now + argument)
        elif what == "timeout":
            deadline = end.connection.next_deadline()
            if deadline is not None and deadline < self.now + 5.0:  # not the end of TIME-WAIT, which answers its peer
                self.pass_time(max(deadline, self.now))
        elif what == "shutdown" and end.state > State.SYN_SENT:
            end.connection.shutdown_send(self.now)
        self.pump()

    def pass_time(self, until):
        """Deadline by deadline."""
        while True:
            deadlines = [(deadline, name) for name, end in self.ends.items() if (deadline := end.connection.next_deadline()) is not None]
            if not deadlines or min(deadlines)[0] > until:
                break
            deadline, name = min(deadlines)
            self.now = max(deadline, self.now)
            self.ends[name].times_out(self.now)
            self.pump()
        self.now = max(until, self.now)

    def finish(self):
        """A wire without faults and users who read; everything written must come out."""
        a, b = self.ends.values()
        for _ in range(3000):
            for name in "ab":
                while self.under_way[name]:
                    self.deliver(name, 0)
                    self.pump()
                self.ends[name].take(1 << 20)
            self.pump()
            if any(self.under_way.values()):
                continue
            if a.read == b.written and b.read == a.written and all(self.settled(end) for end in (a, b)):
                return
            deadlines = [deadline for end in (a, b) if (deadline := end.connection.next_deadline()) is not None]
            assert deadlines, f"nothing will ever happen: {a.state.name} {b.state.name} {a.written, b.read, b.written, a.read}"
            self.pass_time(max(min(deadlines), self.now))
            self.pump()
        raise AssertionError(f"no end: {a.state.name} {b.state.name} {a.written, b.read, b.written, a.read}")

    @staticmethod
    def settled(end):
        """Whether what its user wanted has happened."""
        return not end.tcb.fin_wanted or end.state in (State.FIN_WAIT_2, State.TIME_WAIT, State.CLOSED)


@settings(max_examples=250)
@given(configs=st.tuples(CONFIG, CONFIG), both_open=st.booleans(), steps=st.lists(STEP, max_size=80))
def test_whatever_happens_everything_arrives(tools, configs, both_open, steps):
    pair = Pair(tools, configs, both_open)
    for step in steps:
        pair.step(*step)
    pair.finish()
    for end in pair.ends.values():
        assert not end.tcb.error


@settings(max_examples=150)
@given(configs=st.tuples(CONFIG, CONFIG), steps=st.lists(STEP, max_size=60), losses=st.lists(st.booleans(), min_size=10, max_size=200))
def test_an_open_connection_survives_any_pattern_of_loss(tools, configs, steps, losses):
    pair = Pair(tools, configs, False)
    pair.finish()
    for name in "ab":
        pair.ends[name].write(30_000)
    pair.pump()
    for lost in losses:
        for name in "ab":
            if pair.under_way[name]:
                pair.step("drop" if lost else "deliver", name, 0)
        if not any(pair.under_way.values()):
            pair.step("timeout", "a", 0)
            pair.step("timeout", "b", 0)
    for step in steps:
        pair.step(*step)
    pair.finish()
