"""Transports keep the promises of asyncio's documentation."""

import asyncio
import errno

import pytest

from swos_net.address import parse_address


async def settle(seconds=0.02):
    await asyncio.sleep(seconds)


class TestStreams:
    async def test_there_and_back_and_the_order_of_callbacks(self, net, recorder):
        client, server = await net.connected()
        client.transport.write(b"question")
        await server.until(lambda: server.data == b"question")
        server.transport.writelines([b"an", b"swer"])
        server.transport.close()
        assert await client.lost is None and await server.lost is None
        assert client.data == b"answer"
        assert client.events == [("made",), ("eof",), ("lost", None)]
        assert server.events == [("made",), ("lost", None)]

    async def test_any_bytes_like_object(self, net, recorder):
        client, server = await net.connected()
        for data in (b"a", bytearray(b"b"), memoryview(b"cd")[1:], memoryview(b"efgh" * 50_000).cast("I"), b""):
            client.transport.write(data)
        with pytest.raises(TypeError):
            client.transport.write("text")
        client.transport.close()
        await server.lost
        assert server.data == b"abd" + b"efgh" * 50_000

    async def test_what_was_written_before_close_arrives(self, net, recorder):
        client, server = await net.connected()
        client.transport.write(bytes(1_000_000))
        client.transport.close()
        assert client.transport.is_closing()
        client.transport.close()
        await server.lost
        assert len(server.data) == 1_000_000
        assert await client.lost is None

    async def test_names_and_the_capability(self, net, recorder):
        client, server = await net.connected(port=8080)
        info = client.transport.get_extra_info
        assert info("peername") == ("10.0.0.2", 8080) == server.transport.get_extra_info("sockname")
        assert info("sockname") == server.transport.get_extra_info("peername")
        assert info("capability") is net.root
        assert not server.transport.get_extra_info("capability").allows("connect", "tcp", parse_address("10.0.0.1"), 80)
        assert info("nothing", 7) == 7
        assert "open ('10.0.0.1'" in repr(client.transport)

    async def test_half_closed(self, net, recorder):
        client, server = await net.connected(server_factory=lambda: recorder(keep_open=True))
        assert client.transport.can_write_eof()
        client.transport.write(b"all")
        client.transport.write_eof()
        with pytest.raises(RuntimeError):
            client.transport.write(b"more")
        await server.until(lambda: ("eof",) in server.events)
        server.transport.write(bytes(200_000))
        server.transport.close()
        await client.lost
        assert len(client.data) == 200_000 and server.data == b"all"

    async def test_eof_after_everything_that_waits(self, net, recorder):
        client, server = await net.connected()
        client.transport.write(bytes(500_000))
        client.transport.write_eof()
        await server.until(lambda: ("eof",) in server.events)
        assert len(server.data) == 500_000

    async def test_a_slow_reader_pauses_the_writer(self, net, recorder):
        client, server = await net.connected()
        server.transport.pause_reading()
        assert not server.transport.is_reading()
        for _ in range(100):
            client.transport.write(bytes(10_000))
        await settle()
        assert client.events[-1] == ("pause",)
        assert client.transport.get_write_buffer_size() > client.transport.get_write_buffer_limits()[1]
        assert len(server.data) == 0
        server.transport.resume_reading()
        await server.until(lambda: len(server.data) == 1_000_000)
        assert client.events[-1] == ("resume",)
        assert client.events.count(("pause",)) == client.events.count(("resume",))

    async def test_limits_of_the_write_buffer(self, net, recorder):
        client, server = await net.connected()
        transport = client.transport
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        transport.set_write_buffer_limits(low=100)
        assert transport.get_write_buffer_limits() == (100, 400)
        with pytest.raises(ValueError):
            transport.set_write_buffer_limits(high=1, low=2)

    async def test_abort_ends_it_at_once(self, net, recorder):
        client, server = await net.connected()
        client.transport.write(bytes(500_000))
        client.transport.abort()
        assert await client.lost is None
        assert await server.lost is None and len(server.data) < 500_000
        client.transport.abort()
        client.transport.write(b"ignored")
        assert client.events.count(("lost", None)) == 1

    async def test_a_protocol_that_fails_loses_its_connection_only(self, net, recorder):
        class Faulty(recorder):
            def data_received(self, data):
                raise ValueError("a mistake")

        reported = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
        client, server = await net.connected(server_factory=Faulty)
        other, other_server = await net.connected(port=81)
        client.transport.write(b"x")
        assert isinstance(await server.lost, ValueError)
        assert await client.lost is None
        assert "data_received" in reported[0]["message"]
        other.transport.write(b"still served")
        await other_server.until(lambda: other_server.data == b"still served")

    async def test_a_buffered_protocol(self, net, recorder):
        class Buffered(asyncio.BufferedProtocol):
            def __init__(self):
                self.buffer, self.received = bytearray(100), bytearray()
                self.lost = asyncio.get_running_loop().create_future()
                self.transport = None

            def connection_made(self, transport):
                self.transport = transport

            def get_buffer(self, sizehint):
                return self.buffer

            def buffer_updated(self, nbytes):
                self.received += self.buffer[:nbytes]

            def connection_lost(self, error):
                self.lost.set_result(error)

        client, server = await net.connected(server_factory=Buffered)
        client.transport.write(bytes(range(250)) * 10)
        client.transport.close()
        await server.lost
        assert server.received == bytes(range(250)) * 10

    async def test_another_protocol_takes_over(self, net, recorder):
        client, server = await net.connected()
        server.transport.pause_reading()
        client.transport.write(b"for the new one")
        await settle()
        successor = recorder()
        server.transport.set_protocol(successor)
        assert server.transport.get_protocol() is successor
        server.transport.resume_reading()
        await successor.until(lambda: successor.data == b"for the new one")
        assert not server.data

    async def test_reading_paused_in_the_middle_of_a_burst_stays_paused(self, net, recorder):
        class Stops(recorder):
            def data_received(self, data):
                super().data_received(data)
                self.transport.pause_reading()

        client, server = await net.connected(server_factory=Stops)
        for _ in range(5):
            client.transport.write(b"x" * 1000)
            await settle(0.005)
        assert len(server.data) <= 5000
        before = len(server.data)
        client.transport.write(b"y")
        await settle()
        assert len(server.data) == before
        server.transport.resume_reading()
        await server.until(lambda: len(server.data) == 5001)

    async def test_a_file_straight_into_the_queue(self, net, recorder, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(bytes(range(256)) * 2000)
        client, server = await net.connected()
        size, offset = path.stat().st_size, 0
        with path.open("rb") as file:
            while offset < size:
                taken = client.transport.write_file(file.fileno(), offset, size - offset)
                offset += taken
                if offset < size:
                    paused = client.events.count(("pause",))
                    await client.until(lambda paused=paused: client.events.count(("resume",)) == paused)
            client.transport.write(bytes(300_000))
            assert client.transport.write_file(file.fileno(), 0, 10) == 0, "what waits goes first"
        client.transport.close()
        with pytest.raises(OSError) as caught, path.open("rb") as file:
            client.transport.write_file(file.fileno(), 0, 10)
        assert caught.value.errno == errno.EPIPE
        await server.lost
        assert server.data == path.read_bytes() + bytes(300_000)

    async def test_closing_while_paused_with_a_full_buffer(self, net, recorder):
        client, server = await net.connected()
        server.transport.pause_reading()
        client.transport.write(bytes(400_000))
        client.transport.close()
        await settle()
        assert not client.lost.done(), "there is still something to send"
        server.transport.resume_reading()
        await server.lost
        assert len(server.data) == 400_000


class TestDatagrams:
    class Protocol(asyncio.DatagramProtocol):
        def __init__(self):
            self.received, self.errors = [], []
            self.changed = asyncio.Event()
            self.lost = asyncio.get_running_loop().create_future()

        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, address):
            self.received.append((data, address))
            self.changed.set()

        def error_received(self, error):
            self.errors.append(error)
            self.changed.set()

        def connection_lost(self, error):
            self.lost.set_result(error)

        async def next(self):
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 5)

    @pytest.mark.parametrize("address", ["10.0.0.2", "2001:db8::2"])
    async def test_there_and_back(self, net, address):
        _, server = await net.server.create_datagram_endpoint(self.Protocol, (None, 53), capability=net.server_root)
        transport, client = await net.client.create_datagram_endpoint(
            self.Protocol, remote_addr=(address, 53), capability=net.root
        )
        transport.sendto(b"question")
        await server.next()
        (data, source) = server.received[0]
        assert data == b"question" and source == transport.get_extra_info("sockname")[:0] + source
        server.transport.sendto(b"answer", source)
        await client.next()
        name = (address, 53) if "." in address else (address, 53, 0, 0)
        assert client.received == [(b"answer", name)]
        assert transport.get_extra_info("peername") == name

    async def test_an_error_is_told(self, net):
        transport, client = await net.client.create_datagram_endpoint(
            self.Protocol, remote_addr=("10.0.0.2", 99), capability=net.root
        )
        transport.sendto(b"anybody?")
        await client.next()
        assert isinstance(client.errors[0], ConnectionRefusedError)

    async def test_the_wrong_address(self, net):
        transport, _ = await net.client.create_datagram_endpoint(
            self.Protocol, remote_addr=("10.0.0.2", 99), capability=net.root
        )
        with pytest.raises(ValueError):
            transport.sendto(b"x", ("10.0.0.3", 99))
        transport, client = await net.client.create_datagram_endpoint(self.Protocol, capability=net.root)
        transport.sendto(b"x")
        assert client.errors[0].errno == errno.EDESTADDRREQ

    async def test_closing_gives_the_port_back(self, net):
        for _ in range(3):
            transport, protocol = await net.client.create_datagram_endpoint(
                self.Protocol, (None, 53), capability=net.root
            )
            transport.close()
            assert transport.is_closing()
            transport.close()
            transport.sendto(b"ignored", ("::ffff:10.0.0.2", 9))
            assert await protocol.lost is None

    async def test_more_than_the_queue_holds(self, net):
        transport, protocol = await net.client.create_datagram_endpoint(self.Protocol, capability=net.root)
        for _ in range(3000):
            transport.sendto(bytes(1000), ("::ffff:10.0.0.2", 9))
        assert transport.get_write_buffer_size() > 0
        transport.close()
        while not protocol.lost.done():
            await settle(0.001)
        assert transport.get_write_buffer_size() == 0
