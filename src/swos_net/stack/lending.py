"""Which connections of a stack the data plane looks after.

Read first: tcp/lending.py.  `TcpEndpoint` asks for it after a while of nothing unusual, and takes its connection back as
soon as anybody looks at it.
"""

import hashlib
from collections.abc import Iterable

from swos_net.dataplane import tcp_flow
from swos_net.dataplane.batch import Batch
from swos_net.dataplane.burst import Burst
from swos_net.dataplane.tcp_flow import FlowTable, LentFlow
from swos_net.stack.endpoint import Ready
from swos_net.tcp import lending

LINK_KNOWN = 1.0  # seconds that a turn of the data plane takes a next hop's link address for granted
_READY = Ready.READABLE | Ready.WRITABLE
assert _READY == tcp_flow.READABLE | tcp_flow.WRITABLE
_OUTPUT, _EARLIER, _NOT_MINE = tcp_flow.OUTPUT, tcp_flow.EARLIER, tcp_flow.NOT_MINE


class Lending:
    """The lent connections of one stack."""

    __slots__ = ("_borrowers", "_free", "_links", "_table")

    def __init__(self, secret: bytes):
        """`secret`: 16 bytes that nobody outside knows."""
        self._table = FlowTable(int.from_bytes(hashlib.blake2b(secret, digest_size=8, person=b"flow table").digest(), "big"))
        self._links = 0
        self._borrowers: list = []  # endpoints by the numbers that the data plane calls them
        self._free: list[int] = []

    @property
    def count(self) -> int:
        return len(self._table)

    @property
    def table(self) -> FlowTable:
        return self._table

    @property
    def flows(self) -> list[LentFlow]:
        return [endpoint.lent for endpoint in self._borrowers if endpoint is not None]

    def links_may_change(self) -> None:
        """A neighbour has said something: turns of the data plane do not rely on what was known."""
        self._links += 1
        self._table.c.links = self._links

    def lend(self, endpoint) -> None:
        """Hands the endpoint's connection to the data plane if it may be.

        In this order, and `take_back` in the other, an exception in between (KeyboardInterrupt) leaves nothing undecided.
        """
        tcb = endpoint.connection.tcb
        if not lending.lendable(tcb):
            return
        if not self._free:
            self._free.append(len(self._borrowers))
            self._borrowers.append(None)
        number = self._free.pop()
        flow = LentFlow(endpoint.flow, endpoint.path, number, endpoint.scheduled)
        lending.lend(tcb, flow)
        self._borrowers[number] = endpoint
        endpoint.lent = flow
        self._table.add(flow)

    def take_back(self, endpoint) -> None:
        """The connection is up to date again, and everything about it is decided there."""
        flow = endpoint.lent
        lending.take_back(endpoint.connection_as_it_is.tcb, flow)
        self._table.remove(flow)
        endpoint.lent = None
        self._borrowers[flow.c.number] = None
        self._free.append(flow.c.number)

    def receive(self, burst: Burst, now: float) -> tuple[int, int]:
        """Takes in what it can of a burst, and says what came of it; (segments taken, records left)."""
        segments, left, news = self._table.receive(burst, now)
        self.tell(news)
        return segments, left

    def tell(self, news: Iterable[tuple[int, int]]) -> None:
        """What the data plane says of flows, by their numbers."""
        borrowers = self._borrowers
        # a watcher may have another connection taken back, which then is no longer under its number
        for endpoint, what in [(borrowers[number], what) for number, what in news]:
            if ready := what & _READY:
                endpoint.notify(ready)
            if what & _OUTPUT:
                endpoint.want_output()
            elif what & _EARLIER:
                endpoint.stack.deadlines.schedule(endpoint)

    def transmit(self, interface, count: int, batch: Batch, now: float) -> int:
        """Adds what those at the front of the interface's `output_ready` may send, up to the first that is not lent, of
        `count` at most; returns how many it has been through, which are taken off."""
        ready = interface.output_ready
        flows: list[LentFlow] = []
        next_hop = link_address = None
        for index in range(min(count, batch.room)):
            endpoint = ready[index]
            flow = endpoint.lent
            if flow is None or endpoint.path.granted is not endpoint.capability:
                break
            if endpoint.next_hop != next_hop:
                next_hop = endpoint.next_hop
                link_address = interface.neighbors.known(next_hop, now) or interface.link_address_of(next_hop, now)
            if link_address != flow.path.link_destination:
                if link_address is None:
                    break
                flow.path.set_link(interface.link.address, link_address)
            flow.path.c.link_known_until = now + LINK_KNOWN
            flow.path.c.link_known_in = self._links
            flow.path.c.link_number = interface.number
            flows.append(flow)
        if not flows:
            return 0
        stack = interface.stack
        added, done, news = self._table.transmit(flows, batch, now)
        stack.counters["TcpOutSegs"] += added
        gone = [ready.popleft() for _ in range(done)]
        for endpoint in gone:
            endpoint.output_pending = False
        for index, what in news:
            endpoint = gone[index]
            if what & _EARLIER:
                stack.deadlines.schedule(endpoint)
            if endpoint.transmit(batch, now) if what & _NOT_MINE else what & _OUTPUT:
                interface.continue_output(endpoint)
        return done
