"""Answers that are still good: positive ones for their TTL, negative ones as RFC 2308 says."""

from collections import OrderedDict
from typing import NamedTuple


class Entry(NamedTuple):
    """What is known of one (name, type): `records` are Record, none when there are none or (`exists` False) no name."""

    records: tuple
    exists: bool
    expires: float


class Cache:
    """By lower-case name and type; the least recently used make room."""

    def __init__(self, size: int):
        self.size = size
        self._entries: OrderedDict[tuple[str, int], Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str, kind: int, now: float) -> Entry | None:
        key = (name.lower(), kind)
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires <= now:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, name: str, kind: int, records: tuple, exists: bool, expires: float) -> None:
        key = (name.lower(), kind)
        self._entries[key] = Entry(records, exists, expires)
        self._entries.move_to_end(key)
        while len(self._entries) > self.size:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        self._entries.clear()
