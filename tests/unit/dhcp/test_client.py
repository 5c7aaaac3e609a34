"""The DHCP client through all its states, against a server written by hand and against ours."""

import random

import pytest
from hypothesis import given, strategies as st

from swos_net.address import BROADCAST4, UNSPECIFIED4, parse_address, parse_mac, to_packed
from swos_net.dhcp import LINK_BROADCAST
from swos_net.dhcp.client import (ClientState, DhcpClient, DhcpClientConfig, Fallback, FallbackUsed, LeaseBound,
                                  LeaseLost)
from swos_net.wire import dhcpv4
from swos_net.wire.dhcpv4 import DhcpMessage, MessageType

MAC = parse_mac("52:54:00:12:34:56")
SERVER, ROUTER, DNS = map(parse_address, ("192.168.7.1", "192.168.7.254", "192.168.7.53"))
ADDRESS = parse_address("192.168.7.40")
ALL = {dhcpv4.SUBNET_MASK: dhcpv4.emit_mask(24), dhcpv4.ROUTER: to_packed(ROUTER), dhcpv4.DNS_SERVER: to_packed(DNS),
       dhcpv4.INTERFACE_MTU: b"\x05\x78", dhcpv4.LEASE_TIME: (3600).to_bytes(4, "big")}


class Network:
    """One client and the pen and paper of a server."""

    def __init__(self, seed=1, **config):
        self.client = DhcpClient(DhcpClientConfig(**config), MAC, random.Random(seed))
        self.now = 100.0
        self.last = None

    def sent(self):
        """The one message that left, or None."""
        output = self.client.messages_to_send(self.now)
        assert len(output) <= 1
        if not output:
            return None
        self.datagram, = output
        self.last = dhcpv4.parse(self.datagram.payload)
        return self.last

    def reply(self, kind, options=ALL, address=ADDRESS, server=SERVER, source=SERVER, **fields):
        options = {dhcpv4.MESSAGE_TYPE: bytes([kind])} | options
        if server is not None:
            options[dhcpv4.SERVER_IDENTIFIER] = to_packed(server)
        fields = dict(transaction_id=self.last.transaction_id, hardware_address=MAC, your_address=address) | fields
        self.client.message_received(dhcpv4.emit(DhcpMessage(dhcpv4.BOOT_REPLY, options=options, **fields)), source,
                                     self.now)

    def events(self):
        return list(iter(self.client.next_event, None))

    def wait(self):
        """To the next deadline."""
        deadline = self.client.next_deadline()
        assert deadline > self.now
        self.now = deadline
        self.client.handle_timeout(self.now)

    def start(self):
        self.client.start(self.now)
        assert self.sent().message_type in (MessageType.DISCOVER, MessageType.REQUEST)
        return self

    def offered(self, options=ALL):
        self.start().reply(MessageType.OFFER, options)
        assert self.sent().message_type == MessageType.REQUEST
        return self

    def bound(self, options=ALL):
        self.offered(options).reply(MessageType.ACK, options)
        assert self.client.state == ClientState.BOUND and self.sent() is None
        self.events()
        return self


@pytest.fixture
def network():
    return Network()


LEASE = LeaseBound(ADDRESS, 24, ROUTER, (DNS,), 1400, 3600, SERVER)


# --- INIT to BOUND ---

def test_discover(network):
    network.start()
    discover = network.last
    assert discover.operation == dhcpv4.BOOT_REQUEST and discover.message_type == MessageType.DISCOVER
    assert discover.hardware_address == MAC and discover.flags == dhcpv4.BROADCAST
    assert discover.options[dhcpv4.PARAMETER_REQUEST_LIST] == bytes([1, 3, 6, 26, 51, 58, 59])
    assert discover.options[dhcpv4.CLIENT_IDENTIFIER] == b"\x01" + MAC
    assert discover.options[dhcpv4.MAXIMUM_MESSAGE_SIZE] == (576).to_bytes(2, "big")
    datagram = network.datagram
    assert (datagram.source, datagram.destination, datagram.destination_link_address, datagram.destination_port) == (
        UNSPECIFIED4, BROADCAST4, LINK_BROADCAST, 67)


