"""System calls of a script on `SocketCore`s: from the syntax of C to Python and back.

Every call is a generator: where the kernel would put the caller to sleep it yields, and it is resumed whenever the stack
has done something.  It ends by returning what the call returns or by raising the call's OSError; arguments that come out
otherwise than the script says raise `Mismatch`.  Read first: descriptors.py.  Messages with ancillary data, poll and epoll
are in message_calls.py and readiness_calls.py.
"""

import errno
import os
import struct
import tempfile
from collections.abc import Callable, Generator
from typing import Any

from swos_net.errors import os_error
from swos_net.socket.core import SocketCore
from swos_net.testing.packetdrill import message_calls, readiness_calls
from swos_net.testing.packetdrill.addresses import address_of, check_address
from swos_net.testing.packetdrill.constants import CONSTANTS, errno_name
from swos_net.testing.packetdrill.descriptors import O_NONBLOCK, O_RDWR, File, OpenFile, Socket
from swos_net.testing.packetdrill.expressions import is_anything, is_null, items_of, number_of, text_of
from swos_net.testing.packetdrill.flows import Flows
from swos_net.testing.packetdrill.host import Host
from swos_net.testing.packetdrill.live import TCP, UDP
from swos_net.testing.packetdrill.outcome import Mismatch, Unsupported
from swos_net.testing.packetdrill.profiles import Profile
from swos_net.testing.packetdrill.script import Array, Expression, Name, Number, Structure, SystemCall, Text

Steps = Generator[int | None, None, int]

SOCK_STREAM = 1
MSG_DONTWAIT = 0x40
MSG_WAITALL = 0x100
MSG_FASTOPEN = 0x20000000
SOL_SOCKET = 1
SO_ERROR = 4
SO_RCVBUF = 8
SO_SNDBUF = 7
_LINGER = struct.Struct("ii")
_TIMEVAL = struct.Struct("ll")
_UNSUPPORTED_OPTIONS = ("TCP_FASTOPEN", "TCP_MD5SIG", "SO_ZEROCOPY", "SO_TIMESTAMPING", "TCP_INQ")


