"""DNS messages: what is asked, what is understood, and that nothing a server sends does harm."""

import dnslib
import pytest
from hypothesis import given, strategies as st

from swos_net.address import parse_address
from swos_net.dns.message import Code, Kind, check_name, emit_query, parse_response, reverse_name
from swos_net.errors import WireError


def reply(query, *records, code=0, authority=(), truncated=False):
    answer = dnslib.DNSRecord.parse(query).reply()
    answer.header.rcode = code
    answer.header.tc = truncated
    for record in records:
        answer.add_answer(*dnslib.RR.fromZone(record))
    for record in authority:
        answer.add_auth(*dnslib.RR.fromZone(record))
    return answer.pack()


def test_a_question():
    query = emit_query(0xBEEF, "www.example.org", Kind.AAAA, 1232)
    assert query.hex() == (
        "beef01000001000000000001" "03777777076578616d706c65036f72670000" "1c0001" "00002904d0000000000000"
    )  # fmt: skip
    assert emit_query(1, "a.b", Kind.A, None).hex() == "000101000001000000000000" "016101620000010001"


def test_an_answer_with_an_alias():
    query = emit_query(7, "www.example.org", Kind.A, 1232)
    response = parse_response(reply(query, "www.example.org 60 CNAME web.example.net", "web.example.net 30 A 192.0.2.1"))
    assert (response.identifier, response.name, response.kind, response.code) == (7, "www.example.org", Kind.A, Code.NOERROR)
    assert [(record.name, record.kind, record.ttl, record.data) for record in response.answers] == [
        ("www.example.org", Kind.CNAME, 60, "web.example.net"),
        ("web.example.net", Kind.A, 30, parse_address("192.0.2.1")),
    ]


def test_an_absence_says_how_long_it_lasts():
    query = emit_query(7, "no.example.org", Kind.A, 1232)
    response = parse_response(reply(query, code=3, authority=["example.org 600 SOA ns.example.org me.example.org 1 2 3 4 120"]))
    assert (response.code, response.negative_ttl) == (Code.NXDOMAIN, 120)
    assert parse_response(reply(query, code=3)).negative_ttl is None


@pytest.mark.parametrize("message", [
    b"", b"\0" * 11, emit_query(7, "example.org", Kind.A, 1232),                        # a question is no response
    b"\0\7\x81\x80\0\1\0\1\0\0\0\0" + b"\1a\0\0\1\0\1" + b"\xc0\x13\0\1\0\1\0\0\0\0\0\4\1\2\3\4",  # points at itself
    b"\0\7\x81\x80\0\1\0\1\0\0\0\0" + b"\1a\0\0\1\0\1" + b"\xc0\x0c\0\1\0\1\0\0\0\0\0\3\1\2\3",    # three bytes of address
    b"\0\7\x81\x80\0\2\0\0\0\0\0\0" + b"\1a\0\0\1\0\1" * 2,                             # two questions
    b"\0\7\x81\x80\0\1\0\0\0\0\0\0" + b"\1a\0\0\1\0\3",                                 # class CHAOS
    b"\0\7\x89\x80\0\1\0\0\0\0\0\0" + b"\1a\0\0\1\0\1",                                 # opcode 1
])  # fmt: skip
def test_what_is_no_response(message):
    with pytest.raises(WireError):
        parse_response(message)


@given(st.binary(max_size=200), st.integers(0, 120), st.integers(0, 255))
def test_any_bytes_are_a_response_or_an_error(tail, position, byte):
    query = emit_query(7, "www.example.org", Kind.A, 1232)
    whole = bytearray(reply(query, "www.example.org 60 CNAME web.example.net", "web.example.net 30 AAAA 2001:db8::1") + tail)
    whole[position % len(whole)] = byte
    for message in (bytes(whole), bytes(whole[: len(whole) - len(tail) - position % 40]), tail):
        try:
            parse_response(message)
        except WireError:
            pass


def test_names_of_addresses():
    assert reverse_name(parse_address("192.0.2.10")) == "10.2.0.192.in-addr.arpa"
    assert reverse_name(parse_address("2001:db8::1")) == "1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa"


@pytest.mark.parametrize("name", ["", ".", "a..b", "a" * 64, "a." * 127 + "a", ".a", "b\u00fccher"])
def test_what_cannot_be_asked(name):
    with pytest.raises(ValueError, match="no domain name"):
        check_name(name)
