"""QEMU's `-netdev stream` and `-netdev dgram` as the other ends of ours, joined by its hub: no guest is started."""

import contextlib
import hashlib
import os
import select
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.packages import LabError
from lab.qemu import Emulator, find_emulator
from swos_net.dataplane.batch import Batch
from swos_net.dataplane.burst import Burst
from swos_net.device.dgram import DgramDevice
from swos_net.device.open_device import open_device
from swos_net.device.stream import StreamDevice
from swos_net.runtime.open_stack import open_stack
from swos_net.runtime.threaded import ThreadedRunner
from swos_net.socket import create_connection, create_server


pytestmark = pytest.mark.xdist_group("network")


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    try:
        found = find_emulator("x86_64")
    except LabError as error:
        pytest.skip(str(error))
    if found.version < (7, 2):
        pytest.skip("-netdev stream and dgram came with QEMU 7.2")
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="swos-qemu-"))  # a short path: a socket's is at most 107 bytes
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def hub(emulator: Emulator, folder: Path) -> Iterator[None]:
    """A QEMU whose hub has three ports: one connects to us, one listens for us, one sends datagrams."""
    ports = (
        f"stream,id=n0,server=off,addr.type=unix,addr.path={folder}/ours",
        f"stream,id=n1,server=on,addr.type=unix,addr.path={folder}/qemus",
        f"dgram,id=n2,local.type=unix,local.path={folder}/d-qemu,remote.type=unix,remote.path={folder}/d-ours",
    )
    arguments = []
    for index, port in enumerate(ports):
        arguments += ["-netdev", port, "-netdev", f"hubport,id=h{index},hubid=0,netdev=n{index}"]
    command = [*emulator.command, "-M", "none", "-nodefaults", "-display", "none", "-monitor", "none", *arguments]
    with subprocess.Popen(command, env=os.environ | emulator.environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield
            assert process.poll() is None, process.stderr.read()
        finally:
            process.terminate()


def receive_until(device, condition, seconds: float = 10.0) -> list[bytes]:
    """Frames of a device until `condition()` holds or is given some."""
    frames: list[bytes] = []
    burst, end = Burst(), time.monotonic() + seconds
    while not condition(frames):
        assert time.monotonic() < end, (device, frames, device.counters())
        select.select([device], [], [], 0.1)
        burst.clear()
        frames += [burst.copy(index, 0, 70000) for index in range(device.receive(burst))]
        device.release(burst)
    return frames


def send(device, *frames: bytes, taken: bool = True) -> None:
    batch = Batch()
    for frame in frames:
        batch.add_frame(frame)
    batch.seal()
    assert device.transmit(batch) and batch.sent is taken


def open_three(folder: Path) -> list:
    return [
        StreamDevice(folder / "ours"),
        StreamDevice(folder / "qemus", role="connect"),
        DgramDevice(folder / "d-ours", folder / "d-qemu"),
    ]


def test_frames_cross_the_hub_and_a_restarted_hub_is_found_again(emulator, folder):
    devices = open_three(folder)
    try:
        for run in range(2):
            with hub(emulator, folder):
                for device in devices:
                    receive_until(device, lambda _frames, device=device: device.link_up)
                for index, sender in enumerate(devices):
                    frames = [bytes([run, index, size & 0xFF]) * (size // 3) for size in (60, 999, 1512)]
                    send(sender, *frames)
                    for receiver in devices:
                        if receiver is not sender:
                            assert receive_until(receiver, lambda got: len(got) == 3) == frames
            # without a connection, only a frame that nobody takes tells at once that the other end has gone
            send(devices[2], bytes(60), taken=False)
            for device in devices:
                receive_until(device, lambda _frames, device=device: not device.link_up)
        assert [device.counters()["receive_frames"] for device in devices] == [12, 12, 12]
        assert [device.counters()["dropped"] for device in devices] == [0, 0, 0]
    finally:
        for device in devices:
            device.close()


@pytest.mark.parametrize("ends", [("stream:{}/ours", "stream-connect:{}/qemus"), ("stream:{}/ours", "dgram:{0}/d-ours,{0}/d-qemu")])
def test_two_stacks_talk_through_qemu(emulator, folder, ends):
    data = os.urandom(2 << 20)
    with contextlib.ExitStack() as cleanup:
        runners = []
        for number, spec in enumerate(ends, 1):
            device = open_device(spec.format(folder), mac=f"02:00:00:00:00:0{number}")
            runners.append(cleanup.enter_context(ThreadedRunner(open_stack(device, addresses=[f"10.9.0.{number}/24"]))))
        cleanup.enter_context(hub(emulator, folder))
        one, two = runners
        end = time.monotonic() + 10
        while not all(runner.poller.ports[0].device.link_up for runner in runners) and time.monotonic() < end:
            time.sleep(0.02)
        with one.stack.root.activate():
            server = cleanup.enter_context(create_server(("10.9.0.1", 80)))
        server.settimeout(20)
        digests = []

        def serve() -> None:
            sock, _address = server.accept()
            received = b""
            while part := sock.recv(1 << 20):
                received += part
            digests.append(hashlib.sha256(received).digest())
            sock.sendall(received[::-1])
            sock.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with two.stack.root.activate():
            client = create_connection(("10.9.0.1", 80), timeout=20)
        with client as sock:
            sock.sendall(data)
            sock.shutdown(1)
            answer = b""
            while part := sock.recv(1 << 20):
                answer += part
        thread.join(20)
        assert digests == [hashlib.sha256(data).digest()] and answer == data[::-1]
