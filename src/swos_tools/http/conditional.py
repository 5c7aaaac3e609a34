"""Dates, validators, preconditions and byte ranges of RFC 9110, as functions of header values.

Nothing here touches a file or a clock.
"""

import time
from collections.abc import Mapping
from email.utils import mktime_tz, parsedate_tz

WEEKDAYS = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
LAST_SECOND = 253402300799  # of the year 9999: the format has four digits
DIGITS_MAX = 18             # of a position in a range; longer ones lie beyond every file


def format_date(seconds: int) -> bytes:
    """Seconds since 1970 as IMF-fixdate (RFC 9110 5.6.7)."""
    year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(min(max(seconds, 0), LAST_SECOND))
    return b"%b, %02d %b %04d %02d:%02d:%02d GMT" % (
        WEEKDAYS[weekday], day, MONTHS[month - 1], year, hour, minute, second)


def parse_date(value: bytes) -> int | None:
    """Any of the three date formats a recipient must take (RFC 9110 5.6.7) to seconds; None when it is none."""
    try:
        fields = parsedate_tz(value.decode("ascii"))
        return None if fields is None else int(mktime_tz(fields))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def refused_by_precondition(headers: Mapping[bytes, bytes], etag: bytes, modified: int) -> int:
    """304 or 412 when a precondition of a GET or HEAD says so, otherwise 0 (RFC 9110 13.2.2).

    `etag` is the strong entity tag with its quotes, `modified` the time of the last change in seconds.
    """
    value = headers.get(b"if-match")
    if value is not None:
        if not _names_tag(value, etag, weak=False):
            return 412
    elif (value := headers.get(b"if-unmodified-since")) is not None:
        date = parse_date(value)
        if date is not None and modified > date:
            return 412
    value = headers.get(b"if-none-match")
    if value is not None:
        # RFC 9110 13.1.3: with If-None-Match there, If-Modified-Since is ignored
        return 304 if _names_tag(value, etag, weak=True) else 0
    value = headers.get(b"if-modified-since")
    if value is not None:
        date = parse_date(value)
        if date is not None and modified <= date:
            return 304
    return 0


def requested_range(headers: Mapping[bytes, bytes], etag: bytes, modified: int, size: int,
                    now: int) -> tuple[int, int] | None:
    """(first, count) of the one range a GET asks for, or None for all of it; count 0 means unsatisfiable.

    A set of several ranges, an unknown unit and a malformed value are ignored, as RFC 9110 14.2 allows.
    """
    value = headers.get(b"range")
    if value is None or not value[:6].lower() == b"bytes=":
        return None
    condition = headers.get(b"if-range")
    if condition is not None and not _range_still_holds(condition, etag, modified, now):
        return None
    first, dash, last = value[6:].strip(b" \t").partition(b"-")
    if not dash or (first and not first.isdigit()) or (last and not last.isdigit()) or not first and not last:
        return None
    if not first:
        count = min(_position(last), size)
        # RFC 9110 14.1.2: a suffix of an empty representation is satisfiable, but 206 has no way to say so
        return None if not size and count < _position(last) else (size - count, count)
    start = _position(first)
    if not last:
        return (start, size - start) if start < size else (0, 0)
    end = _position(last)
    if end < start:
        return None
    return (start, min(end + 1, size) - start) if start < size else (0, 0)


def _position(digits: bytes) -> int:
    digits = digits.lstrip(b"0")
    return int(digits or b"0") if len(digits) <= DIGITS_MAX else 10 ** DIGITS_MAX


def _range_still_holds(condition: bytes, etag: bytes, modified: int, now: int) -> bool:
    """RFC 9110 13.1.5: strong comparison of a tag; a date must match exactly and be a second old (8.8.2.2)."""
    if condition.startswith((b'"', b"W/")):
        return condition == etag
    return parse_date(condition) == modified and modified < now


def _names_tag(value: bytes, etag: bytes, weak: bool) -> bool:
    """Whether a list of entity tags (RFC 9110 8.8.3.2) has `etag`, or is `*`; our tags hold no comma."""
    if value == etag or value == b"*":
        return True
    for tag in value.split(b","):
        tag = tag.strip(b" \t")
        if tag == etag or weak and tag[:2] == b"W/" and tag[2:] == etag:
            return True
    return False
