"""What endpoints that receive whole datagrams have in common: a bounded queue, errors told once, options of sending.

Read next: udp_endpoint.py, raw_endpoint.py.
"""

from collections import deque
from typing import NamedTuple

from swos_net.address import is_ipv4, is_multicast, is_unspecified
from swos_net.capability import Capability
from swos_net.errors import os_error
from swos_net.stack.endpoint import Endpoint, Ready
from swos_net.stack.groups import GroupOptions

DATAGRAM_OVERHEAD = 256  # what a queued datagram counts beyond its bytes, so that empty ones are bounded too


class Datagram(NamedTuple):
    """One received datagram; addresses are 16 bytes, `interface` is the number of the interface it came over."""

    payload: bytes
    remote: bytes
    remote_port: int
    local: bytes
    hop_limit: int
    traffic_class: int
    interface: int = 0


class SendOptions(NamedTuple):
    """What one datagram is sent with in place of its endpoint's own; None: as the endpoint has it."""

    source: bytes | None = None
    interface: int | None = None  # a number
    hop_limit: int | None = None
    traffic_class: int | None = None


ORDINARY = SendOptions()


class SendChoice(NamedTuple):
    """How a datagram leaves: what `DatagramEndpoint.choose` found."""

    interface: object
    next_hop: bytes
    source: bytes
    hop_limit: int
    traffic_class: int


class DatagramEndpoint(Endpoint):
    """Base of UDP, raw and echo endpoints."""

    __slots__ = (
        "_error", "_queued_bytes", "_received", "addresses", "broadcast", "closed", "device", "dropped", "errors_wanted",
        "fragment", "groups", "hop_limit4", "hop_limit6", "receive_buffer", "remote", "remote_port", "send_buffer",
        "traffic_class4", "traffic_class6",
    )  # fmt: skip

    def __init__(self, stack, capability: Capability, local: bytes):
        super().__init__(stack, capability, local, 0)
        self.addresses: tuple[bytes, ...] = ()  # where it hears
        self.remote: bytes | None = None
        self.remote_port = 0
        self.broadcast = False
        self.errors_wanted = False  # IP_RECVERR: ICMP errors are told although the endpoint is not connected
        self.fragment = True  # False: EMSGSIZE for what the path takes only in fragments
        self.device = 0  # number of the only interface it uses; 0: any
        self.hop_limit4: int | None = None
        self.hop_limit6: int | None = None
        self.traffic_class4 = self.traffic_class6 = 0
        self.groups: GroupOptions | None = None
        self.receive_buffer = stack.config.udp_receive_buffer
        self.send_buffer = stack.config.udp_send_buffer
        self.closed = False
        self.dropped = 0
        self._received: deque[Datagram] = deque()
        self._queued_bytes = 0
        self._error = 0

    def ready(self) -> int:
        mask = Ready.READABLE if self._received or self._error else Ready.NONE
        if self.unsent < self.send_buffer:
            mask |= Ready.WRITABLE
        return mask | (Ready.ERROR if self._error else 0)

    @property
    def error(self) -> int:
        """The errno that the next call will raise, or 0."""
        return self._error

    @property
    def queued(self) -> int:
        """Bytes that wait to be received, each datagram with its overhead."""
        return self._queued_bytes

    @property
    def unsent(self) -> int:
        """Bytes that wait for the link, each datagram with its overhead."""
        return 0

    @property
    def next_length(self) -> int | None:
        """Payload bytes of the oldest datagram, None when there is none."""
        return len(self._received[0].payload) if self._received else None

    def bind(self, addresses: tuple[bytes, ...], port: int) -> None:
        raise NotImplementedError

    def bind_anywhere(self, addresses: tuple[bytes, ...]) -> None:
        """A port of the stack's choice, where one is needed."""

    def connect(self, remote: bytes, remote_port: int) -> None:
        """Only this peer from now on; checked once against the capability."""
        raise NotImplementedError

    def disconnect(self) -> None:
        """Any peer again."""
        raise NotImplementedError

    def send_to(self, payload: bytes, remote: bytes, remote_port: int, now: float, options: SendOptions = ORDINARY) -> int:
        raise NotImplementedError

    def take_error(self) -> int:
        error, self._error = self._error, 0
        return error

    def forget_paths(self) -> None:
        """An option changed that packets are made with."""

    def choose(self, remote: bytes, options: SendOptions) -> SendChoice:
        """The way to `remote` and what goes into the IP header; OSError as `Stack.route_to` says."""
        ipv4 = is_ipv4(remote)
        local = options.source or (None if is_unspecified(self.local) or is_multicast(self.local) else self.local)
        number = options.interface or self.device
        hop_limit = self.hop_limit4 if ipv4 else self.hop_limit6
        if is_multicast(remote):
            hop_limit = 1  # RFC 1112 6.1: unless it was asked for more
            if self.groups is not None:
                hop_limit = self.groups.hop_limit4 if ipv4 else self.groups.hop_limit6
                number = number or (self.groups.interface4 if ipv4 else self.groups.interface6)
                local = local or (self.groups.source if ipv4 else None)
        if options.hop_limit is not None:
            hop_limit = options.hop_limit
        traffic_class = options.traffic_class
        if traffic_class is None:
            traffic_class = self.traffic_class4 if ipv4 else self.traffic_class6
        interface, next_hop, source = self.stack.route_to(remote, local, broadcast=self.broadcast, number=number)
        return SendChoice(interface, next_hop, source, self.stack.config.hop_limit if hop_limit is None else hop_limit, traffic_class)

    def receive(self) -> Datagram | None:
        """The oldest datagram, or None.  Raises an ICMP error that came for a connected endpoint."""
        if self._error:
            raise os_error(self.take_error(), "the peer answered with an ICMP error")
        if not self._received:
            return None
        datagram = self._received.popleft()
        self._queued_bytes -= len(datagram.payload) + DATAGRAM_OVERHEAD
        return datagram

    def peek(self) -> Datagram | None:
        """What `receive` would give, left where it is."""
        if self._error:
            raise os_error(self.take_error(), "the peer answered with an ICMP error")
        return self._received[0] if self._received else None

    def deliver(self, datagram: Datagram) -> bool:
        """False: the queue is full and the datagram is dropped."""
        size = len(datagram.payload) + DATAGRAM_OVERHEAD
        if self._queued_bytes + size > self.receive_buffer and (self._queued_bytes or size - DATAGRAM_OVERHEAD > self.receive_buffer):
            self.dropped += 1
            return False
        self._received.append(datagram)
        self._queued_bytes += size
        self.notify(Ready.READABLE)
        return True

    def path_error(self, code: int, now: float) -> None:
        """RFC 1122 4.1.3.3: told to the user of a connected endpoint."""
        if self.remote is not None or self.errors_wanted:
            self._error = code
            self.notify(Ready.READABLE | Ready.WRITABLE | Ready.ERROR)

    def close(self, now: float) -> None:
        """Idempotent."""
        if not self.closed:
            self.closed = True
            self.stack.groups.leave_all(self, now)
            self._let_go()
            self._received.clear()
            self._watchers = ()

    def _let_go(self) -> None:
        """Gives back what the stack holds for it."""
        raise NotImplementedError
