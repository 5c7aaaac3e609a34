"""Files under a document root as responses; the only module here that looks at the file system.

Whether a file lies under the root is decided on its open descriptor, not on its name, so that one exchanged
meanwhile cannot slip through.  Small files are remembered, and served again only while stat() says that nothing
changed: each request sees the files as they are.
"""

import errno
import mimetypes
import os
import stat
from collections.abc import Callable
from urllib.parse import quote_from_bytes, unquote_to_bytes

from swos_net.clock import wall_ns
from swos_tools.http.conditional import format_date, refused_by_precondition, requested_range
from swos_tools.http.listing import directory_page
from swos_tools.http.message import METHODS, FileRange, Limits, Request, Response, empty_response

READ_AT_ONCE = 64 * 1024  # bytes of content read into the response; more is sent from the file piece by piece
OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # a FIFO must not stop the server
REMEMBERED_MAX = 16 << 20  # bytes of files remembered, then all are forgotten
CONTENT_OVERHEAD = 1024    # bytes of memory for one besides its content, about
SETTLED = 2_000_000_000    # nanoseconds without a change before a file is remembered; FAT counts in twos
HTML = b"text/html; charset=utf-8"
OCTETS = b"application/octet-stream"

# What Python's own table lacks, or has differently in some version
MORE_TYPES = {
    ".js": "text/javascript", ".mjs": "text/javascript", ".json": "application/json", ".md": "text/markdown",
    ".wasm": "application/wasm", ".webp": "image/webp", ".woff": "font/woff", ".woff2": "font/woff2",
    ".gz": "application/gzip", ".bz2": "application/x-bzip2", ".xz": "application/x-xz", ".zst": "application/zstd",
}

# What an error of the file system says to the client; anything else is 500
STATUS_OF_ERRNO = {
    errno.ENOENT: 404, errno.ENOTDIR: 404, errno.ENAMETOOLONG: 404, errno.ELOOP: 404, errno.ENXIO: 404,
    errno.EACCES: 403, errno.EPERM: 403,
    errno.EMFILE: 503, errno.ENFILE: 503, errno.ENOMEM: 503,
}


class StaticFiles:
    """Answers GET and HEAD from the files under `root`.

    With `listing` a directory without index.html is shown as a page, without it is 404.  `wall_clock` gives
    nanoseconds since 1970.  OSError when `root` is no directory that can be read.
    """

    def __init__(self, root: str, *, listing: bool = True, limits: Limits = Limits(),
                 wall_clock: Callable[[], int] = wall_ns) -> None:
        self._root = os.path.abspath(os.fsencode(root)).rstrip(b"/")
        self._listing = listing
        self._limits = limits
        self._wall_clock = wall_clock
        self._types = _content_types()
        self._contents: dict[bytes, _Content] = {}
        self._remembered = 0
        os.close(os.open(self._root + b"/", OPEN_FLAGS | os.O_DIRECTORY))
        self._real_root = os.path.realpath(self._root + b"/")
        self._names_of_descriptors = os.path.exists("/proc/self/fd")

    def respond(self, request: Request) -> Response:
        """The response to a parsed request; never raises OSError."""
        if request.method not in METHODS:
            return empty_response(405)
        path, _, query = origin_form(request.target).partition(b"?")
        if len(path) > self._limits.path:
            return empty_response(414)
        if path[:1] != b"/":
            return empty_response(400)
        if b"%" in path:
            path = unquote_to_bytes(path)
        if b".." in path or b"\0" in path:
            return empty_response(404)
        try:
            if path[-1:] != b"/":
                return self._named(request, path, query)
            try:
                return self._named(request, path + b"index.html", query)
            except (FileNotFoundError, NotADirectoryError):
                return self._directory(request, path)
        except OSError as error:
            return empty_response(STATUS_OF_ERRNO.get(error.errno, 500))

    def _named(self, request: Request, path: bytes, query: bytes) -> Response:
        """The response for a path without a slash at its end."""
        content = self._contents.get(path)
        if content is not None and content.changed == _change(os.stat(self._root + path)):
            return _answer_from(request, content, self._wall_clock)
        fd, status = self._open(path)
        try:
            if stat.S_ISDIR(status.st_mode):
                # two slashes in front would name another host
                location = quote_from_bytes(b"/" + path.lstrip(b"/") + b"/").encode()
                if query:
                    location += b"?" + query
                return empty_response(301, b"Location: %b\r\n" % location)
            if not stat.S_ISREG(status.st_mode):
                return empty_response(404)
            content = _Content(fd, status, self.content_type(path))
            if content.body is not None:
                self._remember(path, content)
            response = _answer_from(request, content, self._wall_clock, fd)
            if response.file is not None:
                fd = -1  # it goes with the response
            return response
        finally:
            if fd >= 0:
                os.close(fd)

    def _directory(self, request: Request, path: bytes) -> Response:
        fd, _ = self._open(path)
        try:
            if not self._listing:
                return empty_response(404)
            page = directory_page(fd, path)
        finally:
            os.close(fd)
        return Response(200, b"Content-Type: %b\r\nContent-Length: %d\r\n" % (HTML, len(page)),
                        b"" if request.method == b"HEAD" else page)

    def _open(self, path: bytes) -> tuple[int, os.stat_result]:
        """Opens a path that begins with a slash; FileNotFoundError also for what lies outside of the root."""
        fd = os.open(self._root + path, OPEN_FLAGS)
        try:
            if self._names_of_descriptors:
                real = os.readlink(b"/proc/self/fd/%d" % fd)
            else:
                real = os.path.realpath(self._root + path)
            if not self._inside(real):
                raise FileNotFoundError(errno.ENOENT, "a link that leaves the document root")
            return fd, os.fstat(fd)
        except BaseException:
            os.close(fd)
            raise

    def _inside(self, real: bytes) -> bool:
        root = self._real_root
        if real.startswith(root) and (len(real) == len(root) or root == b"/" or real[len(root)] == 0x2F):
            return True
        # a root that is itself a link may point elsewhere by now
        self._real_root = os.path.realpath(self._root + b"/")
        return self._real_root != root and self._inside(real)

    def _remember(self, path: bytes, content: "_Content") -> None:
        # a second change within one tick of the file system's clock would leave no trace
        if self._wall_clock() - content.changed[0] < SETTLED:
            return
        self._remembered += content.size + len(path) + CONTENT_OVERHEAD
        if self._remembered > REMEMBERED_MAX:
            self._contents.clear()
            self._remembered = 0
        else:
            self._contents[path] = content

    def content_type(self, path: bytes) -> bytes:
        """By the last extension, without regard to case; a leading dot begins no extension."""
        name = path[path.rfind(b"/") + 1:]
        dot = name.rfind(b".", 1)
        if dot < 0:
            return OCTETS
        extension = name[dot:]
        return self._types.get(extension) or self._types.get(extension.lower(), OCTETS)


