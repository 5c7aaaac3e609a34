"""`swos_net.socket` is the standard library's `socket`: what its calls return and raise, and when they wait."""

import errno
import socket as stdlib
import threading
import time

import pytest

from swos_net import socket as swos
from swos_net.capability import CapabilityError
from swos_net.socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM

PATIENCE = 5.0  # of a call that is expected to succeed
FAMILIES = [AF_INET, AF_INET6]


@pytest.fixture(autouse=True)
def closed_in_the_end():
    """What a test opened and did not close itself."""
    yield
    while opened:
        opened.pop().close()


opened = []


def opening(make):
    """The function, with a capability before its arguments."""

    def made(capability, *arguments, **options):
        with capability.activate():
            opened.append(make(*arguments, **options))
        return opened[-1]

    return made


make_socket, create_server, create_connection = opening(swos.socket), opening(swos.create_server), opening(swos.create_connection)


def number(family):
    return FAMILIES.index(family)


@pytest.fixture
def in_thread():
    """Runs callables beside the test; what they raise is raised at the end."""
    started = []

    def run(call, *arguments):
        outcome = {}

        def body():
            try:
                outcome["result"] = call(*arguments)
            except BaseException as error:
                outcome["error"] = error

        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        started.append((thread, outcome))

        def join():
            thread.join(PATIENCE)
            assert not thread.is_alive(), "still waiting"
            if "error" in outcome:
                raise outcome.pop("error")
            return outcome.get("result")

        return join

    yield run
    for thread, outcome in started:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "still waiting"
        assert "error" not in outcome, repr(outcome["error"])


def connected(wired, family=AF_INET, port=80):
    address = wired.server_address[number(family)]
    with create_server(wired.server_root, (address, port), family=family) as listener:
        client = create_connection(wired.root, (address, port), PATIENCE)
        listener.settimeout(PATIENCE)
        server, _ = listener.accept()
    opened.append(server)
    server.settimeout(PATIENCE)
    return client, server


def datagram(capability, family=AF_INET, port=None):
    socket = make_socket(capability, family, SOCK_DGRAM)
    socket.settimeout(PATIENCE)
    if port is not None:
        socket.bind(("", port))
    return socket


class TestStreams:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_there_and_back(self, wired, family):
        client, server = connected(wired, family)
        with client, server:
            client.sendall(b"question")
            assert server.recv(100) == b"question"
            server.sendall(b"answer")
            assert client.recv(3) == b"ans" and client.recv(100) == b"wer"
            client.close()
            assert server.recv(100) == b"" == server.recv(100)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_names(self, wired, family):
        client, server = connected(wired, family, 8080)
        ours, theirs = wired.client_address[number(family)], wired.server_address[number(family)]
        rest = () if family == AF_INET else (0, 0)
        assert client.getpeername() == server.getsockname() == (theirs, 8080, *rest)
        assert server.getpeername() == client.getsockname()
        assert client.getsockname()[0] == ours and client.family == family

    def test_accept_tells_who_it_is(self, wired, in_thread):
        with create_server(wired.server_root, ("", 80)) as listener:
            joined = in_thread(listener.accept)
            client = create_connection(wired.root, (wired.server_address[0], 80), PATIENCE)
            server, address = joined()
            opened.append(server)
            assert address == client.getsockname()
            assert listener.getsockname() == ("0.0.0.0", 80)

    def test_more_than_all_buffers_hold(self, wired, in_thread):
        client, server = connected(wired)
        data = bytes(range(256)) * 8000
        in_thread(lambda: (client.sendall(data), client.shutdown(stdlib.SHUT_WR)))
        received = bytearray()
        while part := server.recv(1 << 16):
            received += part
        assert received == data
        with pytest.raises(BrokenPipeError):
            client.send(b"more")

    def test_recv_into_and_peek(self, wired):
        client, server = connected(wired)
        client.sendall(b"hello world")
        assert server.recv(5, stdlib.MSG_PEEK) == b"hello"
        buffer = bytearray(20)
        assert server.recv_into(buffer, 6) == 6 and buffer[:6] == b"hello "
        assert server.recv_into(memoryview(buffer)[10:]) == 5 and buffer[10:15] == b"world"
        assert server.recv(0) == b"" and server.recv_into(bytearray()) == 0, "there is nothing to wait for"
        client.sendall(b"x")
        assert server.recvfrom(10) == (b"x", None)

    def test_any_bytes_like_object_is_sent(self, wired):
        client, server = connected(wired)
        for data in (b"a", bytearray(b"b"), memoryview(b"cd")[1:], memoryview(b"efgh").cast("I")):
            client.sendall(data)
        assert client.send(b"") == 0
        client.shutdown(stdlib.SHUT_WR)
        received = b""
        while part := server.recv(100):
            received += part
        assert received == b"abdefgh"

    def test_a_file(self, wired, tmp_path, in_thread):
        path = tmp_path / "file"
        path.write_bytes(bytes(range(256)) * 2000)
        client, server = connected(wired)

        def send():
            with path.open("rb") as file:
                sent = client.sendfile(file, 100, 300_000), file.tell(), client.sendfile(file, 510_000), file.tell()
            client.shutdown(stdlib.SHUT_WR)
            return sent

        joined = in_thread(send)
        received = bytearray()
        while part := server.recv(1 << 16):
            received += part
        data = path.read_bytes()
        assert joined() == (300_000, 300_100, 2000, 512_000)
        assert received == data[100:300_100] + data[510_000:]

    def test_as_files(self, wired):
        client, server = connected(wired)
        with client.makefile("w") as writer, server.makefile("r", encoding="utf-8") as reader:
            writer.write("first line\nsecond\n")
            writer.flush()
            assert reader.readline() == "first line\n" and reader.readline() == "second\n"
        with server.makefile("wb", 0) as writer, client.makefile("rb") as reader:
            writer.write(b"raw\n")
            assert reader.readline() == b"raw\n"
        both = client.makefile("rwb")
        both.write(b"x")
        both.flush()
        assert server.recv(1) == b"x"
        server.close()
        assert both.read() == b""

    def test_shut_for_receiving(self, wired):
        client, server = connected(wired)
        server.shutdown(stdlib.SHUT_RD)
        assert server.recv(10) == b""
        server.sendall(b"still")
        assert client.recv(10) == b"still"


