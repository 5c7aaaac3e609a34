"""What set-up decides to install, and what it says when it cannot."""

import subprocess

import pytest

from lab import setup_host
from lab.setup_host import Requirement, SetupError


@pytest.fixture
def commands(monkeypatch):
    """Records the commands; nothing is run."""
    ran = []

    def run(command, **_options):
        ran.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="")

    monkeypatch.setattr(setup_host.subprocess, "run", run)
    monkeypatch.setattr(setup_host.os, "geteuid", lambda: 0)
    monkeypatch.setattr(setup_host.shutil, "which", lambda name, **_options: f"/usr/bin/{name}")
    return ran


def test_what_is_there_is_skipped(commands):
    setup_host.install_system([Requirement("gcc", lambda: True), Requirement("make", lambda: True, "no make")])
    assert commands == []


def test_only_the_missing_is_installed_and_said_before(commands, capsys):
    def present():
        return bool(commands)

    setup_host.install_system([Requirement("gcc", present), Requirement("make", lambda: True)])
    assert [command[:3] for command in commands] == [["apt-get", "-qq", "update"], ["apt-get", "-qq", "install"]]
    assert commands[1][-1] == "gcc" and "make" not in commands[1]
    assert "will install these system packages with apt-get: gcc" in capsys.readouterr().out


def test_one_name_that_apt_does_not_know_keeps_nothing_else_away(monkeypatch):
    installed = set()

    def run(command, **_options):
        names = command[command.index("--no-install-recommends") + 1 :] if "install" in command else []
        if "unheard-of" not in names:
            installed.update(names)
        return subprocess.CompletedProcess(command, int("unheard-of" in names))

    monkeypatch.setattr(setup_host.subprocess, "run", run)
    monkeypatch.setattr(setup_host.os, "geteuid", lambda: 0)
    monkeypatch.setattr(setup_host.shutil, "which", lambda name, **_options: name)
    setup_host.install_system(
        [
            Requirement("unheard-of", lambda: False, "less"),
            Requirement("gcc libc6-dev", lambda: {"gcc", "libc6-dev"} <= installed),
        ]
    )
    assert installed == {"gcc", "libc6-dev"}


def test_an_ordinary_user_gets_sudo_and_without_it_the_command(commands, monkeypatch):
    monkeypatch.setattr(setup_host.os, "geteuid", lambda: 1000)
    assert setup_host.privileged(["apt-get", "update"])[0] == "sudo"
    monkeypatch.setattr(setup_host.shutil, "which", lambda name, **_options: None if name == "sudo" else name)
    with pytest.raises(SetupError, match="no sudo"):
        setup_host.privileged(["apt-get", "update"])
    with pytest.raises(SetupError, match=r"gcc missing .*run as root: apt-get update && apt-get install -y gcc make"):
        setup_host.install_system(
            [Requirement("gcc", lambda: False), Requirement("make", lambda: False, "no make targets")]
        )


def test_a_piece_that_can_be_done_without_is_only_mentioned(commands, capsys):
    setup_host.install_system([Requirement("curl", lambda: False, "no tests with curl")])
    assert "curl missing: no tests with curl" in capsys.readouterr().out


def test_the_demo_needs_only_its_own_emulator():
    demo = [item.packages for item in setup_host.requirements("demo", "x86_64")]
    assert "qemu-system-x86" in demo and "qemu-system-arm" not in demo and "iperf3" not in demo
    test = [item.packages for item in setup_host.requirements("test", "aarch64")]
    assert {"qemu-system-x86", "qemu-system-arm", "iproute2"} <= set(test)


def test_a_changed_header_means_a_new_build(tmp_path, monkeypatch):
    for folder in ("vhost", "src/swos_net"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "src/swos_net/version.py", "vhost/vring.h"):
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(setup_host, "PROJECT", tmp_path)
    build, dependencies = setup_host.build_key(), setup_host.dependency_key()
    (tmp_path / "vhost/vring.h").write_text("2")
    assert setup_host.build_key() != build and setup_host.dependency_key() == dependencies
    (tmp_path / "setup.cfg").write_text("2")
    assert setup_host.dependency_key() != dependencies


def test_a_failing_step_shows_its_last_lines_and_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(setup_host, "PROJECT", tmp_path)
    with pytest.raises(SetupError, match=r"(?s)building failed.*apt-get install gcc.*no compiler"):
        setup_host._run(["sh", "-c", "echo no compiler; exit 1"], "building", "apt-get install gcc")
