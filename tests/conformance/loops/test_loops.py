"""Suites of other people's asyncio programs pass on our loop: see harness.py."""

import importlib.util
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("loops_harness", Path(__file__).with_name("harness.py"))
harness = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)


@pytest.mark.loop_suites
@pytest.mark.parametrize("suite", harness.SUITES, ids=lambda suite: suite.name)
def test_as_expected(suite):
    try:
        harness.prepare()
    except harness.Unprepared as reason:
        pytest.skip(f"the suites cannot be fetched: {reason}")
    outcome = harness.run_twice(suite)
    problems = outcome.problems(suite, harness.expectations_here())
    assert not problems, "\n\n".join([f"{len(problems)} of {len(outcome.results)} are not as expected", *problems])


class TestJudgement:
    suite = harness.Suite("some", "some", (), 1)
    expectations = harness.cpython.read_expectations("fails * *::known  it is known\n")

    def judge(self, *results, loops=1, complete=True, kernel_sockets=()):
        lines = [dict(zip(("test", "outcome", "text"), result)) for result in results]
        return harness.Outcome(lines, loops, list(kernel_sockets), complete, "said").problems(self.suite, self.expectations)

    def test_as_expected(self):
        assert self.judge(("f.py::good", "passed", ""), ("f.py::known", "failed", "why"), ("f.py::other", "skipped", "")) == []

    def test_a_failure_that_nobody_expected(self):
        (problem,) = self.judge(("f.py::good", "passed", ""), ("f.py::bad", "failed", "Traceback"))
        assert "f.py::bad" in problem and "Traceback" in problem

    def test_a_success_that_nobody_expected(self):
        (problem,) = self.judge(("f.py::known", "passed", ""))
        assert "it is known" in problem

    def test_a_run_that_proves_nothing(self):
        assert "broke off" in self.judge(("f.py::good", "passed", ""), complete=False)[0]
        assert "of 1 at least" in self.judge(("f.py::good", "skipped", ""))[0]
        assert "no test" in self.judge(("f.py::good", "passed", ""), loops=0)[0]

    def test_a_run_that_went_around_the_stack(self):
        assert "kernel's network" in self.judge(("f.py::good", "passed", ""), kernel_sockets=["(2, 1, 0)"])[0]
