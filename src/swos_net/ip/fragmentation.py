"""Splits an outgoing packet into fragments.

Read first: RFC 791 3.2, RFC 1122 3.3.5, RFC 8200 4.5.  Only the source of a packet splits an IPv6 packet.  Choosing the
identification, and whether to fragment at all, is the caller's.
"""

import errno

from swos_net.errors import WireError, os_error
from swos_net.wire import ipv4, ipv6

_COPIED = 0x80  # RFC 791 3.1: the option goes into every fragment
_END_OF_OPTIONS = 0
_NO_OPERATION = 1


def fragment(packet: bytes, mtu: int, identification: int) -> list[bytes]:
    """Complete IP packets of at most `mtu` bytes that carry `packet`, a complete IP packet; itself when it fits.

    `identification` has 16 bits for IPv4 and 32 for IPv6.  OSError EMSGSIZE when the packet must not be fragmented
    (RFC 1191 3) or the MTU leaves no room; WireError when `packet` is malformed.
    """
    if len(packet) <= mtu:
        return [packet]
    return _fragment4(packet, mtu, identification) if packet[0] >> 4 == 4 else _fragment6(packet, mtu, identification)


def _fragment4(packet: bytes, mtu: int, identification: int) -> list[bytes]:
    header = ipv4.parse(packet)
    if header.flags & ipv4.DONT_FRAGMENT:
        raise os_error(errno.EMSGSIZE, f"a packet of {len(packet)} bytes must not be fragmented, the path takes {mtu}")
    payload = packet[header.header_length:header.total_length]
    base, more_after = header.fragment_offset, header.flags & ipv4.MORE_FRAGMENTS
    header.identification = identification
    later_options = _copied_options(header.options)
    fragments = []
    offset = 0
    while offset < len(payload):
        room = _room(mtu - header.header_length, mtu)
        last = mtu - header.header_length >= len(payload) - offset
        data = payload[offset:] if last else payload[offset:offset + room]
        header.fragment_offset = base + offset
        header.flags = more_after if last else ipv4.MORE_FRAGMENTS
        fragments.append(ipv4.emit(header, data))
        offset += len(data)
        header.options = later_options
    return fragments


def _copied_options(options: bytes) -> bytes:
    """The options that go into fragments after the first."""
    copied = b""
    index = 0
    while index < len(options) and options[index] != _END_OF_OPTIONS:
        if options[index] == _NO_OPERATION:
            index += 1
            continue
        length = options[index + 1] if index + 1 < len(options) else 0
        if length < 2 or index + length > len(options):
            raise WireError("bad_ip_options")
        if options[index] & _COPIED:
            copied += options[index:index + length]
        index += length
    return copied + bytes(-len(copied) % 4)


def _fragment6(packet: bytes, mtu: int, identification: int) -> list[bytes]:
    header = ipv6.parse(packet)
    boundary, pointer = _per_fragment_headers(packet)
    payload = packet[boundary:ipv6.HEADER_LENGTH + header.payload_length]
    per_fragment = bytearray(packet[:boundary])
    next_header = per_fragment[pointer]
    per_fragment[pointer] = ipv6.FRAGMENT
    header_length = boundary + ipv6.FRAGMENT_HEADER_LENGTH
    room = _room(mtu - header_length, mtu)
    fragments = []
    offset = 0
    while offset < len(payload):
        last = mtu - header_length >= len(payload) - offset
        data = payload[offset:] if last else payload[offset:offset + room]
        length = header_length - ipv6.HEADER_LENGTH + len(data)
        per_fragment[4:6] = length.to_bytes(2, "big")
        fields = ipv6.FragmentHeader(next_header, offset, not last, identification)
        fragments.append(bytes(per_fragment) + ipv6.emit_fragment(fields) + data)
        offset += len(data)
    return fragments


def _per_fragment_headers(packet: bytes) -> tuple[int, int]:
    """(where the Fragment header goes, where the type of what follows it stands).

    RFC 8200 4.5: after the Routing header if there is one, else after the Hop-by-Hop Options header, else after the
    fixed header.
    """
    boundary, boundary_pointer = ipv6.HEADER_LENGTH, 6
    offset, pointer = boundary, boundary_pointer
    while packet[pointer] in (ipv6.HOP_BY_HOP, ipv6.ROUTING, ipv6.DESTINATION_OPTIONS):
        kind = packet[pointer]
        if offset + 8 > len(packet) or offset + (packet[offset + 1] + 1) * 8 > len(packet):
            raise WireError("truncated")
        pointer = offset
        offset += (packet[offset + 1] + 1) * 8
        if kind != ipv6.DESTINATION_OPTIONS:
            boundary, boundary_pointer = offset, pointer
    return boundary, boundary_pointer


def _room(available: int, mtu: int) -> int:
    """Bytes of data in a fragment that is not the last: a multiple of 8."""
    if available < 8:
        raise os_error(errno.EMSGSIZE, f"an MTU of {mtu} leaves no room for a fragment's data")
    return available & ~7
