"""DHCPv4 messages.

Read first: RFC 2131 2, RFC 2132, RFC 3396 (long options), RFC 3442 (classless routes).  What client and server do
is in `swos_net.dhcp`.  Only Ethernet hardware addresses are written.
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum

from swos_net.address import IPV4_PREFIX, UNSPECIFIED4
from swos_net.errors import WireError

SERVER_PORT = 67
CLIENT_PORT = 68

FIXED_LENGTH = 236
COOKIE = b"\x63\x82\x53\x63"
# A BOOTP message has 64 bytes of vendor area; relays drop shorter ones (RFC 1542 2.1).
MESSAGE_LENGTH_MIN = 300
# RFC 2131 2: what every client must be prepared to take in one message, 576 bytes of IP packet
MESSAGE_LENGTH_ASSURED = 548
# A longer one is no message of this protocol on any link we know.
MESSAGE_LENGTH_MAX = 4096

BOOT_REQUEST = 1
BOOT_REPLY = 2

# DhcpMessage.flags
BROADCAST = 0x8000

HARDWARE_ETHERNET = 1

# Option codes (RFC 2132 and where noted)
SUBNET_MASK = 1
ROUTER = 3
DNS_SERVER = 6
HOST_NAME = 12
DOMAIN_NAME = 15
INTERFACE_MTU = 26
BROADCAST_ADDRESS = 28
NTP_SERVER = 42
REQUESTED_ADDRESS = 50
LEASE_TIME = 51
OVERLOAD = 52
MESSAGE_TYPE = 53
SERVER_IDENTIFIER = 54
PARAMETER_REQUEST_LIST = 55
MESSAGE = 56
MAXIMUM_MESSAGE_SIZE = 57
RENEWAL_TIME = 58
REBINDING_TIME = 59
VENDOR_CLASS = 60
CLIENT_IDENTIFIER = 61
RAPID_COMMIT = 80       # RFC 4039
CLASSLESS_ROUTES = 121  # RFC 3442

_PAD = 0
_END = 255

_FIXED = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")


class MessageType(IntEnum):
    """RFC 2132 9.6."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


@dataclass(slots=True)
class DhcpMessage:
    """RFC 2131 2.  IP addresses are 16 bytes, IPv4-mapped.  `options` maps codes to values, pieces put together
    (RFC 3396) and without pad, end and overload.  `server_name` and `boot_file` are 64 and 128 bytes, trailing
    zeros left out; they are empty where they carried options.  `hardware_address` is as long as its length field
    says, 16 bytes at most."""

    operation: int
    transaction_id: int
    hardware_address: bytes
    options: dict[int, bytes] = field(default_factory=dict)
    seconds: int = 0
    flags: int = 0
    client_address: bytes = UNSPECIFIED4
    your_address: bytes = UNSPECIFIED4
    server_address: bytes = UNSPECIFIED4
    relay_address: bytes = UNSPECIFIED4
    hops: int = 0
    server_name: bytes = b""
    boot_file: bytes = b""
    hardware_type: int = HARDWARE_ETHERNET

    @property
    def message_type(self) -> int | None:
        """Option 53, or None when it is missing or not one byte (a BOOTP message)."""
        value = self.options.get(MESSAGE_TYPE)
        return value[0] if value is not None and len(value) == 1 else None


def parse(data: bytes) -> DhcpMessage:
    """A UDP payload.  A missing end option is forgiven, an option that runs over the end of its field is not."""
    if len(data) < FIXED_LENGTH + len(COOKIE):
        raise WireError("truncated")
    if len(data) > MESSAGE_LENGTH_MAX:
        raise WireError("bad_dhcp_length")
    data = bytes(data)
    fixed = _FIXED.unpack_from(data)
    operation, hardware_type, hardware_length, hops, transaction_id, seconds, flags = fixed[:7]
    client, your, server, relay, hardware, server_name, boot_file = fixed[7:]
    if operation != BOOT_REQUEST and operation != BOOT_REPLY:
        raise WireError("bad_dhcp_operation")
    if hardware_length > 16:
        raise WireError("bad_dhcp_hardware")
    if data[FIXED_LENGTH : FIXED_LENGTH + 4] != COOKIE:
        raise WireError("bad_dhcp_cookie")
    options: dict[int, bytes] = {}
    _parse_options(data[FIXED_LENGTH + 4 :], options)
    overload = options.pop(OVERLOAD, b"\0")
    if len(overload) != 1 or overload[0] > 3:
        raise WireError("bad_dhcp_option")
    # RFC 3396 5: the pieces of an option follow one another in options, then file, then sname
    if overload[0] & 1:
        _parse_options(boot_file, options)
        boot_file = b""
    if overload[0] & 2:
        _parse_options(server_name, options)
        server_name = b""
    # One overload option counts; inside file and sname it would mean nothing.
    options.pop(OVERLOAD, None)
    return DhcpMessage(
        operation,
        transaction_id,
        hardware[:hardware_length],
        options,
        seconds,
        flags,
        IPV4_PREFIX + client,
        IPV4_PREFIX + your,
        IPV4_PREFIX + server,
        IPV4_PREFIX + relay,
        hops,
        server_name.rstrip(b"\0"),
        boot_file.rstrip(b"\0"),
        hardware_type,
    )


