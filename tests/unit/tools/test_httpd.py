"""swos-httpd as a program, and its server on the standard library's transports over socket pairs."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import threading
from types import SimpleNamespace

import pytest

from swos_net.capability import _root
from swos_tools.http.protocol import HttpProtocol
from swos_tools.http.service import HttpService
from swos_tools.http.static import StaticFiles
from swos_tools.httpd import main, make_parser, serve

GET = b"GET /hello.txt HTTP/1.1\r\nHost: h\r\n\r\n"
ONCE = b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
PATIENCE = 25  # seconds, the reference system's for 32 requests


# The server on real transports

@contextlib.asynccontextmanager
async def connected(service, buffer=None):
    """(reader, writer) of a client whose other end is a connection of `service`."""
    ours, theirs = socket.socketpair()
    if buffer:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: HttpProtocol(service), sock=ours)
    reader, writer = await asyncio.open_connection(sock=theirs)
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def read_response(reader):
    """(status, content) of the next response."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    length, = (int(line[16:]) for line in lines if line.startswith(b"Content-Length: "))
    return int(lines[0].split()[1]), await reader.readexactly(length)


async def fetch(service, path):
    async with connected(service) as (reader, writer):
        writer.write(ONCE % path)
        answer = await read_response(reader)
        assert await reader.read() == b""
        return answer


async def settled(service):
    """Until the transports have told their protocols that they are gone."""
    for _ in range(100):
        if not service.connections:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{len(service.connections)} connections left")


@pytest.fixture
def served(site, log):
    return HttpService(StaticFiles(str(site)), log=log.append)


async def test_requests_on_a_real_transport(served, site, log):
    async with connected(served) as (reader, writer):
        writer.write(GET + GET)
        assert await read_response(reader) == (200, b"hello, world\n")
        assert await read_response(reader) == (200, b"hello, world\n")
        writer.write(b"GET /big.bin HTTP/1.1\r\nHost: h\r\n\r\n")
        assert await read_response(reader) == (200, (site / "big.bin").read_bytes())
    await settled(served)
    assert log == ["httpd: 200 /hello.txt"] * 2 + ["httpd: 200 /big.bin"]


@pytest.mark.parametrize("buffer", [4096, None])
async def test_a_large_file_arrives_whole(served, site, buffer):
    content = os.urandom(1 << 20) * 9 + b"end"
    (site / "large.bin").write_bytes(content)
    async with connected(served, buffer) as (reader, writer):
        writer.write(ONCE % b"/large.bin")
        status, body = await read_response(reader)
        assert (status, body == content) == (200, True)
        assert await reader.read() == b""
    await settled(served)


async def test_a_half_closed_client_gets_everything(served):
    async with connected(served, 4096) as (reader, writer):
        writer.write(b"GET /big.bin HTTP/1.1\r\nHost: h\r\n\r\n" + GET)
        writer.write_eof()
        assert [len((await read_response(reader))[1]) for _ in range(2)] == [1 << 19, 13]
        assert await reader.read() == b""
    await settled(served)


async def test_a_refusal_arrives_although_more_was_sent(served):
    async with connected(served) as (reader, writer):
        writer.write(b"nonsense\r\n" + b"x" * 100_000)
        assert (await read_response(reader))[0] == 400
        assert await reader.read() == b""
        writer.write(b"and more")
    await settled(served)


async def test_a_client_that_goes_away(served, log):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        async with connected(served, 4096) as (reader, writer):
            writer.write(b"GET /big.bin HTTP/1.1\r\nHost: h\r\n\r\n" * 20)
            await reader.readexactly(1000)
            writer.transport.abort()
    await settled(served)
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(log) == 5


# The reference system's thresholds (32 requests with 8 at once; 20 at once beside a slow reader)

async def test_32_requests_with_8_at_once(served, log):
    async def one_after_the_other():
        for _ in range(4):
            assert await fetch(served, b"/hello.txt") == (200, b"hello, world\n")

    await asyncio.wait_for(asyncio.gather(*(one_after_the_other() for _ in range(8))), PATIENCE)
    assert log == ["httpd: 200 /hello.txt"] * 32


