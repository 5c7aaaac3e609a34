"""vhost-user messages over one AF_UNIX stream socket, without ever waiting for the peer.

Read first: message.py.  Descriptors that arrive are this module's until `receive()` hands them out with their
message; what a message means is in session.py.
"""

import array
import os
import socket
import sys

from swos_net.device.vhost_user.message import HEADER_SIZE, Header, ProtocolError, parse_header, request_name

# More than any message carries, so that a message with too many is seen as such and not as a truncated one.
FDS_MAX = 16
_ANCILLARY_SPACE = socket.CMSG_SPACE(FDS_MAX * array.array("i").itemsize)

# A front-end reads each reply before its next request: one that leaves this many bytes unread has stopped reading.
UNREAD_REPLIES_MAX = 4096


def close_fds(fds: list[int]) -> None:
    """Closes and forgets them all."""
    while fds:
        os.close(fds.pop())


class Connection:
    """One end of a connection; takes the socket over."""

    def __init__(self, sock: socket.socket):
        sock.setblocking(False)
        self._sock = sock
        self._header: Header | None = None
        self._received = bytearray()
        self._fds: list[int] = []
        self._out = bytearray()

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def name(self) -> str:
        """Name of the message that is being read, as far as its bytes tell."""
        if self._header is not None:
            return self._header.name
        if len(self._received) < 4:
            return "message"
        return request_name(int.from_bytes(self._received[:4], sys.byteorder))

    def receive(self) -> tuple[Header, bytes, list[int]] | None:
        """The next whole message: header, payload and descriptors, which are the caller's to close.

        None when there is none yet.  EOFError when the peer closed between two messages, ProtocolError when what it
        sends is no message, OSError when the socket failed.
        """
        if self._header is None:
            if not self._fill(HEADER_SIZE):
                return None
            self._header = parse_header(bytes(self._received))
            self._received.clear()
        # The size was checked against the cap with the header: nothing is allocated for a larger one.
        if not self._fill(self._header.size):
            return None
        message = self._header, bytes(self._received), self._fds
        self._header = None
        self._received.clear()
        self._fds = []
        return message

    def _fill(self, size: int) -> bool:
        """Reads until `size` bytes are there; False when the peer has not sent them yet."""
        while len(self._received) < size:
            first = self._header is None and not self._received
            try:
                data, ancillary, flags, _address = self._sock.recvmsg(
                    size - len(self._received), _ANCILLARY_SPACE, socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return False
            fds = _received_fds(ancillary)
            self._fds += fds
            self._received += data
            if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
                raise ProtocolError(self.name, "M3", f"more than {FDS_MAX} descriptors, or none left in this process")
            if fds and not first:
                # They travel with the first byte of a message.
                raise ProtocolError(self.name, "M3", "descriptors inside a message")
            if not data:
                if first:
                    raise EOFError("the peer closed the connection")
                raise ProtocolError(self.name, "M2", "the connection ended inside a message")
        return True

    def send(self, data: bytes) -> None:
        """Writes what the socket takes now and keeps the rest for `flush()`."""
        self._out += data
        self.flush()

    def flush(self) -> None:
        """ProtocolError when the peer does not read, OSError when it has gone."""
        while self._out:
            try:
                del self._out[: self._sock.send(self._out, socket.MSG_NOSIGNAL)]
            except (BlockingIOError, InterruptedError):
                break
        if len(self._out) > UNREAD_REPLIES_MAX:
            raise ProtocolError("reply", "M10", f"{len(self._out)} bytes of replies are not read")

    @property
    def unsent(self) -> bool:
        """Whether `flush()` has something to do once the socket is writable."""
        return bool(self._out)

    def close(self) -> None:
        close_fds(self._fds)
        self._sock.close()


def _received_fds(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()
