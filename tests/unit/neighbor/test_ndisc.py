from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swos_net.address import ALL_NODES6, ALL_ROUTERS6, UNSPECIFIED6, parse_address, solicited_node
from swos_net.config import NeighborConfig
from swos_net.neighbor.cache import Changed, NeighborCache, NeighborState, Resolved
from swos_net.neighbor.ndisc import (
    AddressReady,
    DuplicateAddress,
    NdConfig,
    NeighborDiscovery,
    PrefixDiscovered,
    Redirected,
    RouterDiscovered,
    RouterLost,
    ServersDiscovered,
)
from swos_net.wire import icmpv6, ndisc
from swos_net.wire.ndisc import (
    NdOptions,
    NeighborAdvertisement,
    NeighborSolicitation,
    PrefixInformation,
    RecursiveServers,
    Redirect,
    RouterAdvertisement,
    RouterSolicitation,
    SearchList,
)

US, PEER, ROUTER = (parse_address(f"fe80::{digit}") for digit in "abc")
GLOBAL = parse_address("2001:db8::1")
OUR_MAC, PEER_MAC, ROUTER_MAC = (bytes.fromhex(f"02000000000{digit}") for digit in "abc")


class Host:
    """Neighbor Discovery and a neighbour cache, and what they say."""

    def __init__(self, link_address: bytes = OUR_MAC, source: bytes | None = US, seed: int = 1, **options):
        config = options.pop("config", NeighborConfig())
        self.cache = NeighborCache(config, lambda *asked: self.ndisc.solicit(*asked))
        self.ndisc = NeighborDiscovery(
            self.cache, link_address, config, lambda address: source, random=Random(seed), **options
        )

    def ready(self, *addresses: bytes) -> "Host":
        """With addresses in use and their advertisements said."""
        for address in addresses or (US,):
            self.ndisc.add_address(address, 0.0, probe=False)
        self.run_until(50.0)
        self.events()
        return self

    def sent(self) -> list[tuple[bytes, bytes, ndisc.NdMessage]]:
        messages = []
        for source, destination, hop_limit, data in self.ndisc.packets_to_send(0.0):
            message = ndisc.parse(data, source, destination)
            ndisc.validate(message, source, destination, hop_limit)
            messages.append((source, destination, message))
        return messages

    def events(self) -> list:
        return list(iter(self.ndisc.next_event, None))

    def hear(
        self,
        source: bytes,
        destination: bytes,
        message: ndisc.NdMessage,
        now: float = 100.0,
        hop_limit: int = 255,
        link_source: bytes | None = PEER_MAC,
    ) -> None:
        data = ndisc.emit(message, source, destination)
        self.ndisc.message_received(source, destination, hop_limit, data, link_source, now)

    def run_until(self, end: float) -> list[tuple[float, bytes, bytes, ndisc.NdMessage]]:
        """Serves every deadline up to `end`; returns what was sent, with the time."""
        trace = [(0.0, *packet) for packet in self.sent()]
        while (deadline := self.ndisc.next_deadline()) is not None and deadline <= end:
            self.ndisc.handle_timeout(deadline)
            trace += [(deadline, *packet) for packet in self.sent()]
        return trace


def from_peer() -> NdOptions:
    return NdOptions(source_link_address=PEER_MAC)


def advertisement(solicited: bool, address: bytes = US, router: bool = False) -> NeighborAdvertisement:
    return NeighborAdvertisement(address, router, solicited, True, NdOptions(target_link_address=OUR_MAC))


@pytest.fixture
def host():
    return Host()


# Answering solicitations


@pytest.mark.parametrize("destination", [US, solicited_node(US)])
def test_a_solicitation_for_us_is_answered_and_its_sender_learned(host, destination):
    host.ready().hear(PEER, destination, NeighborSolicitation(US, from_peer()))
    assert host.sent() == [(US, PEER, advertisement(solicited=True))]
    assert host.cache.lookup(PEER).link_address == PEER_MAC
    assert host.cache.lookup(PEER).state == NeighborState.STALE