def _parse_options(data: bytes, options: dict[int, bytes]) -> None:
    offset = 0
    while offset < len(data):
        code = data[offset]
        if code == _END:
            return
        offset += 1
        if code == _PAD:
            continue
        if offset == len(data):
            raise WireError("bad_dhcp_option")
        end = offset + 1 + data[offset]
        if end > len(data):
            raise WireError("bad_dhcp_option")
        options[code] = options.get(code, b"") + data[offset + 1 : end]
        offset = end


def emit(message: DhcpMessage, length_max: int = MESSAGE_LENGTH_ASSURED) -> bytes:
    """A UDP payload of at least MESSAGE_LENGTH_MIN bytes; options in the order of the dictionary, those beyond
    255 bytes in pieces.  ValueError when it would be longer than `length_max`: options are not moved into sname and
    file."""
    if len(message.hardware_address) > 16 or len(message.server_name) > 64 or len(message.boot_file) > 128:
        raise ValueError("hardware address, server name or boot file of a DHCP message over 16, 64 or 128 bytes")
    parts = [
        _FIXED.pack(
            message.operation,
            message.hardware_type,
            len(message.hardware_address),
            message.hops,
            message.transaction_id,
            message.seconds,
            message.flags,
            message.client_address[12:],
            message.your_address[12:],
            message.server_address[12:],
            message.relay_address[12:],
            message.hardware_address,
            message.server_name,
            message.boot_file,
        ),
        COOKIE,
    ]
    for code, value in message.options.items():
        for start in range(0, len(value) or 1, 255):
            piece = value[start : start + 255]
            parts.append(bytes((code, len(piece))) + piece)
    parts.append(b"\xff")
    data = b"".join(parts)
    if len(data) > length_max:
        raise ValueError(f"a DHCP message of {len(data)} bytes is over the limit of {length_max}: ask for less")
    return data.ljust(MESSAGE_LENGTH_MIN, b"\0")


def address_option(message: DhcpMessage, code: int) -> bytes | None:
    """One IPv4 address, or the first of several; None when the option is missing or malformed."""
    found = addresses_option(message, code)
    return found[0] if found else None


def addresses_option(message: DhcpMessage, code: int) -> list[bytes]:
    """IPv4 addresses, 16 bytes each; [] when the option is missing or malformed."""
    value = message.options.get(code, b"")
    if len(value) % 4:
        return []
    return [IPV4_PREFIX + value[start : start + 4] for start in range(0, len(value), 4)]


def integer_option(message: DhcpMessage, code: int, length: int = 4) -> int | None:
    """An unsigned number of `length` bytes; None when the option is missing or of another length."""
    value = message.options.get(code)
    return int.from_bytes(value, "big") if value is not None and len(value) == length else None


def text_option(message: DhcpMessage, code: int) -> str | None:
    """Text in ASCII, trailing zeros left out (RFC 2132 2); None when it is missing, empty or has other bytes."""
    value = message.options.get(code, b"").rstrip(b"\0")
    if not value or any(not 0x20 <= byte <= 0x7E for byte in value):
        return None
    return value.decode("ascii")


def prefix_length(message: DhcpMessage) -> int | None:
    """Option 1 as 0 to 32; None when it is missing or no mask of leading ones."""
    mask = integer_option(message, SUBNET_MASK)
    if mask is None:
        return None
    zeros = ~mask & 0xFFFFFFFF
    return None if zeros & (zeros + 1) else 32 - zeros.bit_length()


def emit_mask(length: int) -> bytes:
    """The value of option 1 for a prefix length."""
    return (0xFFFFFFFF << (32 - length) & 0xFFFFFFFF).to_bytes(4, "big")


def parse_classless_routes(value: bytes) -> list[tuple[bytes, int, bytes]]:
    """Option 121 as (prefix, length, router); router 0.0.0.0 says that the prefix is on the link (RFC 3442)."""
    routes = []
    offset = 0
    while offset < len(value):
        length = value[offset]
        octets = (length + 7) // 8
        end = offset + 1 + octets + 4
        if length > 32 or end > len(value):
            raise WireError("bad_dhcp_option")
        # Bits behind the prefix length are no part of the destination.
        number = int.from_bytes(value[offset + 1 : offset + 1 + octets].ljust(4, b"\0"), "big")
        number &= 0xFFFFFFFF << (32 - length)
        routes.append((IPV4_PREFIX + number.to_bytes(4, "big"), length, IPV4_PREFIX + value[end - 4 : end]))
        offset = end
    return routes


def emit_classless_routes(routes: list[tuple[bytes, int, bytes]]) -> bytes:
    """The value of option 121 for routes (prefix, length, router)."""
    return b"".join(
        bytes((length,)) + prefix[12 : 12 + (length + 7) // 8] + router[12:] for prefix, length, router in routes
    )
