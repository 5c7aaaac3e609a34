"""TCP sockets: a `TcpEndpoint` or `TcpListener` with the calls, states and errors of Linux's.

Read first: base.py.  `send` and `receive` of an established connection go straight to its endpoint; what is rare (other
states, flags) is in methods of its own.
"""

import errno
from typing import Any

from swos_net.address import is_unspecified
from swos_net.capability import Capability
from swos_net.errors import os_error
from swos_net.socket import options, tcp_options
from swos_net.socket.base import Address, SocketCore, Watcher, would_block
from swos_net.socket.constants import (
    AF_INET,
    AF_INET6,
    IPPROTO_TCP,
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
    SHUT_RD,
    SHUT_RDWR,
    SHUT_WR,
    SIOCATMARK,
    SIOCINQ,
    SIOCOUTQ,
    SIOCOUTQNSD,
    SOCK_STREAM,
)
from swos_net.stack.ports import PortClaim
from swos_net.stack.tcp_endpoint import TcpEndpoint, TcpListener
from swos_net.tcp.state import State

_ESTABLISHED = State.ESTABLISHED
_RARE_SEND = MSG_OOB | MSG_MORE
_RARE_RECEIVE = MSG_OOB | MSG_ERRQUEUE | MSG_PEEK | MSG_TRUNC


