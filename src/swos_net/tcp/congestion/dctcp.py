"""DCTCP (RFC 8257): for networks whose switches mark early.  The window shrinks by the share of marked octets."""

from swos_net.tcp.congestion.base import AckSample
from swos_net.tcp.congestion.reno import Reno

GAIN = 1 / 16  # RFC 8257 3.3: g


class Dctcp(Reno):
    """RFC 8257 3.3; grows like Reno, and answers loss like it (3.5)."""

    name = "dctcp"
    uses_ecn = True
    counts_every_ack = True
    __slots__ = ("_delivered_in_window", "_marked_in_window", "_window_end", "alpha")

    def __init__(self, mss: int, initial_window_segments: int, *, hystart: bool = True):
        super().__init__(mss, initial_window_segments, hystart=hystart)
        self.alpha = 1.0  # 4.2
        self._window_end = -1
        self._delivered_in_window = 0
        self._marked_in_window = 0

    def on_ack(self, sample: AckSample, now: float) -> None:
        self.observe(sample)
        super().on_ack(sample, now)

    def observe(self, sample: AckSample) -> None:
        """Steps 1 to 6 of 3.3: the fraction of octets marked, once per window."""
        self._delivered_in_window += sample.delivered
        if sample.marked:
            self._marked_in_window += sample.delivered
        if sample.snd_una <= self._window_end:
            return
        if self._delivered_in_window:
            self.alpha = (1 - GAIN) * self.alpha + GAIN * self._marked_in_window / self._delivered_in_window
        self._window_end = sample.snd_nxt
        self._delivered_in_window = self._marked_in_window = 0

    def on_mark(self, in_flight: int, now: float) -> None:
        self._prior_ssthresh = self.ssthresh
        self.ssthresh = max(int(self.cwnd * (1 - self.alpha / 2)), 2 * self.mss)  # 3.3 (9)
