"""A capture of what crosses a device, in a file for Wireshark or tcpdump.

Formats: draft-ietf-opsawg-pcapng (section header, one interface, enhanced packet blocks) and
draft-ietf-opsawg-pcap (with nanoseconds).  Little endian on every machine.
"""

import logging
import os
import struct
from collections.abc import Callable
from typing import BinaryIO

from swos_net import clock as clocks
from swos_net._dataplane import ffi, lib
from swos_net.dataplane.batch import link_limits
from swos_net.link import LinkFeatures, Medium
from swos_net.version import __version__

log = logging.getLogger(__name__)

SNAPLEN = 262144
LINKTYPE_ETHERNET = 1  # draft-ietf-opsawg-pcaplinktype
LINKTYPE_RAW = 101     # an IPv4 or IPv6 packet
INBOUND, OUTBOUND = 1, 2  # epb_flags, bits 0 and 1

_CHECKSUM_FIELD = {6: 16, 17: 6}  # protocol: offset in the transport header
_BATCH_BYTES = ffi.sizeof("segment_batch")


class PcapngWriter:
    """Blocks of a pcapng file with one interface; timestamps have nanoseconds, packets their direction."""

    def __init__(self, file: BinaryIO, linktype: int, snaplen: int):
        self._file = file
        # section header: byte-order magic, version 1.0, section length unknown
        self._block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + _option(4, f"swos_net {__version__}".encode()) + _END)
        # interface description; if_tsresol 9: 10^-9 s
        self._block(1, struct.pack("<HHI", linktype, 0, snaplen) + _option(9, b"\x09") + _END)

    def packet(self, time_ns: int, direction: int, data: bytes, original_length: int) -> None:
        """An enhanced packet block with epb_flags."""
        fixed = struct.pack("<IIIII", 0, time_ns >> 32 & 0xFFFFFFFF, time_ns & 0xFFFFFFFF, len(data), original_length)
        self._block(6, fixed + _padded(data) + struct.pack("<HHI", 2, 4, direction) + _END)

    def _block(self, kind: int, body: bytes) -> None:
        length = struct.pack("<I", len(body) + 12)
        self._file.write(struct.pack("<I", kind) + length + body + length)


class PcapWriter:
    """The older format, which has no direction."""

    def __init__(self, file: BinaryIO, linktype: int, snaplen: int):
        self._file = file
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, snaplen, linktype))

    def packet(self, time_ns: int, direction: int, data: bytes, original_length: int) -> None:
        seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
        self._file.write(struct.pack("<IIII", seconds & 0xFFFFFFFF, nanoseconds, len(data), original_length) + data)


FORMATS = {"pcapng": PcapngWriter, "pcap": PcapWriter}

_END = bytes(4)  # opt_endofopt


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


