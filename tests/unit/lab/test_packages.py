"""Where packages come from, and how a slow or failing command is told about."""

import sys

import pytest

from lab import packages
from lab.packages import LabError

PRINT_URIS = """\
'http://mirror.example/debian/dists/bookworm/InRelease' mirror.example_debian_dists_bookworm_InRelease 0
'http://mirror.example/debian/dists/bookworm-updates/InRelease' x 0
'http://mirror.example/security/dists/bookworm-security/InRelease' x 0
'http://other.example/tools/dists/stable/InRelease' x 0
'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' x 0
"""
SOURCES = {
    "bookworm": "http://mirror.example/debian",
    "bookworm-updates": "http://mirror.example/debian",
    "bookworm-security": "http://mirror.example/security",
}


def test_only_the_distributions_own_archives_are_taken():
    assert packages.parse_sources(PRINT_URIS, "bookworm") == SOURCES


def test_the_older_name_of_a_security_suite_is_known():
    text = "'http://mirror.example/security/dists/buster/updates/InRelease' x 0\n"
    assert packages.parse_sources(text, "buster") == {"buster/updates": "http://mirror.example/security"}


def test_the_machines_own_suite_brings_its_updates():
    assert packages.sources_list(SOURCES, "bookworm", "bookworm", None).splitlines() == [
        "deb http://mirror.example/debian bookworm main",
        "deb http://mirror.example/debian bookworm-updates main",
        "deb http://mirror.example/security bookworm-security main",
    ]


def test_backports_come_with_what_they_build_upon():
    lines = packages.sources_list(SOURCES, "bookworm", "bookworm-backports", None).splitlines()
    assert len(lines) == 4
    assert lines[-1] == "deb http://mirror.example/debian bookworm-backports main"


def test_another_suite_stands_alone_on_the_machines_mirror_with_its_key(tmp_path):
    assert packages.sources_list(SOURCES, "bookworm", "trixie", tmp_path / "key.gpg") == (
        f"deb [signed-by={tmp_path}/key.gpg] http://mirror.example/debian trixie main\n"
    )


def test_a_machine_without_an_archive_is_told_what_to_do():
    with pytest.raises(LabError, match="sources.list"):
        packages.sources_list({}, "bookworm", "bookworm")


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("SWOS_NET_CACHE", str(tmp_path / "here"))
    assert packages.cache_directory() == tmp_path / "here"
    monkeypatch.delenv("SWOS_NET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert packages.cache_directory() == tmp_path / "swos_net/lab"


def test_a_command_that_is_quick_reports_nothing():
    said = []
    assert packages.run_reporting([sys.executable, "-c", "print('done')"], "trying", report=said.append) == "done\n"
    assert said == []


def test_a_failing_command_is_quoted():
    with pytest.raises(LabError, match=r"trying failed: .*no such thing"):
        packages.run_reporting([sys.executable, "-c", "import sys; sys.exit('no such thing')"], "trying", report=print)


def test_a_missing_program_is_named():
    with pytest.raises(LabError, match="no-such-program"):
        packages.run_reporting(["no-such-program"], "trying", report=print)


def test_a_long_command_reports_and_is_ended_at_its_deadline(monkeypatch):
    monkeypatch.setattr(packages, "PROGRESS_AFTER", 0.01)
    monkeypatch.setattr(packages, "PROGRESS_EVERY", 0.01)
    said = []
    with pytest.raises(LabError, match="not done after"):
        packages.run_reporting(
            [sys.executable, "-c", "import time; time.sleep(60)"], "waiting", deadline=0.05, report=said.append
        )
    assert said and said[0].startswith("waiting ... ")


def test_what_is_in_the_cache_is_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "run_reporting", lambda *_a, **_k: pytest.fail("a command was run"))
    monkeypatch.setattr(packages, "machine_suite", lambda: "bookworm")
    kept = tmp_path / "bookworm-arm64/linux-image-cloud-arm64"
    kept.mkdir(parents=True)
    assert packages.Packages("arm64", cache=tmp_path).unpack("linux-image-cloud-arm64*") == kept


def test_a_failed_fetch_leaves_nothing_and_names_the_piece_and_the_command(tmp_path, monkeypatch):
    def offline(command, what, **_options):
        raise LabError(f"{what} failed: no route")

    monkeypatch.setattr(packages, "run_reporting", offline)
    monkeypatch.setattr(packages, "machine_suite", lambda: "bookworm")
    with pytest.raises(LabError, match=r"busybox-static for arm64 .*no route.*setup_host\.py"):
        packages.Packages("arm64", cache=tmp_path).unpack("busybox-static")
    assert not (tmp_path / "bookworm-arm64/busybox-static").exists()
    assert not list((tmp_path / "bookworm-arm64").glob(".new-*"))


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "machine_suite", lambda: "bookworm")
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="SWOS_NET_CACHE"):
        packages.Packages("arm64", cache=tmp_path / "file").unpack("busybox-static")


def test_the_loader_is_the_trees_own(tmp_path):
    libraries = tmp_path / "usr/lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    (libraries / "ld-linux-x86-64.so.2").write_text("")
    assert packages.own_loader(tmp_path, "usr/bin/tool") == [
        str(libraries / "ld-linux-x86-64.so.2"),
        "--library-path",
        f"{libraries}:{tmp_path / 'usr/lib'}",
        str(tmp_path / "usr/bin/tool"),
    ]


def test_a_loader_that_leads_out_of_the_tree_is_not_used(tmp_path):
    folder = tmp_path / "tree/lib64"
    folder.mkdir(parents=True)
    (tmp_path / "ld").write_text("")
    (folder / "ld-linux-x86-64.so.2").symlink_to(tmp_path / "ld")
    with pytest.raises(LabError, match="dependencies=True"):
        packages.own_loader(tmp_path / "tree", "bin/tool")
