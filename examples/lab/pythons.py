"""The project's own tests on every Python that it supports, besides the one that runs this and had all the tests.

Each version that is there gets an environment .venv-3.X; one that is not is named, and is no failure.  What looks at the
project from outside (OUTSIDE) is left to the one: it takes longest, and depends least on Python's version.

    python3 examples/lab/pythons.py [--jobs N] [argument of pytest ...]
    python3 examples/lab/pythons.py --find 3.13
"""

import argparse
import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
OUTSIDE = ("tests/conformance", "tests/guest", "tests/interop")
NO_TESTS = 5  # what pytest says when nothing was selected, as by a name of what only the main run has


def say(line: str) -> None:
    """One line of progress."""
    print(f"pythons: {line}", flush=True)


def supported() -> list[str]:
    """The versions that the project is for, "3.10" and so on, as setup.cfg says."""
    metadata = configparser.ConfigParser()
    metadata.read(PROJECT / "setup.cfg")
    return re.findall(r"^Programming Language :: Python :: (3\.\d+)$", metadata["metadata"]["classifiers"], re.MULTILINE)


def find(version: str) -> Path | None:
    """The newest of pyenv's interpreters of this version, or the one on the PATH, if it runs."""
    root = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    releases = [path for path in root.glob(f"versions/{version}.*") if re.fullmatch(r"[\d.]+", path.name)]
    releases.sort(key=lambda path: [int(number) for number in path.name.split(".")], reverse=True)
    candidates = [path / "bin/python" for path in releases]
    if on_path := shutil.which(f"python{version}"):
        candidates.append(Path(on_path))
    return next((path for path in candidates if _version(path) == version), None)


def _version(python: Path) -> str:
    """What an interpreter is; nothing when it does not start, as pyenv's stand-ins for versions that are not chosen."""
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        return subprocess.run([str(python), "-c", program], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def advice(version: str) -> str:
    """The command that brings a version."""
    command = f"pyenv install {version}"
    return command if shutil.which("pyenv") else f"{command}, once https://github.com/pyenv/pyenv is there"


def run(version: str, python: Path, jobs: str, arguments: list[str]) -> bool:
    """Makes or brings up to date the environment of a version and runs the tests in it; whether they passed."""
    venv = PROJECT / f".venv-{version}"
    say(f"Python {version}: {python}")
    setup = [str(python), str(PROJECT / "examples/lab/setup_host.py"), "--venv", str(venv), "--for", "test"]
    if subprocess.run(setup, cwd=PROJECT).returncode:
        return False
    command = [str(venv / "bin/python"), "-m", "pytest", "-n", jobs, "--dist", "loadgroup"]
    for folder in OUTSIDE:
        command += [f"--ignore={PROJECT / folder}", f"--deselect={folder}"]  # the second where an argument names one
    return subprocess.run([*command, *arguments], cwd=PROJECT).returncode in (0, NO_TESTS)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Runs the project's own tests on the other Pythons.", allow_abbrev=False)
    parser.add_argument("--find", metavar="3.X", help="only print where this version is")
    parser.add_argument("--jobs", default="2", help="as pytest's -n")
    options, arguments = parser.parse_known_args(argv)
    if options.find:
        python = find(options.find)
        print(python or f"pythons: there is no Python {options.find}: {advice(options.find)}", file=sys.stdout if python else sys.stderr)
        return python is None
    passed, failed, missing = [], [], []
    for version in supported():
        if version == f"{sys.version_info.major}.{sys.version_info.minor}":
            continue
        python = find(version)
        if python is None:
            missing.append(version)
        else:
            (passed if run(version, python, options.jobs, arguments) else failed).append(version)
    say("; ".join(f"{what} on {', '.join(versions)}" for what, versions in (("passed", passed), ("FAILED", failed)) if versions) or "none here")
    for version in missing:
        say(f"NOT RUN on {version}, which is not here: {advice(version)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
