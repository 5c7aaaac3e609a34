"""Packets as they are on the wire: the ones the stack sent taken apart, the script's put together.

Read first: script.py, and swos_net/wire.  What the numbers of a script mean on the wire is in flows.py.
"""

import struct
from dataclasses import dataclass

from swos_net.errors import WireError
from swos_net.testing.packetdrill.script import Ecn, IpFields, TcpOption
from swos_net.wire import icmpv4, icmpv6, ipv4, ipv6, tcp, udp
from swos_net.wire.checksum import internet_checksum, pseudo_header_sum

TCP = 6
UDP = 17
ICMP = 1
ICMPV6 = 58

FLAG_BITS = {"F": tcp.FIN, "S": tcp.SYN, "R": tcp.RST, "P": tcp.PSH, ".": tcp.ACK, "U": tcp.URG, "E": tcp.ECE, "W": tcp.CWR,
             "A": 0x100}  # fmt: skip
_FLAG_ORDER = "FSRPUEWA."
_SIMPLE_KINDS = {0: "eol", 1: "nop", 4: "sackOK"}
_COUNTERS_OF_KIND = {172: ("e0b", "ceb", "e1b"), 174: ("e1b", "ceb", "e0b")}  # RFC 9768 3.2.3: order 0 and order 1
_FAST_OPEN_MAGIC = 0xF989


@dataclass(slots=True)
class LiveTcp:
    """`flags` holds the eight bits of the header and, as 0x100, AE (RFC 9768); numbers as on the wire."""

    source_port: int
    destination_port: int
    seq: int
    ack: int
    flags: int
    window: int
    urgent: int
    options: tuple[TcpOption, ...]
    length: int


@dataclass(slots=True)
class LivePacket:
    """A packet the stack sent at `usecs` since the start.  `transport` is a LiveTcp, a UdpHeader with `length` bytes, an
    ICMP message, or None when it is of another protocol."""

    usecs: int
    raw: bytes
    family: int
    source: bytes
    destination: bytes
    protocol: int
    tos: int
    ttl: int
    flow_label: int
    transport: LiveTcp | udp.UdpHeader | icmpv4.Icmpv4Message | icmpv6.Icmpv6Message | None
    length: int


def flag_bits(text: str) -> int:
    """The bits of a script's flags ("S.", "P.", "SEWA", "-")."""
    bits = 0
    for letter in text.replace("-", ""):
        bits |= int(letter) << 6 if letter.isdigit() else FLAG_BITS[letter]  # a digit is the ACE field
    return bits


def flag_text(bits: int) -> str:
    return "".join(letter for letter in _FLAG_ORDER if bits & FLAG_BITS[letter]) or "-"


def dissect(raw: bytes, usecs: int) -> LivePacket:
    """Takes a sent packet apart and verifies its checksums: WireError when the stack sent nonsense."""
    if raw[0] >> 4 == 4:
        header = ipv4.parse(raw)
        protocol, tos, ttl, label, family = header.protocol, header.tos, header.ttl, 0, 4
        payload = raw[header.header_length : header.total_length]
        source, destination = header.source, header.destination
        fragment = header.fragment_offset or header.flags & ipv4.MORE_FRAGMENTS
    else:
        six = ipv6.parse(raw)
        protocol, tos, ttl, label, family = six.next_header, six.traffic_class, six.hop_limit, six.flow_label, 6
        payload = raw[40 : 40 + six.payload_length]
        source, destination = six.source, six.destination
        fragment = protocol == ipv6.FRAGMENT
    transport = None
    length = len(payload)
    if fragment:
        protocol = -1
    if protocol == TCP:
        transport = _dissect_tcp(payload, source, destination)
        length = transport.length
    elif protocol == UDP:
        transport = udp.parse(payload)
        length = len(payload) - 8
    elif protocol == ICMP:
        transport = icmpv4.parse(payload)
    elif protocol == ICMPV6:
        transport = icmpv6.parse(payload, source, destination)
    return LivePacket(usecs, raw, family, source, destination, protocol, tos, ttl, label, transport, length)


def _dissect_tcp(data: bytes, source: bytes, destination: bytes) -> LiveTcp:
    if not tcp.checksum_valid(data, source, destination):
        raise WireError("bad_tcp_checksum")
    header = tcp.parse(data)
    flags = header.flags | (data[12] & 1) << 8
    options = tuple(parse_options(header.options))
    return LiveTcp(header.source_port, header.destination_port, header.seq, header.ack, flags, header.window,
                   header.urgent_pointer, options, len(data) - header.header_length)  # fmt: skip


def parse_options(data: bytes) -> list[TcpOption]:
    """Every option in its place, padding included, in the words of a script."""
    options = []
    offset = 0
    while offset < len(data):
        kind = data[offset]
        if kind in (0, 1):
            options.append(TcpOption(_SIMPLE_KINDS[kind]))
            offset += 1
            continue
        if offset + 1 >= len(data) or data[offset + 1] < 2 or offset + data[offset + 1] > len(data):
            raise WireError("bad_options")
        length = data[offset + 1]
        options.append(_parse_option(kind, bytes(data[offset + 2 : offset + length])))
        offset += length
    return options


