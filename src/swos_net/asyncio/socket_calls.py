"""The `loop.sock_*` calls for sockets of a stack; those of the kernel go to asyncio's own.

Read first: deliveries.py, socket/core.py.
"""

import asyncio
import contextvars
import io
import os
import select
import socket as stdlib
from asyncio import exceptions
from collections.abc import Callable
from functools import partial
from typing import Any

from swos_net.asyncio.deliveries import Deliveries, Sink
from swos_net.socket.core import SocketCore
from swos_net.socket.handle import wrap

ALWAYS = select.POLLERR | select.POLLHUP


class PendingCall(Sink):
    """A call that has to wait: `future` gets its result once the socket is ready and the call says no more EAGAIN."""

    __slots__ = ("_call", "_core", "_deliveries", "_lock", "_loop", "_mask", "future")

    def __init__(self, loop: asyncio.AbstractEventLoop, deliveries: Deliveries, core: SocketCore, mask: int,
                 call: Callable[[float], Any]):  # fmt: skip
        super().__init__(contextvars.copy_context())
        self._loop = loop
        self._deliveries = deliveries
        self._core = core
        self._mask = mask | ALWAYS
        self._call = call
        self.future: asyncio.Future | None = loop.create_future()
        self.future.add_done_callback(self._done)
        self._lock = core.stack.driver.lock
        with self._lock:
            core.watch(self._changed)
            if core.poll() & self._mask:
                self._deliveries.add(self)  # another thread was faster
        deliveries.calls.add(self)

    def abandon(self) -> None:
        """The stack refers to this call no more."""
        with self._core.stack.driver.lock:  # another one in a process that was forked
            self._core.unwatch(self._changed)

    def _changed(self, mask: int) -> None:
        """Inside the stack."""
        if mask & self._mask:
            self._deliveries.add(self)

    def deliver(self) -> None:
        future = self.future
        if future is None or future.done():
            return
        try:
            with self._lock:
                result = self._call(self._loop.time())
        except (BlockingIOError, InterruptedError):
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.future = None  # this frame is in the error's traceback: nothing in it may lead back to the error
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            future = None

    def _done(self, future: asyncio.Future) -> None:
        self._deliveries.calls.discard(self)
        self.abandon()


async def connect(loop: asyncio.AbstractEventLoop, deliveries: Deliveries, core: SocketCore, address: Any) -> None:
    """Connects to a numeric address; the failure says which."""
    try:
        with core.stack.driver.lock:
            core.connect(address, loop.time())
        return
    except (BlockingIOError, InterruptedError):
        pass

    def connected(now: float) -> None:
        if not core.poll() & (select.POLLOUT | ALWAYS):
            raise BlockingIOError
        error = core.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR, 0, now)
        if error:
            raise OSError(error, f"Connect call failed {address}")

    await PendingCall(loop, deliveries, core, select.POLLOUT, connected).future


class SocketCalls:
    """A mixin of the loop, before asyncio's own."""

    _deliveries: Deliveries

    def _core_of(self, sock: Any) -> SocketCore | None:
        """The core of a stack's socket, which this loop serves from now on if it did not; None for any other."""
        raise NotImplementedError

    async def _attempt(self, sock: Any, core: SocketCore, mask: int, call: Callable[[float], Any]) -> Any:
        """What `call(now)` gives, when the socket lets it."""
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        try:
            with core.stack.driver.lock:
                return call(self.time())
        except (BlockingIOError, InterruptedError):
            pass
        self._ensure_fd_no_transport(sock)
        return await PendingCall(self, self._deliveries, core, mask, call).future

    async def sock_recv(self, sock, n):
        core = self._core_of(sock)
        if core is None:
            return await super().sock_recv(sock, n)
        return await self._attempt(sock, core, select.POLLIN, partial(core.receive, n, 0))

    async def sock_recv_into(self, sock, buf):
        core = self._core_of(sock)
        if core is None:
            return await super().sock_recv_into(sock, buf)
        return await self._attempt(sock, core, select.POLLIN, partial(core.receive_into, buf, 0, 0))

    async def sock_recvfrom(self, sock, bufsize):
        core = self._core_of(sock)
        if core is None:
            return await super().sock_recvfrom(sock, bufsize)
        return await self._attempt(sock, core, select.POLLIN, partial(core.receive_from, bufsize, 0))

    async def sock_recvfrom_into(self, sock, buf, nbytes=0):
        core = self._core_of(sock)
        if core is None:
            return await super().sock_recvfrom_into(sock, buf, nbytes)
        return await self._attempt(sock, core, select.POLLIN, partial(core.receive_from_into, buf, nbytes or len(buf), 0))

    async def sock_sendto(self, sock, data, address):
        core = self._core_of(sock)
        if core is None:
            return await super().sock_sendto(sock, data, address)
        return await self._attempt(sock, core, select.POLLOUT, partial(core.send_to, data, 0, address))

    async def sock_sendall(self, sock, data):
        core = self._core_of(sock)
        if core is None:
            return await super().sock_sendall(sock, data)
        rest = memoryview(data).cast("B")

        def send(now: float) -> None:
            nonlocal rest
            while rest:
                rest = rest[core.send(rest, 0, now) :]

        return await self._attempt(sock, core, select.POLLOUT, send)

    async def sock_accept(self, sock):
        core = self._core_of(sock)
        if core is None:
            return await super().sock_accept(sock)
        accepted, address = await self._attempt(sock, core, select.POLLIN, core.accept)
        connection = wrap(accepted)
        connection.setblocking(False)
        return connection, address

    async def sock_connect(self, sock, address):
        core = self._core_of(sock)
        if core is None:
            return await super().sock_connect(sock, address)
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        resolved = await self._ensure_resolved(address, family=sock.family, type=sock.type, proto=sock.proto, loop=self)
        self._ensure_fd_no_transport(sock)
        await connect(self, self._deliveries, core, resolved[0][4])

    # Files

    async def _sock_sendfile_native(self, sock, file, offset, count):
        core = self._core_of(sock)
        if core is None:
            return await super()._sock_sendfile_native(sock, file, offset, count)
        return await self._send_file(core, file, offset, count)

    async def _send_file(self, core: SocketCore, file: Any, offset: int, count: int | None) -> int:
        """Bytes of a file straight into the send buffer; how many, `file` then stands behind the last.

        SendfileNotAvailableError when it is no file of the kernel's.
        """
        try:
            descriptor = file.fileno()
            size = os.fstat(descriptor).st_size
        except (AttributeError, io.UnsupportedOperation, OSError) as error:
            raise exceptions.SendfileNotAvailableError("not a regular file") from error
        end = offset + (count or max(0, size - offset))
        sent = offset

        def send(now: float) -> None:
            nonlocal sent
            while sent < end:
                taken = core.send_file(descriptor, sent, end - sent, now)
                if not taken:
                    break  # the file has become shorter
                sent += taken

        try:
            try:
                with core.stack.driver.lock:
                    send(self.time())
            except BlockingIOError:
                await PendingCall(self, self._deliveries, core, select.POLLOUT, send).future
            return sent - offset
        finally:
            if sent > offset:
                os.lseek(descriptor, sent, os.SEEK_SET)
