"""The IPv6 header and the walk over extension headers.

Read first: RFC 8200 3 and 4, RFC 5095 (routing type 0), RFC 6946 (atomic fragments).  Authentication and
encapsulating headers are left to the caller as an upper protocol nobody knows; jumbograms are not supported.
"""

import struct
from dataclasses import dataclass

from swos_net.address import IPV4_PREFIX
from swos_net.errors import WireError

HEADER_LENGTH = 40
FRAGMENT_HEADER_LENGTH = 8
MINIMUM_MTU = 1280

HOP_BY_HOP = 0
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
ROUTING = 43
FRAGMENT = 44
PROTOCOL_ICMPV6 = 58
NO_NEXT_HEADER = 59
DESTINATION_OPTIONS = 60

# Codes of an ICMPv6 Parameter Problem (RFC 4443 3.4), as ExtensionProblem.code
ERRONEOUS_FIELD = 0
UNRECOGNIZED_NEXT_HEADER = 1
UNRECOGNIZED_OPTION = 2
INCOMPLETE_HEADER_CHAIN = 3  # RFC 7112 5

# A packet with more is hostile; RFC 8504 5.3 lets a node limit them.
EXTENSIONS_MAX = 16
OPTIONS_MAX = 64

_OPTION_PAD1 = 0
_OPTION_PADN = 1
_OPTION_ROUTER_ALERT = 5

_HEADER = struct.Struct("!IHBB16s16s")
_FRAGMENT = struct.Struct("!BBHI")


@dataclass(slots=True)
class Ipv6Header:
    """`next_header` is that of the fixed header.  `payload_length` is what `parse` read; `emit` computes its own."""

    source: bytes
    destination: bytes
    next_header: int
    hop_limit: int = 64
    traffic_class: int = 0
    flow_label: int = 0
    payload_length: int = 0


@dataclass(slots=True)
class FragmentHeader:
    """RFC 8200 4.5; `offset` counts bytes."""

    next_header: int
    offset: int
    more_fragments: bool
    identification: int


@dataclass(slots=True)
class ExtensionProblem:
    """Why a packet is to be discarded.  With `code` None silently; else a Parameter Problem of that code pointing at
    byte `pointer` of the packet is sent, to a packet for a multicast address only when `multicast_too`."""

    code: int | None
    pointer: int = 0
    multicast_too: bool = False


@dataclass(slots=True)
class ExtensionChain:
    """What `walk_extensions` found: an upper header of type `protocol` at byte `offset` of the packet, or the data of
    a fragment there when `fragment` is set.  `next_header_pointer` is where `protocol` stands, for a Parameter
    Problem.  A packet with a `problem` goes no further."""

    protocol: int
    offset: int
    next_header_pointer: int
    fragment: FragmentHeader | None = None
    router_alert: bool = False
    problem: ExtensionProblem | None = None


def parse(data: bytes) -> Ipv6Header:
    """The fixed header of a packet; what follows is `data[HEADER_LENGTH:HEADER_LENGTH + header.payload_length]`."""
    header = parse_quoted(data)
    if header.payload_length > len(data) - HEADER_LENGTH:
        raise WireError("truncated")
    return header


def parse_quoted(data: bytes) -> Ipv6Header:
    """The fixed header of a packet quoted in an ICMP error, whose payload may be cut off."""
    if len(data) < HEADER_LENGTH:
        raise WireError("truncated")
    first, payload_length, next_header, hop_limit, source, destination = _HEADER.unpack_from(data)
    if first >> 28 != 6:
        raise WireError("bad_ip_version")
    if source[:12] == IPV4_PREFIX or destination[:12] == IPV4_PREFIX:
        # A mapped address is never on the wire (RFC 4038 4.2); here it would pass for an IPv4 one.
        raise WireError("bad_source")
    return Ipv6Header(source, destination, next_header, hop_limit, first >> 20 & 0xFF, first & 0xFFFFF, payload_length)


