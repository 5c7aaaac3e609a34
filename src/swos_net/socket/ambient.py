"""Libraries that `import socket` get sockets of the stack whose capability is active, and the kernel's otherwise.

`install` is called once, before the first `capability.activate()`; from then on, in a context with an active capability,
- `socket.socket(...)`, of AF_INET or AF_INET6, is a `swos_net.socket.socket`, whenever the name was imported; an instance
  of a subclass, such as PySocks's, is one too, and so is what `ssl` makes of one of our sockets;
- functions of `socket` that look up names or interfaces ask the stack;
- whatever goes around the `socket` module, to `_socket` or by a reference taken earlier, is refused with EACCES.
Without one nothing changes.  AF_UNIX and descriptors that are given stay the kernel's.

A context variable says which capability is active, so tasks and `asyncio.to_thread` inherit it; a thread does not, and
has the kernel's network (`inherit_in_threads` changes that).  C code with sockets of its own is out of reach.
Read first: lowlevel.py, module.py.
"""

import _socket
import _thread
import contextvars
import errno
import functools
import socket as kernel
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from swos_net.capability import Capability, CapabilityError, active_capability
from swos_net.errors import os_error
from swos_net.socket.lowlevel import LowLevelSocket
from swos_net.socket.readiness import mirror_at

# families of a network of the kernel's that a stack's capability stands in the place of; -1 is AF_INET by default
INTERNET = frozenset({-1, int(kernel.AF_INET), int(kernel.AF_INET6)})
REFUSED = INTERNET | {int(kernel.AF_PACKET)}

LOOK_UPS = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"})

# C functions that are names of the `socket` module, by what decides: the context, or the descriptor they are given
BY_CONTEXT = ("getnameinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "gethostname", "sethostname", "if_nameindex", "if_nametoindex",
              "if_indextoname")  # fmt: skip
BY_DESCRIPTOR = ("close", "dup")


class _CModule(types.ModuleType):
    """What Lib/socket.py has for `_socket` once `install` has been here."""


def install() -> None:
    """Idempotent; there is no way back, since libraries keep what they import."""
    names = vars(kernel)
    if isinstance(names["_socket"], _CModule):
        return
    from swos_net import socket as ours

    _guard_class(kernel.socket, ours.socket)
    module = _CModule("_socket", _socket.__doc__)
    vars(module).update(vars(_socket), getaddrinfo=_by_context(_socket.getaddrinfo, ours._socket.getaddrinfo))
    names["_socket"] = module
    for name in BY_CONTEXT:
        names[name] = _by_context(names[name], getattr(ours, name))
    for name in BY_DESCRIPTOR:
        names[name] = getattr(ours, name)
    _guard_tls()
    _guard_event_loops()
    sys.addaudithook(_audit)


def _by_context(kernels: Callable, ours: Callable) -> Callable:
    @functools.wraps(kernels)
    def function(*arguments: Any, **keywords: Any) -> Any:
        return (kernels if active_capability() is None else ours)(*arguments, **keywords)

    return function


# The class


def _guard_class(cls: type, ours: type) -> None:
    """`cls(...)` and instances of its subclasses become `ours` where a capability is active."""
    initialize = cls.__init__

    def __new__(kind: type, *arguments: Any, **keywords: Any) -> Any:
        fileno = arguments[3] if len(arguments) > 3 else keywords.get("fileno")
        if fileno is not None:
            stack = type(fileno) is int and mirror_at(fileno) is not None
        elif active_capability() is None:
            stack = False
        elif kind is cls:
            stack = (arguments[0] if arguments else keywords.get("family", -1)) in INTERNET
        else:
            stack = True  # only its __init__ knows the family; ours takes AF_UNIX, too
        if not stack:
            return _socket.socket.__new__(kind)
        return LowLevelSocket.__new__(ours if kind is cls else _dual(kind, ours))

    @functools.wraps(initialize)
    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        if isinstance(self, LowLevelSocket):  # called by name instead of by super()
            ours.__init__(self, family, type, proto, fileno)
            return
        if fileno is None and family in REFUSED and active_capability() is not None:
            raise _refusal("open a socket of", f"family {family}")
        initialize(self, family, type, proto, fileno)

    cls.__new__ = __new__
    cls.__init__ = __init__


