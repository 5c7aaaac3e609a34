"""The loop itself: whose stacks it serves, the kernel's descriptors beside them, threads, and its beginning and end.

Connections on it: test_loop_connections.py, test_loop_servers.py.
"""

import asyncio
import contextlib
import errno
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
import weakref

import pytest

from swos_net.asyncio import LoopDriver, SwosEventLoop
from swos_net.asyncio.stream_transport import StreamTransport
from swos_net.capability import CapabilityError
from swos_net.device.pair import make_pair
from swos_net.runtime.open_stack import open_stack
from swos_net.socket.resolver import Wait, run_async

PATIENCE = 10.0


async def turns(count=3):
    for _ in range(count):
        await asyncio.sleep(0)


class TestStacks:
    def test_the_active_capability_says_which(self, world, recorder):
        async def main():
            with world.on_server():
                server = await world.loop.create_server(recorder, "127.0.0.1", 7)
            with pytest.raises(ConnectionRefusedError):
                await world.loop.create_connection(recorder, "127.0.0.1", 7)
            with world.on_server():
                transport, protocol = await world.loop.create_connection(recorder, "127.0.0.1", 7)
            assert transport.get_extra_info("capability").issuer is world.server
            transport.close()
            await protocol.lost
            server.close()

        world.run(main())

    def test_the_loops_own_where_none_is_active(self, world, recorder):
        async def main():
            server = await world.loop.create_server(recorder, "127.0.0.1", 7)
            assert server.sockets[0].getsockname() == ("127.0.0.1", 7)
            transport, protocol = await world.loop.create_connection(recorder, "127.0.0.1", 7)
            assert transport.get_extra_info("capability") is world.client.root
            transport.close()
            await protocol.lost
            server.close()

        world.loop.run_until_complete(main())

    def test_none_at_all(self):
        async def main():
            for attempt in (loop.create_connection(asyncio.Protocol, "10.0.0.2", 80), loop.create_server(asyncio.Protocol, "10.0.0.1", 80),
                            loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("10.0.0.1", 53)),
                            loop.getaddrinfo("name", 80), loop.getnameinfo(("10.0.0.2", 80))):  # fmt: skip
                with pytest.raises(CapabilityError):
                    await attempt
            return await asyncio.sleep(0, "still a loop")

        loop = SwosEventLoop()
        try:
            assert loop.drivers == [] and loop.run_until_complete(main()) == "still a loop"
        finally:
            loop.close()

    def test_one_that_is_first_used_while_the_loop_runs(self):
        device, other = make_pair()
        driver = LoopDriver.of(open_stack(device, addresses=["10.0.0.1/24"]))
        loop = SwosEventLoop()

        async def main():
            with driver.stack.root.activate():
                server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 7)
                reader, writer = await asyncio.open_connection("127.0.0.1", 7)
                assert loop.drivers == [driver] and await reader.read() == b""
                writer.close()
                await writer.wait_closed()
                server.close()

        try:
            loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))
        finally:
            loop.close()
        driver.stop()
        other.close()

    def test_timers_of_the_stack_run_while_nothing_else_happens(self, world, recorder):
        async def main():
            started = time.monotonic()
            with pytest.raises(TimeoutError) as caught:
                await world.loop.create_connection(recorder, "10.0.0.99", 80)
            assert caught.value.errno == errno.ETIMEDOUT and time.monotonic() - started >= 0.2

        world.run(main())

    def test_callbacks_and_the_stack_take_turns(self, world, recorder):
        """A callback that always has another ready keeps neither frames nor timers waiting."""

        async def main():
            spinning = True

            def spin():
                if spinning:
                    world.loop.call_soon(spin)

            spin()
            client, server = await world.connected()
            client.transport.write(bytes(300_000))
            await server.until(lambda: len(server.data) == 300_000)
            spinning = False
            client.transport.abort()
            await client.lost
            await server.lost

        world.run(main())

    def test_names(self, world):
        world.client.names.hosts.add("10.0.0.2", "friend", "alias")

        async def main():
            found = await world.loop.getaddrinfo("friend", 80, type=socket.SOCK_STREAM)
            assert found == [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("10.0.0.2", 80))]
            assert isinstance(found[0][0], socket.AddressFamily) and isinstance(found[0][1], socket.SocketKind)
            assert await world.loop.getnameinfo(("10.0.0.2", 80)) == ("friend", "http")
            with pytest.raises(socket.gaierror):
                await world.loop.getaddrinfo("nobody", 80)

        world.run(main())

    def test_a_program_that_has_put_another_resolver_there(self, world, monkeypatch):
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, *rest, **more: [(host, port)])
        assert world.run(world.loop.getaddrinfo("whatever", 5)) == [("whatever", 5)]


