"""asyncio on a stack: an event loop for programs that know nothing of it, a runner for those that bring their own loop.

Read first: entry.py.
"""

from swos_net.asyncio.datagram_transport import DatagramTransport
from swos_net.asyncio.driver import LoopDriver
from swos_net.asyncio.entry import event_loop_policy, loop_factory, new_event_loop, run
from swos_net.asyncio.loop import SwosEventLoop
from swos_net.asyncio.runner import StackRunner
from swos_net.asyncio.server import Server
from swos_net.asyncio.stream_transport import StreamTransport

__all__ = [
    "DatagramTransport", "LoopDriver", "Server", "StackRunner", "StreamTransport", "SwosEventLoop", "event_loop_policy",
    "loop_factory", "new_event_loop", "run",
]  # fmt: skip
