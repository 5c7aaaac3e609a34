from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swos_net.address import BROADCAST4, LOOPBACK4, UNSPECIFIED4, parse_address
from swos_net.config import NeighborConfig
from swos_net.neighbor.arp import AddressReady, Arp, ArpConfig, Conflict
from swos_net.neighbor.cache import NeighborCache, NeighborState, Resolved
from swos_net.wire import arp
from swos_net.wire.arp import REPLY, REQUEST, ArpPacket
from swos_net.wire.ethernet import BROADCAST, UNSPECIFIED

US, PEER, OTHER = (parse_address(f"10.0.0.{number}") for number in (1, 2, 3))
OUR_MAC, PEER_MAC, OTHER_MAC = (bytes.fromhex(f"02000000000{digit}") for digit in "abc")


class Host:
    """ARP and a neighbour cache, and what they say."""

    def __init__(self, link_address: bytes = OUR_MAC, source: bytes | None = US, seed: int = 1, **config):
        self.cache = NeighborCache(NeighborConfig(), lambda *asked: self.arp.solicit(*asked))
        self.arp = Arp(
            self.cache, link_address, lambda address: source, random=Random(seed), config=ArpConfig(**config)
        )

    def ready(self, address: bytes = US, keep: bool = True) -> "Host":
        """With `address` in use and its announcements said."""
        self.arp.add_address(address, 0.0, probe=False, keep=keep)
        self.run_until(50.0)
        self.events()
        return self

    def sent(self) -> list[tuple[bytes, ArpPacket]]:
        return [(destination, arp.parse(payload)) for destination, payload in self.arp.packets_to_send(0.0)]

    def events(self) -> list:
        return list(iter(self.arp.next_event, None))

    def hear(self, packet: ArpPacket, now: float = 100.0) -> None:
        self.arp.packet_received(arp.emit(packet) + bytes(18), now)

    def run_until(self, end: float) -> list[tuple[float, bytes, ArpPacket]]:
        """Serves every deadline up to `end`; returns what was sent, with the time."""
        trace = [(0.0, *packet) for packet in self.sent()]
        while (deadline := self.arp.next_deadline()) is not None and deadline <= end:
            self.arp.handle_timeout(deadline)
            trace += [(deadline, *packet) for packet in self.sent()]
        return trace


PROBE = ArpPacket(REQUEST, OUR_MAC, UNSPECIFIED4, UNSPECIFIED, US)
ANNOUNCEMENT = ArpPacket(REQUEST, OUR_MAC, US, UNSPECIFIED, US)


@pytest.fixture
def host():
    return Host()


# Answering


def test_a_request_for_us_is_answered_and_its_sender_learned(host):
    host.ready().hear(ArpPacket(REQUEST, PEER_MAC, PEER, UNSPECIFIED, US))
    assert host.sent() == [(PEER_MAC, ArpPacket(REPLY, OUR_MAC, US, PEER_MAC, PEER))]
    assert host.cache.lookup(PEER).link_address == PEER_MAC
    assert host.cache.lookup(PEER).state == NeighborState.STALE


def test_a_request_for_another_is_not_answered_and_makes_no_entry(host):
    host.ready().hear(ArpPacket(REQUEST, PEER_MAC, PEER, UNSPECIFIED, OTHER))
    assert host.sent() == []
    assert host.cache.entries() == []


def test_a_request_for_another_updates_an_entry_that_is_there(host):
    host.ready().cache.learned(PEER, PEER_MAC, 99.0, solicited=True)
    host.hear(ArpPacket(REQUEST, OTHER_MAC, PEER, UNSPECIFIED, OTHER))
    assert host.cache.lookup(PEER).link_address == OTHER_MAC
    assert host.cache.lookup(PEER).state == NeighborState.STALE


def test_a_probe_for_our_address_is_answered_and_teaches_nothing(host):
    host.ready().hear(ArpPacket(REQUEST, PEER_MAC, UNSPECIFIED4, UNSPECIFIED, US))
    assert host.sent() == [(PEER_MAC, ArpPacket(REPLY, OUR_MAC, US, PEER_MAC, UNSPECIFIED4))]
    assert host.cache.entries() == []
    assert host.events() == []


def test_nothing_answers_for_addresses_not_ours_tentative_or_removed(host):
    request = ArpPacket(REQUEST, PEER_MAC, PEER, UNSPECIFIED, US)
    host.hear(request)
    assert host.sent() == []
    host.arp.add_address(US, 100.0, probe=True)
    host.hear(request)
    assert all(packet.operation == REQUEST for _, packet in host.sent())
    assert host.cache.entries() == []
    host.run_until(200.0)
    host.hear(request, 200.0)
    assert len(host.sent()) == 1
    host.arp.remove_address(US)
    host.hear(request, 201.0)
    assert host.sent() == []


def test_replies_are_not_answered(host):
    host.ready().hear(ArpPacket(REPLY, PEER_MAC, PEER, OUR_MAC, US))
    assert host.sent() == []
    assert host.arp.counters.replies_received == 1


# Learning from replies


