"""DNS messages (RFC 1035, RFC 6891) as plain records; the codec itself is dnslib's.

WireError for whatever is no response one can use: who sends it chooses every byte.
"""

from dataclasses import dataclass
from enum import IntEnum

import dnslib

from swos_net.address import from_packed, is_ipv4
from swos_net.errors import WireError

NAME_MAX = 253  # RFC 1035 2.3.4: 255 on the wire
LABEL_MAX = 63
RECORDS_MAX = 512  # of one response: more than 64 KiB of compressed names could hold is an attack


class Kind(IntEnum):
    """Record types that are asked for or followed."""

    A = 1
    CNAME = 5
    SOA = 6
    PTR = 12
    AAAA = 28


class Code(IntEnum):
    """Response codes (RFC 1035 4.1.1) that are told apart."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


@dataclass(slots=True)
class Record:
    """`data` is an address of 16 bytes (A, AAAA) or a name (CNAME, PTR); names have no final dot."""

    name: str
    kind: int
    ttl: int
    data: bytes | str


@dataclass(slots=True)
class Response:
    """`negative_ttl`: how long an absence may be remembered (RFC 2308 5), None when nothing says."""

    identifier: int
    name: str
    kind: int
    code: int
    truncated: bool
    answers: list[Record]
    negative_ttl: int | None


def check_name(name: str) -> None:
    """ValueError unless `name` can be asked for (RFC 1035 2.3.4)."""
    labels = name.split(".")
    if not name or len(name) > NAME_MAX or not name.isascii() or not all(0 < len(label) <= LABEL_MAX for label in labels):
        raise ValueError(f"{name!r} is no domain name: it has 1 to {NAME_MAX} ASCII characters, its labels 1 to {LABEL_MAX}")


def emit_query(identifier: int, name: str, kind: int, udp_payload: int | None) -> bytes:
    """A question with recursion desired; `udp_payload` None leaves out EDNS."""
    query = dnslib.DNSRecord(dnslib.DNSHeader(id=identifier, rd=1), q=dnslib.DNSQuestion(_label(name), kind))
    if udp_payload is not None:
        query.add_ar(dnslib.EDNS0(udp_len=udp_payload))
    return bytes(query.pack())


def parse_response(message: bytes) -> Response:
    """WireError for what is not a response to one question of class IN."""
    try:
        parsed = dnslib.DNSRecord.parse(message)
    except Exception:  # dnslib lets through what its unpacking raises: struct.error, ValueError, IndexError...
        raise WireError("dns-format") from None
    header = parsed.header
    if not header.qr or header.opcode != 0 or len(parsed.questions) != 1 or parsed.questions[0].qclass != 1:
        raise WireError("dns-response")
    if len(parsed.rr) + len(parsed.auth) + len(parsed.ar) > RECORDS_MAX:
        raise WireError("dns-records")
    question = parsed.questions[0]
    answers = [record for resource in parsed.rr if (record := _record(resource)) is not None]
    return Response(header.id, _name(question.qname), question.qtype, header.rcode, bool(header.tc), answers,
                    _negative_ttl(parsed.auth))  # fmt: skip


def reverse_name(address: bytes) -> str:
    """Where the name of a 16-byte address is kept (RFC 1035 3.5, RFC 3596 2.5)."""
    if is_ipv4(address):
        return ".".join(str(byte) for byte in reversed(address[12:])) + ".in-addr.arpa"
    return ".".join(reversed(address.hex())) + ".ip6.arpa"


def _record(resource) -> Record | None:
    if resource.rclass != 1:
        return None
    data = resource.rdata
    if resource.rtype in (Kind.A, Kind.AAAA):
        packed = bytes(data.data)
        if len(packed) != (4 if resource.rtype == Kind.A else 16):
            raise WireError("dns-address")
        return Record(_name(resource.rname), resource.rtype, resource.ttl, from_packed(packed))
    if resource.rtype in (Kind.CNAME, Kind.PTR):
        return Record(_name(resource.rname), resource.rtype, resource.ttl, _name(data.label))
    return None


def _negative_ttl(authority) -> int | None:
    for resource in authority:
        if resource.rtype == Kind.SOA and hasattr(resource.rdata, "times"):
            return min(resource.ttl, resource.rdata.times[4])  # the SOA's own TTL, its MINIMUM field
    return None


def _label(name: str) -> dnslib.DNSLabel:
    return dnslib.DNSLabel([label.encode("ascii") for label in name.split(".")])


def _name(label: dnslib.DNSLabel) -> str:
    try:
        return b".".join(label.label).decode("ascii")
    except UnicodeDecodeError:
        raise WireError("dns-name") from None
