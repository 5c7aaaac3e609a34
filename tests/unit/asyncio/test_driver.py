"""A stack that loops and threads share: who serves it when, and that nobody who waits is forgotten."""

import asyncio
import errno
import os
import select
import socket
import threading
import time

import pytest

from swos_net.asyncio import LoopDriver, SwosEventLoop
from swos_net.asyncio import driver as driver_module
from swos_net.device.pair import make_pair
from swos_net.runtime.open_stack import open_stack
from swos_net.runtime.threaded import ThreadedRunner

PATIENCE = 10.0


async def echo(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


def connected(world, port=7, address=None):
    """A blocking socket of the client's."""
    with world.client.root.activate():
        return socket.create_connection((address or world.address, port), timeout=PATIENCE)


@pytest.fixture
def serving(world, threads):
    """The loop runs in a thread until the end of the test; on the server's port 7 is an echo; `echoes` counts those that have begun."""
    begun, loop = threading.Event(), world.loop
    world.echoes = threading.Semaphore(0)
    stop = None

    async def counted_echo(reader, writer):
        world.echoes.release()
        await echo(reader, writer)

    async def main():
        nonlocal stop
        stop = asyncio.Event()
        with world.on_server():
            server = await asyncio.start_server(counted_echo, world.address, 7)
        begun.set()
        await stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=PATIENCE)

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    assert begun.wait(PATIENCE)
    yield world
    loop.call_soon_threadsafe(lambda: stop.set())
    thread.join(PATIENCE)
    assert not thread.is_alive()


def echoing(serving):
    """A blocking socket whose echo has begun: `serving` waits for its end, but not for one that it does not know yet."""
    sock = connected(serving)
    assert serving.echoes.acquire(timeout=PATIENCE)
    return sock


class TestThreadsBesideALoop:
    def test_many_at_once(self, serving, threads):
        def talk(number):
            with echoing(serving) as sock:
                for round_ in range(20):
                    message = b"%d %d;" % (number, round_) * (number + 1)
                    sock.sendall(message)
                    assert sock.recv(len(message), socket.MSG_WAITALL) == message

        for thread in [threads(talk, number) for number in range(12)]:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def test_a_lot_of_data_both_ways(self, serving, threads):
        def talk():
            with echoing(serving) as sock:
                data = bytes(range(256)) * 4000
                sender = threading.Thread(target=sock.sendall, args=(data,))
                sender.start()
                taken = bytearray()
                while len(taken) < len(data):
                    taken += sock.recv(1 << 20)
                sender.join(PATIENCE)
                assert taken == data

        for thread in [threads(talk) for _ in range(3)]:
            thread.join(PATIENCE)

    def test_timeouts(self, serving):
        with echoing(serving) as sock:
            sock.settimeout(0.05)
            started = time.monotonic()
            with pytest.raises(TimeoutError):
                sock.recv(1)
            assert 0.05 <= time.monotonic() - started < 2

    def test_a_socket_that_is_closed_under_a_thread_that_waits(self, serving, threads):
        sock = echoing(serving)
        failures = []

        def receive():
            with pytest.raises(OSError) as caught:
                sock.recv(1)
            failures.append(caught.value.errno)

        thread = threads(receive)
        while not serving.client_driver._waiters:
            time.sleep(0)
        sock.close()
        thread.join(PATIENCE)
        assert failures == [errno.EBADF]

    def test_two_threads_with_one_socket(self, serving, threads):
        with echoing(serving) as sock:
            taken = []
            readers = [threads(lambda: taken.append(sock.recv(1))) for _ in range(4)]
            for letter in b"abcd":
                sock.sendall(bytes([letter]))
            for reader in readers:
                reader.join(PATIENCE)
            assert sorted(taken) == [b"a", b"b", b"c", b"d"]

    def test_what_threads_send_goes_out_while_the_loop_sleeps(self, serving):
        """The loop sleeps without an end; neither answer nor retransmission would come if nobody woke it."""
        with echoing(serving) as sock:
            for _ in range(50):
                sock.sendall(b"x")
                assert sock.recv(10) == b"x"


@pytest.fixture
def far_end(threads):
    """(driver of a stack, address of an echo at the other end of its wire, where a thread serves)."""
    devices = make_pair()
    poller, far = (open_stack(device, addresses=[address]) for device, address in zip(devices, ("10.0.0.1/24", "10.0.0.2/24")))
    driver = LoopDriver.of(poller)

    def echo(listener):
        accepted, _ = listener.accept()
        with listener, accepted:
            while data := accepted.recv(65536):
                accepted.sendall(data)

    with ThreadedRunner(far) as runner:
        with runner.stack.root.activate():
            listener = socket.create_server(("10.0.0.2", 7))
        thread = threads(echo, listener)
        yield driver, ("10.0.0.2", 7)
        thread.join(PATIENCE)
    driver.stop()


