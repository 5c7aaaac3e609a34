"""swos-run: an unmodified Python program on a stack of its own, in place of the kernel's network.

    swos-run --device tap:swos0 --address 10.0.2.2/24 -m http.server 8000
    swos-run --device vhost-user:vm.sock --dhcp --allow tcp:connect:*:443 fetch.py https://example.org/

`socket`, `ssl` and asyncio's event loops are the stack's, in every thread, and the kernel's Internet sockets are refused.
Read first: swos_net/socket/ambient.py, swos_net/asyncio/entry.py.
"""

import argparse
import asyncio
import atexit
import errno
import os
import runpy
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from swos_net import Capability, CapabilityError
from swos_net import open_stack as build_stack
from swos_net.asyncio import LoopDriver, SwosEventLoop, event_loop_policy
from swos_net.capability import active_capability
from swos_net.errors import os_error
from swos_net.socket.ambient import inherit_in_threads
from swos_tools.cli import ArgumentParser, add_stack_options, reason, stack_settings, tool_capability

EVERYTHING = ("*:*:*:*",)
LINGER = 2.0  # seconds that connections closed by the program have to deliver what was sent
LEASE_WAIT = 15.0
INTERNET = (socket.AF_INET, socket.AF_INET6, socket.AF_PACKET)

# modules whose C code opens sockets itself: no replacement of `socket` reaches it
FOREIGN = {
    "MySQLdb": "libmysqlclient", "confluent_kafka": "librdkafka", "eventlet": "its own hub", "gevent": "libev", "grpc": "gRPC's C core",
    "ldap": "libldap", "oracledb": "Oracle's client in thick mode", "psycopg": "libpq", "psycopg2": "libpq", "pycares": "c-ares",
    "pycurl": "libcurl", "pymssql": "FreeTDS", "pyodbc": "ODBC drivers", "uvloop": "libuv", "zmq": "libzmq",
}  # fmt: skip

EPILOG = """\
What stays the kernel's: AF_UNIX, files, pipes; C code with sockets of its own (among others {}), of which a line warns
when it is imported; and programs started with subprocess. fork() is refused: a child could not share the stack.
""".format(", ".join(sorted(FOREIGN)))


def make_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="swos-run", allow_abbrev=False, epilog=EPILOG,
                            usage="swos-run --device KIND:WHERE [options] (SCRIPT | -m MODULE | -c CODE) [argument ...]",
                            description="Runs a Python program with a swos_net stack in place of the kernel's network.")  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="run a module, with the arguments that follow")
    what.add_argument("-c", dest="code", nargs=argparse.REMAINDER, metavar="CODE", help="run a text, with the arguments that follow")
    parser.add_argument("script", nargs=argparse.REMAINDER, metavar="SCRIPT", help="run a file, with the arguments that follow")
    add_stack_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """The console script; the exit status, unless the program exits by itself."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    program = _program(arguments)
    if program is None:
        parser.error("say what to run: a script, -m MODULE or -c CODE")
    try:
        capability = open_network(arguments)
    except (OSError, ValueError) as error:
        print(f"swos-run: {reason(error)}", file=sys.stderr)
        return 1
    with capability.activate():
        replace_defaults()
        _run(program)
    return 0


def open_network(arguments: argparse.Namespace) -> Capability:
    """Opens the stack and has it served until the process ends; the authority that the program gets."""
    poller = build_stack(arguments.device, **stack_settings(arguments))
    driver = LoopDriver.of(poller)
    attendant = _Attendant(driver)
    attendant.start()
    atexit.register(attendant.finish)  # which is after the program's threads have ended
    capability = tool_capability(poller.stack.root, arguments, EVERYTHING, "run")
    if arguments.dhcp:
        _await_lease(driver)
    return capability


class _Attendant(threading.Thread):
    """Serves the stack whenever no event loop does, by waiting for a socket that is never ready."""

    def __init__(self, driver: LoopDriver):
        super().__init__(name="swos-run attendant", daemon=True)
        self._driver = driver
        self._watcher: Callable[[int], None] | None = None
        self._mask = 0

    def run(self) -> None:
        self._driver.wait(self, 0, None)

    def finish(self) -> None:
        """Lets closed connections deliver what was sent, for a while, then closes the stack."""
        driver = self._driver
        if driver.serving:
            with driver.entered():
                self._mask = select.POLLHUP
                if self._watcher is not None:
                    self._watcher(self._mask)
            driver.wake()
        self.join()
        driver.finish(LINGER)
        driver.stop()

    # As a socket

    def poll(self) -> int:
        return self._mask

    def watch(self, watcher: Callable[[int], None]) -> None:
        self._watcher = watcher

    def unwatch(self, watcher: Callable[[int], None]) -> None:
        self._watcher = None


def _await_lease(driver: LoopDriver) -> None:
    deadline = time.monotonic() + LEASE_WAIT
    while time.monotonic() < deadline:
        with driver.entered():
            if any(entry.address[:12].endswith(b"\xff\xff") for entry in driver.stack.interfaces[0].addresses):
                return
        time.sleep(0.02)
    raise os_error(errno.ETIMEDOUT, f"no DHCP server gave an address within {LEASE_WAIT:.0f} seconds: give one with --address")


def replace_defaults() -> None:
    """For the rest of the process: threads and event loops on the stack, no way to the kernel's network."""
    inherit_in_threads()
    asyncio.set_event_loop_policy(event_loop_policy())
    for name in ("SelectorEventLoop", "EventLoop"):
        if hasattr(asyncio, name):
            setattr(asyncio, name, _SelectorEventLoop)
    sys.addaudithook(_audit)


