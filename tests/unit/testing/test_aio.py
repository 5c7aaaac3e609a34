"""asyncio programs in virtual time: they run unchanged, time jumps, the same seed gives the same run, nothing hangs."""

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swos_net.testing import aio
from swos_net.testing.checkers import Checksums, SoundStream
from swos_net.testing.network import Network
from swos_net.testing.recorder import Recorder

TESTING_PAGE = Path(__file__).resolve().parents[3] / "docs" / "testing.md"
PROGRAMS = [text for text in re.findall(r"```python\n(.*?)```", TESTING_PAGE.read_text(), re.DOTALL) if "\ndef test_" in text]


class Pair:
    """A client and a server, a wire between them, and what crossed it."""

    def __init__(self, seed=1, **wire):
        self.network = Network(seed)
        self.client = self.network.add_host("client", ["10.0.0.1/24", "2001:db8::1/64"])
        self.server = self.network.add_host("server", ["10.0.0.2/24", "2001:db8::2/64"])
        self.link = self.network.link(self.client, self.server, **wire)
        self.network.observe(Checksums())
        self.network.observe(SoundStream())
        self.recorder = self.network.observe(Recorder())

    def run(self, main, beside=None, **options):
        return aio.run(main, self.client, beside={self.server: beside} if beside else None, **options)

    @property
    def record(self):
        return [(crossing.time, crossing.wire.name, crossing.fate, crossing.frame.data) for crossing in self.recorder]


async def echo(reader, writer):
    with contextlib.closing(writer):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


async def serve(handler=echo, port=7):
    server = await asyncio.start_server(handler, port=port)
    async with server:
        await server.serve_forever()


async def ask(host="server", data=b"hello", port=7):
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def test_the_page_on_testing_has_examples():
    assert len(PROGRAMS) == 2 and any("aio.run" in program for program in PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS, ids=["network", "asyncio"])
def test_the_examples_of_the_page_run(program):
    namespace = {}
    exec(compile(program, str(TESTING_PAGE), "exec"), namespace)
    (test,) = (value for name, value in namespace.items() if name.startswith("test_"))
    test()


class TestTime:
    def test_a_long_sleep_is_exact_and_costs_nothing(self):
        async def main():
            loop = asyncio.get_running_loop()
            started = loop.time()
            await asyncio.sleep(3600)
            return loop.time() - started

        pair = Pair()
        began = time.monotonic()
        assert pair.run(main()) == 3600
        assert pair.network.now == 3600 and time.monotonic() - began < 2

    def test_timers_run_in_their_order_at_their_times(self):
        async def main():
            loop, calls = asyncio.get_running_loop(), []
            for delay in (3, 0.5, 86400 * 3, 1e-6, 3):
                loop.call_later(delay, lambda delay=delay: calls.append((delay, loop.time())))
            loop.call_later(1, calls.append, "never").cancel()
            await asyncio.sleep(86400 * 4)
            return calls

        pair = Pair()
        assert pair.run(main()) == [(delay, delay) for delay in (1e-6, 0.5, 3, 3, 86400 * 3)]

    def test_a_round_trip_takes_the_time_of_the_wires(self):
        async def main():
            loop = asyncio.get_running_loop()
            await ask()  # knows the neighbour's address
            reader, writer = await asyncio.open_connection("server", 7)
            with contextlib.closing(writer):
                started = loop.time()
                writer.write(b"x")
                await reader.readexactly(1)
                return loop.time() - started

        assert Pair(delay=0.1).run(main(), serve()) == pytest.approx(0.2)

    def test_timeouts_are_of_the_virtual_time(self):
        async def main():
            loop = asyncio.get_running_loop()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.open_connection("10.0.0.99", 7), 0.7)
            return loop.time()

        assert Pair().run(main()) == pytest.approx(0.7)

    def test_programs_come_to_rest_before_a_frame_arrives(self):
        """So a server that needs many turns to begin listening is ready for a client on a wire without delay."""

        async def late():
            for _ in range(1000):
                await asyncio.sleep(0)
            await serve()

        assert Pair().run(ask(), late()) == b"hello"

    def test_the_network_goes_on_from_where_it_was(self):
        pair = Pair(delay=0.05)
        assert pair.run(ask(), serve()) == b"hello"
        first = pair.network.now
        pair.network.run(until=first + 10)
        assert pair.run(ask(data=b"again"), serve()) == b"again"
        assert pair.network.now > first + 10

    def test_calls_of_the_network_happen_meanwhile(self):
        async def main():
            loop = asyncio.get_running_loop()
            reader, writer = await asyncio.open_connection("server", 7)
            pair.network.at(loop.time() + 1, lambda: pair.link.change(loss=1.0))
            pair.network.at(loop.time() + 60, lambda: pair.link.change(loss=0.0))
            await asyncio.sleep(2)
            writer.write(b"x")
            await reader.readexactly(1)
            writer.close()
            return loop.time()

        pair = Pair()
        assert pair.run(main(), serve()) > 60


