"""Whatever arrives, nothing is raised, nothing grows without bound, and those who behave are still served.

True frames of all kinds are changed in random places; half of them get right checksums again (or claim that somebody
has checked them, as a guest may), so that what is behind the checks is reached too.
"""

import ipaddress
import random

import pytest

from swos_net.address import UNSPECIFIED4, UNSPECIFIED6, parse_address
from swos_net.config import NeighborConfig, ReassemblyConfig, StackConfig
from swos_net.dataplane.burst import Burst
from swos_net.link import Medium
from swos_net.neighbor.router_advertiser import AdvertisedPrefix, RouterAdvertiserConfig
from swos_net.runtime.open_stack import default_dhcp_server
from swos_net.stack.dhcp_service import DhcpServerService
from swos_net.testing.network import Network
from swos_net.testing.packet import Frame
from swos_net.wire import icmpv4, icmpv6, igmp, ipv4, ipv6, mld
from swos_net.wire.checksum import internet_checksum, pseudo_header_sum

CONFIG = StackConfig(
    half_open_limit=50,
    max_connections=500,
    udp_receive_buffer=50_000,
    neighbor=NeighborConfig(cache_size=64),
    reassembly=ReassemblyConfig(datagrams=16, bytes=200_000),
)
CHECKED = 2
GROUPS = [parse_address("239.1.2.3"), parse_address("ff05::1:3")]


RAW = [(UNSPECIFIED4, 1), (UNSPECIFIED4, 2), (UNSPECIFIED4, 99), (UNSPECIFIED6, 58), (UNSPECIFIED6, 99)]


def victim(network, medium):
    host = network.add_host("victim", ["10.0.0.2/24", "2001:db8::2/64"], config=CONFIG)
    other = network.add_host("other", ["10.0.0.1/24", "2001:db8::1/64"])
    link = network.link(other, host, medium=medium)
    host.listen(80)
    member = host.open_udp(5353)
    for group in GROUPS:
        host.stack.groups.join(member, group, 2, network.now)
    if medium is Medium.ETHERNET:
        DhcpServerService(host.interface, default_dhcp_server([ipaddress.ip_interface("10.0.0.2/24")], 1500))
        prefix = AdvertisedPrefix(parse_address("2001:db8::"), 64)
        host.interface.advertise(RouterAdvertiserConfig(prefixes=(prefix,), mtu=1500), network.now)
    return host, other, link


def corpus(medium):
    """Frames towards the victim from an exchange that uses everything, and some that an honest peer would not send."""
    network = Network(9)
    host, other, link = victim(network, medium)
    frames = []
    link.towards(host).observe(lambda crossing: frames.append(crossing.frame.data))
    for address in ("10.0.0.2", "2001:db8::2"):
        stream = other.connect(address, 80)
        network.run(lambda stream=stream: stream.connected)
        stream.send(bytes(range(256)) * 20)
        udp = other.open_udp()
        other.send_udp(udp, b"datagram", address, 5353)
        other.send_udp(udp, b"nobody", address, 5354)
        other.send_udp(udp, bytes(4000), address, 5353)
        other.send_udp(udp, b"dhcp", address, 67)
        refused = other.connect(address, 81)
        network.run(network.now + 1.0)
        stream.close()
        assert refused.closed
        network.run(network.now + 1.0)
    header = 14 if medium is Medium.ETHERNET else 0
    sample = {4: next(frame for frame in frames if frame[header] >> 4 == 4 and frame[header + 9] == 6),
              6: next(frame for frame in frames if frame[header] >> 4 == 6 and frame[header + 6] == 6)}  # fmt: skip
    for family, (source, destination) in {4: ("10.0.0.1", "10.0.0.2"), 6: ("2001:db8::1", "2001:db8::2")}.items():
        source, destination = parse_address(source), parse_address(destination)
        ours = sample[family][header:]
        for kind in range(6):
            if family == 4:
                quoted = ipv4.emit(ipv4.Ipv4Header(destination, source, 6 if kind else 17), ours[20:60])
                message = icmpv4.emit(
                    icmpv4.Icmpv4Message([3, 3, 8, 11, 12, 5][kind], [4, 1, 0, 1, 0, 0][kind], 1300, quoted)
                )
                packet = ipv4.emit(ipv4.Ipv4Header(source, destination, 1), message)
            else:
                quoted = ipv6.emit(ipv6.Ipv6Header(destination, source, 6 if kind else 17), ours[40:80])
                message = icmpv6.Icmpv6Message([1, 2, 3, 4, 128, 137][kind], 0, 1300, quoted)
                packet = ipv6.emit(ipv6.Ipv6Header(source, destination, 58), icmpv6.emit(message, source, destination))
            frames.append(sample[family][:header] + packet)
        if family == 6:
            for chain in (
                b"\x3c\x00" + bytes(6) + b"\x06\x00" + bytes(6),
                b"\x2c\x00" + bytes(6) + b"\x11\x00\x00\x01" + bytes(4),
            ):
                packet = ipv6.emit(
                    ipv6.Ipv6Header(source, destination, 0 if chain[0] == 0x3C else 60), chain + ours[40:]
                )
                frames.append(sample[6][:header] + packet)
        frames += [sample[family][:header] + packet for packet in memberships(family)]
    return frames


