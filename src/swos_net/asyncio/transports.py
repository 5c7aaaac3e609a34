"""asyncio transports on stack sockets: what a descriptor and a selector do elsewhere is a watcher here.

Read first: deliveries.py, socket/core.py.  They behave as asyncio's own on a kernel socket do, in what they call, when,
and in which context; on top of that a stream has `write_file`.
"""

import asyncio
import contextvars
import itertools
import select
import socket as stdlib
import sys
import warnings
from asyncio import constants, futures
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
DATAGRAMS_PER_TURN = 16  # then others get theirs
DATAGRAM_OVERHEAD = 8 if sys.version_info >= (3, 13) else 0  # what asyncio counts for a datagram besides its bytes
_CLIENTS_BY_TRANSPORT = sys.version_info >= (3, 13)  # what a server is told: the transport, or only that there is one


class _CoreTransport(_FlowControlMixin):
    """What streams and datagrams have in common.  A sink (see deliveries.py) besides."""

    max_size = 256 * 1024  # bytes of one read
    _core: SocketCore | None = None  # for __del__, should the constructor fail
    _at_end = False  # nothing more will be read

    def __init__(self, loop: asyncio.AbstractEventLoop, deliveries: Deliveries, core: SocketCore, protocol: asyncio.BaseProtocol,
                 waiter: asyncio.Future | None, extra: dict[str, Any] | None, server: Any, sock: Any):  # fmt: skip
        """`sock` is the socket object that owns the core, if there is one already; `server` has `_attach`, `_detach`."""
        super().__init__(extra, loop)
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


