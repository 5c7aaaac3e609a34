"""The demo: boots a guest whose network card is served by this process; each fetches files of the other over IPv4 and IPv6.

    python3 examples/demo.py [--guest aarch64|x86_64]

QEMU runs a Debian kernel with busybox; its virtio NIC ends, over vhost-user, in a swos_net stack with a DHCP server,
router advertisements and a web server.  Where no guest can be had, a second stack in this process takes its part.
"""

import argparse
import asyncio
import hashlib
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from lab import setup_host  # noqa: E402
from lab.guest_image import ARCHITECTURES, GuestImage, build_guest  # noqa: E402
from lab.packages import LabError  # noqa: E402
from lab.qemu import BENCHMARK_CPUS, Emulator, Guest, find_emulator, vhost_user_network  # noqa: E402

ADDRESS4, ADDRESS6, PREFIX6 = "10.0.2.2", "fd00:5705::2", "fd00:5705::/64"
FILE_SIZE = 32 << 20
FILE = "/files/random.bin"
GUEST_PORT = 8080  # of the guest's own web server
INDEX = "<!doctype html>\n<title>swos_net</title>\n<p>Served by a TCP/IP stack in Python.\n"


class DemoError(RuntimeError):
    """The guest did not get what it should have; the message says what."""


def say(line: str = "") -> None:
    print(line, flush=True)


@dataclass(slots=True)
class Site:
    """The files the guest fetches, and the digest of the big one."""

    root: Path
    digest: str

    @classmethod
    def create(cls, root: Path) -> "Site":
        content = random.Random(5705).randbytes(FILE_SIZE)
        (root / "files").mkdir(parents=True)
        (root / "index.html").write_text(INDEX)
        (root / FILE.lstrip("/")).write_bytes(content)
        (root / "files/note.txt").write_text("A small file beside the big one.\n")
        return cls(root, hashlib.sha256(content).hexdigest())


