"""Multicast: joining, leaving, what is sent to a group and who hears it, on a stack and on the kernel."""

import errno
import socket
import struct

import pytest

INET, INET6, DGRAM = socket.AF_INET, socket.AF_INET6, socket.SOCK_DGRAM
IP, IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
GROUP, OTHER, GROUP6 = "224.0.7.7", "224.0.7.8", "ff05::7:7"
HERE = socket.inet_aton("127.0.0.1")
MCAST_JOIN_GROUP, MCAST_LEAVE_GROUP = 42, 45


def request(group=GROUP):
    return socket.inet_aton(group) + HERE


def request6(group=GROUP6, number=1):
    return socket.inet_pton(INET6, group) + struct.pack("=i", number)


def listener(world, family=INET, port=0):
    made = world.socket(family, DGRAM)
    made.set(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("" if family == INET else "::", port))
    return made


def sender(world, family=INET):
    made = world.socket(family, DGRAM)
    if family == INET:
        made.set(IP, socket.IP_MULTICAST_IF, HERE)
    else:
        made.set(IPV6, socket.IPV6_MULTICAST_IF, 1)
    return made


def send(client, payload, group, port):
    try:
        client.send_to(payload, 0, (group, port))
    except OSError as error:
        if error.errno != errno.ENETUNREACH or not hasattr(client, "made"):
            raise
        pytest.skip("the kernel's loopback has no route to groups here")


def test_members_hear_the_group(world, code):
    one, client = listener(world), sender(world)
    port = one.getsockname()[1]
    one.set(IP, socket.IP_ADD_MEMBERSHIP, request())
    other, stranger = listener(world, port=port), listener(world, port=port)
    other.set(IP, socket.IP_ADD_MEMBERSHIP, request())
    stranger.set(IP, 49, 0)  # IP_MULTICAST_ALL
    client.send_to(b"all of you", 0, (GROUP, port))
    assert one.receive(100) == other.receive(100) == b"all of you"
    assert code(stranger.receive, 100) == errno.EAGAIN
    one.set(IP, socket.IP_DROP_MEMBERSHIP, request())
    one.set(IP, 49, 0)
    client.send_to(b"the rest", 0, (GROUP, port))
    assert other.receive(100) == b"the rest" and code(one.receive, 100) == errno.EAGAIN


