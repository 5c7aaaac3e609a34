"""Echo replies of both families."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.address import parse_address
from swos_net.icmp.echo import echo_reply, reflected_options
from swos_net.wire import icmpv4, icmpv6

US, PEER = parse_address("10.0.2.2"), parse_address("10.0.2.15")
US6, PEER6 = parse_address("fe80::2"), parse_address("fe80::15")


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5 + b"odd"])
def test_reply_carries_everything_back(data):
    request = icmpv4.emit(icmpv4.echo_request(0x1234, 0xFFFE, data))
    reply = icmpv4.parse(echo_reply(request, US, PEER))  # checks the checksum
    assert (reply.type, reply.code, reply.identifier, reply.sequence, reply.payload) == (0, 0, 0x1234, 0xFFFE, data)
    request = icmpv6.emit(icmpv6.echo_request(0x1234, 0xFFFE, data), PEER6, US6)
    reply = icmpv6.parse(echo_reply(request, US6, PEER6), US6, PEER6)
    assert (reply.type, reply.code, reply.identifier, reply.sequence, reply.payload) == (129, 0, 0x1234, 0xFFFE, data)


def test_reply_to_a_multicast_request_leaves_from_our_own_address():
    request = icmpv6.emit(icmpv6.echo_request(1, 2, b"hello"), PEER6, parse_address("ff02::1"))
    assert icmpv6.parse(echo_reply(request, US6, PEER6), US6, PEER6).payload == b"hello"


@pytest.mark.parametrize("request_, source, destination", [
    (icmpv4.emit(icmpv4.echo_reply(1, 2, b"")), US, PEER),
    (icmpv4.emit(icmpv4.unreachable(3, bytes(28))), US, PEER),
    (icmpv6.emit(icmpv6.echo_request(1, 2, b""), PEER6, US6), US, PEER),  # the type of the other family
    (icmpv4.emit(icmpv4.echo_request(1, 2, b"")), US6, PEER6),
    (icmpv6.emit(icmpv6.echo_reply(1, 2, b""), PEER6, US6), US6, PEER6),
    (b"\x08\0\xf7\xff\0\0\0", US, PEER), (b"", US6, PEER6),
])
def test_nothing_else_is_answered(request_, source, destination):
    assert echo_reply(request_, source, destination) is None


def record_route(*hosts, slots=3):
    return bytes((7, 3 + 4 * slots, 4 + 4 * len(hosts))) + b"".join(host[12:] for host in hosts).ljust(4 * slots, b"\0")


def test_the_recorded_route_is_that_of_the_round_trip():
    padding = b"\0"
    assert reflected_options(record_route(PEER), US, 0.0) == record_route(PEER, US) + padding
    assert reflected_options(b"\x01" + record_route(), US, 0.0) == record_route(US) + padding
    full = record_route(PEER, PEER, PEER)
    assert reflected_options(full, US, 0.0) == full + padding
    assert reflected_options(record_route(slots=0), US, 0.0) == record_route(slots=0) + padding


@pytest.mark.parametrize(("request_", "reply"), [
    ("440c0500 00000000 00000000", "440c0900 80000fa0 00000000"),
    ("440c0d00 00000001 00000002", "440c0d10 00000001 00000002"),
    ("440c0df0 00000001 00000002", "440c0df0 00000001 00000002"),
    ("440c0501 00000000 00000000", "440c0d01 0a000202 80000fa0"),
    ("440c0503 0a000202 00000000", "440c0d03 0a000202 80000fa0"),
    ("440c0503 0a000203 00000000", "440c0503 0a000203 00000000"),
    ("44080501 00000000", "44080511 00000000"),
    ("44080100 00000000", "44080100 00000000"),
])  # fmt: skip
def test_timestamps(request_, reply):
    assert reflected_options(bytes.fromhex(request_), US, 4.0) == bytes.fromhex(reply)


@pytest.mark.parametrize("options", ["", "01010101", "94040000", "00070704", "8303 0400", "07", "0700", "0703", "0707ff", "4402", "ff02ff"])
def test_options_that_are_not_reflected(options):
    assert reflected_options(bytes.fromhex(options), US, 0.0) == b""


@given(st.binary(max_size=40))
def test_any_options(options):
    reflected = reflected_options(options, US, 1e9)
    assert len(reflected) <= 40 and not len(reflected) & 3
