"""Framing, descriptors and back-pressure on a socket pair."""

import os
import socket
import struct

import pytest

from swos_net.device.vhost_user.connection import FDS_MAX, UNREAD_REPLIES_MAX, Connection, close_fds
from swos_net.device.vhost_user.message import HEADER, U64, Header, ProtocolError, Request, emit_reply, emit_request


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def pair():
    """(our connection, the peer's socket), and a check that no descriptor is left."""
    before = open_fds()
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    connection = Connection(ours)
    yield connection, peer
    connection.close()
    peer.close()
    assert open_fds() == before


@pytest.fixture
def fds():
    pipes = [os.pipe() for _ in range(20)]
    yield [fd for pipe in pipes for fd in pipe]
    close_fds([fd for pipe in pipes for fd in pipe])


MESSAGE = emit_request(Request.SET_VRING_KICK, U64(1))


def test_whole_messages_one_by_one(pair):
    connection, peer = pair
    peer.send(MESSAGE + emit_request(Request.GET_FEATURES))
    assert connection.receive() == (Header(12, 1, 8), U64(1).emit(), [])
    assert connection.receive() == (Header(1, 1, 0), b"", [])
    assert connection.receive() is None


def test_byte_by_byte(pair, fds):
    connection, peer = pair
    socket.send_fds(peer, [MESSAGE[:1]], fds[:1])
    for start in range(1, len(MESSAGE)):
        assert connection.receive() is None
        peer.send(MESSAGE[start : start + 1])
    header, payload, received = connection.receive()
    assert (header.request, payload, len(received)) == (12, U64(1).emit(), 1)
    close_fds(received)


def test_descriptors_belong_to_their_message_and_are_not_inherited(pair, fds):
    connection, peer = pair
    for count in (2, 0, FDS_MAX):
        socket.send_fds(peer, [MESSAGE], fds[:count])
    for count in (2, 0, FDS_MAX):
        received = connection.receive()[2]
        assert len(received) == count
        for mine, theirs in zip(received, fds, strict=False):
            assert os.path.sameopenfile(mine, theirs)
            assert not os.get_inheritable(mine)
        close_fds(received)


def test_m3_too_many_descriptors_are_seen_and_closed(pair, fds):
    connection, peer = pair
    socket.send_fds(peer, [MESSAGE], fds[: FDS_MAX + 1])
    with pytest.raises(ProtocolError) as caught:
        connection.receive()
    assert (caught.value.check_id, caught.value.message_name) == ("M3", "SET_VRING_KICK")


@pytest.mark.parametrize("split", [1, 4, 11, 12, 13, 19])
def test_m3_descriptors_inside_a_message(pair, fds, split):
    connection, peer = pair
    peer.send(MESSAGE[:split])
    assert connection.receive() is None
    socket.send_fds(peer, [MESSAGE[split:]], fds[:1])
    with pytest.raises(ProtocolError, match="M3"):
        connection.receive()


def test_m2_large_payload_is_refused_before_it_is_read(pair):
    connection, peer = pair
    peer.send(HEADER.pack(Request.SET_MEM_TABLE, 1, 4097) + bytes(100))
    with pytest.raises(ProtocolError, match="M2"):
        connection.receive()


def test_m1_is_checked_with_the_header(pair):
    connection, peer = pair
    peer.send(HEADER.pack(Request.SET_FEATURES, 5, 8))
    with pytest.raises(ProtocolError, match="M1"):
        connection.receive()


def test_end_between_messages_and_inside_one(pair):
    connection, peer = pair
    peer.send(MESSAGE)
    peer.shutdown(socket.SHUT_WR)
    assert connection.receive() is not None
    with pytest.raises(EOFError):
        connection.receive()


@pytest.mark.parametrize("split", [1, 12, 19])
def test_end_inside_a_message(pair, split, fds):
    connection, peer = pair
    socket.send_fds(peer, [MESSAGE[:split]], fds[:2])
    peer.shutdown(socket.SHUT_WR)
    with pytest.raises(ProtocolError, match="ended inside"):
        connection.receive()


def test_unread_message_leaves_no_descriptor(pair, fds):
    """The fixture counts: close() also closes what came with half a message."""
    connection, peer = pair
    socket.send_fds(peer, [MESSAGE[:12]], fds[:3])
    assert connection.receive() is None


def test_replies_wait_until_the_peer_reads(pair):
    connection, peer = pair
    peer.setblocking(False)
    reply = emit_reply(Request.GET_FEATURES, U64(7))
    connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    sent = 0
    while not connection.unsent:
        connection.send(reply)
        sent += 1
        assert sent < 10_000
    received = b""
    while len(received) < sent * len(reply):
        received += peer.recv(1 << 20)
        connection.flush()
    assert not connection.unsent
    assert received == reply * sent


def test_m10_a_peer_that_never_reads(pair):
    connection, peer = pair
    with pytest.raises(ProtocolError) as caught:
        for _ in range(1_000_000):
            connection.send(emit_reply(Request.GET_FEATURES, U64(7)))
    assert caught.value.check_id == "M10"
    assert len(connection._out) <= UNREAD_REPLIES_MAX + 20


def test_sending_to_a_peer_that_has_gone(pair):
    connection, peer = pair
    peer.close()
    with pytest.raises(BrokenPipeError):
        connection.send(emit_reply(Request.GET_FEATURES, U64(7)))


def test_header_layout():
    assert struct.unpack("=III", MESSAGE[:12]) == (12, 1, 8)