def test_a_solicitation_without_link_address_is_answered_but_teaches_nothing(host):
    host.ready().hear(PEER, US, NeighborSolicitation(US))
    assert host.sent() == [(US, PEER, advertisement(solicited=True))]
    assert host.cache.entries() == []


def test_duplicate_address_detection_of_another_is_answered_to_all(host):
    host.ready().hear(UNSPECIFIED6, solicited_node(US), NeighborSolicitation(US))
    assert host.sent() == [(US, ALL_NODES6, advertisement(solicited=False))]
    assert host.ndisc.is_ready(US) and host.events() == []


def test_a_router_says_so():
    host = Host(is_router=True).ready()
    host.hear(PEER, US, NeighborSolicitation(US, from_peer()))
    assert host.sent() == [(US, PEER, advertisement(solicited=True, router=True))]


def test_nothing_answers_for_addresses_not_ours_tentative_or_removed(host):
    def hear():
        host.hear(PEER, solicited_node(US), NeighborSolicitation(US, from_peer()))

    hear()
    host.ndisc.add_address(US, 0.0, probe=True)
    hear()
    assert [kind for _, _, kind in host.sent() if isinstance(kind, NeighborAdvertisement)] == []
    assert host.cache.entries() == []
    host.run_until(50.0)
    hear()
    assert host.sent() == [(US, PEER, advertisement(solicited=True))]
    host.ndisc.remove_address(US)
    hear()
    assert host.sent() == []
    assert host.ndisc.groups() == set()


# Asking


def test_solicitations(host):
    host.ready()
    message = NeighborSolicitation(PEER, NdOptions(source_link_address=OUR_MAC))
    host.cache.resolve(PEER, 100.0)
    assert host.sent() == [(US, solicited_node(PEER), message)]
    host.ndisc.solicit(PEER, PEER_MAC, 101.0)
    assert host.sent() == [(US, PEER, message)]


def test_nothing_is_asked_without_a_source_or_from_a_tentative_one():
    host = Host(source=None).ready()
    host.cache.resolve(PEER, 100.0)
    assert host.sent() == []
    host = Host()
    host.ndisc.add_address(US, 0.0, probe=True)
    host.sent()
    host.cache.resolve(PEER, 0.0)
    assert host.sent() == []


def test_two_hosts_find_each_other():
    host, peer = Host().ready(), Host(PEER_MAC, PEER).ready(PEER)
    host.cache.resolve(PEER, 100.0)
    host.cache.hold(PEER, b"packet")
    for sender, receiver in ((host, peer), (peer, host)):
        for source, destination, hop_limit, data in sender.ndisc.packets_to_send(100.0):
            assert destination in receiver.ndisc.groups() | {PEER, US}
            receiver.ndisc.message_received(source, destination, hop_limit, data, sender.ndisc.link_address, 100.0)
    assert host.cache.next_event() == Resolved(PEER, PEER_MAC, [b"packet"])
    assert host.cache.lookup(PEER).state == NeighborState.REACHABLE
    assert peer.cache.lookup(US).link_address == OUR_MAC
    assert host.events() == peer.events() == []


# Advertisements


def test_an_advertisement_nobody_asked_for_makes_no_entry(host):
    host.ready().hear(PEER, ALL_NODES6, NeighborAdvertisement(PEER, options=NdOptions(target_link_address=PEER_MAC)))
    assert host.cache.entries() == []


def test_the_flags_of_an_advertisement_reach_the_cache(host):
    host.ready().cache.learned(PEER, PEER_MAC, 100.0, solicited=True)
    other = NdOptions(target_link_address=ROUTER_MAC)
    host.hear(PEER, US, NeighborAdvertisement(PEER, True, True, False, other))
    assert host.cache.lookup(PEER).state == NeighborState.STALE
    assert host.cache.lookup(PEER).link_address == PEER_MAC
    host.hear(PEER, US, NeighborAdvertisement(PEER, True, True, True, other))
    assert host.cache.lookup(PEER).state == NeighborState.REACHABLE
    assert host.cache.lookup(PEER).is_router
    assert host.cache.next_event() == Changed(PEER, ROUTER_MAC)