class TestWaiting:
    def test_a_timeout(self, wired):
        client, _ = connected(wired)
        client.settimeout(0.05)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert 0.04 < time.monotonic() - started < 2
        assert client.gettimeout() == 0.05
        with pytest.raises(ValueError, match="range"):
            client.settimeout(-1)

    def test_without_blocking(self, wired):
        client, server = connected(wired)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        total = 0
        with pytest.raises(BlockingIOError):
            while True:
                total += client.send(bytes(100_000))
        assert 65536 <= total <= 1 << 20
        with pytest.raises(BlockingIOError) as caught:
            other = make_socket(wired.root)
            other.setblocking(False)
            other.connect((wired.server_address[0], 81))
        assert caught.value.errno == errno.EINPROGRESS

    def test_a_reader_wakes_up_when_data_come(self, wired, in_thread):
        client, server = connected(wired)
        joined = in_thread(server.recv, 100)
        time.sleep(0.02)
        client.sendall(b"wake up")
        assert joined() == b"wake up"

    def test_a_reader_wakes_up_when_its_socket_is_closed(self, wired, in_thread):
        client, server = connected(wired)
        server.settimeout(None)
        joined = in_thread(server.recv, 100)
        time.sleep(0.02)
        server.close()
        with pytest.raises(OSError) as caught:
            joined()
        assert caught.value.errno == errno.EBADF

    def test_an_acceptor_wakes_up_when_its_socket_is_closed(self, wired, in_thread):
        listener = create_server(wired.server_root, ("", 80))
        joined = in_thread(listener.accept)
        time.sleep(0.02)
        listener.close()
        with pytest.raises(OSError) as caught:
            joined()
        assert caught.value.errno == errno.EBADF

    def test_a_reader_wakes_up_when_the_connection_is_reset(self, wired, in_thread):
        client, server = connected(wired)
        server.sendall(b"unread")
        assert client.recv(1, stdlib.MSG_PEEK) == b"u"  # it is there, so that closing resets
        joined = in_thread(server.recv, 100)
        client.close()
        with pytest.raises(ConnectionResetError):
            joined()
        assert server.recv(1) == b"", "told once, as by the kernel"

    def test_a_reader_wakes_up_when_the_runner_stops(self, wired, in_thread):
        client, server = connected(wired)
        server.settimeout(None)
        joined = in_thread(server.recv, 100)
        time.sleep(0.02)
        wired.server.stop()
        with pytest.raises(OSError) as caught:
            joined()
        assert caught.value.errno == errno.ENETDOWN
        server.close()

    def test_many_threads_at_once(self, wired, in_thread):
        def serve(listener):
            for _ in range(16):
                server, _ = listener.accept()
                in_thread(echo, server)

        def echo(server):
            with server:
                while data := server.recv(1000):
                    server.sendall(data)

        def ask(name):
            with create_connection(wired.root, (wired.server_address[0], 7), PATIENCE) as client:
                for round_ in range(10):
                    message = b"%d %d;" % (name, round_) * 50
                    client.sendall(message)
                    received = b""
                    while len(received) < len(message):
                        received += client.recv(1000)
                    assert received == message
            return True

        with create_server(wired.server_root, ("", 7)) as listener:
            listener.settimeout(PATIENCE)
            joined = [in_thread(serve, listener)]
            joined += [in_thread(ask, name) for name in range(16)]
            for join in joined:
                join()


