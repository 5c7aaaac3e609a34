"""What is in flight: which bytes were sent when, which of them the peer has, and which are given up as lost.

A record stands for bytes that went out together, often a super-segment; it is split only where an acknowledgment or a
loss ends inside it, and neighbours that the peer has are joined.  So the list stays about as long as there are holes.
Sequence numbers are unbounded (seqnum.py).  Deciding what is lost is not done here but in rack.py and recovery.py.
"""

from bisect import bisect_left, bisect_right
from operator import attrgetter, itemgetter

_START = attrgetter("start")
_SENT_AT = itemgetter(0)


class Transmission:
    """Sequence space [start, end) that went out at `sent_at`, the last time if more than once."""

    __slots__ = ("end", "lost", "retransmissions", "sacked", "sent_at", "start")

    def __init__(self, start: int, end: int, sent_at: float, retransmissions: int = 0, sacked: bool = False, lost: bool = False):
        self.start = start
        self.end = end
        self.sent_at = sent_at
        self.retransmissions = retransmissions
        self.sacked = sacked  # the peer has it
        self.lost = lost      # given up: no longer in flight, waits to be sent again

    def __repr__(self) -> str:
        marks = "".join(mark for mark, on in (("S", self.sacked), ("L", self.lost), ("R", self.retransmissions)) if on)
        return f"[{self.start}:{self.end} {self.sent_at:.6f}{marks and ' ' + marks}]"


class Delivered:
    """What one arriving segment says was delivered: the sum of its acknowledgment and its SACK blocks."""

    __slots__ = ("duplicate_end", "duplicate_start", "newest_end", "newest_retransmitted", "newest_sent_at", "octets",
                 "original", "original_start", "retransmitted", "rtt_sent_at", "sacked_octets")  # fmt: skip

    def __init__(self) -> None:
        self.octets = 0         # newly delivered, in order or not
        self.sacked_octets = 0  # those of them that are out of order
        self.newest_sent_at = -1.0  # of the most recently sent record among them
        self.newest_end = 0
        self.newest_retransmitted = False
        self.rtt_sent_at: float | None = None  # the same among those sent only once (Karn)
        self.retransmitted = False  # whether anything sent more than once is among them
        self.original = False   # whether anything sent only once is among them
        self.original_start = -1  # the lowest of those
        self.duplicate_start = 0  # RFC 2883: what the peer received twice
        self.duplicate_end = 0

    def add(self, record: Transmission, start: int, end: int) -> None:
        """[start, end) of a record, which was not known to be delivered before."""
        self.octets += end - start
        sent_at = record.sent_at
        if sent_at > self.newest_sent_at or (sent_at == self.newest_sent_at and end > self.newest_end):
            self.newest_sent_at = sent_at
            self.newest_end = end
            self.newest_retransmitted = record.retransmissions > 0
        if not record.retransmissions:
            if not self.original:
                self.original = True
                self.original_start = start
                self.rtt_sent_at = sent_at
            else:
                if start < self.original_start:
                    self.original_start = start
                if sent_at > self.rtt_sent_at:
                    self.rtt_sent_at = sent_at
        else:
            self.retransmitted = True


