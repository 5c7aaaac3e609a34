"""The books of the DHCP server: who may have what, whatever happens in whatever order."""

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis import strategies as st

from swos_net.address import format_address, parse_address, parse_mac
from swos_net.dhcp.leases import DhcpServerConfig, LeaseState, LeaseTable

MACS = [bytes([2, 0, 0, 0, 0, number]) for number in range(6)]
SERVER, ROUTER, DNS = map(parse_address, ("10.0.2.2", "10.0.2.4", "10.0.2.6"))
STATIC = parse_address("10.0.2.5")


def config(**changes):
    fields = dict(server_address=SERVER, pool_first=parse_address("10.0.2.1"), pool_last=parse_address("10.0.2.9"),
                  router=ROUTER, dns=(DNS,), static_leases={MACS[0]: STATIC}, offer_seconds=10.0,
                  decline_seconds=100.0)
    return DhcpServerConfig(**fields | changes)


@pytest.fixture
def table():
    return LeaseTable(config())


def take(table, number, requested=None, state=LeaseState.BOUND, expires=50.0):
    client, mac = b"client%d" % number, MACS[number]
    address = table.select(client, mac, requested and parse_address(requested))
    if address is None:
        return None
    lease = table.assign(address, client, mac)
    table.activate(lease, state, expires)
    return lease


def test_pool_leaves_out_what_is_in_use_otherwise(table):
    given = [format_address(take(table, number).address) for number in (1, 2, 3, 4, 5)]
    assert given == ["10.0.2.1", "10.0.2.3", "10.0.2.7", "10.0.2.8", "10.0.2.9"]
    lease = take(table, 0)
    assert lease.address == STATIC
    assert table.select(b"one more", parse_mac("02:00:00:00:00:99"), None) is None and len(table) == 6


def test_network_and_broadcast_address_are_nobodys():
    table = LeaseTable(config(prefix_length=29, pool_first=parse_address("10.0.2.0"),
                              pool_last=parse_address("10.0.2.7"), static_leases={}))
    for number in (0, 7):
        assert not table.is_available(parse_address(f"10.0.2.{number}"), b"client", MACS[1])
    assert [format_address(take(table, number).address) for number in (1, 2, 3)] == ["10.0.2.1", "10.0.2.3", "10.0.2.5"]
    assert take(table, 4) is None


def test_requested_address_is_given_when_it_is_free(table):
    assert format_address(take(table, 1, "10.0.2.8").address) == "10.0.2.8"
    for wanted in ("10.0.2.8", "10.0.2.2", "10.0.2.4", "10.0.2.5", "10.0.2.6", "10.0.2.77"):
        assert not table.is_available(parse_address(wanted), b"client2", MACS[2])
    assert format_address(take(table, 2, "10.0.2.8").address) == "10.0.2.1"


def test_a_client_gets_its_address_again(table):
    first = take(table, 1, "10.0.2.8").address
    take(table, 2)
    table.release(table.lease_of(b"client1"))
    assert take(table, 1, "10.0.2.9").address == first
    table.expire(1000.0)
    assert take(table, 1).address == first


def test_the_address_that_rests_longest_is_used_again_last_of_all(table):
    addresses = {number: take(table, number).address for number in (1, 2, 3, 4, 5)}
    for number in (3, 1):
        table.release(table.lease_of(b"client%d" % number))
    assert table.select(b"new", MACS[1], None) == addresses[3]
    table.assign(addresses[3], b"new", MACS[1])
    assert table.lease_of(b"client3") is None
    assert take(table, 1).address == addresses[1]  # still remembered


def test_declined_address_rests_and_is_the_last_resort(table):
    lease = take(table, 1)
    address = lease.address
    table.decline(lease, 0.0)
    assert table.lease_of(b"client1") is None and not table.is_available(address, b"client1", MACS[1])
    others = [take(table, number).address for number in (2, 3, 4, 5)]
    assert address not in others
    assert table.select(b"last", MACS[1], None) == address  # better than nothing
    assert table.next_deadline() == 50.0
    table.expire(99.0)
    assert not table.is_available(address, b"client1", MACS[1])
    table.expire(100.0)
    assert table.is_available(address, b"client1", MACS[1])


def test_static_lease_belongs_to_the_interface_whatever_its_client_is_called(table):
    boot = table.assign(table.select(b"boot loader", MACS[0], None), b"boot loader", MACS[0])
    table.activate(boot, LeaseState.BOUND, 50.0)
    assert table.select(b"operating system", MACS[0], None) == STATIC
    assert not table.is_available(STATIC, b"boot loader", MACS[1])
    assert table.select(b"boot loader", MACS[1], None) == parse_address("10.0.2.1")
    system = table.assign(STATIC, b"operating system", MACS[0])
    assert table.lease_of(b"boot loader") is None and table.lease_of(b"operating system") is system