class TestErrors:
    def test_refused(self, wired):
        with pytest.raises(ConnectionRefusedError):
            create_connection(wired.root, (wired.server_address[0], 81), PATIENCE)

    def test_no_answer(self, wired):
        started = time.monotonic()
        with pytest.raises(OSError) as caught:
            create_connection(wired.root, ("10.0.0.99", 80), 0.1)
        assert isinstance(caught.value, TimeoutError) and time.monotonic() - started < 2
        assert not wired.client.stack.tcp.flows, "given up for good"

    def test_the_wrong_call_at_the_wrong_time(self, wired):
        def code(call, *arguments):
            with pytest.raises(OSError) as caught:
                call(*arguments)
            return caught.value.errno

        fresh = make_socket(wired.root)
        assert code(fresh.recv, 1) == errno.ENOTCONN and code(fresh.send, b"x") == errno.EPIPE
        assert code(fresh.getpeername) == errno.ENOTCONN
        assert code(fresh.accept) == errno.EINVAL
        assert code(fresh.bind, ("10.0.0.99", 0)) == errno.EADDRNOTAVAIL
        assert code(fresh.bind, ("2001:db8::1", 0)) == stdlib.EAI_ADDRFAMILY
        assert code(fresh.setsockopt, stdlib.SOL_SOCKET, 9999, 1) == errno.ENOPROTOOPT
        client, _ = connected(wired)
        assert code(client.connect, (wired.server_address[0], 80)) == errno.EISCONN
        client.close()
        client.close()
        assert code(client.recv, 1) == errno.EBADF == code(client.send, b"x")
        assert code(datagram(wired.root).send, b"x") == errno.EDESTADDRREQ
        assert code(datagram(wired.root).listen) == errno.EOPNOTSUPP
        assert code(lambda: make_socket(wired.root, 99)) == errno.EAFNOSUPPORT
        assert code(lambda: make_socket(wired.root, AF_INET, 99)) == errno.EINVAL

    def test_a_port_that_is_taken(self, wired):
        with create_server(wired.server_root, ("", 80)):
            with pytest.raises(OSError) as caught:
                create_server(wired.server_root, ("", 80))
            assert caught.value.errno == errno.EADDRINUSE
        create_server(wired.server_root, ("", 80)).close()

    def test_what_the_capability_does_not_allow(self, wired):
        none = wired.root.attenuate("tcp:connect:10.0.0.2:80")
        with pytest.raises(CapabilityError):
            create_connection(none, (wired.server_address[0], 81), PATIENCE)
        with pytest.raises(CapabilityError):
            make_socket(none).bind(("", 80))
        with pytest.raises(CapabilityError):
            datagram(none).sendto(b"x", (wired.server_address[0], 53))

    def test_without_a_capability_there_is_no_network(self, wired):
        with pytest.raises(CapabilityError):
            swos.socket()
        with pytest.raises(CapabilityError):
            swos.getaddrinfo("localhost", 80)


class TestDatagrams:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_there_and_back(self, wired, family):
        with (
            datagram(wired.server_root, family, 53) as server,
            datagram(wired.root, family) as client,
        ):
            client.sendto(b"question", (wired.server_address[number(family)], 53))
            question, address = server.recvfrom(100)
            assert question == b"question" and address[0] == wired.client_address[number(family)]
            server.sendto(b"answer", 0, address)
            assert client.recvfrom(100)[0] == b"answer"

    def test_connected(self, wired):
        with datagram(wired.server_root, port=53) as server, datagram(wired.root) as client:
            client.connect((wired.server_address[0], 53))
            assert client.send(b"x" * 5000) == 5000
            assert len(server.recv(9000)) == 5000
            assert client.getpeername() == (wired.server_address[0], 53)
            client.send(b"long message")
            assert server.recv(4) == b"long", "the rest is cut off"
            buffer = bytearray(10)
            client.send(b"abc")
            assert server.recv_into(buffer) == 3 and buffer[:3] == b"abc"

    def test_nobody_at_the_port(self, wired):
        with datagram(wired.root) as client:
            client.connect((wired.server_address[0], 9999))
            client.send(b"anybody?")
            with pytest.raises(ConnectionRefusedError):
                client.recv(100)

    def test_broadcast(self, wired):
        with datagram(wired.server_root, port=53) as server, datagram(wired.root) as client:
            with pytest.raises(PermissionError):
                client.sendto(b"x", ("255.255.255.255", 53))
            client.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_BROADCAST, 1)
            client.sendto(b"x", ("255.255.255.255", 53))
            assert server.recv(10) == b"x"


def test_options(wired):
    client, server = connected(wired)
    client.setsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_NODELAY, 1)
    assert client.core.endpoint.connection.tcb.nodelay
    client.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE, 1)
    assert client.core.endpoint.connection.tcb.timers.keepalive is not None
    assert client.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_TYPE) == stdlib.SOCK_STREAM


def test_what_was_sent_before_close_arrives(wired):
    client, server = connected(wired)
    client.sendall(bytes(50_000))
    client.close()
    received = 0
    while part := server.recv(1 << 16):
        received += len(part)
    assert received == 50_000
