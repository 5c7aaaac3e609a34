"""The tests that CPython has for its sockets, and for what stands on them, pass on ours: see harness.py."""

import importlib.util
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("cpython_harness", Path(__file__).with_name("harness.py"))
harness = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)

SHARDS = [
    pytest.param(suite, shard, id=suite.module + (f"-{shard}" if suite.shards > 1 else ""))
    for suite in harness.SUITES
    for shard in range(1, suite.shards + 1)
    if harness.available(suite)
]

if not SHARDS:
    SHARDS = [pytest.param(None, 0, marks=pytest.mark.skip(f"this Python {harness.PYTHON} has no Lib/test: install its test-suite"))]


@pytest.mark.parametrize("suite, shard", SHARDS)
def test_as_expected(suite, shard, tmp_path):
    outcome = harness.run_twice(suite, shard, directory=tmp_path)
    problems = outcome.problems(harness.expectations_here())
    assert not problems, "\n\n".join([f"{len(problems)} of {len(outcome.results)} are not as expected", *problems])


class TestJudgement:
    expectations = harness.read_expectations("fails * m.C.bad  it is known\nomit 3.99 m.* never\n")

    def judge(self, *results, status=0):
        return harness.Outcome([dict(zip(("test", "outcome", "text"), result)) for result in results], "said", status).problems(self.expectations)

    def test_as_expected(self):
        assert self.judge(("m.C.good", "passed", ""), ("m.C.other", "skipped", ""), ("m.C.bad", "failed", "why")) == []

    @pytest.mark.parametrize("outcome", ["failed", "hung", "died"])
    def test_a_failure_that_nobody_expected(self, outcome):
        (problem,) = self.judge(("m.C.good", outcome, "Traceback"))
        assert "m.C.good" in problem and outcome in problem and "Traceback" in problem

    def test_a_success_that_nobody_expected(self):
        (problem,) = self.judge(("m.C.bad", "passed", ""))
        assert "it is known" in problem

    def test_a_run_that_breaks_off_or_has_nothing(self):
        assert "status 3" in self.judge(("m.C.good", "passed", ""), status=3)[0]
        assert "said" in self.judge()[0]

    def test_expectations_are_for_some_pythons(self):
        assert [each.applies("3.11") for each in self.expectations] == [True, False]
        with pytest.raises(ValueError, match="line 1"):
            harness.read_expectations("passes * m.C.x because")
