"""asyncio libraries that know nothing of swos_net, on one loop that serves two stacks; the kernel's network is watched.

In each test what is not allowed is tried first, so that the capture of the link must still be empty.
"""

import asyncio
import contextlib
import gc
import hashlib
import io
import random
import struct
import sys
import threading

import asyncio_hosts
import pytest
from sync_hosts import CLIENT, SERVER, SERVER_NAME, make_certificate, open_hosts

from swos_net.asyncio import LoopDriver
from swos_net.capability import why
from swos_net.runtime.threaded import ThreadedRunner

# asyncio of Python 3.10 says it of every TLS connection that the peer was the first to close
UNCLOSED = pytest.mark.filterwarnings("ignore:unclosed transport <asyncio.sslproto:ResourceWarning")
pytestmark = [UNCLOSED] if sys.version_info < (3, 11) else []

MANY = 24
FIN, SYN, ACK = 1, 2, 16
IPV4, ARP, PROTOCOL_TCP = b"\x08\x00", b"\x08\x06", 6
EXAMPLES = {
    "uvicorn": "Hello from a stack in Python.\n",
    "httpx": "Hello from a stack in Python.\n" * 3,
    "hypercorn": "HTTP/2 Hello from a stack in Python.\n",
    "aiohttp": "Hello over TLS.\nhello over a websocket\n",
    "asyncssh": "HELLO OVER SSH\nHello over SFTP.\n",
    "websockets": "1: hello\n2: hello again\n",
    "dnspython": "server.test is 10.0.0.2\nlong.test has 40 strings\nasked over {'udp': 2, 'tcp': 1}\n",
}


class Capture(io.BytesIO):
    """What crosses the link, as the client's device sees it."""

    def clear(self):
        self.seek(0)
        self.truncate()

    def frames(self):
        """IPv4, and ARP for it: all that the examples speak.  Not that a host announces its own address (RFC 5227)."""
        data, start, found = self.getvalue(), 0, []
        while start < len(data):
            kind, length = struct.unpack_from("<II", data, start)
            if kind == 6:
                kept = struct.unpack_from("<I", data, start + 20)[0]
                frame = data[start + 28 : start + 28 + kept]
                if frame[12:14] == IPV4 or frame[12:14] == ARP and frame[28:32] != frame[38:42]:
                    found.append(frame)
            start += length
        return found

    def segments(self):
        """(source port, destination port, flags) of every TCP segment over IPv4."""
        packets = [frame[14:] for frame in self.frames() if frame[12:14] == IPV4 and frame[23] == PROTOCOL_TCP]
        return [(*struct.unpack_from(">HH", packet, 20), packet[33]) for packet in packets]

    def open_at_once(self, port):
        """How many connections to `port` had been asked for before the first of them was closed by anybody."""
        clients = set()
        for source, destination, flags in self.segments():
            if flags & FIN and not clients.isdisjoint((source, destination)):
                break
            if flags & (SYN | ACK) == SYN and destination == port:
                clients.add(source)
        return len(clients)

    @contextlib.asynccontextmanager
    async def refused(self, operation, kind=PermissionError):
        """The block fails with `kind` because `operation` is not allowed, and nothing has been sent."""
        with pytest.raises(kind) as caught:
            yield
        assert isinstance(why(caught.value), PermissionError) and why(caught.value).operation == operation
        await asyncio.sleep(0.02)
        assert self.frames() == []


@pytest.fixture(autouse=True)
def collected():
    """What is wrong with a test's connections is said in that test."""
    yield
    gc.collect()


@pytest.fixture
def on_hosts():
    """Runs a test's body, which is called with all authority over either host, and a capture."""

    def run(body):
        capture = Capture()
        asyncio_hosts.run(lambda client, server: body(client, server, capture), capture)
        assert capture.frames()

    return run


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_program(example, capsys):
    program = pytest.importorskip(f"asyncio_{example}")
    asyncio_hosts.run(program.main)
    assert capsys.readouterr().out == EXAMPLES[example]


def test_uvicorn_serves_many_at_once(on_hosts):
    pytest.importorskip("uvicorn")
    from asgi_app import content
    from asyncio_uvicorn import fetch, serving

    async def body(client, server, capture):
        async with capture.refused("connect"):
            await fetch(client.attenuate("tcp:connect:*:*", deny=f"*:connect:{SERVER}:80"), "/")
        async with capture.refused("bind"):
            with server.attenuate("tcp:bind,listen,accept:*:80").activate():
                await asyncio.start_server(print, "0.0.0.0", 81)
        async with serving(server):
            pages = await asyncio.gather(*(fetch(client, f"/bytes/{300_000 + number}") for number in range(MANY)))
            assert pages == [content(300_000 + number) for number in range(MANY)]
            assert capture.open_at_once(80) == MANY
            with pytest.raises(OSError, match="404"):
                await fetch(client, "/none")
        with pytest.raises(ConnectionRefusedError):
            await fetch(client, "/")

    on_hosts(body)


