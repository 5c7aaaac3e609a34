"""Ancillary data of datagrams: what recvmsg() tells beside the payload, and what sendmsg() may say (ip(7), ipv6(7)).

Items are (level, type, bytes) as the standard library has them; the bytes are the kernel's structures.
"""

import errno
import struct

from swos_net.address import from_packed, is_ipv4, is_unspecified, to_packed
from swos_net.errors import os_error
from swos_net.socket.constants import AF_INET, AF_INET6, IPPROTO_IP, IPPROTO_IPV6, MSG_CTRUNC, SOL_SOCKET
from swos_net.stack.datagram_endpoint import ORDINARY, Datagram, SendOptions

Item = tuple[int, int, bytes]

IP_TOS, IP_TTL, IP_PKTINFO, IP_ORIGDSTADDR = 1, 2, 8, 20
IPV6_PKTINFO, IPV6_HOPLIMIT, IPV6_TCLASS = 50, 52, 67
SO_RXQ_OVFL = 40

_INT = struct.Struct("=i")
_IN_PKTINFO = struct.Struct("=i4s4s")  # interface, local address, destination of the header
_IN6_PKTINFO = struct.Struct("=16si")
_SOCKADDR_IN = struct.Struct("=H2s4s8x")
_HEADER = 16  # struct cmsghdr


def _space(length: int) -> int:
    """CMSG_SPACE."""
    return _HEADER + (length + 7 & ~7)


def received(core, datagram: Datagram, room: int) -> tuple[list[Item], int]:
    """(items that were asked for and fit into `room` bytes, MSG_CTRUNC when something did not)."""
    items: list[Item] = []
    flags = 0
    for level, kind, data in _wanted(core, datagram) if core._values else ():
        if room < _HEADER:
            return items, MSG_CTRUNC
        if room < _HEADER + len(data):
            data = data[: room - _HEADER]
            flags = MSG_CTRUNC
        items.append((level, kind, data))
        room -= min(room, _space(len(data)))
        if flags:
            break
    return items, flags


def _wanted(core, datagram: Datagram):
    """In the order in which Linux gives them."""
    option = core.option
    if option("overflow_wanted") and core.dropped:
        yield SOL_SOCKET, SO_RXQ_OVFL, struct.pack("=I", core.dropped & 0xFFFFFFFF)
    ipv4 = is_ipv4(datagram.local)
    if core.family == AF_INET6 and not (ipv4 and core.proto != 17):
        if option("want_pktinfo6"):
            local = datagram.local
            yield IPPROTO_IPV6, IPV6_PKTINFO, _IN6_PKTINFO.pack(local, datagram.interface)
        if not ipv4:
            if option("want_hops"):
                yield IPPROTO_IPV6, IPV6_HOPLIMIT, _INT.pack(datagram.hop_limit)
            if option("want_tclass"):
                yield IPPROTO_IPV6, IPV6_TCLASS, _INT.pack(datagram.traffic_class)
    if ipv4:
        if option("want_pktinfo"):
            packed = to_packed(datagram.local)
            yield IPPROTO_IP, IP_PKTINFO, _IN_PKTINFO.pack(datagram.interface, core.answering_address(datagram), packed)
        if option("want_ttl"):
            yield IPPROTO_IP, IP_TTL, _INT.pack(datagram.hop_limit)
        if option("want_tos"):
            yield IPPROTO_IP, IP_TOS, bytes([datagram.traffic_class])
        if option("want_original"):
            port = core.getsockname()[1].to_bytes(2, "big")
            yield IPPROTO_IP, IP_ORIGDSTADDR, _SOCKADDR_IN.pack(AF_INET, port, to_packed(datagram.local))


def send_options(core, items) -> SendOptions:
    """What sendmsg() asks for one datagram; EINVAL for items that are not known or have a wrong length."""
    sent_with = ORDINARY
    for level, kind, data in items:
        data = bytes(data)
        if level == SOL_SOCKET:
            raise os_error(errno.EINVAL, f"ancillary data of type {kind} is not known")
        if level == IPPROTO_IP:
            sent_with = _ip_item(sent_with, kind, data)
        elif level == IPPROTO_IPV6 and core.family == AF_INET6:
            sent_with = _ipv6_item(sent_with, kind, data)
        # the kernel passes over other levels
    return sent_with


def _ip_item(sent_with: SendOptions, kind: int, data: bytes) -> SendOptions:
    if kind == IP_PKTINFO and len(data) == _IN_PKTINFO.size:
        number, local, _ = _IN_PKTINFO.unpack(data)
        source = from_packed(local)
        return sent_with._replace(interface=number or None, source=None if is_unspecified(source) else source)
    if kind == IP_TTL and len(data) == _INT.size:
        value = _INT.unpack(data)[0]
        if 1 <= value <= 255:
            return sent_with._replace(hop_limit=value)
    if kind == IP_TOS and len(data) in (1, _INT.size):
        value = data[0] if len(data) == 1 else _INT.unpack(data)[0]
        if 0 <= value <= 255:
            return sent_with._replace(traffic_class=value)
    raise os_error(errno.EINVAL, f"ancillary data of IPPROTO_IP, type {kind}, is wrong or not known")


def _ipv6_item(sent_with: SendOptions, kind: int, data: bytes) -> SendOptions:
    if kind == IPV6_PKTINFO and len(data) >= _IN6_PKTINFO.size:
        source, number = _IN6_PKTINFO.unpack_from(data)
        return sent_with._replace(interface=number or None, source=None if is_unspecified(source) else source)
    if kind in (IPV6_HOPLIMIT, IPV6_TCLASS) and len(data) == _INT.size:
        value = _INT.unpack(data)[0]
        if -1 <= value <= 255:
            value = None if value == -1 else value
            return sent_with._replace(**{"hop_limit" if kind == IPV6_HOPLIMIT else "traffic_class": value})
    raise os_error(errno.EINVAL, f"ancillary data of IPPROTO_IPV6, type {kind}, is wrong or not known")
