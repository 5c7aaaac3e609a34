"""Connections on the loop: what protocols are told and in which order, flow control, ways to connect.

Servers, datagrams, TLS and files: test_loop_servers.py.
"""

import asyncio
import contextvars
import gc
import select
import socket
import sys

import pytest

from swos_net.address import parse_address
from swos_net.asyncio.stream_transport import StreamTransport

SERVER_HELLO = b"welcome"


async def turns(count=3):
    for _ in range(count):
        await asyncio.sleep(0)


async def end(*protocols):
    for protocol in protocols:
        protocol.transport.abort()
    for protocol in protocols:
        await protocol.lost


@pytest.fixture
def noting(recorder):
    """A recorder that notes data among its events."""

    class Noting(recorder):
        def data_received(self, data):
            super().data_received(data)
            self.happened("data", bytes(data))

    return Noting


class TestTheOrderOfCallbacks:
    def test_data_then_eof_then_the_end(self, world, noting):
        async def main():
            client, server = await world.connected(noting, noting)
            server.transport.write(b"all there is")
            server.transport.close()
            assert await client.lost is None
            await server.lost
            assert client.events == [("made",), ("data", b"all there is"), ("eof",), ("lost", None)]
            assert server.events == [("made",), ("lost", None)]

        world.run(main())

    def test_what_came_before_a_reset_is_lost_as_elsewhere(self, world, noting):
        async def main():
            client, server = await world.connected(noting, noting)
            client.transport.pause_reading()
            server.transport.write(b"data")
            while not client.transport._core.poll() & 1:
                await asyncio.sleep(0)
            server.transport.abort()
            await server.lost
            client.transport.resume_reading()
            await client.lost
            assert client.events[-1][0] == "lost" and client.events.count(("made",)) == 1

        world.run(main())

    def test_the_connection_is_made_before_anything_arrives(self, world, noting):
        """The peer speaks first, and before our side has a protocol."""

        class Speaks(noting):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.write(SERVER_HELLO)

        async def main():
            client, server = await world.connected(noting, Speaks)
            assert client.events[0] == ("made",)
            await client.until(lambda: client.data == SERVER_HELLO)
            assert client.events == [("made",), ("data", SERVER_HELLO)]
            await end(client, server)

        world.run(main())

    def test_who_waits_for_the_connection_goes_on_before_data_is_delivered(self, world, noting):
        """A program may set its protocol's peer up in the line after create_connection."""

        class Speaks(noting):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.write(SERVER_HELLO)

        async def main():
            seen = []

            class Client(noting):
                def data_received(self, data):
                    seen.append(ready)
                    super().data_received(data)

            ready = False
            server = await world.create_server(Speaks)
            sock = socket.socket()
            sock.setblocking(False)
            await world.loop.sock_connect(sock, (world.address, 80))
            while not sock.core.poll() & select.POLLIN:
                await asyncio.sleep(0)
            _, client = await world.loop.create_connection(Client, sock=sock)
            ready = True
            await client.until(lambda: client.data == SERVER_HELLO)
            assert seen == [True]
            await end(client)
            server.close()
            await asyncio.sleep(0.01)

        world.run(main())

    def test_an_eof_that_is_not_the_end(self, world, recorder):
        async def main():
            client, server = await world.connected(server_factory=lambda: recorder(keep_open=True))
            client.transport.write(b"question")
            client.transport.write_eof()
            await server.until(lambda: ("eof",) in server.events)
            assert not server.transport.is_closing()
            server.transport.write(b"answer")
            await client.until(lambda: client.data == b"answer")
            await end(client, server)

        world.run(main())

    def test_nothing_after_close(self, world, noting):
        async def main():
            client, server = await world.connected(noting, noting)
            client.transport.close()
            client.transport.close()
            server.transport.write(b"too late")
            await client.lost
            await server.lost
            assert client.events == [("made",), ("lost", None)]
            await turns(10)
            assert client.events == [("made",), ("lost", None)]

        world.run(main())

    def test_callbacks_have_the_context_in_which_the_transport_was_made(self, world, noting):
        variable = contextvars.ContextVar("variable", default="nobody")
        seen = []

        class Client(noting):
            def data_received(self, data):
                seen.append(variable.get())
                super().data_received(data)

            def connection_lost(self, error):
                seen.append(variable.get())
                super().connection_lost(error)

        async def main():
            variable.set("client")
            client, server = await world.connected(Client)
            variable.set("changed")
            server.transport.write(b"x")
            await client.until(lambda: client.data)
            server.transport.close()
            await client.lost
            await server.lost

        world.run(main())
        assert seen[0] == "client"

    def test_a_failing_protocol_is_reported_and_loses_its_connection(self, world, recorder):
        class Faulty(recorder):
            def eof_received(self):
                raise ZeroDivisionError

        async def main():
            client, server = await world.connected(server_factory=Faulty)
            client.transport.write_eof()
            assert isinstance(await server.lost, ZeroDivisionError)
            await client.lost

        world.run(main())
        (context,) = world.reported
        world.reported.clear()
        assert "eof_received" in context["message"] and isinstance(context["transport"], StreamTransport)


