"""What an idle connection costs: memory of both its ends, and the CPU time to set it up and accept it.

    python benchmarks/idle_connections.py [--connections 10000]

Client and server live in one process and talk over the stack's loopback interface, so every connection counts two
endpoints and two sockets.  Each connection carries a request and an answer before it idles.
"""

import argparse
import gc
import socket
import time

from swos_net.runtime.poll import Poller
from swos_net.socket.core import SocketCore
from swos_net.stack.stack import Stack

PAGE = 4096


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE


def measure(count: int, talk: bool) -> None:
    stack = Stack()
    poller = Poller(stack)
    clock = time.monotonic
    listener = SocketCore(stack, stack.root, socket.AF_INET, socket.SOCK_STREAM)
    # several addresses, since one pair of addresses has no more than 16384 ephemeral ports
    listener.bind(("", 80), clock())
    listener.listen(4096, clock())
    kept = []
    gc.collect()
    before, started = resident(), time.process_time()
    accepting = 0.0
    for number in range(count):
        client = SocketCore(stack, stack.root, socket.AF_INET, socket.SOCK_STREAM)
        try:
            client.connect((f"127.0.0.{1 + number % 8}", 80), clock())
        except BlockingIOError:
            pass
        poller.flush(clock())
        entered = time.process_time()
        server, _ = listener.accept(clock())
        accepting += time.process_time() - entered
        if talk:
            client.send(b"GET", 0, clock())
            poller.flush(clock())
            server.send(server.receive(10, 0, clock()), 0, clock())
            poller.flush(clock())
            client.receive(10, 0, clock())
        kept.append((client, server))
    spent = time.process_time() - started
    later = clock() + 10.0  # delayed acknowledgments go out, empty queues give their memory back
    while (deadline := poller.next_deadline()) is not None and deadline <= later:
        poller.poll(deadline)
    gc.collect()
    each = (resident() - before) / count
    print(f"{'after a request' if talk else 'never used':16} {each / 1024:6.1f} KiB a connection, {each / 2048:6.1f} KiB an end; "
          f"{spent:5.2f} s CPU for {count}, {accepting:4.2f} s of it in accept(); {len(stack.deadlines)} deadlines")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--connections", type=int, default=10000)
    arguments = parser.parse_args()
    for talk in (False, True):
        measure(arguments.connections, talk)
