"""Questions of a guest that are answered at once: pings without Python, and one signal for answer and question."""

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

from swos_net.address import parse_address
from swos_net._dataplane import lib
from swos_net.asyncio import LoopDriver, new_event_loop
from swos_net.dataplane.echo import EchoResponder
from swos_net.dataplane.prompt import Sleeper
from swos_net.device.base import PromptDevice
from swos_net.device.pcap import PcapTap
from swos_net.device.vhost_user import device, rings
from swos_net.device.vhost_user.device import BULK_BYTES, LOOKS_FIRST, QUIET_CHAINS
from swos_net.device.vhost_user.features import Feature, mask
from swos_net.device.vhost_user.message import Request, VringState
from swos_net.runtime.open_stack import open_stack
from swos_net.wire import ethernet, icmpv4, icmpv6, ipv4, ipv6

ALL = (1 << 64) - 1
GUEST_MAC = bytes.fromhex("020000000001")
ADDRESSES = {4: ("10.0.2.15", "10.0.2.2"), 6: ("fd00::15", "fd00::2")}
NOW = 1000.0
CLOSED, BUSY = lib.PROMPTER_CLOSED, lib.PROMPTER_BUSY


def prompted(device) -> int:
    """What a loop does that has been woken, for whatever reason; how many requests that has dealt with."""
    answered = device._responder.c.unseen_frames
    with select.epoll() as poller:
        descriptor = os.eventfd(1)
        poller.register(descriptor, select.EPOLLIN)
        device.prompt.open()
        some, found = Sleeper([device.prompt]).sleep(poller.fileno(), None, 0)
        device.prompt.close()
        assert list(found) == [(descriptor, select.EPOLLIN)]
        os.close(descriptor)
    answered = device._responder.c.unseen_frames - answered
    assert some == (answered > 0)
    return answered


class Pinged:
    """A guest in front of a stack; nobody but the test calls the stack."""

    def __init__(self, bench):
        self.bench = bench
        self.device = bench.device
        self.poller = open_stack(bench.device, addresses=["10.0.2.2/24", "fd00::2/64"], dhcp_server=False)
        self.stack = self.poller.stack
        self.interface = self.poller.ports[0].interface
        self.guest = bench.start()
        self.driver = self.guest.drivers[0]
        self.settle()
        self.driver.send(bench.frame(0))  # the first chain that a ring gives back is always signalled
        self.settle()
        self.echoed = self.stack.counters["IcmpOutEchoReps"]

    def settle(self):
        """Everything that starting up has to say; what the guest has heard is forgotten."""
        for _ in range(10):
            self.poller.poll(NOW)
        self.driver.receive()
        self.driver.reap()
        self.signals()

    def signals(self) -> tuple[int, int]:
        """How often the guest was signalled since: (for what it receives, for what it sent)."""
        return self.guest.called(0), self.guest.called(1)

    def answers(self) -> list[bytes]:
        return [frame for _, frame in self.driver.receive()]

    def ask(self, frame: bytes) -> tuple[list[bytes], bool]:
        """Sends a frame; (what has come back before Python had a look, whether Python found it untouched)."""
        self.driver.send(frame)
        burst = self.poller.ports[0].burst
        burst.clear()
        self.device.receive(burst)
        left = burst.c.records[0].verdict == 0
        early = self.answers()
        self.stack.input.count_echoes(self.interface)
        self.stack.input.receive_burst(self.interface, burst, NOW)
        self.device.release(burst)
        return early, left


@pytest.fixture
def pinged(bench):
    return Pinged(bench)


