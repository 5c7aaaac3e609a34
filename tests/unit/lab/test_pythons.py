"""Which other Pythons the tests run on, and what is said of those that are not there."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

from lab import pythons

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHERS = [version for version in ("3.10", "3.11", "3.12", "3.13") if version != HERE]


@pytest.fixture
def interpreter(monkeypatch, tmp_path):
    """`interpreter(release, version)` puts one among pyenv's that says it is `version`; there is no other anywhere."""
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))

    def make(release: str, version: str, path: str = "") -> Path:
        python = tmp_path / (path or f"versions/{release}/bin/python")
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(f"#!/bin/sh\necho {version}\n" if version else "#!/bin/sh\nexit 127\n")
        python.chmod(0o755)
        return python

    return make


def test_those_of_the_package():
    assert pythons.supported() == ["3.10", "3.11", "3.12", "3.13"]


def test_the_newest_of_pyenvs(interpreter):
    interpreter("3.12.9", "3.12")
    newest = interpreter("3.12.10", "3.12")
    interpreter("3.12.11t", "3.12")  # another build of it
    interpreter("3.1.12", "3.1")
    assert pythons.find("3.12") == newest and pythons.find("3.13") is None


def test_one_on_the_path_that_starts(interpreter):
    python = interpreter("", "3.12", "path/python3.12")
    assert pythons.find("3.12") == python
    interpreter("", "", "path/python3.12")  # what pyenv puts there for a version that is not chosen
    assert pythons.find("3.12") is None
    interpreter("3.12.1", "")
    assert pythons.find("3.12") is None


@pytest.fixture
def commands(monkeypatch):
    """Records the commands; what has one of the `failing` words fails.  Every Python is there but 3.13."""
    ran = []

    def run(command, **_options):
        ran.append(command)
        return subprocess.CompletedProcess(command, next((status for word, status in run.failing.items() if word in " ".join(command)), 0))

    run.failing = {}
    run.ran = ran
    monkeypatch.setattr(pythons.subprocess, "run", run)
    monkeypatch.setattr(pythons, "find", lambda version: None if version == "3.13" else Path(f"/opt/python{version}"))
    monkeypatch.setattr(pythons, "supported", lambda: [*OTHERS, HERE])
    monkeypatch.setattr(pythons, "advice", lambda version: f"get {version}")
    return run


def test_each_is_set_up_and_has_the_projects_own_tests(commands, capsys):
    assert pythons.main(["--jobs", "3", "-x", "-k", "a or b", "tests/unit"]) == 0
    there = [version for version in OTHERS if version != "3.13"]
    assert [command[0] for command in commands.ran[::2]] == [f"/opt/python{version}" for version in there]
    for version, setup, tests in zip(there, commands.ran[::2], commands.ran[1::2]):
        assert setup[-4:] == ["--venv", str(pythons.PROJECT / f".venv-{version}"), "--for", "test"]
        assert tests[:5] == [str(pythons.PROJECT / f".venv-{version}/bin/python"), "-m", "pytest", "-n", "3"]
        assert tests[-4:] == ["-x", "-k", "a or b", "tests/unit"]
        for folder in pythons.OUTSIDE:
            assert f"--ignore={pythons.PROJECT / folder}" in tests and (pythons.PROJECT / folder).is_dir()
    output = capsys.readouterr().out
    assert f"passed on {', '.join(there)}" in output
    assert ("NOT RUN on 3.13, which is not here: get 3.13" in output) == (HERE != "3.13")


@pytest.mark.parametrize("word", ["setup_host", "pytest"])
def test_a_failure_is_told_at_the_end_and_keeps_none_of_the_others_away(commands, capsys, word):
    bad = OTHERS[0]
    commands.failing = {f"{bad} {pythons.PROJECT}/examples/lab/setup_host" if word == "setup_host" else f".venv-{bad}/bin/python -m pytest": 1}
    assert pythons.main([]) == 1
    assert any(f".venv-{OTHERS[1]}/bin/python -m pytest" in " ".join(command) for command in commands.ran)
    assert f"passed on {OTHERS[1]}" in capsys.readouterr().out.splitlines()[-1 if HERE == "3.13" else -2]


def test_an_argument_that_selects_nothing_there_is_no_failure(commands):
    commands.failing = {"-m pytest": pythons.NO_TESTS}
    assert pythons.main(["tests/guest"]) == 0


def test_where_one_is(commands, capsys):
    assert pythons.main(["--find", "3.12"]) == 0 and capsys.readouterr().out == "/opt/python3.12\n"
    assert pythons.main(["--find", "3.13"]) == 1 and "get 3.13" in capsys.readouterr().err


def test_tox_leaves_out_the_same():
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(pythons.PROJECT / "tox.ini")
    _, line = tox["testenv"]["commands"].strip().splitlines()
    assert tuple(word.removeprefix("--ignore=") for word in line.split() if word.startswith("--ignore=")) == pythons.OUTSIDE
    named = {f"py{version.replace('.', '')}" for version in pythons.supported()}
    assert named <= {name.strip() for name in tox["tox"]["envlist"].split(",")}
