"""Our stack and pmd-pytcp, another stack in Python, each on a TAP device of its own with the Linux kernel as client.

    python benchmarks/tap_pytcp.py [--rounds 3] [--seconds 4]

Each stack runs in a process of its own in a network namespace of its own, MTU 1500, and serves echo, discard and
chargen; the kernel's side runs guest/netload.c.  Needs root, and pip's index for pmd-pytcp at the first run.
"""

import argparse
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))

from cases import PATIENCE, TO_GUEST, TO_STACK, Values, netload  # noqa: E402
from lab import namespaces  # noqa: E402
from lab.namespaces import Namespace  # noqa: E402
from lab.packages import LabError, cache_directory, locked  # noqa: E402
from processes import Process, build_netload, cpu_seconds, say  # noqa: E402
from report import OURS, TAP_CPU, TAP_RR, TAP_TCP, Results  # noqa: E402
from serve import ECHO, SINK, SOURCE  # noqa: E402

PEER = "pmd-pytcp"
LABEL = "pmd-pytcp over TAP"
VERSION = "0.3.8"
KERNEL, STACK = "10.0.2.1/24", "10.0.2.2"
MTU = 1500


def why_not() -> str:
    """Why the comparison cannot be made here; empty when it can."""
    return namespaces.why_not()


def pytcp_python() -> Path:
    """The Python of an environment with pmd-pytcp, made at the first use; LabError when it cannot be had."""
    folder = cache_directory() / f"{PEER}-{VERSION}-python{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / "bin/python"
    with locked(cache_directory() / f".{PEER}.lock"):
        if not (folder / "ready").exists():
            venv.create(folder, clear=True, with_pip=True)
            result = subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                                     f"{PEER}=={VERSION}"], capture_output=True, text=True)
            if result.returncode:
                output = (result.stderr or result.stdout).strip()[-500:]
                raise LabError(f"{PEER} {VERSION} could not be installed: {output}")
            (folder / "ready").touch()
    return python


def ours() -> list[str]:
    return [sys.executable, str(HERE / "serve.py"), "--device", "tap:tap0", "--address", f"{STACK}/24"]


def theirs() -> list[str]:
    # -O: its packet code is full of assertions
    ports = map(str, (ECHO, SINK, SOURCE))
    return [str(pytcp_python()), "-O", str(HERE / "pytcp_server.py"), "tap0", f"{STACK}/24", *ports]


def measure(command: list[str], log: Path, client: Path, seconds: float) -> Values:
    """Start a stack with `command` in a new namespace and load it from the kernel's side."""
    with Namespace() as namespace:
        namespace.add_tap("tap0", [KERNEL], mtu=MTU)
        with namespace.entered():
            server = Process(command, log)
        try:
            server.wait_for_line("ready", 60.0)
            # A stack may probe its address for seconds before it answers (RFC 5227).
            server.wait_for(lambda: namespace.run("ping", "-c", "1", "-W", "1", STACK, check=False).returncode == 0,
                            "answered a ping", 60.0)
            values: Values = {}
            for mode, port, direction in (("send", SINK, TO_STACK), ("receive", SOURCE, TO_GUEST)):
                before = cpu_seconds(server.pid)
                found = load(namespace, client, mode, port, seconds)
                values[TAP_TCP[direction]] = found["rate"] * 8 / 1e6
                values[TAP_CPU[direction]] = (cpu_seconds(server.pid) - before) / (found["bytes"] / 1e9)
            values[TAP_RR] = load(namespace, client, "rr", ECHO, seconds)["rate"]
            server.check()
            return values
        finally:
            server.stop()


def load(namespace: Namespace, client: Path, mode: str, port: int, seconds: float) -> dict[str, float]:
    output = namespace.run(str(client), mode, STACK, str(port), f"{seconds:g}", timeout=seconds + PATIENCE).stdout
    return netload(output.decode())


def run_rounds(folder: Path, results: Results, rounds: int, seconds: float, say: Callable[[str], None]) -> int:
    """Both stacks in turn, `rounds` times; how many runs of ours failed.  `folder` holds the built netload."""
    failures = 0
    for number in range(1, rounds + 1):
        for name, label, command in ((OURS, "swos_net over TAP", ours), (PEER, LABEL, theirs)):
            try:
                values = measure(command(), folder / f"tap-{name}-{number}.log", folder / "netload", seconds)
            except (LabError, subprocess.TimeoutExpired) as error:
                say(f"round {number}, {label}: {error}")
                failures += name == OURS
                continue
            results.add(name, values)
            say(f"round {number}, {label}: {Results.line(values)}")
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each case")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for the rows")
    arguments = parser.parse_args()
    if why_not():
        print(f"tap_pytcp: {why_not()}", file=sys.stderr)
        return 1
    results = Results()
    with tempfile.TemporaryDirectory(prefix="swos-bench-") as name:
        build_netload(Path(name))
        failures = run_rounds(Path(name), results, arguments.rounds, arguments.seconds, say)
    say(results.table())
    say(f"rows: {results.write(arguments.results)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