def test_a_router_that_becomes_a_host_is_lost(host):
    host.ready().cache.learned(ROUTER, ROUTER_MAC, 100.0, solicited=True, is_router=True)
    host.hear(ROUTER, US, NeighborAdvertisement(ROUTER, True, True, True))
    assert host.events() == []
    host.hear(ROUTER, US, NeighborAdvertisement(ROUTER, False, True, True))
    assert host.events() == [RouterLost(ROUTER)]


def test_an_advertisement_for_our_address_is_reported_now_and_then(host):
    host.ready()
    for now in (100.0, 101.0, 109.9, 110.0):
        host.hear(
            US, ALL_NODES6, NeighborAdvertisement(US, options=NdOptions(target_link_address=PEER_MAC)), now
        )
    assert host.events() == [DuplicateAddress(US, PEER_MAC, False)] * 2
    assert host.ndisc.is_ready(US)
    assert host.cache.entries() == []


def test_our_own_packets_come_back(host):
    host.ready()
    host.ndisc.announce(100.0)
    host.cache.resolve(PEER, 100.0)
    for source, destination, hop_limit, data in host.ndisc.packets_to_send(100.0):
        host.ndisc.message_received(source, destination, hop_limit, data, OUR_MAC, 100.0)
    host.hear(US, US, NeighborSolicitation(US, NdOptions(source_link_address=OUR_MAC)), link_source=OUR_MAC)
    assert host.events() == [] and host.sent() == []
    assert [neighbor.address for neighbor in host.cache.entries()] == [PEER]
    assert host.cache.lookup(PEER).state == NeighborState.INCOMPLETE


# Duplicate Address Detection


def test_one_solicitation_then_ready_then_advertised(host):
    host.ndisc.add_address(US, 0.0, probe=True)
    assert host.ndisc.groups() == {solicited_node(US)}
    assert not host.ndisc.is_ready(US)
    first, second = host.run_until(1000.0)
    assert 0.0 <= first[0] <= 1.0 and second[0] - first[0] == pytest.approx(1.0)
    assert first[1:3] == (UNSPECIFIED6, solicited_node(US))
    assert first[3].target == US and len(first[3].options.nonce) == 6
    assert first[3].options.source_link_address is None
    assert second[1:] == (US, ALL_NODES6, advertisement(solicited=False))
    assert host.events() == [AddressReady(US)]
    assert host.ndisc.next_deadline() is None


def test_more_solicitations_and_advertisements():
    host = Host(config=NeighborConfig(dad_transmits=3), nd_config=NdConfig(dad_delay=0.0, unsolicited_advertisements=2))
    host.ndisc.add_address(US, 0.0, probe=True)
    trace = host.run_until(1000.0)
    assert [(time, type(message)) for time, _, _, message in trace] == [
        (0.0, NeighborSolicitation),
        (1.0, NeighborSolicitation),
        (2.0, NeighborSolicitation),
        (3.0, NeighborAdvertisement),
        (4.0, NeighborAdvertisement),
    ]
    assert len({message.options.nonce for _, _, _, message in trace[:3]}) == 3


@pytest.mark.parametrize("transmits", [0, 1])
def test_without_detection_an_address_is_ready_at_once(transmits):
    host = Host(config=NeighborConfig(dad_transmits=transmits))
    host.ndisc.add_address(US, 7.0, probe=not transmits)
    assert host.events() == [AddressReady(US)]
    assert host.sent() == [(US, ALL_NODES6, advertisement(solicited=False))]
    host.ndisc.add_address(US, 8.0, probe=True)
    assert host.events() == [] and host.ndisc.is_ready(US)


