"""What passes between the connection, the server's state and the files: requests, responses, limits.

Read protocol.py first.  Nothing here parses or sends.
"""

from dataclasses import dataclass
from http import HTTPStatus

# The status line and the name of the field every response begins with, by status number
RESPONSE_START = {
    status.value: b"HTTP/1.1 %d %b\r\nDate: " % (status.value, status.phrase.encode()) for status in HTTPStatus
}


# What is served; anything else is 405
METHODS = (b"GET", b"HEAD")

# Fields that belong to a status whoever sends it (RFC 9110 15.5.6, 15.6.4)
FIELDS_OF_STATUS = {405: b"Allow: GET, HEAD\r\n", 503: b"Retry-After: 1\r\n"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    target: int = 8192              # request target with its query
    path: int = 4096                # its path alone
    header: int = 16384             # names and values of all header fields, 4 bytes more for each
    body: int = 1 << 20             # content of a request, read and thrown away
    connections: int = 1024         # served at once; as many again are told 503, the rest are cut
    idle_timeout: float = 60.0      # between requests
    request_timeout: float = 30.0   # from the first byte of a request to its last
    send_timeout: float = 120.0     # without any progress of a response
    linger: float = 2.0             # for the other side to close after a refusal


class Request:
    """One request as parsed; only the header fields somebody asks for are kept.

    `headers` has lower-case names; repeated fields are joined with a comma (RFC 9110 5.3).  `failure` is the status
    of a request that cannot be served, 0 for a good one.
    """

    __slots__ = ("method", "target", "version", "headers", "keep_alive", "failure")

    def __init__(self, failure: int = 0) -> None:
        self.method = b""
        self.target = b""
        self.version = ""
        self.headers: dict[bytes, bytes] = {}
        self.keep_alive = False
        self.failure = failure


@dataclass(slots=True)
class FileRange:
    """`count` bytes from `offset` of an open file; whoever holds it closes `fd`."""

    fd: int
    offset: int
    count: int


@dataclass(slots=True)
class Response:
    """`fields` are complete header lines; the content is `body`, or `file` when it is not None.

    Date and Connection are the connection's to add.
    """

    status: int
    fields: bytes
    body: bytes = b""
    file: FileRange | None = None


def empty_response(status: int, fields: bytes = b"") -> Response:
    """A response without content; `fields` are further header lines."""
    return Response(status, FIELDS_OF_STATUS.get(status, b"") + fields + b"Content-Length: 0\r\n")
