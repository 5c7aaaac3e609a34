"""The page that stands for a directory without an index.html."""

import os
from html import escape
from itertools import islice
from urllib.parse import quote

ENTRIES_MAX = 10000


def directory_page(fd: int, path: bytes) -> bytes:
    """UTF-8 HTML of the directory open at `fd`, titled `Index of <path>`; directories first, then by name."""
    with os.scandir(fd) as found:
        entries = [(not _is_directory(entry), entry.name) for entry in islice(found, ENTRIES_MAX + 1)]
    cut = len(entries) > ENTRIES_MAX
    entries = sorted(entries[:ENTRIES_MAX])
    title = escape(f"Index of {path.decode('utf-8', 'replace')}")
    lines = [f'<!DOCTYPE html>\n<html>\n<head><meta charset="utf-8"><title>{title}</title></head>\n'
             f"<body>\n<h1>{title}</h1>\n<ul>"]
    if path != b"/":
        lines.append('<li><a href="../">../</a></li>')
    for is_file, name in entries:
        raw = os.fsencode(name)
        slash = "" if is_file else "/"
        lines.append(f'<li><a href="{quote(raw)}{slash}">{escape(raw.decode("utf-8", "replace"))}{slash}</a></li>')
    if cut:
        lines.append(f"<li>more than {ENTRIES_MAX} entries</li>")
    lines.append("</ul>\n</body>\n</html>\n")
    return "\n".join(lines).encode("utf-8")


def _is_directory(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
