"""A simulated router: it forwards between links, says what does not fit, or keeps silent about it.

Read first: link.py; RFC 1812 5.2 and 5.3.1, RFC 8200 4.5.  It knows the way to every address in its network from the
links themselves, and its neighbours' link addresses from their devices.  It answers ARP and neighbour solicitations for
its own addresses, and nothing else.  No options of IP, no groups.
"""

from collections import Counter, deque
from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING

from swos_net.address import from_packed, is_ipv4, is_link_local, is_multicast, parse_address
from swos_net.config import StackConfig
from swos_net.errors import WireError
from swos_net.icmp.errors import IcmpErrorPolicy
from swos_net.ip.fragmentation import fragment
from swos_net.link import LinkFeatures, Medium
from swos_net.testing.packet import Frame
from swos_net.wire import arp, icmpv4, icmpv6, ipv4, ipv6, ndisc
from swos_net.wire.checksum import internet_checksum

if TYPE_CHECKING:
    from swos_net.testing.network import Link, Network

ETHERTYPE_ARP = b"\x08\x06"
DONT_FRAGMENT = 0x40
ROUTER_CONFIG = StackConfig(icmp_errors_per_second=1e9, icmp_error_burst=1 << 30)


class Router:
    """Forwards IP packets between its links; made by `Network.add_router`.

    `silent` routers never send ICMP errors: a packet that is too long is a packet that is gone (a black hole, RFC 2923
    2.1).  `counters` count packets: forwarded, fragmented, too_big, expired, no_route, bad_header.
    """

    def __init__(self, network: "Network", name: str, silent: bool):
        self.network = network
        self.name = name
        self.silent = silent
        self.ports: list[RouterPort] = []
        self.counters: Counter[str] = Counter()
        self._routes: dict[bytes, RouterPort | None] = {}  # by destination as in the packet: 4 or 16 bytes
        self._errors = IcmpErrorPolicy(ROUTER_CONFIG)
        self._random = Random(f"{network.seed} router {name}")

    def __repr__(self) -> str:
        return f"<Router {self.name}: {', '.join(f'{count} {what}' for what, count in self.counters.items())}>"

    def forget_routes(self) -> None:
        """After a change of the network; the ways are looked for again."""
        self._routes.clear()

    def forward(self, incoming: "RouterPort", frame: Frame, now: float) -> None:
        """One frame that arrived at a port."""
        data = frame[0]
        at = incoming.link.link_header
        if at and data[12:14] == ETHERTYPE_ARP:
            incoming.answer_arp(data, now)
            return
        if len(data) < at + 20:
            return
        version = data[at] >> 4
        if version == 4:
            header_length = (data[at] & 15) * 4
            if header_length < 20 or internet_checksum(data[at : at + header_length]):
                self.counters["bad_header"] += 1  # RFC 1812 5.2.2
                return
            destination, lifetime = data[at + 16 : at + 20], data[at + 8]
        elif version == 6 and len(data) >= at + 40:
            destination, lifetime = data[at + 24 : at + 40], data[at + 7]
        else:
            return
        outgoing = self._routes.get(destination)
        if outgoing is None:
            address = from_packed(destination)
            if is_multicast(address) or any(port.has_address(address) for port in self.ports):
                if version == 6:
                    incoming.answer_solicitation(data, now)
                return
            outgoing = self._routes[destination] = self._find(address)
            if outgoing is None:
                self.counters["no_route"] += 1
                kind, code = (3, 0) if version == 4 else (1, 0)
                self._complain(incoming, data[at:], kind, code, 0, now)
                return
        if lifetime <= 1:
            self.counters["expired"] += 1
            kind = icmpv4.TIME_EXCEEDED if version == 4 else icmpv6.TIME_EXCEEDED
            self._complain(incoming, data[at:], kind, 0, 0, now)
            return
        if version == 4:
            # RFC 1812 5.3.1; the checksum follows as in RFC 1624: the time to live is the upper byte of its word
            checksum = int.from_bytes(data[at + 10 : at + 12], "big") + 0x100
            checksum = (checksum & 0xFFFF) + (checksum >> 16)
            packet = b"".join((data[at : at + 8], bytes((lifetime - 1, data[at + 9])), checksum.to_bytes(2, "big"), data[at + 12 :]))
        else:
            packet = b"".join((data[at : at + 7], bytes((lifetime - 1,)), data[at + 8 :]))
        mtu = outgoing.mtu
        if len(packet) <= mtu:
            self.counters["forwarded"] += 1
            outgoing.transmit(packet, now)
        elif version == 4 and not packet[6] & DONT_FRAGMENT:
            self.counters["fragmented"] += 1
            for part in fragment(packet, mtu, self._random.getrandbits(16)):
                outgoing.transmit(part, now)
        else:
            self.counters["too_big"] += 1
            kind, code = (3, icmpv4.FRAGMENTATION_NEEDED) if version == 4 else (icmpv6.PACKET_TOO_BIG, 0)
            self._complain(incoming, data[at:], kind, code, mtu, now)

    def _make_end(self, features: LinkFeatures, link: "Link", far: object) -> "RouterPort":
        return RouterPort(self, features, link, far)

    def _join(self, port: "RouterPort", far: object, addresses: Iterable[str] | None) -> None:
        """Takes addresses on a new link, and becomes the gateway of a host that has none."""
        end = next(end for end in port.on.ends if end is not port)
        port.far_address = end.link.address
        if isinstance(far, Router):
            port.addresses = [parse_address(item.partition("/")[0]) for item in addresses or ()]
            return
        interface = far.interface_on(port.on)
        if addresses is not None:
            port.addresses = [parse_address(item.partition("/")[0]) for item in addresses]
        else:
            entries = [entry for entry in interface.addresses if not is_link_local(entry.address)]
            found = [gateway_for(entry.address, entry.prefix_length) for entry in entries]
            port.addresses = [gateway for gateway in found if gateway is not None]
        for gateway in port.addresses:
            far.add_gateway(interface, gateway)

    def _complain(self, incoming: "RouterPort", packet: bytes, kind: int, code: int, info: int, now: float) -> None:
        if self.silent:
            return
        ipv4_packet = packet[0] >> 4 == 4
        ports = [incoming, *self.ports]
        # RFC 1812 2.2.7: the address of a router without one on that link is one of its others
        source = next((address for port in ports for address in port.addresses if is_ipv4(address) == ipv4_packet), None)
        if source is None:
            return
        error = self._errors.error_for(packet, kind, code, info=info, source=source, link_broadcast=False, now=now)
        if error is not None:
            incoming.transmit(error, now)

    def _find(self, destination: bytes) -> "RouterPort | None":
        """The port towards the nearest link that `destination` is on."""
        reached = {self}
        ways: deque[tuple[RouterPort, object, Link]] = deque((port, port.far, port.on) for port in self.ports)
        while ways:
            port, node, link = ways.popleft()
            if node in reached:
                continue
            if not isinstance(node, Router):
                if node.is_on(link, destination):
                    return port
                continue
            reached.add(node)
            ways.extend((port, further.far, further.on) for further in node.ports)
        return None


