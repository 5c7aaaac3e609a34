"""When the data plane looks after a connection, and what brings it back."""

import errno

import pytest

from swos_net.dataplane.tcp_flow import FlowTable
from swos_net.link import Offload
from swos_net.stack.tcp_endpoint import LEND_AFTER, LEND_AFTER_MAX
from swos_net.stack.trimmer import INTERVAL
from swos_net.tcp.state import State


@pytest.fixture
def talking(pair):
    """(network, client's stream, server's stream) of a connection whose two ends are lent."""

    def make(**link):
        net = pair(**link)
        client, server = net.open()
        exchange(net, client, server)
        assert client.endpoint.lent is not None and server.endpoint.lent is not None
        return net, client, server

    return make


def exchange(net, client, server, times=2 * LEND_AFTER):
    for _ in range(times):
        for stream in (client, server):
            stream.send(b"x" * 100)
            net.rest(0.02)


def many(pair, count):
    """(network, clients' streams, servers' streams) of connections that have exchanged 30 times 10 octets each way."""
    net = pair()
    acceptor = net.server.listen(80)
    clients = [net.client.connect(net.server_address[4], 80) for _ in range(count)]
    net.run(lambda: len(acceptor.streams) == count)
    for turn in range(30):
        for streams in (clients, acceptor.streams):
            for stream in streams:
                stream.send(bytes([turn]) * 10)
            net.rest(0.02)
    assert net.server.stack.lending.count == net.client.stack.lending.count == count
    return net, clients, acceptor.streams


def test_requests_and_answers_are_lent_soon(talking):
    net, client, server = talking()
    assert net.client.stack.lending.count == net.server.stack.lending.count == 1
    assert client.received == server.received == b"x" * 100 * 2 * LEND_AFTER


def test_not_where_the_configuration_says_so(pair):
    net = pair(tcp={"lending": False})
    client, server = net.open()
    exchange(net, client, server)
    assert client.endpoint.lent is None and server.endpoint.lent is None


def test_who_looks_has_it_back(talking):
    net, client, server = talking()
    before = client.endpoint.connection.tcb.segments_in
    assert client.endpoint.lent is None and net.client.stack.lending.count == 0
    exchange(net, client, server)
    assert client.endpoint.lent is not None
    assert client.endpoint.connection.tcb.segments_in > before


@pytest.mark.parametrize("read", ["state", "readable", "send_room", "at_end", "delivering", "connected", "error_waits"])
def test_what_may_be_asked_without(talking, read):
    _, client, _ = talking()
    lent = getattr(client.endpoint, read)
    assert client.endpoint.lent is not None
    assert client.endpoint.connection is not None
    assert lent == getattr(client.endpoint, read)
    assert client.endpoint.lent is None


def test_the_end(talking):
    net, client, server = talking()
    client.send(b"last").close()
    net.run(lambda: server.ended)
    assert server.received.endswith(b"last") and server.endpoint.lent is None
    server.close()
    net.run(lambda: client.closed or client.state is State.TIME_WAIT)
    assert net.server.stack.lending.count == net.client.stack.lending.count == 0


def test_a_reset(talking):
    net, client, server = talking()
    client.abort()
    net.rest()
    assert server.error == errno.ECONNRESET and server.endpoint.lent is None


def test_a_loss_is_repaired(talking):
    net, client, server = talking()
    net.link.change(loss=1.0)
    client.send(b"lost")
    net.rest(0.01)
    net.link.change(loss=0.0)
    net.run(lambda: server.received.endswith(b"lost"))
    assert client.endpoint.connection.tcb.retransmitted_segments == 1


def test_its_timers_run(talking):
    """Text that nobody answers is acknowledged after the delay, by the data plane's timer."""
    net, client, server = talking()
    client.send(b"heard?")
    server.pause()
    start = len(net.frames)
    net.rest(1.0)
    acknowledged = [now for now, header, payload, _ in net.segments(start) if header.source_port == 80 and not payload]
    assert len(acknowledged) == 1 and server.endpoint.lent is not None


