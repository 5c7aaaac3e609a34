"""Runs a `Poller` in any asyncio loop, and makes transports, servers and streams on its stack.

For programs whose loop is not ours.  A `SwosEventLoop` serves a stack with less to do, and programs need not know of it.
"""

import asyncio
import errno
import socket as stdlib
import weakref
from _thread import get_ident
from collections.abc import Callable
from typing import Any

from swos_net.asyncio.datagram_transport import DatagramTransport
from swos_net.asyncio.deliveries import Deliveries
from swos_net.asyncio.driver import LoopDriver
from swos_net.asyncio.server import Server
from swos_net.asyncio.socket_calls import connect
from swos_net.asyncio.stream_transport import StreamTransport
from swos_net.capability import Capability
from swos_net.errors import os_error
from swos_net.runtime.poll import Poller
from swos_net.socket.core import SocketCore


TURNS = 16  # at the stack before others of the loop have theirs


class StackRunner:
    """`async with StackRunner(poller) as runner:` serves the devices until the block ends, then closes them.

    The descriptors of the devices are readers of the loop, one timer follows the stack's deadline.
    """

    asleep = False  # nobody can tell: other threads that wait look after the stack when this has done nothing for a while

    def __init__(self, poller: Poller):
        self.poller = poller
        self.stack = poller.stack
        self.driver = LoopDriver.of(poller)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.deliveries = Deliveries(self._wants_run)
        self._timer: asyncio.TimerHandle | None = None
        self._scheduled = False
        self._running = False
        self._writers: set[int] = set()
        self._stopped = False
        self.turns = 0
        self._thread = 0
        self._transports: weakref.WeakSet[Any] = weakref.WeakSet()

    async def __aenter__(self) -> "StackRunner":
        self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.stop()
        # transports' last callbacks were scheduled by now
        await asyncio.sleep(0)

    def start(self) -> None:
        """Begins to serve; needs a running loop."""
        self.loop = asyncio.get_running_loop()
        self.driver.clock = self.loop.time
        self._thread = get_ident()
        self.driver.begin(self)
        self.poller.watch_output(self._wants_run)
        for port in self.poller.ports:
            self.loop.add_reader(port.device.fileno(), self._run)
        self._run()

    def stop(self) -> None:
        """Sends what is ready, ends what is still open with ENETDOWN and closes the devices; idempotent."""
        if self._stopped or self.loop is None:
            return
        self._leave_loop()
        self.driver.stop()
        self.driver.end(self)
        if self.deliveries.waiting:
            self.loop.call_soon(self.deliveries.run)
        for transport in list(self._transports):
            transport._force_close(os_error(errno.ENETDOWN, f"{self.stack.name} is no longer served"))

    def _leave_loop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.poller.watch_output(None)
        for port in self.poller.ports:
            self.loop.remove_reader(port.device.fileno())
            if port.device.fileno() in self._writers:
                self.loop.remove_writer(port.device.fileno())

    async def drain(self, timeout: float) -> bool:
        """Waits until closed connections have delivered what was sent; False when `timeout` seconds were not enough.

        Transports that are still open are not waited for.
        """
        deadline = self.loop.time() + timeout
        while self.driver.delivering:
            if self.loop.time() >= deadline:
                return False
            await asyncio.sleep(0.01)
        return True

    def time(self) -> float:
        """The stack's `now`."""
        return self.loop.time()

    # As the driver's loop

    def wake(self) -> None:
        self.loop.call_soon_threadsafe(self._run)

    def stack_entered(self, due: float | None) -> None:
        if due is not None and (self._timer is None or due < self._timer.when()):
            self.wake()

    def device_failed(self, driver: LoopDriver, error: OSError) -> None:
        self.loop.call_soon_threadsafe(self._device_failed, error)

    def _device_failed(self, error: OSError) -> None:
        if self._stopped:
            return
        self.stop()
        message = f"{self.stack.name} is no longer served: {error}"
        self.loop.call_exception_handler({"message": message, "exception": error})

    def _wants_run(self) -> None:
        if not self._scheduled and not self._running:
            self._scheduled = True
            if get_ident() == self._thread:
                self.loop.call_soon(self._run_scheduled)
            else:
                self.loop.call_soon_threadsafe(self._run_scheduled)

    def _run_scheduled(self) -> None:
        self._scheduled = False
        self._run()

    def _run(self) -> None:
        """What came in, what is due; then the callbacks, and what they sent."""
        if self._stopped:
            return
        self.turns += 1
        self._running = True
        driver, time, waiting = self.driver, self.loop.time, self.deliveries.waiting
        try:
            for _ in range(TURNS):
                driver.poll(time())
                if waiting:
                    self.deliveries.run()
                if self._stopped:
                    return
                due = driver.flush(time())
                if not driver.more:
                    break
        finally:
            self._running = False
            if self.deliveries.waiting:
                self._wants_run()
        for port in self.poller.ports:
            if port.device.wants_write:
                self._follow_writability(port)
        self._arm_timer(due)

    def _follow_writability(self, port: Any) -> None:
        descriptor = port.device.fileno()
        if port.blocked and descriptor not in self._writers:
            self._writers.add(descriptor)
            self.loop.add_writer(descriptor, self._run_writable, port)

    def _run_writable(self, port: Any) -> None:
        descriptor = port.device.fileno()
        self._writers.discard(descriptor)
        self.loop.remove_writer(descriptor)
        port.blocked = False
        self._run()

    def _arm_timer(self, due: float | None) -> None:
        timer = self._timer
        if timer is not None:
            if due is not None and timer.when() <= due:
                return  # early is harmless: the poll finds nothing due and arms the timer again
            timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = self.loop.call_at(due, self._run_timer)

    def _run_timer(self) -> None:
        self._timer = None
        self._run()

    # What programs call

    async def create_server(self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str | None, port: int, *,
                            capability: Capability, backlog: int = 128) -> Server:  # fmt: skip
        """A listening server; `host` None takes every address of both families.  OSError as bind and listen give."""
        cores: list[SocketCore] = []
        try:
            for family, address in [_family(host)] if host is not None else [(stdlib.AF_INET6, "::"), (stdlib.AF_INET, "0.0.0.0")]:
                with self.driver.entered() as now:
                    core = self._socket(capability, family, stdlib.SOCK_STREAM)
                    cores.append(core)
                    core.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_REUSEADDR, 1, None, now)
                    core.bind((address, port), now)
                    core.listen(backlog, now)
                    port = core.getsockname()[1]
        except BaseException:
            with self.driver.entered() as now:
                for core in cores:
                    core.close(now)
            raise
        return Server(self, cores, protocol_factory, backlog)

    async def create_connection(self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, *,
                                capability: Capability, local_addr: tuple[str, int] | None = None):  # fmt: skip
        """(transport, protocol) of a connection to an address; OSError as connect gives."""
        with self.driver.entered():
            core = self._socket(capability, _family(host)[0], stdlib.SOCK_STREAM)
        try:
            if local_addr is not None:
                with self.driver.entered() as now:
                    core.bind(local_addr, now)
            await connect(self.loop, self.deliveries, core, (host, port))
        except BaseException:
            with self.driver.lock:
                core.close(self.time())
            raise
        protocol = protocol_factory()
        ready = self.loop.create_future()
        transport = self.make_stream(core, protocol, ready)
        await ready
        return transport, protocol

    async def create_datagram_endpoint(self, protocol_factory: Callable[[], asyncio.DatagramProtocol],
                                       local_addr: tuple[str | None, int] | None = None,
                                       remote_addr: tuple[str, int] | None = None, *, capability: Capability):  # fmt: skip
        """(transport, protocol) of a bound or connected UDP endpoint; without any address it speaks both families."""
        host, port = local_addr or (None, 0)
        known = host if host is not None else remote_addr[0] if remote_addr is not None else None
        family = stdlib.AF_INET6 if known is None else _family(known)[0]
        with self.driver.entered() as now:
            core = self._socket(capability, family, stdlib.SOCK_DGRAM, both=known is None)
            try:
                if local_addr is not None:
                    core.bind((host or "", port), now)
                if remote_addr is not None:
                    core.connect(remote_addr, now)
            except BaseException:
                core.close(now)
                raise
        protocol = protocol_factory()
        ready = self.loop.create_future()
        address = None if remote_addr is None else core.getpeername()
        transport = DatagramTransport(self.loop, self.deliveries, core, protocol, address, ready)
        self._transports.add(transport)
        await ready
        return transport, protocol

    def make_stream(self, core: SocketCore, protocol: asyncio.BaseProtocol, waiter: asyncio.Future | None = None,
                    extra: dict[str, Any] | None = None) -> StreamTransport:  # fmt: skip
        """A transport on a connected socket."""
        transport = StreamTransport(self.loop, self.deliveries, core, protocol, waiter, extra)
        self._transports.add(transport)
        return transport

    def _socket(self, capability: Capability, family: int, type: int, *, both: bool = False) -> SocketCore:
        core = SocketCore(self.stack, capability, family, type)
        if family == stdlib.AF_INET6 and not both:
            core.setsockopt(stdlib.IPPROTO_IPV6, stdlib.IPV6_V6ONLY, 1, None, self.time())
        return core

    async def start_server(self, client_connected, host: str | None, port: int, *, capability: Capability, limit: int = 1 << 16) -> Server:
        """As asyncio.start_server: `client_connected(reader, writer)` for every connection."""

        def factory() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit, self.loop), client_connected, self.loop)

        return await self.create_server(factory, host, port, capability=capability)

    async def open_connection(self, host: str, port: int, *, capability: Capability, limit: int = 1 << 16):
        """As asyncio.open_connection: (reader, writer)."""
        reader = asyncio.StreamReader(limit, self.loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self.loop)
        transport, _ = await self.create_connection(lambda: protocol, host, port, capability=capability)
        return reader, asyncio.StreamWriter(transport, protocol, reader, self.loop)


def _family(host: str) -> tuple[int, str]:
    return (stdlib.AF_INET6 if ":" in host else stdlib.AF_INET), host
