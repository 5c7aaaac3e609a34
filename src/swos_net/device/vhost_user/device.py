"""A guest's network card whose other end is this process: frames from and to a vhost-user front-end such as QEMU.

Read first: session.py, rings.py.  This module joins them with a socket and keeps one descriptor that tells when there
is something to do; it never waits, starts no thread and needs no event loop of its own.
"""

import logging
import os
import select
import socket
from collections.abc import Callable, Iterable
from dataclasses import replace

from swos_net.dataplane.batch import link_limits
from swos_net.dataplane.burst import FRAMES
from swos_net.dataplane.echo import EchoResponder
from swos_net.dataplane.flow_turn import FlowTurn
from swos_net.dataplane.prompt import Prompt
from swos_net.device.options import plain_ethernet
from swos_net.device.unix_socket import Rendezvous
from swos_net.device.vhost_user.connection import Connection, close_fds
from swos_net.device.vhost_user.features import Feature, mask, with_requirements
from swos_net.device.vhost_user.message import ProtocolError, parse_request
from swos_net.device.vhost_user.rings import RingPort, Rings, poke
from swos_net.device.vhost_user.session import DEVICE_FEATURES, Session
from swos_net.link import Offload

log = logging.getLogger(__name__)

QUEUE_PAIRS_MAX = 128  # M9: a ring index has 8 bits in SET_VRING_KICK
# T5: messages handled and empty-handed looks at rings made before the caller gets its turn.
MESSAGES_PER_WAKE = 256
FRUITLESS_LOOKS = 8
# Interrupt moderation: a ring through which BULK_BYTES went since it was last empty is looked at again after a rest
# instead of a kick.  Each kick and each signal costs a guest far more than it costs us, so that a stack that answers every
# frame at once would slow its guest down.  Requests and answers stay below the threshold.  A rest is as long as it takes
# for about REST_BYTES to gather, within bounds (seconds).
BULK_BYTES = 16384
REST_BYTES = 1 << 20
REST_MIN = 0.00005
REST_MAX = 0.0015
# Bursts that are taken before asking which descriptors are readable, which takes longer than a whole answer; then whoever
# else waits gets his turn.
LOOKS_FIRST = 16
# A guest that is signalled because of an answer finds the few chains of its question that came back with it: a second
# signal would only cost it time.
QUIET_CHAINS = 4
# Seconds that a guest has to find what it has been given back quietly.  A guest that answers to signals alone sends its
# next frame all the same.
REMIND_AFTER = 0.005
REMIND_BULK_AFTER = 0.05
# Ethernet header and the largest IP packet.
SUPER_FRAME_MAX = 14 + 65535


