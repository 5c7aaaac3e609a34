"""A stack over vhost-user, for guests that the tests start."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from swos_net.device.vhost_user.device import VhostUserDevice
from swos_net.runtime.open_stack import open_stack
from swos_net.runtime.threaded import ThreadedRunner

ADDRESS4, ADDRESS6, PREFIX6 = "10.0.2.2", "fd00:5705::2", "fd00:5705::/64"


class Served:
    """A stack, its device and what the device told; it runs while the context `runner` lasts."""

    def __init__(self, path: Path, runner: Callable, **options):
        self.path = path
        self.events: list[tuple[str, dict]] = []
        self.device = VhostUserDevice(str(path), event=lambda name, **details: self.events.append((name, details)), **options)
        self.poller = open_stack(self.device, addresses=[f"{ADDRESS4}/24", f"{ADDRESS6}/64"], dhcp_server=True, ra=PREFIX6)
        self.stack = self.poller.stack
        self.interface = self.stack.interfaces[0]
        self.stack_events: list[object] = []
        self.stack.on_event = lambda event, interface: self.stack_events.append(event)
        self.runner = runner(self.poller)

    def happened(self, name: str) -> list[dict]:
        return [details for event, details in self.events if event == name]


@contextlib.contextmanager
def serving() -> Iterator[Callable[..., Served]]:
    """serve(**options of VhostUserDevice) -> Served; everything ends with the block.

    A thread serves it, unless another context is given: `runner`, which is called with the poller.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="swos-guest-"))  # a short path: a socket's is at most 107 bytes
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        count = 0

        def start(runner: Callable = ThreadedRunner, **options) -> Served:
            nonlocal count
            count += 1
            served = Served(folder / f"nic{count}.sock", runner, **options)
            stack.enter_context(served.runner)
            return served

        yield start


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """`serving` for one test."""
    with serving() as start:
        yield start


@pytest.fixture(scope="module")
def serve_module() -> Iterator[Callable[..., Served]]:
    """`serving` for all tests of a module."""
    with serving() as start:
        yield start
