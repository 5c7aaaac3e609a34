"""Transfers to a guest that go on while the loop sleeps: acknowledgments in, segments out, without Python."""

import asyncio
import contextlib
import select
import sys
import threading
import time
from math import inf

import pytest

from swos_net import socket
from swos_net.asyncio import LoopDriver, SwosEventLoop
from swos_net.asyncio.transport import core_of
from swos_net.config import StackConfig, TcpConfig
from swos_net.dataplane.batch import Batch
from swos_net.dataplane.burst import Burst
from swos_net.dataplane.prompt import Sleeper
from swos_net.device.pair import make_pair
from swos_net.device.vhost_user import rings
from swos_net.device.vhost_user.features import Feature, mask
from swos_net.link import Offload
from swos_net.runtime.open_stack import open_stack
from swos_net.stack import lending
from swos_net.stack.endpoint import Ready
from swos_net.tcp.tcb import Tcb

GUEST_MAC = bytes.fromhex("020000000001")
WHOLE_FRAMES = ((1 << 64) - 1) & ~mask(Feature.GUEST_CSUM, Feature.GUEST_TSO4, Feature.GUEST_TSO6)
PATIENCE = 10.0


def patiently(done):
    """Turns of a loop until it is `done()`, which is looked at after it: the time may be over."""
    ended = time.monotonic() + PATIENCE
    while not done() and time.monotonic() < ended:
        yield


class Lab:
    """A guest whose network is another stack of ours, in front of a device; nobody serves the stack but the test."""

    def __init__(self, bench, **tcp):
        self.bench = bench
        self.device = bench.device
        near, self.wire = make_pair(offloads=Offload.NONE, addresses=(GUEST_MAC, bench.device.link.address))
        config = StackConfig(tcp=TcpConfig(**{"tail_loss_probe": False, "slow_start_after_idle": False, **tcp}))
        self.driver = LoopDriver.of(open_stack(bench.device, addresses=["10.0.2.2/24"], dhcp_server=False, config=config))
        small = StackConfig(tcp=TcpConfig(receive_buffer=65536))
        self.peer = LoopDriver.of(open_stack(near, addresses=["10.0.2.15/24"], config=small))
        self.net = bench.start(WHOLE_FRAMES).drivers[0]
        self.poller = select.epoll()
        self.poller.register(self.device.fileno(), select.EPOLLIN)
        self.sleeper = Sleeper([self.device.prompt])
        self._burst = Burst(False)
        self.server = self.client = None
        self.received = bytearray()
        self.expected = bytearray()

    def connect(self):
        """(the server's socket, which is lent, and the guest's)."""
        with self.driver.stack.root.activate():
            listener = socket.create_server(("10.0.2.2", 9))
        with self.peer.stack.root.activate():
            self.client = socket.socket()
        listener.setblocking(False)
        self.client.setblocking(False)
        self.client.connect_ex(("10.0.2.2", 9))
        self.settle()
        self.server, _ = listener.accept()
        self.server.setblocking(False)
        listener.close()
        self.client.send(b"hello")
        self.settle()
        assert self.server.recv(100) == b"hello"
        self.endpoint.connection.tcb.congestion.cwnd = 1 << 24  # so that it need not grow
        for _ in range(100):
            if self.endpoint.lent is not None:
                break
            self.send(b"x" * 100)
            self.settle(2)
        assert self.driver.stack.lending.count == 1
        return self

    @property
    def endpoint(self):
        return core_of(self.server).endpoint

    def send(self, data):
        try:
            taken = self.server.send(data)
        except BlockingIOError:
            return 0
        self.expected += data[:taken]
        return taken

    def guest(self, repost=True):
        """What the guest does: what has come is taken, its frames go into its ring."""
        self.give(self.answers(repost))

    def give(self, frames):
        self.net.reap()
        for frame in frames:
            self.net.send(frame)

    def answers(self, repost=True):
        """What the guest has to say to what it has got."""
        for _, frame in self.net.receive(repost):
            batch = Batch()
            batch.add_frame(frame)
            batch.seal()
            self.wire.transmit(batch)
        self.peer.poll(time.monotonic())
        self.peer.flush(time.monotonic())
        with contextlib.suppress(BlockingIOError):
            while data := self.client.recv(1 << 20):
                self.received += data
        self.peer.flush(time.monotonic())
        found = []
        while self.wire.receive(self._burst):
            found += [self._burst.copy(index, 0, 65536) for index in range(len(self._burst))]
            self._burst.clear()
        # reports of its groups and announcements come when they like, and are for Python: none once it is connected
        return [frame for frame in found if self.server is None or frame[12:14] == b"\x08\x00" and frame[23] == 6]

    def serve(self):
        now = time.monotonic()
        self.driver.poll(now)
        self.driver.flush(now)

    def settle(self, times=10):
        for _ in range(times):
            self.guest()
            self.serve()

    def until(self, done):
        for _ in patiently(done):
            self.serve()
        assert done()

    def finish(self):
        """Everything arrives in the end, whoever sees to it."""
        for _ in patiently(lambda: self.received == self.expected):
            self.settle(1)
        assert self.received == self.expected

    def sleep(self, timeout=0.0, **options):
        """As a loop does; whether somebody has to look after the device."""
        self.driver.flush(time.monotonic())
        self.driver.begin_answering([self.device.prompt])
        told, self.found = self.sleeper.sleep(self.poller.fileno(), timeout, 0, **options)
        with self.driver.lock:
            pass
        return bool(told)

    @property
    def polls(self):
        return self.driver.poller.polls

    @property
    def counters(self):
        return self.driver.stack.counters

    def close(self):
        for sock in (self.server, self.client):
            if sock is not None:
                sock.close()
        self.driver.stop()
        self.peer.stop()
        self.poller.close()


