"""The server of http_requests.py: one program, once on the kernel's sockets and once on a stack of ours.

    python benchmarks/http_server.py aiohttp|uvicorn [--device tap:tap0 --address 10.0.2.2/24] [--profile FILE]

Without a device it is served by asyncio's own loop and the kernel.  Ends on SIGTERM.  `--profile` writes a cProfile.
"""

import argparse
import asyncio
import cProfile
import signal
from collections.abc import Awaitable, Callable

HOST, PORT = "0.0.0.0", 8080
TEXT = "A hundred bytes of text, as many as an answer has that says no more than how many things there are.\n"
GRACE = 1  # seconds for connections that are still open at the end


async def with_aiohttp(stopped: asyncio.Event) -> None:
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=TEXT)

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=GRACE)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, PORT).start()
        await stopped.wait()
    finally:
        await runner.cleanup()


async def with_uvicorn(stopped: asyncio.Event) -> None:
    import uvicorn

    body = TEXT.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]

    async def answer(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    quiet = {"access_log": False, "log_level": "warning", "lifespan": "off", "ws": "none"}
    config = uvicorn.Config(answer, host=HOST, port=PORT, timeout_graceful_shutdown=GRACE, **quiet)
    # it waits for the signal by itself, and raises it again for those who waited before it
    await uvicorn.Server(config).serve()
    await stopped.wait()


SERVERS: dict[str, Callable[[asyncio.Event], Awaitable[None]]] = {"aiohttp": with_aiohttp, "uvicorn": with_uvicorn}


async def serve(name: str) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await SERVERS[name](stopped)


def run(arguments: argparse.Namespace) -> None:
    if arguments.device:
        import swos_net.asyncio

        swos_net.asyncio.run(serve(arguments.server), arguments.device, addresses=arguments.address)
    else:
        asyncio.run(serve(arguments.server))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("server", choices=list(SERVERS))
    parser.add_argument("--device", default="", help="tap:NAME ...; without it the kernel's sockets are used")
    parser.add_argument("--address", action="append", default=[], help="address and prefix length, repeatable")
    parser.add_argument("--profile", default="", help="where a cProfile goes")
    arguments = parser.parse_args()
    if not arguments.profile:
        run(arguments)
        return
    profile = cProfile.Profile()
    try:
        profile.runcall(run, arguments)
    finally:
        profile.dump_stats(arguments.profile)


if __name__ == "__main__":
    main()
