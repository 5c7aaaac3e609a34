"""What a thread asks of the kernel's scheduler."""

from swos_net._dataplane import lib

SLICE = 0.0001  # seconds


def run_promptly() -> bool:
    """Has the calling thread run sooner when it is woken, for no larger a share of the processor; False when it cannot.

    For the thread that serves a guest, which waits for it.  Linux has this from 6.12 on; before that nothing changes.
    """
    return lib.processor_slices(round(SLICE * 1e9)) == 0