def request(pinged, family=4, *, data=b"data", source=None, destination=None, mac=None, **header):
    local, remote = (parse_address(address) for address in ADDRESSES[family])
    source, destination = (parse_address(a) if a else b for a, b in ((source, local), (destination, remote)))
    if family == 4:
        packet = ipv4.emit(ipv4.Ipv4Header(source, destination, 1, **header), icmpv4.emit(icmpv4.echo_request(7, 9, data)))
    else:
        message = icmpv6.emit(icmpv6.Icmpv6Message(icmpv6.ECHO_REQUEST, 0, 7 << 16 | 9, data), source, destination)
        packet = ipv6.emit(ipv6.Ipv6Header(source, destination, 58), message)
    kind = 0x0800 if family == 4 else 0x86DD
    return ethernet.emit(ethernet.EthernetHeader(mac or pinged.device.link.address, GUEST_MAC, kind), packet)


@pytest.mark.parametrize("size", [0, 1, 56, 1400])
@pytest.mark.parametrize("family", [4, 6])
def test_an_answer_before_python_has_a_look(pinged, family, size):
    (answer,), left = pinged.ask(request(pinged, family, data=bytes(range(200)) * 7 if size == 1400 else bytes(size)))
    assert not left
    assert answer[:12] == GUEST_MAC + pinged.device.link.address
    local, remote = (parse_address(address) for address in ADDRESSES[family])
    if family == 4:
        header, message = ipv4.parse(answer[14:]), icmpv4.parse(answer[34:])
        assert (message.type, message.identifier, message.sequence, len(message.payload)) == (icmpv4.ECHO_REPLY, 7, 9, size)
    else:
        header = ipv6.parse(answer[14:])
        message = icmpv6.parse(answer[54:], header.source, header.destination)
        assert (message.type, len(message.payload)) == (icmpv6.ECHO_REPLY, size)
    assert (header.source, header.destination) == (remote, local)
    assert pinged.signals() == (1, 0)


def test_it_is_counted_as_if_python_had_answered(pinged):
    before = dict(pinged.interface.counters)
    frame = request(pinged)
    for _ in range(3):
        pinged.ask(frame)
    assert pinged.stack.counters["IcmpOutEchoReps"] - pinged.echoed == 3 == pinged.stack.counters["IcmpInMsgs"] - pinged.echoed
    gone = {name: pinged.interface.counters[name] - before.get(name, 0) for name in ("InFrames", "OutFrames", "OutOctets")}
    assert gone == {"InFrames": 3, "OutFrames": 3, "OutOctets": 3 * len(frame)}
    assert pinged.device.counters()["transmit_dropped"] == 0


UNUSUAL = {
    "not our address": {"destination": "10.0.2.3"},
    "to everybody": {"destination": "10.0.2.255"},
    "from everybody": {"source": "10.0.2.255"},
    "from nobody": {"source": "0.0.0.0"},
    "another station's": {"mac": bytes.fromhex("020000000099")},
    "to all stations": {"mac": b"\xff" * 6},
    "options": {"options": b"\x01\x01\x01\x00"},
    "a fragment": {"flags": 1},
    "long": {"data": bytes(3000)},
}


@pytest.mark.parametrize("what", UNUSUAL.values(), ids=UNUSUAL)
def test_anything_unusual_is_left_to_python(pinged, what):
    early, left = pinged.ask(request(pinged, **what))
    assert not early and left


def test_another_message_is_left_to_python(pinged):
    frame = bytearray(request(pinged))
    frame[34] = icmpv4.ECHO_REPLY
    early, _ = pinged.ask(bytes(frame))
    assert not early
    assert pinged.stack.counters["IcmpOutEchoReps"] == pinged.echoed


def test_a_wrong_checksum_is_not_answered(pinged):
    frame = bytearray(request(pinged))
    frame[-1] ^= 1
    early, left = pinged.ask(bytes(frame))
    assert not early and not left


def test_not_while_somebody_wants_to_see_pings(pinged):
    endpoint = pinged.stack.raw.open(pinged.stack.root, parse_address("0.0.0.0"), 1)
    early, left = pinged.ask(request(pinged))
    assert not early and left
    endpoint.close(NOW)
    (_,), left = pinged.ask(request(pinged))
    assert not left