class SystemCalls:
    """The process of a script: its descriptors and the calls it can make."""

    def __init__(
        self, host: Host, flows: Flows, profile: Profile, *, socket_family: int, local: str, remote: str, mss: int
    ):  # fmt: skip
        """`local` and `remote` are the addresses that `...` stands for; `socket_family` is AF_INET or AF_INET6."""
        self.mss = mss
        self.receive_space = host.stack.config.tcp.receive_buffer_initial
        self.host = host
        self.flows = flows
        self.profile = profile
        self.socket_family = socket_family
        self.local = local
        self.remote = remote
        self.files: dict[int, OpenFile] = {}
        self.disk: dict[str, int] = {}  # files that commands made: path to size
        self.last_socket: Socket | None = None

    def call(self, call: SystemCall) -> Steps:
        """Starts a call; Unsupported when there is none of that name."""
        handler: Callable[..., Steps] | None = (
            getattr(self, f"_{call.name}", None) or readiness_calls.CALLS.get(call.name) or message_calls.CALLS.get(call.name)
        )
        if handler is None:
            raise Unsupported(f"system call {call.name}()")
        if call.name in readiness_calls.CALLS or call.name in message_calls.CALLS:
            return handler(self, call)
        return handler(call)

    # Descriptors

    def file(self, expression: Expression) -> OpenFile:
        number = number_of(expression)
        if number not in self.files:
            raise os_error(errno.EBADF, f"descriptor {number}")
        return self.files[number]

    def socket(self, expression: Expression) -> Socket:
        file = self.file(expression)
        if not isinstance(file, Socket):
            raise os_error(errno.ENOTSOCK, f"descriptor {expression}")
        return file

    def opened(self, call: SystemCall, file: OpenFile) -> int:
        """Gives a new file the number that the script says, or the lowest free one."""
        if isinstance(call.result, Number):
            number = call.result.value
            if number < 0:
                file.close(self.host.now)
                raise Mismatch(f"{call.name}() succeeded, {call.result} {call.error or ''} expected".replace("  ", " "))
        else:
            number = next(number for number in range(3, 1 << 16) if number not in self.files)
        self.files[number] = file
        return number

    def argument(self, call: SystemCall, index: int) -> Expression:
        if index >= len(call.arguments):
            raise Mismatch(f"{call.name}() has {len(call.arguments)} arguments, too few")
        return call.arguments[index]

    def payload(self, buffer: Expression, length: int) -> bytes:
        """What a script sends: the text it gives, or as many zeros as it says."""
        if is_null(buffer) and length:
            raise os_error(errno.EFAULT)
        data = buffer.value if isinstance(buffer, Text) else b""
        return data[:length] + bytes(length - len(data[:length]))

    @staticmethod
    def check_data(buffer: Expression, data: bytes) -> None:
        """What was received against the text that the script gives for the buffer."""
        if isinstance(buffer, Text):
            wanted = buffer.value
            if data != wanted and not (buffer.open and data.startswith(wanted)):
                raise Mismatch(f"{wanted!r} expected in the buffer, {data!r} received")

    def blocks(self, file: OpenFile, flags: int = 0) -> bool:
        return file.blocking and not flags & MSG_DONTWAIT

    def names(self, file: Socket) -> tuple[str, str]:
        """The addresses that `...` stands for, in the words of the socket's family."""
        return self.local, self.remote

    # Connections

    def _socket(self, call: SystemCall) -> Steps:
        family = self.argument(call, 0)
        number = self.socket_family if is_anything(family) else number_of(family)
        kind = number_of(self.argument(call, 1))
        protocol = number_of(self.argument(call, 2))
        stack = self.host.stack
        core = SocketCore(stack, stack.root, number, kind & 0xF, protocol)
        file = Socket(core, O_RDWR | (O_NONBLOCK if kind & O_NONBLOCK else 0))
        self.last_socket = file
        return self.opened(call, file)
        yield

    def _bind(self, call: SystemCall) -> Steps:
        file = self.socket(self.argument(call, 0))
        address = address_of(self.argument(call, 1), self.local, self.profile.local_port, file.core.family)
        file.core.bind(address, self.host.now)
        file.local_port = file.core.getsockname()[1]
        self.flows.bound(file.local_port)
        return 0
        yield

    def _listen(self, call: SystemCall) -> Steps:
        file = self.socket(self.argument(call, 0))
        file.core.listen(number_of(self.argument(call, 1)), self.host.now)
        if not file.listening:
            file.listening = True
            current = self.flows.current
            if current is None or current.local_port != file.local_port:
                self.flows.bound(file.core.getsockname()[1])
        return 0
        yield

    def _accept(self, call: SystemCall) -> Steps:
        return (yield from self._accept_with(call, 0))

    def _accept4(self, call: SystemCall) -> Steps:
        return (yield from self._accept_with(call, number_of(self.argument(call, 3))))

    def _accept_with(self, call: SystemCall, flags: int) -> Steps:
        file = self.socket(self.argument(call, 0))
        while True:
            try:
                core, address = file.core.accept(self.host.now)
                break
            except BlockingIOError:
                if not self.blocks(file):
                    raise
            yield
        check_address(self.argument(call, 1), address)
        accepted = Socket(core, O_RDWR | (O_NONBLOCK if flags & O_NONBLOCK else 0))
        self.last_socket = accepted
        flow = self.flows.of_ports(TCP, core.getsockname()[1], address[1])
        if flow is not None:
            self.flows.current = flow
        return self.opened(call, accepted)

    def _connect(self, call: SystemCall) -> Steps:
        file = self.socket(self.argument(call, 0))
        core = file.core
        target = self.argument(call, 1)
        if isinstance(target, Structure) and "AF_UNSPEC" in map(str, target.fields().values()):
            core.connect(None, self.host.now)
            return 0
        address = address_of(target, self.remote, self.profile.remote_port, core.family)
        fresh = core.poll() & readiness_calls.POLLHUP or getattr(core, "endpoint", None) is None
        if fresh or core.type != SOCK_STREAM:
            remote = core.parse_peer(address)
            self.flows.connecting(TCP if core.type == SOCK_STREAM else UDP, remote[0], remote[1], file.local_port)
        while True:
            try:
                core.connect(address, self.host.now)
                return 0
            except BlockingIOError as error:
                if not self.blocks(file) or error.errno == errno.EALREADY and fresh:
                    raise
            fresh = False
            while not core.poll() & (readiness_calls.POLLOUT | readiness_calls.POLLERR | readiness_calls.POLLHUP):
                yield

    def _shutdown(self, call: SystemCall) -> Steps:
        self.socket(self.argument(call, 0)).core.shutdown(number_of(self.argument(call, 1)), self.host.now)
        return 0
        yield

    def _close(self, call: SystemCall) -> Steps:
        number = number_of(self.argument(call, 0))
        file = self.file(self.argument(call, 0))
        del self.files[number]
        file.close(self.host.now)
        return 0
        yield

    # Data

    def _write(self, call: SystemCall) -> Steps:
        return (yield from self._send_with(call, 0, None))

    def _send(self, call: SystemCall) -> Steps:
        return (yield from self._send_with(call, number_of(self.argument(call, 3)), None))

    def _sendto(self, call: SystemCall) -> Steps:
        return (yield from self._send_with(call, number_of(self.argument(call, 3)), self.argument(call, 4)))

    def _send_with(self, call: SystemCall, flags: int, target: Expression | None) -> Steps:
        file = self.file(self.argument(call, 0))
        length = number_of(self.argument(call, 2))
        if not isinstance(file, Socket):
            return length
        address = None
        core = file.core
        if flags & MSG_FASTOPEN:
            raise Unsupported("TCP Fast Open (MSG_FASTOPEN)")
        if target is not None and not is_null(target) and core.type != SOCK_STREAM:
            address = address_of(target, self.remote, self.profile.remote_port, core.family)
            remote = core.parse_peer(address)
            if self.flows.current is None or self.flows.current.remote_port != remote[1]:
                self.flows.connecting(UDP, remote[0], remote[1], file.local_port)
        data = self.payload(self.argument(call, 1), length)
        return (yield from self.send_all(file, data, flags, address))

    def send_all(self, file: Socket, data: bytes, flags: int, address: Any) -> Steps:
        """Sends as the kernel does: everything if the socket blocks, else what there is room for."""
        sent = 0
        blocks = self.blocks(file, flags)
        core = file.core
        while True:
            try:
                rest = memoryview(data)[sent:]
                if address is not None:
                    sent += core.send_to(rest, flags, address, self.host.now)
                else:
                    sent += core.send(rest, flags, self.host.now)
                if sent >= len(data) or not blocks:
                    return sent
                self.host.flush()
            except BlockingIOError:
                if not blocks:
                    if sent:
                        return sent
                    raise
            except OSError:
                if sent:
                    return sent
                raise
            yield

    def _writev(self, call: SystemCall) -> Steps:
        file = self.socket(self.argument(call, 0))
        data = b"".join(self.payload(*vector) for vector in self.vectors(self.argument(call, 1)))
        return (yield from self.send_all(file, data, 0, None))

    def _readv(self, call: SystemCall) -> Steps:
        file = self.socket(self.argument(call, 0))
        vectors = self.vectors(self.argument(call, 1))
        data = yield from self.receive_some(file, sum(length for _, length in vectors), 0)
        offset = 0
        for buffer, length in vectors:
            self.check_data(buffer, data[offset : offset + length])
            offset += length
        return len(data)

    @staticmethod
    def vectors(expression: Expression) -> list[tuple[Expression, int]]:
        """[{..., 1000}, {"text", 4}] to (buffer, length) pairs."""
        vectors = []
        for item in items_of(expression, "a list of buffers"):
            if not isinstance(item, Structure) or len(item.items) != 2:
                raise Mismatch(f"a buffer is {{address, length}}, not {item}")
            vectors.append((item.items[0], number_of(item.items[1])))
        return vectors

    def _read(self, call: SystemCall) -> Steps:
        return (yield from self._receive_with(call, 0))

    def _recv(self, call: SystemCall) -> Steps:
        return (yield from self._receive_with(call, number_of(self.argument(call, 3))))

    def _recvfrom(self, call: SystemCall) -> Steps:
        return (yield from self._receive_with(call, number_of(self.argument(call, 3)), self.argument(call, 4)))

    def _receive_with(self, call: SystemCall, flags: int, source: Expression | None = None) -> Steps:
        file = self.file(self.argument(call, 0))
        buffer = self.argument(call, 1)
        length = number_of(self.argument(call, 2))
        if not isinstance(file, Socket):
            return 0
        if is_null(buffer) and length:
            raise os_error(errno.EFAULT)
        if source is not None and file.core.type != SOCK_STREAM:
            while True:
                try:
                    data, address = file.core.receive_from(length, flags, self.host.now)
                    break
                except BlockingIOError:
                    if not self.blocks(file, flags):
                        raise
                yield
            check_address(source, address)
        else:
            data = yield from self.receive_some(file, length, flags)
        self.check_data(buffer, data)
        return len(data)

    def receive_some(self, file: Socket, length: int, flags: int) -> Generator[int | None, None, bytes]:
        """Bytes of a stream, or a datagram."""
        blocks = self.blocks(file, flags)
        collected = b""
        while True:
            try:
                data = file.core.receive(length - len(collected), flags & ~MSG_WAITALL, self.host.now)
                collected += data
                if not flags & MSG_WAITALL or not blocks or not data or len(collected) >= length:
                    return collected
                self.host.flush()
            except BlockingIOError:
                if not blocks:
                    if collected:
                        return collected
                    raise
            yield

    def _sendfile(self, call: SystemCall) -> Steps:
        file = self.socket(self.argument(call, 0))
        source = self.file(self.argument(call, 1))
        if not isinstance(source, File):
            raise os_error(errno.EINVAL)
        where = self.argument(call, 2)
        offset = number_of(where.items[0]) if isinstance(where, Array) and where.items else 0
        count = number_of(self.argument(call, 3))
        while True:
            try:
                return file.core.send_file(source.file.fileno(), offset, count, self.host.now)
            except BlockingIOError:
                if not self.blocks(file):
                    raise
            yield

    def _open(self, call: SystemCall) -> Steps:
        path = text_of(self.argument(call, 0), "a path")
        if path not in self.disk:
            raise os_error(errno.ENOENT, path)
        file = tempfile.TemporaryFile()
        os.truncate(file.fileno(), self.disk[path])
        return self.opened(call, File(file))
        yield

    # Settings

    def _fcntl(self, call: SystemCall) -> Steps:
        file = self.file(self.argument(call, 0))
        command = self.argument(call, 1)
        match command:
            case Name("F_GETFL"):
                return file.flags
            case Name("F_SETFL"):
                file.flags = number_of(self.argument(call, 2)) & ~3 | file.flags & 3
                return 0
            case Name("F_GETFD" | "F_SETFD"):
                return 0
        raise os_error(errno.EINVAL)
        yield

    def _ioctl(self, call: SystemCall) -> Steps:
        file = self.socket(self.argument(call, 0))
        request = number_of(self.argument(call, 1))
        argument = self.argument(call, 2) if len(call.arguments) > 2 else Array(())
        if request == CONSTANTS["FIONBIO"]:
            on = number_of(items_of(argument, "the argument")[0])
            file.flags = file.flags & ~O_NONBLOCK | (O_NONBLOCK if on else 0)
            return 0
        value = file.core.ioctl(request, 0, self.host.now)
        wanted = items_of(argument, "the argument")
        if wanted and not is_anything(wanted[0]) and number_of(wanted[0]) != value:
            raise Mismatch(f"{wanted[0]} expected in the argument, {value} found")
        return 0
        yield

    def _setsockopt(self, call: SystemCall) -> Steps:
        file = self.socket(self.argument(call, 0))
        level, option = self.option(call)
        value = self.argument(call, 3)
        length = number_of(self.argument(call, 4)) if len(call.arguments) > 4 else 4
        if is_null(value):
            raise os_error(errno.EFAULT)
        if level == SOL_SOCKET and option == SO_SNDBUF and not self.profile.doubled_buffers and isinstance(value, Array):
            file.core.setsockopt(level, option, number_of(value.items[0]) // 2, None, self.host.now)
            return 0
        data = _option_bytes(value, length)
        if len(data) > length:
            data = data[:length]
        file.core.setsockopt(level, option, data, None, self.host.now)
        return 0
        yield

    def option(self, call: SystemCall) -> tuple[int, int]:
        names = self.argument(call, 1), self.argument(call, 2)
        for name in names:
            if isinstance(name, Name) and name.name not in CONSTANTS:
                raise Unsupported(f"option {name}")
        if isinstance(names[1], Name) and names[1].name.startswith(_UNSUPPORTED_OPTIONS):
            raise Unsupported(f"option {names[1]}")
        return number_of(names[0]), number_of(names[1])

    def _getsockopt(self, call: SystemCall) -> Steps:
        file = self.socket(self.argument(call, 0))
        level, option = self.option(call)
        wanted = self.argument(call, 3)
        lengths = self.argument(call, 4)
        length = 4
        if isinstance(lengths, Array) and lengths.items and not is_anything(lengths.items[0]):
            length = number_of(lengths.items[0])
        if self.profile.segment_rounded_buffers and level == SOL_SOCKET and option == SO_RCVBUF:
            value: int | bytes = self._rounded_buffer(file.core)
        else:
            value = file.core.getsockopt(level, option, max(length, 4), self.host.now)
        if level == SOL_SOCKET and option == SO_ERROR and isinstance(value, bytes):
            value = self._error_for_script(wanted, int.from_bytes(value[:4], "little"))
        _check_option(wanted, value)
        return 0
        yield

    def _error_for_script(self, wanted: Expression, value: int) -> int:
        """SO_ERROR, in the script's words where the profile takes two errnos for one."""
        if isinstance(wanted, Array) and wanted.items and isinstance(wanted.items[0], Name):
            name = wanted.items[0].name
            if (name, errno_name(value)) in self.profile.same_errors:
                return CONSTANTS[name]
        return value

    def set_receive_space(self, octets: int) -> str:
        """Where buffers are rounded to whole segments: the size that a connection's has in the end."""
        self.receive_space = octets
        return str(-(-octets // self.mss) * self.mss)

    def _rounded_buffer(self, core: SocketCore) -> int:
        """SO_RCVBUF as BSD reports it: rounded up to whole segments once the connection stands."""
        endpoint = getattr(core, "endpoint", None)
        if endpoint is not None and endpoint.connection.tcb.irs_known:
            return -(-self.receive_space // self.mss) * self.mss
        return self.receive_space


def _option_bytes(value: Expression, length: int) -> bytes:
    if isinstance(value, Text):
        return value.value
    if isinstance(value, Structure):
        fields = value.fields()
        if "onoff" in fields:
            return _LINGER.pack(number_of(fields["onoff"]), number_of(fields["linger"]))
        if "tv_sec" in fields:
            return _TIMEVAL.pack(number_of(fields["tv_sec"]), number_of(fields["tv_usec"]))
        raise Unsupported(f"option value {value}")
    items = items_of(value, "an option's value") if isinstance(value, Array) else (value,)
    return b"".join((number_of(item) & 0xFFFFFFFF).to_bytes(4, "little") for item in items)


def _check_option(wanted: Expression, value: int | bytes) -> None:
    if is_anything(wanted):
        return
    if isinstance(wanted, Text):
        text = value.split(b"\0")[0] if isinstance(value, bytes) else str(value).encode()
        if text != wanted.value:
            raise Mismatch(f"{wanted.value!r} expected, {text!r} found")
        return
    if isinstance(wanted, Structure):
        if isinstance(value, int) or len(value) < 8:
            raise Mismatch(f"{wanted} expected, {value!r} found")
        if _option_bytes(wanted, 8) != value[:8]:
            raise Mismatch(f"{wanted} expected, {_LINGER.unpack(value[:8])} found")
        return
    items = items_of(wanted, "an option's value") if isinstance(wanted, Array) else (wanted,)
    if not items or is_anything(items[0]):
        return
    number = value if isinstance(value, int) else int.from_bytes(value[:4], "little", signed=True)
    if (number_of(items[0]) - number) & 0xFFFFFFFF:
        shown = errno.errorcode.get(number, str(number)) if isinstance(items[0], Name) else number
        raise Mismatch(f"{items[0]} expected, {shown} found")
