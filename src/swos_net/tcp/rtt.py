"""Round-trip time and retransmission timeout (RFC 6298)."""

from swos_net.config import TcpConfig


class RoundTripEstimator:
    """SRTT, RTTVAR and RTO in seconds."""

    __slots__ = ("_config", "_round_end", "backoff", "latest", "min_rtt", "rttvar", "srtt")

    def __init__(self, config: TcpConfig):
        self._config = config
        self.srtt: float | None = None
        self.rttvar = 0.0
        self.min_rtt: float | None = None
        self.latest: float | None = None
        self.backoff = 0
        self._round_end = -1

    def measured(self, rtt: float, snd_una: int = 0, snd_nxt: int = 0) -> None:
        """One sample that Karn's rule allows (RFC 6298 section 3).

        However many there are, one a round trip goes into the averages, or they would forget too soon (RFC 7323
        appendix G); a round lasts until what is in flight now is acknowledged.
        """
        self.latest = rtt
        self.backoff = 0
        if self.min_rtt is None or rtt < self.min_rtt:
            self.min_rtt = rtt
        if snd_una < self._round_end:
            return
        self._round_end = snd_nxt
        if self.srtt is None:
            self.srtt = rtt  # (2.2)
            self.rttvar = rtt / 2
        else:
            self.rttvar += (abs(self.srtt - rtt) - self.rttvar) / 4  # (2.3)
            self.srtt += (rtt - self.srtt) / 8

    @property
    def rto(self) -> float:
        config = self._config
        if self.srtt is None:
            base = config.rto_initial  # (2.1)
        else:
            # the floor goes under the variance, as Linux does: a steady path keeps its RTO near SRTT + rto_min
            base = self.srtt + max(4 * self.rttvar, config.rto_min)  # (2.4)
        return min(base * (1 << min(self.backoff, 16)), config.rto_max)  # (2.5), (5.5)
