"""One TCP flow over the same impaired link: ours in virtual time, and the Linux kernel in real time.

    python benchmarks/linux_goodput.py [--seeds 5] [--megabytes 12] [--congestion cubic] [--cases loss,far]

The kernel's two ends live in network namespaces of their own, each with a TAP device; between these tap_relay.py does
to frames what swos_net.testing does to ours, with the same seed.  Frames are of MTU size on both (no offloads).  Needs
root for the kernel's part.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))

from lab import namespaces  # noqa: E402
from processes import say  # noqa: E402
from report import CAPACITY, GOODPUT_FAR, GOODPUT_LOSS, OURS, Results  # noqa: E402
from swos_net.config import StackConfig, TcpConfig  # noqa: E402
from swos_net.testing.host import Stream  # noqa: E402
from swos_net.testing.impairment import Impairment  # noqa: E402
from swos_net.testing.network import Network  # noqa: E402

SENDER, RECEIVER = "10.0.0.1", "10.0.0.2"
PORT = 5001
FRAME, PAYLOAD = 1514, 1448  # bytes of a full frame, and of those the user's when there are timestamps
WARM_UP, MEASURED = 3.0, 1.0  # seconds of virtual time on the far link, whole round trips


@dataclass(frozen=True, slots=True)
class Route:
    """A link: its round trip in seconds, bits per second, and the share of frames lost in either direction."""

    round_trip: float
    bandwidth: float
    loss: float

    @property
    def product(self) -> int:
        """Bytes that are on the way when the link is full."""
        return int(self.round_trip * self.bandwidth / 8)

    @property
    def capacity(self) -> float:
        """The user's Mbit/s when nothing but full frames is on the link."""
        return self.bandwidth * PAYLOAD / FRAME / 1e6

    def impairment(self) -> Impairment:
        # a drop-tail queue of one bandwidth-delay product
        return Impairment(delay=self.round_trip / 2, bandwidth=self.bandwidth, queue_bytes=self.product, loss=self.loss)


LOSSY = Route(0.02, 100e6, 0.01)
FAR = Route(0.1, 1e9, 0.0)


def config(congestion: str, buffers: int) -> StackConfig:
    return StackConfig(tcp=TcpConfig(congestion=congestion, send_buffer=buffers, receive_buffer=buffers))


def ours(path: Route, seed: int, length: int, congestion: str) -> float:
    """Mbit/s of `length` bytes from connect() to the last one, in virtual time."""
    network = Network(seed)
    client, server = (network.add_host(name, [f"{address}/24"], config=config(congestion, 4 * path.product + (1 << 20)))
                      for name, address in (("sender", SENDER), ("receiver", RECEIVER)))  # fmt: skip
    network.link(client, server, **_conditions(path))
    acceptor = server.listen(PORT)
    began = network.now
    client.connect(RECEIVER, PORT).send(bytes(length)).close()
    network.run(lambda: acceptor.streams and len(acceptor.streams[0].received) == length)
    return length * 8 / (network.now - began) / 1e6


def ours_far(path: Route, seed: int, congestion: str) -> float:
    """Mbit/s of a flow that has had time to begin."""
    network = Network(seed)
    client, server = (network.add_host(name, [f"{address}/24"], config=config(congestion, 4 * path.product))
                      for name, address in (("sender", SENDER), ("receiver", RECEIVER)))  # fmt: skip
    network.link(client, server, **_conditions(path))
    acceptor = server.listen(PORT)
    stream = client.connect(RECEIVER, PORT).send(bytes(4 * path.product))
    before = begin = None
    while begin is None or network.now < begin + MEASURED:
        if begin is None and network.now >= WARM_UP:
            begin, before = network.now, _arrived(acceptor.streams[0])
        stream.send(bytes(path.product))
        network.run(network.now + path.round_trip)
        for accepted in acceptor.streams:
            accepted.received.clear()
    return (_arrived(acceptor.streams[0]) - before) * 8 / (network.now - begin) / 1e6


def _arrived(stream: Stream) -> int:
    """Octets that have come, those beyond a gap included: filling one brings no more than the link carried."""
    tcb = stream.endpoint.connection.tcb
    return tcb.rcv_nxt - tcb.irs + sum(end - start for start, end in tcb.out_of_order.ranges)


def _conditions(path: Route) -> dict:
    impairment = path.impairment()
    return {name: getattr(impairment, name) for name in ("delay", "bandwidth", "queue_bytes", "loss")}


