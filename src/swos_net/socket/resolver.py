"""`getaddrinfo` and its relatives for a stack: numbers, the stack's hosts table, then DNS over the stack itself.

Read first: addrinfo.py for the arguments, dns/lookup.py for names.  Each call exists as a generator of what it waits
for; `run` waits in the calling thread, `run_async` in a task.  To ask a server takes a `resolve` rule for its address
and port, and nothing else: the right to speak to it comes with that.  What the hosts table knows needs no rule.
"""

import errno
import select
import socket as stdlib
import _socket
from collections.abc import Generator
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from swos_net.address import LOOPBACK4, LOOPBACK6, UNSPECIFIED4, UNSPECIFIED6, format_address, is_ipv4, is_loopback
from swos_net.capability import Capability, CapabilityError, CapabilityResolveError, current_capability
from swos_net.dns.exchange import Exchange
from swos_net.dns.lookup import Lookup, Outcome, Result
from swos_net.dns.message import Kind, reverse_name
from swos_net.errors import os_error
from swos_net.ip.destinations import sort_destinations
from swos_net.socket import addrinfo
from swos_net.socket.addrinfo import AF_INET, AF_INET6, AF_UNSPEC, gai_error
from swos_net.socket.core import SocketCore

_MESSAGE_MAX = 65535


class Wait(NamedTuple):
    """Until `core.poll()` has a bit of `mask` (or the stack's clock says `deadline`)."""

    driver: Any
    core: Any
    mask: int
    deadline: float | None


T = TypeVar("T")
Steps = Generator[Wait, None, T]

_ERRORS = {
    Outcome.NO_DATA: stdlib.EAI_NODATA,
    Outcome.NO_NAME: stdlib.EAI_NONAME,
    Outcome.NO_ANSWER: stdlib.EAI_AGAIN,
    Outcome.NO_SERVER: stdlib.EAI_NONAME,
}


# The two ways to wait


def run(steps: Steps[T]) -> T:
    """Waits in this thread."""
    with steps_closed(steps):
        while True:
            try:
                wait = next(steps)
            except StopIteration as end:
                return end.value
            with suppress(TimeoutError):
                wait.driver.wait(wait.core, wait.mask, wait.deadline)


async def run_async(steps: Steps[T]) -> T:
    """Waits in this task, for an event loop that serves the stack or any other."""
    with steps_closed(steps):
        while True:
            try:
                wait = next(steps)
            except StopIteration as end:
                return end.value
            await _ready(wait)


class steps_closed:
    """Closes a generator's sockets at the end of the block, however it ends."""

    def __init__(self, steps: Steps):
        self._steps = steps

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        self._steps.close()


async def _ready(wait: Wait) -> None:
    import asyncio  # only who runs a loop needs it

    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def changed(_mask: int) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: ready.done() or ready.set_result(None))

    with wait.driver.entered() as now:
        if wait.core.poll() & (wait.mask | select.POLLERR | select.POLLHUP):
            return
        wait.core.watch(changed)
    try:
        await asyncio.wait_for(ready, None if wait.deadline is None else max(0.0, wait.deadline - now))
    except asyncio.TimeoutError:  # TimeoutError's own name only since 3.11
        pass
    finally:
        with suppress(OSError), wait.driver.entered():  # a stack that is served no more tells nobody anything
            wait.core.unwatch(changed)


# The calls


def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
    """As `_socket.getaddrinfo`, with the capability that is active; CapabilityResolveError where it does not let us ask."""
    return run(getaddrinfo_steps(current_capability(), host, port, family, type, proto, flags))


def getnameinfo(sockaddr, flags):
    """As `_socket.getnameinfo`."""
    return run(getnameinfo_steps(current_capability(), sockaddr, flags))


def gethostbyname(hostname):
    """The first IPv4 address of a name, as text."""
    return run(gethostbyname_steps(current_capability(), _argument("gethostbyname", hostname)))


def gethostbyname_ex(hostname):
    """(name, aliases, IPv4 addresses)."""
    return run(gethostbyname_ex_steps(current_capability(), _argument("gethostbyname_ex", hostname)))


def gethostbyaddr(ip_address):
    """(name, aliases, addresses) of an address, or of a name that has one."""
    return run(gethostbyaddr_steps(current_capability(), _argument("gethostbyaddr", ip_address)))


def gethostname() -> str:
    """What the stack calls itself."""
    return _stack(current_capability()).names.hostname


def host_address(host: str | bytes, family: int, capability: Capability | None = None) -> str:
    """What `connect`, `bind` and `sendto` make of the host of their address: numeric text.

    "" is any address, "<broadcast>" the limited broadcast of IPv4; a name is looked up.
    """
    return run(host_address_steps(capability or current_capability(), host, family))