def _dual(kind: type, ours: type) -> type:
    """The subclass of `kind`, itself one of the kernel's class, whose instances are sockets of a stack."""
    made = vars(kind).get("_of_stack")
    if made is None:
        def body(namespace: dict[str, Any]) -> None:
            namespace.update(__slots__=(), __module__=kind.__module__, __qualname__=kind.__qualname__, __doc__=kind.__doc__)

        try:
            made = types.new_class(kind.__name__, (kind, ours), {}, body)
        except TypeError as error:
            raise os_error(errno.EACCES, f"{kind.__qualname__} cannot be made a socket of a stack: {error}") from error
        kind._of_stack = made
    return made


# What stands on sockets


def _guard_tls() -> None:
    """Every `ssl.SSLContext` wraps sockets of ours as well."""
    try:
        import ssl
    except ImportError:  # a Python without OpenSSL
        return
    from swos_net.socket import tls

    tls.teach(ssl.SSLContext)


def _guard_event_loops() -> None:
    """asyncio's own loops look names up in a thread, which has no capability unless it is brought along."""
    from asyncio.base_events import BaseEventLoop as Loop

    def bring_along(name: str) -> Callable:
        method = getattr(Loop, name)

        @functools.wraps(method)
        async def look_up(self, *arguments: Any, **keywords: Any) -> Any:
            if active_capability() is None:
                return await method(self, *arguments, **keywords)
            call = functools.partial(getattr(kernel, name), *arguments, **keywords)
            return await self.run_in_executor(None, contextvars.copy_context().run, call)

        return look_up

    for name in ("getaddrinfo", "getnameinfo"):
        setattr(Loop, name, bring_along(name))


# What went around all that


def _audit(event: str, arguments: tuple) -> None:
    if event == "socket.__new__":
        sock, family = arguments[:2]
        # with the class of Lib/socket.py the decision has been made
        if family in REFUSED and active_capability() is not None and not isinstance(sock, kernel.socket):
            raise _refusal("open a socket of", f"family {family}")
    elif event in LOOK_UPS and active_capability() is not None:
        raise _refusal("resolve with", event)
    elif event == "socket.sethostname" and active_capability() is not None:
        raise os_error(errno.EPERM, "this would rename the machine: a stack gets its name from who makes it")


def _refusal(operation: str, target: str) -> CapabilityError:
    return CapabilityError(operation, f"the kernel's network, {target}", "a capability of a stack is active here",
                           "import `socket` and use its names, or leave `with capability.activate():`")  # fmt: skip


# Threads


def inherit_in_threads() -> None:
    """From now on a thread has the capability that is active where it is started; for whole programs.

    A pool's thread thus has that of whoever caused it to be started.
    """
    for module, prefix in ((_thread, ""), (threading, "_")):
        for name in ("start_new_thread", "start_new", "start_joinable_thread"):
            start = getattr(module, prefix + name, None)
            if start is not None and not hasattr(start, "__wrapped__"):
                setattr(module, prefix + name, _starting(start))


def _starting(start: Callable) -> Callable:
    @functools.wraps(start)
    def start_with_capability(function: Callable, *arguments: Any, **keywords: Any) -> Any:
        capability = active_capability()
        return start(function if capability is None else _bound(capability, function), *arguments, **keywords)

    return start_with_capability


def _bound(capability: Capability, function: Callable) -> Callable:
    def run(*arguments: Any, **keywords: Any) -> Any:
        with capability.activate():
            return function(*arguments, **keywords)

    return run
