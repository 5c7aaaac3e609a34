"""UDP sockets: every test of `world` runs on a stack and on the kernel."""

import errno
import select
import socket

import pytest

from swos_net.address import parse_address
from swos_net.config import StackConfig

INET, INET6, DGRAM = socket.AF_INET, socket.AF_INET6, socket.SOCK_DGRAM
ADDRESS = {INET: "127.0.0.1", INET6: "::1"}
FAMILIES = [INET, INET6]
SOL = socket.SOL_SOCKET
IN = select.POLLIN | select.POLLRDNORM
OUT = select.POLLOUT | select.POLLWRNORM | select.POLLWRBAND


def udp(world, family=INET, bind=True, port=0, host=None, **options):
    made = world.socket(family, DGRAM)
    for name in options:
        made.set(SOL, getattr(socket, name), 1)
    if bind:
        made.bind((ADDRESS[family] if host is None else host, port))
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back(world, code, family):
    server, client = udp(world, family), udp(world, family, bind=False)
    assert code(server.receive_from, 10) == errno.EAGAIN
    assert client.send_to(b"question", 0, server.getsockname()) == 8
    assert client.getsockname()[1]
    payload, address = server.receive_from(100)
    assert payload == b"question" and address[0] == ADDRESS[family] and address[1] == client.getsockname()[1]
    server.send_to(b"", 0, address)
    assert client.poll() == IN | OUT
    assert client.receive_from(100) == (b"", server.getsockname())
    assert client.poll() == OUT


def test_names_and_missing_peers(world, code):
    fresh = udp(world, bind=False)
    assert fresh.getsockname() == ("0.0.0.0", 0)
    assert code(fresh.getpeername) == errno.ENOTCONN
    assert code(fresh.send, b"x") == errno.EDESTADDRREQ
    assert code(fresh.send_to, b"x", 0, ("127.0.0.1", 0)) == errno.EINVAL
    assert code(fresh.listen, 1) == errno.EOPNOTSUPP
    assert code(fresh.accept) == errno.EOPNOTSUPP
    assert code(fresh.shutdown, socket.SHUT_RD) == errno.ENOTCONN
    assert code(fresh.send_to, bytes(65508), 0, ("127.0.0.1", 9)) == errno.EMSGSIZE
    assert code(fresh.send_to, b"all", 0, ("255.255.255.255", 9)) in (errno.EACCES, errno.ENETUNREACH)


def test_connecting_and_not_any_more(world, code):
    server, other, client = udp(world), udp(world), udp(world, bind=False)
    client.connect(server.getsockname())
    assert client.getsockname()[0] == "127.0.0.1" and client.getpeername() == server.getsockname()
    client.send(b"one")
    assert server.receive_from(10) == (b"one", client.getsockname())
    other.send_to(b"stranger", 0, client.getsockname())
    assert code(client.receive, 10) == errno.EAGAIN
    client.send_to(b"elsewhere", 0, other.getsockname())
    assert other.receive(10) == b"elsewhere"
    client.connect(other.getsockname())
    assert client.getpeername() == other.getsockname()
    other.send_to(b"friend now", 0, client.getsockname())
    assert client.receive(10) == b"friend now"
    client.connect(None)
    assert code(client.getpeername) == errno.ENOTCONN
    assert client.getsockname() == ("0.0.0.0", 0), "nobody had asked for the port"


def test_a_bound_port_outlives_a_connection(world):
    server, client = udp(world), udp(world)
    client.connect(server.getsockname())
    name = client.getsockname()
    client.connect(None)
    assert client.getsockname() == ("127.0.0.1", 0), "the address was asked for, the port was not"
    client = udp(world, port=name[1])
    client.connect(server.getsockname())
    client.connect(None)
    assert client.getsockname() == name
    server.send_to(b"any peer again", 0, name)
    assert client.receive(100) == b"any peer again"


def test_nobody_hears(world, code):
    gone, client = udp(world), udp(world, bind=False)
    address = gone.getsockname()
    gone.close()
    client.connect(address)
    client.send(b"anybody?")
    assert client.poll() & select.POLLERR
    assert code(client.receive, 1) == errno.ECONNREFUSED
    assert code(client.receive, 1) == errno.EAGAIN, "told once"
    client.send(b"anybody?")
    assert code(client.send, b"again?") == errno.ECONNREFUSED
    client.send(b"anybody?")
    assert client.get(SOL, socket.SO_ERROR) == errno.ECONNREFUSED
    assert client.get(SOL, socket.SO_ERROR) == 0