def getaddrinfo_steps(capability: Capability, host, port, family: int = 0, type: int = 0, proto: int = 0,
                      flags: int = 0) -> Steps[list[tuple]]:  # fmt: skip
    host, port = addrinfo.host_text(host), addrinfo.service_text(port)
    family, type, proto, flags = int(family), int(type), int(proto), int(flags)
    addrinfo.check_arguments(host, port, family, flags)
    kinds = addrinfo.services(port, type, proto, flags)
    canonical, addresses, scope = yield from _addresses(capability, host, family, flags)
    result = []
    for own_family, address in addresses:
        for kind, protocol, number in kinds:
            name = canonical if flags & _socket.AI_CANONNAME and not result else ""
            result.append((own_family, kind, protocol, name, addrinfo.socket_address(own_family, address, number, scope)))
    return result


def getnameinfo_steps(capability: Capability, sockaddr, flags: int) -> Steps[tuple[str, str]]:
    packed, port, scope, family = addrinfo.split_socket_address(sockaddr)
    name = None
    if not flags & _socket.NI_NUMERICHOST:
        names = yield from _names_of(capability, packed)
        if names:
            name = names[0]
            if flags & _socket.NI_NOFQDN:
                domain = "." + _stack(capability).names.hostname.partition(".")[2]
                name = name.removesuffix(domain) if len(domain) > 1 else name
    if name is None:
        if flags & _socket.NI_NAMEREQD:
            raise gai_error(stdlib.EAI_NONAME)
        interface = _stack(capability).interface_numbered(scope) if scope else None
        name = addrinfo.numeric_name(packed, family, scope if interface is None else interface.name)
    service = str(port)
    if not flags & _socket.NI_NUMERICSERV:
        with suppress(OSError):
            service = _socket.getservbyport(port, "udp" if flags & _socket.NI_DGRAM else "tcp")
    return name, service


def gethostbyname_steps(capability: Capability, name: str | bytes) -> Steps[str]:
    return (yield from host_address_steps(capability, name, AF_INET))


def gethostbyname_ex_steps(capability: Capability, name: str | bytes) -> Steps[tuple[str, list, list]]:
    text = addrinfo.host_text(name) or ""
    if text in ("", "<broadcast>"):
        raise stdlib.herror(3, "Unknown server error")
    numeric = addrinfo.numeric_host(text)
    if numeric is not None and ":" not in text:
        return text, [], [format_address(numeric[0])]
    canonical, addresses, _ = yield from _addresses(capability, text, AF_INET, 0)
    aliases = [] if canonical.lower() == text.rstrip(".").lower() else [text]
    return canonical, aliases, [format_address(address) for _, address in addresses]


def gethostbyaddr_steps(capability: Capability, host: str | bytes) -> Steps[tuple[str, list, list]]:
    text = addrinfo.host_text(host) or ""
    if not text:
        raise OSError("wildcard resolved to multiple address")
    if text == "<broadcast>":
        raise stdlib.herror(1, "Unknown host")
    _, addresses, _ = yield from _addresses(capability, text, AF_UNSPEC, 0)
    family, address = addresses[0]
    names = yield from _names_of(capability, address)
    if not names:
        raise stdlib.herror(1, "Unknown host")
    return names[0], list(names[1:]), [addrinfo.numeric_name(address, family, 0)]


def host_address_steps(capability: Capability, host: str | bytes | bytearray, family: int) -> Steps[str]:
    if isinstance(host, bytearray):
        host = bytes(host)
    text = addrinfo.host_text(host) or ""
    if text == "":
        if family == AF_UNSPEC:
            raise OSError("wildcard resolved to multiple address")
        return "0.0.0.0" if family == AF_INET else "::"
    if text in ("255.255.255.255", "<broadcast>"):
        if family == AF_INET6:
            raise OSError("address family mismatched")
        return "255.255.255.255"
    _, addresses, scope = yield from _addresses(capability, text, family, 0)
    own_family, address = addresses[0]
    return addrinfo.numeric_name(address, own_family, scope)


def _argument(function: str, value: object) -> str | bytes:
    if isinstance(value, bytearray):
        return bytes(value)
    if not isinstance(value, (str, bytes)):
        given = "None" if value is None else type(value).__name__
        raise TypeError(f"{function}() argument 1 must be str, bytes or bytearray, not {given}")
    return value


# Names and addresses


