"""The states of a connection and the transitions between them (RFC 9293 3.3.2, figure 5).

The table is for checking and for documentation; `input.py` and `connection.py` say when each transition is taken.
"""

from enum import IntEnum


class State(IntEnum):
    """RFC 9293 3.3.2; LISTEN belongs to `listener.Listener`, which makes connections in SYN-RECEIVED."""

    CLOSED = 0
    LISTEN = 1
    SYN_SENT = 2
    SYN_RECEIVED = 3
    ESTABLISHED = 4
    FIN_WAIT_1 = 5
    FIN_WAIT_2 = 6
    CLOSE_WAIT = 7
    CLOSING = 8
    LAST_ACK = 9
    TIME_WAIT = 10


TRANSITIONS: dict[State, frozenset[State]] = {
    State.CLOSED: frozenset({State.LISTEN, State.SYN_SENT, State.SYN_RECEIVED}),
    State.LISTEN: frozenset({State.SYN_RECEIVED, State.SYN_SENT, State.CLOSED}),
    State.SYN_SENT: frozenset({State.SYN_RECEIVED, State.ESTABLISHED, State.CLOSED}),
    State.SYN_RECEIVED: frozenset({State.ESTABLISHED, State.FIN_WAIT_1, State.CLOSE_WAIT, State.CLOSED}),
    State.ESTABLISHED: frozenset({State.FIN_WAIT_1, State.CLOSE_WAIT, State.CLOSED}),
    State.FIN_WAIT_1: frozenset({State.FIN_WAIT_2, State.CLOSING, State.TIME_WAIT, State.CLOSED}),
    State.FIN_WAIT_2: frozenset({State.TIME_WAIT, State.CLOSED}),
    State.CLOSE_WAIT: frozenset({State.LAST_ACK, State.CLOSED}),
    State.CLOSING: frozenset({State.TIME_WAIT, State.CLOSED}),
    State.LAST_ACK: frozenset({State.CLOSED}),
    State.TIME_WAIT: frozenset({State.CLOSED}),
}

# States in which the peer's data may still arrive (RFC 9293 3.10.7.4, "seventh, process the segment text").
RECEIVING = frozenset({State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2})
# States in which our own queued data and FIN may go out.
SENDING = frozenset({State.ESTABLISHED, State.CLOSE_WAIT, State.FIN_WAIT_1, State.CLOSING, State.LAST_ACK})
