"""Runs one of CPython's test modules, unmodified, with the `socket` of swos_net in place of the standard one.

A program for its own process: harness.py starts it.  It imports the module once and forks for every test class, so that
each begins with a fresh stack and none can hang or break another.  Results go as lines of JSON to a descriptor.

    child.py --module test.test_socket --results FD [--omit PATTERN ...] [--only PATTERN]
             [--shard 1/4] [--timeout 60] [--resource network ...]
"""

import argparse
import faulthandler
import fnmatch
import json
import os
import sys
import time
import traceback
import types
import unittest

LOADED_BY_SWOS_NET = ("email", "ftplib", "http", "logging.handlers", "smtplib", "socketserver", "ssl", "urllib")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--module", required=True)
    parser.add_argument("--results", type=int, required=True)
    parser.add_argument("--omit", action="append", default=[])
    parser.add_argument("--resource", action="append", default=[])
    parser.add_argument("--only", default="*")
    parser.add_argument("--shard", default="1/1")
    parser.add_argument("--timeout", type=float, default=60)
    options = parser.parse_args()
    os.set_inheritable(options.results, False)
    report = Report(options.results)
    try:
        replace_sockets()
        runner = new_runner()  # nobody waits while a module is imported, so there is no thread that a fork would lose
        try:
            classes = load(options.module, options.resource)
        finally:
            runner.stop()
    except unittest.SkipTest as reason:
        report.write(test=options.module, outcome="skipped", text=str(reason))
        return
    number, count = map(int, options.shard.split("/"))
    for name in sorted(classes)[number - 1 :: count]:
        tests = [test for test in classes[name] if fnmatch.fnmatchcase(identity(test), options.only)]
        kept = [test for test in tests if not any(fnmatch.fnmatchcase(identity(test), pattern) for pattern in options.omit)]
        for test in tests:
            if test not in kept:
                report.write(test=identity(test), outcome="omitted", text="")
        if kept:
            run_class(kept, report, options.timeout)


class Report:
    """Lines of JSON: {"test": "module.Class.method", "outcome": "passed|failed|skipped|omitted|hung|died", "text", "time"}."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def write(self, **fields) -> None:
        os.write(self._descriptor, json.dumps(fields).encode() + b"\n")


# Before the tests are imported


def refuse_kernel_network(event: str, arguments: tuple) -> None:
    """An audit hook: a test that reaches the kernel's network has tested nothing of ours, or changes the machine."""
    if event == "socket.__new__" and arguments[1] in (2, 10):
        raise AssertionError("a socket of the kernel's network")
    if event == "socket.sethostname":
        raise AssertionError("a new name for the machine")


class Authority:
    """Where the sockets of the tests get theirs: the root of the stack that this process serves."""

    capability = None

    def __call__(self):
        return self.capability


authority = Authority()


def new_runner():
    from swos_net.runtime.poll import Poller
    from swos_net.runtime.threaded import ThreadedRunner
    from swos_net.stack.stack import Stack

    runner = ThreadedRunner(Poller(Stack(name="localhost")))
    authority.capability = runner.stack.root
    return runner


def replace_sockets() -> None:
    """Puts a `_socket` of ours, and the standard library's `socket` and `ssl` on top of it, into sys.modules."""
    import _ssl  # noqa: F401  it wants the C module's own _socket when it is first imported

    from swos_net.socket.module import low_level_module
    from swos_net.socket.standard import run_standard_library

    assert "asyncio" not in sys.modules, "asyncio cannot be imported a second time"
    for name in list(sys.modules):
        if name.startswith(LOADED_BY_SWOS_NET) and not name.startswith("swos_net"):
            del sys.modules[name]
    low_level = low_level_module(authority)
    sys.modules["_socket"] = low_level
    module = sys.modules["socket"] = types.ModuleType("socket")
    run_standard_library(vars(module), low_level)
    import ssl

    from swos_net.socket import tls

    tls.teach(ssl.SSLContext)
    sys.addaudithook(refuse_kernel_network)


