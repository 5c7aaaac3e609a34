"""The standard library's `ssl`, for sockets of a stack: the very same names, once they take such sockets.

`swos_net.ssl.SSLContext` is `ssl.SSLContext`, so whatever asks for that one is content; importing this module, like the
first `capability.activate()`, has every context wrap sockets of stacks and of the kernel alike.  Read next:
socket/ambient.py, socket/tls.py.
"""

import ssl as _standard
from typing import Any

from swos_net.socket.ambient import install

install()
__all__ = [name for name in vars(_standard) if not name.startswith("_")]


def __getattr__(name: str) -> Any:
    try:
        return getattr(_standard, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *vars(_standard)})
