"""The listening side: which SYN makes a connection, and which connections wait to be accepted (RFC 9293 3.10.7.2)."""

from collections import deque
from typing import Any


class Listener:
    """SYN queue and accept queue of one local port.

    Holds the owner's connection objects without looking into them; it makes and sends nothing itself.
    """

    __slots__ = ("_completing", "accepted", "backlog", "half_open", "half_open_limit", "overflows")

    def __init__(self, backlog: int, half_open_limit: int):
        """`backlog`: complete connections that may wait; `half_open_limit`: SYNs not yet answered by an ACK."""
        self.backlog = max(backlog, 1)
        self.half_open_limit = half_open_limit
        self.half_open: set[Any] = set()
        self.accepted: deque[Any] = deque()
        self.overflows = 0
        self._completing = 0  # between may_complete and completed

    @property
    def accept_queue_full(self) -> bool:
        """Then a SYN is dropped silently, the peer sends it again (RFC 9293 leaves it open; Linux and BSD do so)."""
        return len(self.accepted) >= self.backlog

    @property
    def syn_queue_full(self) -> bool:
        """Then a SYN is answered without being kept (syn_cookie.py), or dropped."""
        return len(self.half_open) >= self.half_open_limit

    def may_complete(self) -> bool:
        """Whether a handshake may end now: then `completed` follows.  False while as many wait as the backlog allows."""
        if len(self.accepted) + self._completing >= self.backlog:
            self.overflows += 1
            return False
        self._completing += 1
        return True

    def syn_taken(self, connection: Any) -> None:
        self.half_open.add(connection)

    def completed(self, connection: Any) -> None:
        """The handshake is done; it can be accepted."""
        self._completing -= 1
        self.half_open.discard(connection)
        self.accepted.append(connection)

    def gone(self, connection: Any) -> None:
        """The connection ended before anybody accepted it."""
        self.half_open.discard(connection)
        try:
            self.accepted.remove(connection)
        except ValueError:
            pass
