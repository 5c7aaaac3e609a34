"""Names looked up over a simulated link: what goes out, what may go out, and what a lossy or hostile server does."""

import asyncio
import contextlib
import socket

import dnslib
import pytest

from swos_net.address import parse_address
from swos_net.capability import CapabilityError, CapabilityResolveError
from swos_net.dns.config import ResolverConfig
from swos_net.runtime.driver import Driver
from swos_net.socket import resolver

SERVER = "10.0.0.2"


class VirtualDriver(Driver):
    """Waits by letting the simulated network run."""

    def __init__(self, pair):
        super().__init__(pair.client.stack)
        self.pair = pair

    @contextlib.contextmanager
    def entered(self):
        yield self.pair.now

    def wait(self, core, mask, deadline):
        while not core.poll() & mask:
            if deadline is not None and self.pair.now >= deadline:
                raise TimeoutError
            self.pair.run(min(self.pair.now + 0.01, self.pair.now + 1 if deadline is None else deadline))

    def wake(self):
        pass


class NameServer:
    """Answers on UDP and TCP port 53 of the server; `asked` are (protocol, name, source port)."""

    def __init__(self, pair, *zone, truncate=False):
        self.pair, self.truncate, self.asked = pair, truncate, []
        self.records = [record for line in zone for record in dnslib.RR.fromZone(line)]
        self.endpoint = pair.server.open_udp(53)
        self.endpoint.watch(self.datagram)
        pair.server.listen(53, self.accepted)

    def reply(self, message, protocol, port, truncate=False):
        query = dnslib.DNSRecord.parse(message)
        name = str(query.q.qname)
        self.asked.append((protocol, name, port))
        reply = query.reply()
        for record in self.records:
            if str(record.rname).lower() == name.lower() and record.rtype == query.q.qtype and not truncate:
                reply.add_answer(record)
        if not any(str(record.rname) == name for record in self.records):
            reply.header.rcode = 3
        reply.header.tc = truncate
        return bytes(reply.pack())

    def datagram(self, _mask):
        while (datagram := self.endpoint.receive()) is not None:
            answer = self.reply(datagram.payload, "udp", datagram.remote_port, self.truncate)
            self.endpoint.send_to(answer, datagram.remote, datagram.remote_port, self.pair.now)

    def accepted(self, stream):
        received = bytearray()

        def arrived(_mask):
            received.extend(stream.received)
            stream.received.clear()
            while len(received) > 2 and len(received) >= 2 + int.from_bytes(received[:2], "big"):
                length = int.from_bytes(received[:2], "big")
                answer = self.reply(bytes(received[2 : 2 + length]), "tcp", stream.endpoint.remote_port)
                del received[: 2 + length]
                stream.send(len(answer).to_bytes(2, "big") + answer)

        stream.endpoint.watch(arrived)


@pytest.fixture
def net(pair):
    def make(*arguments, **keywords):
        made = pair(*arguments, **keywords)
        made.rest(20.0)
        made.driver = VirtualDriver(made)
        made.client.stack.names.config = ResolverConfig(((parse_address(SERVER), 53),))
        return made

    return make


ZONE = ("www.example.org 60 A 192.0.2.1", "www.example.org 60 AAAA 2001:db8:9::1", "1.2.0.192.in-addr.arpa 60 PTR www.example.org")


def names(result):
    return [entry[4][0] for entry in result]


def test_names_over_the_stack(net):
    net = net()
    server = NameServer(net, *ZONE)
    with net.client.stack.root.activate():
        assert sorted(names(resolver.getaddrinfo("www.example.org", 80, 0, socket.SOCK_STREAM))) == ["192.0.2.1", "2001:db8:9::1"]
        assert resolver.gethostbyname("www.example.org") == "192.0.2.1"
        assert resolver.getnameinfo(("192.0.2.1", 80), 0) == ("www.example.org", "http")
        with pytest.raises(socket.gaierror) as caught:
            resolver.getaddrinfo("nothing.example.org", 80)
        assert caught.value.errno == socket.EAI_NONAME
    assert [protocol for protocol, _, _ in server.asked] == ["udp"] * 5  # the second call was answered from the cache


