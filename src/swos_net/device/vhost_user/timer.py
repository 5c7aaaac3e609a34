"""A timer as a descriptor (timerfd_create(2)), for devices that have to be woken without an event loop of their own.

Python has it as os.timerfd_create() only since 3.13.
"""

import ctypes
import os

_CLOCK_MONOTONIC = 1
_libc = ctypes.CDLL(None, use_errno=True)


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


def _time_spec(seconds: float) -> _TimeSpec:
    return _TimeSpec(*divmod(int(seconds * 1_000_000_000), 1_000_000_000))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def timer_open() -> int:
    """A non-blocking descriptor, closed on exec, that becomes readable when the timer expires."""
    return _check(_libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))


def timer_set(fd: int, first: float, interval: float = 0.0) -> None:
    """Expires after `first` seconds and then, unless it is 0, each `interval` seconds; 0 for `first` disarms it."""
    _check(_libc.timerfd_settime(fd, 0, ctypes.byref(_TimerSpec(_time_spec(interval), _time_spec(first))), None))
