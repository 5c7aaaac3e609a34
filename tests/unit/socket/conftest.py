"""Two stacks in one process, each served by its thread, joined by a link in memory."""

import pytest

from swos_net.config import StackConfig, TcpConfig
from swos_net.device.pair import make_pair
from swos_net.runtime.open_stack import open_stack
from swos_net.runtime.threaded import ThreadedRunner

CLIENT, SERVER = ("10.0.0.1", "2001:db8::1"), ("10.0.0.2", "2001:db8::2")


class Wired:
    """`client` and `server` are runners, `root` and `server_root` all their authority."""

    client_address, server_address = CLIENT, SERVER

    def __init__(self, config):
        devices = make_pair()
        self.client, self.server = (
            ThreadedRunner(open_stack(device, addresses=[f"{four}/24", f"{six}/64"], config=config, name=name))
            for device, (four, six), name in zip(devices, (CLIENT, SERVER), ("client", "server"))
        )
        self.root, self.server_root = self.client.stack.root, self.server.stack.root
        self.client.start()
        self.server.start()

    def stop(self):
        self.client.stop()
        self.server.stop()


@pytest.fixture
def wired():
    config = StackConfig(tcp=TcpConfig(send_buffer=65536, receive_buffer=65536, syn_retries=1, rto_initial=0.1))
    wires = Wired(config)
    yield wires
    wires.stop()
