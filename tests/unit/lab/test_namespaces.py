"""Names, the reasons why namespaces cannot be had, and two of them on a cable."""

import os

import pytest

from lab import namespaces
from lab.packages import LabError


def test_names_are_unique_and_short_enough_for_an_interface():
    names = {namespaces.unique_name("a-long-prefix") for _ in range(50)}
    assert len(names) == 50 and all(len(name) <= 15 for name in names)


def test_an_ordinary_user_is_told_to_use_sudo(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "sudo" in namespaces.why_not()
    with pytest.raises(LabError, match="root"):
        namespaces.Namespace()


def test_a_failing_command_is_quoted_unless_wanted():
    with pytest.raises(LabError, match="bad news"):
        namespaces.run("sh", "-c", "echo bad news >&2; exit 3")
    assert namespaces.run("sh", "-c", "exit 3", check=False).returncode == 3


@pytest.mark.skipif(bool(namespaces.why_not()), reason=namespaces.why_not() or "available")
def test_two_namespaces_on_a_cable_and_nothing_left_behind():
    with namespaces.Namespace() as one, namespaces.Namespace() as two:
        one.add_veth(two, ["192.0.2.1/24", "2001:db8::1/64"], ["192.0.2.2/24", "2001:db8::2/64"], mtu=1400)
        names = [one.name, two.name]
        assert b"mtu 1400" in one.run("ip", "link", "show", "veth0").stdout
        assert b"2001:db8::2" in two.run("ip", "-6", "addr", "show", "veth0").stdout
        two.add_tap("tap0", ["198.51.100.1/24"])
        before = os.readlink("/proc/thread-self/ns/net")
        with two.entered():
            assert os.readlink("/proc/thread-self/ns/net") != before
        assert os.readlink("/proc/thread-self/ns/net") == before
        child = one.start("sleep", "600")
    assert child.returncode == -9
    left = namespaces.run("ip", "netns", "list").stdout.decode()
    assert not any(name in left for name in names)


@pytest.mark.skipif(bool(namespaces.why_not()), reason=namespaces.why_not() or "available")
def test_what_a_killed_run_left_is_removed():
    abandoned = f"swosn7fffffffx{os.getpid()}"  # no process has a number that high
    namespaces.run("ip", "netns", "add", abandoned)
    with namespaces.Namespace() as here:
        left = namespaces.run("ip", "netns", "list").stdout.decode()
        assert here.name in left and abandoned not in left
