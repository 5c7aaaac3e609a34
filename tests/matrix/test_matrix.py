"""TCP under every kind of bad line, in virtual time: what arrives is right, and goodput.txt says how fast.

Every run is repeatable to the last frame, so the table is compared exactly, and a change to TCP shows its whole effect in
the diff of goodput.txt:

    python -m pytest tests/matrix --update-snapshot

Read first: swos_net/testing/network.py.  Cases are chosen below by what is varied; all others stay as in `Case`.
"""

import hashlib
import random
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import pytest

from swos_net.config import StackConfig, TcpConfig
from swos_net.testing.checkers import Checksums, NoNeedlessRetransmission, PeerWindow, SegmentCounts, SoundStream
from swos_net.testing.impairment import CoDel, GilbertElliott
from swos_net.testing.network import Network
from swos_net.tcp.congestion import CONTROLLERS

SNAPSHOT = Path(__file__).with_name("goodput.txt")
KIB, MIB = 1 << 10, 1 << 20
ADDRESS = {4: "10.0.0.2", 6: "2001:db8::2"}


@dataclass(frozen=True)
class Case:
    """One transfer of `size` bytes, shared by `flows` connections, from a client to a server.

    `rtt` in seconds; `link` are conditions of both directions, `there` and `back` those of one.
    """

    title: str
    name: str
    size: int = 512 * KIB
    flows: int = 1
    family: int = 4
    rtt: float = 0.02
    mtu: int = 1500
    link: dict = field(default_factory=dict)
    there: dict = field(default_factory=dict)
    back: dict = field(default_factory=dict)
    tcp: dict = field(default_factory=dict)
    both_ways: bool = False
    lost_segments: tuple[tuple[int, int], ...] = ()  # (segment, how often)
    path_mtu: int | None = None
    silent: bool = False
    limit: float = 900.0
    seed: int = 1


def percent(share):
    return f"{share * 100:g}%"


def ms(seconds):
    return f"{seconds * 1000:g} ms"