class Host:
    """Our side of the link: a stack on `device` with the addresses above, and a web server on its port 80.

    `async with Host(device, site) as host:`; needs the project's environment, unlike everything else here.
    """

    def __init__(self, device, site: Site, **options):
        from swos_net import open_stack
        from swos_net.asyncio import StackRunner
        from swos_tools.http.protocol import HttpProtocol
        from swos_tools.http.service import HttpService
        from swos_tools.http.static import StaticFiles

        self.requests = 0
        self.leases: list[str] = []
        poller = open_stack(device, addresses=[f"{ADDRESS4}/24", f"{ADDRESS6}/64"], name="demo", **options)
        poller.stack.on_event = self._happened
        self.device = poller.ports[0].device
        self._runner = StackRunner(poller)
        self._service = HttpService(StaticFiles(str(site.root)), log=self._requested)
        self._protocol = lambda: HttpProtocol(self._service)

    async def __aenter__(self) -> "Host":
        await self._runner.__aenter__()
        capability = self._runner.stack.root.attenuate(["tcp:bind,listen,accept:*:80"], "httpd")
        self._server = await self._runner.create_server(self._protocol, None, 80, capability=capability)
        return self

    async def __aexit__(self, *exception) -> None:
        self._server.close()
        await self._service.stop(1.0)
        await self._runner.__aexit__(*exception)

    async def fetch(self, address: str) -> tuple[str, float]:
        """The SHA-256 of the guest's copy of the file, and how many seconds it took to get it."""
        capability = self._runner.stack.root.attenuate([f"tcp:connect:*:{GUEST_PORT}"], "fetch")
        begun = time.monotonic()
        reader, writer = await self._runner.open_connection(address, GUEST_PORT, capability=capability, limit=1 << 20)
        writer.write(b"GET /file HTTP/1.0\r\nHost: guest\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        digest = hashlib.sha256()
        while data := await reader.read(1 << 20):
            digest.update(data)
        writer.close()
        return digest.hexdigest(), time.monotonic() - begun

    def _requested(self, line: str) -> None:
        self.requests += 1
        say(f"  host   {line}")

    def _happened(self, event, _interface) -> None:
        from swos_net.address import format_address, format_mac
        from swos_net.dhcp.server import LeaseGranted

        if isinstance(event, LeaseGranted):
            self.leases.append(f"{format_address(event.address)} to {format_mac(event.mac)} for {event.seconds} s")
            say(f"  host   dhcp: lease {self.leases[-1]}")


class Checks:
    """What either end fetched, each over one protocol version; raises DemoError at the first that is wrong."""

    def __init__(self):
        self.rates: dict[str, list[float]] = {}  # Mbit/s, to the guest and from it

    @staticmethod
    def expect(condition: bool, what: str, shown: str = "") -> None:
        if not condition:
            raise DemoError(f"{what}: {shown.strip()[-400:] or 'no answer'}")

    def page(self, version: str, text: str) -> None:
        self.expect(text.strip() == INDEX.strip(), f"/ over {version} is not the page", text)

    def listing(self, version: str, text: str) -> None:
        self.expect("random.bin" in text and "note.txt" in text, f"the listing over {version} is incomplete", text)

    def file(self, who: str, version: str, digest: str, wanted: str, seconds: float) -> None:
        self.expect(digest == wanted, f"the SHA-256 of {FILE} over {version} differs", digest)
        rate = FILE_SIZE * 8 / seconds / 1e6
        self.rates.setdefault(version, []).append(rate)
        say(f"  {who:6s} {FILE} over {version}: {FILE_SIZE >> 20} MiB in {seconds:.1f} s, {rate:.0f} Mbit/s, SHA-256 matches")

    def summary(self) -> str:
        return ", ".join(f"{to_guest:.0f} Mbit/s to the guest and {from_guest:.0f} back over {version}"
                         for version, (to_guest, from_guest) in self.rates.items())  # fmt: skip


def converse(guest: Guest, site: Site, fetch: Callable[[str], tuple[str, float]]) -> Checks:
    """Everything the guest does, one command after the other; runs in a thread of its own.  `fetch` is the host's."""
    checks = Checks()
    guest.wait_ready()
    lease = re.search(r"^lab: lease (\S+)", guest.console.text, re.MULTILINE)
    checks.expect(bool(lease), "the guest got no DHCP lease", guest.console.text)
    address6 = re.search(r"^lab: ipv6 (\S+:\S+)", guest.console.text, re.MULTILINE)
    checks.expect(bool(address6), "the guest got no IPv6 address", guest.console.text)
    say(f"  guest  {lease.group(1)} by DHCP, {address6.group(1)} by router advertisement")
    guest.run(f"httpd -p [::]:{GUEST_PORT} -h /tmp")
    for version, host, url, own in (("IPv4", ADDRESS4, f"http://{ADDRESS4}", lease.group(1)),
                                    ("IPv6", ADDRESS6, f"http://[{ADDRESS6}]", address6.group(1))):  # fmt: skip
        status, text = guest.run(f"ping -c 3 -W 2 {host}")
        checks.expect(status == 0, f"ping {host} failed", text)
        say(f"  guest  ping {host}: {text.strip().splitlines()[-1]}")
        checks.page(version, guest.run(f"wget -q -O - {url}/")[1])
        checks.listing(version, guest.run(f"wget -q -O - {url}/files/")[1])
        begun = time.monotonic()
        status, text = guest.run(f"wget -q -O /tmp/file {url}{FILE}", 60)
        seconds = time.monotonic() - begun
        checks.expect(status == 0, f"fetching {FILE} over {version} failed", text)
        checks.file("guest", version, guest.run("sha256sum < /tmp/file")[1].partition(" ")[0], site.digest, seconds)
        digest, seconds = fetch(own.partition("/")[0])
        checks.file("host", version, digest, site.digest, seconds)
        guest.run("rm /tmp/file")
    guest.power_off()
    return checks


def account(host: Host, checks: Checks) -> None:
    """What went over the link, as the host's side counted it."""
    counters = host.device.counters()
    say()
    say(f"{host.requests} requests answered; {FILE_SIZE >> 20} MiB at {checks.summary()}")
    for label, name in (("to the guest", "transmit"), ("from the guest", "receive")):
        frames, size, bursts = (counters[f"{name}_{what}"] for what in ("frames", "bytes", "bursts"))
        if frames:
            say(
                f"  {label:15s} {size / 1e6:8.1f} MB in {frames:6d} frames of {size / frames:7.0f} bytes, "
                f"{frames / max(1, bursts):.1f} frames per burst"
            )


async def with_guest(emulator: Emulator, image: GuestImage, folder: Path, site: Site) -> None:
    """Boot a guest on the host's socket; LabError when it does not run, DemoError when it was not served well."""
    say(
        f"Booting {image.kernel.name} under QEMU {'.'.join(map(str, emulator.version))}; "
        "its network card is served here."
    )
    path = folder / "nic.sock"
    async with Host(f"vhost-user:{path}", site, ra=PREFIX6, dhcp_server=True) as host:
        loop = asyncio.get_running_loop()

        def fetch(address: str) -> tuple[str, float]:
            return asyncio.run_coroutine_threadsafe(host.fetch(address), loop).result(60)

        guest = Guest(image, vhost_user_network(path), emulator=emulator, cpu=BENCHMARK_CPUS[image.architecture])
        try:
            checks = await asyncio.to_thread(converse, guest, site, fetch)
        finally:
            guest.kill()
        account(host, checks)


async def without_guest(site: Site) -> None:
    """The same fetches over a link in memory, a second stack in the guest's place."""
    from swos_net import open_stack
    from swos_net.asyncio import StackRunner
    from swos_net.device.pair import make_pair

    ours, theirs = make_pair()
    own4, own6 = "10.0.2.15", "fd00:5705::15"
    client_poller = open_stack(theirs, addresses=[f"{own4}/24", f"{own6}/64"], name="client")
    checks = Checks()
    async with Host(ours, site) as host, StackRunner(client_poller) as client:
        capability = client.stack.root.attenuate(["tcp:connect:*:80"], "fetch")

        async def fetch(address: str, target: str) -> bytes:
            reader, writer = await client.open_connection(address, 80, capability=capability)
            writer.write(f"GET {target} HTTP/1.0\r\nHost: demo\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            checks.expect(head.startswith((b"HTTP/1.0 200", b"HTTP/1.1 200")), f"{target} was refused", head.decode())
            return body

        async def serve(reader, writer) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
            writer.write(body)
            writer.close()

        served = client.stack.root.attenuate([f"tcp:bind,listen,accept:*:{GUEST_PORT}"], "httpd")
        await client.start_server(serve, None, GUEST_PORT, capability=served)
        for version, address, own in (("IPv4", ADDRESS4, own4), ("IPv6", ADDRESS6, own6)):
            checks.page(version, (await fetch(address, "/")).decode())
            checks.listing(version, (await fetch(address, "/files/")).decode())
            begun = time.monotonic()
            body = await fetch(address, FILE)
            checks.file("guest", version, hashlib.sha256(body).hexdigest(), site.digest, time.monotonic() - begun)
            digest, seconds = await host.fetch(own)
            checks.file("host", version, digest, site.digest, seconds)
        say()
        say(f"{host.requests} requests answered over a link in memory: {checks.summary()}")


async def run(architecture: str) -> None:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="swos-demo-") as name:
        site = Site.create(Path(name, "www"))
        try:
            emulator, image = find_emulator(architecture), build_guest(architecture)
        except LabError as error:
            say(f"No guest: {error}")
            say("The same web server and the same fetches between two stacks in this process instead:")
            await without_guest(site)
        else:
            await with_guest(emulator, image, Path(name), site)
    say(f"Everything was served correctly, in {time.monotonic() - begun:.0f} s.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--guest", choices=list(ARCHITECTURES), default="aarch64", help="the guest's architecture")
    parser.add_argument("--no-setup", action="store_true", help="use this Python as it is")
    arguments = parser.parse_args()
    if not arguments.no_setup:
        try:
            python = setup_host.prepare("demo", arguments.guest)
        except (setup_host.SetupError, LabError) as error:
            print(f"demo: {error}", file=sys.stderr)
            return 1
        os.execv(python, [str(python), str(Path(__file__).resolve()), "--no-setup", "--guest", arguments.guest])
    try:
        asyncio.run(run(arguments.guest))
    except (DemoError, LabError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