def test_an_unconnected_socket_hears_of_errors_when_it_asks(world, code):
    gone, client = udp(world), udp(world, bind=False)
    address = gone.getsockname()
    gone.close()
    client.send_to(b"anybody?", 0, address)
    assert code(client.receive, 1) == errno.EAGAIN
    client.set(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
    client.send_to(b"anybody?", 0, address)
    assert code(client.receive, 1) == errno.ECONNREFUSED


def test_long_datagrams_and_flags(world, code):
    server, client = udp(world), udp(world)
    client.send_to(b"0123456789", 0, server.getsockname())
    assert server.receive(4, socket.MSG_PEEK) == b"0123"
    buffer = bytearray(4)
    assert server.receive_into(buffer, 4, socket.MSG_TRUNC | socket.MSG_PEEK) == 10 and buffer == b"0123"
    assert server.receive_message(4, 0) == (b"0123", [], socket.MSG_TRUNC, client.getsockname())
    assert code(server.receive, 4) == errno.EAGAIN, "the rest is lost"
    assert code(server.receive, 4, socket.MSG_ERRQUEUE) == errno.EAGAIN
    payload = bytes(range(256)) * 255
    client.send_to(payload, 0, server.getsockname())
    assert server.receive(65536) == payload
    assert client.send_message([b"a", b"", b"bc"], [], 0, server.getsockname()) == 3
    assert server.receive(9) == b"abc"


def test_more_makes_one_datagram(world, code):
    server, client = udp(world), udp(world)
    client.send_to(b"head ", socket.MSG_MORE, server.getsockname())
    assert code(server.receive, 10) == errno.EAGAIN
    client.send_to(b"body", 0, server.getsockname())
    assert server.receive(100) == b"head body"


def test_counts(world):
    server, client = udp(world), udp(world)
    client.send_to(b"12345", 0, server.getsockname())
    client.send_to(b"123", 0, server.getsockname())
    assert server.ioctl(0x541B, None) == 5
    server.receive(1)
    assert server.ioctl(0x541B, None) == 3


def test_shutting_down(world, code):
    server, client = udp(world), udp(world)
    client.connect(server.getsockname())
    client.shutdown(socket.SHUT_WR)
    assert code(client.send, b"x") == errno.EPIPE
    client.shutdown(socket.SHUT_RD)
    assert client.poll() == IN | OUT | select.POLLRDHUP | select.POLLHUP


class TestSharingPorts:
    def test_without_and_with_reuse_address(self, world, code):
        one = udp(world)
        assert code(udp(world, bind=False).bind, one.getsockname()) == errno.EADDRINUSE
        first = udp(world, SO_REUSEADDR=1)
        second = udp(world, port=first.getsockname()[1], SO_REUSEADDR=1)
        udp(world).send_to(b"for the last", 0, first.getsockname())
        assert second.receive(100) == b"for the last"
        assert code(first.receive, 1) == errno.EAGAIN

    def test_reuse_port_spreads_flows(self, world, code):
        group = [udp(world, SO_REUSEPORT=1)]
        address = group[0].getsockname()
        group += [udp(world, port=address[1], SO_REUSEPORT=1) for _ in range(3)]
        clients = [udp(world) for _ in range(64)]
        for client in clients * 2:
            client.send_to(b"x", 0, address)
        heard = []
        for member in group:
            heard.append(set())
            while code(member.receive, 1, socket.MSG_PEEK) == 0:
                heard[-1].add(member.receive_from(1)[1])
        assert sum(map(len, heard)) == 64 and min(map(len, heard)) >= 4, "a flow has one member, every member some flows"

    def test_an_address_goes_before_the_wildcard_and_a_connection_before_both(self, world, code):
        wild = udp(world, host="0.0.0.0", SO_REUSEADDR=1)
        port = wild.getsockname()[1]
        exact = udp(world, port=port, SO_REUSEADDR=1)
        client, friend = udp(world), udp(world)
        client.send_to(b"x", 0, ("127.0.0.1", port))
        assert exact.receive(1) == b"x" and code(wild.receive, 1) == errno.EAGAIN
        client.send_to(b"y", 0, ("127.0.0.2", port))
        assert wild.receive(1) == b"y"
        own = udp(world, port=port, SO_REUSEADDR=1)
        own.connect(friend.getsockname())
        friend.send_to(b"z", 0, ("127.0.0.1", port))
        assert own.receive(1) == b"z"
        client.send_to(b"v", 0, ("127.0.0.1", port))
        assert exact.receive(1) == b"v"


class TestBothFamilies:
    def test_an_ipv6_socket_speaks_ipv4(self, world):
        both, four = udp(world, INET6, host="::"), udp(world)
        four.send_to(b"x", 0, ("127.0.0.1", both.getsockname()[1]))
        payload, address = both.receive_from(1)
        assert address == ("::ffff:127.0.0.1", four.getsockname()[1], 0, 0)
        both.send_to(b"y", 0, address)
        assert four.receive_from(1) == (b"y", ("127.0.0.1", both.getsockname()[1]))

    def test_connected_over_ipv4(self, world, code):
        six, four = udp(world, INET6, bind=False), udp(world)
        six.connect(("::ffff:127.0.0.1", four.getsockname()[1]))
        assert six.getsockname()[0] == "::ffff:127.0.0.1"
        six.send(b"x")
        assert four.receive(1) == b"x"
        assert code(udp(world, INET6, bind=False).bind, ("::ffff:192.0.2.1", 0)) == errno.EADDRNOTAVAIL

    def test_only_ipv6(self, world, code):
        only = world.socket(INET6, DGRAM)
        only.set(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        assert code(only.send_to, b"x", 0, ("::ffff:127.0.0.1", 9)) == errno.ENETUNREACH


# What the kernel cannot be asked for


def test_the_receive_buffer_is_bounded(stack_world, code):
    world = stack_world(StackConfig(udp_receive_buffer=10_000))
    server, client = udp(world), udp(world)
    for _ in range(20):
        client.send_to(bytes(744), 0, server.getsockname())
    for _ in range(10):
        server.receive(1)
    assert code(server.receive, 1) == errno.EAGAIN and server.core.dropped == 10


def test_endpoints_are_counted(stack_world):
    world = stack_world(StackConfig(max_endpoints=3))
    made = [udp(world) for _ in range(3)]
    for kind, proto in ((DGRAM, 0), (DGRAM, socket.IPPROTO_ICMP), (socket.SOCK_RAW, socket.IPPROTO_ICMP)):
        with pytest.raises(OSError) as caught:
            world.socket(INET, kind, proto)
        assert caught.value.errno == errno.ENOBUFS
    made[0].close()
    made[0].close()
    udp(world)


def test_capabilities_count_on_the_loopback(stack_world, code):
    world = stack_world()
    only = world.stack.root.attenuate("udp:send:127.0.0.1:53 udp:bind:127.0.0.1:1000 udp:accept:127.0.0.2/32:1000")
    made = world.socket(INET, DGRAM, capability=only)
    assert code(made.bind, ("127.0.0.1", 1001)) == errno.EACCES
    made.bind(("127.0.0.1", 1000))
    assert code(made.send_to, b"x", 0, ("127.0.0.1", 54)) == errno.EACCES
    assert code(made.connect, ("127.0.0.2", 53)) == errno.EACCES
    made.send_to(b"x", 0, ("127.0.0.1", 53))
    udp(world, host="127.0.0.3").send_to(b"stranger", 0, made.getsockname())
    assert code(made.receive, 10) == errno.EAGAIN
    udp(world, host="127.0.0.2").send_to(b"friend", 0, made.getsockname())
    assert made.receive(10) == b"friend"


def test_a_socket_of_no_capability_is_refused(stack_world):
    from swos_net.capability import CapabilityError
    from swos_net.socket.core import SocketCore

    with pytest.raises(CapabilityError):
        SocketCore(stack_world().stack, None, INET, DGRAM)


def test_its_own_addresses_are_reached_without_a_link(stack_world):
    """Packets to an address of the host never leave it, whichever interface has it."""
    from swos_net.device.pair import make_pair

    world = stack_world()
    device, other = make_pair()
    interface = world.poller.attach(device, world.now)
    world.stack.add_address(interface, parse_address("10.0.0.1"), 24, world.now)
    world.settle()
    while (frames := other._queue) and frames.popleft():
        pass
    server, client = udp(world, host="10.0.0.1"), udp(world, bind=False)
    client.send_to(b"x", 0, server.getsockname())
    assert server.receive_from(1) == (b"x", ("10.0.0.1", client.getsockname()[1]))
    assert not other._queue and not interface.has_output