def walk_extensions(data: bytes, next_header: int, offset: int = HEADER_LENGTH, pointer: int = 6) -> ExtensionChain:
    """Steps over the extension headers of a packet, in the order they stand in (RFC 8200 4.1).

    `data` is the packet from its fixed header on, without link padding; `next_header` is the type of what stands
    at `offset`, and `pointer` is where that type is written.  A fragment ends the walk, unless it is the whole
    packet (RFC 6946).  WireError when a header does not fit into `data`.
    """
    chain = ExtensionChain(next_header, offset, pointer)
    for count in range(EXTENSIONS_MAX + 1):
        protocol = chain.protocol
        if protocol == HOP_BY_HOP and (count or chain.offset != HEADER_LENGTH):
            # RFC 8200 4.1: anywhere but right after the fixed header it is an unrecognized next header
            chain.problem = ExtensionProblem(UNRECOGNIZED_NEXT_HEADER, chain.next_header_pointer)
            return chain
        if protocol not in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS):
            return chain
        if count == EXTENSIONS_MAX:
            raise WireError("bad_extension")
        start = chain.offset
        if start + 8 > len(data):
            raise WireError("truncated")
        length = FRAGMENT_HEADER_LENGTH if protocol == FRAGMENT else (data[start + 1] + 1) * 8
        if start + length > len(data):
            raise WireError("truncated")
        if protocol == FRAGMENT:
            fragment = parse_fragment(data, start)
            if fragment.offset or fragment.more_fragments:
                chain.fragment = fragment
        elif protocol == ROUTING:
            # RFC 8200 4.4: with segments left, a type we do not know (RFC 5095 3: type 0 is one) is an error
            if data[start + 3]:
                chain.problem = ExtensionProblem(ERRONEOUS_FIELD, start + 2)
        else:
            _walk_options(data, start + 2, start + length, chain, protocol == HOP_BY_HOP)
        if chain.problem is not None:
            return chain
        chain.protocol = data[start]
        chain.next_header_pointer = start
        chain.offset = start + length
        if chain.fragment is not None:
            return chain
    return chain


def _walk_options(data: bytes, offset: int, end: int, chain: ExtensionChain, hop_by_hop: bool) -> None:
    """RFC 8200 4.2: every option is known, to be skipped, or a reason to discard, by the top bits of its type."""
    for _ in range(OPTIONS_MAX):
        # A run of Pad1 is one option as far as the limit is concerned.
        while offset < end and data[offset] == _OPTION_PAD1:
            offset += 1
        if offset >= end:
            return
        if offset + 2 > end or offset + 2 + data[offset + 1] > end:
            raise WireError("bad_extension")
        kind = data[offset]
        if kind == _OPTION_ROUTER_ALERT and hop_by_hop:
            chain.router_alert = True
        elif kind != _OPTION_PADN and kind >> 6:
            action = kind >> 6
            if action == 1:
                chain.problem = ExtensionProblem(None)
            else:
                chain.problem = ExtensionProblem(UNRECOGNIZED_OPTION, offset, action == 2)
            return
        offset += 2 + data[offset + 1]
    raise WireError("bad_extension")


def parse_fragment(data: bytes, offset: int = 0) -> FragmentHeader:
    """The fragment header at byte `offset`."""
    if offset + FRAGMENT_HEADER_LENGTH > len(data):
        raise WireError("truncated")
    next_header, _reserved, field, identification = _FRAGMENT.unpack_from(data, offset)
    return FragmentHeader(next_header, field & 0xFFF8, bool(field & 1), identification)


def emit(header: Ipv6Header, payload: bytes = b"") -> bytes:
    """Fixed header and payload, which begins with any extension headers."""
    return (
        _HEADER.pack(
            0x60000000 | header.traffic_class << 20 | header.flow_label,
            len(payload),
            header.next_header,
            header.hop_limit,
            header.source,
            header.destination,
        )
        + payload
    )


def emit_fragment(header: FragmentHeader) -> bytes:
    """The 8 bytes of a fragment header."""
    if header.offset & 7:
        raise ValueError("a fragment offset counts in eights of bytes")
    return _FRAGMENT.pack(header.next_header, 0, header.offset | header.more_fragments, header.identification)


def emit_router_alert(next_header: int, value: int = 0) -> bytes:
    """A hop-by-hop header with the Router Alert option (RFC 2711); value 0 announces MLD (RFC 3810 5)."""
    return bytes((next_header, 0, _OPTION_ROUTER_ALERT, 2, value >> 8, value & 0xFF, _OPTION_PADN, 0))
