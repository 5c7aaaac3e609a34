"""A device with a guest behind it, for the tests of frames and of rings."""

import os
import select

import pytest

from swos_net.address import parse_address
from swos_net.dataplane.batch import Batch
from swos_net.dataplane.burst import Burst
from swos_net.dataplane.prompt import Sleeper
from swos_net.device.vhost_user.device import REST_MAX, VhostUserDevice
from swos_net.device.vhost_user.features import Feature, mask
from swos_net.runtime.open_stack import open_stack
from swos_net.testing.vhost_front_end import VhostGuest
from swos_net.testing.virtio_driver import GuestRam
from swos_net.wire import ethernet, icmpv4, icmpv6, ipv4, ipv6

ALL = (1 << 64) - 1
LEGACY = mask(Feature.PROTOCOL_FEATURES)
PLAIN = LEGACY | mask(Feature.VERSION_1)
EVENT_IDX = mask(Feature.EVENT_IDX)


class Bench:
    """A device, its guest, and what the device told."""

    def __init__(self, path: str, *, queue_pairs: int = 1, **options):
        self.events: list[tuple[str, dict]] = []
        self.path = path
        self.queue_pairs = queue_pairs
        options.setdefault("rest", 0)  # every frame is told of at once
        self.device = VhostUserDevice(
            path, queue_pairs=queue_pairs, event=lambda name, **details: self.events.append((name, details)), **options
        )
        self.burst = Burst(False)
        self.ram = GuestRam(1 << 22)
        self.guest = None

    def connect(self) -> VhostGuest:
        self.guest = VhostGuest.connect(
            self.path, turn=self.device.handle_ready, ram=self.ram, queue_pairs=self.queue_pairs
        )
        return self.guest

    def start(self, features: int = ALL, size: int = 256) -> VhostGuest:
        guest = self.connect()
        guest.start(features, size)
        return guest

    def take(self) -> list[bytes]:
        """What one receive() gives, released."""
        count = self.device.receive(self.burst)
        frames = [self.burst.copy(index, 0, 65536) for index in range(count)]
        if count:
            self.device.release(self.burst)
        return frames

    def take_all(self) -> list[bytes]:
        frames = []
        while part := self.take():
            frames += part
        return frames

    @property
    def readable(self) -> bool:
        return bool(select.select([self.device], [], [], 0)[0])

    def of(self, name: str) -> list[dict]:
        return [details for seen, details in self.events if seen == name]

    def close(self) -> None:
        if self.guest is not None:
            self.guest.close()
        self.device.close()
        self.ram.close()

    @staticmethod
    def frame(number: int, length: int = 60) -> bytes:
        """A broadcast frame of no known protocol that says which one it is."""
        return (b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + number.to_bytes(4, "big")).ljust(length, b".")

    @staticmethod
    def batch(frames) -> Batch:
        batch = Batch()
        for item in frames:
            batch.add_frame(item)
        batch.seal()
        return batch


class Pinged:
    """A guest in front of a stack; nobody but the test calls the stack."""

    now = 1000.0
    guest_mac = bytes.fromhex("020000000001")
    addresses = {4: ("10.0.2.15", "10.0.2.2"), 6: ("fd00::15", "fd00::2")}  # the guest's and the stack's

    def __init__(self, bench, features: int = ALL):
        self.bench = bench
        self.device = bench.device
        self.poller = open_stack(bench.device, addresses=["10.0.2.2/24", "fd00::2/64"], dhcp_server=False)
        self.stack = self.poller.stack
        self.interface = self.poller.ports[0].interface
        self.guest = bench.start(features)
        self.driver = self.guest.drivers[0]
        self.settle()
        self.driver.send(bench.frame(0))  # the first chain that a ring gives back is always signalled
        self.settle()
        self.echoed = self.stack.counters["IcmpOutEchoReps"]

    def settle(self):
        """Everything that starting up has to say; what the guest has heard is forgotten."""
        for _ in range(10):
            self.poller.poll(self.now)
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
        self.stack.input.receive_burst(self.interface, burst, self.now)
        self.device.release(burst)
        return early, left

    def request(self, family=4, *, data=b"data", source=None, destination=None, mac=None, **header) -> bytes:
        """A frame with a ping from the guest."""
        local, remote = (parse_address(address) for address in self.addresses[family])
        source, destination = (parse_address(a) if a else b for a, b in ((source, local), (destination, remote)))
        if family == 4:
            packet = ipv4.emit(ipv4.Ipv4Header(source, destination, 1, **header), icmpv4.emit(icmpv4.echo_request(7, 9, data)))
        else:
            message = icmpv6.emit(icmpv6.Icmpv6Message(icmpv6.ECHO_REQUEST, 0, 7 << 16 | 9, data), source, destination)
            packet = ipv6.emit(ipv6.Ipv6Header(source, destination, 58), message)
        kind = 0x0800 if family == 4 else 0x86DD
        return ethernet.emit(ethernet.EthernetHeader(mac or self.device.link.address, self.guest_mac, kind), packet)

    def prompted(self) -> int:
        """What a loop does that has been woken, for whatever reason; how many requests that has dealt with."""
        answered = self.device._responder.c.unseen_frames
        with select.epoll() as poller:
            descriptor = os.eventfd(1)
            poller.register(descriptor, select.EPOLLIN)
            self.device.prompt.open()
            some, found = Sleeper([self.device.prompt]).sleep(poller.fileno(), None, 0)
            self.device.prompt.close()
            assert list(found) == [(descriptor, select.EPOLLIN)]
            os.close(descriptor)
        answered = self.device._responder.c.unseen_frames - answered
        assert some == (answered > 0)
        return answered


@pytest.fixture
def bench(tmp_path):
    bench = Bench(str(tmp_path / "socket"))
    yield bench
    bench.close()


@pytest.fixture
def wide(tmp_path):
    """The same with two queue pairs."""
    bench = Bench(str(tmp_path / "socket"), queue_pairs=2)
    yield bench
    bench.close()


@pytest.fixture
def moderated(tmp_path):
    """A device as users have it: rings with bulk data rest."""
    bench = Bench(str(tmp_path / "socket"), rest=REST_MAX)
    yield bench
    bench.close()


@pytest.fixture(
    params=[ALL, ALL & ~EVENT_IDX, PLAIN, PLAIN | EVENT_IDX, LEGACY],
    ids=["all", "without event index", "plain", "plain with event index", "legacy"],
)
def features(request):
    """What a guest may accept, of all that changes a ring."""
    return request.param


@pytest.fixture
def guest_features():
    """What the guest of `pinged` has; a test's parameter of that name replaces it."""
    return ALL


@pytest.fixture
def pinged(bench, guest_features):
    return Pinged(bench, guest_features)
