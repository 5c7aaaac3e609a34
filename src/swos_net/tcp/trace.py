"""A look into one connection: `tcb.trace`, a callable that is told what arrives, what goes out and what expires.

    trace(event, now, tcb, detail)    event: "received" (detail: Segment), "sent" (detail: SentSegment),
                                      "timeout" (detail: the deadline that has passed)

It is called before the event takes its effect, except for "sent"; it must not call the connection.  `log_to` makes one
that writes lines.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

_FLAGS = ((0x02, "S"), (0x01, "F"), (0x04, "R"), (0x08, "P"), (0x10, "."), (0x40, "E"), (0x80, "W"))

Trace = Callable[[str, float, Any, Any], None]


class SentSegment(NamedTuple):
    """A segment on its way out; longer than `segment_size` it is a super-segment."""

    seq: int
    ack: int
    flags: int
    window: int
    options: bytes
    length: int
    segment_size: int
    ecn: int


class TracedSink:
    """Passes segments on and tells the trace of them."""

    __slots__ = ("_now", "_sink", "_tcb")

    def __init__(self, sink: Any, tcb: Any, now: float):
        self._sink = sink
        self._tcb = tcb
        self._now = now

    def add_tcp(self, seq: int, ack: int, flags: int, window: int, options: bytes = b"", ring: Any = None, position: int = 0,
                length: int = 0, segment_size: int = 0, ecn: int = 0) -> None:  # fmt: skip
        self._sink.add_tcp(seq, ack, flags, window, options, ring, position, length, segment_size, ecn)
        self._tcb.trace("sent", self._now, self._tcb, SentSegment(seq, ack, flags, window, options, length, segment_size, ecn))


def flag_letters(flags: int) -> str:
    """tcpdump's letters."""
    return "".join(letter for bit, letter in _FLAGS if flags & bit) or "-"


def log_to(write: Callable[[str], Any]) -> Trace:
    """A trace of one line an event: time, event, sequence numbers relative to the ISNs, the window and what is in flight."""

    def trace(event: str, now: float, tcb: Any, detail: Any) -> None:
        if event == "received":
            seq = (detail.seq - tcb.irs) & 0xFFFFFFFF if tcb.irs_known else detail.seq
            ack = (detail.ack - tcb.iss) & 0xFFFFFFFF
            text = f"< {flag_letters(detail.flags)} {seq}({detail.length}) ack {ack} win {detail.window}"
        elif event == "sent":
            seq = (detail.seq - tcb.iss) & 0xFFFFFFFF
            ack = (detail.ack - tcb.irs) & 0xFFFFFFFF if tcb.irs_known else 0
            text = f"> {flag_letters(detail.flags)} {seq}({detail.length}) ack {ack} win {detail.window}"
        else:
            text = f"! {event} {detail:.6f}"
        board = tcb.scoreboard
        write(
            f"{now:.6f} {tcb.state.name} {text} | cwnd {tcb.congestion.cwnd} in flight {board.in_flight} "
            f"sacked {board.sacked_octets} lost {board.lost_octets} {tcb.recovery.phase.name}"
        )

    return trace
