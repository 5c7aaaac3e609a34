"""What crossed the wires of a simulated network: a timeline to read, packets to look through, a file for Wireshark.

    recorder = network.observe(Recorder())
    network.run(until=lambda: stream.ended)
    print(recorder.timeline())
    recorder.write_pcap("run.pcapng")

Read first: packet.py.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import BinaryIO

from swos_net.device.pcap import LINKTYPE_ETHERNET, LINKTYPE_RAW, OUTBOUND, SNAPLEN, PcapngWriter
from swos_net.link import Medium
from swos_net.testing.packet import Crossing, Packet
from swos_net.wire.tcp import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG

_FLAGS = ((SYN, "S"), (FIN, "F"), (RST, "R"), (PSH, "P"), (URG, "U"), (ECE, "E"), (CWR, "W"), (ACK, "."))
_ECN = ("", " ect1", " ect0", " ce")


class Recorder:
    """An observer that keeps what it sees, the last `limit` frames of it, or all."""

    def __init__(self, limit: int | None = None):
        self.crossings: deque[Crossing] = deque(maxlen=limit)

    def __call__(self, crossing: Crossing) -> None:
        self.crossings.append(crossing)

    def __len__(self) -> int:
        return len(self.crossings)

    def __iter__(self) -> Iterator[Crossing]:
        return iter(self.crossings)

    def clear(self) -> None:
        self.crossings.clear()

    def segments(self, where: Callable[[Packet], object] | None = None) -> list[Crossing]:
        """Crossings with a TCP segment that `where` likes, in the order in which they were sent."""
        return [
            crossing for crossing in self.crossings
            if crossing.packet.is_tcp and (where is None or where(crossing.packet))
        ]  # fmt: skip

    def timeline(self) -> str:
        """A line for every frame: time, direction, what it was, and its fate.  Sequence numbers count from the first
        one seen in their direction; "late" frames and copies have the times of their arrival."""
        numbers = RelativeNumbers()
        return "\n".join(numbers.line(crossing) for crossing in self.crossings)

    def write_pcap(self, file: str | os.PathLike | BinaryIO, *, received: bool = False) -> int:
        """Writes a pcapng file of what was sent, or of what was received, when; returns how many frames.

        All links that were observed go into one file, so they must be of one medium.
        """
        media = {crossing.wire.medium for crossing in self.crossings}
        if len(media) > 1:
            raise ValueError("one capture file is of one medium: observe one link")
        frames = []
        for crossing in self.crossings:
            direction = OUTBOUND if crossing.wire.name == next(iter(self.crossings)).wire.name else 3 - OUTBOUND
            for at in crossing.arrivals if received else (crossing.time,):
                frames.append((round(at * 1e9), direction, crossing.frame.data))
        frames.sort(key=lambda frame: frame[0])
        if isinstance(file, (str, os.PathLike)):
            with open(file, "wb") as opened:
                _write(opened, media, frames)
        else:
            _write(file, media, frames)
        return len(frames)


def _write(file: BinaryIO, media: set[Medium], frames: list[tuple[int, int, bytes]]) -> None:
    writer = PcapngWriter(file, LINKTYPE_RAW if media == {Medium.IP} else LINKTYPE_ETHERNET, SNAPLEN)
    for at, direction, data in frames:
        writer.packet(at, direction, data[:SNAPLEN], len(data))


class RelativeNumbers:
    """Lines of a timeline, with sequence numbers as people count."""

    def __init__(self) -> None:
        self._starts: dict[bytes, int] = {}  # by flow

    def line(self, crossing: Crossing) -> str:
        packet = crossing.packet
        text = self._segment(packet) if packet.is_tcp else str(packet)
        fate = f"  [{crossing.fate}]" if crossing.fate else ""
        if "late" in crossing.fate or len(crossing.arrivals) > 1:
            fate = fate[:-1] + ": " + ", ".join(f"{at:.6f}" for at in crossing.arrivals) + "]"
        return f"{crossing.time:12.6f}  {crossing.wire.name:<18}  {text}{fate}"

    def _segment(self, packet: Packet) -> str:
        start = self._starts.get(packet.flow)
        if start is None or packet.flags & SYN:
            start = self._starts[packet.flow] = packet.seq
        if packet.flags & ACK:
            acknowledged = self._starts.setdefault(packet.opposite, packet.ack)
        else:
            acknowledged = 0
        flags = "".join(letter for bit, letter in _FLAGS if packet.flags & bit)
        seq = (packet.seq - start) & 0xFFFFFFFF
        text = f"{packet.source_port} > {packet.destination_port} [{flags}] seq {seq}"
        if packet.length:
            text += f":{seq + packet.length}"
        if packet.flags & ACK:
            text += f" ack {(packet.ack - acknowledged) & 0xFFFFFFFF}"
        text += f" win {packet.window}{_ECN[packet.ecn]}"
        options = packet.options if packet.options_present else None
        if options is not None:
            if options.mss is not None:
                text += f" mss {options.mss}"
            if options.window_scale is not None:
                text += f" wscale {options.window_scale}"
            if options.sack_permitted:
                text += " sackOK"
            if options.sack_blocks:
                text += " sack " + " ".join(
                    f"{(left - acknowledged) & 0xFFFFFFFF}:{(right - acknowledged) & 0xFFFFFFFF}"
                    for left, right in options.sack_blocks
                )
            if options.ts_val is not None:
                text += f" ts {options.ts_val}/{options.ts_ecr}"
        return text
