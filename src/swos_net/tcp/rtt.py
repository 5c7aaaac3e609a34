"""Round-trip time and retransmission timeout (RFC 6298)."""

from swos_net.config import TcpConfig

RTO_AFTER_LOST_SYN = 3.0


class RoundTripEstimator:
    """SRTT, RTTVAR and RTO in seconds."""

    __slots__ = ("_backoff", "_config", "base", "latest", "min_rtt", "round_end", "rto", "rttvar", "srtt")

    def __init__(self, config: TcpConfig):
        self._config = config
        self.base = config.rto_initial  # the RTO without its bounds and backing off (2.1)
        self.rto = min(config.rto_initial, config.rto_max)  # with its backing off: (2.5), (5.5)
        self.srtt: float | None = None
        self.rttvar = 0.0
        self.min_rtt: float | None = None
        self.latest: float | None = None
        self._backoff = 0
        self.round_end = -1  # samples of what was sent before this do not go into the averages

    def syn_was_lost(self) -> None:
        """RFC 6298 (5.7): the handshake needed a retransmission and brought no sample: data begins with 3 s."""
        self.base = max(RTO_AFTER_LOST_SYN, self._config.rto_initial)
        self.backoff = 0

    def measured(self, rtt: float, snd_una: int = 0, snd_nxt: int = 0) -> None:
        """One sample that Karn's rule allows (RFC 6298 section 3).

        However many there are, one a round trip goes into the averages, or they would forget too soon (RFC 7323
        appendix G); a round lasts until what is in flight now is acknowledged.
        """
        self.latest = rtt
        if self._backoff:
            self.backoff = 0
        if self.min_rtt is None or rtt < self.min_rtt:
            self.min_rtt = rtt
        if snd_una < self.round_end:
            return
        self.round_end = snd_nxt
        if self.srtt is None:
            self.srtt = rtt  # (2.2)
            self.rttvar = rtt / 2
        else:
            self.rttvar += (abs(self.srtt - rtt) - self.rttvar) / 4  # (2.3)
            self.srtt += (rtt - self.srtt) / 8
        # the floor goes under the variance, as Linux does: a steady path keeps its RTO near SRTT + rto_min (2.4)
        variance = 4 * self.rttvar
        config = self._config
        base = self.base = self.srtt + (variance if variance > config.rto_min else config.rto_min)
        self.rto = base if base < config.rto_max else config.rto_max

    @property
    def backoff(self) -> int:
        """How often the timeout has been doubled since the last sample."""
        return self._backoff

    @backoff.setter
    def backoff(self, times: int) -> None:
        self._backoff = times
        self.rto = min(self.base * (1 << min(times, 16)), self._config.rto_max)
