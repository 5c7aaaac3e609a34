"""What one name stands for: hosts table, cache, then the servers, along the search list and aliases.

Read next: exchange.py, which asks.  The driver looks at `exchange` (None: nothing to ask now) and calls `advance` when
it is over, until `result` is there.
"""

from dataclasses import dataclass
from enum import Enum
from random import Random

from swos_net.dns.config import Names, ResolverConfig
from swos_net.dns.exchange import Exchange
from swos_net.dns.message import Code, Kind, Record, Response, check_name

ALIASES_MAX = 8
NEGATIVE_TTL = 30.0  # where no SOA record says


class Outcome(Enum):
    """How a look-up ended."""

    FOUND = "found"
    NO_DATA = "the name exists but has nothing of this kind"
    NO_NAME = "no such name"
    NO_ANSWER = "no server answered"
    NO_SERVER = "no name server is configured"


@dataclass(slots=True)
class Result:
    """`data` are 16-byte addresses, or names (PTR); `aliases` lead from the name asked for to `canonical`."""

    outcome: Outcome
    canonical: str = ""
    data: tuple = ()
    aliases: tuple[str, ...] = ()


class Lookup:
    """One name, one or more kinds of records at once (A and AAAA)."""

    def __init__(self, names: Names, name: str, kinds: tuple[int, ...], random: Random, now: float, *, search: bool = True):
        self.result: Result | None = None
        self.exchange: Exchange | None = None
        self._names = names
        self._config: ResolverConfig = names.current()
        self._kinds = kinds
        self._random = random
        self._worst = Outcome.NO_NAME
        self._candidates = list(names.candidates(name) if search else [name])
        self._aliases: list[str] = []
        self._next_candidate(now)

    def advance(self, now: float) -> None:
        """To be called when `exchange` is over: begins another or gives a result."""
        exchange = self.exchange
        if exchange is None or not exchange.over:
            return
        self.exchange = None
        for (name, kind), response in exchange.answers.items():
            self._remember(name, kind, response, now)
        missing = [kind for kind in self._kinds if (self._name, kind) not in exchange.answers]
        self._failed |= {kind for kind in missing if self._names.cache.get(self._name, kind, now) is None}
        self._look(now)

    def _next_candidate(self, now: float) -> None:
        while self._candidates:
            self._name = self._candidates.pop(0)
            try:
                check_name(self._name)
            except ValueError:
                continue
            self._aliases = []
            self._failed: set[int] = set()
            self._look(now)
            return
        self.result = Result(self._worst)

    def _look(self, now: float) -> None:
        """What the cache says of the name as it stands, following aliases; asks for what it does not say."""
        cache = self._names.cache
        while True:
            entries = {kind: cache.get(self._name, kind, now) for kind in self._kinds}
            alias = cache.get(self._name, Kind.CNAME, now)
            if alias is None or not alias.records or Kind.CNAME in self._kinds:
                break
            if len(self._aliases) >= ALIASES_MAX:
                self._conclude({kind: None for kind in self._kinds}, now)
                return
            self._aliases.append(self._name)
            self._name = alias.records[0].data
            self._failed = set()
        unknown = [kind for kind, entry in entries.items() if entry is None and kind not in self._failed]
        if not unknown:
            self._conclude(entries, now)
        elif not self._config.servers:
            self._worst = Outcome.NO_SERVER
            self._candidates.clear()
            self._conclude(entries, now)
        else:
            self.exchange = Exchange(self._config, [(self._name, kind) for kind in unknown], self._random, now)

    def _conclude(self, entries: dict, now: float) -> None:
        found = tuple(record.data for entry in entries.values() if entry is not None for record in entry.records)
        if found:
            self.result = Result(Outcome.FOUND, self._name, found, tuple(self._aliases))
        elif self._worst is Outcome.NO_SERVER:
            self.result = Result(Outcome.NO_SERVER)
        elif any(entry is None for entry in entries.values()):
            # another name of the search list may be the wrong one when we do not know about this (RFC 1535)
            self.result = Result(Outcome.NO_ANSWER)
        else:
            if any(entry.exists for entry in entries.values()):
                self._worst = Outcome.NO_DATA
            self._next_candidate(now)

    def _remember(self, name: str, kind: int, response: Response, now: float) -> None:
        """Only what was asked for, and the aliases that lead to it: anything else a server adds is not believed."""
        cache = self._names.cache
        for _ in range(ALIASES_MAX + 1):
            records = tuple(record for record in response.answers if record.kind == kind and record.name.lower() == name.lower())
            if records:
                cache.put(name, kind, records, True, now + self._lifetime(records))
                return
            alias = next((record for record in response.answers
                          if record.kind == Kind.CNAME and record.name.lower() == name.lower()), None)  # fmt: skip
            if alias is None:
                break
            cache.put(name, Kind.CNAME, (alias,), True, now + self._lifetime((alias,)))
            name = str(alias.data)
        else:
            return
        if name.lower() != response.name.lower() and response.negative_ttl is None and response.code == Code.NOERROR:
            return  # an alias without what it leads to: to be asked for
        ttl = NEGATIVE_TTL if response.negative_ttl is None else response.negative_ttl
        exists = response.code != Code.NXDOMAIN
        cache.put(name, kind, (), exists, now + max(1.0, min(ttl, self._config.negative_ttl_max)))

    def _lifetime(self, records: tuple[Record, ...]) -> float:
        # the look-up that asked must still find it
        return max(1.0, min(self._config.ttl_max, *(record.ttl for record in records)))
