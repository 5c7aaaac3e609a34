"""The authority to use the network, as an object: what it does not allow is refused before anything is sent.

Every endpoint holds exactly one `Capability`.  The creator of a stack gets its root; everything else is derived by
`attenuate`, which can only narrow, or by `narrowed_to_peer` for an accepted socket.  There is no way back up, and no
ambient authority but what a `with capability.activate():` block lends to the code inside, for libraries that take no
capability as an argument.  Inside one Python process this stops mistakes, confused deputies and over-broad libraries;
it is no wall against hostile code in the same process.

As text a capability is its rules, one word each (`Rule.parse`), what it denies with a `!` before it:

    tcp:connect:10.0.2.0/24:80,443 udp:bind,send:*:1024-65535 icmp:send:[2001:db8::/32] !*:*:169.254.169.254:*

Rules only: no names, quotas, expiry or revocation.  Callers use `check`, `allows`, `attenuate` and `narrowed_to_peer`,
whatever a capability comes to hold.
"""

import errno
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from socket import EAI_FAIL, gaierror

from swos_net.address import (BROADCAST4, format_address, is_ipv4, is_multicast,
                              is_unspecified, parse_address, prefix_matches)

OPERATIONS = frozenset({"connect", "bind", "listen", "accept", "send", "resolve", "raw"})
PROTOCOLS = frozenset({"tcp", "udp", "icmp", "raw", "*"})
PORTLESS = frozenset({"icmp", "raw"})  # their port is 0
ALL_PORTS = ((0, 65535),)
DECISIONS_MAX = 4096  # cached decisions of one capability: a scan of the address space must not fill memory


class CapabilityError(PermissionError):
    """Refused: `errno` EACCES, the text names a rule that would have allowed it.

    `operation` is one of OPERATIONS, `target` is "tcp 10.0.2.5:80", `reason` says which part no rule covers.
    """

    def __init__(self, operation: str, target: str, reason: str, advice: str = "", code: int = errno.EACCES):
        text = f"{os.strerror(code if code > 0 else errno.EACCES)}: {operation} {target}: {reason}"
        super().__init__(code, f"{text}; {advice}" if advice else text)
        self.operation = operation
        self.target = target
        self.reason = reason


class CapabilityResolveError(CapabilityError, gaierror):
    """A name that may not be looked up; `errno` EAI_FAIL, since callers of getaddrinfo() catch `socket.gaierror`."""

    def __init__(self, operation: str, target: str, reason: str, advice: str = ""):
        super().__init__(operation, target, reason, advice, EAI_FAIL)