class TestFlowControl:
    def test_reading_that_is_paused(self, world, recorder):
        async def main():
            client, server = await world.connected()
            server.transport.pause_reading()
            server.transport.pause_reading()
            assert not server.transport.is_reading()
            client.transport.write(b"x" * 1000)
            await asyncio.sleep(0.01)
            assert not server.data
            server.transport.resume_reading()
            server.transport.resume_reading()
            assert server.transport.is_reading()
            await server.until(lambda: len(server.data) == 1000)
            await end(client, server)

        world.run(main())

    def test_an_eof_waits_behind_paused_data(self, world, noting):
        async def main():
            client, server = await world.connected(server_factory=noting)
            server.transport.pause_reading()
            client.transport.write(b"data")
            client.transport.close()
            await client.lost
            await asyncio.sleep(0.01)
            assert server.events == [("made",)]
            server.transport.resume_reading()
            await server.lost
            assert server.events == [("made",), ("data", b"data"), ("eof",), ("lost", None)]

        world.run(main())

    def test_reading_shut_while_data_waits(self, world, noting):
        """The end comes after the data, although both were told before anybody read."""

        async def main():
            client, server = await world.connected(server_factory=noting)
            transport = server.transport
            deliver = transport.deliver

            def shut_first():
                if transport._core.poll() & select.POLLIN:
                    transport.deliver = deliver
                    transport.get_extra_info("socket").shutdown(socket.SHUT_RD)
                deliver()

            transport.deliver = shut_first
            client.transport.write(b"data")
            await server.until(lambda: ("eof",) in server.events)
            assert server.events[:3] == [("made",), ("data", b"data"), ("eof",)]
            await end(client, server)

        world.run(main())

    @pytest.mark.parametrize("high, low", [(1000, 100), (0, 0), (100_000, 99_999)])
    def test_writing_pauses_above_and_resumes_below(self, world, recorder, high, low):
        async def main():
            client, server = await world.connected()
            transport = client.transport
            transport.set_write_buffer_limits(high=high, low=low)
            server.transport.pause_reading()
            resumed = []
            resume = client.resume_writing
            client.resume_writing = lambda: (resumed.append(transport.get_write_buffer_size()), resume())
            while ("pause",) not in client.events:
                transport.write(bytes(10_000))
                size = transport.get_write_buffer_size()
                assert (size > high) == (("pause",) in client.events)
            server.transport.resume_reading()
            await client.until(lambda: ("resume",) in client.events)
            assert resumed[0] <= low
            await end(client, server)

        world.run(main())

    def test_draining_a_stream(self, world):
        async def main():
            taken = asyncio.Event()

            async def slowly(reader, writer):
                await taken.wait()
                while await reader.read(65536):
                    pass
                writer.close()

            with world.on_server():
                server = await asyncio.start_server(slowly, world.address, 80)
            reader, writer = await asyncio.open_connection(world.address, 80)
            writer.write(bytes(1_000_000))
            draining = asyncio.ensure_future(writer.drain())
            await asyncio.sleep(0.01)
            assert not draining.done()
            taken.set()
            await draining
            writer.close()
            await writer.wait_closed()
            server.close()
            await asyncio.sleep(0.01)

        world.run(main())

    def test_writes_to_a_connection_that_is_gone(self, world, recorder, caplog):
        async def main():
            client, server = await world.connected()
            client.transport.abort()
            for _ in range(10):
                client.transport.write(b"x")
                client.transport.writelines([b"y"])
            await client.lost
            await server.lost

        world.run(main())
        assert any("socket.send() raised exception" in record.getMessage() for record in caplog.records)


