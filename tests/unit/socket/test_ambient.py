"""While a capability is active, whoever uses `socket` and `ssl` gets the stack's; otherwise nothing has changed."""

import _socket
import asyncio
import contextvars
import select
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import create_connection as early_create_connection
from socket import getaddrinfo as early_getaddrinfo
from socket import socket as early_socket

import pytest

from swos_net import socket as stack_socket
from swos_net import ssl as stack_ssl
from swos_net.capability import CapabilityError
from swos_net.socket.ambient import install
from swos_net.socket.tls import TlsConnection

KEYCERT = Path(__file__).with_name("keycert.pem")


class Named(socket.socket):
    """A library's subclass with another signature, that calls its base by name."""

    def __init__(self, purpose, family=socket.AF_INET):
        socket.socket.__init__(self, family)
        self.purpose = purpose


class Logging(socket.socket):
    def send(self, data, flags=0):
        self.log = bytes(data)
        return super().send(data, flags)


def served(server, family=socket.AF_INET, **options):
    """A port at which one connection is answered with what it says, in capitals."""
    with server.stack.root.activate():
        listener = socket.create_server(("", 0), family=family, **options)
    port = listener.getsockname()[1]

    def serve():
        with listener, listener.accept()[0] as connection:
            connection.sendall(connection.recv(100).upper())

    thread = threading.Thread(target=serve)
    thread.start()
    return port, thread


@pytest.mark.parametrize("connect", [socket.create_connection, early_create_connection])
def test_a_library_speaks_over_the_stack(wired, connect):
    port, thread = served(wired.server)
    with wired.root.activate(), connect((wired.server_address[0], port)) as sock:
        assert sock.getpeername() == (wired.server_address[0], port)
        sock.sendall(b"hello")
        assert sock.recv(100) == b"HELLO"
    thread.join()


@pytest.mark.parametrize("cls", [socket.socket, early_socket, socket.SocketType])
def test_sockets_of_a_stack_pass_for_the_kernels(wired, cls):
    with wired.root.activate(), socket.socket() as sock:
        assert isinstance(sock, cls) and isinstance(sock, stack_socket.socket)
        assert sock.family is socket.AF_INET and sock.type is socket.SOCK_STREAM
    assert issubclass(stack_socket.socket, cls)


@pytest.mark.parametrize("arguments", [(), (socket.AF_INET6,), (-1, socket.SOCK_DGRAM)])
def test_every_way_to_ask_for_the_internet(wired, arguments):
    with wired.root.activate(), early_socket(*arguments) as sock:
        assert isinstance(sock, stack_socket.socket)
    with wired.root.activate(), early_socket(**dict(zip(("family", "type"), arguments))) as sock:
        assert isinstance(sock, stack_socket.socket)


def test_subclasses_are_both(wired):
    port, thread = served(wired.server)
    with wired.root.activate():
        with Logging() as sock, Named("test") as named, Named("local", socket.AF_UNIX) as local:
            assert isinstance(sock, Logging) and isinstance(sock, stack_socket.socket)
            sock.connect((wired.server_address[0], port))
            assert sock.send(b"hello") == 5 and sock.recv(100) == b"HELLO" and sock.log == b"hello"
            assert named.purpose == "test" and named._core is not None and named.fileno() >= 0
            assert local.family == socket.AF_UNIX and local._core is None
            assert type(sock).__name__ == "Logging" and type(sock) is not Logging
        with Logging() as again:
            assert type(again) is type(sock), "one class for all"
    thread.join()


def test_a_subclass_that_cannot_be_both_is_refused(wired):
    class Slotted(socket.socket):
        __slots__ = ("extra",)

    with wired.root.activate(), pytest.raises(PermissionError, match="Slotted cannot be made a socket of a stack"):
        Slotted()


@pytest.mark.kernel_sockets
def test_outside_nothing_has_changed(wired):
    install()
    for make in (socket.socket, early_socket, lambda: Named("test"), Logging):
        with make() as sock:
            assert not isinstance(sock, stack_socket.socket) and _socket.socket.fileno(sock) >= 0
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getpeername() == sock.getsockname()
    assert socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)[0][4] == ("127.0.0.1", 80)
    assert socket.gethostbyname("127.0.0.1") == "127.0.0.1"
    with pytest.raises(CapabilityError, match="no capability is active"):
        stack_socket.socket()


