"""The peer's side of the comparison over TAP: pmd-pytcp in this process, with echo, discard and chargen servers.

    python -O benchmarks/pytcp_server.py TAP ADDRESS/PREFIX ECHO SINK SOURCE

Runs in an environment of its own that holds pmd-pytcp and none of our packages.  Prints "ready" once it listens.
"""

import asyncio
import sys

from pmd_net_addr import Ip4IfAddr
from pmd_pytcp import stack
from pmd_pytcp.socket import AddressFamily, SocketType, socket

BLOCK = bytes(1 << 17)


async def echo(connection) -> None:
    while data := await connection.recv():
        while data:
            data = data[await connection.send(data) :]


async def sink(connection) -> None:
    while await connection.recv(1 << 18):
        pass


async def source(connection) -> None:
    while True:
        # Its send() takes everything at once and never waits: without this the process would fill its memory.
        while len(connection.tcp_session._tx.buffer) > 2 * len(BLOCK):
            await asyncio.sleep(0.001)
        await connection.send(BLOCK)


async def serve_one(connection, service) -> None:
    try:
        await service(connection)
    except OSError:
        pass  # the client has gone
    finally:
        connection.close()


async def serve(port: int, service) -> None:
    listener = socket(AddressFamily.INET4, SocketType.STREAM)
    listener.bind(("0.0.0.0", port))  # its own address is claimed only seconds later
    listener.listen(backlog=128)
    running = set()
    while True:
        connection, _peer = await listener.accept()
        task = asyncio.ensure_future(serve_one(connection, service))
        running.add(task)
        task.add_done_callback(running.discard)


async def main() -> None:
    name, address = sys.argv[1:3]
    stack.init()
    device = stack.initialize_interface__tap(interface_name=name)
    stack.add_interface(**device, ip4_host=Ip4IfAddr(address), ip6_support=False)
    await stack.start()
    servers = [asyncio.ensure_future(serve(int(port), service))
               for port, service in zip(sys.argv[3:6], (echo, sink, source))]
    await asyncio.sleep(0)
    print("ready", flush=True)
    await asyncio.gather(*servers)


if __name__ == "__main__":
    asyncio.run(main())