def _addresses(capability: Capability, host: str | None, family: int, flags: int) -> Steps[tuple[str, list[tuple[int, bytes]], int]]:
    """(canonical name, [(family, address)] best first, scope)."""
    if host is None:
        # glibc's order, which is that of the kernel's sockets: the most general address first, loopback as RFC 6724 has it
        pair = (UNSPECIFIED4, UNSPECIFIED6) if flags & _socket.AI_PASSIVE else (LOOPBACK6, LOOPBACK4)
        return "", _of_family([(address, not is_ipv4(address)) for address in pair], family, flags), 0
    numeric = addrinfo.numeric_host(host)
    if numeric is not None:
        scope = _scope(capability, numeric[1])
        return host, _of_family([(numeric[0], ":" in host)], family, flags), scope
    if not host or flags & _socket.AI_NUMERICHOST:
        raise gai_error(stdlib.EAI_NONAME)
    stack = _stack(capability)
    kinds = _kinds(stack, family, flags)
    known = [address for address in _own_table(stack, host) if _kind(address) in kinds]
    canonical = host.rstrip(".").lower()
    if not known:
        if _own_table(stack, host):
            raise gai_error(stdlib.EAI_NONAME)
        result = yield from _look_up(capability, host, kinds)
        if result.outcome is not Outcome.FOUND:
            raise gai_error(_ERRORS[result.outcome], _advice(result, host))
        known, canonical = list(result.data), result.canonical
    ordered = sort_destinations((address, *_source(stack, address)) for address in dict.fromkeys(known))
    return canonical, _of_family([(address, not is_ipv4(address)) for address in ordered], family, flags), 0


def _of_family(found: list[tuple[bytes, bool]], family: int, flags: int) -> list[tuple[int, bytes]]:
    addresses = addrinfo.addresses_of_family(found, family, flags)
    if not addresses:
        raise gai_error(stdlib.EAI_ADDRFAMILY)
    return addresses


def _kinds(stack: Any, family: int, flags: int) -> tuple[int, ...]:
    """The record types to ask for."""
    mapped = family == AF_INET6 and flags & _socket.AI_V4MAPPED
    kinds = {AF_INET: (Kind.A,), AF_INET6: (Kind.A, Kind.AAAA) if mapped else (Kind.AAAA,)}.get(family, (Kind.A, Kind.AAAA))
    if flags & _socket.AI_ADDRCONFIG:
        configured = {_kind(entry.address) for interface in stack.interfaces for entry in interface.addresses
                      if not is_loopback(entry.address)}  # fmt: skip
        kinds = tuple(kind for kind in kinds if kind in configured) or kinds
    return kinds


def _kind(address: bytes) -> Kind:
    return Kind.A if is_ipv4(address) else Kind.AAAA


def _own_table(stack: Any, host: str) -> tuple[bytes, ...]:
    """The hosts table, and our own name for every address of ours."""
    found = stack.names.hosts.addresses(host)
    if not found and host.rstrip(".").lower() == stack.names.hostname.lower():
        own = tuple(entry.address for interface in stack.interfaces for entry in interface.addresses if not entry.tentative)
        return tuple(address for address in own if not is_loopback(address)) or (LOOPBACK4, LOOPBACK6)
    return found


def _source(stack: Any, destination: bytes) -> tuple[bytes | None, bool]:
    """The address we would be seen with at `destination`, and whether it is deprecated."""
    try:
        interface, _, source = stack.route_to(destination, broadcast=True)
    except OSError:
        return None, False
    return source, any(entry.address == source and entry.deprecated for entry in interface.addresses)


def _scope(capability: Capability, text: str) -> int:
    if not text:
        return 0
    if text.isascii() and text.isdigit():
        return int(text) & 0xFFFFFFFF
    stack = _stack(capability)
    for interface in (stack.loopback, *stack.interfaces):
        if interface.name == text:
            return interface.number
    raise gai_error(stdlib.EAI_NONAME)


def _names_of(capability: Capability, address: bytes) -> Steps[tuple[str, ...]]:
    """Names of an address: those of the hosts table, or what PTR records say."""
    stack = _stack(capability)
    names = stack.names.hosts.names(address)
    if names:
        return names
    if any(entry.address == address for interface in stack.interfaces for entry in interface.addresses):
        return (stack.names.hostname,)
    if not stack.names.servers():
        return ()
    result = yield from _look_up(capability, reverse_name(address), (Kind.PTR,), search=False)
    return tuple(result.data)


def _advice(result: Result, host: str) -> str:
    if result.outcome is Outcome.NO_SERVER:
        return f"no name server is configured to ask for {host}, and the hosts table does not have it"
    return ""