def test_an_address_that_comes_and_goes(pinged):
    frame = request(pinged, destination="10.0.2.77")
    address = parse_address("10.0.2.77")
    for known in (False, True, False):
        if known:
            pinged.stack.add_address(pinged.interface, address, 24, NOW)
        elif pinged.interface.has_address(address):
            pinged.stack.remove_address(pinged.interface, address, NOW)
        early, _ = pinged.ask(frame)
        assert bool(early) is known


def test_a_capture_has_questions_and_answers(bench, tmp_path):
    """So whoever captures sees to it that Python answers."""
    tap = PcapTap(bench.device, tmp_path / "file")
    assert isinstance(bench.device, PromptDevice) and not isinstance(tap, PromptDevice)
    tap.close()


def test_more_addresses_than_it_knows_are_pythons_business(pinged):
    for number in range(20):
        pinged.stack.add_address(pinged.interface, parse_address(f"10.0.2.{100 + number}"), 24, NOW)
    early, left = pinged.ask(request(pinged))
    assert not early and left


def test_without_room_python_keeps_the_answer(pinged):
    """It goes when the guest has buffers again."""
    queue = pinged.driver.receive_queue
    while pinged.device.transmit(pinged.bench.batch([pinged.bench.frame(1)])):
        pass
    pinged.driver.send(request(pinged))
    pinged.poller.poll(NOW)
    assert queue.used_index and pinged.answers()
    pinged.poller.poll(NOW)
    pinged.poller.poll(NOW)
    assert [frame for frame in pinged.answers() if frame[12:14] == b"\x08\x00"]
    assert pinged.stack.counters["IcmpOutEchoReps"] - pinged.echoed == 1


def test_the_question_comes_back_with_the_answer_and_one_signal(pinged, monkeypatch):
    """A guest that looks for itself is never signalled for what it sent."""
    monkeypatch.setattr(device, "REMIND_AFTER", 0.000001)
    for _ in range(3):
        pinged.driver.send(request(pinged))
        pinged.poller.poll(NOW)
        assert pinged.answers() and pinged.driver.reap() == 1
        assert select.select([pinged.device], [], [], 1.0)[0]
        pinged.poller.poll(NOW)
        assert pinged.signals() == (1, 0)


def test_a_guest_that_does_not_look_is_reminded(pinged, monkeypatch):
    monkeypatch.setattr(device, "REMIND_AFTER", 0.000001)
    pinged.driver.send(request(pinged))
    pinged.poller.poll(NOW)
    assert pinged.answers()
    assert select.select([pinged.device], [], [], 1.0)[0]
    pinged.poller.poll(NOW)
    assert pinged.signals() == (1, 1)
    assert not pinged.bench.readable


def test_a_reminder_comes_with_the_next_frame_at_the_latest(pinged):
    for expected in (0, 1, 0):  # the guest asked to hear of one, and never looked
        pinged.driver.send(request(pinged))
        pinged.poller.poll(NOW)
        assert pinged.guest.called(1) == expected


def test_a_prompt_answers_and_leaves_nothing_to_do(pinged):
    frame = request(pinged)
    before = dict(pinged.interface.counters)
    for count in (1, 3, 1):
        for _ in range(count):
            pinged.driver.send(frame)
        assert pinged.bench.readable
        assert prompted(pinged.device) == count
        assert len(pinged.answers()) == count == pinged.driver.reap()
        assert not pinged.bench.readable and pinged.signals() == (1, 0)
    pinged.poller.poll(NOW)
    assert pinged.signals() == (0, 0)
    gone = {name: pinged.interface.counters[name] - before.get(name, 0) for name in ("InFrames", "InOctets", "OutFrames", "OutOctets")}
    assert gone == {"InFrames": 5, "InOctets": 5 * len(frame), "OutFrames": 5, "OutOctets": 5 * len(frame)}
    assert pinged.stack.counters["IcmpOutEchoReps"] - pinged.echoed == 5


