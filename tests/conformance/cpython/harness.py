"""CPython's own tests against `swos_net.socket`: which of them, what is expected of each, and what came of it.

The tests are those of the interpreter that runs this (its Lib/test), unmodified.  child.py runs them; expectations.txt
lists what is not run or must fail, and why.  As a program this prints a table:

    python tests/conformance/cpython/harness.py [MODULE ...] [--only PATTERN]
"""

import argparse
import fnmatch
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TEST_TIMEOUT = 60.0
RERUN_MAX = 4  # more failures than that are no race


@dataclass(frozen=True, slots=True)
class Suite:
    """One test module, run in `shards` parts that may go on at the same time."""

    module: str
    shards: int = 1
    resources: tuple[str, ...] = ()  # of regrtest; the stack of a child has a loopback and nothing else


SUITES = (
    Suite("test_socket", 4),
    Suite("test_ssl", 3),
    Suite("test_asyncio.test_buffered_proto"),
    Suite("test_asyncio.test_events", 4),
    Suite("test_asyncio.test_sendfile"),
    Suite("test_asyncio.test_server"),
    Suite("test_asyncio.test_sock_lowlevel"),
    Suite("test_asyncio.test_ssl"),
    Suite("test_asyncio.test_sslproto"),
    Suite("test_asyncio.test_streams"),
    Suite("test_asynchat"),
    Suite("test_asyncore"),
    Suite("test_ftplib"),
    Suite("test_httplib"),
    Suite("test_httpservers"),
    Suite("test_imaplib"),
    Suite("test_poplib"),
    Suite("test_select"),
    Suite("test_selectors"),
    Suite("test_smtplib"),
    Suite("test_socketserver", resources=("network",)),
    Suite("test_telnetlib"),
    Suite("test_timeout", resources=("network",)),
    Suite("test_urllib2_localnet"),
    Suite("test_xmlrpc"),
)


def available(suite: Suite) -> bool:
    """Whether this Python has the module; the protocols of old leave the library one by one."""
    try:
        return importlib.util.find_spec(f"test.{suite.module}") is not None
    except ImportError:
        return False


# What is expected


@dataclass(frozen=True, slots=True)
class Expectation:
    """One line of expectations.txt."""

    what: str  # "omit" or "fails"
    pythons: str
    pattern: str
    reason: str

    def applies(self, python: str) -> bool:
        return self.pythons == "*" or python in self.pythons.split(",")

    def matches(self, test: str) -> bool:
        return fnmatch.fnmatchcase(test, self.pattern)


def read_expectations(text: str) -> list[Expectation]:
    """ValueError for a line that is not of the form."""
    expectations = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split(None, 3)
        if len(parts) != 4 or parts[0] not in ("omit", "fails"):
            raise ValueError(f"line {number}: write: omit|fails pythons pattern reason, not {line!r}")
        expectations.append(Expectation(*parts))
    return expectations


def expectations_here() -> list[Expectation]:
    return [each for each in read_expectations((HERE / "expectations.txt").read_text()) if each.applies(PYTHON)]


# What happened

FAILURES = ("failed", "hung", "died")


@dataclass(slots=True)
class Outcome:
    """Results of one run: lines as child.py writes them, and what it said besides."""

    results: list[dict] = field(default_factory=list)
    output: str = ""
    status: int = 0
    repeated: list[str] = field(default_factory=list)  # what passed at the second attempt

    def unexpected(self, expectations: list[Expectation]) -> list[str]:
        """Tests that failed and should not have."""
        known = [each for each in expectations if each.what == "fails"]
        return [result["test"] for result in self.results if result["outcome"] in FAILURES
                and not any(each.matches(result["test"]) for each in known)]  # fmt: skip

    def problems(self, expectations: list[Expectation]) -> list[str]:
        """Everything that is not as expected, each with its text."""
        found = []
        failing = [each for each in expectations if each.what == "fails"]
        for result in self.results:
            test, outcome = result["test"], result["outcome"]
            expected = next((each for each in failing if each.matches(test)), None)
            if outcome in FAILURES:
                if expected is None:
                    found.append(f"{test} {outcome}\n{result['text']}")
            elif expected is not None and outcome == "passed":
                found.append(f"{test} passed, and was expected to fail: {expected.reason}")
        if self.status or not self.results:
            found.append(f"the run ended with status {self.status} after {len(self.results)} tests\n{self.output[-4000:]}")
        return found

    def counts(self) -> Counter:
        return Counter(result["outcome"] for result in self.results)


