"""Links between a stack of ours and the Linux kernel, each in a network namespace of its own."""

import contextlib
import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import pytest

from lab import namespaces
from swos_net.config import StackConfig
from swos_net.device.tap import KernelLink as KernelDevice, TapDevice, TunDevice
from swos_net.runtime.open_stack import open_stack
from swos_net.runtime.threaded import ThreadedRunner
from swos_net.socket import AF_INET, AF_INET6, SHUT_RDWR, SOCK_DGRAM, SOCK_STREAM, create_server
from swos_net.socket import socket as Socket

KERNEL, OURS = "10.77.0.1", "10.77.0.2"
KERNEL6, OURS6 = "fd00:77::1", "fd00:77::2"
TIMEOUT = 15.0  # of anything that waits for the other side

# What every script of the kernel's side begins with: R(...) reports to the test, sockets do not wait for ever.
PRELUDE = f"""
import concurrent.futures, errno, hashlib, json, os, socket, struct, sys, threading, time
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
    def started(self, script: str, *, wait: bool = False, namespace: namespaces.Namespace | None = None, **values) -> Iterator:
        """The same beside the test: gives a function that waits for the report.  `wait`: until the script says ready().
        `namespace` is another one than the kernel's end of the link."""
        given = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        program = f"{PRELUDE}\n{given}\n{textwrap.dedent(script)}\nprint(json.dumps(report))\n"
        command = (namespace or self.namespace).command(sys.executable, "-I", "-c", program)
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
        with self.stack.root.activate():
            sock = Socket(family, kind)
        sock.settimeout(TIMEOUT)
        return sock

    def server(self, family: int, port: int, backlog: int = 128) -> Socket:
        with self.stack.root.activate():
            server = create_server((self.ours[family], port), family=family, backlog=backlog)
        server.settimeout(TIMEOUT)
        return server

    def connect(self, family: int, port: int) -> Socket:
        sock = self.socket(family)
        try:
            sock.connect((self.kernel[family], port))
        except OSError:
            sock.close()
            raise
        return sock


@contextlib.contextmanager
def kernel_link(*, kind: str = "tap", offloads: bool = True, mtu: int = 1500, config: StackConfig | None = None,
                sysctls: dict[str, int] = {}, gateways: bool = False) -> Iterator[KernelLink]:  # fmt: skip
    """Makes one and takes it away.  `sysctls` are of the kernel's end ("net.ipv4.tcp_sack"); `gateways`: it is our router."""
    with namespaces.Namespace() as namespace:
        for name, value in sysctls.items():
            namespace.run("sysctl", "-q", "-w", f"{name}={value}")
        with namespace.entered():
            device = {"tap": TapDevice, "tun": TunDevice}[kind](f"{kind}0", offloads=offloads, mtu=mtu)
            namespace.configure(device.name, [f"{KERNEL}/24", f"{KERNEL6}/64"])
        poller = open_stack(device, addresses=[f"{OURS}/24", f"{OURS6}/64"], gateways=[KERNEL, KERNEL6] if gateways else [], config=config)
        with ThreadedRunner(poller) as runner:
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


# Where hosts that are looked at from outside listen.  Several, since some tools take every answer of a port for theirs.
OPEN_PORTS = (80, *range(8000, 8014))

# What Linux does at the other end where a stack of ours could be: it takes connections and closes them.
LINUX_HOST = f"""
import socket, threading, time

def listen(family, address, port):
    server = socket.socket(family)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind((address, port))
    server.listen(128)
    return server

def take_and_close(server):
    while True:
        server.accept()[0].close()

for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    for port in {OPEN_PORTS}:
        server = listen(family, address, port)
        threading.Thread(target=take_and_close, args=(server,), daemon=True).start()
print("ready", flush=True)
time.sleep(3600)
"""


@contextlib.contextmanager
def linux_host() -> Iterator[namespaces.Namespace]:
    """A namespace with the addresses of the kernel's end of a link, and Linux instead of us at the other end."""
    with namespaces.Namespace() as near, namespaces.Namespace() as far:
        near.add_veth(far, [f"{KERNEL}/24", f"{KERNEL6}/64"], [f"{OURS}/24", f"{OURS6}/64"], name="tap0")
        for end in (near, far):
            # a cable inside the machine leaves checksums open, which tools that look at frames take for wrong ones
            for name in ("tx", "tso", "gso", "gro"):
                end.run("ethtool", "-K", "tap0", name, "off", check=False)
        server = far.start(sys.executable, "-I", "-c", LINUX_HOST, stdout=subprocess.PIPE, text=True)
        assert server.stdout.readline() == "ready\n"
        yield near


@pytest.fixture(scope="module")
def linux_end() -> Iterator[namespaces.Namespace]:
    with linux_host() as namespace:
        yield namespace


@pytest.fixture(scope="module")
def our_end() -> Iterator[namespaces.Namespace]:
    """The same with a stack of ours, over a link without offloads."""

    def take_and_close(server: Socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                server.accept()[0].close()

    with kernel_link(offloads=False) as link, contextlib.ExitStack() as stack:
        for family in (AF_INET, AF_INET6):
            for port in OPEN_PORTS:
                server = stack.enter_context(link.server(family, port))
                server.settimeout(None)
                thread = threading.Thread(target=take_and_close, args=(server,), daemon=True)
                thread.start()
                stack.callback(thread.join, 10)
                stack.callback(server.shutdown, SHUT_RDWR)  # wakes the thread
        yield link.namespace
