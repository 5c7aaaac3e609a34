"""What a vhost-user back-end agrees with its front-end: features, memory, and the life of every ring.

Read first: message.py for the words, and "Ring states" and "Starting and stopping rings" of the vhost-user
specification.  A session has no descriptor of its own and maps nothing: it is told of messages, keeps the answers in
`messages_to_send()`, and orders everything else from a `Performer`, at once, because the answer to a message may
depend on what came of it (GET_VRING_BASE, SET_MEM_TABLE).

A ring runs when its features, memory, size, addresses and kick are all known, in whatever order they came, and stops
at GET_VRING_BASE.  It is not left to wait for its first kick: a guest that filled the ring for an earlier back-end
has no reason to kick again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from swos_net.device.vhost_user.features import Feature, ProtocolFeature, mask
from swos_net.device.vhost_user.message import (
    FORMATS,
    U64,
    VRING_F_LOG,
    VRING_INDEX_MASK,
    VRING_NO_FD,
    MemoryRegion,
    MemoryTable,
    Message,
    Payload,
    ProtocolError,
    Request,
    VringAddress,
    VringState,
    emit_reply,
)

VRING_SIZE_MAX = 32768
VRING_BASE_MAX = 0xFFFF

# VIRTIO 1.2, 5.1.4.1: an MTU below 68 or beyond a word is none.
MTU_MIN, MTU_MAX = 68, 65535

DEVICE_FEATURES = mask(
    Feature.CSUM,
    Feature.GUEST_CSUM,
    Feature.MTU,
    Feature.GUEST_TSO4,
    Feature.GUEST_TSO6,
    Feature.HOST_TSO4,
    Feature.HOST_TSO6,
    Feature.MRG_RXBUF,
    Feature.GUEST_ANNOUNCE,
    Feature.MQ,
    Feature.ANY_LAYOUT,
    Feature.INDIRECT_DESC,
    Feature.EVENT_IDX,
    Feature.PROTOCOL_FEATURES,
    Feature.VERSION_1,
)
PROTOCOL_FEATURES = mask(ProtocolFeature.MQ, ProtocolFeature.RARP, ProtocolFeature.REPLY_ACK, ProtocolFeature.NET_MTU)


class Refused(Exception):
    """An operation that failed without harm to the session's state; a Performer raises it, too.

    It becomes a negative acknowledgement where the front-end asked for one, and the end of the connection elsewhere.
    """

    def __init__(self, check_id: str, text: str):
        super().__init__(f"{check_id}: {text}")
        self.check_id = check_id
        self.text = text


@dataclass(slots=True)
class Ring:
    """What the front-end said about one ring."""

    size: int = 0
    base: int = 0
    address: VringAddress | None = None
    kick: bool = False
    enabled: bool = False
    started: bool = False


class Performer(Protocol):
    """Who does what a session decides.  A method that takes a descriptor owns it from then on."""

    def map_memory(self, regions: list[MemoryRegion], fds: list[int]) -> None:
        """Replaces the whole memory map, or raises Refused and keeps the old one.  The descriptors stay the caller's.

        No ring runs meanwhile.
        """

    def start_ring(self, index: int, ring: Ring, features: int) -> None:
        """Starts at `ring.base`; Refused when a part of the ring is not in the memory map."""

    def stop_ring(self, index: int) -> int:
        """Stops it, with all it had taken given back; returns the next available index."""

    def enable_ring(self, index: int, enabled: bool) -> None: ...

    def set_kick(self, index: int, fd: int | None) -> None:
        """How the guest tells of new buffers; None: it does not, look from time to time.  Refused when unusable."""

    def drop_kick(self, index: int) -> None:
        """Forgets the kick descriptor of a ring that stopped."""

    def set_call(self, index: int, fd: int | None) -> None: ...

    def set_err(self, index: int, fd: int | None) -> None: ...

    def features_negotiated(self, features: int) -> None: ...

    def mtu_set(self, mtu: int) -> None: ...

    def guest_moved(self, address: bytes) -> None:
        """The guest with this MAC address came here by migration and does not announce itself."""

    def warn(self, text: str) -> None: ...


@dataclass
class Session:
    """The back-end's side of one connection.

    `message_received()` takes the descriptors it passes on out of the list it is given; what is left there, also
    after an exception, is the caller's to close.
    """

    performer: Performer
    queue_pairs: int = 1
    offered: int = DEVICE_FEATURES
    offered_protocol: int = PROTOCOL_FEATURES
    features: int | None = None
    protocol_features: int = 0
    has_memory: bool = False
    rings: list[Ring] = field(default_factory=list)
    _out: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.queue_pairs < 2:
            self.offered &= ~mask(Feature.MQ)
        self.rings = [Ring() for _ in range(2 * self.queue_pairs)]

    def messages_to_send(self) -> list[bytes]:
        """The replies since the last call, in order."""
        messages, self._out = self._out, []
        return messages

    def message_received(self, message: Message, fds: list[int]) -> None:
        """Acts on one request; ProtocolError when the connection has to end."""
        handler = HANDLERS.get(message.request)
        layout = FORMATS.get(message.request)
        if handler is None or (layout.gate is not None and not self.offered_protocol >> layout.gate & 1):
            self._unknown(message)
            return
        try:
            reply = handler(self, message.payload, fds)
        except Refused as refusal:
            if layout.reply is not None or not self._wants_acknowledgement(message):
                raise ProtocolError(message.name, refusal.check_id, refusal.text) from None
            self.performer.warn(f"{message.name} refused: {refusal}")
            reply = U64(1)
        else:
            if reply is None and self._wants_acknowledgement(message):
                reply = U64(0)
        if reply is not None:
            self._out.append(emit_reply(message.request, reply))

    def _wants_acknowledgement(self, message: Message) -> bool:
        return message.need_reply and bool(self.protocol_features >> ProtocolFeature.REPLY_ACK & 1)

    def _unknown(self, message: Message) -> None:
        self.performer.warn(f"{message.name} ignored: not a request of the features that were offered")
        if self._wants_acknowledgement(message):
            self._out.append(emit_reply(message.request, U64(1)))

    # features

    def _get_features(self, payload: None, fds: list[int]) -> Payload:
        return U64(self.offered)

    def _set_features(self, payload: U64, fds: list[int]) -> None:
        features = payload.value
        if features & ~self.offered:
            raise Refused("M7", f"features {features & ~self.offered:#x} were not offered")
        if features == self.features:
            # One queue pair after the other sends them, also when the first one's rings run already.
            return
        if any(ring.started for ring in self.rings):
            raise Refused("M8", "features change while a ring runs")
        self.features = features
        self.performer.features_negotiated(features)
        if not features >> Feature.PROTOCOL_FEATURES & 1:
            # "the ring is initialized in an enabled state" without the feature: there is no SET_VRING_ENABLE then.
            for index in range(len(self.rings)):
                self._enable(index, True)
        for index in range(len(self.rings)):
            self._start_if_ready(index)

    def _get_protocol_features(self, payload: None, fds: list[int]) -> Payload:
        return U64(self.offered_protocol)

    def _set_protocol_features(self, payload: U64, fds: list[int]) -> None:
        if payload.value & ~self.offered_protocol:
            raise Refused("M7", f"protocol features {payload.value & ~self.offered_protocol:#x} were not offered")
        self.protocol_features = payload.value

    def _get_queue_num(self, payload: None, fds: list[int]) -> Payload:
        # Queue pairs, for a network device.
        return U64(self.queue_pairs)

    def _owner(self, payload: None, fds: list[int]) -> None:
        """SET_OWNER marks a session's start, and RESET_OWNER is deprecated: neither changes anything."""

    # memory

    def _set_mem_table(self, payload: MemoryTable, fds: list[int]) -> None:
        refusal = None
        for index, ring in enumerate(self.rings):
            if ring.started:
                self._stop(index)
        try:
            self.performer.map_memory(payload.regions, fds)
            self.has_memory = bool(payload.regions)
        except Refused as error:
            refusal = error
        # R5: nothing of the old map survives in a ring; each one translates its addresses anew.
        for index in range(len(self.rings)):
            try:
                self._start_if_ready(index)
            except Refused as error:
                refusal = refusal or error
        if refusal is not None:
            raise refusal

    # rings

    def _ring(self, index: int) -> Ring:
        """M4: the whole 32-bit index is compared before it is used."""
        if index >= len(self.rings):
            raise Refused("M4", f"ring {index} of {len(self.rings)}")
        return self.rings[index]

    def _set_vring_num(self, payload: VringState, fds: list[int]) -> None:
        ring = self._ring(payload.index)
        size = payload.num
        if not 0 < size <= VRING_SIZE_MAX or size & (size - 1):
            raise Refused("V1", f"ring {payload.index} of size {size}")
        if ring.started and size != ring.size:
            raise Refused("M8", f"ring {payload.index} changes its size while it runs")
        ring.size = size
        self._start_if_ready(payload.index)

    def _set_vring_base(self, payload: VringState, fds: list[int]) -> None:
        ring = self._ring(payload.index)
        if payload.num > VRING_BASE_MAX:
            raise Refused("V6", f"base {payload.num:#x} of ring {payload.index} has more than 16 bits")
        if ring.started:
            # Only where the front-end sent the kick first.
            self._stop(payload.index)
        ring.base = payload.num
        self._start_if_ready(payload.index)

    def _set_vring_addr(self, payload: VringAddress, fds: list[int]) -> None:
        ring = self._ring(payload.index)
        if payload.flags & VRING_F_LOG:
            raise Refused("M7", "logging was not offered")
        if not self.has_memory or not ring.size:
            raise Refused("M8", f"addresses of ring {payload.index} before its size or the memory")
        if payload.desc % 16 or payload.avail % 2 or payload.used % 4:
            raise Refused("V2", f"ring {payload.index} is not aligned")
        if ring.started:
            if payload == ring.address:
                return
            # Its indices stay what they are.
            self._stop(payload.index)
        ring.address = payload
        self._start_if_ready(payload.index)

    def _get_vring_base(self, payload: VringState, fds: list[int]) -> Payload:
        # `num` of the request means nothing, and front-ends leave garbage there.
        ring = self._ring(payload.index)
        if ring.started:
            self._stop(payload.index)
        if ring.kick:
            ring.kick = False
            self.performer.drop_kick(payload.index)
        return VringState(payload.index, ring.base)

    def _set_vring_enable(self, payload: VringState, fds: list[int]) -> None:
        # Comes early and often, before features and memory: it is only recorded.
        self._ring(payload.index)
        self._enable(payload.index, payload.num != 0)

    def _set_vring_kick(self, payload: U64, fds: list[int]) -> None:
        index, fd = self._vring_fd(payload, fds)
        self.performer.set_kick(index, fd)
        self.rings[index].kick = True
        self._start_if_ready(index)

    def _set_vring_call(self, payload: U64, fds: list[int]) -> None:
        self.performer.set_call(*self._vring_fd(payload, fds))

    def _set_vring_err(self, payload: U64, fds: list[int]) -> None:
        self.performer.set_err(*self._vring_fd(payload, fds))

    def _vring_fd(self, payload: U64, fds: list[int]) -> tuple[int, int | None]:
        """The ring's index, and its descriptor taken out of `fds`."""
        self._ring(payload.value & ~VRING_NO_FD)
        return payload.value & VRING_INDEX_MASK, fds.pop() if fds else None

    def _enable(self, index: int, enabled: bool) -> None:
        ring = self.rings[index]
        if ring.enabled != enabled:
            ring.enabled = enabled
            self.performer.enable_ring(index, enabled)

    def _start_if_ready(self, index: int) -> None:
        ring = self.rings[index]
        known = self.features is not None and self.has_memory and ring.size and ring.address is not None and ring.kick
        if known and not ring.started:
            self.performer.start_ring(index, ring, self.features)
            ring.started = True

    def _stop(self, index: int) -> None:
        ring = self.rings[index]
        ring.started = False
        ring.base = self.performer.stop_ring(index)

    # the network

    def _send_rarp(self, payload: U64, fds: list[int]) -> None:
        # The MAC address is the first six bytes of the payload as it lies in memory.
        self.performer.guest_moved(payload.emit()[:6])

    def _net_set_mtu(self, payload: U64, fds: list[int]) -> None:
        if not MTU_MIN <= payload.value <= MTU_MAX:
            raise Refused("M2", f"an MTU of {payload.value}")
        self.performer.mtu_set(payload.value)


