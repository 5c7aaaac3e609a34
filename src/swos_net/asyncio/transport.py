"""What asyncio transports on stack sockets have in common: what a descriptor and a selector do elsewhere is a watcher here.

Read first: deliveries.py, socket/core.py; then stream_transport.py, datagram_transport.py.  They behave as asyncio's own on
a kernel socket do, in what they call, when, and in which context.
"""

import asyncio
import contextvars
import select
import sys
import warnings
from asyncio import futures
from asyncio.log import logger
from asyncio.transports import _FlowControlMixin
from collections import deque
from typing import Any

from swos_net.asyncio.deliveries import Deliveries
from swos_net.socket.core import SocketCore
from swos_net.socket.handle import wrap

READ_EVENTS = select.POLLIN | select.POLLRDHUP | select.POLLERR | select.POLLHUP
WRITE_EVENTS = select.POLLOUT | select.POLLERR | select.POLLHUP
READS_PER_TURN = 4  # of up to `max_size` bytes, before others get their turn
_CLIENTS_BY_TRANSPORT = sys.version_info >= (3, 13)  # what a server is told: the transport, or only that there is one


class CoreTransport(_FlowControlMixin):
    """What streams and datagrams have in common.  A sink (see deliveries.py) besides."""

    max_size = 256 * 1024  # bytes of one read
    _core: SocketCore | None = None  # for __del__, should the constructor fail
    _at_end = False  # nothing more will be read

    def __init__(self, loop: asyncio.AbstractEventLoop, deliveries: Deliveries, core: SocketCore, protocol: asyncio.BaseProtocol,
                 waiter: asyncio.Future | None, extra: dict[str, Any] | None, server: Any, sock: Any):  # fmt: skip
        """`sock` is the socket object that owns the core, if there is one already; `server` has `_attach`, `_detach`."""
        super().__init__(extra, loop)
        self._time = loop.time
        if sock is not None:
            self._extra["socket"] = asyncio.trsock.TransportSocket(sock)
        if "peername" not in self._extra:
            try:
                self._extra["peername"] = core.getpeername()
            except OSError:
                self._extra["peername"] = None
        self._sock = sock
        self._core = core
        self._lock = core.stack.driver.lock  # for every call of the core
        self._deliveries = deliveries
        self.context = contextvars.copy_context()
        self.queued = False
        self.pending = 0
        self._protocol = protocol
        self._buffer: deque[Any] = deque()
        self._buffer_size = 0
        self._conn_lost = 0
        self._closing = False
        self._paused = False
        self._watching = False
        self._server = server
        if server is not None:
            server._attach(*(self,) * _CLIENTS_BY_TRANSPORT)
        self.set_protocol(protocol)
        loop.call_soon(self._protocol.connection_made, self)
        if waiter is None:
            loop.call_soon(self._start)
        else:
            loop.call_soon(futures._set_result_unless_cancelled, waiter, None)
            # a turn later: whoever waits goes on before anything is delivered, as with asyncio's own
            loop.call_soon(loop.call_soon, self._start)

    def __repr__(self) -> str:
        state = "closed" if self._core is None else "closing" if self._closing else "open"
        reading = "polling" if self._core is not None and self._watching and self.is_reading() else "idle"
        writing = "polling" if self._buffer else "idle"
        return (f"<{type(self).__name__} {state} {self.get_extra_info('sockname')} > {self._extra.get('peername')} "
                f"read={reading} write=<{writing}, bufsize={self._buffer_size}>>")  # fmt: skip

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name not in self._extra and self._core is not None:
            if name == "sockname":
                with self._lock:
                    self._extra[name] = self._core.getsockname()
            elif name == "socket":
                self._sock = wrap(self._core)
                self._extra[name] = asyncio.trsock.TransportSocket(self._sock)
            elif name == "capability":
                return self._core.capability
        return self._extra.get(name, default)

    # From the stack

    def _start(self) -> None:
        if self._core is None or self._watching:
            return
        self._watching = True
        with self._lock:
            self._core.watch(self._changed)
            self._look()

    def _changed(self, mask: int) -> None:
        """Inside the stack."""
        self.pending |= mask
        self._deliveries.add(self)

    def _look(self) -> None:
        """Something may have become possible without the stack saying so."""
        with self._lock:
            mask = self._core.poll()
            if mask:
                self._changed(mask)

    def deliver(self) -> None:
        """In the loop."""
        with self._lock:
            pending, self.pending = self.pending, 0
        if pending & READ_EVENTS and not self._paused and not self._closing:
            more = 0
            try:
                for _ in range(READS_PER_TURN):
                    more = READ_EVENTS  # should the callback not return
                    if self._read_ready() and pending & READ_EVENTS == select.POLLIN:
                        more = 0  # what comes from now on is told anew
                        break
                    with self._lock:
                        more = 0 if self._paused or self._closing or self._at_end else self._core.poll() & READ_EVENTS
                    if not more:
                        break
            finally:
                if more and not (self._paused or self._closing or self._at_end):
                    with self._lock:
                        self._changed(more)  # the next turn; others come first
        if pending & WRITE_EVENTS and self._core is not None:
            self._write_ready()

    def _read_ready(self) -> bool:
        """Reads once; True when it took all there was."""
        raise NotImplementedError

    def _write_ready(self) -> None:
        raise NotImplementedError

    # asyncio's interface

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        if self.is_reading():
            self._paused = True
            if self._loop.get_debug():
                logger.debug("%r pauses reading", self)

    def resume_reading(self) -> None:
        if self._closing or not self._paused:
            return
        self._paused = False
        if self._watching:
            self._look()
        if self._loop.get_debug():
            logger.debug("%r resumes reading", self)

    def get_write_buffer_size(self) -> int:
        return self._buffer_size

    def abort(self) -> None:
        self._force_close(None)

    def close(self) -> None:
        """What was written still goes out."""
        if self._closing:
            return
        self._closing = True
        if not self._buffer:
            self._conn_lost += 1
            self._loop.call_soon(self._call_connection_lost, None)

    def __del__(self, _warn=warnings.warn) -> None:
        if self._core is not None:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            if self._sock is not None:
                self._sock._abandon()
            else:
                self._core.stack.driver.abandon(self._core)
            if self._server is not None:
                self._server._detach(*(self,) * _CLIENTS_BY_TRANSPORT)

    # The end

    def _fatal_error(self, error: BaseException, message: str = "Fatal error on transport") -> None:
        if isinstance(error, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=True)
        else:
            self._loop.call_exception_handler(
                {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
            )
        self._force_close(error)

    def _force_close(self, error: BaseException | None) -> None:
        """The end at once; what was not sent is dropped."""
        if self._conn_lost:
            return
        self._buffer.clear()
        self._buffer_size = 0
        self._closing = True
        self._conn_lost += 1
        self._loop.call_soon(self._call_connection_lost, error)

    def _call_connection_lost(self, error: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._let_go()
            self._protocol = None
            self._loop = None
            server, self._server = self._server, None
            if server is not None:
                server._detach(*(self,) * _CLIENTS_BY_TRANSPORT)

    def _let_go(self) -> None:
        core, self._core = self._core, None
        with self._lock:
            if "sockname" not in self._extra:
                self._extra["sockname"] = core.getsockname()
            core.unwatch(self._changed)
            if self._sock is None:
                core.close(self._loop.time())
        if self._sock is not None:
            self._sock.close()

    def _abandon(self) -> None:
        """The loop is closed: the stack refers to this transport no more."""
        if self._core is not None:
            with self._lock:
                self._core.unwatch(self._changed)
            self._watching = False


def core_of(sock: Any) -> SocketCore | None:
    """The core of a stack's socket object, open or given as it is; None for everything else."""
    core = sock if isinstance(sock, SocketCore) else getattr(sock, "core", None) or getattr(sock, "_core", None)
    return core if isinstance(core, SocketCore) else None
