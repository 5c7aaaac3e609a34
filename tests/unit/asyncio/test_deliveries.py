"""What watchers have to tell: once for many events, in order, in the right context, and nothing is lost."""

import contextvars

import pytest

from swos_net.asyncio.deliveries import Deliveries, Sink

NAME = contextvars.ContextVar("name", default="outside")


class Noted(Sink):
    __slots__ = ("also", "name", "notes")

    def __init__(self, notes, name, also=None):
        super().__init__(contextvars.copy_context())
        self.notes, self.name, self.also = notes, name, also

    def deliver(self):
        self.notes.append(self.name)
        if self.also is not None:
            self.also()


@pytest.fixture
def wakes():
    return []


@pytest.fixture
def deliveries(wakes):
    return Deliveries(lambda: wakes.append(1))


def test_in_order_and_once_for_many_events(deliveries, wakes):
    notes = []
    first, second = Noted(notes, "first"), Noted(notes, "second")
    for sink in (second, first, second, second, first):
        deliveries.add(sink)
    assert len(wakes) == 1, "who has been woken runs all of them"
    deliveries.run()
    assert notes == ["second", "first"] and not deliveries.waiting
    deliveries.add(first)
    assert len(wakes) == 2
    deliveries.run()
    assert notes[2:] == ["first"]


def test_what_callbacks_add_is_for_the_next_turn(deliveries):
    notes = []
    sink = Noted(notes, "again", lambda: deliveries.add(sink))
    other = Noted(notes, "other")
    deliveries.add(sink)
    deliveries.add(other)
    deliveries.run()
    assert notes == ["again", "other"] and list(deliveries.waiting) == [sink]
    deliveries.run()
    assert notes == ["again", "other", "again"] and list(deliveries.waiting) == [sink]


def test_every_sink_in_its_context(deliveries):
    seen = []
    for name in ("one", "two"):
        context = contextvars.copy_context()
        sink = context.run(lambda name=name: (NAME.set(name), Noted([], name, lambda: seen.append(NAME.get())))[1])
        deliveries.add(sink)
    deliveries.run()
    assert seen == ["one", "two"] and NAME.get() == "outside"


def test_one_that_ends_the_program_costs_the_others_nothing(deliveries):
    notes = []

    def interrupt():
        raise KeyboardInterrupt

    for sink in (Noted(notes, "before"), Noted(notes, "interrupts", interrupt), Noted(notes, "after")):
        deliveries.add(sink)
    with pytest.raises(KeyboardInterrupt):
        deliveries.run()
    deliveries.run()
    assert notes == ["before", "interrupts", "after"]


def test_a_sink_says_what_it_does():
    with pytest.raises(NotImplementedError):
        Sink(contextvars.copy_context()).deliver()
