"""Tests that others wrote for their asyncio programs, unedited, on `SwosEventLoop`: which, how, and what is expected.

The programs come from PyPI, with a virtual environment of their own in $SWOS_NET_LOOP_SUITES (~/.cache/swos_net/loop-suites);
child/ is what they find there besides: a stand-in for uvloop that gives our loop, an audit hook that refuses sockets of
the kernel's network.  expectations.txt lists what is not run or must fail, and why.  As a program this prints a table:

    python tests/conformance/loops/harness.py [SUITE ...]
"""

import contextlib
import fcntl
import fnmatch
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHILD = HERE / "child"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TEST_TIMEOUT = 30  # seconds
SUITE_TIMEOUT = 400
RERUN_MAX = 4  # more failures than that are no race
FAILURES = ("failed", "hung")

_spec = importlib.util.spec_from_file_location("cpython_expectations", HERE.parent / "cpython" / "harness.py")
cpython = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cpython)


@dataclass(frozen=True, slots=True)
class Suite:
    """One run of pytest in the folder of a source distribution.  `least`: so many must have passed."""

    name: str
    package: str
    arguments: tuple[str, ...]
    least: int
    own_settings: bool = False  # those of the suite: where ours would not do
    environment: tuple[tuple[str, str], ...] = ()


SOURCES = ("aiohttp==3.14.5", "anyio==4.16.0", "asyncssh==2.24.1", "uvloop==0.23.0")  # Twisted installs its tests
AIOHTTP = ("-p", "aiohttp.pytest_plugin", "--aiohttp-loop=uvloop")
ASYNCIO_SIDE = ("-k", "(AIO or aio) and not socketpair")  # uvloop's tests run on both; a socketpair hangs on stock loops, too
SSH = (("USE_UVLOOP", "1"),)

SUITES = (
    Suite("uvloop-tcp", "uvloop", (*ASYNCIO_SIDE, "tests/test_tcp.py"), 29, True),
    Suite("uvloop", "uvloop", (*ASYNCIO_SIDE, "tests/test_udp.py", "tests/test_sockets.py", "tests/test_dns.py",
                               "tests/test_base.py", "tests/test_context.py"), 125, True),
    Suite("anyio", "anyio", ("-k", "uvloop", "tests/test_sockets.py"), 375, True),
    Suite("aiohttp-client", "aiohttp", (*AIOHTTP, "tests/test_client_functional.py"), 330),
    Suite("aiohttp-web", "aiohttp", (*AIOHTTP, "tests/test_web_functional.py", "tests/test_web_websocket_functional.py",
                                     "tests/test_web_sendfile_functional.py", "tests/test_web_server.py"), 360),
    Suite("asyncssh-connection", "asyncssh", ("tests/test_connection.py",), 280, environment=SSH),
    Suite("asyncssh", "asyncssh", ("tests/test_forward.py", "tests/test_stream.py", "tests/test_channel.py"), 300, environment=SSH),
    Suite("twisted", "", ("-p", "only_asyncio_reactors", "--pyargs", "twisted.internet.test.test_tcp", "twisted.internet.test.test_udp",
                          "twisted.internet.test.test_tls"), 198),
)  # fmt: skip


# What they need


class Unprepared(Exception):
    """The programs cannot be had here; the text says why."""


def folder() -> Path:
    cache = os.environ.get("SWOS_NET_LOOP_SUITES") or os.environ.get("XDG_CACHE_HOME", "~/.cache") + "/swos_net/loop-suites"
    return Path(cache).expanduser() / f"python{PYTHON}"


def prepare() -> Path:
    """The folder with everything, filled if need be; Unprepared when that cannot be done."""
    place = folder()
    place.mkdir(parents=True, exist_ok=True)
    wanted = hashlib.sha256((CHILD / "requirements.txt").read_bytes() + repr(SOURCES).encode()).hexdigest()
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes of pytest may want it
        stamp = place / "stamp"
        if not stamp.exists() or stamp.read_text() != wanted:
            _fill(place)
            stamp.write_text(wanted)
    return place


