"""requests and urllib3, unmodified, over HTTPS: verified, with a pool of connections that are kept alive.

    python3 examples/sync_requests.py        needs: pip install requests cryptography
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import requests
from sync_hosts import SERVER_NAME, make_certificate, two_hosts
from sync_http_server import Server, serving

from swos_net import Capability, ssl

URL = f"https://{SERVER_NAME}"


@contextlib.contextmanager
def serving_tls(capability: Capability, directory: Path, certificate: Path) -> Iterator[Server]:
    """Files over HTTPS on port 443."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(capability, directory, 443, context) as server:
        yield server


@contextlib.contextmanager
def session(capability: Capability, certificate: Path) -> Iterator[requests.Session]:
    """A session that may connect to port 443 and believes in `certificate`."""
    with capability.attenuate("tcp:connect:*:443").activate(), requests.Session() as made:
        made.verify = str(certificate)
        made.trust_env = False  # no proxy of the host's
        yield made


def fetch(web: requests.Session, path: str) -> str:
    """A response keeps its connection's pool alive, so none outlives this call."""
    response = web.get(f"{URL}/{path}", timeout=10)
    response.raise_for_status()
    return response.text


def main() -> None:
    with tempfile.TemporaryDirectory() as name, two_hosts() as (client, server):
        directory = Path(name)
        certificate = make_certificate(directory / "server.pem")
        (directory / "hello.txt").write_text("Hello over TLS.\n")
        with serving_tls(server, directory, certificate), session(client, certificate) as web:
            for _ in range(3):
                print(fetch(web, "hello.txt"), end="")


if __name__ == "__main__":
    main()
