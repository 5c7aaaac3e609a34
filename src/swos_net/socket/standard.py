"""The standard library's own `socket.py`, run on another low-level module.

So the names, classes and behaviour are those of the Python version that runs, whatever it is: `makefile`,
`create_server`, `create_connection`, the enumerations.  Read first: Lib/socket.py, lowlevel.py.
"""

import builtins
import importlib.machinery
import io
import os
import stat
from types import ModuleType
from typing import Any

SENDFILE_MAX = 1 << 30  # bytes asked for at once


def run_standard_library(namespace: dict[str, Any], low_level: ModuleType) -> None:
    """Fills the namespace of a module, which must be in `sys.modules`, with what `import socket` gives.

    Only the import of `_socket` is redirected: others see nothing of it.
    """

    def import_(name: str, *arguments: Any, **keywords: Any) -> Any:
        return low_level if name == "_socket" else builtins.__import__(name, *arguments, **keywords)

    def build_class(body: Any, name: str, *bases: Any, **keywords: Any) -> type:
        if low_level.socket in bases:
            keywords["metaclass"] = without_slots
        return builtins.__build_class__(body, name, *bases, **keywords)

    namespace["__builtins__"] = {**vars(builtins), "__import__": import_, "__build_class__": build_class}
    # the library's own, whatever else is called that on the way there or in sys.modules
    spec = importlib.machinery.PathFinder.find_spec("socket", [os.path.dirname(os.__file__)])
    exec(spec.loader.get_code("socket"), namespace)
    cls = namespace["socket"]
    give_up = namespace["_GiveupOnSendfile"]

    def _sendfile_use_sendfile(self, file, offset=0, count=None):
        return send_file(self, file, offset, count, give_up)

    cls._sendfile_use_sendfile = _sendfile_use_sendfile


def without_slots(name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
    """A class of the library whose base, unlike the C class, has the library's slots already."""
    return type(name, bases, {**namespace, "__slots__": ()})


def send_file(sock: Any, file: Any, offset: int, count: int | None, give_up: type[Exception]) -> int:
    """The fast way of `socket.sendfile`; raises `give_up` where only reading and sending helps."""
    sock._check_sendfile_params(file, offset, count)
    if sock._core is None:
        raise give_up("not a socket of a stack")
    try:
        descriptor = file.fileno()
        status = os.fstat(descriptor)
    except (AttributeError, io.UnsupportedOperation, OSError) as error:
        raise give_up(error)
    if not stat.S_ISREG(status.st_mode):
        raise give_up("not a regular file")
    if not status.st_size:
        return 0
    timeout = sock.gettimeout()
    if timeout == 0:
        raise ValueError("non-blocking sockets are not supported")
    total = 0
    try:
        while count is None or total < count:
            sent = sock._send_file(descriptor, offset + total, SENDFILE_MAX if count is None else min(count - total, SENDFILE_MAX))
            if not sent:
                break
            total += sent
        return total
    finally:
        if total and hasattr(file, "seek"):
            file.seek(offset + total)
