"""Tells multicast routers and switches which groups this host is in: the host's part of IGMP and MLD, sans-IO.

    join(group, now), leave(group, now)      what changed
    query_received(...), report_heard(...)   messages in
    packets_to_send(now)                     (destination, message) out
    next_deadline(), handle_timeout(now)     time

Read first: RFC 3376 5 and 7 (IPv4); RFC 3810 6 and 8 says the same of IPv6 with other numbers.  Every membership takes
all sources (EXCLUDE of none): sources are only mentioned to answer who asks for some.  One object serves one family on
one interface; formats are in `swos_net.wire.igmp` and `swos_net.wire.mld`, whose versions count as IGMP's here.
"""

from collections import deque
from random import Random

from swos_net.address import ALL_NODES6, is_ipv4
from swos_net.wire import igmp, mld
from swos_net.wire.igmp import (
    CHANGE_TO_EXCLUDE_MODE,
    CHANGE_TO_INCLUDE_MODE,
    MODE_IS_EXCLUDE,
    MODE_IS_INCLUDE,
    Leave,
    Message,
    Query,
    Record,
    Report,
)

ROBUSTNESS = 2              # RFC 3376 8.1
QUERY_INTERVAL = 125.0      # 8.2
RESPONSE_INTERVAL = 10.0    # 8.3
REPORT_INTERVAL = 1.0       # 8.11: between the repetitions of a change
REPORT_INTERVAL_OLD = 10.0  # RFC 2236 8.10
SOURCES_MAX = 64            # of a query that are remembered; with more, the group is answered for as a whole
IPV6_SCOPE_INTERFACE = 1    # RFC 4291 2.7


def reported(group: bytes) -> bool:
    """Whether anybody has to hear of it: every host is in the all-hosts group (RFC 3376 6, RFC 3810 6)."""
    if is_ipv4(group):
        return group != igmp.ALL_SYSTEMS
    return group != ALL_NODES6 and group[1] & 15 > IPV6_SCOPE_INTERFACE


