"""Debian packages fetched and unpacked into a cache folder, without installing them and without root.

The machine's own apt configuration says where packages come from: nothing here names a host.  A suite the machine does
not use (trixie, bookworm-backports) is looked for beside the one it does.  Signatures are checked as apt always does.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
LISTS_LIFE = 6 * 3600.0
PROGRESS_AFTER = 2.0
PROGRESS_EVERY = 10.0
DOWNLOAD_DEADLINE = 900.0

# Programs and libraries run from a folder need no package manager: apt is told these are there already.
ASSUMED_INSTALLED = (
    "adduser",
    "base-files",
    "debconf",
    "dpkg",
    "init-system-helpers",
    "iso-codes",
    "passwd",
    "perl",
    "perl-base",
    "tar",
    "usrmerge",
)


class LabError(RuntimeError):
    """A piece of the lab cannot be had; the message names it and says what to do."""


def say(line: str) -> None:
    """One progress line on standard error."""
    print(f"lab: {line}", file=sys.stderr, flush=True)


def cache_directory() -> Path:
    """Where fetched packages live: $SWOS_NET_CACHE, or ~/.cache/swos_net/lab."""
    chosen = os.environ.get("SWOS_NET_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "swos_net/lab"


def machine_architecture() -> str:
    """Debian's name of this machine's architecture."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def machine_suite() -> str:
    """The codename of the installed Debian; LabError on another distribution."""
    facts = {}
    with contextlib.suppress(OSError):
        for line in Path("/etc/os-release").read_text().splitlines():
            key, _, value = line.partition("=")
            facts[key] = value.strip('"')
    if facts.get("ID") != "debian" or "VERSION_CODENAME" not in facts:
        raise LabError(
            f"guests are made from Debian's packages, and this machine runs {facts.get('ID', 'something else')}; "
            "use a Debian machine or container"
        )
    return facts["VERSION_CODENAME"]


def parse_sources(print_uris: str, codename: str) -> dict[str, str]:
    """`apt-get update --print-uris` to {suite: archive URI} for `codename` and its -updates and -security suites."""
    found = {}
    for uri, suite in re.findall(r"^'(\S+?)/dists/(\S+?)/InRelease'", print_uris, re.MULTILINE):
        if suite.replace("/", "-").startswith(codename):
            found.setdefault(suite, uri)
    return found


def sources_list(sources: dict[str, str], codename: str, suite: str, keyring: Path | None = KEYRING) -> str:
    """A sources.list for `suite`: the machine's own archive with the suite's name put in.

    Suites that build upon another (codename-backports) come with that one.
    """
    if codename not in sources:
        raise LabError(
            f"apt has no Debian archive for {codename}; add one to /etc/apt/sources.list and run: apt-get update"
        )
    options = f"[signed-by={keyring}] " if keyring else ""
    if suite == codename:
        wanted = sources
    elif suite.startswith(codename):
        wanted = {**sources, suite: sources[codename]}
    else:
        wanted = {suite: sources[codename]}
    return "".join(f"deb {options}{uri} {name} main\n" for name, uri in wanted.items())


