"""A hostile front-end: sequences of almost right messages, descriptors of every kind, and memory full of noise.

Whatever it sends, the device answers, ignores or closes the connection; it never raises, never hangs, and afterwards
has as many descriptors and mappings as before.
"""

import gc
import os
import random
import signal
import socket
import struct

import pytest

from swos_net.dataplane.batch import Batch
from swos_net.dataplane.burst import Burst
from swos_net.dataplane.echo import EchoResponder
from swos_net.dataplane.prompt import Sleeper
from swos_net.device.vhost_user.device import VhostUserDevice
from swos_net.device.vhost_user.message import (
    FORMATS,
    HEADER,
    U64,
    VRING_NO_FD,
    Config,
    DeviceState,
    Inflight,
    Iotlb,
    Log,
    MemoryRegion,
    MemoryTable,
    Request,
    SharedObject,
    SingleRegion,
    VringAddress,
    VringState,
    emit_request,
)

MEMORY = 1 << 18
GUEST, USER = 0x40000000, 0x7F0000000000
# Bases and sizes at which arithmetic goes wrong
ODD = (0, 1, 2, 3, 7, 8, 0xFF, 0x100, 0x101, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 32, 1 << 63, (1 << 64) - 1)
FEATURES = 0x130209983 | 1 << 30
SECONDS = 60


def open_fds() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def guest_mappings() -> int:
    with open("/proc/self/maps") as maps:
        return sum("memfd:fuzz" in line for line in maps)


class Descriptors:
    """One of each kind that a front-end could pass."""

    def __init__(self, rng: random.Random):
        self.memory = os.memfd_create("fuzz", os.MFD_CLOEXEC)
        os.ftruncate(self.memory, MEMORY)
        if rng.random() < 0.3:
            os.write(self.memory, rng.randbytes(MEMORY))
        self.short = os.memfd_create("fuzz", os.MFD_CLOEXEC)
        os.ftruncate(self.short, 4096)
        self.eventfd = os.eventfd(1, os.EFD_CLOEXEC)
        self.full_eventfd = os.eventfd(0, os.EFD_NONBLOCK)
        os.eventfd_write(self.full_eventfd, (1 << 64) - 2)
        self.pipe, self.pipe_end = os.pipe()
        self.broken_pipe, gone = os.pipe()
        os.close(gone)
        gone, self.broken_pipe_end = os.pipe()
        os.close(gone)
        self.directory = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        self.null = os.open("/dev/null", os.O_RDWR)
        self.read_only = os.open(f"/proc/self/fd/{self.memory}", os.O_RDONLY)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach()

    def all(self) -> list[int]:
        return list(vars(self).values())

    def close(self) -> None:
        for fd in self.all():
            os.close(fd)


