"""The asyncio transport of a TCP connection; on top of what asyncio's own has it has `write_file`.

Read first: transport.py.
"""

import asyncio
import socket as stdlib
from asyncio import constants
from asyncio.log import logger
from typing import Any

from swos_net.asyncio.deliveries import Deliveries
from swos_net.asyncio.transport import CoreTransport
from swos_net.socket.core import SocketCore


class StreamTransport(CoreTransport):
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
            if self._read_into_buffer() == 0:
                self._end_of_stream()
            return False
        try:
            with self._lock:
                data = self._core.receive(self.max_size, 0, self._time())
        except BlockingIOError:
            return False
        except OSError as error:
            self._fatal_error(error, "Fatal read error on socket transport")
            return False
        if not data:
            self._end_of_stream()
            return False
        try:
            self._protocol.data_received(data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fatal_error(error, "Fatal error: protocol.data_received() call failed.")
            return False
        return len(data) < self.max_size

    def _read_into_buffer(self) -> int | None:
        """How many bytes the protocol got, 0 at the end of the stream, None for nothing now or a failure."""
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
                taken = self._core.receive_into(buffer, 0, 0, self._time())
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
        if data.__class__ is not bytes:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
            if isinstance(data, memoryview) and (data.itemsize != 1 or data.ndim != 1):
                data = data.cast("B")
        if self._eof or self._empty_waiter is not None:
            self._check_writable("write")
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
                    taken = self._core.send(data, 0, self._time())
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
