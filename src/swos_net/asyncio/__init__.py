"""Serving a stack inside an asyncio loop: the loop itself waits for the device; no thread, no lock."""

from swos_net.asyncio.runner import StackRunner
from swos_net.asyncio.server import Server
from swos_net.asyncio.transports import DatagramTransport, StreamTransport

__all__ = ["DatagramTransport", "Server", "StackRunner", "StreamTransport"]
