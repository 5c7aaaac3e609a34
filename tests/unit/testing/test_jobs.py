"""Threads in virtual time: what is waited for, blocking sockets in them, and how those end."""

import asyncio
import concurrent.futures
import contextlib
import errno
import os
import signal
import socket
import threading
import time
import urllib.request

import pytest

from swos_net.testing import aio
from swos_net.testing.network import Network


class Pair:
    """A client and a server with a wire between them."""

    def __init__(self, **wire):
        self.network = Network(1)
        self.client = self.network.add_host("client", ["10.0.0.1/24"])
        self.server = self.network.add_host("server", ["10.0.0.2/24"])
        self.network.link(self.client, self.server, **wire)

    def run(self, main, beside=None):
        return aio.run(main, self.client, beside={self.server: beside} if beside else None)


async def echo(reader, writer):
    with contextlib.closing(writer):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


async def serve(handler=echo, port=7):
    async with await asyncio.start_server(handler, port=port) as server:
        await server.serve_forever()


class TestJobs:
    def test_time_stands_still_for_a_job(self):
        gate = threading.Event()

        async def main():
            loop = asyncio.get_running_loop()
            loop.call_later(0.001, ticks.append, 1)
            job = asyncio.ensure_future(asyncio.to_thread(gate.wait, 10))
            threading.Timer(0.05, gate.set).start()
            assert await job
            return loop.time(), list(ticks)

        ticks = []
        assert Pair().run(main()) == (0, [])

    def test_a_job_that_fails(self):
        async def main():
            with pytest.raises(ZeroDivisionError):
                await asyncio.to_thread(lambda: 1 / 0)
            await asyncio.sleep(1)

        Pair().run(main())

    def test_a_job_whose_result_is_wanted_no_more(self):
        """It is waited for all the same, and then time passes again."""
        gate, began = threading.Event(), threading.Event()

        def work():
            began.set()
            gate.wait(10)
            ended.append(1)

        async def main():
            loop = asyncio.get_running_loop()
            job = asyncio.ensure_future(asyncio.to_thread(work))
            await asyncio.sleep(0)
            began.wait(10)
            job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await job
            gate.set()
            await asyncio.sleep(1)
            return ended[:], loop.time()

        ended = []
        assert Pair().run(main()) == ([1], 1)

    def test_a_job_that_never_begins(self):
        async def main():
            loop = asyncio.get_running_loop()
            with concurrent.futures.ThreadPoolExecutor(1) as executor:
                gate = threading.Event()
                first = loop.run_in_executor(executor, gate.wait, 10)
                second = loop.run_in_executor(executor, print, "never")
                second.cancel()
                gate.set()
                await first
                await asyncio.sleep(1)
            return loop.time()

        assert Pair().run(main()) == 1

    def test_an_executor_that_takes_no_jobs(self):
        async def main():
            executor = concurrent.futures.ThreadPoolExecutor(1)
            executor.shutdown()
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop().run_in_executor(executor, print)
            await asyncio.sleep(1)

        Pair().run(main())

    def test_calls_from_threads_arrive(self):
        async def main():
            loop, called = asyncio.get_running_loop(), asyncio.Event()
            await asyncio.to_thread(loop.call_soon_threadsafe, called.set)
            await called.wait()

            async def coroutine():
                await asyncio.sleep(7)
                return loop.time()

            return await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(coroutine(), loop))

        assert isinstance(Pair().run(main()), concurrent.futures.Future)


    def test_signals(self):
        async def main():
            loop = asyncio.get_running_loop()
            seen = asyncio.Event()
            loop.add_signal_handler(signal.SIGUSR1, seen.set)
            await asyncio.to_thread(os.kill, os.getpid(), signal.SIGUSR1)
            await seen.wait()
            return loop.remove_signal_handler(signal.SIGUSR1)

        assert Pair().run(main())


class TestBlockingSockets:
    def test_they_wait_in_virtual_time(self):
        def get():
            with urllib.request.urlopen("http://server/", timeout=60) as response:
                return response.read()

        async def hello(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(50)
            writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 200_000)
            await writer.drain()
            writer.close()

        async def main():
            return await asyncio.gather(*(asyncio.to_thread(get) for _ in range(3)))

        pair = Pair(delay=0.1, loss=0.05)
        began = time.monotonic()
        assert pair.run(main(), serve(hello, 80)) == [b"x" * 200_000] * 3
        assert 50 < pair.network.now < 70 and time.monotonic() - began < 20

    def test_their_timeouts_are_exact(self):
        def receive():
            with socket.create_connection(("server", 7), timeout=5) as sock:
                started = pair.network.now
                with pytest.raises(TimeoutError) as caught:
                    sock.recv(1)
                assert str(caught.value) == "timed out"
                return pair.network.now - started

        async def main():
            return await asyncio.to_thread(receive)

        pair = Pair(delay=0.1)
        assert pair.run(main(), serve()) == 5

    def test_a_socket_that_is_closed_under_a_waiting_thread(self):
        def accept(sock):
            with pytest.raises(OSError) as caught:
                sock.accept()
            return caught.value.errno

        async def main():
            with socket.create_server(("", 9)) as sock:
                job = asyncio.ensure_future(asyncio.to_thread(accept, sock))
                await asyncio.sleep(3)
            return await job

        assert Pair().run(main()) == errno.EBADF

    def test_threads_that_wait_for_what_never_comes(self):
        def accept():
            with socket.create_server(("", 9)) as sock:
                try:
                    sock.accept()
                except OSError as error:
                    failures.append(error.errno)

        async def main():
            await asyncio.to_thread(accept)

        failures = []
        with pytest.raises(aio.Stalled):
            Pair().run(main())
        assert failures == [errno.ECANCELED]

    def test_a_loop_that_is_closed_without_more_ado(self):
        failures, waiting = [], threading.Event()

        def accept():
            with socket.create_server(("", 9)) as sock:
                waiting.set()
                try:
                    sock.accept()
                except OSError as error:
                    failures.append(error.errno)

        async def main():
            job = asyncio.ensure_future(asyncio.to_thread(accept))
            await asyncio.sleep(0)
            waiting.wait(10)
            await asyncio.sleep(1)  # time passes: the thread waits
            return job

        pair = Pair()
        loop = aio.NetworkLoop(pair.network, pair.client.capability)
        with pair.client.capability.activate():
            loop.run_until_complete(main())
        executor = loop._default_executor
        loop.close()
        executor.shutdown(wait=True)
        assert failures == [errno.ECANCELED]

    def test_who_would_stop_time_is_refused(self):
        async def main():
            with socket.create_server(("", 9)) as sock, pytest.raises(RuntimeError, match="asyncio.to_thread"):
                sock.accept()
            return 1

        pair = Pair()
        assert pair.run(main()) == 1
        with pair.client.capability.activate(), socket.create_server(("", 9)) as sock:
            with pytest.raises(RuntimeError, match="Network.run"):
                sock.accept()