def test_members_hear_the_group_of_ipv6(world, code):
    one, client = listener(world, INET6), sender(world, INET6)
    port = one.getsockname()[1]
    one.set(IPV6, socket.IPV6_JOIN_GROUP, request6())
    one.set(IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    send(client, b"hello", GROUP6, port)
    data, items, _, _ = one.receive_message(100, 100)
    assert data == b"hello" and items == [(IPV6, socket.IPV6_HOPLIMIT, struct.pack("=i", 1))]
    one.set(IPV6, socket.IPV6_LEAVE_GROUP, request6())
    assert code(one.set, IPV6, socket.IPV6_LEAVE_GROUP, request6()) == errno.EADDRNOTAVAIL


def test_joining_twice_and_leaving_what_was_not_joined(world, code):
    made = listener(world)
    made.set(IP, socket.IP_ADD_MEMBERSHIP, request())
    assert code(made.set, IP, socket.IP_ADD_MEMBERSHIP, request()) == errno.EADDRINUSE
    assert code(made.set, IP, socket.IP_DROP_MEMBERSHIP, request(OTHER)) == errno.EADDRNOTAVAIL
    assert code(made.set, IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("10.0.0.1") + HERE) == errno.EINVAL
    assert code(made.set, IP, socket.IP_ADD_MEMBERSHIP, b"short") == errno.EINVAL
    assert code(made.set, IP, socket.IP_ADD_MEMBERSHIP, request()[:4] + socket.inet_aton("192.0.2.1")) == errno.ENODEV
    assert code(made.set, IP, socket.IP_MULTICAST_IF, socket.inet_aton("192.0.2.1")) == errno.EADDRNOTAVAIL
    six = listener(world, INET6)
    assert code(six.set, IPV6, socket.IPV6_JOIN_GROUP, request6(number=4711)) == errno.ENODEV
    assert code(six.set, IPV6, socket.IPV6_JOIN_GROUP, request6("2001:db8::1")) == errno.EINVAL
    assert code(six.set, IPV6, socket.IPV6_MULTICAST_IF, 4711) == errno.ENODEV


@pytest.mark.parametrize("family", [INET, INET6])
def test_whatever_the_family(world, code, family):
    made, client = listener(world, family), sender(world, family)
    port = made.getsockname()[1]
    address = struct.pack("=HH", family, 0) + (socket.inet_aton(GROUP) if family == INET else bytes(4) + socket.inet_pton(INET6, GROUP6))
    wanted = struct.pack("=I4x128s", 1, address)
    level, group = (IP, GROUP) if family == INET else (IPV6, GROUP6)
    made.set(level, MCAST_JOIN_GROUP, wanted)
    send(client, b"x", group, port)
    assert made.receive(10) == b"x"
    made.set(level, MCAST_LEAVE_GROUP, wanted)
    assert code(made.set, level, MCAST_LEAVE_GROUP, wanted) == errno.EADDRNOTAVAIL


def test_leaving_by_closing(world, code):
    member, made = listener(world), None
    port = member.getsockname()[1]
    member.set(IP, socket.IP_ADD_MEMBERSHIP, request(OTHER))
    made = listener(world, port=port)
    client = sender(world)
    client.send_to(b"x", 0, (OTHER, port))
    assert made.receive(1) == b"x", "IP_MULTICAST_ALL: groups that somebody on this host is in"
    member.close()
    client.send_to(b"x", 0, (OTHER, port))
    assert code(made.receive, 1) == errno.EAGAIN


# What the kernel cannot be asked for


class TestOverALink:
    @pytest.fixture
    def hosts(self):
        from swos_net.testing.network import Network

        network = Network(1)
        hosts = [network.add_host(name, [f"10.0.0.{last}/24", f"2001:db8::{last}/64"]) for last, name in ((1, "one"), (2, "other"))]
        network.link(*hosts)
        return network, *hosts

    def test_a_group_on_another_host(self, hosts):
        from swos_net.address import parse_address
        from swos_net.stack.groups import GroupOptions

        network, one, other = hosts
        for group in (GROUP, GROUP6):
            address = parse_address(group)
            member, bystander = one.open_udp(5000), one.open_udp(5001)
            client = other.open_udp()
            client.groups = GroupOptions()
            client.groups.hop_limit4 = client.groups.hop_limit6 = 3
            other.send_udp(client, b"nobody there", group, 5000)
            network.run(network.now + 1.0)
            assert member.receive() is None
            one.stack.groups.join(member, address, 2, network.now)
            other.send_udp(client, b"hello", group, 5000)
            network.run(network.now + 1.0)
            datagram = member.receive()
            assert (datagram.payload, datagram.local, datagram.hop_limit, datagram.interface) == (b"hello", address, 3, 2)
            assert bystander.receive() is None
            one.stack.groups.leave(member, address, 0, network.now)
            other.send_udp(client, b"gone", group, 5000)
            network.run(network.now + 1.0)
            assert member.receive() is None
            member.close(network.now)
            bystander.close(network.now)

    @pytest.mark.parametrize("loop", [True, False])
    def test_the_senders_own_host_hears_it_if_it_wants(self, hosts, loop):
        from swos_net.address import parse_address

        network, one, _ = hosts
        member = one.open_udp(5000)
        one.stack.groups.join(member, parse_address(GROUP), 2, network.now)
        member.groups.loop4 = loop
        one.send_udp(member, b"to myself", GROUP, 5000)
        network.run(network.now + 1.0)
        datagram = member.receive()
        assert (datagram is not None) is loop and (not loop or datagram.interface == 2)
