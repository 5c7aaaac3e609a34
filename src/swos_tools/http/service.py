"""What all connections of one server share: who answers, the limits, the date, the log, the table of connections.

Read protocol.py first.  Time comes from `clock`; the sweep for overdue connections runs on the event loop once a
second, and only while there are connections.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from swos_net.clock import monotonic, wall_ns
from swos_tools.http.conditional import format_date
from swos_tools.http.message import Limits, Request, Response, empty_response

if TYPE_CHECKING:
    from swos_tools.http.protocol import HttpProtocol

SWEEP_INTERVAL = 1.0


class Responder(Protocol):
    """Who answers requests; `failure` of the request is 0."""

    def respond(self, request: Request) -> Response: ...


class HttpService:
    """One HTTP server.  `log` gets one line per response, or is None; `clock` counts seconds,
    `wall_clock` nanoseconds since 1970."""

    def __init__(self, responder: Responder, *, limits: Limits = Limits(), log: Callable[[str], None] | None = None,
                 name: str = "httpd", clock: Callable[[], float] = monotonic,
                 wall_clock: Callable[[], int] = wall_ns) -> None:
        self.limits = limits
        self.clock = clock
        self.stopping = False
        self.connections: set["HttpProtocol"] = set()
        self._responder = responder
        self._log = log
        self._name = name
        self._wall_clock = wall_clock
        self._second = -1
        self._date = b""
        self._sweep: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event | None = None

    def respond(self, request: Request) -> Response:
        """The response to a request; writes its log line."""
        failure = request.failure
        response = empty_response(failure) if failure else self._responder.respond(request)
        if self._log is not None:
            # the parser lets only printable ASCII through
            path = request.target.partition(b"?")[0].decode("ascii") or "-"
            self._log(f"{self._name}: {response.status} {path}")
        return response

    def date(self) -> bytes:
        """The value of Date, made once a second."""
        second = self._wall_clock() // 1_000_000_000
        if second != self._second:
            self._second = second
            self._date = format_date(second)
        return self._date

    def opened(self, connection: "HttpProtocol") -> int:
        """Takes a connection into the table; says how many there are with it."""
        self.connections.add(connection)
        if self._sweep is None:
            self._schedule()
        return len(self.connections)

    def closed(self, connection: "HttpProtocol") -> None:
        self.connections.discard(connection)
        if not self.connections:
            if self._sweep is not None:
                self._sweep.cancel()
                self._sweep = None
            if self._empty is not None:
                self._empty.set()

    def sweep(self, now: float) -> None:
        """Ends what is overdue at `now`."""
        for connection in list(self.connections):
            connection.check_deadline(now)

    async def stop(self, grace: float) -> None:
        """Closes idle connections, gives the others `grace` seconds to end their response, then cuts them."""
        self.stopping = True
        self._empty = asyncio.Event()
        for connection in list(self.connections):
            connection.stop()
        if not self.connections:
            return
        try:
            await asyncio.wait_for(self._empty.wait(), grace)
        except asyncio.TimeoutError:
            for connection in list(self.connections):
                connection.abort()

    def _schedule(self) -> None:
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_INTERVAL, self._on_sweep)

    def _on_sweep(self) -> None:
        self._schedule()
        self.sweep(self.clock())
