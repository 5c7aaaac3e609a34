"""Router Advertisements sent on one interface, so that the hosts there configure themselves.

Read first: RFC 4861 6.2, RFC 8106 5.  Whether anything is routed for those hosts is decided elsewhere.  This file
does not compare what other routers advertise (RFC 4861 6.2.7).
"""

import errno
import struct
from collections import deque
from dataclasses import dataclass
from random import Random

from swos_net.address import ALL_NODES6, UNSPECIFIED6, is_ipv4
from swos_net.errors import os_error
from swos_net.neighbor.cache import NeighborCache
from swos_net.neighbor.nd_check import parse_valid
from swos_net.wire import ndisc
from swos_net.wire.ndisc import (
    NdOptions,
    PrefixInformation,
    RecursiveServers,
    RouterAdvertisement,
    RouterSolicitation,
    SearchList,
)

# Hosts that can wait for an answer of their own at the same time; with more, all get one together.
_PENDING_MAX = 64


@dataclass(frozen=True, slots=True)
class AdvertisedPrefix:
    """RFC 4861 6.2.1 AdvPrefixList; lifetimes in seconds, the RFC's defaults of 30 and 7 days."""

    prefix: bytes
    length: int = 64
    on_link: bool = True
    autonomous: bool = True
    valid_lifetime: int = 2592000
    preferred_lifetime: int = 604800


@dataclass(frozen=True, slots=True)
class RouterAdvertiserConfig:
    """RFC 4861 6.2.1 and 10, with its defaults; times in seconds.

    `router_lifetime` 0 configures addresses without offering a default route.  `reachable_time` and
    `retransmit_timer` 0 leave them to the hosts.  `mtu` None leaves the option out.  `dns_lifetime` None is three
    times `max_interval` (RFC 8106 5.1).
    """

    prefixes: tuple[AdvertisedPrefix, ...] = ()
    mtu: int | None = None
    recursive_servers: tuple[bytes, ...] = ()
    search_domains: tuple[str, ...] = ()
    dns_lifetime: int | None = None
    router_lifetime: int = 1800
    hop_limit: int = 64
    managed: bool = False
    other: bool = False
    reachable_time: float = 0.0
    retransmit_timer: float = 0.0
    max_interval: float = 600.0
    min_interval: float = 200.0
    initial_interval: float = 16.0          # MAX_INITIAL_RTR_ADVERT_INTERVAL
    initial_advertisements: int = 3         # MAX_INITIAL_RTR_ADVERTISEMENTS
    final_advertisements: int = 3           # MAX_FINAL_RTR_ADVERTISEMENTS
    delay_between: float = 3.0              # MIN_DELAY_BETWEEN_RAS, of those to all nodes
    response_delay: float = 0.5             # MAX_RA_DELAY_TIME


@dataclass(slots=True)
class RouterAdvertiserCounters:
    malformed: int = 0
    invalid: int = 0
    solicitations_received: int = 0
    advertisements_sent: int = 0