DUPLICATES = [
    (UNSPECIFIED6, solicited_node(US), NeighborSolicitation(US)),
    (UNSPECIFIED6, solicited_node(US), NeighborSolicitation(US, NdOptions(nonce=b"abcdef"))),
    (US, ALL_NODES6, NeighborAdvertisement(US, override=True, options=NdOptions(target_link_address=PEER_MAC))),
    (US, ALL_NODES6, NeighborAdvertisement(US)),
]


@pytest.mark.parametrize(("source", "destination", "message"), DUPLICATES)
@pytest.mark.parametrize("steps", [0, 1])
def test_another_with_our_tentative_address(host, source, destination, message, steps):
    host.ndisc.add_address(US, 0.0, probe=True)
    for _ in range(steps):
        host.ndisc.handle_timeout(host.ndisc.next_deadline())
    host.hear(source, destination, message, 1.0)
    assert host.events() == [DuplicateAddress(US, PEER_MAC, True)]
    assert host.ndisc.next_deadline() is None
    assert not host.ndisc.is_ready(US) and host.ndisc.groups() == set()


def test_a_clone_with_our_link_address_is_a_duplicate_too(host):
    host.ndisc.add_address(US, 0.0, probe=True)
    host.hear(US, ALL_NODES6, advertisement(solicited=False), 0.5, link_source=OUR_MAC)
    assert host.events() == [DuplicateAddress(US, OUR_MAC, True)]


def test_our_own_detection_that_comes_back_is_known_by_its_nonce(host):
    host.ndisc.add_address(US, 0.0, probe=True)
    host.ndisc.handle_timeout(host.ndisc.next_deadline())
    ((source, destination, hop_limit, data),) = host.ndisc.packets_to_send(1.0)
    host.ndisc.message_received(source, destination, hop_limit, data, PEER_MAC, 1.0)
    assert host.events() == []
    host.run_until(50.0)
    assert host.events() == [AddressReady(US)]


def test_somebody_resolving_a_tentative_address_is_no_duplicate(host):
    host.ndisc.add_address(US, 0.0, probe=True)
    host.hear(PEER, solicited_node(US), NeighborSolicitation(US, from_peer()), 0.5)
    assert host.events() == []


def test_two_hosts_that_detect_at_once_both_lose():
    hosts = [Host(OUR_MAC, seed=1), Host(PEER_MAC, seed=2)]
    for host in hosts:
        host.ndisc.add_address(US, 0.0, probe=True)
        host.ndisc.handle_timeout(1.0)
    spoken = [host.ndisc.packets_to_send(1.0)[0] for host in hosts]
    for host, packet, mac in zip(hosts, reversed(spoken), (PEER_MAC, OUR_MAC), strict=True):
        host.ndisc.message_received(*packet, mac, 1.0)
        assert host.events() == [DuplicateAddress(US, mac, True)]


def test_announcing_anew(host):
    host.ready(US, GLOBAL)
    host.ndisc.add_address(PEER, 60.0, probe=True)
    host.ndisc.announce(60.0)
    assert host.sent() == [
        (address, ALL_NODES6, advertisement(solicited=False, address=address)) for address in (US, GLOBAL)
    ]


# Routers


def test_three_router_solicitations(host):
    host.ready().ndisc.solicit_routers(100.0)
    trace = host.run_until(1000.0)
    assert [packet for _, *packet in trace] == [
        [US, ALL_ROUTERS6, RouterSolicitation(NdOptions(source_link_address=OUR_MAC))]
    ] * 3
    times = [time for time, *_ in trace]
    assert 100.0 <= times[0] <= 101.0
    assert times[2] - times[1] == times[1] - times[0] == 4.0
    assert host.ndisc.next_deadline() is None


def test_without_a_ready_link_local_address_the_solicitation_has_no_source():
    host = Host(nd_config=NdConfig(router_solicitation_delay=0.0)).ready(GLOBAL)
    host.ndisc.solicit_routers(100.0)
    assert host.sent() == [(UNSPECIFIED6, ALL_ROUTERS6, RouterSolicitation())]


