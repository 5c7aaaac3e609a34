"""What the library raises: a user's mistake gets the OSError subclass and errno of the kernel.

Malformed input from the wire is `WireError` inside a format module, and goes no further than the code that
called it: the stack counts and drops.
"""

import errno
import os


class WireError(ValueError):
    """Bytes that do not follow their format.  `reason` is a DropReason-like short name for counters."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def os_error(code: int, advice: str = "") -> OSError:
    """An OSError of the subclass that belongs to `code`, its text followed by what to do."""
    text = os.strerror(code)
    return OSError(code, f"{text}: {advice}" if advice else text)


def checked(result: int) -> int:
    """What the data plane returned, or the OSError that a negative errno stands for."""
    if result < 0:
        raise os_error(-result)
    return result


class DeviceError(OSError):
    """A device that cannot be opened or has gone; the message names the missing piece."""

    def __init__(self, message: str, code: int = errno.ENODEV):
        super().__init__(code, message)
