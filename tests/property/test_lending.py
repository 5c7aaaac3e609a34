"""Connections that are lent to the data plane do the same as those that Python keeps: to the octet and to the moment."""

import random
from dataclasses import replace

import pytest

from swos_net.config import StackConfig, TcpConfig
from swos_net.link import Offload
from swos_net.testing.network import Network
from swos_net.wire import ethernet, ipv4, tcp

PORT = 80
ACTIONS = 60
FORGERIES = 200
ADDRESSES = {4: ("10.0.0.1", "10.0.0.2"), 6: ("2001:db8::1", "2001:db8::2")}
OFFLOADS = {"plain": Offload.NONE, "segmentation": Offload.CHECKSUM | Offload.TSO4 | Offload.TSO6}
TCP = TcpConfig(slow_start_after_idle=False)
VARIANTS = {
    "usual": TCP,
    "no timestamps": replace(TCP, timestamps=False),
    "no SACK": replace(TCP, sack=False),
    "cubic": replace(TCP, congestion="cubic"),
    "idle restart": replace(TCP, slow_start_after_idle=True),
    "small buffers": replace(TCP, send_buffer=20_000, receive_buffer=30_000),
}


# what a user may ask for at any moment, of an endpoint
WISHES = (
    lambda endpoint, chance, now: endpoint.connection.set_keepalive(chance.random() < 0.5, now),
    lambda endpoint, chance, now: setattr(endpoint.connection.tcb, "keepalive_idle", chance.choice((1.0, 2.0, 7200.0))),
    lambda endpoint, chance, now: setattr(endpoint.connection.tcb, "nodelay", chance.random() < 0.5),
    lambda endpoint, chance, now: setattr(endpoint.connection.tcb, "cork", chance.random() < 0.3),
    lambda endpoint, chance, now: setattr(endpoint.connection.tcb, "not_sent_low", chance.choice((0, 0, 4000))),
    lambda endpoint, chance, now: setattr(endpoint.connection.tcb, "user_timeout", chance.choice((0, 0, 90.0))),
    lambda endpoint, chance, now: endpoint.connection.set_receive_low(chance.choice((1, 1, 500))),
    lambda endpoint, chance, now: endpoint.connection.set_receive_buffer(chance.choice((20_000, 200_000))),
    lambda endpoint, chance, now: endpoint.connection.set_send_buffer(chance.choice((20_000, 200_000))),
    lambda endpoint, chance, now: endpoint.connection.path_mtu_changed(1200),
    lambda endpoint, chance, now: endpoint.path_error(113, now),
    lambda endpoint, chance, now: endpoint.peek(100),
    lambda endpoint, chance, now: endpoint.receive(50, now),
    lambda endpoint, chance, now: endpoint.trim(now),
    lambda endpoint, chance, now: endpoint.ready(),
)


