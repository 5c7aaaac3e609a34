"""`asyncio.AbstractServer` over a TCP listener."""

import asyncio

from swos_net.address import format_address
from swos_net.asyncio.transports import StreamTransport


class Server(asyncio.AbstractServer):
    """Accepts for as long as it is open; made by `StackRunner.create_server`."""

    def __init__(self, runner, listener, protocol_factory):
        self._runner = runner
        self._listener = listener
        self._protocol_factory = protocol_factory
        self._serving_forever: asyncio.Future | None = None
        self._closed = runner.loop.create_future()
        listener.watch(self._ready)
        self._ready(0)

    @property
    def sockname(self) -> tuple[str, int]:
        """(address, port) listened on."""
        return format_address(self._listener.local), self._listener.local_port

    def _ready(self, mask: int) -> None:
        while self._listener is not None and (endpoint := self._listener.accept()) is not None:
            try:
                transport = StreamTransport(self._runner, endpoint, self._protocol_factory())
            except Exception as error:
                endpoint.abort(self._runner.time())
                context = {"message": "protocol factory failed for an accepted connection", "exception": error}
                self._runner.loop.call_exception_handler(context)
                continue
            transport.start()

    def close(self) -> None:
        """Stops listening; accepted connections live on."""
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        listener.close(self._runner.time())
        if not self._closed.done():
            self._closed.set_result(None)
        if self._serving_forever is not None and not self._serving_forever.done():
            self._serving_forever.cancel()

    def is_serving(self) -> bool:
        return self._listener is not None

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
