"""Servers, datagrams, TLS and files on the loop: as asyncio's documentation promises them."""

import asyncio
import errno
import io
import socket
import ssl
from pathlib import Path

import pytest

from swos_net.asyncio.datagram_transport import DatagramTransport

CERTIFICATE = Path(__file__).resolve().parents[1] / "socket" / "keycert.pem"


async def turns(count=3):
    for _ in range(count):
        await asyncio.sleep(0)


async def end(*protocols):
    for protocol in protocols:
        protocol.transport.abort()
    for protocol in protocols:
        await protocol.lost


class TestServers:
    def test_several_hosts_and_both_families(self, world, recorder):
        async def main():
            made = []
            server = await world.create_server(lambda: made.append(recorder()) or made[-1], 80, [world.address, world.address6])
            assert sorted(sock.family for sock in server.sockets) == [socket.AF_INET, socket.AF_INET6]
            clients = [(await world.loop.create_connection(recorder, host, 80))[1] for host in (world.address, world.address6)]
            while len(made) < 2:
                await asyncio.sleep(0)
            server.close()
            await end(*clients)
            for protocol in made:
                await protocol.lost

        world.run(main())

    def test_every_address_there_is(self, world, recorder):
        async def main():
            with world.on_server():
                server = await world.loop.create_server(recorder, None, 80)
            names = {sock.getsockname()[:2] for sock in server.sockets}
            assert names == {("0.0.0.0", 80), ("::", 80)}
            server.close()

        world.run(main())

    def test_a_port_that_is_taken(self, world, recorder):
        async def main():
            server = await world.create_server(recorder)
            with pytest.raises(OSError, match="error while attempting to bind") as caught:
                await world.create_server(recorder)
            assert caught.value.errno == errno.EADDRINUSE
            server.close()
            (await world.create_server(recorder)).close()
            with pytest.raises(OSError, match="could not bind on any address"):
                await world.create_server(recorder, 80, "10.0.0.77")

        world.run(main())

    def test_a_port_that_is_shared(self, world, recorder):
        async def main():
            servers = [await world.create_server(recorder, reuse_port=True) for _ in range(2)]
            for server in servers:
                server.close()

        world.run(main())

    def test_beyond_the_authority(self, world, recorder):
        async def main():
            with world.server.root.attenuate("tcp:listen,bind,accept:*:80").activate(), pytest.raises(PermissionError):
                await world.loop.create_server(recorder, world.address, 81)

        world.run(main())

    def test_a_server_that_begins_later(self, world, recorder):
        async def main():
            server = await world.create_server(recorder, start_serving=False)
            assert not server.is_serving()
            with pytest.raises(ConnectionRefusedError):
                await world.loop.create_connection(recorder, world.address, 80)
            await server.start_serving()
            assert server.is_serving()
            _, client = await world.loop.create_connection(recorder, world.address, 80)
            await end(client)
            server.close()
            await server.wait_closed()
            assert not server.is_serving() and server.sockets == ()

        world.run(main())

    def test_a_socket_that_is_given(self, world, recorder):
        async def main():
            with world.on_server():
                sock = socket.create_server((world.address, 80))
            server = await world.loop.create_server(recorder, sock=sock)
            _, client = await world.loop.create_connection(recorder, world.address, 80)
            await end(client)
            server.close()
            assert sock.fileno() == -1
            with pytest.raises(ValueError):
                await world.loop.create_server(recorder, "10.0.0.1", 80, sock=sock)

        world.run(main())

    def test_a_factory_that_fails_costs_one_connection(self, world, recorder):
        async def main():
            made = []

            def factory():
                made.append(recorder())
                if len(made) == 1:
                    raise ZeroDivisionError
                return made[-1]

            world.loop.set_debug(True)
            server = await world.create_server(factory)
            _, first = await world.loop.create_connection(recorder, world.address, 80)
            assert await first.lost is None
            _, second = await world.loop.create_connection(recorder, world.address, 80)
            second.transport.write(b"x")
            while len(made) < 2:
                await asyncio.sleep(0)
            await made[1].until(lambda: made[1].data == b"x")
            await end(second, made[1])
            server.close()

        world.run(main())
        (context,) = world.reported
        world.reported.clear()
        assert isinstance(context["exception"], ZeroDivisionError)

    def test_closing_leaves_connections_alone(self, world, recorder):
        async def main():
            client, server = await world.connected()
            client.transport.write(b"after the server is closed")
            await server.until(lambda: server.data == b"after the server is closed")
            with pytest.raises(ConnectionRefusedError):
                await world.loop.create_connection(recorder, world.address, 80)
            await end(client, server)

        world.run(main())

    def test_many_connections_at_once(self, world):
        async def echo(reader, writer):
            while data := await reader.read(1000):
                writer.write(data)
            writer.close()

        async def ask(number):
            reader, writer = await asyncio.open_connection(world.address, 7)
            message = b"%d " % number * 500
            writer.write(message)
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer == message

        async def main():
            with world.on_server():
                server = await asyncio.start_server(echo, world.address, 7, backlog=200)
            assert all(await asyncio.gather(*map(ask, range(150))))
            server.close()

        world.run(main())


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self):
        self.received, self.errors = asyncio.Queue(), asyncio.Queue()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.received.put_nowait((data, address))

    def error_received(self, error):
        self.errors.put_nowait(error)

    def connection_lost(self, error):
        self.lost.set_result(error)


