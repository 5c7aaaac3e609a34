"""Sets of half-open integer ranges: what arrived out of order."""

from bisect import bisect_left, bisect_right


class RangeSet:
    """Disjoint ranges [start, end) in order, none of which touches the next; at most `limit` of them."""

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
        ranges = self.ranges
        first = bisect_left(ranges, (start,))
        if first and ranges[first - 1][1] >= start:
            first -= 1
        last = bisect_right(ranges, (end + 1,))  # ranges[first:last] overlap or touch
        if first < last:
            start = min(start, ranges[first][0])
            end = max(end, ranges[last - 1][1])
        elif len(ranges) >= self.limit:
            return False
        ranges[first:last] = [(start, end)]
        return True

    def around(self, position: int) -> tuple[int, int] | None:
        """The range that holds `position`."""
        index = bisect_left(self.ranges, (position + 1,)) - 1
        return self.ranges[index] if index >= 0 and self.ranges[index][1] > position else None

    def first_overlap(self, start: int, end: int) -> tuple[int, int] | None:
        """The first part of [start, end) that is in the set."""
        ranges = self.ranges
        index = bisect_left(ranges, (start + 1,)) - 1
        if index < 0 or ranges[index][1] <= start:
            index += 1
        if index == len(ranges) or ranges[index][0] >= end:
            return None
        return max(start, ranges[index][0]), min(end, ranges[index][1])

    def take_from(self, position: int) -> int:
        """Removes what is in order at `position` and before; returns the position after it."""
        while self.ranges and self.ranges[0][0] <= position:
            position = max(position, self.ranges.pop(0)[1])
        return position

    def clear(self) -> None:
        self.ranges.clear()