def memberships(family):
    """What routers ask and other hosts say of groups, and pings that want to be told of the way."""
    group = GROUPS[family == 6]
    source = parse_address("fe80::99" if family == 6 else "10.0.0.1")
    sources = tuple(source[:15] + bytes([number]) for number in range(40))
    for message in (
        igmp.Query(None, 1.0, 3), igmp.Query(group, 1.0, 3, sources, 7, 125.0), igmp.Query(None, 1.0, 2), igmp.Query(group, 0.1, 2),
        igmp.Report(2, (igmp.Record(2, group),)), igmp.Report(3, (igmp.Record(4, group, sources),) * 3), igmp.Leave(group),
    ):  # fmt: skip
        if family == 4:
            header = ipv4.Ipv4Header(source, igmp.ALL_SYSTEMS, 2, 1, options=igmp.ROUTER_ALERT)
            yield ipv4.emit(header, igmp.emit(message))
        else:
            payload = ipv6.emit_router_alert(58) + mld.emit(message, source, mld.ALL_NODES)
            yield ipv6.emit(ipv6.Ipv6Header(source, mld.ALL_NODES, 0, 1), payload)
    if family == 4:
        for options in (b"\x07\x0b\x04" + bytes(9), b"\x44\x0c\x05\x01" + bytes(8), b"\x83\x07\x04" + bytes(5)):
            header = ipv4.Ipv4Header(source, parse_address("10.0.0.2"), 1, options=options)
            yield ipv4.emit(header, icmpv4.emit(icmpv4.echo_request(1, 2, b"ping")))


def repaired(frame, header):
    """With right lengths and checksums, as far as the headers make sense."""
    data = bytearray(frame)
    packet = memoryview(data)[header:]
    if len(packet) >= 20 and packet[0] >> 4 == 4 and len(packet) >= (packet[0] & 15) * 4 >= 20:
        start = (packet[0] & 15) * 4
        packet[2:4] = min(len(packet), 65535).to_bytes(2, "big")
        packet[10:12] = bytes(2)
        packet[10:12] = internet_checksum(bytes(packet[:start])).to_bytes(2, "big")
        protocol, source, destination = packet[9], parse4(packet[12:16]), parse4(packet[16:20])
    elif len(packet) >= 40 and packet[0] >> 4 == 6:
        start = 40
        packet[4:6] = min(len(packet) - 40, 65535).to_bytes(2, "big")
        protocol, source, destination = packet[6], bytes(packet[8:24]), bytes(packet[24:40])
    else:
        return bytes(data)
    at = {6: 16, 17: 6, 1: 2, 58: 2}.get(protocol)
    if at is not None and len(packet) >= start + at + 2:
        packet[start + at : start + at + 2] = bytes(2)
        initial = 0 if protocol == 1 else pseudo_header_sum(source, destination, protocol, len(packet) - start)
        packet[start + at : start + at + 2] = internet_checksum(bytes(packet[start:]), initial).to_bytes(2, "big")
    return bytes(data)


def parse4(packed):
    return bytes(10) + b"\xff\xff" + bytes(packed)


def mutated(generator, frames, header):
    frame = bytearray(generator.choice(frames))
    for _ in range(generator.choice((0, 1, 1, 1, 2, 4, 16))):
        kind = generator.randrange(7)
        at = generator.randrange(len(frame)) if frame else 0
        if kind == 0 and frame:
            frame[at] = generator.randrange(256)
        elif kind == 1 and frame:
            frame[at] ^= 1 << generator.randrange(8)
        elif kind == 2 and frame:  # the headers are where it hurts
            at = min(len(frame) - 1, header + generator.randrange(60))
            frame[at] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))
        elif kind == 3:
            del frame[at:]
        elif kind == 4:
            frame[at:at] = generator.randbytes(generator.randrange(40))
        elif kind == 5:
            other = generator.choice(frames)
            frame[at:] = other[generator.randrange(len(other)) :]
        elif len(frame) > header + 24:
            field = header + generator.choice((24, 28, 44, 48))  # sequence and acknowledgment numbers
            frame[field : field + 4] = generator.randbytes(4)
    return repaired(bytes(frame), header) if generator.random() < 0.5 else bytes(frame)


