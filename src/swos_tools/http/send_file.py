"""Bytes of a file into a transport, as fast as it takes them and never all in memory.

The seam: a transport may have `write_file(fd, offset, count) -> int`, as those of swos_net.asyncio do.  It moves bytes
from the file straight into the send buffer and returns how many fitted; having no room for the rest it has paused the
protocol before it returns, and calls resume_writing later.  Every other transport gets chunks through `write`.
"""

import asyncio
import os

CHUNK = 256 * 1024
CHUNKS_PER_TURN = 4  # then other connections have their turn, even when the transport never says stop


class FileSender:
    """Sends `count` bytes from `offset` of the file open at `fd`, which it owns from now on.

    The protocol sets `paused` in pause_writing and resume_writing, and calls `send_some` until it says True.
    """

    __slots__ = ("paused", "_transport", "_write_file", "_fd", "_offset", "_end")

    def __init__(self, transport: asyncio.Transport, fd: int, offset: int, count: int) -> None:
        self.paused = False
        self._transport = transport
        self._write_file = getattr(transport, "write_file", None)
        self._fd = fd
        self._offset = offset
        self._end = offset + count

    @property
    def remaining(self) -> int:
        return self._end - self._offset

    def send_some(self) -> bool:
        """True when everything is in the transport; otherwise wait for resume_writing, or a turn if not `paused`.

        Raises EOFError when the file has become shorter than promised, OSError when it cannot be read.
        """
        if self._write_file is not None:
            self._offset += self._write_file(self._fd, self._offset, self._end - self._offset)
            if self._offset == self._end:
                return True
            if os.fstat(self._fd).st_size < self._end:
                raise EOFError("the file became shorter while it was sent")
            return False
        for _ in range(CHUNKS_PER_TURN):
            if self.paused:
                return False
            chunk = os.pread(self._fd, min(CHUNK, self._end - self._offset), self._offset)
            if not chunk:
                raise EOFError("the file became shorter while it was sent")
            self._offset += len(chunk)
            self._transport.write(chunk)
            if self._offset == self._end:
                return True
        return False

    def close(self) -> None:
        """Closes the file; again is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
