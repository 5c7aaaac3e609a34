"""Fragments back to datagrams, for both families, within limits on memory, number and time.

Read first: RFC 791 3.2, RFC 815, RFC 8200 4.5, RFC 5722 (overlaps).  Which packet is a fragment and what becomes of
the datagram is the caller's; so is the Parameter Problem some of the drops call for.  The headers are not looked
into, so that neither congestion marks are merged (RFC 3168 5.3) nor the header chain of a first fragment is checked
for completeness (RFC 7112).
"""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

from swos_net.address import is_ipv4
from swos_net.config import ReassemblyConfig

# RFC 791 3.2, RFC 8200 4.5: source, destination (16 bytes each), protocol, identification.  The protocol of an IPv6
# fragment is no part of its identity: callers put one constant there.
Key = tuple[bytes, bytes, int, int]


@dataclass(slots=True)
class ReassembledDatagram:
    """`header` is that of the first fragment, as it arrived; `payload` is what all the fragments carried."""

    header: bytes
    payload: bytes


@dataclass(slots=True)
class TimedOut:
    """A datagram given up.  `first_fragment` is header and data of the fragment with offset 0, for a Time Exceeded
    message, or None when it has not come and no message is due (RFC 792, RFC 8200 4.5)."""

    key: Key
    first_fragment: bytes | None


@dataclass(slots=True)
class _Datagram:
    deadline: float
    offsets: list[int] = field(default_factory=list)  # sorted
    fragments: dict[int, bytes] = field(default_factory=dict)
    header: bytes = b""
    received: int = 0  # bytes of data
    total: int | None = None  # length, known from the last fragment
    abandoned: bool = False  # what still comes is dropped until the deadline


class Reassembler:
    """`counters` counts drops by reason: duplicate, zero_length, not_multiple_of_8, too_long, overlap, abandoned,
    too_many_fragments, evicted, timeout."""

    def __init__(self, config: ReassemblyConfig):
        self._config = config
        self._datagrams: dict[Key, _Datagram] = {}  # in the order of their deadlines: all wait equally long
        self._held = 0
        self.counters: Counter[str] = Counter()

    def __len__(self) -> int:
        """Datagrams under way, abandoned ones included."""
        return len(self._datagrams)

    @property
    def bytes_held(self) -> int:
        return self._held

    def fragment_received(self, key: Key, offset: int, more: bool, data: bytes, header: bytes,
                          now: float) -> ReassembledDatagram | None:
        """Takes one fragment; returns the datagram when it was the missing one.

        `offset` counts bytes; `data` is what follows the header in this fragment, without padding of the link;
        `header` is everything of the packet before `data`, an IPv6 Fragment header included.
        """
        if offset == 0 and not more:
            return ReassembledDatagram(bytes(header), bytes(data))  # RFC 6946 4: on its own, whatever else waits
        if not data:
            return self._drop("zero_length")  # it would never complete anything
        if more and len(data) % 8:
            return self._drop("not_multiple_of_8")  # RFC 8200 4.5
        end = offset + len(data)
        if _packet_length(key, header) + end > 65535:
            return self._drop("too_long")  # RFC 8200 4.5
        datagram = self._datagrams.get(key)
        if datagram is None:
            datagram = self._begin(key, now)
        elif datagram.abandoned:
            return self._drop("abandoned")
        if datagram.fragments.get(offset) == data and more == (end != datagram.total):
            return self._drop("duplicate")  # RFC 8200 4.5 lets an exact duplicate pass as none
        if self._overlaps(datagram, offset, end, more):
            # RFC 5722 4: the whole datagram goes, with the fragments still to come
            return self._abandon(datagram, "overlap")
        if len(datagram.offsets) >= self._config.fragments_per_datagram:
            return self._abandon(datagram, "too_many_fragments")
        self._keep(datagram, offset, data, header)
        if not more:
            datagram.total = end
        if datagram.received == datagram.total:  # without overlap, as many bytes as wanted means no hole
            return self._complete(key, datagram)
        self._make_room(key)
        return None

    def next_deadline(self) -> float | None:
        for datagram in self._datagrams.values():
            return datagram.deadline
        return None

    def handle_timeout(self, now: float) -> list[TimedOut]:
        """Gives up what is due; abandoned datagrams go without a word (RFC 5722 4)."""
        expired = []
        for key, datagram in self._datagrams.items():
            if datagram.deadline > now:
                break
            expired.append((key, datagram))
        timed_out = []
        for key, datagram in expired:
            self._forget(key, datagram)
            if not datagram.abandoned:
                self.counters["timeout"] += 1
                first = datagram.fragments.get(0)
                timed_out.append(TimedOut(key, None if first is None else datagram.header + first))
        return timed_out

    def _begin(self, key: Key, now: float) -> _Datagram:
        while len(self._datagrams) >= self._config.datagrams:
            self._evict(next(iter(self._datagrams)))
        # RFC 8200 4.5: counted from the first fragment to arrive, and not restarted
        datagram = self._datagrams[key] = _Datagram(now + self._config.timeout)
        return datagram

    @staticmethod
    def _overlaps(datagram: _Datagram, offset: int, end: int, more: bool) -> bool:
        """Whether bytes, or the end of the datagram, contradict what is there."""
        index = bisect_left(datagram.offsets, offset)
        if index:
            before = datagram.offsets[index - 1]
            if before + len(datagram.fragments[before]) > offset:
                return True
        if index < len(datagram.offsets) and datagram.offsets[index] < end:
            return True
        if datagram.total is not None:
            return not more or end > datagram.total
        return not more and index < len(datagram.offsets)  # data beyond the last fragment

    def _keep(self, datagram: _Datagram, offset: int, data: bytes, header: bytes) -> None:
        if offset == 0:
            datagram.header = bytes(header)
            self._held += len(header)
        datagram.offsets.insert(bisect_left(datagram.offsets, offset), offset)
        datagram.fragments[offset] = bytes(data)  # the caller's buffer is used again
        datagram.received += len(data)
        self._held += len(data)

    def _complete(self, key: Key, datagram: _Datagram) -> ReassembledDatagram | None:
        self._forget(key, datagram)
        if _packet_length(key, datagram.header) + datagram.received > 65535:
            return self._drop("too_long")  # the first fragment's header is longer than the others'
        payload = b"".join([datagram.fragments[offset] for offset in datagram.offsets])
        return ReassembledDatagram(datagram.header, payload)

    def _make_room(self, newest: Key) -> None:
        while self._held > self._config.bytes:
            oldest = next((key for key, datagram in self._datagrams.items()
                           if key != newest and not datagram.abandoned), newest)
            self._evict(oldest)

    def _evict(self, key: Key) -> None:
        self._forget(key, self._datagrams[key])
        self._drop("evicted")

    def _abandon(self, datagram: _Datagram, reason: str) -> None:
        self._held -= datagram.received + len(datagram.header)
        datagram.abandoned = True
        datagram.header = b""
        datagram.offsets.clear()
        datagram.fragments.clear()
        return self._drop(reason)

    def _forget(self, key: Key, datagram: _Datagram) -> None:
        del self._datagrams[key]
        if not datagram.abandoned:
            self._held -= datagram.received + len(datagram.header)

    def _drop(self, reason: str) -> None:
        self.counters[reason] += 1


def _packet_length(key: Key, header: bytes) -> int:
    """What the reassembled packet's length field counts besides the payload: for IPv4 the header, for IPv6 extension
    headers, without the fixed header and the Fragment header that goes."""
    return len(header) if is_ipv4(key[0]) else max(len(header) - 48, 0)