class RouterPort:
    """One end of a link; what a wire leads to."""

    def __init__(self, router: Router, link: LinkFeatures, on: "Link", far: object):
        self.router = router
        self.link = link
        self.on = on
        self.far = far  # a host or a router
        self.addresses: list[bytes] = []
        self.wire = None
        self.far_address: bytes | None = None  # on the link
        self._packets: dict[bytes, object] = {}

    @property
    def mtu(self) -> int:
        """Of the wire away from here."""
        limit = self.wire.impairment.packet_max
        return self.link.mtu if limit is None or limit > self.link.mtu else limit

    def has_address(self, address: bytes) -> bool:
        return address in self.addresses

    def arrive(self, frames: Iterable[Frame], now: float) -> None:
        """From the wire."""
        for frame in frames:
            self.router.forward(self, frame, now)

    def transmit(self, packet: bytes, now: float) -> None:
        """An IP packet, to whoever is at the other end."""
        if self.link.medium is Medium.ETHERNET:
            ethertype = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
            packet = b"".join((self.far_address, self.link.address, ethertype, packet))
        self.wire.send((packet, 0, 0, 0), now)

    def answer_arp(self, frame: bytes, now: float) -> None:
        try:
            question = arp.parse(frame[14:])
        except WireError:
            return
        if question.operation == arp.REQUEST and self.has_address(question.target_address):
            answer = arp.reply(self.link.address, question.target_address, question.sender_link_address, question.sender_address)
            self.wire.send((question.sender_link_address + self.link.address + ETHERTYPE_ARP + answer, 0, 0, 0), now)

    def answer_solicitation(self, frame: bytes, now: float) -> None:
        """RFC 4861 7.2.4"""
        at = self.link.link_header
        try:
            header = ipv6.parse(frame[at:])
            message = frame[at + ipv6.HEADER_LENGTH : at + ipv6.HEADER_LENGTH + header.payload_length]
            if header.next_header != ipv6.PROTOCOL_ICMPV6 or message[:1] != bytes((ndisc.NEIGHBOR_SOLICITATION,)):
                return
            question = ndisc.parse(message, header.source, header.destination)
        except WireError:
            return
        if not self.has_address(question.target) or header.source == bytes(16):
            return
        options = ndisc.NdOptions(target_link_address=self.link.address)
        answer = ndisc.NeighborAdvertisement(question.target, router=True, solicited=True, override=True, options=options)
        raw = ndisc.emit(answer, question.target, header.source)
        self.transmit(ipv6.emit(ipv6.Ipv6Header(question.target, header.source, ipv6.PROTOCOL_ICMPV6, ndisc.HOP_LIMIT), raw), now)


def gateway_for(address: bytes, prefix_length: int) -> bytes | None:
    """What a router calls itself on a link of a host with this address: the last address of the prefix."""
    bits = 32 if is_ipv4(address) else 128
    host_bits = bits - prefix_length
    if host_bits < 2:
        return None
    last = int.from_bytes(address, "big") | ((1 << host_bits) - 1)
    if is_ipv4(address):
        last -= 1  # the very last one is the broadcast address
    gateway = last.to_bytes(16, "big")
    return gateway if gateway != address else None


