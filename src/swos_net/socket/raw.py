"""Raw sockets and ping sockets: the calls of datagram.py on IP datagrams without ports (raw(7), icmp(7), RFC 3542).

A raw socket needs the operation "raw" of its capability, a ping socket (SOCK_DGRAM with IPPROTO_ICMP or
IPPROTO_ICMPV6) "send" for protocol "icmp".  Raw sockets hear ICMP and protocols that nobody else here speaks.
"""

import errno
import struct
from typing import Any

from swos_net.address import UNSPECIFIED4
from swos_net.capability import Capability
from swos_net.errors import os_error
from swos_net.socket.base import Address
from swos_net.socket.constants import (
    AF_INET,
    AF_INET6,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_IP,
    IPPROTO_IPV6,
    SOCK_DGRAM,
    SOCK_RAW,
)
from swos_net.socket.datagram import DatagramCore
from swos_net.socket.options import RAW, define
from swos_net.stack.datagram_endpoint import DatagramEndpoint

SOL_RAW = 255
ICMP_FILTER = 1
ICMP6_FILTER = 1
IP_HDRINCL = 3
IPV6_CHECKSUM = 7
_FILTER6 = struct.Struct("=8I")


class RawCore(DatagramCore, kinds=((SOCK_RAW, -1),)):
    """One raw socket; addresses have port 0."""

    __slots__ = ()

    @staticmethod
    def speaks(family: int, proto: int) -> bool:
        return bool(proto)

    def _make_endpoint(self, stack, capability: Capability) -> DatagramEndpoint:
        return stack.raw.open(capability, self.unspecified, self.proto)

    def parse(self, address: Any) -> tuple[bytes, int, int]:
        """The port is not looked at."""
        parsed, _, scope = super().parse(address)
        return parsed, 0, scope

    def parse_own(self, address: Any) -> tuple[tuple[bytes, ...], int, int]:
        local, port, scope = self.parse(address)
        self._same_family(local)
        return (local,), port, scope

    def parse_peer(self, address: Any) -> tuple[bytes, int, int]:
        remote, port, scope = super().parse_peer(address)
        self._same_family(remote)
        return remote, port, scope

    def _same_family(self, address: bytes) -> None:
        """These sockets speak one family: the formats differ."""
        if self.family == AF_INET6 and address[:12] == UNSPECIFIED4[:12]:
            raise os_error(errno.EADDRNOTAVAIL, "a raw IPv6 socket takes no IPv4 address")

    def getsockname(self) -> Address:
        self.check_open()
        return self.name(self.endpoint.local, self.proto)


class EchoCore(RawCore, kinds=((SOCK_DGRAM, IPPROTO_ICMP), (SOCK_DGRAM, IPPROTO_ICMPV6))):
    """One ping socket: what it sends are echo requests with its identifier, what it gets their replies."""

    __slots__ = ()

    @staticmethod
    def speaks(family: int, proto: int) -> bool:
        return proto == (IPPROTO_ICMP if family == AF_INET else IPPROTO_ICMPV6)

    def _make_endpoint(self, stack, capability: Capability) -> DatagramEndpoint:
        return stack.raw.open_echo(capability, self.unspecified)

    def parse_own(self, address: Any) -> tuple[tuple[bytes, ...], int, int]:
        """The port of bind() is the identifier."""
        addresses, _, scope = super().parse_own(address)
        return addresses, address[1], scope

    def getsockname(self) -> Address:
        self.check_open()
        return self.name(self.endpoint.local, self.endpoint.local_port)


# Options


def _put_own_header(core, value: int, now: float) -> None:
    core.endpoint.whole_header = bool(value)


def _put_filter4(core, value: bytes, now: float) -> None:
    """struct icmp_filter: a bit for each type that is not wanted."""
    if core.proto != IPPROTO_ICMP:
        raise os_error(errno.EOPNOTSUPP, "ICMP_FILTER is for raw ICMP sockets")
    core.endpoint.blocked_types = int.from_bytes(value[:4].ljust(4, b"\0"), "little")


def _get_filter4(core, now: float) -> bytes:
    if core.proto != IPPROTO_ICMP:
        raise os_error(errno.EOPNOTSUPP, "ICMP_FILTER is for raw ICMP sockets")
    return (core.endpoint.blocked_types & 0xFFFFFFFF).to_bytes(4, "little")


def _put_filter6(core, value: bytes, now: float) -> None:
    """struct icmp6_filter (RFC 3542 3.2); Linux's bits say what is blocked."""
    if core.proto != IPPROTO_ICMPV6 or core.family != AF_INET6:
        raise os_error(errno.EOPNOTSUPP, "ICMP6_FILTER is for raw ICMPv6 sockets")
    words = _FILTER6.unpack(value[: _FILTER6.size].ljust(_FILTER6.size, b"\0"))
    core.endpoint.blocked_types = sum(word << 32 * place for place, word in enumerate(words))


def _get_filter6(core, now: float) -> bytes:
    return core.endpoint.blocked_types.to_bytes(_FILTER6.size, "little")


def _put_checksum(core, value: int, now: float) -> None:
    if core.proto == IPPROTO_ICMPV6 or value > 0 and value % 2:
        raise os_error(errno.EINVAL, "a checksum lies at an even offset, that of ICMPv6 where it is")
    core.endpoint.checksum_offset = max(value, -1)


define(IPPROTO_IP, IP_HDRINCL, "own_header", kinds=RAW, boolean=True, byte=True, put=_put_own_header,
       get=lambda core, now: int(core.endpoint.whole_header))  # fmt: skip
define(SOL_RAW, ICMP_FILTER, "ICMP_FILTER", kinds=RAW, raw=True, put=_put_filter4, get=_get_filter4)
define(IPPROTO_ICMPV6, ICMP6_FILTER, "ICMP6_FILTER", kinds=RAW, raw=True, put=_put_filter6, get=_get_filter6)
for _level in (IPPROTO_IPV6, SOL_RAW):
    define(_level, IPV6_CHECKSUM, "IPV6_CHECKSUM", kinds=RAW, put=_put_checksum,
           get=lambda core, now: core.endpoint.checksum_offset)  # fmt: skip
