"""A vhost-user front-end in this process: the part of QEMU that a test of a back-end needs.

Read first: device/vhost_user/message.py.  It speaks the protocol and shares a file as guest memory; what lies in that
memory is a virtio driver's.  It waits for an answer at most `timeout` seconds, and meanwhile gives the back-end its
turn when that is in this process, too.
"""

import mmap
import os
import select
import socket
from collections.abc import Callable, Sequence

from swos_net.device.vhost_user.message import (
    FORMATS,
    HEADER_SIZE,
    U64,
    VRING_NO_FD,
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

# Three address spaces that no test can mistake for one another: guest-physical, the front-end's and the file's.
GUEST_ADDRESS = 0x4000_0000
USER_ADDRESS = 0x7F00_0000_0000


class FrontEndError(Exception):
    """The back-end refused, closed the connection or did not answer in time."""


class SharedMemory:
    """Guest memory of `size` bytes in a sealed memfd, mapped at `view`, as one region or several of equal size."""

    def __init__(self, size: int = 1 << 24, *, regions: int = 1):
        self.size = size
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        self.view = mmap.mmap(self.fd, size)
        part = size // regions
        self.regions = [
            MemoryRegion(GUEST_ADDRESS + start, part, USER_ADDRESS + start, start) for start in range(0, size, part)
        ]

    def user_address(self, guest_address: int) -> int:
        return guest_address - GUEST_ADDRESS + USER_ADDRESS

    def close(self) -> None:
        self.view.close()
        os.close(self.fd)


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

    def send(self, request: int, payload: Payload | None = None, fds: Sequence[int] = (), need_reply: bool = False) -> None:
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

    def share(self, memory: SharedMemory) -> None:
        self.request(Request.SET_MEM_TABLE, MemoryTable(memory.regions), [memory.fd] * len(memory.regions))

    def set_up_ring(self, index: int, size: int, desc: int, avail: int, used: int, *, base: int = 0, call: bool = True) -> None:
        """Starts a ring whose parts are at these addresses of the front-end; its eventfds are in `kicks` and `calls`."""
        self.request(Request.SET_VRING_NUM, VringState(index, size))
        self.request(Request.SET_VRING_BASE, VringState(index, base))
        self.request(Request.SET_VRING_ADDR, VringAddress(index, 0, desc, used, avail))
        self.set_err(index)
        # QEMU's kick descriptors are readable from the start.
        self.set_kick(index, primed=True)
        if call:
            self.set_call(index)
        else:
            self.request(Request.SET_VRING_CALL, U64(index | VRING_NO_FD))

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


def _count(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0
