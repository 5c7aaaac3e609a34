"""TCP sockets: every test runs on a stack and on the kernel, which says whether the expectation is right."""

import errno
import select
import socket

import pytest

INET, INET6, STREAM = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM
ADDRESS = {INET: "127.0.0.1", INET6: "::1"}
FAMILIES = [INET, INET6]
IN = select.POLLIN | select.POLLRDNORM
OUT = select.POLLOUT | select.POLLWRNORM
HUP, RDHUP, ERR = select.POLLHUP, select.POLLRDHUP, select.POLLERR
SO_REUSEADDR, SO_REUSEPORT, SOL = socket.SO_REUSEADDR, socket.SO_REUSEPORT, socket.SOL_SOCKET
LINGER_NOTHING = b"\1\0\0\0\0\0\0\0"


def bound(world, family=INET, port=0, host=None, **options):
    made = world.socket(family)
    for name in options:
        made.set(SOL, getattr(socket, name), 1)
    made.bind((ADDRESS[family] if host is None else host, port))
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back(world, streams, family):
    listener, client, server, address = streams(world, family)
    assert address == client.getsockname() == server.getpeername()
    assert server.getsockname() == client.getpeername() == listener.getsockname()
    assert client.send(b"question") == 8
    assert server.receive(100) == b"question"
    assert server.send(b"answer") == 6
    assert client.receive(3, socket.MSG_PEEK) == b"ans" and client.receive(100) == b"answer"
    client.shutdown(socket.SHUT_WR)
    assert server.receive(100) == b""
    server.send(b"still open")
    assert client.receive(100) == b"still open"
    server.close()
    assert client.receive(100) == b""


def test_connecting_step_by_step(world, code):
    listener, client = bound(world), world.socket()
    listener.listen(5)
    assert code(listener.accept) == errno.EAGAIN
    assert code(client.connect, listener.getsockname()) == errno.EINPROGRESS
    assert client.get(SOL, socket.SO_ERROR) == 0
    assert code(client.connect, listener.getsockname()) == 0, "the first call after success says so"
    assert code(client.connect, listener.getsockname()) == errno.EISCONN


@pytest.mark.parametrize("family", FAMILIES)
def test_nobody_listens(world, code, family):
    gone = bound(world, family)
    address = gone.getsockname()
    gone.close()
    client = world.socket(family)
    assert code(client.connect, address) in (errno.EINPROGRESS, errno.ECONNREFUSED)
    assert code(client.connect, address) == errno.ECONNREFUSED
    assert client.get(SOL, socket.SO_ERROR) == 0, "told already"
    # it may try again
    assert code(client.connect, address) in (errno.EINPROGRESS, errno.ECONNREFUSED)
    assert client.poll() & (HUP | ERR) == HUP | ERR
    assert client.get(SOL, socket.SO_ERROR) == errno.ECONNREFUSED
    assert code(client.connect, address) == errno.ECONNABORTED, "the error was taken by SO_ERROR"


def test_a_socket_that_is_not_connected(world, code):
    fresh = world.socket()
    assert fresh.poll() == OUT | HUP
    assert code(fresh.send, b"x") == errno.EPIPE
    assert code(fresh.receive, 1) == errno.ENOTCONN
    assert code(fresh.getpeername) == errno.ENOTCONN
    assert code(fresh.shutdown, socket.SHUT_WR) == errno.ENOTCONN
    assert code(fresh.accept) == errno.EINVAL
    assert fresh.getsockname() == ("0.0.0.0", 0)
    assert code(fresh.connect, ("224.0.0.1", 80)) == errno.ENETUNREACH


def test_a_listening_socket(world, code):
    listener = bound(world)
    listener.listen(1)
    assert listener.poll() == 0
    assert code(listener.send, b"x") == errno.EPIPE
    assert code(listener.receive, 1) == errno.ENOTCONN
    assert code(listener.connect, listener.getsockname()) == errno.EISCONN
    assert code(listener.bind, ("127.0.0.1", 0)) == errno.EINVAL
    assert listener.get(SOL, socket.SO_ACCEPTCONN) == 1
    client = world.socket()
    assert code(client.connect, listener.getsockname()) == errno.EINPROGRESS
    assert listener.poll() == IN
    listener.listen(7)
    listener.shutdown(socket.SHUT_RDWR)
    assert code(listener.accept) == errno.EINVAL
    assert listener.get(SOL, socket.SO_ACCEPTCONN) == 0
    listener.listen(1)


