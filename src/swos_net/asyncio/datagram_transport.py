"""The asyncio transport of a UDP socket.  Read first: transport.py."""

import asyncio
import itertools
import sys
from asyncio import constants
from asyncio.log import logger
from typing import Any

from swos_net.asyncio.deliveries import Deliveries
from swos_net.asyncio.transport import CoreTransport
from swos_net.socket.core import SocketCore

DATAGRAMS_PER_TURN = 16  # then others get theirs
DATAGRAM_OVERHEAD = 8 if sys.version_info >= (3, 13) else 0  # what asyncio counts for a datagram besides its bytes


class DatagramTransport(CoreTransport, asyncio.DatagramTransport):
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
