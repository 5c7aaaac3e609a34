"""Which client has which address: the books of the DHCP server, without its messages.

Read first: RFC 2131 2.2 and 4.3.1.  The number of records is bounded by the pool and the static leases, whatever
clients call themselves.  Nothing is kept on disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from swos_net.address import IPV4_PREFIX, format_address, format_mac, is_ipv4, prefix_matches

INFINITE = 0xFFFFFFFF  # RFC 2131 3.3
POOL_MAX = 65536


@dataclass(frozen=True, slots=True)
class DhcpServerConfig:
    """What the server gives away.  Addresses are 16 bytes and IPv4, times are seconds.

    `pool_first` to `pool_last` are inclusive; addresses named elsewhere here are left out of the pool.
    `static_leases` maps 6-byte MAC addresses to addresses, inside the pool or not.  `mtu` is told to those who ask,
    None to nobody.
    """

    server_address: bytes
    pool_first: bytes
    pool_last: bytes
    prefix_length: int = 24
    router: bytes | None = None
    dns: tuple[bytes, ...] = ()
    domain: str = ""
    mtu: int | None = None
    lease_seconds: int = 86400
    static_leases: Mapping[bytes, bytes] = field(default_factory=dict)
    # How long an offer is held (RFC 2131 3.1), and how long a declined address rests
    offer_seconds: float = 60.0
    decline_seconds: float = 3600.0
    # The only server of its link: it answers clients it has no record of, where RFC 2131 4.3.2 keeps one of several
    # silent.  After a restart guests keep their addresses.
    authoritative: bool = True
    rapid_commit: bool = True  # RFC 4039

    def __post_init__(self) -> None:
        if not 1 <= self.prefix_length <= 30:
            raise ValueError(f"prefix length {self.prefix_length} is not within 1..30")
        named = {"server address": (self.server_address,), "pool": (self.pool_first, self.pool_last),
                 "static lease": tuple(self.static_leases.values()),
                 "router": () if self.router is None else (self.router,)}
        for name, addresses in named.items():
            for address in addresses:
                if not prefix_matches(address, self.server_address, self.prefix_length) or not is_ipv4(address):
                    raise ValueError(f"{name} {format_address(address)} is not in the server's IPv4 network "
                                     f"{format_address(self.server_address)}/{self.prefix_length}")
        if not 0 <= _number(self.pool_last) - _number(self.pool_first) < POOL_MAX:
            raise ValueError(f"a pool has 1 to {POOL_MAX} addresses: {format_address(self.pool_first)} to "
                             f"{format_address(self.pool_last)} has not")
        if len(set(self.static_leases.values())) != len(self.static_leases):
            raise ValueError("two static leases have the same address: give each MAC address its own")
        if self.server_address in self.static_leases.values():
            raise ValueError(f"static lease {format_address(self.server_address)} is the server's own address")
        for mac in self.static_leases:
            if len(mac) != 6:
                raise ValueError(f"static lease for {format_mac(mac)}: a MAC address has 6 bytes")
        # so that a reply with everything in it fits into what every client takes (RFC 2131 2)
        if len(self.dns) > 8 or len(self.domain) > 200 or not self.domain.isascii():
            raise ValueError("a DHCP reply holds at most 8 DNS servers and a domain of 200 ASCII characters")
        if not all(map(is_ipv4, self.dns)):
            raise ValueError("DHCPv4 carries IPv4 DNS servers only")
        if not 1 <= self.lease_seconds <= INFINITE:
            raise ValueError(f"lease time {self.lease_seconds} is not within 1..{INFINITE} seconds")
        if self.mtu is not None and not 68 <= self.mtu <= 65535:  # RFC 2132 5.1
            raise ValueError(f"MTU {self.mtu} is not within 68..65535")


class LeaseState(IntEnum):
    OFFERED = 1
    BOUND = 2
    IDLE = 3  # expired or released; the client is remembered until another needs the address
    DECLINED = 4  # somebody else uses the address (RFC 2131 4.3.3)


@dataclass(slots=True)
class Lease:
    """`client` is the identity of RFC 2131 2: option 61, or hardware type and address.  None belongs to nobody."""

    address: bytes
    client: bytes | None
    mac: bytes
    state: LeaseState
    expires: float
    hostname: str | None = None


class LeaseTable:
    def __init__(self, config: DhcpServerConfig):
        self._config = config
        self._by_address: dict[bytes, Lease] = {}
        self._by_client: dict[bytes, Lease] = {}
        # In the order in which they came to rest
        self._idle: dict[bytes, Lease] = {}
        self._declined: dict[bytes, Lease] = {}
        self._fresh = _number(config.pool_first)  # below it no address of the pool has never been used
        self._deadline: float | None = None  # not after the first expiry
        self._static = {address: mac for mac, address in config.static_leases.items()}
        network = _number(config.server_address) >> (32 - config.prefix_length) << (32 - config.prefix_length)
        broadcast = network | (1 << (32 - config.prefix_length)) - 1
        self._reserved = frozenset({_address(network), _address(broadcast), config.server_address, *config.dns,
                                    *self._static}
                                   | ({config.router} if config.router is not None else set()))

    def __len__(self) -> int:
        return len(self._by_address)

    def lease_of(self, client: bytes) -> Lease | None:
        return self._by_client.get(client)

    def select(self, client: bytes, mac: bytes, requested: bytes | None) -> bytes | None:
        """The address to offer, in the order of RFC 2131 4.3.1; None when the pool is empty."""
        static = self._config.static_leases.get(mac)
        if static is not None and self.is_available(static, client, mac):
            return static
        known = self._by_client.get(client)
        if known is not None and self.is_available(known.address, client, mac):
            return known.address
        if requested is not None and self.is_available(requested, client, mac):
            return requested
        while self._fresh <= _number(self._config.pool_last):
            address = _address(self._fresh)
            self._fresh += 1
            if address not in self._by_address and self._is_dynamic(address):
                return address
        # All have been used: the one that rests longest, a declined one only when nothing else is left
        for resting in (self._idle, self._declined):
            for address in resting:
                if self._is_dynamic(address):
                    return address
        return None

    def is_available(self, address: bytes, client: bytes, mac: bytes) -> bool:
        """Whether `client` may have `address` now."""
        lease = self._by_address.get(address)
        if lease is not None and lease.state == LeaseState.DECLINED:
            return False
        if address in self._static:
            return self._static[address] == mac  # whatever the interface calls itself
        if lease is not None and lease.client == client:
            return True
        return self._is_dynamic(address) and (lease is None or lease.state == LeaseState.IDLE)

    def assign(self, address: bytes, client: bytes, mac: bytes) -> Lease:
        """Makes `address`, which `select` or `is_available` named, the client's only one."""
        previous = self._by_client.get(client)
        if previous is not None:
            if previous.address == address:
                previous.mac = mac
                return previous
            previous.client = None
            self._rest(previous, LeaseState.IDLE, 0.0)
        lease = self._by_address.get(address)
        if lease is None:
            lease = self._by_address[address] = Lease(address, client, mac, LeaseState.IDLE, 0.0)
        else:
            if lease.client is not None:
                del self._by_client[lease.client]
            self._rest(lease, LeaseState.IDLE, 0.0)
            lease.client, lease.mac, lease.hostname = client, mac, None
        self._idle[address] = lease
        self._by_client[client] = lease
        return lease

    def activate(self, lease: Lease, state: LeaseState, expires: float) -> None:
        """OFFERED or BOUND until `expires`."""
        self._idle.pop(lease.address, None)
        lease.state, lease.expires = state, expires
        self._wake_by(expires)

    def release(self, lease: Lease) -> None:
        self._rest(lease, LeaseState.IDLE, 0.0)

    def decline(self, lease: Lease, now: float) -> None:
        """Takes the address from its client and lets it rest (RFC 2131 4.3.3)."""
        if lease.client is not None:
            del self._by_client[lease.client]
            lease.client = None
        self._rest(lease, LeaseState.DECLINED, now + self._config.decline_seconds)
        self._wake_by(lease.expires)

    def next_deadline(self) -> float | None:
        """When `expire` is to be called; possibly before anything is due."""
        return self._deadline

    def expire(self, now: float) -> list[Lease]:
        """Lets everything due rest; returns the leases among it that were bound."""
        if self._deadline is None or now < self._deadline:
            return []
        ended = []
        self._deadline = None
        for lease in self._by_address.values():
            if lease.state == LeaseState.IDLE:
                continue
            if lease.expires > now:
                self._wake_by(lease.expires)
                continue
            if lease.state == LeaseState.BOUND:
                ended.append(lease)
            self._rest(lease, LeaseState.IDLE, 0.0)
        return ended

    def _is_dynamic(self, address: bytes) -> bool:
        return self._config.pool_first <= address <= self._config.pool_last and address not in self._reserved

    def _rest(self, lease: Lease, state: LeaseState, expires: float) -> None:
        self._idle.pop(lease.address, None)
        self._declined.pop(lease.address, None)
        lease.state, lease.expires = state, expires
        (self._declined if state == LeaseState.DECLINED else self._idle)[lease.address] = lease

    def _wake_by(self, expires: float) -> None:
        if expires != float("inf") and (self._deadline is None or expires < self._deadline):
            self._deadline = expires


def _number(address: bytes) -> int:
    return int.from_bytes(address[12:], "big")


def _address(number: int) -> bytes:
    return IPV4_PREFIX + number.to_bytes(4, "big")
