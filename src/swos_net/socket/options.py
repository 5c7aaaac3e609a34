"""Socket options as tables: (level, number) to how it is read, set and checked, with Linux's values and errors.

A value that was set lives in its socket under the option's name (`SocketCore.option`); what it does is said by the
socket's class and, for connections, by tcp_options.py.  A listening socket's values are those its
connections begin with.
"""

import errno
import struct
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from swos_net.errors import os_error
from swos_net.socket.constants import AF_INET6, IPPROTO_IP, IPPROTO_IPV6, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, SOL_SOCKET

STREAM, DATAGRAM, RAW = 1, 2, 4
EVERY = STREAM | DATAGRAM | RAW
_KIND = {SOCK_STREAM: STREAM, SOCK_DGRAM: DATAGRAM, SOCK_RAW: RAW}

INT = struct.Struct("=i")
LINGER = struct.Struct("=ii")
TIMEVAL = struct.Struct("=qq")
INT_MAX = 2**31 - 1

# net/core/sock.c of Linux
SEND_BUFFER_MIN = 4608
RECEIVE_BUFFER_MIN = 2304

Get = Callable[[Any, float], Any]
Put = Callable[[Any, Any, float], None]


class Option(NamedTuple):
    """One option.

    `get(core, now)` gives an int or bytes, None: the value that was set, or `default`.  `put(core, value, now)` is
    called with the checked value before it is kept; None: it is only kept.  `structure` decodes what is no int.
    """

    name: str
    default: Any = 0
    low: int = -INT_MAX - 1
    high: int = INT_MAX
    kinds: int = EVERY
    get: Get | None = None
    put: Put | None = None
    boolean: bool = False
    readable: bool = True
    writable: bool = True
    byte: bool = False  # a single byte is taken, too (the options of IPPROTO_IP)
    short: bool = False  # what is too short for a number is 0
    raw: bool = False  # `put` gets the bytes as they are
    structure: struct.Struct | None = None
    refusal: int = errno.EINVAL  # for a value out of range


TABLE: dict[tuple[int, int], Option] = {}  # filled by the modules that define options


def set_option(core, level: int, number: int, value: Any, optlen: int | None, now: float) -> None:
    option = _find(core, level, number)
    if not option.writable:
        raise os_error(errno.ENOPROTOOPT, f"{option.name} can only be read")
    if value is None:
        decoded = _null(option, optlen or 0)
    elif isinstance(value, int):
        if not -INT_MAX - 1 <= value <= INT_MAX:
            raise OverflowError("signed integer is out of range for a C int")
        decoded = INT.pack(value) if option.raw else value
        if option.structure is not None:
            raise os_error(errno.EINVAL, f"{option.name} takes {option.structure.size} bytes")
    else:
        decoded = _decode(option, bytes(value))
    if isinstance(decoded, int):
        if option.boolean:
            decoded = int(bool(decoded))
        elif not option.low <= decoded <= option.high:
            raise os_error(option.refusal, f"{option.name} is within {option.low}..{option.high}")
    kept = option.put(core, decoded, now) if option.put is not None else None
    if not option.raw:
        core._values[option.name] = decoded if kept is None else kept


def get_option(core, level: int, number: int, buflen: int, now: float) -> int | bytes:
    if not 0 <= buflen <= 1024:
        raise os_error(errno.EINVAL, "getsockopt buflen out of range")
    option = _find(core, level, number)
    if not option.readable:
        raise os_error(errno.ENOPROTOOPT, f"{option.name} can only be set")
    value = option.get(core, now) if option.get is not None else core._values.get(option.name, option.default)
    if isinstance(value, int):
        if not buflen:
            return value
        if option.byte and buflen < INT.size and 0 <= value <= 255:
            return bytes([value])
        return INT.pack(value)[:buflen]
    if option.structure is not None and isinstance(value, tuple):
        value = option.structure.pack(*value)
    if not buflen:  # as a C program that gives room for an int
        return INT.unpack(value[: INT.size].ljust(INT.size, b"\0"))[0]
    return value[:buflen]


def _find(core, level: int, number: int) -> Option:
    option = TABLE.get((level, number))
    if option is None or not option.kinds & _KIND[core.type] or (level == IPPROTO_IPV6 and core.family != AF_INET6):
        raise os_error(errno.ENOPROTOOPT, f"option {number} of level {level} is not known for this socket")
    return option