class VhostUserDevice:
    """One vhost-user back-end for a network card, and the device of an Ethernet link.

    `path` is the socket's.  As "listen" the front-end connects to it; as "connect" a front-end (QEMU's `server=on`)
    listens there, and may come and go.  `mac` is our address on the link, a random one when it is None.  `mtu` holds
    where the front-end does not say (`host_mtu`).  `features_off` are `Feature` numbers not to offer.
    `event(name, **details)` is told of: connected, negotiated(features), mtu_set(mtu), ring_started(index),
    ring_stopped(index), ring_broken(index, check), link_up, link_down, guest_moved(address), memory_can_shrink,
    kicked_in_vain(index), warning(text), protocol_error(message, check, text), disconnected(reason).
    `rest` is how long, in seconds, a ring with bulk data may be left alone before it is looked at again; 0 for never.

    OSError when the socket cannot be made.  Not thread-safe; nothing here blocks.
    """

    wants_write = False  # room shows as a kick of the receive ring

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        role: str = "listen",
        queue_pairs: int = 1,
        mac: bytes | None = None,
        mtu: int = 1500,
        features_off: Iterable[int] = (),
        event: Callable[..., None] | None = None,
        rest: float = REST_MAX,
    ):
        if not 1 <= queue_pairs <= QUEUE_PAIRS_MAX:
            raise ValueError(f"a network card has 1 to {QUEUE_PAIRS_MAX} queue pairs, not {queue_pairs}")
        self.link = plain_ethernet(mac, mtu)
        self.link_up = False
        self._limits = link_limits(self.link)
        self._mtu = mtu
        self._guest_mtu: int | None = None
        self._offered = with_requirements(DEVICE_FEATURES & ~mask(*features_off))
        self._event = event
        self._counters = dict.fromkeys(("connections", "protocol_errors", "transmit_discarded"), 0)
        self._connection: Connection | None = None
        self._session: Session | None = None
        self._held: RingPort | None = None
        self._held_burst = None
        self._looked = False  # it was taken from a ring that nobody had told of
        self._transmit_port: RingPort | None = None
        self._receive_port: RingPort | None = None  # the other one of that pair
        self._responder: EchoResponder | None = None
        self._turn: FlowTurn | None = None
        self._looks_first = 0  # since other descriptors had their turn
        self._signals = 0  # of the transmit port before the last burst
        self._bytes_moved = 0  # since a transmit ring last ran empty
        self._rest = self._rest_min = min(REST_MIN, rest)
        self._rest_max = rest
        self._closed = False
        self._rendezvous: Rendezvous | None = None
        self._poller = select.epoll()
        self.prompt = Prompt(self._poller.fileno(), self._left_by_prompt)
        # Readable while rings have work that no other descriptor tells of.
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._awake = False
        self._rings = Rings(queue_pairs, self._poller, self._notified)
        try:
            self._poller.register(self._wake, select.EPOLLIN)
            self._rendezvous = Rendezvous(path, role, self._poller)
            self.path = self._rendezvous.path
            self._find()
        except BaseException:
            self.close()
            raise

    # the device's protocol

    def fileno(self) -> int:
        """Readable when receive() has something to do, or transmit() can go on."""
        return self._poller.fileno()

    def receive(self, burst) -> int:
        """Handles what the front-end said, then takes frames of one ring into a Burst that is empty.

        Returns how many; 0 when there is nothing now.  After any other number `release()` comes before the next call.
        """
        if self._held is not None:
            raise RuntimeError("release() the burst before the next receive()")
        if self._turn is not None:
            if self._turn.owes_signal and self._receive_port is not None:
                self._rings.remind_later(self._receive_port, REMIND_BULK_AFTER)
            if self._turn.left:
                return self._take_left(burst)
        if self._responder is not None and self._responder.c.unseen and self._receive_port is not None:
            self._receive_port.vring.remind()  # what the prompt has given back, some time ago
            self._receive_port.foreseen = True  # it has drained the kick
        if self._looks_first < LOOKS_FIRST and not self._rings.busy and (count := self._look_first(burst)):
            return count
        self.handle_ready()
        return self._take_frames(burst)

    def _take_left(self, burst) -> int:
        """What a turn has taken and not all of which was for it: with what comes of that it is as any other burst."""
        self._turn.c.left = 0
        self._signals = self._transmit_port.vring.c.signals
        port = self._receive_port
        self._rings.found(port)
        count = self._took(port, burst.c.completions, burst)
        self._set_awake(self._rings.work_unseen)
        return count

    def _look_first(self, burst) -> int:
        """Frames whose kick nobody has seen yet."""
        port = self._receive_port
        if port is None or not port.enabled or port in self._rings.resting or not port.vring.c.features >> Feature.EVENT_IDX & 1:
            return 0
        taken = self._take(port, burst)
        if not taken:
            return 0
        self._looks_first += 1
        if 0 < taken <= QUIET_CHAINS and len(burst) and not self._is_bulk(burst):
            # a question, most likely: nothing changes but that its kick has to be drained
            self._held, self._held_burst, self._looked = port, burst, True
            self._bytes_moved += burst.c.bytes
            burst.more = False
            return len(burst)
        self._rings.found(port)
        count = self._took(port, taken, burst)
        self._set_awake(self._rings.work_unseen)
        return count

    def _take_frames(self, burst) -> int:
        """From the first busy ring that has any."""
        busy = self._rings.busy
        looks = len(busy) + FRUITLESS_LOOKS
        while busy and looks:
            looks -= 1
            port = busy[0]
            # Fair between rings: this one is last next time.
            busy.rotate(-1)
            taken = self._take(port, burst)
            if taken == 0:
                self._bytes_moved = 0
                self._rings.settle(port)
            elif count := self._took(port, taken, burst):
                break
        else:
            count = 0
        self._set_awake(self._rings.work_unseen)
        return count

    def _took(self, port: RingPort, taken: int, burst) -> int:
        """A busy ring has given so many chains, or has broken; how many frames of it go to the caller."""
        if taken < 0:
            burst.clear()
            self._rings.ring_broke(port)
            self._update_link()
            return 0
        count = len(burst)
        if not count:
            if port.enabled:
                # Nothing but chains without a frame; a discarding ring gives its chains back itself.
                port.vring.release(burst)
            return 0
        self._held, self._held_burst = port, burst
        bulk = self._is_bulk(burst)
        self._bytes_moved += burst.c.bytes
        if bulk and taken < FRAMES:
            # a guest that sends bulk adds a frame while this burst is worked on: better several of them after a rest
            self._let_rest(port)
            burst.more = bool(self._rings.busy)
        return count

    def _is_bulk(self, burst) -> bool:
        return self._rest_max > 0 and self._bytes_moved + burst.c.bytes >= BULK_BYTES

    def _take(self, port: RingPort, burst) -> int:
        back = self._transmit_port
        if back is not None and port.enabled:
            self._signals = back.vring.c.signals
            if self._responder is not None:
                return port.vring.receive_and_answer(burst, self._responder, back.vring, self._limits)
        return port.vring.receive(burst, discard=not port.enabled)

    def _let_rest(self, port: RingPort) -> None:
        factor = 1.25 if self._bytes_moved < REST_BYTES else 0.8
        self._rest = min(max(self._rest * factor, self._rest_min), self._rest_max)
        self._bytes_moved = 0
        self._rings.rest(port, self._rest)

    def release(self, burst) -> None:
        """Gives the guest back what receive() put into the burst, and clears it."""
        port, self._held, self._held_burst = self._held, None, None
        if port is None:
            burst.clear()
            return
        # a guest looks at both rings of a pair when it is signalled for one
        answered = port is self._receive_port and self._transmit_port.vring.c.signals != self._signals
        quiet = answered and burst.c.completions <= QUIET_CHAINS
        port.vring.release(burst, quiet)
        if quiet and port.vring.undecided:
            # who has just been given a lot will have more to say to that
            self._rings.remind_later(port, REMIND_AFTER if self._bytes_moved < BULK_BYTES else REMIND_BULK_AFTER)
        if self._looked:
            self._looked = False
            if not quiet:
                self._rings.found(port)  # more may come at once, and need not kick
            elif port.vring.settle(port.kick):
                self._left(port)
            else:
                self._bytes_moved = 0

    def answer_echo(self, responder: EchoResponder) -> None:
        """From now on `receive` answers what the responder can."""
        self._responder = responder
        self._set_prompt()

    def make_turns(self, turn: FlowTurn) -> None:
        """From now on transfers go on while somebody sleeps with the prompt open."""
        turn.moderate(BULK_BYTES, REST_BYTES, self._rest_min, self._rest_max)
        self._turn = turn
        self.prompt.make_turns(turn)

    def transmit(self, batch) -> bool:
        """Sends a sealed Batch to the guest.

        True when nothing of it is left to send, because it went or because there is no link.  False when the guest
        has no more buffers: call again with the same batch once `fileno()` was readable and receive() was called.
        """
        port = self._transmit_port
        if port is None:
            self._counters["transmit_discarded"] += batch.c.count - batch.c.next
            return True
        before = batch.c.bytes
        result = port.vring.transmit(batch, self._limits)
        self._bytes_moved += batch.c.bytes - before
        if result < 0:
            self._counters["transmit_discarded"] += batch.c.count - batch.c.next
            self._rings.ring_broke(port)
            self._update_link()
        return result <= 0

    def handle_ready(self) -> None:
        """Everything receive() does except taking frames: messages first, then kicks.  Not while a burst is out."""
        if self._held is not None or self._turn is not None and self._turn.left:
            return
        self._looks_first = 0
        ready = dict(self._poller.poll(0))
        # A kick can overtake the message that enables its ring: messages first.
        if self._connection is not None:
            events = ready.pop(self._connection.fileno(), 0)
        else:
            self._find()
            events = select.EPOLLIN if self._connection is not None else 0
        if events:
            self._serve(events)
            self._update_link()
        self._rings.kicked(ready)
        self._set_awake(self._rings.work_unseen)

    def counters(self) -> dict[str, int]:
        """Since the device was made; `receive_*` is what came from the guest, `transmit_*` what went to it."""
        counters = dict(self._counters)
        counters["rings_broken"] = self._rings.broken
        for direction, ports in (("receive", self._rings.ports[1::2]), ("transmit", self._rings.ports[::2])):
            for name in ("frames", "bytes", "dropped", "bursts", "signals", "kicks"):
                counters[f"{direction}_{name}"] = sum(getattr(port.vring, name) for port in ports)
        return counters

    def close(self) -> None:
        """Gives everything back to front-end and kernel; may be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._held is not None:
            self.release(self._held_burst)
        self._end_connection()
        if self._rendezvous is not None:
            self._rendezvous.close()
        self._poller.close()
        os.close(self._wake)

    # one connection

    def _find(self) -> None:
        sock = self._rendezvous.connection()
        if sock is not None:
            self._begin_connection(sock)

    def _begin_connection(self, sock: socket.socket) -> None:
        self._connection = Connection(sock)
        self._session = Session(self._rings, len(self._rings.ports) // 2, self._offered)
        self._guest_mtu = None
        self._counters["connections"] += 1
        self._poller.register(self._connection, select.EPOLLIN)
        self._notified("connected")

    def _end_connection(self) -> None:
        """T1, T2: rings stop, memory goes, and each descriptor leaves the poller before it is closed."""
        if self._connection is None:
            return
        self.prompt.stop()
        if self._turn is not None:
            self._turn.c.left = 0
        self._rings.close()
        self._poller.unregister(self._connection)
        self._connection.close()
        self._connection = self._session = None
        self._update_link()

    def _lost(self, reason: str) -> None:
        self._end_connection()
        self._notified("disconnected", reason=reason)
        self._rendezvous.look_again()

    def _serve(self, events: int) -> None:
        """Handles the messages that are there; a front-end waits for the answers, so they go at once."""
        connection = self._connection
        unsent = connection.unsent
        try:
            if events & select.EPOLLOUT:
                connection.flush()
            for _ in range(MESSAGES_PER_WAKE):
                received = connection.receive()
                if received is None:
                    break
                self._handle(*received)
        except EOFError as error:
            self._lost(str(error))
        except ProtocolError as error:
            self._counters["protocol_errors"] += 1
            log.warning("%s: connection closed: %s", self.path, error)
            self._notified("protocol_error", message=error.message_name, check=error.check_id, text=error.text)
            self._lost("protocol error")
        except OSError as error:
            self._lost(str(error))
        else:
            if connection.unsent != unsent:
                self._poller.modify(connection, select.EPOLLIN | (select.EPOLLOUT if connection.unsent else 0))

    def _handle(self, header, payload: bytes, fds: list[int]) -> None:
        try:
            self._session.message_received(parse_request(header, payload, len(fds)), fds)
        finally:
            # M3: what nobody took is closed, whatever happened.
            close_fds(fds)
        for reply in self._session.messages_to_send():
            self._connection.send(reply)

    # what the rings and the session tell

    def _notified(self, name: str, **details) -> None:
        if name == "negotiated":
            self._rendezvous.succeeded()
            self._replace_link()
        elif name == "mtu_set":
            self._guest_mtu = details["mtu"]
            self._replace_link()
        elif name == "ring_broken":
            log.warning("%s: ring %d broken: %s", self.path, details["index"], details["check"])
        elif name == "kicked_in_vain":
            log.warning(
                "%s: ring %d is kicked but its memory is all zero: is share=on set for the guest's memory?",
                self.path,
                details["index"],
            )
        else:
            log.info("%s: %s %s", self.path, name, details or "")
        if self._event is not None:
            self._event(name, **details)

    def _replace_link(self) -> None:
        features = (self._session.features if self._session is not None else None) or 0
        offloads = Offload.NONE
        if features >> Feature.GUEST_CSUM & 1:
            offloads |= Offload.CHECKSUM
            for bit, offload in ((Feature.GUEST_TSO4, Offload.TSO4), (Feature.GUEST_TSO6, Offload.TSO6)):
                if features >> bit & 1:
                    offloads |= offload
        # 5.1.4.1: a guest without the feature does not know of the front-end's MTU.
        mtu = self._guest_mtu if self._guest_mtu and features >> Feature.MTU & 1 else self._mtu
        frame_max = SUPER_FRAME_MAX if offloads & (Offload.TSO4 | Offload.TSO6) else 14 + mtu
        self.link = replace(self.link, mtu=mtu, offloads=offloads, frame_max=frame_max)
        self._limits = link_limits(self.link)
        self._set_prompt()

    def _set_prompt(self) -> None:
        port, back = self._receive_port, self._transmit_port
        if port is not None and port.enabled and self._responder is not None:
            self.prompt.use(self._responder, port, back, self._limits)
        else:
            self.prompt.stop()

    def _left_by_prompt(self) -> None:
        self._left(self._receive_port)

    def _left(self, port: RingPort) -> None:
        self._rings.left(port)
        self._set_awake(self._rings.work_unseen)

    def _update_link(self) -> None:
        port = self._transmit_port = self._rings.usable_pair()
        self._receive_port = None if port is None else self._rings.ports[port.index + 1]
        self._set_prompt()
        up = port is not None
        if up != self.link_up:
            self.link_up = up
            self._notified("link_up" if up else "link_down")

    def _set_awake(self, awake: bool) -> None:
        if awake != self._awake:
            self._awake = awake
            if awake:
                poke(self._wake)
            else:
                os.eventfd_read(self._wake)
