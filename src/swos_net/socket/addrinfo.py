"""What `getaddrinfo` and `getnameinfo` make of their arguments, before anything is looked up.

The rules are glibc's as CPython calls it: the same arguments are refused with the same errors.  Nothing here waits.
"""

import re
import socket as stdlib
import sys
import _socket

from swos_net.address import IPV4_PREFIX, format_address, is_ipv4

AF_UNSPEC, AF_INET, AF_INET6 = 0, int(stdlib.AF_INET), int(stdlib.AF_INET6)
SOCK_STREAM, SOCK_DGRAM, SOCK_RAW = int(stdlib.SOCK_STREAM), int(stdlib.SOCK_DGRAM), int(stdlib.SOCK_RAW)
FAMILIES = (AF_UNSPEC, AF_INET, AF_INET6)
# AI_IDN and what belongs to it is accepted as glibc does: names are encoded with "idna" anyway
FLAGS_KNOWN = (
    _socket.AI_PASSIVE | _socket.AI_CANONNAME | _socket.AI_NUMERICHOST | _socket.AI_V4MAPPED | _socket.AI_ALL
    | _socket.AI_ADDRCONFIG | _socket.AI_NUMERICSERV | 0x03C0
)  # fmt: skip

# type, protocol, its name among the services; as glibc tries them
_KINDS = ((SOCK_STREAM, stdlib.IPPROTO_TCP, "tcp"), (SOCK_DGRAM, stdlib.IPPROTO_UDP, "udp"), (SOCK_RAW, 0, None))

_TEXTS = {
    stdlib.EAI_BADFLAGS: "Bad value for ai_flags",
    stdlib.EAI_NONAME: "Name or service not known",
    stdlib.EAI_AGAIN: "Temporary failure in name resolution",
    stdlib.EAI_FAIL: "Non-recoverable failure in name resolution",
    stdlib.EAI_NODATA: "No address associated with hostname",
    stdlib.EAI_FAMILY: "ai_family not supported",
    stdlib.EAI_SOCKTYPE: "ai_socktype not supported",
    stdlib.EAI_SERVICE: "Servname not supported for ai_socktype",
    stdlib.EAI_ADDRFAMILY: "Address family for hostname not supported",
}

_DECIMAL = re.compile(r"[ \t\n\v\f\r]*([+-]?)([0-9]+)")
_INET_ATON = re.compile(r"(?:0[xX][0-9a-fA-F]*|0[0-7]*|[1-9][0-9]*)(?:\.(?:0[xX][0-9a-fA-F]*|0[0-7]*|[1-9][0-9]*)){0,3}")

Service = tuple[int, int, int]  # type, protocol, port


def gai_error(code: int, advice: str = "") -> stdlib.gaierror:
    text = _TEXTS.get(code, "Unknown error")
    return stdlib.gaierror(code, f"{text}: {advice}" if advice else text)


def host_text(host: str | bytes | None) -> str | None:
    """The host as ASCII text; UnicodeError for a label that IDNA does not take, TypeError for another type."""
    if host is None:
        return None
    if isinstance(host, str):
        host = host.encode("idna")
    elif not isinstance(host, bytes):
        raise TypeError("getaddrinfo() argument 1 must be string or None")
    try:
        return host.partition(b"\0")[0].decode("ascii")
    except UnicodeDecodeError:
        raise gai_error(stdlib.EAI_NONAME) from None


def service_text(port: int | str | bytes | None) -> str | None:
    if port is None:
        return None
    if type(port) is int or isinstance(port, int) and not isinstance(port, bool):
        if not -(1 << 63) <= port < 1 << 63 and sys.version_info < (3, 12):
            raise OverflowError("Python int too large to convert to C long")
        return str(int(port))
    if isinstance(port, str):
        return port.partition("\0")[0]
    if isinstance(port, bytes):
        return port.partition(b"\0")[0].decode("ascii", "replace")
    raise OSError("Int or String expected")


def services(port: str | None, type: int, proto: int, flags: int) -> list[Service]:
    """(type, protocol, port) for each kind of socket that is wanted."""
    number = None if port is None else _number(port)
    if number is None and port and flags & _socket.AI_NUMERICSERV:
        raise gai_error(stdlib.EAI_NONAME)
    if number is not None and number < 0:
        number = None  # which in the C library says that there is a name to look up
    wanted = [kind for kind in _KINDS if type in (0, kind[0]) and (proto in (0, kind[1]) or kind[0] == SOCK_RAW)]
    if proto and len(wanted) > 1:
        wanted = [kind for kind in wanted if kind[1] == proto] or wanted  # "raw" takes every protocol, but last of all
    if not wanted:
        raise gai_error(stdlib.EAI_SOCKTYPE)
    if (type or proto) and wanted == [_KINDS[2]] and port is not None:
        raise gai_error(stdlib.EAI_SERVICE)
    if port is None or number is not None:
        return [(kind, proto or protocol, (number or 0) & 0xFFFF) for kind, protocol, _ in wanted]
    found = [(kind, protocol, known) for kind, protocol, name in wanted
             if name is not None and (known := _known_service(port, name)) is not None]  # fmt: skip
    if not found:
        raise gai_error(stdlib.EAI_SERVICE)
    return found


