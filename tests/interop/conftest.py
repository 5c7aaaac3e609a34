"""Links between a stack of ours and the Linux kernel, each in a network namespace of its own."""

import contextlib
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from lab import namespaces
from swos_net.device.tap import KernelLink as KernelDevice, TapDevice, TunDevice
from swos_net.runtime.open_stack import open_stack
from swos_net.runtime.threaded import ThreadedRunner
from swos_net.socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM, Socket, create_server

KERNEL, OURS = "10.77.0.1", "10.77.0.2"
KERNEL6, OURS6 = "fd00:77::1", "fd00:77::2"
TIMEOUT = 15.0  # of anything that waits for the other side

# What every script of the kernel's side begins with: R(...) reports to the test, sockets do not wait for ever.
PRELUDE = f"""
import errno, hashlib, json, os, socket, struct, sys, threading
socket.setdefaulttimeout({TIMEOUT})
report = {{}}
def digest(data): return hashlib.sha256(data).hexdigest()
def read_all(sock):
    parts = []
    while part := sock.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)
def ready():
    print("ready", flush=True)
"""


class KernelLink:
    """A TAP or TUN between `stack` (served by `runner`'s thread) and the kernel in `namespace`."""

    kernel = {AF_INET: KERNEL, AF_INET6: KERNEL6}
    ours = {AF_INET: OURS, AF_INET6: OURS6}

    def __init__(self, namespace: namespaces.Namespace, device: KernelDevice, runner: ThreadedRunner):
        self.namespace = namespace
        self.device = device
        self.runner = runner
        self.stack = runner.stack

    def run(self, script: str, timeout: float = 2 * TIMEOUT, **values) -> dict:
        """Runs Python in the namespace with `values` as its variables; what it put into `report`."""
        with self.started(script, **values) as finish:
            return finish(timeout)

    @contextlib.contextmanager
    def started(self, script: str, *, wait: bool = False, **values) -> Iterator:
        """The same beside the test: gives a function that waits for the report.  `wait`: until the script says ready()."""
        given = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        program = f"{PRELUDE}\n{given}\n{textwrap.dedent(script)}\nprint(json.dumps(report))\n"
        command = self.namespace.command(sys.executable, "-I", "-c", program)
        with subprocess.Popen(command, **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE), text=True) as process:

            def finish(timeout: float = 2 * TIMEOUT, stdin: str = "") -> dict:
                output, errors = process.communicate(stdin, timeout=timeout)
                assert process.returncode == 0, errors
                return json.loads(output.splitlines()[-1])

            try:
                if wait:
                    line = process.stdout.readline()
                    assert line == "ready\n", process.stderr.read()
                yield finish
            finally:
                process.kill()

    def socket(self, family: int = AF_INET, kind: int = SOCK_STREAM) -> Socket:
        sock = Socket(self.runner, family, kind, capability=self.stack.root)
        sock.settimeout(TIMEOUT)
        return sock

    def server(self, family: int, port: int, backlog: int = 128) -> Socket:
        server = create_server(self.runner, (self.ours[family], port), capability=self.stack.root, family=family, backlog=backlog)
        server.settimeout(TIMEOUT)
        return server

    def connect(self, family: int, port: int) -> Socket:
        sock = self.socket(family)
        sock.connect((self.kernel[family], port))
        return sock


@contextlib.contextmanager
def kernel_link(*, kind: str = "tap", offloads: bool = True, mtu: int = 1500) -> Iterator[KernelLink]:
    """Makes one and takes it away."""
    with namespaces.Namespace() as namespace:
        with namespace.entered():
            device = {"tap": TapDevice, "tun": TunDevice}[kind](f"{kind}0", offloads=offloads, mtu=mtu)
            namespace.configure(device.name, [f"{KERNEL}/24", f"{KERNEL6}/64"])
        with ThreadedRunner(open_stack(device, addresses=[f"{OURS}/24", f"{OURS6}/64"])) as runner:
            yield KernelLink(namespace, device, runner)


@pytest.fixture(scope="module")
def link() -> Iterator[KernelLink]:
    """With offloads and an MTU of 1500, shared by a module's tests."""
    with kernel_link() as made:
        yield made


@pytest.fixture
def make_link():
    """A function that makes links as the test wants them."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(kernel_link(**options))
