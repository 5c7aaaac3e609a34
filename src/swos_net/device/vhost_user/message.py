"""Wire layout of vhost-user messages, for both ends: a front-end's requests and a back-end's replies.

Read first: "Message Specification" and "Front-end message types" of the vhost-user specification.  All integers are
in native byte order.  This module knows sizes and counts; what a message means is in session.py, and how it travels
in connection.py.
"""

import struct
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from enum import IntEnum
from typing import ClassVar

from swos_net.device.vhost_user.features import ProtocolFeature
from swos_net.errors import WireError

VERSION = 1
FLAG_VERSION_MASK = 0x3
FLAG_REPLY = 0x4
FLAG_NEED_REPLY = 0x8
# A front-end compares the whole word with this one, so NEED_REPLY must not come back with it.
REPLY_FLAGS = VERSION | FLAG_REPLY

# No message of a network device comes near it (the largest is SET_CONFIG with 268 bytes).
PAYLOAD_MAX = 4096
MEMORY_REGIONS_MAX = 8
CONFIG_BYTES_MAX = 256

# u64 of SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR
VRING_INDEX_MASK = 0xFF
VRING_NO_FD = 0x100

# vring address flags
VRING_F_LOG = 1

HEADER = struct.Struct("=III")
HEADER_SIZE = HEADER.size


class Request(IntEnum):
    """What a front-end asks."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43


def request_name(request: int) -> str:
    """The specification's name, or the number when it has none here."""
    try:
        return Request(request).name
    except ValueError:
        return f"request {request}"


class ProtocolError(WireError):
    """The peer broke a rule after which the connection cannot go on.

    `message_name` is the request's; `check_id` names the rule: M1 flags, M2 size, M3 descriptors, M4 ring index,
    M7 features, M8 order, M9 totals, M10 replies not read, R1 to R4 memory, V1 to V3 and V6 ring set-up.
    """

    def __init__(self, message_name: str, check_id: str, text: str):
        super().__init__(f"{message_name}: {check_id}: {text}")
        self.message_name = message_name
        self.check_id = check_id
        self.text = text


class Payload:
    """A payload of one fixed layout."""

    __slots__ = ()
    LAYOUT: ClassVar[struct.Struct]

    @classmethod
    def sizes(cls) -> tuple[int, ...]:
        """The sizes, in bytes, that the payload may have."""
        return (cls.LAYOUT.size,)

    @classmethod
    def parse(cls, data: bytes):
        """Bytes whose length is one of `sizes()` to a record; WireError when their content contradicts it."""
        return cls(*cls.LAYOUT.unpack(data))

    def emit(self) -> bytes:
        return self.LAYOUT.pack(*astuple(self))


@dataclass(slots=True)
class U64(Payload):
    value: int

    LAYOUT = struct.Struct("=Q")


@dataclass(slots=True)
class VringState(Payload):
    index: int
    num: int

    LAYOUT = struct.Struct("=II")


@dataclass(slots=True)
class VringAddress(Payload):
    """Where the parts of a ring are, in the front-end's address space."""

    index: int
    flags: int
    desc: int
    used: int
    avail: int
    log: int = 0

    LAYOUT = struct.Struct("=IIQQQQ")


@dataclass(slots=True)
class MemoryRegion(Payload):
    """One region of guest memory: `offset` is where it starts in its descriptor."""

    guest_address: int
    size: int
    user_address: int
    offset: int

    LAYOUT = struct.Struct("=QQQQ")


@dataclass(slots=True)
class MemoryTable(Payload):
    """All regions of guest memory, with one descriptor each in this order."""

    regions: list[MemoryRegion]

    LAYOUT = struct.Struct("=II")

    @classmethod
    def sizes(cls) -> tuple[int, ...]:
        return tuple(8 + 32 * count for count in range(MEMORY_REGIONS_MAX + 1))

    @classmethod
    def parse(cls, data: bytes) -> "MemoryTable":
        count, _padding = cls.LAYOUT.unpack_from(data)
        if len(data) != 8 + 32 * count:
            raise WireError(f"{len(data)} bytes for {count} regions")
        return cls([MemoryRegion.parse(data[start : start + 32]) for start in range(8, len(data), 32)])

    def emit(self) -> bytes:
        return self.LAYOUT.pack(len(self.regions), 0) + b"".join(region.emit() for region in self.regions)


@dataclass(slots=True)
class SingleRegion(Payload):
    region: MemoryRegion

    LAYOUT = struct.Struct("=Q32s")

    @classmethod
    def parse(cls, data: bytes) -> "SingleRegion":
        return cls(MemoryRegion.parse(data[8:]))

    def emit(self) -> bytes:
        return self.LAYOUT.pack(0, self.region.emit())


@dataclass(slots=True)
class Log(Payload):
    size: int
    offset: int

    LAYOUT = struct.Struct("=QQ")


@dataclass(slots=True)
class Iotlb(Payload):
    iova: int
    size: int
    user_address: int
    permission: int
    type: int

    LAYOUT = struct.Struct("=QQQBB6x")