class TestConnecting:
    def test_what_is_told_of_a_connection(self, world, recorder):
        async def main():
            client, server = await world.connected(port=8080)
            info = client.transport.get_extra_info
            assert info("peername") == (world.address, 8080) and info("sockname")[0] == world.client_address
            sock = info("socket")
            assert sock.family is socket.AF_INET and sock.type is socket.SOCK_STREAM
            assert sock.getpeername() == info("peername") and sock.getsockname() == info("sockname")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            assert sock.fileno() >= 0
            assert info("capability") is world.client.root and info("sslcontext", "none") == "none"
            assert client.transport.get_protocol() is client
            await end(client, server)
            assert info("sockname")[0] == world.client_address, "known afterwards"
            assert client.transport.is_closing() and "closed" in repr(client.transport)

        world.run(main())

    def test_from_an_address_of_ours(self, world, recorder):
        async def main():
            client, server = await world.connected(local_addr=(world.client_address, 4321))
            assert client.transport.get_extra_info("sockname") == (world.client_address, 4321)
            with pytest.raises(OSError, match="error while attempting to bind on address"):
                await world.loop.create_connection(recorder, world.address, 80, local_addr=("10.0.0.77", 0))
            with pytest.raises(OSError, match="no matching local address"):
                await world.loop.create_connection(recorder, world.address, 80, local_addr=("::1", 0))
            await end(client, server)

        world.run(main())

    def test_every_address_of_a_name(self, world, recorder):
        """The first is refused, the second accepts."""
        for address in (world.address6, world.address):
            world.client.names.hosts.add(address, "both")

        async def main():
            server = await world.create_server(recorder, 80, world.address)
            transport, client = await world.loop.create_connection(recorder, "both", 80)
            assert transport.get_extra_info("peername") == (world.address, 80)
            await end(client)
            server.close()
            await server.wait_closed()
            with pytest.raises(OSError, match="Multiple exceptions"):
                await world.loop.create_connection(recorder, "both", 80)
            await asyncio.sleep(0.01)

        world.run(main())

    def test_racing_two_families(self, world, recorder):
        """RFC 8305: one that does not answer delays nobody."""
        for address in ("2001:db8::99", world.address):
            world.client.names.hosts.add(address, "race")

        async def main():
            server = await world.create_server(recorder, 80, world.address)
            started = world.loop.time()
            transport, client = await world.loop.create_connection(recorder, "race", 80, happy_eyeballs_delay=0.02)
            assert transport.get_extra_info("peername") == (world.address, 80)
            assert world.loop.time() - started < 1
            await end(client)
            server.close()
            remote = {endpoint.remote for endpoint in world.client.tcp.flows.values()}
            assert parse_address("2001:db8::99") not in remote, "the other attempt is given up"
            await asyncio.sleep(0.01)

        world.run(main())

    def test_an_attempt_that_is_cancelled(self, world, recorder):
        async def main():
            attempt = asyncio.ensure_future(world.loop.create_connection(recorder, "10.0.0.99", 80))
            while not world.client.tcp.flows:
                await asyncio.sleep(0)
            attempt.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attempt
            assert not world.client.tcp.flows

        world.run(main())

    def test_a_factory_that_fails(self, world, recorder):
        async def main():
            """As elsewhere the socket is left to the collector."""
            made = []
            server = await world.create_server(lambda: made.append(recorder()) or made[-1])
            with pytest.warns(ResourceWarning, match="unclosed"):
                try:
                    await world.loop.create_connection(lambda: 1 / 0, world.address, 80)
                except ZeroDivisionError:
                    pass
                gc.collect()
            while not made or made[0].transport is None:
                await asyncio.sleep(0)
            assert await made[0].lost is None
            server.close()

        world.run(main())

    def test_a_socket_that_is_given(self, world, recorder):
        async def main():
            with world.on_server():
                listener = socket.create_server((world.address, 80))
            listener.setblocking(False)
            sock = socket.socket()
            sock.setblocking(False)
            await world.loop.sock_connect(sock, (world.address, 80))
            accepted, _ = await world.loop.sock_accept(listener)
            _, client = await world.loop.create_connection(recorder, sock=sock)
            _, server = await world.loop.connect_accepted_socket(recorder, accepted)
            client.transport.write(b"x")
            await server.until(lambda: server.data == b"x")
            listener.close()
            await end(client, server)
            assert sock.fileno() == accepted.fileno() == -1

        world.run(main())

    def test_transports_that_nobody_refers_to_warn_and_are_closed(self, world, recorder):
        """Not as long as the loop reads for them."""
        with world.on_server():
            listener = socket.create_server((world.address, 80))
        listener.setblocking(False)
        loop = world.new_loop()
        transport, protocol = loop.run_until_complete(loop.create_connection(asyncio.Protocol, world.address, 80))
        loop.close()
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            del loop, transport, protocol
            gc.collect()

        async def main():
            accepted, _ = await world.loop.sock_accept(listener)
            with accepted:
                assert await world.loop.sock_recv(accepted, 1) == b""

        with listener:
            world.run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is new in Python 3.11")
def test_timeouts_of_whole_blocks(world):
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.open_connection("10.0.0.99", 80)
        assert not world.client.tcp.flows

    world.run(main())
