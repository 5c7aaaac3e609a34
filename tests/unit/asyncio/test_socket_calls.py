"""`loop.sock_*` on sockets of a stack: what they give, how they wait, and how they end."""

import asyncio
import contextlib
import errno
import io
import select
import socket
import sys
from array import array

import pytest

from swos_net.asyncio.socket_calls import PendingCall

SINCE_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")


def non_blocking(kind=socket.SOCK_STREAM, family=socket.AF_INET):
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    return sock


@contextlib.contextmanager
def listening(world, port=80):
    with world.on_server():
        sock = non_blocking()
    with sock:
        sock.bind((world.address, port))
        sock.listen()
        yield sock


@contextlib.asynccontextmanager
async def joined(world):
    """(client's socket, server's socket), connected."""
    with listening(world) as listener, non_blocking() as client:
        await world.loop.sock_connect(client, (world.address, 80))
        server, _ = await world.loop.sock_accept(listener)
        with server:
            yield client, server


@contextlib.contextmanager
def datagrams(world):
    with world.on_server():
        server = non_blocking(socket.SOCK_DGRAM)
    with server, non_blocking(socket.SOCK_DGRAM) as client:
        server.bind((world.address, 53))
        client.bind((world.client_address, 99))
        yield client, server


async def waits(call):
    """A task that has begun to wait."""
    task = asyncio.ensure_future(call)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    return task


class TestStreams:
    def test_there_and_back(self, world):
        async def main():
            with listening(world) as listener, non_blocking() as client:
                accepting = asyncio.ensure_future(world.loop.sock_accept(listener))
                assert await world.loop.sock_connect(client, (world.address, 80)) is None
                server, address = await accepting
                with server:
                    assert address == client.getsockname() and server.getblocking() is False
                    await world.loop.sock_sendall(client, b"question")
                    assert await world.loop.sock_recv(server, 100) == b"question"
                    reading = await waits(world.loop.sock_recv(client, 3))
                    await world.loop.sock_sendall(server, b"answer")
                    assert await reading == b"ans"
                    buffer = bytearray(10)
                    assert await world.loop.sock_recv_into(client, buffer) == 3 and buffer[:3] == b"wer"
                    server.shutdown(socket.SHUT_WR)
                    assert await world.loop.sock_recv(client, 100) == b""

        world.run(main())

    def test_more_than_fits(self, world):
        async def main():
            async with joined(world) as (client, server):
                data = bytes(range(256)) * 4000
                sending = await waits(world.loop.sock_sendall(client, data))
                taken = bytearray()
                while len(taken) < len(data):
                    taken += await world.loop.sock_recv(server, 100_000)
                assert await sending is None and taken == data

        world.run(main())

    @pytest.mark.parametrize("data", [bytearray(b"1234" * 1000), memoryview(b"1234" * 1000).cast("I"), array("I", [5] * 1000), b""])
    def test_anything_with_bytes_in_it(self, world, data):
        async def main():
            async with joined(world) as (client, server):
                await world.loop.sock_sendall(client, data)
                client.shutdown(socket.SHUT_WR)
                taken = b""
                while piece := await world.loop.sock_recv(server, 65536):
                    taken += piece
                assert taken == bytes(data)

        world.run(main())

    def test_several_who_read_share_the_stream(self, world):
        async def main():
            async with joined(world) as (client, server):
                readers = [await waits(world.loop.sock_recv(server, 2)) for _ in range(3)]
                await world.loop.sock_sendall(client, b"aabbcc")
                assert [await reader for reader in readers] == [b"aa", b"bb", b"cc"]

        world.run(main())

    def test_one_socket_is_read_and_written_at_once(self, world):
        async def main():
            async with joined(world) as (client, server):
                reading = await waits(world.loop.sock_recv(client, 10))
                writing = await waits(world.loop.sock_sendall(client, bytes(1_000_000)))
                await world.loop.sock_sendall(server, b"x")
                assert await reading == b"x" and not writing.done()
                left = 1_000_000
                while left:
                    left -= len(await world.loop.sock_recv(server, 1 << 20))
                await writing

        world.run(main())

    def test_a_reset_while_reading(self, world):
        async def main():
            async with joined(world) as (client, server):
                reading = await waits(world.loop.sock_recv(client, 10))
                server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                server.close()
                with pytest.raises(ConnectionResetError):
                    await reading
                with pytest.raises(BrokenPipeError):
                    await world.loop.sock_sendall(client, b"x")

        world.run(main())


