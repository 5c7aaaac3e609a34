"""Who may open raw sockets sends itself anything: the host takes it as it takes what comes over a link."""

import random

import pytest

from swos_net.address import LOOPBACK4, LOOPBACK6, UNSPECIFIED4, UNSPECIFIED6, parse_address
from swos_net.config import ReassemblyConfig, StackConfig
from swos_net.runtime.poll import Poller
from swos_net.stack.stack import Stack
from swos_net.wire import icmpv4, icmpv6, igmp, ipv4, ipv6, tcp, udp

CONFIG = StackConfig(half_open_limit=50, max_connections=300, udp_receive_buffer=50_000,
                     reassembly=ReassemblyConfig(datagrams=16, bytes=200_000))  # fmt: skip
GROUPS = {4: parse_address("239.1.2.3"), 6: parse_address("ff05::1:3")}
SELF = {4: LOOPBACK4, 6: LOOPBACK6}
ANY = {4: UNSPECIFIED4, 6: UNSPECIFIED6}


class Host:
    def __init__(self, generator):
        self.stack = Stack(CONFIG, random=generator)
        self.poller = Poller(self.stack)
        self.now = 1.0
        self.listener = self.stack.tcp_listen(self.stack.root, UNSPECIFIED6, 80, 100, dual_stack=True)
        self.member = self.stack.udp_open(self.stack.root, UNSPECIFIED6, 5353, dual_stack=True)
        for group in GROUPS.values():
            self.stack.groups.join(self.member, group, 1, self.now)

    def run(self, seconds=0.0):
        end = self.now + seconds
        turns = 0
        while self.poller.poll(self.now):
            turns += 1
            assert turns < 1000, "two of its own parts answer each other without end"
        while (deadline := self.poller.next_deadline()) is not None and deadline <= end:
            self.now = max(deadline, self.now)
            self.poller.poll(self.now)
        self.now = end


def transports(family):
    """(protocol, bytes) as an honest host would send them to itself."""
    own = SELF[family]
    for flags in (tcp.SYN, tcp.ACK, tcp.RST, tcp.FIN | tcp.ACK, tcp.SYN | tcp.ACK):
        yield 6, tcp.emit(tcp.TcpHeader(1234, 80, 1, 2, flags, 1000), b"text", own, own)
    for port in (5353, 9):
        yield 17, udp.emit(udp.UdpHeader(5353, port), b"datagram", own, own)
    if family == 4:
        yield 1, icmpv4.emit(icmpv4.echo_request(1, 2, b"ping"))
        yield 1, icmpv4.emit(icmpv4.unreachable(3, ipv4.emit(ipv4.Ipv4Header(own, own, 17), bytes(20))))
        yield 2, igmp.emit(igmp.Query(None, 1.0, 3))
    else:
        yield 58, icmpv6.emit(icmpv6.echo_request(1, 2, b"ping"), own, own)
        yield 58, icmpv6.emit(icmpv6.Icmpv6Message(135, 0, 0, own), own, own)
        yield 58, icmpv6.emit(icmpv6.Icmpv6Message(130, 0, 0, bytes(20)), own, own)
    yield 99, b"nobody speaks it"


def changed(generator, data):
    data = bytearray(data)
    for _ in range(generator.choice((0, 1, 1, 2, 8))):
        if not data:
            break
        at = generator.randrange(len(data))
        kind = generator.randrange(4)
        if kind == 0:
            data[at] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = generator.randbytes(generator.randrange(60))
        else:
            data[at] ^= 1 << generator.randrange(8)
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_anything_over_raw_sockets(seed):
    generator = random.Random(f"loopback {seed}")
    host = Host(generator)
    family = 4 if seed % 2 else 6
    kinds = list(transports(family))
    sockets = {protocol: host.stack.raw.open(host.stack.root, ANY[family], protocol) for protocol, _ in kinds}
    whole = host.stack.raw.open(host.stack.root, UNSPECIFIED4, 255)
    refused = 0
    for number in range(1500):
        protocol, data = generator.choice(kinds)
        remote = generator.choice((SELF[family], SELF[family], GROUPS[family], parse_address("127.9.9.9") if family == 4 else SELF[6]))
        try:
            if family == 4 and generator.random() < 0.5:
                options = generator.choice((b"", b"", generator.randbytes(8), b"\x07\x07\x04\0\0\0\0\0", igmp.ROUTER_ALERT))
                packet = ipv4.emit(ipv4.Ipv4Header(SELF[4], remote, protocol, generator.choice((0, 1, 64)), options=options,
                                                   flags=generator.choice((0, 0, 0x2000))), data)  # fmt: skip
                whole.send_to(changed(generator, packet), remote, 0, host.now)
            else:
                sockets[protocol].send_to(changed(generator, data), remote, 0, host.now)
        except OSError:
            refused += 1
        if generator.random() < 0.3:
            host.run(generator.choice((0.0, 0.0, 0.01, 1.0)))
            while host.listener.accept() is not None:
                pass
            assert len(host.stack.tcp.flows) <= CONFIG.max_connections
            assert host.stack.input.reassembler.bytes_held <= CONFIG.reassembly.bytes
    assert refused < 1500 // 2
    host.run(400.0)
    for endpoint in (*sockets.values(), host.member):
        size = 0
        while True:
            try:
                datagram = endpoint.receive()
            except OSError:
                continue
            if datagram is None:
                break
            size += len(datagram.payload)
        assert size <= CONFIG.udp_receive_buffer
    for address in SELF.values():
        client = host.stack.tcp_connect(host.stack.root, address, 80, host.now)
        host.run(3.0)
        assert client.connected
