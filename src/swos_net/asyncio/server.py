"""`asyncio.AbstractServer` of a `StackRunner`; `SwosEventLoop` makes asyncio's own `Server`."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from swos_net.asyncio.acceptor import Acceptor
from swos_net.socket.core import SocketCore


class Server(asyncio.AbstractServer):
    """Accepts for as long as it is open; made by `StackRunner.create_server`."""

    def __init__(self, runner: Any, cores: Sequence[SocketCore], protocol_factory: Callable[[], asyncio.BaseProtocol], backlog: int):
        self._runner = runner
        self._cores = list(cores)
        self._protocol_factory = protocol_factory
        self._serving_forever: asyncio.Future | None = None
        self._closed = runner.loop.create_future()
        self._acceptors = [Acceptor(runner.loop, runner.deliveries, core, backlog, self._accepted) for core in cores]

    @property
    def sockname(self) -> tuple:
        """(address, port) listened on, the first of them."""
        return self._cores[0].getsockname()

    def _accepted(self, core: SocketCore, address: Any) -> None:
        runner = self._runner
        try:
            runner.make_stream(core, self._protocol_factory(), extra={"peername": address})
        except Exception as error:
            with runner.driver.lock:
                core.close(runner.time())
            context = {"message": "protocol factory failed for an accepted connection", "exception": error}
            runner.loop.call_exception_handler(context)

    def close(self) -> None:
        """Stops listening; accepted connections live on."""
        if self._closed.done():
            return
        for acceptor, core in zip(self._acceptors, self._cores):
            acceptor.stop()
            with self._runner.driver.lock:
                core.close(self._runner.time())
        self._closed.set_result(None)
        if self._serving_forever is not None and not self._serving_forever.done():
            self._serving_forever.cancel()

    def is_serving(self) -> bool:
        return not self._closed.done()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._runner.loop

    async def start_serving(self) -> None:
        """It serves from the start."""

    async def serve_forever(self) -> None:
        self._serving_forever = self._runner.loop.create_future()
        try:
            await self._serving_forever
        finally:
            self.close()

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)
