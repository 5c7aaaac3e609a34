"""Pings that are answered while somebody sleeps, before Python has a look.

Read first: Pinged in conftest.py.  Transfers that go on meanwhile: test_turns.py.
"""

import asyncio
import contextlib
import errno
import os
import select
import socket
import sys
import threading
import time

import pytest

from swos_net._dataplane import lib
from swos_net.asyncio import LoopDriver, new_event_loop
from swos_net.dataplane.echo import EchoResponder
from swos_net.dataplane.prompt import Sleeper

CLOSED, BUSY = lib.PROMPTER_CLOSED, lib.PROMPTER_BUSY


def test_a_prompt_answers_and_leaves_nothing_to_do(pinged):
    frame = pinged.request()
    before = dict(pinged.interface.counters)
    for count in (1, 3, 1):
        for _ in range(count):
            pinged.driver.send(frame)
        assert pinged.bench.readable
        assert pinged.prompted() == count
        assert len(pinged.answers()) == count == pinged.driver.reap()
        assert not pinged.bench.readable and pinged.signals() == (1, 0)
    pinged.poller.poll(pinged.now)
    assert pinged.signals() == (0, 0)
    gone = {name: pinged.interface.counters[name] - before.get(name, 0) for name in ("InFrames", "InOctets", "OutFrames", "OutOctets")}
    assert gone == {"InFrames": 5, "InOctets": 5 * len(frame), "OutFrames": 5, "OutOctets": 5 * len(frame)}
    assert pinged.stack.counters["IcmpOutEchoReps"] - pinged.echoed == 5


@pytest.mark.parametrize("order", ["last", "first", "alone"])
def test_a_prompt_does_nothing_when_there_is_something_else(pinged, order):
    frames = [pinged.request(), pinged.request()]
    other = pinged.bench.frame(1)
    frames = {"last": [*frames, other], "first": [other, *frames], "alone": [other]}[order]
    for frame in frames:
        pinged.driver.send(frame)
    counters = pinged.device.counters()
    assert pinged.prompted() == 0
    assert not pinged.answers() and pinged.driver.reap() == 0
    assert pinged.device.counters() == counters
    pinged.poller.poll(pinged.now)
    assert len(pinged.answers()) == len(frames) - 1
    assert pinged.driver.reap() == len(frames)


def test_a_prompt_with_nothing_there(pinged):
    assert pinged.prompted() == 0
    pinged.driver.send(pinged.request())
    burst = pinged.poller.ports[0].burst
    burst.clear()
    assert pinged.device.receive(burst) == 1
    pinged.answers()
    pinged.driver.send(pinged.request())
    assert pinged.prompted() == 0, "frames are given back in order: a burst is out"
    pinged.device.release(burst)
    pinged.poller.poll(pinged.now)
    assert len(pinged.answers()) == 1


def test_what_a_prompt_leaves_is_told_of_again(pinged):
    for _ in range(20):
        pinged.driver.send(pinged.request())
    answered = 0
    while answered < 20:
        assert pinged.bench.readable
        answered += pinged.prompted()
    assert answered == 20 == len(pinged.answers())
    pinged.poller.poll(pinged.now)
    assert not pinged.bench.readable


def test_a_prompt_without_room_for_the_answer(pinged):
    while pinged.device.transmit(pinged.bench.batch([pinged.bench.frame(1)])):
        pass
    pinged.driver.send(pinged.request())
    assert pinged.prompted() == 1
    assert pinged.device.counters()["transmit_dropped"] == 1


def test_a_guest_that_does_not_look_after_a_prompt_is_reminded(pinged):
    pinged.driver.send(pinged.request())
    assert pinged.prompted() == 1 and pinged.signals() == (1, 0)
    pinged.poller.poll(pinged.now)
    assert pinged.signals() == (0, 1)