def test_configured_fields():
    network = Network(hostname="vm1", client_identifier=b"\x00me", broadcast=False).start()
    assert network.last.options[dhcpv4.HOST_NAME] == b"vm1" and network.last.flags == 0
    assert network.last.options[dhcpv4.CLIENT_IDENTIFIER] == b"\x00me"


def test_transaction_ids_are_random():
    assert len({Network(seed).start().last.transaction_id for seed in range(10)}) == 10


def test_request_and_bound(network):
    network.start()
    discover = network.last
    network.now += 3.0
    network.reply(MessageType.OFFER)
    request = network.sent()
    assert request.message_type == MessageType.REQUEST
    assert request.options[dhcpv4.REQUESTED_ADDRESS] == to_packed(ADDRESS)
    assert request.options[dhcpv4.SERVER_IDENTIFIER] == to_packed(SERVER)
    assert (request.client_address, request.transaction_id, request.seconds) == (
        UNSPECIFIED4, discover.transaction_id, discover.seconds)
    assert network.datagram.destination == BROADCAST4 and network.events() == []
    network.reply(MessageType.ACK)
    assert network.client.state == ClientState.BOUND and network.client.lease == LEASE
    assert network.events() == [LEASE] and network.sent() is None
    assert network.client.next_deadline() == network.now + 1800.0


def test_only_the_first_offer_counts(network):
    network.offered()
    network.reply(MessageType.OFFER, server=parse_address("192.168.7.2"))
    network.reply(MessageType.ACK, server=parse_address("192.168.7.2"))
    network.reply(MessageType.NAK, server=parse_address("192.168.7.2"))
    assert network.sent() is None and network.client.state == ClientState.REQUESTING
    assert network.client.counters["unexpected"] == 3


def test_server_without_identifier_is_known_by_its_address(network):
    network.start().reply(MessageType.OFFER, server=None)
    assert network.sent().options[dhcpv4.SERVER_IDENTIFIER] == to_packed(SERVER)
    network.reply(MessageType.ACK, server=None)
    assert network.events() == [LEASE]


# --- what is in the lease ---

def without(*codes):
    return {code: value for code, value in ALL.items() if code not in codes}


def test_options_missing_in_the_ack_come_from_the_offer(network):
    network.offered().reply(MessageType.ACK, {})
    assert network.events() == [LEASE]


def test_options_of_the_ack_win(network):
    other = parse_address("192.168.7.9")
    network.offered().reply(MessageType.ACK, {dhcpv4.ROUTER: to_packed(other), dhcpv4.LEASE_TIME: b"\0\0\0\x64"})
    assert network.events() == [LeaseBound(ADDRESS, 24, other, (DNS,), 1400, 100, SERVER)]


def test_options_nobody_sent_come_from_the_fallback_of_that_network(network):
    only_time = {dhcpv4.LEASE_TIME: (3600).to_bytes(4, "big")}
    address = parse_address("10.0.2.77")
    network.start().reply(MessageType.OFFER, only_time, address)
    network.sent()
    network.reply(MessageType.ACK, only_time, address)
    assert network.events() == [LeaseBound(address, 24, parse_address("10.0.2.2"), (parse_address("10.0.2.3"),), None,
                                           3600, SERVER)]
    network = Network().offered(only_time)
    network.reply(MessageType.ACK, only_time)  # 192.168.7.40 has no use of 10.0.2.2
    assert network.events() == [LeaseBound(ADDRESS, 24, None, (), None, 3600, SERVER)]


