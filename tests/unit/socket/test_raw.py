"""Raw sockets and ping sockets, on a stack and, where that is allowed, on the kernel."""

import errno
import socket
import struct

import pytest

from swos_net.address import parse_address
from swos_net.wire import icmpv4, icmpv6, ipv4

INET, INET6, DGRAM, RAW = socket.AF_INET, socket.AF_INET6, socket.SOCK_DGRAM, socket.SOCK_RAW
ICMP, ICMPV6 = socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6
REQUEST = struct.pack(">BBHHH", 8, 0, 0, 77, 1) + b"payload"
REQUEST6 = struct.pack(">BBHHH", 128, 0, 0, 77, 1) + b"payload"
HERE = parse_address("127.0.0.1")


def all_of(handle):
    """Everything that waits."""
    found = []
    while True:
        try:
            found.append(handle.receive_from(65536))
        except BlockingIOError:
            return found


@pytest.mark.parametrize(("family", "proto", "request_", "host", "reply"),
                         [(INET, ICMP, REQUEST, "127.0.0.1", 0), (INET6, ICMPV6, REQUEST6, "::1", 129)])  # fmt: skip
def test_ping(world, code, family, proto, request_, host, reply):
    made, other = world.socket(family, DGRAM, proto), world.socket(family, DGRAM, proto)
    assert made.send_to(request_, 0, (host, 0)) == len(request_)
    identifier = made.getsockname()[1]
    ((payload, address),) = all_of(made)
    assert payload[0] == reply and payload[4:] == struct.pack(">HH", identifier, 1) + b"payload" and address[0] == host
    assert all_of(other) == []
    assert code(made.send_to, request_[:7], 0, (host, 0)) == errno.EINVAL
    assert code(made.send_to, b"\x0d" + request_[1:], 0, (host, 0)) == errno.EINVAL


def test_the_identifier_of_a_ping_socket_can_be_chosen(world, code):
    made = world.socket(INET, DGRAM, ICMP)
    made.bind(("127.0.0.1", 4711))
    assert made.getsockname() == ("127.0.0.1", 4711)
    assert code(world.socket(INET, DGRAM, ICMP).bind, ("127.0.0.1", 4711)) == errno.EADDRINUSE
    made.connect(("127.0.0.1", 0))
    made.send(REQUEST)
    assert all_of(made)[0][0][4:6] == struct.pack(">H", 4711)


def test_a_raw_socket_sees_everything_of_its_protocol(world):
    raw = world.socket(INET, RAW, ICMP)
    raw.connect(("127.0.0.1", 0))
    checked = icmpv4.emit(icmpv4.echo_request(4712, 1, b"payload"))
    raw.send(checked)
    packets = [packet for packet, _ in all_of(raw) if packet[24:26] == struct.pack(">H", 4712)]
    assert [packet[20] for packet in packets] == [8, 0]
    header = ipv4.parse(packets[0])
    assert header.source == header.destination == HERE and packets[0][20:] == checked
    assert icmpv4.parse(packets[1][20:]).payload == b"payload"


def test_the_filter_of_icmp(world):
    raw = world.socket(INET, RAW, ICMP)
    raw.set(255, 1, struct.pack("=I", 1 << 8))  # no echo requests
    assert raw.get(255, 1, 4) == struct.pack("=I", 1 << 8)
    raw.connect(("127.0.0.1", 0))
    raw.send(icmpv4.emit(icmpv4.echo_request(4713, 1)))
    assert [packet[20] for packet, _ in all_of(raw) if packet[24:26] == struct.pack(">H", 4713)] == [0]


def test_icmpv6_has_no_header_and_a_checksum_of_its_own(world):
    raw = world.socket(INET6, RAW, ICMPV6)
    raw.set(ICMPV6, 1, struct.pack("=8I", 0, 0, 0, 0, *[0xFFFFFFFF] * 4)[:32])  # nothing but errors
    raw.connect(("::1", 0))
    raw.send(REQUEST6)
    assert all_of(raw) == []
    raw.set(ICMPV6, 1, bytes(32))
    raw.send(REQUEST6)
    (request, address), (reply, _) = all_of(raw)
    here = parse_address("::1")
    assert address[0] == "::1" and request[0] == 128 and reply[0] == 129
    assert icmpv6.parse(request, here, here).payload == b"payload"


