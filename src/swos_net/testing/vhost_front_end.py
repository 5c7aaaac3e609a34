"""A vhost-user front-end in this process: the part of QEMU that a test of a back-end needs.

Read first: device/vhost_user/message.py, virtio_driver.py.  `VhostFrontEnd` speaks the protocol, `VhostGuest` adds
well-behaved drivers on both rings of every queue pair.  They wait for an answer a few seconds at most, or give the
back-end its turn when that is in this process, too.
"""

import os
import select
import socket
from collections.abc import Callable, Sequence

from swos_net.device.vhost_user.message import (
    FORMATS,
    HEADER_SIZE,
    U64,
    MemoryRegion,
    MemoryTable,
    Payload,
    Request,
    VringAddress,
    VringState,
    emit_request,
    parse_header,
    parse_reply,
)
from swos_net.testing.virtio_driver import DriverQueue, GuestRam, NetDriver


class FrontEndError(Exception):
    """The back-end refused, closed the connection or did not answer in time."""


class VhostFrontEnd:
    """One connection to a back-end.

    `turn` runs the back-end once (a device's `handle_ready`); None when it is another process.
    """

    def __init__(self, sock: socket.socket, *, turn: Callable[[], object] | None = None, timeout: float = 5.0):
        sock.setblocking(False)
        self.sock = sock
        self.timeout = timeout
        self.features = 0
        self.protocol_features = 0
        self.kicks: dict[int, int] = {}
        self.calls: dict[int, int] = {}
        self.errors: dict[int, int] = {}
        self._turn = turn

    @classmethod
    def connect(cls, path: str, **options) -> "VhostFrontEnd":
        """To a back-end that listens on `path`."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(path)
        return cls(sock, **options)

    def close(self) -> None:
        self.sock.close()
        for fds in (self.kicks, self.calls, self.errors):
            for fd in fds.values():
                os.close(fd)
            fds.clear()

    # messages

    def turn(self) -> None:
        """Lets a back-end in this process act on what was sent."""
        if self._turn is not None:
            self._turn()

    def send(
        self, request: int, payload: Payload | None = None, fds: Sequence[int] = (), need_reply: bool = False
    ) -> None:
        """Sends one request without waiting for an answer."""
        self.send_bytes(emit_request(request, payload, need_reply=need_reply), fds)

    def send_bytes(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Sends whatever it is, descriptors with its first byte."""
        try:
            sent = socket.send_fds(self.sock, [data], fds)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise FrontEndError("the back-end closed the connection") from error
        if sent != len(data):
            raise FrontEndError("the back-end does not read")
        self.turn()

    def receive(self, request: int) -> Payload:
        """The reply to `request`."""
        header = parse_header(self._read(HEADER_SIZE), reply=True)
        if header.request != request:
            raise FrontEndError(f"reply to {header.name} instead of {request}")
        return parse_reply(header, self._read(header.size))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if self._turn is None and not select.select([self.sock], [], [], self.timeout)[0]:
                raise FrontEndError("no answer in time")
            try:
                part = self.sock.recv(size - len(data))
            except BlockingIOError:
                # A back-end in this process answers in its turn or not at all.
                raise FrontEndError("no answer") from None
            except ConnectionResetError:
                part = b""
            if not part:
                raise FrontEndError("the back-end closed the connection")
            data += part
        return data

    def request(self, request: int, payload: Payload | None = None, fds: Sequence[int] = ()) -> Payload | None:
        """Sends one request and waits for its reply, or its acknowledgement where those were negotiated."""
        has_reply = FORMATS[request].reply is not None
        need_reply = not has_reply and bool(self.protocol_features & 8)
        self.send(request, payload, fds, need_reply)
        if has_reply:
            return self.receive(request)
        if need_reply and (reply := self.receive(request)).value:
            raise FrontEndError(f"{Request(request).name} refused: {reply.value}")
        return None

    # what front-ends do with them

    def negotiate(self, features: int, protocol_features: int = 0x1F) -> None:
        """Agrees on those of the features that the back-end offers, and leaves them in `features`."""
        self.features = features & self.request(Request.GET_FEATURES).value
        if self.features >> 30 & 1:
            self.protocol_features = protocol_features & self.request(Request.GET_PROTOCOL_FEATURES).value
            self.send(Request.SET_PROTOCOL_FEATURES, U64(self.protocol_features))
        self.request(Request.SET_OWNER)
        self.request(Request.SET_FEATURES, U64(self.features))

    def share(self, ram: GuestRam) -> None:
        self.request(Request.SET_MEM_TABLE, memory_table(ram), [ram.fd] * len(ram.regions))

    def set_up_ring(self, index: int, queue: DriverQueue, *, base: int = 0, primed: bool = True) -> None:
        """Starts a ring in QEMU's order of messages; its eventfds are in `kicks`, `calls` and `errors`.

        `primed`: the kick descriptor is readable from the start, as QEMU's is and DPDK's is not.
        """
        desc, avail, used = queue.addresses
        self.request(Request.SET_VRING_NUM, VringState(index, queue.size))
        self.request(Request.SET_VRING_BASE, VringState(index, base))
        self.request(Request.SET_VRING_ADDR, VringAddress(index, 0, desc, used, avail))
        self.set_kick(index, primed=primed)
        self.set_call(index)
        self.set_err(index)

    def set_kick(self, index: int, *, primed: bool = False) -> None:
        self._set_fd(self.kicks, Request.SET_VRING_KICK, index, os.eventfd(primed, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    def set_call(self, index: int) -> None:
        self._set_fd(self.calls, Request.SET_VRING_CALL, index, os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    def set_err(self, index: int) -> None:
        self._set_fd(self.errors, Request.SET_VRING_ERR, index, os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    def _set_fd(self, fds: dict[int, int], request: int, index: int, fd: int) -> None:
        if index in fds:
            os.close(fds[index])
        fds[index] = fd
        self.request(request, U64(index), [fd])

    def enable_ring(self, index: int, enabled: bool = True) -> None:
        self.request(Request.SET_VRING_ENABLE, VringState(index, int(enabled)))

    def stop_ring(self, index: int) -> int:
        """Returns where the back-end would go on."""
        return self.request(Request.GET_VRING_BASE, VringState(index, 0)).num

    def kick(self, index: int) -> None:
        os.eventfd_write(self.kicks[index], 1)

    def called(self, index: int) -> int:
        """How often the back-end signalled since the last call."""
        return _count(self.calls[index])

    def reported(self, index: int) -> int:
        """How often the back-end reported the ring as broken since the last call."""
        return _count(self.errors[index])


class VhostGuest(VhostFrontEnd):
    """A front-end and the guest behind it: one NetDriver per queue pair in `drivers`, in memory of its own.

    `start()` brings the device up; frames then go through the drivers, which kick as drivers do.
    """

    def __init__(self, sock: socket.socket, *, ram: GuestRam | None = None, queue_pairs: int = 1, **options):
        super().__init__(sock, **options)
        self.ram = ram or GuestRam()
        self._owns_ram = ram is None
        self.queue_pairs = queue_pairs
        self.drivers: list[NetDriver] = []

    def start(self, features: int = (1 << 64) - 1, size: int = 256) -> None:
        """Negotiates, shares memory, and starts and enables all rings with receive buffers in them."""
        self.negotiate(features)
        self.drivers = [self._driver(pair, size) for pair in range(self.queue_pairs)]
        self.share(self.ram)
        for index, queue in enumerate(self.queues):
            self.enable_ring(index)
            self.set_up_ring(index, queue)
        for driver in self.drivers:
            driver.post()

    @property
    def queues(self) -> list[DriverQueue]:
        """By ring index."""
        return [queue for driver in self.drivers for queue in (driver.receive_queue, driver.transmit_queue)]

    def _driver(self, pair: int, size: int) -> NetDriver:
        return NetDriver(
            self.ram,
            self.features,
            size,
            kick_receive=lambda: self.kick(2 * pair),
            kick_transmit=lambda: self.kick(2 * pair + 1),
        )

    def close(self) -> None:
        super().close()
        if self._owns_ram:
            self.ram.close()


def memory_table(ram: GuestRam) -> MemoryTable:
    """The regions of `ram` as SET_MEM_TABLE has them."""
    return MemoryTable([MemoryRegion(r.guest_address, r.size, r.user_address, r.offset) for r in ram.regions])


def _count(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0