class StreamTransport(_CoreTransport):
    """One TCP connection."""

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    def __init__(self, loop: asyncio.AbstractEventLoop, deliveries: Deliveries, core: SocketCore, protocol: asyncio.BaseProtocol,
                 waiter: asyncio.Future | None = None, extra: dict[str, Any] | None = None, server: Any = None,
                 sock: Any = None):  # fmt: skip
        self._buffered = False
        self._eof = False  # after what is buffered the sending side is shut
        self._wants_room = False
        self._empty_waiter: asyncio.Future | None = None
        super().__init__(loop, deliveries, core, protocol, waiter, extra, server, sock)
        # asyncio's own choice: protocols write whole messages
        with self._lock:
            core.setsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_NODELAY, 1, None, loop.time())

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)
        super().set_protocol(protocol)

    # Reading

    def _read_ready(self) -> bool:
        if self._conn_lost or self._at_end:
            return False
        if self._buffered:
            taken, drained = self._read_into_buffer(), False
        else:
            taken = self._read_bytes()
            drained = bool(taken) and taken < self.max_size
        if taken == 0:
            self._end_of_stream()
        return drained

    def _read_bytes(self) -> int | None:
        """How many bytes the protocol got, 0 at the end of the stream, None for nothing now or a failure."""
        try:
            with self._lock:
                data = self._core.receive(self.max_size, 0, self._loop.time())
        except BlockingIOError:
            return None
        except OSError as error:
            self._fatal_error(error, "Fatal read error on socket transport")
            return None
        if data:
            try:
                self._protocol.data_received(data)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._fatal_error(error, "Fatal error: protocol.data_received() call failed.")
                return None
        return len(data)

    def _read_into_buffer(self) -> int | None:
        protocol = self._protocol
        try:
            buffer = protocol.get_buffer(-1)
            if not len(buffer):
                raise RuntimeError("get_buffer() returned an empty buffer")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fatal_error(error, "Fatal error: protocol.get_buffer() call failed.")
            return None
        try:
            with self._lock:
                taken = self._core.receive_into(buffer, 0, 0, self._loop.time())
        except BlockingIOError:
            return None
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fatal_error(error, "Fatal read error on socket transport")
            return None
        if taken:
            try:
                protocol.buffer_updated(taken)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._fatal_error(error, "Fatal error: protocol.buffer_updated() call failed.")
                return None
        return taken

    def _end_of_stream(self) -> None:
        self._at_end = True
        if self._loop.get_debug():
            logger.debug("%r received EOF", self)
        try:
            keep_open = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fatal_error(error, "Fatal error: protocol.eof_received() call failed.")
            return
        if not keep_open:
            self.close()

    # Writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._eof or self._empty_waiter is not None:
            self._check_writable("write")
        if isinstance(data, memoryview) and (data.itemsize != 1 or data.ndim != 1):
            data = data.cast("B")
        if not data or self._conn_lost and self._lost_already():
            return
        if self._send(data):
            self._maybe_pause_protocol()

    def writelines(self, list_of_data: Any) -> None:
        self._check_writable("writelines")
        if self._lost_already():
            return
        waiting = False
        for data in list_of_data:
            if isinstance(data, memoryview) and data.itemsize != 1:
                data = data.cast("B")
            if data and not self._conn_lost:
                waiting = self._send(data)
        if waiting:
            self._maybe_pause_protocol()

    def _check_writable(self, name: str) -> None:
        if self._eof:
            raise RuntimeError(f"Cannot call {name}() after write_eof()")
        if self._empty_waiter is not None:
            raise RuntimeError(f"unable to {name}; sendfile is in progress")

    def _lost_already(self) -> bool:
        if self._conn_lost:
            if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("socket.send() raised exception.")
            self._conn_lost += 1
        return self._conn_lost > 0

    def _send(self, data: bytes | bytearray | memoryview) -> bool:
        """Sends what there is room for and keeps the rest; True when something is kept."""
        taken = 0
        if not self._buffer:
            try:
                with self._lock:
                    taken = self._core.send(data, 0, self._loop.time())
            except BlockingIOError:
                pass
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._fatal_error(error, "Fatal write error on socket transport")
                return False
        if taken < len(data):
            # bytes cannot change under us; anything else is copied
            rest = memoryview(data if isinstance(data, bytes) else bytes(data))[taken:]
            self._buffer.append(rest)
            self._buffer_size += len(rest)
            return True
        return False

    def write_file(self, descriptor: int, offset: int, count: int) -> int:
        """Moves file bytes straight into the send queue; returns how many fitted.

        Fewer than asked for: the protocol was paused, `resume_writing` says when to go on.  0 as well when earlier
        data still waits or the file has ended.  OSError when the connection or the file fails.
        """
        if self._conn_lost or self._closing:
            raise BrokenPipeError(32, "the transport is closing")
        self._check_writable("write_file")
        taken = 0
        if not self._buffer:
            try:
                with self._lock:
                    taken = self._core.send_file(descriptor, offset, count, self._loop.time())
            except BlockingIOError:
                pass
        if taken < count:
            self._wants_room = True
            if not self._protocol_paused:
                self._protocol_paused = True
                self._protocol.pause_writing()
            self._look()
        return taken

    def _write_ready(self) -> None:
        if self._conn_lost:
            return
        buffer, now = self._buffer, self._loop.time()
        if buffer:
            try:
                with self._lock:
                    while buffer:
                        taken = self._core.send(buffer[0], 0, now)
                        self._buffer_size -= taken
                        if taken < len(buffer[0]):
                            buffer[0] = buffer[0][taken:]
                        else:
                            buffer.popleft()
            except BlockingIOError:
                pass
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                buffer.clear()
                self._buffer_size = 0
                self._fatal_error(error, "Fatal write error on socket transport")
                if self._empty_waiter is not None:
                    self._empty_waiter.set_exception(error)
                return
        elif not self._wants_room:
            return
        self._wants_room = False
        self._maybe_resume_protocol()  # may write again
        if not buffer:
            if self._empty_waiter is not None and not self._empty_waiter.done():
                self._empty_waiter.set_result(None)
            if self._closing:
                if not self._conn_lost:
                    self._conn_lost += 1
                    self._call_connection_lost(None)
            elif self._eof:
                self._shutdown_send()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._closing or self._eof:
            return
        self._eof = True
        if not self._buffer:
            self._shutdown_send()

    def _shutdown_send(self) -> None:
        with self._lock:
            self._core.shutdown(stdlib.SHUT_WR, self._loop.time())

    def _call_connection_lost(self, error: BaseException | None) -> None:
        super()._call_connection_lost(error)
        if self._empty_waiter is not None and not self._empty_waiter.done():
            self._empty_waiter.set_exception(ConnectionError("Connection is closed by peer"))

    def _make_empty_waiter(self) -> asyncio.Future:
        """Done when nothing is buffered; until `_reset_empty_waiter` nobody may write."""
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        self._empty_waiter = self._loop.create_future()
        if not self._buffer:
            self._empty_waiter.set_result(None)
        return self._empty_waiter

    def _reset_empty_waiter(self) -> None:
        self._empty_waiter = None


