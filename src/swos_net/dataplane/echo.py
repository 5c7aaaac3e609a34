"""Pings that a device answers by itself.  Read first: vhost/echo.h."""

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from math import ceil
from typing import Protocol

from swos_net._dataplane import ffi, lib
from swos_net.dataplane.burst import Burst
from swos_net.dataplane.vring import Vring

ADDRESSES = lib.ECHO_ADDRESSES
_WOKEN_BY = struct.Struct("=iI")
MILLISECONDS_MAX = (1 << 31) - 1


class EchoResponder:
    """What a device has to know to answer an ordinary echo request before anybody else sees it, and how many it has."""

    __slots__ = ("c",)

    def __init__(self, hop_limit: int):
        self.c = ffi.new("echo_responder *", {"hop_limit": hop_limit})

    def use(self, link_address: bytes, frame_max: int, own: Iterable[bytes], broadcast: Iterable[bytes]) -> None:
        """Answers for `own`, of 16 bytes each, unless who asks has one of `broadcast`; for nobody if they are too many."""
        own, broadcast = list(own), list(broadcast)
        c = self.c
        c.enabled = False
        if not own or len(own) > ADDRESSES or len(broadcast) > ADDRESSES:
            return
        c.link_address = link_address
        c.frame_max = frame_max
        for index, address in enumerate(own):
            c.own[index] = address
        for index, address in enumerate(broadcast):
            c.broadcast[index] = address
        c.own_count, c.broadcast_count = len(own), len(broadcast)
        c.enabled = True

    def stop(self) -> None:
        """Leaves every request to others."""
        self.c.enabled = False

    def news(self) -> tuple[int, ...]:
        """(requests answered, bytes of the answers; bursts, frames, bytes that a prompt took in) since it was last asked."""
        c = self.c
        news = c.answered, c.answered_bytes, c.unseen, c.unseen_frames, c.unseen_bytes
        c.answered = c.answered_bytes = c.unseen = c.unseen_frames = c.unseen_bytes = 0
        return news


class KickedRing(Protocol):
    """A ring and the descriptor that tells of frames in it, while there is one."""

    vring: Vring
    kick: int | None


class EchoPrompt:
    """Answers the requests in an idle ring when nothing else is in it, as the first thing after a sleep.

    `sleep()` does that without Python while it is open, and nobody may touch the rings meanwhile: who wants to closes it
    before.  Not to be opened by two threads at once.
    """

    __slots__ = ("_arguments", "_burst", "_more", "c")

    def __init__(self, more: Callable[[], None]) -> None:
        """`more()` is called when there are frames left that perhaps no descriptor tells of."""
        self._burst = Burst(arena=False)
        self._more = more
        self._arguments: tuple[EchoResponder, KickedRing, Vring, object] | None = None
        self.c = ffi.new("echo_prompter *")

    def use(self, responder: EchoResponder, port: KickedRing, back: Vring, limits) -> None:
        """From now on those of `port`, into `back`, the receive queue of the same pair."""
        self.stop()
        c = self.c
        c.responder, c.ring, c.burst, c.back, c.limits = responder.c, port.vring.c, self._burst.c, back.c, limits
        self._arguments = responder, port, back, limits

    def stop(self) -> None:
        lib.prompter_close(self.c)
        self._arguments = None

    def open(self) -> None:
        """Lets a sleep answer, if there is anything that it could do."""
        arguments = self._arguments
        if arguments is not None and arguments[1].kick is not None:
            lib.prompter_open(self.c, arguments[1].kick)

    def close(self) -> None:
        """No sleep answers from now on."""
        lib.prompter_close(self.c)
        arguments = self._arguments
        if arguments is not None and arguments[0].c.more:
            arguments[0].c.more = 0
            self._more()

    def forget(self) -> None:
        """In a process that was forked: whoever slept does so in the other one."""
        self.c.gate = lib.PROMPTER_CLOSED


class Sleeper:
    """Sleeps for an event loop, and has prompts answer meanwhile."""

    __slots__ = ("_c", "_count", "_events", "_found", "_prompts")

    def __init__(self, prompts: Iterable[EchoPrompt]):
        """Those beyond PROMPTERS do nothing."""
        self._prompts = list(prompts)[: lib.PROMPTERS]
        self._c = ffi.new("echo_prompter *[]", [prompt.c for prompt in self._prompts])
        self._found = ffi.new("woken_by[]", lib.WOKEN_BY_MAX)
        self._events = memoryview(ffi.buffer(self._found))
        self._count = ffi.new("int *")

    def sleep(self, poller: int, timeout: float | None, pause: float) -> tuple[int, Iterator[tuple[int, int]]]:
        """Until `poller`, an epoll descriptor, has something to tell or `timeout` seconds have passed, rounded up; less when
        a signal comes.  After an answer it goes on for `pause` seconds.

        (the indices of prompts that have answered, as bits; (descriptor, epoll's events) of what ended it).  Descriptors
        have to be registered as `select.epoll` does.  OSError when `poller` is none.
        """
        milliseconds = -1 if timeout is None else min(MILLISECONDS_MAX, max(0, ceil(timeout * 1000)))
        count = self._count
        answered = lib.echo_sleep(poller, milliseconds, ceil(pause * 1000), self._c, len(self._prompts), self._found, count)
        if count[0] < 0:
            raise OSError(-count[0], os.strerror(-count[0]))
        return answered, _WOKEN_BY.iter_unpack(self._events[: count[0] * _WOKEN_BY.size])
