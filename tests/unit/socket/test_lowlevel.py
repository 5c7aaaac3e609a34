"""The class under `swos_net.socket` refuses arguments as C's `_socket.socket` does, and treats descriptors as it does."""

import _socket
import contextvars
import errno
import gc
import os
import socket as stdlib
import threading
import time
import warnings

import pytest

from swos_net.runtime.poll import Poller
from swos_net.runtime.threaded import ThreadedRunner
from swos_net.socket.handle import wrap
from swos_net.socket.module import low_level_module
from swos_net.stack.stack import Stack

PATIENCE = 5.0


@pytest.fixture
def runner():
    with ThreadedRunner(Poller(Stack(name="host"))) as runner:
        yield runner


@pytest.fixture
def low_level(runner):
    return low_level_module(lambda: runner.stack.root)


@pytest.fixture
def swos(runner):
    """`swos_net.socket` with all authority over one stack."""
    from swos_net import socket

    with runner.stack.root.activate():
        yield socket


@pytest.fixture
def pair(swos):
    one, other = swos.socketpair(swos.AF_INET)
    for end in (one, other):
        end.settimeout(PATIENCE)
    yield one, other
    one.close()
    other.close()


# Whatever is asked of both classes: an expression over t (a stream socket), u (datagram), six (IPv6)
WRONG = """
t.recv(-1)
t.recv('a')
t.recv(1.5)
t.recv(1 << 70)
t.recv(1, 1 << 40)
t.recv_into(b'abc')
t.recv_into(bytearray(3), -1)
t.recv_into(bytearray(3), 5)
t.recv_into(5)
t.recv_into(memoryview(bytearray(6))[::2])
t.recvfrom(-1)
t.recvfrom_into(bytearray(3), -1)
t.recvfrom_into(bytearray(3), 4)
t.recvmsg(-1)
t.recvmsg(1, -1)
t.recvmsg(1, 1 << 40)
t.recvmsg_into([b'ab'])
t.recvmsg_into(5)
t.recvmsg_into([5])
t.send('a')
t.send(5)
t.send(b'a', 'b')
t.sendall('a')
t.send(memoryview(bytearray(6))[::2])
t.sendto('a', ('', 0))
t.sendto(b'a')
t.sendto(b'a', 1, 2, 3)
t.sendto(b'a', 'b', ('', 0))
u.sendto(b'a', None)
u.sendto(b'a', ('127.0.0.1',))
u.sendto(b'a', ('127.0.0.1', 'a'))
u.sendto(b'a', ('127.0.0.1', 70000))
u.sendto(b'a', ('127.0.0.1', -1))
u.sendto(b'a', (5, 70000))
u.sendto(b'a', (None, 7))
u.sendto(b'a', ('a\\0b', 7))
u.sendto(b'a', (b'127.0.0.1', 0))
u.sendto(b'a', ['127.0.0.1', 7])
six.connect(('::1',))
six.connect(('::1', 1, 2, 3, 4))
six.connect(['::1'])
six.connect(('::1', 70000))
six.connect(('::1', 1, 1 << 20))
six.connect(('::1', 1, 'a'))
six.connect(('127.0.0.1', 1))
six.connect(('<broadcast>', 1))
t.connect(('::1', 1))
t.bind(5)
t.connect(5)
t.connect_ex(5)
t.connect_ex(('127.0.0.1', 9))
t.sendmsg(5)
t.sendmsg([5])
t.sendmsg([b'a'], 5)
t.sendmsg([b'a'], [5])
t.sendmsg([b'a'], [(1, 2)])
t.sendmsg([b'a'], [('a', 2, b'')])
t.sendmsg([b'a'], [], 'a')
t.sendmsg([b'a'], [], 0, 5)
t.setblocking('')
t.setblocking(0.5)
t.setblocking(None)
t.setblocking(1 << 70)
t.setblocking(-1 << 70)
t.settimeout('a')
t.settimeout(-1)
t.settimeout(float('nan'))
t.settimeout(float('inf'))
t.settimeout(1 << 70)
t.settimeout(1j)
t.setsockopt(1, 2, 'a')
t.setsockopt(1, 2, 1.5)
t.setsockopt(1, 2, b'')
t.setsockopt(1, 2, 1 << 40)
t.setsockopt('a', 2, 2)
t.getsockopt(1, 2, -1)
t.getsockopt(1, 2, 1025)
t.getsockopt(1, 'a')
t.listen('a')
t.listen(1 << 40)
t.shutdown('a')
t.shutdown(7)
module.socket(2, 1, 0, 5.5)
module.socket(2, 1, 0, '5')
module.socket(2, 1, 0, -1)
module.socket(2, 1, 0, 12345)
module.socket('a')
module.socket(99)
module.socket(2, 99)
module.socket(2, 1, 99)
module.socket(2, 2, 6)
module.dup('a')
module.dup(12345)
module.close('a')
module.close(12345)
module.if_nametoindex(0)
module.if_indextoname(1 << 20)
""".split("\n")[1:-1]


