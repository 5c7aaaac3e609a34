"""A timer as a descriptor, for devices that have to be woken without an event loop of their own."""

from swos_net._dataplane import lib
from swos_net.errors import checked


def timer_open() -> int:
    """A non-blocking descriptor, closed on exec, that becomes readable when the timer expires."""
    return checked(lib.timer_open())


def timer_set(fd: int, first: float, interval: float = 0.0) -> None:
    """Expires after `first` seconds and then, unless it is 0, each `interval` seconds; 0 for `first` disarms it."""
    checked(lib.timer_set(fd, int(first * 1e9), int(interval * 1e9)))
