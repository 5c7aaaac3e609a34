"""httpx, unmodified, over HTTPS with uvicorn as the server: verified, with connections that are kept alive.

    python3 examples/asyncio_httpx.py        needs: pip install httpx uvicorn cryptography
"""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncio_hosts
import asyncio_uvicorn
import httpx
import uvicorn
from sync_hosts import SERVER_NAME, make_certificate

from swos_net import Capability, ssl


def serving_tls(capability: Capability, certificate: Path) -> contextlib.AbstractAsyncContextManager[uvicorn.Server]:
    """The application over HTTPS on port 443."""
    return asyncio_uvicorn.serving(capability, 443, ssl_certfile=certificate)


@contextlib.asynccontextmanager
async def session(capability: Capability, certificate: Path, **options) -> AsyncIterator[httpx.AsyncClient]:
    """A session that may connect to port 443 and believes in `certificate`; `trust_env`: no proxy of the host's."""
    trust = ssl.create_default_context(cafile=certificate)
    with capability.attenuate("tcp:connect:*:443").activate():
        url = f"https://{SERVER_NAME}"
        async with httpx.AsyncClient(base_url=url, verify=trust, trust_env=False, **options) as made:
            yield made


async def main(client: Capability, server: Capability) -> None:
    with tempfile.TemporaryDirectory() as name:
        certificate = make_certificate(Path(name, "server.pem"))
        async with serving_tls(server, certificate), session(client, certificate) as web:
            for _ in range(3):
                print((await web.get("/")).text, end="")


if __name__ == "__main__":
    asyncio_hosts.run(main)
