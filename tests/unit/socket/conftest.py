"""Two stacks in one process, each served by its thread, joined by a link in memory; and one that talks to itself, beside
the kernel that it should not be told apart from."""

import ctypes
import fcntl
import random
import select
import socket
import struct

import pytest

from swos_net.config import StackConfig, TcpConfig
from swos_net.device.pair import make_pair
from swos_net.runtime.open_stack import open_stack
from swos_net.runtime.poll import Poller
from swos_net.runtime.threaded import ThreadedRunner
from swos_net.socket.core import SocketCore
from swos_net.stack.stack import Stack

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


# how many arguments come before flags, for calls that end with them
FLAGS_AT = {"send": 1, "receive": 1, "receive_from": 1, "receive_into": 2, "receive_message": 2}


class _Handle:
    """A `SocketCore` with the world's time."""

    def __init__(self, world, core):
        self._world = world
        self.core = core

    def __getattr__(self, name):
        call = getattr(self.core, name)
        if name in ("getsockname", "getpeername", "poll", "watch", "unwatch"):
            return call
        world = self._world
        wanted = FLAGS_AT.get(name)

        def timed(*arguments):
            if len(arguments) == wanted:
                arguments += (0,)  # flags
            try:
                return call(*arguments, world.now)
            finally:
                world.poller.flush(world.now)

        return timed

    def accept(self):
        core, address = self.core.accept(self._world.now)
        return _Handle(self._world, core), address

    def set(self, level, option, value):
        self.core.setsockopt(level, option, value, None, self._world.now)
        self._world.poller.flush(self._world.now)

    def get(self, level, option, length=0):
        return self.core.getsockopt(level, option, length, self._world.now)


class StackWorld:
    """Sockets of one stack that talk to each other over its loopback, in virtual time."""

    def __init__(self, config=None):
        self.now = 1.0
        self.stack = Stack(config, random=random.Random(1))
        self.poller = Poller(self.stack)

    def socket(self, family=socket.AF_INET, type=socket.SOCK_STREAM, proto=0, capability=None):
        return _Handle(self, SocketCore(self.stack, capability or self.stack.root, family, type, proto))

    def settle(self, seconds=0.0):
        self.now += seconds
        while self.poller.poll(self.now):
            pass

    def close(self):
        pass


class _KernelHandle:
    """The same calls on a socket of the kernel."""

    def __init__(self, world, made):
        made.setblocking(False)
        world.made.append(made)
        self._world = world
        self.made = made

    def bind(self, address):
        self.made.bind(address)

    def listen(self, backlog):
        self.made.listen(backlog)

    def connect(self, address):
        if address is None:
            result = ctypes.CDLL(None, use_errno=True).connect(self.made.fileno(), bytes(16), 16)
            if result:
                raise OSError(ctypes.get_errno(), "connect")
            return
        self.made.connect(address)

    def accept(self):
        made, address = self.made.accept()
        return _KernelHandle(self._world, made), address

    def send(self, data, flags=0):
        return self.made.send(data, flags)

    def send_to(self, data, flags, address):
        return self.made.sendto(data, flags, address) if address is not None else self.made.send(data, flags)

    def send_message(self, buffers, ancillary, flags, address):
        return self.made.sendmsg(buffers, ancillary, flags, address) if address else self.made.sendmsg(buffers, ancillary, flags)

    def receive(self, length, flags=0):
        return self.made.recv(length, flags)

    def receive_into(self, buffer, length, flags=0):
        return self.made.recv_into(buffer, length, flags)

    def receive_from(self, length, flags=0):
        return self.made.recvfrom(length, flags)

    def receive_message(self, length, ancillary_length, flags=0):
        return self.made.recvmsg(length, ancillary_length, flags)

    def shutdown(self, how):
        self.made.shutdown(how)

    def close(self):
        self.made.close()

    def getsockname(self):
        return self.made.getsockname()

    def getpeername(self):
        return self.made.getpeername()

    def poll(self):
        poll = select.poll()
        poll.register(self.made, 0x7FFF)
        return dict(poll.poll(0)).get(self.made.fileno(), 0)

    def ioctl(self, request, argument):
        return struct.unpack("=i", fcntl.ioctl(self.made, request, bytes(4)))[0]

    def set(self, level, option, value):
        self.made.setsockopt(level, option, value)

    def get(self, level, option, length=0):
        return self.made.getsockopt(level, option, length) if length else self.made.getsockopt(level, option)


class KernelWorld:
    """The kernel's own sockets on its loopback: what the expectations of these tests are true of."""

    def __init__(self):
        self.made = []

    def socket(self, family=socket.AF_INET, type=socket.SOCK_STREAM, proto=0):
        try:
            made = socket.socket(family, type, proto)
        except PermissionError as error:
            pytest.skip(f"the kernel refuses it here: {error}")
        return _KernelHandle(self, made)

    def settle(self, seconds=0.0):
        pass

    def close(self):
        for made in self.made:
            made.close()


@pytest.fixture(params=["stack", pytest.param("kernel", marks=pytest.mark.kernel_sockets)])
def world(request):
    """The same test on a stack and on the kernel, so that what is expected is what Linux does."""
    made = StackWorld() if request.param == "stack" else KernelWorld()
    yield made
    made.close()


@pytest.fixture
def stack_world():
    return StackWorld


@pytest.fixture
def code():
    """`code(call, *arguments)` is the errno that a call raises, 0 when it returns."""

    def of(call, *arguments):
        try:
            call(*arguments)
        except OSError as error:
            return error.errno
        return 0

    return of


@pytest.fixture
def streams():
    """`streams(world, family)`: (listening socket, client, server, peer address as accept() said)."""

    def make(world, family=socket.AF_INET):
        listener, client = world.socket(family), world.socket(family)
        listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        listener.listen(5)
        try:
            client.connect(listener.getsockname())
        except BlockingIOError:
            pass
        server, address = listener.accept()
        client.connect(listener.getsockname())
        return listener, client, server, address

    return make