def test_uvicorn_makes_the_loop_itself():
    """As a program does that is nothing but a server, with a client that blocks."""
    uvicorn = pytest.importorskip("uvicorn")
    from asgi_app import app, content
    from sync_http_server import fetch

    client, server = open_hosts()
    driver = LoopDriver(server)
    options = {"loop": "swos_net.asyncio:new_event_loop", "lifespan": "off", "log_level": "warning", "ws": "none"}
    web = uvicorn.Server(uvicorn.Config(app, host="0.0.0.0", port=80, **options))

    def serve():
        with server.stack.root.attenuate("tcp:bind,listen,accept:*:80").activate():
            web.run()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        while not web.started and thread.is_alive():
            thread.join(0.01)
        with ThreadedRunner(client):
            assert fetch(client.stack.root, "bytes/1000000") == content(1_000_000)
    finally:
        web.should_exit = True
        thread.join()
        driver.stop()


def test_httpx_keeps_verified_connections(on_hosts, tmp_path):
    """Before httpx uses an idle connection again it polls the descriptor: has the server closed it?"""
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("uvicorn")
    pytest.importorskip("cryptography")
    from asgi_app import content
    from asyncio_httpx import serving_tls, session

    certificate = make_certificate(tmp_path / "server.pem")
    upload = random.Random(1).randbytes(700_000)

    async def body(client, server, capture):
        async with serving_tls(server, certificate) as web_server, session(client, certificate) as web:
            async with capture.refused("connect", httpx.ConnectError):
                await web.get(f"http://{SERVER_NAME}/")
            for _ in range(5):
                assert (await web.get("/bytes/300000")).content == content(300_000)
            assert (await web.post("/sha256", content=upload)).text == hashlib.sha256(upload).hexdigest()
            assert len(web_server.server_state.connections) == capture.open_at_once(443) == 1
            async with contextlib.AsyncExitStack() as stack:
                requests = (stack.enter_async_context(web.stream("GET", f"/bytes/{400_000 + n}")) for n in range(MANY))
                responses = await asyncio.gather(*requests)
                assert len(web_server.server_state.connections) == MANY
                bodies = await asyncio.gather(*(response.aread() for response in responses))
            assert bodies == [content(400_000 + number) for number in range(MANY)]
            stranger = make_certificate(tmp_path / "stranger.pem")
            async with session(client, stranger) as suspicious:
                with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                    await suspicious.get("/")

    on_hosts(body)


def test_hypercorn_speaks_both_versions_of_http(on_hosts, tmp_path):
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("h2")
    pytest.importorskip("cryptography")
    asyncio_hypercorn = pytest.importorskip("asyncio_hypercorn")
    from asgi_app import content
    from asyncio_httpx import session

    certificate = make_certificate(tmp_path / "server.pem")
    upload = random.Random(2).randbytes(700_000)

    async def body(client, server, capture):
        async with asyncio_hypercorn.serving(server, certificate):
            async with session(client, certificate, http2=True) as web:
                async with capture.refused("connect", httpx.ConnectError):
                    await web.get(f"http://{SERVER_NAME}/")
                pages = await asyncio.gather(*(web.get(f"/bytes/{100_000 + number}") for number in range(MANY)))
                assert {page.http_version for page in pages} == {"HTTP/2"}
                assert [page.content for page in pages] == [content(100_000 + number) for number in range(MANY)]
                assert (await web.post("/sha256", content=upload)).text == hashlib.sha256(upload).hexdigest()
                assert capture.open_at_once(443) == 1
            capture.clear()
            async with session(client, certificate) as web:
                pages = await asyncio.gather(*(web.get(f"/bytes/{100_000 + number}") for number in range(MANY)))
                assert {page.http_version for page in pages} == {"HTTP/1.1"}
                assert [page.content for page in pages] == [content(100_000 + number) for number in range(MANY)]
                assert capture.open_at_once(443) == MANY

    on_hosts(body)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_aiohttp_at_both_ends(on_hosts, tmp_path, tls):
    aiohttp = pytest.importorskip("aiohttp")
    pytest.importorskip("cryptography")
    from asyncio_aiohttp import serving, session

    certificate = make_certificate(tmp_path / "server.pem") if tls else None
    content = random.Random(3).randbytes(1_500_000)
    text = bytes(random.Random(4).choices(b"abc", k=700_000))
    (tmp_path / "file").write_bytes(content)

    async def get(http, path):
        async with http.get(path) as response:
            return response.connection.transport.get_extra_info("sockname"), await response.read()

    async def body(client, server, capture):
        async with aiohttp.ClientSession() as without:
            async with capture.refused("connect", aiohttp.ClientConnectorError):
                await without.get(f"http://{SERVER}/")  # the loop has no authority of its own
        async with serving(server, tmp_path, certificate), session(client, certificate) as http:
            async with capture.refused("connect", aiohttp.ClientConnectorError):
                await http.get(f"http://{SERVER_NAME}:8080/")
            answers = await asyncio.gather(*(get(http, "/files/file") for _ in range(MANY)))
            assert len({address for address, _ in answers}) == MANY
            assert {data for _, data in answers} == {content}
            async with http.post("/upper", data=io.BytesIO(text)) as response:
                assert await response.read() == text.upper()
            async with http.ws_connect("/echo", max_msg_size=0) as socket:
                await socket.send_bytes(content)
                await socket.send_str("and text")
                assert await socket.receive_bytes() == content
                assert await socket.receive_str() == "and text"

    on_hosts(body)


