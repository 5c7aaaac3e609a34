"""Neighbor Discovery messages and their options.

Read first: RFC 4861 4, RFC 8106 5 (RDNSS, DNSSL), RFC 3971 5.3.2 with RFC 7527 (nonce).  Options not listed in
`NdOptions` are skipped, as RFC 4861 4.6 asks for.  What a message does is in `swos_net.neighbor`.
"""

import struct
from dataclasses import dataclass, field

from swos_net.address import is_ipv4, is_link_local, is_multicast, solicited_node
from swos_net.errors import WireError
from swos_net.wire import icmpv6

ROUTER_SOLICITATION = 133
ROUTER_ADVERTISEMENT = 134
NEIGHBOR_SOLICITATION = 135
NEIGHBOR_ADVERTISEMENT = 136
REDIRECT = 137

HOP_LIMIT = 255
INFINITE_LIFETIME = 0xFFFFFFFF

_SOURCE_LINK_ADDRESS = 1
_TARGET_LINK_ADDRESS = 2
_PREFIX_INFORMATION = 3
_REDIRECTED_HEADER = 4
_MTU = 5
_NONCE = 14
_RDNSS = 25
_DNSSL = 31

# An option costs at least 8 bytes, so even a jumbo frame is walked in bounded time.
_OPTIONS_MAX = 256

_LINK_ADDRESS_OPTION = struct.Struct("!BB6s")
_PREFIX_OPTION = struct.Struct("!BBBBIII16s")
_MTU_OPTION = struct.Struct("!BBHI")
_DNS_OPTION = struct.Struct("!BBHI")
_ADVERTISEMENT = struct.Struct("!BBHBBHII")


@dataclass(slots=True)
class PrefixInformation:
    """RFC 4861 4.6.2; lifetimes in seconds, INFINITE_LIFETIME for ever."""

    prefix: bytes
    length: int
    on_link: bool
    autonomous: bool
    valid_lifetime: int
    preferred_lifetime: int


@dataclass(slots=True)
class RecursiveServers:
    """RDNSS, RFC 8106 5.1; a lifetime of 0 withdraws the servers."""

    lifetime: int
    servers: list[bytes]


@dataclass(slots=True)
class SearchList:
    """DNSSL, RFC 8106 5.2: domain names as text without a trailing dot."""

    lifetime: int
    domains: list[str]


@dataclass(slots=True)
class NdOptions:
    source_link_address: bytes | None = None
    target_link_address: bytes | None = None
    prefixes: list[PrefixInformation] = field(default_factory=list)
    redirected: bytes | None = None
    mtu: int | None = None
    nonce: bytes | None = None
    recursive_servers: list[RecursiveServers] = field(default_factory=list)
    search_lists: list[SearchList] = field(default_factory=list)


@dataclass(slots=True)
class RouterSolicitation:
    options: NdOptions = field(default_factory=NdOptions)
    code: int = 0


@dataclass(slots=True)
class RouterAdvertisement:
    """RFC 4861 4.2.  Lifetime in seconds, 0 for no default router; `reachable_time` and `retransmit_timer` in
    milliseconds, 0 and `hop_limit` 0 for unspecified."""

    hop_limit: int = 0
    managed: bool = False
    other: bool = False
    router_lifetime: int = 0
    reachable_time: int = 0
    retransmit_timer: int = 0
    options: NdOptions = field(default_factory=NdOptions)
    code: int = 0


@dataclass(slots=True)
class NeighborSolicitation:
    target: bytes
    options: NdOptions = field(default_factory=NdOptions)
    code: int = 0


@dataclass(slots=True)
class NeighborAdvertisement:
    target: bytes
    router: bool = False
    solicited: bool = False
    override: bool = False
    options: NdOptions = field(default_factory=NdOptions)
    code: int = 0


@dataclass(slots=True)
class Redirect:
    """`target` is the better first hop for `destination`; the same address when that is a neighbor."""

    target: bytes
    destination: bytes
    options: NdOptions = field(default_factory=NdOptions)
    code: int = 0


NdMessage = RouterSolicitation | RouterAdvertisement | NeighborSolicitation | NeighborAdvertisement | Redirect