# The kernel's programs; the clock is the machine's, the same in every namespace.
LINUX_RECEIVER = """
    import json, socket, time
    server = socket.create_server((host, port))
    print("ready", flush=True)
    sock, _address = server.accept()
    buffer, received = bytearray(1 << 18), 0
    while received < length and (count := sock.recv_into(buffer)):
        received += count
    print(json.dumps({"ended": time.monotonic(), "received": received}), flush=True)
"""
LINUX_SENDER = """
    import json, socket, time
    sock = socket.socket()
    # a privileged program may choose one that is not among those allowed to all
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
    chosen = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(bytes(1)).decode()
    began = time.monotonic()
    sock.connect((host, port))
    sock.sendall(bytes(length))
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1)
    print(json.dumps({"began": began, "congestion": chosen}), flush=True)
"""


def linux(path: Route, seed: int, length: int, congestion: str, limit: float) -> dict:
    """The same for the kernel: {"rate": Mbit/s, "congestion", "late": seconds on average, "lost": frames,
    "longest": bytes of a frame}."""
    from tap_relay import joined_namespaces

    with joined_namespaces((f"{SENDER}/24", f"{RECEIVER}/24"), path.impairment(), seed) as (first, second, relay):
        for namespace in (first, second):
            # what one run learned about the path is no help to the next one
            namespace.run("sysctl", "-q", "-w", "net.ipv4.tcp_no_metrics_save=1")
        values = {"host": RECEIVER, "port": PORT, "length": length, "congestion": congestion}
        receiver = _start(second, LINUX_RECEIVER, values)
        assert receiver.stdout.readline() == "ready\n"
        sender = _start(first, LINUX_SENDER, values)
        relay.run(lambda: sender.poll() is not None and receiver.poll() is not None, limit)
        sent, received = (json.loads(process.stdout.read()) for process in (sender, receiver))
        return {
            "rate": received["received"] * 8 / (received["ended"] - sent["began"]) / 1e6,
            "congestion": sent["congestion"],
            "late": relay.lateness / max(sum(wire.delivered for wire in relay.wires), 1),
            "lost": sum(wire.lost for wire in relay.wires),
            "longest": max(end.longest for end in relay.ends),
        }


def _start(namespace: namespaces.Namespace, program: str, values: dict) -> subprocess.Popen:
    given = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    return namespace.start(sys.executable, "-I", "-c", given + textwrap.dedent(program), stdout=subprocess.PIPE, text=True)


def linux_congestion(wanted: str) -> str:
    """`wanted` where this kernel has it, else the next best it has."""
    available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    return next((name for name in (wanted, "cubic", "reno", *available) if name in available), wanted)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=12.0, help="what a flow over the lossy link carries")
    parser.add_argument("--congestion", default="cubic", help="of both; where the kernel lacks it, one it has")
    parser.add_argument("--cases", default="loss,far", help="some of: loss, far")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for the rows")
    arguments = parser.parse_args()
    cases = arguments.cases.split(",")
    seeds = range(1, arguments.seeds + 1)
    length = int(arguments.megabytes * 1e6)
    results = Results()
    # simulations first: they take all of the processor, which the relay wants to find idle
    with concurrent.futures.ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        if "loss" in cases:
            for seed, rate in zip(seeds, pool.map(ours, *zip(*((LOSSY, seed, length, arguments.congestion) for seed in seeds)))):
                results.add(OURS, {GOODPUT_LOSS: rate})
                say(f"seed {seed}, ours, {arguments.congestion}: {rate:.2f} Mbit/s")
        if "far" in cases:
            rate = pool.submit(ours_far, FAR, 1, arguments.congestion).result()
            results.add(OURS, {GOODPUT_FAR: rate})
            results.add(CAPACITY, {GOODPUT_FAR: FAR.capacity})
            say(f"1 Gbit/s, 100 ms: ours, {arguments.congestion}: {rate:.0f} Mbit/s")
    if "loss" in cases:
        congestion = linux_congestion(arguments.congestion)
        if reason := namespaces.why_not():
            say(f"no comparison with the kernel: {reason}")
        else:
            if congestion != arguments.congestion:
                say(f"this kernel has no {arguments.congestion}: it runs {congestion}")
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                for seed in seeds:
                    found = pool.submit(linux, LOSSY, seed, length, congestion, 120.0).result()
                    results.add(f"linux-{found['congestion']}", {GOODPUT_LOSS: found["rate"]})
                    say(f"seed {seed}, linux, {found['congestion']}: {found['rate']:.2f} Mbit/s ({found['lost']} frames lost, longest "
                        f"{found['longest']}, delivered {found['late'] * 1000:.2f} ms late on average)")  # fmt: skip
    say(results.table())
    say(f"rows: {results.write(arguments.results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
