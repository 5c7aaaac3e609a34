"""The place where a loop sleeps: no longer than stacks allow, and only for what loops and devices wait for."""

import os
import selectors
import socket

import pytest

from swos_net.asyncio.selector import StackSelector


class Device:
    def __init__(self, wants_write=False):
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.wants_write = wants_write

    def fileno(self):
        return self.near.fileno()


class Port:
    def __init__(self, device):
        self.device = device
        self.blocked = False


class FakeDriver:
    """A driver as far as the selector goes; `due` is what the stack wants."""

    def __init__(self, notes, *devices, name="driver"):
        self.notes, self.name = notes, name
        self.poller = self
        self.ports = [Port(device) for device in devices]
        self.due = None
        self.more = False

    def flush(self, now):
        self.notes.append((self.name, "flush", now))
        return self.due

    def poll(self, now):
        self.notes.append((self.name, "poll", now))

    def due_at(self, now):
        return self.due is not None and self.due <= now


class World:
    def __init__(self):
        self.notes, self.now, self.work = [], 100.0, False
        self.slept = []
        self.selector = StackSelector(lambda: self.now, lambda: self.work, lambda: self.notes.append("polled"))
        self.closed = [self.selector]

    def device(self, **options):
        device = Device(**options)
        self.closed += [device.near, device.far]
        return device

    def calls(self, kind):
        return [note for note in self.notes if note[1:2] == (kind,)]


@pytest.fixture
def world(monkeypatch):
    """Sleeping is noted, and takes the time it should."""
    made = World()
    select = selectors.DefaultSelector.select

    def sleep(self, timeout=None):
        made.slept.append(timeout)
        made.asleep = made.selector.asleep
        events = select(self, 0)
        if not events and timeout is not None:
            made.now += timeout
        return events

    monkeypatch.setattr(selectors.DefaultSelector, "select", sleep)
    yield made
    for item in made.closed:
        item.close()


def test_as_long_as_the_loop_says_without_stacks(world):
    assert world.selector.select(3.0) == []
    assert world.selector.select(None) == []
    assert world.slept == [3.0, None] and world.asleep and not world.selector.asleep
    assert world.selector.turns == 2


@pytest.mark.parametrize("timeout, due, slept", [
    (5.0, None, 5.0), (5.0, 102.0, 2.0), (1.0, 102.0, 1.0), (None, 102.0, 2.0), (None, None, None), (5.0, 99.0, 0.0), (0, 102.0, 0),
])  # fmt: skip
def test_no_longer_than_the_stack_allows(world, timeout, due, slept):
    driver = FakeDriver(world.notes, world.device())
    driver.due = due
    world.selector.attach(driver)
    world.selector.select(timeout)
    assert world.slept == [slept]
    assert world.notes[0] == ("driver", "flush", 100.0), "what callbacks have left is sent before sleeping"
    assert bool(world.calls("poll")) == (due is not None and due <= world.now)
    assert world.notes[-1] == "polled"


def test_the_earliest_of_several_stacks(world):
    for name, due in (("one", 107.0), ("two", 103.0), ("three", None)):
        driver = FakeDriver(world.notes, world.device(), name=name)
        driver.due = due
        world.selector.attach(driver)
    world.selector.select(10.0)
    assert world.slept == [3.0]


def test_not_at_all_when_there_is_work(world):
    driver = FakeDriver(world.notes, world.device())
    world.selector.attach(driver)
    world.work = True
    world.selector.select(10.0)
    assert world.slept == [0]


def test_a_device_is_for_its_stack_and_other_descriptors_are_for_the_loop(world):
    devices = world.device(), world.device()
    drivers = [FakeDriver(world.notes, device, name=name) for device, name in zip(devices, ("one", "two"))]
    for driver in drivers:
        world.selector.attach(driver)
    near, far = socket.socketpair()
    world.closed += [near, far]
    world.selector.register(near, selectors.EVENT_READ, "the loop's")
    devices[1].far.send(b"frame")
    far.send(b"x")
    events = world.selector.select(10.0)
    assert [(key.data, mask) for key, mask in events] == [("the loop's", selectors.EVENT_READ)]
    assert {note[0] for note in world.calls("poll")} == {"two"}
    near.recv(1)
    assert world.selector.select(10.0) == [], "only the device"


def test_a_device_that_is_full_is_waited_for(world):
    device = world.device(wants_write=True)
    driver = FakeDriver(world.notes, device)
    world.selector.attach(driver)
    world.selector.select(0)
    assert world.selector.get_key(device.fileno()).events == selectors.EVENT_READ
    driver.ports[0].blocked = True
    world.selector.select(0)
    assert not driver.ports[0].blocked and world.calls("poll"), "there is room"
    world.selector.select(0)
    assert world.selector.get_key(device.fileno()).events == selectors.EVENT_READ, "or the loop would spin"


def test_a_stack_that_is_served_no_more(world):
    device = world.device()
    driver = FakeDriver(world.notes, device)
    world.selector.attach(driver)
    assert world.selector.drivers == [driver]
    world.selector.detach(driver)
    device.far.send(b"frame")
    assert world.selector.select(1.0) == [] and world.slept == [1.0]
    assert world.selector.drivers == [] and world.notes == ["polled"]


class TestOtherThreads:
    """What they bring may be due before the loop wakes by itself."""

    def asked_while_asleep(self, world, monkeypatch, timeout, due):
        answers = []
        sleep = selectors.DefaultSelector.select

        def ask(self, timeout=None):
            answers.append(world.selector.sleeps_beyond(due))
            return sleep(self, timeout)

        monkeypatch.setattr(selectors.DefaultSelector, "select", ask)
        world.selector.select(timeout)
        return answers[0]

    @pytest.mark.parametrize("timeout, due, beyond", [(5.0, 103.0, True), (5.0, 106.0, False), (None, 1e9, True), (0, 101.0, False)])
    def test_while_it_sleeps(self, world, monkeypatch, timeout, due, beyond):
        assert self.asked_while_asleep(world, monkeypatch, timeout, due) is beyond

    def test_while_it_looks(self, world):
        """The deadlines may have been read already: it must look again."""
        asked = []

        class Asked(FakeDriver):
            def flush(self, now):
                asked.append(world.selector.sleeps_beyond(1e9))

        world.selector.attach(Asked(world.notes, world.device()))
        world.selector.select(1.0)
        world.selector.select(1.0)
        assert asked == [True, True]

    def test_while_callbacks_run(self, world):
        world.selector.select(1.0)
        assert not world.selector.sleeps_beyond(0.0)


def test_a_failure_leaves_it_awake(world, monkeypatch):
    def fail(self, timeout=None):
        raise OSError("closed under us")

    monkeypatch.setattr(selectors.DefaultSelector, "select", fail)
    with pytest.raises(OSError):
        world.selector.select(1.0)
    assert not world.selector.asleep
    os.fstat(world.selector.fileno())
