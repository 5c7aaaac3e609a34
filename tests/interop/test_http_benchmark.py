"""The comparison of web servers on both event loops measures something: one short round of it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab import namespaces

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks/http_requests.py"
WHY_NOT = namespaces.why_not() or ("" if shutil.which("wrk") else "there is no wrk: apt-get install wrk")
pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.kernel_sockets,
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "available"),
    pytest.mark.xdist_group("network"),
]


@pytest.mark.parametrize("server", ["aiohttp", "uvicorn"])
def test_requests_are_answered_on_both_sides(server, tmp_path):
    pytest.importorskip(server)
    # a program that is told to end takes its namespaces and servers away, one that is killed does not
    command = ["timeout", "--kill-after=20", "60", sys.executable, str(PROGRAM), "--rounds", "1", "--seconds", "1",
               "--connections", "4", "--servers", server, "--results", str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.iterdir()
    rows = {row["case"]: row for row in json.loads(path.read_text())}
    rate, cpu = rows[f"http-{server}-4"], rows[f"http-{server}-4-cpu"]
    assert (rate["unit"], rate["better"], rate["peer"]) == ("1/s", "higher", "linux")
    assert (cpu["unit"], cpu["better"], cpu["peer"]) == ("s/1000", "lower", "linux")
    for side in ("ours", "theirs"):
        # one process cannot use more processor time than there was, but for what it did just outside of the second
        assert rate[side] > 10 and 0 < rate[side] / 1000 * cpu[side] < 1.5