def run_twice(suite: Suite, shard: int = 1, *, directory: Path | None = None) -> Outcome:
    """As `run`, but as CPython's own test runner may: what failed has a second chance alone.

    Some tests race with themselves (two threads, one of which must be first) and say so in their comments.
    """
    outcome = run(suite, shard, directory=directory)
    failed = outcome.unexpected(expectations_here())
    if len(failed) <= RERUN_MAX:
        for test in failed:
            again = run(suite, shard, only=test, directory=directory)
            if again.results and not again.unexpected(expectations_here()):
                outcome.results = [result for result in outcome.results if result["test"] != test] + again.results
                outcome.repeated.append(test)
    return outcome


def run(suite: Suite, shard: int = 1, *, only: str = "*", timeout: float = TEST_TIMEOUT, directory: Path | None = None) -> Outcome:
    """One shard of a suite (from 1), in child processes that work in `directory`."""
    command = [sys.executable, str(HERE / "child.py"), "--module", f"test.{suite.module}", "--shard", f"{shard}/{suite.shards}",
               "--timeout", str(timeout), "--only", only]  # fmt: skip
    for each in expectations_here():
        if each.what == "omit":
            command += ["--omit", each.pattern]
    for resource in suite.resources:
        command += ["--resource", resource]
    with tempfile.TemporaryDirectory(dir=directory) as work, tempfile.TemporaryFile("w+", dir=work) as output:
        reading, writing = os.pipe()
        process = subprocess.Popen([*command, "--results", str(writing)], pass_fds=[writing], cwd=work, env=environment(),
                                   stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)  # fmt: skip
        os.close(writing)
        with open(reading) as lines:
            results = [json.loads(line) for line in lines]
        status = process.wait()
        output.seek(0)
        return Outcome(results, output.read(), status)


def environment() -> dict[str, str]:
    """Ours, without what would have OpenSSL trust or warnings fail otherwise than CPython's tests expect."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SSL_CERT", "PYTHONWARNINGS", "COV_"))}
    import swos_net

    return {**kept, "PYTHONPATH": str(Path(swos_net.__file__).parents[1])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", help="such as test_socket; all without")
    parser.add_argument("--only", default="*", help="a pattern of module.Class.method")
    parser.add_argument("--timeout", type=float, default=TEST_TIMEOUT)
    options = parser.parse_args()
    expectations = expectations_here()
    total, problems = Counter(), []
    print(f"{'Python ' + PYTHON:50} passed  skipped  failed  not run")
    for suite in SUITES:
        if options.modules and suite.module not in options.modules or not available(suite):
            continue
        classes: dict[str, Counter] = defaultdict(Counter)
        for shard in range(1, suite.shards + 1):
            outcome = run(suite, shard, only=options.only, timeout=options.timeout)
            for result in outcome.results:
                kind = "failed" if result["outcome"] in ("hung", "died") else result["outcome"]
                classes[result["test"].rpartition(".")[0]][kind] += 1
                total[kind] += 1
            if outcome.results or options.only == "*":
                problems += outcome.problems(expectations)
        for name, counts in sorted(classes.items()):
            print(_row(name, counts), flush=True)
    print(_row("in all", total))
    for problem in problems:
        print(f"\n{problem}")
    return bool(problems)


def _row(name: str, counts: Counter) -> str:
    return f"{name:50} {counts['passed']:6} {counts['skipped']:8} {counts['failed']:7} {counts['omitted']:8}"


if __name__ == "__main__":
    sys.exit(main())