@pytest.fixture(autouse=True)
def known_for_long(monkeypatch):
    """However slow the machine is."""
    monkeypatch.setattr(lending, "LINK_KNOWN", 1000.0)


@pytest.fixture
def lab(bench):
    made = Lab(bench)
    try:
        yield made.connect()
    finally:
        made.close()


def transfer(lab, size=400_000):
    """As much of a transfer as goes without Python; how many turns that were."""
    lab.send(bytes(range(256)) * (size // 256))
    turns = 0
    lab.guest()
    for _ in patiently(lambda: lab.received == lab.expected):
        before = lab.driver.poller.ports[0].interface.counters["InBursts"]
        assert not lab.sleep()
        turns += lab.driver.poller.ports[0].interface.counters["InBursts"] - before
        lab.guest()
    assert lab.received == lab.expected, "it never ends"
    return turns


def test_a_transfer_needs_nobody_once_it_has_begun(lab):
    polls, interface = lab.polls, lab.driver.poller.ports[0].interface
    segments, octets, frames = lab.counters["TcpOutSegs"], interface.counters["OutOctets"], interface.counters["OutFrames"]
    device = lab.device.counters()
    assert transfer(lab) > 3
    assert lab.polls == polls and lab.endpoint.lent is not None
    assert lab.counters["TcpOutSegs"] - segments >= 400_000 / 65535
    assert interface.counters["OutOctets"] - octets == lab.device.counters()["transmit_bytes"] - device["transmit_bytes"] > 400_000
    assert interface.counters["OutFrames"] - frames == lab.device.counters()["transmit_frames"] - device["transmit_frames"]


def test_what_it_has_done_is_known_as_soon_as_somebody_asks(lab):
    transfer(lab)
    tcb = lab.endpoint.connection.tcb
    assert tcb.snd_una - tcb.iss - 1 == len(lab.expected) - len(tcb.send_ring) and tcb.snd_nxt - tcb.iss - 1 == len(lab.expected)


def test_everything_that_came_is_counted(lab):
    interface = lab.driver.poller.ports[0].interface
    before = interface.counters["InFrames"], interface.counters["InOctets"], lab.counters["TcpInSegs"], lab.device.counters()
    transfer(lab)
    lab.settle()
    after = interface.counters["InFrames"], interface.counters["InOctets"], lab.counters["TcpInSegs"], lab.device.counters()
    frames = after[3]["receive_frames"] - before[3]["receive_frames"]
    assert after[0] - before[0] == frames and after[1] - before[1] == after[3]["receive_bytes"] - before[3]["receive_bytes"]
    assert 0 < after[2] - before[2] <= frames


def test_a_writer_that_may_go_on_is_told_at_once(lab):
    told = []
    lab.endpoint.watch(told.append)
    while lab.send(bytes(1 << 20)):
        pass
    for _ in patiently(lambda: told):
        polls = lab.polls
        lab.guest()
        assert not lab.sleep() and lab.polls == polls
    assert told == [Ready.WRITABLE] and lab.endpoint.lent is not None and lab.send(b"x") == 1
    lab.finish()


@pytest.mark.parametrize("first", [True, False])
def test_with_anything_else_in_it_a_burst_is_left_alone(lab, first):
    lab.send(bytes(100_000))
    lab.driver.flush(time.monotonic())
    frames = lab.answers()
    lab.give([lab.bench.frame(1), *frames] if first else [*frames, lab.bench.frame(1)])
    before = lab.device._receive_port.vring.next_avail, lab.counters["TcpInSegs"]
    lab.sleep()
    assert (lab.device._receive_port.vring.next_avail, lab.counters["TcpInSegs"]) == before
    lab.finish()


def test_text_is_for_python(lab):
    lab.client.send(b"question")
    lab.guest()
    polls = lab.polls
    lab.sleep()
    assert not lab.endpoint.readable and lab.polls == polls
    lab.serve()
    assert lab.server.recv(100) == b"question"


@pytest.fixture
def puzzled(lab):
    """A turn has been made of one acknowledgment, and what follows it, the same again, is for Python."""
    lab.send(bytes(10_000))
    lab.driver.flush(time.monotonic())
    frames = lab.answers()
    una = lab.endpoint.lent.c.state.snd_una
    lab.give(frames + frames[-1:])
    assert lab.sleep() and lab.endpoint.lent is not None
    assert lab.endpoint.lent.c.state.snd_una == una + 10_000
    assert lab.device._receive_port.vring.c.outstanding == len(frames) + 1
    return lab


def test_an_unexpected_acknowledgment_is_left_to_python(puzzled):
    interface = puzzled.driver.poller.ports[0].interface
    segments, frames = puzzled.counters["TcpInSegs"], interface.counters["InFrames"]
    outstanding = puzzled.device._receive_port.vring.c.outstanding
    puzzled.serve()
    assert not puzzled.device._receive_port.vring.c.outstanding and puzzled.endpoint.lent is None
    assert puzzled.counters["TcpInSegs"] == segments + 1 and interface.counters["InFrames"] == frames + outstanding
    puzzled.finish()


def test_there_are_no_turns_while_something_is_left(puzzled):
    puzzled.device.handle_ready()
    assert not puzzled.sleep() and puzzled.device._receive_port.vring.c.outstanding


def test_a_connection_that_ends_while_something_is_left(puzzled):
    puzzled.bench.guest.close()
    for _ in range(3):
        puzzled.serve()
    assert not puzzled.device.link_up


def test_a_device_that_is_closed_while_something_is_left(puzzled):
    puzzled.driver.stop()


class TestAGuestWithoutBuffers:
    def fill(self, lab):
        """The guest has taken what it was given and offers nothing in its place."""
        for _ in patiently(lambda: lab.driver.poller.ports[0].batch.c.count):  # an acknowledgment may be delayed
            lab.send(bytes(65536))
            lab.guest(repost=False)
            lab.serve()
        assert lab.driver.poller.ports[0].batch.c.count, "something waits for buffers"

    def test_the_rest_goes_when_there_are_some(self, lab):
        self.fill(lab)
        frames, polls = lab.device.counters()["transmit_frames"], lab.polls
        lab.net.post()
        lab.sleep()
        assert lab.device.counters()["transmit_frames"] > frames and lab.polls == polls
        lab.finish()

    def test_python_goes_on_where_it_has_more(self, lab):
        self.fill(lab)
        interface = lab.driver.poller.ports[0].interface
        interface.queue_frame(lab.bench.frame(7))
        for _ in range(50):
            lab.net.post()
            if lab.sleep():
                break
            lab.guest()
        lab.serve()
        assert not interface.has_output
        lab.finish()

    def test_what_comes_in_is_looked_at_all_the_same(self, lab):
        self.fill(lab)
        lab.client.send(b"question")
        lab.guest(repost=False)
        lab.sleep()
        lab.serve()
        assert lab.server.recv(100) == b"question"
        lab.net.post()
        lab.finish()


def test_not_for_a_link_address_that_may_have_changed(lab):
    lab.send(bytes(100_000))
    lab.guest()
    lab.driver.stack.lending.links_may_change()
    taken = lab.device._receive_port.vring.next_avail
    lab.sleep()
    assert lab.device._receive_port.vring.next_avail == taken
    lab.serve()  # which asks for it
    lab.guest()
    lab.sleep()
    assert lab.device._receive_port.vring.next_avail != taken
    lab.finish()


def test_not_for_one_that_nobody_has_asked_for_in_a_while(lab, monkeypatch):
    monkeypatch.setattr(lending, "LINK_KNOWN", -1.0)
    lab.send(bytes(100_000))
    lab.guest()
    taken = lab.device._receive_port.vring.next_avail
    lab.sleep()
    assert lab.device._receive_port.vring.next_avail == taken


def test_not_with_another_clock_than_the_kernels(lab, monkeypatch):
    monkeypatch.setattr(lab.driver, "clock", lambda: 5.0)
    lab.driver.begin_answering([lab.device.prompt])
    assert not lab.device.prompt.knows_deadline and not lab.device.prompt.c.turn
    monkeypatch.undo()


class TestDeadlines:
    @pytest.fixture(autouse=True)
    def alone(self, lab, monkeypatch):
        """Nothing else has a timer."""
        if lab.device._rings._remind_timer is not None:
            rings.timer_set(lab.device._rings._remind_timer, 1000.0)
        monkeypatch.setattr(rings, "timer_set", lambda timer, seconds: None)
        deadlines = lab.driver.stack.deadlines
        for _, _, owner in list(deadlines._heap):
            if owner is not lab.endpoint:
                deadlines.forget(owner)
        deadlines._heap = [entry for entry in deadlines._heap if entry[2] is lab.endpoint]

    def test_a_timer_that_has_moved_ends_no_sleep(self, lab):
        """The heap knows an earlier time; the flow says that there is nothing before the limit."""
        lab.send(bytes(1000))
        lab.settle(1)
        lab.until(lambda: not lab.bench.readable)
        deadlines = lab.driver.stack.deadlines
        entry = deadlines.next_deadline()
        lab.sleep()
        state = lab.endpoint.lent.c.state
        state.retransmission = state.loss_probe = state.delayed_ack = state.keepalive = time.monotonic() + 1000
        assert deadlines.first_two()[0] is lab.endpoint and deadlines.next_deadline() == entry
        begun = time.monotonic()
        lab.sleep(0.0, first=lab.device.prompt, limit=0.03)
        assert not list(lab.found) and 0.03 <= time.monotonic() - begun

    def test_one_that_has_come_does(self, lab):
        lab.send(bytes(1000))
        lab.endpoint.lent.c.state.retransmission = 0.0
        begun = time.monotonic()
        lab.sleep(0.0, first=lab.device.prompt, limit=60.0)
        assert time.monotonic() - begun < 30.0

    def test_only_of_a_flow_that_comes_first(self, lab):
        deadlines = lab.driver.stack.deadlines
        lab.driver.begin_answering([lab.device.prompt])
        assert lab.device.prompt.knows_deadline == (deadlines.first_two()[0] is lab.endpoint)
        with lab.driver.lock:
            pass
        lab.endpoint.connection
        lab.driver.begin_answering([lab.device.prompt])
        assert not lab.device.prompt.knows_deadline


def test_a_guest_that_finds_nothing_by_itself_is_reminded_in_the_end(lab):
    lab.send(bytes(3000))
    lab.guest()
    lab.bench.guest.called(1)
    lab.net.transmit_queue.used_event = lab.net.transmit_queue.taken
    lab.sleep()
    vring = lab.device._receive_port.vring
    if vring.undecided:
        lab.sleep(0.2, limit=0.2)
    assert not vring.undecided and lab.bench.guest.called(1) == 1


def test_a_loop_and_threads_that_look_at_the_connection_meanwhile(bench, threads):
    """Every look takes the connection back, in the middle of whatever the sleeping loop does."""
    lab = Lab(bench).connect()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    loop = SwosEventLoop(lab.driver.stack.root)
    stop, ended = threading.Event(), threading.Event()
    data = bytes(range(256)) * 8000

    async def send():
        await loop.sock_sendall(lab.server, data)

    def serve():
        loop.run_until_complete(send())
        ended.set()
        while not stop.is_set():
            loop.run_until_complete(asyncio.sleep(0.001))

    def look():
        while not stop.is_set():
            lab.server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 200)
            time.sleep(0.001)

    threads(serve)
    threads(look)
    lab.expected += data
    begun = time.monotonic()
    try:
        while lab.received != lab.expected:
            lab.guest()
            assert time.monotonic() - begun < 30.0
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        threads.wait()
        loop.close()
        lab.close()
    assert ended.is_set()


class TestRests:
    """After bulk data the ring is looked at again after a while, its kicks disabled meanwhile."""

    @pytest.fixture
    def resting(self, moderated):
        lab = Lab(moderated)
        try:
            lab.connect()
            lab.turn = lab.driver.poller.ports[0].turn
            lab.turn.moderate(1, 1 << 30, 0.02, 0.02)
            yield lab
        finally:
            lab.close()

    def begin(self, lab):
        """A turn has been made, after which the ring rests, in the middle of a sleep."""
        lab.send(bytes(60_000))
        lab.driver.flush(time.monotonic())
        lab.guest()
        lab.until(lambda: not lab.bench.readable or lab.driver.stack.lending.count)
        lab.driver.begin_answering([lab.device.prompt])
        lab.sleeper.sleep(lab.poller.fileno(), 0.0, 0)

    def test_it_is_over_when_somebody_else_is_at_work(self, resting):
        self.begin(resting)
        vring = resting.device._receive_port.vring
        assert resting.turn.c.unsettled and not vring.kicks_enabled
        with resting.driver.lock:
            assert vring.kicks_enabled and not resting.turn.c.unsettled and resting.turn.c.look_at == inf
        resting.finish()

    def test_what_came_meanwhile_is_not_forgotten(self, resting):
        self.begin(resting)
        resting.net.send(resting.bench.frame(1))
        with resting.driver.lock:
            pass
        assert resting.bench.readable
        resting.finish()

    def test_at_its_end_the_ring_is_looked_at(self, resting):
        self.begin(resting)
        resting.sleeper.sleep(resting.poller.fileno(), 0.03, 0)
        assert resting.device._receive_port.vring.kicks_enabled and not resting.turn.c.unsettled
        with resting.driver.lock:
            pass
        resting.finish()

    def test_what_is_not_for_a_turn_then_goes_to_python(self, resting):
        self.begin(resting)
        resting.net.send(resting.bench.frame(1))
        told, found = resting.sleeper.sleep(resting.poller.fileno(), 60.0, 0)
        with resting.driver.lock:
            pass
        assert (told or list(found)) and resting.bench.readable
        resting.finish()


def test_not_for_frames_from_a_guest_that_the_connection_is_not_with(lab):
    lab.send(bytes(100_000))
    lab.guest()
    lab.driver.poller.ports[0].turn.lead_through(77)
    taken = lab.device._receive_port.vring.next_avail
    lab.sleep()
    assert lab.device._receive_port.vring.next_avail == taken


def test_not_without_an_event_index(bench, monkeypatch):
    lab = Lab(bench)
    try:
        lab.connect()
        monkeypatch.setattr(lab.device._receive_port.vring, "c", NoEventIndex(lab.device._receive_port.vring.c))
        lab.device.prompt.open()
        assert not lab.device.prompt.c.turn
        lab.device.prompt.close()
        monkeypatch.undo()
    finally:
        lab.close()


class NoEventIndex:
    def __init__(self, c):
        self.features = c.features & ~mask(Feature.EVENT_IDX)


def test_news_wait_until_they_have_been_told(lab):
    """Another loop's sleep does not make turns over them."""
    lab.send(bytes(100_000))
    lab.guest()
    lab.driver.poller.ports[0].turn.c.news_count = 1
    lab.device.prompt.open()
    taken = lab.device._receive_port.vring.next_avail
    lab.sleeper.sleep(lab.poller.fileno(), 0.0, 0)
    assert lab.device._receive_port.vring.next_avail == taken
    lab.driver.poller.ports[0].turn.told()
    lab.device.prompt.close()
    lab.finish()


def test_a_second_loop_ends_the_answers_of_the_first(lab):
    told = []
    lab.driver.begin_answering([lab.device.prompt])
    lab.driver.poller.ports[0].turn.ended = lambda: told.append(1)
    lab.driver.poller.ports[0].turn.c.turns = 1
    lab.driver.begin_answering([lab.device.prompt])
    assert told == [1]
    with lab.driver.lock:
        pass


def test_no_turns_while_a_burst_has_not_been_given_back(lab):
    lab.driver.poller.ports[0].held = True
    lab.driver.begin_answering([lab.device.prompt])
    lab.driver.poller.ports[0].held = False
    assert not lab.driver.lock.answering


def test_a_prompt_beyond_those_of_a_sleep_decides_nothing(lab):
    begun = time.monotonic()
    Sleeper([]).sleep(lab.poller.fileno(), 0.0, 0, lab.device.prompt, 60.0)
    assert time.monotonic() - begun < 30.0
