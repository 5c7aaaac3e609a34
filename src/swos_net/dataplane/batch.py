"""A batch of outgoing segments as flat descriptors, rendered by C into frames."""

import struct
from collections.abc import Iterator

from swos_net._dataplane import ffi, lib
from swos_net.link import LinkFeatures

SEGMENTS = lib.BATCH_SEGMENTS

# struct segment: path, ring, position, data; length, seq, ack; window, segment_size; kind, flags, ecn, options length
_SEGMENT = struct.Struct("=QQQQIIIHHBBBB40s4x")
assert _SEGMENT.size == ffi.sizeof("segment")
_pack_segment = _SEGMENT.pack_into
_allocate = ffi.new_allocator(should_clear_after_alloc=False)
_TCP = lib.SEGMENT_TCP
_UDP = lib.SEGMENT_UDP
_FRAME = lib.SEGMENT_FRAME


class FlowPath:
    """Who sends to whom: what a flow's packets have in common, as C reads it.

    `granted` is the capability that was asked whether its holder may send along this path; None: none was.
    """

    __slots__ = ("c", "granted", "link_destination", "pointer")

    def __init__(self, local: bytes, local_port: int, remote: bytes, remote_port: int, hop_limit: int, identification: int = 0):
        """Addresses of 16 bytes; `identification` is that of the first IPv4 packet."""
        self.granted: object = None
        self.link_destination = b""  # read it, set it with `set_link`
        self.c = ffi.new("flow_path *")
        self.c.local = local
        self.c.remote = remote
        self.c.local_port = local_port
        self.c.remote_port = remote_port
        self.c.hop_limit = hop_limit
        self.c.identification = identification & 0xFFFF
        self.pointer = int(ffi.cast("uintptr_t", self.c))

    def set_link(self, source: bytes, destination: bytes) -> None:
        """The Ethernet addresses of the next hop's link."""
        self.c.link_source = source
        self.c.link_destination = self.link_destination = destination


class Batch:
    """Up to SEGMENTS segments on their way to one device.

    Whoever adds a segment leaves the ring, path or bytes it names in `kept`, which lives as long as the batch
    needs them.
    """

    __slots__ = ("_owner", "_view", "c", "count", "kept", "path")

    def __init__(self) -> None:
        self.c = self._owner = ffi.new("segment_batch *")
        self._view = memoryview(ffi.buffer(self.c.segments))
        self.count = 0
        self.path = 0
        self.kept: list = []

    def __len__(self) -> int:
        return self.count

    @property
    def room(self) -> int:
        return SEGMENTS - self.count

    def clear(self) -> None:
        self.count = 0
        self.kept.clear()
        c = self.c
        c.count = c.next = c.next_frame = c.frames = 0
        c.bytes = 0

    def add_tcp(self, seq: int, ack: int, flags: int, window: int, options: bytes = b"", ring=None, position: int = 0,
                length: int = 0, segment_size: int = 0, ecn: int = 0) -> None:  # fmt: skip
        """One TCP segment of the flow at `path`; seq and ack are taken modulo 2^32.

        `ring` holds the payload from `position`; longer than `segment_size` it is a super-segment.
        """
        pointer = 0
        if length:
            pointer = ring.pointer
            self.kept.append(ring)
        _pack_segment(
            self._view, self.count * 96, self.path, pointer, position, 0, length, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF,
            window, segment_size, _TCP, flags, ecn, len(options), options,
        )  # fmt: skip
        self.count += 1

    def add_udp(self, payload: bytes) -> None:
        """One datagram of the flow at `path` that fits the link's MTU."""
        view = ffi.from_buffer(payload)
        self.kept.append(view)
        pointer = int(ffi.cast("uintptr_t", view))
        _pack_segment(self._view, self.count * 96, self.path, 0, 0, pointer, len(payload), 0, 0, 0, 0, _UDP, 0, 0, 0, b"")
        self.count += 1

    def add_frame(self, frame: bytes) -> None:
        """A complete frame, link header and checksums included."""
        view = ffi.from_buffer(frame)
        self.kept.append(view)
        pointer = int(ffi.cast("uintptr_t", view))
        _pack_segment(self._view, self.count * 96, 0, 0, 0, pointer, len(frame), 0, 0, 0, 0, _FRAME, 0, 0, 0, b"")
        self.count += 1

    def seal(self) -> None:
        """Tells C how many segments there are; call before handing the batch to a device."""
        self.c.count = self.count

    def move_to(self, burst, limits) -> int:
        """Moves what is left into a cleared burst with an arena, for a link from a host to itself; returns the frames.

        The payload is not copied: the batch is kept as it is until the burst is done with.
        """
        return lib.batch_to_burst(self.c, limits, burst.c)

    @property
    def sent(self) -> bool:
        """Whether every segment went out."""
        return self.c.next >= self.c.count

    def packet(self, index: int) -> bytes:
        """Segment `index` as an IP packet with complete checksums, for one that has to wait for its neighbour."""
        buffer = _allocate("uint8_t[]", 65536)
        length = lib.segment_packet(self.c.segments[index : index + 1], buffer, 65536)
        return ffi.buffer(buffer, length)[:] if length > 0 else b""

    def frames(self, limits) -> Iterator[tuple[bytes, int, int, int]]:
        """Takes what is left frame by frame: (frame, checksum state, gso_type, gso_size)."""
        buffer = _allocate("uint8_t[]", lib.FRAME_BYTES_MAX)
        rendered = ffi.new("rendered_frame *")
        while (length := lib.batch_next_frame(self.c, limits, buffer, lib.FRAME_BYTES_MAX, rendered)) > 0:
            state = lib.CHECKSUM_PARTIAL if rendered.needs_checksum else lib.CHECKSUM_UNVERIFIED
            yield ffi.buffer(buffer, length)[:], state, rendered.gso_type, rendered.gso_size


def link_limits(features: LinkFeatures):
    """The `link_limits *` of a link, for C."""
    return ffi.new("link_limits *", (features.medium, features.offloads, features.frame_max))