class AmplificationError(CapabilityError):
    """An attempt to derive more than one holds: `errno` EPERM, a mistake or an attack rather than a policy miss."""

    def __init__(self, target: str, reason: str, advice: str = ""):
        super().__init__("attenuate", target, reason, advice, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Rule:
    """Operations over a protocol towards a prefix and ports.

    `protocol` is "tcp", "udp", "icmp" (echo sockets and raw ones of either ICMP), "raw" (raw sockets of every other
    protocol) or "*".  `prefix` is 16 bytes with no bit set beyond `length`, which counts bits of the prefix's own
    family; None stands for every address of both families.  `ports` are inclusive (first, last) pairs; "icmp" and
    "raw" have port 0.

    The address and port are the peer's for connect, send and raw, our own for bind and listen, the server's for
    resolve.  For accept the address is the peer's and the port our own.
    """

    operations: frozenset[str]
    protocol: str = "*"
    prefix: bytes | None = None
    length: int = 0
    ports: tuple[tuple[int, int], ...] = ALL_PORTS

    def __post_init__(self) -> None:
        if not self.operations or not self.operations <= OPERATIONS:
            raise ValueError(f"operations must be some of {', '.join(sorted(OPERATIONS))}, "
                             f"not {', '.join(sorted(self.operations)) or 'none'}")
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(sorted(PROTOCOLS))}, not {self.protocol!r}")
        if self.prefix is not None:
            _check_prefix(self.prefix, self.length)
        elif self.length:
            raise ValueError("a prefix length needs a prefix")
        object.__setattr__(self, "ports", _merge_ports(self.ports))

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """`protocol:operations:prefix:ports`; ValueError says what is wrong.

        Operations and ports are comma lists or `*`, a port item is `80` or `1024-65535`, a prefix is `10.0.2.0/24`,
        `[2001:db8::/32]` or `*`; without a length it is one address.  "icmp" and "raw" need no ports.
        """
        try:
            protocol, operations, rest = text.split(":", 2)
            if protocol in PORTLESS and (rest.endswith("]") if rest.startswith("[") else ":" not in rest):
                rest += ":*"
            prefix, ports = rest[1:].split("]:") if rest.startswith("[") else rest.split(":")
            return cls(OPERATIONS if operations == "*" else frozenset(operations.split(",")), protocol,
                       *_parse_prefix(prefix), _parse_ports(ports))
        except ValueError as error:
            raise ValueError(f"rule {text!r}: {error}; write protocol:operations:prefix:ports as in "
                             "tcp:connect:10.0.2.0/24:80,443 or udp:bind,send:[2001:db8::/32]:*") from None

    def __str__(self) -> str:
        operations = "*" if self.operations == OPERATIONS else ",".join(sorted(self.operations))
        ports = "*" if self.ports == ALL_PORTS else ",".join(
            str(first) if first == last else f"{first}-{last}" for first, last in self.ports)
        if self.prefix is None:
            prefix = "*"
        elif is_ipv4(self.prefix):
            prefix = f"{format_address(self.prefix)}/{self.length}"
        else:
            prefix = f"[{format_address(self.prefix)}/{self.length}]"
        return f"{self.protocol}:{operations}:{prefix}:{ports}"

    def covers_address(self, address: bytes) -> bool:
        """Whether the prefix holds `address`; a unicast prefix holds no unspecified, broadcast or multicast one."""
        if self.prefix is None:
            return True
        if not prefix_matches(address, self.prefix, self.length):
            return False
        return self._holds_special() or not _is_special(address)

    def covers_port(self, port: int) -> bool:
        return any(first <= port <= last for first, last in self.ports)

    def covers(self, child: "Rule") -> bool:
        """Whether everything `child` allows is allowed here."""
        if not child.operations <= self.operations or self.protocol not in ("*", child.protocol):
            return False
        if not all(any(first <= low and high <= last for first, last in self.ports) for low, high in child.ports):
            return False
        if self.prefix is None:
            return True
        if child.prefix is None or child.length < self.length:
            return False
        if not prefix_matches(child.prefix, self.prefix, self.length):
            return False
        # 224.0.0.0/4 lies inside 128.0.0.0/1, whose rule holds no multicast address
        return self._holds_special() or not child._holds_special()

    def forbids(self, operation: str, protocol: str, address: bytes, port: int) -> bool:
        """Whether this rule, as a denial, covers any part of what is asked.

        Unlike `covers_address` no address is exempt, and to bind the unspecified address is to bind every one.
        """
        if operation not in self.operations or self.protocol not in ("*", protocol) or not self.covers_port(port):
            return False
        if self.prefix is None or prefix_matches(address, self.prefix, self.length):
            return True
        return is_unspecified(address) and operation in _LOCAL and is_ipv4(address) == is_ipv4(self.prefix)

    def _holds_special(self) -> bool:
        """Whether the prefix is a whole family, or lies inside the addresses that stand for no single host."""
        if self.prefix is None or self.length == 0 or is_multicast(self.prefix) and self.length >= 4 and (
                is_ipv4(self.prefix) or self.length >= 8):
            return True
        return self.length == (32 if is_ipv4(self.prefix) else 128) and _is_special(self.prefix)