@pytest.mark.parametrize("order", ["last", "first", "alone"])
def test_a_prompt_does_nothing_when_there_is_something_else(pinged, order):
    frames = [request(pinged), request(pinged)]
    other = pinged.bench.frame(1)
    frames = {"last": [*frames, other], "first": [other, *frames], "alone": [other]}[order]
    for frame in frames:
        pinged.driver.send(frame)
    counters = pinged.device.counters()
    assert prompted(pinged.device) == 0
    assert not pinged.answers() and pinged.driver.reap() == 0
    assert pinged.device.counters() == counters
    pinged.poller.poll(NOW)
    assert len(pinged.answers()) == len(frames) - 1
    assert pinged.driver.reap() == len(frames)


def test_a_prompt_with_nothing_there(pinged):
    assert prompted(pinged.device) == 0
    pinged.driver.send(request(pinged))
    burst = pinged.poller.ports[0].burst
    burst.clear()
    assert pinged.device.receive(burst) == 1
    pinged.answers()
    pinged.driver.send(request(pinged))
    assert prompted(pinged.device) == 0, "frames are given back in order: a burst is out"
    pinged.device.release(burst)
    pinged.poller.poll(NOW)
    assert len(pinged.answers()) == 1


def test_what_a_prompt_leaves_is_told_of_again(pinged):
    for _ in range(20):
        pinged.driver.send(request(pinged))
    answered = 0
    while answered < 20:
        assert pinged.bench.readable
        answered += prompted(pinged.device)
    assert answered == 20 == len(pinged.answers())
    pinged.poller.poll(NOW)
    assert not pinged.bench.readable


def test_a_prompt_without_room_for_the_answer(pinged):
    while pinged.device.transmit(pinged.bench.batch([pinged.bench.frame(1)])):
        pass
    pinged.driver.send(request(pinged))
    assert prompted(pinged.device) == 1
    assert pinged.device.counters()["transmit_dropped"] == 1


def test_a_guest_that_does_not_look_after_a_prompt_is_reminded(pinged):
    pinged.driver.send(request(pinged))
    assert prompted(pinged.device) == 1 and pinged.signals() == (1, 0)
    pinged.poller.poll(NOW)
    assert pinged.signals() == (0, 1)


def test_a_ring_that_breaks_at_a_prompt(pinged):
    queue = pinged.driver.transmit_queue
    queue.avail_index = queue.avail_index + 1000
    assert prompted(pinged.device) == 0
    pinged.guest.kick(1)
    pinged.poller.poll(NOW)
    assert pinged.bench.of("ring_broken") and prompted(pinged.device) == 0


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
        pinged.driver.send(request(pinged))
    assert prompted(pinged.device) == 0
    assert os.lseek(file, 0, 1) == 0 and os.read(file, 100) == b"precious data..."
    for descriptor in {opened, file, writer}:
        os.close(descriptor)


@pytest.mark.parametrize("guest_features", [ALL, ALL & ~mask(Feature.EVENT_IDX)], ids=["event index", "flags"])
@pytest.mark.parametrize("what", ["frame", "ping"])
def test_a_look_between_a_frame_and_its_kick(bench, monkeypatch, guest_features, what):
    """The guest has made a frame available and not yet asked whether to kick."""
    bench.start = lambda start=bench.start: start(guest_features)
    pinged = Pinged(bench)
    queue, kind = pinged.driver.transmit_queue, type(pinged.driver.transmit_queue)
    looks = []

    def looked():
        if not looks:
            looks.append(1)
            pinged.poller.poll(NOW)

    class Interrupted(kind):
        used_flags = property(lambda self: (looked(), kind.used_flags.fget(self))[1])
        avail_event = property(lambda self: (looked(), kind.avail_event.fget(self))[1])

    queue.__class__ = Interrupted
    before = pinged.device.counters()["receive_frames"]
    for _ in range(6):
        pinged.driver.send(request(pinged) if what == "ping" else bench.frame(1))
    assert looks
    for _ in range(20):
        if bench.readable:
            pinged.poller.poll(NOW)
    assert pinged.device.counters()["receive_frames"] - before == 6


