"""TLS over memory: what `ssl.SSLSocket` asks of its lower half, with a kernel socket pair in the stack's place."""

import contextlib
import select
import socket
import ssl
import threading
from pathlib import Path

import _ssl
import pytest

from swos_net.clock import monotonic
from swos_net.socket.tls import TlsConnection

KEYCERT = Path(__file__).with_name("keycert.pem")


class Core:
    """A socket of ours as far as TLS needs one; `largest` is the longest piece that was received."""

    clock = staticmethod(monotonic)

    def __init__(self, sock):
        self.sock = sock
        sock.setblocking(False)
        self.stack = self
        self.driver = self
        self.received = []

    @contextlib.contextmanager
    def entered(self):
        yield monotonic()

    def wait(self, core, mask, deadline):
        poll = select.poll()
        poll.register(self.sock, mask)
        if not poll.poll(None if deadline is None else max(0, (deadline - monotonic()) * 1000)):
            raise TimeoutError

    def send(self, data, flags, now):
        return self.sock.send(data)

    def receive(self, length, flags, now):
        data = self.sock.recv(length)
        self.received.append(len(data))
        return data


class Socket:
    """The plain socket: a core and a timeout."""

    def __init__(self, sock, timeout):
        self._core = Core(sock)
        self.timeout = timeout

    def gettimeout(self):
        return self.timeout


class Ends:
    """A server's and a client's connection over one pair; `sockets` are the plain ones."""

    def __init__(self, server_timeout=5.0, client_timeout=5.0, **client_options):
        pair = socket.socketpair()
        self.sockets = Socket(pair[0], server_timeout), Socket(pair[1], client_timeout)
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_context.load_cert_chain(KEYCERT)
        client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client_context.load_verify_locations(KEYCERT)
        for name, value in client_options.items():
            setattr(client_context, name, value)
        self.server = TlsConnection(server_context, self.sockets[0], True)
        self.client = TlsConnection(client_context, self.sockets[1], False, "server.test")

    def both(self, server, client):
        """Runs both sides at once; their results, or the errors they ended with."""
        results = [None, None]

        def run(index, function):
            try:
                results[index] = function()
            except Exception as error:
                results[index] = error

        thread = threading.Thread(target=run, args=(0, server))
        thread.start()
        run(1, client)
        thread.join()
        return results

    def handshake(self):
        assert self.both(self.server.do_handshake, self.client.do_handshake) == [None, None]
        return self

    def close(self):
        for sock in self.sockets:
            sock._core.sock.close()


@pytest.fixture
def ends():
    made = []

    def make(**options):
        made.append(Ends(**options))
        return made[-1]

    yield make
    for pair in made:
        pair.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_data_in_both_directions(ends, version):
    net = ends(maximum_version=version).handshake()
    assert net.client.version() == net.server.version() == version.name.replace("_", ".")
    assert dict(item[0] for item in net.client.getpeercert()["subject"])["commonName"] == "localhost"
    payload = bytes(range(256)) * 4000
    received = bytearray()

    def read():
        while len(received) < len(payload):
            received.extend(net.server.read(1 << 20))

    assert net.both(read, lambda: net.client.write(payload)) == [None, len(payload)]
    assert received == payload
    buffer = bytearray(10)
    assert net.both(lambda: net.server.write(b"answer"), lambda: net.client.read(10, buffer)) == [6, 6]
    assert buffer == b"answer\0\0\0\0"


def test_no_more_than_a_record_is_taken(ends):
    """What follows stays in the socket, which is readable as long as anything is left."""
    net = ends().handshake()
    for part in (b"first", b"second"):
        net.client.write(part)
    net.sockets[0]._core.received.clear()
    assert net.server.read(100) == b"first"
    assert select.select([net.sockets[0]._core.sock], [], [], 0)[0]
    assert net.server.read(3) == b"sec" and net.server.pending() == 3
    assert max(net.sockets[0]._core.received) < 64


def test_after_the_end_of_tls_the_plain_socket_has_what_follows(ends):
    net = ends().handshake()

    def client():
        plain = net.client.shutdown()
        plain._core.sock.send(b"in the clear")
        return plain

    server, client = net.both(net.server.shutdown, client)
    assert (server, client) == net.sockets
    net.sockets[0]._core.wait(None, select.POLLIN, monotonic() + 5)
    assert net.sockets[0]._core.sock.recv(100) == b"in the clear"