@pytest.mark.parametrize("options, changed", [
    ({dhcpv4.SUBNET_MASK: dhcpv4.emit_mask(32)}, dict(prefix_length=32)),
    ({dhcpv4.SUBNET_MASK: b"\xff\0\xff\0"}, dict(prefix_length=24)),
    ({dhcpv4.INTERFACE_MTU: b"\x00\x43"}, dict(mtu=None)), ({dhcpv4.INTERFACE_MTU: b"\x05"}, dict(mtu=None)),
    ({dhcpv4.DNS_SERVER: to_packed(DNS) * 20}, dict(dns=(DNS,) * 8)),
    ({dhcpv4.LEASE_TIME: b"\xff" * 4}, dict(seconds=0xFFFFFFFF)),
])
def test_odd_options(network, options, changed):
    network.offered(ALL | options).reply(MessageType.ACK, ALL | options)
    bound, = network.events()
    assert {name: getattr(bound, name) for name in changed} == changed


@pytest.mark.parametrize("address", ["0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1"])
def test_no_host_has_such_an_address(network, address):
    network.start().reply(MessageType.OFFER, address=parse_address(address))
    network.reply(MessageType.OFFER, server=parse_address(address))
    assert network.sent() is None and network.client.counters["bad_address"] == 2


@pytest.mark.parametrize("seconds", [None, b"\0\0\0\0", b"\0\0\x0e"])
def test_no_lease_without_its_time(network, seconds):
    options = without(dhcpv4.LEASE_TIME) | ({} if seconds is None else {dhcpv4.LEASE_TIME: seconds})
    network.offered(options).reply(MessageType.ACK, options)
    assert network.client.state == ClientState.REQUESTING and network.client.counters["no_lease_time"] == 1


@pytest.mark.parametrize("t1, t2, renew", [(100, 200, 100), (200, 100, 1800), (0, 100, 1800), (100, 3600, 1800),
                                           (None, 200, 1800)])
def test_renewal_times_of_the_server_when_they_make_sense(network, t1, t2, renew):
    options = dict(ALL)
    for code, value in ((dhcpv4.RENEWAL_TIME, t1), (dhcpv4.REBINDING_TIME, t2)):
        if value is not None:
            options[code] = value.to_bytes(4, "big")
    network.bound(options)
    assert network.client.next_deadline() == network.now + renew


def test_lease_counts_from_the_request(network):
    network.offered()
    network.now += 1.0
    network.reply(MessageType.ACK)
    assert network.client.next_deadline() == network.now - 1.0 + 1800.0


# --- retransmission: RFC 2131 4.1 ---

@pytest.mark.parametrize("seed", range(5))
def test_discover_is_repeated_with_exponential_backoff(seed):
    network = Network(seed, fallback=None).start()
    first, times = network.last, [network.now]
    for _ in range(8):
        network.wait()
        assert network.sent().message_type == MessageType.DISCOVER
        assert network.last.transaction_id == first.transaction_id
        assert network.last.seconds == int(network.now - times[0])
        times.append(network.now)
    waits = [after - before for before, after in zip(times, times[1:])]
    expected = [4, 8, 16, 32, 64, 64, 64, 64]
    assert all(abs(wait - plan) <= 1 for wait, plan in zip(waits, expected))
    assert any(abs(wait - plan) > 0.01 for wait, plan in zip(waits, expected))


def test_seconds_stay_within_their_field():
    network = Network(fallback=None).start()
    network.now += 1e6
    network.client.handle_timeout(network.now)
    assert network.sent().seconds == 0xFFFF


def test_request_is_repeated_then_given_up(network):
    network = Network(fallback=None).offered()
    first = network.last
    for _ in range(3):
        network.wait()
        assert network.sent().message_type == MessageType.REQUEST
        assert (network.last.transaction_id, network.last.seconds) == (first.transaction_id, first.seconds)
    network.wait()
    assert network.sent().message_type == MessageType.DISCOVER and 50 < network.now - 100 < 70
    assert network.last.transaction_id != first.transaction_id


# --- renewing, rebinding, expiry: RFC 2131 4.4.5 ---

