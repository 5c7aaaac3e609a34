"""Guests under QEMU: the command line, the console, and an end that leaves nothing running.

Read guest_image for what boots.  Emulation (TCG) is the default; hardware virtualisation is used only where a probe
boot worked, since /dev/kvm may open and a guest still not get anywhere.
"""

import atexit
import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.guest_image import ARCHITECTURES, CONSOLES, GuestImage, build_guest
from lab.packages import LabError, Packages, cache_directory, own_loader

QEMU_PACKAGES = {"aarch64": "qemu-system-arm", "x86_64": "qemu-system-x86"}
DEFAULT_CPUS = {"aarch64": "cortex-a72", "x86_64": "max"}
# "rep movsb" is run byte by byte under TCG: without these two features the guest copies with wide moves.
BENCHMARK_CPUS = {"aarch64": "cortex-a72", "x86_64": "max,-erms,-fsrm"}
DEFAULT_TRANSPORTS = {"aarch64": "mmio", "x86_64": "pci"}
DEFAULT_MAC = "52:54:00:12:34:56"
BOOT_DEADLINE = 120.0
KVM_PROBE_DEADLINE = 30.0


@dataclass(frozen=True, slots=True)
class Emulator:
    """How to start one QEMU: the command, its version, and the environment it needs."""

    architecture: str
    command: tuple[str, ...]
    version: tuple[int, ...]
    environment: dict[str, str] = field(default_factory=dict)


def find_emulator(architecture: str, suite: str = "") -> Emulator:
    """The installed QEMU, or one unpacked from the machine's suite; with `suite` the one of that suite, unpacked."""
    if architecture not in QEMU_PACKAGES:
        raise LabError(f"no QEMU for {architecture}; choose one of {', '.join(QEMU_PACKAGES)}")
    name = f"qemu-system-{architecture}"
    installed = shutil.which(name)
    if installed and not suite:
        return Emulator(architecture, (installed,), _version((installed,), {}))
    try:
        root = Packages(suite=suite).unpack(QEMU_PACKAGES[architecture], dependencies=True)
    except LabError as error:
        advice = "" if suite else f" Or install it: apt-get install {QEMU_PACKAGES[architecture]}"
        raise LabError(f"{error}{advice}") from None
    modules = sorted(root.glob("usr/lib/*-linux-gnu*/qemu"))
    environment = {"QEMU_MODULE_DIR": str(modules[0])} if modules else {}
    command = (
        *own_loader(root, f"usr/bin/{name}"),
        "-L",
        str(root / "usr/share/qemu"),
        "-L",
        str(root / "usr/share/seabios"),
    )
    return Emulator(architecture, command, _version(command, environment), environment)


def environment_for(emulator_environment: dict[str, str]) -> dict[str, str]:
    """What QEMU runs with: ours, without libraries that a sanitizer build has preloaded into us alone."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"} | emulator_environment


def _version(command: tuple[str, ...], environment: dict[str, str]) -> tuple[int, ...]:
    text = subprocess.run(
        [*command, "--version"], capture_output=True, text=True, env=environment_for(environment)
    ).stdout
    match = re.search(r"version (\d+)\.(\d+)\.(\d+)", text)
    if not match:
        raise LabError(f"{command[0]} does not start: {text.strip() or 'it printed nothing'}")
    return tuple(map(int, match.groups()))


@dataclass(frozen=True, slots=True)
class Network:
    """A network back-end: QEMU's arguments with the netdev called n0, and properties of the device before it."""

    arguments: tuple[str, ...]
    queue_pairs: int = 1
    vhost_user: bool = False


def vhost_user_network(path: str | Path, *, queue_pairs: int = 1, reconnect: int = 0, server: bool = False) -> Network:
    """A vhost-user back-end that listens on the UNIX socket `path`; with `server` QEMU listens instead.

    `reconnect` is the number of seconds after which QEMU tries again.
    """
    chardev = f"socket,id=c0,path={path}"
    if server:
        chardev += ",server=on,wait=off"
    if reconnect:
        chardev += f",reconnect={reconnect}"
    netdev = "vhost-user,id=n0,chardev=c0" + (f",queues={queue_pairs}" if queue_pairs > 1 else "")
    return Network(("-chardev", chardev, "-netdev", netdev), queue_pairs, vhost_user=True)


