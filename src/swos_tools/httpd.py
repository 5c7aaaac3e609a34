"""swos-httpd: the files under a directory over HTTP, on a stack of our own.  Read http/protocol.py for the server.

A consumer of the library: it opens a stack, takes a capability that is good for its one port, and listens.
"""

import argparse
import asyncio
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable

from swos_net import CapabilityError
from swos_tools.cli import (ArgumentParser, LineLog, add_stack_options, number, open_stack,
                            reason, tool_capability)
from swos_tools.http.message import Limits
from swos_tools.http.protocol import HttpProtocol
from swos_tools.http.service import HttpService
from swos_tools.http.static import StaticFiles

GRACE = 2.0  # seconds that responses under way have after SIGTERM
BIND_ERRORS = frozenset((errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EINVAL, errno.EACCES, errno.EAFNOSUPPORT))


def make_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="swos-httpd", allow_abbrev=False,
                            description="Serves the files under a directory over HTTP on a swos_net stack.")
    parser.add_argument("--root", metavar="DIR", help="document root (default: ./www if it is there, otherwise .)")
    parser.add_argument("--port", type=number(0, 65535), default=8080, help="TCP port, 0 for any (default: 8080)")
    parser.add_argument("-6", "--ipv6", action="store_true", help="listen on IPv6 only")
    parser.add_argument("--listing", action=argparse.BooleanOptionalAction, default=True,
                        help="show a directory without index.html as a page (default: yes)")
    parser.add_argument("--connections", type=number(1, 1000000), default=Limits().connections, metavar="N",
                        help="connections served at once (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no line for each request")
    add_stack_options(parser)
    return parser


async def serve(arguments: argparse.Namespace, opener: Callable = open_stack) -> int:
    """Runs the server until SIGINT or SIGTERM; the exit status.  `opener` is `cli.open_stack` or a stand-in."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number_of_signal in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number_of_signal, stopped.set)
    root = arguments.root or ("www" if os.path.isdir("www") else ".")
    limits = Limits(connections=arguments.connections)
    try:
        files = StaticFiles(root, listing=arguments.listing, limits=limits)
    except OSError as error:
        return _failed("document root", f"{root}: {reason(error)}")
    log = LineLog()
    service = HttpService(files, limits=limits, log=None if arguments.quiet else log.write)
    async with contextlib.AsyncExitStack() as opened:
        try:
            runner = await opened.enter_async_context(opener(arguments))
        except (OSError, ValueError) as error:
            return _failed("socket", reason(error))
        port = arguments.port
        try:
            needed = [f"tcp:bind,listen,accept:*:{port or '*'}"]
            capability = tool_capability(runner.stack.root, arguments, needed, "httpd")
            server = await runner.create_server(lambda: HttpProtocol(service), "::" if arguments.ipv6 else None, port,
                                                capability=capability)
        except OSError as error:
            return _failed(_step(error), reason(error))
        if not port:
            port = server.sockname[1]
        log.write(f"httpd: listening on {port}{' (IPv6)' if arguments.ipv6 else ''}")
        await stopped.wait()
        server.close()
        await service.stop(GRACE)
        await runner.drain(GRACE)  # what the last responses left in the send queues
        log.flush()
    return 0


def _step(error: OSError) -> str:
    """Which of the reference system's three failure markers an error of `create_server` belongs to."""
    if isinstance(error, CapabilityError):
        return "listen" if error.operation == "listen" else "bind" if error.operation == "bind" else "socket"
    return "bind" if error.errno in BIND_ERRORS else "listen"


def _failed(step: str, text: str) -> int:
    print(f"httpd: {step} failed: {text}", file=sys.stderr, flush=True)
    return 1


def main(argv: list[str] | None = None) -> int:
    """The console script; the exit status."""
    arguments = make_parser().parse_args(argv)
    try:
        return asyncio.run(serve(arguments))
    except KeyboardInterrupt:  # before the handlers stood
        return 0


if __name__ == "__main__":
    sys.exit(main())