def test_asyncssh_runs_copies_and_forwards(on_hosts, tmp_path):
    asyncssh = pytest.importorskip("asyncssh")
    from asyncio_asyncssh import connected, serving

    key = asyncssh.generate_private_key("ssh-ed25519")
    text = bytes(random.Random(5).choices(b"abc", k=500_000))
    content = random.Random(6).randbytes(700_000)

    async def echo(reader, writer):
        with contextlib.closing(writer):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    async def body(client, server, capture):
        async with capture.refused("connect"):
            async with connected(client.attenuate("tcp:*:*:*", deny=f"tcp:connect:{SERVER}:22"), key):
                pass
        async with serving(server, key, tmp_path), connected(client, key) as ssh:
            result = await ssh.run("upper", input=text, encoding=None)
            assert (result.exit_status, result.stdout) == (0, text.upper())
            result = await ssh.run("lower")
            assert (result.exit_status, result.stderr) == (127, "no such command\n")

            async with ssh.start_sftp_client() as sftp:
                async with sftp.open("/copy", "wb") as file:
                    await file.write(content)
                assert (tmp_path / "copy").read_bytes() == content
                async with sftp.open("/copy", "rb") as file:
                    assert await file.read() == content

            with server.activate():
                echoing = await asyncio.start_server(echo, "127.0.0.1", 7)
            listener = await ssh.forward_local_port("127.0.0.1", 8080, "127.0.0.1", 7)
            with client.activate():
                reader, writer = await asyncio.open_connection("127.0.0.1", 8080)
            with contextlib.closing(writer):
                sending = asyncio.create_task(send(writer, content))
                assert await reader.read() == content
                await sending
            listener.close()
            await listener.wait_closed()
            echoing.close()
            with pytest.raises(PermissionError):
                await ssh.forward_local_port("127.0.0.1", 8081, "127.0.0.1", 7)

    async def send(writer, data):
        writer.write(data)
        writer.write_eof()
        await writer.drain()

    on_hosts(body)


def test_websockets_carries_large_messages_for_many(on_hosts, tmp_path):
    pytest.importorskip("cryptography")
    asyncio_websockets = pytest.importorskip("asyncio_websockets")

    certificate = make_certificate(tmp_path / "server.pem")
    large = random.Random(7).randbytes(3_000_000)

    async def talk(client, number):
        message = random.Random(number).randbytes(200_000)
        async with asyncio_websockets.connected(client, certificate) as connection:
            await connection.send(message)
            await connection.send("done")
            assert await connection.recv() == message
            assert await connection.recv() == "2: done"

    async def body(client, server, capture):
        async with capture.refused("connect"):
            async with asyncio_websockets.connected(client.attenuate("*:*:*:*", deny="tcp:connect:*:443"), certificate):
                pass
        async with asyncio_websockets.serving(server, certificate):
            await asyncio.gather(*(talk(client, number) for number in range(MANY)))
            assert capture.open_at_once(443) == MANY
            async with asyncio_websockets.connected(client, certificate) as connection:
                await connection.send(large)
                assert hashlib.sha256(await connection.recv()).digest() == hashlib.sha256(large).digest()
                await (await connection.ping())

    on_hosts(body)


def test_dnspython_asks_over_both_protocols(on_hosts):
    dns = pytest.importorskip("dns")
    import dns.asyncquery
    import dns.exception
    import dns.message
    import dns.resolver
    from asyncio_dnspython import LONG, resolver, serving

    async def body(client, server, capture):
        question = dns.message.make_query("server.test", "A")
        with resolver(client):
            async with capture.refused("bind"):
                await dns.asyncquery.udp(question, SERVER, timeout=5, source=CLIENT, source_port=53)
            async with capture.refused("connect"):
                await dns.asyncquery.tcp(question, SERVER, port=54, timeout=5)
            with pytest.raises((PermissionError, dns.exception.Timeout)):  # before 2.9 it overlooked errors of sending
                await dns.asyncquery.udp(question, "10.0.0.3", timeout=0.1)
            assert capture.frames() == []
        async with serving(server) as names:
            with resolver(client) as resolve:
                answers = await asyncio.gather(*(resolve.resolve("server.test", kind) for kind in ["A", "AAAA"] * MANY))
                assert [answer[0].to_text() for answer in answers] == [SERVER, "2001:db8::2"] * MANY
                assert names.asked == {"udp": 2 * MANY, "tcp": 0}
                assert (await resolve.resolve("long.test", "TXT"))[0].to_text() == LONG
                assert names.asked == {"udp": 2 * MANY + 1, "tcp": 1}
                assert (await resolve.resolve("server.test", "A", tcp=True))[0].to_text() == SERVER
                with pytest.raises(dns.resolver.NXDOMAIN):
                    await resolve.resolve("nobody.test", "A")

    on_hosts(body)
