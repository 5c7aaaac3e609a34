"""Time that passes only when it is told to."""


class FakeClock:
    """A clock for tests: `now` in seconds, never backwards.  Calling it gives `now`, as `clock.monotonic()` does."""

    __slots__ = ("now",)

    def __init__(self, now: float = 0.0):
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Lets `seconds` pass; returns the new time.  ValueError when they are negative."""
        if seconds < 0:
            raise ValueError(f"time does not go back by {-seconds} s")
        self.now += seconds
        return self.now

    def autojump(self, deadline: float | None) -> bool:
        """Jumps to `deadline`, the next time at which anything happens; returns whether time passed.

        A deadline that has passed already, or None, changes nothing.
        """
        if deadline is None or deadline <= self.now:
            return False
        self.now = deadline
        return True
