"""The body of every loop: bursts in, time, batches out.  The one place that pulls.

Who waits (an asyncio loop, a thread, a test's clock) calls `Poller.poll` when a device's descriptor is readable, when
the deadline has come, or when the stack says that output appeared.  Who has callbacks to run in between calls its
halves, `take` and `flush`.
"""

from collections.abc import Callable
from functools import partial

from swos_net.dataplane.batch import Batch
from swos_net.dataplane.burst import Burst
from swos_net.dataplane.flow_turn import FlowTurn, Plans
from swos_net.device.base import Device, PromptDevice
from swos_net.stack.interface import Interface
from swos_net.stack.stack import Stack

BATCHES_PER_SEND = 16  # then others get their turn (checked again at once)
LOOPBACK_TURNS = 64


class Port:
    """One device on one interface, and the batch that is under way between them."""

    __slots__ = ("batch", "blocked", "burst", "device", "held", "interface", "turn")

    def __init__(self, device: Device, interface: Interface):
        self.device = device
        self.interface = interface
        self.burst = Burst()
        self.batch = Batch()
        self.blocked = False
        self.held = False  # the burst has not been given back to the device
        self.turn: FlowTurn | None = None  # where devices make turns of their own


class Poller:
    """A stack and its ports."""

    def __init__(self, stack: Stack):
        self.stack = stack
        self.ports: list[Port] = []
        self.polls = 0
        self._unsent = False  # sending was cut short
        self._busy = False
        self._called = False  # `flush` was, while busy

    def attach(self, device: Device, now: float, name: str = "") -> Interface:
        """Makes an interface for a device; its addresses are added to the stack afterwards."""
        interface = self.stack.add_interface(device.link, now, name)
        port = Port(device, interface)
        self.ports.append(port)
        if isinstance(device, PromptDevice):
            device.answer_echo(interface.make_responder())
            port.turn = FlowTurn(self.stack.lending.table, port.burst, port.batch, partial(self._plans, port), partial(self._turned, port))
            port.turn.lead_through(interface.number)
            device.make_turns(port.turn)
        return interface

    def poll(self, now: float) -> bool:
        """Does what can be done at `now`; True when there is more to do at once."""
        more = self.take(now)
        self._send(now)
        return self._unsent or more

    def take(self, now: float) -> bool:
        """At most one burst of every device, and what is due; True when there may be more.

        What the stack has to send for it waits for `flush`, so that what callbacks read and write in between goes out
        with the acknowledgments.
        """
        self.polls += 1
        self._busy = True
        try:
            more = False
            for port in self.ports:
                if self._receive(port, now):
                    more = True
            stack = self.stack
            if stack.deadlines.due_at(now):
                stack.handle_timeout(now)
            loopback = stack.loopback
            if loopback.has_output:
                self._loop(now)
                more = more or loopback.has_output
            return more
        finally:
            self._busy = False

    def flush(self, now: float) -> None:
        """Only sends what is waiting: after a call of the user.  What comes of it over the loopback arrives, too.

        A finalizer that runs inside the stack may call this in the middle of a burst or a batch, where it does nothing:
        who is at work there sends it.
        """
        if self._busy:
            self._called = True
            return
        if self.stack.loopback.has_output:
            self._loop(now)
        self._send(now)

    def failed(self, now: float) -> None:
        """A device is gone for good: every connection of this stack ends with an error."""
        for port in self.ports:
            self.stack.interface_failed(port.interface, now)
            port.blocked = True  # nor does the rest of a batch go out
        self.stack.interface_failed(self.stack.loopback, now)

    def watch_output(self, wants_output: Callable[[], None] | None) -> None:
        """`wants_output()` is called whenever the stack has something to send: `poll` should follow."""
        for port in self.ports:
            port.interface.wants_output = wants_output
        self.stack.loopback.wants_output = wants_output

    def next_deadline(self) -> float | None:
        """When `poll` should be called at the latest; in the past when there is something to do at once."""
        if self._unsent or self.stack.loopback.has_output:
            return 0.0
        return self.stack.deadlines.next_deadline()

    def due_at(self, now: float) -> bool:
        """Whether `poll` should be called now; unlike `next_deadline` it knows what has moved later meanwhile."""
        return self._unsent or self.stack.loopback.has_output or self.stack.deadlines.due_at(now)

    def _loop(self, now: float) -> None:
        """What the host says to itself, the answers, and the answers to these: a bounded number of times."""
        loopback = self.stack.loopback
        for _ in range(LOOPBACK_TURNS):
            loopback.turn(now)
            if not loopback.has_output:
                return

    def _plans(self, port: Port) -> Plans:
        owner, following = self.stack.deadlines.first_two()
        return port.interface.has_output, getattr(owner, "lent", None), following

    def _turned(self, port: Port) -> None:
        """The device has made turns of its own."""
        batch, stack = port.batch, self.stack
        batch.count = batch.c.count
        if batch.count:
            batch.kept[:] = stack.lending.flows  # it may name any of them
        else:
            batch.kept.clear()
            port.blocked = False
        # in this order an exception leaves it to be told once more
        stack.lending.tell(list(port.turn.news()))
        port.turn.told()
        stack.input.count_turn(port.interface, port.turn)

    def _receive(self, port: Port, now: float) -> bool:
        device, burst, interface = port.device, port.burst, port.interface
        if port.held:
            port.held = False
            device.release(burst)
        taken_in = port.turn is not None and port.turn.left > 0
        if not taken_in:
            burst.clear()
        received = device.receive(burst)
        responder = interface.responder
        if responder is not None and (responder.c.answered or responder.c.unseen):
            self.stack.input.count_echoes(interface)
        if device.link is not interface.link:
            interface.link_changed(device.link)
        port.blocked = False  # what made the descriptor readable may have been room
        if not received:
            return False
        more = burst.more
        port.held = True
        self.stack.input.receive_burst(interface, burst, now, taken_in)
        return more

    def _send(self, now: float) -> None:
        more = self._called = False
        self._busy = True
        try:
            for port in self.ports:
                if port.interface.has_output or port.batch.count:
                    if self._transmit(port, now):
                        more = True
                if port.held:
                    # answers first: a guest then sees them and its own buffers come back with one interrupt
                    port.held = False
                    port.device.release(port.burst)
        finally:
            self._busy = False
        self._unsent = more or self._called

    def _transmit(self, port: Port, now: float) -> bool:
        """True when the work was cut short although the device still took frames."""
        if port.blocked:
            return False
        device, batch, interface = port.device, port.batch, port.interface
        for _ in range(BATCHES_PER_SEND):
            if not batch.count:
                if not interface.has_output:
                    return False
                interface.fill(batch, now)
                if not batch.count:
                    continue
                batch.seal()
            if not device.transmit(batch):
                port.blocked = True
                return False
            interface.counters["OutFrames"] += batch.c.frames
            interface.counters["OutOctets"] += batch.c.bytes
            interface.counters["OutBursts"] += 1
            batch.clear()
        return interface.has_output