class TestALoopThatIsStuck:
    def test_a_callback_that_waits_for_what_a_thread_gets_from_the_wire(self, far_end, threads):
        """Frames come in that the loop does not take: the thread does."""
        driver, address = far_end
        loop = SwosEventLoop(driver.stack.root)
        done, taken = threading.Event(), []

        def talk():
            with driver.stack.root.activate(), socket.create_connection(address, timeout=PATIENCE) as sock:
                for size in (10, 100_000):
                    sock.sendall(bytes(size))
                    taken.append(len(sock.recv(size, socket.MSG_WAITALL)))
            done.set()

        def stuck():
            threads(talk)
            assert done.wait(PATIENCE)

        loop.call_soon(stuck)
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        assert taken == [10, 100_000]

    def test_a_callback_that_waits_for_a_thread_that_waits_for_the_stack(self, world, threads):
        """Nobody else would serve the stack, so the thread does."""

        async def main():
            listener = socket.create_server(("127.0.0.1", 7))
            done = threading.Event()
            taken = []

            def talk():
                try:
                    with connected(world, address="127.0.0.1") as sock:
                        accepted, _ = listener.accept()
                        with accepted:
                            sock.sendall(b"hello")
                            taken.append(accepted.recv(10))
                finally:
                    done.set()

            with listener:
                threads(talk)
                assert done.wait(PATIENCE), "the loop's thread sits here"
            assert taken == [b"hello"]

        world.run(main())

    def test_a_blocking_call_in_the_loops_own_thread(self, world, threads):
        """A mistake, but the stack goes on."""

        async def main():
            with socket.create_server(("127.0.0.1", 7)) as listener, connected(world, address="127.0.0.1") as sock:
                accepted, _ = listener.accept()
                with accepted:
                    reading = threads(lambda: accepted.sendall(accepted.recv(10)))
                    sock.sendall(b"hello")
                    assert sock.recv(10) == b"hello"
                    reading.join(PATIENCE)

        world.run(main())

    def test_the_loop_goes_on_after_it(self, world, threads, recorder):
        async def main():
            client, server = await world.connected()
            release = threading.Event()
            threads(lambda: (connected_to_nothing(world), release.set()))
            assert release.wait(PATIENCE)
            client.transport.write(b"still there")
            await server.until(lambda: server.data == b"still there")
            client.transport.close()
            await server.lost
            await client.lost

        def connected_to_nothing(world):
            with pytest.raises(ConnectionRefusedError):
                connected(world, 81, "127.0.0.1")

        world.run(main())


class TestWithoutALoop:
    """Loops that do not run serve nobody; threads do it themselves."""

    def test_a_thread_for_each_end(self, world, threads):
        with world.on_server():
            listener = socket.create_server((world.address, 7))

        def serve():
            accepted, _ = listener.accept()
            with accepted:
                while data := accepted.recv(65536):
                    accepted.sendall(data)

        with listener:
            server = threads(serve)
            with connected(world) as sock:
                for size in (1, 1000, 300_000):
                    sender = threads(sock.sendall, b"x" * size)
                    left = size
                    while left:
                        left -= len(sock.recv(1 << 20))
                    sender.join(PATIENCE)
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(1) == b""
            server.join(PATIENCE)

    def test_a_timeout(self, world):
        with world.client.root.activate(), socket.create_server((world.client_address, 9)) as listener:
            listener.settimeout(0.05)
            with pytest.raises(TimeoutError):
                listener.accept()

    def test_nobody_answers(self, world):
        with world.client.root.activate(), pytest.raises(OSError) as caught:
            socket.create_connection(("10.0.0.99", 80), timeout=PATIENCE)
        assert caught.value.errno == errno.ETIMEDOUT, "SYNs were sent again and given up: timers ran"

    def test_a_loop_that_ends_leaves_the_stack_to_who_waits(self, world, threads, monkeypatch):
        monkeypatch.setattr(driver_module, "STUCK", 1000)  # who waits does not look by himself
        with world.on_server():
            listener = socket.create_server((world.address, 7))
        accepted = []

        async def main():
            thread = threads(lambda: accepted.append(listener.accept()))
            while not world.server_driver._waiters:
                await asyncio.sleep(0)
            return thread

        thread = world.run(main())
        with listener, connected(world):
            thread.join(PATIENCE)
            assert not thread.is_alive()
            accepted[0][0].close()

    def test_a_loop_that_begins_takes_over(self, world, threads):
        with world.on_server():
            listener = socket.create_server((world.address, 7))
        accepted = []
        thread = threads(lambda: accepted.append(listener.accept()))
        while world.server_driver._leader is None:
            time.sleep(0)

        async def main():
            reader, writer = await asyncio.open_connection(world.address, 7)
            writer.close()
            await writer.wait_closed()
            while thread.is_alive():
                await asyncio.sleep(0)

        with listener:
            world.run(main())
            accepted[0][0].close()

    def test_two_loops_one_after_another_and_in_two_threads(self, world, threads):
        other = SwosEventLoop(world.client.root)
        other.serve(world.server)
        ready = threading.Event()

        async def serve():
            with world.on_server():
                server = await asyncio.start_server(echo, world.address, 7)
            ready.set()
            async with server:
                await ended.wait()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                await task

        async def make_event():
            return asyncio.Event()

        ended = other.run_until_complete(make_event())
        thread = threads(lambda: other.run_until_complete(serve()))
        assert ready.wait(PATIENCE)

        async def ask():
            reader, writer = await asyncio.open_connection(world.address, 7)
            writer.write(b"across loops")
            answer = await reader.readexactly(12)
            writer.close()
            await writer.wait_closed()
            return answer

        assert world.run(ask()) == b"across loops"
        assert world.run(ask()) == b"across loops"
        other.call_soon_threadsafe(ended.set)
        thread.join(PATIENCE)
        other.close()