def test_every_attempt_has_a_port_of_its_own(net):
    net = net()
    server = NameServer(net)
    with net.client.stack.root.activate():
        for number in range(20):
            with pytest.raises(socket.gaierror):
                resolver.getaddrinfo(f"n{number}.org", 80, socket.AF_INET)
    ports = [port for _, _, port in server.asked]
    assert len(set(ports)) == len(ports) == 20
    assert len({second - first for first, second in zip(ports, ports[1:])}) > 5, "the ports follow a pattern"


def test_a_long_answer_comes_over_tcp(net):
    net = net()
    server = NameServer(net, *(f"big.org 60 A 192.0.2.{number}" for number in range(1, 120)), truncate=True)
    with net.client.stack.root.activate():
        assert len(resolver.getaddrinfo("big.org", 80, socket.AF_INET, socket.SOCK_STREAM)) == 119
    assert [protocol for protocol, _, _ in server.asked] == ["udp", "tcp"]


def test_lost_datagrams_are_sent_again(net):
    net = net(seed=3, loss=0.5)
    NameServer(net, *ZONE)
    with net.client.stack.root.activate():
        found = 0
        for _ in range(4):
            net.client.stack.names.cache.clear()
            with contextlib.suppress(socket.gaierror):
                found += bool(resolver.getaddrinfo("www.example.org", 80, socket.AF_INET))
    assert found


def test_nobody_there(net):
    net = net()
    net.client.stack.names.config = ResolverConfig(((parse_address("10.0.0.99"), 53),))
    begin = net.now
    with net.client.stack.root.activate(), pytest.raises(socket.gaierror) as caught:
        resolver.getaddrinfo("www.example.org", 80)
    assert caught.value.errno == socket.EAI_AGAIN and net.now - begin < 15


def test_to_ask_takes_a_rule_and_leaves_no_packet_without(net):
    net = net()
    server = NameServer(net, *ZONE)
    net.rest(20.0)
    net.frames.clear()
    for rules in ("tcp:*:*:*", "udp:connect,send,bind:*:*", "*:resolve:10.0.0.3:*", "udp:resolve:*:54"):
        with net.client.stack.root.attenuate(rules).activate():
            with pytest.raises(CapabilityResolveError) as caught:
                resolver.getaddrinfo("www.example.org", 80)
            assert isinstance(caught.value, socket.gaierror) and caught.value.errno == socket.EAI_FAIL
    net.rest(10.0)
    assert net.frames == [] and not server.asked
    with net.client.stack.root.attenuate("udp:resolve:10.0.0.2:53").activate():
        assert names(resolver.getaddrinfo("www.example.org", 80, socket.AF_INET, socket.SOCK_STREAM)) == ["192.0.2.1"]
        # the right to ask is no right to send
        with pytest.raises(CapabilityError):
            net.client.open_udp(capability=resolver.current_capability()).send_to(b"x", parse_address(SERVER), 53, net.now)


def test_a_lease_brings_servers(net):
    net = net()
    NameServer(net, *ZONE)
    net.client.stack.names.config = ResolverConfig()
    with net.client.stack.root.activate():
        with pytest.raises(socket.gaierror, match="no name server is configured"):
            resolver.getaddrinfo("www.example.org", 80)
        net.client.stack.names.learnt[0] = (parse_address(SERVER),)
        assert resolver.gethostbyname("www.example.org") == "192.0.2.1"


def test_in_a_task(net):
    """The same steps, waited for by an event loop."""
    net = net()
    NameServer(net, *ZONE)

    async def main():
        steps = resolver.getaddrinfo_steps(net.client.stack.root, "www.example.org", 80, socket.AF_INET, socket.SOCK_STREAM)
        task = asyncio.create_task(resolver.run_async(steps))
        for _ in range(100):
            await asyncio.sleep(0)
            if task.done():
                break
            net.rest(0.1)
        return await task

    assert names(asyncio.run(main())) == ["192.0.2.1"]
