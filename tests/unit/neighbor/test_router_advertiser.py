from random import Random

import pytest

from swos_net.address import ALL_NODES6, ALL_ROUTERS6, UNSPECIFIED6, parse_address
from swos_net.config import NeighborConfig
from swos_net.neighbor.cache import NeighborCache, NeighborState
from swos_net.neighbor.router_advertiser import AdvertisedPrefix, RouterAdvertiser, RouterAdvertiserConfig
from swos_net.wire import ndisc
from swos_net.wire.ndisc import (
    NdOptions,
    NeighborSolicitation,
    PrefixInformation,
    RecursiveServers,
    RouterAdvertisement,
    RouterSolicitation,
    SearchList,
)

US, GUEST = parse_address("fe80::1"), parse_address("fe80::2")
OUR_MAC, GUEST_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
PREFIX = parse_address("fd12:3456::")
DNS = parse_address("fd12:3456::53")

CONFIG = RouterAdvertiserConfig(
    prefixes=(AdvertisedPrefix(PREFIX, valid_lifetime=86400, preferred_lifetime=14400),),
    mtu=65520,
    recursive_servers=(DNS,),
    search_domains=("lab.example", "example"),
)
ADVERTISEMENT = RouterAdvertisement(
    64,
    router_lifetime=1800,
    options=NdOptions(
        source_link_address=OUR_MAC,
        prefixes=[PrefixInformation(PREFIX, 64, True, True, 86400, 14400)],
        mtu=65520,
        recursive_servers=[RecursiveServers(1800, [DNS])],
        search_lists=[SearchList(1800, ["lab.example", "example"])],
    ),
)


class Router:
    """A RouterAdvertiser, and what it says."""

    def __init__(self, config: RouterAdvertiserConfig = CONFIG, seed: int = 1):
        self.cache = NeighborCache(NeighborConfig(), lambda *asked: None)
        self.advertiser = RouterAdvertiser(config, OUR_MAC, US, random=Random(seed), cache=self.cache)

    def started(self) -> "Router":
        """At time 0, the initial advertisement said."""
        self.advertiser.start(0.0)
        assert len(self.sent()) == 1
        return self

    def settled(self) -> "Router":
        """At time 1000, past the initial advertisements; the next periodic one is not near."""
        self.started().run_until(1000.0)
        return self

    def sent(self) -> list[tuple[bytes, RouterAdvertisement]]:
        packets = []
        for source, destination, hop_limit, data in self.advertiser.packets_to_send(0.0):
            assert source == US
            message = ndisc.parse(data, source, destination)
            ndisc.validate(message, source, destination, hop_limit)
            packets.append((destination, message))
        return packets

    def hear(self, source: bytes, now: float, options: NdOptions | None = None, hop_limit: int = 255) -> None:
        data = ndisc.emit(RouterSolicitation(options or NdOptions()), source, ALL_ROUTERS6)
        self.advertiser.message_received(source, ALL_ROUTERS6, hop_limit, data, GUEST_MAC, now)

    def run_until(self, end: float) -> list[tuple[float, bytes]]:
        """Serves every deadline up to `end`; returns when what was sent to whom."""
        trace = [(float("nan"), destination) for destination, _ in self.sent()]
        while (deadline := self.advertiser.next_deadline()) is not None and deadline <= end:
            self.advertiser.handle_timeout(deadline)
            trace += [(deadline, destination) for destination, _ in self.sent()]
        return trace


@pytest.fixture
def router():
    return Router()


# Periodic advertisements


def test_silent_until_started(router):
    router.hear(GUEST, 1.0)
    assert router.advertiser.next_deadline() is None
    assert router.sent() == []
    assert router.advertiser.next_event() is None


def test_the_first_advertisement_says_everything(router):
    router.advertiser.start(5.0)
    assert router.sent() == [(ALL_NODES6, ADVERTISEMENT)]


def test_short_intervals_first_and_long_ones_later(router):
    trace = router.started().run_until(20000.0)
    assert all(destination == ALL_NODES6 for _, destination in trace)
    times = [0.0] + [time for time, _ in trace]
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert gaps[:3] == [16.0, 16.0, 16.0]
    assert all(200.0 <= gap <= 600.0 for gap in gaps[3:])
    assert len(set(gaps[3:])) == len(gaps[3:]) > 20
    assert router.advertiser.counters.advertisements_sent == len(times)


def test_the_intervals_are_drawn():
    assert Router(seed=1).started().run_until(5000.0) == Router(seed=1).started().run_until(5000.0)
    assert Router(seed=1).started().run_until(5000.0) != Router(seed=2).started().run_until(5000.0)


# Answers


def test_a_guest_is_answered_alone_and_learned(router):
    router.settled().hear(GUEST, 1001.0, NdOptions(source_link_address=GUEST_MAC))
    assert 1001.0 <= router.advertiser.next_deadline() <= 1001.5
    router.advertiser.handle_timeout(1001.5)
    assert router.sent() == [(GUEST, ADVERTISEMENT)]
    neighbor = router.cache.lookup(GUEST)
    assert (neighbor.link_address, neighbor.state, neighbor.is_router) == (GUEST_MAC, NeighborState.STALE, False)


def test_a_guest_without_an_address_is_answered_to_all(router):
    router.settled().hear(UNSPECIFIED6, 1001.0)
    (answer,) = router.run_until(1001.5)
    assert answer[1] == ALL_NODES6
    assert router.cache.entries() == []


def test_answers_to_all_keep_their_distance(router):
    router.settled()
    for step in range(1000):
        now = 1001.0 + step * 0.01
        router.hear(UNSPECIFIED6, now)
        router.advertiser.handle_timeout(now)
    assert len(router.sent()) == 4


