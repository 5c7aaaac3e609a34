"""The variables of loss recovery, of one connection.  recovery.py, rack.py and tail_loss.py say what they mean."""

from enum import IntEnum


class Phase(IntEnum):
    """Values of tcpi_ca_state."""

    OPEN = 0
    DISORDER = 1  # something arrived out of order, nothing is given up yet
    CWR = 2       # the window shrinks after a congestion mark
    RECOVERY = 3  # losses are being repaired
    LOSS = 4      # after a retransmission timeout


class Recovery:
    """The variables of recovery; RFC 9937's and RFC 8985's names."""

    __slots__ = (
        "delivered_high", "delivered_total", "duplicate_acks", "dsack_round", "dsacks_received", "f_rto", "flight_at_start", "forced",
        "phase", "prefer_new", "prior_cwnd", "probe_end", "probe_flight", "probe_retransmitted", "probe_timer_since", "prr_delivered", "prr_out", "rack_end", "rack_rtt",
        "rack_sent_at", "recover", "reordering_seen", "retransmit_stamp", "stale_retransmissions", "undo_possible", "undo_start",
        "window_multiplier", "window_persist",
    )  # fmt: skip

    def __init__(self, iss: int):
        self.phase = Phase.OPEN
        self.recover = iss  # RFC 6582 3.2
        self.duplicate_acks = 0
        self.delivered_total = 0
        self.dsacks_received = 0
        # RFC 9937
        self.prr_delivered = 0
        self.prr_out = 0
        self.flight_at_start = 0
        self.forced = False  # one retransmission goes out whatever the window says
        # undoing
        self.undo_possible = False
        self.undo_start = 0  # snd_una at the reduction: a DSACK of what lies below is about something else
        self.prior_cwnd = 0
        self.retransmit_stamp: int | None = None  # timestamp of the first retransmission since the reduction
        self.stale_retransmissions = 0  # retransmitted segments that no DSACK has shown to be needless
        # RFC 5682
        self.f_rto = False
        self.prefer_new = False
        # RFC 8985 5.1, 6.2
        self.rack_sent_at = -1.0
        self.rack_end = 0
        self.rack_rtt = 0.0
        self.delivered_high = 0  # RACK.fack
        self.reordering_seen = False
        self.window_multiplier = 1
        self.window_persist = 16
        self.dsack_round: int | None = None
        # RFC 8985 7
        self.probe_end: int | None = None
        self.probe_flight = 0  # how much the flight had whose end the probe asks about
        self.probe_retransmitted = False
        self.probe_timer_since = 0.0
