"""IP addresses as the stack holds them: 16 bytes, an IPv4 address in its mapped form ::ffff:a.b.c.d.

One form for both families (RFC 4291 2.5.5.2) is what lets everything above IP be written once.  Text and
`ipaddress` objects stay at the edges of the library.
"""

import ipaddress

IPV4_PREFIX = bytes(10) + b"\xff\xff"

UNSPECIFIED4 = IPV4_PREFIX + bytes(4)
UNSPECIFIED6 = bytes(16)
BROADCAST4 = IPV4_PREFIX + b"\xff\xff\xff\xff"
LOOPBACK4 = IPV4_PREFIX + b"\x7f\x00\x00\x01"
LOOPBACK6 = bytes(15) + b"\x01"
ALL_NODES6 = bytes.fromhex("ff020000000000000000000000000001")
ALL_ROUTERS6 = bytes.fromhex("ff020000000000000000000000000002")

_OCTETS = frozenset(map(str, range(256)))


def parse_address(text: str | ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    """Text or an `ipaddress` object to 16 bytes; ValueError when it is no address.  A %scope is left out."""
    if isinstance(text, str):
        parts = text.split(".")
        if len(parts) == 4 and all(map(_OCTETS.__contains__, parts)):
            return IPV4_PREFIX + bytes(map(int, parts))
        text = ipaddress.ip_address(text.partition("%")[0])
    return IPV4_PREFIX + text.packed if text.version == 4 else text.packed


def format_address(address: bytes) -> str:
    """16 bytes to text, IPv4 in dotted form."""
    if is_ipv4(address):
        return "%d.%d.%d.%d" % tuple(address[12:])
    return str(ipaddress.IPv6Address(address))


def from_packed(packed: bytes) -> bytes:
    """4 or 16 bytes of the wire to the 16 bytes used here."""
    return IPV4_PREFIX + packed if len(packed) == 4 else bytes(packed)


def to_packed(address: bytes) -> bytes:
    """The 4 or 16 bytes that go on the wire."""
    return address[12:] if is_ipv4(address) else address


def is_ipv4(address: bytes) -> bool:
    return address[:12] == IPV4_PREFIX


def is_unspecified(address: bytes) -> bool:
    return address == UNSPECIFIED4 or address == UNSPECIFIED6


def is_multicast(address: bytes) -> bool:
    """224.0.0.0/4 or ff00::/8."""
    return address[12] & 0xF0 == 0xE0 if is_ipv4(address) else address[0] == 0xFF


def is_loopback(address: bytes) -> bool:
    """127.0.0.0/8 or ::1."""
    return address[12] == 127 if is_ipv4(address) else address == LOOPBACK6


def is_link_local(address: bytes) -> bool:
    """169.254.0.0/16 or fe80::/10."""
    if is_ipv4(address):
        return address[12:14] == b"\xa9\xfe"
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def prefix_matches(address: bytes, prefix: bytes, length: int) -> bool:
    """Whether the first `length` bits agree; for IPv4 `length` counts from the mapped address's bit 96."""
    if is_ipv4(address) != is_ipv4(prefix):
        return False
    bits = length + 96 if is_ipv4(prefix) else length
    shift = 128 - bits
    return int.from_bytes(address, "big") >> shift == int.from_bytes(prefix, "big") >> shift


def link_local_from_mac(mac: bytes) -> bytes:
    """fe80::/64 with the modified EUI-64 of a 48-bit MAC (RFC 4291 appendix A)."""
    return b"\xfe\x80" + bytes(6) + interface_identifier(mac)


def interface_identifier(mac: bytes) -> bytes:
    """Modified EUI-64: 8 bytes from a 6-byte MAC (RFC 4291 appendix A)."""
    return bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:6]


def solicited_node(address: bytes) -> bytes:
    """ff02::1:ffXX:XXXX of an IPv6 address (RFC 4291 2.7.1)."""
    return bytes.fromhex("ff0200000000000000000001ff") + address[13:]


def multicast_mac(address: bytes) -> bytes:
    """The Ethernet group address of a multicast IP address (RFC 1112 6.4, RFC 2464 7)."""
    if is_ipv4(address):
        return b"\x01\x00\x5e" + bytes([address[13] & 0x7F]) + address[14:]
    return b"\x33\x33" + address[12:]


def parse_mac(text: str) -> bytes:
    """"52:54:00:12:34:56" to 6 bytes; ValueError otherwise."""
    mac = bytes.fromhex(text.replace("-", ":").replace(":", " "))
    if len(mac) != 6:
        raise ValueError(f"{text!r} is not a 48-bit MAC address")
    return mac


def format_mac(mac: bytes) -> str:
    return mac.hex(":")
