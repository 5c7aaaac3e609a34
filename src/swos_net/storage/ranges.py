"""Sets of half-open integer ranges: what arrived out of order."""


class RangeSet:
    """Disjoint, sorted ranges [start, end); bounded by the caller through `limit`."""

    __slots__ = ("limit", "ranges")

    def __init__(self, limit: int = 256):
        self.ranges: list[tuple[int, int]] = []
        self.limit = limit

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __len__(self) -> int:
        return len(self.ranges)

    def add(self, start: int, end: int) -> bool:
        """Merges [start, end); False when there are too many holes and it was left out."""
        if start >= end:
            return True
        merged: list[tuple[int, int]] = []
        placed = False
        for low, high in self.ranges:
            if high < start:
                merged.append((low, high))
            elif low > end:
                if not placed:
                    merged.append((start, end))
                    placed = True
                merged.append((low, high))
            else:
                start = min(start, low)
                end = max(end, high)
        if not placed:
            merged.append((start, end))
            merged.sort()
        if len(merged) > self.limit:
            return False
        self.ranges = merged
        return True

    def take_from(self, position: int) -> int:
        """Removes what is in order at `position` and before; returns the position after it."""
        while self.ranges and self.ranges[0][0] <= position:
            position = max(position, self.ranges.pop(0)[1])
        return position

    def clear(self) -> None:
        self.ranges.clear()
