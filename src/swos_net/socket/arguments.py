"""Arguments as CPython's `_socket` takes and refuses them: the same TypeError, ValueError and OverflowError.

Nothing here knows a stack.  Read next: lowlevel.py, which calls this with what programs pass.
"""

import _socket
import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any

from swos_net.socket.constants import AF_INET, AF_INET6

INT_MAX = (1 << 31) - 1
SSIZE_MAX = (1 << 63) - 1
FLOWINFO_MAX = 0xFFFFF
BUFFERS_MAX = 1024  # UIO_MAXIOV

# from a host and a family to a numeric host of that family, by whatever means
Resolve = Callable[[str, int], str]


def closed_socket() -> Any:
    """A socket of the kernel that has no descriptor: it judges arguments first, then says EBADF."""
    return _socket.socket.__new__(_socket.socket)


def integer(value: Any) -> int:
    """A C int."""
    if value.__class__ is not int:
        value = operator.index(value)
    if value > INT_MAX:
        raise OverflowError("signed integer is greater than maximum")
    if value < -INT_MAX - 1:
        raise OverflowError("signed integer is less than minimum")
    return value


def size(value: Any, complaint: str) -> int:
    """A buffer's length; ValueError with the complaint when negative."""
    if value.__class__ is not int:
        value = operator.index(value)
    if value < 0:
        raise ValueError(complaint)
    if value > SSIZE_MAX:
        raise OverflowError("Python int too large to convert to C ssize_t")
    return value


def ancillary_size(value: Any) -> int:
    """Of what recvmsg() is given for ancillary data."""
    value = operator.index(value)
    if not 0 <= value <= INT_MAX:
        raise ValueError("invalid ancillary data buffer length")
    return value


def truth(value: Any) -> bool:
    """Of what setblocking() is given: a C long up to Python 3.11, anything since."""
    if sys.version_info >= (3, 12):
        return bool(value)
    value = operator.index(value)
    if not -SSIZE_MAX - 1 <= value <= SSIZE_MAX:
        raise OverflowError("Python int too large to convert to C long")
    return value != 0


def timeout(value: Any) -> float | None:
    """Seconds, None for ever."""
    if value is None:
        return None
    if value.__class__ in (int, float) and 0 <= value < 1e9:
        return float(value)
    judge = closed_socket()
    try:
        judge.settimeout(value)
    except OSError:
        pass  # EBADF: nothing is wrong with the value
    return judge.gettimeout()


def readable(data: Any) -> memoryview:
    """The bytes of a bytes-like object."""
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"a bytes-like object is required, not '{type(data).__name__}'") from None
    return flat(view)


def writable(buffer: Any, name: str) -> memoryview:
    """The bytes of a writable buffer."""
    try:
        view = memoryview(buffer)
    except TypeError:
        view = None
    if view is None or view.readonly or not view.c_contiguous:
        raise TypeError(f"{name}() argument 1 must be read-write bytes-like object, not {type(buffer).__name__}")
    return flat(view)


def flat(view: memoryview) -> memoryview:
    if view.format == "B" and view.ndim == 1 and view.c_contiguous:
        return view
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return view.cast("B") if view.nbytes else memoryview(b"")


def writable_buffers(buffers: Any) -> list[memoryview]:
    """For recvmsg_into()."""
    views = []
    for buffer in _iterable(buffers, "recvmsg_into() argument 1 must be an iterable"):
        try:
            view = memoryview(buffer)
        except TypeError:
            view = None
        if view is None or view.readonly:
            raise TypeError("recvmsg_into() argument 1 must be an iterable of single-segment read-write buffers")
        views.append(flat(view))
    if len(views) > BUFFERS_MAX:
        raise OSError("recvmsg_into() argument 1 is too long")
    return views


def message_buffers(buffers: Any) -> list[memoryview]:
    """For sendmsg()."""
    views = [readable(buffer) for buffer in _iterable(buffers, "sendmsg() argument 1 must be an iterable")]
    if len(views) > BUFFERS_MAX:
        raise OSError("sendmsg() argument 1 is too long")
    return views


def ancillary(items: Any) -> list[tuple[int, int, bytes]]:
    """For sendmsg(): (level, type, data) of each item."""
    result = []
    for item in _iterable(items, "sendmsg() argument 2 must be an iterable"):
        if not isinstance(item, (tuple, list)):
            raise TypeError(f"[sendmsg() ancillary data items]() argument must be 3-item sequence, not {type(item).__name__}")
        if len(item) != 3:
            raise TypeError(f"[sendmsg() ancillary data items]() argument must be sequence of length 3, not {len(item)}")
        level, kind, data = item
        result.append((integer(level), integer(kind), bytes(readable(data))))
    return result


def _iterable(value: Any, complaint: str) -> Iterable:
    try:
        return iter(value)
    except TypeError:
        raise TypeError(complaint) from None


def address(call: str, family: int, given: Any, resolve: Resolve) -> tuple:
    """An address with a numeric host from what a program passed to `call`.

    `resolve(host, family)` gives the numeric text for a host that is not; gaierror as it raises them.
    """
    word = "AF_INET6" if family == AF_INET6 else "AF_INET"
    if not isinstance(given, tuple):
        raise TypeError(f"{call}(): {word} address must be tuple, not {type(given).__name__}")
    if family == AF_INET:
        if len(given) != 2:
            raise TypeError("AF_INET address must be a pair (host, port)")
    elif not 2 <= len(given) <= 4:
        raise TypeError("AF_INET6 address must be a tuple (host, port[, flowinfo[, scopeid]])")
    host = host_name(given[0])
    port = operator.index(given[1])
    if not 0 <= port <= 0xFFFF:
        raise OverflowError(f"{call}(): port must be 0-65535.")
    if family == AF_INET:
        return _numeric(host, AF_INET, resolve), port
    flowinfo, scope = (*(operator.index(value) & 0xFFFFFFFF for value in given[2:]), 0, 0)[:2]
    if flowinfo > FLOWINFO_MAX:
        raise OverflowError(f"{call}(): flowinfo must be 0-1048575.")
    return _numeric(host, AF_INET6, resolve), port, flowinfo, scope


def host_name(host: Any) -> str:
    """A host as text: ASCII, or what IDNA makes of it."""
    if isinstance(host, str):
        text = host if host.isascii() else host.encode("idna").decode("ascii")
    elif isinstance(host, (bytes, bytearray)):
        text = host.decode("latin-1")
    else:
        raise TypeError(f"str, bytes or bytearray expected, not {type(host).__name__}")
    if "\0" in text:
        raise TypeError("host name must not contain null character")
    return text


def _numeric(host: str, family: int, resolve: Resolve) -> str:
    if host == "":
        return host
    if host in ("<broadcast>", "255.255.255.255"):
        if family != AF_INET:
            raise OSError("address family mismatched")
        return "255.255.255.255"
    try:
        _socket.inet_pton(family, host)
    except OSError:
        return resolve(host, family)
    return host
