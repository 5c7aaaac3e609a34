"""A userspace TCP/IP stack: TAP devices and vhost-user NICs of QEMU guests, with a capability for every socket.

Modules inside the package never import this one.
"""

from swos_net.capability import Capability, CapabilityError, Rule
from swos_net.config import StackConfig, TcpConfig
from swos_net.runtime.open_stack import open_stack
from swos_net.stack.stack import Stack
from swos_net.version import __version__

__all__ = ["Capability", "CapabilityError", "Rule", "Stack", "StackConfig", "TcpConfig", "__version__", "open_stack"]
