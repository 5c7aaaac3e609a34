"""Ways in: what `run` and its relatives open, whose authority they give, and what they close."""

import asyncio
import errno
import os
import socket
import sys
import threading

import pytest

from swos_net import asyncio as swos_asyncio
from swos_net.asyncio import LoopDriver, SwosEventLoop, event_loop_policy, loop_factory, new_event_loop
from swos_net.asyncio.entry import _run, run_with
from swos_net.capability import CapabilityError, active_capability
from swos_net.config import StackConfig, TcpConfig
from swos_net.device.pair import make_pair
from swos_net.runtime.open_stack import open_stack
from swos_net.runtime.threaded import ThreadedRunner


@pytest.fixture
def poller():
    device, other = make_pair()
    made = open_stack(device, addresses=["10.0.0.1/24"], name="mine")
    yield made
    device.close()
    other.close()


async def greet():
    """A server and its client, on one stack."""

    async def hello(reader, writer):
        writer.write(b"hello")
        writer.close()

    async with await asyncio.start_server(hello, "127.0.0.1", 7):
        reader, writer = await asyncio.open_connection("127.0.0.1", 7)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


def closed(loop):
    loop.close()
    return loop.is_closed()


class TestRun:
    def test_a_program_on_a_device(self):
        device, other = make_pair()
        assert swos_asyncio.run(greet(), device, addresses=["10.0.0.1/24"]) == b"hello"
        assert not other.link_up, "the stack was opened here, so it is closed here"
        other.close()

    def test_a_program_on_a_stack_of_ones_own(self, poller):
        for _ in range(2):
            assert swos_asyncio.run(greet(), poller) == b"hello"
            assert poller.stack.driver.serving
        poller.stack.driver.stop()

    def test_the_capability_is_active_inside_only(self, poller):
        async def main():
            return active_capability()

        assert swos_asyncio.run(main(), poller) is poller.stack.root
        assert active_capability() is None
        narrow = swos_asyncio.run(main(), poller, allow="tcp:connect:10.0.0.0/8:80")
        assert str(narrow) == "tcp:connect:10.0.0.0/8:80"
        poller.stack.driver.stop()

    def test_less_authority(self, poller):
        async def main():
            with pytest.raises(CapabilityError):
                await asyncio.start_server(print, "127.0.0.1", 7)

        swos_asyncio.run(main(), poller, allow="tcp:connect:10.0.0.0/8:80")
        poller.stack.driver.stop()

    def test_debug_mode(self, poller):
        async def main():
            return asyncio.get_running_loop().get_debug()

        assert swos_asyncio.run(main(), poller, debug=True) is True
        poller.stack.driver.stop()

    def test_what_fails_is_raised_and_everything_is_closed(self):
        async def main():
            loops.append(asyncio.get_running_loop())
            tasks.append(asyncio.ensure_future(asyncio.sleep(1000)))
            raise KeyError("mistake")

        loops, tasks = [], []
        device, other = make_pair()
        with pytest.raises(KeyError, match="mistake"):
            swos_asyncio.run(main(), device)
        assert tasks[0].cancelled() and loops[0].is_closed() and not other.link_up
        other.close()

    def test_a_device_that_cannot_be_opened(self):
        program = greet()
        with pytest.raises(ValueError):
            swos_asyncio.run(program, "no-such-kind:x")
        assert program.cr_frame is None, "closed, or it would warn that nobody awaited it"

    def test_something_else_than_a_coroutine(self, poller):
        with pytest.raises(ValueError, match="a coroutine was expected"):
            swos_asyncio.run(greet, poller)

    def test_not_inside_a_loop(self, poller):
        async def main():
            program = greet()
            with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
                swos_asyncio.run(program, poller)
            return program.cr_frame

        assert asyncio.run(main()) is None
        assert poller.stack.driver is None, "nothing has been begun"

    def test_data_of_closed_connections_is_delivered_before_the_device_is_closed(self):
        devices = make_pair()
        addresses = ["10.0.0.1/24"], ["10.0.0.2/24"]
        ours, theirs = (open_stack(device, addresses=given) for device, given in zip(devices, addresses))
        theirs_driver = LoopDriver.of(theirs)

        with theirs.stack.root.activate():
            listener = socket.create_server(("10.0.0.2", 80))

        async def main():
            asyncio.get_running_loop().serve(theirs.stack)
            reader, writer = await asyncio.open_connection("10.0.0.2", 80)
            writer.write(bytes(50_000))
            writer.close()
            await writer.wait_closed()

        swos_asyncio.run(main(), ours)
        with listener:
            sock, _ = listener.accept()
        with sock:
            left = 50_000
            while left and (data := sock.recv(65536)):
                left -= len(data)
            assert left == 0
        ours.stack.driver.stop()
        theirs_driver.stop()


    def test_closing_waits_for_a_peer_that_is_slow(self, threads, monkeypatch):
        """Its window is full when the program ends, and opens when the loop is being closed."""
        devices = make_pair()
        config = StackConfig(tcp=TcpConfig(send_buffer=65536, receive_buffer=65536))
        ended, taken = threading.Event(), []

        def read(listener):
            sock, _ = listener.accept()
            with listener, sock:
                ended.wait(10)
                while data := sock.recv(65536):
                    taken.append(len(data))

        async def main():
            reader, writer = await asyncio.open_connection("10.0.0.2", 80)
            writer.write(bytes(100_000))
            writer.close()
            await writer.wait_closed()
            assert asyncio.get_running_loop().drivers[0].delivering

        close = SwosEventLoop.close
        monkeypatch.setattr(SwosEventLoop, "close", lambda self: (ended.set(), close(self)))

        with ThreadedRunner(open_stack(devices[1], addresses=["10.0.0.2/24"], config=config)) as runner:
            with runner.stack.root.activate():
                listener = socket.create_server(("10.0.0.2", 80))
            thread = threads(read, listener)
            swos_asyncio.run(main(), devices[0], addresses=["10.0.0.1/24"], config=config)
            thread.join(10)
        assert sum(taken) == 100_000