class RouterAdvertiser:
    """Advertises `config` from `source`, our link-local address on an interface with the link address
    `link_address`.  Silent until `start`.  With a `cache`, the link addresses of soliciting hosts are learned.

    The stack receives for the all-routers group, has `NeighborDiscovery` say that this is a router, and starts it once
    `source` is ready (RFC 4862 5.4: nothing is sent from a tentative address).
    """

    def __init__(
        self,
        config: RouterAdvertiserConfig,
        link_address: bytes,
        source: bytes,
        *,
        random: Random,
        cache: NeighborCache | None = None,
    ):
        """OSError EINVAL when `config` makes no advertisement."""
        self.link_address = link_address
        self.source = source
        self.config = self._checked(config)
        self.counters = RouterAdvertiserCounters()
        self._random = random
        self._cache = cache
        self._output: deque[tuple[bytes, bytes, int, bytes]] = deque()
        self._multicast_at: float | None = None     # when the next advertisement to all nodes is due
        self._last_multicast = float("-inf")
        self._initial_left = 0
        self._final_left = 0
        self._pending: dict[bytes, float] = {}      # soliciting host -> when it is answered

    def start(self, now: float) -> None:
        """Begins to advertise, first at short intervals (RFC 4861 6.2.4); again after `stop` too."""
        self._initial_left = self.config.initial_advertisements
        self._final_left = 0
        self._schedule_multicast(now, now)

    def stop(self, now: float) -> None:
        """Tells the hosts that this is no router any more (RFC 4861 6.2.5): final advertisements with a router
        lifetime of 0, the first of them at once if allowed.  `next_deadline` is None when all are out."""
        if self._multicast_at is None:
            return
        self._pending.clear()
        self._initial_left = 0
        self._final_left = self.config.final_advertisements
        self._multicast_at = None
        if self._final_left:
            self._schedule_multicast(now, now)

    def replace_config(self, config: RouterAdvertiserConfig, now: float) -> None:
        """Advertises something else from now on, and tells the hosts soon (RFC 4861 6.2.4).  Prefixes and servers
        left out are not withdrawn: advertise them with lifetimes of 0 first.  OSError EINVAL as when made."""
        self.config = self._checked(config)
        if self._multicast_at is not None and not self._final_left:
            self._initial_left = config.initial_advertisements
            self._schedule_multicast(now, now)

    def message_received(
        self, source: bytes, destination: bytes, hop_limit: int, message: bytes, link_source: bytes | None, now: float
    ) -> None:
        """An ICMPv6 message from its type byte on.  Only Router Solicitations have an effect, so every message may
        be passed that is passed to `NeighborDiscovery`."""
        if self._multicast_at is None or self._final_left or message[:1] != bytes((ndisc.ROUTER_SOLICITATION,)):
            return
        record = parse_valid(message, source, destination, hop_limit, self.counters)
        if record is None:
            return
        if source == self.source:
            self.counters.invalid += 1
            return
        self._solicitation_received(source, record, now)

    def packets_to_send(self, now: float) -> list[tuple[bytes, bytes, int, bytes]]:
        """(source, destination, hop limit, ICMPv6 message) for each IPv6 packet to go out on this interface."""
        packets = list(self._output)
        self._output.clear()
        return packets

    def next_deadline(self) -> float | None:
        """When `handle_timeout` is due."""
        deadlines = list(self._pending.values())
        if self._multicast_at is not None:
            deadlines.append(self._multicast_at)
        return min(deadlines, default=None)

    def handle_timeout(self, now: float) -> None:
        """Sends the advertisements that are due."""
        if self._multicast_at is not None and self._multicast_at <= now:
            self._send_multicast(now)
        for host in [host for host, due in self._pending.items() if due <= now]:
            del self._pending[host]
            self._send(host, final=False)

    def next_event(self) -> None:
        """Nothing is told upwards; here for the sake of the common shape."""
        return None

    def _solicitation_received(self, source: bytes, message: RouterSolicitation, now: float) -> None:
        self.counters.solicitations_received += 1
        link_address = message.options.source_link_address
        if self._cache is not None and link_address is not None and not link_address[0] & 1 and any(link_address):
            # RFC 4861 6.2.6: who solicits routers is none
            self._cache.learned(source, link_address, now, solicited=False, is_router=False)
        # RFC 4861 6.2.6: a random delay, so that the answers of several routers do not collide
        due = now + self._random.uniform(0, self.config.response_delay)
        if source == UNSPECIFIED6 or (source not in self._pending and len(self._pending) >= _PENDING_MAX):
            self._schedule_multicast(now, due)
        else:
            # A host that asks again while it waits is not answered twice.
            self._pending.setdefault(source, due)

    def _schedule_multicast(self, now: float, due: float) -> None:
        """Brings the next advertisement to all nodes forward to `due`, or to when it is allowed."""
        due = max(due, self._last_multicast + self.config.delay_between)
        if self._multicast_at is None or due < self._multicast_at:
            self._multicast_at = due
        if self._multicast_at <= now:
            self._send_multicast(now)

    def _send_multicast(self, now: float) -> None:
        config = self.config
        self._last_multicast = now
        if self._final_left:
            self._final_left -= 1
            self._send(ALL_NODES6, final=True)
            # RFC 4861 6.2.5 names no interval; the shortest allowed is used
            self._multicast_at = now + config.delay_between if self._final_left else None
            return
        self._send(ALL_NODES6, final=False)
        # Whoever waits for an answer of its own has just got this one.
        self._pending.clear()
        interval = self._random.uniform(config.min_interval, config.max_interval)
        if self._initial_left:
            self._initial_left -= 1
            interval = min(interval, config.initial_interval)
        self._multicast_at = now + max(interval, config.delay_between)

    def _send(self, destination: bytes, final: bool) -> None:
        message = self._advertisement(self.config, final)
        self.counters.advertisements_sent += 1
        self._output.append(
            (self.source, destination, ndisc.HOP_LIMIT, ndisc.emit(message, self.source, destination))
        )

    def _checked(self, config: RouterAdvertiserConfig) -> RouterAdvertiserConfig:
        """`config`, once it is seen that it can be put on the wire."""
        for prefix in config.prefixes:
            if len(prefix.prefix) != 16 or is_ipv4(prefix.prefix) or not 0 <= prefix.length <= 128:
                raise os_error(errno.EINVAL, "an advertised prefix is an IPv6 address of 16 bytes and 0 to 128 bits")
        if any(len(server) != 16 or is_ipv4(server) for server in config.recursive_servers):
            raise os_error(errno.EINVAL, "recursive_servers are IPv6 addresses of 16 bytes")
        if not 0 < config.min_interval <= config.max_interval:
            raise os_error(errno.EINVAL, "min_interval is above 0 and at most max_interval")
        try:
            ndisc.emit(self._advertisement(config, False), self.source, ALL_NODES6)
        except (ValueError, struct.error) as error:
            raise os_error(errno.EINVAL, f"a RouterAdvertiserConfig value does not fit its field ({error})") from None
        return config

    def _advertisement(self, config: RouterAdvertiserConfig, final: bool) -> RouterAdvertisement:
        dns_lifetime = int(3 * config.max_interval) if config.dns_lifetime is None else config.dns_lifetime
        return RouterAdvertisement(
            config.hop_limit,
            config.managed,
            config.other,
            0 if final else config.router_lifetime,
            round(config.reachable_time * 1000),
            round(config.retransmit_timer * 1000),
            NdOptions(
                source_link_address=self.link_address,
                prefixes=[
                    PrefixInformation(
                        prefix.prefix,
                        prefix.length,
                        prefix.on_link,
                        prefix.autonomous,
                        prefix.valid_lifetime,
                        prefix.preferred_lifetime,
                    )
                    for prefix in config.prefixes
                ],
                mtu=config.mtu,
                recursive_servers=(
                    [RecursiveServers(dns_lifetime, list(config.recursive_servers))] if config.recursive_servers else []
                ),
                search_lists=[SearchList(dns_lifetime, list(config.search_domains))] if config.search_domains else [],
            ),
        )