def test_a_header_of_ones_own(world):
    raw, listener = world.socket(INET, RAW, socket.IPPROTO_RAW), world.socket(INET, RAW, 253)
    assert raw.get(socket.IPPROTO_IP, socket.IP_HDRINCL) == 1
    packet = ipv4.emit(ipv4.Ipv4Header(HERE, HERE, 253, ttl=3), b"anything")
    raw.send_to(packet, 0, ("127.0.0.1", 0))
    ((received, _),) = all_of(listener)
    header = ipv4.parse(received)
    assert header.ttl == 3 and header.identification and received[20:] == b"anything"


def test_protocols_of_nobody_else(world, code):
    one, other = world.socket(INET, RAW, 253), world.socket(INET, RAW, 254)
    one.send_to(b"for 253", 0, ("127.0.0.1", 0))
    assert [packet[20:] for packet, _ in all_of(one)] == [b"for 253"]
    assert all_of(other) == []
    assert code(world.socket, INET, RAW, 0) == errno.EPROTONOSUPPORT


def test_connected_and_bound(world):
    near, far = world.socket(INET, RAW, 253), world.socket(INET, RAW, 253)
    near.bind(("127.0.0.1", 0))
    far.bind(("127.0.0.2", 0))
    sender = world.socket(INET, RAW, 253)
    sender.connect(("127.0.0.2", 0))
    sender.send(b"x")
    assert len(all_of(far)) == 1 and all_of(near) == []


# What the kernel cannot be asked for


def test_a_capability_is_needed(stack_world, code):
    world = stack_world()
    ping = world.stack.root.attenuate("icmp:send:127.0.0.1")
    assert code(lambda: world.socket(INET, RAW, ICMP, capability=ping)) == errno.EACCES
    made = world.socket(INET, DGRAM, ICMP, capability=ping)
    assert code(made.send_to, REQUEST, 0, ("127.0.0.2", 0)) == errno.EACCES
    assert code(made.connect, ("127.0.0.2", 0)) == errno.EACCES
    made.send_to(REQUEST, 0, ("127.0.0.1", 0))
    assert len(all_of(made)) == 1
    raw = world.stack.root.attenuate("icmp:raw:127.0.0.2")
    assert code(lambda: world.socket(INET, DGRAM, ICMP, capability=raw)) == errno.EACCES
    assert code(lambda: world.socket(INET, RAW, 253, capability=raw)) == errno.EACCES
    listener = world.socket(INET, RAW, ICMP, capability=raw)
    made.send_to(REQUEST, 0, ("127.0.0.1", 0))
    assert all_of(listener) == [], "packets of others are none of its business"
    udp_only = world.stack.root.attenuate("udp:send:*:*")
    assert code(lambda: world.socket(INET, DGRAM, ICMP, capability=udp_only)) == errno.EACCES


def test_a_source_of_somebody_else_is_refused(stack_world, code):
    raw = stack_world().socket(INET, RAW, socket.IPPROTO_RAW)
    packet = ipv4.emit(ipv4.Ipv4Header(parse_address("192.0.2.1"), HERE, 253), b"")
    assert code(raw.send_to, packet, 0, ("127.0.0.1", 0)) == errno.EADDRNOTAVAIL
    assert code(raw.send_to, b"no header", 0, ("127.0.0.1", 0)) == errno.EINVAL


def test_a_protocol_that_somebody_hears_is_not_unreachable(stack_world):
    world = stack_world()
    listener, icmp = world.socket(INET, RAW, 253), world.socket(INET, RAW, ICMP)
    listener.send_to(b"x", 0, ("127.0.0.1", 0))
    assert all_of(icmp) == [] and len(all_of(listener)) == 1
    listener.close()
    sender = world.socket(INET, RAW, 253)
    sender.set(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    sender.close()
    assert world.stack.raw.protocols == {ICMP: 1}


def test_an_error_about_a_ping(stack_world, code):
    """The quoted identifier says whose request could not be delivered."""
    world = stack_world()
    made = world.socket(INET, DGRAM, ICMP)
    made.bind(("127.0.0.1", 99))
    made.connect(("127.0.0.2", 0))
    quoted = ipv4.emit(ipv4.Ipv4Header(HERE, parse_address("127.0.0.2"), 1), icmpv4.emit(icmpv4.echo_request(99, 1)))
    world.socket(INET, RAW, ICMP).send_to(icmpv4.emit(icmpv4.unreachable(1, quoted)), 0, ("127.0.0.1", 0))
    assert code(made.receive, 100) == errno.EHOSTUNREACH
    assert code(made.receive, 100) == errno.EAGAIN