def _parse_option(kind: int, value: bytes) -> TcpOption:
    if kind == 2 and len(value) == 2:
        return TcpOption("mss", (int.from_bytes(value, "big"),))
    if kind == 3 and len(value) == 1:
        return TcpOption("wscale", (value[0],))
    if kind == 4 and not value:
        return TcpOption("sackOK")
    if kind == 5 and value and len(value) % 8 == 0:
        return TcpOption("sack", tuple(struct.iter_unpack("!II", value)))
    if kind == 8 and len(value) == 8:
        return TcpOption("TS", struct.unpack("!II", value))
    if kind == 34:
        return TcpOption("FO", (value,))
    if kind == 254 and len(value) >= 2 and int.from_bytes(value[:2], "big") == _FAST_OPEN_MAGIC:
        return TcpOption("FOEXP", (value[2:],))
    if kind == 19:
        return TcpOption("md5", (value,))
    if kind in _COUNTERS_OF_KIND and len(value) % 3 == 0:
        numbers = [int.from_bytes(value[at : at + 3], "big") for at in range(0, len(value), 3)]
        return TcpOption("ECN", tuple(zip(_COUNTERS_OF_KIND[kind], numbers)))
    return TcpOption(f"kind{kind}", (value,))


def emit_options(options: tuple[TcpOption, ...]) -> bytes:
    """The script's options as bytes, in its order; zeros fill the last word.  ValueError for what cannot be written."""
    data = b"".join(map(_emit_option, options))
    return data + bytes(-len(data) & 3)


def _emit_option(option: TcpOption) -> bytes:
    kind, values = option.kind, option.values
    if kind == "nop":
        return b"\x01"
    if kind == "eol":
        return b"\x00"
    if kind == "sackOK":
        return b"\x04\x02"
    if kind == "mss":
        return b"\x02\x04" + (values[0] & 0xFFFF).to_bytes(2, "big")
    if kind == "wscale":
        return b"\x03\x03" + bytes((values[0] & 0xFF,))
    if kind == "sack":
        blocks = b"".join(struct.pack("!II", left & 0xFFFFFFFF, right & 0xFFFFFFFF) for left, right in values)
        return bytes((5, 2 + len(blocks))) + blocks
    if kind == "TS":
        return b"\x08\x0a" + struct.pack("!II", values[0] & 0xFFFFFFFF, values[1] & 0xFFFFFFFF)
    if kind == "FO" and isinstance(values[0], bytes):
        return bytes((34, 2 + len(values[0]))) + values[0]
    if kind == "FOEXP" and isinstance(values[0], bytes):
        return bytes((254, 4 + len(values[0]))) + _FAST_OPEN_MAGIC.to_bytes(2, "big") + values[0]
    if kind == "md5" and isinstance(values[0], bytes) and len(values[0]) == 16:
        return b"\x13\x12" + values[0]
    if kind == "ECN":
        names = tuple(name for name, _ in values)
        for number, order in _COUNTERS_OF_KIND.items():
            if order[: len(names)] == names:
                return bytes((number, 2 + 3 * len(names))) + b"".join(
                    (count & 0xFFFFFF).to_bytes(3, "big") for _, count in values
                )
    raise ValueError(f"TCP option {kind} {' '.join(map(str, values))} cannot be sent")


def emit_tcp(source: bytes, destination: bytes, segment: LiveTcp, payload: bytes) -> bytes:
    """A TCP segment with its checksum."""
    header = tcp.TcpHeader(segment.source_port, segment.destination_port, segment.seq & 0xFFFFFFFF, segment.ack & 0xFFFFFFFF,
                           segment.flags & 0xFF, segment.window & 0xFFFF, emit_options(segment.options),
                           segment.urgent)  # fmt: skip
    raw = bytearray(tcp.emit(header, payload, source, destination))
    if segment.flags & 0x100:
        raw[12] |= 1
        raw[16:18] = b"\0\0"
        checksum = internet_checksum(bytes(raw), pseudo_header_sum(source, destination, TCP, len(raw)))
        raw[16:18] = checksum.to_bytes(2, "big")
    return bytes(raw)


def emit_ip(family: int, source: bytes, destination: bytes, protocol: int, payload: bytes, fields: IpFields = IpFields()) -> bytes:
    """An IP packet around `payload`; what `fields` leaves open has the usual value."""
    tos = fields.tos or 0
    if fields.ecn is not None:
        tos = tos & 0xFC | (Ecn.ECT0 if fields.ecn is Ecn.ECT_ANY else fields.ecn)
    ttl = 64 if fields.ttl is None else fields.ttl
    if family == 4:
        return ipv4.emit(ipv4.Ipv4Header(source, destination, protocol, ttl, tos, flags=ipv4.DONT_FRAGMENT), payload)
    return ipv6.emit(ipv6.Ipv6Header(source, destination, protocol, ttl, tos, fields.flow_label or 0), payload)