class Membership:
    """The groups of one family that one interface is in."""

    __slots__ = ("_changes", "_groups", "_interval", "_ipv4", "_older", "_output", "_random", "_records_max", "_repeat_at",
                 "_respond_at", "_responses", "_robustness")  # fmt: skip

    def __init__(self, *, ipv4: bool, mtu: int, random: Random):
        self._ipv4 = ipv4
        self._random = random
        overhead, length = (32, igmp.RECORD_LENGTH) if ipv4 else (56, mld.RECORD_LENGTH)  # headers with Router Alert, and the report's
        self._records_max = max((mtu - overhead) // length, 1)
        self._groups: set[bytes] = set()
        self._changes: dict[bytes, list[int]] = {}  # group: kind of the record, how often it is still to be said
        self._repeat_at: float | None = None
        self._respond_at: float | None = None  # to a general query
        self._responses: dict[bytes, tuple[float, frozenset[bytes]]] = {}  # group: when, about which sources
        self._older: dict[int, float] = {}  # version of a querier: until when it is obeyed
        self._robustness = ROBUSTNESS
        self._interval = QUERY_INTERVAL
        self._output: deque[tuple[bytes, Message]] = deque()

    @property
    def groups(self) -> frozenset[bytes]:
        return frozenset(self._groups)

    def version(self, now: float) -> int:
        """RFC 3376 7.2.1: the oldest version that a querier spoke lately."""
        return min((version for version, until in self._older.items() if until > now), default=3)

    # What changes here

    def join(self, group: bytes, now: float) -> None:
        """Idempotent."""
        if group not in self._groups and reported(group):
            self._groups.add(group)
            self._changed(group, CHANGE_TO_EXCLUDE_MODE, now)

    def leave(self, group: bytes, now: float) -> None:
        """Idempotent."""
        if group in self._groups:
            self._groups.discard(group)
            self._responses.pop(group, None)
            if not self._groups:
                self._respond_at = None
            self._changed(group, CHANGE_TO_INCLUDE_MODE, now)

    def announce(self, now: float) -> None:
        """Says all of them anew: there is an address to say it from (RFC 3590 4)."""
        for group in sorted(self._groups):
            self._changed(group, CHANGE_TO_EXCLUDE_MODE, now)

    def _changed(self, group: bytes, kind: int, now: float) -> None:
        # RFC 3376 5.1: at once, with what else has not been said often enough
        self._changes[group] = [kind, self._robustness]
        if self.version(now) == 3:
            self._report_changes(now)
        else:
            self._report_changes_old(now, (group,))

    def _report_changes(self, now: float) -> None:
        records = []
        for group, change in list(self._changes.items()):
            records.append(Record(change[0], group))
            change[1] -= 1
            if not change[1]:
                del self._changes[group]
        self._report(records)
        self._repeat_at = now + self._random.uniform(0.0, REPORT_INTERVAL) if self._changes else None

    def _report_changes_old(self, now: float, groups) -> None:
        """RFC 2236 3: a report is said again, leaving is said once, and in version 1 not at all."""
        version = self.version(now)
        for group in groups:
            kind, left = self._changes[group]
            if kind == CHANGE_TO_INCLUDE_MODE:
                if version > 1:
                    self._output.append((igmp.ALL_ROUTERS if self._ipv4 else mld.ALL_ROUTERS, Leave(group)))
                left = 0
            else:
                self._report_old(group, version)
                left -= 1
            if left > 0:
                self._changes[group][1] = left
            else:
                del self._changes[group]
        self._repeat_at = now + self._random.uniform(0.0, REPORT_INTERVAL_OLD) if self._changes else None

    # What is heard

    def query_received(self, query: Query, now: float) -> None:
        """A query that came from the link (its checks are the caller's)."""
        before = self.version(now)
        if query.version < 3:
            self._older[query.version] = now + self._robustness * self._interval + RESPONSE_INTERVAL  # 8.12
        else:
            self._robustness = query.robustness or ROBUSTNESS
            self._interval = query.interval or QUERY_INTERVAL
        version = self.version(now)
        if version != before:
            # 7.2.1: what was pending was meant for another version
            self._responses.clear()
            self._changes.clear()
            self._respond_at = self._repeat_at = None
        if version == 3:
            self._plan_response(query, now)
            return
        latest = now + (igmp.RESPONSE_TIME1 if version == 1 and self._ipv4 else query.response_time)
        for group in self._groups if query.group is None else self._groups & {query.group}:
            pending = self._responses.get(group)
            if pending is None or pending[0] > latest:  # RFC 2236 3
                self._responses[group] = self._random.uniform(now, latest), frozenset()

    def _plan_response(self, query: Query, now: float) -> None:
        """RFC 3376 5.2, by its numbers."""
        due = self._random.uniform(now, now + query.response_time)
        if self._respond_at is not None and self._respond_at <= due:
            return  # 1
        if query.group is None:
            self._respond_at = due if self._groups else None  # 2
            return
        if query.group not in self._groups:
            return
        sources = frozenset(query.sources)
        pending = self._responses.get(query.group)
        if pending is not None:
            due = min(due, pending[0])
            sources = sources | pending[1] if sources and pending[1] else frozenset()  # 5, 4
        if len(sources) > SOURCES_MAX:
            sources = frozenset()
        self._responses[query.group] = due, sources

    def report_heard(self, report: Report, now: float) -> None:
        """Somebody else on the link is in a group, too: before version 3 that is enough (RFC 2236 3)."""
        if report.version < 3 and self.version(now) < 3:
            for record in report.records:
                self._responses.pop(record.group, None)

    # What is said

    def _report(self, records: list[Record]) -> None:
        destination = igmp.ALL_REPORT_ROUTERS if self._ipv4 else mld.ALL_REPORT_ROUTERS
        for at in range(0, len(records), self._records_max):
            self._output.append((destination, Report(3, tuple(records[at : at + self._records_max]))))

    def _report_old(self, group: bytes, version: int) -> None:
        self._output.append((group, Report(version, (Record(MODE_IS_EXCLUDE, group),))))

    def packets_to_send(self, now: float) -> list[tuple[bytes, Message]]:
        """(destination, message), to go out with a hop limit of 1 and Router Alert."""
        packets = list(self._output)
        self._output.clear()
        return packets

    # Time

    def next_deadline(self) -> float | None:
        deadlines = [due for due in (self._respond_at, self._repeat_at) if due is not None]
        deadlines += [due for due, _ in self._responses.values()]
        return min(deadlines, default=None)

    def handle_timeout(self, now: float) -> None:
        old = self.version(now) < 3
        if self._repeat_at is not None and self._repeat_at <= now:
            if old:
                self._report_changes_old(now, list(self._changes))
            else:
                self._report_changes(now)
        if self._respond_at is not None and self._respond_at <= now:
            self._respond_at = None
            self._report([Record(MODE_IS_EXCLUDE, group) for group in sorted(self._groups)])
        records = []
        for group, (due, sources) in list(self._responses.items()):
            if due > now:
                continue
            del self._responses[group]
            if old:
                self._report_old(group, self.version(now))
            elif sources:
                records.append(Record(MODE_IS_INCLUDE, group, tuple(sorted(sources))))
            else:
                records.append(Record(MODE_IS_EXCLUDE, group))
        for record in records:  # one with sources may fill a packet of its own
            self._report([record])

    def next_event(self) -> None:
        """Nothing is told upwards; here for the sake of the common shape."""
        return None