class TestConnecting:
    def test_refused(self, world):
        async def main():
            with non_blocking() as sock:
                with pytest.raises(ConnectionRefusedError, match=r"Connect call failed \('10.0.0.2', 81\)"):
                    await world.loop.sock_connect(sock, (world.address, 81))

        world.run(main())

    def test_a_second_time(self, world):
        async def main():
            async with joined(world) as (client, _):
                await world.loop.sock_connect(client, (world.address, 80))  # Linux tells the end of a connect once
                with pytest.raises(OSError) as caught:
                    await world.loop.sock_connect(client, (world.address, 80))
                assert caught.value.errno == errno.EISCONN

        world.run(main())

    def test_by_name(self, world):
        world.client.names.hosts.add(world.address, "friend")

        async def main():
            with listening(world), non_blocking() as sock:
                await world.loop.sock_connect(sock, ("friend", 80))
                assert sock.getpeername() == (world.address, 80)

        world.run(main())

    def test_beyond_the_authority(self, world):
        async def main():
            with world.client.root.attenuate("tcp:connect:10.0.0.2:80").activate():
                sock = non_blocking()
            with sock, pytest.raises(PermissionError):
                await world.loop.sock_connect(sock, (world.address, 81))

        world.run(main())

    def test_cancelled(self, world):
        async def main():
            with non_blocking() as sock:
                connecting = await waits(world.loop.sock_connect(sock, ("10.0.0.99", 80)))
                connecting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await connecting
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(world.loop.sock_connect(sock, ("10.0.0.99", 80)), 0.01)
            assert not world.client.tcp.flows

        world.run(main())


class TestCancelling:
    def test_a_read_takes_nothing_away(self, world):
        async def main():
            async with joined(world) as (client, server):
                for _ in range(3):
                    reading = await waits(world.loop.sock_recv(client, 10))
                    reading.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await reading
                await world.loop.sock_sendall(server, b"kept")
                assert await world.loop.sock_recv(client, 10) == b"kept"

        world.run(main())

    def test_a_read_that_is_cancelled_when_data_is_there_already(self, world):
        async def main():
            async with joined(world) as (client, server):
                reading = await waits(world.loop.sock_recv(client, 10))
                arrived = asyncio.Event()
                client.core.watch(watcher := lambda mask: (arrived.set(), reading.cancel()))
                await world.loop.sock_sendall(server, b"kept")
                await arrived.wait()
                client.core.unwatch(watcher)
                with pytest.raises(asyncio.CancelledError):
                    await reading
                assert await world.loop.sock_recv(client, 10) == b"kept"

        world.run(main())

    def test_an_accept_leaves_the_connection_to_the_next(self, world):
        async def main():
            with listening(world) as listener, non_blocking() as client:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(world.loop.sock_accept(listener), 0.01)
                await world.loop.sock_connect(client, (world.address, 80))
                server, _ = await world.loop.sock_accept(listener)
                server.close()

        world.run(main())

    def test_a_send_has_sent_what_it_has_sent(self, world):
        async def main():
            async with joined(world) as (client, server):
                sending = await waits(world.loop.sock_sendall(client, b"a" * 1_000_000))
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
                client.shutdown(socket.SHUT_WR)
                taken = b""
                while piece := await world.loop.sock_recv(server, 65536):
                    taken += piece
                assert 0 < len(taken) < 1_000_000 and set(taken) == set(b"a")

        world.run(main())

    def test_nobody_watches_the_socket_afterwards(self, world):
        async def main():
            async with joined(world) as (client, server):
                watched = []
                type_ = type(client.core)
                before = type_.watch, type_.unwatch
                type_.watch = lambda self, changed: (watched.append(changed), before[0](self, changed))[1]
                type_.unwatch = lambda self, changed: (watched.remove(changed), before[1](self, changed))[1]
                try:
                    reading = await waits(world.loop.sock_recv(client, 10))
                    assert len(watched) == 1
                    reading.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await reading
                    assert not watched
                    reading = await waits(world.loop.sock_recv(client, 10))
                    await world.loop.sock_sendall(server, b"x")
                    await reading
                    assert not watched
                finally:
                    type_.watch, type_.unwatch = before

        world.run(main())


