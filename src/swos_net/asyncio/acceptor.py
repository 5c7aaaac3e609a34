"""From a listening socket to transports: what a server does with connections that wait.

Read first: deliveries.py, transport.py.
"""

import asyncio
import contextvars
import errno
from asyncio.constants import ACCEPT_RETRY_DELAY
from collections.abc import Callable
from typing import Any

from swos_net.asyncio.deliveries import Deliveries, Sink
from swos_net.socket.core import SocketCore

OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor(Sink):
    """Accepts what comes, at most `backlog` connections a turn, until `stop()`."""

    __slots__ = ("_accepted", "_backlog", "_core", "_deliveries", "_lock", "_loop", "_resting")

    def __init__(self, loop: asyncio.AbstractEventLoop, deliveries: Deliveries, core: SocketCore, backlog: int,
                 accepted: Callable[[SocketCore, Any], None]):  # fmt: skip
        """`accepted(core, address)` is called in a context of its own for every connection."""
        super().__init__(contextvars.copy_context())
        self._loop = loop
        self._deliveries = deliveries
        self._core: SocketCore | None = core
        self._backlog = backlog
        self._accepted = accepted
        self._resting = False
        self._lock = core.stack.driver.lock
        with self._lock:
            core.watch(self._changed)
            self._changed(core.poll())

    def stop(self) -> None:
        """Accepts no more; the socket stays as it is."""
        core, self._core = self._core, None
        if core is not None:
            with self._lock:
                core.unwatch(self._changed)

    def _changed(self, mask: int) -> None:
        """Inside the stack."""
        if mask and not self._resting:
            self._deliveries.add(self)

    def deliver(self) -> None:
        try:
            for _ in range(max(1, self._backlog)):
                if self._core is None:
                    return
                with self._lock:
                    core, address = self._core.accept(self._loop.time())
                contextvars.copy_context().run(self._accepted, core, address)
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            self._failed(error)
            return
        finally:
            self._again()

    def _failed(self, error: OSError) -> None:
        if error.errno not in OUT_OF_RESOURCES:
            self._loop.call_exception_handler({"message": "accepting a connection failed", "exception": error})
            return
        self._loop.call_exception_handler({"message": "socket.accept() out of system resource", "exception": error})
        self._resting = True
        self._loop.call_later(ACCEPT_RETRY_DELAY, self._rested)

    def _rested(self) -> None:
        self._resting = False
        self._again()

    def _again(self) -> None:
        """Level-triggered, whatever ended the last turn."""
        if self._core is not None and not self._resting:
            with self._lock:
                self._changed(self._core.poll())
