"""Two stacks in one loop, joined by a link in memory."""

import asyncio
import contextlib

import pytest

from swos_net.asyncio import StackRunner
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


@pytest.fixture
async def net():
    devices = make_pair()
    config = StackConfig(tcp=TcpConfig(send_buffer=65536, receive_buffer=65536, rto_initial=0.1, syn_retries=1))
    addresses = (["10.0.0.1/24", "2001:db8::1/64"], ["10.0.0.2/24", "2001:db8::2/64"])
    pollers = [open_stack(device, addresses=given, config=config, now=asyncio.get_running_loop().time())
               for device, given in zip(devices, addresses)]  # fmt: skip
    async with StackRunner(pollers[0]) as client, StackRunner(pollers[1]) as server:
        yield Net(client, server)


@pytest.fixture
def recorder():
    return Recorder
