"""The class that stands for C's `_socket.socket`: a socket of a stack with calls that wait.

Read first: base.py for what a socket does, runtime/driver.py for who lets it wait, handle.py.  The calls, argument checks,
timeouts and errors are those of the C class; AF_INET and AF_INET6 are always the stack's, AF_UNIX, which reaches no
network, stays the kernel's.  This is the only place where a program's thread sleeps.  Read next: module.py.
"""

import _socket
import errno
import os
import socket as stdlib
import time
import warnings
from collections.abc import Callable
from select import POLLIN, POLLOUT
from typing import Any

from swos_net import clock
from swos_net.capability import Capability
from swos_net.errors import os_error
from swos_net.runtime.driver import Driver
from swos_net.socket import arguments, readiness, resolver
from swos_net.socket.base import SocketCore
from swos_net.socket.constants import (
    AF_INET,
    AF_INET6,
    MSG_DONTWAIT,
    MSG_PEEK,
    MSG_WAITALL,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
)
from swos_net.socket.handle import AbandonedDescriptor, Handle, driver_of

C = _socket.socket  # the class of the kernel's sockets
AF_UNIX = int(_socket.AF_UNIX)
OPTION_MAX = 1024  # bytes of an option that getsockopt() reads
LINGER_STEP = 0.005


