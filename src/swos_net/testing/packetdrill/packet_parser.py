"""Packets as a script writes them: `< S. 0:0(0) ack 1 win 65535 <mss 1460,nop,wscale 7>`, `> udp (1000)`,
`< icmp unreachable frag_needed mtu 1200 [1:1461(1460)]`.
"""

import re
from dataclasses import replace

from swos_net.testing.packetdrill.scanner import Scanner
from swos_net.testing.packetdrill.script import (
    Ecn,
    IcmpPacket,
    IpFields,
    PacketEvent,
    TcpOption,
    TcpPacket,
    UdpPacket,
)

_WRAPPERS = re.compile(r"(ipv4|ipv6|gre|mpls)\b", re.IGNORECASE)
_ENCAPSULATION = re.compile(r"encap\s+\w+(?:\s+[a-z_]+\s+(?:0[xX][0-9A-Fa-f]+|\d+))*")  # encap psp spi 23
_ICMP = re.compile(r"icmp(?:v4|v6)?\b", re.IGNORECASE)
_UDP = re.compile(r"udp\b", re.IGNORECASE)
_FOREIGN = re.compile(r"(sctp|udplite)\b", re.IGNORECASE)
_INTEGER = re.compile(r"\d+")
_SIGNED = re.compile(r"-?\d+")
_VALUE = re.compile(r"0[xX][0-9A-Fa-f]+|\d+|[A-Z][A-Z0-9_]*")
_PORTS = re.compile(r"(\d+)\s*>\s*(\d+)")
_FLAGS = re.compile(r"[FSRPUEWAC]+(?![A-Za-z])\s*\.?|\.|-|[0-7]\.?(?=\s)")
# "!" after the length: the numbers are those of the wire, not counted from an initial sequence number
_SEQUENCE = re.compile(r"(\d+|\.\.\.)(?:\s*:\s*(\d+|\.\.\.))?\s*\(\s*(\d+)\s*\)(!?)")
_QUOTED_FIRST = re.compile(r"\[(?=\s*\d)")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z_][\w-]*")
_HEX = re.compile(r"[0-9A-Fa-f]+\b")
_BLOCK = re.compile(r"(\d+)\s*:\s*(\d+)")
_TO_OPTION_END = re.compile(r"[^,>]*")
_UDP_PORTS = re.compile(r"/\s*udp\s*\(\s*(\d+)\s*>\s*(\d+)\s*\)")
_IP_ITEM = re.compile(r"([A-Za-z][\w-]*)\s*((?:0[xX][0-9A-Fa-f]+|\d+)?)")
_ECN_WORDS = {
    "noecn": Ecn.NOT_ECT, "ect0": Ecn.ECT0, "ect1": Ecn.ECT1, "ce": Ecn.CE, "ect01": Ecn.ECT_ANY, "ect": Ecn.ECT_ANY,
}  # fmt: skip
_NUMBER_OPTIONS = {"mss": "mss", "wscale": "wscale"}


def parse_packet(scanner: Scanner) -> PacketEvent:
    """From the direction to the end of the packet."""
    inbound = scanner.take_text("<")
    if not inbound:
        scanner.expect_text(">")
    quoted = None
    if scanner.take(_QUOTED_FIRST):  # < [1:1001(1000)] icmp unreachable ..., as it was written once
        quoted = _tcp(scanner, quoted=True)
        scanner.expect_text("]")
    fields = _ip_fields(scanner)
    wrapped = []
    if match := scanner.take(_ENCAPSULATION):
        wrapped.append(match[0])
    while match := scanner.take(_WRAPPERS):
        wrapped.append(" ".join((match[0] + scanner.until(":", "a header around a packet")).split()))
        fields = _ip_fields(scanner)
    packet = _transport(scanner)
    if quoted is not None:
        if not isinstance(packet, IcmpPacket):
            raise scanner.error("only an ICMP message quotes a packet; icmp expected")
        packet = replace(packet, quoted=quoted)
    return PacketEvent(inbound, packet, fields, tuple(wrapped))


def _transport(scanner: Scanner) -> TcpPacket | UdpPacket | IcmpPacket:
    if match := scanner.peek(_FOREIGN):
        raise scanner.error(f"{match[0]} is no protocol of this reader")
    if scanner.take(_ICMP):
        return _icmp(scanner)
    if scanner.take(_UDP):
        return _udp(scanner)
    return _tcp(scanner)


def _ip_fields(scanner: Scanner) -> IpFields:
    """`[ect0]`, `(ttl 64)`, `(tos 0x10)`, `[noecn, flowlabel 0x2]`; nothing when no bracket comes."""
    if scanner.take_text("("):
        end = ")"
    elif scanner.take_text("["):
        end = "]"
    else:
        return IpFields()
    ecn = tos = ttl = flow_label = None
    other = []
    while not scanner.take_text(end):
        scanner.take_text(",")
        match = scanner.expect(_IP_ITEM, "a field of the IP header")
        name = match[1].lower()
        value = _number(match[2] or "0")
        if name in _ECN_WORDS:
            ecn = _ECN_WORDS[name]
        elif name in ("tos", "class", "tclass"):
            tos = value
        elif name in ("ttl", "hlim", "hoplimit"):
            ttl = value
        elif name == "flowlabel":
            flow_label = value
        else:
            other.append(match[0])
    return IpFields(ecn, tos, ttl, flow_label, tuple(other))


