"""Frames that cross a simulated wire, decoded when somebody looks.

Read first: dataplane/burst.py, whose decoder does the work: what is right or wrong here is right or wrong for a stack.
Also here: the two things that are done to frames on the way, congestion marks and bit errors.
"""

from random import Random
from typing import NamedTuple

from swos_net.address import format_address
from swos_net.dataplane.burst import Burst, DropReason
from swos_net.errors import WireError
from swos_net.link import Medium
from swos_net.wire.pretty import describe_frame
from swos_net.wire.tcp import TcpOptions, parse_options

PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
IP_ETHERTYPES = (b"\x08\x00", b"\x86\xdd")
CONGESTION_EXPERIENCED = 3  # RFC 3168 5


class Frame(NamedTuple):
    """A frame and what its sender's offloads left open (see `Burst.add`)."""

    data: bytes
    checksum: int = 0
    gso_type: int = 0
    gso_size: int = 0


class Packet:
    """What is in a frame.  `seq`, `ack` and `window` are as on the wire; `length` counts payload bytes.

    `number` counts the frames of its direction from 0.  `problem` is `DropReason.NONE`, or why a stack would refuse
    it: a wrong checksum, a header cut short.  `flow` is the same for all packets of one direction of a connection.
    """

    __slots__ = ("_medium", "_payload_offset", "_transport", "ack", "ecn", "flags", "flow", "frame", "length", "number",
                 "options_present", "problem", "protocol", "seq", "ts_ecr", "ts_val", "window")  # fmt: skip

    def __init__(self, frame: bytes, number: int, medium: Medium, record: tuple):
        self.frame = frame
        self.number = number
        self._medium = medium
        (self.flow, self.problem, _ethertype, self.protocol, _hop_limit, traffic_class, _flags, self.flags,
         self.options_present, self.window, _network, self._transport, self._payload_offset, _segment_size, self.length,
         _frame_length, self.seq, self.ack, self.ts_val, self.ts_ecr, *_rest) = record  # fmt: skip
        self.ecn = traffic_class & 3

    @property
    def is_tcp(self) -> bool:
        """Whether this is a whole TCP segment with nothing wrong."""
        return self.protocol == PROTOCOL_TCP and not self.problem

    @property
    def occupied(self) -> int:
        """Sequence numbers that the segment takes: payload, SYN and FIN."""
        return self.length + (self.flags >> 1 & 1) + (self.flags & 1)

    @property
    def source(self) -> str:
        return format_address(self.flow[16:32])

    @property
    def destination(self) -> str:
        return format_address(self.flow[:16])

    @property
    def source_port(self) -> int:
        return int.from_bytes(self.flow[34:36], "big")

    @property
    def destination_port(self) -> int:
        return int.from_bytes(self.flow[32:34], "big")

    @property
    def opposite(self) -> bytes:
        """The `flow` of the connection's other direction."""
        flow = self.flow
        return flow[16:32] + flow[:16] + flow[34:36] + flow[32:34]

    @property
    def payload(self) -> bytes:
        return self.frame[self._payload_offset : self._payload_offset + self.length]

    @property
    def options(self) -> TcpOptions:
        """Of a TCP segment; none when they are malformed."""
        try:
            return parse_options(self.frame[self._transport + 20 : self._payload_offset])
        except WireError:
            return TcpOptions()

    def __str__(self) -> str:
        return describe_frame(self.frame, self._medium)


class Decoder:
    """Makes packets of frames; one for a network."""

    def __init__(self) -> None:
        self._burst = Burst(arena=False)

    def decode(self, frame: Frame, number: int, medium: Medium) -> Packet:
        burst = self._burst
        burst.clear()
        burst.add(frame.data, medium, checksum=frame.checksum, gso_type=frame.gso_type, gso_size=frame.gso_size)
        for record in burst.records():
            return Packet(frame.data, number, medium, record)
        raise AssertionError("an empty burst has room for one frame")


class Crossing:
    """One frame that was sent into a wire, and what became of it.

    `fate` is "" for a frame that fares well, else words: lost, dropped (by a script), queue full, too long,
    duplicated, corrupted, marked, late.  `arrivals` are the times at which copies of it arrive.
    """

    __slots__ = ("_packet", "arrivals", "fate", "frame", "number", "time", "wire")

    def __init__(self, time: float, wire, number: int, frame: Frame, fate: str, arrivals: tuple[float, ...]):
        self.time = time
        self.wire = wire
        self.number = number
        self.frame = frame
        self.fate = fate
        self.arrivals = arrivals
        self._packet: Packet | None = None

    @property
    def packet(self) -> Packet:
        """As it was sent."""
        if self._packet is None:
            self._packet = self.wire.decoder.decode(self.frame, self.number, self.wire.medium)
        return self._packet

    def __str__(self) -> str:
        fate = f" [{self.fate}]" if self.fate else ""
        return f"{self.time:12.6f} {self.wire.name}: {describe_frame(self.frame.data, self.wire.medium)}{fate}"


def network_offset(frame: bytes, medium: Medium) -> int | None:
    """Where the IP packet begins; None when there is none."""
    if medium is Medium.IP:
        return 0 if frame else None
    return 14 if frame[12:14] in IP_ETHERTYPES and len(frame) > 14 else None


def marked(frame: bytes, medium: Medium) -> bytes | None:
    """The frame with Congestion Experienced in its IP header; None when it is not ECN-capable (RFC 3168 5)."""
    at = network_offset(frame, medium)
    if at is None or len(frame) < at + 20:
        return None
    if frame[at] >> 4 == 4:
        before = frame[at + 1]
        if not before & 3:
            return None
        change = (before | CONGESTION_EXPERIENCED) - before
        # RFC 1624 equation 3: the new complement is the old one less what was added
        checksum = (int.from_bytes(frame[at + 10 : at + 12], "big") - change) % 0xFFFF
        header = frame[at : at + 1] + bytes((before | 3,)) + frame[at + 2 : at + 10] + checksum.to_bytes(2, "big")
        return frame[:at] + header + frame[at + 12 :]
    if not frame[at + 1] >> 4 & 3:
        return None
    return frame[: at + 1] + bytes((frame[at + 1] | 0x30,)) + frame[at + 2 :]


def corrupted(frame: bytes, medium: Medium, random: Random) -> bytes:
    """The frame with up to 15 neighbouring bits changed, anywhere in it; as it was when it has no IP packet."""
    if network_offset(frame, medium) is None:
        return frame
    pattern = random.randrange(1, 1 << 15)
    position = random.randrange(len(frame) * 8 - pattern.bit_length() + 1)
    return (int.from_bytes(frame, "big") ^ pattern << position).to_bytes(len(frame), "big")
