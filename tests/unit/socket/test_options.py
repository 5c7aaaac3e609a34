"""Socket options: values, lengths and refusals, on a stack and on the kernel."""

import errno
import select
import socket
import struct

import pytest

from swos_net.wire import tcp

INET, INET6, STREAM, DGRAM = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
SOL, IP, IPV6, TCP = socket.SOL_SOCKET, socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.IPPROTO_TCP
IN, OUT = select.POLLIN, select.POLLOUT

ON_AND_OFF = [
    (STREAM, SOL, socket.SO_REUSEADDR), (STREAM, SOL, socket.SO_REUSEPORT), (STREAM, SOL, socket.SO_KEEPALIVE),
    (STREAM, SOL, socket.SO_OOBINLINE), (STREAM, SOL, socket.SO_DONTROUTE), (DGRAM, SOL, socket.SO_BROADCAST),
    (STREAM, TCP, socket.TCP_NODELAY), (STREAM, TCP, socket.TCP_CORK), (DGRAM, IP, socket.IP_RECVTOS), (DGRAM, IP, 8),
    (DGRAM, IP, 11), (DGRAM, IP, 12), (DGRAM, IP, 20), (STREAM, IP, 24),
]  # fmt: skip


@pytest.mark.parametrize(("type", "level", "option"), ON_AND_OFF)
def test_on_and_off(world, code, type, level, option):
    made = world.socket(INET, type)
    assert made.get(level, option) == 0
    made.set(level, option, 5)
    assert made.get(level, option) == 1
    made.set(level, option, struct.pack("=i", 0))
    assert made.get(level, option) == 0
    made.set(level, option, 1)
    if level == IP:
        made.set(level, option, b"")
        assert made.get(level, option) == 0, "nothing is no"
    else:
        assert code(made.set, level, option, b"") == errno.EINVAL


NUMBERS = [
    # type, level, option, default, (set, read back), refused
    (STREAM, TCP, socket.TCP_KEEPIDLE, 7200, [(1, 1), (32767, 32767)], [0, 32768, -1]),
    (STREAM, TCP, socket.TCP_KEEPINTVL, 75, [(1, 1), (32767, 32767)], [0, 32768]),
    (STREAM, TCP, socket.TCP_KEEPCNT, 9, [(1, 1), (127, 127)], [0, 128]),
    (STREAM, TCP, socket.TCP_SYNCNT, 6, [(1, 1), (127, 127)], [0, 128]),
    (STREAM, TCP, socket.TCP_MAXSEG, 536, [(1000, 1000)], [87, 32768]),
    (STREAM, TCP, socket.TCP_USER_TIMEOUT, 0, [(5000, 5000), (0, 0)], [-1]),
    (STREAM, TCP, socket.TCP_LINGER2, 60, [(10, 10), (0, 60), (-5, -1)], []),
    (STREAM, TCP, socket.TCP_QUICKACK, 1, [(1, 1)], []),
    (STREAM, TCP, socket.TCP_WINDOW_CLAMP, 0, [(5000, 5000)], []),
    (STREAM, TCP, socket.TCP_NOTSENT_LOWAT, 0, [(16384, 16384)], []),
    (DGRAM, IP, socket.IP_TTL, 64, [(1, 1), (255, 255), (-1, 64)], [0, 256, -2]),
    (DGRAM, IP, socket.IP_TOS, 0, [(16, 16), (255, 255), (256 + 4, 4)], []),
    (STREAM, IP, socket.IP_TOS, 0, [(16, 16), (255, 252)], []),
    (DGRAM, IP, 10, 1, [(0, 0), (2, 2), (3, 3)], [6, -1]),
    (DGRAM, IP, socket.IP_MULTICAST_TTL, 1, [(0, 0), (255, 255), (-1, 1)], [256, -2]),
    (DGRAM, IP, socket.IP_MULTICAST_LOOP, 1, [(0, 0), (7, 1)], []),
    (DGRAM, IP, 49, 1, [(0, 0), (1, 1)], [2]),
    (DGRAM, SOL, 12, 0, [(6, 6), (0, 0)], []),
    (STREAM, SOL, socket.SO_RCVLOWAT, 1, [(100, 100), (0, 1)], []),
]  # fmt: skip