@pytest.mark.kernel_sockets
def test_what_was_made_outside_stays_what_it_is(wired):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        with wired.root.activate():
            accepted, _ = listener.accept()
            with accepted, socket.socket(fileno=sock.detach()) as again:
                again.sendall(b"hello")
                assert accepted.recv(10) == b"hello"
                assert not isinstance(accepted, stack_socket.socket) and not isinstance(again, stack_socket.socket)


def test_descriptors_of_a_stack_are_known_everywhere(wired):
    with wired.root.activate():
        sock = socket.socket()
    descriptor = sock.detach()
    with socket.socket(fileno=descriptor) as again, socket.fromfd(again.fileno(), again.family, again.type) as copy:
        assert isinstance(again, stack_socket.socket) and isinstance(copy, stack_socket.socket)
        assert copy.fileno() != again.fileno()
    socket.close(socket.dup(0))  # and the kernel's


def test_the_local_families_stay_the_kernels(wired):
    with wired.root.activate():
        ends = socket.socketpair()
        assert not any(isinstance(end, stack_socket.socket) for end in ends)
        ends[0].sendall(b"hello")
        assert ends[1].recv(10) == b"hello"
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
            assert sock.family == socket.AF_NETLINK
    for end in ends:
        end.close()


@pytest.mark.kernel_sockets
def test_ways_around_are_refused(wired):
    with wired.root.activate():
        ways = (
            _socket.socket, lambda: _socket.socket(_socket.AF_INET6, _socket.SOCK_DGRAM), lambda: socket.socket(socket.AF_PACKET),
            lambda: _socket.gethostbyname("localhost"), lambda: _socket.getaddrinfo("localhost", 80), lambda: _socket.getnameinfo(("127.0.0.1", 80), 0),
        )  # fmt: skip
        for way in ways:
            with pytest.raises(CapabilityError, match="the kernel's network"):
                way()


def test_the_machine_is_not_renamed(wired):
    """A program that may do that, as root's, would rename the kernel's host and not the stack."""
    name = socket.gethostname()  # the kernel's: if all fails, nothing changes
    with wired.root.activate():
        for sethostname in (socket.sethostname, _socket.sethostname, stack_socket.sethostname):
            with pytest.raises(PermissionError, match="a stack gets its name from who makes it"):
                sethostname(name)


def test_names_are_looked_up_in_the_stack(wired):
    wired.client.stack.names.hosts.add("10.0.0.7", "a.test")
    with wired.root.activate():
        for function in (socket.getaddrinfo, early_getaddrinfo):
            assert function("a.test", 80, type=socket.SOCK_STREAM)[0][4] == ("10.0.0.7", 80)
        assert socket.gethostbyname("10.0.0.9") == "10.0.0.9"
        assert socket.gethostname() == wired.client.stack.names.hostname
        assert ("lo" in dict(map(reversed, socket.if_nameindex()))) and socket.if_nametoindex("lo") == 1
    narrow = wired.root.attenuate("tcp:connect:*:80")
    with narrow.activate(), pytest.raises(CapabilityError):
        socket.create_connection((wired.server_address[0], 81))


def test_tasks_inherit_and_threads_do_not(wired):
    async def main():
        async def task():
            with socket.socket() as sock:
                return type(sock)

        with wired.root.activate():
            inside = asyncio.create_task(task())
        threaded = contextvars.copy_context()
        assert await inside is stack_socket.socket
        with wired.root.activate():
            assert await asyncio.to_thread(lambda: socket.socket().close()) is None
            with ThreadPoolExecutor(1) as pool, pytest.raises(CapabilityError, match="no capability is active"):
                await asyncio.get_running_loop().run_in_executor(pool, stack_socket.socket)
        return threaded

    asyncio.run(main())


