"""Where a packet goes and which of our addresses it comes from.

Read first: RFC 1122 3.3.1 (next hop), RFC 6724 sections 3 to 5 (source address selection).  A table is made whole and
never edited: a change makes another table.  No destination ordering (RFC 6724 section 6), no redirects, no multipath.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swos_net.address import format_address, is_ipv4, is_link_local, is_loopback, is_multicast, is_unspecified

LOOKUPS_MAX = 4096  # cached lookups of one table

SCOPE_LINK_LOCAL = 2  # RFC 4291 2.7
SCOPE_SITE_LOCAL = 5
SCOPE_GLOBAL = 14


@dataclass(frozen=True, slots=True)
class Route:
    """Packets for `prefix` leave through `interface`, to `gateway` or, when None, to the destination itself.

    Addresses are 16 bytes; `length` counts bits of the prefix's own family.  `source` is preferred over address
    selection.  Of two routes with the same prefix the smaller `metric` wins, then the earlier one.
    """

    prefix: bytes
    length: int
    interface: int
    gateway: bytes | None = None
    source: bytes | None = None
    metric: int = 0

    def __post_init__(self) -> None:
        ipv4 = is_ipv4(self.prefix)
        width = 32 if ipv4 else 128
        if not 0 <= self.length <= width:
            raise ValueError(f"prefix length {self.length} is not within 0..{width}")
        if int.from_bytes(self.prefix, "big") & ((1 << (width - self.length)) - 1):
            raise ValueError(f"{format_address(self.prefix)}/{self.length} has bits beyond its length")
        for address in (self.gateway, self.source):
            if address is not None and is_ipv4(address) != ipv4:
                raise ValueError(f"{format_address(address)} is not of the family of {format_address(self.prefix)}")


class RouteTable:
    """Longest prefix match over `routes`, a tuple in the order given."""

    __slots__ = ("routes", "_levels4", "_levels6", "_lookups")

    def __init__(self, routes: Iterable[Route] = ()):
        self.routes = tuple(routes)
        self._levels4 = _levels(route for route in self.routes if is_ipv4(route.prefix))
        self._levels6 = _levels(route for route in self.routes if not is_ipv4(route.prefix))
        self._lookups: dict[tuple[bytes, int | None], Route | None] = {}

    def lookup(self, destination: bytes, interface: int | None = None) -> Route | None:
        """The route for `destination` (16 bytes), or None: the network is unreachable.

        With `interface` only routes through it count, as for link-local and multicast destinations (RFC 4007 9).
        """
        key = (destination, interface)
        try:
            return self._lookups[key]
        except KeyError:
            pass
        if len(self._lookups) >= LOOKUPS_MAX:  # destinations can be chosen by others
            self._lookups.clear()
        route = self._lookups[key] = self._search(destination, interface)
        return route

    def _search(self, destination: bytes, interface: int | None) -> Route | None:
        value = int.from_bytes(destination, "big")
        for shift, networks in self._levels4 if is_ipv4(destination) else self._levels6:
            for route in networks.get(value >> shift, ()):
                if interface is None or route.interface == interface:
                    return route
        return None


@dataclass(slots=True)
class InterfaceAddress:
    """One of our addresses: 16 bytes, `prefix_length` in bits of its own family, states of RFC 4862 2."""

    address: bytes
    prefix_length: int
    tentative: bool = False
    deprecated: bool = False


def select_source(destination: bytes, candidates: Sequence[InterfaceAddress]) -> bytes | None:
    """The candidate to send to `destination` from (RFC 6724 section 5), or None when none is fit.

    The candidates are the addresses of the outgoing interface (rule 5); equals are decided by their order.  Rules 4
    (home addresses), 5.5 (prefixes of the next hop) and 7 (temporary addresses) have nothing to work on here.
    """
    ipv4 = is_ipv4(destination)
    best = None
    best_rank = None
    for candidate in candidates:
        address = candidate.address
        if candidate.tentative or is_ipv4(address) != ipv4 or is_multicast(address) or is_unspecified(address):
            continue
        rank = _rank(destination, candidate)
        if best_rank is None or rank > best_rank:
            best, best_rank = address, rank
    return best


def scope(address: bytes) -> int:
    """Scope of an address as the number of RFC 4291 2.7 (RFC 6724 3.1 and 3.2)."""
    if is_ipv4(address):
        return SCOPE_LINK_LOCAL if is_link_local(address) or is_loopback(address) else SCOPE_GLOBAL
    if is_multicast(address):
        return address[1] & 0x0F
    if is_link_local(address) or is_loopback(address):  # RFC 6724 3.4
        return SCOPE_LINK_LOCAL
    if address[0] == 0xFE and address[1] & 0xC0 == 0xC0:
        return SCOPE_SITE_LOCAL
    return SCOPE_GLOBAL


def _rank(destination: bytes, candidate: InterfaceAddress) -> tuple[bool, int, bool, bool, int]:
    """Greater is better; the positions are rules 1, 2, 3, 6 and 8."""
    address = candidate.address
    own, wanted = scope(address), scope(destination)
    # rule 2: the smallest scope that reaches; of those that do not reach, the greatest
    appropriate = 100 - own if own >= wanted else own - wanted
    common = _common_prefix(address, destination)
    # rule 8 looks no further than the candidate's own prefix (RFC 6724 2.2)
    return (address == destination, appropriate, not candidate.deprecated, _label(address) == _label(destination),
            min(common, candidate.prefix_length))


def _common_prefix(first: bytes, second: bytes) -> int:
    difference = int.from_bytes(first, "big") ^ int.from_bytes(second, "big")
    return 128 - difference.bit_length() - (96 if is_ipv4(first) else 0)


# RFC 6724 2.1, longest prefix first; IPv4 is one label throughout
_LABELS = (
    (bytes(15) + b"\x01", 128, 0),
    (bytes(12), 96, 3),
    (b"\x20\x01\x00\x00", 32, 5),
    (b"\x20\x02", 16, 2),
    (b"\x3f\xfe", 16, 12),
    (b"\xfe\xc0", 10, 11),
    (b"\xfc\x00", 7, 13),
)
_LABEL_VALUES = tuple((int.from_bytes(prefix.ljust(16, b"\0"), "big") >> (128 - length), 128 - length, label)
                      for prefix, length, label in _LABELS)


def _label(address: bytes) -> int:
    if is_ipv4(address):
        return 4
    value = int.from_bytes(address, "big")
    for network, shift, label in _LABEL_VALUES:
        if value >> shift == network:
            return label
    return 1


def _levels(routes: Iterable[Route]) -> list[tuple[int, dict[int, list[Route]]]]:
    """(shift, network -> routes by metric) from the longest prefix to the shortest."""
    levels: dict[int, dict[int, list[Route]]] = {}
    for route in routes:
        shift = (32 if is_ipv4(route.prefix) else 128) - route.length
        networks = levels.setdefault(shift, {})
        networks.setdefault(int.from_bytes(route.prefix, "big") >> shift, []).append(route)
    for networks in levels.values():
        for found in networks.values():
            found.sort(key=lambda route: route.metric)
    return sorted(levels.items(), key=lambda level: level[0])