def test_a_reply_nobody_asked_for_makes_no_entry(host):
    host.ready().hear(ArpPacket(REPLY, PEER_MAC, PEER, OUR_MAC, US))
    assert host.cache.entries() == []


@pytest.mark.parametrize(
    ("packet", "state"),
    [
        (ArpPacket(REPLY, PEER_MAC, PEER, OUR_MAC, US), NeighborState.REACHABLE),
        (ArpPacket(REPLY, PEER_MAC, PEER, BROADCAST, PEER), NeighborState.STALE),
        (ArpPacket(REPLY, PEER_MAC, PEER, OTHER_MAC, OTHER), NeighborState.STALE),
        (ArpPacket(REQUEST, PEER_MAC, PEER, UNSPECIFIED, PEER), NeighborState.STALE),
        (ArpPacket(REQUEST, PEER_MAC, PEER, UNSPECIFIED, US), NeighborState.STALE),
    ],
)
def test_whatever_names_the_sender_ends_a_resolution(host, packet, state):
    host.ready().cache.resolve(PEER, 100.0)
    host.hear(packet)
    assert host.cache.lookup(PEER).state == state
    assert host.cache.next_event() == Resolved(PEER, PEER_MAC, [])


# Asking


def test_solicitations(host):
    host.ready()
    host.cache.resolve(PEER, 100.0)
    assert host.sent() == [(BROADCAST, ArpPacket(REQUEST, OUR_MAC, US, UNSPECIFIED, PEER))]
    host.arp.solicit(PEER, PEER_MAC, 101.0)
    assert host.sent() == [(PEER_MAC, ArpPacket(REQUEST, OUR_MAC, US, UNSPECIFIED, PEER))]


def test_nothing_is_asked_without_a_source():
    host = Host(source=None).ready()
    host.cache.resolve(PEER, 100.0)
    assert host.sent() == []


def test_nothing_is_asked_from_a_tentative_address(host):
    host.arp.add_address(US, 0.0, probe=True)
    host.sent()
    host.cache.resolve(PEER, 0.0)
    assert host.sent() == []


def test_two_hosts_find_each_other():
    host, peer = Host().ready(), Host(PEER_MAC, PEER).ready(PEER)
    assert host.cache.resolve(PEER, 100.0) is None
    host.cache.hold(PEER, b"packet")
    for now in (100.0, 100.1):
        for sender, receiver in ((host, peer), (peer, host)):
            for destination, payload in sender.arp.packets_to_send(now):
                assert destination in (BROADCAST, receiver.arp.link_address)
                receiver.arp.packet_received(payload, now)
    assert host.cache.next_event() == Resolved(PEER, PEER_MAC, [b"packet"])
    assert host.cache.resolve(PEER, 101.0) == PEER_MAC
    assert peer.cache.resolve(US, 101.0) == OUR_MAC
    assert host.events() == peer.events() == []


# Malformed and hostile packets


@pytest.mark.parametrize(
    "packet",
    [
        ArpPacket(REQUEST, BROADCAST, PEER, UNSPECIFIED, US),
        ArpPacket(REQUEST, UNSPECIFIED, PEER, UNSPECIFIED, US),
        ArpPacket(REQUEST, b"\x01" + PEER_MAC[1:], PEER, UNSPECIFIED, US),
        ArpPacket(REQUEST, PEER_MAC, BROADCAST4, UNSPECIFIED, US),
        ArpPacket(REQUEST, PEER_MAC, parse_address("224.0.0.1"), UNSPECIFIED, US),
        ArpPacket(REQUEST, PEER_MAC, LOOPBACK4, UNSPECIFIED, US),
    ],
)
def test_senders_that_cannot_be(host, packet):
    host.ready().hear(packet)
    assert host.sent() == [] and host.cache.entries() == []
    assert host.arp.counters.malformed == 1


def test_malformed_packets_are_counted(host):
    host.ready().arp.packet_received(b"short", 100.0)
    assert host.arp.counters.malformed == 1


def test_our_own_packets_come_back(host):
    host.ready()
    for packet in (PROBE, ANNOUNCEMENT, ArpPacket(REPLY, OUR_MAC, US, OUR_MAC, US)):
        host.hear(packet)
    assert host.sent() == [] and host.events() == [] and host.arp.counters.conflicts == 0


def test_a_burst_of_requests_is_answered_in_bounds(host):
    host.ready()
    for _ in range(1000):
        host.hear(ArpPacket(REQUEST, PEER_MAC, PEER, UNSPECIFIED, US))
    assert len(host.sent()) == 256
    assert host.arp.counters.output_dropped == 744


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=20))
def test_any_payload_is_survived(payloads):
    host = Host().ready()
    for payload in payloads:
        host.arp.packet_received(payload, 100.0)
        host.arp.packet_received(arp.emit(PROBE)[:8] + payload.ljust(20, b"\0"), 100.0)
    assert host.arp.is_ready(US)


# Probing and announcing


