"""UDP sockets: a `UdpEndpoint` with the calls and errors of Linux's.  Read first: base.py; raw.py has what differs."""

import errno
from typing import Any

from swos_net.address import is_ipv4, is_link_local, is_multicast, to_packed
from swos_net.capability import Capability
from swos_net.errors import os_error
from swos_net.socket import ancillary
from swos_net.socket.base import Address, SocketCore, Watcher, would_block
from swos_net.socket.constants import (
    AF_INET,
    IPPROTO_UDP,
    MSG_ERRQUEUE,
    MSG_MORE,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    POLL_READABLE,
    POLL_WRITABLE,
    POLLERR,
    POLLHUP,
    POLLRDHUP,
    POLLWRBAND,
    SHUT_RD,
    SHUT_RDWR,
    SHUT_WR,
    SIOCINQ,
    SIOCOUTQ,
    SOCK_DGRAM,
)
from swos_net.socket.stream import scatter
from swos_net.stack.datagram_endpoint import ORDINARY, Datagram, DatagramEndpoint, SendOptions


class DatagramCore(SocketCore, kinds=((SOCK_DGRAM, 0), (SOCK_DGRAM, IPPROTO_UDP))):
    """One UDP socket; `endpoint` is there from the beginning, without a port until one is needed."""

    __slots__ = ("_corked", "_receive_shut", "_send_shut", "endpoint")

    def __init__(self, stack, capability: Capability, family: int = AF_INET, type: int = SOCK_DGRAM, proto: int = 0):
        super().__init__(stack, capability, family, type, proto or IPPROTO_UDP)
        self.endpoint = self._make_endpoint(stack, capability)
        self._corked: tuple | None = None  # what MSG_MORE holds back: (pieces, address, options)
        self._receive_shut = self._send_shut = False

    @staticmethod
    def speaks(family: int, proto: int) -> bool:
        return True

    def _make_endpoint(self, stack, capability: Capability) -> DatagramEndpoint:
        return stack.udp.create(capability, self.unspecified)

    # Set-up

    def bind(self, address: Any, now: float) -> None:
        self.check_open()
        addresses, port, scope = self.parse_own(address)
        endpoint = self.endpoint
        if endpoint.local_port:
            raise os_error(errno.EINVAL, "the socket is bound already")
        endpoint.bind(addresses, port)
        if scope and is_link_local(addresses[0]):
            self.bind_interface(scope)

    def share_port(self, reuse_address: bool, reuse_port: bool) -> None:
        """SO_REUSEADDR or SO_REUSEPORT changed."""
        self.endpoint.reuse_address, self.endpoint.reuse_port = reuse_address, reuse_port

    def _bound(self) -> DatagramEndpoint:
        """The endpoint with a port, any if none was asked for."""
        endpoint = self.endpoint
        if not endpoint.local_port:
            endpoint.bind_anywhere(self.parse_own(("", 0))[0])
        return endpoint

    def connect(self, address: Any, now: float) -> None:
        """Only that peer from now on; None: every peer again."""
        self.check_open()
        if address is None:
            self.endpoint.disconnect()
            return
        remote, port, scope = self.parse_peer(address)
        if scope and is_link_local(remote):
            self.bind_interface(scope)
        self._bound().connect(remote, port)

    # Sending

    def send(self, data, flags: int, now: float) -> int:
        return self._send(data, flags, None, ORDINARY, now)

    def send_to(self, data, flags: int, address: Any, now: float) -> int:
        """One datagram; EDESTADDRREQ without an address on a socket that is not connected."""
        return self._send(data, flags, address, ORDINARY, now)

    def send_message(self, buffers, ancillary_data, flags: int, address: Any, now: float) -> int:
        """The buffers make one datagram."""
        sent_with = ancillary.send_options(self, ancillary_data)
        return self._send(b"".join(bytes(memoryview(buffer).cast("B")) for buffer in buffers), flags, address, sent_with, now)

    def _send(self, data, flags: int, address: Any, sent_with: SendOptions, now: float) -> int:
        self.check_open()
        endpoint = self.endpoint
        if flags & MSG_OOB:
            raise os_error(errno.EOPNOTSUPP, "datagrams know no urgent data")
        if address is not None:
            remote, port, scope = self.parse_peer(address)
            if scope and not sent_with.interface and (is_link_local(remote) or is_multicast(remote)):
                sent_with = sent_with._replace(interface=scope)
        elif endpoint.remote is not None:
            remote, port = endpoint.remote, endpoint.remote_port
        elif self._corked is not None:
            remote, port = self._corked[1]
        else:
            raise os_error(errno.EDESTADDRREQ, "connect the socket or give an address")
        if self._send_shut:
            raise os_error(errno.EPIPE, "the sending side is shut")
        if flags & MSG_MORE or self._corked is not None:
            return self._send_corked(bytes(data), flags, (remote, port), sent_with, now)
        self._bound()
        if endpoint.unsent >= endpoint.send_buffer:
            would_block()
        return endpoint.send_to(data if data.__class__ is bytes else bytes(data), remote, port, now, sent_with)

    def _send_corked(self, data: bytes, flags: int, peer: tuple[bytes, int], sent_with: SendOptions, now: float) -> int:
        """MSG_MORE: pieces become one datagram with the first send() that does not have it (udp(7))."""
        pieces, (remote, port), sent_with = self._corked or ([], peer, sent_with)
        if sum(map(len, pieces)) + len(data) > 65507:
            self._corked = None
            raise os_error(errno.EMSGSIZE, "a datagram carries at most 65507 bytes")
        pieces.append(data)
        if flags & MSG_MORE:
            self._corked = pieces, (remote, port), sent_with
            return len(data)
        self._corked = None
        self._bound()
        self.endpoint.send_to(b"".join(pieces), remote, port, now, sent_with)
        return len(data)

    # Receiving

    def _take(self, flags: int) -> Datagram:
        self.check_open()
        endpoint = self.endpoint
        if flags & (MSG_OOB | MSG_ERRQUEUE):
            if flags & MSG_ERRQUEUE:
                would_block()
            raise os_error(errno.EOPNOTSUPP, "datagrams know no urgent data")
        datagram = endpoint.peek() if flags & MSG_PEEK else endpoint.receive()
        if datagram is None:
            if self._receive_shut:
                return Datagram(b"", endpoint.remote or self.unspecified, endpoint.remote_port, endpoint.local, 0, 0)
            would_block()
        return datagram

    def receive(self, length: int, flags: int, now: float) -> bytes:
        """One datagram; what is longer than `length` is lost."""
        return self._take(flags).payload[:length]

    def receive_into(self, buffer, length: int, flags: int, now: float) -> int:
        return self.receive_from_into(buffer, length, flags, now)[0]

    def receive_from(self, length: int, flags: int, now: float) -> tuple[bytes, Address]:
        datagram = self._take(flags)
        return datagram.payload[:length], self.name(datagram.remote, datagram.remote_port, datagram.interface)

    def receive_from_into(self, buffer, length: int, flags: int, now: float) -> tuple[int, Address]:
        """`length` 0 stands for all of the buffer; with MSG_TRUNC the datagram's own length is returned."""
        datagram = self._take(flags)
        view = memoryview(buffer).cast("B")
        payload = datagram.payload[: min(length, len(view)) if length else len(view)]
        view[: len(payload)] = payload
        name = self.name(datagram.remote, datagram.remote_port, datagram.interface)
        return len(datagram.payload) if flags & MSG_TRUNC else len(payload), name

    def receive_message(self, length: int, ancillary_length: int, flags: int, now: float):
        """(data, [(level, type, bytes), ...], MSG_TRUNC and MSG_CTRUNC flags, address)."""
        datagram = self._take(flags)
        data, message_flags = ancillary.received(self, datagram, ancillary_length)
        if len(datagram.payload) > length:
            message_flags |= MSG_TRUNC
        return datagram.payload[:length], data, message_flags, self.name(datagram.remote, datagram.remote_port, datagram.interface)

    def receive_message_into(self, buffers, ancillary_length: int, flags: int, now: float):
        """As `receive_message`, with the number of bytes in place of the data."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        payload, data, message_flags, name = self.receive_message(sum(map(len, views)), ancillary_length, flags, now)
        return scatter(payload, views), data, message_flags, name

    # The end

    def shutdown(self, how: int, now: float) -> None:
        self.check_open()
        if how not in (SHUT_RD, SHUT_WR, SHUT_RDWR):
            raise os_error(errno.EINVAL, "use SHUT_RD, SHUT_WR or SHUT_RDWR")
        if how != SHUT_WR:
            self._receive_shut = True
        if how != SHUT_RD:
            self._send_shut = True
        self.endpoint.notify(self.poll())
        if self.endpoint.remote is None:
            raise os_error(errno.ENOTCONN, "the socket is not connected")

    def close(self, now: float) -> None:
        """Idempotent."""
        if not self._closed:
            self._closed = True
            self.endpoint.close(now)
            self._watchers = ()

    delivering = False  # nothing of a datagram socket outlives close()

    # What options do

    def take_error(self) -> int:
        return self.endpoint.take_error()

    def set_broadcast(self, on: bool) -> None:
        self.endpoint.broadcast = on
        self.endpoint.forget_paths()

    def set_hop_limit(self, value: int, now: float, *, ipv4: bool) -> None:
        hop_limit = None if value == -1 else value
        if ipv4:
            self.endpoint.hop_limit4 = hop_limit
        else:
            self.endpoint.hop_limit6 = hop_limit
        self.endpoint.forget_paths()

    def set_traffic_class(self, value: int, now: float, *, ipv4: bool) -> None:
        if ipv4:
            self.endpoint.traffic_class4 = value
        else:
            self.endpoint.traffic_class6 = value
        self.endpoint.forget_paths()

    def set_fragmentation(self, on: bool) -> None:
        self.endpoint.fragment = on

    @property
    def dropped(self) -> int:
        """Datagrams that found no room."""
        return self.endpoint.dropped

    def answering_address(self, datagram: Datagram) -> bytes:
        """The 4 bytes that an answer to this datagram would come from (`ipi_spec_dst`)."""
        if self.stack.is_local(datagram.local):
            return to_packed(datagram.local)
        interface = self.stack.interface_numbered(datagram.interface)
        source = interface.source_towards(datagram.remote) if interface is not None else None
        return to_packed(source) if source is not None else bytes(4)

    def want_errors(self, on: bool) -> None:
        self.endpoint.errors_wanted = on

    def bind_interface(self, number: int) -> None:
        self.endpoint.device = number
        self.endpoint.forget_paths()

    def buffer_size(self, name: str) -> int:
        return self.endpoint.receive_buffer if name == "receive_buffer" else self.endpoint.send_buffer

    def set_buffer_size(self, name: str, size: int, now: float) -> None:
        if name == "receive_buffer":
            self.endpoint.receive_buffer = size
        else:
            self.endpoint.send_buffer = size

    def memory_info(self) -> tuple[int, ...]:
        endpoint = self.endpoint
        return endpoint.queued, endpoint.receive_buffer, endpoint.unsent, endpoint.send_buffer, 0, 0, 0, 0, endpoint.dropped

    def path(self) -> tuple[bytes | None, Any]:
        endpoint = self.endpoint
        if endpoint.remote is None:
            return None, None
        return endpoint.remote, self.stack.route_to(endpoint.remote, endpoint.local, broadcast=True, number=endpoint.device)[0]

    # Names, readiness, counts

    def getsockname(self) -> Address:
        self.check_open()
        endpoint = self.endpoint
        interface = None if is_ipv4(endpoint.local) else self.stack.interface_with(endpoint.local)
        return self.name(endpoint.local, endpoint.local_port, interface.number if interface is not None else 0)

    def getpeername(self) -> Address:
        self.check_open()
        endpoint = self.endpoint
        if endpoint.remote is None:
            raise os_error(errno.ENOTCONN, "the socket is not connected")
        return self.name(endpoint.remote, endpoint.remote_port, endpoint.device)

    def watch(self, watcher: Watcher) -> None:
        super().watch(watcher)
        self.endpoint.watch(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        super().unwatch(watcher)
        self.endpoint.unwatch(watcher)

    def poll(self) -> int:
        endpoint = self.endpoint
        mask = POLLERR if endpoint.error else 0
        if endpoint.next_length is not None:
            mask |= POLL_READABLE
        if self._receive_shut:
            mask |= POLL_READABLE | POLLRDHUP
            if self._send_shut:
                mask |= POLLHUP
        if endpoint.unsent < endpoint.send_buffer:
            mask |= POLL_WRITABLE | POLLWRBAND
        return mask

    def ioctl(self, request: int, argument: Any, now: float) -> int:
        """SIOCINQ (FIONREAD): bytes of the next datagram; SIOCOUTQ: bytes not sent; ENOTTY for others."""
        self.check_open()
        if request == SIOCINQ:
            return self.endpoint.next_length or 0
        if request == SIOCOUTQ:
            return self.endpoint.unsent
        raise os_error(errno.ENOTTY, f"request {request:#x} is not one of sockets")