@pytest.mark.parametrize("medium", list(Medium), ids=lambda medium: medium.name)
@pytest.mark.parametrize("seed", range(4))
def test_mutated_frames(medium, seed):
    generator = random.Random(f"{seed} {medium}")
    frames = corpus(medium)
    header = 14 if medium is Medium.ETHERNET else 0
    network = Network(9)
    host, other, link = victim(network, medium)
    heard = [host.stack.raw.open(host.stack.root, local, protocol) for local, protocol in RAW] if seed % 2 else []
    streams = [other.connect(address, 80) for address in ("10.0.0.2", "2001:db8::2")]
    network.run(lambda: all(stream.connected for stream in streams))
    device = host.poller.ports[0].device
    for round_ in range(60):
        for _ in range(50):
            frame = mutated(generator, frames, header)[:65000]
            checksum = generator.choice((0, 0, CHECKED))
            device.arrived.append(
                Frame(frame, checksum, generator.choice((0, 0, 0, 0, 1, 4)), generator.choice((0, 100, 1448)))
            )
        network.run(network.now + generator.choice((0.01, 0.01, 1.0, 70.0 if round_ % 20 == 19 else 0.1)))
        bounded(host)
    network.run(network.now + 400.0)
    bounded(host)
    for endpoint in heard:
        size = 0
        while (datagram := endpoint.receive()) is not None:
            size += len(datagram.payload)
        assert size <= CONFIG.udp_receive_buffer
    # it still works
    stream = other.connect("2001:db8::2", 80, local_port=33333)
    network.run(lambda: stream.connected, limit=30)


def bounded(host):
    stack, interface = host.stack, host.interface
    assert len(stack.tcp.flows) <= CONFIG.max_connections
    assert len(interface.control) <= 1024
    assert len(interface.neighbors.entries()) <= CONFIG.neighbor.cache_size
    assert stack.input.reassembler.bytes_held <= CONFIG.reassembly.bytes
    assert len(stack.deadlines) <= 64 + 2 * (len(stack.tcp.flows) + 10)
    for endpoint in stack.tcp.flows.values():
        assert len(endpoint.connection.tcb.replies) <= 16
        assert len(endpoint.connection.tcb.out_of_order) <= 256


@pytest.mark.parametrize("medium", list(Medium), ids=lambda medium: medium.name)
def test_random_bytes(medium):
    generator = random.Random(f"random {medium}")
    network = Network(9)
    host, _, _ = victim(network, medium)
    burst = Burst()
    for _ in range(300):
        burst.clear()
        for _ in range(64):
            data = generator.randbytes(generator.choice((0, 1, 13, 14, 20, 33, 34, 54, 60, 74, 200, 1514)))
            if data and generator.random() < 0.8:
                at = 14 if medium is Medium.ETHERNET and len(data) > 14 else 0
                if at:
                    data = (
                        host.interface.link.address
                        + data[6:12]
                        + generator.choice((b"\x08\x00", b"\x86\xdd", b"\x08\x06"))
                        + data[14:]
                    )
                data = data[:at] + bytes([generator.choice((0x45, 0x46, 0x60, 0x4F))]) + data[at + 1 :]
            burst.add(data, medium, checksum=CHECKED)
        host.stack.receive_burst(host.interface, burst, network.now)
        network.run(network.now + 0.01)


def test_a_syn_for_every_port_from_everywhere_is_cheap_to_forget():
    """Nothing of refused connections stays."""
    network = Network(3)
    host, other, _ = victim(network, Medium.ETHERNET)
    for port in range(1000, 1400):
        other.connect("10.0.0.2", port)
    network.run(network.now + 5.0)  # those that the neighbour cache had no room for go again
    assert not host.stack.tcp.flows and not other.stack.tcp.flows
    assert len(host.stack.deadlines) < 80
    assert host.stack.tcp.ports.find(UNSPECIFIED6 + UNSPECIFIED6 + b"\0\x50\0\0") is not None
