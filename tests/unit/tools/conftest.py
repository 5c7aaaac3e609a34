"""A document root, a clock that stands, a transport that only remembers, and a reader of responses."""

import asyncio
import os

import pytest

from swos_tools.http.message import Limits
from swos_tools.http.protocol import HttpProtocol
from swos_tools.http.service import HttpService
from swos_tools.http.static import StaticFiles

WALL_CLOCK = 1_800_000_000 * 10 ** 9  # Fri, 15 Jan 2027 08:00:00 GMT
MODIFIED = 1_700_000_000              # Tue, 14 Nov 2023 22:13:20 GMT
BIG = bytes(range(256)) * 2048  # half a megabyte


class Clock:
    """Monotonic time that moves when told."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class FakeTransport(asyncio.Transport):
    """Takes `room` bytes before it asks the protocol to pause; `drain` makes them go and asks for more."""

    def __init__(self, room=1 << 30):
        super().__init__()
        self.protocol = None
        self.room = room
        self.sent = bytearray()
        self.writes = []
        self.waiting = 0
        self.paused = False
        self.reading = True
        self.ended = False      # write_eof
        self.closed = False
        self.aborted = False

    def connect(self, protocol):
        self.protocol = protocol
        protocol.connection_made(self)

    def write(self, data):
        assert not self.ended and not self.closed
        self.writes.append(len(data))
        self._take(data)

    def _take(self, data):
        self.sent += data
        self.waiting += len(data)
        if self.waiting > self.room and not self.paused:
            self.paused = True
            self.protocol.pause_writing()

    def drain(self, size=1 << 30):
        self.waiting = max(0, self.waiting - size)
        if self.paused and self.waiting <= self.room // 2:
            self.paused = False
            self.protocol.resume_writing()

    def get_write_buffer_size(self):
        return self.waiting

    def is_closing(self):
        return self.closed or self.aborted

    def can_write_eof(self):
        return True

    def write_eof(self):
        self.ended = True

    def pause_reading(self):
        assert self.reading
        self.reading = False

    def resume_reading(self):
        assert not self.reading
        self.reading = True

    def close(self):
        self.closed = True

    def abort(self):
        self.aborted = True


class WriteFileTransport(FakeTransport):
    """With the seam of send_file: a send ring of `room` bytes that files go straight into."""

    def write_file(self, fd, offset, count):
        fitted = os.pread(fd, max(0, min(count, self.room - self.waiting)), offset)
        self.sent += fitted
        self.waiting += len(fitted)
        if len(fitted) < count and not self.paused:
            self.paused = True
            self.protocol.pause_writing()
        return len(fitted)


class Connection:
    """A protocol on a fake transport, with what a test does to both."""

    def __init__(self, service, transport):
        self.service = service
        self.transport = transport
        self.protocol = HttpProtocol(service)
        transport.connect(self.protocol)

    def feed(self, *chunks):
        for chunk in chunks:
            self.protocol.data_received(chunk)

    async def turns(self, count=20):
        for _ in range(count):
            await asyncio.sleep(0)

    def responses(self, *methods):
        """All responses sent so far, which must be complete; see `read_responses`."""
        return read_responses(bytes(self.transport.sent), methods)

    def lose(self):
        self.protocol.connection_lost(None)


class Received:
    """One response as a client sees it."""

    def __init__(self, status, version, headers, body):
        self.status = status
        self.version = version
        self.headers = headers
        self.body = body


def read_responses(data, methods=()):
    """Splits bytes into responses, without pardon: every length must be right.  `methods` defaults to all GET."""
    found = []
    while data:
        head, separator, data = data.partition(b"\r\n\r\n")
        assert separator, f"unfinished head {head!r}"
        lines = head.split(b"\r\n")
        version, status, _ = lines[0].split(b" ", 2)
        headers = {}
        for line in lines[1:]:
            name, colon, value = line.partition(b": ")
            assert colon and name.lower() not in headers, line
            headers[name.lower().decode()] = value.decode()
        method = methods[len(found)] if len(found) < len(methods) else "GET"
        length = int(headers.get("content-length", 0))
        if method == "HEAD" or status in (b"304", b"100"):
            length = 0
        assert len(data) >= length, f"{len(data)} bytes of {length}"
        found.append(Received(int(status), version.decode(), headers, data[:length]))
        data = data[length:]
    return found


def make_site(root):
    """Files of every kind under `root`."""
    files = {
        "hello.txt": b"hello, world\n", "big.bin": BIG, "empty.txt": b"", ".hidden": b"seen",
        "sub/note.txt": b"a note", "sub/<i>&.txt": b"odd", "with/index.html": b"<p>inside</p>",
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (MODIFIED, MODIFIED))
    return root


@pytest.fixture
def site(tmp_path):
    root = tmp_path / "www"
    root.mkdir()
    return make_site(root)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log():
    return []


@pytest.fixture
def files(site):
    return StaticFiles(str(site), wall_clock=lambda: WALL_CLOCK)


@pytest.fixture
async def service(files, clock, log):
    """Made in the loop, and empty again at the end: no timer stays behind."""
    service = HttpService(files, log=log.append, clock=clock, wall_clock=lambda: WALL_CLOCK)
    yield service
    for connection in list(service.connections):
        connection.connection_lost(None)


@pytest.fixture
def connect(service):
    """`connect(transport=None, **limits)` gives a Connection; limits change those of the service."""
    def make(transport=None, **limits):
        if limits:
            service.limits = Limits(**limits)
        return Connection(service, transport or FakeTransport())
    return make


@pytest.fixture
async def connection(connect):
    return connect()


@pytest.fixture(scope="session")
def write_file_transport():
    return WriteFileTransport


@pytest.fixture(scope="session")
def fake_transport():
    return FakeTransport