def load(name: str, resources: list[str]) -> dict[str, list[unittest.TestCase]]:
    """The tests of a module by class; with no resource of regrtest but those (alone, unittest would allow them all)."""
    from test import support

    support.use_resources = resources
    support.verbose = 0
    module = __import__(name, fromlist=["*"])
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
    classes: dict[str, list[unittest.TestCase]] = {}
    for test in flatten(suite):
        classes.setdefault(type(test).__qualname__, []).append(test)
    return classes


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def identity(test) -> str:
    """module.Class.method without the leading "test."; what is no test case is named by its text."""
    return test.id().removeprefix("test.")


# In a process of its own


def run_class(tests: list[unittest.TestCase], report: Report, timeout: float) -> None:
    """Forks until every test has had its turn: one that hangs takes only itself along."""
    left = list(tests)
    while left:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            code = 3
            try:
                code = run_tests(left, Report(writing), timeout)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        os.close(writing)
        current, done = None, set()
        with open(reading, "rb") as lines:
            for line in lines:
                result = json.loads(line)
                if result["outcome"] == "started":
                    current = result["test"]
                    continue
                report.write(**result)
                done.add(result["test"])
                if result["test"] == current:
                    current = None
        _, status = os.waitpid(child, 0)
        if current is not None:
            hung = os.waitstatus_to_exitcode(status) == 1
            report.write(test=current, outcome="hung" if hung else "died", text=f"status {status}", time=timeout if hung else 0)
            done.add(current)
        elif not status:
            return  # what ended well had them all, also those of a class that skips itself
        left = [test for test in left if identity(test) not in done]
        if left and current is None:
            report.write(test=identity(left[0]), outcome="died", text=f"status {status} outside a test", time=0)
            return


def run_tests(tests: list[unittest.TestCase], report: Report, timeout: float) -> int:
    with new_runner():
        unittest.TestSuite(tests).run(Result(report, timeout))
    faulthandler.cancel_dump_traceback_later()
    return 0


class Result(unittest.TestResult):
    """Tells what happens as it happens."""

    def __init__(self, report: Report, timeout: float):
        super().__init__()
        self._report = report
        self._timeout = timeout
        self._outcome, self._text = "passed", ""
        self._started = 0.0

    def startTest(self, test) -> None:
        super().startTest(test)
        self._begin()
        self._report.write(test=identity(test), outcome="started")
        faulthandler.dump_traceback_later(self._timeout, exit=True)

    def stopTest(self, test) -> None:
        super().stopTest(test)
        passed = round(time.monotonic() - self._started, 3)
        self._report.write(test=identity(test), outcome=self._outcome, text=self._text, time=passed)
        self._begin()  # Python 3.12.1 does not start what it skips

    def _begin(self) -> None:
        self._outcome, self._text = "passed", ""
        self._started = time.monotonic()

    def _failed(self, test, error) -> None:
        self._outcome = "failed"
        self._text += "".join(traceback.format_exception(*error))
        if not isinstance(test, unittest.TestCase):  # setUpClass, setUpModule
            self._report.write(test=identity(test), outcome="failed", text=self._text, time=0)

    def addError(self, test, error) -> None:
        super().addError(test, error)
        self._failed(test, error)

    def addFailure(self, test, error) -> None:
        super().addFailure(test, error)
        self._failed(test, error)

    def addSubTest(self, test, subtest, error) -> None:
        super().addSubTest(test, subtest, error)
        if error is not None:
            self._failed(test, error)

    def addSkip(self, test, reason) -> None:
        super().addSkip(test, reason)
        if not isinstance(test, unittest.TestCase):
            self._report.write(test=identity(test), outcome="skipped", text=reason, time=0)
        elif self._outcome == "passed":
            self._outcome, self._text = "skipped", reason

    def addUnexpectedSuccess(self, test) -> None:
        super().addUnexpectedSuccess(test)
        self._outcome, self._text = "failed", "unexpected success"


if __name__ == "__main__":
    main()
