"""swos-httpd on its own stack, fetched by a second stack over a link in memory: IPv4 and IPv6, both on one listener."""

import asyncio
import contextlib
import hashlib
import os
import signal
from types import SimpleNamespace

import pytest

from swos_net import open_stack
from swos_net.asyncio import StackRunner
from swos_net.device.pair import make_pair
from swos_tools.httpd import make_parser, serve

ADDRESSES = {4: "10.0.2.2", 6: "fd00:5705::2"}
GET = b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n"
ONCE = b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
PATIENCE = 25  # seconds


class Program:
    """swos-httpd under way; `connect` and `fetch` are a client's on the other stack."""

    def __init__(self, client, port):
        self.client = client
        self.port = port

    async def connect(self, version=4):
        return await self.client.open_connection(ADDRESSES[version], self.port, capability=self.client.stack.root)

    async def fetch(self, path, version=4):
        """(status line, content) of one request on its own connection."""
        reader, writer = await self.connect(version)
        writer.write(ONCE % path)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return head.partition(b"\r\n")[0], body


@contextlib.asynccontextmanager
async def running(site, *options):
    ours, theirs = make_pair()
    listening = asyncio.get_running_loop().create_future()

    @contextlib.asynccontextmanager
    async def opener(arguments):
        poller = open_stack(ours, addresses=["10.0.2.2/24", "fd00:5705::2/64"])
        async with StackRunner(poller) as runner:
            async def create_server(*arguments, **options):
                server = await runner.create_server(*arguments, **options)
                listening.set_result(server.sockname[1])
                return server
            yield SimpleNamespace(stack=runner.stack, create_server=create_server, drain=runner.drain)

    arguments = make_parser().parse_args(["--device", "vhost-user:none", "--root", str(site), *options])
    program = asyncio.ensure_future(serve(arguments, opener))
    async with StackRunner(open_stack(theirs, addresses=["10.0.2.15/24", "fd00:5705::15/64"])) as client:
        yield Program(client, await listening)
        signal.raise_signal(signal.SIGTERM)
        assert await asyncio.wait_for(program, PATIENCE) == 0


@pytest.mark.parametrize("version", [4, 6])
async def test_files_over_both_protocols(site, capsys, version):
    content = os.urandom(1 << 16) * 64 + b"end"
    (site / "large.bin").write_bytes(content)
    async with running(site) as program:
        assert await program.fetch(b"/hello.txt", version) == (b"HTTP/1.1 200 OK", b"hello, world\n")
        assert await program.fetch(b"/nothing", version) == (b"HTTP/1.1 404 Not Found", b"")
        assert b"<title>Index of /sub/</title>" in (await program.fetch(b"/sub/", version))[1]
        _, body = await program.fetch(b"/large.bin", version)
        assert hashlib.sha256(body).digest() == hashlib.sha256(content).digest()
    assert capsys.readouterr().out.splitlines() == [
        "httpd: listening on 8080", "httpd: 200 /hello.txt", "httpd: 404 /nothing", "httpd: 200 /sub/",
        "httpd: 200 /large.bin"]


async def test_a_response_under_way_is_delivered_before_the_end(site):
    content = os.urandom(900_000)
    (site / "large.bin").write_bytes(content)
    async with running(site) as program:
        reader, writer = await program.connect()
        writer.write(ONCE % b"/large.bin")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length: 900000" in head
        signal.raise_signal(signal.SIGTERM)
        assert hashlib.sha256(await reader.read()).digest() == hashlib.sha256(content).digest()
        writer.close()


async def test_keep_alive_and_pipelining(site):
    async with running(site, "--port", "0") as program:
        reader, writer = await program.connect()
        for _ in range(3):
            writer.write(GET % b"/hello.txt" + GET % b"/big.bin" + GET % b"/sub/note.txt")
        for _ in range(3):
            for size in (13, 1 << 19, 6):
                head = await reader.readuntil(b"\r\n\r\n")
                assert b"Content-Length: %d\r\n" % size in head
                await reader.readexactly(size)
        writer.close()


async def test_a_refusal_arrives_although_more_was_sent(site):
    async with running(site) as program:
        reader, writer = await program.connect()
        writer.write(b"nonsense\r\n" + b"x" * 200_000)
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_ipv6_only(site, capsys):
    async with running(site, "-6") as program:
        assert (await program.fetch(b"/hello.txt", 6))[1] == b"hello, world\n"
        with pytest.raises(ConnectionRefusedError):
            await program.connect(4)
    assert capsys.readouterr().out.startswith("httpd: listening on 8080 (IPv6)\n")


async def test_a_burst_of_20_beside_a_slow_reader(site):
    with open(site / "large.bin", "wb") as file:
        file.truncate(32 << 20)
    async with running(site) as program:
        reader, writer = await program.connect()
        writer.write(GET % b"/large.bin")
        assert len(await reader.read(8)) == 8
        answers = await asyncio.wait_for(asyncio.gather(*(program.fetch(b"/hello.txt") for _ in range(20))), PATIENCE)
        assert answers == [(b"HTTP/1.1 200 OK", b"hello, world\n")] * 20
        for _ in range(3):
            assert len(await reader.read(8)) == 8
            assert (await program.fetch(b"/sub/note.txt"))[1] == b"a note"
        writer.transport.abort()
        assert (await program.fetch(b"/hello.txt"))[1] == b"hello, world\n"


async def test_32_requests_with_8_at_once(site):
    async with running(site) as program:
        async def four():
            return [await program.fetch(b"/hello.txt") for _ in range(4)]

        answers = await asyncio.wait_for(asyncio.gather(*(four() for _ in range(8))), PATIENCE)
        assert answers == [[(b"HTTP/1.1 200 OK", b"hello, world\n")] * 4] * 8


async def test_only_the_allowed_peers(site):
    rules = "tcp:bind,listen:*:8080", "tcp:accept:[fd00:5705::/64]:8080"
    async with running(site, "--allow", rules[0], "--allow", rules[1]) as program:
        assert (await program.fetch(b"/hello.txt", 6))[1] == b"hello, world\n"
        with pytest.raises((OSError, asyncio.TimeoutError)):
            await asyncio.wait_for(program.connect(4), 0.2)