def outcome(expression, module):
    sockets = {name: module.socket(*kind) for name, kind in {"t": (2, 1), "u": (2, 2), "six": (10, 1)}.items()}
    for each in sockets.values():
        each.settimeout(PATIENCE)
    try:
        return eval(expression, {"module": module, **sockets})
    except Exception as error:
        return error
    finally:
        for each in sockets.values():
            each.close()


@pytest.mark.kernel_sockets
@pytest.mark.parametrize("expression", WRONG)
def test_as_c_says_it(low_level, expression):
    theirs, ours = outcome(expression, _socket), outcome(expression, low_level)
    if isinstance(theirs, OSError) and theirs.errno is not None:
        assert type(ours) is type(theirs) and ours.errno == theirs.errno, (ours, theirs)
    elif isinstance(theirs, Exception):
        assert type(ours) is type(theirs) and str(ours) == str(theirs), (ours, theirs)
    else:
        assert ours == theirs


def test_the_module_has_every_name_of_the_c_module(low_level):
    missing = {name for name in vars(_socket) if not name.startswith("_")} - set(vars(low_level)) - {"CAPI"}
    assert not missing
    methods = {name for name in dir(_socket.socket)} - set(dir(low_level.socket))
    assert not methods
    assert not hasattr(low_level, "CAPI"), "C code must not take our sockets for the kernel's"


class TestDescriptors:
    def test_nobody_pays_for_a_number_that_is_not_asked_for(self, swos, pair):
        before = len(os.listdir("/proc/self/fd"))
        sockets = [swos.socket() for _ in range(50)]
        assert len(os.listdir("/proc/self/fd")) == before
        for each in sockets:
            each.close()

    def test_detached_and_adopted(self, swos, pair):
        one, other = pair
        number = one.detach()
        assert one.fileno() == -1
        again = swos.socket(fileno=number)
        assert again.fileno() == number and again.type == swos.SOCK_STREAM and again.family == swos.AF_INET
        again.sendall(b"still there")
        assert other.recv(20) == b"still there"
        again.close()
        assert other.recv(20) == b""

    def test_a_duplicate_keeps_the_connection_open(self, pair):
        one, other = pair
        copy = one.dup()
        assert copy.fileno() not in (-1, one.fileno()) and copy.gettimeout() == PATIENCE
        one.close()
        copy.sendall(b"from the copy")
        assert other.recv(20) == b"from the copy"
        copy.close()
        assert other.recv(20) == b""

    def test_closed_by_number(self, swos, pair):
        one, other = pair
        swos.close(one.fileno())
        for call in (lambda: one.send(b"x"), one.close):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.EBADF
        assert other.recv(20) == b""

    def test_a_number_that_was_closed_behind_our_back_is_not_taken_for_ours(self, swos, pair):
        number = pair[0].fileno()
        os.close(number)
        reading, writing = os.pipe()
        try:
            assert number in (reading, writing), "the number is used again"
            with pytest.raises(OSError) as caught:
                swos.socket(fileno=number)
            assert caught.value.errno == errno.ENOTSOCK
        finally:
            with pytest.raises(OSError):
                pair[0].close()
            os.close(reading)
            os.close(writing)

    @pytest.mark.kernel_sockets
    def test_a_socket_of_the_kernels_network_is_refused(self, swos):
        kernel = contextvars.Context().run(_socket.socket, _socket.AF_INET, _socket.SOCK_STREAM)  # no capability is active there
        with pytest.raises(OSError, match="kernel's network"):
            swos.socket(fileno=kernel.fileno())
        assert os.fstat(kernel.fileno()), "and left open"
        kernel.close()

    def test_unix_sockets_are_the_kernels(self, swos):
        one, other = swos.socketpair()
        with one, other:
            assert one.family == swos.AF_UNIX and os.fstat(one.fileno()) and one.core is None
            one.settimeout(PATIENCE)
            other.sendall(b"by the kernel")
            assert one.recv(20) == b"by the kernel"
            assert one.getsockopt(swos.SOL_SOCKET, swos.SO_TYPE) == swos.SOCK_STREAM
        with pytest.raises(OSError):
            one.recv(1)

    @pytest.mark.parametrize("kind", [stdlib.SOCK_STREAM, stdlib.SOCK_DGRAM])
    @pytest.mark.parametrize("family", [stdlib.AF_INET, stdlib.AF_INET6])
    def test_pairs_over_the_loopback(self, swos, family, kind):
        one, other = swos.socketpair(family, kind)
        with one, other:
            one.send(b"there")
            assert other.recv(10) == b"there"
            assert one.getpeername() == other.getsockname()