def test_the_same_seed_gives_the_same_run_to_the_last_frame():
    def run(seed):
        async def main():
            async def one(number):
                await asyncio.sleep(number % 3)
                return len(await ask("server" if number % 2 else "2001:db8::2", bytes(number * 5000)))

            return await asyncio.gather(*map(one, range(12)))

        pair = Pair(seed, delay=0.1, jitter=0.02, loss=0.05, reorder=0.05)
        assert pair.run(main(), serve()) == [number * 5000 for number in range(12)]
        return pair.record

    assert len(run(3)) > 200
    assert run(3) == run(3)
    assert run(3) != run(4)


def test_tasks_come_out_of_a_set_in_their_order():
    async def main():
        kept, tasks = [], []
        for number in range(50):
            kept.append([object() for _ in range(number * 7 % 11)])
            tasks.append(asyncio.ensure_future(asyncio.sleep(1)))
        return list(set(tasks)) == tasks and sorted(tasks, key=hash) == tasks

    assert Pair().run(main())


def test_the_same_run_whatever_the_seed_of_hashes():
    """Tasks are cancelled out of sets; each closes its connection then, and the order is seen on the wire."""
    program = """
import asyncio, hashlib
from swos_net.testing import aio
from swos_net.testing.network import Network
from swos_net.testing.recorder import Recorder

async def serve():
    async def keep(reader, writer):
        await reader.read()
        writer.close()
    await (await asyncio.start_server(keep, port=7)).serve_forever()

async def hold():
    reader, writer = await asyncio.open_connection("server", 7)
    try:
        await asyncio.sleep(1000)
    finally:
        writer.close()

async def main():
    junk = [object() for _ in range(hash("x") % 1000)]
    tasks = {asyncio.create_task(hold()) for _ in range(20)}
    await asyncio.wait(tasks, timeout=10)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await asyncio.sleep(1)

network = Network(1)
client, server = network.add_host("client", ["10.0.0.1/24"]), network.add_host("server", ["10.0.0.2/24"])
network.link(client, server, delay=0.1)
recorder = network.observe(Recorder())
aio.run(main(), client, beside={server: serve()})
print(len(recorder), hashlib.sha256(recorder.timeline().encode()).hexdigest())
"""
    said = {
        subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
                       capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1 and int(said.pop().split()[0]) > 100


class TestHosts:
    def test_a_task_uses_the_stack_of_its_host(self):
        async def names(reader, writer):
            await reader.read()
            writer.write(repr((writer.get_extra_info("sockname"), writer.get_extra_info("peername")[0])).encode())
            writer.close()

        assert Pair().run(ask("10.0.0.2"), serve(names)) == b"(('10.0.0.2', 7), '10.0.0.1')"

    def test_one_host_talks_to_itself(self):
        async def main():
            server = asyncio.ensure_future(serve())
            await asyncio.sleep(100)
            answers = [await ask(host) for host in ("127.0.0.1", "::1", "client", "10.0.0.1", "localhost")]
            server.cancel()
            return answers

        pair = Pair()
        assert pair.run(main()) == [b"hello"] * 5
        assert not pair.recorder.segments() and pair.network.now == 100

    def test_hosts_and_tasks_that_come_later(self):
        async def main():
            third = pair.network.add_host("third", ["10.0.1.3/24"])
            pair.network.link(pair.client, third, addresses=(["10.0.1.1/24"], None))
            task = aio.create_task(serve(), on=third, name="late")
            assert task.get_name() == "late"
            assert await ask("third") == b"hello"
            task.cancel()
            return pair.network.now

        pair = Pair()
        assert pair.run(main()) < 60

    def test_hosts_have_names_both_ways(self):
        async def main():
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo("server", 7, type=socket.SOCK_STREAM)
            return {entry[4][0] for entry in found}, await loop.getnameinfo(("10.0.0.2", 7)), socket.gethostname()

        assert Pair().run(main()) == ({"10.0.0.2", "2001:db8::2"}, ("server", "echo"), "client")

    def test_blocks_of_code_with_the_capability_of_another_host(self):
        async def main():
            with pair.server.capability.activate():
                server = await asyncio.start_server(echo, port=7)
            answer = await ask()
            server.close()
            return answer

        pair = Pair()
        assert pair.run(main()) == b"hello"

    def test_a_capability_that_allows_less(self):
        async def main():
            with pair.client.capability.attenuate("tcp:connect:10.0.0.2:7").activate():
                await ask("10.0.0.2")
                with pytest.raises(PermissionError):
                    await ask("10.0.0.2", port=8)

        pair = Pair()
        pair.run(main(), serve())

    def test_hosts_of_other_networks_are_refused(self):
        async def main():
            with other.server.capability.activate(), pytest.raises(RuntimeError, match="no host of this network"):
                await asyncio.start_server(echo, port=7)
            late = serve()
            with pytest.raises(RuntimeError, match="another network"):
                aio.create_task(late, on=other.server)
            late.close()

        pair, other = Pair(), Pair()
        pair.run(main())

    def test_without_a_capability_there_is_no_network(self):
        async def main():
            with pytest.raises(PermissionError, match="no capability is active"):
                await asyncio.open_connection("10.0.0.2", 7)

        loop = aio.NetworkLoop(Pair().network)
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()


class TestKinds:
    def test_datagrams(self):
        class Answers(asyncio.DatagramProtocol):
            def connection_made(self, transport):
                self.transport = transport

            def datagram_received(self, data, address):
                self.transport.sendto(data.upper(), address)

        class Collects(asyncio.DatagramProtocol):
            def __init__(self):
                self.received = asyncio.Queue()

            def datagram_received(self, data, address):
                self.received.put_nowait((data, address))

        async def answer():
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Answers, ("0.0.0.0", 53))
            try:
                await asyncio.Event().wait()
            finally:
                transport.close()

        async def main():
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.create_datagram_endpoint(Collects, remote_addr=("server", 53), family=socket.AF_INET)
            transport.sendto(b"name?")
            got = await protocol.received.get()
            transport.close()
            return got, loop.time()

        got, when = Pair(delay=0.1).run(main(), answer())
        assert got == (b"NAME?", ("10.0.0.2", 53)) and 0.2 <= when < 1

    def test_sock_calls(self):
        async def main():
            loop = asyncio.get_running_loop()
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, ("server", 7))
                await loop.sock_sendall(sock, bytes(300_000))
                taken = 0
                while taken < 300_000:
                    taken += len(await loop.sock_recv(sock, 65536))
            return taken

        assert Pair(delay=0.02).run(main(), serve()) == 300_000

    def test_readers_of_a_stack_socket(self):
        async def main():
            loop = asyncio.get_running_loop()
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, ("server", 7))
                readable = asyncio.Event()
                loop.add_reader(sock, readable.set)
                sock.send(b"x")
                started = loop.time()
                await readable.wait()
                loop.remove_reader(sock)
                return sock.recv(10), loop.time() - started

        data, seconds = Pair(delay=0.1).run(main(), serve())
        assert data == b"x" and seconds == pytest.approx(0.2)

    @pytest.mark.parametrize("use", ["pair", "pipe", "subprocess"])
    def test_what_the_kernel_has_is_refused(self, use):
        async def main():
            loop = asyncio.get_running_loop()
            with contextlib.ExitStack() as stack:
                if use == "pair":
                    ends = socket.socketpair()
                    for end in ends:
                        stack.enter_context(end)
                    loop.add_reader(ends[0], print)
                elif use == "pipe":
                    pipe = [stack.enter_context(open(end, mode)) for end, mode in zip(os.pipe(), ("rb", "wb"))]
                    with pytest.raises(NotImplementedError):
                        await loop.connect_write_pipe(asyncio.BaseProtocol, pipe[1])
                    await loop.connect_read_pipe(asyncio.Protocol, pipe[0])
                else:
                    await asyncio.create_subprocess_exec("true")

        with pytest.raises(NotImplementedError, match="simulated network"):
            Pair().run(main())

    def test_aiohttp(self):
        aiohttp = pytest.importorskip("aiohttp")
        from aiohttp import web

        async def slow(request):
            await asyncio.sleep(30)
            return web.Response(text=f"{request.remote} " + "x" * 100_000)

        async def served():
            application = web.Application()
            application.router.add_get("/", slow)
            runner = web.AppRunner(application)
            await runner.setup()
            await web.TCPSite(runner, port=80).start()
            try:
                await asyncio.Event().wait()
            finally:
                await runner.cleanup()

        async def main():
            async with aiohttp.ClientSession() as session:
                texts = []
                for _ in range(3):
                    async with session.get("http://server/") as response:
                        texts.append(await response.text())
            return texts

        pair = Pair(delay=0.1, loss=0.05)
        assert pair.run(main(), served()) == ["2001:db8::1 " + "x" * 100_000] * 3
        assert 90 < pair.network.now < 120


