"""Answers echo requests.

Read first: RFC 792, RFC 1122 3.2.2.6, RFC 4443 4.2.  Whether a request to a broadcast or multicast address is answered
is the caller's choice.
"""

from swos_net.address import is_ipv4
from swos_net.wire import icmpv4, icmpv6


def echo_reply(request: bytes, source: bytes, destination: bytes) -> bytes | None:
    """The ICMP message, with its checksum, that answers `request` (from its type on, checksum verified).

    `source` is the address of ours it leaves from, `destination` is who asked; both 16 bytes and of one family, which
    decides the format.  None when `request` is no echo request.
    """
    if len(request) < icmpv4.HEADER_LENGTH:
        return None
    identifier, sequence = int.from_bytes(request[4:6], "big"), int.from_bytes(request[6:8], "big")
    data = bytes(request[icmpv4.HEADER_LENGTH:])  # RFC 1122 3.2.2.6: all of it comes back
    if is_ipv4(destination):
        if request[0] != icmpv4.ECHO_REQUEST:
            return None
        return icmpv4.emit(icmpv4.echo_reply(identifier, sequence, data))
    if request[0] != icmpv6.ECHO_REQUEST:
        return None
    return icmpv6.emit(icmpv6.echo_reply(identifier, sequence, data), source, destination)
