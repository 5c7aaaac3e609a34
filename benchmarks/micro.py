"""What the stack itself costs, without a guest: two stacks in one process, joined in memory, each timed for itself.

    python benchmarks/micro.py [--seconds 1]

Prints processor time per frame, per gigabyte, per exchange and per connection of the side that serves, and what the C
part alone takes.  Numbers depend on the machine: compare two runs of one machine, interleaved.
"""

import argparse
import time
from collections.abc import Callable

from swos_net import clock
from swos_net.dataplane.burst import Burst
from swos_net.dataplane.byte_ring import ByteRing
from swos_net.device.pair import make_pair
from swos_net.link import Medium
from swos_net.runtime.open_stack import open_stack
from swos_net.runtime.poll import Poller
from swos_net.stack.endpoint import Ready

SERVER, CLIENT, PORT = "10.0.2.2", "10.0.2.15", 7000
BLOCK = bytes(1 << 17)


class Side:
    """One of the two stacks, and the processor time its polls and calls have taken."""

    def __init__(self, poller: Poller):
        self.poller = poller
        self.stack = poller.stack
        self.seconds = 0.0
        self.work: list[Callable[[float], None]] = []

    def step(self) -> None:
        begin = time.thread_time()
        now = clock.monotonic()
        self.poller.poll(now)
        for work in self.work:
            work(now)
        self.poller.flush(now)
        self.seconds += time.thread_time() - begin

    @property
    def counters(self):
        return self.poller.ports[0].interface.counters


class Pair:
    """Two stacks with a connection between them."""

    def __init__(self):
        ours, theirs = make_pair()
        self.server = Side(open_stack(ours, addresses=[f"{SERVER}/24"], dhcp_server=False))
        self.client = Side(open_stack(theirs, addresses=[f"{CLIENT}/24"], dhcp_server=False))
        self.listener = self.server.stack.tcp_listen(self.server.stack.root, address(SERVER), PORT, 128)

    def connect(self):
        """(our endpoint, the client's), established."""
        client = self.client.stack.tcp_connect(self.client.stack.root, address(SERVER), PORT, clock.monotonic())
        while (server := self.listener.accept()) is None or not client.ready() & Ready.WRITABLE:
            self.step()
        return server, client

    def step(self) -> None:
        self.client.step()
        self.server.step()

    def run(self, seconds: float, done: Callable[[], int]) -> tuple[float, int, int]:
        """Step for `seconds`: (processor time of the server's side, what `done` counted, its frames both ways)."""
        self.server.seconds = 0.0
        before, count = sum(self.frames()), done()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.step()
        return self.server.seconds, done() - count, sum(self.frames()) - before

    def frames(self) -> tuple[int, int]:
        """(received, sent) by the server's side."""
        device = self.client.poller.ports[0].device.counters(), self.server.poller.ports[0].device.counters()
        return device[0]["frames_sent"], device[1]["frames_sent"]


def address(text: str) -> bytes:
    from swos_net.address import parse_address

    return parse_address(text)


def sender(endpoint) -> Callable[[float], None]:
    def work(now: float) -> None:
        if endpoint.connection.send_room >= len(BLOCK):
            endpoint.send(BLOCK, now)

    return work


class Reader:
    """Takes everything an endpoint has; `bytes` counts it."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.buffer = memoryview(bytearray(1 << 18))
        self.bytes = 0

    def __call__(self, now: float) -> None:
        while self.endpoint.connection.readable:
            self.bytes += self.endpoint.receive_into(self.buffer, now)


def bulk(seconds: float, receiving: bool) -> None:
    pair = Pair()
    server, client = pair.connect()
    source, target = (client, server) if receiving else (server, client)
    reader = Reader(target)
    (pair.client if receiving else pair.server).work.append(sender(source))
    (pair.server if receiving else pair.client).work.append(reader)
    cpu, size, frames = pair.run(seconds, lambda: reader.bytes)
    show("receive, bulk" if receiving else "send, bulk", f"{cpu / size * 1e9:.3f} s/GB, "
         f"{cpu / frames * 1e6:.1f} us per frame of either direction, {size / frames:,.0f} bytes per frame")


def echo(seconds: float) -> None:
    pair = Pair()
    server, client = pair.connect()
    served = 0

    def answer(now: float) -> None:
        nonlocal served
        while server.connection.readable:
            server.send(server.receive(65536, now), now)
            served += 1

    def ask(now: float) -> None:
        if client.connection.readable:
            client.receive(65536, now)
            client.send(b"x", now)

    pair.server.work.append(answer)
    pair.client.work.append(ask)
    client.send(b"x", clock.monotonic())
    cpu, count, _frames = pair.run(seconds, lambda: served)
    show("echo of one byte", f"{cpu / count * 1e6:.1f} us per exchange")


def connections(seconds: float) -> None:
    pair = Pair()
    pair.server.seconds, count = 0.0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        server, client = pair.connect()
        # our side closes last, as a server whose client hangs up
        client.close(clock.monotonic())
        while not server.connection.at_end:
            pair.step()
        server.close(clock.monotonic())
        pair.step()
        count += 1
    show("connect and close", f"{pair.server.seconds / count * 1e6:.1f} us per connection")


def data_plane(seconds: float) -> None:
    """The C functions that every bulk byte passes, on the largest frame."""
    import struct

    payload = 65160
    ip = struct.pack("!BBHHHBBH4B4B", 0x45, 0, 40 + payload, 0, 0x4000, 64, 6, 0, 10, 0, 2, 15, 10, 0, 2, 2)
    total = sum(struct.unpack("!10H", ip))
    ip = ip[:10] + struct.pack("!H", ~(total % 0xFFFF) & 0xFFFF) + ip[12:]
    tcp = struct.pack("!HHIIBBHHH", 1, 2, 0, 0, 0x50, 0x10, 65535, 0, 0)
    frame = bytes(12) + b"\x08\x00" + ip + tcp + bytes(payload)
    burst, ring, buffer = Burst(), ByteRing(1 << 20), memoryview(bytearray(1 << 18))

    def decode() -> None:
        burst.clear()
        burst.add(frame, Medium.ETHERNET, checksum=2)

    def ring_through() -> None:
        ring.write(BLOCK)
        ring.read_into(buffer)

    for label, call, size in (("decode a frame, with the copy", decode, len(frame)),
                              ("byte ring in and out", ring_through, len(BLOCK))):
        count, begin = 0, time.thread_time()
        while (taken := time.thread_time() - begin) < seconds / 2:
            for _ in range(100):
                call()
            count += 100
        show(label, f"{taken / count * 1e6:.1f} us per {size:,} bytes, {taken / count / size * 1e9:.3f} s/GB")


def show(label: str, text: str) -> None:
    print(f"{label:32s} {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each measurement")
    seconds = parser.parse_args().seconds
    bulk(seconds, receiving=True)
    bulk(seconds, receiving=False)
    echo(seconds)
    connections(seconds)
    data_plane(seconds)


if __name__ == "__main__":
    main()
