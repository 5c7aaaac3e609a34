"""`SocketCore`: the one non-blocking socket that every other way to use sockets here stands on.

Read first: base.py for what all have in common, stream.py, datagram.py and raw.py for the kinds.
"""

from swos_net.socket import group_options as group_options  # defines its options
from swos_net.socket.base import SocketCore, would_block
from swos_net.socket.datagram import DatagramCore
from swos_net.socket.raw import EchoCore, RawCore
from swos_net.socket.stream import StreamCore

__all__ = ["DatagramCore", "EchoCore", "RawCore", "SocketCore", "StreamCore", "would_block"]
