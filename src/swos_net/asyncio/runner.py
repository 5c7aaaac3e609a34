"""Runs a `Poller` in the current asyncio loop and makes transports, servers and streams on its stack."""

import asyncio
from collections.abc import Callable
from typing import Any

from swos_net.address import UNSPECIFIED4, UNSPECIFIED6, parse_address
from swos_net.asyncio.server import Server
from swos_net.asyncio.transports import DatagramTransport, StreamTransport
from swos_net.capability import Capability
from swos_net.runtime.poll import Poller
from swos_net.stack.endpoint import Ready


class StackRunner:
    """`async with StackRunner(poller) as runner:` serves the devices until the block ends, then closes them.

    The descriptors of the devices are readers of the loop, one timer follows the stack's deadline.
    """

    def __init__(self, poller: Poller):
        self.poller = poller
        self.stack = poller.stack
        self.loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._scheduled = False
        self._polling = False
        self._writers: set[int] = set()
        self._stopped = False

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
        for port in self.poller.ports:
            port.interface.wants_output = self._wants_output
            self.loop.add_reader(port.device.fileno(), self._run)
        self._run()

    def stop(self) -> None:
        """Sends what is ready, ends what is still open with ENETDOWN and closes the devices; idempotent."""
        if self._stopped or self.loop is None:
            return
        self.poller.flush(self.loop.time())
        self.poller.failed(self.loop.time())
        self._close()

    def _close(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for port in self.poller.ports:
            port.interface.wants_output = None
            self.loop.remove_reader(port.device.fileno())
            if port.device.fileno() in self._writers:
                self.loop.remove_writer(port.device.fileno())
            port.device.close()

    async def drain(self, timeout: float) -> bool:
        """Waits until closed connections have delivered what was sent; False when `timeout` seconds were not enough.

        Transports that are still open are not waited for.
        """
        deadline = self.loop.time() + timeout
        while any(flow.connection.delivering for flow in self.stack.tcp.flows.values()):
            if self.loop.time() >= deadline:
                return False
            await asyncio.sleep(0.01)
        return True

    def time(self) -> float:
        """The stack's `now`."""
        return self.loop.time()

    def _device_failed(self, error: OSError) -> None:
        """A device is gone for good: everybody hears of it, once."""
        self.poller.failed(self.loop.time())
        self._close()
        self.loop.call_exception_handler({"message": f"{self.stack.name} is no longer served: {error}", "exception": error})

    def _wants_output(self) -> None:
        if not self._scheduled and not self._polling:
            self._scheduled = True
            self.loop.call_soon(self._run_scheduled)

    def _run_scheduled(self) -> None:
        self._scheduled = False
        self._run()

    def _run(self) -> None:
        if self._stopped:
            return
        self._polling = True
        try:
            more = self.poller.poll(self.loop.time())
        except OSError as error:
            self._device_failed(error)
            return
        finally:
            self._polling = False
        if more:
            self._wants_output()
        for port in self.poller.ports:
            if port.device.wants_write:
                self._follow_writability(port)
        self._arm_timer()

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

    def _arm_timer(self) -> None:
        deadline = self.poller.next_deadline()
        timer = self._timer
        if timer is not None:
            if deadline is not None and timer.when() <= deadline:
                return  # early is harmless: the poll finds nothing due and arms the timer again
            timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = self.loop.call_at(deadline, self._run_timer)

    def _run_timer(self) -> None:
        self._timer = None
        self._run()

    # What programs call

    async def create_server(self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str | None, port: int, *,
                            capability: Capability, backlog: int = 128) -> Server:  # fmt: skip
        """A listening server; `host` None takes every address of both families.  OSError as bind and listen give."""
        address = UNSPECIFIED6 if host is None else parse_address(host)
        listener = self.stack.tcp_listen(capability, address, port, backlog, dual_stack=host is None)
        return Server(self, listener, protocol_factory)

    async def create_connection(self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, *,
                                capability: Capability, local_addr: tuple[str, int] | None = None):  # fmt: skip
        """(transport, protocol) of a connection to an address; OSError as connect gives."""
        local = parse_address(local_addr[0]) if local_addr else None
        endpoint = self.stack.tcp_connect(capability, parse_address(host), port, self.time(), local=local,
                                          local_port=local_addr[1] if local_addr else 0)  # fmt: skip
        done = self.loop.create_future()

        def changed(mask: int) -> None:
            if mask & (Ready.WRITABLE | Ready.ERROR) and not done.done():
                done.set_result(None)

        endpoint.watch(changed)
        try:
            await done
        except asyncio.CancelledError:
            endpoint.abort(self.time())
            raise
        finally:
            endpoint.unwatch(changed)
        endpoint.raise_error()
        protocol = protocol_factory()
        transport = StreamTransport(self, endpoint, protocol)
        transport.start()
        return transport, protocol

    async def create_datagram_endpoint(self, protocol_factory: Callable[[], asyncio.DatagramProtocol],
                                       local_addr: tuple[str | None, int] | None = None,
                                       remote_addr: tuple[str, int] | None = None, *, capability: Capability):  # fmt: skip
        """(transport, protocol) of a bound or connected UDP endpoint."""
        host, port = local_addr or (None, 0)
        dual_stack = host is None and remote_addr is None
        if host is not None:
            address = parse_address(host)
        elif remote_addr is not None:
            address = UNSPECIFIED6 if ":" in remote_addr[0] else UNSPECIFIED4
        else:
            address = UNSPECIFIED6
        endpoint = self.stack.udp_open(capability, address, port, dual_stack=dual_stack)
        if remote_addr is not None:
            endpoint.connect(parse_address(remote_addr[0]), remote_addr[1])
        protocol = protocol_factory()
        transport = DatagramTransport(self, endpoint, protocol)
        transport.start()
        return transport, protocol

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