class _SelectorEventLoop(SwosEventLoop):
    """For programs that name asyncio's class; a selector of their own goes unused."""

    def __init__(self, selector: Any = None):
        super().__init__()


def _audit(event: str, arguments: tuple) -> None:
    if event == "socket.__new__":
        # with an active capability the `socket` module has decided already
        if arguments[1] in INTERNET and active_capability() is None:
            raise CapabilityError("open", "a socket of the kernel's network", "this program runs under swos-run",
                                  "start threads from Python, which hands the capability on")  # fmt: skip
    elif event == "socket.sethostname":
        raise os_error(errno.EPERM, "this would rename the machine: under swos-run a stack has a name of its own")
    elif event in ("os.fork", "os.forkpty"):
        raise os_error(errno.ENOTSUP, "fork() under swos-run would leave the child without a network: use threads, "
                                      "or subprocess for programs that need none")  # fmt: skip
    elif event == "import" and arguments[0] in FOREIGN:
        print(f"swos-run: {arguments[0]} brings sockets of its own ({FOREIGN[arguments[0]]}): these are the kernel's", file=sys.stderr)


def _program(arguments: argparse.Namespace) -> Callable[[], Any] | None:
    """What to call to run it, with sys.argv and sys.path as the interpreter has them."""
    words = arguments.module or arguments.code or arguments.script
    if words[:1] == ["--"]:
        words = words[1:]
    if not words:
        return None

    def run() -> Any:
        sys.argv = list(words)
        if arguments.module:
            sys.path[0] = os.getcwd()
            return runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        if arguments.code:
            sys.argv[0] = "-c"
            sys.path[0] = ""
            return exec(compile(words[0], "<string>", "exec"), {"__name__": "__main__"})
        sys.path[0] = os.path.dirname(os.path.realpath(words[0]))
        return runpy.run_path(words[0], run_name="__main__")

    return run


def _run(program: Callable[[], Any]) -> None:
    """An error of the program is reported with the program's frames alone."""
    try:
        program()
    except Exception as error:
        frames = error.__traceback__
        while frames is not None and _is_ours(frames.tb_frame.f_globals):
            frames = frames.tb_next
        sys.excepthook(type(error), error.with_traceback(frames), frames)
        raise SystemExit(1) from None


def _is_ours(namespace: dict[str, Any]) -> bool:
    return namespace is globals() or namespace.get("__name__") == "runpy"


if __name__ == "__main__":
    sys.exit(main())
