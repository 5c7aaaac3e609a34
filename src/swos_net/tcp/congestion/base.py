"""What TCP asks of a congestion controller."""

from abc import ABC, abstractmethod


class CongestionController(ABC):
    """`cwnd` and `ssthresh` in bytes; the caller owns loss detection."""

    name: str
    __slots__ = ("cwnd", "mss", "ssthresh")

    def __init__(self, mss: int, initial_window_segments: int):
        self.mss = mss
        # RFC 6928 2: min(10 * MSS, max(2 * MSS, 14600))
        self.cwnd = min(initial_window_segments * mss, max(2 * mss, 1460 * initial_window_segments))
        self.ssthresh = 1 << 62

    @abstractmethod
    def on_ack(self, acked: int, in_flight: int, now: float, srtt: float | None) -> None:
        """`acked` new bytes were acknowledged outside recovery, while the window was in use."""

    @abstractmethod
    def on_loss(self, in_flight: int, now: float) -> None:
        """Loss was found by duplicate acknowledgements: once per window of data."""

    @abstractmethod
    def on_timeout(self, in_flight: int, now: float, first: bool) -> None:
        """The retransmission timer expired; `first` for the first time for this segment."""

    @abstractmethod
    def on_idle(self, now: float) -> None:
        """Nothing was sent for longer than an RTO (RFC 5681 4.1)."""
