"""What a stack knows about names before it asks anybody: servers, search list, hosts, its own name."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from swos_net.address import LOOPBACK4, LOOPBACK6, parse_address
from swos_net.dns.cache import Cache

DNS_PORT = 53


@dataclass(frozen=True, slots=True)
class ResolverConfig:
    """As resolv.conf(5); times in seconds.  `servers` are (16-byte address, port), asked in their order."""

    servers: tuple[tuple[bytes, int], ...] = ()
    search: tuple[str, ...] = ()      # domains tried after a name, or before it when it has fewer than `ndots` dots
    ndots: int = 1
    timeout: float = 2.0              # for an answer of one server, doubled with every round
    attempts: int = 3                 # rounds over all servers
    udp_payload: int = 1232           # RFC 6891 6.2.3, as agreed for "DNS flag day 2020"
    cache_names: int = 4096
    ttl_max: float = 86400.0          # RFC 8767 4: a week at most; a day is enough for us
    negative_ttl_max: float = 900.0   # RFC 2308 5

    def __post_init__(self) -> None:
        if self.timeout <= 0 or self.attempts < 1 or self.ndots < 0:
            raise ValueError("timeout must be more than 0, attempts at least 1, ndots at least 0")


class Hosts:
    """Names with addresses of their own, as hosts(5) has them; names are compared without case.

    "localhost" and what ends in ".localhost" is the loopback address, whatever is added (RFC 6761 6.3).
    """

    def __init__(self) -> None:
        self._addresses: dict[str, tuple[bytes, ...]] = {}
        self._names: dict[bytes, tuple[str, ...]] = {}

    def add(self, address: bytes | str, *names: str) -> None:
        """One line of a hosts file: an address (16 bytes or text), its name and its aliases."""
        packed = parse_address(address) if isinstance(address, str) else address
        for name in names:
            known = self._addresses.get(name.lower(), ())
            if packed not in known:
                self._addresses[name.lower()] = (*known, packed)
        self._names[packed] = tuple(dict.fromkeys((*self._names.get(packed, ()), *names)))

    def read(self, lines: Iterable[str]) -> None:
        """The lines of a hosts file; ValueError names the first that is wrong."""
        for line in lines:
            words = line.partition("#")[0].split()
            if not words:
                continue
            try:
                self.add(words[0], *words[1:])
            except ValueError as error:
                raise ValueError(f"hosts line {line.strip()!r}: {error}") from None

    def addresses(self, name: str) -> tuple[bytes, ...]:
        name = name.rstrip(".").lower()
        if name == "localhost" or name.endswith(".localhost"):
            return LOOPBACK4, LOOPBACK6
        return self._addresses.get(name, ())

    def names(self, address: bytes) -> tuple[str, ...]:
        """The name of an address and its aliases; none when it is not in the table."""
        if address in (LOOPBACK4, LOOPBACK6):
            return tuple(dict.fromkeys(("localhost", *self._names.get(address, ()))))
        return self._names.get(address, ())


class Names:
    """All of it, for one stack: `config` may be replaced at any time.

    `learnt` are servers by the interface whose lease named them; they are asked when `config` has none.
    """

    def __init__(self, hostname: str, config: ResolverConfig | None = None):
        self.hostname = hostname
        self.config = config or ResolverConfig()
        self.hosts = Hosts()
        self.cache = Cache(self.config.cache_names)
        self.learnt: dict[int, tuple[bytes, ...]] = {}

    def servers(self) -> tuple[tuple[bytes, int], ...]:
        if self.config.servers:
            return self.config.servers
        return tuple(dict.fromkeys((address, DNS_PORT) for addresses in self.learnt.values() for address in addresses))

    def current(self) -> ResolverConfig:
        """The configuration with the servers to ask now."""
        return replace(self.config, servers=self.servers())

    def candidates(self, name: str) -> Iterator[str]:
        """What to ask for in turn when somebody says `name` (resolv.conf(5), "search" and "ndots")."""
        if name.endswith("."):
            yield name.rstrip(".")
            return
        as_it_is_first = name.count(".") >= self.config.ndots
        if as_it_is_first:
            yield name
        for domain in self.config.search:
            yield f"{name}.{domain.strip('.')}"
        if not as_it_is_first:
            yield name