class Conversation:
    """Two hosts that do what the seed says; `frames` is what crossed the link and when, `loans` how often an end was lent.

    Frames of several connections may change places within an instant, so there is one unless somebody sorts them.
    """

    def __init__(self, seed: int, config: TcpConfig, family: int, offloads: Offload, lending: bool, losses=(0.0, 0.0, 0.01),
                 connections: int = 1):  # fmt: skip
        self.chance = random.Random(seed)
        self.network = Network(seed)
        self.frames: list[tuple] = []
        client_address, server_address = ADDRESSES[family]
        width = 24 if family == 4 else 64
        stack_config = StackConfig(tcp=replace(config, lending=lending))
        self.client = self.network.add_host("client", [f"{client_address}/{width}"], config=stack_config)
        self.server = self.network.add_host("server", [f"{server_address}/{width}"], config=stack_config)
        loss = self.chance.choice(losses)
        self.network.link(self.client, self.server, delay=self.chance.choice((0.0001, 0.02)), loss=loss, offloads=offloads)
        self.network.observe(self._crossed)
        self.acceptor = self.server.listen(PORT)
        self.ends = [self.client.connect(server_address, PORT) for _ in range(connections)]
        self.network.run(lambda: len(self.acceptor.streams) == connections)
        self.ends += self.acceptor.streams
        for stream in self.ends:
            if self.chance.random() < 0.7:
                stream.endpoint.connection.tcb.nodelay = True
        self.loans = 0

    def _crossed(self, crossing) -> None:
        self.frames.append((crossing.time, str(crossing.packet), crossing.frame))

    def act(self) -> None:
        """One more thing happens, and time passes."""
        chance = self.chance
        stream = chance.choice(self.ends)
        actions = ("request",) * 12 + ("turns",) * 6 + ("bulk", "pause", "resume", "wait", "look", "wish", "wish")
        what = chance.choice(actions if len(self.ends) == 2 else actions + ("all",) * 40)
        if what == "request":
            stream.send(bytes(chance.randint(1, 400)))
        elif what == "turns":
            for _ in range(chance.randint(2, 12)):
                stream.send(bytes(chance.randint(1, 3000)))
                self.network.run(self.network.now + chance.choice((0.0, 0.001, 0.05)))
        elif what == "all":
            for end in self.ends:
                end.send(bytes(chance.randint(0, 300)))
        elif what == "bulk":
            stream.send(bytes(chance.randint(10_000, 300_000)))
        elif what == "pause":
            stream.pause()
        elif what == "resume":
            stream.resume()
        elif what == "wish":
            chance.choice(WISHES)(stream.endpoint, chance, self.network.now)
            stream.endpoint.changed(self.network.now)
        elif what == "look":
            assert stream.endpoint.connection.tcb.snd_una <= stream.endpoint.connection.tcb.snd_nxt
        self.network.run(self.network.now + chance.choice((0.0, 0.001, 0.03, 0.3, 1.0 if what == "wait" else 0.1)))
        self.loans += sum(end.endpoint.lent is not None for end in self.ends)

    def end(self) -> None:
        for stream in self.ends:
            stream.resume().close()
        self.network.run(self.network.now + 200.0)


def variables(thing) -> dict:
    return {name: getattr(thing, name) for name in thing.__slots__ if isinstance(getattr(thing, name, None), (int, float, bool, tuple, type(None)))}


def remembered(endpoint) -> dict:
    """Everything that the two connections can be compared by."""
    tcb = endpoint.connection.tcb
    state = {}
    for part in (tcb, tcb.timers, tcb.rtt, tcb.recovery, tcb.congestion):
        state |= {f"{type(part).__name__}.{name}": value for name, value in variables(part).items()}
    state["records"] = [repr(record) for record in tcb.scoreboard.records]
    state["rings"] = [None if ring is None else (ring.head, ring.tail) for ring in (tcb.send_ring, tcb.receive_ring)]
    return state


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("offloads", OFFLOADS.values(), ids=OFFLOADS)
@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_a_lent_connection_does_what_python_does(config, offloads, seed):
    family = 4 if seed % 2 else 6
    lent, kept = (Conversation(seed, config, family, offloads, lending) for lending in (True, False))
    for _ in range(ACTIONS):
        lent.act()
        kept.act()
        assert lent.frames == kept.frames
    for one, other in zip(lent.ends, kept.ends):
        assert remembered(one.endpoint) == remembered(other.endpoint)
        assert one.received == other.received
    assert lent.loans
    assert not kept.loans
    lent.end()
    kept.end()
    assert lent.frames == kept.frames
    assert dict(lent.server.stack.counters) == dict(kept.server.stack.counters)


@pytest.mark.parametrize("seed", range(3))
def test_many_connections_at_once(seed):
    """More than a batch holds; lent ones, others and those that come back in the middle go into the same batches."""
    lent, kept = (Conversation(seed, TCP, 4, Offload.NONE, lending, (0.0,), connections=80) for lending in (True, False))
    for _ in range(ACTIONS):
        lent.act()
        kept.act()
        assert sorted(lent.frames) == sorted(kept.frames)
    for one, other in zip(lent.ends, kept.ends):
        assert one.received == other.received
    assert lent.loans > 1000 and not kept.loans