async def test_a_burst_of_20_beside_a_reader_of_8_bytes(served):
    async with connected(served, 4096) as (reader, writer):
        writer.write(b"GET /big.bin HTTP/1.1\r\nHost: h\r\n\r\n")
        assert len(await reader.read(8)) == 8
        answers = await asyncio.wait_for(asyncio.gather(*(fetch(served, b"/hello.txt") for _ in range(20))), PATIENCE)
        assert answers == [(200, b"hello, world\n")] * 20
        for _ in range(3):
            assert len(await reader.read(8)) == 8
            assert (await fetch(served, b"/sub/note.txt"))[0] == 200
    assert (await fetch(served, b"/hello.txt"))[0] == 200
    await settled(served)


async def test_200_connections_at_once(served):
    async with contextlib.AsyncExitStack() as open_ones:
        clients = [await open_ones.enter_async_context(connected(served)) for _ in range(200)]
        assert len(served.connections) == 200
        for _, writer in clients:
            writer.write(GET)
        for reader, _ in clients:
            assert await read_response(reader) == (200, b"hello, world\n")
    await settled(served)


# The program

class FakeRunner:
    """Listens on a UNIX socket, or fails; then does `act` once."""

    def __init__(self, path, act=None, error=None):
        self.path = path
        self.act = act
        self.error = error
        self.asked = None
        self.stack = SimpleNamespace(root=_root())

    async def create_server(self, protocol_factory, host, port, *, capability):
        self.asked = host, port, capability
        if self.error is not None:
            raise self.error
        if port:
            capability.check("listen", "tcp", bytes(16), port)
        server = await asyncio.get_running_loop().create_unix_server(protocol_factory, self.path)
        self.task = asyncio.ensure_future(self.act())
        return server

    async def drain(self, timeout):
        """The kernel delivers what its sockets hold."""
        return True


def opener_of(runner):
    @contextlib.asynccontextmanager
    async def opener(arguments):
        if isinstance(runner, Exception):
            raise runner
        yield runner
    return opener


