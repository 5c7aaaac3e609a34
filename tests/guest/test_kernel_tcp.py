"""TCP of a real Linux kernel and ours over vhost-user: bulk, ends of all kinds, stalls, many connections, small paths.

The guest's end of each connection is peer.c, which explains the steps that the tests give it; both check all content.
Read tests/interop/test_tap_kernel_tcp.py first: the same matters over TAP, where boots cost nothing.
"""

import concurrent.futures
import contextlib
import itertools
import os
import re
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab.guest_image import build_guest
from lab.packages import LabError
from lab.qemu import BENCHMARK_CPUS, Guest, vhost_user_network
from swos_net.socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_TCP,
    SHUT_WR,
    SO_LINGER,
    SO_RCVBUF,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_MAXSEG,
    create_connection,
    socket,
)

pytestmark = [pytest.mark.xdist_group("guest"), pytest.mark.kernel_sockets]
both_families = pytest.mark.parametrize("family", [AF_INET, AF_INET6], ids=["ipv4", "ipv6"])

ARCHITECTURE = "x86_64"
OURS = {AF_INET: "10.0.2.2", AF_INET6: "fd00:5705::2"}
SIZE = 3 << 20
# peer.c's pattern
PATTERN = struct.pack(f"<{SIZE // 4}I", *(k * 2654435761 & 0xFFFFFFFF for k in range(SIZE // 4)))
WAIT = 30.0
MTU = 1500


def read_all(sock: socket) -> bytes:
    parts = []
    while part := sock.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def exchange(sock: socket, data: bytes) -> bytes:
    """Sends `data` while it receives as many bytes, and returns these."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        sent = pool.submit(sock.sendall, data)
        received = bytearray()
        while len(received) < len(data) and (part := sock.recv(1 << 20)):
            received += part
        sent.result(WAIT)
    return bytes(received)


def gone(link: "Link", port: int) -> bool:
    """Whether no connection at our `port` is left in time."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with link.served.runner.entered():
            if not any(endpoint.local_port == port for endpoint in link.served.stack.tcp.flows.values()):
                return True
        time.sleep(0.01)
    return False


class Link:
    """The guest and our stack; `at` in a peer's steps is address and port of our server."""

    def __init__(self, served, guest: Guest):
        self.served = served
        self.guest = guest
        self.ports = itertools.count(7000)
        address6 = guest.wait_for(r"^lab: ipv6 (\S+)/\d+ ", WAIT).group(1)
        self.theirs = {AF_INET: "10.0.2.15", AF_INET6: address6}

    def shell(self, command: str) -> str:
        status, output = self.guest.run(command, WAIT)
        assert status == 0, output
        return output

    @contextlib.contextmanager
    def started(self, steps: str) -> Iterator[Callable[[], str]]:
        """Runs a peer beside the block; the function waits for its success and gives what it printed."""
        wait = self.guest.start(f"peer {steps}")
        finished = False

        def finish() -> str:
            nonlocal finished
            finished = True
            status, output = wait(2 * WAIT)
            assert status == 0, output
            return output

        try:
            yield finish
        finally:
            if not finished:  # the guest's console takes no other command before, and what the peer says explains a failure
                finish()

    @contextlib.contextmanager
    def peer(self, family: int, steps: str, *, connections: int = 1, receive_buffer: int = 0) -> Iterator[tuple]:
        """Starts a peer whose connections come to us: our sockets of them, then the function that waits for its end."""
        port = next(self.ports)
        with self.served.stack.root.activate(), socket(family, SOCK_STREAM) as server:
            if receive_buffer:
                server.setsockopt(SOL_SOCKET, SO_RCVBUF, receive_buffer)
            server.bind((OURS[family], port))
            server.listen()
            server.settimeout(WAIT)
            with self.started(steps.format(at=f"{OURS[family]} {port}")) as finish, contextlib.ExitStack() as sockets:
                accepted = [sockets.enter_context(server.accept()[0]) for _ in range(connections)]
                for sock in accepted:
                    sock.settimeout(WAIT)
                yield *accepted, finish

    @contextlib.contextmanager
    def listening_peer(self, family: int, steps: str) -> Iterator[tuple]:
        """The same for a connection that we open."""
        port = next(self.ports)
        begin = len(self.guest.console.text)
        with self.started(f"accept {port} {steps}") as finish:
            self.guest.wait_for(r"^peer: listening$", WAIT, begin)
            with self.served.stack.root.activate(), create_connection((self.theirs[family], port), timeout=WAIT) as sock:
                yield sock, finish


def compiled_peer(folder: Path) -> Path:
    """peer.c as a static program; skips where it cannot be had."""
    if os.uname().machine != ARCHITECTURE:
        pytest.skip(f"the guest's program is compiled here, and this machine is no {ARCHITECTURE}")
    command = ["cc", "-std=c11", "-O2", "-static", "-o"]
    source = Path(__file__).with_name("peer.c")
    try:
        subprocess.run([*command, str(folder / "probe"), "-x", "c", "-"], input=b"int main(void) { return 0; }", capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("there is no C compiler for the guest's program; run: apt-get install gcc")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no static programs can be made here: {error.stderr.decode().strip()}")
    result = subprocess.run([*command, str(folder / "peer"), str(source)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder / "peer"


@pytest.fixture(scope="module")
def link(serve_module, tmp_path_factory) -> Iterator[Link]:
    program = compiled_peer(tmp_path_factory.mktemp("peer"))
    try:
        image = build_guest(ARCHITECTURE, files={"usr/bin/peer": program})
    except LabError as error:
        pytest.skip(f"no guest can be had: {error}")
    served = serve_module()
    with Guest(image, vhost_user_network(served.path), cpu=BENCHMARK_CPUS[ARCHITECTURE]) as guest:
        guest.wait_ready()
        yield Link(served, guest)
        assert guest.power_off() == 0
    assert not served.happened("ring_broken")
    drops = {name: count for name, count in served.interface.counters.items() if name.startswith("DropBad")}
    assert not any(drops.values()), drops


# Bulk


@both_families
def test_bulk_to_us(link, family):
    with link.peer(family, f"connect {{at}} send {SIZE} shutdown eof close") as (sock, finish):
        assert read_all(sock) == PATTERN
        sock.close()
        finish()


@both_families
def test_bulk_to_the_guest(link, family):
    with link.peer(family, f"connect {{at}} receive {SIZE} eof close") as (sock, finish):
        sock.sendall(PATTERN)
        sock.close()
        finish()


@both_families
def test_bulk_both_ways_at_once_on_a_connection_we_open(link, family):
    with link.listening_peer(family, f"exchange {SIZE} shutdown eof close") as (sock, finish):
        assert exchange(sock, PATTERN) == PATTERN
        assert sock.recv(1) == b""
        sock.close()
        finish()


@pytest.fixture
def no_options(link) -> Iterator[None]:
    """A kernel that neither offers nor accepts timestamps, SACK and window scaling."""
    folder, names = "/proc/sys/net/ipv4/tcp_", ("timestamps", "sack", "window_scaling")
    link.shell(" && ".join(f"echo 0 > {folder}{name}" for name in names))
    yield
    link.shell(" && ".join(f"echo 1 > {folder}{name}" for name in names))


@both_families
def test_bulk_both_ways_without_any_option(link, no_options, family):
    steps = f"info exchange {SIZE} shutdown eof close"
    with link.peer(family, f"connect {{at}} {steps}") as (sock, finish):
        assert exchange(sock, PATTERN) == PATTERN
        sock.close()
        assert "options 0 " in finish()
    with link.listening_peer(family, steps) as (sock, finish):
        assert exchange(sock, PATTERN) == PATTERN
        sock.close()
        assert "options 0 " in finish()


# Ends


@both_families
def test_the_guest_ends_its_direction_and_still_receives(link, family):
    with link.peer(family, f"connect {{at}} shutdown receive {SIZE} eof close") as (sock, finish):
        assert sock.recv(1) == b""
        sock.sendall(PATTERN)
        sock.close()
        finish()


@both_families
def test_we_end_our_direction_and_still_receive(link, family):
    with link.peer(family, f"connect {{at}} eof send {SIZE} close") as (sock, finish):
        sock.shutdown(SHUT_WR)
        assert read_all(sock) == PATTERN
        finish()


@both_families
def test_the_guest_aborts(link, family):
    with link.peer(family, "connect {at} send 100000 receive 1 abort") as (sock, finish):
        received = b""
        while len(received) < 100_000:
            received += sock.recv(100_000)
        assert received == PATTERN[:100_000]
        sock.sendall(PATTERN[:1])
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        finish()


@both_families
def test_we_abort(link, family):
    with link.peer(family, "connect {at} receive 100000 send 1 reset") as (sock, finish):
        sock.sendall(PATTERN[:100_000])
        assert sock.recv(1) == PATTERN[:1]
        sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        finish()


# Stalls


@both_families
def test_a_guest_that_does_not_read_for_a_while(link, family):
    """Our sending stops at its closed window; once it reads, everything comes."""
    steps = f"rcvbuf 8192 connect {{at}} control {{at}} await receive {SIZE} eof close"
    with link.peer(family, steps, connections=2) as (sock, control, finish):
        sock.settimeout(0.3)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < SIZE:
                sent += sock.send(PATTERN[sent : sent + 65536])
        assert 0 < sent < SIZE
        control.sendall(b"x")
        sock.settimeout(WAIT)
        sock.sendall(PATTERN[sent:])
        sock.close()
        finish()


@both_families
def test_we_do_not_read_for_a_while(link, family):
    """The guest says when it finds no room; once we read, everything comes."""
    steps = f"connect {{at}} control {{at}} fill {SIZE} tell rest {SIZE} shutdown eof close"
    with link.peer(family, steps, connections=2, receive_buffer=8192) as (sock, control, finish):
        assert control.recv(1) == b"x"
        assert read_all(sock) == PATTERN
        sock.close()
        finish()


# Many


@both_families
def test_a_thousand_short_connections(link, family):
    port = next(link.ports)
    with link.served.stack.root.activate(), socket(family, SOCK_STREAM) as server:
        server.bind((OURS[family], port))
        server.listen()
        server.settimeout(WAIT)
        with link.started(f"short {OURS[family]} {port} 1000") as finish:
            for count in range(1000):
                with server.accept()[0] as sock:
                    sock.settimeout(WAIT)
                    byte = sock.recv(2)
                    assert byte == bytes([count & 0xFF])
                    sock.sendall(byte)
                    assert sock.recv(1) == b""
            assert "1000 short connections" in finish()
    assert gone(link, port)  # the guest closed first: TIME-WAIT is its own


# Paths


@contextlib.contextmanager
def restored_mtu(link: Link) -> Iterator[None]:
    """The guest's MTU is as before after the block, and so are its addresses: below 1280 it has no IPv6."""
    try:
        yield
    finally:
        link.shell(f"ip link set eth0 mtu {MTU}")
        there = f"ip -6 addr show dev eth0 > /tmp/now && grep -q {link.theirs[AF_INET6]} /tmp/now && ! grep -q tentative /tmp/now"
        link.shell(f"for wait in $(seq 100); do {there} && exit 0; sleep 0.1; done; cat /tmp/now; exit 1")


# Below 1280 bytes Linux takes IPv6 from the interface.
PATHS = [(AF_INET, 1280), (AF_INET, 576), (AF_INET6, 1280)]
paths = pytest.mark.parametrize(("family", "mtu"), PATHS, ids=["ipv4-1280", "ipv4-576", "ipv6-1280"])


def bytes_per_segment(family: int, mtu: int) -> int:
    """With timestamps, which are 12 bytes."""
    return mtu - (20 if family == AF_INET else 40) - 20 - 12


@paths
def test_a_small_path_from_the_beginning(link, family, mtu):
    segment = bytes_per_segment(family, mtu)
    with restored_mtu(link):
        steps = f"mtu eth0 {mtu} connect {{at}} exchange {SIZE} info shutdown eof close"
        with link.peer(family, steps) as (sock, finish):
            assert exchange(sock, PATTERN) == PATTERN
            assert sock.getsockopt(IPPROTO_TCP, TCP_MAXSEG) == segment
            sock.close()
            assert f" mss {segment}\n" in finish()


@paths
def test_a_path_that_gets_small_and_large_again(link, family, mtu):
    half = SIZE // 3
    with restored_mtu(link):
        steps = f"connect {{at}} info exchange {half} mtu eth0 {mtu} exchange {half} info mtu eth0 {MTU} exchange {half} shutdown eof close"
        with link.peer(family, steps) as (sock, finish):
            assert exchange(sock, PATTERN) == PATTERN
            sock.close()
            sizes = [int(size) for size in re.findall(r" mss (\d+)$", finish(), re.MULTILINE)]
        assert sizes == [bytes_per_segment(family, MTU), bytes_per_segment(family, mtu)]