class TestTheEnd:
    def test_of_a_stack_that_is_stopped(self, world):
        with world.client.root.activate():
            sock = socket.socket()
        world.client_driver.stop()
        world.client_driver.stop()
        with pytest.raises(OSError) as caught:
            sock.connect((world.address, 80))
        assert caught.value.errno == errno.ENETDOWN
        assert not world.client_driver.serving
        sock.close()
        with pytest.raises(OSError) as caught, world.client.root.activate():
            socket.socket()
        assert caught.value.errno == errno.ENETDOWN

    def test_who_waits_is_told(self, world, threads):
        with world.client.root.activate():
            listener = socket.create_server((world.client_address, 9))
        failures = []

        def accept():
            with pytest.raises(OSError) as caught:
                listener.accept()
            failures.append(caught.value.errno)

        thread = threads(accept)
        while world.client_driver._leader is None:
            time.sleep(0)
        world.client_driver.stop()
        thread.join(PATIENCE)
        assert failures == [errno.ENETDOWN]
        listener.close()

    def test_a_device_that_fails(self, world, recorder):
        def gone(burst):
            raise OSError(errno.ENODEV, "gone")

        async def main():
            client, server = await world.connected()
            device = world.pollers[0].ports[0].device
            device.receive = gone
            server.transport.write(b"x")
            error = await client.lost
            server.transport.abort()
            await server.lost
            return error

        assert world.run(main()).errno == errno.ENETDOWN
        (context,) = world.reported
        world.reported.clear()
        assert context["exception"].errno == errno.ENODEV and "client is no longer served" in context["message"]
        assert world.client_driver not in world.loop.drivers

    def test_a_device_that_fails_when_something_is_sent(self, world, recorder):
        """Found out where the loop sleeps, which goes on, with its other stack."""

        def gone(batch):
            raise OSError(errno.ENODEV, "gone")

        async def main():
            client, server = await world.connected()
            world.pollers[0].ports[0].device.transmit = gone
            client.transport.write(b"x")
            error = await client.lost
            server.transport.abort()
            await server.lost
            return error

        assert world.run(main()).errno == errno.ENETDOWN
        (context,) = world.reported
        world.reported.clear()
        assert context["exception"].errno == errno.ENODEV and "client is no longer served" in context["message"]
        assert world.loop.drivers == [world.server_driver]

    @pytest.mark.parametrize("how", ["receive", "transmit"])
    def test_a_device_that_fails_while_a_thread_serves_it(self, world, how):
        def gone(_):
            raise OSError(errno.ENODEV, "gone")

        with world.client.root.activate():
            listener = socket.create_server((world.client_address, 9))
        port = world.pollers[0].ports[0]
        setattr(port.device, how, gone)
        port.interface.queue_frame(bytes(60))
        os.eventfd_write(port.device.fileno(), 1)
        with pytest.raises(OSError) as caught:
            listener.accept()
        assert caught.value.errno == errno.ENETDOWN
        if how == "receive":  # a descriptor that stays readable
            world.run(asyncio.sleep(0.01))
            assert world.loop.drivers == [world.server_driver]
            assert world.reported.pop()["exception"].errno == errno.ENODEV and not world.reported
        world.client_driver.stop()
        listener.close()

    def test_a_stack_that_another_loop_stops(self, world):
        """A loop that serves it as well goes on without."""
        other = world.new_loop()
        other.own(world.server_driver)
        other.close()
        world.loop.call_soon(world.server_driver.poll, 0.0)
        world.run(asyncio.sleep(0.01))
        assert world.loop.drivers == [world.client_driver]
        assert world.reported.pop()["exception"].errno == errno.ENETDOWN and not world.reported

    def test_what_is_still_to_be_delivered(self, world):
        """Nobody serves the stacks between two calls: `finish` does, for one of them."""

        async def main():
            client, server = await world.connected()
            server.transport.pause_reading()
            client.transport.write(bytes(100_000))
            client.transport.close()
            await client.lost
            return server

        server = world.run(main())
        assert world.client_driver.delivering
        started = time.monotonic()
        assert not world.client_driver.finish(0.05), "the other stack says nothing"
        assert time.monotonic() - started < 5
        server.transport.resume_reading()
        world.run(server.until(lambda: len(server.data) == 100_000))
        assert not world.client_driver.delivering or world.client_driver.finish(PATIENCE)

    def test_a_socket_that_nobody_refers_to(self, world, recorder):
        async def main():
            with world.on_server():
                listener = socket.create_server((world.address, 7))
            listener.setblocking(False)
            sock = socket.socket()
            sock.setblocking(False)
            await world.loop.sock_connect(sock, (world.address, 7))
            with listener:
                accepted, _ = await world.loop.sock_accept(listener)
            with accepted:
                with pytest.warns(ResourceWarning, match="unclosed"):
                    del sock
                return await world.loop.sock_recv(accepted, 10)

        assert world.run(main()) == b""


