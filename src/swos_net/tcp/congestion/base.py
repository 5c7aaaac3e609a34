"""What TCP asks of a congestion controller."""

from abc import ABC, abstractmethod

from swos_net.tcp.congestion.hystart import SlowStart

SSTHRESH_UNKNOWN = 1 << 62


class AckSample:
    """One arriving acknowledgment, as a controller needs it; octets and seconds."""

    __slots__ = ("delivered", "in_flight", "marked", "rtt", "snd_nxt", "snd_una", "srtt", "window_full")

    def __init__(self, delivered: int, in_flight: int, rtt: float | None, srtt: float | None, snd_una: int, snd_nxt: int,
                 window_full: bool, marked: bool = False):  # fmt: skip
        self.delivered = delivered      # octets that the peer has now and had not before
        self.in_flight = in_flight      # octets still in the network
        self.rtt = rtt                  # measured by this acknowledgment, if it could be
        self.srtt = srtt
        self.snd_una = snd_una
        self.snd_nxt = snd_nxt
        self.window_full = window_full  # whether cwnd, not the application, limits what is sent (RFC 7661)
        self.marked = marked            # ECE was set


class CongestionController(ABC):
    """`cwnd` and `ssthresh` in octets.  The caller owns the detection of loss, and `cwnd` while it recovers."""

    name: str
    uses_ecn = False  # marks more than RFC 3168 lets others mark (RFC 8257)
    counts_every_ack = False  # else `on_ack_unlimited` will do where the application limits what is sent
    __slots__ = ("_initial_window", "_prior_ssthresh", "cwnd", "mss", "slow_start", "ssthresh")

    def __init__(self, mss: int, initial_window_segments: int, *, hystart: bool = True):
        self.agree(mss, initial_window_segments)
        self.ssthresh = SSTHRESH_UNKNOWN
        self.slow_start = SlowStart(hystart)
        self._prior_ssthresh = self.ssthresh

    def agree(self, mss: int, initial_window_segments: int) -> None:
        """Segments are that long from now on; before anything was sent, which the handshake says once more."""
        self.mss = mss
        # RFC 6928 2: min(10 * MSS, max(2 * MSS, 14600))
        self.cwnd = self._initial_window = min(initial_window_segments * mss, max(2 * mss, 1460 * initial_window_segments))

    def on_ack(self, sample: AckSample, now: float) -> None:
        """New octets were delivered, and nothing is being recovered."""
        if self.cwnd >= self.ssthresh:
            if sample.window_full:
                self.avoid_congestion(sample, now)
        elif sample.window_full:
            grown, ended = self.slow_start.on_ack(sample, self.mss)
            # past ssthresh it does not jump: after a timeout one ACK may cover all that had arrived before (RFC 3465 2.3)
            self.cwnd = min(self.cwnd + grown, max(self.ssthresh, self.cwnd + self.mss))
            if ended:
                self.ssthresh = self.cwnd

    def on_ack_unlimited(self, now: float) -> None:
        """As `on_ack` for a sample without `window_full`: the window stays as it is (RFC 7661 4.4)."""

    @abstractmethod
    def avoid_congestion(self, sample: AckSample, now: float) -> None:
        """The growth beyond ssthresh."""

    @abstractmethod
    def reduced(self, in_flight: int) -> int:
        """The new ssthresh when loss was found with that much in flight."""

    def on_loss(self, in_flight: int, now: float) -> None:
        """Loss or an ECN mark, once per window of data: sets `ssthresh`; the caller brings `cwnd` there."""
        self._prior_ssthresh = self.ssthresh
        self.ssthresh = max(self.reduced(in_flight), 2 * self.mss)

    def on_mark(self, in_flight: int, now: float) -> None:
        """The peer echoes a congestion mark (RFC 3168 6.1.2): as for a loss."""
        self.on_loss(in_flight, now)

    def on_timeout(self, in_flight: int, now: float, first: bool) -> None:
        """The retransmission timer expired; `first` for the first time for this segment."""
        if first:
            self.on_loss(in_flight, now)
        self.cwnd = self.mss  # RFC 5681 3.1: the loss window
        self.slow_start.restart(after_loss=True)

    def on_spurious(self, cwnd: int) -> None:
        """What `on_loss` answered was no loss (RFC 4015 3.2)."""
        self.cwnd = max(self.cwnd, cwnd)
        self.ssthresh = max(self.ssthresh, self._prior_ssthresh)

    def on_idle(self, now: float) -> None:
        """Nothing was sent for longer than an RTO (RFC 5681 4.1)."""
        self.ssthresh = max(self.ssthresh, 3 * self.cwnd // 4)  # RFC 7661 4.4.1: what the path carried is remembered
        self.cwnd = min(self.cwnd, self._initial_window)
        self.slow_start.restart(after_loss=False)
