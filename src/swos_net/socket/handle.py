"""Sockets of a stack handed to and from those that programs hold.  Read next: lowlevel.py."""

import errno
from typing import Any

from swos_net.capability import Capability
from swos_net.errors import os_error
from swos_net.runtime.driver import Driver
from swos_net.socket.base import SocketCore
from swos_net.socket.readiness import Mirror


class Handle:
    """A socket of a stack in place of a descriptor, for `socket(fileno=...)`: no number is needed for that."""

    __slots__ = ("core", "driver")

    def __init__(self, core: SocketCore, driver: Driver):
        self.core = core
        self.driver = driver


def wrap(core: SocketCore) -> Any:
    """A `swos_net.socket.socket` around a socket that somebody made without one, and may also close."""
    from swos_net import socket

    return socket.socket(core.family, core.type, core.proto, Handle(core, core.stack.driver))


def driver_of(capability: Capability) -> Driver:
    """Who serves the stack that a capability is for; ENETDOWN when nobody does."""
    stack = capability.issuer
    driver = None if stack is None else stack.driver
    if driver is None:
        raise os_error(errno.ENETDOWN, "nobody serves the stack of this capability: start a ThreadedRunner or an event loop on it")
    return driver


class AbandonedDescriptor:
    """Stands for the socket in `Driver.abandon` when it has a mirror."""

    __slots__ = ("_descriptor", "_mirror")

    def __init__(self, mirror: Mirror, descriptor: int):
        self._mirror = mirror
        self._descriptor = descriptor

    def close(self, now: float) -> None:
        if self._mirror.close(self._descriptor):
            self._mirror.core.close(now)
