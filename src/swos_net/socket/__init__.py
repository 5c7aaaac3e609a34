"""The standard library's `socket`, for the stack whose capability is active: `with capability.activate():`.

Every name of `import socket` is here, made by running that module's own source on lowlevel.py when a name is first
used.  AF_INET and AF_INET6 sockets are the stack's, and so are look-ups of names; without an active capability both are
refused.  Read next: lowlevel.py, base.py.
"""

import pkgutil
from typing import Any


def __getattr__(name: str) -> Any:
    names = globals()
    # `from swos_net.socket import base` asks here before it imports the file
    own = name.startswith("__") and name != "__all__" or any(module.name == name for module in pkgutil.iter_modules(__path__))
    if not own and "SocketIO" not in names:
        import enum
        import socket as stdlib

        from swos_net.capability import current_capability
        from swos_net.socket.module import low_level_module
        from swos_net.socket.standard import run_standard_library

        kept = {key: names[key] for key in ("__doc__", "__builtins__")}
        run_standard_library(names, low_level_module(current_capability))
        # one set of enumerations, so that `isinstance(s.family, socket.AddressFamily)` holds with either module's
        names.update({key: value for key, value in vars(stdlib).items() if isinstance(value, (enum.EnumMeta, enum.Enum))})
        names.update(kept)
        if name in names:
            return names[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