def test_a_prompt_for_a_busy_ring_is_followed_by_a_reminder(pinged):
    pinged.driver.send(pinged.bench.frame(1))
    pinged.poller.poll(NOW)
    assert pinged.device._rings.busy
    pinged.driver.reap()
    pinged.signals()
    pinged.driver.send(request(pinged))
    assert prompted(pinged.device) == 1 and pinged.signals() == (1, 0)
    pinged.poller.poll(NOW)
    assert pinged.signals() == (0, 1)


def test_a_kick_descriptor_that_was_made_to_block(pinged):
    """The front-end shares the open file; a look that no kick has led to must not wait for one."""
    os.set_blocking(pinged.device._rings.ports[1].kick, True)
    pinged.driver.kick_transmit = lambda: None
    for _ in range(2):
        pinged.driver.send(request(pinged))
        pinged.poller.poll(NOW)
    pinged.driver.send(request(pinged))
    assert prompted(pinged.device) == 1
    assert len(pinged.answers()) == 3


def test_a_kick_that_a_prompt_has_drained_is_not_waited_for(pinged, threads):
    """The ring was busy, and Python had seen the kick."""
    port = pinged.device._rings.ports[1]
    os.set_blocking(port.kick, True)
    for number in (1, 2):
        pinged.driver.send(pinged.bench.frame(number))
        pinged.poller.poll(NOW)
    assert pinged.device._rings.busy and port.kicked and not port.foreseen
    pinged.driver.send(request(pinged))
    assert prompted(pinged.device) == 1
    threads(lambda: pinged.poller.poll(NOW))
    threads.wait()
    assert not pinged.device._rings.busy


