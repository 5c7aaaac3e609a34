"""uvicorn, unmodified, and a client of asyncio's streams.

    python3 examples/asyncio_uvicorn.py        needs: pip install uvicorn

A program that is a server and nothing else, inside `with capability.activate():`, needs but one word to uvicorn:
`uvicorn.run(app, host="0.0.0.0", port=80, loop="swos_net.asyncio:new_event_loop")`.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import asyncio_hosts
import uvicorn
from asgi_app import app
from sync_hosts import SERVER_NAME

from swos_net import Capability


@contextlib.asynccontextmanager
async def serving(capability: Capability, port: int = 80, **options) -> AsyncIterator[uvicorn.Server]:
    """The application over HTTP.  Only the listening socket needs authority."""
    with capability.attenuate(f"tcp:bind,listen,accept:*:{port}", "web server").activate():
        listener = socket.create_server(("", port))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning", ws="none", **options))
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield server
    finally:
        server.should_exit = True
        await task


async def fetch(capability: Capability, path: str) -> bytes:
    """The body of an answer, with the authority for that server's port and nothing else."""
    with capability.attenuate("tcp:connect:10.0.0.2:80").activate():
        reader, writer = await asyncio.open_connection(SERVER_NAME, 80)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {SERVER_NAME}\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise OSError(head.partition(b"\r\n")[0].decode())
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def main(client: Capability, server: Capability) -> None:
    async with serving(server):
        print((await fetch(client, "/")).decode(), end="")


if __name__ == "__main__":
    asyncio_hosts.run(main)
