"""What every kind of socket has in common: family, address tuples, options, readiness.

Read first: stream.py.  A `SocketCore` has the semantics of the kernel's sockets and never waits: what would block raises
BlockingIOError (EAGAIN).  It reads no clock (`now` is passed in) and takes no lock: who calls it owns the stack.
"""

import errno
from collections.abc import Callable
from typing import Any, NoReturn

from swos_net.address import (
    BROADCAST4,
    LOOPBACK4,
    LOOPBACK6,
    UNSPECIFIED4,
    UNSPECIFIED6,
    format_address,
    is_ipv4,
    is_link_local,
    is_unspecified,
    parse_address,
)
from swos_net.capability import Capability, CapabilityError
from swos_net.errors import os_error
from swos_net.socket import options
from swos_net.socket.constants import AF_INET, AF_INET6, SOCK_CLOEXEC, SOCK_NONBLOCK

Address = tuple[Any, ...]
Watcher = Callable[[int], None]

_kinds: dict[tuple[int, int], type["SocketCore"]] = {}  # (type, protocol or -1 for any) to class; filled on import


class SocketCore:
    """One socket.  `SocketCore(stack, capability, family, type)` makes one of the class for that type.

    `family`, `type` and `proto` are the numbers of the standard library; `proto` is the one in effect.
    """

    __slots__ = ("__weakref__", "_closed", "_values", "_watchers", "capability", "family", "mirror", "proto", "stack", "type")

    def __init_subclass__(cls, kinds: tuple[tuple[int, int], ...] = (), **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        for kind in kinds:
            _kinds[kind] = cls

    def __new__(cls, stack=None, capability: Capability | None = None, family: int = AF_INET, type: int = 1, proto: int = 0):
        if cls is SocketCore:
            cls = _kind(family, type, proto)
        return object.__new__(cls)

    def __init__(self, stack, capability: Capability, family: int, type: int, proto: int = 0):
        """EAFNOSUPPORT, ESOCKTNOSUPPORT, EPROTONOSUPPORT; CapabilityError (EACCES) without a capability."""
        if capability is None:
            raise CapabilityError("socket", _describe(family, type), "no capability was given",
                                  "pass one, or use `with capability.activate():`")  # fmt: skip
        self.stack = stack
        self.capability = capability
        self.family = int(family)
        self.type = type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)
        self.proto = proto
        self._closed = False
        self._values: dict[str, Any] = {}  # options that were set, by the names of options.py
        self._watchers: tuple[Watcher, ...] = ()
        self.mirror: Any = None  # see readiness.py

    # Calls that one kind or another does not have

    def listen(self, backlog: int, now: float) -> None:
        self.check_open()
        raise os_error(errno.EOPNOTSUPP, "only stream sockets listen")

    def accept(self, now: float) -> tuple["SocketCore", Address]:
        self.check_open()
        raise os_error(errno.EOPNOTSUPP, "only stream sockets accept")

    def send_file(self, descriptor: int, offset: int | None, count: int, now: float) -> int:
        """Sends bytes of a file; returns how many, 0 at its end."""
        self.check_open()
        raise os_error(errno.EINVAL, "only stream sockets send files")

    # Options

    def setsockopt(self, level: int, option: int, value: Any, optlen: int | None, now: float) -> None:
        """`value` is an int, bytes-like, or None with `optlen` for a null pointer of that length.

        ENOPROTOOPT for an option that is not known, EINVAL for a wrong length or value.
        """
        self.check_open()
        options.set_option(self, level, option, value, optlen, now)

    def getsockopt(self, level: int, option: int, buflen: int, now: float) -> int | bytes:
        """An int when `buflen` is 0, else at most `buflen` bytes."""
        self.check_open()
        return options.get_option(self, level, option, buflen, now)

    def option(self, name: str, default: Any = 0) -> Any:
        """A value that was set, by its name in options.py."""
        return self._values.get(name, default)

    # What options do; the kinds of sockets override what concerns them

    def share_port(self, reuse_address: bool, reuse_port: bool) -> None:
        """SO_REUSEADDR or SO_REUSEPORT changed."""

    def take_error(self) -> int:
        """SO_ERROR: an errno once, then 0."""
        return 0

    @property
    def linger_seconds(self) -> int | None:
        """SO_LINGER: how long close() waits for `delivering` to end, None when it does not wait."""
        return self.option("linger", None)

    def set_linger(self, seconds: int | None) -> None:
        self._values["linger"] = seconds

    def set_receive_low(self, octets: int, now: float) -> int:
        """SO_RCVLOWAT; returns what it will be."""
        return octets

    def set_pacing_rate(self, octets_per_second: float | None, now: float) -> None: ...

    def set_broadcast(self, on: bool) -> None: ...

    def set_keepalive(self, on: bool, now: float) -> None: ...

    def set_hop_limit(self, value: int, now: float, *, ipv4: bool) -> None:
        """Of unicast packets; -1 for the stack's own."""

    def set_traffic_class(self, value: int, now: float, *, ipv4: bool) -> None: ...

    def set_fragmentation(self, on: bool) -> None:
        """Whether packets may be sent in fragments."""

    def want_errors(self, on: bool) -> None:
        """IP_RECVERR."""

    def bind_interface(self, number: int) -> None:
        """SO_BINDTODEVICE: packets use this interface only; 0 for any."""

    def buffer_size(self, name: str) -> int:
        """What SO_SNDBUF ("send_buffer") or SO_RCVBUF ("receive_buffer") report: twice what is held."""
        raise NotImplementedError

    def set_buffer_size(self, name: str, size: int, now: float) -> None:
        """`size` is what the option reports from now on."""

    def memory_info(self) -> tuple[int, ...]:
        """SO_MEMINFO (linux/sock_diag.h): receive and send bytes and limits, forward, queued, options, backlog, drops."""
        return 0, self.buffer_size("receive_buffer"), 0, self.buffer_size("send_buffer"), 0, 0, 0, 0, 0

    def path(self) -> tuple[bytes | None, Any]:
        """(peer's address, interface towards it) of a connected socket, else (None, None)."""
        return None, None

    # Readiness

    def poll(self) -> int:
        """What could be done without waiting, as poll(2) reports it (POLLIN, POLLOUT, ...)."""
        raise NotImplementedError

    def watch(self, watcher: Watcher) -> None:
        """`watcher(mask)` is called when readiness grows, from inside the stack: it must not block or raise."""
        self._watchers += (watcher,)

    def unwatch(self, watcher: Watcher) -> None:
        self._watchers = tuple(other for other in self._watchers if other != watcher)

    # Addresses

    @property
    def closed(self) -> bool:
        return self._closed

    def check_open(self) -> None:
        if self._closed:
            raise os_error(errno.EBADF, "the socket is closed")

    @property
    def unspecified(self) -> bytes:
        return UNSPECIFIED4 if self.family == AF_INET else UNSPECIFIED6

    @property
    def dual_stack(self) -> bool:
        """Whether an IPv6 socket speaks IPv4, too."""
        return self.family == AF_INET6 and not self.option("v6only")

    def parse(self, address: Any) -> tuple[bytes, int, int]:
        """(16 bytes, port, scope) of a tuple as the standard library has them; the host must be numeric.

        '' is the unspecified address, '<broadcast>' 255.255.255.255.  EAFNOSUPPORT for an address of another family.
        """
        if not isinstance(address, tuple) or len(address) < 2:
            raise TypeError(f"an address is a tuple of host and port, not {address!r}")
        host, port = address[0], address[1]
        scope = address[3] if len(address) > 3 else 0
        if isinstance(host, (bytes, bytearray)):
            host = host.decode("ascii")
        if not 0 <= port <= 65535:
            raise OverflowError("port must be 0-65535.")
        if host == "":
            return self.unspecified, port, scope
        if self.family == AF_INET:
            if host == "<broadcast>":
                return BROADCAST4, port, 0
            if ":" in host:
                raise os_error(errno.EAFNOSUPPORT, f"{host!r} is no IPv4 address, as this socket needs")
        elif ":" not in host:
            raise os_error(errno.EAFNOSUPPORT, f"{host!r} is no IPv6 address, as this socket needs")
        host, _, zone = host.partition("%")
        if zone and not scope:
            scope = self._scope(zone)
        try:
            return parse_address(host), port, scope
        except ValueError:
            raise os_error(errno.EINVAL, f"{host!r} is not a numeric address") from None

    def _scope(self, zone: str) -> int:
        if zone.isdigit():
            return int(zone)
        for interface in (self.stack.loopback, *self.stack.interfaces):
            if interface.name == zone:
                return interface.number
        raise os_error(errno.ENODEV, f"there is no interface {zone!r}")

    def parse_peer(self, address: Any) -> tuple[bytes, int, int]:
        """Where to connect or send to; the unspecified address is the host itself, as the kernel takes it."""
        remote, port, scope = self.parse(address)
        if is_unspecified(remote):
            remote = LOOPBACK4 if is_ipv4(remote) else LOOPBACK6
        if self.family == AF_INET6 and is_ipv4(remote) and self.option("v6only"):
            raise os_error(errno.ENETUNREACH, "the socket has IPV6_V6ONLY")
        return remote, port, scope

    def parse_own(self, address: Any) -> tuple[tuple[bytes, ...], int, int]:
        """(addresses, port, scope) for bind(): both unspecified ones of a socket that speaks both families."""
        local, port, scope = self.parse(address)
        if local == UNSPECIFIED6 and self.dual_stack:
            return (UNSPECIFIED6, UNSPECIFIED4), port, scope
        if self.family == AF_INET6 and is_ipv4(local) and self.option("v6only"):
            raise os_error(errno.EINVAL, "the socket has IPV6_V6ONLY")
        return (local,), port, scope

    def name(self, address: bytes, port: int, number: int = 0) -> Address:
        """The tuple of an address; `number` is that of the interface, which a link-local address needs."""
        if self.family == AF_INET:
            return format_address(address), port
        if is_ipv4(address):
            if address == UNSPECIFIED4:
                return "::", port, 0, 0
            return f"::ffff:{format_address(address)}", port, 0, 0
        if not is_link_local(address):
            return format_address(address), port, 0, 0
        if not number or number == self.stack.loopback.number:
            own = self.stack.interface_with(address)  # an address of ours is one of the link that it is for
            number = number if own is None else own.number
        return format_address(address), port, 0, number


def would_block() -> NoReturn:
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def _describe(family: int, type: int) -> str:
    return f"of family {int(family)} and type {int(type)}"


def _kind(family: int, type: int, proto: int) -> type[SocketCore]:
    type &= ~(SOCK_NONBLOCK | SOCK_CLOEXEC)
    if family not in (AF_INET, AF_INET6):
        raise os_error(errno.EAFNOSUPPORT, "use AF_INET or AF_INET6")
    if not 0 <= type <= 10:
        raise os_error(errno.EINVAL, "use SOCK_STREAM, SOCK_DGRAM or SOCK_RAW")
    if not any(known == type for known, _ in _kinds):
        raise os_error(errno.ESOCKTNOSUPPORT, "use SOCK_STREAM, SOCK_DGRAM or SOCK_RAW")
    if proto < 0 or proto > 255:
        raise os_error(errno.EINVAL, "an IP protocol is a number within 0..255")
    cls = _kinds.get((type, proto)) or (_kinds.get((type, -1)) if proto else None)
    if cls is None or not cls.speaks(family, proto):
        raise os_error(errno.EPROTONOSUPPORT, f"protocol {proto} does not go with that type of socket")
    return cls
