"""Raw IP endpoints, and echo endpoints ("ping sockets"): IP datagrams of one protocol (raw(7), icmp(7), RFC 3542).

Read first: datagram_endpoint.py.  A raw endpoint gets a copy of what arrives for its protocol, unless that is TCP or UDP;
an echo endpoint sends echo requests and gets the replies to them.
"""

import errno

from swos_net.address import is_ipv4, is_unspecified
from swos_net.capability import Capability
from swos_net.errors import WireError, os_error
from swos_net.stack.datagram_endpoint import ORDINARY, Datagram, DatagramEndpoint, SendChoice, SendOptions
from swos_net.wire import ipv4, ipv6
from swos_net.wire.checksum import internet_checksum, pseudo_header_sum

PROTOCOL_ICMP = 1
PROTOCOL_ICMPV6 = 58
PROTOCOL_RAW = 255
UNHEARD = frozenset({6, 17, PROTOCOL_RAW})
ECHO_REQUEST = {True: 8, False: 128}  # by "is IPv4"
ECHO_REPLY = {True: 0, False: 129}
PAYLOAD_MAX = 65535


def rule_protocol(protocol: int) -> str:
    """What a capability's rules call it."""
    return "icmp" if protocol in (PROTOCOL_ICMP, PROTOCOL_ICMPV6) else "raw"


class PacketEndpoint(DatagramEndpoint):
    """What raw and echo endpoints have in common: one IP protocol in packets of one family, without ports of peers."""

    __slots__ = ("ipv4", "protocol")

    operation: str  # what a capability's rules call its sending

    def __init__(self, stack, capability: Capability, local: bytes, protocol: int):
        super().__init__(stack, capability, local)
        self.ipv4 = is_ipv4(local)
        self.protocol = protocol
        self.addresses = (local,)

    def bind(self, addresses: tuple[bytes, ...], port: int) -> None:
        """Packets to that address only, and from it.  EADDRNOTAVAIL when it is not ours."""
        address = addresses[0]
        if not is_unspecified(address) and not self.stack.is_local(address):
            raise os_error(errno.EADDRNOTAVAIL, f"{self.stack.describe(address, 0)} is not an address of this stack")
        self._take(port)
        self.local = address
        self.addresses = (address,)

    def _take(self, port: int) -> None:
        """Takes what stands in a port's place, if anything does; OSError when it cannot be had."""

    def connect(self, remote: bytes, remote_port: int) -> None:
        self._check(remote)
        choice = self.choose(remote, ORDINARY)
        self.bind_anywhere(self.addresses)
        self.remote, self.remote_port = remote, remote_port
        if is_unspecified(self.local):
            self.local = choice.source

    def disconnect(self) -> None:
        self.remote, self.remote_port = None, 0
        self.local = self.addresses[0]

    def _check(self, remote: bytes) -> None:
        self.capability.check(self.operation, rule_protocol(self.protocol), remote, 0)

    def _packet(self, choice: SendChoice, remote: bytes, payload: bytes) -> bytes:
        if self.ipv4:
            header = ipv4.Ipv4Header(choice.source, remote, self.protocol, choice.hop_limit, choice.traffic_class,
                                     self.stack.random.getrandbits(16))  # fmt: skip
            return ipv4.emit(header, payload)
        return ipv6.emit(ipv6.Ipv6Header(choice.source, remote, self.protocol, choice.hop_limit, choice.traffic_class), payload)

    def _let_go(self) -> None:
        self.stack.raw.closed(self)


