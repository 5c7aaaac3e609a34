"""Sequence numbers: 32 bits on the wire, unbounded integers inside.

A connection counts every byte since its ISN without wrapping, so that comparing two sequence numbers is comparing
two integers.  Only these two functions know about 2^32 (RFC 9293 3.4).
"""

MASK = 0xFFFFFFFF


def unwrap(wire: int, near: int) -> int:
    """The integer congruent to `wire` modulo 2^32 that lies closest to `near`."""
    return near + (((wire - near) + 0x80000000) & MASK) - 0x80000000


def newer_timestamp(a: int, b: int) -> bool:
    """Whether 32-bit timestamp `a` is later than `b` (RFC 7323 5.2)."""
    return 0 < ((a - b) & MASK) < 0x80000000