@pytest.mark.parametrize("answer", [1, BULK_BYTES // 1000 + 1], ids=["short", "long"])
def test_whatever_the_answer_a_quiet_question_is_followed_by_a_reminder(pinged, monkeypatch, answer):
    monkeypatch.setattr(device, "REMIND_AFTER", 1e-6)
    monkeypatch.setattr(device, "REMIND_BULK_AFTER", 1e-6)
    pinged.driver.send(pinged.bench.frame(1))
    burst = pinged.bench.burst
    assert pinged.device.receive(burst) == 1
    assert pinged.device.transmit(pinged.bench.batch([bytes(1000)] * answer))
    pinged.device.release(burst)
    assert pinged.signals() == (1, 0)
    select.select([pinged.device], [], [], 10.0)
    pinged.device.handle_ready()
    assert pinged.signals() == (0, 1)


def test_the_shorter_of_two_reminders_counts(pinged, monkeypatch):
    set_to = []
    monkeypatch.setattr(rings, "timer_set", lambda timer, seconds: set_to.append(seconds))
    some = pinged.device._rings
    for seconds in (0.05, 0.05, 0.005, 0.05):
        some.remind_later(some.ports[1], seconds)
    assert set_to == [0.05, 0.005] and some._to_remind == [some.ports[1]]


def test_without_a_descriptor_for_the_timer_the_guest_is_signalled(pinged, monkeypatch):
    def none_left():
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(rings, "timer_open", none_left)
    monkeypatch.setattr(pinged.device._rings, "_remind_timer", None)
    pinged.driver.send(request(pinged))
    pinged.poller.poll(NOW)
    assert pinged.answers() and pinged.signals() == (1, 1)


def test_a_broken_receive_queue_is_noticed(pinged):
    queue = pinged.driver.receive_queue
    queue.avail_index = queue.avail_index + 1000
    for _ in range(2):
        pinged.driver.send(request(pinged))
        prompted(pinged.device)
        pinged.poller.poll(NOW)
    assert pinged.bench.of("ring_broken") and not pinged.device.link_up


def test_no_prompt_without_a_connection(pinged):
    pinged.guest.close()
    pinged.poller.poll(NOW)
    assert prompted(pinged.device) == 0


def test_a_loop_that_sleeps_has_the_device_answer(bench):
    pinged = Pinged(bench)
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
            pinged.driver.send(request(pinged))
            asked += 1
            # the stack has more to say as time passes: group reports, announcements
            while not any(frame[12:14] == b"\x08\x00" for frame in pinged.answers()):
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
        return asked

    loop = new_event_loop(pinged.poller)
    try:
        asked = loop.run_until_complete(asyncio.wait_for(main(), 10.0))
        pinged.poller.poll(NOW)
    finally:
        loop.close()
    assert pinged.stack.counters["IcmpOutEchoReps"] - pinged.echoed == asked


def test_the_kernels_descriptors_beside_it(bench):
    """Readable, writable, both because the other end is gone, and closed without telling the loop."""
    pinged = Pinged(bench)
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
        pinged.driver.send(request(pinged))
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
            {"sends": driver.flush, "polls": driver.poll, "stops": lambda now: driver.stop()}[what](NOW)
        assert not driver.lock.answering and not pinged.device.prompt.c.gate
        if what != "stops":
            pinged.driver.send(request(pinged))
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
        driver.poll(NOW)  # as a loop does that has not heard of it

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
        pinged.driver.send(request(pinged))
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
        pinged.driver.send(request(pinged))
        assert Sleeper([pinged.device.prompt]).sleep(pinged.device.fileno(), timeout, pause)[0] == 1
        pinged.poller.poll(NOW)
        answered, found = Sleeper([]).sleep(pinged.device.fileno(), 0.0, 1.0)
        assert not answered and not list(found)

    def test_threads_that_use_the_stack_meanwhile(self, bench, threads):
        pinged = Pinged(bench)
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
                pinged.driver.send(request(pinged, data=number.to_bytes(4, "big")))
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


def test_without_an_event_index_there_is_no_way_to_tell(bench):
    bench.start = lambda start=bench.start: start(ALL & ~mask(Feature.EVENT_IDX))
    pinged = Pinged(bench)
    pinged.driver.send(request(pinged))
    pinged.poller.poll(NOW)
    assert pinged.answers() and pinged.signals() == (1, 1)


def test_many_at_once_are_signalled(pinged):
    for _ in range(QUIET_CHAINS + 1):
        pinged.driver.send(request(pinged))
    pinged.poller.poll(NOW)
    assert len(pinged.answers()) == QUIET_CHAINS + 1
    assert pinged.signals() == (1, 1)


def test_frames_without_an_answer_are_signalled(pinged):
    pinged.driver.send(pinged.bench.frame(1))
    pinged.poller.poll(NOW)
    assert pinged.signals() == (0, 1)


def test_a_ring_that_stops_owes_nothing(pinged):
    pinged.driver.send(request(pinged))
    pinged.poller.poll(NOW)
    assert pinged.signals() == (1, 0)
    pinged.guest.stop_ring(1)
    assert pinged.guest.called(1) == 1


def test_the_front_end_has_its_turn_among_many_questions(pinged):
    """Whoever always has a frame in its ring does not keep messages out."""
    pinged.guest._turn = None
    pinged.guest.send(Request.SET_VRING_ENABLE, VringState(0, 0))
    pinged.driver.send(request(pinged))
    pinged.poller.poll(NOW)
    assert pinged.device.link_up and pinged.answers()
    for _ in range(LOOKS_FIRST):
        pinged.driver.send(request(pinged))
        pinged.poller.poll(NOW)
    assert not pinged.device.link_up


def test_a_connection_that_ends_before_the_reminder(pinged):
    pinged.driver.send(request(pinged))
    pinged.poller.poll(NOW)
    pinged.guest.close()
    for _ in range(3):
        pinged.poller.poll(NOW)
    assert not pinged.device.link_up and not pinged.bench.readable
