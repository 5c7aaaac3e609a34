"""The two hosts of sync_hosts.py on one event loop, for the examples of asyncio libraries: asyncio_*.py."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, BinaryIO, TypeVar

from sync_hosts import open_hosts

import swos_net.asyncio
from swos_net import Capability

T = TypeVar("T")


def run(main: Callable[[Capability, Capability], Coroutine[Any, Any, T]], capture: str | BinaryIO | None = None) -> T:
    """What `main(client, server)` gives.  It is called with all authority over each host.

    The loop itself has none: what uses the network does so inside `with capability.activate():`, and so do the tasks
    that are made there.  `capture` is a file for what crosses the link, in the pcapng format.
    """
    client, server = map(swos_net.asyncio.LoopDriver, open_hosts(capture))

    async def on_both() -> T:
        asyncio.get_running_loop().serve(server.stack)
        return await main(client.stack.root, server.stack.root)

    try:
        return swos_net.asyncio.run(on_both(), client.poller, allow="")
    finally:
        client.stop()
        server.stop()