class Scoreboard:
    """Records in the order of their sequence numbers, without gaps from snd_una to snd_nxt."""

    __slots__ = ("_lost_from", "by_time", "highest_sacked", "lost_octets", "records", "sacked_octets")

    def __init__(self) -> None:
        self.records: list[Transmission] = []
        self.sacked_octets = 0
        self.lost_octets = 0
        # the records that are in flight, by the time they went out, with others that no longer are: only while losses are
        # looked for (`in_time_order`)
        self.by_time: list[tuple[float, Transmission]] | None = None
        self._lost_from = 0  # no record below this is lost
        self.highest_sacked = 0  # end of the highest SACK block; meaningless while nothing is sacked

    def sent(self, start: int, end: int, now: float) -> None:
        """New data went out."""
        records = self.records
        if records:
            last = records[-1]
            if last.sent_at == now and not (last.retransmissions or last.sacked or last.lost):
                last.end = end
                return
        record = Transmission(start, end, now)
        records.append(record)
        if self.by_time is not None:
            self.by_time.append((now, record))

    def in_time_order(self) -> list[tuple[float, Transmission]]:
        """(sent_at, record) of everything in flight, the oldest first.  An entry whose record is sacked, lost or has gone
        out again since is out of date; who walks the list takes those out."""
        if self.by_time is None:
            entries = [(record.sent_at, record) for record in self.records if not record.sacked and not record.lost]
            entries.sort(key=_SENT_AT)
            self.by_time = entries
        return self.by_time

    @property
    def outstanding(self) -> int:
        """Octets between snd_una and snd_nxt."""
        records = self.records
        return records[-1].end - records[0].start if records else 0

    @property
    def in_flight(self) -> int:
        """RFC 6675's pipe: what is believed to be in the network."""
        records = self.records
        return records[-1].end - records[0].start - self.sacked_octets - self.lost_octets if records else 0

    def acknowledged(self, ack: int, delivered: Delivered) -> None:
        """Everything before `ack` has arrived."""
        records = self.records
        gone = 0
        for record in records:
            start, end = record.start, record.end
            if end > ack:
                if start >= ack:
                    break
                end = ack
                record.start = ack
            else:
                gone += 1
            if record.sacked:
                self.sacked_octets -= end - start
                continue
            if record.lost:
                self.lost_octets -= end - start
            delivered.add(record, start, end)
        if gone:
            for record in records[:gone]:
                record.sacked = True  # for `by_time`
            del records[:gone]
            if not records:
                self.by_time = None

    def selectively_acknowledged(self, left: int, right: int, delivered: Delivered) -> None:
        """The peer holds [left, right), out of order (RFC 2018)."""
        records = self.records
        if not self.sacked_octets:
            self.highest_sacked = 0
        index = first = max(bisect_right(records, left, key=_START) - 1, 0)
        changed = False
        while index < len(records):
            record = records[index]
            if record.start >= right:
                break
            if record.sacked or record.end <= left:
                index += 1
                continue
            if record.start < left:
                self.split(index, left)
                index += 1
                record = records[index]
            if record.end > right:
                self.split(index, right)
            octets = record.end - record.start
            if record.lost:
                record.lost = False
                self.lost_octets -= octets
            record.sacked = True
            self.sacked_octets += octets
            delivered.sacked_octets += octets
            delivered.add(record, record.start, record.end)
            changed = True
            index += 1
        if changed:
            if right > self.highest_sacked:
                self.highest_sacked = right
            self._join_sacked(first, index - 1)

    def _join_sacked(self, first: int, last: int) -> None:
        """Neighbours that are sacked become one record, from the one before `first` to the one after `last`."""
        records = self.records
        index = min(last + 1, len(records) - 1)
        while index > max(first - 1, 0):
            record, before = records[index], records[index - 1]
            if record.sacked and before.sacked:
                before.end = record.end
                del records[index]
            index -= 1

    def split(self, index: int, position: int) -> None:
        """Makes two records of one, the second beginning at `position`."""
        record = self.records[index]
        rest = Transmission(position, record.end, record.sent_at, record.retransmissions, record.sacked, record.lost)
        record.end = position
        self.records.insert(index + 1, rest)
        if self.by_time is not None and not rest.sacked and not rest.lost:
            self.by_time.insert(bisect_right(self.by_time, rest.sent_at, key=_SENT_AT), (rest.sent_at, rest))

    def mark_lost(self, record: Transmission) -> None:
        """Gives up one record that was in flight."""
        if not self.lost_octets or record.start < self._lost_from:
            self._lost_from = record.start
        record.lost = True
        self.lost_octets += record.end - record.start

    def mark_first_lost(self, length: int) -> None:
        """Gives up the first octets, at most `length` of them, unless the peer has them or they are given up already."""
        records = self.records
        if records and not records[0].sacked and not records[0].lost:
            if records[0].end - records[0].start > length:
                self.split(0, records[0].start + length)
            self.mark_lost(records[0])

    def mark_range_lost(self, start: int, end: int) -> None:
        """Gives up what of [start, end) is in flight."""
        records = self.records
        index = 0
        while index < len(records) and records[index].start < end:
            record = records[index]
            if record.end > start and not record.sacked and not record.lost:
                if record.start < start:
                    self.split(index, start)
                else:
                    if record.end > end:
                        self.split(index, end)
                    self.mark_lost(record)
            index += 1

    def mark_all_lost(self) -> None:
        """Gives up everything that the peer is not known to have."""
        for record in self.records:
            if not record.sacked and not record.lost:
                self.mark_lost(record)

    def unmark_lost(self) -> None:
        """Takes back every loss: it was spurious."""
        for record in self.records:
            record.lost = False
        self.lost_octets = 0
        self.by_time = None

    def forget_sacked(self) -> None:
        """The peer may have dropped what it reported (RFC 2018 8)."""
        for record in self.records:
            record.sacked = False
        self.sacked_octets = 0
        self.by_time = None

    def first_lost(self) -> int:
        """Index of the lowest record that waits to be sent again, -1 without one."""
        if not self.lost_octets:
            return -1
        records = self.records
        index = bisect_left(records, self._lost_from, key=_START)
        while not records[index].lost:
            index += 1
        self._lost_from = records[index].start
        return index

    def take_lost(self, index: int, length: int, now: float) -> Transmission:
        """The first `length` octets of a lost record go out again."""
        record = self.records[index]
        if record.end - record.start > length:
            self.split(index, record.start + length)
        self.lost_octets -= record.end - record.start
        record.lost = False
        self._went_again(record, now)
        return record

    def _went_again(self, record: Transmission, now: float) -> None:
        record.sent_at = now
        record.retransmissions += 1
        if self.by_time is not None:
            self.by_time.append((now, record))

    def take_last(self, length: int, now: float) -> Transmission | None:
        """The last octets, at most `length`, go out again as a probe (RFC 8985 7.3); None when the peer has them."""
        records = self.records
        if not records or records[-1].sacked:
            return None
        if records[-1].end - records[-1].start > length:
            self.split(len(records) - 1, records[-1].end - length)
        record = records[-1]
        if record.lost:
            record.lost = False
            self.lost_octets -= record.end - record.start
        self._went_again(record, now)
        return record

    def clear(self) -> None:
        self.records.clear()
        self.by_time = None
        self.sacked_octets = self.lost_octets = 0