def test_renewing(network):
    network.bound()
    network.wait()
    assert network.client.state == ClientState.RENEWING and network.client.lease == LEASE
    request = network.sent()
    assert request.message_type == MessageType.REQUEST and request.client_address == ADDRESS and request.flags == 0
    assert not {dhcpv4.REQUESTED_ADDRESS, dhcpv4.SERVER_IDENTIFIER} & set(request.options)
    datagram = network.datagram
    assert (datagram.source, datagram.destination, datagram.destination_link_address) == (ADDRESS, SERVER, None)
    network.reply(MessageType.ACK, {dhcpv4.LEASE_TIME: (7200).to_bytes(4, "big")})
    assert network.events() == [LeaseBound(ADDRESS, 24, ROUTER, (DNS,), 1400, 7200, SERVER)]  # the rest as before
    assert network.client.next_deadline() == network.now + 3600.0


def test_rebinding_then_expiry(network):
    network.bound()
    began = network.now
    network.wait()
    times = []
    while network.client.state == ClientState.RENEWING:
        times.append(network.now - began)
        assert network.sent() is not None and network.datagram.destination == SERVER
        network.wait()
    # half of what is left, at least a minute
    assert times == [1800.0, 2475.0, 2812.5, 2981.25, 3065.625, 3125.625]
    assert network.client.state == ClientState.REBINDING and network.now - began == 3150.0
    times = []
    while network.client.state == ClientState.REBINDING:
        times.append(network.now - began)
        assert network.sent().client_address == ADDRESS and network.datagram.destination == BROADCAST4
        assert network.datagram.source == ADDRESS
        network.wait()
    assert times == [3150.0, 3375.0, 3487.5, 3547.5]
    assert network.events() == [LeaseLost(ADDRESS, "expired")] and network.now - began == 3600.0
    assert network.client.lease is None and network.sent().message_type == MessageType.DISCOVER


def test_another_server_may_rebind(network):
    network.bound()
    while network.client.state != ClientState.REBINDING:
        network.wait()
        network.sent()
    other = parse_address("192.168.7.2")
    network.reply(MessageType.ACK, server=other, source=other)
    assert network.client.lease.server == other and network.client.state == ClientState.BOUND


def test_long_sleep_goes_straight_to_expiry(network):
    network.bound()
    network.now += 10000.0
    network.client.handle_timeout(network.now)
    assert network.events() == [LeaseLost(ADDRESS, "expired")]
    assert network.sent().message_type == MessageType.DISCOVER


def test_infinite_lease_is_left_alone(network):
    network.bound(ALL | {dhcpv4.LEASE_TIME: b"\xff" * 4})
    assert network.client.next_deadline() is None


# --- refusals ---

@pytest.mark.parametrize("steps, lost", [(0, []), (1, [LeaseLost(ADDRESS, "refused")])])
def test_refusal_begins_again(network, steps, lost):
    network.bound() if steps else network.offered()
    for _ in range(steps):
        network.wait()
        network.sent()
    transaction_id = network.last.transaction_id
    network.reply(MessageType.NAK, {}, UNSPECIFIED4)
    assert network.events() == lost and network.client.lease is None
    assert network.sent().message_type == MessageType.DISCOVER and network.last.transaction_id != transaction_id


def test_server_that_always_refuses_is_asked_ever_more_slowly():
    network = Network(fallback=None).start()
    times = []
    for _ in range(8):
        times.append(network.now)
        network.reply(MessageType.OFFER)
        network.sent()
        network.reply(MessageType.NAK, {}, UNSPECIFIED4)
        if network.sent() is None:
            network.wait()
            network.sent()
        assert network.last.message_type == MessageType.DISCOVER
    assert [after - before for before, after in zip(times, times[1:])] == [0, 4, 8, 16, 32, 64, 64]


# --- INIT-REBOOT ---

