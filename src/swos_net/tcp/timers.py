"""Every deadline of one connection, as a number or None; what `next_deadline` says is derived from nothing else."""


class Timers:
    """Deadlines in seconds of the stack's clock."""

    __slots__ = ("delayed_ack", "keepalive", "loss_probe", "pacing", "persist", "reordering", "retransmission", "time_wait")

    def __init__(self) -> None:
        self.retransmission: float | None = None
        self.loss_probe: float | None = None  # RFC 8985 7: PTO
        self.reordering: float | None = None  # RFC 8985 6.2 step 5
        self.pacing: float | None = None
        self.persist: float | None = None
        self.delayed_ack: float | None = None
        self.keepalive: float | None = None
        self.time_wait: float | None = None  # also the end of an orphan's FIN-WAIT-2

    def next_deadline(self) -> float | None:
        deadline = self.retransmission
        for other in (self.delayed_ack, self.loss_probe, self.pacing, self.reordering, self.persist, self.keepalive, self.time_wait):
            if other is not None and (deadline is None or other < deadline):
                deadline = other
        return deadline

    def cancel_all(self) -> None:
        self.retransmission = self.persist = self.delayed_ack = None
        self.loss_probe = self.reordering = self.pacing = None
        self.keepalive = self.time_wait = None
