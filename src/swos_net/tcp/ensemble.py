"""What concurrent connections to one host learn from each other (RFC 9040).

Only the latest round-trip time, so far: connections that fill one queue together see it grow at different moments.
"""


class Ensemble:
    """The connections of one stack to one remote address."""

    __slots__ = ("__weakref__", "measured_at", "measured_by", "rtt")

    def __init__(self) -> None:
        self.rtt = 0.0  # the latest sample of any of them, in seconds
        self.measured_at = 0.0
        self.measured_by = 0  # id() of a connection's block: a reference would keep it alive

    def measured(self, rtt: float, by: object, now: float) -> None:
        """`by` is the connection whose sample it is."""
        self.rtt = rtt
        self.measured_at = now
        self.measured_by = id(by)

    def rtt_of_others(self, than: object, since: float) -> float:
        """The latest sample, if another connection took it at `since` or later; else 0."""
        return self.rtt if self.measured_at >= since and self.measured_by != id(than) else 0.0