class TestTheEnd:
    def test_everything_is_cancelled_when_the_main_program_is_done(self):
        async def main():
            asyncio.get_running_loop().call_soon(ended.append, "main")
            tasks.append(asyncio.ensure_future(forever("task")))
            await asyncio.sleep(1)
            return 5

        async def forever(name):
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(2)
                ended.append(name)

        ended, tasks = [], []
        pair = Pair()
        assert pair.run(main(), forever("beside")) == 5
        assert ended == ["main", "beside", "task"] and pair.network.now == 5

    def test_a_program_beside_that_fails_ends_the_run(self):
        async def fails():
            await asyncio.sleep(2)
            raise KeyError("mistake")

        async def main():
            try:
                await asyncio.sleep(100)
            finally:
                ended.append(asyncio.get_running_loop().time())

        ended = []
        with pytest.raises(KeyError, match="mistake"):
            Pair().run(main(), fails())
        assert ended == [2]

    def test_a_program_beside_that_fails_on_its_way_out(self):
        async def fails():
            try:
                await asyncio.sleep(100)
            finally:
                raise KeyError("mistake")

        with pytest.raises(KeyError, match="mistake"):
            Pair().run(asyncio.sleep(1), fails())

    def test_a_program_beside_that_ends_is_fine(self):
        assert Pair().run(asyncio.sleep(2, "x"), asyncio.sleep(1)) == "x"

    def test_something_else_than_coroutines(self):
        pair = Pair()
        program = serve()
        with pytest.raises(ValueError, match="a coroutine was expected"):
            aio.run(print, pair.client, beside={pair.server: program})
        program.close()

    def test_sockets_that_nobody_refers_to_are_closed(self):
        async def main():
            sock = socket.socket()
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("server", 7))
            with pytest.warns(ResourceWarning):
                del sock
            await asyncio.sleep(1)

        async def closes(reader, writer):
            ended.append(await reader.read())
            writer.close()

        ended = []
        pair = Pair()
        pair.run(main(), serve(closes))
        assert ended == [b""], "the peer has seen a FIN"


