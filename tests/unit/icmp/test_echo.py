"""Echo replies of both families."""

import pytest

from swos_net.address import parse_address
from swos_net.icmp.echo import echo_reply
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