class TestDescriptorsOfTheKernel:
    def test_a_socket_pair(self, world, recorder):
        async def main():
            near, far = socket.socketpair()
            (_, one), (_, other) = [await world.loop.create_connection(recorder, sock=end) for end in (near, far)]
            assert not isinstance(one.transport, StreamTransport)
            one.transport.write(bytes(500_000))
            await other.until(lambda: len(other.data) == 500_000)
            one.transport.close()
            assert await other.lost is None and await one.lost is None

        world.run(main())

    def test_servers_and_clients_of_af_unix(self, world, tmp_path):
        async def shout(reader, writer):
            writer.write((await reader.read()).upper())
            writer.close()

        async def main():
            path = str(tmp_path / "socket")
            async with await asyncio.start_unix_server(shout, path):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(b"hello")
                writer.write_eof()
                assert await reader.read() == b"HELLO"
                writer.close()
                await writer.wait_closed()

        world.run(main())

    def test_datagrams_of_af_unix(self, world, tmp_path):
        received = []

        class Protocol(asyncio.DatagramProtocol):
            def datagram_received(self, data, address):
                received.append(data)
                arrived.set()

        async def main():
            nonlocal arrived
            arrived = asyncio.Event()
            path = str(tmp_path / "socket")
            server, _ = await world.loop.create_datagram_endpoint(Protocol, path, family=socket.AF_UNIX)
            client, _ = await world.loop.create_datagram_endpoint(Protocol, remote_addr=path, family=socket.AF_UNIX)
            client.sendto(b"x")
            await arrived.wait()
            client.close()
            server.close()
            await turns()

        arrived = None
        world.run(main())
        assert received == [b"x"]

    def test_pipes(self, world, recorder):
        async def main():
            read, write = (open(end, mode, 0) for end, mode in zip(os.pipe(), ("rb", "wb")))
            _, reader = await world.loop.connect_read_pipe(recorder, read)
            transport, writer = await world.loop.connect_write_pipe(recorder, write)
            transport.write(b"through the pipe")
            await reader.until(lambda: reader.data == b"through the pipe")
            transport.close()
            await reader.lost
            await writer.lost

        world.run(main())

    def test_readers_and_writers(self, world):
        async def main():
            loop = world.loop
            near, far = socket.socketpair()
            with near, far:
                near.setblocking(False)
                readable, writable = asyncio.Event(), asyncio.Event()
                loop.add_reader(near, readable.set)
                loop.add_writer(near, writable.set)
                await writable.wait()
                assert loop.remove_writer(near) and not loop.remove_writer(near)
                await turns()
                assert not readable.is_set()
                far.send(b"x")
                await readable.wait()
                assert loop.remove_reader(near) and not loop.remove_reader(near)

        world.run(main())

    def test_readers_of_a_stack_socket(self, world, recorder):
        """Its descriptor is readable when it is."""

        async def main():
            made = []
            server = await world.create_server(lambda: made.append(recorder()) or made[0])
            with socket.socket() as sock:
                sock.setblocking(False)
                await world.loop.sock_connect(sock, (world.address, 80))
                readable, writable = asyncio.Event(), asyncio.Event()
                world.loop.add_reader(sock, readable.set)
                world.loop.add_writer(sock.fileno(), writable.set)
                await writable.wait()
                world.loop.remove_writer(sock)
                while not made or made[0].transport is None:
                    await asyncio.sleep(0)
                await turns(10)
                assert not readable.is_set()
                made[0].transport.write(b"x")
                await readable.wait()
                assert sock.recv(10) == b"x"
                world.loop.remove_reader(sock)
            server.close()
            await made[0].lost

        world.run(main())

    def test_both_at_once(self, world, recorder):
        """From a stack's connection into a pipe and on."""

        async def main():
            client, server = await world.connected()
            near, far = socket.socketpair()
            (_, into), (_, out) = [await world.loop.create_connection(recorder, sock=end) for end in (near, far)]
            client.transport.write(b"x" * 100_000)
            await server.until(lambda: len(server.data) == 100_000)
            into.transport.write(bytes(server.data))
            await out.until(lambda: len(out.data) == 100_000)
            assert bytes(out.data) == b"x" * 100_000
            for protocol in (client, server, into, out):
                protocol.transport.close()
                await protocol.lost

        world.run(main())

    def test_a_subprocess(self, world):
        async def main():
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", "import sys; print(sys.stdin.read().upper(), end='')", stdin=-1, stdout=-1
            )
            said, _ = await process.communicate(b"from a child")
            assert said == b"FROM A CHILD" and process.returncode == 0

        if sys.version_info < (3, 12):  # a child is watched for by whatever loop the main thread's policy knows
            watcher = asyncio.ThreadedChildWatcher()
            before = asyncio.get_child_watcher()
            asyncio.set_child_watcher(watcher)
            try:
                world.run(main())
            finally:
                asyncio.set_child_watcher(before)
        else:
            world.run(main())

    def test_signals(self, world):
        async def main():
            seen = asyncio.Event()
            world.loop.add_signal_handler(signal.SIGUSR1, seen.set)
            world.loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
            await seen.wait()
            assert world.loop.remove_signal_handler(signal.SIGUSR1)

        world.run(main())

    def test_a_signal_while_it_sleeps(self, world):
        """The loop has nothing to do until it comes."""

        async def main():
            seen = asyncio.Event()
            world.loop.add_signal_handler(signal.SIGALRM, seen.set)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            await seen.wait()
            assert world.loop.remove_signal_handler(signal.SIGALRM)

        world.run(main())

    def test_an_interrupt_ends_it_and_it_can_go_on(self, world, recorder):
        def interrupt():
            raise KeyboardInterrupt

        async def main():
            world.loop.call_later(0.01, interrupt)
            await asyncio.sleep(PATIENCE)

        task = world.loop.create_task(main())
        with pytest.raises(KeyboardInterrupt):
            world.loop.run_until_complete(task)
        assert not task.done()
        task.cancel()

        async def later():
            client, server = await world.connected()
            client.transport.abort()
            await client.lost
            await server.lost
            return "went on"

        assert world.run(later()) == "went on"


