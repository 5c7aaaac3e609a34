"""TCP endpoints: a `tcp.Connection` or `tcp.Listener` tied to addresses, a path, deadlines and watchers.

Read first: tcp/connection.py.  A call of the user and an arriving segment end in the same place: `changed` tells
watchers, marks the endpoint for output and sees to its deadline.  While all goes well the connection is lent to the data
plane (lending.py): the calls of the hot path then go there, and every other use of `connection` brings it back.
"""

import errno
from collections.abc import Callable

from swos_net.capability import Capability
from swos_net.dataplane.batch import Batch, FlowPath
from swos_net.dataplane.tcp_flow import LentFlow
from swos_net.errors import os_error
from swos_net.stack.endpoint import Endpoint, Ready
from swos_net.stack.ports import PortClaim
from swos_net.tcp.connection import Connection
from swos_net.tcp.events import Event
from swos_net.tcp.listener import Listener
from swos_net.tcp.output import segments_to_send
from swos_net.tcp.segment import Segment
from swos_net.tcp.state import State

_READY_OF_EVENT = {
    Event.CONNECTED: Ready.WRITABLE,
    Event.READABLE: Ready.READABLE,
    Event.WRITABLE: Ready.WRITABLE,
    Event.PEER_CLOSED: Ready.READABLE | Ready.HANGUP,
    Event.FAILED: Ready.READABLE | Ready.WRITABLE | Ready.ERROR | Ready.HANGUP,
    Event.CLOSED: Ready.READABLE | Ready.WRITABLE | Ready.HANGUP,
}
_ONLY_READABLE = [Event.READABLE]
LEND_AFTER = 8  # turns of output, or of a loan's segments, that show a connection to be worth lending
LEND_AFTER_MAX = 256  # when loans have been short
LONG_LOAN = 128  # segments
LEND_AGAIN_AFTER = 2  # turns, once a loan has been long


