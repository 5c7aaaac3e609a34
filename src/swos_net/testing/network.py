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
seed gives the same run.  Read first: link.py.  Every call of a `Host` or `Stream` takes effect at `network.now`; frames
move during `run`.  No threads, no descriptors, no asyncio.
"""

import heapq
import ipaddress
from collections.abc import Callable, Iterable
from itertools import count
from random import Random
from typing import Any

from swos_net.address import UNSPECIFIED6, from_packed, parse_address
from swos_net.capability import Capability
from swos_net.config import StackConfig
from swos_net.link import LinkFeatures, Medium, Offload
from swos_net.runtime.poll import Poller
from swos_net.stack.endpoint import Ready
from swos_net.stack.interface import Interface
from swos_net.stack.stack import Stack
from swos_net.stack.tcp_endpoint import TcpEndpoint, TcpListener
from swos_net.stack.udp_endpoint import UdpEndpoint
from swos_net.tcp.state import State
from swos_net.testing.clock import FakeClock
from swos_net.testing.link import LinkConditions, SimulatedDevice, SimulatedFrame, Wire
from swos_net.wire.pretty import describe_frame


class Network:
    """Hosts, links and the one clock they share."""

    events_per_instant = 20_000  # more without time passing: two hosts answer each other for ever

    def __init__(self, seed: int = 0, *, trace: Callable[[str], None] | None = None):
        """`trace` gets a line of text for every frame sent: pass `print` to see what goes on."""
        self.seed = seed
        self.clock = FakeClock()
        self.hosts: list[Host] = []
        self.links: list[Link] = []
        self._trace = trace
        self._deliveries: list[tuple[float, int, SimulatedDevice, SimulatedFrame]] = []
        self._order = count()

    @property
    def now(self) -> float:
        """Seconds since the network was made."""
        return self.clock.now

    def add_host(self, name: str, addresses: Iterable[str] = (), gateways: Iterable[str] = (),
                 config: StackConfig | None = None) -> "Host":  # fmt: skip
        """A host without links; `addresses` ("10.0.0.1/24") and `gateways` are those of its first link."""
        host = Host(self, name, addresses, gateways, config)
        self.hosts.append(host)
        return host

    def link(self, first: "Host", second: "Host", *, mtu: int = 1500, medium: Medium = Medium.ETHERNET,
             offloads: Offload = Offload.NONE, addresses: tuple[Iterable[str], Iterable[str]] | None = None,
             **conditions: Any) -> "Link":  # fmt: skip
        """Joins two hosts; `conditions` are those of `LinkConditions`, for both directions.

        `addresses` are needed on every link of a host but its first.  With TSO among the `offloads` super-segments
        cross, and are lost, whole.
        """
        link = Link(self, first, second, mtu, medium, offloads, LinkConditions(**conditions))
        self.links.append(link)
        for host, device, given in zip((first, second), link.devices, addresses or (None, None)):
            host._plug(device, given)
        return link

    def run(self, until: float | Callable[[], Any], limit: float = 3600.0) -> Any:
        """Runs until the time `until`, or until the callable gives something true, which is returned.

        TimeoutError when `limit` seconds of virtual time were not enough, or when nothing would ever happen again;
        its text says in which states the connections are.  RuntimeError when frames go to and fro without time
        passing.
        """
        ends = until if isinstance(until, (int, float)) else None
        give_up = self.now + limit
        events = 0
        while True:
            self._settle()
            if ends is None and (result := until()):
                return result
            following = self._next_event()
            if ends is not None and (following is None or following > ends):
                self.clock.autojump(ends)
                return None
            if following is None or following > give_up:
                raise TimeoutError(f"not there after {self.now:g} s: {self._situation(following)}")
            events = 0 if self.clock.autojump(following) else events + 1
            if events > self.events_per_instant:
                raise RuntimeError(
                    f"at {self.now:g} s nothing but more frames comes of frames: {self._situation(following)}"
                )
            self._deliver()

    def _settle(self) -> None:
        """Every host does what it can do now."""
        now = self.now
        for host in self.hosts:
            if host._has_work(now):
                while host.poller.poll(now):
                    pass

    def _next_event(self) -> float | None:
        times = [self._deliveries[0][0]] if self._deliveries else []
        times += [deadline for host in self.hosts if (deadline := host.poller.next_deadline()) is not None]
        return min(times, default=None)

    def _deliver(self) -> None:
        deliveries = self._deliveries
        while deliveries and deliveries[0][0] <= self.now:
            _, _, device, frame = heapq.heappop(deliveries)
            device.arrived.append(frame)

    def _schedule(self, at: float, device: SimulatedDevice, frame: SimulatedFrame) -> None:
        # what arrives at the same time arrives in the order in which it was sent
        heapq.heappush(self._deliveries, (at, next(self._order), device, frame))

    def _situation(self, following: float | None) -> str:
        connections = [
            f"{host.name} {host.stack.describe(endpoint.local, endpoint.local_port)} > "
            f"{host.stack.describe(endpoint.remote, endpoint.remote_port)} {endpoint.connection.state.name}"
            for host in self.hosts
            for endpoint in host.stack.tcp.flows.values()
        ]
        nothing = ["no frame is under way and no timer runs"] if following is None else []
        return "; ".join(nothing + (connections or ["no connections"]))


class Link:
    """Two hosts joined; made by `Network.link`."""

    def __init__(self, network: Network, first: "Host", second: "Host", mtu: int, medium: Medium, offloads: Offload,
                 conditions: LinkConditions):  # fmt: skip
        self.network = network
        self.hosts = (first, second)
        number = len(network.links)
        header = 14 if medium is Medium.ETHERNET else 0
        frame_max = 65535 + header if offloads & (Offload.TSO4 | Offload.TSO6) else mtu + header
        self.devices: list[SimulatedDevice] = []
        for end in (1, 2):
            mac = bytes((2, 0, 0, 0, number & 0xFF, end)) if medium is Medium.ETHERNET else None
            self.devices.append(SimulatedDevice(LinkFeatures(medium, mtu, mac, offloads, frame_max), network.clock))
        self.wires: list[Wire] = []
        for device, far in zip(self.devices, reversed(self.devices)):
            random = Random(f"{network.seed} link {number} wire {len(self.wires)}")
            device.wire = Wire(far, conditions, random, network._schedule)
            self.wires.append(device.wire)
        if network._trace is not None:
            for wire, names in zip(self.wires, ((first.name, second.name), (second.name, first.name))):
                wire.observers.append(_tracer(network._trace, " > ".join(names), medium))

    def change(self, **conditions: Any) -> None:
        """Replaces conditions of both directions from now on."""
        for wire in self.wires:
            wire.change(**conditions)

    def towards(self, host: "Host") -> Wire:
        """The direction that ends at `host`."""
        return self.wires[1 - self.hosts.index(host)]

    def inject(self, frame: bytes, towards: "Host") -> None:
        """Delivers a frame that nobody sent."""
        self.towards(towards).inject(frame, self.network.now)


def _tracer(trace: Callable[[str], None], names: str, medium: Medium) -> Callable[[float, bytes, str], None]:
    def observer(now: float, frame: bytes, fate: str) -> None:
        trace(f"{now:12.6f} {names}: {describe_frame(frame, medium)}{f' [{fate}]' if fate else ''}")

    return observer


class Host:
    """A stack and its links; made by `Network.add_host`.

    `stack` and `poller` are the real ones: what is not offered here is done with them, with `network.now` as `now`.
    """

    def __init__(
        self, network: Network, name: str, addresses: Iterable[str], gateways: Iterable[str], config: StackConfig | None
    ):
        self.network = network
        self.name = name
        self.stack = Stack(config, random=Random(f"{network.seed} host {name}"), name=name)
        self.poller = Poller(self.stack)
        self._addresses: list[str] | None = list(addresses)
        self._gateways = [parse_address(gateway) for gateway in gateways]

    @property
    def interfaces(self) -> list[Interface]:
        """In the order of its links."""
        return self.stack.interfaces

    @property
    def interface(self) -> Interface:
        """That of its first link."""
        return self.stack.interfaces[0]

    def listen(self, port: int, accept: Callable[["Stream"], object] | None = None, *, address: str | None = None,
               backlog: int = 128, capability: Capability | None = None) -> "Acceptor":  # fmt: skip
        """Accepts every connection to `port`, for both families without an `address`; `accept` is called with each."""
        local = UNSPECIFIED6 if address is None else parse_address(address)
        listener = self.stack.tcp_listen(
            capability or self.stack.root, local, port, backlog, dual_stack=address is None
        )
        return Acceptor(self.network, listener, accept)

    def connect(self, address: str, port: int, *, local_address: str | None = None, local_port: int = 0,
                capability: Capability | None = None) -> "Stream":  # fmt: skip
        """Begins to connect; OSError as `Stack.tcp_connect` says."""
        local = None if local_address is None else parse_address(local_address)
        endpoint = self.stack.tcp_connect(capability or self.stack.root, parse_address(address), port, self.network.now,
                                          local=local, local_port=local_port)  # fmt: skip
        return Stream(self.network, endpoint)

    def open_udp(
        self, port: int = 0, *, address: str | None = None, capability: Capability | None = None
    ) -> UdpEndpoint:
        """A UDP endpoint, for both families without an `address`."""
        local = UNSPECIFIED6 if address is None else parse_address(address)
        return self.stack.udp_open(capability or self.stack.root, local, port, dual_stack=address is None)

    def send_udp(self, endpoint: UdpEndpoint, payload: bytes, address: str, port: int) -> int:
        """Sends one datagram; OSError as `UdpEndpoint.send_to` says."""
        return endpoint.send_to(payload, parse_address(address), port, self.network.now)

    def _plug(self, device: SimulatedDevice, addresses: Iterable[str] | None) -> None:
        now = self.network.now
        interface = self.poller.attach(device, now)
        if addresses is None:
            if self._addresses is None:
                raise ValueError(f"{self.name} has a link already: say which addresses it has on this one")
            addresses, self._addresses = self._addresses, None
        for item in map(ipaddress.ip_interface, addresses):
            self.stack.add_address(interface, from_packed(item.ip.packed), item.network.prefixlen, now)
        for gateway in self._gateways:
            self.stack.add_gateway(interface, gateway)
        self._gateways = []

    def _has_work(self, now: float) -> bool:
        deadline = self.poller.next_deadline()
        if deadline is not None and deadline <= now:
            return True
        return any(port.device.arrived or port.batch.count or port.interface.has_output for port in self.poller.ports)


class Acceptor:
    """A listening port that accepts at once; `streams` are the connections so far."""

    def __init__(self, network: Network, listener: TcpListener, accept: Callable[["Stream"], object] | None):
        self.listener = listener
        self.streams: list[Stream] = []
        self._network = network
        self._accept = accept
        listener.watch(self._ready)

    @property
    def port(self) -> int:
        return self.listener.local_port

    def close(self) -> None:
        """No more connections; those accepted live on."""
        self.listener.close(self._network.now)

    def _ready(self, mask: int) -> None:
        while (endpoint := self.listener.accept()) is not None:
            stream = Stream(self._network, endpoint)
            self.streams.append(stream)
            if self._accept is not None:
                self._accept(stream)


class Stream:
    """One TCP connection as a test uses it: what arrives is in `received`, what is sent goes when there is room.

    `endpoint` is the real one.  `error` is the errno with which the connection failed, 0 as long as it did not.
    """

    def __init__(self, network: Network, endpoint: TcpEndpoint):
        self.endpoint = endpoint
        self.received = bytearray()
        self.error = 0
        self._network = network
        self._reading = True
        self._unsent = bytearray()
        self._finish: Callable[[float], None] | None = None  # what follows the last byte: shutdown_send or close
        endpoint.watch(self._ready)
        self._ready(endpoint.ready())

    def __repr__(self) -> str:
        ports = f"{self.endpoint.local_port} > {self.endpoint.remote_port}"
        return f"<Stream {ports} {self.state.name} {len(self.received)} bytes>"

    @property
    def state(self) -> State:
        return self.endpoint.connection.state

    @property
    def connected(self) -> bool:
        """Whether the handshake is complete and the connection not yet gone."""
        return self.endpoint.connected

    @property
    def ended(self) -> bool:
        """Whether nothing more will be received: the peer closed, or the connection failed."""
        return self.endpoint.connection.at_end

    @property
    def closed(self) -> bool:
        """Whether nothing of the connection is left, TIME-WAIT included."""
        return self.state is State.CLOSED

    def send(self, data: bytes) -> "Stream":
        """Sends all of it in its own time; OSError when the sending side is closed or the connection failed."""
        self._unsent += data
        self._write()
        return self

    def shutdown(self) -> "Stream":
        """A FIN after what was sent; receiving goes on."""
        self._finish = self.endpoint.shutdown_send
        self._write()
        return self

    def close(self) -> "Stream":
        """Lets go after what was sent."""
        self._finish = self.endpoint.close
        self._write()
        return self

    def abort(self) -> "Stream":
        """A reset."""
        self._unsent.clear()
        self.endpoint.abort(self._network.now)
        return self

    def pause(self) -> "Stream":
        """Stops reading: the window closes when the receive buffer is full."""
        self._reading = False
        return self

    def resume(self) -> "Stream":
        self._reading = True
        self._read()
        return self

    def _ready(self, mask: int) -> None:
        if mask & Ready.ERROR:
            self.error = self.endpoint.take_error() or self.error
        if mask & Ready.READABLE and self._reading:
            self._read()
        if mask & Ready.WRITABLE and not self.error and self.connected:
            self._write()

    def _read(self) -> None:
        while self.endpoint.connection.readable:
            self.received += self.endpoint.receive(1 << 20, self._network.now)

    def _write(self) -> None:
        if self._unsent:
            taken = self.endpoint.send(self._unsent, self._network.now)
            del self._unsent[:taken]
        if not self._unsent and self._finish is not None:
            finish, self._finish = self._finish, None
            finish(self._network.now)
