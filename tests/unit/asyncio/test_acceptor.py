"""Accepting: as many as the backlog a turn, level-triggered, and a rest when resources are short."""

import contextvars
import errno
import threading

import pytest

from swos_net.asyncio.acceptor import Acceptor
from swos_net.asyncio.deliveries import Deliveries


class Core:
    """A listening socket: `waiting` are connections, or errors to raise."""

    def __init__(self):
        self.waiting, self.watchers = [], []
        self.stack = self.driver = self
        self.lock = threading.RLock()

    def watch(self, changed):
        self.watchers.append(changed)

    def unwatch(self, changed):
        self.watchers.remove(changed)

    def poll(self):
        return bool(self.waiting)

    def arrive(self, *items):
        self.waiting += items
        for changed in self.watchers:
            changed(1)

    def accept(self, now):
        if not self.waiting:
            raise BlockingIOError
        item = self.waiting.pop(0)
        if isinstance(item, BaseException):
            raise item
        return item, ("peer", now)


class Loop:
    def __init__(self):
        self.later, self.reported = [], []

    def time(self):
        return 5.0

    def call_later(self, delay, call):
        self.later.append((delay, call))

    def call_exception_handler(self, context):
        self.reported.append(context)


class World:
    def __init__(self, backlog=100, waiting=()):
        self.core, self.loop, self.accepted = Core(), Loop(), []
        self.core.waiting += waiting
        self.deliveries = Deliveries(lambda: None)
        self.acceptor = Acceptor(self.loop, self.deliveries, self.core, backlog, self.take)

    def take(self, core, address):
        self.accepted.append(core)
        assert address == ("peer", 5.0)

    def turn(self):
        self.deliveries.run()
        return self.accepted


def test_what_waited_before_and_what_comes():
    world = World(waiting=["early"])
    assert world.turn() == ["early"]
    world.core.arrive("one", "two")
    assert world.turn() == ["early", "one", "two"]
    assert not world.deliveries.waiting


def test_no_more_than_the_backlog_a_turn():
    world = World(backlog=2)
    world.core.arrive(*range(5))
    assert len(world.turn()) == 2
    assert len(world.turn()) == 4
    assert world.turn() == list(range(5)) and not world.deliveries.waiting


def test_a_backlog_of_nothing_accepts_one_by_one():
    world = World(backlog=0)
    world.core.arrive("one", "two")
    assert world.turn() == ["one"] and world.turn() == ["one", "two"]


def test_it_stops_and_leaves_the_socket_as_it_is():
    world = World()
    world.core.arrive("late")
    world.acceptor.stop()
    world.acceptor.stop()
    assert world.turn() == [] and world.core.waiting == ["late"] and not world.core.watchers


def test_it_is_stopped_by_what_it_accepted():
    world = World()
    world.take = None
    taken = []
    world.acceptor._accepted = lambda core, address: (taken.append(core), world.acceptor.stop())
    world.core.arrive("one", "two")
    world.deliveries.run()
    assert taken == ["one"] and world.core.waiting == ["two"] and not world.deliveries.waiting


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_a_rest_when_resources_are_short(code):
    world = World()
    world.core.arrive("one", OSError(code, "short"), "two")
    assert world.turn() == ["one"] and not world.deliveries.waiting
    assert world.loop.reported[0]["exception"].errno == code
    world.core.arrive("three")
    assert not world.deliveries.waiting, "it rests whatever comes"
    ((delay, rested),) = world.loop.later
    assert delay == 1
    rested()
    assert world.turn() == ["one", "two", "three"]


def test_a_rest_that_outlives_the_server():
    world = World()
    world.core.arrive(OSError(errno.EMFILE, "short"), "two")
    world.turn()
    world.acceptor.stop()
    world.loop.later[0][1]()
    assert world.turn() == []


def test_a_connection_that_is_gone_again_costs_a_turn():
    world = World()
    world.core.arrive(ConnectionAbortedError(), "next")
    assert world.turn() == [] and world.turn() == ["next"]
    assert not world.loop.reported


def test_another_failure_is_reported_and_it_goes_on():
    world = World()
    world.core.arrive(OSError(errno.EPROTO, "strange"), "next")
    world.turn()
    assert world.loop.reported[0]["exception"].errno == errno.EPROTO and not world.loop.later
    assert world.turn() == ["next"]


def test_every_connection_in_a_context_of_its_own():
    variable = contextvars.ContextVar("variable", default="nobody")
    seen = []
    world = World()
    world.acceptor._accepted = lambda core, address: (seen.append(variable.get()), variable.set(core))
    world.core.arrive("one", "two")
    world.turn()
    assert seen == ["nobody", "nobody"] and variable.get() == "nobody"
