"""Our side of every benchmark: a process with one stack on one device that serves iperf3, echo, discard and chargen.

    python benchmarks/serve.py --device vhost-user:vm.sock --address 10.0.2.2/24 [--profile FILE]

Prints "ready" once it listens and ends on SIGTERM.  `--profile` writes a cProfile of the time in between.
"""

import argparse
import asyncio
import cProfile
import signal
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import iperf3_server  # noqa: E402

import swos_net.asyncio  # noqa: E402

IPERF3, ECHO, SINK, SOURCE = 5201, 7, 9, 19


class Echo(asyncio.Protocol):
    """Gives back what it gets (RFC 862)."""

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        self._transport.write(data)


class Sink(asyncio.BufferedProtocol):
    """Takes everything (RFC 863)."""

    def __init__(self):
        self._buffer = memoryview(bytearray(1 << 18))

    def get_buffer(self, sizehint):
        return self._buffer

    def buffer_updated(self, count):
        pass


class Source(asyncio.Protocol):
    """Sends for as long as the other end takes it (RFC 864)."""

    payload = bytes(1 << 19)

    def connection_made(self, transport):
        self._transport = transport
        self._open = True
        self.resume_writing()

    def pause_writing(self):
        self._open = False

    def resume_writing(self):
        self._open = True
        while self._open:
            self._transport.write(self.payload)

    def connection_lost(self, error):
        self._open = False


async def run() -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    servers = [await iperf3_server.serve(IPERF3)]
    for protocol, port in ((Echo, ECHO), (Sink, SINK), (Source, SOURCE)):
        servers.append(await loop.create_server(protocol, None, port))
    print("ready", flush=True)
    await stop.wait()
    for server in servers:
        server.close()
    for driver in loop.drivers:
        for port in driver.poller.ports:
            print(port.device.counters(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", required=True, help="vhost-user:PATH, tap:NAME ...")
    parser.add_argument("--address", action="append", default=[], help="address and prefix length, repeatable")
    parser.add_argument("--profile", default="", help="where a cProfile goes")
    arguments = parser.parse_args()
    call = partial(swos_net.asyncio.run, run(), arguments.device, addresses=arguments.address)
    if not arguments.profile:
        call()
        return
    profile = cProfile.Profile()
    try:
        profile.runcall(call)
    finally:
        profile.dump_stats(arguments.profile)


if __name__ == "__main__":
    main()