@pytest.mark.parametrize(("type", "level", "option", "default", "accepted", "refused"), NUMBERS)
def test_numbers(world, code, type, level, option, default, accepted, refused):
    made = world.socket(INET, type)
    assert made.get(level, option) == default
    for value, read in accepted:
        made.set(level, option, value)
        assert made.get(level, option) == read
    for value in refused:
        assert code(made.set, level, option, value) == errno.EINVAL
        assert made.get(level, option) == accepted[-1][1], "a refused value changes nothing"


NUMBERS6 = [
    (socket.IPV6_UNICAST_HOPS, 64, [(0, 0), (255, 255), (-1, 64)], [256, -2]),
    (socket.IPV6_MULTICAST_HOPS, 1, [(0, 0), (255, 255), (-1, 1)], [256, -2]),
    (socket.IPV6_MULTICAST_LOOP, 1, [(0, 0), (1, 1)], [2, -1]),
    (socket.IPV6_TCLASS, 0, [(255, 255), (0, 0), (-1, 0)], [256, -2]),
    (socket.IPV6_V6ONLY, 0, [(1, 1), (0, 0)], []),
    (socket.IPV6_RECVPKTINFO, 0, [(1, 1), (0, 0)], []),
    (socket.IPV6_RECVHOPLIMIT, 0, [(1, 1), (0, 0)], []),
    (socket.IPV6_RECVTCLASS, 0, [(1, 1), (0, 0)], []),
    (socket.IPV6_DONTFRAG, 0, [(1, 1), (0, 0)], []),
    (socket.IPV6_MULTICAST_IF, 0, [(1, 1), (0, 0)], []),
]


@pytest.mark.parametrize(("option", "default", "accepted", "refused"), NUMBERS6)
def test_numbers_of_ipv6(world, code, option, default, accepted, refused):
    made = world.socket(INET6, DGRAM)
    assert made.get(IPV6, option) == default
    for value, read in accepted:
        made.set(IPV6, option, value)
        assert made.get(IPV6, option) == read
    for value in refused:
        assert code(made.set, IPV6, option, value) == errno.EINVAL
    if option != socket.IPV6_DONTFRAG:
        assert code(made.set, IPV6, option, b"\1") == errno.EINVAL, "a byte is not enough here"


def test_the_options_of_ip_take_a_byte(world, code):
    made = world.socket(INET, DGRAM)
    made.set(IP, socket.IP_TTL, b"\x07")
    assert made.get(IP, socket.IP_TTL) == 7
    assert made.get(IP, socket.IP_TTL, 1) == b"\x07" and made.get(IP, socket.IP_TTL, 4) == struct.pack("=i", 7)
    assert code(made.set, IP, socket.IP_TTL, b"") == errno.EINVAL


def test_lengths(world, code):
    made = world.socket()
    assert code(made.set, SOL, socket.SO_REUSEADDR, b"\1\0\0") == errno.EINVAL
    assert code(made.set, TCP, socket.TCP_NODELAY, b"\1") == errno.EINVAL
    made.set(SOL, socket.SO_REUSEADDR, b"\1\0\0\0and more")
    assert made.get(SOL, socket.SO_REUSEADDR, 2) == b"\1\0"
    assert made.get(SOL, socket.SO_REUSEADDR, 100) == b"\1\0\0\0"


@pytest.mark.parametrize(("level", "option"), [(SOL, 4000), (TCP, 4000), (IP, 4000), (IPV6, 26), (4000, 1)])
def test_what_is_not_known(world, code, level, option):
    made = world.socket()
    expected = {errno.ENOPROTOOPT, errno.EOPNOTSUPP}
    assert code(made.get, level, option) in expected
    assert code(made.set, level, option, 1) in expected