class TcpEndpoint(Endpoint):
    """One connection."""

    __slots__ = (
        "_connection", "_error_told", "_lend_after", "_turns", "flow", "interface", "lent", "listener", "next_hop", "output_pending",
        "path", "remote", "remote_port", "reuse", "scheduled",
    )  # fmt: skip

    def __init__(self, stack, capability: Capability, connection: Connection, flow: bytes, local: bytes, local_port: int,
                 remote: bytes, remote_port: int, interface, next_hop: bytes, listener: "TcpListener | None" = None):  # fmt: skip
        super().__init__(stack, capability, local, local_port)
        self._connection = connection
        self.lent: LentFlow | None = None  # where the connection is while the data plane has it
        self._turns = self._lend_after = LEND_AFTER if stack.config.tcp.lending else 0
        self.flow = flow
        self.remote = remote
        self.remote_port = remote_port
        self.interface = interface
        self.next_hop = next_hop
        self.listener = listener
        self.path = FlowPath(local, local_port, remote, remote_port, stack.config.hop_limit, stack.random.getrandbits(16))
        self.reuse = 0  # REUSE_* of its local port
        self.output_pending = False
        self.scheduled: float | None = None
        self._error_told = False

    @property
    def connection(self) -> Connection:
        """The connection, here to be looked at and changed."""
        if self.lent is not None:
            self._take_back()
        return self._connection

    @property
    def connection_as_it_is(self) -> Connection:
        """Out of date while it is lent, but for its state, its error and its queues."""
        return self._connection

    def _take_back(self) -> None:
        lent, connection = self.lent, self._connection
        self.stack.lending.take_back(self)
        taken_in = connection.tcb.segments_in - lent.segments_before
        self._lend_after = LEND_AFTER if taken_in >= LEND_AFTER else min(2 * self._lend_after, LEND_AFTER_MAX)
        self._turns = LEND_AGAIN_AFTER if taken_in >= LONG_LOAN else self._lend_after

    def ready(self) -> int:
        lent = self.lent
        if lent is not None:
            return (Ready.READABLE if lent.readable else Ready.NONE) | (Ready.WRITABLE if lent.writable else Ready.NONE)
        connection = self.connection
        mask = Ready.NONE
        if connection.readable_enough or connection.at_end:
            mask |= Ready.READABLE
        state = connection.state
        if state is State.CLOSED:
            mask |= Ready.WRITABLE | Ready.HANGUP
        elif state > State.SYN_RECEIVED and connection.writable:
            mask |= Ready.WRITABLE
        if connection.tcb.error and not self._error_told:
            mask |= Ready.ERROR
        return mask

    def take_error(self) -> int:
        """SO_ERROR: the errno of a failure, once; 0 otherwise."""
        error = 0 if self._error_told else self._connection.tcb.error
        if error:
            self._error_told = True
        return error

    @property
    def error_waits(self) -> bool:
        """Whether `take_error` would give one."""
        return bool(self._connection.tcb.error) and not self._error_told

    def raise_error(self) -> None:
        """Raises the connection's failure once, as the kernel does."""
        error = self.take_error()
        if error:
            raise os_error(error, f"connection to {self.stack.describe(self.remote, self.remote_port)}")

    @property
    def state(self) -> State:
        return self._connection.state  # which does not change while it is lent

    @property
    def connected(self) -> bool:
        return self.state > State.SYN_RECEIVED

    @property
    def at_end(self) -> bool:
        """Whether nothing more will ever be readable."""
        return self.lent is None and self._connection.at_end

    @property
    def delivering(self) -> bool:
        """Whether the user has let go and the peer has not acknowledged everything yet."""
        return self.lent is None and self._connection.delivering

    @property
    def readable(self) -> int:
        """Bytes that `receive` would give now."""
        return self._connection.readable if self.lent is None else self.lent.readable

    @property
    def send_room(self) -> int:
        """Bytes that `send` would take now."""
        return self._connection.send_room if self.lent is None else self.lent.send_room

    # The user's calls; each needs `now` because the core reads no clock

    def send(self, data, now: float) -> int:
        """Queues bytes; 0 when there is no room now.  BrokenPipeError, or the connection's failure."""
        if self.lent is not None:
            taken = self.lent.send(data)
            self.want_output()
            return taken
        if self.connection.tcb.error:
            self.raise_error()
        taken = self.connection.send(data)
        self.changed(now)
        return taken

    def send_file(self, descriptor: int, offset: int | None, length: int, now: float) -> int:
        """Queues bytes straight from a file; 0 when there is no room now or the file has ended."""
        if self.lent is not None:
            taken = self.lent.send_file(descriptor, offset, length)
            self.want_output()
            return taken
        if self.connection.tcb.error:
            self.raise_error()
        taken = self.connection.send_file(descriptor, offset, length)
        self.changed(now)
        return taken

    def receive(self, length: int, now: float) -> bytes | None:
        """Takes up to `length` bytes; None when there are none yet, b"" at the end of the stream."""
        if self.lent is not None:
            data, output = self.lent.receive(length)
            if output:
                self.want_output()
            return data if data or not length and self.lent.readable else None
        connection = self.connection
        data = connection.receive(length)
        if not data and (length or not connection.readable):
            return self._nothing_readable()
        if connection.tcb.ack_now:
            self.changed(now)
        return data

    def receive_into(self, buffer, now: float, length: int | None = None) -> int | None:
        """Takes bytes into a writable buffer; None when there are none yet, 0 at the end of the stream."""
        if self.lent is not None:
            taken, output = self.lent.receive_into(buffer, length)
            if output:
                self.want_output()
            return taken if taken or self.lent.readable else None
        connection = self.connection
        taken = connection.receive_into(buffer, length)
        if not taken and not connection.readable:
            return None if self._nothing_readable() is None else 0
        if connection.tcb.ack_now:
            self.changed(now)
        return taken

    def peek(self, length: int) -> bytes | None:
        """What `receive` would give, left where it is."""
        ring = self._connection.tcb.receive_ring
        if ring is not None and len(ring):
            return ring.peek(length)
        return None if self.lent is not None else self._nothing_readable()

    def _nothing_readable(self) -> bytes | None:
        connection = self.connection
        # after the peer's FIN a failure concerns sending alone; Linux tells it there
        if connection.tcb.error and not self._error_told and not connection.tcb.fin_received:
            self.raise_error()
        return b"" if connection.at_end else None

    def shutdown_send(self, now: float) -> None:
        if self.connection.state in (State.CLOSED, State.SYN_SENT):
            raise os_error(errno.ENOTCONN, "connect the socket first")
        self.connection.shutdown_send(now)
        self.changed(now)

    def shutdown_receive(self, now: float) -> None:
        self.connection.shutdown_receive()
        self.changed(now)
        self.notify(Ready.READABLE | Ready.HANGUP)

    def close(self, now: float) -> None:
        """The user lets go; the connection ends in its own time."""
        self._watchers = ()
        connection = self.connection
        connection.close(now)
        if connection.delivering and not self.stack.tcp.orphaned(self):
            connection.abort(now)
        self.changed(now)

    def abort(self, now: float) -> None:
        self.connection.abort(now)
        self.changed(now)

    # From the stack

    def fail(self, code: int, now: float) -> None:
        """The link is gone."""
        self.connection.fail(code)
        self.changed(now)

    def deliver(self, segment: Segment, now: float) -> None:
        """A segment of this flow."""
        self.connection.segment_arrives(segment, now)
        self.changed(now)

    def handle_timeout(self, now: float) -> None:
        if self.lent is not None and self.lent.timed_out(now):
            self.stack.counters["TcpExtDelayedACKs"] += 1
            self.want_output()
            return
        self.connection.handle_timeout(now)
        self.changed(now)

    def next_deadline(self) -> float | None:
        if self.lent is not None:
            return self.lent.next_deadline(self.scheduled)
        # what came of output is told at the next turn: no watcher is called while a batch is being filled
        tcb = self._connection.tcb
        return 0.0 if tcb.events else tcb.timers.next_deadline()

    def path_error(self, code: int, now: float) -> None:
        self.connection.path_error(code)
        self.changed(now)

    def changed(self, now: float) -> None:
        """To be called after anything that the connection may answer, tell or wait for."""
        connection = self._connection
        if connection.tcb.events:
            self.events_happened()
        if self.output_pending:
            return  # what goes out sees to the deadline
        if connection.has_output:
            self.want_output()
        else:
            self.stack.deadlines.schedule(self)

    def want_output(self) -> None:
        """The link will be asked to take what there is."""
        if not self.output_pending:
            self.output_pending = True
            interface = self.interface
            interface.output_ready.append(self)
            if interface.wants_output is not None:
                interface.wants_output()

    def events_happened(self) -> None:
        """Tells the owner, the listener and the watchers what the connection reports."""
        events = self._connection.tcb.events
        if events == _ONLY_READABLE:
            events.clear()
            self.notify(Ready.READABLE)
            return
        mask = 0
        while events:
            event = events.pop(0)
            if event is Event.CONNECTED:
                if self.listener is not None:
                    self.listener.completed(self)
            elif event is Event.TIME_WAIT:
                self.stack.tcp.time_wait_entered(self)
            elif event is Event.CLOSED or event is Event.REOPEN:
                self.stack.tcp_closed(self)
                if self.listener is not None:
                    self.listener.gone(self)
            mask |= _READY_OF_EVENT.get(event, 0)
        if mask:
            self.notify(mask)

    def transmit(self, batch: Batch, now: float) -> bool:
        """Adds what may go out now; True when there is more than the batch had room for.  See also Lending.transmit."""
        if self.path.granted is not self.capability:
            self.stack.counters["OutNotAllowed"] += 1  # whatever let the endpoint get here, nobody asked its capability
            self.stack.deadlines.schedule(self)
            return False
        interface = self.interface
        link_address = interface.neighbors.known(self.next_hop, now) or interface.link_address_of(self.next_hop, now)
        if link_address is None:
            return self._transmit_later(now)
        path = self.path
        if link_address != path.link_destination:
            path.set_link(interface.link.address, link_address)
        before = batch.count
        batch.path = path.pointer
        more = segments_to_send(self.connection.tcb, now, batch, batch.room)
        if batch.count > before:
            batch.kept.append(path)
            self.stack.counters["TcpOutSegs"] += batch.count - before
        if self._turns and not more:
            self._turns -= 1
            if not self._turns:
                self._turns = self._lend_after
                self.stack.lending.lend(self)
        self.stack.deadlines.schedule(self)
        return more

    def trim(self, idle_since: float) -> None:
        """Gives back the memory of queues that are empty; a connection that is lent and was used since keeps it."""
        if self.lent is None or self.lent.c.state.last_received <= idle_since:
            self.connection.trim()

    def _transmit_later(self, now: float) -> bool:
        """The neighbour is not known yet: packets wait with it, as complete IP packets."""
        waiting = Batch()
        waiting.path = self.path.pointer
        self.connection.segments_to_send(now, waiting, 4)
        waiting.seal()
        for packet, *_ in waiting.frames(self.interface.plain_packets):
            self.interface.hold(self.next_hop, packet)
        self.stack.deadlines.schedule(self)
        return False


