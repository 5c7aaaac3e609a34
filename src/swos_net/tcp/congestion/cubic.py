"""CUBIC (RFC 9438).  Windows are in segments here, as in the RFC, and in octets outside."""

from swos_net.tcp.congestion.base import AckSample, CongestionController

C = 0.4      # RFC 9438 5
BETA = 0.7   # 4.6
ALPHA = 3 * (1 - BETA) / (1 + BETA)  # 4.3: as fast as Reno while below cwnd_prior


class Cubic(CongestionController):
    """The names are RFC 9438 4.1.2's."""

    name = "cubic"
    __slots__ = ("_before_loss", "_cwnd_prior", "_epoch_start", "_fraction", "_k", "_updated", "_w_est", "_w_max")

    def __init__(self, mss: int, initial_window_segments: int, *, hystart: bool = True):
        super().__init__(mss, initial_window_segments, hystart=hystart)
        self._w_max = 0.0
        self._k = 0.0
        self._w_est = 0.0
        self._cwnd_prior = 0.0
        self._epoch_start: float | None = None
        self._updated = 0.0
        self._fraction = 0.0  # octets of growth that are not a whole one yet
        self._before_loss: tuple[float, float | None, float, float, float] = (0.0, None, 0.0, 0.0, 0.0)

    def on_ack(self, sample: AckSample, now: float) -> None:
        if sample.window_full:
            self._updated = now
            super().on_ack(sample, now)
        else:
            self.on_ack_unlimited(now)

    def on_ack_unlimited(self, now: float) -> None:
        if self._epoch_start is not None:
            self._epoch_start += now - self._updated  # 4.2, 5.8: time in which the window was not used does not count
        self._updated = now

    def avoid_congestion(self, sample: AckSample, now: float) -> None:
        mss = self.mss
        cwnd = self.cwnd / mss
        if self._epoch_start is None:
            self._begin_epoch(cwnd, now)
        elapsed = now - self._epoch_start
        segments = sample.delivered / mss
        # 4.3: the window that Reno would have; as fast as Reno itself once the window is back where it was
        self._w_est += (ALPHA if self._w_est < self._cwnd_prior else 1.0) * segments / cwnd
        w_cubic = C * (elapsed - self._k) ** 3 + self._w_max
        if w_cubic < self._w_est:
            grown = max(self._w_est - cwnd, 0.0)
        else:
            ahead = C * (elapsed + (sample.srtt or 0.0) - self._k) ** 3 + self._w_max
            target = min(max(ahead, cwnd), 1.5 * cwnd)  # 4.2
            grown = (target - cwnd) / cwnd * segments
        self._fraction += grown * mss
        whole = int(self._fraction)
        self._fraction -= whole
        self.cwnd += whole

    def _begin_epoch(self, cwnd: float, now: float) -> None:
        self._epoch_start = now
        self._w_est = cwnd
        if cwnd < self._w_max:
            self._k = ((self._w_max - cwnd) / C) ** (1 / 3)  # 4.2, figure 2
        else:
            self._k = 0.0  # 4.8: after a timeout, or when slow start left by itself
            self._w_max = cwnd

    def reduced(self, in_flight: int) -> int:
        self._before_loss = (self._w_max, self._epoch_start, self._k, self._w_est, self._cwnd_prior)
        cwnd = self._cwnd_prior = self.cwnd / self.mss
        # 4.7: a flow that reached less than the last time makes room for newcomers
        self._w_max = cwnd * (1 + BETA) / 2 if cwnd < self._w_max else cwnd
        self._epoch_start = None
        self._fraction = 0.0
        return int(in_flight * BETA)  # 4.6

    def on_timeout(self, in_flight: int, now: float, first: bool) -> None:
        super().on_timeout(in_flight, now, first)
        self._w_max = 0.0  # 4.8: the next epoch has K = 0 and begins at its own W_max
        self._epoch_start = None

    def on_spurious(self, cwnd: int) -> None:
        super().on_spurious(cwnd)
        self._w_max, self._epoch_start, self._k, self._w_est, self._cwnd_prior = self._before_loss  # 4.9

    def on_idle(self, now: float) -> None:
        super().on_idle(now)
        self._epoch_start = None  # 5.8: time without sending does not count as growth