def test_three_probes_then_ready_then_two_announcements(host):
    host.arp.add_address(US, 0.0, probe=True)
    trace = host.run_until(1000.0)
    assert [packet for _, _, packet in trace] == [PROBE] * 3 + [ANNOUNCEMENT] * 2
    assert all(destination == BROADCAST for _, destination, _ in trace)
    times = [time for time, _, _ in trace]
    assert 0.0 <= times[0] <= 1.0
    assert all(1.0 <= later - earlier <= 2.0 for earlier, later in zip(times[:2], times[1:3], strict=True))
    assert times[3] - times[2] == pytest.approx(2.0)
    assert times[4] - times[3] == pytest.approx(2.0)
    assert host.events() == [AddressReady(US)]
    assert host.arp.next_deadline() is None


def test_the_probing_times_are_drawn():
    def times(seed):
        host = Host(seed=seed)
        host.arp.add_address(US, 0.0, probe=True)
        return [time for time, _, _ in host.run_until(1000.0)]

    assert times(1) == times(1) != times(2)


def test_ready_only_when_probing_is_over(host):
    host.arp.add_address(US, 0.0, probe=True)
    while not host.events():
        assert not host.arp.is_ready(US)
        host.arp.handle_timeout(host.arp.next_deadline())
    assert host.arp.is_ready(US)


def test_without_probing_an_address_is_ready_at_once(host):
    host.arp.add_address(US, 7.0, probe=False)
    assert host.events() == [AddressReady(US)]
    assert host.sent() == [(BROADCAST, ANNOUNCEMENT)]
    assert host.arp.next_deadline() == 9.0
    host.arp.add_address(US, 8.0, probe=True)
    assert host.arp.is_ready(US) and host.events() == []


def test_announcing_anew(host):
    host.ready().arp.announce(60.0)
    host.arp.add_address(PEER, 60.0, probe=True)
    host.arp.announce(60.0)
    assert [packet for _, _, packet in host.run_until(60.0)][:2] == [ANNOUNCEMENT] * 2
    assert host.events() == []


# Conflicts


@pytest.mark.parametrize(
    "packet",
    [
        ArpPacket(REQUEST, PEER_MAC, UNSPECIFIED4, UNSPECIFIED, US),
        ArpPacket(REQUEST, PEER_MAC, US, UNSPECIFIED, OTHER),
        ArpPacket(REPLY, PEER_MAC, US, OUR_MAC, UNSPECIFIED4),
    ],
)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_conflict_while_probing_loses_the_address(host, packet, after):
    host.arp.add_address(US, 0.0, probe=True)
    for _ in range(after):
        host.arp.handle_timeout(host.arp.next_deadline())
    host.hear(packet, 5.0)
    assert host.events() == [Conflict(US, PEER_MAC, True)]
    assert not host.arp.is_ready(US)
    assert host.arp.next_deadline() is None
    assert host.cache.entries() == []


def test_somebody_resolving_a_tentative_address_is_no_conflict(host):
    host.arp.add_address(US, 0.0, probe=True)
    host.hear(ArpPacket(REQUEST, PEER_MAC, PEER, UNSPECIFIED, US), 0.5)
    assert host.events() == []


def test_after_many_conflicts_probing_is_slow(host):
    for _ in range(10):
        host.arp.add_address(US, 0.0, probe=True)
        assert host.arp.next_deadline() <= 2.0
        host.hear(ArpPacket(REQUEST, PEER_MAC, UNSPECIFIED4, UNSPECIFIED, US), 0.0)
    host.arp.add_address(US, 0.0, probe=True)
    assert host.arp.next_deadline() == 60.0


CONFLICTING = ArpPacket(REQUEST, PEER_MAC, US, UNSPECIFIED, OTHER)


def test_a_kept_address_is_defended_at_intervals(host):
    host.ready()
    for now in (100.0, 101.0, 109.9, 110.0, 115.0, 125.0):
        host.hear(CONFLICTING, now)
    assert host.sent() == [(BROADCAST, ANNOUNCEMENT)] * 3
    assert host.events() == [Conflict(US, PEER_MAC, False)] * 3
    assert host.arp.counters.conflicts == 6
    assert host.arp.is_ready(US)
    assert host.cache.entries() == []


def test_another_address_is_defended_once_then_given_up(host):
    host.ready(keep=False)
    host.hear(CONFLICTING, 100.0)
    host.hear(CONFLICTING, 110.0)
    assert host.events() == [Conflict(US, PEER_MAC, False)] * 2
    assert len(host.sent()) == 2
    host.hear(CONFLICTING, 119.9)
    assert host.events() == [Conflict(US, PEER_MAC, True)]
    assert host.sent() == [] and not host.arp.is_ready(US)


def test_two_hosts_with_one_address_do_not_answer_each_other_for_ever():
    first, second = Host().ready(), Host(PEER_MAC).ready()
    first.arp.announce(100.0)
    said = 0
    for step in range(100):
        now = 100.0 + step * 0.01
        for sender, receiver in ((first, second), (second, first)):
            for _, payload in sender.arp.packets_to_send(now):
                said += 1
                receiver.arp.packet_received(payload, now)
    assert said == 3
