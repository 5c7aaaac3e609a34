"""A host of a simulated network: a stack, its links, and streams as a test uses them.

Read first: network.py.  Every call takes effect at the network's `now`.
"""

import ipaddress
from collections.abc import Callable, Iterable
from random import Random
from typing import TYPE_CHECKING

from swos_net.address import UNSPECIFIED6, from_packed, is_ipv4, parse_address, prefix_matches
from swos_net.capability import Capability
from swos_net.config import StackConfig
from swos_net.link import LinkFeatures
from swos_net.runtime.poll import Poller
from swos_net.stack.endpoint import Ready
from swos_net.stack.interface import Interface
from swos_net.stack.stack import Stack
from swos_net.stack.tcp_endpoint import TcpEndpoint, TcpListener
from swos_net.stack.udp_endpoint import UdpEndpoint
from swos_net.tcp.state import State
from swos_net.testing.host_driver import HostDriver
from swos_net.testing.link import SimulatedDevice

if TYPE_CHECKING:
    from swos_net.testing.network import Link, Network


class Host:
    """A stack and its links; made by `Network.add_host`.

    `stack` and `poller` are the real ones: what is not offered here is done with them, with `network.now` as `now`.
    """

    def __init__(
        self, network: "Network", name: str, addresses: Iterable[str], gateways: Iterable[str], config: StackConfig | None
    ):
        self.network = network
        self.name = name
        self.stack = Stack(config, random=Random(f"{network.seed} host {name}"), name=name)
        self.stack.names.hosts = network.names
        self.stack.loopback.wants_output = self._wake
        self.poller = Poller(self.stack)
        self.driver = HostDriver(self.stack, network, self._wake)
        self.awake = False  # waits for its turn in `Network.settle`
        self._addresses: list[str] | None = list(addresses)
        self._gateways = [parse_address(gateway) for gateway in gateways]
        self._links: list[Link] = []

    def __repr__(self) -> str:
        return f"<Host {self.name}>"

    @property
    def capability(self) -> Capability:
        """All authority over its stack: `with host.capability.activate():` makes sockets those of this host."""
        return self.stack.root

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

    @property
    def has_output(self) -> bool:
        """Whether frames wait to be sent, or sockets to be closed."""
        return self.driver.has_abandoned or any(port.batch.count or port.interface.has_output for port in self.poller.ports)

    def interface_on(self, link: "Link") -> Interface:
        return self.stack.interfaces[self._links.index(link)]

    def add_gateway(self, interface: Interface, gateway: bytes) -> None:
        """A default route, unless the host has one for that family."""
        if not any(route.gateway and is_ipv4(route.gateway) == is_ipv4(gateway) for route in self.stack.routes.routes):
            self.stack.add_gateway(interface, gateway)

    def is_on(self, link: "Link", address: bytes) -> bool:
        """Whether `address` is one of this host's link, or in its prefix: what a router asks."""
        return any(
            prefix_matches(address, entry.address, entry.prefix_length)
            for entry in self.interface_on(link).addresses
            if is_ipv4(entry.address) == is_ipv4(address)
        )

    def _make_end(self, features: LinkFeatures, link: "Link", far: object) -> SimulatedDevice:
        device = SimulatedDevice(features, self.network.clock)
        device.on_arrival = self._wake
        self._links.append(link)
        return device

    def _wake(self) -> None:
        self.network.wake(self)

    def _plug(self, device: SimulatedDevice, addresses: Iterable[str] | None) -> None:
        now = self.network.now
        if addresses is None:
            if self._addresses is None:
                raise ValueError(f"{self.name} has a link already: say which addresses it has on this one")
            addresses, self._addresses = self._addresses, None
        interface = self.poller.attach(device, now)
        interface.wants_output = self._wake
        for item in map(ipaddress.ip_interface, addresses):
            self.stack.add_address(interface, from_packed(item.ip.packed), item.network.prefixlen, now)
            self.network.names.add(from_packed(item.ip.packed), self.name)
        for gateway in self._gateways:
            self.stack.add_gateway(interface, gateway)
        self._gateways = []


class Acceptor:
    """A listening port that accepts at once; `streams` are the connections so far."""

    def __init__(self, network: "Network", listener: TcpListener, accept: Callable[["Stream"], object] | None):
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

    def __init__(self, network: "Network", endpoint: TcpEndpoint):
        self.endpoint = endpoint
        self.received = bytearray()
        self.error = 0
        self._network = network
        self._reading = True
        self._unsent = bytearray()
        self._waits_to_finish = False  # until there is a connection: something is to be sent on it
        self._finish: Callable[[float], None] | None = None  # what follows the last byte: shutdown_send or close
        endpoint.watch(self._ready)
        self._ready(endpoint.ready())

    def __repr__(self) -> str:
        ports = f"{self.endpoint.local_port} > {self.endpoint.remote_port}"
        return f"<Stream {ports} {self.state.name} {len(self.received)} bytes>"

    @property
    def state(self) -> State:
        return self.endpoint.state

    @property
    def connected(self) -> bool:
        """Whether the handshake is complete and the connection not yet gone."""
        return self.endpoint.connected

    @property
    def ended(self) -> bool:
        """Whether nothing more will be received: the peer closed, or the connection failed."""
        return self.endpoint.at_end

    @property
    def closed(self) -> bool:
        """Whether nothing of the connection is left, TIME-WAIT included."""
        return self.state is State.CLOSED

    def send(self, data: bytes) -> "Stream":
        """Sends all of it in its own time; OSError when the sending side is closed or the connection failed."""
        self._unsent += data
        self._waits_to_finish = True
        self._write()
        return self

    def shutdown(self) -> "Stream":
        """A FIN after what was sent; receiving goes on."""
        self._finish = self.endpoint.shutdown_send
        self._waits_to_finish = True
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
        while self.endpoint.readable:
            self.received += self.endpoint.receive(1 << 20, self._network.now)

    def _write(self) -> None:
        if self._unsent:
            taken = self.endpoint.send(self._unsent, self._network.now)
            del self._unsent[:taken]
        if self.state is State.SYN_SENT and self._waits_to_finish:
            return  # a FIN follows the handshake
        if not self._unsent and self._finish is not None:
            finish, self._finish = self._finish, None
            finish(self._network.now)
