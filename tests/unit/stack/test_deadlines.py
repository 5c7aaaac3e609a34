"""The heap of deadlines against a plain list."""

import random

from hypothesis import given
from hypothesis import strategies as st

from swos_net.stack.deadlines import Deadlines


class Owner:
    def __init__(self, deadline=None):
        self.deadline = deadline
        self.scheduled = None

    def next_deadline(self):
        return self.deadline


def test_nothing_scheduled():
    deadlines = Deadlines()
    assert deadlines.next_deadline() is None
    deadlines.schedule(Owner())
    assert deadlines.next_deadline() is None and list(deadlines.due(1e9)) == []


def test_an_earlier_deadline_replaces_a_later_one():
    deadlines, owner = Deadlines(), Owner(5.0)
    deadlines.schedule(owner)
    owner.deadline = 3.0
    deadlines.schedule(owner)
    assert deadlines.next_deadline() == 3.0
    assert list(deadlines.due(4.0)) == [owner]
    assert list(deadlines.due(10.0)) == [], "once is enough"


def test_a_deadline_that_moved_later_is_not_due_early():
    deadlines, owner = Deadlines(), Owner(5.0)
    deadlines.schedule(owner)
    owner.deadline = 8.0
    assert list(deadlines.due(6.0)) == []
    assert deadlines.next_deadline() == 8.0
    owner.deadline = None
    assert list(deadlines.due(9.0)) == [] and deadlines.next_deadline() is None


def test_one_that_is_gone_is_not_kept():
    deadlines = Deadlines()
    owners = [Owner(7200.0) for _ in range(1000)]
    for owner in owners:
        deadlines.schedule(owner)
    for owner in owners:
        deadlines.forget(owner)
    assert len(deadlines) < 100 and deadlines.next_deadline() is None
    deadlines.forget(owners[0])
    deadlines.schedule(owners[0])
    assert deadlines.next_deadline() == 7200.0


def test_one_that_always_goes_earlier_and_later_keeps_few_entries():
    """A delayed ACK in front of a keepalive, a hundred times a second."""
    deadlines, owner, now = Deadlines(), Owner(7200.0), 0.0
    for _ in range(10_000):
        deadlines.schedule(owner)
        now += 0.01
        owner.deadline = now
        deadlines.schedule(owner)
        assert list(deadlines.due(now)) == [owner]
        owner.deadline = now + 7200.0
    assert len(deadlines) < 100


@given(st.integers(0, 1 << 30))
def test_whatever_happens_nothing_due_is_missed(seed):
    generator = random.Random(seed)
    deadlines, owners, now = Deadlines(), [Owner() for _ in range(8)], 0.0
    for _ in range(200):
        owner = generator.choice(owners)
        action = generator.randrange(6)
        if action < 4:
            owner.deadline = generator.choice((None, now + generator.randrange(1, 50)))
            deadlines.schedule(owner)
        elif action == 4:
            owner.deadline = None
            deadlines.forget(owner)
        else:
            now += generator.randrange(20)
            expected = {id(owner) for owner in owners if owner.deadline is not None and owner.deadline <= now}
            due = set()
            for owner in deadlines.due(now):
                due.add(id(owner))
                owner.deadline = None
                deadlines.schedule(owner)
            assert due == expected
        earliest = min((owner.deadline for owner in owners if owner.deadline is not None), default=None)
        if earliest is not None:
            assert deadlines.next_deadline() <= earliest, "never late"