def run_reporting(
    command: list[str],
    what: str,
    *,
    deadline: float = DOWNLOAD_DEADLINE,
    cwd: Path | None = None,
    report: Callable[[str], None] = say,
) -> str:
    """Run `command`, report progress when it takes longer than 2 s, and return what it printed.

    LabError with the last lines of its output when it fails or takes longer than `deadline` seconds.
    """
    with tempfile.TemporaryFile(mode="w+", errors="replace") as output:
        begun = time.monotonic()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            )
        except FileNotFoundError:
            raise LabError(f"{what}: there is no {command[0]} on this machine") from None
        next_line = PROGRESS_AFTER
        try:
            while True:
                try:
                    process.wait(next_line - (time.monotonic() - begun))
                    break
                except subprocess.TimeoutExpired:
                    if next_line > deadline:
                        raise LabError(f"{what}: not done after {deadline:.0f} s") from None
                    report(f"{what} ... {next_line:.0f} s")
                    next_line += PROGRESS_EVERY
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if next_line > PROGRESS_AFTER:
            report(f"{what}: {time.monotonic() - begun:.0f} s")
        output.seek(0)
        text = output.read()
    if process.returncode:
        lines = text.strip().splitlines()
        errors = [line.removeprefix("E: ") for line in lines if line.startswith("E: ")]
        raise LabError(f"{what} failed: {' | '.join((errors or lines)[-3:]).rstrip('.')}")
    return text


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock on `path`, so that two processes do not fetch the same thing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "a")
    except OSError as error:
        raise LabError(
            f"the cache folder {path.parent} cannot be written ({error.strerror}); set SWOS_NET_CACHE to one that can"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Packages:
    """Packages of one architecture and suite; `suite` empty means the machine's own."""

    def __init__(
        self, architecture: str = "", suite: str = "", *, cache: Path | None = None, report: Callable[[str], None] = say
    ):
        self.architecture = architecture or machine_architecture()
        self.codename = machine_suite()
        self.suite = suite or self.codename
        self.folder = (cache or cache_directory()) / f"{self.suite}-{self.architecture}"
        self.report = report

    def unpack(self, *names: str, dependencies: bool = False) -> Path:
        """The folder with the contents of the packages, fetched at first use.

        A name that ends in "*" stands for the real package behind a meta package.  With `dependencies` the packages
        they need, the C library included, are unpacked into the same folder.
        """
        label = "+".join(names).replace("*", "") + ("+libraries" if dependencies else "")
        target = self.folder / label
        if target.is_dir():
            return target
        with locked(self.folder / f".{label}.lock"):
            if not target.is_dir():
                self._unpack_new(names, dependencies, target)
        return target

    def _unpack_new(self, names: tuple[str, ...], dependencies: bool, target: Path) -> None:
        try:
            with locked(self.folder / ".apt.lock"):
                self._update()
                wanted = [self._real_name(name) if name.endswith("*") else name for name in names]
                if dependencies:
                    wanted = self._closure(wanted)
                work = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
                try:
                    run_reporting(
                        self._apt("apt-get", "download", *wanted),
                        f"fetching {', '.join(wanted[:3])} ({self.suite}, {self.architecture})",
                        cwd=work,
                        report=self.report,
                    )
                    contents = work / "contents"
                    contents.mkdir()
                    for package in sorted(work.glob("*.deb")):
                        run_reporting(
                            ["dpkg-deb", "-x", str(package), str(contents)],
                            f"unpacking {package.name}",
                            report=self.report,
                        )
                    contents.rename(target)
                finally:
                    shutil.rmtree(work, ignore_errors=True)
        except LabError as error:
            label = ", ".join(names).replace("*", "")
            raise LabError(
                f"{label} for {self.architecture} ({self.suite}) is not in {self.folder} and could not "
                f"be fetched: {error}. With network access, run once: "
                "python3 examples/lab/setup_host.py --guests"
            ) from None

    def _apt(self, program: str, *arguments: str) -> list[str]:
        state = self.folder / "apt"
        options = {
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Default-Release": self.suite,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Acquire::http::Timeout": "20",
            "Dir::State": str(state),
            "Dir::State::Lists": str(state / "lists"),
            "Dir::State::status": str(state / "status"),
            "Dir::Cache": str(state / "cache"),
            "Dir::Etc::sourcelist": str(state / "sources.list"),
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
        }
        return [program, *(f"-o{name}={value}" for name, value in options.items()), *arguments]

    def _update(self) -> None:
        state = self.folder / "apt"
        stamp = state / "updated"
        with contextlib.suppress(OSError):
            if time.time() - stamp.stat().st_mtime < LISTS_LIFE:
                return
        for folder in ("lists/partial", "cache/archives/partial"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        machine = run_reporting(["apt-get", "update", "--print-uris"], "reading apt's sources", report=self.report)
        (state / "sources.list").write_text(
            sources_list(
                parse_sources(machine, self.codename), self.codename, self.suite, KEYRING if KEYRING.exists() else None
            )
        )
        (state / "status").write_text(
            "".join(
                f"Package: {name}\nStatus: install ok installed\nArchitecture: all\nVersion: 9999\n"
                f"Maintainer: none\nDescription: assumed\n\n"
                for name in ASSUMED_INSTALLED
            )
        )
        run_reporting(
            self._apt("apt-get", "update"),
            f"updating the package lists ({self.suite}, {self.architecture})",
            report=self.report,
        )
        stamp.touch()

    def _real_name(self, meta: str) -> str:
        """`linux-image-cloud-arm64*` to linux-image-6.1.0-50-cloud-arm64: the one dependency of a meta package."""
        name = meta.rstrip("*")
        text = run_reporting(self._apt("apt-cache", "depends", name), f"looking up {name}", report=self.report)
        match = re.search(r"^\s*Depends: (linux-\S+)", text, re.MULTILINE)
        if not match:
            raise LabError(f"{name} depends on no real package")
        return match.group(1)

    def _closure(self, names: list[str]) -> list[str]:
        text = run_reporting(
            self._apt("apt-get", "--simulate", "install", *names), f"resolving {', '.join(names)}", report=self.report
        )
        chosen = re.findall(r"^Inst (\S+) \((\S+) ", text, re.MULTILINE)
        if not chosen:
            raise LabError(f"{', '.join(names)}: apt found nothing to fetch")
        return [f"{name}={version}" for name, version in chosen]


def library_folders(root: Path) -> list[Path]:
    """The folders below an unpacked `root` that the dynamic loader searches."""
    return [
        folder
        for pattern in ("lib/*-linux-gnu*", "usr/lib/*-linux-gnu*", "lib64", "usr/lib64", "lib", "usr/lib")
        for folder in sorted(root.glob(pattern))
        if folder.is_dir()
    ]


def own_loader(root: Path, program: str) -> list[str]:
    """The command that runs `root/program` with the libraries of `root`, through that C library's own loader.

    A binary of a newer Debian needs a newer C library than the machine's; its loader has to be of the same age.
    """
    loaders = [path for folder in library_folders(root) for path in sorted(folder.glob("ld-linux*.so*"))]
    # A symbolic link of the package may point to the machine's own loader.
    usable = [path for path in loaders if path.is_file() and path.resolve().is_relative_to(root.resolve())]
    if not usable:
        raise LabError(f"{root} holds no dynamic loader; fetch it with dependencies=True")
    return [str(usable[0]), "--library-path", ":".join(map(str, library_folders(root))), str(root / program)]