class TcpListener(Endpoint):
    """One listening port."""

    __slots__ = ("claim", "prepare", "queue")

    def __init__(self, stack, capability: Capability, local: bytes, local_port: int, claim: PortClaim, backlog: int):
        super().__init__(stack, capability, local, local_port)
        self.claim = claim
        self.prepare: Callable[[TcpEndpoint, float], None] | None = None  # gives a new connection the socket's options
        self.queue = Listener(backlog, stack.config.half_open_limit)

    @property
    def reuse_port(self) -> bool:
        return self.claim.reuse_port

    def ready(self) -> int:
        return Ready.READABLE if self.queue.accepted else Ready.NONE

    def accept(self) -> TcpEndpoint | None:
        """The next complete connection, or None."""
        if not self.queue.accepted:
            return None
        endpoint = self.queue.accepted.popleft()
        endpoint.listener = None
        return endpoint

    def completed(self, endpoint: TcpEndpoint) -> None:
        self.queue.completed(endpoint)
        self.notify(Ready.READABLE)

    def gone(self, endpoint: TcpEndpoint) -> None:
        self.queue.gone(endpoint)

    def close(self, now: float) -> None:
        """No more connections; those that nobody accepted are reset."""
        self.stack.tcp_unlisten(self)
        for endpoint in (*self.queue.half_open, *self.queue.accepted):
            endpoint.listener = None
            endpoint.abort(now)
        self.queue.half_open.clear()
        self.queue.accepted.clear()
        self.notify(Ready.READABLE | Ready.HANGUP)
        self._watchers = ()