class TestWhoServes:
    def test_the_driver_that_there_is(self, world):
        assert LoopDriver.of(world.pollers[0]) is world.client_driver is world.client.driver

    def test_a_stack_that_a_thread_serves(self):
        device, other = make_pair()
        with ThreadedRunner(open_stack(device, addresses=["10.0.0.1/24"], name="threaded")) as runner:
            with pytest.raises(RuntimeError, match="threaded is served by"):
                LoopDriver.of(runner.poller)
            with pytest.raises(RuntimeError, match="threaded cannot be used from an event loop"):
                SwosEventLoop(runner.stack.root)
        other.close()

    def test_a_stack_that_nobody_serves(self):
        device, other = make_pair()
        poller = open_stack(device, addresses=["10.0.0.1/24"], name="idle")
        with pytest.raises(RuntimeError, match="nobody serves it"):
            SwosEventLoop(poller.stack.root)
        device.close()
        other.close()

    def test_entering_is_nested_and_exclusive(self, world, threads):
        driver = world.client_driver
        order, inside = [], threading.Event()

        def enter():
            inside.set()
            with driver.entered():
                order.append("second")

        with driver.entered() as outer, driver.entered() as inner:
            assert inner >= outer
            thread = threads(enter)
            inside.wait(PATIENCE)
            order.append("first")
        thread.join(PATIENCE)
        assert order == ["first", "second"]

    def test_time_is_the_drivers(self, world):
        assert world.client_driver.clock is time.monotonic


class TestForking:
    """A child has a copy of the stack, which must not speak for the parent's."""

    def in_child(self, call):
        """What `call` says in a forked child, as bytes."""
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                said = call()
            except BaseException as error:
                said = repr(error).encode()
            os.write(write, said)
            os._exit(0)
        os.close(write)
        with open(read, "rb") as file:
            said = file.read()
        assert os.waitpid(child, 0)[1] == 0
        return said

    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    def test_the_child_is_refused_and_the_parent_goes_on(self, serving):
        sock = echoing(serving)

        def use():
            failures = []
            for call in (lambda: sock.send(b"x"), lambda: sock.recv(1), lambda: connected(serving)):
                try:
                    call()
                except OSError as error:
                    failures.append(errno.errorcode[error.errno])
            sock.close()
            return " ".join(failures).encode()

        with serving.client_driver.lock:  # a child may be made at any time
            assert self.in_child(use) == b"ENETDOWN ENETDOWN ENETDOWN"
        with sock:
            sock.sendall(b"the parent's")
            assert sock.recv(100) == b"the parent's"

    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    def test_a_loop_of_the_parents(self, world):
        def use():
            try:
                world.new_loop()
            except OSError as error:
                return errno.errorcode[error.errno].encode()

        assert self.in_child(use) == b"ENETDOWN"


def test_descriptors_wake_for_the_stack(serving):
    """A program that polls `fileno()` in a thread of its own."""
    with echoing(serving) as sock:
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        assert poll.poll(0) == []
        sock.send(b"x")
        assert poll.poll(PATIENCE * 1000) == [(sock.fileno(), select.POLLIN)]
        assert sock.recv(1) == b"x"
        assert poll.poll(0) == []

