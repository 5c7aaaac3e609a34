"""What one direction of a link does to frames, as data: delay, rate, queue, loss and every other kind of bad luck.

Read first: nothing.  link.py does what is said here.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GilbertElliott:
    """Loss in bursts: a line that is now good, now bad (Gilbert 1960, Elliott 1963), and may change with every frame.

    All four are probabilities; a line begins good.
    """

    to_bad: float
    to_good: float
    loss_when_bad: float = 1.0
    loss_when_good: float = 0.0

    def __post_init__(self) -> None:
        for name in ("to_bad", "to_good", "loss_when_bad", "loss_when_good"):
            _check_probability(name, getattr(self, name))

    @classmethod
    def bursts(cls, average: float, length: float) -> "GilbertElliott":
        """Loses the share `average` of all frames, in runs of `length` frames on average."""
        _check_probability("average", average)
        if length < 1 or average >= length / (length + 1):
            raise ValueError("bursts are one frame long or longer, and need good times between them")
        return cls(to_bad=average / (1 - average) / length, to_good=1 / length)


@dataclass(frozen=True, slots=True)
class CoDel:
    """The queue discipline of RFC 8289: what waited for longer than `target` during an `interval` (both seconds) is
    dropped, or marked if it is ECN-capable and `ecn` is set (RFC 8289 does not say; RFC 8290 4.1.2 does)."""

    target: float = 0.005
    interval: float = 0.1
    ecn: bool = True


@dataclass(frozen=True, slots=True)
class Impairment:
    """What one direction of a link does to frames; `Wire.change` replaces parts of it in the middle of a run too.

    A frame first waits for its turn, is sent, and then meets its luck on the way:

    - `packet_max`: longer IP packets vanish (a router in front says so, see router.py); None for no limit.
    - `bandwidth`: bits per second, counted from the link header on; None for no limit.  Frames that wait for their
      turn wait in a queue of `queue_bytes` or `queue_packets` (what is being sent included; None: endless), which
      drops what does not fit.  What finds more than `ecn_threshold` bytes there is marked if it is ECN-capable
      (RFC 3168).  `codel` governs the queue besides.
    - `delay`: one way, in seconds: a round trip takes twice that.  `jitter`: as much again at most, evenly spread; it
      does not reorder.
    - `loss`: a probability, or a `GilbertElliott` for losses in bursts.
    - `duplicate`, `reorder`, `corrupt`: probabilities.  A duplicate arrives right behind its frame.  A reordered frame
      arrives `reorder_delay` seconds later and is overtaken.  In a corrupted one up to 15 bits in a row differ, which
      no checksum of the Internet misses (RFC 1071); only frames with IP packets are corrupted, since ARP has none.
    - `coalesce`: frames are handed over only at multiples of so many seconds, as by a network card that holds its
      interrupts back.
    """

    delay: float = 0.0005
    jitter: float = 0.0
    bandwidth: float | None = None
    queue_bytes: int | None = None
    queue_packets: int | None = None
    ecn_threshold: int | None = None
    codel: CoDel | None = None
    loss: float | GilbertElliott = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_delay: float = 0.01
    corrupt: float = 0.0
    packet_max: int | None = None
    coalesce: float = 0.0

    def __post_init__(self) -> None:
        for name in ("duplicate", "reorder", "corrupt"):
            _check_probability(name, getattr(self, name))
        if not isinstance(self.loss, GilbertElliott):
            _check_probability("loss", self.loss)
        for name in ("delay", "jitter", "reorder_delay", "coalesce"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is in seconds and not negative, not {getattr(self, name)}")
        for name in ("bandwidth", "queue_bytes", "queue_packets", "packet_max"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name} is positive, or None for no limit, not {getattr(self, name)}")
        if self.bandwidth is None:
            for name in ("queue_bytes", "queue_packets", "ecn_threshold", "codel"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is about a queue, and without a bandwidth nothing waits in it")


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability: 0 to 1, not {value}")