def forged(chance: random.Random, conversation: Conversation) -> bytes:
    """A frame to the server that may or may not be what it expects next."""
    client, server = conversation.client, conversation.server
    endpoint = conversation.acceptor.streams[0].endpoint
    tcb = endpoint.connection.tcb
    usually = chance.random() < 0.9
    seq = tcb.rcv_nxt + (0 if usually else chance.choice((-1, 1, -500, 500, 70_000, 1 << 31)))
    ack = tcb.snd_una + (chance.choice((0, tcb.snd_nxt - tcb.snd_una)) if usually else chance.randint(-2000, 5000))
    flags = tcp.ACK if usually else chance.choice((tcp.ACK, tcp.ACK | tcp.PSH, 0, tcp.ACK | tcp.URG, tcp.ACK | tcp.ECE, tcp.SYN, tcp.ACK | tcp.CWR))
    payload = bytes(chance.choice((0, 0, 1, 100, 1400)))
    window = chance.choice((tcb.snd_wnd >> tcb.snd_wscale, 100, 60_000, 0 if chance.random() < 0.1 else 501))
    ts_val = tcb.ts_recent + chance.choice((0, 1, 20, 20, -1, 1 << 31))
    options = tcp.TcpOptions()
    if tcb.timestamps and chance.random() < 0.95:
        options.ts_val, options.ts_ecr = ts_val & 0xFFFFFFFF, tcb.timestamp(conversation.network.now - chance.choice((0, 0.01, 5.0)))
    if chance.random() < 0.05:
        options.sack_blocks = ((tcb.snd_una & 0xFFFFFFFF, (tcb.snd_una + 100) & 0xFFFFFFFF),)
    header = tcp.TcpHeader(endpoint.remote_port, endpoint.local_port, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, flags, window, tcp.emit_options(options))
    text = tcp.emit(header, payload, endpoint.remote, endpoint.local)
    packet = ipv4.emit(ipv4.Ipv4Header(endpoint.remote, endpoint.local, ipv4.PROTOCOL_TCP, 64), text)
    return ethernet.emit(ethernet.EthernetHeader(server.interface.link.address, client.interface.link.address, 0x0800), packet)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("config", [VARIANTS["usual"], VARIANTS["no timestamps"]], ids=["timestamps", "plain"])
def test_segments_that_nobody_would_send(config, seed):
    """The client falls silent, and somebody who knows the connection's numbers says what it likes."""
    lent, kept = (Conversation(seed, config, 4, Offload.NONE, lending, losses=(0.0,)) for lending in (True, False))
    chance = random.Random(seed)
    for conversation in (lent, kept):
        for _ in range(20):
            for stream in conversation.ends:
                stream.send(bytes(100))
                conversation.network.run(conversation.network.now + 0.05)
        conversation.network.links[0].towards(conversation.client).change(loss=1.0)
    loans = int(lent.ends[1].endpoint.lent is not None)
    for _ in range(FORGERIES):
        frame = forged(chance, kept)
        octets, seconds = chance.choice((0, 0, 50, 2000)), chance.choice((0.0, 0.001, 0.01, 0.1))
        for conversation in (lent, kept):
            if conversation.server.stack.tcp.flows:
                conversation.network.links[0].inject(frame, conversation.server)
                conversation.network.run(conversation.network.now + seconds)
                conversation.ends[1].send(bytes(octets))
        loans += lent.ends[1].endpoint.lent is not None
        assert lent.frames == kept.frames
        if chance.random() < 0.1:
            assert remembered(lent.ends[1].endpoint) == remembered(kept.ends[1].endpoint)
    assert lent.ends[1].received == kept.ends[1].received
    assert loans
