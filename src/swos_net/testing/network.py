"""Hosts on simulated links in virtual time: what a test needs to see a stack under loss, delay and bad luck.

    network = Network(seed=1)
    client = network.add_host("client", addresses=["10.0.0.1/24"])
    server = network.add_host("server", addresses=["10.0.0.2/24"])
    network.link(client, server, delay=0.1, loss=0.05)
    server.listen(80, lambda stream: stream.send(bytes(100_000)).close())
    stream = client.connect("10.0.0.2", 80)
    network.run(until=lambda: stream.ended)
    assert len(stream.received) == 100_000

A run takes as long as the work it does, whatever the delays: the clock jumps from one event to the next.  The same
seed gives the same run.  Read first: impairment.py, host.py.  Frames move during `run`.  No threads, no descriptors, no
asyncio: whole programs of asyncio's run on these hosts with aio.py.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from threading import RLock
from typing import Any

from swos_net.config import StackConfig
from swos_net.dns.config import Hosts
from swos_net.link import LinkFeatures, Medium, Offload
from swos_net.testing.clock import FakeClock
from swos_net.testing.host import Acceptor, Host, Stream
from swos_net.testing.impairment import Impairment
from swos_net.testing.link import End, Wire
from swos_net.testing.packet import Crossing, Decoder
from swos_net.testing.router import Router

__all__ = ["Acceptor", "Host", "Link", "Network", "Router", "Stream"]


class Network:
    """Hosts, routers, links and the one clock they share."""

    events_per_instant = 20_000  # more without time passing: two hosts answer each other for ever

    def __init__(self, seed: int = 0, *, trace: Callable[[str], None] | None = None):
        """`trace` gets a line of text for every frame sent: pass `print` to see what goes on."""
        self.seed = seed
        self.clock = FakeClock()
        self.hosts: list[Host] = []
        self.routers: list[Router] = []
        self.links: list[Link] = []
        self.decoder = Decoder()
        self.names = Hosts()  # every host is known to all by its name
        self.lock = RLock()  # held by who is inside any of the stacks, for programs with threads (host_driver.py)
        self._observers: list[Callable[[Crossing], object]] = []
        self._due: list[tuple[float, int, Wire]] = []  # each wire once, at its next arrival; others are out of date
        self._due_at: dict[Wire, float] = {}
        self._calls: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()
        self._awake: deque[Host] = deque()
        self._events = 0  # since time passed
        if trace is not None:
            self.observe(lambda crossing: trace(str(crossing)))

    @property
    def now(self) -> float:
        """Seconds since the network was made."""
        return self.clock.now

    def add_host(self, name: str, addresses: Iterable[str] = (), gateways: Iterable[str] = (),
                 config: StackConfig | None = None) -> Host:  # fmt: skip
        """A host without links; `addresses` ("10.0.0.1/24") and `gateways` are those of its first link."""
        host = Host(self, name, addresses, gateways, config)
        self.hosts.append(host)
        return host

    def add_router(self, name: str, *, silent: bool = False) -> Router:
        """A router without links; a `silent` one sends no ICMP errors."""
        router = Router(self, name, silent)
        self.routers.append(router)
        return router

    def link(self, first: Host | Router, second: Host | Router, *, mtu: int = 1500, medium: Medium = Medium.ETHERNET,
             offloads: Offload = Offload.NONE, addresses: tuple[Iterable[str], Iterable[str]] | None = None,
             **conditions: Any) -> "Link":  # fmt: skip
        """Joins two hosts or routers; `conditions` are those of `Impairment`, for both directions.

        `addresses` are needed on every link of a host but its first; a router takes for itself, and gives its host as
        its gateway, the last address of each prefix of the host's.  With TSO among the `offloads` super-segments cross,
        and are lost, whole: routers do not take them.
        """
        if offloads and (isinstance(first, Router) or isinstance(second, Router)):
            raise ValueError("a router forwards frames as they are: no offloads on its links")
        impairment = Impairment(**conditions)
        if impairment.corrupt and offloads:
            raise ValueError("with checksums left to the link nobody would notice corruption: no offloads, please")
        link = Link(self, first, second, mtu, medium, offloads, impairment)
        self.links.append(link)
        for node, end, given in zip((first, second), link.ends, addresses or (None, None)):
            if isinstance(node, Host):
                node._plug(end, given)
            else:
                node.ports.append(end)
        for node, end, other, given in zip((first, second), link.ends, (second, first), addresses or (None, None)):
            if isinstance(node, Router):
                node._join(end, other, given)
        for router in self.routers:
            router.forget_routes()
        for observer in self._observers:
            link.observe(observer)
        return link

    def observe(self, observer: Callable[[Crossing], object]) -> Any:
        """Calls `observer` for every frame sent on any link, those made later too; returns it.

        Recorders and checkers (recorder.py, checkers.py) are observers.
        """
        self._observers.append(observer)
        for link in self.links:
            link.observe(observer)
        return observer

    def at(self, time: float, call: Callable[[], object]) -> None:
        """Calls `call` when it is `time`: `network.at(5.0, lambda: link.change(loss=1.0))`."""
        heapq.heappush(self._calls, (time, next(self._order), call))

    def run(self, until: float | Callable[[], Any], limit: float = 3600.0) -> Any:
        """Runs until the time `until`, or until the callable gives something true, which is returned.

        TimeoutError when `limit` seconds of virtual time were not enough, or when nothing would ever happen again;
        its text says in which states the connections are.  RuntimeError when frames go to and fro without time
        passing.
        """
        clock = self.clock
        ends = until if isinstance(until, (int, float)) else None
        give_up = clock.now + limit
        self._events = 0
        for host in self.hosts:
            self.wake(host)  # it may have been changed in ways that nobody saw
        while True:
            self.settle()
            if ends is None and (result := until()):
                return result
            if self._awake:
                continue
            following = self.next_event()
            if ends is not None and (following is None or following > ends):
                clock.autojump(ends)
                return None
            if following is None or following > give_up:
                raise TimeoutError(f"not there after {self.now:g} s: {self.situation(following)}")
            self.happen(following)

    def wake(self, host: Host) -> None:
        """`host` has something to do now."""
        if not host.awake:
            host.awake = True
            self._awake.append(host)

    # The parts of `run`, for who runs something else besides

    def settle(self) -> None:
        """Every host does what it can do now."""
        awake = self._awake
        now = self.clock.now
        while awake:
            host = awake.popleft()
            host.driver.close_abandoned(now)
            while host.poller.poll(now):
                pass
            # what its own poll left to send has been sent, unless a callback came in between
            host.awake = False
            if host.has_output:
                self.wake(host)

    def next_event(self) -> float | None:
        """When something happens next, as far as settled hosts know; None for never."""
        due = self._due
        while due and self._due_at.get(due[0][2]) != due[0][0]:
            heapq.heappop(due)
        times = [due[0][0]] if due else []
        if self._calls:
            times.append(self._calls[0][0])
        for host in self.hosts:
            deadline = host.stack.deadlines.next_deadline()
            if deadline is not None:
                times.append(deadline)
        return min(times) if times else None

    def happen(self, at: float) -> None:
        """Jumps to `at` and does what is due: calls, deadlines, arrivals.  Then hosts want to settle.

        RuntimeError when frames go to and fro without time passing.
        """
        self._events = 0 if self.clock.autojump(at) else self._events + 1
        if self._events > self.events_per_instant:
            raise RuntimeError(f"at {self.now:g} s nothing but more frames comes of frames: {self.situation(at)}")
        now = self.clock.now
        while self._calls and self._calls[0][0] <= now:
            heapq.heappop(self._calls)[2]()
        for host in self.hosts:
            deadline = host.stack.deadlines.next_deadline()
            if deadline is not None and deadline <= now:
                self.wake(host)
        due, due_at = self._due, self._due_at
        while due and due[0][0] <= now:
            at, _, wire = heapq.heappop(due)
            if due_at.get(wire) != at:
                continue
            del due_at[wire]
            following = wire.deliver(now)
            if following is not None:
                self._wire_due(following, wire)

    def _wire_due(self, at: float, wire: Wire) -> None:
        if at < self._due_at.get(wire, at + 1):
            self._due_at[wire] = at
            heapq.heappush(self._due, (at, next(self._order), wire))

    def situation(self, following: float | None) -> str:
        """For messages: the state of every connection; `following` is the next event."""
        connections = [
            f"{host.name} {host.stack.describe(endpoint.local, endpoint.local_port)} > "
            f"{host.stack.describe(endpoint.remote, endpoint.remote_port)} {endpoint.state.name}"
            for host in self.hosts
            for endpoint in host.stack.tcp.flows.values()
        ]
        nothing = ["no frame is under way and no timer runs"] if following is None else []
        return "; ".join(nothing + (connections or ["no connections"]))


class Link:
    """Two hosts or routers joined; made by `Network.link`.  `wires` are its directions, the first from first to second."""

    def __init__(self, network: Network, first: Host | Router, second: Host | Router, mtu: int, medium: Medium,
                 offloads: Offload, impairment: Impairment):  # fmt: skip
        self.network = network
        self.nodes = (first, second)
        number = len(network.links)
        header = 14 if medium is Medium.ETHERNET else 0
        frame_max = 65535 + header if offloads & (Offload.TSO4 | Offload.TSO6) else mtu + header
        self.ends: list[End] = []
        for end, (node, far) in enumerate(((first, second), (second, first)), 1):
            mac = bytes((2, 0, 0, number >> 8 & 0xFF, number & 0xFF, end)) if medium is Medium.ETHERNET else None
            self.ends.append(node._make_end(LinkFeatures(medium, mtu, mac, offloads, frame_max), self, far))
        self.wires: list[Wire] = []
        for end, far, names in zip(self.ends, reversed(self.ends), ((first.name, second.name), (second.name, first.name))):
            seed = f"{network.seed} link {number} wire {len(self.wires)}"
            end.wire = Wire(far, impairment, seed, network._wire_due, medium=medium, name=" > ".join(names),
                            decoder=network.decoder)  # fmt: skip
            self.wires.append(end.wire)
        self.wires[0].opposite, self.wires[1].opposite = self.wires[1], self.wires[0]

    def __repr__(self) -> str:
        return f"<Link {self.wires[0]!r} {self.wires[1]!r}>"

    def change(self, **conditions: Any) -> None:
        """Replaces conditions of both directions from now on."""
        for wire in self.wires:
            wire.change(**conditions)

    def towards(self, node: Host | Router) -> Wire:
        """The direction that ends at `node`."""
        return self.wires[1 - self.nodes.index(node)]

    def observe(self, observer: Callable[[Crossing], object]) -> Any:
        """Calls `observer` for every frame of both directions; returns it."""
        for wire in self.wires:
            wire.observe(observer)
        return observer

    def inject(self, frame: bytes, towards: Host | Router) -> None:
        """Delivers a frame that nobody sent."""
        self.towards(towards).inject(frame, self.network.now)
