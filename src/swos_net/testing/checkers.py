"""Rules that every frame is held to while a simulated network runs.

    network.observe(Checksums())
    network.observe(PeerWindow())
    network.observe(NoNeedlessRetransmission())

A broken rule is an AssertionError out of `Network.run`, with the frames that led to it.  Read first: packet.py.  What is
checked is what a sender sent, before the wire did anything to it.
"""

import heapq
from collections import deque

from swos_net.dataplane.burst import DropReason
from swos_net.testing.packet import Crossing
from swos_net.testing.recorder import RelativeNumbers
from swos_net.wire.tcp import ACK, FIN, RST, SYN

SHOWN = 20  # frames before the one that broke a rule


class Checker:
    """An observer with a memory for what led to a failure.  Derived classes have `check(crossing)`."""

    def __init__(self) -> None:
        self._last: deque[Crossing] = deque(maxlen=SHOWN)
        self.checked = 0

    def __call__(self, crossing: Crossing) -> None:
        self._last.append(crossing)
        self.checked += 1
        self.check(crossing)

    def check(self, crossing: Crossing) -> None:
        raise NotImplementedError

    def fail(self, what: str) -> None:
        """AssertionError with the frames up to now."""
        numbers = RelativeNumbers()
        raise AssertionError("\n".join([what, *map(numbers.line, self._last)]))


class Checksums(Checker):
    """Every frame can be decoded, and its checksums are right."""

    def check(self, crossing: Crossing) -> None:
        if crossing.packet.problem:
            self.fail(f"a frame that no stack would take: {DropReason(crossing.packet.problem).name}")


class _Direction:
    """What was sent in one direction of a connection.  Sequence numbers are counted from `start`, without wrapping."""

    __slots__ = ("acked", "arriving", "edge", "edge_known", "end", "last_ack", "last_edge", "moved", "scale", "start", "trouble")

    def __init__(self, start: int):
        self.start = start       # sequence number of the first segment seen
        self.end = 0             # after everything sent
        self.scale: int | None = None  # of the windows it announces, as its SYN said
        self.acked = 0           # what it acknowledged, and how far it lets the other direction send, as far as
        self.edge = 0            # that has arrived there
        self.edge_known = False
        self.arriving: list[tuple[float, int, int]] = []  # on its way: when, acknowledgment, edge
        self.last_ack = -1
        self.last_edge = -1
        self.moved = False
        self.trouble = False     # something was lost, late, doubled, spoiled

    def offset(self, seq: int) -> int:
        """`seq` of the wire as a number near `end`."""
        return self.end + (((seq - self.start - self.end) + 0x80000000) & 0xFFFFFFFF) - 0x80000000


class ConnectionChecker(Checker):
    """Follows both directions of every connection.  Derived classes have `segment(crossing, packet, ours, theirs)`."""

    def __init__(self) -> None:
        super().__init__()
        self.directions: dict[tuple, _Direction] = {}

    def check(self, crossing: Crossing) -> None:
        packet = crossing.packet
        if not packet.is_tcp:
            return
        # a connection that crosses several links is followed on each
        wire = crossing.wire
        ours = self._direction((wire, packet.flow), packet.seq, packet.flags)
        theirs = self.directions.get((wire.opposite, packet.opposite))
        if theirs is None and packet.flags & ACK:
            theirs = self._direction((wire.opposite, packet.opposite), packet.ack, 0)
        self.segment(crossing, packet, ours, theirs)
        end = ours.offset(packet.seq) + packet.occupied
        if end > ours.end and not packet.flags & RST:
            ours.end = end

    def segment(self, crossing: Crossing, packet, ours: _Direction, theirs: "_Direction | None") -> None:
        """Before `ours.end` is moved by this segment."""
        raise NotImplementedError

    def _direction(self, key: tuple, seq: int, flags: int) -> _Direction:
        direction = self.directions.get(key)
        # the ports of a connection that has ended may be used again
        if direction is None or (flags & SYN and not flags & ACK and direction.end > 1 and seq != direction.start):
            direction = self.directions[key] = _Direction(seq)
        return direction


