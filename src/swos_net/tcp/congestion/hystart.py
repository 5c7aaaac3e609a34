"""Slow start that stops before it overshoots: HyStart++ (RFC 9406).

L of section 4.3 is not bounded: an acknowledgment of a super-segment stands for one per segment (RFC 3465 2.2).
"""

MIN_RTT_THRESHOLD = 0.004
MAX_RTT_THRESHOLD = 0.016
MIN_RTT_DIVISOR = 8
RTT_SAMPLES = 8
CSS_GROWTH_DIVISOR = 4
CSS_ROUNDS = 5


class SlowStart:
    """Rounds of slow start, and of conservative slow start once the round-trip time rises (RFC 9406 4.2)."""

    __slots__ = ("_baseline", "_css_rounds", "_last_minimum", "_minimum", "_round_end", "_samples", "conservative", "enabled")

    def __init__(self, enabled: bool):
        self.enabled = enabled
        self.restart(after_loss=False)

    def restart(self, *, after_loss: bool) -> None:
        """A new slow start.  After a loss ssthresh is known and HyStart++ is not used (RFC 9406 4.3)."""
        if after_loss:
            self.enabled = False
        self.conservative = False
        self._round_end = -1
        self._last_minimum: float | None = None
        self._minimum: float | None = None
        self._samples = 0
        self._baseline = 0.0
        self._css_rounds = 0

    def on_ack(self, sample, mss: int) -> tuple[int, bool]:
        """(octets by which cwnd grows, whether slow start is over)."""
        if not self.enabled:
            return sample.delivered, False
        ended = False
        if sample.snd_una > self._round_end:
            self._round_end = sample.snd_nxt
            self._last_minimum = self._minimum
            self._minimum = None
            self._samples = 0
            if self.conservative:
                self._css_rounds += 1
                ended = self._css_rounds >= CSS_ROUNDS
        rtt = sample.rtt
        if rtt is not None:
            self._samples += 1
            if self._minimum is None or rtt < self._minimum:
                self._minimum = rtt
            if self._samples >= RTT_SAMPLES:
                self._compare()
        if self.conservative:
            return max(sample.delivered // CSS_GROWTH_DIVISOR, 1), ended
        return sample.delivered, ended

    def _compare(self) -> None:
        if self.conservative:
            if self._minimum < self._baseline:
                self.conservative = False  # the rise was spurious: slow start goes on
                self._css_rounds = 0
        elif self._last_minimum is not None:
            threshold = max(MIN_RTT_THRESHOLD, min(self._last_minimum / MIN_RTT_DIVISOR, MAX_RTT_THRESHOLD))
            if self._minimum >= self._last_minimum + threshold:
                self._baseline = self._minimum
                self.conservative = True
                self._css_rounds = 0
