"""A real Linux guest on aarch64 `virt`: lease, router advertisement, ping and HTTP over both families."""

import hashlib
import random
import re
import threading

import pytest
from lab.guest_image import build_guest
from lab.packages import LabError
from lab.qemu import Guest, vhost_user_network
from swos_net.address import format_address
from swos_net.dhcp.server import LeaseGranted
from swos_net.socket import create_server

pytestmark = pytest.mark.xdist_group("guest")

BODY = random.Random(7).randbytes(4 << 20)


def serve_http(server, body):
    """One answer per connection; ends when the listener is closed."""
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(30)
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65536)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            connection.shutdown(1)
            while connection.recv(65536):
                pass


@pytest.mark.kernel_sockets
def test_a_linux_guest_lives_on_the_stack(serve):
    try:
        image = build_guest("aarch64")
    except LabError as error:
        pytest.skip(f"no guest can be had: {error}")
    served = serve()
    with served.stack.root.activate():
        servers = [create_server((address, 80), family=family) for address, family in (("10.0.2.2", 2), ("fd00:5705::2", 10))]
    threads = [threading.Thread(target=serve_http, args=(server, BODY)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        with Guest(image, vhost_user_network(served.path)) as guest:
            guest.wait_ready()
            _, addresses = guest.run("ip addr show dev eth0")
            assert re.search(r"inet 10\.0\.2\.\d+/24", addresses), addresses
            assert re.search(r"inet6 fd00:5705:", addresses), addresses
            for command in ("ping -c 3 -W 2 10.0.2.2", "ping -c 3 -W 2 fd00:5705::2"):
                status, output = guest.run(command)
                assert status == 0 and " 0% packet loss" in output, output
            for url in ("http://10.0.2.2/", "http://[fd00:5705::2]/"):
                status, output = guest.run(f"wget -q -O - '{url}' | sha256sum", timeout=60)
                assert hashlib.sha256(BODY).hexdigest() in output, output
            status, output = guest.run("wget -q -O - -T 5 http://10.0.2.2:81/")
            assert status != 0
            assert guest.power_off() == 0
    finally:
        for server in servers:
            server.close()
        for thread in threads:
            thread.join(10)
    leases = [event for event in served.stack_events if isinstance(event, LeaseGranted)]
    assert [format_address(lease.address) for lease in leases][:1] == ["10.0.2.15"]
    assert not served.happened("ring_broken")
    drops = {name: count for name, count in served.interface.counters.items() if name.startswith("Drop")}
    assert not {name for name in drops if name.startswith("DropBad")}, drops