@pytest.mark.parametrize(("lifetime", "more"), [(1800, 0), (0, 2)])
def test_a_router_with_a_lifetime_ends_the_solicitations(lifetime, more):
    host = Host(nd_config=NdConfig(router_solicitation_delay=0.0)).ready()
    host.ndisc.solicit_routers(100.0)
    host.sent()
    host.hear(ROUTER, ALL_NODES6, RouterAdvertisement(router_lifetime=lifetime))
    assert len(host.run_until(1000.0)) == more


def test_what_a_router_advertises(host):
    prefixes = [
        PrefixInformation(parse_address("fd12::"), 64, True, True, 86400, 14400),
        PrefixInformation(parse_address("2001:db8:1::"), 48, True, False, 600, 600),
    ]
    servers = [RecursiveServers(1200, [parse_address("fd12::53")])]
    domains = [SearchList(600, ["lab.example"])]
    host.ready().hear(
        ROUTER,
        ALL_NODES6,
        RouterAdvertisement(
            64,
            managed=True,
            other=True,
            router_lifetime=1800,
            reachable_time=12000,
            retransmit_timer=500,
            options=NdOptions(
                source_link_address=ROUTER_MAC,
                prefixes=prefixes,
                mtu=9000,
                recursive_servers=servers,
                search_lists=domains,
            ),
        ),
    )
    assert host.events() == [
        RouterDiscovered(ROUTER, 1800, 64, 9000, True, True),
        PrefixDiscovered(ROUTER, prefixes[0]),
        PrefixDiscovered(ROUTER, prefixes[1]),
        ServersDiscovered(ROUTER, servers, domains),
    ]
    assert host.cache.lookup(ROUTER).link_address == ROUTER_MAC
    assert host.cache.lookup(ROUTER).is_router
    assert (host.cache.reachable_time, host.cache.retransmit_timer) == (12.0, 0.5)


def test_what_a_router_leaves_open(host):
    host.ready().hear(ROUTER, ALL_NODES6, RouterAdvertisement())
    assert host.events() == [RouterDiscovered(ROUTER, 0, None, None, False, False)]
    assert host.cache.entries() == []
    assert (host.cache.reachable_time, host.cache.retransmit_timer) == (30.0, 1.0)


def test_an_advertisement_makes_a_known_neighbor_a_router(host):
    host.ready().cache.learned(ROUTER, ROUTER_MAC, 100.0, solicited=True)
    host.hear(ROUTER, ALL_NODES6, RouterAdvertisement(router_lifetime=10))
    assert host.cache.lookup(ROUTER).is_router
    assert host.cache.lookup(ROUTER).state == NeighborState.REACHABLE


@pytest.mark.parametrize(
    "prefix",
    [
        PrefixInformation(parse_address("fe80::"), 64, True, True, 600, 600),
        PrefixInformation(parse_address("ff02::"), 64, True, True, 600, 600),
        PrefixInformation(parse_address("10.0.0.0"), 120, True, True, 600, 600),
        PrefixInformation(parse_address("fd12::"), 64, True, True, 600, 601),
    ],
)
def test_prefixes_that_are_ignored(host, prefix):
    host.ready().hear(ROUTER, ALL_NODES6, RouterAdvertisement(options=NdOptions(prefixes=[prefix], mtu=1279)))
    assert host.events() == [RouterDiscovered(ROUTER, 0, None, None, False, False)]


def test_our_own_router_advertisement_comes_back(host):
    host.ready().hear(US, ALL_NODES6, RouterAdvertisement(router_lifetime=1800, options=from_peer()))
    assert host.events() == [] and host.cache.entries() == []


def test_a_redirect_is_handed_up(host):
    options = NdOptions(target_link_address=PEER_MAC)
    host.ready().hear(ROUTER, US, Redirect(PEER, GLOBAL, options))
    assert host.events() == [Redirected(ROUTER, GLOBAL, PEER, PEER_MAC)]
    assert host.cache.entries() == []


