"""aiohttp, unmodified, as server and client: a file, a body, a websocket; the client makes its own sockets.

    python3 examples/asyncio_aiohttp.py        needs: pip install aiohttp cryptography
"""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncio_hosts
from aiohttp import ClientSession, TCPConnector, WSMsgType, web
from sync_hosts import SERVER_NAME, make_certificate

from swos_net import Capability, ssl


async def upper(request: web.Request) -> web.StreamResponse:
    """What is posted, in capitals, piece by piece."""
    response = web.StreamResponse()
    await response.prepare(request)
    async for piece in request.content.iter_chunked(65536):
        await response.write(piece.upper())
    return response


async def echo(request: web.Request) -> web.WebSocketResponse:
    """A websocket that repeats what it is told."""
    socket = web.WebSocketResponse(max_msg_size=0)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
        elif message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
    return socket


@contextlib.asynccontextmanager
async def serving(capability: Capability, directory: Path, certificate: Path | None = None) -> AsyncIterator[None]:
    """GET /files/..., POST /upper and the websocket /echo: HTTPS on port 443 with a certificate, else HTTP on 80."""
    tls, port = None, 80
    if certificate is not None:
        tls, port = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), 443
        tls.load_cert_chain(certificate)
    app = web.Application(client_max_size=0)
    app.add_routes([web.static("/files", directory), web.post("/upper", upper), web.get("/echo", echo)])
    runner = web.AppRunner(app, access_log=None)
    with capability.attenuate(f"tcp:bind,listen,accept:*:{port}", "web server").activate():
        await runner.setup()
        try:
            await web.TCPSite(runner, "0.0.0.0", port, ssl_context=tls).start()
            yield
        finally:
            await runner.cleanup()


@contextlib.asynccontextmanager
async def session(capability: Capability, certificate: Path | None = None) -> AsyncIterator[ClientSession]:
    """A session that may connect to ports 80 and 443."""
    trust = True if certificate is None else ssl.create_default_context(cafile=certificate)
    scheme = "http" if certificate is None else "https"
    with capability.attenuate("tcp:connect:*:80,443").activate():
        async with ClientSession(f"{scheme}://{SERVER_NAME}", connector=TCPConnector(ssl=trust)) as made:
            yield made


async def main(client: Capability, server: Capability) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        certificate = make_certificate(directory / "server.pem")
        (directory / "hello.txt").write_text("Hello over TLS.\n")
        async with serving(server, directory, certificate), session(client, certificate) as http:
            async with http.get("/files/hello.txt") as response:
                print(await response.text(), end="")
            async with http.ws_connect("/echo") as socket:
                await socket.send_str("hello over a websocket")
                print(await socket.receive_str())


if __name__ == "__main__":
    asyncio_hosts.run(main)
