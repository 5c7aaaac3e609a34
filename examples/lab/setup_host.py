"""Set a machine up for the project: system packages with apt, Python packages in the project's own .venv, the C module.

What is there already is skipped; what will be installed is said first.  Runs with the system's Python and nothing else:

    python3 examples/lab/setup_host.py [--for demo|test|bench] [--guest aarch64|x86_64] [--guests]
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab.guest_image import ARCHITECTURES, build_guest  # noqa: E402
from lab.packages import LabError, Packages  # noqa: E402
from lab.qemu import QEMU_PACKAGES, find_emulator  # noqa: E402

PROJECT = Path(__file__).resolve().parents[2]
PURPOSES = ("demo", "test", "bench")
BUILD_REQUIREMENTS = ("setuptools>=64", "wheel", "cffi>=1.15")


class SetupError(RuntimeError):
    """Set-up cannot go on; the message names the missing piece and the command that installs it."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """Something a purpose needs: the packages that bring it (names with spaces between), and whether it is there.

    Without an optional one the purpose does less instead of failing; `without` says what is left out.
    """

    packages: str
    present: Callable[[], bool]
    without: str = ""


def say(line: str) -> None:
    """One line of progress."""
    print(f"set-up: {line}", flush=True)


def has_program(*names: str) -> Callable[[], bool]:
    """Whether one of the programs is there, also where only root's PATH has it."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return lambda: any(shutil.which(name, path=path) for name in names)


def has_module(name: str) -> Callable[[], bool]:
    """Whether this Python can import a module; asked of a new process, since packages may just have been installed."""
    return lambda: subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True).returncode == 0


def has_headers() -> bool:
    """Whether C modules can be built for this Python."""
    return Path(sysconfig.get_path("include"), "Python.h").is_file()


def has_testpmd() -> bool:
    """Whether DPDK's test program is there with the driver of virtio-user."""
    drivers = Path("/usr/lib").glob("*-linux-gnu*/dpdk/pmds-*/librte_net_virtio.so*")
    return has_program("dpdk-testpmd")() and any(drivers)


def requirements(purpose: str, guest: str) -> list[Requirement]:
    """What `purpose` needs of the system."""
    needed = [
        Requirement("gcc", has_program("gcc", "cc")),
        Requirement("libc6-dev", lambda: Path("/usr/include/stdio.h").is_file()),
        Requirement("python3-dev", has_headers),
        Requirement("python3-venv", has_module("ensurepip")),
        Requirement("make", has_program("make"), "no make targets"),
    ]
    guests = [guest] if purpose == "demo" else list(QEMU_PACKAGES)
    needed += [
        Requirement(
            QEMU_PACKAGES[name], has_program(f"qemu-system-{name}"), f"QEMU for {name} is unpacked into the cache"
        )
        for name in guests
    ]
    if purpose in ("test", "bench"):
        needed += [
            Requirement("cpio", has_program("cpio"), "no second opinion on the guests' archives"),
            Requirement("binutils", has_program("readelf"), "no guests with added programs"),
            Requirement("iproute2", has_program("ip"), "no tests against the Linux kernel"),
            Requirement("iputils-ping", has_program("ping"), "no ping tests"),
            Requirement("curl", has_program("curl"), "no tests with curl"),
            Requirement("iperf3", has_program("iperf3"), "no comparison with iperf3"),
            Requirement("wrk", has_program("wrk"), "no HTTP requests per second"),
            Requirement("openssl", has_program("openssl"), "no TLS tests"),
        ]
    if purpose == "test":
        # CPython's own tests, which Debian has in a package of its own
        suite = f"libpython3.{sys.version_info.minor}-testsuite"
        needed.append(Requirement(suite, has_module("test.test_asyncio"), "no conformance tests"))
        # who looks at a host from outside; tests/interop/test_black_box.py
        tools = {"nmap": "nmap", "hping3": "hping3", "thc-ipv6": "atk6-implementation6", "fping": "fping", "arping": "arping",
                 "ndisc6": "ndisc6", "ethtool": "ethtool"}  # fmt: skip
        needed += [Requirement(package, has_program(program), f"no tests with {package}") for package, program in tools.items()]
        needed.append(Requirement("dpdk-dev librte-net-virtio23 librte-mempool-ring23", has_testpmd, "no DPDK tests"))
    return needed


def privileged(command: list[str]) -> list[str]:
    """`command` as root: directly, or with sudo; SetupError when neither is possible."""
    if os.geteuid() == 0:
        return command
    if not shutil.which("sudo"):
        raise SetupError("installing needs root, and there is no sudo here")
    return ["sudo", *([] if sys.stdin.isatty() else ["--non-interactive"]), *command]