def run(site, runner, *options):
    problems = []

    async def watched():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        return await serve(make_parser().parse_args(options), opener_of(runner))

    options = ["--device", "tap:t0", "--root", str(site), *options]
    status = asyncio.run(watched())
    assert not problems
    return status


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "socket")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_from_start_to_signal(site, path, capsys, end):
    answers = []

    async def act():
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(GET + b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n")
        answers.extend([await read_response(reader), await read_response(reader)])
        signal.raise_signal(end)
        writer.close()

    runner = FakeRunner(path, act)
    assert run(site, runner) == 0
    assert answers == [(200, b"hello, world\n"), (404, b"")]
    output = capsys.readouterr()
    assert output.out == "httpd: listening on 8080\nhttpd: 200 /hello.txt\nhttpd: 404 /nothing\n"
    assert output.err == ""
    host, port, capability = runner.asked
    assert (host, port) == (None, 8080)
    assert [str(rule) for rule in capability.rules] == ["tcp:accept,bind,listen:*:8080"]


async def stop():
    signal.raise_signal(signal.SIGTERM)


def test_ipv6_only(site, path, capsys):
    runner = FakeRunner(path, stop)
    assert run(site, runner, "-6", "--port", "80") == 0
    assert capsys.readouterr().out == "httpd: listening on 80 (IPv6)\n"
    assert runner.asked[0] == "::"


def test_any_port(site, path, capsys):
    class AnyPort(FakeRunner):
        async def create_server(self, *arguments, **options):
            server = await super().create_server(*arguments, **options)
            return SimpleNamespace(close=server.close, sockname=("10.0.2.2", 49160))

    assert run(site, AnyPort(path, stop), "--port", "0") == 0
    assert capsys.readouterr().out == "httpd: listening on 49160\n"


def test_quiet(site, path, capsys):
    async def act():
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(GET)
        await read_response(reader)
        writer.close()
        await stop()

    assert run(site, FakeRunner(path, act), "--quiet") == 0
    assert capsys.readouterr().out == "httpd: listening on 8080\n"


def test_limit_of_connections(site, path):
    async def act():
        first = await asyncio.open_unix_connection(path)
        second = await asyncio.open_unix_connection(path)
        assert (await read_response(second[0]))[0] == 503
        for _, writer in (first, second):
            writer.close()
        await stop()

    runner = FakeRunner(path, act)
    assert run(site, runner, "--connections", "1") == 0
    runner.task.result()


def test_allow_replaces_the_rules(site, path):
    runner = FakeRunner(path, stop)
    rules = "tcp:bind,listen:*:8080", "tcp:accept:10.0.2.0/24:8080"
    assert run(site, runner, *(item for rule in rules for item in ("--allow", rule))) == 0
    assert runner.asked[2].rules[1].covers_address(bytes(10) + b"\xff\xff\x0a\x00\x02\x0f")
    assert len(runner.asked[2].rules) == 2


@pytest.mark.parametrize(("failure", "line"), [
    (OSError(errno.ENODEV, "no such TAP device"), "httpd: socket failed: no such TAP device\n"),
    (ValueError("no kind of device: nic"), "httpd: socket failed: no kind of device: nic\n"),
    (FakeRunner("", error=OSError(errno.EADDRINUSE, "in use")), "httpd: bind failed: in use\n"),
    (FakeRunner("", error=OSError(errno.EADDRNOTAVAIL, "no such address")), "httpd: bind failed: no such address\n"),
    (FakeRunner("", error=OSError(errno.ENOBUFS, "table full")), "httpd: listen failed: table full\n"),
])
def test_failures_are_one_line(site, capsys, failure, line):
    assert run(site, failure) == 1
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", line)


def test_a_rule_that_does_not_cover_the_port(site, path, capsys):
    assert run(site, FakeRunner(path, stop), "--allow", "tcp:bind,listen,accept:*:80") == 1
    output = capsys.readouterr()
    assert output.err.startswith("httpd: listen failed: Permission denied: ") and output.err.count("\n") == 1
    assert "would allow it" in output.err


def test_a_document_root_that_is_not_there(tmp_path, capsys):
    assert main(["--device", "tap:t0", "--root", str(tmp_path / "nothing")]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == f"httpd: document root failed: {tmp_path}/nothing: No such file or directory\n"


@pytest.mark.parametrize(("www", "expected"), [(True, b"in www"), (False, b"in .")])
def test_the_root_without_an_option(tmp_path, path, monkeypatch, www, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"in .")
    if www:
        (tmp_path / "www").mkdir()
        (tmp_path / "www" / "file").write_bytes(b"in www")
    bodies = []

    async def act():
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(ONCE % b"/file")
        bodies.append((await read_response(reader))[1])
        writer.close()
        await stop()

    arguments = make_parser().parse_args(["--device", "tap:t0"])
    assert asyncio.run(serve(arguments, opener_of(FakeRunner(path, act)))) == 0
    assert arguments.connections == 1024 and arguments.port == 8080 and arguments.listing
    assert bodies == [expected]


@pytest.mark.parametrize("options", [
    [], ["--device"], ["--device", "tap:t0", "--port", "65536"], ["--device", "tap:t0", "--port", "http"],
    ["--device", "tap:t0", "--colour"], ["--device", "tap:t0", "extra"], ["--device", "tap:t0", "--connections", "0"],
    ["--device", "tap:t0", "--list"],
])
def test_wrong_options(options, capsys):
    with pytest.raises(SystemExit) as end:
        main(options)
    output = capsys.readouterr()
    assert end.value.code == 2 and output.out == ""
    assert output.err.startswith("swos-httpd: ") and output.err.count("\n") == 1


def test_help(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for option in ("--root", "--port", "--ipv6", "--listing", "--device", "--allow"):
        assert option in text


def test_a_response_under_way_is_ended_at_sigterm(site, path):
    size = 9 << 20
    with open(site / "large.bin", "wb") as file:
        file.truncate(size)
    received = bytearray()

    def client():
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(ONCE % b"/large.bin")
            received.extend(connection.recv(1000))
            signal.raise_signal(signal.SIGTERM)
            while data := connection.recv(1 << 20):
                received.extend(data)

    thread = threading.Thread(target=client)

    async def act():
        thread.start()

    assert run(site, FakeRunner(path, act)) == 0
    thread.join(PATIENCE)
    assert len(received.partition(b"\r\n\r\n")[2]) == size
