"""What ICMPv4 and ICMPv6 messages have in common: the shape of the header, and echo messages.

Read next: icmpv4.py and icmpv6.py, which hold the types, codes and checksums of each.
"""

import struct
from dataclasses import dataclass

HEADER = struct.Struct("!BBHI")  # type, code, checksum, rest
HEADER_LENGTH = HEADER.size


@dataclass(slots=True)
class IcmpMessage:
    """`rest` is the second 32-bit word, whose meaning follows from the type: see the properties.  `payload` is echo
    data, or the quoted packet of an error."""

    type: int
    code: int
    rest: int
    payload: bytes

    @property
    def identifier(self) -> int:
        """Of an echo message (RFC 792, RFC 4443 4.1)."""
        return self.rest >> 16

    @property
    def sequence(self) -> int:
        """Of an echo message."""
        return self.rest & 0xFFFF