def test_a_ring_that_breaks_at_a_prompt(pinged):
    queue = pinged.driver.transmit_queue
    queue.avail_index = queue.avail_index + 1000
    assert pinged.prompted() == 0
    pinged.guest.kick(1)
    pinged.poller.poll(pinged.now)
    assert pinged.bench.of("ring_broken") and pinged.prompted() == 0


def test_a_prompt_never_touches_a_descriptor_that_is_gone(pinged, tmp_path):
    """A kick that is no eventfd is closed at once, and its number is soon somebody else's."""
    reader, writer = os.pipe()
    pinged.device._rings.set_kick(1, reader)
    pinged.settle()
    os.write(writer, b"odd")
    pinged.settle()
    assert pinged.device._rings.ports[1].kick is None
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    file = os.dup2(opened, reader)
    os.write(file, b"precious data...")
    os.lseek(file, 0, 0)
    for _ in range(20):
        pinged.driver.send(pinged.request())
    assert pinged.prompted() == 0
    assert os.lseek(file, 0, 1) == 0 and os.read(file, 100) == b"precious data..."
    for descriptor in {opened, file, writer}:
        os.close(descriptor)


def test_a_prompt_for_a_busy_ring_is_followed_by_a_reminder(pinged):
    pinged.driver.send(pinged.bench.frame(1))
    pinged.poller.poll(pinged.now)
    assert pinged.device._rings.busy
    pinged.driver.reap()
    pinged.signals()
    pinged.driver.send(pinged.request())
    assert pinged.prompted() == 1 and pinged.signals() == (1, 0)
    pinged.poller.poll(pinged.now)
    assert pinged.signals() == (0, 1)


def test_a_kick_descriptor_that_was_made_to_block(pinged):
    """The front-end shares the open file; a look that no kick has led to must not wait for one."""
    os.set_blocking(pinged.device._rings.ports[1].kick, True)
    pinged.driver.kick_transmit = lambda: None
    for _ in range(2):
        pinged.driver.send(pinged.request())
        pinged.poller.poll(pinged.now)
    pinged.driver.send(pinged.request())
    assert pinged.prompted() == 1
    assert len(pinged.answers()) == 3


def test_a_kick_that_a_prompt_has_drained_is_not_waited_for(pinged, threads):
    """The ring was busy, and Python had seen the kick."""
    port = pinged.device._rings.ports[1]
    os.set_blocking(port.kick, True)
    for number in (1, 2):
        pinged.driver.send(pinged.bench.frame(number))
        pinged.poller.poll(pinged.now)
    assert pinged.device._rings.busy and port.kicked and not port.foreseen
    pinged.driver.send(pinged.request())
    assert pinged.prompted() == 1
    threads(lambda: pinged.poller.poll(pinged.now))
    threads.wait()
    assert not pinged.device._rings.busy


def test_a_broken_receive_queue_is_noticed(pinged):
    queue = pinged.driver.receive_queue
    queue.avail_index = queue.avail_index + 1000
    for _ in range(2):
        pinged.driver.send(pinged.request())
        pinged.prompted()
        pinged.poller.poll(pinged.now)
    assert pinged.bench.of("ring_broken") and not pinged.device.link_up


def test_no_prompt_without_a_connection(pinged):
    pinged.guest.close()
    pinged.poller.poll(pinged.now)
    assert pinged.prompted() == 0


def test_a_loop_that_sleeps_has_the_device_answer(pinged):
    by_prompt = []

    class Heard(EchoResponder):
        __slots__ = ()

        def news(self):
            found = super().news()
            by_prompt.append(found[3])
            return found

    pinged.interface.responder.__class__ = Heard

    async def main():
        asked = 0
        while not any(by_prompt):  # not where the loop has looked for another reason
            pinged.driver.send(pinged.request())
            asked += 1
            # the stack has more to say as time passes: group reports, announcements
            while not any(frame[12:14] == b"\x08\x00" for frame in pinged.answers()):
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
        return asked

    loop = new_event_loop(pinged.poller)
    try:
        asked = loop.run_until_complete(asyncio.wait_for(main(), 10.0))
        pinged.poller.poll(pinged.now)
    finally:
        loop.close()
    assert pinged.stack.counters["IcmpOutEchoReps"] - pinged.echoed == asked