class StreamCore(SocketCore, kinds=((SOCK_STREAM, 0), (SOCK_STREAM, IPPROTO_TCP))):
    """One TCP socket.  `endpoint` is its connection, `listener` its listening port; at most one of them is there."""

    __slots__ = ("_claim", "_connecting", "_leaving", "_more", "endpoint", "listener")

    def __init__(self, stack, capability: Capability, family: int = AF_INET, type: int = SOCK_STREAM, proto: int = 0):
        super().__init__(stack, capability, family, type, IPPROTO_TCP)
        self.endpoint: TcpEndpoint | None = None
        self.listener: TcpListener | None = None
        self._claim: PortClaim | None = None  # what bind() holds
        self._leaving: TcpEndpoint | None = None  # the connection of a closed socket
        self._connecting = False  # connect() has not been told yet how it ended
        self._more = False  # the last send had MSG_MORE

    @staticmethod
    def speaks(family: int, proto: int) -> bool:
        return True

    # Set-up

    def bind(self, address: Any, now: float) -> None:
        self.check_open()
        addresses, port, _ = self.parse_own(address)
        if self._claim is not None or self.endpoint is not None or self.listener is not None:
            raise os_error(errno.EINVAL, "the socket is bound already")
        claim = self._new_claim(addresses)
        self.stack.tcp.claim(self.capability, claim, port)
        self._claim = claim

    def _new_claim(self, addresses: tuple[bytes, ...]) -> PortClaim:
        return PortClaim(addresses, reuse_address=bool(self.option("reuse_address")), reuse_port=bool(self.option("reuse_port")))

    def share_port(self, reuse_address: bool, reuse_port: bool) -> None:
        """SO_REUSEADDR or SO_REUSEPORT changed."""
        if self._claim is not None:
            self._claim.reuse_address, self._claim.reuse_port = reuse_address, reuse_port

    def listen(self, backlog: int, now: float) -> None:
        self.check_open()
        if self.listener is not None:
            self.listener.queue.backlog = self._backlog(backlog)
            return
        if self.endpoint is not None:
            raise os_error(errno.EINVAL, "the socket is connected")
        unbound = self._claim is None
        if unbound:
            self.bind(("", 0), now)
        try:
            listener = self.stack.tcp.listen_at(self.capability, self._claim, self._backlog(backlog))
        except OSError:
            if unbound:
                self.stack.tcp.ports.release(self._claim)
                self._claim = None
            raise
        listener.prepare = self._prepare
        self.listener = listener
        for watcher in self._watchers:
            listener.watch(watcher)

    @staticmethod
    def _backlog(backlog: int) -> int:
        """Linux takes one connection more than was asked for."""
        return min(max(backlog, 0), 4095) + 1

    def _prepare(self, endpoint: TcpEndpoint, now: float) -> None:
        """A SYN arrived: the connection begins with the listening socket's options."""
        tcp_options.apply_to_connection(self, endpoint, now)

    def accept(self, now: float) -> tuple["StreamCore", Address]:
        self.check_open()
        if self.listener is None:
            raise os_error(errno.EINVAL, "call listen() first")
        endpoint = self.listener.accept()
        if endpoint is None:
            would_block()
        core = StreamCore(self.stack, endpoint.capability, self.family)
        core._values = options.inherited(self._values)
        core.endpoint = endpoint
        return core, self.name(endpoint.remote, endpoint.remote_port, endpoint.interface.number)

    def connect(self, address: Any, now: float) -> None:
        """Begins to connect and raises BlockingIOError (EINPROGRESS); called again it says how that went.

        EALREADY while it is under way, nothing once it succeeded, the failure once it failed; EISCONN afterwards.
        """
        self.check_open()
        if address is None:
            self._disconnect(now)
            return
        remote, port, scope = self.parse_peer(address)
        if self.listener is not None:
            raise os_error(errno.EISCONN, "the socket listens")
        if self._connecting:
            self._continue_connecting(now)
            return
        if self.endpoint is not None:
            raise os_error(errno.EISCONN, "the socket is connected already")
        claim, local = self._claim, None
        if claim is not None:
            local = next((own for own in claim.addresses if not is_unspecified(own)), None)
        self._start(self.stack.tcp.connect(self.capability, remote, port, now, local=local, claim=claim), now)
        raise BlockingIOError(errno.EINPROGRESS, "Operation now in progress")

    def _start(self, endpoint: TcpEndpoint, now: float) -> None:
        tcp_options.apply_to_connection(self, endpoint, now)
        self.endpoint = endpoint
        self._connecting = True
        for watcher in self._watchers:
            endpoint.watch(watcher)

    def _continue_connecting(self, now: float) -> None:
        endpoint = self.endpoint
        state = endpoint.state
        if state is State.SYN_SENT or state is State.SYN_RECEIVED:
            raise BlockingIOError(errno.EALREADY, "Operation already in progress")
        error = endpoint.take_error()
        if error or state is State.CLOSED:
            self._disconnect(now)
            raise os_error(error or errno.ECONNABORTED, f"connection to {self.stack.describe(endpoint.remote, endpoint.remote_port)}")
        self._connecting = False

    def _disconnect(self, now: float) -> None:
        """Back to a socket that was never connected; what bind() held stays."""
        endpoint, self.endpoint = self.endpoint, None
        self._connecting = False
        if endpoint is not None:
            watchers = self._watchers
            for watcher in watchers:
                endpoint.unwatch(watcher)
            endpoint.abort(now)
        if self.listener is not None:
            self._stop_listening(now)

    def _stop_listening(self, now: float) -> None:
        listener, self.listener = self.listener, None
        claim = self._claim
        listener.close(now)
        # the port stays the socket's own until it closes
        if claim is not None and not self._closed:
            self.stack.tcp.ports.claim(claim, claim.local_port)

    # Sending

    def send(self, data, flags: int, now: float) -> int:
        endpoint = self.endpoint
        if endpoint is None or flags & _RARE_SEND or self._more or endpoint.lent is None and endpoint.state < _ESTABLISHED:
            self._before_send(flags)
            endpoint = self.endpoint
        if data.__class__ is not bytes:
            data = memoryview(data).cast("B")
        taken = endpoint.send(data, now)
        if not taken and len(data):
            would_block()  # the endpoint says when there is room
        return taken

    def _before_send(self, flags: int) -> None:
        """Raises what send() in an unusual state raises; sees to MSG_MORE."""
        self.check_open()
        endpoint = self.endpoint
        if flags & MSG_OOB:
            raise os_error(errno.EOPNOTSUPP, "urgent data is not sent")
        if endpoint is None:
            raise os_error(errno.EPIPE, "the socket is not connected")
        state = endpoint.connection.tcb.state
        if state is State.CLOSED:
            raise os_error(endpoint.take_error() or errno.EPIPE, "the connection is gone")
        if state < _ESTABLISHED:
            would_block()
        self._more = bool(flags & MSG_MORE)
        endpoint.connection.tcb.more_follows = self._more
        endpoint.connection.tcb.cork = self._more or bool(self.option("cork"))

    def send_to(self, data, flags: int, address: Any, now: float) -> int:
        """The address is ignored on a connected stream, as the kernel does; EISCONN never comes of it."""
        return self.send(data, flags, now)

    def send_message(self, buffers, ancillary, flags: int, address: Any, now: float) -> int:
        for level, kind, _ in ancillary:
            raise os_error(errno.EINVAL, f"stream sockets send no ancillary data of level {level} and type {kind}")
        total = 0
        pieces = [memoryview(buffer).cast("B") for buffer in buffers]
        for index, piece in enumerate(pieces):
            if not len(piece):
                continue
            more = MSG_MORE if index + 1 < len(pieces) else 0
            try:
                taken = self.send(piece, flags | more, now)
            except OSError:
                if total:
                    break  # what was taken counts; the error comes with the next call
                raise
            total += taken
            if taken < len(piece):
                break
        if not total and not any(map(len, pieces)):
            self._before_send(flags)
        if self._more and not flags & MSG_MORE:
            self._before_send(flags)
            self.endpoint.changed(now)
        return total

    def send_file(self, descriptor: int, offset: int | None, count: int, now: float) -> int:
        endpoint = self.endpoint
        if endpoint is None or self._more or endpoint.state < _ESTABLISHED:
            self._before_send(0)
        taken = endpoint.send_file(descriptor, offset, count, now)
        if not taken and count and not endpoint.send_room:
            would_block()
        return taken

    # Receiving

    def receive(self, length: int, flags: int, now: float) -> bytes:
        endpoint = self.endpoint
        if endpoint is None or flags & _RARE_RECEIVE:
            return self._receive_rare(length, flags, now)
        data = endpoint.receive(length, now)
        if data is None:
            would_block()
        return data

    def receive_into(self, buffer, length: int, flags: int, now: float) -> int:
        """`length` 0 stands for all of the buffer."""
        endpoint = self.endpoint
        if endpoint is None or flags & _RARE_RECEIVE:
            data = self._receive_rare(length or memoryview(buffer).nbytes, flags, now)
            if not flags & MSG_TRUNC:
                memoryview(buffer).cast("B")[: len(data)] = data
            return len(data)
        taken = endpoint.receive_into(buffer, now, length or None)
        if taken is None:
            would_block()
        return taken

    def _receive_rare(self, length: int, flags: int, now: float) -> bytes:
        self.check_open()
        endpoint = self.endpoint
        if flags & MSG_ERRQUEUE:
            would_block()
        if endpoint is None:
            raise os_error(errno.ENOTCONN, "the socket is not connected")
        if flags & MSG_OOB:
            raise os_error(errno.EINVAL, "there is no urgent data")
        if flags & MSG_PEEK:
            data = endpoint.peek(length)
        else:
            data = endpoint.receive(length, now)  # MSG_TRUNC of a stream: the bytes are taken and not given
        if data is None:
            would_block()
        return data

    def receive_from(self, length: int, flags: int, now: float) -> tuple[bytes, None]:
        """A stream's data has no address."""
        return self.receive(length, flags, now), None

    def receive_from_into(self, buffer, length: int, flags: int, now: float) -> tuple[int, None]:
        return self.receive_into(buffer, length, flags, now), None

    def receive_message(self, length: int, ancillary_length: int, flags: int, now: float):
        """(data, [], 0, None)."""
        return self.receive(length, flags, now), [], 0, None

    def receive_message_into(self, buffers, ancillary_length: int, flags: int, now: float):
        """(bytes received, [], 0, None)."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        total = 0
        if flags & MSG_PEEK:
            data = self.receive(sum(map(len, views)), flags, now)
            return scatter(data, views), [], 0, None
        for view in views:
            if not len(view):
                continue
            try:
                taken = self.receive_into(view, len(view), flags, now)
            except OSError:
                if total:
                    break
                raise
            total += taken
            if taken < len(view):
                break
        return total, [], 0, None

    # The end

    def shutdown(self, how: int, now: float) -> None:
        self.check_open()
        if how not in (SHUT_RD, SHUT_WR, SHUT_RDWR):
            raise os_error(errno.EINVAL, "use SHUT_RD, SHUT_WR or SHUT_RDWR")
        if self.listener is not None:
            if how != SHUT_WR:
                listener = self.listener
                self._stop_listening(now)
                listener.notify(POLL_READABLE | POLLHUP)
            return
        endpoint = self.endpoint
        if endpoint is None or endpoint.state is State.CLOSED:
            raise os_error(errno.ENOTCONN, "the socket is not connected")
        if endpoint.state is State.SYN_SENT:
            self._disconnect(now)
            return
        if how != SHUT_RD:
            endpoint.shutdown_send(now)
        if how != SHUT_WR:
            endpoint.shutdown_receive(now)

    def close(self, now: float) -> None:
        """Idempotent.  What was sent still arrives; a stream with unread data, or SO_LINGER with 0 s, is reset."""
        if self._closed:
            return
        self._closed = True
        if self.listener is not None:
            self.listener.close(now)
            self.listener = None
        elif self.endpoint is not None:
            endpoint = self._leaving = self.endpoint
            self.endpoint = None
            if self.linger_seconds == 0:
                for watcher in self._watchers:
                    endpoint.unwatch(watcher)
                endpoint.abort(now)
            else:
                endpoint.close(now)
        if self._claim is not None:
            self.stack.tcp.ports.release(self._claim)
        self._watchers = ()

    @property
    def delivering(self) -> bool:
        """Whether a closed socket's data is still on its way."""
        return self._leaving is not None and self._leaving.delivering

    # What options do

    def take_error(self) -> int:
        return self.endpoint.take_error() if self.endpoint is not None else 0

    def set_keepalive(self, on: bool, now: float) -> None:
        tcp_options.changed(self, "keepalive", on, now)

    def expect(self, octets: int, now: float) -> None:
        """Who waits is woken by so many octets, whatever SO_RCVLOWAT says."""
        tcp_options.changed(self, "receive_low", octets, now)

    def set_receive_low(self, octets: int, now: float) -> int:
        octets = min(octets, (self.option("receive_buffer") or 2 * self.stack.config.tcp.receive_buffer) // 4)
        tcp_options.changed(self, "receive_low", octets, now)
        return octets

    def set_pacing_rate(self, octets_per_second: float | None, now: float) -> None:
        tcp_options.changed(self, "pacing_rate", octets_per_second, now)

    def set_hop_limit(self, value: int, now: float, *, ipv4: bool) -> None:
        tcp_options.changed(self, "ttl" if ipv4 else "hops", value, now)

    def set_traffic_class(self, value: int, now: float, *, ipv4: bool) -> None:
        tcp_options.changed(self, "tos" if ipv4 else "tclass", value, now)

    def buffer_size(self, name: str) -> int:
        config = self.stack.config.tcp
        default = config.send_buffer_initial if name == "send_buffer" else config.receive_buffer_initial
        return self.option(name, 0) or 2 * default

    def set_buffer_size(self, name: str, size: int, now: float) -> None:
        tcp_options.changed(self, name, size, now)

    def path(self) -> tuple[bytes | None, Any]:
        endpoint = self.endpoint
        if endpoint is None or endpoint.state is State.CLOSED:
            return None, None
        return endpoint.remote, endpoint.interface

    def information(self, now: float) -> bytes:
        """TCP_INFO."""
        return tcp_options.information(self.endpoint, now) if self.endpoint is not None else tcp_options.no_information(self)

    # Names, readiness, counts

    def getsockname(self) -> Address:
        self.check_open()
        owner = self.endpoint or self.listener
        if owner is not None:
            number = owner.interface.number if owner is self.endpoint else 0
            return self.name(owner.local, owner.local_port, number)
        if self._claim is not None:
            return self.name(self._claim.addresses[0], self._claim.local_port)
        return self.name(self.unspecified, 0)

    def getpeername(self) -> Address:
        self.check_open()
        endpoint = self.endpoint
        if endpoint is None or endpoint.state < State.SYN_RECEIVED:
            raise os_error(errno.ENOTCONN, "the socket has no peer")
        return self.name(endpoint.remote, endpoint.remote_port, endpoint.interface.number)

    def watch(self, watcher: Watcher) -> None:
        super().watch(watcher)
        owner = self.endpoint or self.listener
        if owner is not None:
            owner.watch(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        super().unwatch(watcher)
        owner = self.endpoint or self.listener
        if owner is not None:
            owner.unwatch(watcher)

    def poll(self) -> int:
        if self.listener is not None:
            return POLL_READABLE if self.listener.queue.accepted else 0
        endpoint = self.endpoint
        if endpoint is None:
            return POLL_WRITABLE | POLLHUP
        lent = endpoint.lent
        if lent is not None:
            mask = POLL_READABLE if lent.readable else 0
            return mask | POLL_WRITABLE if lent.writable else mask
        connection = endpoint.connection
        tcb = connection.tcb
        state = tcb.state
        mask = POLLERR if tcb.error and endpoint.error_waits else 0
        if state is State.SYN_SENT:
            return mask
        closed = state is State.CLOSED
        receive_shut = closed or tcb.receive_shut or tcb.fin_received
        send_shut = closed or tcb.fin_wanted
        if receive_shut:
            mask |= POLL_READABLE | POLLRDHUP
            if send_shut:
                mask |= POLLHUP
        elif (ring := tcb.receive_ring) is not None and len(ring) >= tcb.receive_low:
            mask |= POLL_READABLE
        if state is State.SYN_RECEIVED:
            return mask
        if send_shut or connection.writable:
            mask |= POLL_WRITABLE
        return mask

    def ioctl(self, request: int, argument: Any, now: float) -> int:
        """SIOCINQ (FIONREAD), SIOCOUTQ, SIOCOUTQNSD, SIOCATMARK; ENOTTY for others."""
        self.check_open()
        if request not in (SIOCINQ, SIOCOUTQ, SIOCOUTQNSD, SIOCATMARK):
            raise os_error(errno.ENOTTY, f"request {request:#x} is not one of sockets")
        if self.listener is not None:
            raise os_error(errno.EINVAL, "the socket listens")
        endpoint = self.endpoint
        if endpoint is None or request == SIOCATMARK:
            return 0
        if request == SIOCINQ:
            return endpoint.readable
        tcb = endpoint.connection.tcb
        if tcb.state < _ESTABLISHED:
            return 0
        return max(tcb.data_end - (tcb.snd_una if request == SIOCOUTQ else tcb.snd_nxt), 0)


def scatter(data: bytes, views: list[memoryview]) -> int:
    """Copies `data` into one view after the other; returns how much found room."""
    at = 0
    for view in views:
        part = data[at : at + len(view)]
        view[: len(part)] = part
        at += len(part)
        if at >= len(data):
            break
    return at
