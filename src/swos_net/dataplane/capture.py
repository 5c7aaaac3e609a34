"""Copies of frames as they would look on a wire: for captures.  Nothing of a burst or batch is changed."""

from collections.abc import Iterator

from swos_net._dataplane import ffi, lib
from swos_net.dataplane.batch import Batch, link_limits
from swos_net.dataplane.burst import Burst
from swos_net.link import LinkFeatures

_CHECKSUM_FIELD = {6: 16, 17: 6}  # protocol: offset in the transport header
_BATCH_BYTES = ffi.sizeof("segment_batch")


class FrameCopies:
    """Makes copies of at most `snaplen` bytes; a checksum that was left to the receiver is completed in them."""

    def __init__(self, snaplen: int):
        self.snaplen = snaplen
        self._buffer = ffi.new("uint8_t[]", lib.FRAME_BYTES_MAX)
        self._rendered = ffi.new("rendered_frame *")
        self._shadow = ffi.new("segment_batch *")
        self._paths: list = []
        self._identifications: list[int] = []
        self._link: LinkFeatures | None = None
        self._limits = None

    def received(self, burst: Burst) -> Iterator[tuple[bytes, int]]:
        """(bytes, length of the whole frame) of each frame of a burst that has not been released."""
        c, buffer = burst.c, self._buffer
        for index in range(c.count):
            first = c.first_piece[index]
            length = sum(c.pieces[at].length for at in range(first, first + c.piece_count[index]))
            held = lib.burst_copy(c, index, 0, min(length, lib.FRAME_BYTES_MAX), buffer)
            # The sender may have changed its memory since: what was decoded is the copy.
            ffi.memmove(buffer, c.headers[index], min(held, lib.BURST_HEADER_BYTES))
            record = c.records[index]
            field = _CHECKSUM_FIELD.get(record.protocol)
            partial = c.offloads[index].checksum == lib.CHECKSUM_PARTIAL
            if partial and not record.verdict and field and record.frame_length <= held:
                self._complete_checksum(record.transport_offset, record.frame_length, field)
            yield ffi.buffer(buffer, min(held, self.snaplen))[:], length

    def remember(self, batch: Batch) -> None:
        """Before a device gets a sealed batch: notes how far it was."""
        shadow = self._shadow
        ffi.memmove(shadow, batch.c, _BATCH_BYTES)
        pointers = {shadow.segments[index].path for index in range(shadow.next, shadow.count)} - {0}
        self._paths = [ffi.cast("flow_path *", pointer) for pointer in pointers]
        self._identifications = [path.identification for path in self._paths]

    def sent(self, batch: Batch, link: LinkFeatures) -> Iterator[tuple[bytes, int]]:
        """(bytes, length of the whole frame) of each frame that the device of `link` sent since `remember`.

        The frames are rendered again, which is possible until the batch is cleared: what they are made of stays, except
        for the counter of each path's IPv4 packets.  Run the iterator to its end or close it.
        """
        if link is not self._link:
            self._link, self._limits = link, link_limits(link)
        shadow, rendered = self._shadow, self._rendered
        end = batch.c.next, batch.c.next_frame
        shadow.count = min(shadow.count, end[0] + (end[1] > 0))
        after = [path.identification for path in self._paths]
        self._set_identifications(self._identifications)
        try:
            while (shadow.next, shadow.next_frame) < end:
                length = lib.batch_next_frame(shadow, self._limits, self._buffer, lib.FRAME_BYTES_MAX, rendered)
                if length <= 0:
                    break
                if rendered.needs_checksum:
                    self._complete_checksum(rendered.checksum_start, length, rendered.checksum_offset)
                yield ffi.buffer(self._buffer, min(length, self.snaplen))[:], length
        finally:
            self._set_identifications(after)
            self._paths = []

    def _set_identifications(self, values: list[int]) -> None:
        for path, value in zip(self._paths, values):
            path.identification = value

    def _complete_checksum(self, start: int, end: int, field: int) -> None:
        """VIRTIO 1.2, 5.1.6.2: the field holds the sum of the pseudo header, and is summed with the rest."""
        if start + field + 2 > end:
            return
        value = lib.checksum_finish(lib.checksum_add(0, self._buffer + start, end - start, 0))
        if value == 0 and field == _CHECKSUM_FIELD[17]:
            value = 0xFFFF  # RFC 768: zero means no checksum
        self._buffer[start + field] = value >> 8
        self._buffer[start + field + 1] = value & 0xFF