def test_an_answer_to_all_waits_after_an_advertisement_to_all(router):
    router.started().hear(UNSPECIFIED6, 0.1)
    assert router.advertiser.next_deadline() == 3.0


def test_a_guest_that_repeats_itself_is_answered_once(router):
    router.settled()
    for _ in range(5):
        router.hear(GUEST, 1001.0)
    assert [destination for _, destination in router.run_until(1002.0)] == [GUEST]


def test_an_advertisement_to_all_answers_those_who_wait(router):
    router.settled().hear(GUEST, 1001.0)
    router.advertiser.replace_config(CONFIG, 1001.0)
    assert router.sent() == [(ALL_NODES6, ADVERTISEMENT)]
    assert router.run_until(1003.0) == []


def test_many_guests_at_once_are_answered_together(router):
    router.settled()
    for number in range(500):
        router.hear(GUEST[:14] + number.to_bytes(2, "big"), 1001.0)
    trace = router.run_until(1004.0)
    assert len(trace) <= 65
    assert [destination for _, destination in trace].count(ALL_NODES6) == 1


@pytest.mark.parametrize(
    ("source", "options", "hop_limit"),
    [
        (GUEST, None, 254),
        (UNSPECIFIED6, NdOptions(source_link_address=GUEST_MAC), 255),
        (ALL_NODES6, None, 255),
        (parse_address("10.0.0.1"), None, 255),
        (US, None, 255),
    ],
)
def test_invalid_solicitations(router, source, options, hop_limit):
    router.settled().hear(source, 1001.0, options, hop_limit)
    assert router.run_until(1004.0) == []
    assert router.advertiser.counters.invalid == 1


def test_malformed_and_other_messages(router):
    router.settled()
    data = ndisc.emit(RouterSolicitation(), GUEST, ALL_ROUTERS6)
    router.advertiser.message_received(GUEST, ALL_ROUTERS6, 255, data[:-1], GUEST_MAC, 1001.0)
    router.advertiser.message_received(GUEST, ALL_ROUTERS6, 255, b"", GUEST_MAC, 1001.0)
    data = ndisc.emit(NeighborSolicitation(US), GUEST, US)
    router.advertiser.message_received(GUEST, US, 255, data, GUEST_MAC, 1001.0)
    assert router.run_until(1004.0) == []
    assert router.advertiser.counters.malformed == 1


@pytest.mark.parametrize("link_address", [b"\xff" * 6, bytes(6)])
def test_a_link_address_that_cannot_be_is_not_learned(router, link_address):
    router.settled().hear(GUEST, 1001.0, NdOptions(source_link_address=link_address))
    assert router.cache.entries() == []


# Stopping and changing


def test_stopping_says_goodbye_three_times(router):
    router.settled().advertiser.stop(1001.0)
    first = router.sent()
    assert [(destination, message.router_lifetime) for destination, message in first] == [(ALL_NODES6, 0)]
    assert first[0][1].options == ADVERTISEMENT.options
    router.hear(GUEST, 1002.0)
    assert router.run_until(5000.0) == [(1004.0, ALL_NODES6), (1007.0, ALL_NODES6)]
    assert router.advertiser.next_deadline() is None
    router.advertiser.stop(5000.0)
    assert router.sent() == []


def test_stopping_right_after_an_advertisement_waits(router):
    router.started().advertiser.stop(1.0)
    assert router.sent() == []
    assert [time for time, _ in router.run_until(100.0)] == [3.0, 6.0, 9.0]


def test_starting_again(router):
    router.settled().advertiser.stop(1001.0)
    router.advertiser.start(1002.0)
    router.sent()
    assert [time for time, _ in router.run_until(1021.0)] == [1004.0, 1020.0]
    router.advertiser.packets_to_send(0.0)
    router.hear(GUEST, 1021.0)
    router.advertiser.handle_timeout(1022.0)
    assert router.sent() == [(GUEST, ADVERTISEMENT)]


def test_another_configuration_is_told_at_once(router):
    config = RouterAdvertiserConfig(
        mtu=1400, router_lifetime=0, managed=True, reachable_time=1.5, retransmit_timer=0.25
    )
    router.settled().advertiser.replace_config(config, 1001.0)
    assert router.sent() == [
        (
            ALL_NODES6,
            RouterAdvertisement(
                64,
                managed=True,
                reachable_time=1500,
                retransmit_timer=250,
                options=NdOptions(source_link_address=OUR_MAC, mtu=1400),
            ),
        )
    ]


def test_another_configuration_before_the_start_is_not_told(router):
    router.advertiser.replace_config(RouterAdvertiserConfig(), 1.0)
    assert router.sent() == [] and router.advertiser.next_deadline() is None


@pytest.mark.parametrize(
    "fields",
    [
        {"prefixes": (AdvertisedPrefix(parse_address("10.0.0.0"), 8),)},
        {"prefixes": (AdvertisedPrefix(b"short", 64),)},
        {"prefixes": (AdvertisedPrefix(PREFIX, 129),)},
        {"prefixes": (AdvertisedPrefix(PREFIX, valid_lifetime=-1),)},
        {"recursive_servers": (parse_address("10.0.0.53"),)},
        {"search_domains": ("a..b",)},
        {"router_lifetime": 65536},
        {"hop_limit": 256},
        {"min_interval": 0.0},
        {"min_interval": 700.0},
    ],
)
def test_a_configuration_that_cannot_be_is_refused(router, fields):
    with pytest.raises(OSError, match="Invalid argument: .* ") as caught:
        Router(RouterAdvertiserConfig(**fields))
    assert caught.value.errno == 22
    with pytest.raises(OSError):
        router.advertiser.replace_config(RouterAdvertiserConfig(**fields), 0.0)
    assert router.advertiser.config is CONFIG