def _stack(capability: Capability) -> Any:
    stack = capability.issuer
    if stack is None:
        raise os_error(errno.ENETDOWN, "the stack of this capability is gone")
    return stack


# DNS over the stack's own sockets


def _look_up(capability: Capability, name: str, kinds: tuple[int, ...], *, search: bool = True) -> Steps[Result]:
    stack = _stack(capability)
    driver = stack.driver
    if driver is None:
        raise os_error(errno.ENETDOWN, "nobody serves this stack: names cannot be looked up")
    with driver.entered() as now:
        lookup = Lookup(stack.names, name, kinds, stack.random, now, search=search)
    while lookup.result is None:
        yield from _exchange(capability, stack, driver, lookup.exchange)
        with driver.entered() as now:
            lookup.advance(now)
    return lookup.result


def _exchange(capability: Capability, stack: Any, driver: Any, exchange: Exchange) -> Steps[None]:
    """Keeps one socket for the attempt that is under way, until there are answers or no servers left."""
    asked, refusal = False, None
    connection = None
    try:
        while not exchange.over:
            with driver.entered() as now:
                attempt = exchange.attempt
                if connection is None or connection.attempt is not attempt:
                    if connection is not None:
                        connection.close(now)
                        connection = None
                    try:
                        capability.check("resolve", "tcp" if attempt.stream else "udp", *attempt.server)
                        asked = True
                        connection = _Connection(stack, attempt, exchange.messages(), now)
                    except CapabilityError as error:
                        refusal = error
                        exchange.attempt_failed(now)
                        continue
                    except OSError:
                        exchange.attempt_failed(now)
                        continue
                try:
                    for message in connection.work(now):
                        exchange.received(message, now)
                except OSError:
                    exchange.attempt_failed(now)
                exchange.handle_timeout(now)
                if exchange.attempt is not attempt:
                    continue
                wait = Wait(driver, connection.core, connection.wanted, exchange.next_deadline())
            yield wait
    finally:
        if connection is not None:
            with suppress(OSError), driver.entered() as now:
                connection.close(now)
    if refusal is not None and not asked:
        raise CapabilityResolveError(refusal.operation, refusal.target, refusal.reason)


class _Connection:
    """The socket of one attempt.  It belongs to the stack: whoever may resolve need not be allowed to send."""

    def __init__(self, stack: Any, attempt: Any, messages: list[bytes], now: float):
        address, port = attempt.server
        text = addrinfo.numeric_name(address, AF_INET if is_ipv4(address) else AF_INET6, 0)
        literal = text if is_ipv4(address) else f"[{text}]"
        protocol, operations = ("tcp", "connect,send") if attempt.stream else ("udp", "connect,send")
        capability = stack.system.attenuate(f"{protocol}:{operations}:{literal}:{port}", "name resolution")
        family = AF_INET if is_ipv4(address) else AF_INET6
        self.core = SocketCore(stack, capability, family, addrinfo.SOCK_STREAM if attempt.stream else addrinfo.SOCK_DGRAM)
        self.attempt = attempt
        self._unsent = messages
        self._buffer = b""
        try:
            with suppress(BlockingIOError):
                self.core.connect(addrinfo.socket_address(family, address, port), now)
        except BaseException:
            self.close(now)
            raise

    @property
    def wanted(self) -> int:
        return select.POLLOUT if self._unsent else select.POLLIN

    def work(self, now: float) -> list[bytes]:
        """Sends what is left to send; the messages that have come.  OSError when the attempt has failed."""
        try:
            while self._unsent:
                sent = self.core.send(self._unsent[0], 0, now)
                if sent == len(self._unsent[0]):
                    self._unsent.pop(0)
                else:
                    self._unsent[0] = self._unsent[0][sent:]
        except BlockingIOError:
            return []
        messages = []
        with suppress(BlockingIOError):
            while True:
                data = self.core.receive(_MESSAGE_MAX, 0, now)
                if not self.attempt.stream:
                    messages.append(data)
                elif not data:
                    raise ConnectionResetError("the server closed the connection")
                else:
                    self._buffer += data
                    messages += self._complete()
                if messages:
                    break
        return messages

    def _complete(self) -> list[bytes]:
        """RFC 1035 4.2.2: each message after two bytes with its length."""
        messages = []
        while len(self._buffer) >= 2 and len(self._buffer) >= 2 + (length := int.from_bytes(self._buffer[:2], "big")):
            messages.append(self._buffer[2 : 2 + length])
            self._buffer = self._buffer[2 + length :]
        return messages

    def close(self, now: float) -> None:
        self.core.close(now)