class DatagramTransport(_CoreTransport, asyncio.DatagramTransport):
    """One UDP socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deliveries: Deliveries, core: SocketCore, protocol: asyncio.BaseProtocol,
                 address: Any = None, waiter: asyncio.Future | None = None, extra: dict[str, Any] | None = None,
                 sock: Any = None):  # fmt: skip
        """`address`: where everything goes, if the socket is not connected."""
        self._address = address
        super().__init__(loop, deliveries, core, protocol, waiter, extra, None, sock)

    def _read_ready(self) -> bool:
        for _ in itertools.repeat(None, DATAGRAMS_PER_TURN):
            if self._conn_lost or self._paused or self._closing:
                return False
            try:
                with self._lock:
                    data, address = self._core.receive_from(self.max_size, 0, self._loop.time())
            except BlockingIOError:
                return True
            except OSError as error:
                self._tell("error_received", error)
            else:
                self._tell("datagram_received", data, address)
        return False

    def _tell(self, name: str, *arguments: Any) -> None:
        """A protocol's mistake is reported, and costs this datagram only."""
        try:
            getattr(self._protocol, name)(*arguments)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._loop.call_exception_handler(
                {"message": f"Exception in callback {type(self._protocol).__qualname__}.{name}()", "exception": error,
                 "transport": self, "protocol": self._protocol}  # fmt: skip
            )

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._address:
            if addr not in (None, self._address):
                raise ValueError(f"Invalid address: must be None or {self._address}")
            addr = self._address
        if self._conn_lost and (self._address or self._core is None):
            if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("socket.send() raised exception.")
            self._conn_lost += 1
            return
        if not self._buffer:
            try:
                self._send(data, addr)
                return
            except BlockingIOError:
                pass
            except OSError as error:
                self._protocol.error_received(error)
                return
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._fatal_error(error, "Fatal write error on datagram transport")
                return
        self._buffer.append((bytes(data), addr))
        self._buffer_size += len(data) + DATAGRAM_OVERHEAD
        self._maybe_pause_protocol()

    def _send(self, data: bytes | bytearray | memoryview, addr: Any) -> None:
        with self._lock:
            if self._extra["peername"]:
                self._core.send(data, 0, self._loop.time())
            else:
                self._core.send_to(data, 0, addr, self._loop.time())

    def _write_ready(self) -> None:
        if not self._buffer:
            return
        while self._buffer:
            data, addr = self._buffer[0]
            try:
                self._send(data, addr)
            except BlockingIOError:
                break
            except OSError as error:
                self._tell("error_received", error)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._fatal_error(error, "Fatal write error on datagram transport")
                return
            if not self._buffer:
                return  # the protocol has closed us
            self._buffer.popleft()
            self._buffer_size -= len(data) + DATAGRAM_OVERHEAD
        self._maybe_resume_protocol()  # may send again
        if not self._buffer and self._closing and not self._conn_lost:
            self._conn_lost += 1
            self._call_connection_lost(None)


def core_of(sock: Any) -> SocketCore | None:
    """The core of a stack's socket object, open or given as it is; None for everything else."""
    core = sock if isinstance(sock, SocketCore) else getattr(sock, "core", None) or getattr(sock, "_core", None)
    return core if isinstance(core, SocketCore) else None