class RawEndpoint(PacketEndpoint):
    """One raw socket's share of the stack.  Made by `RawDemux.open`."""

    __slots__ = ("blocked_types", "checksum_offset", "whole_header")

    operation = "raw"

    def __init__(self, stack, capability: Capability, local: bytes, protocol: int):
        super().__init__(stack, capability, local, protocol)
        self.whole_header = self.ipv4 and protocol == PROTOCOL_RAW  # IP_HDRINCL
        self.checksum_offset = 2 if protocol == PROTOCOL_ICMPV6 and not self.ipv4 else -1  # IPV6_CHECKSUM
        self.blocked_types = 0  # ICMP_FILTER and ICMP6_FILTER: a bit for each type that is not wanted

    def send_to(self, payload: bytes, remote: bytes, remote_port: int, now: float, options: SendOptions = ORDINARY) -> int:
        """Sends one packet; errors as those of `UdpEndpoint.send_to`."""
        if self._error:
            raise os_error(self.take_error(), "an earlier packet was answered with an ICMP error")
        self._check(remote)
        if len(payload) > PAYLOAD_MAX - (20 if self.ipv4 and not self.whole_header else 0):
            raise os_error(errno.EMSGSIZE, "an IP packet carries at most 65535 bytes")
        choice = self.choose(remote, options)
        if self.whole_header:
            packet = self._with_own_header(payload, choice.source)
        else:
            packet = self._packet(choice, remote, self._with_checksum(payload, choice.source, remote))
        if not self.fragment and len(packet) > self.stack.path_mtus.mtu(remote, choice.interface.link.mtu, now):
            raise os_error(errno.EMSGSIZE, "the path takes no packet of this length whole")
        choice.interface.send_packet(packet, choice.next_hop, now)
        return len(payload)

    def _with_own_header(self, packet: bytes, source: bytes) -> bytes:
        """IP_HDRINCL: the checksum, an identification of 0 and a source of 0 are filled in (raw(7))."""
        try:
            header = ipv4.parse_quoted(packet)
        except WireError as error:
            raise os_error(errno.EINVAL, f"that is no IPv4 header: {error.reason}") from None
        if is_unspecified(header.source):
            header.source = source
        elif not self.stack.is_local(header.source):
            raise os_error(errno.EADDRNOTAVAIL, "the source in the header is not an address of this stack")
        header.identification = header.identification or self.stack.random.getrandbits(16)
        return ipv4.emit(header, packet[header.header_length :])

    def _with_checksum(self, payload: bytes, source: bytes, remote: bytes) -> bytes:
        """RFC 3542 3.1; IPv4 has no such option."""
        at = self.checksum_offset
        if at < 0 or self.ipv4:
            return payload
        if at + 2 > len(payload):
            raise os_error(errno.EINVAL, "the packet ends before its checksum")
        bare = payload[:at] + b"\0\0" + payload[at + 2 :]
        value = internet_checksum(bare, pseudo_header_sum(source, remote, self.protocol, len(bare)))
        return payload[:at] + value.to_bytes(2, "big") + payload[at + 2 :]

    def wants(self, local: bytes, remote: bytes, number: int, first: int) -> bool:
        """Whether a packet with these addresses over interface `number`, whose payload begins with byte `first`, is for it."""
        if self.device not in (0, number) or (self.remote is not None and remote != self.remote):
            return False
        if not is_unspecified(self.local) and local != self.local:
            return False
        return not self.blocked_types >> first & 1


class EchoEndpoint(PacketEndpoint):
    """One ping socket's share of the stack: `local_port` is the identifier of its echo requests."""

    __slots__ = ()

    operation = "send"

    def __init__(self, stack, capability: Capability, local: bytes):
        super().__init__(stack, capability, local, PROTOCOL_ICMP if is_ipv4(local) else PROTOCOL_ICMPV6)

    def _take(self, port: int) -> None:
        self.stack.raw.take_identifier(self, port)

    def bind_anywhere(self, addresses: tuple[bytes, ...]) -> None:
        if not self.local_port:
            self.stack.raw.take_identifier(self, 0)

    def send_to(self, payload: bytes, remote: bytes, remote_port: int, now: float, options: SendOptions = ORDINARY) -> int:
        """Sends an echo request, whose identifier and checksum are filled in; EINVAL for anything else."""
        if self._error:
            raise os_error(self.take_error(), "an earlier request was answered with an ICMP error")
        self._check(remote)
        if len(payload) < 8 or payload[0] != ECHO_REQUEST[self.ipv4] or payload[1]:
            raise os_error(errno.EINVAL, "an echo socket sends echo requests only")
        if len(payload) > PAYLOAD_MAX - 20:
            raise os_error(errno.EMSGSIZE, "an IP packet carries at most 65535 bytes")
        choice = self.choose(remote, options)
        self.bind_anywhere(self.addresses)
        message = payload[:2] + b"\0\0" + self.local_port.to_bytes(2, "big") + payload[6:]
        initial = 0 if self.ipv4 else pseudo_header_sum(choice.source, remote, self.protocol, len(message))
        message = message[:2] + internet_checksum(message, initial).to_bytes(2, "big") + message[4:]
        choice.interface.send_packet(self._packet(choice, remote, message), choice.next_hop, now)
        return len(payload)