def user_network(options: str = "") -> Network:
    """QEMU's own user networking (libslirp): guest 10.0.2.15, host 10.0.2.2."""
    return Network(("-netdev", "user,id=n0" + (f",{options}" if options else "")))


def stream_network(path: str | Path) -> Network:
    """Frames over a UNIX stream socket that the other end listens on, each after its length in four bytes."""
    return Network(("-netdev", f"stream,id=n0,addr.type=unix,addr.path={path},server=off"))


def dgram_network(local: str | Path, remote: str | Path) -> Network:
    """Frames over UNIX datagram sockets, one each."""
    return Network(("-netdev", f"dgram,id=n0,local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"))


def no_network() -> Network:
    """A guest without a network interface."""
    return Network(())


def machine_arguments(
    architecture: str, *, memory: int = 512, cpu: str = "", cpus: int = 1, accelerator: str = "tcg"
) -> list[str]:
    """Machine, processor and memory; `memory` in MiB, shared with the back-end as vhost-user needs it."""
    machine = {"aarch64": "virt", "x86_64": "q35"}[architecture]
    if accelerator == "kvm" and not cpu:
        cpu = "host"
    return [
        "-M",
        f"{machine},memory-backend=mem",
        "-accel",
        accelerator,
        "-cpu",
        cpu or DEFAULT_CPUS[architecture],
        "-smp",
        str(cpus),
        "-m",
        str(memory),
        # Without share=on a vhost-user back-end maps a private copy and sees rings that never move.
        "-object",
        f"memory-backend-memfd,id=mem,size={memory}M,share=on",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]


def network_arguments(
    architecture: str,
    network: Network,
    *,
    version: tuple[int, ...] = (7, 2),
    accelerator: str = "tcg",
    mac: str = DEFAULT_MAC,
    device: str = "",
    vectors: int | None = None,
    transport: str = "",
) -> list[str]:
    """The back-end and its virtio-net device.

    `transport` is "mmio" or "pci", by default the first on aarch64 and the second on x86_64; `vectors` (PCI alone) is
    the number of MSI-X vectors, 0 for INTx.  `device` is text appended to the device ("mrg_rxbuf=off,host_mtu=9000").
    """
    if not network.arguments:
        return []
    properties = [f"netdev=n0,mac={mac}"]
    if network.queue_pairs > 1:
        properties.append("mq=on")
    before = []
    if (transport or DEFAULT_TRANSPORTS[architecture]) == "mmio":
        name = "virtio-net-device"
        before = ["-global", "virtio-mmio.force-legacy=false"]
    else:
        name = "virtio-net-pci"
        properties.append("romfile=")
        if vectors is None and network.vhost_user and accelerator == "tcg" and version < (8,):
            # That QEMU's own MSI-X code ends it with vhost-user under TCG.
            vectors = 0
        if vectors is None and network.queue_pairs > 1:
            vectors = 2 * network.queue_pairs + 2
        if vectors is not None:
            properties.append(f"vectors={vectors}")
    if device:
        properties.append(device)
    return [*network.arguments, *before, "-device", f"{name},{','.join(properties)}"]


def kernel_command_line(architecture: str, extra: str = "") -> str:
    """What the guest's kernel is told; on x86 the timer check fails when the host is busy."""
    words = [
        f"console={CONSOLES[architecture]}",
        "rdinit=/init",
        "quiet",
        "loglevel=3",
        "panic=-1",
        "net.ifnames=0",
        "mitigations=off",
        "random.trust_cpu=on",
    ]
    if architecture == "x86_64":
        words += ["no_timer_check", "tsc=reliable"]
    return " ".join([*words, extra]).strip()


