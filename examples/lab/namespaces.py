"""Network namespaces with TAP and veth devices: the Linux kernel as a peer on a link of its own (root only).

Names are unique per process, and everything is removed at the end, also after an exception.  Nothing in a namespace
reaches the machine's own network.
"""

import atexit
import contextlib
import itertools
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from ctypes import CDLL, get_errno
from pathlib import Path

from lab.packages import LabError

CLONE_NEWNET = 0x40000000

_numbers = itertools.count(1)


def why_not() -> str:
    """Why namespaces cannot be made here and what to do; empty when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root: run with sudo"
    if not shutil.which("ip"):
        return "there is no ip command: apt-get install iproute2"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun: modprobe tun"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True)
    return f"this kernel or container refuses network namespaces: {probe.stderr.strip()}" if probe.returncode else ""


def unique_name(prefix: str = "swos") -> str:
    """A device or namespace name no other test run uses; at most 15 characters as interfaces need."""
    return f"{prefix[:5]}{os.getpid():x}x{next(_numbers)}"


def remove_abandoned() -> None:
    """Remove the namespaces of runs that were killed before they could."""
    for path in Path("/run/netns").glob("swosn*x*"):
        match = re.fullmatch(r"swosn([0-9a-f]+)x\d+", path.name)
        if match and not os.path.exists(f"/proc/{int(match.group(1), 16)}"):
            run("ip", "netns", "del", path.name, check=False)


def run(
    *command: str, check: bool = True, timeout: float = 30.0, stdin: bytes | None = None
) -> subprocess.CompletedProcess:
    """Run a command, its output captured as bytes; LabError with that output when it fails and `check` is set."""
    result = subprocess.run(command, input=stdin if stdin is not None else b"", capture_output=True, timeout=timeout)
    if check and result.returncode:
        raise LabError(
            f"{' '.join(command)} failed ({result.returncode}): "
            f"{(result.stderr or result.stdout).decode(errors='replace').strip()}"
        )
    return result


class Namespace:
    """One network namespace; a context manager that removes it with its devices and the processes started in it."""

    def __init__(self, name: str = ""):
        reason = why_not()
        if reason:
            raise LabError(reason)
        remove_abandoned()
        self.name = name or unique_name("swosn")
        self._processes: list[subprocess.Popen] = []
        self._devices: list[str] = []
        run("ip", "netns", "add", self.name)
        atexit.register(self.close)
        self.run("ip", "link", "set", "lo", "up")

    def __enter__(self) -> "Namespace":
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    def command(self, *arguments: str) -> list[str]:
        """`arguments` as a command that runs inside."""
        # unlike `ip netns exec` this remounts nothing, which a container may not allow
        return ["nsenter", f"--net=/run/netns/{self.name}", *arguments]

    def run(
        self, *arguments: str, check: bool = True, timeout: float = 30.0, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess:
        """Run a command inside and wait for it."""
        return run(*self.command(*arguments), check=check, timeout=timeout, stdin=stdin)

    def start(self, *arguments: str, **options) -> subprocess.Popen:
        """Start a command inside; it is killed when the namespace is closed.  `options` are those of Popen."""
        options.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(self.command(*arguments), **options)
        self._processes.append(process)
        return process

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside for the length of the block: sockets and TAP devices it opens belong here."""
        before = os.open(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        inside = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _set_namespace(inside)
            try:
                yield
            finally:
                _set_namespace(before)
        finally:
            os.close(inside)
            os.close(before)

    def adopt(self, device: str, addresses: Sequence[str] = (), *, mtu: int | None = None, name: str = "") -> None:
        """Move a device of the machine in here, give it `addresses` ("10.0.2.1/24", "fd00::1/64"), and set it up.

        A TAP device keeps working for the process that has it open.
        """
        run("ip", "link", "set", device, "netns", self.name, *(("name", name) if name else ()))
        self.configure(name or device, addresses, mtu=mtu)

    def configure(self, device: str, addresses: Sequence[str] = (), *, mtu: int | None = None) -> None:
        """Give a device in here its MTU (bytes of an IP packet) and addresses, without DAD, and set it up."""
        if mtu is not None:
            self.run("ip", "link", "set", device, "mtu", str(mtu))
        self.run("ip", "link", "set", device, "up")
        for address in addresses:
            self.run("ip", "addr", "add", address, "dev", device, *(("nodad",) if ":" in address else ()))

    def add_route(self, destination: str, gateway: str) -> None:
        """`destination` ("default", "10.1.0.0/16") through `gateway`."""
        self.run("ip", "-6" if ":" in gateway else "-4", "route", "add", destination, "via", gateway)

    def add_tap(
        self,
        name: str = "tap0",
        addresses: Sequence[str] = (),
        *,
        queues: int = 1,
        mtu: int | None = None,
        vnet_header: bool = False,
    ) -> str:
        """Make a persistent TAP device in here, to be opened inside `entered`; its name."""
        flags = (["multi_queue"] if queues > 1 else []) + (["vnet_hdr"] if vnet_header else [])
        self.run("ip", "tuntap", "add", "dev", name, "mode", "tap", *flags)
        self.configure(name, addresses, mtu=mtu)
        return name

    def add_veth(
        self,
        other: "Namespace",
        addresses: Sequence[str] = (),
        other_addresses: Sequence[str] = (),
        *,
        name: str = "veth0",
        mtu: int | None = None,
    ) -> None:
        """A cable to another namespace, called `name` at both ends."""
        here, there = unique_name("va"), unique_name("vb")
        run("ip", "link", "add", here, "type", "veth", "peer", "name", there)
        self._devices.append(here)
        self.adopt(here, addresses, mtu=mtu, name=name)
        self._devices.remove(here)
        other.adopt(there, other_addresses, mtu=mtu, name=name)

    def close(self) -> None:
        """Remove everything; harmless when done before."""
        atexit.unregister(self.close)
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()
        self._processes.clear()
        for device in self._devices:
            run("ip", "link", "del", device, check=False)
        self._devices.clear()
        run("ip", "netns", "del", self.name, check=False)


def _set_namespace(descriptor: int) -> None:
    if CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
        code = get_errno()
        raise OSError(code, os.strerror(code))