def origin_form(target: bytes) -> bytes:
    """A request target in absolute form without scheme and authority (RFC 9112 3.2.2); any other unchanged."""
    if target[:1] == b"/":
        return target
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        return target
    slash = rest.find(b"/")
    query = rest.find(b"?")
    if slash < 0 or 0 <= query < slash:
        return b"/" + rest[query:] if query >= 0 else b"/"
    return rest[slash:]


class _Content:
    """A regular file as it was when opened; `body` is None when it is too long to be read at once."""

    __slots__ = ("changed", "size", "modified", "etag", "type", "validators", "body", "whole")

    def __init__(self, fd: int, status: os.stat_result, content_type: bytes) -> None:
        self.changed = _change(status)
        self.size = status.st_size
        self.modified = status.st_mtime_ns // 1_000_000_000
        # from ctime: a copy that keeps the old mtime is a different file all the same
        self.etag = b'"%x-%x"' % (status.st_ctime_ns, self.size)
        self.type = b"Content-Type: %b\r\n" % content_type
        self.validators = b"Last-Modified: %b\r\nETag: %b\r\nAccept-Ranges: bytes\r\n" % (
            format_date(self.modified), self.etag)
        self.body = None if self.size > READ_AT_ONCE else os.pread(fd, self.size, 0)
        if self.body is not None and len(self.body) != self.size:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        self.whole = self.response(200, b"", 0, self.size, fd)

    def response(self, status: int, fields: bytes, first: int, count: int, fd: int) -> Response:
        """200 or 206 with `count` bytes from `first`; when the response has a `file`, `fd` goes with it."""
        fields = b"%b%b%bContent-Length: %d\r\n" % (self.type, self.validators, fields, count)
        if self.body is None:
            return Response(status, fields, file=FileRange(fd, first, count))
        return Response(status, fields, self.body[first:first + count])


def _answer_from(request: Request, content: _Content, wall_clock: Callable[[], int], fd: int = -1) -> Response:
    """The response to a GET or HEAD for `content`, whose descriptor is needed when it has no body."""
    headers = request.headers
    if headers:
        refused = refused_by_precondition(headers, content.etag, content.modified)
        if refused == 304:
            return Response(304, content.validators)
        if refused:
            return empty_response(refused, content.validators)
        # RFC 9110 14.2: Range is defined for GET alone
        if b"range" in headers and request.method == b"GET":
            part = requested_range(headers, content.etag, content.modified, content.size,
                                   wall_clock() // 1_000_000_000)
            if part is not None:
                first, count = part
                if not count:
                    return empty_response(416, b"Content-Range: bytes */%d\r\n" % content.size)
                placed = b"Content-Range: bytes %d-%d/%d\r\n" % (first, first + count - 1, content.size)
                return content.response(206, placed, first, count, fd)
    if request.method == b"HEAD":
        return Response(200, content.whole.fields)
    return content.whole


def _change(status: os.stat_result) -> tuple[int, int, int]:
    """What differs after every change of a file; unlike mtime, ctime cannot be set back."""
    return status.st_ctime_ns, status.st_ino, status.st_dev


def _content_types() -> dict[bytes, bytes]:
    """Extension to Content-Type, from Python's own table alone: the same on every machine."""
    table = mimetypes.MimeTypes().types_map[True] | MORE_TYPES
    return {extension.encode(): name.encode() + (b"; charset=utf-8" if name.startswith("text/") else b"")
            for extension, name in table.items()}
