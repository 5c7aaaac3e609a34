"""Pings that a device answers by itself.  Read first: vhost/echo.h."""

from collections.abc import Iterable

from swos_net._dataplane import ffi, lib

ADDRESSES = lib.ECHO_ADDRESSES


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
