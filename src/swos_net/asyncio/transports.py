"""asyncio transports directly on endpoints: what a socket and a selector do elsewhere is a watcher here.

Callbacks of the protocol run inside the stack's poll; whatever they queue goes out at the end of the same poll.
"""

import asyncio
import errno
from collections import deque

from swos_net.address import format_address, parse_address
from swos_net.errors import os_error
from swos_net.stack.endpoint import Ready
from swos_net.stack.tcp_endpoint import TcpEndpoint
from swos_net.stack.udp_endpoint import UdpEndpoint

READ_BYTES = 262144
HIGH_WATER = 65536


class _WriteFlowControl:
    """pause_writing and resume_writing by the limits of asyncio's transports, and the end at once."""

    _protocol: asyncio.BaseProtocol

    def _init_limits(self) -> None:
        self._writing_paused = False
        self.set_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high_water, self._low_water = high, low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low_water, self._high_water

    def get_write_buffer_size(self) -> int:
        return self._unsent_bytes

    def _pause_protocol(self) -> None:
        if not self._writing_paused:
            self._writing_paused = True
            self._guarded("pause_writing", self._protocol.pause_writing)

    def _resume_protocol(self) -> None:
        if self._writing_paused:
            self._writing_paused = False
            self._guarded("resume_writing", self._protocol.resume_writing)

    def abort(self) -> None:
        """The end at once; what was not sent is dropped."""
        self._force_close(None)

    def _force_close(self, error: BaseException | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self._unsent.clear()
        self._unsent_bytes = 0
        self._let_go(self._runner.loop.time())
        self._runner.loop.call_soon(self._protocol.connection_lost, error)

    def _let_go(self, now: float) -> None:
        """Ends the endpoint, each kind in its way."""
        raise NotImplementedError

    def _guarded(self, name: str, call, *arguments):
        """A protocol's mistake ends its own connection, not the poll."""
        try:
            return call(*arguments)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._runner.loop.call_exception_handler(
                {"message": f"Fatal error: protocol.{name}() call failed.", "exception": error, "transport": self,
                 "protocol": self._protocol}  # fmt: skip
            )
            self._force_close(error)
            return None


class StreamTransport(_WriteFlowControl, asyncio.Transport):
    """One TCP connection.  Besides asyncio's interface there is `write_file`."""

    def __init__(self, runner, endpoint: TcpEndpoint, protocol: asyncio.BaseProtocol):
        super().__init__()
        self._runner = runner
        self._endpoint = endpoint
        self._protocol = protocol
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)
        self._unsent: deque[memoryview] = deque()  # what the send ring had no room for
        self._unsent_bytes = 0
        self._reading = True
        self._eof_received = False
        self._eof_wanted = False
        self._closing = False
        self._lost = False
        self._started = False
        self._init_limits()
        # RFC 9293 3.7.4 with asyncio's own choice: protocols write whole messages
        endpoint.connection.tcb.nodelay = True

    def start(self) -> None:
        """Tells the protocol and begins to read."""
        self._started = True
        self._endpoint.watch(self._ready)
        self._guarded("connection_made", self._protocol.connection_made, self)
        if not self._lost:
            self._ready(self._endpoint.ready())

    def __repr__(self) -> str:
        remote = self._endpoint.stack.describe(self._endpoint.remote, self._endpoint.remote_port)
        return f"<StreamTransport {remote} {self._endpoint.connection.state.name}>"

    def get_extra_info(self, name: str, default=None):
        endpoint = self._endpoint
        if name == "peername":
            return format_address(endpoint.remote), endpoint.remote_port
        if name == "sockname":
            return format_address(endpoint.local), endpoint.local_port
        if name == "capability":
            return endpoint.capability
        return default

    # Readiness

    def _ready(self, mask: int) -> None:
        if self._lost:
            return
        if mask & Ready.READABLE and self._reading and not self._eof_received:
            self._read()
        if mask & Ready.WRITABLE and not self._lost:
            self._write_more()
        if mask & Ready.ERROR and not self._lost:
            error = self._endpoint.take_error()
            if error:
                self._force_close(os_error(error, repr(self)))

    def _read(self) -> None:
        endpoint, protocol = self._endpoint, self._protocol
        now = self._runner.loop.time()
        while self._reading and not self._lost and not self._closing:
            if not endpoint.connection.readable:
                break
            if self._buffered:
                buffer = self._guarded("get_buffer", protocol.get_buffer, -1)
                if buffer is None:
                    return
                if not len(buffer):
                    self._force_close(RuntimeError("get_buffer() returned an empty buffer"))
                    return
                taken = endpoint.receive_into(buffer, now)
                self._guarded("buffer_updated", protocol.buffer_updated, taken)
            else:
                self._guarded("data_received", protocol.data_received, endpoint.receive(READ_BYTES, now))
            protocol = self._protocol
        if self._reading and not self._lost and not self._closing and not self._eof_received:
            connection = endpoint.connection
            if connection.at_end and not connection.tcb.error:
                self._eof_received = True
                if not self._guarded("eof_received", protocol.eof_received):
                    self.close()

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if self._closing or self._reading:
            return
        self._reading = True
        self._runner.loop.call_soon(self._ready, Ready.READABLE)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)
        if self._started and self._endpoint.connection.readable:
            self._runner.loop.call_soon(self._ready, Ready.READABLE)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    # Writing

    def write(self, data) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._eof_wanted:
            raise RuntimeError("Cannot call write() after write_eof()")
        if isinstance(data, memoryview) and data.itemsize != 1:
            data = data.cast("B")
        if not data or self._lost or self._closing and not self._unsent and self._endpoint.connection.tcb.fin_wanted:
            return
        taken = 0
        if not self._unsent:
            try:
                taken = self._endpoint.send(data, self._runner.loop.time())
            except OSError as error:
                self._force_close(error)
                return
        if taken < len(data):
            # bytes cannot change under us; anything else is copied
            rest = memoryview(data if isinstance(data, bytes) else bytes(data))[taken:]
            self._unsent.append(rest)
            self._unsent_bytes += len(rest)
            if self._unsent_bytes > self._high_water:
                self._pause_protocol()

    def writelines(self, list_of_data) -> None:
        self.write(b"".join(list_of_data))

    def write_file(self, descriptor: int, offset: int, count: int) -> int:
        """Moves file bytes straight into the send queue; returns how many fitted.

        Fewer than asked for: the protocol was paused, `resume_writing` says when to go on.  0 as well when earlier
        data still waits or the file has ended.
        """
        if self._lost or self._closing:
            raise os_error(errno.EPIPE, "the transport is closing")
        if self._unsent:
            self._pause_protocol()
            return 0
        room = self._endpoint.connection.send_room
        taken = self._endpoint.send_file(descriptor, offset, min(count, room), self._runner.loop.time()) if room else 0
        if taken < count and room <= taken:
            self._endpoint.connection.tcb.was_full = True
            self._pause_protocol()
        return taken

    def _write_more(self) -> None:
        endpoint = self._endpoint
        now = self._runner.loop.time()
        while self._unsent:
            data = self._unsent[0]
            try:
                taken = endpoint.send(data, now)
            except OSError as error:
                self._force_close(error)
                return
            self._unsent_bytes -= taken
            if taken < len(data):
                self._unsent[0] = data[taken:]
                break
            self._unsent.popleft()
        if self._unsent_bytes <= self._low_water and endpoint.connection.send_room:
            self._resume_protocol()
        if not self._unsent and not self._lost:
            if self._closing:
                self._finish()
            elif self._eof_wanted:
                self._shutdown_send()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._eof_wanted or self._closing:
            return
        self._eof_wanted = True
        if not self._unsent:
            self._shutdown_send()

    def _shutdown_send(self) -> None:
        if not self._endpoint.connection.tcb.fin_wanted:
            try:
                self._endpoint.shutdown_send(self._runner.loop.time())
            except OSError as error:
                self._force_close(error)

    # The end

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """What was written still goes out."""
        if self._closing:
            return
        self._closing = True
        if not self._unsent:
            self._finish()

    def _finish(self) -> None:
        if self._lost:
            return
        self._lost = True
        self._endpoint.close(self._runner.loop.time())
        self._runner.loop.call_soon(self._protocol.connection_lost, None)

    def _let_go(self, now: float) -> None:
        self._endpoint.abort(now)
        self._endpoint.unwatch(self._ready)