class Fuzzer:
    """Makes a connection's worth of messages from a seed."""

    def __init__(self, rng: random.Random, descriptors: Descriptors):
        self.rng = rng
        self.fds = descriptors

    def number(self, *likely: int) -> int:
        return self.rng.choice(likely) if self.rng.random() < 0.8 else self.rng.choice(ODD)

    def index(self) -> int:
        return self.number(0, 1, 0, 1, 2, 3) & 0xFFFFFFFF

    def ring_part(self) -> int:
        return self.number(*(USER + offset for offset in range(0, MEMORY, 0x2000)))

    def region(self) -> MemoryRegion:
        word = (1 << 64) - 1
        return MemoryRegion(
            self.number(GUEST, GUEST, GUEST + MEMORY) & word,
            self.number(MEMORY, MEMORY, 4096) & word,
            self.number(USER, USER, USER + MEMORY) & word,
            self.number(0, 0, 4096) & word,
        )

    def table(self) -> MemoryTable:
        return MemoryTable([self.region() for _ in range(self.rng.choice((1, 1, 1, 1, 2, 8)))])

    def payload(self, layout):
        u32 = 0xFFFFFFFF
        makers = {
            None: lambda: None,
            U64: lambda: U64(self.number(FEATURES, 0, 1, 0x1F, 0x1D, 1500, 0x101)),
            VringState: lambda: VringState(self.index(), self.number(0, 1, 64, 256) & u32),
            VringAddress: lambda: VringAddress(
                self.index(), self.number(0) & u32, self.ring_part(), self.ring_part(), self.ring_part(), self.number(0)
            ),
            MemoryTable: self.table,
            SingleRegion: lambda: SingleRegion(self.region()),
            Log: lambda: Log(self.number(4096), self.number(0)),
            Iotlb: lambda: Iotlb(1, 2, 3, 1, 2),
            Config: lambda: Config(0, 0, bytes(self.rng.randrange(257))),
            Inflight: lambda: Inflight(4096, 0, 2, 256),
            SharedObject: lambda: SharedObject(bytes(16)),
            DeviceState: lambda: DeviceState(0, 0),
        }
        return makers[layout]()

    def any_fds(self, count: int) -> list[int]:
        return [self.rng.choice(self.fds.all()) for _ in range(count)]

    def good_fds(self, request: int, count: int) -> list[int]:
        kinds = (self.fds.eventfd, self.fds.full_eventfd, self.fds.pipe)
        if request == Request.SET_MEM_TABLE:
            kinds = (self.fds.memory,)
        return [self.rng.choice(kinds) for _ in range(count)]

    def message(self) -> tuple[bytes, list[int]]:
        """A random request, right as a rule, with one thing wrong now and then."""
        rng = self.rng
        request = rng.choice(list(FORMATS))
        layout = FORMATS[request]
        payload = self.payload(layout.payload)
        count = layout.fds(payload)[-1]
        fds = self.good_fds(request, count) if rng.random() < 0.8 else self.any_fds(count)
        data = bytearray(emit_request(request, payload, need_reply=rng.random() < 0.5))
        return self.spoil(data, fds)

    def spoil(self, data: bytearray, fds: list[int]) -> tuple[bytes, list[int]]:
        rng = self.rng
        what = rng.random()
        if what < 0.03:
            data[rng.randrange(len(data))] = rng.randrange(256)
        elif what < 0.04:
            struct.pack_into("=I", data, 8, rng.choice(ODD) & 0xFFFFFFFF)
        elif what < 0.05:
            del data[rng.randrange(1, len(data) + 1) :]
        elif what < 0.06:
            data += rng.randbytes(rng.randrange(1, 64))
        elif what < 0.08:
            fds = self.any_fds(rng.randrange(20))
        elif what < 0.09:
            data[:12] = HEADER.pack(rng.randrange(256), 1 | rng.choice((0, 8)), len(data) - 12)
        return bytes(data), fds

    def set_up(self) -> list[tuple[bytes, list[int]]]:
        """What a front-end sends until its rings run, with single mutations."""
        rng = self.rng
        messages = [
            (Request.GET_FEATURES, None, []),
            (Request.SET_PROTOCOL_FEATURES, U64(0x1D), []),
            (Request.SET_OWNER, None, []),
            (Request.SET_FEATURES, U64(FEATURES), []),
            (Request.SET_MEM_TABLE, MemoryTable([MemoryRegion(GUEST, MEMORY, USER, 0)]), [self.fds.memory]),
        ]
        for index in rng.sample(range(4), 4):
            part = USER + index * 0x8000
            messages += [
                (Request.SET_VRING_NUM, VringState(index, rng.choice((1, 64, 64, 64, 256))), []),
                (Request.SET_VRING_BASE, VringState(index, rng.choice((0, 0, 0, 65535))), []),
                (Request.SET_VRING_ADDR, VringAddress(index, 0, part, part + 0x2000, part + 0x4000), []),
                (Request.SET_VRING_KICK, U64(index), self.good_fds(Request.SET_VRING_KICK, 1)),
                (Request.SET_VRING_CALL, U64(index), self.any_fds(1)),
                (Request.SET_VRING_ERR, U64(index), self.any_fds(1)),
                (Request.SET_VRING_ENABLE, VringState(index, 1), []),
            ]
        if rng.random() < 0.3:
            messages.append((Request.SET_VRING_KICK, U64(VRING_NO_FD | 1), []))
        if rng.random() < 0.3:
            rng.shuffle(messages)
        spoiled = rng.randrange(2 * len(messages))
        return [
            (self.spoil if position == spoiled else lambda data, fds: (bytes(data), fds))(
                bytearray(emit_request(request, payload, need_reply=rng.random() < 0.3)), fds
            )
            for position, (request, payload, fds) in enumerate(messages)
        ]

    def plausible_rings(self) -> None:
        """Fills the rings with chains most of which are right, so that they do not all break at the first look."""
        rng = self.rng
        for index in range(4):
            part = index * 0x8000
            for slot in range(64):
                address = GUEST + rng.randrange(MEMORY)
                flags = rng.choice((0, 1, 2, 3, 4)) if rng.random() < 0.2 else 2 * (1 - index % 2)
                length = rng.choice((1526, 1526, 72, 12, 0))
                descriptor = struct.pack("<QIHH", address, length, flags, rng.randrange(66))
                os.pwrite(self.fds.memory, descriptor, part + 16 * slot)
            heads = b"".join(struct.pack("<H", rng.randrange(64 + (rng.random() < 0.02))) for _ in range(64))
            avail_index = rng.choice((0, 1, 5, 64, 64, 65535))
            os.pwrite(self.fds.memory, struct.pack("<HH", 0, avail_index) + heads, part + 0x4000)