def test_listening_without_bind(world):
    listener = world.socket()
    listener.listen(1)
    host, port = listener.getsockname()
    assert host == "0.0.0.0" and port


def test_a_connected_socket_neither_listens_nor_binds(world, streams, code):
    _, client, server, _ = streams(world)
    assert code(client.listen, 1) == errno.EINVAL
    assert code(client.bind, ("127.0.0.1", 0)) == errno.EINVAL
    assert code(server.accept) == errno.EINVAL


def test_what_bind_refuses(world, code):
    made = world.socket()
    assert code(made.bind, ("192.0.2.1", 0)) == errno.EADDRNOTAVAIL
    made.bind(("127.0.0.1", 0))
    assert code(made.bind, ("127.0.0.1", 0)) == errno.EINVAL
    assert code(world.socket().bind, made.getsockname()) == errno.EADDRINUSE
    assert code(world.socket().bind, ("0.0.0.0", made.getsockname()[1])) == errno.EADDRINUSE
    assert code(world.socket().bind, ("127.0.0.2", made.getsockname()[1])) == 0


def test_polling_through_a_life(world, streams):
    _, client, server, _ = streams(world)
    assert client.poll() == OUT
    client.send(b"x")
    assert server.poll() == IN | OUT
    server.receive(1)
    client.shutdown(socket.SHUT_WR)
    assert server.poll() == IN | OUT | RDHUP
    assert client.poll() == OUT
    server.shutdown(socket.SHUT_WR)
    assert client.poll() == IN | OUT | RDHUP | HUP
    assert server.poll() == IN | OUT | RDHUP | HUP


def test_after_a_reset(world, streams, code):
    _, client, server, _ = streams(world)
    server.set(SOL, socket.SO_LINGER, LINGER_NOTHING)
    server.close()
    assert client.poll() == IN | OUT | RDHUP | HUP | ERR
    assert code(client.receive, 1) == errno.ECONNRESET, "told once"
    assert client.receive(1) == b""
    assert code(client.send, b"x") == errno.EPIPE
    assert code(client.getpeername) == errno.ENOTCONN
    assert code(client.shutdown, socket.SHUT_RDWR) == errno.ENOTCONN


def test_a_reset_told_to_the_sender(world, streams, code):
    _, client, server, _ = streams(world)
    server.set(SOL, socket.SO_LINGER, LINGER_NOTHING)
    server.close()
    assert code(client.send, b"x") == errno.ECONNRESET
    assert code(client.send, b"x") == errno.EPIPE
    assert client.receive(1) == b""


def test_unread_data_resets(world, streams, code):
    """RFC 2525 2.17."""
    _, client, server, _ = streams(world)
    client.send(b"never read")
    server.close()
    assert code(client.receive, 1) == errno.ECONNRESET


def test_data_before_a_reset_can_be_read(world, streams, code):
    _, client, server, _ = streams(world)
    server.send(b"last words")
    server.set(SOL, socket.SO_LINGER, LINGER_NOTHING)
    server.close()
    assert client.receive(100) == b"last words"
    assert code(client.receive, 100) == errno.ECONNRESET


def test_writing_to_a_closed_peer(world, streams, code):
    _, client, server, _ = streams(world)
    server.close()
    assert client.send(b"x") == 1, "half of a connection may go on"
    assert code(client.send, b"x") == errno.EPIPE
    assert client.receive(1) == b""


def test_shutting_down(world, streams, code):
    _, client, server, _ = streams(world)
    assert code(client.shutdown, 3) == errno.EINVAL
    client.shutdown(socket.SHUT_RD)
    assert client.receive(10) == b""
    client.shutdown(socket.SHUT_WR)
    assert code(client.send, b"x") == errno.EPIPE
    assert server.receive(10) == b""