def test_a_certificate_nobody_vouches_for(ends):
    net = ends()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    net.client = TlsConnection(context, net.sockets[1], False, "server.test")
    server, client = net.both(net.server.do_handshake, net.client.do_handshake)
    assert isinstance(client, ssl.SSLCertVerificationError)
    assert isinstance(server, ssl.SSLError) and server.reason == "TLSV1_ALERT_UNKNOWN_CA", "the alert did not arrive"


def test_timeouts(ends):
    net = ends(client_timeout=0.05)
    with pytest.raises(TimeoutError, match="The handshake operation timed out"):
        net.client.do_handshake()
    net = ends(client_timeout=0.05)
    net.sockets[1].timeout = 5.0
    net.handshake()
    net.sockets[1].timeout = 0.05
    with pytest.raises(TimeoutError, match="The read operation timed out"):
        net.client.read(1)
    with pytest.raises(TimeoutError, match="The write operation timed out"):
        while True:
            net.client.write(bytes(1 << 20))


def test_a_peer_that_drips_does_not_prolong_a_timeout(ends):
    """The timeout is for the whole call, however much arrives meanwhile."""
    net = ends(client_timeout=0.2)
    stop = threading.Event()

    def drip():
        for byte in b"\x16\x03\x03\x40\x00" + bytes(100):
            with contextlib.suppress(OSError):
                net.sockets[0]._core.sock.send(bytes([byte]))
            if stop.wait(0.02):
                return

    def client():
        try:
            net.client.do_handshake()
        finally:
            stop.set()

    begin = monotonic()
    _, error = net.both(drip, client)
    assert isinstance(error, TimeoutError) and monotonic() - begin < 1.5


def test_without_blocking(ends):
    net = ends(server_timeout=0, client_timeout=0)

    def step(connection):
        try:
            connection.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    for _ in range(20):
        done = [step(net.client), step(net.server)]
        if all(done):
            break
    assert all(done)
    with pytest.raises(ssl.SSLWantReadError):
        net.client.read(1)
    taken, blocked = 0, False
    data = bytes(1 << 18)
    with pytest.raises(ssl.SSLWantWriteError):
        while True:
            taken += net.client.write(data)
    received = 0
    for _ in range(10000):
        if not blocked:
            with contextlib.suppress(ssl.SSLWantWriteError):
                taken += net.client.write(data)  # the same again, as OpenSSL wants it
                blocked = True
        try:
            received += len(net.server.read(1 << 16))
        except ssl.SSLWantReadError:
            if blocked:
                break
    assert received == taken and taken % len(data) == 0


def test_a_write_is_not_repeated_with_less(ends):
    net = ends().handshake()
    net.sockets[1].timeout = 0
    with pytest.raises(ssl.SSLWantWriteError):
        while True:
            net.client.write(bytes(1 << 18))
    with pytest.raises(ssl.SSLError, match="BAD_WRITE_RETRY"):
        net.client.write(b"x")


def test_the_end_of_the_connection_is_told_apart_from_the_end_of_tls(ends):
    net = ends().handshake()
    net.sockets[1]._core.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(ssl.SSLEOFError):
        net.server.read(10)
    net = ends().handshake()
    net.sockets[1].timeout = 0
    with contextlib.suppress(ssl.SSLWantReadError):
        net.client.shutdown()
    assert net.server.read(10) == b""


def test_plain_text_is_refused_at_once(ends):
    net = ends()
    net.sockets[1]._core.sock.send(b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(ssl.SSLError) as caught:
        net.server.do_handshake()
    assert caught.value.reason == "HTTP_REQUEST"


def test_reading_does_not_stop_writing_in_another_thread(ends):
    net = ends().handshake()
    result = []
    reader = threading.Thread(target=lambda: result.append(net.client.read(100)))
    reader.start()
    assert net.client.write(b"question") == 8 and net.server.read(100) == b"question"
    net.server.write(b"answer")
    reader.join(5)
    assert result == [b"answer"]


def test_the_interface_of_the_original_is_there(ends):
    """Whatever `_ssl._SSLSocket` has, for the SSLSocket of this Python's own ssl.py."""
    net = ends().handshake()
    names = {name for name in dir(_ssl._SSLContext(_ssl.PROTOCOL_TLS_CLIENT)._wrap_bio(_ssl.MemoryBIO(), _ssl.MemoryBIO(), False))
             if not name.startswith("__")}  # fmt: skip
    assert names and all(hasattr(net.client, name) for name in names)
    assert net.client.session is not None and net.client.context.check_hostname
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    net.client.context = other
    assert net.client.context is other