def test_the_kernels_descriptors_beside_it(pinged):
    """Readable, writable, both because the other end is gone, and closed without telling the loop."""
    loop = new_event_loop(pinged.poller)
    happened = []

    async def main():
        near, far = socket.socketpair()
        loop.add_reader(near, lambda: (happened.append(("read", near.recv(10))), loop.remove_reader(near)))
        loop.call_later(0.01, far.send, b"x")
        loop.add_writer(far, lambda: (happened.append(("write", None)), loop.remove_writer(far)))
        while len(happened) < 2:
            await asyncio.sleep(0.001)
        ended = loop.create_future(), loop.create_future()
        loop.add_reader(near, lambda: (ended[0].done() or ended[0].set_result("reader")))
        near.setblocking(False)
        while True:
            try:
                near.send(bytes(65536))
            except BlockingIOError:
                break
        loop.add_writer(near, lambda: (ended[1].done() or ended[1].set_result("writer")))
        far.close()
        await asyncio.wait_for(asyncio.gather(*ended), 10.0)
        loop.remove_reader(near)
        loop.remove_writer(near)
        reader, writer = os.pipe()
        kept = os.dup(reader)
        loop.add_reader(reader, lambda: None)
        os.close(reader)
        with contextlib.suppress(OSError):
            loop.remove_reader(reader)
        os.write(writer, b"x")
        await asyncio.sleep(0.01)
        for descriptor in (kept, writer):
            os.close(descriptor)
        near.close()

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    assert happened == [("write", None), ("read", b"x")]


