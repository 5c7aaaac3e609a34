"""Reno: slow start and congestion avoidance (RFC 5681) with appropriate byte counting (RFC 3465)."""

from swos_net.tcp.congestion.base import CongestionController


class Reno(CongestionController):
    """RFC 5681 3.1; the bytes acknowledged in congestion avoidance add up until a window is through."""

    name = "reno"
    __slots__ = ("_acked_in_avoidance", "_initial_window")

    def __init__(self, mss: int, initial_window_segments: int):
        super().__init__(mss, initial_window_segments)
        self._initial_window = self.cwnd
        self._acked_in_avoidance = 0

    def on_ack(self, acked: int, in_flight: int, now: float, srtt: float | None) -> None:
        # RFC 7661's concern: a window that the application does not fill must not grow
        if in_flight + acked < self.cwnd // 2:
            return
        if self.cwnd < self.ssthresh:
            # RFC 3465 2.2 with L unbounded: an ACK that covers a super-segment stands for one per segment.  Past
            # ssthresh it does not jump: after a timeout one ACK may cover all that had arrived before (2.3)
            self.cwnd = min(self.cwnd + acked, max(self.ssthresh, self.cwnd + self.mss))
            return
        self._acked_in_avoidance += acked
        if self._acked_in_avoidance >= self.cwnd:
            self._acked_in_avoidance -= self.cwnd
            self.cwnd += self.mss  # RFC 3465 2.1

    def on_loss(self, in_flight: int, now: float) -> None:
        self.ssthresh = max(in_flight // 2, 2 * self.mss)  # RFC 5681 equation (4)
        self.cwnd = self.ssthresh
        self._acked_in_avoidance = 0

    def on_timeout(self, in_flight: int, now: float, first: bool) -> None:
        if first:
            self.ssthresh = max(in_flight // 2, 2 * self.mss)
        self.cwnd = self.mss  # RFC 5681 3.1: the loss window
        self._acked_in_avoidance = 0

    def on_idle(self, now: float) -> None:
        self.cwnd = min(self.cwnd, self._initial_window)  # RFC 5681 4.1: the restart window
