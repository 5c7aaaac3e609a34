"""Requests per second of web servers in Python: one program, on our event loop and on asyncio's with kernel sockets.

    python benchmarks/http_requests.py [--rounds 9] [--seconds 2] [--servers aiohttp,uvicorn] [--connections 1,16,64]

wrk asks from a network namespace, over connections that are kept.  Ours sits at the other end of a TAP device; the
kernel's is in another namespace, joined by a veth pair.  Offloads are as the kernel sets them up.  Both servers of a
kind run all the time and are asked in turn, many times for a moment: a shared machine changes its speed within seconds,
and so does it for both.  Needs root and wrk.
Read http_server.py for what is served.
"""

import argparse
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))

from cases import Values  # noqa: E402
from http_server import PORT, SERVERS, TEXT  # noqa: E402
from lab import namespaces  # noqa: E402
from lab.namespaces import Namespace  # noqa: E402
from lab.packages import LabError  # noqa: E402
from processes import Process, cpu_seconds, say  # noqa: E402
from report import HTTP_CONNECTIONS, LINUX, OURS, Results, http_cpu, http_rate  # noqa: E402

CLIENT, SERVER = "10.0.2.1/24", "10.0.2.2"
URL = f"http://{SERVER}:{PORT}/"
PATIENCE = 20.0  # s beyond a case's own length

# The namespaces of the client and of the server, and what the server is told about its network.
Network = tuple[Namespace, Namespace, list[str]]


def why_not() -> str:
    """Why nothing can be measured here; empty when it can."""
    return namespaces.why_not() or ("" if shutil.which("wrk") else "there is no wrk: apt-get install wrk")


@contextlib.contextmanager
def over_tap() -> Iterator[Network]:
    """Our stack in the server's process, the kernel of the client at the other end of its device."""
    with Namespace() as namespace:
        namespace.add_tap("tap0", [CLIENT])
        yield namespace, namespace, ["--device", "tap:tap0", "--address", f"{SERVER}/24"]


@contextlib.contextmanager
def over_veth() -> Iterator[Network]:
    """The kernel at both ends."""
    with Namespace() as client, Namespace() as server:
        client.add_veth(server, [CLIENT], [f"{SERVER}/24"])
        yield client, server, []


SIDES = {OURS: over_tap, LINUX: over_veth}


class Served:
    """One server on one side, ready to be asked."""

    def __init__(self, name: str, client: Namespace, process: Process):
        self.name = name
        self._client = client
        self._process = process

    def measure(self, connections: int, seconds: float) -> Values:
        """LabError when an answer was wrong."""
        before = cpu_seconds(self._process.pid)
        requests, rate = load(self._client, connections, seconds)
        self._process.check()
        spent = cpu_seconds(self._process.pid) - before
        return {http_rate(self.name, connections): rate, http_cpu(self.name, connections): spent / requests * 1000}


@contextlib.contextmanager
def serving(name: str, side: str, log: Path, profile: str = "") -> Iterator[Served]:
    """A server that has answered once; LabError when it does not."""
    with SIDES[side]() as (client, home, options):
        if profile and side == OURS:
            options += ["--profile", profile]
        with home.entered():
            server = Process([sys.executable, str(HERE / "http_server.py"), name, *options], log)
        try:
            fetch = ("curl", "--silent", "--max-time", "2", URL)
            server.wait_for(lambda: client.run(*fetch, check=False).stdout.decode() == TEXT, "answered")
            yield Served(name, client, server)
        finally:
            server.stop()


def load(client: Namespace, connections: int, seconds: float) -> tuple[int, float]:
    """(requests answered, requests per second), as wrk counts them; it takes whole seconds."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", URL]
    output = client.run(*command, timeout=seconds + PATIENCE).stdout.decode()
    requests, rate = re.search(r"(\d+) requests in ", output), re.search(r"Requests/sec: +([\d.]+)", output)
    errors = re.findall(r"Socket errors: .*|Non-2xx .*", output)
    if errors or not (requests and rate and int(requests[1])):
        found = "; ".join(errors) or output.strip()[-500:] or "no report"
        raise LabError(f"wrk over {connections} connections: {found}")
    return int(requests[1]), float(rate[1])


def run_rounds(arguments: argparse.Namespace, name: str, folder: Path, results: Results) -> int:
    """One server on both sides, asked in turn `rounds` times over each number of connections; how many runs failed."""
    profile = f"{os.path.abspath(arguments.profile)}.{name}" if arguments.profile else ""
    failures = 0
    with contextlib.ExitStack() as servers:
        sides = {side: servers.enter_context(serving(name, side, folder / f"{name}-{side}.log", profile)) for side in SIDES}
        for connections in arguments.connections:
            for number in range(1, arguments.rounds + 1):
                found = {}
                for side in sorted(sides, reverse=number % 2 == 0):  # nobody is always the first
                    try:
                        found[side] = sides[side].measure(connections, arguments.seconds)
                    except (LabError, subprocess.TimeoutExpired) as error:
                        say(f"round {number}, {name}, {connections} connections, {side}: {error}")
                        failures += 1
                for side, values in found.items():
                    results.add(side, values)
                rates = (f"{side} {values[http_rate(name, connections)]:,.0f}" for side, values in found.items())
                say(f"{name}, {connections} connections, round {number}: {', '.join(rates)} requests/s")
    return failures


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each (2), whole seconds")
    parser.add_argument("--servers", default=",".join(SERVERS), help=f"of {','.join(SERVERS)}")
    parser.add_argument("--connections", type=numbers, default=list(HTTP_CONNECTIONS), help="in turn (1,16,64)")
    parser.add_argument("--profile", default="", metavar="FILE",
                        help="cProfiles of our servers, in FILE.aiohttp ...")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for the rows")
    arguments = parser.parse_args()
    wanted, arguments.servers = arguments.servers.split(","), []
    for name in wanted:
        if name not in SERVERS:
            parser.error(f"{name!r} is none of {', '.join(SERVERS)}")
        if importlib.util.find_spec(name):
            arguments.servers.append(name)
        else:
            say(f"left out, {name}: pip install {name}")
    if reason := why_not():
        say(f"left out, HTTP requests per second: {reason}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = Results()
    try:
        with tempfile.TemporaryDirectory(prefix="swos-bench-") as folder:
            failures = sum(run_rounds(arguments, name, Path(folder), results) for name in arguments.servers)
    except LabError as error:
        say(f"left out, the rest: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    say()
    say(results.table())
    if arguments.profile:
        say("no rows: the profile slowed our side down")
    else:
        say(f"rows: {results.write(arguments.results)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