def _fill(place: Path) -> None:
    python = place / "venv/bin/python"
    _command([sys.executable, "-m", "venv", str(place / "venv")])
    _command([str(python), "-m", "pip", "install", "--quiet", "--requirement", str(CHILD / "requirements.txt")])
    for source in SOURCES:
        name = source.partition("=")[0]
        with tempfile.TemporaryDirectory(dir=place) as work:
            # not ":all:", which would compile what the distribution is built with
            _command([str(python), "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name, "--dest", work, source])
            (archive,) = Path(work).iterdir()
            with tarfile.open(archive) as tar:
                tar.extractall(place / "sources", filter="data")


def _command(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise Unprepared(f"{' '.join(command[1:5])} ended with {done.returncode}: {done.stderr[-600:]}")


# Running


@dataclass(slots=True)
class Outcome:
    """What came of one run."""

    results: list[dict] = field(default_factory=list)
    loops: int = 0
    kernel_sockets: list[str] = field(default_factory=list)
    complete: bool = False
    output: str = ""
    repeated: list[str] = field(default_factory=list)  # what passed at the second attempt

    def counts(self) -> Counter:
        return Counter(result["outcome"] for result in self.results)

    def failed(self) -> list[str]:
        return list(dict.fromkeys(result["test"] for result in self.results if result["outcome"] in FAILURES))

    def problems(self, suite: Suite, expectations: list) -> list[str]:
        """Everything that is not as expected, each with its text."""
        found = []
        expected = [each for each in expectations if each.what == "fails"]
        for result in self.results:
            test, outcome = result["test"], result["outcome"]
            known = next((each for each in expected if fnmatch.fnmatchcase(test, each.pattern)), None)
            if outcome in FAILURES and known is None:
                found.append(f"{test} {outcome}\n{result['text']}")
            elif outcome == "passed" and known is not None:
                found.append(f"{test} passed, and was expected to fail: {known.reason}")
        if not self.complete:
            found.append(f"the run broke off after {len(self.results)} tests\n{self.output[-4000:]}")
        elif self.counts()["passed"] < suite.least:
            found.append(f"{self.counts()['passed']} tests passed, of {suite.least} at least\n{self.output[-2000:]}")
        elif not self.loops:
            found.append("no test has asked for a loop of ours")
        if self.kernel_sockets:
            found.append(f"sockets of the kernel's network were asked for: {self.kernel_sockets}")
        return found


def expectations_here() -> list:
    return [each for each in cpython.read_expectations((HERE / "expectations.txt").read_text()) if each.applies(PYTHON)]


def run_twice(suite: Suite) -> Outcome:
    """As `run`; what failed has a second chance alone: the suites have races of their own."""
    outcome = run(suite)
    failed = outcome.failed()
    if outcome.complete and 0 < len(failed) <= RERUN_MAX:
        again = run(suite, only=failed)
        passed = {result["test"] for result in again.results if result["outcome"] == "passed"} - set(again.failed())
        outcome.results = [result for result in outcome.results if result["test"] not in passed]
        outcome.results += [result for result in again.results if result["test"] in passed]
        outcome.repeated = sorted(passed)
    return outcome


def run(suite: Suite, *, only: list[str] | None = None, timeout: float = SUITE_TIMEOUT) -> Outcome:
    """One suite in a process of its own, which leaves nothing running."""
    place = prepare()
    where = next((place / "sources").glob(f"{suite.package}-*")) if suite.package else place
    settings = [] if suite.own_settings else ["-c", str(CHILD / "pytest.ini"), "--rootdir", str(where)]
    command = [str(place / "venv/bin/python"), str(CHILD / "run.py"), str(where), *settings, "--timeout", str(TEST_TIMEOUT),
               "--tb=native", "-W", "ignore", "-q", *suite.arguments]  # fmt: skip
    mark = f"SWOS_LOOPS_RUN={uuid.uuid4()}"
    environment = _environment(suite, place, only)
    environment.update([mark.split("=")])
    outcome = Outcome()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as results:
        environment["SWOS_LOOPS_RESULTS"] = str(results.fileno())
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                   pass_fds=[results.fileno()], start_new_session=True)  # fmt: skip
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGABRT)  # faulthandler then says where it hangs
            process.wait()
        finally:
            _end_marked(mark)
        results.seek(0)
        for line in map(json.loads, results):
            if "test" in line:
                outcome.results.append(line)
            else:
                outcome.loops, outcome.kernel_sockets, outcome.complete = line["loops"], line["kernel_sockets"], True
        output.seek(0)
        outcome.output = output.read()
    return outcome


def _environment(suite: Suite, place: Path, only: list[str] | None) -> dict[str, str]:
    import swos_net

    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "SSL_CERT", "COV_"))}
    uvloop = next((place / "sources").glob("uvloop-*"))
    omit = [each.pattern for each in expectations_here() if each.what == "omit"]
    return {
        **kept, **dict(suite.environment),
        "PYTHONPATH": f"{CHILD}:{Path(swos_net.__file__).parents[1]}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SWOS_LOOPS_UVLOOP": str(uvloop / "uvloop"),
        "SWOS_LOOPS_OMIT": json.dumps(omit),
        "SWOS_LOOPS_ONLY": json.dumps(only),
    }  # fmt: skip


def _end_marked(mark: str) -> None:
    """Ends what a run has left behind, agents of ssh for one: those that have its mark in their environment."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)


def _rows(names: list[str]) -> Iterator[tuple[Suite, Outcome, float]]:
    for suite in SUITES:
        if not names or suite.name in names:
            begun = time.monotonic()
            yield suite, run_twice(suite), time.monotonic() - begun


def main(names: list[str]) -> int:
    total, problems = Counter(), []
    print(f"{'Python ' + PYTHON:22} passed  skipped  failed   loops  seconds")
    for suite, outcome, seconds in _rows(names):
        counts = outcome.counts()
        total += counts
        problems += outcome.problems(suite, expectations_here())
        print(f"{suite.name:22} {counts['passed']:6} {counts['skipped']:8} {counts['failed']:7} {outcome.loops:7} {seconds:8.0f}"
              f"  {'again: ' + ' '.join(outcome.repeated) if outcome.repeated else ''}", flush=True)  # fmt: skip
    print(f"{'in all':22} {total['passed']:6} {total['skipped']:8} {total['failed']:7}")
    for problem in problems:
        print(f"\n{problem}")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