class TestThreads:
    def test_calls_from_many(self, world, threads):
        async def main():
            done = asyncio.Event()
            calls = []

            def called(number):
                calls.append(number)
                if len(calls) == 800:
                    done.set()

            def call(first):
                for number in range(first, first + 100):
                    world.loop.call_soon_threadsafe(called, number)

            for first in range(0, 800, 100):
                threads(call, first)
            await done.wait()
            assert sorted(calls) == list(range(800))
            for first in range(0, 800, 100):
                own = [number for number in calls if first <= number < first + 100]
                assert own == sorted(own), "those of one thread in their order"

        world.run(main())

    def test_coroutines_from_a_thread(self, world, threads):
        async def main():
            release = asyncio.Event()

            async def ask(host):
                client, server = await world.connected()
                client.transport.write(b"x")
                await server.until(lambda: server.data == b"x")
                client.transport.close()
                await server.lost
                await client.lost
                return host

            def call():
                future = asyncio.run_coroutine_threadsafe(ask("done"), world.loop)
                assert future.result(PATIENCE) == "done"
                world.loop.call_soon_threadsafe(release.set)

            threads(call)
            await release.wait()

        world.run(main())

    def test_jobs(self, world):
        async def main():
            assert await asyncio.gather(*(world.loop.run_in_executor(None, pow, 2, power) for power in range(20))) == [
                2**power for power in range(20)
            ]
            await world.loop.shutdown_default_executor()

        world.run(main())

    def test_blocking_sockets_in_jobs_of_the_loop(self, world, recorder):
        async def main():
            def talk():
                with socket.create_connection((world.address, 80), timeout=PATIENCE) as sock:
                    sock.sendall(b"from a job")
                    return sock.recv(100)

            made = []
            server = await world.create_server(lambda: made.append(recorder()) or made[-1])
            job = asyncio.ensure_future(asyncio.to_thread(talk))
            while not made:
                await asyncio.sleep(0)
            await made[0].until(lambda: made[0].data == b"from a job")
            made[0].transport.write(b"answer")
            assert await job == b"answer"
            server.close()
            await made[0].lost
            await world.loop.shutdown_default_executor()

        world.run(main())


