"""What concurrent connections to one host learn from each other (RFC 9040).

Only the latest round-trip time, so far: connections that fill one queue together see it grow at different moments.
"""

from swos_net.dataplane.tcp_flow import new_ensemble


class Ensemble:
    """The connections of one stack to one remote address; `pointer` is where the data plane finds it."""

    __slots__ = ("__weakref__", "_c", "pointer")

    def __init__(self) -> None:
        self._c, self.pointer = new_ensemble()

    def measured(self, rtt: float, by: object, now: float) -> None:
        """The latest sample of any of them, in seconds; `by` is the connection whose sample it is."""
        c = self._c
        c.rtt = rtt
        c.measured_at = now
        c.measured_by = id(by)  # a reference would keep it alive

    def rtt_of_others(self, than: object, since: float) -> float:
        """The latest sample, if another connection took it at `since` or later; else 0."""
        c = self._c
        return c.rtt if c.measured_at >= since and c.measured_by != id(than) else 0.0
