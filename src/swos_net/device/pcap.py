"""A capture of what crosses a device, in a file for Wireshark or tcpdump.

Formats: draft-ietf-opsawg-pcapng (section header, one interface, enhanced packet blocks) and
draft-ietf-opsawg-pcap (with nanoseconds).  Little endian on every machine.
"""

import contextlib
import logging
import os
import struct
from collections.abc import Callable, Iterable
from typing import BinaryIO

from swos_net import clock as clocks
from swos_net.dataplane.capture import FrameCopies
from swos_net.link import LinkFeatures, Medium
from swos_net.version import __version__

log = logging.getLogger(__name__)

SNAPLEN = 262144
LINKTYPE_ETHERNET = 1  # draft-ietf-opsawg-pcaplinktype
LINKTYPE_RAW = 101     # an IPv4 or IPv6 packet
INBOUND, OUTBOUND = 1, 2  # epb_flags, bits 0 and 1


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
        self.frames = 0
        self._copies = FrameCopies(snaplen)
        self._clock = clock
        self._owns_file = isinstance(file, (str, os.PathLike))
        self._file = open(file, "wb") if self._owns_file else file
        self._unflushed = True
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
                burst.more = True  # the call in vain is the one that flushes
                self._capture(self._write, INBOUND, self._copies.received(burst))
            elif self._unflushed:
                self._capture(self._flush)
        return received

    def transmit(self, batch) -> bool:
        if self._writer is None:
            return self.device.transmit(batch)
        self._copies.remember(batch)
        sent = self.device.transmit(batch)
        with contextlib.closing(self._copies.sent(batch, self.device.link)) as frames:
            self._capture(self._write, OUTBOUND, frames)
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

    def _write(self, direction: int, frames: Iterable[tuple[bytes, int]]) -> None:
        now = self._clock()
        for data, length in frames:
            self._unflushed = True
            self._writer.packet(now, direction, data, length)
            self.frames += 1
