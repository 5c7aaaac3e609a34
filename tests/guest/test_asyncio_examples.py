"""A real Linux guest and asyncio libraries as they are, on a loop that serves the guest's network card itself."""

import asyncio
import contextlib
import hashlib

import pytest
from lab.guest_image import build_guest
from lab.packages import LabError
from lab.qemu import Guest, vhost_user_network
from swos_net.asyncio import LoopDriver, run

pytestmark = pytest.mark.xdist_group("guest")

SIZE = 3 << 20


@contextlib.contextmanager
def left_to_a_loop(poller):
    driver = LoopDriver(poller)
    try:
        yield driver
    finally:
        driver.stop()


@pytest.mark.kernel_sockets
def test_a_linux_guest_and_asyncio_libraries(serve):
    pytest.importorskip("uvicorn")
    aiohttp = pytest.importorskip("aiohttp")
    import asyncio_uvicorn
    from asgi_app import HELLO, content

    try:
        image = build_guest("aarch64")
    except LabError as error:
        pytest.skip(f"no guest can be had: {error}")
    served = serve(runner=left_to_a_loop)
    root = served.stack.root

    async def fetch_from_guest(url):
        with root.attenuate("tcp:connect:10.0.2.15:8000").activate():
            async with aiohttp.ClientSession() as http, http.get(url) as response:
                return await response.read()

    async def body():
        # `guest` blocks, and the loop has a network card to serve
        with Guest(image, vhost_user_network(served.path)) as guest:
            async with asyncio_uvicorn.serving(root):
                await asyncio.to_thread(guest.wait_ready)
                assert await asyncio.to_thread(guest.run, "wget -q -O - http://10.0.2.2/") == (0, HELLO.decode())
                fetch = f"wget -q -O /tmp/copy http://10.0.2.2/bytes/{SIZE} && sha256sum < /tmp/copy"
                digest = hashlib.sha256(content(SIZE)).hexdigest()
                assert await asyncio.to_thread(guest.run, fetch) == (0, f"{digest}  -\n")
                at_once = "for n in $(seq 24); do wget -q -O - http://10.0.2.2/bytes/100000 | sha256sum & done; wait"
                status, output = await asyncio.to_thread(guest.run, at_once)
                assert output.split() == [hashlib.sha256(content(100_000)).hexdigest(), "-"] * 24
            status, _ = await asyncio.to_thread(guest.run, "httpd -p 8000 -h /tmp")
            assert status == 0 and await fetch_from_guest("http://10.0.2.15:8000/copy") == content(SIZE)
            with pytest.raises(aiohttp.ClientConnectorError, match="Permission denied"):
                await fetch_from_guest("http://10.0.2.15:8001/copy")
            assert await asyncio.to_thread(guest.power_off) == 0

    run(body(), served.poller, allow="")
    assert not served.happened("ring_broken")