class TestBeginningAndEnd:
    def test_run_again_and_again(self, world, recorder):
        """Connections live on between runs."""

        async def begin():
            return await world.connected()

        async def go_on(word):
            client.transport.write(word)
            await server.until(lambda: server.data.endswith(word))

        client, server = world.run(begin())
        for word in (b"one", b"two", b"three"):
            world.run(go_on(word))
        client.transport.close()
        world.run(asyncio.wait_for(server.lost, PATIENCE))

    def test_run_forever_and_stop(self, world):
        called = []
        world.loop.call_soon(called.append, 1)
        world.loop.call_soon(world.loop.stop)
        world.loop.run_forever()
        assert called == [1] and not world.loop.is_running()
        world.loop.stop()
        world.loop.run_forever()

    def test_not_inside_itself_or_another(self, world):
        async def main():
            with pytest.raises(RuntimeError, match="already running"):
                world.loop.run_forever()
            with pytest.raises(RuntimeError):
                world.loop.close()
            other = world.new_loop()
            try:
                with pytest.raises(RuntimeError, match="another loop"):
                    other.run_forever()
            finally:
                other.close()
            return "still running"

        assert world.run(main()) == "still running"

    def test_closing_twice_and_running_afterwards(self, world):
        loop = world.new_loop()
        loop.close()
        loop.close()
        with pytest.raises(RuntimeError, match="closed"):
            loop.run_forever()
        assert loop.drivers == [] or not loop.is_running()

    def test_closing_leaves_nothing_in_the_stack(self, world, recorder):
        """Neither watchers, which would call into a loop that is gone, nor descriptors."""
        descriptors = len(os.listdir("/proc/self/fd"))
        loop = world.new_loop()

        async def main():
            with world.on_server():
                server = await loop.create_server(recorder, world.address, 80)
            transport, protocol = await loop.create_connection(recorder, world.address, 80)
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, (world.address, 80))
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(loop.sock_recv(sock, 1), 0.01)
                pending = loop.create_task(loop.sock_recv(sock, 1))
                await turns()
                return server, transport, sock.dup(), pending

        async def elsewhere():
            """Frames for all of them: a watcher that was left would raise."""
            client, other = await world.connected(port=81)
            client.transport.abort()
            await client.lost
            await other.lost

        with pytest.warns(ResourceWarning) as warned:  # from the moment that the loop is closed: some of it is garbage then
            with world.client.root.activate():
                server, transport, sock, pending = loop.run_until_complete(main())
            pending._log_destroy_pending = False
            loop.close()
            cores = [transport._core, sock.core, server.sockets[0]._sock.core]
            for core in cores:
                assert core is not None
            world.run(elsewhere())
            del transport, server, cores, pending, core, loop, main
            sock.close()
            for _ in range(3):  # what was abandoned is closed by the stack, and refers to something itself
                gc.collect()
                for warning in warned.list:
                    warning.source = None  # a transport, say, which refers to its server
                world.run(asyncio.sleep(0))
        assert len(os.listdir("/proc/self/fd")) == descriptors

    def test_calls_that_wait_are_forgotten_when_the_loop_is_closed(self, world, recorder):
        """What comes for them afterwards raises nothing through the stack."""
        loop = world.new_loop()
        accepted = []

        class Server(recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.write(b"late")
                accepted.append(self)

        async def waiting():
            stream, datagrams = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            stream.setblocking(False)
            datagrams.bind((world.client_address, 5353))
            await loop.sock_connect(stream, (world.address, 80))

            def step():
                yield Wait(world.client_driver, datagrams.core, select.POLLIN, None)

            tasks = [loop.create_task(program) for program in (loop.sock_recv(stream, 10), run_async(step()))]
            await turns()
            return stream, datagrams, tasks

        async def late():
            with world.on_server(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"late", (world.client_address, 5353))
            while not accepted or stream.core.poll() & datagrams.core.poll() & select.POLLIN == 0:
                await asyncio.sleep(0)
            for protocol in accepted:
                protocol.transport.abort()
                await protocol.lost

        server = world.run(world.create_server(Server))
        with world.client.root.activate():
            stream, datagrams, tasks = loop.run_until_complete(waiting())
        loop.close()
        world.run(late())
        assert stream.recv(10) == datagrams.recv(10) == b"late"
        for task in tasks:
            task._log_destroy_pending = False
        for sock in (stream, datagrams, server):
            sock.close()

    def test_a_loop_is_garbage_when_it_is_closed(self, world, recorder):
        loop = world.new_loop()

        async def main():
            with world.on_server():
                server = await loop.create_server(recorder, world.address, 80)
            transport, protocol = await loop.create_connection(recorder, world.address, 80)
            transport.abort()
            await protocol.lost
            server.close()
            await turns(10)

        with world.client.root.activate():
            loop.run_until_complete(main())
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
        gone = weakref.ref(loop)
        del loop, main
        gc.collect()
        assert gone() is None

    def test_a_loop_that_cannot_have_its_stack_leaves_nothing_open(self, world):
        before = len(os.listdir("/proc/self/fd"))
        world.client_driver.stop()
        stopped = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(OSError) as caught:
                SwosEventLoop(world.client.root)
            assert caught.value.errno == errno.ENETDOWN
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == stopped <= before

    def test_exceptions_are_handled_as_elsewhere(self, world):
        async def main():
            def fail():
                raise KeyError("mistake")

            world.loop.call_soon(fail)
            await turns()

        world.run(main())
        (context,) = world.reported
        world.reported.clear()
        assert isinstance(context["exception"], KeyError) and "fail" in context["message"]

    def test_debug_mode_complains_of_slow_callbacks(self, world, caplog):
        async def main():
            time.sleep(0.02)

        world.loop.set_debug(True)
        world.loop.slow_callback_duration = 0.01
        world.run(main())
        assert any("took" in record.getMessage() for record in caplog.records)

    def test_it_does_not_spin(self, world, recorder):
        """Idle, with a connection open, it sleeps."""

        async def main():
            client, server = await world.connected()
            await asyncio.sleep(0.05)  # delayed acknowledgments, neighbours
            before = world.loop.turns
            await asyncio.sleep(0.2)
            spent = world.loop.turns - before
            client.transport.abort()
            await client.lost
            await server.lost
            return spent

        assert world.run(main()) < 10


def test_threads_that_use_the_loop_while_it_closes(world, threads):
    """They learn of it by an exception, not by silence."""
    loop = world.new_loop()
    begun, failures = threading.Event(), []

    def call():
        begun.set()
        try:
            while True:
                loop.call_soon_threadsafe(int)
        except RuntimeError as error:
            failures.append(str(error))

    thread = threads(call)
    begun.wait(PATIENCE)
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    thread.join(PATIENCE)
    assert failures == ["Event loop is closed"]
