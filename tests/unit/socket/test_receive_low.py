"""SO_RCVLOWAT of sockets that wait: as many bytes as that, or as were asked for, and never more patience than needed."""

import threading

import pytest

from swos_net import socket

WAIT = 5.0


@pytest.fixture
def ends(wired):
    """(client's socket, server's socket); the server's wants 100 bytes at once."""
    with wired.server_root.activate():
        listener = socket.socket()
        listener.bind((wired.server_address[0], 0))
        listener.listen()
    with wired.root.activate():
        client = socket.create_connection(listener.getsockname(), WAIT)
    listener.settimeout(WAIT)
    server, _ = listener.accept()
    server.settimeout(WAIT)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 100)
    yield client, server
    for made in (client, server, listener):
        made.close()


@pytest.fixture
def later():
    timers = []

    def call(function, *arguments):
        timers.append(threading.Timer(0.05, function, arguments))
        timers[-1].start()

    yield call
    for timer in timers:
        timer.join()


def test_it_waits_for_enough(ends, later):
    client, server = ends
    client.send(bytes(60))
    later(client.send, bytes(40))
    assert len(server.recv(1000)) == 100


def test_not_for_more_than_was_asked_for(ends, later):
    client, server = ends
    client.send(bytes(60))
    assert len(server.recv(50)) == 50
    later(client.send, bytes(20))
    assert len(server.recv(30)) == 30
    assert server.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 100


def test_all_of_it_may_be_more(ends, later):
    client, server = ends
    client.send(bytes(100))
    later(client.send, bytes(50))
    assert len(server.recv(150, socket.MSG_WAITALL)) == 150
    client.send(bytes(100))
    later(client.send, bytes(50))
    assert server.recv_into(bytearray(150), 150, socket.MSG_WAITALL) == 150


def test_the_end_of_the_stream_is_enough(ends, later):
    client, server = ends
    client.send(bytes(60))
    later(client.shutdown, socket.SHUT_WR)
    assert len(server.recv(1000)) == 60
    assert server.recv(1000) == b""


def test_who_does_not_wait_takes_what_there_is(ends):
    client, server = ends
    client.send(bytes(60))
    assert len(server.recv(60, socket.MSG_WAITALL)) == 60
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.recv(1)
    client.send(bytes(60))
    server.settimeout(WAIT)
    assert len(server.recv(60)) == 60
