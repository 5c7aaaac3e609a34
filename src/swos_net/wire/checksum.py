"""The Internet checksum for header-sized work in Python.

Read first: RFC 1071, RFC 8200 8.1.  Payload-sized work is the data plane's: it sums while it copies.
"""

from swos_net.address import IPV4_PREFIX


def internet_checksum(data: bytes, initial: int = 0) -> int:
    """The 16-bit value of a checksum field over `data`, added to the sum `initial` (RFC 1071 1).

    `data` is bytes-like of any length, an odd one padded with zero; `initial` comes from `pseudo_header_sum` or is
    any sum of big-endian 16-bit words.  Over data that holds its own correct checksum the result is 0.
    """
    # 2^16 is 1 modulo 65535, so the ones' complement sum of the words is the whole number modulo 65535.
    total = int.from_bytes(data, "big")
    if len(data) & 1:
        total <<= 8
    total += initial
    if not total:
        return 0xFFFF
    # Only a sum of nothing but zeros is +0; every other multiple of 65535 is the other zero, 0xffff.
    return 0xFFFF - (total % 0xFFFF or 0xFFFF)


def pseudo_header_sum(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """The sum of the pseudo header of RFC 9293 3.1 (both addresses IPv4-mapped) or RFC 8200 8.1, to be given to
    `internet_checksum`.  `length` is that of the transport header and payload in bytes."""
    if destination[:12] == IPV4_PREFIX:
        return int.from_bytes(source[12:], "big") + int.from_bytes(destination[12:], "big") + protocol + length
    return int.from_bytes(source, "big") + int.from_bytes(destination, "big") + protocol + length