class TestDatagrams:
    async def server(self, world, **options):
        with world.on_server():
            return await world.loop.create_datagram_endpoint(Datagrams, (world.address, 53), **options)

    def test_there_and_back(self, world):
        async def main():
            server_transport, server = await self.server(world)
            assert isinstance(server_transport, DatagramTransport)
            transport, client = await world.loop.create_datagram_endpoint(
                Datagrams, (world.client_address, 99), remote_addr=(world.address, 53)
            )
            transport.sendto(b"question")
            assert await server.received.get() == (b"question", (world.client_address, 99))
            server_transport.sendto(b"answer", (world.client_address, 99))
            assert await client.received.get() == (b"answer", (world.address, 53))
            assert transport.get_extra_info("peername") == (world.address, 53)
            for protocol in (server, client):
                protocol.transport.close()
                assert await protocol.lost is None

        world.run(main())

    def test_without_addresses(self, world):
        async def main():
            _, server = await self.server(world)
            transport, client = await world.loop.create_datagram_endpoint(Datagrams, family=socket.AF_INET)
            transport.sendto(b"x", (world.address, 53))
            assert (await server.received.get())[0] == b"x"
            with pytest.raises(ValueError):
                await world.loop.create_datagram_endpoint(Datagrams)
            await end(server, client)

        world.run(main())

    def test_an_error_is_told(self, world):
        async def main():
            transport, client = await world.loop.create_datagram_endpoint(Datagrams, remote_addr=(world.address, 54))
            transport.sendto(b"anybody?")
            assert isinstance(await client.errors.get(), ConnectionRefusedError)
            await end(client)

        world.run(main())

    def test_broadcast(self, world):
        async def main():
            with world.on_server():
                _, server = await world.loop.create_datagram_endpoint(Datagrams, ("0.0.0.0", 53))
            transport, client = await world.loop.create_datagram_endpoint(Datagrams, (world.client_address, 0))
            transport.sendto(b"x", ("10.0.0.255", 53))
            assert (await client.errors.get()).errno == errno.EACCES
            await end(client)
            transport, client = await world.loop.create_datagram_endpoint(
                Datagrams, (world.client_address, 0), allow_broadcast=True
            )
            transport.sendto(b"to all", ("10.0.0.255", 53))
            assert (await server.received.get())[0] == b"to all"
            await end(client, server)

        world.run(main())

    def test_a_port_that_is_taken_and_one_that_is_shared(self, world):
        async def main():
            _, one = await self.server(world)
            with pytest.raises(OSError) as caught:
                await self.server(world)
            assert caught.value.errno == errno.EADDRINUSE
            await end(one)
            shared = [(await self.server(world, reuse_port=True))[1] for _ in range(2)]
            await end(*shared)

        world.run(main())

    def test_mistakes(self, world):
        async def main():
            loop = world.loop
            with pytest.raises(TypeError, match="2-tuple is expected"):
                await loop.create_datagram_endpoint(Datagrams, "10.0.0.1")
            with pytest.raises(ValueError, match="can not get address information"):
                await loop.create_datagram_endpoint(Datagrams, ("10.0.0.1", 0), remote_addr=("2001:db8::2", 53))
            with pytest.raises(socket.gaierror):
                await loop.create_datagram_endpoint(Datagrams, remote_addr=("nobody", 53))

        world.run(main())

    def test_a_socket_that_is_given(self, world):
        async def main():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((world.client_address, 99))
            sock.setblocking(False)
            transport, client = await world.loop.create_datagram_endpoint(Datagrams, sock=sock)
            assert transport.get_extra_info("sockname") == (world.client_address, 99)
            await end(client)
            assert sock.fileno() == -1

        world.run(main())


@pytest.fixture
def contexts():
    """(client's, server's)"""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(CERTIFICATE)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    return client, server


