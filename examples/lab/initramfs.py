"""cpio archives (the "newc" format, which the kernel unpacks as its first root) written in Python.

Read the kernel's "initramfs buffer format" for the layout.  It does not read archives.
"""

import gzip
import os
import stat
from pathlib import Path


class Archive:
    """Collects files for a newc archive; every parent folder is made when its first file is added."""

    def __init__(self):
        self._parts: list[bytes] = []
        self._seen: set[str] = set()

    def folder(self, path: str) -> None:
        """Add a folder and its parents."""
        path = path.strip("/")
        if not path or path in self._seen:
            return
        self.folder(os.path.dirname(path))
        self._add(path, stat.S_IFDIR | 0o755, b"")

    def file(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        """Add a regular file; a second file of the same path is refused with ValueError."""
        path = path.strip("/")
        if path in self._seen:
            raise ValueError(f"{path} is in the archive already")
        self.folder(os.path.dirname(path))
        self._add(path, stat.S_IFREG | mode, content.encode() if isinstance(content, str) else content)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        path = path.strip("/")
        self.folder(os.path.dirname(path))
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def copy(self, path: str, source: Path, mode: int | None = None) -> None:
        """Add a file of this machine, links followed, with its own permission bits unless `mode` is given."""
        self.file(path, source.read_bytes(), source.stat().st_mode & 0o777 if mode is None else mode)

    def __contains__(self, path: str) -> bool:
        return path.strip("/") in self._seen

    def to_bytes(self, *, compress: bool = True) -> bytes:
        """The whole archive, gzip-compressed unless told not to; the same contents always give the same bytes."""
        plain = b"".join([*self._parts, _record("TRAILER!!!", 0, 0, 0, b"")])
        plain += bytes(-len(plain) % 512)
        return gzip.compress(plain, 6, mtime=0) if compress else plain

    def _add(self, path: str, mode: int, content: bytes) -> None:
        self._seen.add(path)
        self._parts.append(_record(path, len(self._seen), mode, 2 if stat.S_ISDIR(mode) else 1, content))


def _record(name: str, inode: int, mode: int, links: int, content: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    # c_magic, then 13 fields of 8 hexadecimal digits: ino mode uid gid nlink mtime filesize devmajor devminor
    # rdevmajor rdevminor namesize check
    fields = (inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    # Name and data are each padded to a multiple of four bytes.
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
