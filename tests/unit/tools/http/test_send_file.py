"""Files into transports, with and without `write_file`."""

import os

import pytest

from swos_tools.http.send_file import CHUNK, CHUNKS_PER_TURN, FileSender

CONTENT = os.urandom(1 << 10) * 3000  # 3 MB


@pytest.fixture
def opened(tmp_path):
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    return path, os.open(path, os.O_RDONLY)


class Paused:
    """A protocol that passes the word on to the sender."""

    def __init__(self):
        self.sender = None
        self.pauses = 0

    def connection_made(self, transport):
        pass

    def pause_writing(self):
        self.pauses += 1
        self.sender.paused = True

    def resume_writing(self):
        self.sender.paused = False


def sender_on(transport, fd, offset, count):
    protocol = Paused()
    transport.connect(protocol)
    protocol.sender = FileSender(transport, fd, offset, count)
    return protocol.sender


def test_chunks_in_turns(opened, fake_transport):
    transport = fake_transport()
    sender = sender_on(transport, opened[1], 0, len(CONTENT))
    assert not sender.send_some() and not sender.paused
    assert transport.writes == [CHUNK] * CHUNKS_PER_TURN
    assert sender.remaining == len(CONTENT) - CHUNK * CHUNKS_PER_TURN
    while not sender.send_some():
        pass
    assert transport.sent == CONTENT and sender.remaining == 0
    sender.close()


def test_a_part(opened, fake_transport):
    transport = fake_transport()
    sender = sender_on(transport, opened[1], 1000, 5)
    assert sender.send_some()
    assert transport.sent == CONTENT[1000:1005]
    sender.close()


def test_stops_when_the_transport_says_so(opened, fake_transport):
    transport = fake_transport(room=CHUNK)
    sender = sender_on(transport, opened[1], 0, len(CONTENT))
    assert not sender.send_some() and sender.paused
    assert len(transport.writes) == 2
    assert not sender.send_some()
    assert len(transport.writes) == 2
    while sender.remaining:
        transport.drain()
        sender.send_some()
    assert transport.sent == CONTENT
    sender.close()


def test_straight_into_the_ring(opened, write_file_transport):
    transport = write_file_transport(room=100_000)
    sender = sender_on(transport, opened[1], 7, len(CONTENT) - 7)
    assert not sender.send_some() and sender.paused
    assert len(transport.sent) == 100_000
    while sender.remaining:
        transport.drain()
        sender.send_some()
    assert transport.sent == CONTENT[7:]
    assert transport.writes == []  # no byte of it went through Python
    sender.close()


@pytest.mark.parametrize("kind", ["fake_transport", "write_file_transport"])
def test_a_file_that_shrinks(opened, kind, request):
    path, fd = opened
    transport = request.getfixturevalue(kind)(room=100_000)
    sender = sender_on(transport, fd, 0, len(CONTENT))
    assert not sender.send_some()
    os.truncate(path, 150_000)
    with pytest.raises(EOFError):
        while True:
            transport.drain()
            sender.send_some()
    sender.close()


def test_close_closes_once(opened, fake_transport):
    sender = FileSender(fake_transport(), opened[1], 0, 1)
    sender.close()
    with pytest.raises(OSError):
        os.fstat(opened[1])
    sender.close()