def test_the_device_fails(talking):
    net, client, _ = talking()
    net.client.stack.interface_failed(net.client.interface, net.now)
    assert client.error == errno.ENETDOWN and net.client.stack.lending.count == 0


def test_one_that_idles_gives_its_memory_back(talking):
    net, client, server = talking()
    net.rest(4 * INTERVAL)
    assert client.endpoint.lent is None and server.endpoint.lent is None
    assert not client.endpoint.connection.tcb.receive_ring.c.touched


def test_one_that_is_busy_keeps_it(talking):
    net, client, server = talking()
    for _ in range(round(4 * INTERVAL / 0.1)):
        exchange(net, client, server, 1)
        net.rest(0.06)
    assert client.endpoint.lent is not None


def test_short_loans_become_rare(talking):
    """Somebody looks after every segment: lending costs more than it saves."""
    net, client, server = talking()
    loans = 0
    for _ in range(600):
        exchange(net, client, server, 1)
        loans += client.endpoint.lent is not None
        assert client.endpoint.connection is not None
    assert 1 <= loans <= 10
    assert client.endpoint._lend_after == LEND_AFTER_MAX


def test_a_watcher_that_ends_another_loan(pair):
    """Both have news in one burst; who comes second hears of it all the same."""
    net, clients, servers = many(pair, 4)

    def look(mask):
        for stream in servers:
            assert stream.endpoint.connection.tcb is not None

    servers[0].endpoint.watch(look)
    for client in clients:
        client.send(b"last")
    net.rest(0.5)
    assert all(stream.received.endswith(b"last") for stream in servers)


@pytest.mark.parametrize("step", ["add", "remove"])
def test_an_interrupt_in_between(talking, monkeypatch, step):
    """Ctrl-C at the worst moment: whoever has the connection, only one of them does."""
    net, client, server = talking()

    def interrupted(*arguments):
        monkeypatch.undo()
        raise KeyboardInterrupt

    if step == "add":
        assert client.endpoint.connection is not None
    monkeypatch.setattr(FlowTable, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        if step == "add":
            net.client.stack.lending.lend(client.endpoint)
        else:
            client.endpoint.connection.tcb  # noqa: B018
    assert client.endpoint.lent is not None
    server.send(b"y" * 3000)
    client.send(b"z" * 3000)
    net.run(lambda: client.received.endswith(b"y" * 3000) and server.received.endswith(b"z" * 3000))
    exchange(net, client, server)
    assert client.endpoint.lent is not None


def test_without_authority_nothing_goes_out(talking):
    """The capability counts at every output, whoever makes the segments."""
    net, client, server = talking()
    client.endpoint.capability = net.client.stack.root.attenuate("tcp:connect:10.9.9.9:1", "another")
    start = len(net.frames)
    client.send(b"must not get there")
    net.rest()
    assert not any(header.destination_port == 80 for _, header, _, _ in net.segments(start))
    assert net.client.stack.counters["OutNotAllowed"]


@pytest.mark.parametrize("offloads", [Offload.NONE, Offload.CHECKSUM | Offload.TSO4 | Offload.TSO6], ids=["plain", "segmentation"])
def test_bulk_in_the_hands_of_the_data_plane(talking, offloads):
    net, client, server = talking(offloads=offloads)
    data = bytes(range(256)) * 8000
    client.send(data)
    net.run(lambda: len(server.received) >= len(data))
    assert server.received.endswith(data)


def test_many_at_once(pair):
    net, clients, servers = many(pair, 60)
    wanted = b"".join(bytes([turn]) * 10 for turn in range(30))
    assert all(stream.received == wanted for stream in clients + servers)
    for client in clients[::2]:
        client.close()
    net.rest()
    assert net.server.stack.lending.count == 30
