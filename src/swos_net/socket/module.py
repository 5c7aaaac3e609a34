"""A module shaped like `_socket`, whose sockets and look-ups of names are those of a stack.

Read first: lowlevel.py for the sockets, resolver.py for names.  What stands on it: standard.py.
"""

import _socket
import errno
import operator
import os
import types
from collections.abc import Callable
from typing import Any

from swos_net.capability import Capability, CapabilityError
from swos_net.errors import os_error
from swos_net.socket import arguments, readiness, resolver
from swos_net.socket.constants import AF_INET, AF_INET6, SOCK_STREAM
from swos_net.socket.handle import driver_of
from swos_net.socket.lowlevel import AF_UNIX, LowLevelSocket

# What of the C module does not go with a stack, or is made for it below
_REPLACED = frozenset({
    "CAPI", "SocketType", "close", "dup", "getaddrinfo", "gethostbyaddr", "gethostbyname", "gethostbyname_ex", "gethostname",
    "getnameinfo", "if_indextoname", "if_nameindex", "if_nametoindex", "sethostname", "socket", "socketpair",
})  # fmt: skip


def low_level_module(authority: Callable[[], Capability], name: str = "_socket") -> types.ModuleType:
    """A module shaped like `_socket`; `authority()` gives the capability of each new socket and look-up.

    Constants and what computes without a network are the C module's own.
    """
    module = types.ModuleType(name, "Sockets of a userspace stack, in the shape of the C module.")
    for key, value in vars(_socket).items():
        if not key.startswith("__") and key not in _REPLACED:
            setattr(module, key, value)
    cls = type("socket", (LowLevelSocket,), {"__slots__": (), "__module__": name, "_authority": staticmethod(authority)})
    module.socket = module.SocketType = cls
    for function in (*_descriptor_functions(cls), *_name_functions(authority)):
        function.__qualname__ = function.__name__
        function.__module__ = name
        setattr(module, function.__name__, function)
    return module


def _descriptor_functions(cls: type) -> tuple[Callable, ...]:
    def dup(fd, /):
        descriptor = arguments.integer(fd)
        mirror = readiness.mirror_at(descriptor)
        if mirror is None:
            return _socket.dup(descriptor)
        with mirror.driver.entered():
            return mirror.duplicate()

    def close(fd, /):
        descriptor = arguments.integer(fd)
        mirror = readiness.mirror_at(descriptor)
        if mirror is None:
            _socket.close(descriptor)
            return
        with mirror.driver.entered() as now:
            if mirror.close(descriptor):
                mirror.core.close(now)
                mirror.driver.woken(mirror.core)

    def socketpair(family=AF_UNIX, type=SOCK_STREAM, proto=0, /):
        """AF_UNIX: the kernel's.  AF_INET and AF_INET6, which the kernel refuses: joined over the loopback."""
        family = AF_UNIX if family is None else arguments.integer(family)
        if family not in (AF_INET, AF_INET6):
            return tuple(cls(one.family, one.type, one.proto, one.detach()) for one in _socket.socketpair(family, type, proto))
        return _loopback_pair(cls, family, type, proto)

    return dup, close, socketpair


def _loopback_pair(cls: type, family: int, type: int, proto: int) -> tuple[Any, Any]:
    host = "127.0.0.1" if family == AF_INET else "::1"
    one = cls(family, type, proto)
    if one.type != SOCK_STREAM:
        other = cls(family, type, proto)
        one.bind((host, 0))
        other.bind((host, 0))
        one.connect(other.getsockname())
        other.connect(one.getsockname())
        return one, other
    listener = cls(family, type, proto)
    try:
        listener.bind((host, 0))
        listener.listen(1)
        one.settimeout(None)
        one.connect(listener.getsockname())
        while True:
            accepted, address = listener._accept()
            other = cls(family, one.type, proto, accepted)
            if address == one.getsockname():
                break
            other.close()
    finally:
        listener.close()
    one.settimeout(_socket.getdefaulttimeout())
    return one, other


def _name_functions(authority: Callable[[], Capability]) -> tuple[Callable, ...]:
    def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
        return resolver.run(resolver.getaddrinfo_steps(authority(), host, port, family, type, proto, flags))

    def getnameinfo(sockaddr, flags, /):
        if not isinstance(sockaddr, tuple):
            raise TypeError("getnameinfo() argument 1 must be a tuple")
        return resolver.run(resolver.getnameinfo_steps(authority(), sockaddr, flags))

    def gethostbyname(hostname, /):
        return resolver.run(resolver.gethostbyname_steps(authority(), hostname))

    def gethostbyname_ex(hostname, /):
        return resolver.run(resolver.gethostbyname_ex_steps(authority(), hostname))

    def gethostname():
        try:
            return driver_of(authority()).stack.names.hostname
        except (CapabilityError, OSError):
            return _socket.gethostname()  # a name is no access to a network

    def sethostname(name, /):
        raise os_error(errno.EPERM, "a stack gets its name from who makes it")

    def gethostbyaddr(ip_address, /):
        return resolver.run(resolver.gethostbyaddr_steps(authority(), ip_address))

    def interfaces():
        stack = driver_of(authority()).stack
        return [(interface.number, interface.name) for interface in (stack.loopback, *stack.interfaces)]

    def if_nameindex():
        return interfaces()

    def if_nametoindex(oname, /):
        name = os.fsdecode(oname)
        for number, known in interfaces():
            if known == name:
                return number
        raise OSError("no interface with this name")

    def if_indextoname(index, /):
        index = operator.index(index)
        if index < 0:
            raise OverflowError("can't convert negative value to unsigned int")
        if index >> 32:
            raise OverflowError("Python int too large to convert to C unsigned int")
        for number, name in interfaces():
            if number == index:
                return name
        raise OSError(errno.ENXIO, "No such device or address")

    return (getaddrinfo, getnameinfo, gethostname, gethostbyname, gethostbyname_ex, gethostbyaddr, sethostname, if_nameindex, if_nametoindex,
            if_indextoname)  # fmt: skip
