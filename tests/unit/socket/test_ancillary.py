"""Ancillary data of datagrams, on a stack and on the kernel."""

import errno
import socket
import struct

import pytest

INET, INET6, DGRAM = socket.AF_INET, socket.AF_INET6, socket.SOCK_DGRAM
IP, IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
IP_PKTINFO, IP_RECVTTL, IP_RECVTOS, IP_TTL, IP_TOS = 8, 12, 13, 2, 1


def pair(world, family):
    made = []
    for _ in range(2):
        made.append(world.socket(family, DGRAM))
        made[-1].bind(("127.0.0.1" if family == INET else "::1", 0))
    return made


def test_nothing_without_asking(world):
    server, client = pair(world, INET)
    client.send_to(b"x", 0, server.getsockname())
    assert server.receive_message(10, 1000)[1] == []


def test_of_ipv4(world):
    server, client = pair(world, INET)
    for option in (IP_PKTINFO, IP_RECVTTL, IP_RECVTOS):
        server.set(IP, option, 1)
    client.set(IP, IP_TTL, 7)
    client.set(IP, IP_TOS, 0x10)
    client.send_to(b"x", 0, server.getsockname())
    data, items, flags, address = server.receive_message(10, 1000)
    local = socket.inet_aton("127.0.0.1")
    assert data == b"x" and flags == 0 and address == client.getsockname()
    assert items == [(IP, IP_PKTINFO, struct.pack("=i", 1) + local + local), (IP, IP_TTL, struct.pack("=i", 7)), (IP, IP_TOS, b"\x10")]


def test_of_ipv6(world):
    server, client = pair(world, INET6)
    for option in (socket.IPV6_RECVPKTINFO, socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVTCLASS):
        server.set(IPV6, option, 1)
    client.set(IPV6, socket.IPV6_UNICAST_HOPS, 7)
    client.set(IPV6, socket.IPV6_TCLASS, 0x10)
    client.send_to(b"x", 0, server.getsockname())
    items = server.receive_message(10, 1000)[1]
    assert items == [
        (IPV6, socket.IPV6_PKTINFO, bytes(15) + b"\1" + struct.pack("=i", 1)),
        (IPV6, socket.IPV6_HOPLIMIT, struct.pack("=i", 7)),
        (IPV6, socket.IPV6_TCLASS, struct.pack("=i", 0x10)),
    ]


def test_of_ipv4_on_an_ipv6_socket(world):
    server, client = world.socket(INET6, DGRAM), world.socket(INET, DGRAM)
    server.bind(("::", 0))
    server.set(IPV6, socket.IPV6_RECVPKTINFO, 1)
    server.set(IP, IP_RECVTTL, 1)
    client.send_to(b"x", 0, ("127.0.0.1", server.getsockname()[1]))
    items = server.receive_message(10, 1000)[1]
    mapped = bytes(10) + b"\xff\xff" + socket.inet_aton("127.0.0.1")
    assert items == [(IPV6, socket.IPV6_PKTINFO, mapped + struct.pack("=i", 1)), (IP, IP_TTL, struct.pack("=i", 64))]


@pytest.mark.parametrize("room", [0, 8, 15])
def test_no_room_for_any(world, room):
    server, client = pair(world, INET)
    server.set(IP, IP_RECVTTL, 1)
    client.send_to(b"x", 0, server.getsockname())
    assert server.receive_message(10, room)[1:3] == ([], socket.MSG_CTRUNC)


def test_room_for_a_part(world):
    server, client = pair(world, INET)
    server.set(IP, IP_RECVTTL, 1)
    server.set(IP, IP_RECVTOS, 1)
    client.send_to(b"x", 0, server.getsockname())
    assert server.receive_message(10, 24)[1:3] == ([(IP, IP_TTL, struct.pack("=i", 64))], socket.MSG_CTRUNC)
    client.send_to(b"x", 0, server.getsockname())
    assert server.receive_message(10, 18)[1:3] == ([(IP, IP_TTL, b"\x40\0")], socket.MSG_CTRUNC)


def test_sending_from_an_address(world):
    server, client = pair(world, INET)
    client = world.socket(INET, DGRAM)
    source = socket.inet_aton("127.0.0.9")
    client.send_message([b"x"], [(IP, IP_PKTINFO, bytes(4) + source + bytes(4))], 0, server.getsockname())
    assert server.receive_from(10)[1][0] == "127.0.0.9"
    client.send_message([b"x"], [], 0, server.getsockname())
    assert server.receive_from(10)[1][0] == "127.0.0.1"


def test_sending_with_another_header(world):
    server, client = pair(world, INET)
    server.set(IP, IP_RECVTTL, 1)
    server.set(IP, IP_RECVTOS, 1)
    items = [(IP, IP_TTL, struct.pack("=i", 3)), (IP, IP_TOS, struct.pack("=i", 0x20))]
    client.send_message([b"x"], items, 0, server.getsockname())
    assert server.receive_message(10, 100)[1] == [(IP, IP_TTL, struct.pack("=i", 3)), (IP, IP_TOS, b"\x20")]


def test_sending_with_another_header_over_ipv6(world):
    server, client = pair(world, INET6)
    server.set(IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    server.set(IPV6, socket.IPV6_RECVTCLASS, 1)
    items = [(IPV6, socket.IPV6_HOPLIMIT, struct.pack("=i", 3)), (IPV6, socket.IPV6_TCLASS, struct.pack("=i", 0x20)),
             (IPV6, socket.IPV6_PKTINFO, bytes(15) + b"\1" + bytes(4))]  # fmt: skip
    client.send_message([b"x"], items, 0, server.getsockname())
    assert [struct.unpack("=i", data)[0] for _, _, data in server.receive_message(10, 100)[1]] == [3, 0x20]


@pytest.mark.parametrize(
    "item",
    [(IP, IP_TTL, b"\1"), (IP, IP_TTL, struct.pack("=i", 256)), (IP, IP_TTL, bytes(4)), (IP, IP_PKTINFO, b"short"), (IP, 4000, bytes(4)),
     (socket.SOL_SOCKET, 4000, bytes(4))],
)  # fmt: skip
def test_what_is_refused(world, code, item):
    server, client = pair(world, INET)
    assert code(client.send_message, [b"x"], [item], 0, server.getsockname()) == errno.EINVAL
    assert code(server.receive, 10) == errno.EAGAIN


def test_an_address_of_somebody_else(world, code):
    server, client = pair(world, INET)
    item = (IP, IP_PKTINFO, bytes(4) + socket.inet_aton("192.0.2.1") + bytes(4))
    assert code(client.send_message, [b"x"], [item], 0, server.getsockname()) in (errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETUNREACH)
