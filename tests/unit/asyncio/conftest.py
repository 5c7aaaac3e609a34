"""Two stacks in one loop, joined by a link in memory: with runners in any loop, and in a loop of ours."""

import asyncio
import contextlib

import pytest

from swos_net.asyncio import LoopDriver, StackRunner, SwosEventLoop
from swos_net.config import StackConfig, TcpConfig
from swos_net.device.pair import make_pair
from swos_net.runtime.open_stack import open_stack

PATIENCE = 10.0


class Recorder(asyncio.Protocol):
    """Writes down what happens to it; `lost` is done when the connection is."""

    def __init__(self, keep_open=False):
        self.events = []
        self.data = bytearray()
        self.lost = asyncio.get_running_loop().create_future()
        self.changed = asyncio.Event()
        self.keep_open = keep_open
        self.transport = None

    def happened(self, *event):
        self.events.append(event)
        self.changed.set()

    def connection_made(self, transport):
        self.transport = transport
        self.happened("made")

    def data_received(self, data):
        self.data += data
        self.changed.set()

    def eof_received(self):
        self.happened("eof")
        return self.keep_open

    def pause_writing(self):
        self.happened("pause")

    def resume_writing(self):
        self.happened("resume")

    def connection_lost(self, error):
        self.happened("lost", error)
        self.lost.set_result(error)

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE) if hasattr(asyncio, "timeout") else contextlib.AsyncExitStack():
            while not condition():
                self.changed.clear()
                await asyncio.wait_for(self.changed.wait(), PATIENCE)


class Net:
    address = "10.0.0.2"
    address6 = "2001:db8::2"

    def __init__(self, client, server):
        self.client, self.server = client, server
        self.root, self.server_root = client.stack.root, server.stack.root

    async def connected(self, client_factory=Recorder, server_factory=Recorder, port=80):
        """(client's protocol, server's protocol) of a new connection."""
        made = []

        def factory():
            made.append(server_factory())
            return made[0]

        server = await self.server.create_server(factory, self.address, port, capability=self.server_root)
        _, client = await self.client.create_connection(client_factory, self.address, port, capability=self.root)
        while not made or getattr(made[0], "transport", True) is None:
            await asyncio.sleep(0)
        server.close()
        return client, made[0]


def two_pollers(now=None):
    devices = make_pair()
    config = StackConfig(tcp=TcpConfig(send_buffer=65536, receive_buffer=65536, rto_initial=0.1, syn_retries=1))
    addresses = (["10.0.0.1/24", "2001:db8::1/64"], ["10.0.0.2/24", "2001:db8::2/64"])
    return [open_stack(device, addresses=given, config=config, now=now, name=name)
            for device, given, name in zip(devices, addresses, ("client", "server"))]  # fmt: skip


@pytest.fixture
async def net():
    pollers = two_pollers(asyncio.get_running_loop().time())
    async with StackRunner(pollers[0]) as client, StackRunner(pollers[1]) as server:
        yield Net(client, server)


class World:
    """A loop of ours on two stacks; the client's capability is active in what it runs."""

    address, address6 = "10.0.0.2", "2001:db8::2"
    client_address = "10.0.0.1"

    def __init__(self):
        self.pollers = two_pollers()
        self.client_driver, self.server_driver = map(LoopDriver.of, self.pollers)
        self.client, self.server = (poller.stack for poller in self.pollers)
        self.loop = self.new_loop()
        self.reported = []
        self.loop.set_exception_handler(lambda loop, context: self.reported.append(context))

    def new_loop(self):
        loop = SwosEventLoop(self.client.root)
        loop.serve(self.server)
        return loop

    def run(self, program):
        with self.client.root.activate():
            return self.loop.run_until_complete(asyncio.wait_for(program, PATIENCE))

    def on_server(self):
        """For a `with` block: sockets are the server's."""
        return self.server.root.activate()

    async def create_server(self, factory, port=80, host=None, **options):
        with self.on_server():
            return await self.loop.create_server(factory, host or self.address, port, **options)

    async def connected(self, client_factory=Recorder, server_factory=Recorder, port=80, **options):
        """(client's protocol, server's protocol) of a new connection."""
        made = self.loop.create_future()

        class Factory:
            def __call__(self):
                protocol = server_factory()
                connection_made = protocol.connection_made

                def tell(transport):
                    connection_made(transport)
                    made.set_result(protocol)

                protocol.connection_made = tell
                return protocol

        server = await self.create_server(Factory(), port)
        _, client = await self.loop.create_connection(client_factory, self.address, port, **options)
        accepted = await made
        server.close()
        return client, accepted

    def stop(self):
        self.loop.close()
        for driver in (self.client_driver, self.server_driver):
            driver.stop()
        assert not self.reported, self.reported


@pytest.fixture
def world():
    made = World()
    yield made
    made.stop()


@pytest.fixture
def recorder():
    return Recorder


@pytest.fixture
def path(tmp_path):
    """A file of 512,000 bytes."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 2000)
    return path