@dataclass(slots=True)
class Config(Payload):
    """Bytes of the device's configuration space."""

    offset: int
    flags: int
    data: bytes

    LAYOUT = struct.Struct("=III")

    @classmethod
    def sizes(cls) -> tuple[int, ...]:
        return tuple(range(cls.LAYOUT.size, cls.LAYOUT.size + CONFIG_BYTES_MAX + 1))

    @classmethod
    def parse(cls, data: bytes) -> "Config":
        offset, size, flags = cls.LAYOUT.unpack_from(data)
        if len(data) != cls.LAYOUT.size + size:
            raise WireError(f"{len(data) - cls.LAYOUT.size} bytes of configuration announced as {size}")
        return cls(offset, flags, data[cls.LAYOUT.size :])

    def emit(self) -> bytes:
        return self.LAYOUT.pack(self.offset, len(self.data), self.flags) + self.data


@dataclass(slots=True)
class Inflight(Payload):
    """`padded` keeps which of the two sizes the peer uses: the structure's own, or its C sizeof."""

    mmap_size: int
    mmap_offset: int
    queues: int
    queue_size: int
    padded: bool = True

    LAYOUT = struct.Struct("=QQHH")

    @classmethod
    def sizes(cls) -> tuple[int, ...]:
        return (20, 24)

    @classmethod
    def parse(cls, data: bytes) -> "Inflight":
        return cls(*cls.LAYOUT.unpack_from(data), padded=len(data) == 24)

    def emit(self) -> bytes:
        data = self.LAYOUT.pack(self.mmap_size, self.mmap_offset, self.queues, self.queue_size)
        return data + bytes(4) if self.padded else data


@dataclass(slots=True)
class SharedObject(Payload):
    uuid: bytes

    LAYOUT = struct.Struct("=16s")


@dataclass(slots=True)
class DeviceState(Payload):
    direction: int
    phase: int

    LAYOUT = struct.Struct("=II")


@dataclass(slots=True)
class Message:
    """One request.  `request` is a plain int where the specification's number has no name here."""

    request: int
    payload: Payload | None = None
    need_reply: bool = False

    @property
    def name(self) -> str:
        return request_name(self.request)


@dataclass(slots=True)
class Header:
    request: int
    flags: int
    size: int

    @property
    def name(self) -> str:
        return request_name(self.request)


def _no_fds(payload: Payload | None) -> tuple[int, ...]:
    return (0,)


def _one_fd(payload: Payload | None) -> tuple[int, ...]:
    return (1,)


def _fd_or_none(payload: Payload | None) -> tuple[int, ...]:
    return (0, 1)


def _fd_unless_flagged(payload: U64) -> tuple[int, ...]:
    return (0,) if payload.value & VRING_NO_FD else (1,)


def _fd_per_region(payload: MemoryTable) -> tuple[int, ...]:
    return (len(payload.regions),)


@dataclass(frozen=True, slots=True)
class Format:
    """How one request looks.

    `reply` is the payload of the answer it always gets; a request without gets a U64 when it asks for one.
    `fds` tells how many descriptors may come with a payload.  `gate` is the protocol feature it belongs to.
    """

    payload: type[Payload] | None = None
    reply: type[Payload] | None = None
    fds: Callable[[Payload | None], tuple[int, ...]] = field(default=_no_fds)
    gate: ProtocolFeature | None = None