def parse(data: bytes, source: bytes, destination: bytes) -> NdMessage:
    """An ICMPv6 message of type 133 to 137 from its type byte on, checksum verified; see also `validate`."""
    if len(data) < 8:
        raise WireError("truncated")
    if icmpv6.checksum(data, source, destination) != 0:
        raise WireError("bad_icmp_checksum")
    data = bytes(data)
    kind, code = data[0], data[1]
    if kind == NEIGHBOR_SOLICITATION:
        _need(data, 24)
        return NeighborSolicitation(data[8:24], parse_options(data[24:]), code)
    if kind == NEIGHBOR_ADVERTISEMENT:
        _need(data, 24)
        flags = data[4]
        return NeighborAdvertisement(
            data[8:24], bool(flags & 0x80), bool(flags & 0x40), bool(flags & 0x20), parse_options(data[24:]), code
        )
    if kind == ROUTER_SOLICITATION:
        return RouterSolicitation(parse_options(data[8:]), code)
    if kind == ROUTER_ADVERTISEMENT:
        _need(data, 16)
        _, _, _, hop_limit, flags, lifetime, reachable, retransmit = _ADVERTISEMENT.unpack_from(data)
        return RouterAdvertisement(
            hop_limit,
            bool(flags & 0x80),
            bool(flags & 0x40),
            lifetime,
            reachable,
            retransmit,
            parse_options(data[16:]),
            code,
        )
    if kind == REDIRECT:
        _need(data, 40)
        return Redirect(data[8:24], data[24:40], parse_options(data[40:]), code)
    raise WireError("bad_nd_type")


def _need(data: bytes, length: int) -> None:
    if len(data) < length:
        raise WireError("truncated")


def parse_options(data: bytes) -> NdOptions:
    """The options behind a message's fixed part; of an option that may appear once the first counts."""
    options = NdOptions()
    offset = 0
    for _ in range(_OPTIONS_MAX):
        if offset == len(data):
            return options
        if offset + 2 > len(data):
            raise WireError("truncated")
        length = data[offset + 1] * 8
        if length == 0:
            # RFC 4861 4.6: nodes MUST silently discard a packet that contains an option with length zero
            raise WireError("bad_nd_option")
        if offset + length > len(data):
            raise WireError("truncated")
        _parse_option(data[offset], data[offset : offset + length], options)
        offset += length
    raise WireError("bad_nd_option")


def _parse_option(kind: int, option: bytes, options: NdOptions) -> None:
    length = len(option)
    if kind == _SOURCE_LINK_ADDRESS:
        if options.source_link_address is None:
            options.source_link_address = _link_address(option)
    elif kind == _TARGET_LINK_ADDRESS:
        if options.target_link_address is None:
            options.target_link_address = _link_address(option)
    elif kind == _PREFIX_INFORMATION:
        if length != 32 or option[2] > 128:
            raise WireError("bad_nd_option")
        _, _, prefix_length, flags, valid, preferred, _, prefix = _PREFIX_OPTION.unpack(option)
        options.prefixes.append(
            PrefixInformation(prefix, prefix_length, bool(flags & 0x80), bool(flags & 0x40), valid, preferred)
        )
    elif kind == _REDIRECTED_HEADER:
        if options.redirected is None:
            options.redirected = option[8:]
    elif kind == _MTU:
        if length != 8:
            raise WireError("bad_nd_option")
        if options.mtu is None:
            options.mtu = int.from_bytes(option[4:], "big")
    elif kind == _NONCE:
        if options.nonce is None:
            options.nonce = option[2:]
    elif kind == _RDNSS:
        if length < 24 or length % 16 != 8:
            raise WireError("bad_nd_option")
        servers = [option[start : start + 16] for start in range(8, length, 16)]
        options.recursive_servers.append(RecursiveServers(int.from_bytes(option[4:8], "big"), servers))
    elif kind == _DNSSL:
        if length < 16:
            raise WireError("bad_nd_option")
        options.search_lists.append(SearchList(int.from_bytes(option[4:8], "big"), _parse_domains(option[8:])))


def _link_address(option: bytes) -> bytes:
    if len(option) != 8:
        raise WireError("bad_nd_option")
    return option[2:]


def _parse_domains(data: bytes) -> list[str]:
    """RFC 8106 5.2: names as in RFC 1035 3.1, without compression, zero bytes as padding."""
    domains = []
    labels: list[str] = []
    offset = 0
    while offset < len(data):
        length = data[offset]
        offset += 1
        if length == 0:
            if labels:
                domains.append(".".join(labels))
                labels = []
            continue
        label = data[offset : offset + length]
        # A byte outside printable ASCII, or a dot, would make another name out of the text; 255 is RFC 1035 2.3.4.
        if length > 63 or len(label) < length or any(not 0x21 <= byte <= 0x7E or byte == 0x2E for byte in label):
            raise WireError("bad_nd_option")
        labels.append(label.decode("ascii"))
        if sum(len(part) + 1 for part in labels) > 254:
            raise WireError("bad_nd_option")
        offset += length
    if labels:
        raise WireError("bad_nd_option")
    return domains