class Early:
    """A socket that becomes ready after a call would have blocked, and before anybody watches it."""

    def __init__(self):
        self.stack = self.driver = self
        self.lock = contextlib.nullcontext()
        self.watchers = []

    def watch(self, changed):
        self.watchers.append(changed)

    def unwatch(self, changed):
        self.watchers.remove(changed)

    def poll(self):
        return select.POLLIN


def test_what_another_thread_did_meanwhile_is_seen(world):
    core = Early()

    async def main():
        pending = PendingCall(world.loop, world.loop._deliveries, core, select.POLLIN, lambda now: "at once")
        assert await pending.future == "at once"
        pending = PendingCall(world.loop, world.loop._deliveries, core, select.POLLOUT, lambda now: "never")
        await asyncio.sleep(0.01)
        assert not pending.future.done()
        pending.future.cancel()
        await asyncio.sleep(0)
        assert not core.watchers

    world.run(main())


class TestDatagrams:
    def test_there_and_back(self, world):
        async def main():
            with datagrams(world) as (client, server):
                reading = await waits(world.loop.sock_recv(server, 100))
                assert await world.loop.sock_sendto(client, b"plain", (world.address, 53)) == 5
                assert await reading == b"plain"

        world.run(main())

    @SINCE_3_11
    def test_with_addresses(self, world):
        async def main():
            with datagrams(world) as (client, server):
                reading = await waits(world.loop.sock_recvfrom(server, 3))
                await world.loop.sock_sendto(client, b"question", (world.address, 53))
                assert await reading == (b"que", (world.client_address, 99))
                buffer = bytearray(100)
                for size, expected in ((0, b"answer"), (4, b"answ")):
                    await world.loop.sock_sendto(server, b"answer", (world.client_address, 99))
                    count, address = await world.loop.sock_recvfrom_into(client, buffer, size)
                    assert buffer[:count] == expected and address == (world.address, 53)

        world.run(main())

    @SINCE_3_11
    def test_an_error_is_told(self, world):
        async def main():
            with non_blocking(socket.SOCK_DGRAM) as sock:
                await world.loop.sock_connect(sock, (world.address, 54))
                reading = await waits(world.loop.sock_recvfrom(sock, 10))
                sock.send(b"anybody?")
                with pytest.raises(ConnectionRefusedError):
                    await reading

        world.run(main())


class TestMistakes:
    def test_blocking_sockets_in_debug_mode(self, world):
        world.loop.set_debug(True)

        async def main():
            with socket.socket() as sock:
                for call in (world.loop.sock_recv(sock, 1), world.loop.sock_connect(sock, (world.address, 80)),
                             world.loop.sock_accept(sock), world.loop.sock_sendall(sock, b"x")):  # fmt: skip
                    with pytest.raises(ValueError, match="the socket must be non-blocking"):
                        await call

        world.run(main())

    def test_a_socket_that_a_transport_uses(self, world, recorder):
        async def main():
            async with joined(world) as (client, server):
                transport, protocol = await world.loop.create_connection(recorder, sock=client)
                with pytest.raises(RuntimeError, match="is used by transport"):
                    await world.loop.sock_recv(client, 10)
                with pytest.raises(RuntimeError, match="is used by transport"):
                    await world.loop.create_connection(recorder, sock=client)
                transport.close()
                await protocol.lost
                assert client.fileno() == -1

        world.run(main())

    def test_not_connected(self, world):
        async def main():
            with non_blocking() as sock:
                with pytest.raises(OSError) as caught:
                    await world.loop.sock_recv(sock, 10)
                assert caught.value.errno == errno.ENOTCONN

        world.run(main())

    def test_closed_while_a_call_waits(self, world):
        """As on the kernel's sockets the call waits on; it can be cancelled, and costs nothing else."""

        async def main():
            async with joined(world) as (client, server):
                reading = await waits(world.loop.sock_recv(client, 10))
                client.close()
                assert await world.loop.sock_recv(server, 10) == b""
                assert not reading.done()
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading

        world.run(main())


