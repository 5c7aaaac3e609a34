"""A userspace TCP/IP stack: TAP devices and vhost-user NICs of QEMU guests, with a capability for every socket.

Modules inside the package never import this one.
"""

from swos_net.capability import Capability, CapabilityError, Rule, before_activation
from swos_net.config import StackConfig, TcpConfig
from swos_net.runtime.open_stack import open_stack
from swos_net.stack.stack import Stack
from swos_net.version import __version__

__all__ = ["Capability", "CapabilityError", "Rule", "Stack", "StackConfig", "TcpConfig", "__version__", "open_stack"]


def _install_ambient_sockets() -> None:
    from swos_net.socket.ambient import install  # half of the standard library: only who activates a capability needs it

    install()


before_activation(_install_ambient_sockets)