def _null(option: Option, length: int) -> Any:
    if option.raw:
        return b""
    if length < INT.size and not (option.byte and length):
        raise os_error(errno.EINVAL, f"{option.name} needs a value")
    raise os_error(errno.EFAULT, f"{option.name} needs a value")


def _decode(option: Option, value: bytes) -> Any:
    if option.raw:
        return value
    if option.structure is not None:
        if len(value) < option.structure.size:
            raise os_error(errno.EINVAL, f"{option.name} takes {option.structure.size} bytes")
        return option.structure.unpack_from(value)
    if len(value) >= INT.size:
        return INT.unpack_from(value)[0]
    if option.byte and value:
        return value[0]
    if option.short:
        return 0
    raise os_error(errno.EINVAL, f"{option.name} takes an int of {INT.size} bytes")


def inherited(values: dict[str, Any]) -> dict[str, Any]:
    """The options of an accepted connection, from those of the listening socket."""
    return {name: value for name, value in values.items() if name != "defer_accept"} if values else {}


# SOL_SOCKET


def _share(core, value: int, now: float, name: str) -> None:
    wanted = {"reuse_address": bool(core.option("reuse_address")), "reuse_port": bool(core.option("reuse_port")), name: bool(value)}
    core.share_port(**wanted)


def _take_error(core, now: float) -> int:
    return core.take_error()


def _put_linger(core, value: tuple[int, int], now: float) -> None:
    seconds = value[1] & 0xFFFFFFFF  # the kernel keeps it unsigned
    core.set_linger(min(seconds, INT_MAX) if value[0] else None)


def _get_linger(core, now: float) -> tuple[int, int]:
    seconds = core.linger_seconds
    return (0, core.option("linger_time", (0, 0))[1]) if seconds is None else (1, seconds)


def _put_timeout(core, value: tuple[int, int], now: float) -> None:
    if not 0 <= value[1] < 1_000_000:
        raise os_error(errno.EDOM, "microseconds are within 0..999999")
    return (0, 0) if value[0] < 0 else None


def _put_buffer(core, value: int, now: float, name: str, least: int) -> int:
    """The kernel doubles what is asked for, for its own book-keeping, and reports that."""
    size = max(min(value & 0xFFFFFFFF, core.stack.config.socket_buffer_max) * 2, least)
    core.set_buffer_size(name, size, now)
    return size


