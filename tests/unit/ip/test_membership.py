"""What a host says of its groups, when, and in whose version (RFC 3376, RFC 3810, RFC 2236)."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.address import parse_address
from swos_net.ip.membership import SOURCES_MAX, Membership
from swos_net.wire import igmp, mld
from swos_net.wire.igmp import (
    CHANGE_TO_EXCLUDE_MODE,
    CHANGE_TO_INCLUDE_MODE,
    MODE_IS_EXCLUDE,
    MODE_IS_INCLUDE,
    Leave,
    Query,
    Record,
    Report,
)

GROUPS = {True: [parse_address(f"239.0.0.{n}") for n in (1, 2, 3)], False: [parse_address(f"ff05::{n}") for n in (1, 2, 3)]}
ROUTERS = {True: igmp.ALL_REPORT_ROUTERS, False: mld.ALL_REPORT_ROUTERS}
SOURCE = {True: parse_address("192.0.2.1"), False: parse_address("2001:db8::1")}


class Host:
    def __init__(self, ipv4=True, mtu=1500):
        self.now = 1000.0
        self.ipv4 = ipv4
        self.groups = GROUPS[ipv4]
        self.machine = Membership(ipv4=ipv4, mtu=mtu, random=Random(1))

    def said(self):
        return self.machine.packets_to_send(self.now)

    def over(self, seconds):
        """[(time from now, destination, message)] of what is said until then."""
        end, out = self.now + seconds, []
        begin = self.now
        while (deadline := self.machine.next_deadline()) is not None and deadline <= end:
            assert deadline >= self.now
            self.now = deadline
            self.machine.handle_timeout(self.now)
            said = self.said()
            assert said, "no time passes for nothing"
            out += [(self.now - begin, *packet) for packet in said]
        self.now = end
        return out

    def quiet(self, *joined):
        for group in joined:
            self.machine.join(group, self.now)
        self.said()
        self.over(100.0)
        return self

    def query(self, group=None, response_time=10.0, version=3, **fields):
        self.machine.query_received(Query(group, response_time, version, **fields), self.now)


@pytest.fixture(params=[True, False], ids=["ipv4", "ipv6"])
def host(request):
    return Host(request.param)


def one(group, kind):
    return Report(3, (Record(kind, group),))


def test_joining_is_said_twice_and_leaving_too(host):
    group = host.groups[0]
    for act, kind in ((host.machine.join, CHANGE_TO_EXCLUDE_MODE), (host.machine.leave, CHANGE_TO_INCLUDE_MODE)):
        act(group, host.now)
        act(group, host.now)
        assert host.said() == [(ROUTERS[host.ipv4], one(group, kind))]
        ((after, destination, message),) = host.over(1.0)
        assert (destination, message) == (ROUTERS[host.ipv4], one(group, kind))
        assert host.machine.next_deadline() is None


def test_a_change_brings_forward_what_is_still_to_be_said(host):
    first, second, _ = host.groups
    host.machine.join(first, host.now)
    host.said()
    host.machine.join(second, host.now)
    ((_, message),) = host.said()
    assert {record.group for record in message.records} == {first, second}
    ((_, _, message),) = host.over(10.0)
    assert [record.group for record in message.records] == [second], "the first was said often enough"
    host.machine.join(host.groups[2], host.now)
    host.machine.leave(host.groups[2], host.now)
    assert [message.records[0].kind for _, message in host.said()] == [CHANGE_TO_EXCLUDE_MODE, CHANGE_TO_INCLUDE_MODE]
    assert [message for _, _, message in host.over(10.0)] == [one(host.groups[2], CHANGE_TO_INCLUDE_MODE)]


def test_every_host_is_in_the_all_hosts_group(host):
    for text in ("224.0.0.1", "ff02::1", "ff01::5"):
        host.machine.join(parse_address(text), host.now)
    assert not host.said() and not host.machine.groups


def test_the_answer_to_a_general_query(host):
    host.quiet(*host.groups)
    host.query(response_time=4.0)
    assert not host.said(), "not all hosts at once"
    ((after, destination, message),) = host.over(4.0)
    assert 0 < after <= 4.0 and destination == ROUTERS[host.ipv4]
    assert message == Report(3, tuple(Record(MODE_IS_EXCLUDE, group) for group in host.groups))
    host.query(response_time=4.0)
    host.query(response_time=1.0)
    assert len(host.over(10.0)) == 1, "one answer for both"


def test_the_answer_to_a_query_for_a_group(host):
    host.quiet(*host.groups[:2])
    host.query(host.groups[0], 2.0)
    host.query(host.groups[2], 2.0)
    assert [message for _, _, message in host.over(2.0)] == [one(host.groups[0], MODE_IS_EXCLUDE)]
    host.query(host.groups[0], 100.0)
    host.query(None, 1.0)
    assert len(host.over(1.0)) == 1
    assert len(host.over(100.0)) <= 1


def test_the_answer_to_a_query_for_sources(host):
    group, source = host.groups[0], SOURCE[host.ipv4]
    host.quiet(group)
    host.query(group, 2.0, sources=(source,))
    (answer,) = [message for _, _, message in host.over(2.0)]
    assert answer == Report(3, (Record(MODE_IS_INCLUDE, group, (source,)),))
    other = source[:15] + b"\x77"
    host.query(group, 2.0, sources=(source,))
    host.query(group, 2.0, sources=(other,))
    (answer,) = [message for _, _, message in host.over(2.0)]
    assert set(answer.records[0].sources) == {source, other}
    host.query(group, 2.0, sources=(source,))
    host.query(group, 2.0)
    assert [message for _, _, message in host.over(2.0)] == [one(group, MODE_IS_EXCLUDE)]
    many = tuple(source[:14] + bytes(divmod(number, 256)) for number in range(SOURCES_MAX + 1))
    host.query(group, 2.0, sources=many)
    assert [message for _, _, message in host.over(2.0)] == [one(group, MODE_IS_EXCLUDE)], "so many are not remembered"


def test_who_has_left_does_not_answer(host):
    group = host.groups[0]
    host.quiet(group)
    host.query(group, 5.0)
    host.machine.leave(group, host.now)
    host.said()
    assert [message for _, _, message in host.over(10.0)] == [one(group, CHANGE_TO_INCLUDE_MODE)]


def test_robustness_is_the_queriers(host):
    host.quiet()
    host.query(robustness=4)
    host.over(10.0)
    host.machine.join(host.groups[0], host.now)
    assert len(host.said()) + len(host.over(10.0)) == 4


def test_reports_fit_the_link(host):
    host = Host(host.ipv4, mtu=576 if host.ipv4 else 1280)
    prefix = host.groups[0][:14]
    host.quiet(*(prefix + bytes(divmod(number, 256)) for number in range(256, 456)))
    host.query()
    reports = [message for _, _, message in host.over(10.0)]
    assert sum(len(report.records) for report in reports) == 200 and len(reports) > 1
    for report in reports:
        length = len(igmp.emit(report)) + 24 if host.ipv4 else len(mld.emit(report, bytes(16), ROUTERS[False])) + 48
        assert length <= (576 if host.ipv4 else 1280)


def test_an_older_querier_is_spoken_to_in_its_version(host):
    group, other, third = host.groups
    host.quiet(group, other)
    host.query(version=2, response_time=3.0)
    answers = host.over(3.0)
    assert {(destination, message.records[0].group) for _, destination, message in answers} == {(group, group), (other, other)}
    assert all(message.version == 2 for _, _, message in answers)
    host.machine.join(third, host.now)
    said = host.said() + [packet[1:] for packet in host.over(10.0)]
    assert said == [(third, Report(2, (Record(MODE_IS_EXCLUDE, third),)))] * 2
    host.machine.leave(third, host.now)
    assert host.said() == [(igmp.ALL_ROUTERS if host.ipv4 else mld.ALL_ROUTERS, Leave(third))]
    assert not host.over(10.0)
    host.query(group, version=3, response_time=1.0)
    assert host.over(1.0)[0][2].version == 2, "also when a newer one asks"
    host.over(260.0)
    host.query(group, version=3, response_time=1.0)
    assert host.over(1.0)[0][2].version == 3, "it has been silent for long"


def test_the_first_version(host):
    if not host.ipv4:
        pytest.skip("MLD has two")
    group = host.groups[0]
    host.quiet(group)
    host.query(version=1)
    ((after, destination, message),) = host.over(10.0)
    assert destination == group and message.version == 1
    host.machine.leave(group, host.now)
    assert not host.said() and not host.over(20.0), "it knows no leaving"


def test_one_report_is_enough_before_version_3(host):
    group, other, _ = host.groups
    host.quiet(group, other)
    host.query(version=2, response_time=5.0)
    host.machine.report_heard(Report(2, (Record(MODE_IS_EXCLUDE, group),)), host.now)
    assert [destination for _, destination, _ in host.over(5.0)] == [other]
    host.over(300.0)
    host.query(response_time=5.0)
    host.machine.report_heard(one(group, MODE_IS_EXCLUDE), host.now)
    host.machine.report_heard(Report(2, (Record(MODE_IS_EXCLUDE, other),)), host.now)
    assert len(host.over(5.0)[0][2].records) == 2, "version 3 takes no notice"


def test_a_new_version_forgets_what_was_pending(host):
    host.quiet(host.groups[0])
    host.query(response_time=5.0)
    host.machine.join(host.groups[1], host.now)
    host.said()
    host.query(host.groups[2], version=2, response_time=5.0)
    assert not host.over(10.0)


def test_all_are_said_anew_when_there_is_an_address(host):
    host.quiet(*host.groups)
    host.machine.announce(host.now)
    assert {record.group for _, message in host.said() for record in message.records} == set(host.groups)


steps = st.lists(st.one_of(
    st.tuples(st.sampled_from(["join", "leave"]), st.integers(0, 2)),
    st.tuples(st.just("query"), st.tuples(st.none() | st.integers(0, 2), st.integers(1, 3), st.floats(0.0, 3000.0), st.integers(0, 70),
                                          st.integers(0, 7), st.floats(0.0, 31744.0))),
    st.tuples(st.just("report"), st.tuples(st.integers(1, 3), st.integers(0, 2))),
    st.tuples(st.just("wait"), st.floats(0.0, 400.0)),
), max_size=40)  # fmt: skip


@given(steps, st.booleans())
def test_whatever_happens(steps, ipv4):
    """Nothing is said of groups that were never joined; no deadline stays in the past; in the end the last word of each
    group is true."""
    host, joined, ever, last = Host(ipv4), set(), set(), {}

    def note(said):
        for _, message in said:
            if isinstance(message, Leave):
                last[message.group] = False
                continue
            for record in message.records:
                assert record.group in ever
                last[record.group] = record.kind not in (CHANGE_TO_INCLUDE_MODE,)

    for what, value in steps:
        if what in ("join", "leave"):
            group = host.groups[value]
            getattr(host.machine, what)(group, host.now)
            (joined.add if what == "join" else joined.discard)(group)
            ever |= joined
        elif what == "query":
            group, version, time, sources, robustness, interval = value
            if not ipv4:
                version = max(version, 2)
            asked = tuple(SOURCE[ipv4][:15] + bytes([n]) for n in range(sources)) if version == 3 and group is not None else ()
            host.query(None if group is None else host.groups[group], time, version, sources=asked, robustness=robustness,
                       interval=interval)  # fmt: skip
        elif what == "report":
            host.machine.report_heard(Report(value[0], (Record(MODE_IS_EXCLUDE, host.groups[value[1]]),)), host.now)
        else:
            note([packet[1:] for packet in host.over(value)])
        note(host.said())
    note([packet[1:] for packet in host.over(40_000.0)])
    assert host.machine.groups == joined and host.machine.next_deadline() is None
    assert all(last[group] for group in joined)
