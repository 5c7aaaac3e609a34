"""The tests that CPython has for its sockets, and for what stands on them, pass on ours: see harness.py."""

import importlib.util
import json
import os
import subprocess
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


OUTCOMES = """
import os, unittest

class Mixed(unittest.TestCase):
    def test_1_dies(self):
        os._exit(9)

    def test_2_fails(self):
        self.fail("so")

    @unittest.skip("because")
    def test_3_skipped(self):
        pass

    def test_4_passes(self):
        pass

@unittest.skip("all of it")
class Skipped(unittest.TestCase):
    def test_1(self):
        pass

class SkipsItself(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        raise unittest.SkipTest("not here")

    def test_1(self):
        pass

class Broken(SkipsItself):
    @classmethod
    def setUpClass(cls):
        os._exit(8)
"""


def test_every_outcome_is_told_once_and_no_test_takes_others_along(tmp_path):
    (tmp_path / "outcomes.py").write_text(OUTCOMES)
    reading, writing = os.pipe()
    command = [sys.executable, str(harness.HERE / "child.py"), "--module", "outcomes", "--results", str(writing), "--omit", "*.test_4*"]
    environment = harness.environment()
    environment["PYTHONPATH"] += f":{tmp_path}"
    with open(reading) as lines:
        status = subprocess.run(command, env=environment, pass_fds=[writing], timeout=60, cwd=tmp_path).returncode
        os.close(writing)
        results = [(result["test"].removeprefix("outcomes."), result["outcome"]) for result in map(json.loads, lines)]
    assert status == 0
    assert sorted(results) == [("Broken.test_1", "died"), ("Mixed.test_1_dies", "died"), ("Mixed.test_2_fails", "failed"),
                               ("Mixed.test_3_skipped", "skipped"), ("Mixed.test_4_passes", "omitted"), ("Skipped.test_1", "skipped"),
                               ("setUpClass (outcomes.SkipsItself)", "skipped")]  # fmt: skip


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
