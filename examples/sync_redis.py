"""redis-py, unmodified, against a small server of the Redis protocol on the standard library's socketserver.

    python3 examples/sync_redis.py        needs: pip install redis
"""

import contextlib
import socketserver
import threading
from collections.abc import Iterator

import redis
from sync_hosts import SERVER_NAME, serving_forever, two_hosts

from swos_net import Capability


class Connection(socketserver.StreamRequestHandler):
    """PING, SET, GET, INCR and DEL over RESP2; everything else is an unknown command."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            command = []
            for _ in range(int(line[1:])):
                length = int(self.rfile.readline()[1:])
                command.append(self.rfile.read(length + 2)[:-2])
            self.wfile.write(self.server.execute(*command))


class Server(socketserver.ThreadingTCPServer):
    """Holds the values."""

    allow_reuse_address = True
    daemon_threads = False

    def __init__(self, address: tuple[str, int]):
        self.values: dict[bytes, bytes] = {}
        self._lock = threading.Lock()
        super().__init__(address, Connection)

    def execute(self, name: bytes, *arguments: bytes) -> bytes:
        """The reply to a command."""
        with self._lock:
            match name.upper(), arguments:
                case b"PING", ():
                    return b"+PONG\r\n"
                case b"SET", (key, value):
                    self.values[key] = value
                    return b"+OK\r\n"
                case b"GET", (key,):
                    value = self.values.get(key)
                    return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)
                case b"INCRBY", (key, amount):
                    self.values[key] = b"%d" % (int(self.values.get(key, 0)) + int(amount))
                    return b":%b\r\n" % self.values[key]
                case b"DEL", keys:
                    return b":%d\r\n" % sum(self.values.pop(key, None) is not None for key in keys)
        return b"-ERR unknown command\r\n"


@contextlib.contextmanager
def serving(capability: Capability) -> Iterator[Server]:
    with capability.attenuate("tcp:bind,listen,accept:*:6379").activate():
        server = Server(("", 6379))
    with serving_forever(server):
        yield server


@contextlib.contextmanager
def connected(capability: Capability) -> Iterator[redis.Redis]:
    with capability.attenuate("tcp:connect:*:6379").activate():
        with redis.Redis(SERVER_NAME, protocol=2, socket_timeout=10, socket_connect_timeout=10, socket_keepalive=True) as client:
            yield client


def main() -> None:
    with two_hosts() as (client, server), serving(server), connected(client) as database:
        database.set("greeting", "hello")
        print(database.get("greeting"), database.incr("visits"), database.ping())


if __name__ == "__main__":
    main()
