"""TLS for sockets without a kernel descriptor: what `_ssl` wants of one, done over `ssl.MemoryBIO`.

`SSLSocket` of the standard library asks for nothing but the object that its context's `_wrap_socket` returns.
`TlsConnection` is that object: OpenSSL reads and writes memory, this moves bytes between there and the socket, and
waits.  Read first: Lib/ssl.py, class SSLSocket.

Never more than one TLS record is taken from the socket at a time, as OpenSSL does itself with a descriptor.  So a
socket with anything left to read is readable, and what follows the end of TLS is still there for the plain socket.
"""

import _ssl
import errno
import select
import threading
import weakref
from _ssl import SSLError, SSLWantReadError, SSLWantWriteError
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from swos_net.errors import os_error

RECORD_HEADER = 5           # RFC 8446 5.1: type, version, length
RECORD_TYPES = range(20, 25)
RECORD_MAX = 16384 + 2048   # RFC 5246 6.2.3
WRITE_MAX = 1 << 18         # bytes encrypted at once


class _Limit(NamedTuple):
    """How long one call may take: the socket's timeout (None: for ever, 0: non-blocking), and when that ends."""

    timeout: float | None
    deadline: float | None


class TlsConnection:
    """The interface of `_ssl._SSLSocket` over `sock`, a connected stream socket of ours.

    Non-blocking sockets get SSLWantReadError and SSLWantWriteError.  After the latter a write is to be repeated with
    the same data, as with OpenSSL.  Reading and writing may go on in two threads at once.
    """

    __slots__ = ("_core", "_driver", "_incoming", "_lock", "_outgoing", "_record_left", "_header", "_socket", "_taken",
                 "_tls", "_unsent", "_writing")  # fmt: skip

    def __init__(self, context: Any, sock: Any, server_side: bool, server_hostname: str | None = None, *, owner: Any = None,
                 session: Any = None):
        self._incoming = _ssl.MemoryBIO()
        self._outgoing = _ssl.MemoryBIO()
        self._tls = context._wrap_bio(self._incoming, self._outgoing, server_side, server_hostname, owner=owner, session=session)
        self._socket = weakref.ref(sock)  # the socket refers to us
        self._core = sock._core
        self._driver = sock._core.stack.driver
        self._lock = threading.RLock()  # never held while waiting; a callback of the context may use the socket
        self._writing = threading.RLock()  # one write at a time, waiting included
        self._unsent = memoryview(b"")
        self._taken = 0       # plain bytes encrypted by a write that has not returned
        self._header = b""    # of the record that is arriving, as far as it is there
        self._record_left = 0
        sock._tls = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tls, name)  # what asks and moves nothing: getpeercert, cipher, version, pending...

    @property
    def context(self) -> Any:
        return self._tls.context

    @context.setter
    def context(self, context: Any) -> None:
        self._tls.context = context

    @property
    def session(self) -> Any:
        return self._tls.session

    @session.setter
    def session(self, session: Any) -> None:
        self._tls.session = session

    @property
    def owner(self) -> Any:
        return self._tls.owner

    @owner.setter
    def owner(self, owner: Any) -> None:
        self._tls.owner = owner

    # What moves bytes

    def do_handshake(self) -> None:
        limit = self._limit()
        self._run(self._tls.do_handshake, "handshake", limit)
        try:
            self._flush("handshake", limit)
        except ConnectionError:
            if not self._tls.server_side:
                raise
            # a client that has what it wanted need not stay for session tickets (RFC 8446 4.6.1)

    def read(self, length: int = 1024, buffer: Any = None) -> bytes | int:
        """Up to `length` bytes, or their count with a `buffer`."""
        arguments = (length,) if buffer is None else (length, buffer)
        result = self._run(self._tls.read, "read", self._limit(), *arguments)
        if self._outgoing.pending:
            with self._lock, suppress(OSError):
                self._send_some()  # an answer to the peer's key update; what was read must not be lost over it
        return result

    def write(self, data: Any) -> int:
        """How many bytes were taken: all of them, or on a non-blocking socket perhaps fewer."""
        with memoryview(data) as given, given.cast("B") as view, self._writing:
            limit = self._limit()
            if self._taken > len(view):
                raise SSLError(_ssl.SSL_ERROR_SSL, "[SSL: BAD_WRITE_RETRY] repeat a write that did not complete with the same data")
            total = 0
            while True:
                self._flush("write", limit)
                if not self._taken:
                    self._taken = self._run(self._tls.write, "write", limit, view[total : total + WRITE_MAX])
                    self._flush("write", limit)
                total += self._taken
                self._taken = 0
                if total >= len(view) or limit.timeout == 0:
                    return total

    def shutdown(self) -> Any:
        """Tells the peer that we are done, waits for it to say so too, and returns the plain socket."""
        limit = self._limit()
        self._run(self._tls.shutdown, "shutdown", limit)
        self._flush("shutdown", limit)
        sock = self._plain_socket()
        sock._tls = None
        return sock

    def absorb(self) -> None:
        """The socket is about to close: takes what arrived and is no data, such as session tickets (RFC 8446 4.6.1).

        Unread, it would make of the close a reset, which the peer would take for a failure.
        """
        # who calls is inside the stack: must not wait for one who holds the lock and wants to get in
        if not self._lock.acquire(False):
            return
        try:
            while self._receive_some():
                try:
                    if self._tls.read(1) is not None:
                        return  # data, or the end
                except SSLWantReadError:
                    pass
                except SSLError:  # failed before: the rest can be of no use, and a reset would overtake our alert
                    with self._driver.entered() as now:
                        while self._core.receive(RECORD_MAX, 0, now):
                            pass
                    return  # the peer's end, which would be received for ever
        except OSError:
            pass
        finally:
            self._lock.release()

    def _run(self, operation: Callable[..., Any], name: str, limit: "_Limit", *arguments: Any) -> Any:
        """Repeats `operation` until memory holds what it needs, sending what it says on the way."""
        while True:
            with self._lock:
                try:
                    return operation(*arguments)
                except SSLWantReadError as error:
                    wanted = error
                except Exception:
                    with suppress(OSError):
                        self._send_some()  # the alert that tells the peer
                    raise
            self._flush(name, limit)
            self._fetch(name, limit, wanted)

    def _limit(self) -> "_Limit":
        timeout = self._plain_socket().gettimeout()
        return _Limit(timeout, None if timeout is None else self._driver.clock() + timeout)

    def _plain_socket(self) -> Any:
        sock = self._socket()
        if sock is None:
            raise os_error(errno.EBADF, "the socket below this TLS connection is gone")
        return sock

    # Out

    def _send_some(self) -> bool:
        """Sends what can be sent now; whether all of it went."""
        while True:
            if not self._unsent:
                if not self._outgoing.pending:
                    return True
                self._unsent = memoryview(self._outgoing.read())
            try:
                with self._driver.entered() as now:
                    sent = self._core.send(self._unsent, 0, now)
            except BlockingIOError:
                return False
            self._unsent = self._unsent[sent:]

    def _flush(self, name: str, limit: "_Limit") -> None:
        while True:
            with self._lock:
                if self._send_some():
                    return
            if limit.timeout == 0:
                raise SSLWantWriteError(_ssl.SSL_ERROR_WANT_WRITE, f"The {name} operation did not complete (write)")
            self._wait(select.POLLOUT, name, limit)

    # In

    def _fetch(self, name: str, limit: "_Limit", wanted: SSLWantReadError) -> None:
        """Waits for more of the record that is arriving."""
        while True:
            with self._lock:
                if self._incoming.pending or self._receive_some():
                    return
            if limit.timeout == 0:
                raise wanted
            self._wait(select.POLLIN, name, limit)

    def _receive_some(self) -> bool:
        """Takes what is there, up to the end of the record; whether anything changed."""
        try:
            piece = self._receive()
            if self._record_left and piece:
                self._receive()  # the record's body, most often there with its header
        except BlockingIOError:
            return self._incoming.pending > 0
        return True

    def _receive(self) -> bytes:
        length = self._record_left or RECORD_HEADER - len(self._header)
        with self._driver.entered() as now:
            piece = self._core.receive(length, 0, now)
        if not piece:
            self._incoming.write_eof()
            return piece
        self._incoming.write(piece)
        if self._record_left:
            self._record_left -= len(piece)
            return piece
        self._header += piece
        if len(self._header) == RECORD_HEADER:
            header, self._header = self._header, b""
            # what is no record will fail; until then it is taken five bytes at a time
            if header[0] in RECORD_TYPES and header[1] == 3:
                self._record_left = min(int.from_bytes(header[3:5], "big"), RECORD_MAX)
        return piece

    def _wait(self, mask: int, name: str, limit: "_Limit") -> None:
        try:
            self._driver.wait(self._core, mask, limit.deadline)
        except TimeoutError:
            raise TimeoutError(f"The {name} operation timed out") from None


def teach(contexts: type) -> None:
    """Has the contexts of a class, `ssl.SSLContext`, wrap sockets of a stack beside those of the kernel."""
    wrap = contexts._wrap_socket

    def _wrap_socket(self, sock, server_side, server_hostname=None, *, owner=None, session=None):
        if getattr(sock, "core", None) is not None:
            return TlsConnection(self, sock, server_side, server_hostname, owner=owner, session=session)
        return wrap(self, sock, server_side, server_hostname, owner=owner, session=session)

    contexts._wrap_socket = _wrap_socket
