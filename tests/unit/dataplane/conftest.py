"""A guest, its memory and one ring of it, as the tests of rings share them."""

import importlib.util
import os
from pathlib import Path

import pytest

from swos_net.dataplane.batch import Batch, link_limits
from swos_net.dataplane.burst import Burst
from swos_net.dataplane.guest_memory import GuestMemory
from swos_net.dataplane.vring import Vring
from swos_net.link import LinkFeatures
from swos_net.testing.virtio_driver import DriverQueue, Feature, GuestRam, NetHeader, split

HEADER = NetHeader().pack()
FRAME = bytes(12) + b"\x88\xb5" + bytes(range(200))  # an experimental EtherType: the ring does not care
PLAIN = link_limits(LinkFeatures())


class Setup:
    """A guest, its memory table and one ring of it, with eventfds for call and error."""

    def __init__(self, size=16, features=Feature.VERSION_1, base=0, regions=1, ram_size=1 << 22, start=True):
        self.ram = GuestRam(ram_size, regions=regions)
        self.queue = DriverQueue(self.ram, size, event_idx=bool(features & Feature.EVENT_IDX), base=base)
        self.memory = GuestMemory()
        self.ram.share_with(self.memory)
        self.size = size
        self.features = features
        self.base = base
        self.call = os.eventfd(0, os.EFD_NONBLOCK)
        self.error = os.eventfd(0, os.EFD_NONBLOCK)
        self.burst = Burst(arena=False)
        self.ring = Vring()
        self.ring.call_fd = self.call
        self.ring.err_fd = self.error
        if start:
            self.start()

    def start(self, **changes):
        desc, avail, used = self.queue.addresses
        arguments = dict(size=self.size, features=self.features, desc=desc, avail=avail, used=used, base=self.base)
        self.ring.start(self.memory, **(arguments | changes))

    def place(self, data, at=None):
        """Puts bytes into guest memory; returns their address."""
        at = self.ram.allocate(len(data)) if at is None else at
        self.ram.write(at, data)
        return at

    def send(self, data=HEADER + FRAME, layout=(), indirect=False):
        return self.queue.submit(split(self.place(data), len(data), layout), indirect)

    def offer_room(self, length, layout=(), indirect=False):
        at = self.ram.allocate(length)
        return at, self.queue.submit(split(at, length, layout, writable=True), indirect)

    def receive(self, **arguments):
        return self.ring.receive(self.burst, **arguments)

    def release(self):
        return self.ring.release(self.burst)

    def frames(self):
        """The frames of the burst, from where they lie."""
        return [self.burst.copy(i, 0, 1 << 17) for i in range(len(self.burst))]

    def transmit(self, *frames, limits=PLAIN):
        """0, 1 or -1 as vring_transmit says; `batch` stays for another try."""
        self.batch = Batch()
        for frame in frames:
            self.batch.add_frame(frame)
        self.batch.seal()
        return self.ring.transmit(self.batch, limits)

    def signals(self):
        return _drain(self.call)

    def errors(self):
        return _drain(self.error)

    def close(self):
        self.ring.stop()
        self.memory.close()
        self.ram.close()
        os.close(self.call)
        os.close(self.error)

    def assert_broken(self, fault, result=-1):
        """`result` is what the call said; the ring is dead, has told so once, and leaves its memory alone."""
        assert result == -1
        assert self.ring.broken is fault
        assert self.ring.broken_check
        assert self.errors() == 1, "D8: the error eventfd is told once"
        image = self.ram.image()
        assert self.receive() == -1
        assert self.release() == -1
        assert self.transmit(FRAME) == -1
        assert not self.ring.enable_kicks()
        assert self.ring.available == 0
        assert self.ram.image() == image, "D8: a broken ring's memory is left alone"
        assert self.errors() == 0


def _drain(descriptor):
    try:
        return os.eventfd_read(descriptor)
    except BlockingIOError:
        return 0


@pytest.fixture
def setup():
    made = []

    def make(*arguments, **keywords):
        made.append(Setup(*arguments, **keywords))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="session")
def linux_frames():
    """Frames of a Linux kernel, by name: those of the wire modules' tests."""
    path = Path(__file__).parents[1] / "wire" / "conftest.py"
    spec = importlib.util.spec_from_file_location("wire_frames", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: bytes.fromhex(text) for name, text in module.LINUX_FRAMES.items()}