class PcapTap:
    """A device that passes everything on to `device` and writes every frame of both directions to `file`.

    `file` is a path, or a binary file that stays the caller's.  `format` is "pcapng" or "pcap".  `snaplen` bytes of a
    frame are kept at most.  `clock` gives nanoseconds since 1970.

    A super-segment is one frame here as it is on the link.  Checksums that were left to the receiver are completed, as
    a network card would.  A frame that the link itself refuses counts as sent.  When the file cannot be written any
    more the capture ends, and the device goes on.
    """

    def __init__(
        self,
        device,
        file: str | os.PathLike | BinaryIO,
        *,
        format: str = "pcapng",
        snaplen: int = SNAPLEN,
        clock: Callable[[], int] = clocks.wall_ns,
    ):
        if format not in FORMATS:
            raise ValueError(f"capture formats are {' and '.join(FORMATS)}, not {format!r}")
        if snaplen < 1:
            raise ValueError(f"snaplen is at least 1 byte, not {snaplen}")
        self.device = device
        self.snaplen = snaplen
        self.frames = 0
        self._clock = clock
        self._owns_file = isinstance(file, (str, os.PathLike))
        self._file = open(file, "wb") if self._owns_file else file
        self._unflushed = True
        self._buffer = ffi.new("uint8_t[]", lib.FRAME_BYTES_MAX)
        self._rendered = ffi.new("rendered_frame *")
        self._shadow = ffi.new("segment_batch *")
        self._limits_of: LinkFeatures | None = None
        self._limits = None
        linktype = LINKTYPE_ETHERNET if device.link.medium is Medium.ETHERNET else LINKTYPE_RAW
        try:
            self._writer = FORMATS[format](self._file, linktype, snaplen)
        except BaseException:
            if self._owns_file:
                self._file.close()
            raise

    # What the device says

    @property
    def link(self) -> LinkFeatures:
        return self.device.link

    @property
    def link_up(self) -> bool:
        return self.device.link_up

    @property
    def wants_write(self) -> bool:
        return self.device.wants_write

    def fileno(self) -> int:
        return self.device.fileno()

    def release(self, burst) -> None:
        self.device.release(burst)

    def counters(self) -> dict[str, int]:
        return self.device.counters() | {"captured_frames": self.frames}

    def receive(self, burst) -> int:
        received = self.device.receive(burst)
        if self._writer is not None:
            if received:
                self._capture(self._received_frames, burst)
            elif self._unflushed:
                self._capture(self._flush)
        return received

    def transmit(self, batch) -> bool:
        if self._writer is None:
            return self.device.transmit(batch)
        # The frames are rendered again from a copy, up to where the device got: what is in memory stays until the
        # batch is cleared, except the counters of IPv4 packets.
        shadow = self._shadow
        ffi.memmove(shadow, batch.c, _BATCH_BYTES)
        first, count = shadow.next, shadow.count
        paths = {segment.path for segment in shadow.segments[first:count] if segment.path} if count > first else ()
        paths = [ffi.cast("flow_path *", path) for path in paths]
        before = [path.identification for path in paths]
        sent = self.device.transmit(batch)
        after = [path.identification for path in paths]
        _set_identifications(paths, before)
        try:
            self._capture(self._sent_frames, batch.c)
        finally:
            _set_identifications(paths, after)
        return sent

    def close(self) -> None:
        """Closes the device, and the file when it was given as a path."""
        self.device.close()
        self._end()

    # The capture

    def _capture(self, write: Callable[..., None], *arguments) -> None:
        try:
            write(*arguments)
        except (OSError, ValueError) as error:  # ValueError: the file was closed
            log.warning("the capture ends after %d frames: %s", self.frames, error)
            self._end()

    def _end(self) -> None:
        self._writer = None
        try:
            if self._owns_file:
                self._file.close()
            else:
                self._file.flush()
        except (OSError, ValueError) as error:
            log.warning("the end of the capture is lost: %s", error)

    def _flush(self) -> None:
        self._file.flush()
        self._unflushed = False

    def _write(self, time_ns: int, direction: int, data: bytes, original_length: int) -> None:
        self._unflushed = True
        self._writer.packet(time_ns, direction, data, original_length)
        self.frames += 1

    def _received_frames(self, burst) -> None:
        now = self._clock()
        c = burst.c
        for index in range(c.count):
            first = c.first_piece[index]
            length = sum(piece.length for piece in c.pieces[first : first + c.piece_count[index]]) if c.piece_count[index] else 0
            held = lib.burst_copy(c, index, 0, min(length, lib.FRAME_BYTES_MAX), self._buffer)
            # The sender may have changed its memory since: what was decoded is the copy.
            ffi.memmove(self._buffer, c.headers[index], min(held, lib.BURST_HEADER_BYTES))
            record = c.records[index]
            field = _CHECKSUM_FIELD.get(record.protocol)
            if c.offloads[index].checksum == lib.CHECKSUM_PARTIAL and not record.verdict and field and record.frame_length <= held:
                self._complete_checksum(record.transport_offset, record.frame_length, field)
            self._write(now, INBOUND, ffi.buffer(self._buffer, min(held, self.snaplen))[:], length)

    def _sent_frames(self, batch_c) -> None:
        """What lies between the copy's place and the place that the device has reached."""
        now = self._clock()
        shadow, rendered = self._shadow, self._rendered
        end = batch_c.next, batch_c.next_frame
        shadow.count = min(shadow.count, end[0] + (end[1] > 0))
        link = self.device.link
        if link is not self._limits_of:
            self._limits_of, self._limits = link, link_limits(link)
        while (shadow.next, shadow.next_frame) < end:
            length = lib.batch_next_frame(shadow, self._limits, self._buffer, lib.FRAME_BYTES_MAX, rendered)
            if length <= 0:
                break
            if rendered.needs_checksum:
                self._complete_checksum(rendered.checksum_start, length, rendered.checksum_offset)
            self._write(now, OUTBOUND, ffi.buffer(self._buffer, min(length, self.snaplen))[:], length)

    def _complete_checksum(self, start: int, end: int, field: int) -> None:
        """VIRTIO 1.2, 5.1.6.2: the field holds the sum of the pseudo header, and is summed with the rest."""
        if start + field + 2 > end:
            return
        value = lib.checksum_finish(lib.checksum_add(0, self._buffer + start, end - start, 0))
        if value == 0 and field == _CHECKSUM_FIELD[17]:
            value = 0xFFFF  # RFC 768: zero means no checksum
        self._buffer[start + field] = value >> 8
        self._buffer[start + field + 1] = value & 0xFF


def _set_identifications(paths: list, values: list[int]) -> None:
    for path, value in zip(paths, values):
        path.identification = value
