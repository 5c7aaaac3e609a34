"""A guest without a guest: QEMU's qtest socket as the processor, and this module as its virtio-net driver.

One machine starts in about a tenth of a second, and every byte of the rings is the test's own: the cheapest hostile
guest.  The NIC is virtio-mmio (VIRTIO 1.2 section 4.2) on QEMU's aarch64 "virt" machine, version 2.  Read VIRTIO 1.2
sections 2.7 (split virtqueues) and 5.1 (network device).  It does not speak the legacy interface, nor packed rings.
"""

import atexit
import contextlib
import os
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.packages import LabError
from lab.qemu import DEFAULT_MAC, Emulator, Network, describe_exit, environment_for, find_emulator, machine_arguments, network_arguments

RAM = 0x40000000
PROGRAM = RAM + 0x800000  # the start of RAM holds QEMU's device tree
WAIT_FOREVER = bytes.fromhex("7f2003d5ffffff17")  # wfi; b .-4
ARENA = RAM + 0x1000000

SLOTS, SLOT_SIZE, SLOT_COUNT = 0x0A000000, 0x200, 32

# VIRTIO 1.2 table 4.1: registers
MAGIC, VERSION, DEVICE_ID = 0x00, 0x04, 0x08
DEVICE_FEATURES, DEVICE_FEATURES_SEL, DRIVER_FEATURES, DRIVER_FEATURES_SEL = 0x10, 0x14, 0x20, 0x24
QUEUE_SEL, QUEUE_NUM_MAX, QUEUE_NUM, QUEUE_READY, QUEUE_NOTIFY = 0x30, 0x34, 0x38, 0x44, 0x50
INTERRUPT_STATUS, INTERRUPT_ACK, STATUS = 0x60, 0x64, 0x70
QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE = 0x80, 0x90, 0xA0
CONFIG = 0x100

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 64, 128

# VIRTIO 1.2 5.1.3 and 6: feature bits
F_CSUM, F_GUEST_CSUM, F_MTU, F_MAC = 1 << 0, 1 << 1, 1 << 3, 1 << 5
F_GUEST_TSO4, F_GUEST_TSO6, F_HOST_TSO4, F_HOST_TSO6 = 1 << 7, 1 << 8, 1 << 11, 1 << 12
F_MRG_RXBUF, F_STATUS, F_CTRL_VQ, F_MQ = 1 << 15, 1 << 16, 1 << 17, 1 << 22
F_INDIRECT_DESC, F_EVENT_IDX, F_VERSION_1 = 1 << 28, 1 << 29, 1 << 32

DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4
NET_HEADER_SIZE = 12


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One entry of a descriptor table (VIRTIO 1.2 2.7.5): guest address, length in bytes, DESC_* flags, next entry."""

    address: int
    length: int
    flags: int = 0
    next: int = 0

    def to_bytes(self) -> bytes:
        """The 16 bytes of the table; values too large for their field are cut, as a hostile guest may want."""
        return struct.pack(
            "<QIHH", self.address & (1 << 64) - 1, self.length & 0xFFFFFFFF, self.flags & 0xFFFF, self.next & 0xFFFF
        )


class QtestConnection:
    """The text protocol of a qtest socket; every call waits for QEMU's answer."""

    def __init__(self, connection: socket.socket, timeout: float = 10.0):
        self._socket = connection
        self._socket.settimeout(timeout)
        self._pending = b""

    def command(self, text: str) -> str:
        """Send one command; what follows "OK" in its answer.  LabError when QEMU has gone or answers anything else."""
        try:
            self._socket.sendall(text.encode() + b"\n")
            while True:
                line = self._line()
                if not line.startswith("IRQ"):
                    break
        except OSError as error:
            raise LabError(f"qtest: no answer to {text[:60]!r}: {error}") from error
        if not line.startswith("OK"):
            raise LabError(f"qtest: {text[:60]!r} was answered {line!r}")
        return line[3:]

    def _line(self) -> str:
        while b"\n" not in self._pending:
            chunk = self._socket.recv(65536)
            if not chunk:
                raise ConnectionError("QEMU closed the connection")
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode().strip()

    def readl(self, address: int) -> int:
        return int(self.command(f"readl {address:#x}"), 16)

    def writel(self, address: int, value: int) -> None:
        self.command(f"writel {address:#x} {value & 0xFFFFFFFF:#x}")

    def readw(self, address: int) -> int:
        return int(self.command(f"readw {address:#x}"), 16)

    def writew(self, address: int, value: int) -> None:
        """One 16-bit store: the only way to change a ring index that the other side may be reading."""
        self.command(f"writew {address:#x} {value & 0xFFFF:#x}")

    def read(self, address: int, size: int) -> bytes:
        return bytes.fromhex(self.command(f"read {address:#x} {size:#x}")[2:]) if size else b""

    def write(self, address: int, data: bytes) -> None:
        if data:
            self.command(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def close(self) -> None:
        self._socket.close()


class QtestMachine:
    """A running QEMU whose processor only waits; a context manager that ends it.

    `memory` in MiB.  `allocate` hands out guest memory that nothing else uses.
    """

    def __init__(
        self,
        network: Network,
        *,
        emulator: Emulator | None = None,
        memory: int = 64,
        device: str = "",
        mac: str = DEFAULT_MAC,
        extra: Iterable[str] = (),
        deadline: float = 20.0,
    ):
        self.emulator = emulator or find_emulator("aarch64")
        self.memory_start, self.memory_size = RAM, memory << 20
        self._next_free = ARENA
        self._folder = tempfile.TemporaryDirectory(prefix="swos-qtest-")
        self.qtest: QtestConnection | None = None
        self.process: subprocess.Popen | None = None
        self._log = tempfile.TemporaryFile(mode="w+", errors="replace")
        try:
            path = os.path.join(self._folder.name, "qtest")
            program = Path(self._folder.name, "wait")
            program.write_bytes(WAIT_FOREVER)
            self.command = [
                *self.emulator.command,
                *machine_arguments("aarch64", memory=memory, cpu="cortex-a57"),
                "-device",
                f"loader,file={program},addr={PROGRAM:#x},cpu-num=0",
                "-qtest",
                f"unix:{path}",
                "-qtest-log",
                "none",
                *network_arguments("aarch64", network, version=self.emulator.version, mac=mac, device=device),
                *extra,
            ]
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen(1)
                listener.settimeout(0.1)
                self.process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    env=environment_for(self.emulator.environment),
                )
                atexit.register(self.close)
                self.qtest = QtestConnection(self._accept(listener, deadline))
        except BaseException:
            self.close()
            raise

    def _accept(self, listener: socket.socket, deadline: float) -> socket.socket:
        end = time.monotonic() + deadline
        while True:
            with contextlib.suppress(TimeoutError):
                return listener.accept()[0]
            if self.process.poll() is not None:
                raise LabError(f"{describe_exit(self.process.returncode)}: {self.log().strip()}")
            if time.monotonic() > end:
                raise LabError(f"QEMU did not open its qtest socket within {deadline:.0f} s: {self.log().strip()}")

    def __enter__(self) -> "QtestMachine":
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    def log(self) -> str:
        """What QEMU has printed so far."""
        self._log.flush()
        return os.pread(self._log.fileno(), 1 << 20, 0).decode(errors="replace")

    def alive(self) -> bool:
        """Whether QEMU still runs."""
        return self.process.poll() is None

    def allocate(self, size: int, align: int = 16) -> int:
        """The guest address of `size` bytes of zeroed memory; LabError when the machine has no more."""
        address = -(-self._next_free // align) * align
        if address + size > self.memory_start + self.memory_size:
            raise LabError("the machine's memory is used up; start it with more")
        self._next_free = address + size
        return address

    def place(self, data: bytes, align: int = 16) -> int:
        """Allocate, write `data`, and give its guest address."""
        address = self.allocate(len(data), align)
        self.qtest.write(address, data)
        return address

    def close(self) -> None:
        """End QEMU; harmless when it has ended."""
        atexit.unregister(self.close)
        if self.qtest:
            self.qtest.close()
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait()
        self._log.close()
        self._folder.cleanup()


class Ring:
    """One split virtqueue as its driver sees it; nothing is checked, so that a test can write anything."""

    def __init__(self, machine: QtestMachine, nic: "MmioNic", index: int, size: int):
        self.machine, self.nic, self.index, self.size = machine, nic, index, size
        self.table = machine.allocate(16 * size, 16)
        self.avail = machine.allocate(6 + 2 * size, 2)
        self.used = machine.allocate(6 + 8 * size, 4)
        self.avail_idx = 0  # of the next entry to expose
        self.used_idx = 0  # of the next entry to collect

    @property
    def used_event_address(self) -> int:
        """Where the driver says after which used entry it wants an interrupt (VIRTIO 1.2 2.7.10)."""
        return self.avail + 4 + 2 * self.size

    @property
    def avail_event_address(self) -> int:
        """Where the device says after which available entry it wants a notification."""
        return self.used + 4 + 8 * self.size

    def describe(self, entry: int, descriptor: Descriptor) -> None:
        """Write one entry of the descriptor table."""
        self.machine.qtest.write(self.table + 16 * entry, descriptor.to_bytes())

    def chain(self, head: int, buffers: Iterable[tuple[int, int, int]]) -> None:
        """Write a chain of (address, length, flags) into the entries from `head` on, linked by DESC_NEXT."""
        buffers = list(buffers)
        for number, (address, length, flags) in enumerate(buffers):
            last = number == len(buffers) - 1
            self.describe(
                (head + number) % self.size,
                Descriptor(
                    address,
                    length,
                    flags if last else flags | DESC_NEXT,
                    0 if last else (head + number + 1) % self.size,
                ),
            )

    def indirect(
        self, entry: int, descriptors: Iterable[Descriptor], *, flags: int = DESC_INDIRECT, length: int | None = None
    ) -> int:
        """Place an indirect table and let `entry` point to it; its guest address.  `length` may lie about its size."""
        table = b"".join(descriptor.to_bytes() for descriptor in descriptors)
        address = self.machine.place(table)
        self.describe(entry, Descriptor(address, len(table) if length is None else length, flags))
        return address

    def expose(self, *heads: int, notify: bool = True) -> None:
        """Make the chains at `heads` available: the ring's entries first, then the index with one store."""
        for head in heads:
            self.machine.qtest.writew(self.avail + 4 + 2 * (self.avail_idx % self.size), head)
            self.avail_idx = self.avail_idx + 1 & 0xFFFF
        self.set_avail_index(self.avail_idx)
        if notify:
            self.notify()

    def set_avail_index(self, value: int) -> None:
        """Store the available ring's index, right or wrong."""
        self.machine.qtest.writew(self.avail + 2, value)

    def set_avail_flags(self, value: int) -> None:
        """1 asks the device not to interrupt."""
        self.machine.qtest.writew(self.avail, value)

    def notify(self) -> None:
        """Tell the device to look at the ring."""
        self.nic.write(QUEUE_NOTIFY, self.index)

    def device_index(self) -> int:
        """The used ring's index as the device last stored it."""
        return self.machine.qtest.readw(self.used + 2)

    def collect(self) -> list[tuple[int, int]]:
        """(head, written bytes) of the chains the device has given back since the last call."""
        end, found = self.device_index(), []
        while self.used_idx != end:
            entry = self.machine.qtest.read(self.used + 4 + 8 * (self.used_idx % self.size), 8)
            found.append(struct.unpack("<II", entry))
            self.used_idx = self.used_idx + 1 & 0xFFFF
        return found

    def wait(self, count: int = 1, timeout: float = 5.0) -> list[tuple[int, int]]:
        """As `collect`, once at least `count` chains have come back or `timeout` s have passed."""
        deadline, found = time.monotonic() + timeout, self.collect()
        while len(found) < count and time.monotonic() < deadline:
            time.sleep(0.002)
            found += self.collect()
        return found


class MmioNic:
    """The first virtio-net device on the machine's virtio-mmio bus.

    `start` is the ordinary way up; the parts of it can be called alone, in any order a hostile driver chooses.
    Ring 2n receives and ring 2n + 1 transmits for queue pair n (VIRTIO 1.2 5.1.2).
    """

    def __init__(self, machine: QtestMachine):
        self.machine = machine
        self.features = 0
        self.rings: dict[int, Ring] = {}
        self._receive_buffers: dict[tuple[int, int], tuple[int, int]] = {}
        for slot in range(SLOT_COUNT):
            self.base = SLOTS + slot * SLOT_SIZE
            if self.read(MAGIC) == 0x74726976 and self.read(DEVICE_ID) == 1:
                break
        else:
            raise LabError("the machine has no virtio-net device")
        if self.read(VERSION) != 2:
            raise LabError("the device is a legacy one; this driver needs virtio-mmio.force-legacy=false")

    def read(self, register: int) -> int:
        return self.machine.qtest.readl(self.base + register)

    def write(self, register: int, value: int) -> None:
        self.machine.qtest.writel(self.base + register, value)

    @property
    def status(self) -> int:
        return self.read(STATUS)

    @property
    def mac(self) -> bytes:
        """The 6 bytes of the configuration space."""
        return self.machine.qtest.read(self.base + CONFIG, 6)

    def offered(self) -> int:
        """Every feature bit the device offers."""
        bits = 0
        for half in range(2):
            self.write(DEVICE_FEATURES_SEL, half)
            bits |= self.read(DEVICE_FEATURES) << 32 * half
        return bits

    def reset(self) -> None:
        """VIRTIO 1.2 4.2.3.1: writing 0 stops everything; rings of before are forgotten."""
        self.write(STATUS, 0)
        self.rings.clear()
        self._receive_buffers.clear()

    def negotiate(self, features: int) -> bool:
        """Reset, accept `features`, and say whether the device agrees (VIRTIO 1.2 3.1.1 steps 1 to 6)."""
        self.reset()
        self.write(STATUS, ACKNOWLEDGE)
        self.write(STATUS, ACKNOWLEDGE | DRIVER)
        for half in range(2):
            self.write(DRIVER_FEATURES_SEL, half)
            self.write(DRIVER_FEATURES, features >> 32 * half)
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        self.features = features
        return bool(self.status & FEATURES_OK)

    def add_ring(self, index: int, size: int = 256) -> Ring:
        """Allocate ring `index` and tell the device where it is."""
        ring = self.rings[index] = Ring(self.machine, self, index, size)
        self.set_ring(index, size, ring.table, ring.avail, ring.used)
        return ring

    def set_ring(self, index: int, size: int, table: int, avail: int, used: int) -> None:
        """Point ring `index` anywhere at all and make it ready."""
        self.write(QUEUE_SEL, index)
        self.write(QUEUE_NUM, size)
        for register, address in ((QUEUE_DESC, table), (QUEUE_DRIVER, avail), (QUEUE_DEVICE, used)):
            self.write(register, address)
            self.write(register + 4, address >> 32)
        self.write(QUEUE_READY, 1)

    def ready(self) -> None:
        """DRIVER_OK: with a vhost-user back-end QEMU hands the rings over now."""
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)

    def start(
        self,
        features: int = F_VERSION_1 | F_MAC,
        *,
        size: int = 256,
        queue_pairs: int = 1,
        control_ring: int | None = None,
    ) -> None:
        """Negotiate those of `features` that are offered, set the rings up, and go.

        With F_CTRL_VQ the ring after the device's last pair (`control_ring`, else 2 * queue_pairs) is set up too.
        """
        if not self.negotiate(features & self.offered()):
            raise LabError(f"the device refused the features {features:#x}")
        for index in range(2 * queue_pairs):
            self.add_ring(index, size)
        if self.features & F_CTRL_VQ:
            self.control_index = 2 * queue_pairs if control_ring is None else control_ring
            self.add_ring(self.control_index, 64)
        self.ready()

    def control(self, command_class: int, command: int, data: bytes) -> int:
        """Send a command on the control ring (VIRTIO 1.2 5.1.6.5); 0 is VIRTIO_NET_OK."""
        ring = self.rings[self.control_index]
        answer = self.machine.place(b"\xff")
        head = self.machine.place(bytes([command_class, command]))
        ring.chain(0, [(head, 2, 0), (self.machine.place(data), len(data), 0), (answer, 1, DESC_WRITE)])
        ring.expose(0)
        if not ring.wait():
            raise LabError("the control ring gives no answer")
        return self.machine.qtest.read(answer, 1)[0]

    def set_queue_pairs(self, count: int) -> int:
        """VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET (VIRTIO 1.2 5.1.6.5.6)."""
        return self.control(4, 0, struct.pack("<H", count))

    def send(
        self,
        frame: bytes,
        *,
        pair: int = 0,
        header: bytes = bytes(NET_HEADER_SIZE),
        head: int = 0,
        timeout: float = 5.0,
    ) -> bool:
        """Transmit one Ethernet frame as a chain of header and frame; whether the chain came back in time."""
        ring = self.rings[2 * pair + 1]
        ring.chain(head, [(self.machine.place(header), len(header), 0), (self.machine.place(frame), len(frame), 0)])
        ring.expose(head)
        return any(given == head for given, _ in ring.wait(timeout=timeout))

    def post_receive(self, count: int = 16, size: int = 1536, *, pair: int = 0) -> None:
        """Give the device `count` receive buffers, in the table entries from 0 on."""
        ring = self.rings[2 * pair]
        for head in range(count):
            address = self.machine.allocate(size)
            self._receive_buffers[pair, head] = (address, size)
            ring.describe(head, Descriptor(address, size, DESC_WRITE))
        ring.expose(*range(count))

    def receive(self, *, pair: int = 0, count: int = 1, timeout: float = 5.0) -> list[tuple[bytes, bytes]]:
        """(header, frame) of what has arrived, merged where num_buffers says so; the buffers are posted again.

        Waits until `count` used entries have come or `timeout` s have passed.
        """
        ring, frames = self.rings[2 * pair], []
        used = iter(ring.wait(count, timeout))
        for head, written in used:
            heads = [head]
            address, _ = self._receive_buffers[pair, head]
            data = self.machine.qtest.read(address, written)
            if self.features & F_MRG_RXBUF:
                for _ in range(struct.unpack_from("<H", data, 10)[0] - 1):
                    head, written = next(used)
                    heads.append(head)
                    data += self.machine.qtest.read(self._receive_buffers[pair, head][0], written)
            frames.append((data[:NET_HEADER_SIZE], data[NET_HEADER_SIZE:]))
            ring.expose(*heads)
        return frames