def test_a_flood_of_advertisements_is_bounded_and_hides_nothing_of_our_own(host):
    prefixes = [PrefixInformation(parse_address("fd12::"), 64, True, True, 60, 60)] * 40
    for _ in range(50):
        host.hear(ROUTER, ALL_NODES6, RouterAdvertisement(options=NdOptions(prefixes=prefixes)))
    host.ndisc.add_address(US, 0.0, probe=False)
    events = host.events()
    assert len(events) == 1025 and events[-1] == AddressReady(US)
    assert host.ndisc.counters.events_dropped == 50 * 41 - 1024


def test_a_host_ignores_router_solicitations(host):
    host.ready().hear(PEER, ALL_ROUTERS6, RouterSolicitation(from_peer()))
    assert host.sent() == [] and host.events() == [] and host.cache.entries() == []


# Malformed and hostile messages


@pytest.mark.parametrize(
    ("source", "destination", "message"),
    [
        (PEER, US, NeighborSolicitation(US, from_peer(), code=1)),
        (UNSPECIFIED6, US, NeighborSolicitation(US)),
        (ALL_NODES6, US, NeighborSolicitation(US, from_peer())),
        (parse_address("10.0.0.7"), US, NeighborSolicitation(US, from_peer())),
        (PEER, US, NeighborSolicitation(US, NdOptions(source_link_address=b"\xff" * 6))),
        (PEER, US, NeighborSolicitation(US, NdOptions(source_link_address=bytes(6)))),
        (PEER, US, NeighborAdvertisement(PEER, options=NdOptions(target_link_address=b"\x33\x33\0\0\0\1"))),
        (GLOBAL, ALL_NODES6, RouterAdvertisement(router_lifetime=1800)),
    ],
)
def test_invalid_messages_have_no_effect(host, source, destination, message):
    host.ready().hear(source, destination, message)
    assert host.sent() == [] and host.events() == [] and host.cache.entries() == []
    assert (host.ndisc.counters.invalid, host.ndisc.counters.malformed) == (1, 0)


def test_a_message_from_beyond_the_link_has_no_effect(host):
    host.ready().hear(PEER, US, NeighborSolicitation(US, from_peer()), hop_limit=254)
    assert host.sent() == [] and host.cache.entries() == []
    assert host.ndisc.counters.invalid == 1


def test_malformed_messages_are_counted(host):
    data = ndisc.emit(NeighborSolicitation(US, from_peer()), PEER, US)
    host.ready()
    for broken in (b"", data[:20], data[:-1] + b"\x77", b"\x80" + data[1:]):
        host.ndisc.message_received(PEER, US, 255, broken, PEER_MAC, 100.0)
    assert host.sent() == [] and host.cache.entries() == []
    assert host.ndisc.counters.malformed == 4


def test_a_burst_of_solicitations_is_answered_in_bounds(host):
    host.ready()
    for _ in range(300):
        host.hear(PEER, US, NeighborSolicitation(US, from_peer()))
    assert len(host.sent()) == 256
    assert host.ndisc.counters.output_dropped == 44


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([UNSPECIFIED6, US, PEER, GLOBAL, ALL_NODES6]),
            st.sampled_from([US, solicited_node(US), ALL_NODES6]),
            st.integers(132, 138),
            st.sampled_from([US, PEER, GLOBAL]),
            st.binary(max_size=40),
        ),
        max_size=20,
    )
)
def test_any_message_is_survived(messages):
    host = Host().ready(US)
    host.ndisc.add_address(GLOBAL, 99.0, probe=True)
    for source, destination, kind, target, tail in messages:
        data = bytes((kind, 0, 0, 0, 0, 0, 0, 0)) + target + tail
        data = data[:2] + icmpv6.checksum(data, source, destination).to_bytes(2, "big") + data[4:]
        host.ndisc.message_received(source, destination, 255, data, PEER_MAC, 100.0)
    host.sent()
    host.events()
    assert host.ndisc.is_ready(US)
