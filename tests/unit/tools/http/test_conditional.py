"""Dates, preconditions and ranges against RFC 9110."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_tools.http.conditional import (LAST_SECOND, format_date, parse_date,
                                         refused_by_precondition, requested_range)

TAG = b'"5-7"'
CHANGED = 784111777  # the RFC's own example: Sun, 06 Nov 1994 08:49:37 GMT
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
EARLIER = b"Sun, 06 Nov 1994 08:49:36 GMT"
NOW = CHANGED + 3600


def test_date_of_the_rfc():
    assert format_date(CHANGED) == DATE


@pytest.mark.parametrize("text", [DATE, b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994"])
def test_all_three_date_formats(text):
    assert parse_date(text) == CHANGED


@pytest.mark.parametrize("text", [b"", b"yesterday", b"Sun, 06 Foo 1994 08:49:37 GMT", b"\xff", b"Sun, 99 Nov 1994",
                                  b"Sun, 06 Nov 99999999999 08:49:37 GMT"])
def test_no_date(text):
    assert parse_date(text) is None


@given(st.integers(0, LAST_SECOND))
def test_dates_round_trip(seconds):
    assert parse_date(format_date(seconds)) == seconds


@given(st.integers(-2 ** 70, 2 ** 70))
def test_every_time_has_a_date_of_29_bytes(seconds):
    assert len(format_date(seconds)) == 29


@given(st.binary(max_size=40))
def test_no_bytes_upset_the_date_parser(value):
    date = parse_date(value)
    assert date is None or isinstance(date, int)


@pytest.mark.parametrize(("headers", "status"), [
    ({}, 0),
    ({b"if-none-match": TAG}, 304),
    ({b"if-none-match": b"*"}, 304),
    ({b"if-none-match": b"W/" + TAG}, 304),
    ({b"if-none-match": b'"a", W/"5-7" ,"b"'}, 304),
    ({b"if-none-match": b'"5-8"'}, 0),
    ({b"if-modified-since": DATE}, 304),
    ({b"if-modified-since": EARLIER}, 0),
    ({b"if-modified-since": b"nonsense"}, 0),
    # RFC 9110 13.1.3: ignored beside If-None-Match
    ({b"if-none-match": b'"5-8"', b"if-modified-since": DATE}, 0),
    ({b"if-match": TAG}, 0),
    ({b"if-match": b"*"}, 0),
    ({b"if-match": b"W/" + TAG}, 412),
    ({b"if-match": b'"5-8"'}, 412),
    ({b"if-unmodified-since": DATE}, 0),
    ({b"if-unmodified-since": EARLIER}, 412),
    ({b"if-unmodified-since": b"nonsense"}, 0),
    # RFC 9110 13.1.4: ignored beside If-Match
    ({b"if-match": TAG, b"if-unmodified-since": EARLIER}, 0),
    ({b"if-match": TAG, b"if-none-match": TAG}, 304),
])
def test_preconditions(headers, status):
    assert refused_by_precondition(headers, TAG, CHANGED) == status


@pytest.mark.parametrize(("value", "expected"), [
    (b"bytes=0-0", (0, 1)),
    (b"bytes=2-5", (2, 4)),
    (b"bytes=2-", (2, 8)),
    (b"bytes=-3", (7, 3)),
    (b"bytes=-300", (0, 10)),
    (b"bytes=8-300", (8, 2)),
    (b"bytes=0-99999999999999999999999999", (0, 10)),
    (b"bytes=00000000000000000000000000001-2", (1, 2)),
    (b"BYTES=1-2", (1, 2)),
    (b"bytes= 1-2 ", (1, 2)),
    (b"bytes=10-", (0, 0)),
    (b"bytes=10-12", (0, 0)),
    (b"bytes=99999999999999999999999999-", (0, 0)),
    (b"bytes=-0", (10, 0)),
    (b"bytes=5-4", None),
    (b"bytes=0-1,3-4", None),
    (b"bytes=", None),
    (b"bytes=-", None),
    (b"bytes=1", None),
    (b"bytes=a-b", None),
    (b"bytes=+1-2", None),
    (b"bytes=1--2", None),
    (b"lines=1-2", None),
    (b"", None),
])
def test_ranges_of_ten_bytes(value, expected):
    found = requested_range({b"range": value}, TAG, CHANGED, 10, NOW)
    assert found == expected


def test_without_range_all_of_it():
    assert requested_range({}, TAG, CHANGED, 10, NOW) is None


def test_ranges_of_nothing():
    assert requested_range({b"range": b"bytes=0-"}, TAG, CHANGED, 0, NOW) == (0, 0)
    assert requested_range({b"range": b"bytes=-5"}, TAG, CHANGED, 0, NOW) is None


@pytest.mark.parametrize(("condition", "holds"), [
    (TAG, True),
    (b'"5-8"', False),
    (b"W/" + TAG, False),
    (DATE, True),
    (EARLIER, False),
    (b"nonsense", False),
])
def test_if_range(condition, holds):
    found = requested_range({b"range": b"bytes=0-0", b"if-range": condition}, TAG, CHANGED, 10, NOW)
    assert found == ((0, 1) if holds else None)


def test_if_range_with_a_date_of_this_second_does_not_hold():
    # RFC 9110 8.8.2.2: a second change may follow within the same second
    assert requested_range({b"range": b"bytes=0-0", b"if-range": DATE}, TAG, CHANGED, 10, CHANGED) is None


@given(st.binary(max_size=30), st.integers(0, 100))
def test_a_range_lies_inside(value, size):
    found = requested_range({b"range": b"bytes=" + value}, TAG, CHANGED, size, NOW)
    if found is not None and found[1]:
        first, count = found
        assert 0 <= first and count > 0 and first + count <= size


@given(st.integers(0, 120), st.integers(0, 120), st.integers(1, 100))
def test_a_range_is_what_slicing_gives(first, last, size):
    content = bytes(range(size))
    found = requested_range({b"range": b"bytes=%d-%d" % (first, last)}, TAG, CHANGED, size, NOW)
    if last < first:
        assert found is None
    else:
        begin, count = found
        assert content[begin:begin + count] == content[first:last + 1]
