"""What a connection tells the layer above."""

from enum import IntEnum


class Event(IntEnum):
    """Events in the order of `Connection.events`; the reader looks at the connection for details."""

    CONNECTED = 1     # the handshake is complete
    READABLE = 2      # new bytes in order
    WRITABLE = 3      # the send queue has room again
    PEER_CLOSED = 4   # a FIN arrived: end of stream after what is queued
    FAILED = 5        # `Connection.error` has the errno: reset, refused, timed out
    CLOSED = 6        # nothing of the connection is left; it may be forgotten
    TIME_WAIT = 8     # only a rest of the connection is left, which may be forgotten when memory is short
    REOPEN = 7        # TIME-WAIT ended by a new SYN, which now belongs to the listener