class TestTheKernels:
    """Sockets that are not of a stack go to asyncio's own calls."""

    def test_streams(self, world, tmp_path):
        async def main():
            loop, path = world.loop, str(tmp_path / "socket")
            with non_blocking(family=socket.AF_UNIX) as listener, non_blocking(family=socket.AF_UNIX) as client:
                listener.bind(path)
                listener.listen()
                accepting = await waits(loop.sock_accept(listener))
                await loop.sock_connect(client, path)
                server, _ = await accepting
                with server:
                    await loop.sock_sendall(client, bytes(100_000))
                    buffer, taken = bytearray(1 << 17), 0
                    while taken < 100_000:
                        taken += await loop.sock_recv_into(server, buffer)
                    reading = await waits(loop.sock_recv(server, 10))
                    await loop.sock_sendall(client, b"x")
                    assert await reading == b"x"
                    with io.BytesIO(b"file") as file:
                        assert await loop.sock_sendfile(client, file) == 4
                    assert await loop.sock_recv(server, 10) == b"file"

        world.run(main())

    @SINCE_3_11
    def test_datagrams(self, world, tmp_path):
        async def main():
            loop, path = world.loop, str(tmp_path / "socket")
            with non_blocking(socket.SOCK_DGRAM, socket.AF_UNIX) as server, non_blocking(socket.SOCK_DGRAM, socket.AF_UNIX) as client:
                server.bind(path)
                await loop.sock_sendto(client, b"one", path)
                await loop.sock_sendto(client, b"two", path)
                assert (await loop.sock_recvfrom(server, 10))[0] == b"one"
                buffer = bytearray(10)
                assert (await loop.sock_recvfrom_into(server, buffer))[0] == 3

        world.run(main())


class TestFiles:
    @pytest.mark.parametrize("offset, count", [(0, None), (1000, None), (1000, 70_000), (500_000, 100_000), (600_000, None)])
    def test_a_part_of_a_file(self, world, path, offset, count):
        expected = path.read_bytes()[offset : None if count is None else offset + count]

        async def main():
            async with joined(world) as (client, server):
                with path.open("rb") as file:
                    sending = asyncio.ensure_future(world.loop.sock_sendfile(client, file, offset, count))
                    taken = bytearray()
                    while len(taken) < len(expected):
                        taken += await world.loop.sock_recv(server, 65536)
                    assert await sending == len(expected) and taken == expected
                    if expected:
                        assert file.tell() == offset + len(expected)

        world.run(main())

    def test_what_is_no_file_of_the_kernels(self, world):
        async def main():
            async with joined(world) as (client, server):
                assert await world.loop.sock_sendfile(client, io.BytesIO(b"in memory")) == 9
                assert await world.loop.sock_recv(server, 100) == b"in memory"
                with pytest.raises(asyncio.SendfileNotAvailableError):
                    await world.loop.sock_sendfile(client, io.BytesIO(b"in memory"), fallback=False)

        world.run(main())

    def test_a_file_that_shrinks_meanwhile(self, world, path):
        async def main():
            async with joined(world) as (client, server):
                with path.open("r+b") as file:
                    sending = await waits(world.loop.sock_sendfile(client, file))
                    file.truncate(1000)
                    taken = 0
                    while not sending.done():
                        taken += len(await world.loop.sock_recv(server, 65536))
                    sent = await sending
                    while taken < sent:
                        taken += len(await world.loop.sock_recv(server, 65536))
                    assert 0 < sent < 512_000 and file.tell() == sent

        world.run(main())

    def test_cancelled(self, world, path):
        async def main():
            async with joined(world) as (client, server):
                with path.open("rb") as file:
                    sending = await waits(world.loop.sock_sendfile(client, file))
                    sending.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await sending
                    sent = file.tell()
                    client.shutdown(socket.SHUT_WR)
                    taken = b""
                    while piece := await world.loop.sock_recv(server, 65536):
                        taken += piece
                    assert taken == path.read_bytes()[:sent] and sent

        world.run(main())