def test_previous_address_is_confirmed():
    network = Network(previous_address=ADDRESS).start()
    request = network.last
    assert network.client.state == ClientState.REBOOTING and request.message_type == MessageType.REQUEST
    assert request.options[dhcpv4.REQUESTED_ADDRESS] == to_packed(ADDRESS)
    assert dhcpv4.SERVER_IDENTIFIER not in request.options and request.client_address == UNSPECIFIED4
    network.reply(MessageType.ACK)
    assert network.events() == [LEASE]


@pytest.mark.parametrize("refused", [True, False])
def test_previous_address_is_not_to_be_had(refused):
    network = Network(previous_address=ADDRESS, fallback=None).start()
    if refused:
        network.reply(MessageType.NAK, {}, UNSPECIFIED4)
    else:
        network.wait()
        assert network.sent().message_type == MessageType.REQUEST
        network.wait()
    assert network.sent().message_type == MessageType.DISCOVER and network.client.state == ClientState.SELECTING


# --- fallback ---

def fallback_event(reason):
    return FallbackUsed(parse_address("10.0.2.15"), 24, parse_address("10.0.2.2"), (parse_address("10.0.2.3"),), reason)


def test_fallback_while_trying_goes_on(network):
    network.start()
    while network.now < 104.0:
        network.wait()
    assert network.now == 104.0 and network.events() == [fallback_event("no offer")]
    network.sent()
    for _ in range(5):
        network.wait()
        assert network.sent().message_type == MessageType.DISCOVER and network.events() == []
    network.reply(MessageType.OFFER)
    network.sent()
    network.reply(MessageType.ACK)
    assert network.events() == [LEASE]


def test_late_offer_puts_the_fallback_off(network):
    network.start()
    network.now = 103.0
    network.reply(MessageType.OFFER)
    network.sent()
    network.client.handle_timeout(104.9)
    assert network.events() == []
    network.client.handle_timeout(105.0)
    assert network.events() == [fallback_event("no acknowledgment")]


def test_no_fallback_once_bound_or_when_turned_off(network):
    network.bound()
    network.client.handle_timeout(110.0)
    assert network.events() == []
    network = Network(fallback=None).start()
    network.client.handle_timeout(1000.0)
    assert network.events() == []
    own = Fallback(ADDRESS, 16, None, ())
    network = Network(fallback=own, fallback_after=1.5).start()
    network.client.handle_timeout(101.5)
    assert network.events() == [FallbackUsed(ADDRESS, 16, None, (), "no offer")]


# --- release, decline, stop ---

def test_release(network):
    network.bound()
    network.client.release(network.now)
    release = network.sent()
    assert release.message_type == MessageType.RELEASE and release.client_address == ADDRESS
    assert set(release.options) == {53, 54, 61} and release.options[54] == to_packed(SERVER)
    assert (network.datagram.source, network.datagram.destination) == (ADDRESS, SERVER)
    assert network.events() == [LeaseLost(ADDRESS, "released")]
    assert network.client.next_deadline() is None and network.client.state == ClientState.INIT


def test_decline_waits_ten_seconds(network):
    network.bound()
    network.client.decline(network.now)
    decline = network.sent()
    assert decline.message_type == MessageType.DECLINE and decline.client_address == UNSPECIFIED4
    assert decline.options[50] == to_packed(ADDRESS) and decline.options[54] == to_packed(SERVER)
    assert network.datagram.destination == BROADCAST4
    assert network.events() == [LeaseLost(ADDRESS, "declined")]
    began = network.now
    network.wait()
    assert network.now == began + 10.0 and network.sent().message_type == MessageType.DISCOVER


def test_stop_and_start_again(network):
    network.offered()
    network.client.stop()
    network.reply(MessageType.ACK)
    network.client.release(network.now)
    network.client.decline(network.now)
    assert network.events() == [] and network.sent() is None and network.client.next_deadline() is None
    assert network.bound().client.lease == LEASE


# --- strangers ---