def _number(port: str) -> int | None:
    """What strtoul(3) makes of the port, cut down to a C int; None when there is more to it than a number."""
    if not port:
        return 0
    decimal = _DECIMAL.fullmatch(port)
    if decimal is None:
        return None
    value = int(decimal[2])
    if value >= 1 << 64:
        return -1
    if decimal[1] == "-":
        value = -value
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def _known_service(name: str, protocol: str) -> int | None:
    try:
        return _socket.getservbyname(name, protocol)  # a table of the C library
    except OSError:
        return None


def check_arguments(host: str | None, port: str | None, family: int, flags: int) -> None:
    if host is None and port is None:
        raise gai_error(stdlib.EAI_NONAME)
    if flags & ~FLAGS_KNOWN or flags & _socket.AI_CANONNAME and host is None:
        raise gai_error(stdlib.EAI_BADFLAGS)
    if family not in FAMILIES:
        raise gai_error(stdlib.EAI_FAMILY)


def numeric_host(host: str) -> tuple[bytes, str] | None:
    """(16 bytes, text of the scope) of an address in any form inet_aton(3) or inet_pton(3) take; None for a name."""
    if ":" in host:
        text, _, scope = host.partition("%")
        try:
            return _parse6(text), scope
        except ValueError:
            return None
    if _INET_ATON.fullmatch(host):
        try:
            return IPV4_PREFIX + stdlib.inet_aton(host), ""
        except OSError:
            return None
    return None


def _parse6(text: str) -> bytes:
    try:
        return stdlib.inet_pton(stdlib.AF_INET6, text)
    except OSError as error:
        raise ValueError(str(error)) from None


def addresses_of_family(found: list[tuple[bytes, bool]], family: int, flags: int) -> list[tuple[int, bytes]]:
    """(family, 16 bytes) of (address, whether it was written as IPv6), mapped when that was asked for."""
    result = []
    six = any(written6 or not is_ipv4(address) for address, written6 in found)
    for address, written6 in found:
        four = is_ipv4(address) and not written6
        if family in (AF_UNSPEC, AF_INET if four else AF_INET6):
            result.append((AF_INET if four else AF_INET6, address))
        elif four and family == AF_INET6 and flags & _socket.AI_V4MAPPED and (flags & _socket.AI_ALL or not six):
            result.append((AF_INET6, address))
    return result


def socket_address(family: int, address: bytes, port: int, scope: int = 0) -> tuple:
    """As `getaddrinfo` and `accept` give it."""
    if family == AF_INET:
        return format_address(address), port
    return stdlib.inet_ntop(stdlib.AF_INET6, address), port, 0, scope


def split_socket_address(address: object) -> tuple[bytes, int, int, int]:
    """(16 bytes, port, scope, family) of what `getnameinfo` is given."""
    if not isinstance(address, tuple):
        raise TypeError("getnameinfo() argument 1 must be a tuple")
    if not 2 <= len(address) <= 4 or not isinstance(address[0], str):
        raise TypeError("getnameinfo(): illegal sockaddr argument")
    host, port, flow, scope = (*address, *(0, 0)[: 4 - len(address)]) if len(address) < 4 else address
    for number in (port, flow, scope):
        if not hasattr(number, "__index__"):
            raise TypeError(f"'{type(number).__name__}' object cannot be interpreted as an integer")
    if not 0 <= flow <= 0xFFFFF:
        raise OverflowError("getnameinfo(): flowinfo must be 0-1048575.")
    parsed = numeric_host(host)
    if parsed is None:
        raise gai_error(stdlib.EAI_NONAME)
    if port < 0:
        raise gai_error(stdlib.EAI_SERVICE)
    packed, written_scope = parsed
    family = AF_INET6 if ":" in host else AF_INET
    if family == AF_INET and len(address) != 2:
        raise OSError("IPv4 sockaddr must be 2 tuple")
    return packed, port & 0xFFFF, int(written_scope) if written_scope.isdigit() else scope, family


def numeric_name(packed: bytes, family: int, scope: int | str) -> str:
    return format_address(packed) if family == AF_INET else stdlib.inet_ntop(stdlib.AF_INET6, packed) + (f"%{scope}" if scope else "")


