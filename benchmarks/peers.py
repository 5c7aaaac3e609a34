"""What carries the guest's bytes: our stack, and the peers it is compared with, each for one guest's life.

Every peer serves 10.0.2.2 to a guest that has 10.0.2.15; behind it answer an iperf3 server and an echo server.  For us
both are programs on our stack; for the others they are processes with kernel sockets on the loopback address, in a
network namespace where one can be made.  Read lab/qemu for guests, processes for how programs are run.
"""

import contextlib
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from lab.namespaces import Namespace, why_not
from lab.packages import LabError, Packages, own_loader
from lab.qemu import Network, stream_network, user_network, vhost_user_network
from processes import Process
from serve import ECHO, IPERF3

HERE = Path(__file__).resolve().parent
STACK, GUEST, PREFIX = "10.0.2.2", "10.0.2.15", 24
MTU = 1500
PASST_SUITE = "trixie"  # the first with vhost-user


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the guest finds the servers, at STACK."""

    iperf3: int
    echo: int


class Peer:
    """One way to serve a guest's network; `with PEER(folder, netload) as peer:` starts and ends its processes.

    `folder` takes sockets and logs, `netload` is the built guest/netload.c.
    """

    name = ""
    label = ""
    mtu = MTU

    def __init__(self, folder: Path, netload: Path):
        self.folder = folder
        self.netload = netload
        self.processes: list[Process] = []

    def __enter__(self) -> "Peer":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_exception) -> None:
        self.stop()

    @classmethod
    def why_not(cls) -> str:
        """Why it cannot take part here; empty when it can."""
        return ""

    def start(self) -> None:
        """Start everything but QEMU."""
        raise NotImplementedError

    def network(self) -> Network:
        """What QEMU is told."""
        raise NotImplementedError

    def ports(self) -> Ports:
        raise NotImplementedError

    def surroundings(self) -> contextlib.AbstractContextManager:
        """Where QEMU is to be started."""
        return contextlib.nullcontext()

    def pids(self) -> list[int]:
        """The processes besides QEMU that carry the bytes or end their connections."""
        return [process.pid for process in self.processes]

    def check(self) -> None:
        """LabError when one of its processes has gone."""
        for process in self.processes:
            process.check()

    def stop(self) -> None:
        """End every process; harmless when done before."""
        for process in reversed(self.processes):
            process.stop()
        self.processes.clear()

    def run(self, name: str, *command: str) -> Process:
        process = Process(command, self.folder / f"{name}.log")
        self.processes.append(process)
        return process


class Ours(Peer):
    """swos_net as the guest's vhost-user back-end."""

    name = "ours"
    label = "swos_net"
    profile = ""  # file for a cProfile

    def start(self) -> None:
        profile = ["--profile", self.profile] if self.profile else []
        self.run("ours", sys.executable, str(HERE / "serve.py"), "--device", f"vhost-user:{self.folder / 'nic.sock'}",
                 "--address", f"{STACK}/{PREFIX}", *profile).wait_for_line("ready")

    def network(self) -> Network:
        return vhost_user_network(self.folder / "nic.sock")

    def ports(self) -> Ports:
        return Ports(IPERF3, ECHO)


class KernelServers(Peer):
    """A peer that turns connections to STACK into connections to this machine's loopback address."""

    def __init__(self, folder: Path, netload: Path):
        super().__init__(folder, netload)
        self.namespace: Namespace | None = None
        self._ports = Ports(0, 0)

    @classmethod
    def why_not(cls) -> str:
        return "" if shutil.which("iperf3") else "there is no iperf3 on this machine: apt-get install iperf3"

    def start(self) -> None:
        if not why_not():
            self.namespace = Namespace()
            # passt answers the guest's ping with a ping socket, which a new namespace refuses to everybody.
            with self.surroundings():
                Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
        with self.surroundings():
            iperf3, echo, sink, source = _free_ports(4)
            self._ports = Ports(iperf3, echo)
            server = self.run("iperf3", "iperf3", "-s", "-B", "127.0.0.1", "-p", str(iperf3), "--forceflush")
            servers = self.run("netload", str(self.netload), "serve", "127.0.0.1", str(echo), str(sink), str(source))
            server.wait_for_line("Server listening")
            servers.wait_for_line("listening")
            self.start_carrier()

    def start_carrier(self) -> None:
        """What stands between QEMU and the loopback address, if it is a process."""

    def surroundings(self) -> contextlib.AbstractContextManager:
        return self.namespace.entered() if self.namespace else contextlib.nullcontext()

    def ports(self) -> Ports:
        return self._ports

    def stop(self) -> None:
        super().stop()
        if self.namespace:
            self.namespace.close()
            self.namespace = None


class Libslirp(KernelServers):
    """QEMU's own user networking; it works inside QEMU, so its processor time is QEMU's."""

    name = "libslirp"
    label = "libslirp"

    def network(self) -> Network:
        return user_network()


class Passt(KernelServers):
    """passt of a Debian new enough for vhost-user, run with that Debian's C library."""

    vhost_user = False

    @classmethod
    def program(cls) -> list[str]:
        root = Packages(suite=PASST_SUITE).unpack("passt", dependencies=True)
        # passt starts its AVX2 build by itself where it can, but not when a loader was started instead of it.
        wide = "avx2" in Path("/proc/cpuinfo").read_text() and (root / "usr/bin/passt.avx2").is_file()
        return own_loader(root, "usr/bin/passt.avx2" if wide else "usr/bin/passt")

    @classmethod
    def why_not(cls) -> str:
        reason = super().why_not()
        if not reason:
            try:
                cls.program()
            except LabError as error:
                reason = str(error)
        return reason

    def start_carrier(self) -> None:
        path = self.folder / "passt.sock"
        mode = ["--vhost-user"] if self.vhost_user else []
        process = self.run(
            "passt", *self.program(), *mode, "-f", "-q", "-1", "-4", "--runas", "0:0", "-s", str(path), "-m", str(self.mtu),
            "-a", GUEST, "-n", str(PREFIX), "-g", STACK, "--map-host-loopback", STACK, "-t", "none", "-u", "none")
        process.wait_for(path.exists, "opened its socket")

    def network(self) -> Network:
        path = self.folder / "passt.sock"
        return vhost_user_network(path) if self.vhost_user else stream_network(path)


class PasstStream(Passt):
    name = "passt-stream"
    label = "passt stream"
    mtu = 65520


class PasstVhostUser1500(Passt):
    name = "passt-vu-1500"
    label = "passt vhost-user, MTU 1500"
    vhost_user = True


class PasstVhostUser65520(Passt):
    name = "passt-vu-65520"
    label = "passt vhost-user, MTU 65520"
    vhost_user = True
    mtu = 65520


PEERS: dict[str, type[Peer]] = {
    peer.name: peer for peer in (Ours, Libslirp, PasstStream, PasstVhostUser1500, PasstVhostUser65520)
}


def _free_ports(count: int) -> list[int]:
    """TCP ports that nobody listens on at the loopback address now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