def test_expiry_tells_of_bound_leases_only(table):
    take(table, 1, expires=30.0)
    take(table, 2, state=LeaseState.OFFERED, expires=20.0)
    assert table.next_deadline() == 20.0
    assert table.expire(19.9) == [] and table.expire(20.0) == []
    assert table.next_deadline() == 30.0
    assert [lease.client for lease in table.expire(30.0)] == [b"client1"]
    assert table.next_deadline() is None


def test_infinite_lease_has_no_deadline(table):
    take(table, 1, expires=float("inf"))
    assert table.next_deadline() is None


def test_configurations_at_their_bounds():
    assert config(mtu=68).mtu == 68 and config(mtu=65535).mtu == 65535
    assert config(prefix_length=1).prefix_length == 1 and config(lease_seconds=0xFFFFFFFF) and config(dns=(DNS,) * 8)
    everything = config(prefix_length=30, pool_first=SERVER, pool_last=SERVER, router=None, static_leases={})
    assert LeaseTable(everything).select(b"client", MACS[1], None) is None


@pytest.mark.parametrize("changes, says", [
    (dict(prefix_length=0), "1..30"), (dict(mtu=65536), "MTU 65536"), (dict(lease_seconds=1 << 32), "lease time"),
    (dict(prefix_length=31), "1..30"), (dict(pool_last=parse_address("10.0.3.9")), "pool 10.0.3.9"),
    (dict(pool_first=parse_address("10.0.2.10")), "1 to 65536"), (dict(router=parse_address("10.9.9.9")), "router"),
    (dict(server_address=parse_address("fe80::1")), "not in the server's"),
    (dict(static_leases={MACS[0]: parse_address("10.0.3.5")}), "static lease 10.0.3.5"),
    (dict(static_leases={MACS[0]: STATIC, MACS[1]: STATIC}), "same address"),
    (dict(static_leases={MACS[0]: SERVER}), "server's own"),
    (dict(static_leases={b"123": STATIC}), "6 bytes"), (dict(dns=(DNS,) * 9), "at most 8"),
    (dict(domain="x" * 201), "200 ASCII"), (dict(dns=(parse_address("fe80::1"),)), "IPv4 DNS"),
    (dict(lease_seconds=0), "lease time"), (dict(mtu=67), "MTU 67"),
    (dict(prefix_length=8, pool_last=parse_address("10.1.2.1")), "1 to 65536"),
])
def test_wrong_configurations_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        config(**changes)


class Books(RuleBasedStateMachine):
    clients = st.integers(0, 9)

    @initialize()
    def begin(self):
        self.table = LeaseTable(config(pool_last=parse_address("10.0.2.8")))
        self.now = 0.0

    @rule(number=clients, interface=st.integers(0, 5), requested=st.none() | st.integers(0, 12),
          bound=st.booleans(), life=st.integers(1, 30))
    def come(self, number, interface, requested, bound, life):
        client, mac = b"client%d" % number, MACS[interface]
        wanted = None if requested is None else parse_address(f"10.0.2.{requested}")
        address = self.table.select(client, mac, wanted)
        if address is not None:
            lease = self.table.assign(address, client, mac)
            assert lease.address == address and self.table.lease_of(client) is lease
            self.table.activate(lease, LeaseState.BOUND if bound else LeaseState.OFFERED, self.now + life)

    @rule(number=clients, requested=st.integers(0, 12))
    def claim(self, number, requested):
        client, mac, address = b"client%d" % number, MACS[number % 6], parse_address(f"10.0.2.{requested}")
        if self.table.is_available(address, client, mac):
            self.table.activate(self.table.assign(address, client, mac), LeaseState.BOUND, self.now + 20)

    @rule(number=clients, decline=st.booleans())
    def give_back(self, number, decline):
        lease = self.table.lease_of(b"client%d" % number)
        if lease is not None:
            self.table.decline(lease, self.now) if decline else self.table.release(lease)

    @precondition(lambda self: self.table.next_deadline() is not None)
    @rule()
    def wait(self):
        self.now = max(self.now, self.table.next_deadline())
        self.table.expire(self.now)

    @invariant()
    def books_balance(self):
        table = self.table
        owners = {lease.client: lease for lease in table._by_address.values() if lease.client is not None}
        assert owners == table._by_client
        assert all(address == lease.address for address, lease in table._by_address.items())
        by_state = {state: {address for address, lease in table._by_address.items() if lease.state == state}
                    for state in LeaseState}
        assert set(table._idle) == by_state[LeaseState.IDLE] and set(table._declined) == by_state[LeaseState.DECLINED]
        for lease in table._by_address.values():
            assert lease.address not in (SERVER, ROUTER, DNS)
            assert lease.address != STATIC or lease.mac == MACS[0]
            if lease.state != LeaseState.IDLE:
                assert table.next_deadline() <= lease.expires
        assert len(table) <= 8


Books.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBooks = Books.TestCase