class TestLife:
    def test_an_object_that_is_forgotten_is_closed_with_a_warning(self, swos, runner):
        sock = swos.socket()
        core, text = sock.core, repr(sock).replace(f"fd={sock.fileno()}", "fd=")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del sock
            gc.collect()
        assert [each.category for each in caught] == [ResourceWarning]
        assert text.split("fd=")[0] in str(caught[0].message) and "unclosed" in str(caught[0].message)
        end = time.monotonic() + PATIENCE
        while not (core.closed and not runner.descriptors) and time.monotonic() < end:
            time.sleep(0.01)
        assert core.closed and not runner.descriptors

    def test_one_that_was_never_made_is_no_trouble(self, swos):
        with pytest.raises(TypeError):
            swos.socket("family")
        swos.socket.__new__(swos.socket)

    def test_wrapped(self, swos, pair):
        """Around a core that somebody else closes."""
        core = pair[0].core
        sock = wrap(core)
        assert sock.getsockname() == pair[0].getsockname() and sock.core is core
        sock.setsockopt(swos.IPPROTO_TCP, swos.TCP_NODELAY, 1)
        pair[0].close()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del sock

    def test_a_buffer_can_be_resized_after_an_error(self, pair):
        """As asyncio does with what it could not send."""
        one, other = pair
        one.settimeout(0)
        buffer = bytearray(1 << 22)
        with pytest.raises(BlockingIOError) as caught:
            while True:
                one.send(buffer)
        buffer.clear()
        other.close()
        buffer += b"more"
        with pytest.raises(OSError) as caught:
            for _ in range(100):
                one.send(buffer)
                time.sleep(0.01)
        buffer.clear()
        assert caught.value.errno in (errno.EPIPE, errno.ECONNRESET)

    def test_linger_of_no_seconds_resets(self, swos, pair):
        one, other = pair
        one.setsockopt(swos.SOL_SOCKET, swos.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        one.close()
        with pytest.raises(ConnectionResetError):
            other.recv(1)


class TestWaiting:
    def test_everything_is_sent_when_there_is_no_timeout(self, pair):
        """One call takes all of it, as a system call that may block does."""
        one, other = pair
        one.settimeout(None)
        data = bytes(range(256)) * 20_000
        received = bytearray()

        def receive():
            while len(received) < len(data):
                received.extend(other.recv(1 << 20))

        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        assert one.send(data) == len(data)
        thread.join(PATIENCE)
        assert received == data

    def test_sendall_keeps_to_the_time_it_was_given(self, pair):
        one, _ = pair
        one.settimeout(0.1)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            one.sendall(bytes(1 << 23))
        assert time.monotonic() - started < PATIENCE

    def test_waitall(self, swos, pair):
        one, other = pair
        threading.Timer(0.05, lambda: one.sendall(b"second")).start()
        one.sendall(b"first ")
        assert other.recv(12, swos.MSG_WAITALL) == b"first second"
        one.sendall(b"the end")
        one.shutdown(swos.SHUT_WR)
        buffer = bytearray(20)
        assert other.recv_into(buffer, 0, swos.MSG_WAITALL) == 7

    def test_dontwait(self, swos, pair):
        with pytest.raises(BlockingIOError):
            pair[0].recv(1, swos.MSG_DONTWAIT)

    @pytest.mark.parametrize("option", ["SO_RCVTIMEO"])
    def test_a_timeout_that_is_an_option(self, swos, pair, option):
        one, _ = pair
        one.settimeout(None)
        one.setsockopt(swos.SOL_SOCKET, 20, (0).to_bytes(8, "little") + (50_000).to_bytes(8, "little"))
        with pytest.raises(BlockingIOError):
            one.recv(1)

    def test_a_connection_that_another_call_began(self, swos):
        listener = swos.create_server(("127.0.0.1", 0))
        with listener, swos.socket() as sock:
            sock.setblocking(False)
            with pytest.raises(BlockingIOError) as caught:
                sock.connect(listener.getsockname())
            assert caught.value.errno == errno.EINPROGRESS
            sock.setblocking(True)
            sock.connect(listener.getsockname())
            assert sock.connect_ex(listener.getsockname()) == errno.EISCONN
