"""Answers echo requests, with the IPv4 options that go both ways.

Read first: RFC 792, RFC 1122 3.2.2.6, RFC 791 3.1 (options), RFC 4443 4.2.  Whether a request to a broadcast or multicast address is answered
is the caller's choice.
"""

from swos_net.address import is_ipv4
from swos_net.wire import icmpv4, icmpv6

_END, _NOP, _RECORD_ROUTE, _TIMESTAMP = 0, 1, 7, 68
_TIME_ONLY, _TIME_AND_ADDRESS, _TIME_OF_ADDRESS = 0, 1, 3  # flags of a Timestamp option
_NOT_OF_DAY = 0x80000000  # RFC 791 3.1: a timestamp that does not count from midnight


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


def reflected_options(options: bytes, own: bytes, now: float) -> bytes:
    """The IPv4 options of a request that its reply has too: Record Route and Timestamp, this host noted in them.

    `own` is the address of ours in the request.  RFC 1122 3.2.2.6: the reply's route is then that of the whole round
    trip.  Nothing of options that do not follow their format.
    """
    out = []
    at = 0
    while at < len(options):
        kind = options[at]
        if kind == _END:
            break
        if kind == _NOP:
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        if length < 2 or at + length > len(options):
            return b""
        option = bytearray(options[at : at + length])
        at += length
        if kind == _RECORD_ROUTE and length >= 3:
            out.append(_route_recorded(option, own[12:]))
        elif kind == _TIMESTAMP and length >= 4:
            out.append(_time_noted(option, own[12:], now))
    reflected = b"".join(out)
    return reflected + bytes(-len(reflected) & 3)


def _route_recorded(option: bytearray, address: bytes) -> bytes:
    pointer = option[2]  # counts from 1
    if 4 <= pointer <= len(option) - 3:
        option[pointer - 1 : pointer + 3] = address
        option[2] = pointer + 4
    return bytes(option)


def _time_noted(option: bytearray, address: bytes, now: float) -> bytes:
    pointer, flags = option[2], option[3] & 15
    time = (int(now * 1000) & 0x7FFFFFFF | _NOT_OF_DAY).to_bytes(4, "big")
    entry = time if flags == _TIME_ONLY else address + time
    if flags not in (_TIME_ONLY, _TIME_AND_ADDRESS, _TIME_OF_ADDRESS) or pointer < 5:
        return bytes(option)
    if pointer - 1 + len(entry) > len(option):
        if flags != _TIME_OF_ADDRESS and option[3] < 0xF0:
            option[3] += 0x10  # one more host that found no room
    elif flags != _TIME_OF_ADDRESS or option[pointer - 1 : pointer + 3] == address:
        option[pointer - 1 : pointer - 1 + len(entry)] = entry
        option[2] = pointer + len(entry)
    return bytes(option)
