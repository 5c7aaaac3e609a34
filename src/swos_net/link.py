"""What a link tells the stack about itself."""

from dataclasses import dataclass
from enum import IntEnum, IntFlag


class Medium(IntEnum):
    """What a frame starts with.  The numbers are those of the data plane."""

    IP = 0
    ETHERNET = 1


class Offload(IntFlag):
    """What the other end of a link takes from us (OFFLOAD_* of the data plane)."""

    NONE = 0
    CHECKSUM = 1
    TSO4 = 2
    TSO6 = 4


@dataclass(frozen=True, slots=True)
class LinkFeatures:
    """One link as its device describes it; a device may replace it while it runs (a guest negotiates).

    `mtu` counts bytes of an IP packet.  `address` is our own MAC address on the link (6 bytes), or None on a
    medium without link addresses.  `frame_max` is the longest frame, super-segments included, in bytes.
    """

    medium: Medium = Medium.ETHERNET
    mtu: int = 1500
    address: bytes | None = None
    offloads: Offload = Offload.NONE
    frame_max: int = 65549

    @property
    def link_header(self) -> int:
        """Bytes of link header before the IP packet."""
        return 14 if self.medium is Medium.ETHERNET else 0