class PeerWindow(ConnectionChecker):
    """No data beyond the window that had reached its sender (RFC 9293 3.8.6); one byte may probe a closed one."""

    def segment(self, crossing, packet, ours, theirs) -> None:
        if packet.flags & SYN:
            ours.scale = packet.options.window_scale
        if packet.flags & ACK and theirs is not None and not packet.flags & RST:
            scale = 0 if packet.flags & SYN or ours.scale is None or theirs.scale is None else min(ours.scale, 14)
            ack = theirs.offset(packet.ack)
            for at in crossing.arrivals:
                heapq.heappush(ours.arriving, (at, ack, ack + (packet.window << scale)))
        if theirs is None:
            return
        while theirs.arriving and theirs.arriving[0][0] <= crossing.time:
            _, ack, edge = heapq.heappop(theirs.arriving)
            theirs.acked = max(theirs.acked, ack)
            theirs.edge = max(theirs.edge, edge)
            theirs.edge_known = True
        if packet.length and theirs.edge_known:
            beyond = ours.offset(packet.seq) + packet.length - theirs.edge
            probe = packet.length == 1 == beyond and theirs.acked == theirs.edge
            if beyond > 0 and not probe:
                self.fail(f"{beyond} bytes beyond the peer's window")


class NoNeedlessRetransmission(ConnectionChecker):
    """Nothing is sent twice on a connection of which every frame, up to now, arrived once, unspoiled and in order.

    Probes of a closed window and keepalives (one byte, or none) are no retransmissions.  The wire decides what was lost,
    so this is for the link on which that happens.
    """

    def segment(self, crossing, packet, ours, theirs) -> None:
        seq = ours.offset(packet.seq)
        again = packet.occupied and seq < ours.end and not (packet.length <= 1 and not packet.flags & (SYN | FIN))
        if again and not ours.trouble and not (theirs is not None and theirs.trouble):
            self.fail("sent again although nothing was lost")
        if crossing.fate and crossing.fate != "marked":
            ours.trouble = True


class SoundStream(ConnectionChecker):
    """New data follows what was sent before without a gap; acknowledgments cover only what was sent and never go back;
    the right edge of the window never moves left by more than its scale rounds off (RFC 9293 3.8.6)."""

    def segment(self, crossing, packet, ours, theirs) -> None:
        flags = packet.flags
        if flags & SYN:
            ours.scale = packet.options.window_scale
        if flags & RST:
            return
        seq = ours.offset(packet.seq)
        if seq > ours.end and ours.moved:
            self.fail(f"a gap of {seq - ours.end} bytes in what is sent")
        ours.moved = True
        if flags & ACK and theirs is not None:
            ack = theirs.offset(packet.ack)
            if ack > theirs.end and theirs.moved:
                self.fail(f"acknowledges {ack - theirs.end} bytes that were never sent")
            if ack < ours.last_ack:
                self.fail(f"the acknowledgment goes back by {ours.last_ack - ack}")
            scale = 0 if flags & SYN or ours.scale is None or theirs.scale is None else min(ours.scale, 14)
            edge = ack + (packet.window << scale)
            if edge < ours.last_edge - (1 << scale) + 1:
                self.fail(f"the right edge of the window moves left by {ours.last_edge - edge}")
            ours.last_ack = ack
            ours.last_edge = max(edge, ours.last_edge)


class SegmentCounts(ConnectionChecker):
    """No rule: counts what was sent, on the links observed, all connections together.

    `data` counts segments with payload, `again` those that repeat bytes sent before, `resets`, `pure_acks`, and bytes
    in `data_bytes` and `again_bytes`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.data = self.again = self.resets = self.pure_acks = self.data_bytes = self.again_bytes = 0

    def segment(self, crossing, packet, ours, theirs) -> None:
        if packet.flags & RST:
            self.resets += 1
        elif packet.length:
            self.data += 1
            self.data_bytes += packet.length
            repeated = min(ours.end - ours.offset(packet.seq), packet.length)
            if repeated > 0:
                self.again += 1
                self.again_bytes += repeated
        elif not packet.flags & (SYN | FIN):
            self.pure_acks += 1
