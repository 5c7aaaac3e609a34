"""The cpio writer against the format, read here by a few lines of its own and by the cpio tool where there is one."""

import gzip
import shutil
import stat
import subprocess

import pytest

from lab.initramfs import Archive


def read_newc(data):
    """[(name, mode, content)] of an archive; stops at the trailer."""
    entries, at = [], 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        at += 110 + name_size
        at += -at % 4
        content = data[at : at + size]
        at += size
        at += -at % 4
        if name == b"TRAILER!!!\0":
            return entries, data[at:]
        entries.append((name[:-1].decode(), mode, content))


def sample():
    archive = Archive()
    archive.file("/bin/tool", b"#!x", 0o755)
    archive.file("etc/deep/er/conf", "text\n")
    archive.link("bin/alias", "tool")
    archive.folder("/proc/")
    return archive


def test_entries_come_back_as_they_went_in():
    entries, rest = read_newc(sample().to_bytes(compress=False))
    assert entries == [
        ("bin", stat.S_IFDIR | 0o755, b""),
        ("bin/tool", stat.S_IFREG | 0o755, b"#!x"),
        ("etc", stat.S_IFDIR | 0o755, b""),
        ("etc/deep", stat.S_IFDIR | 0o755, b""),
        ("etc/deep/er", stat.S_IFDIR | 0o755, b""),
        ("etc/deep/er/conf", stat.S_IFREG | 0o644, b"text\n"),
        ("bin/alias", stat.S_IFLNK | 0o777, b"tool"),
        ("proc", stat.S_IFDIR | 0o755, b""),
    ]
    assert rest.strip(b"\0") == b""


@pytest.mark.parametrize("size", range(9))
def test_every_length_is_padded(size):
    archive = Archive()
    archive.file("n" * (size + 1), bytes(range(size)))
    archive.file("after", b"!")
    entries, _ = read_newc(archive.to_bytes(compress=False))
    assert [content for _, _, content in entries] == [bytes(range(size)), b"!"]


def test_inodes_differ():
    data = sample().to_bytes(compress=False)
    inodes = [data[at + 6 : at + 14] for at in range(len(data)) if data[at : at + 6] == b"070701"][:-1]
    assert len(set(inodes)) == len(inodes) == 8


def test_compression_is_gzip_and_repeatable():
    assert gzip.decompress(sample().to_bytes()) == sample().to_bytes(compress=False)
    assert sample().to_bytes() == sample().to_bytes()


def test_a_path_is_added_once():
    archive = sample()
    assert "bin/tool" in archive and "bin/other" not in archive
    with pytest.raises(ValueError, match="bin/tool"):
        archive.file("bin/tool", b"")


def test_a_copied_file_keeps_its_mode(tmp_path):
    source = tmp_path / "script"
    source.write_bytes(b"echo")
    source.chmod(0o750)
    archive = Archive()
    archive.copy("script", source)
    archive.copy("other", source, 0o600)
    entries, _ = read_newc(archive.to_bytes(compress=False))
    assert [(mode & 0o777, content) for _, mode, content in entries] == [(0o750, b"echo"), (0o600, b"echo")]


@pytest.mark.skipif(not shutil.which("cpio"), reason="no cpio tool to compare with: apt-get install cpio")
def test_the_cpio_tool_reads_it():
    result = subprocess.run(["cpio", "-t"], input=sample().to_bytes(compress=False), capture_output=True, check=True)
    assert result.stdout.decode().split() == [
        "bin",
        "bin/tool",
        "etc",
        "etc/deep",
        "etc/deep/er",
        "etc/deep/er/conf",
        "bin/alias",
        "proc",
    ]