class RawDemux:
    """Raw and echo endpoints of one stack."""

    def __init__(self, stack):
        self.stack = stack
        self.protocols: dict[int, int] = {}  # endpoints that want to hear an IP protocol
        self._raw: list[RawEndpoint] = []
        self._echo: dict[tuple[bool, int], EchoEndpoint] = {}

    def open(self, capability: Capability, local: bytes, protocol: int) -> RawEndpoint:
        """EACCES when no rule speaks of raw packets of that protocol."""
        self._opening(capability, "raw", protocol, local)
        endpoint = RawEndpoint(self.stack, capability, local, protocol)
        self._raw.append(endpoint)
        if protocol not in UNHEARD:
            self._wanted(protocol, 1)
        return endpoint

    def open_echo(self, capability: Capability, local: bytes) -> EchoEndpoint:
        """EACCES when no rule speaks of sending ICMP."""
        self._opening(capability, "send", PROTOCOL_ICMP, local)
        endpoint = EchoEndpoint(self.stack, capability, local)
        self._wanted(endpoint.protocol, 1)
        return endpoint

    def _opening(self, capability: Capability, operation: str, protocol: int, local: bytes) -> None:
        """There will be one more endpoint, when some rule lets it do anything."""
        kind = rule_protocol(protocol)
        if not any(operation in rule.operations and rule.protocol in ("*", kind) for rule in capability.rules):
            capability.check(operation, kind, local, 0)
        self.stack.endpoint_opened()

    def _wanted(self, protocol: int, change: int) -> None:
        count = self.protocols.get(protocol, 0) + change
        if count:
            self.protocols[protocol] = count
        else:
            del self.protocols[protocol]
        for interface in self.stack.interfaces:
            interface.update_responder()

    def take_identifier(self, endpoint: EchoEndpoint, identifier: int) -> None:
        """EADDRINUSE when another endpoint has it, EADDRNOTAVAIL when none is left."""
        if identifier:
            if (endpoint.ipv4, identifier) in self._echo:
                raise os_error(errno.EADDRINUSE, f"identifier {identifier} is taken: choose another")
        else:
            first = self.stack.random.getrandbits(16)
            for step in range(65535):
                identifier = (first + step) % 65535 + 1
                if (endpoint.ipv4, identifier) not in self._echo:
                    break
            else:
                raise os_error(errno.EADDRNOTAVAIL, "every identifier is in use")
        endpoint.local_port = identifier
        self._echo[endpoint.ipv4, identifier] = endpoint

    def closed(self, endpoint: PacketEndpoint) -> None:
        self.stack.endpoint_closed()
        if endpoint.protocol not in UNHEARD:
            self._wanted(endpoint.protocol, -1)
        if isinstance(endpoint, RawEndpoint):
            self._raw.remove(endpoint)
        elif self._echo.get((endpoint.ipv4, endpoint.local_port)) is endpoint:
            del self._echo[endpoint.ipv4, endpoint.local_port]

    def echo_with(self, ipv4_packet: bool, identifier: int) -> EchoEndpoint | None:
        """Whose echo requests have that identifier."""
        return self._echo.get((ipv4_packet, identifier))

    def received(self, number: int, local: bytes, remote: bytes, protocol: int, packet: bytes, transport: int, hop_limit: int,
                 traffic_class: int) -> bool:  # fmt: skip
        """A packet whose payload begins at byte `transport`; whether anybody took it."""
        ipv4_packet = is_ipv4(local)
        payload = packet[transport:]
        taken = False
        first = payload[0] if payload else 0
        for endpoint in self._raw:
            if endpoint.protocol != protocol or endpoint.ipv4 != ipv4_packet or not endpoint.wants(local, remote, number, first):
                continue
            if endpoint.capability.allows("raw", rule_protocol(protocol), remote, 0):
                taken = True
                # an IPv4 socket gets the header, too (raw(7)); an IPv6 one does not (RFC 3542 3)
                endpoint.deliver(Datagram(packet if ipv4_packet else payload, remote, 0, local, hop_limit, traffic_class, number))
        if protocol in (PROTOCOL_ICMP, PROTOCOL_ICMPV6) and len(payload) >= 8 and payload[0] == ECHO_REPLY[ipv4_packet]:
            echo = self._echo.get((ipv4_packet, int.from_bytes(payload[4:6], "big")))
            if echo is not None and echo.device in (0, number) and (echo.remote is None or echo.remote == remote):
                if echo.capability.allows("send", "icmp", remote, 0):
                    echo.deliver(Datagram(payload, remote, 0, local, hop_limit, traffic_class, number))
        return taken
