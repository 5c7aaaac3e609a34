"""websockets, unmodified, at both ends: a server that keeps a score, over TLS.

    python3 examples/asyncio_websockets.py        needs: pip install websockets cryptography
"""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncio_hosts
from sync_hosts import SERVER_NAME, make_certificate
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve

from swos_net import Capability, ssl

MESSAGE_MAX = 4 << 20


async def count(connection: ServerConnection) -> None:
    """Sends every message back, text with its number before it."""
    number = 0
    async for message in connection:
        number += 1
        await connection.send(message if isinstance(message, bytes) else f"{number}: {message}")


@contextlib.asynccontextmanager
async def serving(capability: Capability, certificate: Path) -> AsyncIterator[Server]:
    """wss on port 443."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    with capability.attenuate("tcp:bind,listen,accept:*:443", "websocket server").activate():
        async with serve(count, "0.0.0.0", 443, ssl=tls, max_size=MESSAGE_MAX) as server:
            yield server


@contextlib.asynccontextmanager
async def connected(capability: Capability, certificate: Path) -> AsyncIterator[ClientConnection]:
    """`proxy`: none of the host's."""
    tls = ssl.create_default_context(cafile=certificate)
    with capability.attenuate("tcp:connect:*:443").activate():
        async with connect(f"wss://{SERVER_NAME}/", ssl=tls, proxy=None, max_size=MESSAGE_MAX) as connection:
            yield connection


async def main(client: Capability, server: Capability) -> None:
    with tempfile.TemporaryDirectory() as name:
        certificate = make_certificate(Path(name, "server.pem"))
        async with serving(server, certificate), connected(client, certificate) as connection:
            for greeting in ("hello", "hello again"):
                await connection.send(greeting)
                print(await connection.recv())


if __name__ == "__main__":
    asyncio_hosts.run(main)