def validate(message: NdMessage, source: bytes, destination: bytes, hop_limit: int) -> None:
    """The receiver's checks of RFC 4861 6.1.1, 6.1.2, 7.1.1, 7.1.2 and 8.1; WireError for a message to be dropped.

    Lengths, options and checksum were checked by `parse`.
    """
    if hop_limit != HOP_LIMIT:
        raise WireError("bad_nd_hop_limit")
    if message.code != 0:
        raise WireError("bad_nd_code")
    unspecified = source == bytes(16)
    kind = type(message)
    if kind is NeighborSolicitation:
        if _unusable(message.target):
            raise WireError("bad_nd_target")
        if unspecified and (
            destination != solicited_node(message.target) or message.options.source_link_address is not None
        ):
            raise WireError("bad_nd_source")
    elif kind is NeighborAdvertisement:
        if _unusable(message.target) or (is_multicast(destination) and message.solicited):
            raise WireError("bad_nd_target")
    elif kind is RouterSolicitation:
        if unspecified and message.options.source_link_address is not None:
            raise WireError("bad_nd_source")
    elif kind is RouterAdvertisement:
        if not is_link_local(source):
            raise WireError("bad_nd_source")
    else:
        if not is_link_local(source):
            raise WireError("bad_nd_source")
        if _unusable(message.target) or _unusable(message.destination) or (
            message.target != message.destination and not is_link_local(message.target)
        ):
            raise WireError("bad_nd_target")


def _unusable(target: bytes) -> bool:
    """Not an address a neighbor can have: a mapped one (RFC 4038 4.2) would pass for an IPv4 address here."""
    return is_multicast(target) or is_ipv4(target) or target == bytes(16)


def emit(message: NdMessage, source: bytes, destination: bytes) -> bytes:
    """The whole ICMPv6 message with its checksum, from and to these addresses, to be sent with HOP_LIMIT."""
    kind = type(message)
    if kind is NeighborSolicitation:
        raw = bytes((NEIGHBOR_SOLICITATION, message.code, 0, 0, 0, 0, 0, 0)) + message.target
    elif kind is NeighborAdvertisement:
        flags = message.router << 7 | message.solicited << 6 | message.override << 5
        raw = bytes((NEIGHBOR_ADVERTISEMENT, message.code, 0, 0, flags, 0, 0, 0)) + message.target
    elif kind is RouterSolicitation:
        raw = bytes((ROUTER_SOLICITATION, message.code, 0, 0, 0, 0, 0, 0))
    elif kind is RouterAdvertisement:
        raw = _ADVERTISEMENT.pack(
            ROUTER_ADVERTISEMENT,
            message.code,
            0,
            message.hop_limit,
            message.managed << 7 | message.other << 6,
            message.router_lifetime,
            message.reachable_time,
            message.retransmit_timer,
        )
    else:
        raw = bytes((REDIRECT, message.code, 0, 0, 0, 0, 0, 0)) + message.target + message.destination
    raw += emit_options(message.options)
    return raw[:2] + icmpv6.checksum(raw, source, destination).to_bytes(2, "big") + raw[4:]


def emit_options(options: NdOptions) -> bytes:
    """Options in the order of their fields; a redirected packet is padded to 8 bytes."""
    parts = []
    if options.source_link_address is not None:
        parts.append(_LINK_ADDRESS_OPTION.pack(_SOURCE_LINK_ADDRESS, 1, options.source_link_address))
    if options.target_link_address is not None:
        parts.append(_LINK_ADDRESS_OPTION.pack(_TARGET_LINK_ADDRESS, 1, options.target_link_address))
    for prefix in options.prefixes:
        flags = prefix.on_link << 7 | prefix.autonomous << 6
        parts.append(
            _PREFIX_OPTION.pack(
                _PREFIX_INFORMATION,
                4,
                prefix.length,
                flags,
                prefix.valid_lifetime,
                prefix.preferred_lifetime,
                0,
                prefix.prefix,
            )
        )
    if options.redirected is not None:
        parts.append(_emit_option(_REDIRECTED_HEADER, bytes(6) + options.redirected))
    if options.mtu is not None:
        parts.append(_MTU_OPTION.pack(_MTU, 1, 0, options.mtu))
    if options.nonce is not None:
        parts.append(_emit_option(_NONCE, options.nonce))
    for servers in options.recursive_servers:
        body = b"".join(servers.servers)
        parts.append(_DNS_OPTION.pack(_RDNSS, 1 + len(body) // 8, 0, servers.lifetime) + body)
    for search in options.search_lists:
        names = b"".join(_emit_domain(domain) for domain in search.domains)
        parts.append(_emit_option(_DNSSL, struct.pack("!HI", 0, search.lifetime) + names))
    return b"".join(parts)


def _emit_option(kind: int, body: bytes) -> bytes:
    body += bytes(-(len(body) + 2) & 7)
    return bytes((kind, (len(body) + 2) // 8)) + body


def _emit_domain(domain: str) -> bytes:
    labels = [label.encode("ascii") for label in domain.rstrip(".").split(".")]
    if any(not 1 <= len(label) <= 63 for label in labels):
        raise ValueError(f"{domain!r} is not a domain name of labels of 1 to 63 bytes")
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