def test_options_of_tcp_are_for_streams(world, code):
    made = world.socket(INET, DGRAM)
    assert code(made.set, TCP, socket.TCP_NODELAY, 1) in (errno.ENOPROTOOPT, errno.EOPNOTSUPP)
    assert code(made.get, TCP, socket.TCP_NODELAY) in (errno.ENOPROTOOPT, errno.EOPNOTSUPP)


@pytest.mark.parametrize("option", [socket.SO_TYPE, socket.SO_ERROR, socket.SO_ACCEPTCONN, socket.SO_PROTOCOL, socket.SO_DOMAIN])
def test_what_can_only_be_read(world, code, option):
    assert code(world.socket().set, SOL, option, 1) == errno.ENOPROTOOPT


def test_what_a_socket_is(world):
    for family, type, proto in ((INET, STREAM, 6), (INET6, DGRAM, 17)):
        made = world.socket(family, type)
        assert made.get(SOL, socket.SO_TYPE) == type
        assert made.get(SOL, socket.SO_DOMAIN) == family
        assert made.get(SOL, socket.SO_PROTOCOL) == proto
        assert made.get(SOL, socket.SO_ERROR) == 0


def test_buffers_are_doubled(world):
    for type in (STREAM, DGRAM):
        made = world.socket(INET, type)
        for option, least in ((socket.SO_RCVBUF, 2304), (socket.SO_SNDBUF, 4608)):
            made.set(SOL, option, 50_000)
            assert made.get(SOL, option) == 100_000
            made.set(SOL, option, 1)
            assert made.get(SOL, option) == least


def test_linger(world, code):
    made = world.socket()
    assert made.get(SOL, socket.SO_LINGER, 8) == bytes(8)
    made.set(SOL, socket.SO_LINGER, struct.pack("=ii", 5, 7))
    assert made.get(SOL, socket.SO_LINGER, 8) == struct.pack("=ii", 1, 7)
    made.set(SOL, socket.SO_LINGER, struct.pack("=ii", 0, 9))
    assert struct.unpack("=ii", made.get(SOL, socket.SO_LINGER, 8))[0] == 0
    assert code(made.set, SOL, socket.SO_LINGER, 1) == errno.EINVAL


@pytest.mark.parametrize("option", [20, 21])
def test_timeouts_are_kept(world, code, option):
    made = world.socket()
    value = struct.pack("=qq", 3, 500_000)
    made.set(SOL, option, value)
    assert struct.unpack("=qq", made.get(SOL, option, 16))[0] == 3
    assert code(made.set, SOL, option, struct.pack("=qq", 3, 1_000_000)) == errno.EDOM
    assert code(made.set, SOL, option, b"short") == errno.EINVAL