class TestWhileSomebodySleeps:
    """Devices answer in C, without the interpreter's lock: not once anybody else is at work."""

    @pytest.fixture
    def driver(self, pinged):
        made = LoopDriver.of(pinged.poller)
        yield made
        made.stop()

    def slept(self, pinged) -> int:
        return Sleeper([pinged.device.prompt]).sleep(pinged.device.fileno(), 0, 0)[0]

    def test_the_first_sleep_answers(self, pinged, driver):
        prompt = pinged.device.prompt
        driver.begin_answering([prompt])
        pinged.driver.send(pinged.request())
        assert driver.lock.answering == [prompt]
        assert [self.slept(pinged), self.slept(pinged)] == [1, 0] and len(pinged.answers()) == 1
        with driver.lock:
            driver.lock.end_answering()
        assert driver.lock.answering == []

    @pytest.mark.parametrize("what", ["enters", "sends", "polls", "stops"])
    def test_no_longer_than_until_somebody(self, pinged, driver, what):
        driver.begin_answering([pinged.device.prompt])
        if what == "enters":
            with driver.entered():
                assert not driver.lock.answering
        else:
            {"sends": driver.flush, "polls": driver.poll, "stops": lambda now: driver.stop()}[what](pinged.now)
        assert not driver.lock.answering and not pinged.device.prompt.c.gate
        if what != "stops":
            pinged.driver.send(pinged.request())
            assert self.slept(pinged) == 0 and not pinged.answers()

    def test_not_while_the_stack_is_in_use(self, pinged, driver, threads):
        with driver.lock:
            begun = threading.Event()
            threads(lambda: (driver.begin_answering([pinged.device.prompt]), begun.set()))
            assert begun.wait(10.0)
            assert not driver.lock.answering

    def test_not_once_it_is_served_no_more(self, pinged, driver):
        driver.refuse(errno.ENETDOWN, "gone")
        driver.begin_answering([pinged.device.prompt])
        assert not driver.lock.answering and pinged.device.prompt.c.gate == CLOSED
        driver.stop()
        driver.poll(pinged.now)  # as a loop does that has not heard of it

    def test_an_exception_at_any_point_leaves_none_open(self, pinged, driver, monkeypatch):
        prompt = pinged.device.prompt

        class Interrupted:
            def open(self, turns):
                prompt.open()
                raise KeyboardInterrupt

            def close(self):
                prompt.close()

        with pytest.raises(KeyboardInterrupt):
            driver.begin_answering([Interrupted()])
        assert prompt.c.gate == lib.PROMPTER_OPEN
        with driver.entered():
            assert prompt.c.gate == CLOSED

    def test_a_loop_with_fewer_prompts_closes_all(self, pinged, driver):
        prompt = pinged.device.prompt
        driver.begin_answering([prompt])
        driver.begin_answering([])
        with driver.entered():
            assert prompt.c.gate == CLOSED

    def test_no_pause_after_an_answer_that_has_left_something(self, pinged):
        pinged.device.prompt.open()
        pinged.driver.send(pinged.request())
        pinged.interface.responder.c.more = 1
        begun = time.monotonic()
        assert Sleeper([pinged.device.prompt]).sleep(pinged.device.fileno(), None, 60.0)[0] == 1
        assert time.monotonic() - begun < 30.0
        pinged.device.prompt.close()
        assert pinged.bench.readable

    def test_a_descriptor_that_is_none(self):
        with pytest.raises(OSError):
            Sleeper([]).sleep(-1, 0.0, 0.0)
        with select.epoll() as poller:
            assert not list(Sleeper([]).sleep(poller.fileno(), -1.0, 0.0)[1])

    def test_who_closes_waits_for_an_answer_under_way(self, pinged, threads):
        prompt, closed = pinged.device.prompt, []
        prompt.c.gate = BUSY
        threads(lambda: (prompt.close(), closed.append(prompt.c.gate)))
        prompt.open()
        assert prompt.c.gate == BUSY and not closed, "another sleep has it"
        prompt.c.gate = CLOSED
        threads.wait()
        assert closed == [CLOSED]

    def test_a_fork_in_the_middle_of_an_answer(self, pinged, driver):
        driver.begin_answering([pinged.device.prompt])
        pinged.device.prompt.c.gate = BUSY
        driver.forked()
        pinged.device.prompt.close()
        driver.stop()
        assert os.path.exists(pinged.bench.path) and pinged.device.fileno() >= 0, "they are the other process's"
        pinged.device.close()

    @pytest.mark.parametrize("timeout, pause", [(0.0, 1.0), (None, 0.0)])
    def test_no_longer_than_it_may(self, pinged, timeout, pause):
        pinged.device.prompt.open()
        pinged.driver.send(pinged.request())
        assert Sleeper([pinged.device.prompt]).sleep(pinged.device.fileno(), timeout, pause)[0] == 1
        pinged.poller.poll(pinged.now)
        answered, found = Sleeper([]).sleep(pinged.device.fileno(), 0.0, 1.0)
        assert not answered and not list(found)

    def test_threads_that_use_the_stack_meanwhile(self, pinged, threads):
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        loop = new_event_loop(pinged.poller)
        stop, stack = threading.Event(), pinged.stack

        def enter():
            while not stop.is_set():
                with stack.driver.entered():
                    pinged.interface.update_responder()

        def serve():
            asyncio.set_event_loop(loop)
            loop.run_forever()

        threads(serve)
        threads(enter)
        try:
            answers = []
            for number in range(200):
                pinged.driver.send(pinged.request(data=number.to_bytes(4, "big")))
                while not (found := [frame for frame in pinged.answers() if frame[12:14] == b"\x08\x00"]):
                    os.sched_yield()
                pinged.driver.reap()
                answers += found
        finally:
            sys.setswitchinterval(interval)
            stop.set()
            loop.call_soon_threadsafe(loop.stop)
            threads.wait()
            loop.close()
        assert [int.from_bytes(frame[-4:], "big") for frame in answers] == list(range(200))
        assert pinged.stack.counters["IcmpOutEchoReps"] - pinged.echoed == 200
