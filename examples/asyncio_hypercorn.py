"""hypercorn, unmodified, which makes its own sockets, and httpx: HTTP/2 over TLS, many requests on one connection.

    python3 examples/asyncio_hypercorn.py        needs: pip install hypercorn httpx[http2] cryptography
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import asyncio_hosts
from asgi_app import app
from asyncio_httpx import session
from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.logging import Logger
from sync_hosts import make_certificate

from swos_net import Capability


class Announcer(Logger):
    """Keeps quiet, but sets `running` where hypercorn would say that it listens."""

    def __init__(self, running: asyncio.Event, config: Config):
        super().__init__(config)
        self.running = running

    async def info(self, message: str, *arguments, **keywords) -> None:
        self.running.set()


@contextlib.asynccontextmanager
async def serving(capability: Capability, certificate: Path | None = None) -> AsyncIterator[None]:
    """The application on port 443 over HTTP/2 and HTTP/1.1 with TLS; on port 80 when there is no certificate."""
    port = 80 if certificate is None else 443
    running, stop = asyncio.Event(), asyncio.Event()
    config = Config.from_mapping(bind=[f"0.0.0.0:{port}"], logger_class=partial(Announcer, running))
    if certificate is not None:
        config.certfile = config.keyfile = str(certificate)
    with capability.attenuate(f"tcp:bind,listen,accept:*:{port}", "web server").activate():
        task = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))
    waiting = asyncio.create_task(running.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        if running.is_set():
            yield
    finally:
        stop.set()
        await task


async def main(client: Capability, server: Capability) -> None:
    with tempfile.TemporaryDirectory() as name:
        certificate = make_certificate(Path(name, "server.pem"))
        async with serving(server, certificate), session(client, certificate, http2=True) as web:
            response = await web.get("/")
            print(response.http_version, response.text, end="")


if __name__ == "__main__":
    asyncio_hosts.run(main)