def test_a_full_send_queue(world, streams, code):
    _, client, server, _ = streams(world)
    total = 0
    with pytest.raises(BlockingIOError):
        while total < 1 << 28:
            total += client.send(bytes(65536))
    assert not client.poll() & OUT
    received = 0
    while received < total:
        received += len(server.receive(1 << 20))
        world.settle(0.01)
    assert client.poll() == OUT
    assert code(server.receive, 1) == errno.EAGAIN


def test_flags(world, streams, code):
    _, client, server, _ = streams(world)
    client.send(b"abcdef", socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
    assert code(server.receive, 1, socket.MSG_OOB) == errno.EINVAL
    assert server.receive(2, socket.MSG_WAITALL) == b"ab"
    assert code(server.receive, 1, socket.MSG_ERRQUEUE) == errno.EAGAIN
    buffer = bytearray(b"....")
    assert server.receive_into(buffer, 2, socket.MSG_TRUNC) == 2 and buffer == b"....", "taken and not given"
    assert server.receive_into(buffer, 0) == 2 and buffer == b"ef.."


def test_more_is_held_back_until_there_is_a_segment_or_no_more(world, streams, code):
    _, client, server, _ = streams(world)
    client.set(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.send(b"head ", socket.MSG_MORE)
    assert code(server.receive, 10) == errno.EAGAIN
    client.send(b"body")
    assert server.receive(10) == b"head body"
    client.set(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    client.send(b"corked")
    assert code(server.receive, 10) == errno.EAGAIN
    client.set(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    assert server.receive(10) == b"corked"


def test_messages(world, streams):
    _, client, server, _ = streams(world)
    assert client.send_message([b"one ", b"", b"two"], [], 0, None) == 7
    assert server.receive_message(100, 100) == (b"one two", [], 0, None)
    assert client.send_to(b"addressed", 0, ("127.0.0.1", 9)) == 9, "a stream does not look at the address"
    assert server.receive_from(100) == (b"addressed", None)


def test_counts(world, streams):
    _, client, server, _ = streams(world)
    client.send(b"12345")
    assert server.ioctl(0x541B, None) == 5
    server.receive(2)
    assert server.ioctl(0x541B, None) == 3
    assert client.ioctl(0x541B, None) == 0


def test_errors_of_making(world, code):
    assert code(world.socket, socket.AF_UNIX + 9000) == errno.EAFNOSUPPORT
    assert code(world.socket, INET, socket.SOCK_SEQPACKET) == errno.ESOCKTNOSUPPORT
    assert code(world.socket, INET, 100) == errno.EINVAL
    assert code(world.socket, INET, STREAM, socket.IPPROTO_UDP) == errno.EPROTONOSUPPORT
    assert code(world.socket, INET, socket.SOCK_DGRAM, socket.IPPROTO_TCP) == errno.EPROTONOSUPPORT
    assert code(world.socket, INET, STREAM, socket.IPPROTO_TCP) == 0


class TestSharingPorts:
    def test_reuse_address_shares_until_somebody_listens(self, world, code):
        one = bound(world, SO_REUSEADDR=1)
        port = one.getsockname()[1]
        other = bound(world, port=port, SO_REUSEADDR=1)
        one.listen(1)
        assert code(other.listen, 1) == errno.EADDRINUSE
        third = world.socket()
        third.set(SOL, SO_REUSEADDR, 1)
        assert code(third.bind, ("127.0.0.1", port)) == errno.EADDRINUSE

    def test_both_must_agree(self, world, code):
        one = bound(world, SO_REUSEADDR=1)
        assert code(world.socket().bind, one.getsockname()) == errno.EADDRINUSE
        plain = bound(world)
        other = world.socket()
        other.set(SOL, SO_REUSEADDR, 1)
        assert code(other.bind, plain.getsockname()) == errno.EADDRINUSE

    def test_reuse_port_lets_all_listen(self, world, code):
        listeners = [bound(world, SO_REUSEPORT=1)]
        address = listeners[0].getsockname()
        listeners += [bound(world, port=address[1], SO_REUSEPORT=1) for _ in range(3)]
        for listener in listeners:
            listener.listen(64)
        clients = [world.socket() for _ in range(64)]
        for client in clients:
            assert code(client.connect, address) == errno.EINPROGRESS
        counts = []
        for listener in listeners:
            counts.append(0)
            while code(listener.accept) == 0:
                counts[-1] += 1
        assert sum(counts) == 64 and min(counts) >= 4

    @pytest.mark.parametrize("reuse", [False, True])
    def test_time_wait_keeps_a_port_unless_reused(self, world, code, reuse):
        options = {"SO_REUSEADDR": 1} if reuse else {}
        listener = bound(world, **options)
        listener.listen(1)
        address = listener.getsockname()
        client = world.socket()
        assert code(client.connect, address) == errno.EINPROGRESS
        server, _ = listener.accept()
        listener.close()
        again = world.socket()
        again.set(SOL, SO_REUSEADDR, int(reuse))
        # the connection alone keeps the port
        assert code(again.bind, address) == (0 if reuse else errno.EADDRINUSE)
        again.close()
        server.close()  # first: TIME-WAIT is the server's
        client.close()
        again = world.socket()
        again.set(SOL, SO_REUSEADDR, int(reuse))
        assert code(again.bind, address) == (0 if reuse else errno.EADDRINUSE)
        if reuse:
            again.listen(1)

    def test_a_bound_port_can_connect_to_several_peers_and_once_to_each(self, world, code):
        first, second = bound(world), bound(world)
        first.listen(1)
        second.listen(1)
        one = bound(world, SO_REUSEADDR=1)
        assert code(one.connect, first.getsockname()) == errno.EINPROGRESS
        for target, expected in ((second, errno.EINPROGRESS), (first, errno.EADDRNOTAVAIL)):
            other = world.socket()
            other.set(SOL, SO_REUSEADDR, 1)
            other.bind(one.getsockname())
            assert code(other.connect, target.getsockname()) == expected


class TestBothFamilies:
    def test_an_ipv6_socket_hears_ipv4(self, world, code):
        listener = bound(world, INET6, host="::")
        listener.listen(1)
        port = listener.getsockname()[1]
        assert listener.getsockname() == ("::", port, 0, 0)
        client = world.socket(INET)
        assert code(client.connect, ("127.0.0.1", port)) == errno.EINPROGRESS
        server, address = listener.accept()
        assert address == ("::ffff:127.0.0.1", client.getsockname()[1], 0, 0) == server.getpeername()
        assert server.getsockname() == ("::ffff:127.0.0.1", port, 0, 0)
        assert code(world.socket(INET).bind, ("127.0.0.1", port)) == errno.EADDRINUSE

    def test_an_ipv6_socket_reaches_ipv4(self, world, code):
        listener = bound(world)
        listener.listen(1)
        client = world.socket(INET6)
        assert code(client.connect, ("::ffff:127.0.0.1", listener.getsockname()[1])) == errno.EINPROGRESS
        assert client.getpeername()[0] == "::ffff:127.0.0.1"

    def test_only_ipv6(self, world, code):
        only = world.socket(INET6)
        only.set(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        only.bind(("::", 0))
        only.listen(1)
        port = only.getsockname()[1]
        assert code(world.socket(INET).bind, ("0.0.0.0", port)) == 0
        assert code(only.set, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0) == errno.EINVAL
        other = world.socket(INET6)
        other.set(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        assert code(other.bind, ("::ffff:127.0.0.1", 0)) == errno.EINVAL
        assert code(other.connect, ("::ffff:127.0.0.1", port)) == errno.ENETUNREACH

    def test_the_unspecified_address_is_this_host(self, world, code):
        for family, host, peer in ((INET, "0.0.0.0", "127.0.0.1"), (INET6, "::", "::1")):
            listener = bound(world, family)
            listener.listen(1)
            client = world.socket(family)
            assert code(client.connect, (host, listener.getsockname()[1])) == errno.EINPROGRESS
            assert client.getpeername()[0] == peer
