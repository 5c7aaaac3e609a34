"""What devices do in somebody's sleep.  Read first: vhost/prompter.h."""

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from math import ceil
from typing import Protocol

from swos_net._dataplane import ffi, lib
from swos_net.dataplane.burst import Burst
from swos_net.dataplane.echo import EchoResponder
from swos_net.dataplane.flow_turn import FlowTurn
from swos_net.dataplane.vring import Vring

_WOKEN_BY = struct.Struct("=iI")
MILLISECONDS_MAX = (1 << 31) - 1


class KickedRing(Protocol):
    """A ring and the descriptor that tells of frames in it, while there is one."""

    vring: Vring
    kick: int | None


class Prompt:
    """Answers the pings in an idle ring, or makes a turn of a transfer, when nothing else is in it, as the first thing after
    a sleep.

    `sleep()` does that without Python while it is open, and nobody may touch the rings meanwhile: who wants to closes it
    before.  Not to be opened by two threads at once.
    """

    __slots__ = ("_arguments", "_burst", "_more", "_turn", "c")

    def __init__(self, descriptor: int, more: Callable[[], None]) -> None:
        """`descriptor` is readable when the ring has something; `more()` is called when there are frames left that perhaps
        none tells of."""
        self._burst = Burst(arena=False)
        self._more = more
        self._arguments: tuple[EchoResponder, KickedRing, KickedRing, object] | None = None
        self._turn: FlowTurn | None = None
        self.c = ffi.new("prompter *", {"descriptor": descriptor})

    def use(self, responder: EchoResponder, port: KickedRing, back: KickedRing, limits) -> None:
        """From now on those of `port`, into `back`, the receive queue of the same pair."""
        self.stop()
        c = self.c
        c.responder, c.ring, c.burst, c.back, c.limits = responder.c, port.vring.c, self._burst.c, back.vring.c, limits
        self._arguments = responder, port, back, limits

    def make_turns(self, turn: FlowTurn) -> None:
        """Goes on with transfers, too."""
        self.close()
        self._turn = turn

    def stop(self) -> None:
        self.close()
        self._arguments = None

    def open(self, turns: bool = True) -> None:
        """Lets a sleep use it, if there is anything that it could do; without `turns` only for pings."""
        arguments = self._arguments
        if arguments is not None and arguments[1].kick is not None:
            turn = self._turn
            if turn is None or not turns or not arguments[1].vring.c.features >> lib.VIRTIO_F_EVENT_IDX & 1:
                lib.prompter_open(self.c, arguments[1].kick, ffi.NULL)
                return
            turn.prepare(arguments[1].kick, arguments[2].kick)
            lib.prompter_open(self.c, arguments[1].kick, turn.c)

    def close(self) -> None:
        """No sleep answers from now on."""
        lib.prompter_close(self.c)
        arguments = self._arguments
        if arguments is not None and arguments[0].c.more:
            arguments[0].c.more = 0
            self._more()
        turn = self._turn
        if turn is not None:
            if turn.c.unsettled:
                lib.flow_turn_settle(turn.c, self.c.ring)
            if turn.c.more:
                turn.c.more = 0
                self._more()
            if turn.c.turns:
                turn.ended()

    @property
    def knows_deadline(self) -> bool:
        """Whether, while it is open, it can tell when somebody has to look at the stack's timers."""
        return self.c.turn != ffi.NULL and self._turn.knows_deadline

    def forget(self) -> None:
        """In a process that was forked: whoever slept does so in the other one."""
        self.c.gate = lib.PROMPTER_CLOSED


def _milliseconds(seconds: float | None) -> int:
    return -1 if seconds is None else min(MILLISECONDS_MAX, max(0, ceil(seconds * 1000)))


class Sleeper:
    """Sleeps for an event loop, and has prompts do what they can meanwhile."""

    __slots__ = ("_c", "_count", "_events", "_found", "_indices", "_nap", "_prompts")

    def __init__(self, prompts: Iterable[Prompt]):
        """Those beyond PROMPTERS do nothing."""
        self._prompts = list(prompts)[: lib.PROMPTERS]
        self._indices = {prompt: index for index, prompt in enumerate(self._prompts)}
        self._c = ffi.new("prompter *[]", [prompt.c for prompt in self._prompts])
        self._found = ffi.new("woken_by[]", lib.WOKEN_BY_MAX)
        self._events = memoryview(ffi.buffer(self._found))
        self._count = ffi.new("int *")
        self._nap = ffi.new("prompter_nap *")

    def sleep(self, poller: int, timeout: float | None, pause: float, first: Prompt | None = None,
              limit: float | None = None) -> tuple[int, Iterator[tuple[int, int]]]:  # fmt: skip
        """Until `poller`, an epoll descriptor, has something to tell or `timeout` seconds have passed, rounded up; less when
        a signal comes.  After the answer to a ping it goes on for `pause` seconds.  Where `first` knows its stack's deadline
        that counts instead of the timeout, up to `limit` seconds.

        (the indices of prompts that somebody has to look after, as bits; (descriptor, epoll's events) of what ended it).  Descriptors
        have to be registered as `select.epoll` does.  OSError when `poller` is none.
        """
        nap, count = self._nap, self._count
        nap.poller, nap.timeout, nap.pause = poller, _milliseconds(timeout), _milliseconds(pause)
        nap.first, nap.limit = -1 if first is None else self._indices.get(first, -1), _milliseconds(limit)
        told = lib.prompter_sleep(nap, self._c, len(self._prompts), self._found, count)
        if count[0] < 0:
            raise OSError(-count[0], os.strerror(-count[0]))
        return told, _WOKEN_BY.iter_unpack(self._events[: count[0] * _WOKEN_BY.size])