class Run:
    """One device and what its owner does with it."""

    def __init__(self, path: str):
        self.events: list[str] = []
        self.device = VhostUserDevice(path, queue_pairs=2, event=lambda name, **details: self.events.append(name))
        self.burst = Burst(False)
        self.path = path
        self.responder = EchoResponder(64)
        self.responder.use(self.device.link.address, 1514, [bytes(16)], [])
        self.device.answer_echo(self.responder)
        self.sleeper = Sleeper([self.device.prompt])

    def turn(self, rng: random.Random) -> None:
        device = self.device
        device.prompt.open()
        self.sleeper.sleep(device.fileno(), 0, 0)
        device.prompt.close()
        for _ in range(10):
            if not device.receive(self.burst):
                break
            for index in range(len(self.burst)):
                self.burst.copy(index, 0, 65536)
            device.release(self.burst)
        if rng.random() < 0.3:
            batch = Batch()
            for _ in range(3):
                batch.add_frame(rng.randbytes(rng.choice((60, 1514, 9000))))
            batch.seal()
            device.transmit(batch)

    def connection(self, rng: random.Random) -> None:
        descriptors = Descriptors(rng)
        fuzzer = Fuzzer(rng, descriptors)
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.connect(self.path)
        peer.setblocking(False)
        messages = fuzzer.set_up() if rng.random() < 0.8 else []
        messages += [fuzzer.message() for _ in range(rng.randrange(40))]
        for data, fds in messages:
            if rng.random() < 0.2:
                fuzzer.plausible_rings()
            try:
                socket.send_fds(peer, [data], fds)
            except OSError:
                break
            if rng.random() < 0.5:
                self.turn(rng)
            if rng.random() < 0.5:
                try:
                    peer.recv(4096)
                except OSError:
                    pass
        self.turn(rng)
        peer.close()
        descriptors.close()
        self.turn(rng)


@pytest.fixture
def limited():
    """Fails a test that hangs."""

    def hang(signum, frame):
        raise TimeoutError("the device hangs")

    previous = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("seed", range(6))
def test_f1_hostile_front_end(seed, tmp_path, limited):
    rng = random.Random(seed)
    run = Run(str(tmp_path / "socket"))
    try:
        run.connection(rng)
        gc.collect()
        fds = open_fds()
        for _ in range(60):
            run.connection(rng)
            assert run.events[-1] == "disconnected"
            assert not run.device.link_up
        gc.collect()
        assert len(open_fds()) == len(fds)
        assert guest_mappings() == 0
        # The fuzzer gets far enough to be worth its time.
        for name in ("protocol_error", "ring_started", "ring_broken", "link_up", "warning"):
            assert name in run.events
        counters = run.device.counters()
        assert counters["connections"] == 61
        assert counters["receive_kicks"] and counters["receive_frames"] and counters["transmit_frames"]
    finally:
        run.device.close()