class TestStalled:
    def stalled(self, main, beside=None, pair=None, **options):
        with pytest.raises(aio.Stalled) as caught:
            (pair or Pair()).run(main, beside, **options)
        return str(caught.value)

    def test_nothing_will_ever_happen(self):
        async def main():
            reader, writer = await asyncio.open_connection("server", 7)
            try:
                await reader.read()
            finally:
                writer.close()

        text = self.stalled(main(), serve())
        assert "nothing will ever happen again" in text
        assert re.search(r"client: Task-\d+ in .*main, .*test_aio.py:\d+\n", text)
        assert re.search(r"server: Task-\d+ in serve, .*test_aio.py:\d+\n", text)
        assert "client [2001:db8::1]:" in text and "ESTABLISHED" in text
        assert "_together" not in text

    def test_a_week_is_enough(self):
        async def main():
            while True:
                await asyncio.sleep(3600)

        assert "604800 s were not enough" in self.stalled(main())
        pair = Pair()
        assert "10 s were not enough" in self.stalled(asyncio.sleep(11), pair=pair, limit=10)
        assert pair.network.now <= 10
        pair.run(asyncio.sleep(9), limit=10)

    def test_a_program_that_never_waits(self, monkeypatch):
        async def main():
            while True:
                await asyncio.sleep(0)

        monkeypatch.setattr(aio.NetworkLoop, "turns_per_instant", 500)
        assert "no time passes" in self.stalled(main())

    def test_many_tasks_are_not_all_listed(self):
        async def main():
            await asyncio.gather(*(asyncio.Event().wait() for _ in range(50)))

        text = self.stalled(main())
        assert "and 31 more tasks" in text and "in Event.wait" in text

    def test_tasks_are_ended_properly(self):
        async def main():
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(5)
                ended.append(asyncio.get_running_loop().time())

        ended = []
        pair = Pair()
        self.stalled(main(), pair=pair)
        assert ended == [pair.network.now]

    def test_a_task_that_will_not_be_cancelled(self):
        async def main():
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
                cancelled.append(1)

        cancelled = []
        loop = aio.NetworkLoop(Pair().network)
        task = loop.create_task(main())
        with pytest.raises(aio.Stalled):
            loop.run_until_complete(task)
        task.cancel()
        with pytest.raises(aio.Stalled):
            loop.run_until_complete(task)
        assert cancelled == [1]
        task._log_destroy_pending = False
        loop.close()
