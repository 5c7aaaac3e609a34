"""One blocking socket: the only place where a caller's thread sleeps.

Read first: runtime/threaded.py.  Every method enters the stack, tries, and waits on the socket's own condition (which
shares the stack's lock) until a watcher says that readiness has grown.
"""

import errno
import io
import socket as stdlib
from collections.abc import Callable
from typing import Any

from swos_net.address import UNSPECIFIED4, UNSPECIFIED6, format_address, is_ipv4, parse_address
from swos_net.capability import Capability
from swos_net.clock import monotonic
from swos_net.errors import os_error
from swos_net.runtime.threaded import ThreadedRunner
from swos_net.stack.tcp_endpoint import TcpEndpoint, TcpListener
from swos_net.stack.udp_endpoint import UdpEndpoint

AF_INET = stdlib.AF_INET
AF_INET6 = stdlib.AF_INET6
SOCK_STREAM = stdlib.SOCK_STREAM
SOCK_DGRAM = stdlib.SOCK_DGRAM
SHUT_RD, SHUT_WR, SHUT_RDWR = stdlib.SHUT_RD, stdlib.SHUT_WR, stdlib.SHUT_RDWR

Address = tuple[str, int]


class Socket:
    """A stream or datagram socket made from one capability.

    Addresses are (text, port) pairs; names are not resolved.  The errors are those of the kernel's sockets.
    """

    def __init__(self, runner: ThreadedRunner, family: int = AF_INET, type: int = SOCK_STREAM, *, capability: Capability):
        if family not in (AF_INET, AF_INET6):
            raise os_error(errno.EAFNOSUPPORT, "use AF_INET or AF_INET6")
        if type not in (SOCK_STREAM, SOCK_DGRAM):
            raise os_error(errno.EPROTONOSUPPORT, "use SOCK_STREAM or SOCK_DGRAM")
        self.family = int(family)
        self.type = int(type)
        self.capability = capability
        self._runner = runner
        self._changed = runner.new_condition()
        self._timeout: float | None = None
        self._local: tuple[bytes, int] | None = None
        self._endpoint: Any = None
        self._closed = False

    @classmethod
    def _of(cls, runner: ThreadedRunner, endpoint: TcpEndpoint) -> "Socket":
        socket = cls(runner, AF_INET if is_ipv4(endpoint.local) else AF_INET6, capability=endpoint.capability)
        socket._adopt(endpoint)
        return socket

    def _adopt(self, endpoint: Any) -> None:
        self._endpoint = endpoint
        endpoint.watch(self._wake)

    def _wake(self, mask: int) -> None:
        self._changed.notify_all()  # a watcher runs with the stack's lock held

    def _wait(self, attempt: Callable[[float], Any]) -> Any:
        """Calls attempt(now) until it gives something other than None; TimeoutError, or EAGAIN with a timeout of 0."""
        deadline = None if self._timeout is None else monotonic() + self._timeout
        with self._changed:  # held from the attempt until the wait, so that no change falls in between
            while True:
                with self._runner.entered() as now:
                    self._check_open()
                    result = attempt(now)
                if result is not None:
                    return result
                if self._timeout == 0:
                    raise os_error(errno.EAGAIN, "nothing to do without waiting")
                left = None if deadline is None else deadline - monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError("timed out")
                self._changed.wait(left)

    def _check_open(self) -> None:
        if self._closed:
            raise os_error(errno.EBADF, "the socket is closed")

    def _parse(self, address: Address) -> tuple[bytes, int]:
        host, port = address[0], address[1]
        if host == "":
            parsed = UNSPECIFIED4 if self.family == AF_INET else UNSPECIFIED6
        else:
            parsed = parse_address(host)
        if is_ipv4(parsed) != (self.family == AF_INET):
            raise os_error(errno.EAFNOSUPPORT, f"{host!r} is not an address of this socket's family")
        return parsed, port

    def _name(self, address: bytes, port: int) -> tuple:
        return (format_address(address), port) if is_ipv4(address) else (format_address(address), port, 0, 0)

    def _stream(self) -> TcpEndpoint:
        if not isinstance(self._endpoint, TcpEndpoint):
            raise os_error(errno.ENOTCONN, "connect the socket first")
        return self._endpoint

    def _datagram(self) -> UdpEndpoint:
        """The UDP endpoint, bound to any port if it was not yet."""
        if self._endpoint is None:
            local, port = self._local or (UNSPECIFIED4 if self.family == AF_INET else UNSPECIFIED6, 0)
            self._adopt(self._runner.stack.udp_open(self.capability, local, port))
        return self._endpoint

    # Set-up

    def bind(self, address: Address) -> None:
        with self._runner.entered():
            self._check_open()
            if self._local is not None or self._endpoint is not None:
                raise os_error(errno.EINVAL, "the socket is bound already")
            local, port = self._parse(address)
            if self.type == SOCK_DGRAM:
                self._local = local, port
                try:
                    self._datagram()
                except OSError:
                    self._local = None
                    raise
                return
            if not self._runner.stack.is_local(local) and local not in (UNSPECIFIED4, UNSPECIFIED6):
                raise os_error(errno.EADDRNOTAVAIL, f"{address[0]} is not an address of this stack")
            self.capability.check("bind", "tcp", local, port)
            self._local = local, port

    def listen(self, backlog: int = 128) -> None:
        with self._runner.entered():
            self._check_open()
            if self.type != SOCK_STREAM:
                raise os_error(errno.EOPNOTSUPP, "datagram sockets do not listen")
            local, port = self._local or (UNSPECIFIED4 if self.family == AF_INET else UNSPECIFIED6, 0)
            self._adopt(self._runner.stack.tcp_listen(self.capability, local, port, backlog))

    def accept(self) -> tuple["Socket", tuple]:
        if not isinstance(self._endpoint, TcpListener):
            raise os_error(errno.EINVAL, "call listen() first")
        endpoint = self._wait(lambda now: self._endpoint.accept())
        with self._runner.lock:
            return Socket._of(self._runner, endpoint), self._name(endpoint.remote, endpoint.remote_port)

    def connect(self, address: Address) -> None:
        """Waits for the handshake; EISCONN, EINPROGRESS without a timeout of its own, or the connection's failure."""
        with self._runner.entered() as now:
            self._check_open()
            remote, port = self._parse(address)
            if self.type == SOCK_DGRAM:
                self._datagram().connect(remote, port)
                return
            if self._endpoint is not None:
                raise os_error(errno.EISCONN, "the socket is connected already")
            local, local_port = self._local or (None, 0)
            if local in (UNSPECIFIED4, UNSPECIFIED6):
                local = None
            self._adopt(self._runner.stack.tcp_connect(self.capability, remote, port, now, local=local, local_port=local_port))
        if self._timeout == 0:
            raise os_error(errno.EINPROGRESS, "the handshake is under way")
        self._wait(self._connected)

    def _connected(self, now: float) -> bool | None:
        endpoint = self._stream()
        endpoint.raise_error()
        return True if endpoint.connected else None

    # Data

    def send(self, data, flags: int = 0) -> int:
        if self.type == SOCK_DGRAM:
            endpoint = self._endpoint
            if endpoint is None or endpoint.remote is None:
                raise os_error(errno.EDESTADDRREQ, "connect the socket or use sendto()")
            return self._send_datagram(data, endpoint.remote, endpoint.remote_port)
        view = memoryview(data).cast("B")
        if not view:
            return 0
        return self._wait(lambda now: self._stream().send(view, now) or None)

    def sendall(self, data, flags: int = 0) -> None:
        view = memoryview(data).cast("B")
        while view:
            view = view[self.send(view) :]

    def sendto(self, data, *arguments) -> int:
        """sendto(data, address) or sendto(data, flags, address)."""
        remote, port = self._parse(arguments[-1])
        return self._send_datagram(data, remote, port)

    def _send_datagram(self, data, remote: bytes, port: int) -> int:
        payload = bytes(data)

        def attempt(now: float) -> int | None:
            sent = self._datagram().send_to(payload, remote, port, now)
            return sent if sent == len(payload) else None

        return self._wait(attempt)

    def sendfile(self, file, offset: int = 0, count: int | None = None) -> int:
        """Sends a file's bytes without making Python objects of them; returns how many."""
        total = 0
        while count is None or total < count:
            want = 1 << 30 if count is None else count - total
            position = offset + total

            def attempt(now: float, position: int = position, want: int = want) -> tuple[int] | None:
                endpoint = self._stream()
                if not endpoint.connection.send_room:
                    endpoint.connection.tcb.was_full = True
                    return None
                return (endpoint.send_file(file.fileno(), position, want, now),)

            (taken,) = self._wait(attempt)
            if taken == 0:
                break
            total += taken
        file.seek(offset + total)
        return total

    def recv(self, length: int, flags: int = 0) -> bytes:
        if self.type == SOCK_DGRAM:
            return self.recvfrom(length)[0]
        if not length:
            return b""
        if flags & stdlib.MSG_PEEK:
            return self._wait(lambda now: self._stream().peek(length))
        return self._wait(lambda now: self._stream().receive(length, now))

    def recv_into(self, buffer, nbytes: int = 0, flags: int = 0) -> int:
        view = memoryview(buffer).cast("B")
        if nbytes:
            view = view[:nbytes]
        if self.type == SOCK_DGRAM:
            data = self.recvfrom(len(view))[0]
            view[: len(data)] = data
            return len(data)
        if not view:
            return 0
        return self._wait(lambda now: self._stream().receive_into(view, now))

    def recvfrom(self, length: int, flags: int = 0) -> tuple[bytes, tuple | None]:
        if self.type == SOCK_STREAM:
            return self.recv(length, flags), None
        datagram = self._wait(lambda now: self._datagram().receive())
        return datagram.payload[:length], self._name(datagram.remote, datagram.remote_port)

    # The rest

    def shutdown(self, how: int) -> None:
        with self._runner.entered() as now:
            endpoint = self._stream()
            if how in (SHUT_WR, SHUT_RDWR):
                endpoint.shutdown_send(now)
            if how in (SHUT_RD, SHUT_RDWR):
                endpoint.shutdown_receive(now)

    def close(self) -> None:
        """Idempotent.  What was sent still arrives; a stream with unread data is reset."""
        if self._closed:
            return
        self._closed = True
        with self._changed:
            self._changed.notify_all()
            if self._endpoint is not None and self._runner.serving:
                with self._runner.entered() as now:
                    self._endpoint.close(now)

    def __enter__(self) -> "Socket":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def settimeout(self, timeout: float | None) -> None:
        if timeout is not None and timeout < 0:
            raise ValueError("Timeout value out of range")
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        return self._timeout

    def setblocking(self, blocking: bool) -> None:
        self._timeout = None if blocking else 0.0

    def getsockname(self) -> tuple:
        if self._endpoint is not None:
            return self._name(self._endpoint.local, self._endpoint.local_port)
        return self._name(*(self._local or (UNSPECIFIED4 if self.family == AF_INET else UNSPECIFIED6, 0)))

    def getpeername(self) -> tuple:
        remote = getattr(self._endpoint, "remote", None)
        if remote is None:
            raise os_error(errno.ENOTCONN, "the socket has no peer")
        return self._name(remote, self._endpoint.remote_port)

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """TCP_NODELAY, SO_KEEPALIVE and SO_BROADCAST; ENOPROTOOPT for others."""
        with self._runner.entered() as now:
            if (level, option) == (stdlib.IPPROTO_TCP, stdlib.TCP_NODELAY):
                self._stream().connection.tcb.nodelay = bool(value)
            elif (level, option) == (stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE):
                self._stream().connection.set_keepalive(bool(value), now)
                self._runner.stack.deadlines.schedule(self._endpoint)
            elif (level, option) == (stdlib.SOL_SOCKET, stdlib.SO_BROADCAST):
                self._datagram().broadcast = bool(value)
            elif (level, option) != (stdlib.SOL_SOCKET, stdlib.SO_REUSEADDR):
                # TIME-WAIT never keeps a port of this stack from being listened on: SO_REUSEADDR changes nothing
                raise os_error(errno.ENOPROTOOPT, f"option {option} of level {level} is not known")

    def makefile(self, mode: str = "r", buffering: int | None = None, **options: Any):
        """A file object, as the standard library's sockets make them."""
        binary = "b" in mode
        raw = _SocketFile(self, "r" in mode, "w" in mode)
        if buffering == 0:
            return raw
        size = io.DEFAULT_BUFFER_SIZE if buffering in (None, -1) else buffering
        if "r" in mode and "w" in mode:
            buffered: Any = io.BufferedRWPair(raw, raw, size)
        else:
            buffered = io.BufferedWriter(raw, size) if "w" in mode else io.BufferedReader(raw, size)
        return buffered if binary else io.TextIOWrapper(buffered, **options)


class _SocketFile(io.RawIOBase):
    def __init__(self, socket: Socket, reads: bool, writes: bool):
        self._socket = socket
        self._reads = reads
        self._writes = writes

    def readable(self) -> bool:
        return self._reads

    def writable(self) -> bool:
        return self._writes

    def readinto(self, buffer) -> int:
        return self._socket.recv_into(buffer)

    def write(self, data) -> int:
        return self._socket.send(data)


def create_connection(runner: ThreadedRunner, address: Address, timeout: float | None = None, *, capability: Capability) -> Socket:
    """A connected stream socket."""
    socket = Socket(runner, AF_INET if is_ipv4(parse_address(address[0])) else AF_INET6, capability=capability)
    socket.settimeout(timeout)
    try:
        socket.connect(address)
    except BaseException:
        socket.close()
        raise
    return socket


def create_server(runner: ThreadedRunner, address: Address, *, capability: Capability, family: int = AF_INET, backlog: int = 128) -> Socket:
    """A listening stream socket."""
    socket = Socket(runner, family, capability=capability)
    try:
        socket.bind(address)
        socket.listen(backlog)
    except BaseException:
        socket.close()
        raise
    return socket