def _force_buffer(core, value: int, now: float, name: str, least: int) -> int:
    size = max(min(max(value, 0), INT_MAX // 2) * 2, least)
    core.set_buffer_size(name, size, now)
    core._values[name] = size
    return size


def _put_device(core, value: bytes, now: float) -> None:
    name = value.split(b"\0")[0].decode("utf-8", "replace")
    number = 0
    if name:
        interface = next((each for each in (core.stack.loopback, *core.stack.interfaces) if each.name == name), None)
        if interface is None:
            raise os_error(errno.ENODEV, f"there is no interface {name!r}")
        number = interface.number
    _bind_interface(core, number, now)


def _bind_interface(core, number: int, now: float) -> int:
    if number < 0 or (number and core.stack.interface_numbered(number) is None):
        raise os_error(errno.ENODEV, f"there is no interface {number}")
    core.bind_interface(number)
    core._values["interface"] = number
    return number


def _get_device(core, now: float) -> bytes:
    interface = core.stack.interface_numbered(core.option("interface"))
    return interface.name.encode() + b"\0" if interface is not None else b""


RATE = struct.Struct("=Q")
RATE_UNLIMITED = 2**64 - 1


def _put_pacing_rate(core, value: bytes, now: float) -> None:
    """Octets a second, as 4 or 8 bytes; all ones for no limit."""
    if len(value) < INT.size:
        raise os_error(errno.EINVAL, "SO_MAX_PACING_RATE takes 4 or 8 bytes")
    size = RATE.size if len(value) >= RATE.size else INT.size
    rate = int.from_bytes(value[:size], sys.byteorder)
    core._values["pacing_rate"] = rate = RATE_UNLIMITED if rate == 2 ** (8 * size) - 1 else rate
    core.set_pacing_rate(None if rate in (0, RATE_UNLIMITED) else float(rate), now)


def _get_pacing_rate(core, now: float) -> bytes:
    return RATE.pack(core.option("pacing_rate", RATE_UNLIMITED))


def define(level: int, number: int, name: str, **fields: Any) -> None:
    TABLE[level, number] = Option(name, **fields)


def _socket_options() -> None:
    def plain(number: int, name: str, **fields: Any) -> None:
        define(SOL_SOCKET, number, name, **fields)

    plain(1, "SO_DEBUG", boolean=True)
    plain(2, "reuse_address", boolean=True, put=lambda core, value, now: _share(core, value, now, "reuse_address"))
    plain(3, "SO_TYPE", writable=False, get=lambda core, now: core.type)
    plain(4, "SO_ERROR", writable=False, get=_take_error)
    plain(5, "SO_DONTROUTE", boolean=True)
    plain(6, "broadcast", boolean=True, put=lambda core, value, now: core.set_broadcast(bool(value)))
    plain(7, "send_buffer", get=lambda core, now: core.buffer_size("send_buffer"),
          put=lambda core, value, now: _put_buffer(core, value, now, "send_buffer", SEND_BUFFER_MIN))  # fmt: skip
    plain(8, "receive_buffer", get=lambda core, now: core.buffer_size("receive_buffer"),
          put=lambda core, value, now: _put_buffer(core, value, now, "receive_buffer", RECEIVE_BUFFER_MIN))  # fmt: skip
    plain(32, "SO_SNDBUFFORCE", readable=False,
          put=lambda core, value, now: _force_buffer(core, value, now, "send_buffer", SEND_BUFFER_MIN))  # fmt: skip
    plain(33, "SO_RCVBUFFORCE", readable=False,
          put=lambda core, value, now: _force_buffer(core, value, now, "receive_buffer", RECEIVE_BUFFER_MIN))  # fmt: skip
    plain(9, "keepalive", boolean=True, put=lambda core, value, now: core.set_keepalive(bool(value), now))
    plain(10, "SO_OOBINLINE", boolean=True)
    plain(11, "SO_NO_CHECK", boolean=True)
    plain(12, "SO_PRIORITY", low=0, high=6, refusal=errno.EPERM)
    plain(13, "linger_time", structure=LINGER, get=_get_linger, put=_put_linger)
    plain(15, "reuse_port", boolean=True, put=lambda core, value, now: _share(core, value, now, "reuse_port"))
    plain(18, "receive_low", default=1, put=lambda core, value, now: core.set_receive_low(INT_MAX if value < 0 else value or 1, now))
    plain(19, "SO_SNDLOWAT", default=1, writable=False)
    plain(20, "receive_timeout", structure=TIMEVAL, default=(0, 0), put=_put_timeout)
    plain(21, "send_timeout", structure=TIMEVAL, default=(0, 0), put=_put_timeout)
    plain(25, "SO_BINDTODEVICE", raw=True, get=_get_device, put=_put_device)
    plain(30, "SO_ACCEPTCONN", writable=False, get=lambda core, now: int(getattr(core, "listener", None) is not None))
    plain(36, "SO_MARK")
    plain(38, "SO_PROTOCOL", writable=False, get=lambda core, now: core.proto)
    plain(39, "SO_DOMAIN", writable=False, get=lambda core, now: core.family)
    plain(40, "overflow_wanted", boolean=True, kinds=DATAGRAM | RAW)
    plain(47, "pacing_rate", raw=True, get=_get_pacing_rate, put=_put_pacing_rate)
    plain(49, "SO_INCOMING_CPU", default=-1)
    plain(55, "SO_MEMINFO", writable=False, get=lambda core, now: struct.pack("=9I", *core.memory_info()))
    plain(57, "SO_COOKIE", writable=False, get=lambda core, now: struct.pack("=Q", id(core)))
    plain(62, "interface", put=_bind_interface)


_socket_options()


# IPPROTO_IP and IPPROTO_IPV6, whatever the transport


def _get_ttl(core, now: float) -> int:
    value = core.option("ttl", -1)
    return core.stack.config.hop_limit if value == -1 else value


def _put_tos(core, value: int, now: float) -> int:
    if core.type == SOCK_STREAM:
        value &= ~3  # the ECN bits are TCP's own
    core.set_traffic_class(value & 0xFF, now, ipv4=True)
    return value & 0xFF


def _put_tclass(core, value: int, now: float) -> int:
    if not -1 <= value <= 255:
        raise os_error(errno.EINVAL, "a traffic class is within -1..255")
    value = 0 if value == -1 else value
    if core.type == SOCK_STREAM:
        value &= ~3
    core.set_traffic_class(value, now, ipv4=False)
    return value


def _path_mtu(core, now: float) -> int:
    remote, interface = core.path()
    if remote is None:
        raise os_error(errno.ENOTCONN, "the socket has no peer whose path could be asked")
    return core.stack.path_mtus.mtu(remote, interface.link.mtu, now)


def _put_v6only(core, value: int, now: float) -> None:
    if core.getsockname()[1]:
        raise os_error(errno.EINVAL, "IPV6_V6ONLY is set before bind()")


def _put_discover(core, value: int, now: float) -> None:
    core.set_fragmentation(value not in (2, 3, 4) if value != 1 else True)


def _ip_options() -> None:
    def ip(number: int, name: str, **fields: Any) -> None:
        define(IPPROTO_IP, number, name, byte=True, **fields)

    def ipv6(number: int, name: str, **fields: Any) -> None:
        define(IPPROTO_IPV6, number, name, **fields)

    ip(1, "tos", short=True, put=_put_tos)
    ip(2, "ttl", low=-1, high=255, get=_get_ttl, put=_put_ttl)
    ip(4, "IP_OPTIONS", raw=True, get=lambda core, now: b"", put=_no_ip_options)
    ip(8, "want_pktinfo", boolean=True, short=True, kinds=DATAGRAM | RAW)
    ip(10, "mtu_discover", default=1, low=0, high=5, short=True, put=_put_discover)
    ip(11, "errors_wanted", boolean=True, short=True, put=lambda core, value, now: core.want_errors(bool(value)))
    ip(12, "want_ttl", boolean=True, short=True)
    ip(13, "want_tos", boolean=True, short=True)
    ip(14, "IP_MTU", writable=False, get=_path_mtu)
    ip(20, "want_original", boolean=True, short=True, kinds=DATAGRAM | RAW)
    ip(24, "IP_BIND_ADDRESS_NO_PORT", boolean=True, short=True)

    ipv6(16, "hops", default=-1, low=-1, high=255, get=_get_hops, put=_put_hops)
    ipv6(23, "mtu_discover6", default=1, low=0, high=5, put=_put_discover)
    ipv6(24, "IPV6_MTU", writable=True, get=_path_mtu, put=_put_ipv6_mtu)
    ipv6(25, "errors_wanted6", boolean=True, put=lambda core, value, now: core.want_errors(bool(value)))
    ipv6(26, "v6only", boolean=True, put=_put_v6only)
    ipv6(49, "want_pktinfo6", boolean=True)
    ipv6(51, "want_hops", boolean=True)
    ipv6(53, "IPV6_RECVHOPOPTS", boolean=True)
    ipv6(56, "IPV6_RECVRTHDR", boolean=True)
    ipv6(58, "IPV6_RECVDSTOPTS", boolean=True)
    ipv6(60, "IPV6_RECVPATHMTU", boolean=True)
    ipv6(62, "dont_fragment", boolean=True, short=True, put=lambda core, value, now: core.set_fragmentation(not value))
    ipv6(66, "want_tclass", boolean=True)
    ipv6(67, "tclass", put=_put_tclass)
    ipv6(70, "IPV6_AUTOFLOWLABEL", boolean=True, default=0)


def _put_ttl(core, value: int, now: float) -> None:
    if value == 0:
        raise os_error(errno.EINVAL, "a TTL is within 1..255, or -1 for the default")
    core.set_hop_limit(value, now, ipv4=True)


def _put_hops(core, value: int, now: float) -> None:
    core.set_hop_limit(value, now, ipv4=False)


def _get_hops(core, now: float) -> int:
    value = core.option("hops", -1)
    return core.stack.config.hop_limit if value == -1 else value


def _put_ipv6_mtu(core, value: int, now: float) -> None:
    if value and value < 1280:
        raise os_error(errno.EINVAL, "an IPv6 path takes at least 1280 bytes")


def _no_ip_options(core, value: bytes, now: float) -> None:
    if value:
        raise os_error(errno.ENOPROTOOPT, "IP options are not sent")


_ip_options()
