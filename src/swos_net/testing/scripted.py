"""What a test wants to happen to one frame: this one is lost, that one comes late, whatever luck says.

    wire = link.towards(server)
    wire.drop(segment=3, times=3)                     # the third segment with data and its first two retransmissions
    wire.drop(offset=10_000)                          # what carries byte 10 000 of the stream, once
    wire.postpone(0.3, where=lambda packet: packet.flags & FIN)

Read first: packet.py.  A rule sees every frame of its direction; the first one that wants a frame gets it.
"""

from collections.abc import Callable
from typing import NamedTuple

from swos_net.testing.packet import Packet


class Action(NamedTuple):
    """What a rule does to its frames; `fate` is the word for it."""

    fate: str
    drop: bool = False
    delay: float = 0.0
    copies: int = 1
    mark: bool = False


DROP = Action("dropped", drop=True)
MARK = Action("marked", mark=True)


class Rule:
    """One line of a script; made by `Wire.drop` and its like.  `hits` are the packets it had."""

    def __init__(self, action: Action, *, segment: int | None = None, offset: int | None = None,
                 where: Callable[[Packet], object] | None = None, times: int | None = 1):  # fmt: skip
        """`segment`: the nth segment with new data (from 1), and whatever repeats its first byte.  `offset`: what
        carries this byte (from 0) of the first stream whose data the rule sees.  `where` further narrows, or chooses
        alone.  `times`: how often, None for always.
        """
        if segment is not None and offset is not None:
            raise ValueError("choose by segment or by offset")
        if (segment is not None and segment < 1) or (offset is not None and offset < 0):
            raise ValueError("segments are counted from 1, bytes from 0")
        if segment is None and offset is None and where is None and times is None:
            raise ValueError("a rule for every frame is an Impairment: change(loss=1.0)")
        self.action = action
        self.times = times
        self.hits: list[Packet] = []
        self._segment = segment
        self._offset = offset
        self._where = where
        self._ends: dict[bytes, int] = {}  # of the data seen so far, by flow
        self._seen = 0  # segments with new data
        self._target: tuple[bytes, int] | None = None  # flow and sequence number

    @property
    def done(self) -> bool:
        return self.times is not None and len(self.hits) >= self.times

    def wants(self, packet: Packet) -> bool:
        """Whether the rule takes this frame; to be asked once for every frame, in their order."""
        if self.done:
            return False
        if (self._segment is not None or self._offset is not None) and not self._carries(packet):
            return False
        if self._where is not None and not self._where(packet):
            return False
        self.hits.append(packet)
        return True

    def _carries(self, packet: Packet) -> bool:
        if not packet.is_tcp or not packet.length:
            return False
        seq = packet.seq + (packet.flags >> 1 & 1)
        if self._offset is not None and self._target is None:
            self._target = packet.flow, (seq + self._offset) & 0xFFFFFFFF
        elif self._segment is not None and self._target is None:
            end = self._ends.get(packet.flow)
            if end is None or 0 < (seq + packet.length - end) & 0xFFFFFFFF < 1 << 31:
                self._ends[packet.flow] = (seq + packet.length) & 0xFFFFFFFF
                self._seen += 1
                if self._seen == self._segment:
                    self._target = packet.flow, seq & 0xFFFFFFFF
        if self._target is None or self._target[0] != packet.flow:
            return False
        return (self._target[1] - seq) & 0xFFFFFFFF < packet.length