def test_congestion_control(world, code):
    made = world.socket()
    made.set(TCP, socket.TCP_CONGESTION, b"reno")
    assert made.get(TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"reno"
    assert len(made.get(TCP, socket.TCP_CONGESTION, 100)) == 16
    assert code(made.set, TCP, socket.TCP_CONGESTION, b"nothing") == errno.ENOENT
    assert code(made.set, TCP, socket.TCP_CONGESTION, b"") == errno.EINVAL
    assert made.get(TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"reno"


def test_information(world, streams):
    assert world.socket().get(TCP, socket.TCP_INFO, 200)[0] == 7
    listener, client, server, _ = streams(world)
    assert listener.get(TCP, socket.TCP_INFO, 200)[0] == 10
    client.send(b"x" * 100)
    information = client.get(TCP, socket.TCP_INFO, 192)
    assert information[0] == 1 and len(information) == 192
    assert len(client.get(TCP, socket.TCP_INFO, 10)) == 10
    assert client.get(TCP, socket.TCP_MAXSEG) > 1000
    assert client.get(IP, 14) in (65535, 65536)


def test_what_a_listening_socket_has_its_connections_have(world, code):
    listener, client = world.socket(), world.socket()
    listener.bind(("127.0.0.1", 0))
    values = [(SOL, socket.SO_KEEPALIVE, 1), (TCP, socket.TCP_NODELAY, 1), (TCP, socket.TCP_KEEPIDLE, 100),
              (TCP, socket.TCP_USER_TIMEOUT, 3000), (IP, socket.IP_TTL, 9), (IP, socket.IP_TOS, 16),
              (SOL, socket.SO_REUSEADDR, 1)]  # fmt: skip
    for level, option, value in values:
        listener.set(level, option, value)
    listener.listen(1)
    assert code(client.connect, listener.getsockname()) == errno.EINPROGRESS
    server, _ = listener.accept()
    for level, option, value in values:
        assert server.get(level, option) == value
    server.set(IP, socket.IP_TTL, 10)
    assert listener.get(IP, socket.IP_TTL) == 9


def test_interfaces(world, code):
    made = world.socket(INET, DGRAM)
    made.set(SOL, socket.SO_BINDTODEVICE, b"lo\0")
    assert made.get(SOL, socket.SO_BINDTODEVICE, 16) == b"lo\0"
    assert code(made.set, SOL, socket.SO_BINDTODEVICE, b"nosuchlink") == errno.ENODEV
    assert code(made.send_to, b"x", 0, ("127.0.0.1", 9)) == 0
    made.set(SOL, socket.SO_BINDTODEVICE, b"")
    assert made.get(SOL, socket.SO_BINDTODEVICE, 16) == b""
    assert code(made.get, IP, 14) == errno.ENOTCONN


def test_ip_options_are_not_sent(stack_world, code):
    made = stack_world().socket(INET, DGRAM)
    made.set(IP, socket.IP_OPTIONS, b"")
    assert made.get(IP, socket.IP_OPTIONS, 40) == b""
    assert code(made.set, IP, socket.IP_OPTIONS, b"\1\1\1\1") == errno.ENOPROTOOPT


def test_fast_open_is_refused(stack_world, code):
    assert code(stack_world().socket().set, TCP, socket.TCP_FASTOPEN, 5) == errno.EOPNOTSUPP


class TestEffects:
    """What options do, beyond being kept."""

    def test_on_a_connection(self, stack_world, streams):
        world = stack_world()
        _, client, _, _ = streams(world)
        tcb, path = client.core.endpoint.connection.tcb, client.core.endpoint.path
        for level, option, value in ((TCP, socket.TCP_NODELAY, 1), (TCP, socket.TCP_KEEPIDLE, 11), (TCP, socket.TCP_KEEPINTVL, 12),
                                     (TCP, socket.TCP_KEEPCNT, 13), (TCP, socket.TCP_USER_TIMEOUT, 2500), (TCP, socket.TCP_SYNCNT, 3),
                                     (TCP, socket.TCP_QUICKACK, 1), (TCP, socket.TCP_CONGESTION, b"reno"), (SOL, socket.SO_KEEPALIVE, 1),
                                     (TCP, socket.TCP_LINGER2, 7), (IP, socket.IP_TTL, 5), (IP, socket.IP_TOS, 8)):  # fmt: skip
            client.set(level, option, value)
        assert tcb.nodelay and tcb.keepalive_on and tcb.quick_ack_on
        assert (tcb.keepalive_idle, tcb.keepalive_interval, tcb.keepalive_probe_limit) == (11, 12, 13)
        assert (tcb.user_timeout, tcb.syn_retries, tcb.fin_wait_2) == (2.5, 3, 7)
        assert (path.c.hop_limit, path.c.traffic_class) == (5, 8)
        client.set(IP, socket.IP_TTL, -1)
        assert path.c.hop_limit == 64

    def test_before_there_is_one(self, stack_world, streams, code):
        world = stack_world()
        listener = world.socket()
        listener.set(SOL, socket.SO_RCVBUF, 30_000)
        listener.set(TCP, socket.TCP_MAXSEG, 700)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client = world.socket()
        client.set(SOL, socket.SO_SNDBUF, 20_000)
        code(client.connect, listener.getsockname())
        server, _ = listener.accept()
        total = 0
        while code(client.core.send, b"x" * 1000, 0, world.now) == 0:
            total += 1000
        assert 20_000 <= total <= 70_000
        assert client.core.endpoint.connection.tcb.mss <= 700
        assert server.core.endpoint.connection.tcb.receive_limit == 30_000

    def test_of_datagrams(self, stack_world):
        world = stack_world()
        server, client = world.socket(INET, DGRAM), world.socket(INET, DGRAM)
        server.bind(("127.0.0.1", 0))
        client.set(IP, socket.IP_TTL, 3)
        client.set(IP, socket.IP_TOS, 40)
        client.send_to(b"x", 0, server.getsockname())
        datagram = server.core.endpoint.receive()
        assert (datagram.hop_limit, datagram.traffic_class) == (3, 40)
        client.set(IP, socket.IP_TTL, 4)
        client.send_to(b"x", 0, server.getsockname())
        assert server.core.endpoint.receive().hop_limit == 4


@pytest.mark.parametrize(("given", "seconds"), [(0, 0), (-1, 0), (1, 1), (2, 3), (3, 3), (5, 7), (100, 127), (130, 247), (600, 607)])
def test_deferring_is_counted_in_retransmissions(world, given, seconds):
    made = world.socket(INET, STREAM)
    made.set(TCP, socket.TCP_DEFER_ACCEPT, given)
    assert made.get(TCP, socket.TCP_DEFER_ACCEPT) == seconds


def test_what_deferring_a_listening_socket_does_its_connections_do_not(world, streams, code):
    listener, client = world.socket(INET, STREAM), world.socket(INET, STREAM)
    listener.set(TCP, socket.TCP_DEFER_ACCEPT, 5)
    listener.bind(("127.0.0.1", 0))
    listener.listen(5)
    assert code(client.connect, listener.getsockname()) == errno.EINPROGRESS
    assert code(client.connect, listener.getsockname()) == 0, "the client knows nothing of it"
    assert listener.poll() == 0 and code(listener.accept) == errno.EAGAIN
    client.send(b"question")
    server, _ = listener.accept()
    assert server.receive(100) == b"question"
    assert server.get(TCP, socket.TCP_DEFER_ACCEPT) == 0


def test_a_connection_that_ends_without_a_word_is_not_deferred(world, code):
    listener, client = world.socket(INET, STREAM), world.socket(INET, STREAM)
    listener.set(TCP, socket.TCP_DEFER_ACCEPT, 5)
    listener.bind(("127.0.0.1", 0))
    listener.listen(5)
    assert code(client.connect, listener.getsockname()) == errno.EINPROGRESS
    client.close()
    server, _ = listener.accept()
    assert server.receive(100) == b""


def test_deferring_ends(stack_world, code):
    world = stack_world()
    listener, client = world.socket(INET, STREAM), world.socket(INET, STREAM)
    listener.set(TCP, socket.TCP_DEFER_ACCEPT, 5)
    listener.bind(("127.0.0.1", 0))
    listener.listen(5)
    assert code(client.connect, listener.getsockname()) == errno.EINPROGRESS
    tcb = next(iter(listener.core.listener.queue.half_open)).connection.tcb
    sent = tcb.counters["TcpOutSegs"]
    for _ in range(6):
        world.settle(1.0)
    assert code(listener.accept) == errno.EAGAIN
    assert tcb.counters["TcpOutSegs"] == sent, "nobody is asked meanwhile"
    world.settle(1.0)
    server, _ = listener.accept()
    assert tcb.counters["TcpRetransSegs"] == 1 and tcb.counters["TcpExtTCPDeferAcceptDrop"] == 1
    assert tcb.rtt.srtt < 0.1 and tcb.congestion.cwnd >= 2 * tcb.mss, "waiting was neither a round trip nor a loss"
    client.send(b"late")
    assert server.receive(100) == b"late"


def test_pacing_rate(world):
    made = world.socket(INET, STREAM)
    assert made.get(SOL, 47) == -1 and made.get(SOL, 47, 8) == b"\xff" * 8
    made.set(SOL, 47, 125_000)
    assert made.get(SOL, 47) == 125_000 and made.get(SOL, 47, 8) == struct.pack("=Q", 125_000)
    made.set(SOL, 47, struct.pack("=Q", 1 << 33))
    assert made.get(SOL, 47, 8) == struct.pack("=Q", 1 << 33)
    made.set(SOL, 47, struct.pack("=Q", 2**64 - 1))
    assert made.get(SOL, 47, 8) == b"\xff" * 8


@pytest.mark.parametrize("rate", [100_000, -1, 0])
def test_what_is_paced_takes_its_time(stack_world, code, rate):
    world = stack_world()
    listener, client = world.socket(INET, STREAM), world.socket(INET, STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(5)
    client.set(TCP, socket.TCP_MAXSEG, 1000)
    client.set(SOL, 47, rate)
    assert code(client.connect, listener.getsockname()) == errno.EINPROGRESS
    server, _ = listener.accept()
    begin = world.now
    taken = client.send(bytes(60_000))
    received = 0
    while received < taken:
        world.settle(0.01)
        try:
            received += len(server.receive(1 << 20))
        except BlockingIOError:
            pass
        assert world.now < begin + 10
    assert (0.1 < world.now - begin < 1.0) if rate > 0 else world.now - begin < 0.05


def syns(world):
    """The SYNs that reach listening sockets of `world`."""
    seen = []
    demux = world.stack.tcp
    received = demux.segment_without_flow

    def watched(interface, flow, segment, *rest):
        seen.append(segment)
        return received(interface, flow, segment, *rest)

    demux.segment_without_flow = watched
    return seen


@pytest.mark.parametrize("order", ["before", "after"])
def test_buffers_and_segment_sizes_are_said_in_the_syn(stack_world, code, order):
    world = stack_world()
    seen = syns(world)
    listener, client = world.socket(INET, STREAM), world.socket(INET, STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(5)
    client.set(TCP, socket.TCP_MAXSEG, 1000)
    client.set(SOL, socket.SO_RCVBUF, 8192)
    if order == "after":
        client.set(SOL, socket.SO_RCVBUF, 4_000_000)
    assert code(client.connect, listener.getsockname()) == errno.EINPROGRESS
    options = tcp.parse_options(seen[0].option_bytes)
    assert options.mss == 1000
    assert options.window_scale == (0 if order == "before" else 6)
    assert (seen[0].window == 8192) == (order == "before")
    assert client.get(TCP, socket.TCP_MAXSEG) <= 1000
    server, _ = listener.accept()
    client.send(bytes(3000))
    world.settle()
    assert max(len(server.receive(10_000)), 0) == 3000
    server.send(bytes(3000))
    world.settle()
    assert len(client.receive(10_000)) == 3000


def test_a_window_scale_that_was_said_stays(stack_world, streams):
    world = stack_world()
    _, client, server, _ = streams(world)
    scale = client.core.endpoint.connection.tcb.rcv_wscale
    client.set(SOL, socket.SO_RCVBUF, 4096)
    assert client.core.endpoint.connection.tcb.rcv_wscale == scale
    assert server.core.endpoint.connection.tcb.snd_wscale == scale


def test_congestion_control_before_connect(stack_world, streams, code):
    world = stack_world()
    listener, client = world.socket(INET, STREAM), world.socket(INET, STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.set(TCP, socket.TCP_CONGESTION, b"dctcp")
    listener.listen(5)
    client.set(TCP, socket.TCP_CONGESTION, b"dctcp")
    assert code(client.connect, listener.getsockname()) == errno.EINPROGRESS
    server, _ = listener.accept()
    for end in (client, server):
        assert end.get(TCP, socket.TCP_CONGESTION, 16) == b"dctcp".ljust(16, b"\0")
        tcb = end.core.endpoint.connection.tcb
        assert tcb.congestion.name == "dctcp" and tcb.ecn, "it needs marks, so it asks for them"


def test_the_time_in_fin_wait_2(stack_world, streams):
    world = stack_world()
    _, client, server, _ = streams(world)
    client.set(TCP, socket.TCP_LINGER2, 3)
    endpoint = client.core.endpoint
    config = endpoint.connection.tcb.config
    client.close()
    world.settle(2.9)
    assert endpoint.connection.state.name == "FIN_WAIT_2" and endpoint.connection.tcb.config is config
    world.settle(0.2)
    assert endpoint.connection.state.name == "CLOSED"


def test_little_to_read_is_not_worth_waking_for(world, streams, code):
    _, client, server, _ = streams(world)
    server.set(SOL, socket.SO_RCVLOWAT, 100)
    assert server.get(SOL, socket.SO_RCVLOWAT) == 100
    client.send(bytes(99))
    assert not server.poll() & IN
    assert server.receive(50) == bytes(50), "who asks gets it"
    client.send(bytes(51))
    assert server.poll() & IN
    server.receive(99)
    client.send(b"x")
    server.set(SOL, socket.SO_RCVLOWAT, 0)
    assert server.get(SOL, socket.SO_RCVLOWAT) == 1 and server.poll() & IN
    server.set(SOL, socket.SO_RCVLOWAT, 100)
    client.shutdown(socket.SHUT_WR)
    assert server.poll() & IN, "no more will come"


def test_watchers_hear_of_enough_to_read(stack_world, streams):
    world = stack_world()
    _, client, server, _ = streams(world)
    heard = []
    server.watch(heard.append)
    server.set(SOL, socket.SO_RCVLOWAT, 100)
    client.send(bytes(99))
    assert not heard
    client.send(b"x")
    assert heard
    heard.clear()
    server.set(SOL, socket.SO_RCVLOWAT, 200)
    assert not heard
    server.set(SOL, socket.SO_RCVLOWAT, 100)
    assert heard, "enough waits already"
    # what can never be there at once is not waited for
    server.set(SOL, socket.SO_RCVLOWAT, -1)
    most = server.get(SOL, socket.SO_RCVLOWAT)
    heard.clear()
    sent = 0
    while not heard:
        sent += client.send(bytes(100_000))
        world.settle(0.1)
        assert sent <= 2 * most + 100_000
    assert server.poll() & IN


def test_little_not_sent(stack_world, streams, code):
    """TCP_NOTSENT_LOWAT: the queue holds what is in flight and not much more."""
    world = stack_world()
    _, client, server, _ = streams(world)
    client.set(TCP, socket.TCP_NOTSENT_LOWAT, 10_000)
    tcb = client.core.endpoint.connection.tcb
    taken = 0
    for _ in range(100):
        if code(client.send, bytes(200_000)) == errno.EAGAIN:
            break
        assert tcb.data_end - tcb.snd_nxt <= 10_000 + tcb.mss
    assert tcb.data_end - tcb.snd_nxt >= 10_000 and not client.poll() & OUT
    assert client.core.endpoint.connection.send_room == 0
    heard = []
    client.watch(heard.append)
    while not heard:  # the peer reads, its window opens, what waited goes out
        assert tcb.data_end > tcb.snd_nxt
        taken += len(server.receive(1 << 20))
        world.settle(0.1)
    assert client.poll() & OUT and heard == [select.POLLOUT]
    client.set(TCP, socket.TCP_NOTSENT_LOWAT, 0)
    assert client.send(bytes(200_000)) > 20_000