class TestTls:
    def test_there_and_back(self, world, contexts):
        client_context, server_context = contexts

        async def echo(reader, writer):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

        async def main():
            with world.on_server():
                server = await asyncio.start_server(echo, world.address, 443, ssl=server_context)
            reader, writer = await asyncio.open_connection(world.address, 443, ssl=client_context, server_hostname="localhost")
            assert writer.get_extra_info("ssl_object").version().startswith("TLS") and writer.get_extra_info("peercert")
            assert writer.get_extra_info("peername") == (world.address, 443)
            data = bytes(range(256)) * 2000
            sending = asyncio.ensure_future(self.send(writer, data))
            assert await reader.readexactly(len(data)) == data
            await sending
            writer.close()
            await writer.wait_closed()
            server.close()
            await asyncio.sleep(0.01)

        world.run(main())

    async def send(self, writer, data):
        writer.write(data)
        await writer.drain()

    def test_a_certificate_that_is_not_believed(self, world, contexts):
        _, server_context = contexts

        async def main():
            with world.on_server():
                server = await asyncio.start_server(print, world.address, 443, ssl=server_context)
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.open_connection(world.address, 443, ssl=ssl.create_default_context(), server_hostname="localhost")
            server.close()
            await asyncio.sleep(0.01)

        world.run(main())

    def test_a_handshake_that_nobody_answers(self, world, contexts, recorder):
        async def main():
            made = []
            server = await world.create_server(lambda: made.append(recorder()) or made[-1], 443)
            with pytest.raises(ConnectionAbortedError, match="handshake"):
                await world.loop.create_connection(recorder, world.address, 443, ssl=contexts[0], server_hostname="localhost",
                                                   ssl_handshake_timeout=0.05)  # fmt: skip
            server.close()
            await made[0].lost

        world.run(main())

    def test_tls_begins_in_the_middle(self, world, contexts, recorder):
        client_context, server_context = contexts

        async def main():
            client, server = await world.connected()
            client.transport.write(b"STARTTLS")
            await server.until(lambda: server.data == b"STARTTLS")
            server.data.clear()
            upgrades = [
                world.loop.start_tls(client.transport, client, client_context, server_hostname="localhost"),
                world.loop.start_tls(server.transport, server, server_context, server_side=True),
            ]
            client.transport, server.transport = await asyncio.gather(*upgrades)
            client.transport.write(b"secret " * 20_000)
            await server.until(lambda: len(server.data) == 140_000)
            server.transport.write(b"answer")
            await client.until(lambda: client.data == b"answer")
            for protocol in (client, server):
                protocol.transport.close()
            await server.lost
            await client.lost

        world.run(main())


class TestFiles:
    @pytest.mark.parametrize("offset, count", [(0, None), (1000, 70_000), (600_000, None)])
    def test_a_file_between_writes(self, world, path, recorder, offset, count):
        expected = path.read_bytes()[offset : None if count is None else offset + count]

        async def main():
            client, server = await world.connected()
            client.transport.write(b"head" * 50_000)
            with path.open("rb") as file:
                sending = asyncio.ensure_future(world.loop.sendfile(client.transport, file, offset, count))
                await turns()
                if not sending.done():
                    with pytest.raises(RuntimeError, match="sendfile is in progress"):
                        client.transport.write(b"not now")
                assert await sending == len(expected)
            client.transport.write(b"tail")
            client.transport.close()
            await server.lost
            await client.lost
            assert server.data == b"head" * 50_000 + expected + b"tail"

        world.run(main())

    def test_what_is_no_file_of_the_kernels(self, world, recorder):
        async def main():
            client, server = await world.connected()
            assert await world.loop.sendfile(client.transport, io.BytesIO(b"in memory")) == 9
            await server.until(lambda: server.data == b"in memory")
            with pytest.raises(asyncio.SendfileNotAvailableError):
                await world.loop.sendfile(client.transport, io.BytesIO(b"x"), fallback=False)
            await end(client, server)

        world.run(main())

    def test_the_peer_goes_away_meanwhile(self, world, path, recorder):
        async def main():
            client, server = await world.connected()
            server.transport.pause_reading()
            with path.open("rb") as file:
                sending = asyncio.ensure_future(world.loop.sendfile(client.transport, file))
                await asyncio.sleep(0.01)
                assert not sending.done()
                server.transport.abort()
                with pytest.raises(ConnectionError):
                    await sending
            client.transport.abort()
            await client.lost
            await server.lost

        world.run(main())

    def test_a_transport_that_is_closing(self, world, path, recorder):
        async def main():
            client, server = await world.connected()
            client.transport.close()
            with path.open("rb") as file, pytest.raises(RuntimeError, match="closing"):
                await world.loop.sendfile(client.transport, file)
            await client.lost
            await server.lost

        world.run(main())