class TestWithoutRunner:
    """What Python 3.10 gets."""

    def test_it_gives_the_result_and_closes(self, poller):
        async def main():
            tasks.append(asyncio.ensure_future(asyncio.sleep(1000)))
            await asyncio.to_thread(int)
            await asyncio.sleep(0)
            return await greet(), asyncio.get_running_loop().get_debug()

        tasks = []
        loop = new_event_loop(poller)
        with loop.capability.activate():
            assert _run(main(), loop, True) == (b"hello", True)
        assert tasks[0].cancelled() and loop.is_closed()
        poller.stack.driver.stop()


class TestLoops:
    def test_of_the_capability_that_is_active(self, poller):
        LoopDriver.of(poller)
        with poller.stack.root.activate():
            loop = new_event_loop()
        assert loop.capability is poller.stack.root and [driver.stack for driver in loop.drivers] == [poller.stack]
        assert closed(loop) and poller.stack.driver.serving
        poller.stack.driver.stop()

    def test_of_one_that_is_given(self, poller):
        narrow = poller.stack.root.attenuate("tcp:connect:10.0.0.0/8:80")
        LoopDriver.of(poller)
        loop = new_event_loop(capability=narrow)
        assert loop.capability is narrow and closed(loop)
        poller.stack.driver.stop()

    def test_without_any(self):
        with pytest.raises(CapabilityError):
            new_event_loop()

    def test_options_belong_to_a_device(self):
        with pytest.raises(TypeError, match="addresses belong to a device"):
            new_event_loop(addresses=["10.0.0.1/24"])

    def test_authority_that_is_not_there(self, poller):
        """The device that was opened for it is closed again."""
        device, other = make_pair()
        with pytest.raises(ValueError):
            new_event_loop(device, addresses=["10.0.0.1/24"], allow="nonsense")
        assert not other.link_up
        other.close()
        with pytest.raises(ValueError):
            new_event_loop(poller, allow="nonsense")
        assert poller.stack.driver.serving, "that is its owner's"
        poller.stack.driver.stop()

    def test_a_factory(self):
        devices = []

        async def main():
            return type(asyncio.get_running_loop()), await greet()

        def device():
            devices.extend(make_pair())
            return devices[0]

        factory = loop_factory(device(), addresses=["10.0.0.1/24"])
        assert not devices[0]._queue, "nothing is opened yet"
        assert run_with(factory, main()) == (SwosEventLoop, b"hello")
        assert not devices[1].link_up
        devices[1].close()

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")
    def test_a_runner(self, poller):
        LoopDriver.of(poller)
        with poller.stack.root.activate(), asyncio.Runner(loop_factory=new_event_loop) as runner:
            assert runner.run(greet()) == b"hello"
            assert runner.run(greet()) == b"hello"
        poller.stack.driver.stop()

    def test_a_loop_that_opened_its_stack_is_of_no_use_afterwards(self):
        device, other = make_pair()
        loop = new_event_loop(device)
        root = loop.capability
        loop.close()
        with pytest.raises(OSError) as caught:
            new_event_loop(capability=root)
        assert caught.value.errno == errno.ENETDOWN
        other.close()


class TestPolicy:
    @pytest.fixture
    def policy(self):
        before = asyncio.get_event_loop_policy()
        yield asyncio.set_event_loop_policy
        asyncio.set_event_loop_policy(before)

    def test_programs_that_know_nothing_of_it(self, poller, policy):
        async def main():
            return type(asyncio.get_running_loop()), await greet()

        LoopDriver.of(poller)
        policy(event_loop_policy())
        with poller.stack.root.activate():
            assert asyncio.run(main()) == (SwosEventLoop, b"hello")
            loop = asyncio.new_event_loop()
        assert isinstance(loop, SwosEventLoop) and closed(loop)
        poller.stack.driver.stop()

    def test_with_a_factory_of_ones_own(self, poller, policy):
        async def main():
            return asyncio.get_running_loop().capability

        narrow = poller.stack.root.attenuate("tcp:connect:10.0.0.0/8:80")
        LoopDriver.of(poller)
        policy(event_loop_policy(lambda: new_event_loop(capability=narrow)))
        assert asyncio.run(main()) is narrow
        poller.stack.driver.stop()

    def test_it_is_a_policy_as_any(self):
        assert isinstance(event_loop_policy(), type(asyncio.get_event_loop_policy()))


def test_nothing_is_left_open():
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        device, other = make_pair()
        assert swos_asyncio.run(greet(), device, addresses=["10.0.0.1/24"]) == b"hello"
        other.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