def cases():
    """All of them, in the order of the table."""
    fast = dict(bandwidth=100e6)
    slow = dict(bandwidth=10e6)

    title = "Loss and round trip: 100 Mbit/s"
    for loss, rtt, family in product((0, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3), (0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.5), (4, 6)):
        size = 512 * KIB if loss < 0.05 else 256 * KIB if loss < 0.2 else 96 * KIB
        yield Case(title, f"loss {percent(loss)}, rtt {ms(rtt)}, IPv{family}", size, rtt=rtt, family=family,
                   link=fast | dict(loss=loss), tcp=dict(syn_retries=12, syn_ack_retries=12))  # fmt: skip

    title = "Loss and buffers: 100 Mbit/s"
    for buffer, loss, rtt in product((4, 16, 64, 256, 1024, 4096, 16384), (0, 0.01, 0.05, 0.2), (0.01, 0.1)):
        size = min(buffer * KIB * 32, 512 * KIB if loss < 0.05 else 256 * KIB if loss < 0.2 else 96 * KIB)
        yield Case(title, f"buffers {buffer} KiB, loss {percent(loss)}, rtt {ms(rtt)}", size, rtt=rtt, link=fast | dict(loss=loss),
                   tcp=dict(send_buffer=buffer * KIB, receive_buffer=buffer * KIB, syn_retries=12))  # fmt: skip

    title = "Only acknowledgments lost: 100 Mbit/s"
    for loss, rtt in product((0.01, 0.05, 0.1, 0.3), (0.01, 0.1)):
        yield Case(title, f"acks lost {percent(loss)}, rtt {ms(rtt)}", rtt=rtt, link=fast, back=dict(loss=loss), tcp=dict(syn_retries=12))

    title = "Losses in bursts: 100 Mbit/s"
    for average, length, rtt, family in product((0.01, 0.03, 0.1), (2, 5, 10), (0.01, 0.1), (4, 6)):
        yield Case(title, f"loss {percent(average)} in bursts of {length}, rtt {ms(rtt)}, IPv{family}", rtt=rtt, family=family,
                   link=fast, there=dict(loss=GilbertElliott.bursts(average, length)))  # fmt: skip

    title = "One segment lost, again and again: 100 Mbit/s, 64 KiB"
    for segment, times, rtt in product((1, 2, 3, 10, 30, 44, 45, 46), (1, 2, 3), (0.01, 0.1)):
        yield Case(title, f"segment {segment} lost {times}x, rtt {ms(rtt)}", 64 * KIB, rtt=rtt, link=fast, lost_segments=((segment, times),))

    title = "Reordering: 100 Mbit/s"
    for share, late, rtt, family in product((0.01, 0.05, 0.2), (0.0005, 0.002, 0.02), (0.01, 0.1), (4, 6)):
        yield Case(title, f"reordered {percent(share)} by {ms(late)}, rtt {ms(rtt)}, IPv{family}", rtt=rtt, family=family,
                   link=fast | dict(reorder=share, reorder_delay=late))  # fmt: skip

    title = "Reordering and loss: 100 Mbit/s"
    for share, loss, rtt in product((0.02, 0.1), (0.002, 0.01, 0.05), (0.01, 0.1)):
        yield Case(title, f"reordered {percent(share)} by 2 ms, loss {percent(loss)}, rtt {ms(rtt)}", 256 * KIB, rtt=rtt,
                   link=fast | dict(reorder=share, reorder_delay=0.002, loss=loss))  # fmt: skip

    title = "Jitter: 100 Mbit/s"
    for jitter, rtt, family in product((0.001, 0.01, 0.05), (0.01, 0.1), (4, 6)):
        yield Case(title, f"jitter {ms(jitter)}, rtt {ms(rtt)}, IPv{family}", rtt=rtt, family=family, link=fast | dict(jitter=jitter))

    title = "Duplicates: 100 Mbit/s"
    for share, loss, rtt in product((0.01, 0.1, 0.5, 1.0), (0, 0.02), (0.01, 0.1)):
        yield Case(title, f"doubled {percent(share)}, loss {percent(loss)}, rtt {ms(rtt)}", 256 * KIB, rtt=rtt,
                   link=fast | dict(duplicate=share, loss=loss))  # fmt: skip

    title = "Bit errors: 100 Mbit/s"
    for share, rtt, family in product((0.002, 0.02, 0.1), (0.01, 0.1), (4, 6)):
        yield Case(title, f"corrupted {percent(share)}, rtt {ms(rtt)}, IPv{family}", 128 * KIB, rtt=rtt, family=family,
                   link=fast | dict(corrupt=share))  # fmt: skip

    title = "Many flows over one link: 100 Mbit/s, the size is that of all together"
    for flows, loss, family in product((1, 2, 4, 8, 16, 32, 64), (0, 0.01, 0.05), (4, 6)):
        yield Case(title, f"{flows} flows, loss {percent(loss)}, IPv{family}", 512 * KIB, flows, family, 0.02,
                   link=fast | dict(loss=loss))  # fmt: skip

    title = "Queues at a bottleneck of 10 Mbit/s"
    for queue, rtt, controller, flows in product((5, 20, 100, None), (0.01, 0.05, 0.2), CONTROLLERS, (1, 4)):
        packets = "endless" if queue is None else f"of {queue} packets"
        yield Case(title, f"queue {packets}, rtt {ms(rtt)}, {controller}, {flows} flow{'s' * (flows > 1)}", MIB, flows, rtt=rtt,
                   there=slow | dict(queue_packets=queue), tcp=dict(congestion=controller))  # fmt: skip

    title = "Managed queues at a bottleneck of 10 Mbit/s"
    managed = {"CoDel": dict(codel=CoDel()), "marks above 30 kB": dict(ecn_threshold=30_000, queue_packets=200)}
    for (queue, conditions), rtt, ecn, flows in product(managed.items(), (0.01, 0.1), ("off", "on"), (1, 4)):
        yield Case(title, f"{queue}, rtt {ms(rtt)}, ECN {ecn}, {flows} flow{'s' * (flows > 1)}", MIB, flows, rtt=rtt,
                   there=slow | conditions, tcp=dict(ecn=ecn))  # fmt: skip

    title = "Uneven lines: 20 Mbit/s there"
    for back, rtt in product((5e6, 500e3, 128e3), (0.01, 0.1)):
        yield Case(title, f"{back / 1e3:g} kbit/s back, rtt {ms(rtt)}", rtt=rtt, there=dict(bandwidth=20e6, queue_packets=100),
                   back=dict(bandwidth=back, queue_packets=50))  # fmt: skip

    title = "Both ways at once: 100 Mbit/s, the size is that of each way"
    for loss, rtt, family in product((0, 0.01, 0.05), (0.01, 0.1), (4, 6)):
        yield Case(title, f"loss {percent(loss)}, rtt {ms(rtt)}, IPv{family}, both ways", 128 * KIB, rtt=rtt, family=family,
                   link=fast | dict(loss=loss), both_ways=True)  # fmt: skip

    title = "Less of TCP: 100 Mbit/s, rtt 50 ms"
    without = ("timestamps", "window_scaling", "sack")
    for missing, loss in product([(), *((one,) for one in without), without], (0, 0.01, 0.05)):
        yield Case(title, f"without {', '.join(missing) or 'nothing'}, loss {percent(loss)}", 256 * KIB, rtt=0.05,
                   link=fast | dict(loss=loss), tcp=dict.fromkeys(missing, False))  # fmt: skip

    title = "Packet sizes: 100 Mbit/s"
    for mtu, loss, family in product((576, 1280, 1500, 9000), (0, 0.01), (4, 6)):
        if mtu >= 1280 or family == 4:
            yield Case(title, f"MTU {mtu}, loss {percent(loss)}, IPv{family}", family=family, mtu=mtu, link=fast | dict(loss=loss))

    title = "A narrower path behind a router: 100 Mbit/s"
    for mtu, loss, family in product((1280, 1400, 1499), (0, 0.01), (4, 6)):
        yield Case(title, f"path of {mtu}, loss {percent(loss)}, IPv{family}", family=family, link=fast, there=dict(loss=loss), path_mtu=mtu)