class DatagramTransport(_WriteFlowControl, asyncio.DatagramTransport):
    """One UDP endpoint."""

    def __init__(self, runner, endpoint: UdpEndpoint, protocol: asyncio.DatagramProtocol):
        super().__init__()
        self._runner = runner
        self._endpoint = endpoint
        self._protocol = protocol
        self._unsent: deque[tuple[bytes, bytes, int]] = deque()
        self._unsent_bytes = 0
        self._closing = False
        self._lost = False
        self._init_limits()

    def start(self) -> None:
        self._endpoint.watch(self._ready)
        self._guarded("connection_made", self._protocol.connection_made, self)
        self._ready(self._endpoint.ready())

    def get_extra_info(self, name: str, default=None):
        endpoint = self._endpoint
        if name == "sockname":
            return format_address(endpoint.local), endpoint.local_port
        if name == "peername" and endpoint.remote is not None:
            return format_address(endpoint.remote), endpoint.remote_port
        return default

    def _ready(self, mask: int) -> None:
        while not self._lost and not self._closing:
            try:
                datagram = self._endpoint.receive()
            except OSError as error:
                self._guarded("error_received", self._protocol.error_received, error)
                continue
            if datagram is None:
                break
            address = (format_address(datagram.remote), datagram.remote_port)
            self._guarded("datagram_received", self._protocol.datagram_received, datagram.payload, address)
        if mask & Ready.WRITABLE and self._unsent:
            self._send_more()

    def sendto(self, data, addr: tuple[str, int] | None = None) -> None:
        endpoint = self._endpoint
        if self._closing:
            return
        if addr is None:
            if endpoint.remote is None:
                raise ValueError("sendto() needs an address on an unconnected endpoint")
            remote, port = endpoint.remote, endpoint.remote_port
        else:
            remote, port = parse_address(addr[0]), addr[1]
            if endpoint.remote is not None and (remote, port) != (endpoint.remote, endpoint.remote_port):
                raise ValueError(f"Invalid address: must be None or {self.get_extra_info('peername')}")
        self._unsent.append((bytes(data), remote, port))
        self._unsent_bytes += len(data)
        self._send_more()
        if self._unsent_bytes > self._high_water:
            self._pause_protocol()

    def _send_more(self) -> None:
        now = self._runner.loop.time()
        while self._unsent:
            data, remote, port = self._unsent[0]
            try:
                if not self._endpoint.send_to(data, remote, port, now) and data:
                    return
            except OSError as error:
                self._guarded("error_received", self._protocol.error_received, error)
            self._unsent.popleft()
            self._unsent_bytes -= len(data)
        self._resume_protocol()
        if self._closing:
            self._force_close(None)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._unsent:
                self._force_close(None)

    def _let_go(self, now: float) -> None:
        self._endpoint.close(now)
