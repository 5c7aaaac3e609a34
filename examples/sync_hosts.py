"""Two hosts in one process, joined by a link in memory, for the examples of blocking libraries: sync_*.py.

With a device in the place of the link, `open_stack("tap:swos0", addresses=[...])`, the far host is a real one.
"""

import contextlib
import datetime
import ipaddress
import threading
from collections.abc import Iterator
from pathlib import Path
from socketserver import BaseServer
from typing import BinaryIO, TypeVar

from swos_net import Capability, open_stack
from swos_net.device.pair import make_pair
from swos_net.device.pcap import PcapTap
from swos_net.runtime.poll import Poller
from swos_net.runtime.threaded import ThreadedRunner

CLIENT, SERVER = "10.0.0.1", "10.0.0.2"
SERVER_NAME = "server.test"

S = TypeVar("S", bound=BaseServer)


def open_hosts(capture: str | BinaryIO | None = None) -> tuple[Poller, Poller]:
    """The client and the server, which is known by its name, too; whoever takes them serves them.

    `capture` is a file for what crosses the link, in the pcapng format.
    """
    left, right = make_pair()
    client = open_stack(left if capture is None else PcapTap(left, capture), addresses=[f"{CLIENT}/24"], name="client")
    client.stack.names.hosts.add(SERVER, SERVER_NAME)
    return client, open_stack(right, addresses=[f"{SERVER}/24"], name="server")


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Capability, Capability]]:
    """All authority over the client's stack and over the server's, each served by a thread."""
    client, server = open_hosts()
    with ThreadedRunner(client), ThreadedRunner(server):
        yield client.stack.root, server.stack.root


@contextlib.contextmanager
def serving_forever(server: S) -> Iterator[S]:
    """A thread accepts for a server of the standard library's, until the block ends."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def make_certificate(path: Path) -> Path:
    """A file with a new key and a certificate for SERVER_NAME that vouches for itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, SERVER_NAME)])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME), x509.IPAddress(ipaddress.ip_address(SERVER))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) + certificate.public_bytes(encoding)
    )
    return path
