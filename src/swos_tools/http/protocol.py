"""One HTTP/1.x connection as an asyncio.Protocol, on any asyncio transport; httptools parses.

Read message.py and service.py beside it.  What arrives becomes requests in `_queue`; `_serve` answers them in that
order, as long as the transport takes more.  Nothing is parsed while a request waits, so a client that sends without
reading fills its own connection and not our memory.  No TLS, no trailers, no content of requests: it is thrown away.

RFC 9112 is the format, RFC 9110 the meaning.
"""

import asyncio
from collections import deque

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from swos_tools.http.message import METHODS, RESPONSE_START, FileRange, Limits, Request
from swos_tools.http.send_file import FileSender
from swos_tools.http.service import HttpService

SLICE = 8192          # bytes parsed in one turn of the loop
COALESCE = 64 * 1024  # pipelined responses are joined up to about this many bytes

VERSIONS = ("1.1", "1.0")
KEPT_FIELDS = frozenset((
    b"host", b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since",
    b"expect", b"content-length"))


class _Refused(Exception):
    """Leaves the parser; the status is in `_refusal`."""


class HttpProtocol(asyncio.Protocol):
    """A connection of `service`; made by the protocol factory of a server, one per transport."""

    __slots__ = ("_service", "_limits", "_transport", "_parser", "_queue", "_sender", "_request", "_in_head",
                 "_head_size", "_fed", "_refusal", "_paused", "_reading", "_unparsed", "_turn", "_last",
                 "_close_after", "_linger", "_ending", "_eof", "_since", "_backlog")

    def __init__(self, service: HttpService) -> None:
        self._service = service
        self._limits: Limits = service.limits
        self._transport: asyncio.Transport | None = None
        self._parser: HttpRequestParser | None = HttpRequestParser(self)
        self._queue: deque[Request | None] = deque()  # None stands for "100 Continue"
        self._sender: FileSender | None = None
        self._request: Request | None = None  # what is being parsed
        self._in_head = False
        self._head_size = 0
        self._fed = 0           # bytes of whole slices that brought the present head, or content, no further
        self._refusal = 0
        self._paused = False    # the transport holds enough
        self._reading = True
        self._unparsed = bytearray()
        self._turn: asyncio.Handle | None = None
        self._last = False      # nothing more is parsed
        self._close_after = False
        self._linger = False
        self._ending = False    # nothing more is sent
        self._eof = False
        self._since = 0.0       # when the present phase began, or was last seen to get on
        self._backlog = -1

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._since = self._service.clock()
        count = self._service.opened(self)
        if count > self._limits.connections:
            if count > 2 * self._limits.connections:
                transport.abort()
                return
            self._fail(503)
            self._serve()
            self._settle()

    def data_received(self, data: bytes) -> None:
        if self._last:
            return
        if self._queue or self._unparsed or len(data) > SLICE:
            self._unparsed += data
            if self._turn is None:
                self._go_on()
            return
        self._feed(data)
        if self._queue:
            self._serve()
        self._settle()

    def eof_received(self) -> bool:
        """True, which keeps our direction open, while there is something left to answer."""
        self._eof = True
        if self._ending or not (self._queue or self._unparsed or self._sender is not None):
            return False
        self._settle()
        return True

    def pause_writing(self) -> None:
        self._paused = True
        if self._sender is not None:
            self._sender.paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._sender is not None:
            self._sender.paused = False
        self._since = self._service.clock()
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ending = self._last = True
        self._queue.clear()
        self._unparsed.clear()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._drop_sender()
        self._parser = None  # it holds our methods: without this the pair waits for the garbage collector
        self._service.closed(self)

    # What the service calls

    def check_deadline(self, now: float) -> None:
        """Ends the connection if its phase has taken too long by `now`."""
        waited = now - self._since
        limits = self._limits
        backlog = self._transport.get_write_buffer_size()
        if self._sender is not None:
            backlog += self._sender.remaining
        if backlog or self._queue:
            if backlog != self._backlog:
                self._backlog = backlog
                self._since = now
            elif waited >= limits.send_timeout:
                self.abort()
        elif self._ending:
            if waited >= limits.linger:
                self.abort()
        elif self._request is not None:
            if waited >= limits.request_timeout:
                self._fail(408)
                self._serve()
                self._settle()
        elif waited >= limits.idle_timeout:
            self._finish()

    def stop(self) -> None:
        """The service is stopping: no further request is taken."""
        self._settle()

    def abort(self) -> None:
        self._ending = self._last = True
        self._transport.abort()

    # What the parser calls; an exception here comes back out of feed_data

    def on_message_begin(self) -> None:
        self._request = Request()
        self._in_head = True
        self._head_size = self._fed = 0
        self._since = self._service.clock()

    def on_url(self, url: bytes) -> None:
        request = self._request
        request.target += url
        if len(request.target) > self._limits.target:
            request.target = b""
            self._refuse(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer field, which must not pass for a header field (RFC 9110 6.5.1)
        self._head_size += len(name) + len(value) + 4
        if self._head_size > self._limits.header:
            self._refuse(431)
        name = name.lower()
        if name in KEPT_FIELDS:
            headers = self._request.headers
            if name in headers:
                if name == b"host":
                    self._refuse(400)  # RFC 9112 3.2
                value = headers[name] + b", " + value
            headers[name] = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._fed = 0
        request = self._request
        parser = self._parser
        headers = request.headers
        request.method = parser.get_method()
        request.version = version = parser.get_http_version()
        if headers.pop(b"host", None) is None and version == "1.1":
            self._refuse(400)  # RFC 9112 3.2
        if version not in VERSIONS:
            self._refuse(505)
        if b"content-length" in headers or b"expect" in headers:
            self._check_content(request)

    def on_message_complete(self) -> None:
        request = self._request
        self._request = None
        # after an offer to upgrade, which is declined, the parser no longer tells content from requests
        request.keep_alive = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        if not request.keep_alive:
            self._last = True
        self._queue.append(request)

    # Parsing

    def _check_content(self, request: Request) -> None:
        """Answers before the content is sent where that spares sending it (RFC 9110 10.1.1)."""
        expect = request.headers.pop(b"expect", None)
        length = request.headers.pop(b"content-length", b"0")
        if request.version == "1.0":
            expect = None  # RFC 9110 10.1.1
        if int(length) > self._limits.body:
            self._refuse(413 if request.method in METHODS else 405)
        if expect is None:
            return
        if expect.lower() != b"100-continue":
            self._refuse(417)
        if request.method not in METHODS:
            self._refuse(405)
        self._queue.append(None)

    def _refuse(self, status: int) -> None:
        self._refusal = status
        raise _Refused

    def _feed(self, data: bytes) -> None:
        """Parses at most one slice."""
        request = self._request
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # on_message_complete made it the last request
        except HttpParserError:
            # after a last request it fails as well; the answer to that one ends the matter
            self._fail(self._refusal or 400)
            return
        if request is not None and self._request is request:
            # httptools keeps an unfinished field to itself: what it may gather is counted here
            self._fed += len(data)
            limits = self._limits
            if self._in_head:
                if self._fed > limits.target + limits.header:
                    self._fail(431)
            elif self._fed > limits.body + SLICE:
                self._fail(413)

    def _fail(self, status: int) -> None:
        """Queues the end of this connection behind what is still to be answered."""
        request = self._request or Request()
        request.failure = status
        request.keep_alive = False
        self._request = None
        self._queue.append(request)
        self._last = True

    # Answering

    def _serve(self) -> None:
        """Answers waiting requests in their order until the transport is full or a file is on its way."""
        queue = self._queue
        service = self._service
        output: list[bytes] = []
        size = 0
        while queue and self._sender is None and not self._paused and not self._ending:
            request = queue.popleft()
            if request is None:
                output.append(b"HTTP/1.1 100 Continue\r\n\r\n")
                continue
            response = service.respond(request)
            if not request.keep_alive or service.stopping:
                end = b"Connection: close\r\n\r\n"
                self._close_after = self._last = True
                self._linger = request.failure != 0
                queue.clear()
            elif request.version == "1.1":
                end = b"\r\n"
            else:
                end = b"Connection: keep-alive\r\n\r\n"
            message = b"".join((RESPONSE_START[response.status], service.date(), b"\r\n", response.fields, end,
                                response.body))
            output.append(message)
            size += len(message)
            if response.file is not None:
                self._write(output)
                self._send_file(response.file)
            elif size >= COALESCE:
                self._write(output)
                size = 0
        if output:
            self._write(output)
        if self._request is None:
            self._since = service.clock()

    def _write(self, output: list[bytes]) -> None:
        if not self._transport.is_closing():
            self._transport.write(output[0] if len(output) == 1 else b"".join(output))
        output.clear()

    def _send_file(self, file: FileRange) -> None:
        self._sender = FileSender(self._transport, file.fd, file.offset, file.count)
        self._sender.paused = self._paused
        self._pump()

    def _pump(self) -> None:
        """Sends more of the file under way."""
        if self._transport.is_closing():
            self._drop_sender()  # connection_lost is on its way
            return
        try:
            done = self._sender.send_some()
        except (OSError, EOFError):
            # the length has been promised: only a broken connection says that it does not hold
            self._drop_sender()
            self.abort()
            return
        if done:
            self._drop_sender()

    def _drop_sender(self) -> None:
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def _go_on(self) -> None:
        """A turn: more of the file, then waiting requests, then one slice of what has not been parsed."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self._ending:
            return
        if self._sender is not None and not self._sender.paused:
            self._pump()
        if self._queue:
            self._serve()
        if self._unparsed and not self._queue and not self._last:
            data = bytes(self._unparsed[:SLICE])
            del self._unparsed[:SLICE]
            self._feed(data)
            if self._queue:
                self._serve()
        self._settle()

    def _settle(self) -> None:
        """Decides what happens next: another turn, reading or not, the end."""
        if self._ending:
            return
        sender = self._sender
        if self._last:
            self._unparsed.clear()
        if sender is not None:
            if not sender.paused:
                self._take_turn()
        elif self._unparsed:
            if not self._queue:
                self._take_turn()
        elif not self._queue:
            if self._close_after or self._eof or self._service.stopping and self._request is None:
                self._finish()
                return
        self._read(not self._unparsed)

    def _take_turn(self) -> None:
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._go_on)

    def _read(self, wanted: bool) -> None:
        # after EOF a transport has nothing to read, and would report it once more
        if wanted != self._reading and not self._eof:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _finish(self) -> None:
        """Ends our direction, once everything was handed over.

        After a refusal the other side may still be sending; closing on unread bytes makes TCP reset the connection
        and can take the response with it (RFC 9112 9.6), so that its end is awaited for a while.
        """
        self._ending = self._last = True
        self._since = self._service.clock()
        if self._linger and not self._eof and self._transport.can_write_eof():
            self._transport.write_eof()
            self._read(True)
        else:
            self._transport.close()