def test_what_is_not_for_us(network):
    network.start()
    network.reply(MessageType.OFFER, transaction_id=network.last.transaction_id ^ 1)
    network.reply(MessageType.OFFER, hardware_address=MAC[:5] + b"\0")
    network.reply(MessageType.ACK)
    network.reply(MessageType.NAK)
    network.client.message_received(b"short", SERVER, network.now)
    request = DhcpMessage(dhcpv4.BOOT_REQUEST, network.last.transaction_id, MAC, {53: b"\x02"} | ALL)
    network.client.message_received(dhcpv4.emit(request), SERVER, network.now)
    assert network.sent() is None and network.client.state == ClientState.SELECTING
    assert network.client.counters == {"unexpected": 3, "not_for_us": 2, "truncated": 1}
    network.bound()
    network.reply(MessageType.NAK)
    network.reply(MessageType.ACK)
    assert network.events() == [] and network.client.state == ClientState.BOUND


@pytest.mark.parametrize("config, says", [
    (dict(hostname="h" * 64), "63"), (dict(hostname="hôte"), "ASCII"), (dict(client_identifier=b"x"), "2 to 64"),
    (dict(previous_address=parse_address("fe80::1")), "not IPv4")])
def test_wrong_configurations_are_refused(config, says):
    with pytest.raises(ValueError, match=says):
        DhcpClientConfig(**config)


@given(st.lists(st.one_of(
    st.tuples(st.sampled_from(list(MessageType)), st.dictionaries(
        st.sampled_from([1, 3, 6, 26, 51, 54, 58, 59]), st.binary(max_size=9), max_size=5),
              st.binary(min_size=4, max_size=4)),
    st.just(None)), max_size=30))
def test_whatever_a_server_says_the_client_goes_on(script):
    network = Network().start()
    for step in script:
        if step is None:
            deadline = network.client.next_deadline()
            if deadline is not None:
                network.now = max(network.now, deadline)
                network.client.handle_timeout(network.now)
        else:
            kind, options, address = step
            network.reply(kind, options, bytes(10) + b"\xff\xff" + address, server=None)
        network.sent()
        client = network.client
        assert (client.lease is not None) == (client.state in (
            ClientState.BOUND, ClientState.RENEWING, ClientState.REBINDING))
        infinite = client.lease is not None and client.lease.seconds == 0xFFFFFFFF
        assert client.next_deadline() is not None or infinite


# --- with our own server ---

def exchange(client, server, now):
    """Datagrams to and fro until both are silent."""
    for _ in range(10):
        out = client.messages_to_send(now)
        for datagram in out:
            server.message_received(datagram.payload, datagram.source, now)
        back = server.messages_to_send(now)
        for datagram in back:
            client.message_received(datagram.payload, datagram.source, now)
        if not out and not back:
            return
    raise AssertionError("they talk without end")


def test_a_life_with_our_server(make_server, drain):
    server = make_server(mtu=1400)
    client = DhcpClient(DhcpClientConfig(hostname="vm1"), MAC, random.Random(2))
    client.start(0.0)
    exchange(client, server, 0.0)
    address = client.lease.address
    assert (client.lease.prefix_length, client.lease.mtu, client.lease.seconds) == (24, 1400, 3600)
    now = 0.0
    for _ in range(20):
        now = client.next_deadline()
        server.handle_timeout(now)
        client.handle_timeout(now)
        exchange(client, server, now)
        assert client.state == ClientState.BOUND and client.lease.address == address
    assert now > 30000 and server.counters["ack"] == 21 and server.counters["offer"] == 1
    client.decline(now)
    exchange(client, server, now)
    now = client.next_deadline()
    client.handle_timeout(now)
    exchange(client, server, now)
    assert client.lease.address not in (address, None)
    client.release(now)
    exchange(client, server, now)
    assert server.counters["release"] == server.counters["decline"] == 1 and server.counters["not_its_lease"] == 0
    # a server that forgot everything confirms what its client had
    again = make_server()
    client = DhcpClient(DhcpClientConfig(previous_address=address), MAC, random.Random(3))
    client.start(now)
    exchange(client, again, now)
    assert client.lease.address == address and again.counters["discover"] == 0
