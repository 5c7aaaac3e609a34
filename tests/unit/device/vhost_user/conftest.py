"""A device with a guest behind it, for the tests of frames and of rings."""

import select

import pytest

from swos_net.dataplane.batch import Batch
from swos_net.dataplane.burst import Burst
from swos_net.device.vhost_user.device import REST_MAX, VhostUserDevice
from swos_net.device.vhost_user.features import Feature, mask
from swos_net.testing.vhost_front_end import VhostGuest
from swos_net.testing.virtio_driver import GuestRam

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