class LowLevelSocket(stdlib.socket):
    """`_socket.socket`.  Subclasses know where authority comes from.

    Derived from the kernel's class, so that programs which ask `isinstance(x, socket.socket)` are content.

    `core` is the socket of the stack, None when closed or when the socket is the kernel's.  Calls then go to the C class,
    for which this is a socket without a descriptor unless the family is AF_UNIX: it judges arguments, then says EBADF.
    """

    __slots__ = ("_core", "_descriptor", "_driver", "_family", "_limit", "_mirror", "_proto", "_tls", "_type")

    _authority: Callable[[], Capability]

    def __new__(cls, *arguments_: Any, **keywords: Any):
        self = _socket.socket.__new__(cls)
        self._core = self._mirror = self._descriptor = self._tls = None
        self._family = self._type = self._proto = 0
        self._limit: float | None = None
        return self

    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        if fileno.__class__ is Handle:
            self._adopt(fileno.core, fileno.driver)
            self._set_kind(family, type, proto)
            return
        family, type, proto = arguments.integer(family), arguments.integer(type), arguments.integer(proto)
        if fileno is not None:
            self._open_descriptor(family, type, proto, fileno)
            return
        family = AF_INET if family == -1 else family
        type = SOCK_STREAM if type == -1 else type
        proto = 0 if proto == -1 else proto
        if family in (AF_INET, AF_INET6):
            capability = self._authority()
            driver = driver_of(capability)
            with driver.entered():
                core = SocketCore(driver.stack, capability, family, type, proto)
            self._adopt(core, driver)
        elif family == AF_UNIX:
            C.__init__(self, family, type, proto)
        else:
            raise os_error(errno.EAFNOSUPPORT, "use AF_INET, AF_INET6 or AF_UNIX")
        self._set_kind(family, type, proto)

    def _adopt(self, core: SocketCore, driver: Driver) -> None:
        self._core = core
        self._driver = driver
        self._limit = _socket.getdefaulttimeout()

    def _set_kind(self, family: int, type: int, proto: int) -> None:
        self._family = int(family)
        self._type = int(type) & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)
        self._proto = int(proto)
        if type & SOCK_NONBLOCK:
            self._limit = 0.0

    def _open_descriptor(self, family: int, type: int, proto: int, fileno: Any) -> None:
        """socket(fileno=...): a descriptor that `detach()` or `dup()` gave, or one of the kernel's AF_UNIX sockets."""
        descriptor = arguments.integer(fileno)
        if descriptor < 0:
            raise ValueError("negative file descriptor")
        mirror = readiness.mirror_at(descriptor)
        if mirror is None:
            C.__init__(self, -1, -1, -1, descriptor)
            if C.family.__get__(self) != AF_UNIX:
                C.detach(self)
                raise os_error(errno.EOPNOTSUPP, f"descriptor {descriptor} is a socket of the kernel's network, not of a stack")
            self._set_kind(AF_UNIX, C.type.__get__(self), C.proto.__get__(self))
            return
        core = mirror.core
        self._adopt(core, mirror.driver)
        self._mirror, self._descriptor = mirror, descriptor
        self._set_kind(core.family if family == -1 else family, core.type if type == -1 else type, core.proto if proto == -1 else proto)
        if self._limit is None and not os.get_blocking(descriptor):
            self._limit = 0.0  # O_NONBLOCK belongs to what the descriptor stands for, not to this object
        self._show_blocking()

    # What it is

    @property
    def core(self) -> SocketCore | None:
        return self._core

    @property
    def family(self) -> int:
        return self._family

    @property
    def type(self) -> int:
        return self._type

    @property
    def proto(self) -> int:
        return self._proto

    @property
    def timeout(self) -> float | None:
        return self.gettimeout()

    def __repr__(self) -> str:
        return f"<socket object, fd={self.fileno()}, family={self._family}, type={self._type}, proto={self._proto}>"

    def fileno(self, /) -> int:
        """A descriptor for select, poll and epoll, made at the first call; -1 when closed."""
        if self._core is None:
            return C.fileno(self)
        if self._descriptor is None:
            with self._driver.entered():
                core = self._open_core()
                had = core.mirror
                self._mirror = readiness.mirror_of(core, self._driver)
                self._descriptor = self._mirror.duplicate() if had else self._mirror.descriptor
            self._show_blocking()
        return self._descriptor

    def detach(self, /) -> int:
        """Gives the descriptor away without closing the socket."""
        if self._core is None:
            return C.detach(self)
        descriptor = self.fileno()
        self._let_go()
        return descriptor

    def _open_core(self) -> SocketCore:
        """For a call that has seen the socket open: another thread may have closed it since."""
        core = self._core
        if core is None:
            raise os_error(errno.EBADF, "the socket was closed meanwhile")
        return core

    def _let_go(self) -> None:
        self._core = self._mirror = self._descriptor = self._tls = None

    # The end

    def close(self, /) -> None:
        """Idempotent.  Waits no longer than SO_LINGER says."""
        core, mirror, descriptor = self._core, self._mirror, self._descriptor
        if core is None:
            C.close(self)
            return
        driver = self._driver
        tls = self._tls
        self._let_go()
        if not driver.serving:
            if mirror is not None:
                mirror.close(descriptor)
            return
        with driver.entered() as now:
            if mirror is not None and not mirror.close(descriptor):
                return
            if tls is not None:
                tls.absorb()  # in here, so that nothing arrives before the socket is closed
            core.close(now)
            driver.woken(core)
        if core.linger_seconds:
            _linger(core, core.linger_seconds)

    def __del__(self, _warn: Callable = warnings.warn) -> None:
        core = getattr(self, "_core", None)
        if core is None:
            C.__del__(self)
            return
        if not core.closed:
            if self._mirror is None:
                self._descriptor = -1  # the warning needs no number
            _warn(f"unclosed {self!r}", ResourceWarning, source=self)
        self._abandon()

    def _abandon(self) -> None:
        """Closes it soon, for finalizers: they may run inside the stack, and so do not enter."""
        core, driver, mirror, descriptor = self._core, self._driver, self._mirror, self._descriptor
        if core is None:
            return
        self._let_go()
        if mirror is None:
            driver.abandon(core)
        elif driver.serving:
            driver.abandon(AbandonedDescriptor(mirror, descriptor))
        else:
            mirror.close(descriptor)

    # Timeouts

    def settimeout(self, timeout, /) -> None:
        if self._core is None:
            C.settimeout(self, timeout)
            return
        self._limit = arguments.timeout(timeout)
        self._check_descriptor()

    def gettimeout(self, /) -> float | None:
        return self._limit if self._core is not None else C.gettimeout(self)

    def setblocking(self, flag, /) -> None:
        if self._core is None:
            C.setblocking(self, flag)
            return
        self._limit = None if arguments.truth(flag) else 0.0
        self._check_descriptor()

    def getblocking(self, /) -> bool:
        return self.gettimeout() != 0.0

    def _check_descriptor(self) -> None:
        if self._open_core().closed:
            raise os_error(errno.EBADF, "the socket has been closed by another descriptor for it")
        self._show_blocking()

    def _show_blocking(self) -> None:
        """O_NONBLOCK of the descriptor, for those who look; nothing here depends on it."""
        if self._mirror is not None:
            readiness.set_blocking(self._descriptor, self._limit is None)

    # Waiting

    def _call(self, mask: int, flags: int, call: Callable, *given: Any) -> Any:
        """`call(*given, now)`, again and again as long as it would block and there is time."""
        core, driver, limit = call.__self__, self._driver, self._limit
        deadline = None
        while True:
            try:
                with driver.entered() as now:
                    return call(*given, now)
            except BlockingIOError:
                pass
            except OSError as error:
                # its traceback would keep views of the caller's buffer, who then could not resize it
                raise error.with_traceback(None)
            if limit == 0 or flags & MSG_DONTWAIT:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            if deadline is None:
                deadline = self._deadline(driver, core, mask, limit)
            if deadline is not None and deadline < 0:  # SO_RCVTIMEO, SO_SNDTIMEO
                self._wait_option(driver, core, mask, -deadline)
            else:
                driver.wait(core, mask, deadline)
            if core.closed:
                raise os_error(errno.EBADF, "the socket was closed meanwhile")

    @staticmethod
    def _deadline(driver: Driver, core: SocketCore, mask: int, limit: float | None) -> float | None:
        """When to give up; negated when a socket option says so."""
        if limit is not None:
            return driver.clock() + limit
        seconds, microseconds = core.option("receive_timeout" if mask == POLLIN else "send_timeout", (0, 0))
        return -(driver.clock() + seconds + microseconds / 1e6) if seconds or microseconds else None

    @staticmethod
    def _wait_option(driver: Driver, core: SocketCore, mask: int, deadline: float) -> None:
        try:
            driver.wait(core, mask, deadline)
        except TimeoutError:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable") from None

    def _address(self, call: str, given: Any) -> tuple:
        core = self._open_core()
        return arguments.address(call, self._family, given,
                                 lambda host, family: resolver.host_address(host, family, core.capability))  # fmt: skip

    # Set-up

    def bind(self, address, /) -> None:
        if self._core is None:
            return C.bind(self, address) if self._family == AF_UNIX else self._say_closed("bind", address)
        numeric = self._address("bind", address)
        with self._driver.entered() as now:
            self._open_core().bind(numeric, now)

    def _say_closed(self, call: str, address: Any) -> None:
        """The C class complains of an address before it sees that the socket is closed."""
        if not isinstance(address, tuple):
            raise TypeError(f"{call}(): AF_INET{'6' * (self._family == AF_INET6)} address must be tuple, not {type(address).__name__}")
        raise os_error(errno.EBADF, "the socket is closed")

    def listen(self, backlog=128, /) -> None:
        if self._core is None:
            return C.listen(self, backlog)
        backlog = arguments.integer(backlog)
        with self._driver.entered() as now:
            self._open_core().listen(max(backlog, 0), now)

    def _accept(self, /) -> tuple[Any, Any]:
        core = self._core
        if core is None:
            return C._accept(self)
        accepted, address = self._call(POLLIN, 0, core.accept)
        return Handle(accepted, self._driver), address

    def connect(self, address, /) -> None:
        if self._core is None:
            return C.connect(self, address) if self._family == AF_UNIX else self._say_closed("connect", address)
        self._connect(self._address("connect", address))

    def connect_ex(self, address, /) -> int:
        if self._core is None:
            return C.connect_ex(self, address) if self._family == AF_UNIX else self._say_closed("connect_ex", address)
        numeric = self._address("connect_ex", address)
        try:
            self._connect(numeric)
        except TimeoutError as error:
            return error.errno or errno.EWOULDBLOCK
        except OSError as error:
            return error.errno
        return 0

    def _connect(self, address: tuple) -> None:
        core, driver, limit = self._open_core(), self._driver, self._limit
        try:
            with driver.entered() as now:
                return core.connect(address, now)
        except BlockingIOError as error:
            # who blocks without a timeout waits for an attempt that somebody else began, too
            if limit == 0 or error.errno != errno.EINPROGRESS and limit is not None:
                raise
        deadline = self._deadline(driver, core, POLLOUT, limit)
        if deadline is not None and deadline < 0:
            try:
                self._wait_option(driver, core, POLLOUT, -deadline)
            except BlockingIOError:
                raise BlockingIOError(errno.EINPROGRESS, "Operation now in progress") from None
        else:
            driver.wait(core, POLLOUT, deadline)
        with driver.entered() as now:
            core.connect(address, now)

    def shutdown(self, how, /) -> None:
        if self._core is None:
            return C.shutdown(self, how)
        how = arguments.integer(how)
        with self._driver.entered() as now:
            self._open_core().shutdown(how, now)

    def getsockname(self, /) -> Any:
        # a look at what is there: needs no entry, and so works in a finalizer
        core = self._core
        return core.getsockname() if core is not None else C.getsockname(self)

    def getpeername(self, /) -> Any:
        core = self._core
        return core.getpeername() if core is not None else C.getpeername(self)

    # Options

    def setsockopt(self, level, optname, value, optlen=None, /) -> None:
        if self._core is None:
            return C.setsockopt(self, level, optname, value, *([] if optlen is None else [optlen]))
        level, optname = arguments.integer(level), arguments.integer(optname)
        if optlen is not None:
            if value is not None:
                raise TypeError("setsockopt() takes exactly 3 arguments (4 given)")
            optlen = arguments.integer(optlen)
        elif not isinstance(value, int) or value.bit_length() > 31:
            value = bytes(arguments.readable(value))
        with self._driver.entered() as now:
            self._open_core().setsockopt(level, optname, value, optlen, now)

    def getsockopt(self, level, optname, buflen=0, /) -> int | bytes:
        if self._core is None:
            return C.getsockopt(self, level, optname, buflen)
        level, optname, buflen = arguments.integer(level), arguments.integer(optname), arguments.integer(buflen)
        if not 0 <= buflen <= OPTION_MAX:
            raise OSError("getsockopt buflen out of range")
        with self._driver.entered() as now:
            return self._open_core().getsockopt(level, optname, buflen, now)

    # Receiving

    def recv(self, bufsize, flags=0, /) -> bytes:
        core = self._core
        if core is None:
            return C.recv(self, bufsize, flags)
        bufsize = arguments.size(bufsize, "negative buffersize in recv")
        if flags:
            flags = arguments.integer(flags)
        if self._waits_for_more(flags):
            buffer = bytearray(bufsize)
            return bytes(buffer[: self._receive_all(memoryview(buffer), flags)])
        if not bufsize and self._type == SOCK_STREAM:
            return b""  # there is nothing to wait for
        return self._call(POLLIN, flags, core.receive, bufsize, flags)

    def recv_into(self, buffer, nbytes=0, flags=0) -> int:
        core = self._core
        if core is None:
            return C.recv_into(self, buffer, nbytes, flags)
        with arguments.writable(buffer, "recv_into") as view:
            nbytes, flags = arguments.size(nbytes, "negative buffersize in recv_into"), arguments.integer(flags)
            if nbytes > len(view):
                raise ValueError("buffer too small for requested bytes")
            nbytes = nbytes or len(view)
            if self._type == SOCK_STREAM:
                if not nbytes:
                    return 0
                if self._waits_for_more(flags):
                    with view[:nbytes] as wanted:
                        return self._receive_all(wanted, flags)
            return self._call(POLLIN, flags, core.receive_into, view, nbytes, flags)

    def _waits_for_more(self, flags: int) -> bool:
        """Whether receiving goes on after the first bytes: MSG_WAITALL, SO_RCVLOWAT."""
        if not flags & MSG_WAITALL and self._open_core().option("receive_low", 1) == 1:
            return False
        return self._limit != 0 and self._type == SOCK_STREAM and not flags & MSG_DONTWAIT

    def _receive_all(self, view: memoryview, flags: int) -> int:
        """MSG_WAITALL: all of it, SO_RCVLOWAT: so much of it, unless the stream ends or fails."""
        core = self._open_core()
        low = core.option("receive_low", 1)
        least = len(view) if flags & MSG_WAITALL else min(low, len(view))
        total = 0
        try:
            while total < least:
                if low > 1:  # who waits for the rest is woken by less
                    self._expect(min(low, least - total))
                try:
                    with view[total:] as rest:
                        taken = self._call(POLLIN, flags, core.receive_into, rest, len(rest), flags)
                except OSError:
                    if total:
                        break
                    raise
                total += taken
                if not taken or flags & MSG_PEEK:
                    break
        finally:
            if low > 1:
                self._expect(low)
        return total

    def _expect(self, octets: int) -> None:
        with self._driver.entered() as now:
            self._open_core().expect(octets, now)

    def recvfrom(self, bufsize, flags=0, /) -> tuple[bytes, Any]:
        core = self._core
        if core is None:
            return C.recvfrom(self, bufsize, flags)
        bufsize = arguments.size(bufsize, "negative buffersize in recvfrom")
        flags = arguments.integer(flags)
        return self._call(POLLIN, flags, core.receive_from, bufsize, flags)

    def recvfrom_into(self, buffer, nbytes=0, flags=0) -> tuple[int, Any]:
        core = self._core
        if core is None:
            return C.recvfrom_into(self, buffer, nbytes, flags)
        with arguments.writable(buffer, "recvfrom_into") as view:
            nbytes, flags = arguments.size(nbytes, "negative buffersize in recvfrom_into"), arguments.integer(flags)
            if nbytes > len(view):
                raise ValueError("nbytes is greater than the length of the buffer")
            return self._call(POLLIN, flags, core.receive_from_into, view, nbytes or len(view), flags)

    def recvmsg(self, bufsize, ancbufsize=0, flags=0, /) -> tuple:
        core = self._core
        if core is None:
            return C.recvmsg(self, bufsize, ancbufsize, flags)
        bufsize = arguments.size(bufsize, "negative buffer size in recvmsg()")
        ancbufsize, flags = arguments.ancillary_size(ancbufsize), arguments.integer(flags)
        if self._waits_for_more(flags):
            return self.recv(bufsize, flags), [], 0, None
        return self._call(POLLIN, flags, core.receive_message, bufsize, ancbufsize, flags)

    def recvmsg_into(self, buffers, ancbufsize=0, flags=0, /) -> tuple:
        core = self._core
        if core is None:
            return C.recvmsg_into(self, buffers, ancbufsize, flags)
        views = arguments.writable_buffers(buffers)
        ancbufsize, flags = arguments.ancillary_size(ancbufsize), arguments.integer(flags)
        try:
            return self._call(POLLIN, flags, core.receive_message_into, views, ancbufsize, flags)
        finally:
            for view in views:
                view.release()

    # Sending

    def send(self, data, flags=0, /) -> int:
        core = self._core
        if core is None:
            return C.send(self, data, flags)
        if flags:
            flags = arguments.integer(flags)
        blocks = self._limit is None and self._type == SOCK_STREAM and not flags & MSG_DONTWAIT
        if data.__class__ is bytes:
            return self._send_all(data, flags, partly=True) if blocks else self._call(POLLOUT, flags, core.send, data, flags)
        with arguments.readable(data) as view:
            return self._send_all(view, flags, partly=True) if blocks else self._call(POLLOUT, flags, core.send, view, flags)

    def sendall(self, data, flags=0, /) -> None:
        if self._core is None:
            return C.sendall(self, data, flags)
        flags = arguments.integer(flags)
        limit = self._limit
        with arguments.readable(data) as view:
            self._send_all(view, flags, None if not limit else self._driver.clock() + limit)

    def _send_all(self, data: bytes | memoryview, flags: int, deadline: float | None = None, *, partly: bool = False) -> int:
        """All of it; `partly`: what was taken counts, and an error comes with the next call (as in one system call)."""
        size = len(data)
        total = self._call(POLLOUT, flags, self._open_core().send, data, flags)
        while total < size:
            core = self._open_core()
            if deadline is not None and self._driver.clock() >= deadline:
                raise TimeoutError("timed out")
            try:
                with memoryview(data)[total:] as rest:
                    total += self._call(POLLOUT, flags, core.send, rest, flags)
            except OSError:
                if partly:
                    break
                raise
        return total

    def sendto(self, data, *flags_and_address) -> int:
        """sendto(data, address) or sendto(data, flags, address)."""
        core = self._core
        if core is None:
            return C.sendto(self, data, *flags_and_address) if self._family == AF_UNIX else self._closed_sendto(data, *flags_and_address)
        if not 1 <= len(flags_and_address) <= 2:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({len(flags_and_address) + 1} given)")
        with arguments.readable(data) as view:
            flags = arguments.integer(flags_and_address[0]) if len(flags_and_address) == 2 else 0
            address = self._address("sendto", flags_and_address[-1])
            return self._call(POLLOUT, flags, core.send_to, view, flags, address)

    def _closed_sendto(self, data: Any, *flags_and_address: Any) -> None:
        arguments.readable(data)
        self._say_closed("sendto", flags_and_address[-1] if flags_and_address else None)

    def sendmsg(self, buffers, ancdata=(), flags=0, address=None, /) -> int:
        core = self._core
        if core is None:
            return C.sendmsg(self, buffers, ancdata, flags, *([] if address is None else [address]))
        views = arguments.message_buffers(buffers)
        items = arguments.ancillary(ancdata)
        flags = arguments.integer(flags)
        numeric = None if address is None else self._address("sendmsg", address)
        try:
            sent = self._call(POLLOUT, flags, core.send_message, views, items, flags, numeric)
            if self._limit is None and self._type == SOCK_STREAM and not flags & MSG_DONTWAIT and sent < sum(map(len, views)):
                sent += self._send_all(memoryview(b"".join(views))[sent:], flags, partly=True)
            return sent
        finally:
            for view in views:
                view.release()

    def sendmsg_afalg(self, *given: Any, **keywords: Any) -> int:
        raise OSError("algset is only supported for AF_ALG")

    def _send_file(self, descriptor: int, offset: int, count: int) -> int:
        """Bytes of a file, without making Python objects of them; 0 at its end."""
        return self._call(POLLOUT, 0, self._open_core().send_file, descriptor, offset, count)


def _linger(core: SocketCore, seconds: int) -> None:
    """SO_LINGER: close() waits for what was sent to arrive.  A closed socket tells nobody, so this looks now and then."""
    deadline = clock.monotonic() + seconds
    while core.delivering and clock.monotonic() < deadline:
        time.sleep(LINGER_STEP)
