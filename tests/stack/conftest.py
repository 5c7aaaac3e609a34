"""Two hosts on a simulated link, and frames made by hand."""

import pytest

from swos_net.address import parse_address
from swos_net.config import StackConfig, TcpConfig
from swos_net.testing.network import Network
from swos_net.wire import ethernet, ipv4, ipv6, tcp, udp

CLIENT = {4: "10.0.0.1", 6: "2001:db8::1"}
SERVER = {4: "10.0.0.2", 6: "2001:db8::2"}
NOBODY = {4: "10.0.0.99", 6: "2001:db8::99"}


class Pair:
    """`client` and `server` on `link`; `frames` are all that were sent, with their times and fates."""

    client_address, server_address, nobody = CLIENT, SERVER, NOBODY

    def __init__(self, seed, client_config, server_config, link):
        self.network = Network(seed)
        self.client = self.network.add_host("client", [CLIENT[4] + "/24", CLIENT[6] + "/64"], config=client_config)
        self.server = self.network.add_host("server", [SERVER[4] + "/24", SERVER[6] + "/64"], config=server_config)
        self.link = self.network.link(self.client, self.server, **link)
        self.frames = []
        self.link.observe(lambda crossing: self.frames.append((crossing.time, crossing.frame.data, crossing.fate)))

    @property
    def now(self):
        return self.network.now

    def run(self, until, limit=3600.0):
        return self.network.run(until, limit)

    def rest(self, seconds=1.0):
        """Lets time pass."""
        self.network.run(self.now + seconds)

    def open(self, family=4, port=80, **arguments):
        """(client's stream, server's stream) of a new connection."""
        acceptor = self.server.listen(port)
        stream = self.client.connect(SERVER[family], port, **arguments)
        self.run(lambda: acceptor.streams)
        acceptor.close()
        return stream, acceptor.streams[0]

    def resolve(self):
        """Both know each other's link address; `frames` start anew."""
        for family in (4, 6):
            self.client.send_udp(self.client.open_udp(), b"", SERVER[family], 9)
        self.rest(10.0)
        self.frames.clear()

    def segments(self, start=0):
        """(time, TcpHeader, payload, fate) of the TCP segments sent."""
        return [
            (now, *parsed, fate) for now, frame, fate in self.frames[start:] if (parsed := parse_tcp(frame)) is not None
        ]


def parse_tcp(frame):
    """(header, payload) of a frame with a TCP segment, checked; None for others."""
    ethertype = ethernet.parse(frame).ethertype
    packet = frame[14:]
    if ethertype == ethernet.ETHERTYPE_IPV4:
        header = ipv4.parse(packet)
        if header.protocol != 6:
            return None
        raw = packet[header.header_length : header.total_length]
    elif ethertype == ethernet.ETHERTYPE_IPV6:
        header = ipv6.parse(packet)
        if header.next_header != 6:
            return None
        raw = packet[40 : 40 + header.payload_length]
    else:
        return None
    assert tcp.checksum_valid(raw, header.source, header.destination)
    parsed = tcp.parse(raw)
    return parsed, raw[parsed.header_length :]


def tcp_packet(source, destination, header, payload=b""):
    """An IP packet with a TCP segment; addresses are text."""
    source, destination = parse_address(source), parse_address(destination)
    raw = tcp.emit(header, payload, source, destination)
    return ip_packet(source, destination, 6, raw)


def udp_packet(source, destination, source_port, destination_port, payload=b""):
    source, destination = parse_address(source), parse_address(destination)
    return ip_packet(
        source, destination, 17, udp.emit(udp.UdpHeader(source_port, destination_port), payload, source, destination)
    )


def ip_packet(source, destination, protocol, payload):
    if destination[:12] == bytes(10) + b"\xff\xff":
        return ipv4.emit(ipv4.Ipv4Header(source, destination, protocol), payload)
    return ipv6.emit(ipv6.Ipv6Header(source, destination, protocol), payload)


def framed(packet, destination, source=b"\x02\x00\x00\x00\x00\x99"):
    """`packet` in an Ethernet frame to a MAC address."""
    ethertype = ethernet.ETHERTYPE_IPV4 if packet[0] >> 4 == 4 else ethernet.ETHERTYPE_IPV6
    return ethernet.emit(ethernet.EthernetHeader(destination, source, ethertype), packet)


class Tools:
    parse_tcp, tcp_packet, udp_packet, ip_packet, framed = map(
        staticmethod, (parse_tcp, tcp_packet, udp_packet, ip_packet, framed)
    )


@pytest.fixture
def tools():
    return Tools


@pytest.fixture
def pair():
    """Makes pairs: `pair(seed, delay=..., tcp=dict(...), server_tcp=dict(...))`."""

    def make(seed=1, *, tcp=None, server_tcp=None, config=None, server_config=None, **link):
        client_config = config or StackConfig(tcp=TcpConfig(**(tcp or {})))
        server_tcp = tcp if server_tcp is None else server_tcp
        return Pair(seed, client_config, server_config or StackConfig(tcp=TcpConfig(**(server_tcp or {}))), link)

    return make
