"""Reno: congestion avoidance of RFC 5681 with appropriate byte counting (RFC 3465)."""

from swos_net.tcp.congestion.base import AckSample, CongestionController


class Reno(CongestionController):
    """RFC 5681 3.1; the octets delivered in congestion avoidance add up until a window is through."""

    name = "reno"
    __slots__ = ("_delivered",)

    def __init__(self, mss: int, initial_window_segments: int, *, hystart: bool = True):
        super().__init__(mss, initial_window_segments, hystart=hystart)
        self._delivered = 0

    def avoid_congestion(self, sample: AckSample, now: float) -> None:
        self._delivered += sample.delivered
        if self._delivered >= self.cwnd:
            self._delivered -= self.cwnd
            self.cwnd += self.mss  # RFC 3465 2.1

    def reduced(self, in_flight: int) -> int:
        self._delivered = 0
        return in_flight // 2  # RFC 5681 equation (4)