def describe_exit(status: int) -> str:
    """One sentence on how QEMU ended; `status` as subprocess gives it (negative for a signal)."""
    if status in (-signal.SIGSEGV, 128 + signal.SIGSEGV):
        return (
            "QEMU crashed (segmentation fault, status 139): QEMU 7.2 does so with vhost-user and MSI-X under TCG; "
            "use vectors=0, virtio-mmio or a newer QEMU"
        )
    if status < 0:
        return f"QEMU was killed by {signal.Signals(-status).name}"
    return f"QEMU ended with status {status}"


class Console:
    """Reads a stream in a thread of its own, and lets others wait for text."""

    def __init__(self, stream, on_line: Callable[[str], None] | None = None):
        self._stream = stream
        self._on_line = on_line
        self._text = ""
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="guest console", daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        """Everything printed so far."""
        with self._changed:
            return self._text

    def wait_for(self, pattern: str, timeout: float, start: int = 0) -> re.Match | None:
        """The first match of a regular expression from `start` on; None after `timeout` s or at the stream's end."""
        compiled = re.compile(pattern, re.MULTILINE)
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                match = compiled.search(self._text, start)
                remaining = deadline - time.monotonic()
                if match or self._closed or remaining <= 0:
                    return match
                self._changed.wait(remaining)

    def join(self) -> None:
        """Wait for the end of the stream."""
        self._thread.join()

    def _read(self) -> None:
        pending = ""
        while chunk := os.read(self._stream.fileno(), 65536):
            # A terminal ends lines with CR LF; a lone CR is kept for the chunk that completes it.
            pending += chunk.decode(errors="replace")
            ready = pending.removesuffix("\r").replace("\r\n", "\n")
            pending = "\r" if pending.endswith("\r") else ""
            with self._changed:
                begin = self._text.rfind("\n") + 1
                self._text += ready
                lines = self._text[begin:].split("\n")[:-1]
                self._changed.notify_all()
            if self._on_line:
                for line in lines:
                    self._on_line(line)
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Guest:
    """One running guest; a context manager that ends it.

    `emulator` is found when not given; `accelerator` "auto" uses KVM where a probe boot works.  `on_line` is called, in
    the console's thread, with each line the guest prints.
    """

    def __init__(
        self,
        image: GuestImage,
        network: Network,
        *,
        emulator: Emulator | None = None,
        memory: int = 512,
        cpu: str = "",
        cpus: int = 1,
        accelerator: str = "tcg",
        mac: str = DEFAULT_MAC,
        device: str = "",
        vectors: int | None = None,
        transport: str = "",
        kernel_options: str = "",
        extra: Sequence[str] = (),
        on_line: Callable[[str], None] | None = None,
    ):
        self.emulator = emulator or find_emulator(image.architecture)
        if accelerator == "auto":
            accelerator = "kvm" if kvm_works(image.architecture, self.emulator) else "tcg"
        self.accelerator = accelerator
        self._tokens = itertools.count(1)
        self._initramfs = os.memfd_create("initramfs", os.MFD_CLOEXEC)
        try:
            with open(self._initramfs, "wb", closefd=False) as file:
                file.write(image.initramfs)
            self.command = [
                *self.emulator.command,
                *machine_arguments(image.architecture, memory=memory, cpu=cpu, cpus=cpus, accelerator=accelerator),
                "-serial",
                "stdio",
                "-kernel",
                str(image.kernel),
                "-initrd",
                f"/proc/self/fd/{self._initramfs}",
                "-append",
                kernel_command_line(image.architecture, kernel_options),
                *network_arguments(
                    image.architecture,
                    network,
                    version=self.emulator.version,
                    accelerator=accelerator,
                    mac=mac,
                    device=device,
                    vectors=vectors,
                    transport=transport,
                ),
                *extra,
            ]
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment_for(self.emulator.environment),
                pass_fds=(self._initramfs,),
            )
        except BaseException:
            os.close(self._initramfs)
            raise
        atexit.register(self.kill)
        self.console = Console(self.process.stdout, on_line)

    def __enter__(self) -> "Guest":
        return self

    def __exit__(self, *_exception) -> None:
        self.kill()

    def wait_for(self, pattern: str, timeout: float = BOOT_DEADLINE, start: int = 0) -> re.Match:
        """The first console match of a regular expression; LabError says why it never came."""
        match = self.console.wait_for(pattern, timeout, start)
        if match:
            return match
        if self.process.poll() is not None or self.console.wait_for(r"\Z", 0) is None:
            reason = describe_exit(self.process.wait())
        else:
            reason = f"not within {timeout:.0f} s"
        tail = "\n".join(self.console.text.splitlines()[-15:])
        raise LabError(f"the guest's console never showed {pattern!r}: {reason}. Its last lines:\n{tail}")

    def wait_ready(self, timeout: float = BOOT_DEADLINE) -> None:
        """Wait until the guest has its network and takes commands."""
        self.wait_for(r"^lab: ready", timeout)

    def run(self, command: str, timeout: float = 60.0) -> tuple[int, str]:
        """Run one shell line (below 4000 characters) in the guest; its status and what it printed."""
        status, output = self.start(command)(timeout)
        return status, output

    def start(self, command: str) -> Callable[[float], tuple[int, str]]:
        """Send a command without waiting; the returned function takes a time limit in seconds and waits for its end."""
        if "\n" in command or len(command) > 4000:
            raise ValueError("a guest's command is one line below 4000 characters")
        token = f"t{next(self._tokens)}"
        begin = len(self.console.text)
        self.process.stdin.write(f"{token} {command}\n".encode())
        self.process.stdin.flush()

        def finish(timeout: float = 60.0) -> tuple[int, str]:
            match = self.wait_for(rf"^lab: begin {token}\n((?s:.*?))lab: end {token} (\d+)$", timeout, begin)
            return int(match.group(2)), match.group(1)

        return finish

    def power_off(self, timeout: float = 30.0) -> int:
        """Ask the guest to power off, and return QEMU's exit status; LabError when QEMU crashed or had to be killed."""
        with contextlib.suppress(OSError):
            self.process.stdin.write(b"off\n")
            self.process.stdin.flush()
        return self.wait_exit(timeout)

    def wait_exit(self, timeout: float = 30.0) -> int:
        """QEMU's exit status once the guest has powered off; LabError when QEMU crashed or had to be killed."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise LabError(f"the guest did not power off within {timeout:.0f} s") from None
        self.kill()
        if status:
            raise LabError(
                f"{describe_exit(status)}. Its last lines:\n" + "\n".join(self.console.text.splitlines()[-15:])
            )
        return status

    def cpu_seconds(self) -> float:
        """Processor time QEMU has used so far, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """End QEMU now; harmless when it has ended."""
        atexit.unregister(self.kill)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.console.join()
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()
        if self._initramfs >= 0:
            os.close(self._initramfs)
            self._initramfs = -1


def kvm_works(architecture: str, emulator: Emulator | None = None) -> bool:
    """Whether a guest gets to its first program under KVM; tried once per boot of this machine."""
    if architecture != os.uname().machine or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    if architecture == "x86_64" and not re.search(
        r"^flags\s*:.*\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE
    ):
        return False
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    memory = cache_directory() / f"kvm-{ARCHITECTURES[architecture]}"
    with contextlib.suppress(OSError, ValueError):
        known, _, answer = memory.read_text().strip().partition(" ")
        if known == boot:
            return answer == "works"
    works = True
    try:
        with Guest(
            build_guest(architecture, network=False), no_network(), emulator=emulator, memory=256, accelerator="kvm"
        ) as guest:
            guest.wait_for(r"^lab: up", KVM_PROBE_DEADLINE)
    except LabError:
        works = False
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(f"{boot} {'works' if works else 'fails'}\n")
    return works
