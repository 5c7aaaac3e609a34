"""The standard library's http.server and urllib, both unmodified, on two stacks.

    python3 examples/sync_http_server.py
"""

import contextlib
import socket
import tempfile
import urllib.request
import weakref
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from sync_hosts import SERVER_NAME, serving_forever, two_hosts

from swos_net import Capability, ssl


class QuietHandler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Speaks TLS where it has a context for that; `accepted` counts connections."""

    daemon_threads = False  # server_close() waits for them
    tls: ssl.SSLContext | None = None

    def __init__(self, *arguments):
        self.accepted = 0
        self._connections = weakref.WeakSet()
        super().__init__(*arguments)

    def get_request(self):
        connection, address = super().get_request()
        self.accepted += 1
        if self.tls is not None:
            # the handshake belongs to the thread of the connection, not to the one that accepts
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._connections.add(connection)
        return connection, address

    def server_close(self) -> None:
        """Ends connections that clients keep alive, too."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request, client_address) -> None:
        pass  # a client that gives up is no news


@contextlib.contextmanager
def serving(capability: Capability, directory: Path, port: int = 80, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Files over HTTP.  Only the listening socket needs authority; the threads that answer hold what it accepted."""
    with capability.attenuate(f"tcp:bind,listen,accept:*:{port}", "web server").activate():
        server = Server(("", port), partial(QuietHandler, directory=str(directory)))
    server.tls = tls
    with serving_forever(server):
        yield server


def fetch(capability: Capability, path: str) -> bytes:
    """One file of the server, with the authority for that server's port and nothing else."""
    with capability.attenuate("tcp:connect:10.0.0.2:80").activate():
        with urllib.request.urlopen(f"http://{SERVER_NAME}/{path}", timeout=10) as response:
            return response.read()


def main() -> None:
    with tempfile.TemporaryDirectory() as name, two_hosts() as (client, server):
        directory = Path(name)
        (directory / "hello.txt").write_text("Hello from a stack in Python.\n")
        with serving(server, directory):
            print(fetch(client, "hello.txt").decode(), end="")


if __name__ == "__main__":
    main()