class Capability:
    """An immutable set of rules; what no rule covers is refused, and so is what a denial covers.

    `label` is for messages, `parent` the capability it was derived from (None for a root), `depth` the number of
    derivations from the root.  Denials are inherited and win over every rule.  `str()` gives the text from which a
    holder of enough authority can `attenuate` the same again.  Not constructed, copied or pickled: see the module's
    text for the ways to get one.
    """

    __slots__ = ("rules", "denials", "label", "parent", "depth", "_decisions", "_indexes", "_issuer", "__weakref__")

    rules: tuple[Rule, ...]
    denials: tuple[Rule, ...]
    label: str
    parent: "Capability | None"
    depth: int

    def __init__(self) -> None:
        raise TypeError("a capability is taken from Stack.root or derived from another with attenuate()")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a capability is immutable: derive another with attenuate() instead of setting {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a capability is immutable: {name} stays")

    def __reduce__(self):
        raise TypeError("a capability cannot be copied or pickled: hand over the object, or an attenuated one")

    def __repr__(self) -> str:
        return f"<Capability {self.label!r} depth {self.depth}: {self or 'nothing'}>"

    def __str__(self) -> str:
        return " ".join([*map(str, self.rules), *(f"!{denial}" for denial in self.denials)])

    @property
    def issuer(self) -> object | None:
        """What this is authority over: the `Stack`, or None when that is no more."""
        return self._issuer()

    @contextmanager
    def activate(self) -> Iterator["Capability"]:
        """For the block, the authority of code that takes none as an argument: see `current_capability`.

        Tasks made inside inherit it, as they inherit every context variable; other threads do not.  Blocks nest; the
        innermost counts alone.
        """
        while _before_activation:
            _before_activation[-1]()  # stays if it fails: better no block than one that leaks to the kernel's network
            _before_activation.pop()
        token = _active.set(self)
        try:
            yield self
        finally:
            _active.reset(token)

    def check(self, operation: str, protocol: str, address: bytes, port: int) -> None:
        """Returns when allowed, otherwise raises CapabilityError.  `address` is 16 bytes, `port` 0 for ICMP.

        What address and port mean for an operation is said at `Rule`.
        """
        allowed = self._decisions.get((operation, protocol, address, port))
        if allowed is None:
            allowed = self._decide(operation, protocol, address, port)
        if not allowed:
            raise self._refusal(operation, protocol, address, port)

    def allows(self, operation: str, protocol: str, address: bytes, port: int) -> bool:
        """What `check` would say, without raising CapabilityError."""
        allowed = self._decisions.get((operation, protocol, address, port))
        return self._decide(operation, protocol, address, port) if allowed is None else allowed

    def attenuate(self, rules: str | Iterable[Rule | str], label: str | None = None, *,
                  deny: str | Iterable[Rule | str] = ()) -> "Capability":
        """A narrower capability with `rules` (Rule objects or their text; one string is split at white space).

        Every rule must be covered by one rule held here, else AmplificationError (EPERM): the union of two rules is
        not taken, so that each rule of a child can be traced to one of its parent.  `deny`, and rules whose text
        begins with `!`, are refused from now on, whatever the rules say, together with what is denied here already.
        """
        items = rules.split() if isinstance(rules, str) else rules
        children: list[Rule] = []
        denials = list(self.denials)
        for item in items:
            denied = isinstance(item, str) and item.startswith("!")
            (denials if denied else children).append(_rule(item[1:] if denied else item))
        denials += map(_rule, deny.split() if isinstance(deny, str) else deny)
        for child in children:
            if not any(rule.covers(child) for rule in self.rules):
                raise AmplificationError(str(child), f"no single rule of capability {self.label!r} covers it",
                                         f"it holds {' '.join(map(str, self.rules)) or 'no rule'}")
        return _make(tuple(children), label or self.label, self, tuple(dict.fromkeys(denials)))

    def narrowed_to_peer(self, protocol: str, local: bytes, local_port: int, remote: bytes,
                         remote_port: int) -> "Capability":
        """The capability of a socket accepted at `local` from `remote`: sending to that one peer and nothing else.

        Raises CapabilityError unless accepting from `remote` at `local_port` is allowed here; that authority is what
        the right to answer comes from, so no send rule is needed.
        """
        self.check("accept", protocol, remote, local_port)
        rule = _send_rule(protocol, remote, remote_port)
        label = f"{self.label} {_endpoint(local, local_port)}<-{_endpoint(remote, remote_port)}"
        return _make((rule,), label, self, self.denials)

    def _decide(self, operation: str, protocol: str, address: bytes, port: int) -> bool:
        if operation not in OPERATIONS or protocol not in PROTOCOLS or len(address) != 16:
            raise ValueError(f"no such check: {operation!r} over {protocol!r} with a {len(address)}-byte address")
        rules, denials = self._rules_about(operation, protocol)
        allowed = any(rule.covers_port(port) and rule.covers_address(address) for rule in rules.near(address))
        if allowed and self.denials:
            # to bind the unspecified address is to bind every one: all count
            near = self.denials if is_unspecified(address) else denials.near(address)
            allowed = not any(denial.forbids(operation, protocol, address, port) for denial in near)
        if len(self._decisions) >= DECISIONS_MAX:
            self._decisions.clear()
        self._decisions[operation, protocol, bytes(address), port] = allowed
        return allowed

    def _rules_about(self, operation: str, protocol: str) -> tuple["_Index", "_Index"]:
        indexes = self._indexes.get((operation, protocol))
        if indexes is None:
            indexes = self._indexes[operation, protocol] = tuple(
                _Index(rule for rule in rules if operation in rule.operations and rule.protocol in ("*", protocol))
                for rules in (self.rules, self.denials))
        return indexes

    def _refusal(self, operation: str, protocol: str, address: bytes, port: int) -> CapabilityError:
        target = f"{protocol} {_endpoint(address, port)}"
        for denial in self.denials:
            if denial.forbids(operation, protocol, address, port):
                return CapabilityError(operation, target, f"capability {self.label!r} denies {denial}",
                                       "no rule can allow what is denied")
        candidates = [rule for rule in self.rules if operation in rule.operations
                      and rule.protocol in ("*", protocol)]
        if not candidates:
            reason = f"capability {self.label!r} has no {protocol} {operation} rule"
        elif not any(rule.covers_address(address) for rule in candidates):
            reason = f"no {protocol} {operation} rule of capability {self.label!r} covers the address"
        else:
            reason = f"no {protocol} {operation} rule of capability {self.label!r} covers the port with that address"
        rule = Rule(frozenset({operation}), protocol, address, 32 if is_ipv4(address) else 128, ((port, port),))
        return CapabilityError(operation, target, reason, f"the rule {rule} would allow it")


class _Index:
    """Rules by prefix, so that hundreds of them take no longer to ask than the prefix lengths that occur."""

    __slots__ = ("_anywhere", "_by_length")

    def __init__(self, rules: Iterable[Rule]):
        self._anywhere: list[Rule] = []
        self._by_length: dict[int, dict[int, list[Rule]]] = {}  # by the bits that are free, then by the others
        for rule in rules:
            if rule.prefix is None:
                self._anywhere.append(rule)
                continue
            free = (32 if is_ipv4(rule.prefix) else 128) - rule.length
            networks = self._by_length.setdefault(free, {})
            networks.setdefault(int.from_bytes(rule.prefix, "big") >> free, []).append(rule)

    def near(self, address: bytes) -> list[Rule]:
        """All rules whose prefix may hold the address; the rules themselves know."""
        found = self._anywhere
        if self._by_length:
            number = int.from_bytes(address, "big")
            for free, networks in self._by_length.items():
                if number >> free in networks:
                    found = found + networks[number >> free]
        return found


def current_capability() -> Capability:
    """The capability that is active in this context; CapabilityError (EACCES) without one."""
    capability = _active.get()
    if capability is None:
        raise CapabilityError("use", "the network", "no capability is active here",
                              "call this inside `with capability.activate():`")
    return capability


def active_capability() -> Capability | None:
    """What `current_capability` gives, None without one."""
    return _active.get()


def before_activation(prepare: Callable[[], None]) -> None:
    """Has `prepare()` called once, when a capability is about to be activated for the first time in this process."""
    _before_activation.append(prepare)


def why(error: BaseException) -> CapabilityError | None:
    """The CapabilityError behind an error that a library raised instead of it; None when there is none.

    Looks through causes, contexts, the members of groups, and errors that others were made from.
    """
    waiting, seen = [error], set()
    while waiting:
        error = waiting.pop(0)
        if isinstance(error, CapabilityError):
            return error
        seen.add(id(error))
        related = (error.__cause__, error.__context__, *getattr(error, "exceptions", ()), *error.args,
                   getattr(error, "reason", None))
        waiting += [other for other in related if isinstance(other, BaseException) and id(other) not in seen]
    return None


_SEND = frozenset({"send"})
_LOCAL = frozenset({"bind", "listen"})  # operations whose address is our own
# a context, not a module, is what holds the capability
_active: ContextVar[Capability | None] = ContextVar("swos_net.capability", default=None)
_before_activation: list[Callable[[], None]] = []


def _root(label: str = "root", issuer: object | None = None) -> Capability:
    """All authority over one stack.  For the stack's own constructor, which hands it to its creator."""
    return _make((Rule(OPERATIONS),), label, None, issuer=issuer)


def _rule(item: Rule | str) -> Rule:
    return Rule.parse(item) if isinstance(item, str) else item


def _make(rules: tuple[Rule, ...], label: str, parent: Capability | None, denials: tuple[Rule, ...] = (),
          issuer: object | None = None) -> Capability:
    capability = object.__new__(Capability)
    put = object.__setattr__
    reference = parent._issuer if parent is not None else _nobody if issuer is None else weakref.ref(issuer)
    put(capability, "_issuer", reference)
    put(capability, "rules", rules)
    put(capability, "denials", denials)
    put(capability, "label", label)
    put(capability, "parent", parent)
    put(capability, "depth", 0 if parent is None else parent.depth + 1)
    put(capability, "_decisions", {})
    put(capability, "_indexes", {})
    return capability


def _send_rule(protocol: str, remote: bytes, port: int) -> Rule:
    """`Rule(...)` for what `check` has looked at already, without the checks: every accepted connection needs one."""
    rule = object.__new__(Rule)
    put = object.__setattr__
    put(rule, "operations", _SEND)
    put(rule, "protocol", protocol)
    put(rule, "prefix", remote)
    put(rule, "length", 32 if is_ipv4(remote) else 128)
    put(rule, "ports", ((port, port),))
    return rule


def _nobody() -> None:
    """The issuer of a capability that no stack made."""


def _is_special(address: bytes) -> bool:
    """Addresses that stand for no single host: unspecified, limited broadcast, multicast."""
    return is_multicast(address) or is_unspecified(address) or address == BROADCAST4


def _check_prefix(prefix: bytes, length: int) -> None:
    if len(prefix) != 16:
        raise ValueError(f"a prefix has 16 bytes, not {len(prefix)}")
    width = 32 if is_ipv4(prefix) else 128
    if not 0 <= length <= width:
        raise ValueError(f"prefix length {length} is not within 0..{width}")
    network = int.from_bytes(prefix, "big") >> (width - length) << (width - length)
    if network.to_bytes(16, "big") != prefix:
        # masking it silently would turn a policy about one host into one about its network
        raise ValueError(f"{format_address(prefix)}/{length} has bits beyond its length: write "
                         f"{format_address(network.to_bytes(16, 'big'))}/{length} or {format_address(prefix)}/{width}")


def _parse_prefix(text: str) -> tuple[bytes | None, int]:
    if text == "*":
        return None, 0
    name, slash, bits = text.partition("/")
    prefix = parse_address(name)
    width = 128 if ":" in name else 32
    length = _number(bits, width, "prefix length") if slash else width
    if width == 128 and is_ipv4(prefix):  # written as ::ffff:a.b.c.d: an IPv4 prefix, or none at all
        length -= 96
    return prefix, length


def _parse_ports(text: str) -> tuple[tuple[int, int], ...]:
    if text == "*":
        return ALL_PORTS
    ports = []
    for item in text.split(","):
        first, dash, last = item.partition("-")
        low = _number(first, 65535, "port")
        ports.append((low, _number(last, 65535, "port") if dash else low))
    return tuple(ports)


def _number(text: str, maximum: int, what: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > maximum:
        raise ValueError(f"{what} {text!r} is not a number within 0..{maximum}")
    return int(text)


def _merge_ports(ports: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Sorted, without overlap, neighbours joined: what makes `covers` exact."""
    if len(ports) == 1 and 0 <= ports[0][0] <= ports[0][1] <= 65535:
        return ports
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ports):
        if not 0 <= first <= last <= 65535:
            raise ValueError(f"port range {first}-{last} does not rise within 0..65535")
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    if not merged:
        raise ValueError("a rule needs ports: * for all")
    return tuple(merged)


def _endpoint(address: bytes, port: int) -> str:
    return f"{format_address(address)}:{port}" if is_ipv4(address) else f"[{format_address(address)}]:{port}"