def _tcp(scanner: Scanner, *, quoted: bool = False) -> TcpPacket:
    ports = None
    if not quoted and (match := scanner.take(_PORTS)):
        ports = int(match[1]), int(match[2])
    flags = ""
    if not quoted or scanner.peek(_SEQUENCE) is None:
        flags = "".join(scanner.expect(_FLAGS, "TCP flags")[0].split())
    match = scanner.expect(_SEQUENCE, "a range of sequence numbers, start:end(length),")
    start = None if match[1] == "..." else int(match[1])
    length = int(match[3])
    if match[2] is None:
        end = None if start is None else start + length
    else:
        end = None if match[2] == "..." else int(match[2])
    if start is not None and end is not None and (end - start - length) & 0xFFFFFFFF:
        raise scanner.error(f"sequence range {start}:{end} does not hold {length} bytes")
    ack = _named_number(scanner, "ack")
    window = _named_number(scanner, "win")
    urgent = _named_number(scanner, "urg")
    options: tuple[TcpOption, ...] | None = ()
    if not scanner.at_line_end() and scanner.take_text("<"):
        options = _options(scanner)
    udp_ports = None
    if carrier := scanner.take(_UDP_PORTS):
        udp_ports = int(carrier[1]), int(carrier[2])
    return TcpPacket(flags, start, end, length, ack, window, urgent, options, ports, udp_ports, match[4] == "!")


def _named_number(scanner: Scanner, name: str) -> int | None:
    match = scanner.take(_WORD_NUMBER[name])
    return int(match[1]) if match else None


_WORD_NUMBER = {name: re.compile(name + r"\s*(-?\d+)") for name in ("ack", "win", "urg", "mtu", "id")}


def _options(scanner: Scanner) -> tuple[TcpOption, ...] | None:
    if scanner.take_text("..."):
        scanner.expect_text(">")
        return None
    options: list[TcpOption] = []
    while not scanner.take_text(">"):
        if options:
            scanner.expect_text(",")
        options.append(_option(scanner))
    return tuple(options)


def _option(scanner: Scanner) -> TcpOption:
    kind = scanner.expect(_NAME, "a TCP option")[0]
    if kind in _NUMBER_OPTIONS:
        value = scanner.expect(_VALUE, f"the number of {kind}")[0]
        return TcpOption(kind, (_number(value),))
    if kind in ("nop", "eol", "sackOK"):
        return TcpOption(kind)
    if kind == "sack":
        blocks = []
        while match := scanner.take(_BLOCK):
            blocks.append((int(match[1]), int(match[2])))
        return TcpOption(kind, tuple(blocks))
    if kind == "TS":
        scanner.expect_text("val")
        value = int(scanner.expect(_INTEGER, "a timestamp")[0])
        scanner.expect_text("ecr")
        return TcpOption(kind, (value, int(scanner.expect(_INTEGER, "a timestamp echo")[0])))
    if kind in ("FO", "FOEXP", "md5"):
        return TcpOption(kind, _cookie(scanner))
    if kind == "ECN":  # AccECN (RFC 9768 3.2.3): counters by name, in their order
        counters = []
        while (name := scanner.peek(_WORD)) and name[0] in ("e0b", "e1b", "ceb"):
            scanner.take(_WORD)
            counters.append((name[0], int(scanner.expect(_INTEGER, "a byte counter")[0])))
        return TcpOption(kind, tuple(counters))
    return TcpOption(kind, (" ".join(scanner.take(_TO_OPTION_END)[0].split()),))


def _cookie(scanner: Scanner) -> tuple:
    """Hexadecimal digits, or a word such as "valid", or nothing."""
    if scanner.peek_text(",") or scanner.peek_text(">"):
        return (b"",)
    if match := scanner.take(_HEX):
        digits = match[0]
        return (bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits),)
    return (scanner.expect(_WORD, "a cookie")[0],)


def _udp(scanner: Scanner) -> UdpPacket:
    ports = None
    if match := scanner.take(_PORTS):
        ports = int(match[1]), int(match[2])
    scanner.expect_text("(")
    length = int(scanner.expect(_INTEGER, "the number of bytes")[0])
    scanner.expect_text(")")
    return UdpPacket(length, ports)


def _icmp(scanner: Scanner) -> IcmpPacket:
    kind = scanner.expect(_WORD, "the type of an ICMP message")[0]
    code = None
    if not scanner.at_line_end() and (match := scanner.peek(_WORD)) and match[0] not in ("mtu", "id"):
        code = scanner.take(_WORD)[0]
    mtu = _named_number(scanner, "mtu")
    identifier = _named_number(scanner, "id")
    quoted: TcpPacket | UdpPacket | int | None = None
    if not scanner.at_line_end() and scanner.take_text("["):
        if scanner.take(_UDP):
            quoted = _udp(scanner)
        elif scanner.take_text("raw"):
            scanner.expect_text("(")
            quoted = int(scanner.expect(_INTEGER, "the number of bytes")[0])
            scanner.expect_text(")")
        else:
            quoted = _tcp(scanner, quoted=True)
        scanner.expect_text("]")
    return IcmpPacket(kind, code, mtu, identifier, quoted)


def _number(text: str) -> int | str:
    """A number, or the name of one."""
    if not text[0].isdigit():
        return text
    return int(text, 16 if text[:2] in ("0x", "0X") else 10)