def test_loops_of_asyncio_itself(wired):
    """They poll the descriptors that mirror our sockets, and look names up with the capability at hand."""
    port, thread = served(wired.server)

    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(socket.gaierror):
            await loop.getaddrinfo("a.test", 80)
        assert await loop.getnameinfo(("10.0.0.9", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV) == ("10.0.0.9", "80")
        reader, writer = await asyncio.open_connection(wired.server_address[0], port)
        assert isinstance(writer.get_extra_info("socket")._sock, stack_socket.socket)
        writer.write(b"hello")
        assert await reader.read() == b"HELLO"
        writer.close()
        await writer.wait_closed()

    with wired.root.activate():
        asyncio.run(main())
    thread.join()


@pytest.mark.parametrize("module", [ssl, stack_ssl])
def test_tls(wired, module):
    """Over the stack, with the contexts and classes of `ssl` itself."""
    server_context = module.SSLContext(module.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(KEYCERT)
    with wired.server_root.activate():
        listener = server_context.wrap_socket(socket.create_server(("", 0)), server_side=True)
    seen = []

    def serve():
        with listener, listener.accept()[0] as connection:
            seen.append(connection.version())
            connection.sendall(connection.recv(100).upper())
            connection.unwrap()

    thread = threading.Thread(target=serve)
    thread.start()
    context = module.create_default_context(cafile=str(KEYCERT))
    context.check_hostname = False
    with wired.root.activate():
        plain = socket.create_connection((wired.server_address[0], listener.getsockname()[1]))
    with context.wrap_socket(plain) as sock:
        assert isinstance(sock, ssl.SSLSocket) and isinstance(sock, stack_socket.socket) and isinstance(sock._sslobj, TlsConnection)
        sock.sendall(b"hello")
        assert sock.recv(100) == b"HELLO" and sock.version() == "TLSv1.3" and sock.context is context
        sock.unwrap().close()
    thread.join()
    assert seen == ["TLSv1.3"]


def tls_server(wired, serve, **settings):
    """A thread in which `serve(connection)` runs with one accepted connection, not yet wrapped, and its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(KEYCERT)
    for name, value in settings.items():
        setattr(context, name, value)
    with wired.server_root.activate():
        listener = socket.create_server(("", 0))

    def run():
        with listener, listener.accept()[0] as connection:
            serve(context, connection)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, listener.getsockname()[1]


def test_session_tickets_that_nobody_reads_make_no_reset(wired):
    seen = []

    def serve(context, connection):
        with context.wrap_socket(connection, server_side=True) as sock:
            seen.append(sock.recv(100))

    thread, port = tls_server(wired, serve)
    context = ssl.create_default_context(cafile=str(KEYCERT))
    context.check_hostname = False
    with wired.root.activate():
        plain = socket.create_connection((wired.server_address[0], port))
    with context.wrap_socket(plain) as sock:
        assert select.select([sock], [], [], 10)[0], "the tickets"
    thread.join()
    assert seen == [b""]


def test_an_alert_is_not_overtaken_by_a_reset(wired):
    """The server fails at the client's certificate, and has more of the client's unread when it closes."""
    failures = []

    def serve(context, connection):
        try:
            context.wrap_socket(connection, server_side=True)
        except ssl.SSLError as error:
            failures.append(error)

    thread, port = tls_server(wired, serve, verify_mode=ssl.CERT_REQUIRED, minimum_version=ssl.TLSVersion.TLSv1_3)
    context = ssl.create_default_context(cafile=str(KEYCERT))
    context.check_hostname = False
    context.load_cert_chain(KEYCERT)
    with wired.root.activate():
        plain = socket.create_connection((wired.server_address[0], port))
    with context.wrap_socket(plain) as sock:
        thread.join()
        sock.send(b"a reset would have it fail")
        assert select.select([sock], [], [], 10)[0]
        with pytest.raises(ssl.SSLError, match="ALERT_UNKNOWN_CA"):
            sock.recv(100)
    assert isinstance(failures[0], ssl.SSLCertVerificationError)


def test_the_public_module_is_the_standard_one():
    assert stack_ssl.SSLContext is ssl.SSLContext and stack_ssl.CERT_REQUIRED is ssl.CERT_REQUIRED
    assert set(stack_ssl.__all__) >= {"SSLContext", "SSLSocket", "create_default_context", "SSLError"}
    assert {"SSLContext", "OPENSSL_VERSION"} <= set(dir(stack_ssl))
    with pytest.raises(AttributeError, match="swos_net.ssl"):
        stack_ssl.wrap_everything


def test_installing_again_changes_nothing():
    before = vars(socket).copy()
    new, hooks = socket.socket.__new__, ssl.SSLContext._wrap_socket
    install()
    assert vars(socket) == before and socket.socket.__new__ is new and ssl.SSLContext._wrap_socket is hooks
