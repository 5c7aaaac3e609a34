"""SYN cookies (RFC 4987 3.6): a SYN,ACK that needs no memory, and what the ACK that comes back says.

The ISN carries the time, the peer's MSS as an index and a keyed hash of the flow; window scale, SACK and ECN ride in the
low bits of our timestamp, where the peer sent one.
"""

import hashlib
from typing import NamedTuple

COUNTER_SECONDS = 64
COUNTERS_VALID = 2  # a cookie lives for one to two of them
MSS_TABLE = (216, 536, 1024, 1220, 1360, 1440, 1460, 8960)  # what peers say: RFC 4987's idea, common sizes
TIMESTAMP_BITS = 6  # window scale 4 (15: none), SACK 1, ECN 1
_NO_SCALE = 15


class CookieOptions(NamedTuple):
    """What a SYN had, as far as a cookie can hold it."""

    mss: int
    window_scale: int | None
    sack_permitted: bool
    ecn: bool


def _hash(secret: bytes, flow: bytes, peer_isn: int, counter: int) -> int:
    data = flow + peer_isn.to_bytes(4, "big") + counter.to_bytes(8, "big")
    return int.from_bytes(hashlib.blake2b(data, key=secret + b"cookie", digest_size=3).digest(), "big")


def make(secret: bytes, flow: bytes, peer_isn: int, mss: int, now: float) -> int:
    """The ISN of a SYN,ACK: 5 bits of time, 3 of MSS, 24 of hash."""
    counter = int(now / COUNTER_SECONDS)
    index = max((number for number, size in enumerate(MSS_TABLE) if size <= mss), default=0)
    return (counter & 31) << 27 | index << 24 | (_hash(secret, flow, peer_isn, counter) + index & 0xFFFFFF)


def check(secret: bytes, flow: bytes, peer_isn: int, cookie: int, now: float) -> int | None:
    """The MSS in a cookie of ours that is not too old; None for any other number."""
    index = cookie >> 24 & 7
    current = int(now / COUNTER_SECONDS)
    for counter in range(current, max(current - COUNTERS_VALID, -1), -1):
        if counter & 31 == cookie >> 27 and (_hash(secret, flow, peer_isn, counter) + index & 0xFFFFFF) == cookie & 0xFFFFFF:
            return MSS_TABLE[index]
    return None


def stamp(timestamp: int, window_scale: int | None, sack_permitted: bool, ecn: bool) -> int:
    """A timestamp no later than `timestamp` that holds the options."""
    scale = _NO_SCALE if window_scale is None else min(window_scale, 14)
    bits = scale | sack_permitted << 4 | ecn << 5
    value = timestamp >> TIMESTAMP_BITS << TIMESTAMP_BITS | bits
    if value > timestamp:
        value -= 1 << TIMESTAMP_BITS
    return value & 0xFFFFFFFF


def options(mss: int, ts_ecr: int | None) -> CookieOptions:
    """What the ACK brings back; without a timestamp only the MSS is known."""
    if ts_ecr is None:
        return CookieOptions(mss, None, False, False)
    scale = ts_ecr & 15
    return CookieOptions(mss, None if scale == _NO_SCALE else scale, bool(ts_ecr & 16), bool(ts_ecr & 32))