FORMATS: dict[int, Format] = {
    Request.GET_FEATURES: Format(reply=U64),
    Request.SET_FEATURES: Format(U64),
    Request.SET_OWNER: Format(),
    Request.RESET_OWNER: Format(),
    Request.SET_MEM_TABLE: Format(MemoryTable, fds=_fd_per_region),
    Request.SET_LOG_BASE: Format(Log, U64, _one_fd, ProtocolFeature.LOG_SHMFD),
    Request.SET_LOG_FD: Format(fds=_one_fd),
    Request.SET_VRING_NUM: Format(VringState),
    Request.SET_VRING_ADDR: Format(VringAddress),
    Request.SET_VRING_BASE: Format(VringState),
    Request.GET_VRING_BASE: Format(VringState, VringState),
    Request.SET_VRING_KICK: Format(U64, fds=_fd_unless_flagged),
    Request.SET_VRING_CALL: Format(U64, fds=_fd_unless_flagged),
    Request.SET_VRING_ERR: Format(U64, fds=_fd_unless_flagged),
    Request.GET_PROTOCOL_FEATURES: Format(reply=U64),
    Request.SET_PROTOCOL_FEATURES: Format(U64),
    Request.GET_QUEUE_NUM: Format(reply=U64, gate=ProtocolFeature.MQ),
    Request.SET_VRING_ENABLE: Format(VringState),
    Request.SEND_RARP: Format(U64, gate=ProtocolFeature.RARP),
    Request.NET_SET_MTU: Format(U64, gate=ProtocolFeature.NET_MTU),
    Request.SET_BACKEND_REQ_FD: Format(fds=_one_fd, gate=ProtocolFeature.BACKEND_REQ),
    Request.IOTLB_MSG: Format(Iotlb, U64),
    Request.SET_VRING_ENDIAN: Format(VringState, gate=ProtocolFeature.CROSS_ENDIAN),
    Request.GET_CONFIG: Format(Config, Config, gate=ProtocolFeature.CONFIG),
    Request.SET_CONFIG: Format(Config, gate=ProtocolFeature.CONFIG),
    Request.GET_INFLIGHT_FD: Format(Inflight, Inflight, gate=ProtocolFeature.INFLIGHT_SHMFD),
    Request.SET_INFLIGHT_FD: Format(Inflight, fds=_one_fd, gate=ProtocolFeature.INFLIGHT_SHMFD),
    Request.RESET_DEVICE: Format(gate=ProtocolFeature.RESET_DEVICE),
    Request.VRING_KICK: Format(VringState, gate=ProtocolFeature.INBAND_NOTIFICATIONS),
    Request.GET_MAX_MEM_SLOTS: Format(reply=U64, gate=ProtocolFeature.CONFIGURE_MEM_SLOTS),
    Request.ADD_MEM_REG: Format(SingleRegion, fds=_one_fd, gate=ProtocolFeature.CONFIGURE_MEM_SLOTS),
    # The specification has no descriptor here, but front-ends send one.
    Request.REM_MEM_REG: Format(SingleRegion, fds=_fd_or_none, gate=ProtocolFeature.CONFIGURE_MEM_SLOTS),
    Request.SET_STATUS: Format(U64, gate=ProtocolFeature.STATUS),
    Request.GET_STATUS: Format(reply=U64, gate=ProtocolFeature.STATUS),
    Request.GET_SHARED_OBJECT: Format(SharedObject, gate=ProtocolFeature.SHARED_OBJECT),
    Request.SET_DEVICE_STATE_FD: Format(DeviceState, U64, _one_fd, ProtocolFeature.DEVICE_STATE),
    Request.CHECK_DEVICE_STATE: Format(reply=U64, gate=ProtocolFeature.DEVICE_STATE),
}


def parse_header(data: bytes, *, reply: bool = False) -> Header:
    """The 12 bytes before a payload, checked enough to know that reading the payload is safe (M1, M2).

    `reply` tells which end reads: the back-end requests, the front-end replies.
    """
    header = Header(*HEADER.unpack(data))
    if reply:
        if header.flags != REPLY_FLAGS:
            raise ProtocolError(header.name, "M1", f"flags {header.flags:#x} of a reply")
    elif header.flags & (FLAG_VERSION_MASK | FLAG_REPLY) != VERSION:
        # Unknown bits above NEED_REPLY are ignored.
        raise ProtocolError(header.name, "M1", f"flags {header.flags:#x} of a request")
    if header.size > PAYLOAD_MAX:
        raise ProtocolError(header.name, "M2", f"{header.size} bytes of payload, more than {PAYLOAD_MAX}")
    return header


def _parse_payload(name: str, layout: type[Payload] | None, data: bytes) -> Payload | None:
    sizes = (0,) if layout is None else layout.sizes()
    if len(data) not in sizes:
        raise ProtocolError(name, "M2", f"{len(data)} bytes of payload")
    if layout is None:
        return None
    try:
        return layout.parse(data)
    except WireError as error:
        raise ProtocolError(name, "M2", error.reason) from None


def parse_request(header: Header, data: bytes, fd_count: int) -> Message:
    """A request with the payload that followed its header; ProtocolError on a wrong size or number of descriptors.

    A request that is not in FORMATS comes back without payload: its answer is the session's to choose.
    """
    need_reply = bool(header.flags & FLAG_NEED_REPLY)
    layout = FORMATS.get(header.request)
    if layout is None:
        return Message(header.request, None, need_reply)
    payload = _parse_payload(header.name, layout.payload, data)
    allowed = layout.fds(payload)
    if fd_count not in allowed:
        raise ProtocolError(header.name, "M3", f"{fd_count} descriptors instead of {allowed[-1]}")
    return Message(Request(header.request), payload, need_reply)


def emit_request(request: int, payload: Payload | None = None, *, need_reply: bool = False) -> bytes:
    data = b"" if payload is None else payload.emit()
    return HEADER.pack(request, VERSION | (FLAG_NEED_REPLY if need_reply else 0), len(data)) + data


def emit_reply(request: int, payload: Payload) -> bytes:
    data = payload.emit()
    return HEADER.pack(request, REPLY_FLAGS, len(data)) + data


def parse_reply(header: Header, data: bytes) -> Payload:
    """The payload of a reply: what the request always gets, or the U64 of an acknowledgement (0 is success)."""
    layout = FORMATS.get(header.request)
    return _parse_payload(header.name, U64 if layout is None or layout.reply is None else layout.reply, data)