CASES = list(cases())


def build(case):
    """(network, client, server, server's address) of a case; everybody's link address is known already."""
    network = Network(case.seed)
    config = StackConfig(tcp=TcpConfig(**case.tcp))
    client = network.add_host("client", ["10.0.0.1/24", "2001:db8::1/64"], config=config)
    address = ADDRESS[case.family]
    if case.path_mtu is None:
        server = network.add_host("server", ["10.0.0.2/24", "2001:db8::2/64"], config=config)
        link = network.link(client, server, delay=case.rtt / 2, mtu=case.mtu)
    else:
        server = network.add_host("server", ["10.1.0.2/24", "2001:db8:1::2/64"], config=config)
        address = {4: "10.1.0.2", 6: "2001:db8:1::2"}[case.family]
        router = network.add_router("router", silent=case.silent)
        network.link(client, router, delay=0.0, mtu=case.mtu)
        link = network.link(router, server, delay=case.rtt / 2, mtu=case.mtu)
    client.send_udp(client.open_udp(), b"", address, 9)
    network.run(until=10.0)
    link.wires[0].change(packet_max=case.path_mtu, **case.link | case.there)
    link.wires[1].change(packet_max=case.path_mtu, **case.link | case.back)
    for segment, times in case.lost_segments:
        link.towards(server).drop(segment=segment, times=times)
    return network, client, server, address


def run(case):
    """Runs it; the line of the table.  Everything that must be true of every transfer is checked on the way."""
    network, client, server, address = build(case)
    started = network.now
    first = network.links[0]
    for checker in (Checksums(), PeerWindow(), SoundStream()):
        first.observe(checker)
    network.links[-1].observe(NoNeedlessRetransmission())
    counts = first.observe(SegmentCounts())
    share = case.size // case.flows
    content = random.Random(case.seed).randbytes(share)
    accepted = server.listen(80, (lambda stream: stream.send(content).shutdown()) if case.both_ways else None)
    streams = [client.connect(address, 80).send(content).shutdown() for _ in range(case.flows)]

    def ended():
        if len(accepted.streams) < case.flows:
            return False
        return all(stream.ended for stream in accepted.streams) and (not case.both_ways or all(stream.ended for stream in streams))

    network.run(until=ended, limit=case.limit)
    seconds = network.now - started
    received = accepted.streams + (streams if case.both_ways else [])
    digest = hashlib.sha256(content).digest()
    for stream in received:
        assert not stream.error and hashlib.sha256(stream.received).digest() == digest, stream
    assert counts.resets == 0
    total = share * case.flows * (2 if case.both_ways else 1)
    assert counts.data_bytes - counts.again_bytes == total, "bytes on the wire that nobody wrote, or none that somebody did"
    wires = [wire for link in network.links for wire in link.wires]
    spoiled = sum(wire.lost + wire.dropped + wire.overflowed + wire.too_long + wire.corrupted for wire in wires)
    goodput = total * 8 / seconds / 1e6
    again = counts.again_bytes / counts.data_bytes * 100
    return f"{case.name:<54}{seconds:>10.3f}{goodput:>10.3f}{again:>8.2f}{spoiled:>7}"


HEADING = f"{'':<54}{'seconds':>10}{'Mbit/s':>10}{'again%':>8}{'lost':>7}"


class Snapshot:
    """goodput.txt: a line for every case, under the title of its group."""

    def __init__(self, updating):
        self.updating = updating
        text = SNAPSHOT.read_text() if SNAPSHOT.exists() else ""
        self.lines = {line[:54].rstrip(): line for line in text.splitlines() if line and not line.startswith("#") and line != HEADING}

    def write(self):
        parts, title = [], None
        for case in CASES:
            if case.title != title:
                title = case.title
                parts += ["" if parts else None, f"# {title}", HEADING]
            if case.name in self.lines:
                parts.append(self.lines[case.name])
        SNAPSHOT.write_text("\n".join(part for part in parts if part is not None) + "\n")


@pytest.fixture(scope="session")
def snapshot(request):
    updating = request.config.getoption("--update-snapshot", False)
    if updating and hasattr(request.config, "workerinput"):
        raise pytest.UsageError("--update-snapshot needs one process: leave -n out")
    table = Snapshot(updating)
    yield table
    if updating:
        table.write()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case, snapshot):
    line = run(case)
    if snapshot.updating:
        snapshot.lines[case.name] = line
    assert line == snapshot.lines.get(case.name), f"see the head of this file for --update-snapshot\n{HEADING}"


def test_the_table_has_these_cases_and_no_others(snapshot):
    assert len({case.name for case in CASES}) == len(CASES)
    if not snapshot.updating:
        assert list(snapshot.lines) == [case.name for case in CASES]


def test_a_case_is_the_same_twice_and_another_seed_is_not():
    case = next(case for case in CASES if "loss 5%" in case.name and case.flows > 1)
    assert run(case) == run(case) != run(replace(case, seed=2))
