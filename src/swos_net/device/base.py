"""What the runtime asks of a device: frames in bursts, with the offload metadata of each."""

from typing import Protocol, runtime_checkable

from swos_net.dataplane.batch import Batch
from swos_net.dataplane.burst import Burst
from swos_net.dataplane.echo import EchoResponder
from swos_net.dataplane.flow_turn import FlowTurn
from swos_net.dataplane.prompt import Prompt
from swos_net.link import LinkFeatures


class Device(Protocol):
    """A source and sink of frames; never blocks.

    `link` is replaced when the other end negotiates anew.  `link_up` is False while nobody is at the other end.
    """

    link: LinkFeatures
    link_up: bool

    def fileno(self) -> int:
        """A descriptor that is readable when `receive` may have something, or when a full link has room again."""

    def receive(self, burst: Burst) -> int:
        """Fills a cleared burst; returns how many frames it holds, 0 when there is nothing more for now.

        After 0 the descriptor becomes readable when there is; so it does where the device sets the burst's `more` to False,
        which spares the caller a call in vain.  OSError when the device is gone for good.
        """

    def release(self, burst: Burst) -> None:
        """Takes the buffers of a received burst back; comes before the next `receive`."""

    def transmit(self, batch: Batch) -> bool:
        """Sends a sealed batch.  False: no room for the rest of it now; call again with the same batch when the
        descriptor is readable (or `wants_write` says to wait for writability)."""

    @property
    def wants_write(self) -> bool:
        """Whether the descriptor's writability, not its readability, says when there is room."""

    def counters(self) -> dict[str, int]:
        """Frames, bytes and drops, by name."""

    def close(self) -> None:
        """Gives everything back; idempotent."""


@runtime_checkable
class PromptDevice(Protocol):
    """What a device has besides when it does some of the stack's work itself, for somebody who waits: a guest.

    The thread that serves one asks the kernel to be run promptly.
    """

    prompt: Prompt
    """What it does in somebody's sleep."""

    def answer_echo(self, responder: EchoResponder) -> None:
        """From now on ordinary pings to the addresses that the responder knows are answered inside `receive`."""

    def make_turns(self, turn: FlowTurn) -> None:
        """From now on transfers go on while somebody sleeps with the prompt open."""