Handler = Callable[[Session, Payload | None, list[int]], Payload | None]

HANDLERS: dict[int, Handler] = {
    Request.GET_FEATURES: Session._get_features,
    Request.SET_FEATURES: Session._set_features,
    Request.SET_OWNER: Session._owner,
    Request.RESET_OWNER: Session._owner,
    Request.SET_MEM_TABLE: Session._set_mem_table,
    Request.SET_VRING_NUM: Session._set_vring_num,
    Request.SET_VRING_ADDR: Session._set_vring_addr,
    Request.SET_VRING_BASE: Session._set_vring_base,
    Request.GET_VRING_BASE: Session._get_vring_base,
    Request.SET_VRING_KICK: Session._set_vring_kick,
    Request.SET_VRING_CALL: Session._set_vring_call,
    Request.SET_VRING_ERR: Session._set_vring_err,
    Request.GET_PROTOCOL_FEATURES: Session._get_protocol_features,
    Request.SET_PROTOCOL_FEATURES: Session._set_protocol_features,
    Request.GET_QUEUE_NUM: Session._get_queue_num,
    Request.SET_VRING_ENABLE: Session._set_vring_enable,
    Request.SEND_RARP: Session._send_rarp,
    Request.NET_SET_MTU: Session._net_set_mtu,
}
