"""The multicast options of datagram sockets (ip(7), ipv6(7), RFC 3493 5.2, RFC 3678 5).  Read first: options.py.

Source filters (IP_ADD_SOURCE_MEMBERSHIP, MCAST_JOIN_SOURCE_GROUP, ...) are not offered.
"""

import errno
import struct
from collections.abc import Callable
from typing import Any

from swos_net.address import from_packed, is_ipv4, is_unspecified
from swos_net.errors import os_error
from swos_net.socket.constants import AF_INET, AF_INET6, IPPROTO_IP, IPPROTO_IPV6
from swos_net.socket.options import DATAGRAM, RAW, define
from swos_net.stack.groups import GroupOptions, Groups

_MREQ = struct.Struct("=4s4s")  # struct ip_mreq
_MREQN = struct.Struct("=4s4si")  # struct ip_mreqn
_MREQ6 = struct.Struct("=16si")  # struct ipv6_mreq
_GROUP_REQ = struct.Struct("=I4x128s")  # struct group_req
_KINDS = DATAGRAM | RAW

# from a socket and an option's bytes to (group, number of the interface, 0 for any)
_Request = Callable[[Any, bytes], tuple[bytes, int]]


def _groups(core) -> GroupOptions:
    endpoint = core.endpoint
    if endpoint.groups is None:
        endpoint.groups = GroupOptions()
    return endpoint.groups


def _request4(core, value: bytes) -> tuple[bytes, int]:
    """(group, number of the interface) of an ip_mreq or ip_mreqn."""
    if len(value) >= _MREQN.size:
        group, local, number = _MREQN.unpack_from(value)
    elif len(value) >= _MREQ.size:
        (group, local), number = _MREQ.unpack_from(value), 0
    else:
        raise os_error(errno.EINVAL, "a membership is a group and an interface's address: 8 or 12 bytes")
    if not number and any(local):
        interface = core.stack.interface_with(from_packed(local))
        if interface is None:
            raise os_error(errno.ENODEV, "no interface has that address")
        number = interface.number
    return from_packed(group), number


def _request6(core, value: bytes) -> tuple[bytes, int]:
    if len(value) < _MREQ6.size:
        raise os_error(errno.EINVAL, f"a membership is a group and an interface's number: {_MREQ6.size} bytes")
    group, number = _MREQ6.unpack_from(value)
    if is_ipv4(group):
        raise os_error(errno.EINVAL, "IPv4 groups are joined with IP_ADD_MEMBERSHIP")
    return group, number


def _group_request(core, value: bytes) -> tuple[bytes, int]:
    if len(value) < _GROUP_REQ.size:
        raise os_error(errno.EINVAL, f"a group_req has {_GROUP_REQ.size} bytes")
    number, address = _GROUP_REQ.unpack_from(value)
    family = int.from_bytes(address[:2], "little")
    if family == AF_INET:
        return from_packed(address[4:8]), number
    if family == AF_INET6 and core.family == AF_INET6:
        return address[8:24], number
    raise os_error(errno.EADDRNOTAVAIL, "the group is of another family")


def _membership(act: Callable, request: _Request):
    """`act` is `Groups.join` or `Groups.leave`."""

    def put(core, value: bytes, now: float) -> None:
        act(core.stack.groups, core.endpoint, *request(core, value), now)

    return put


def _put_interface4(core, value: bytes, now: float) -> None:
    """An address, an ip_mreq or an ip_mreqn."""
    groups = _groups(core)
    number, source = 0, None
    if len(value) >= _MREQ.size:
        _, number = _request4(core, value)
        local = from_packed(value[4:8])
    elif len(value) >= 4:
        local = from_packed(value[:4])
    else:
        raise os_error(errno.EINVAL, "an interface is named by an address of 4 bytes, an ip_mreq or an ip_mreqn")
    if not is_unspecified(local):
        interface = core.stack.interface_with(local)
        if interface is None:
            raise os_error(errno.EADDRNOTAVAIL, "no interface has that address")
        number, source = number or interface.number, local
    elif number and core.stack.interface_numbered(number) is None:
        raise os_error(errno.ENODEV, f"there is no interface {number}")
    groups.interface4, groups.source = number, source
    core.endpoint.forget_paths()


def _get_interface4(core, now: float) -> bytes:
    source = _groups(core).source
    return bytes(4) if source is None else source[12:]


def _put_interface6(core, value: int, now: float) -> None:
    if value and core.stack.interface_numbered(value) is None:
        raise os_error(errno.ENODEV, f"there is no interface {value}")
    _groups(core).interface6 = value
    core.endpoint.forget_paths()


def _hop_limit(name: str):
    def put(core, value: int, now: float) -> None:
        setattr(_groups(core), name, 1 if value == -1 else value)
        core.endpoint.forget_paths()

    return put


def _flag(name: str):
    def put(core, value: int, now: float) -> None:
        setattr(_groups(core), name, bool(value))

    return put


def _read(name: str):
    return lambda core, now: int(getattr(_groups(core), name))


def _group_options() -> None:
    def ip(number: int, name: str, **fields) -> None:
        define(IPPROTO_IP, number, name, kinds=_KINDS, byte=True, **fields)

    def ipv6(number: int, name: str, **fields) -> None:
        define(IPPROTO_IPV6, number, name, kinds=_KINDS, **fields)

    ip(32, "IP_MULTICAST_IF", raw=True, get=_get_interface4, put=_put_interface4)
    ip(33, "IP_MULTICAST_TTL", low=-1, high=255, get=_read("hop_limit4"), put=_hop_limit("hop_limit4"))
    ip(34, "IP_MULTICAST_LOOP", boolean=True, get=_read("loop4"), put=_flag("loop4"))
    ip(35, "IP_ADD_MEMBERSHIP", raw=True, readable=False, put=_membership(Groups.join, _request4))
    ip(36, "IP_DROP_MEMBERSHIP", raw=True, readable=False, put=_membership(Groups.leave, _request4))
    ip(49, "IP_MULTICAST_ALL", low=0, high=1, get=_read("everything4"), put=_flag("everything4"))
    ipv6(17, "IPV6_MULTICAST_IF", get=_read("interface6"), put=_put_interface6)
    ipv6(18, "IPV6_MULTICAST_HOPS", low=-1, high=255, get=_read("hop_limit6"), put=_hop_limit("hop_limit6"))
    ipv6(19, "IPV6_MULTICAST_LOOP", low=0, high=1, get=_read("loop6"), put=_flag("loop6"))
    ipv6(20, "IPV6_JOIN_GROUP", raw=True, readable=False, put=_membership(Groups.join, _request6))
    ipv6(21, "IPV6_LEAVE_GROUP", raw=True, readable=False, put=_membership(Groups.leave, _request6))
    ipv6(29, "IPV6_MULTICAST_ALL", low=0, high=1, get=_read("everything6"), put=_flag("everything6"))
    join, leave = (_membership(act, _group_request) for act in (Groups.join, Groups.leave))
    for level in (IPPROTO_IP, IPPROTO_IPV6):
        define(level, 42, "MCAST_JOIN_GROUP", kinds=_KINDS, raw=True, readable=False, put=join)
        define(level, 45, "MCAST_LEAVE_GROUP", kinds=_KINDS, raw=True, readable=False, put=leave)


_group_options()
