"""A socket's descriptor shows to select, poll and epoll what the socket is ready for, beside the kernel's descriptors."""

import errno
import fcntl
import os
import select
import selectors
import time

import pytest

from swos_net.runtime.poll import Poller
from swos_net.runtime.threaded import ThreadedRunner
from swos_net.socket.readiness import Mirror
from swos_net.stack.stack import Stack

PATIENCE = 5.0


@pytest.fixture
def swos():
    from swos_net import socket

    with ThreadedRunner(Poller(Stack())) as runner, runner.stack.root.activate():
        yield socket


@pytest.fixture
def pair(swos):
    one, other = swos.socketpair(swos.AF_INET)
    one.setblocking(False)
    yield one, other
    one.close()
    other.close()


def ready(sock, timeout=0.0):
    readable, writable, _ = select.select([sock], [sock], [], timeout)
    return bool(readable), bool(writable)


def test_all_four_states(pair):
    one, other = pair
    assert ready(one) == (False, True)
    other.sendall(b"x")
    assert ready(one) == (True, True)
    try:
        while True:
            one.send(bytes(65536))
    except BlockingIOError:
        pass
    assert ready(one) == (True, False)
    one.recv(1)
    assert ready(one) == (False, False)
    while one not in select.select([], [one], [], 0)[1]:
        other.recv(1 << 20)
    assert ready(one) == (False, True)


def test_what_is_not_read_stays_ready(pair):
    one, other = pair
    other.sendall(b"abc")
    for left in (b"a", b"b", b"c"):
        assert ready(one)[0]
        assert one.recv(1) == left
    assert not ready(one)[0]


@pytest.mark.parametrize("call", [
    lambda sock: sock.recv(10), lambda sock: sock.recv_into(bytearray(10)), lambda sock: sock.recvfrom(10),
    lambda sock: sock.recvmsg(10), lambda sock: sock.recvmsg_into([bytearray(10)]),
])  # fmt: skip
def test_every_way_to_read_is_noticed(pair, call):
    one, other = pair
    one.fileno()
    other.sendall(b"x")
    assert ready(one)[0]
    call(one)
    assert not ready(one)[0]


def test_the_end_and_a_reset_make_readable(swos, pair):
    one, other = pair
    other.shutdown(swos.SHUT_WR)
    assert ready(one) == (True, True)
    one.recv(1)
    assert ready(one) == (True, True), "for ever"


def test_a_listening_socket(swos):
    with swos.create_server(("127.0.0.1", 0)) as listener:
        assert ready(listener)[0] is False
        client = swos.create_connection(listener.getsockname())
        assert ready(listener, PATIENCE)[0]
        listener.accept()[0].close()
        assert ready(listener)[0] is False
        client.close()


def test_a_connection_under_way_and_its_failure(swos):
    with swos.socket() as sock:
        sock.setblocking(False)
        assert ready(sock) == (True, True), "as Linux says of a socket that was never connected"
        assert sock.connect_ex(("127.0.0.1", 9)) == errno.EINPROGRESS
        assert ready(sock, PATIENCE)[1]
        assert sock.getsockopt(swos.SOL_SOCKET, swos.SO_ERROR) == errno.ECONNREFUSED


@pytest.mark.parametrize("selector", [selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector])
def test_among_descriptors_of_the_kernel(pair, selector):
    one, other = pair
    reading, writing = os.pipe()
    with selector() as chosen:
        chosen.register(one, selectors.EVENT_READ)
        chosen.register(reading, selectors.EVENT_READ)
        assert chosen.select(0) == []
        other.sendall(b"x")
        assert [key.fileobj for key, _ in chosen.select(PATIENCE)] == [one]
        os.write(writing, b"x")
        assert {key.fileobj for key, _ in chosen.select(PATIENCE)} == {one, reading}
    os.close(reading)
    os.close(writing)


def test_a_thread_that_sleeps_in_select_is_woken(swos, pair):
    import threading

    one, other = pair
    threading.Timer(0.05, other.sendall, (b"x",)).start()
    started = time.monotonic()
    assert select.select([one], [], [], PATIENCE)[0] == [one]
    assert time.monotonic() - started < PATIENCE


def test_nothing_is_written_while_nothing_changes(pair, monkeypatch):
    one, other = pair
    one.fileno()
    mirror = one.core.mirror
    assert isinstance(mirror, Mirror)
    other.sendall(b"abcdef")

    class Refusing:
        def __getattr__(self, name):
            raise AssertionError(f"{name} of the pair was called")

    monkeypatch.setattr(mirror, "_far", Refusing())
    monkeypatch.setattr(mirror, "_near", Refusing())
    for _ in range(5):
        one.recv(1)
        other.send(b"x")
    monkeypatch.undo()


def test_the_descriptor_says_whether_the_socket_blocks(pair):
    one, _ = pair
    one.setblocking(True)
    assert os.get_blocking(one.fileno())
    one.settimeout(1)
    assert not os.get_blocking(one.fileno())


def test_files_are_not_sent_into_the_descriptor(pair, tmp_path):
    """The event loops of the standard library try os.sendfile, and send otherwise when it is refused."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with path.open("rb") as file, pytest.raises(OSError) as caught:
        os.sendfile(pair[0].fileno(), file.fileno(), 0, 7)
    assert caught.value.errno == errno.EINVAL
    assert fcntl.fcntl(pair[0], fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_both_descriptors_go_with_the_socket(swos):
    before = len(os.listdir("/proc/self/fd"))
    sock = swos.socket()
    sock.fileno()
    assert len(os.listdir("/proc/self/fd")) == before + 2
    sock.close()
    assert len(os.listdir("/proc/self/fd")) == before