def install_system(needed: list[Requirement]) -> None:
    """Install what is missing with apt; SetupError when a piece that cannot be done without stays missing."""
    missing = [item for item in needed if not item.present()]
    if not missing:
        return
    names = " ".join(item.packages for item in missing)
    problem = "apt-get did not bring it"
    if shutil.which("apt-get"):
        say(f"will install these system packages with apt-get: {names}")
        try:
            # old lists may do as well: only what is there afterwards counts
            _apt("update")
            if not _apt("install", "-y", "--no-install-recommends", *names.split()):
                # one name unknown to this release keeps apt from installing any of them
                for item in missing:
                    _apt("install", "-y", "--no-install-recommends", *item.packages.split())
        except SetupError as error:
            problem = str(error)
    else:
        problem = "there is no apt-get here"
    still = [item for item in missing if not item.present()]
    for item in still:
        if item.without:
            say(f"{item.packages} missing: {item.without}")
    fatal = [item.packages for item in still if not item.without]
    if fatal:
        advice = f"apt-get update && apt-get install -y {names}"
        raise SetupError(f"{', '.join(fatal)} missing ({problem}); run as root: {advice}")


def _apt(*arguments: str) -> bool:
    command = privileged(["apt-get", "-qq", *arguments])
    return not subprocess.run(
        command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, stdout=subprocess.DEVNULL
    ).returncode


def build_key() -> str:
    """Changes with everything the environment or the C module is made of."""
    digest = hashlib.sha256(f"{PROJECT} {sys.executable} {sys.version}".encode())
    for path in [
        PROJECT / "setup.cfg",
        PROJECT / "setup.py",
        PROJECT / "pyproject.toml",
        PROJECT / "src/swos_net/version.py",
        *sorted((PROJECT / "vhost").glob("*.[chp]*")),
    ]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def dependency_key() -> str:
    """Changes with everything that decides which Python packages are installed."""
    digest = hashlib.sha256(f"{PROJECT} {sys.executable} {sys.version}".encode())
    for name in ("setup.cfg", "setup.py", "pyproject.toml"):
        digest.update((PROJECT / name).read_bytes())
    return digest.hexdigest()


def install_python(venv: Path) -> Path:
    """Make or bring up to date the environment `venv`; its Python."""
    python = venv / "bin/python"
    dependencies, build = venv / ".swos-dependencies", venv / ".swos-build"
    if not (python.exists() and _reads(dependencies, dependency_key())):
        say(
            f"will install into {venv}: {', '.join(BUILD_REQUIREMENTS)}, "
            "and swos_net with its test packages (setup.cfg)"
        )
        _run([sys.executable, "-m", "venv", str(venv)], f"making {venv}", "apt-get install python3-venv")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        retry = f"{sys.executable} {Path(__file__).relative_to(PROJECT)}"
        _run([*pip, *BUILD_REQUIREMENTS], f"installing {', '.join(BUILD_REQUIREMENTS)} (network needed)", retry)
        _run(
            [*pip, "--no-build-isolation", "--editable", f"{PROJECT}[test]"],
            "installing swos_net with its test packages (network and a C compiler needed)",
            retry,
        )
        dependencies.write_text(dependency_key())
        build.write_text(build_key())
    elif not _reads(build, build_key()) or not any((PROJECT / "src/swos_net").glob("_dataplane*.so")):
        say("building the C module")
        _run(
            [str(python), "setup.py", "--quiet", "build_ext", "--inplace", "--force"],
            "building the C module",
            "apt-get install gcc libc6-dev python3-dev",
        )
        build.write_text(build_key())
    return python


def _reads(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


def _run(command: list[str], what: str, advice: str) -> None:
    result = subprocess.run(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if result.returncode:
        lines = [line for line in result.stdout.strip().splitlines() if line.strip()]
        raise SetupError(f"{what} failed; when the cause is mended, run: {advice}\n  " + "\n  ".join(lines[-12:]))


def fetch_guests(architectures: list[str]) -> None:
    """Fill the cache, so that guests boot without a network later."""
    for architecture in architectures:
        say(f"QEMU {'.'.join(map(str, find_emulator(architecture).version))} for {architecture}")
        say(f"{architecture} guest: kernel {build_guest(architecture).kernel.name}")


def prepare(purpose: str, guest: str = "aarch64", venv: Path = PROJECT / ".venv") -> Path:
    """Everything `purpose` needs; the Python of the environment.  SetupError names what is missing."""
    install_system(requirements(purpose, guest))
    return install_python(venv)


def main() -> int:
    parser = argparse.ArgumentParser(description="Set this machine up for swos_net.")
    parser.add_argument("--for", dest="purpose", choices=PURPOSES, default="test", help="what to make ready for")
    parser.add_argument("--guest", choices=list(ARCHITECTURES), default="aarch64", help="the demo's guest")
    parser.add_argument("--guests", action="store_true", help="fetch the kernels and busybox of the guests now")
    parser.add_argument("--peers", action="store_true", help="fetch what the benchmarks compare with now")
    parser.add_argument(
        "--venv", type=Path, default=PROJECT / ".venv", help="the environment to make or bring up to date"
    )
    arguments = parser.parse_args()
    try:
        python = prepare(arguments.purpose, arguments.guest, arguments.venv.absolute())
        if arguments.guests:
            fetch_guests([arguments.guest] if arguments.purpose == "demo" else list(ARCHITECTURES))
        if arguments.peers:
            say(f"passt: {Packages(suite='trixie').unpack('passt', dependencies=True)}")
            say(f"QEMU 10: {find_emulator('x86_64', f'{Packages().codename}-backports').version}")
    except (SetupError, LabError) as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    say(f"ready: {python}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
