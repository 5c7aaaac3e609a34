"""TCP of the Linux kernel and ours over TAP: every negotiation, ends of all kinds, stalls, small paths, many connections.

test_tap_linux.py comes first.  What was agreed on is asked of the kernel (TCP_INFO), not of us.
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import os
import struct
import time

import pytest

from lab import namespaces
from swos_net.address import parse_address
from swos_net.config import StackConfig, TcpConfig
from swos_net.socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_TCP,
    SHUT_WR,
    SO_KEEPALIVE,
    SO_LINGER,
    SOL_SOCKET,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
)

WHY_NOT = namespaces.why_not()
pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.kernel_sockets,
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "available"),
    pytest.mark.xdist_group("network"),
]
both_families = pytest.mark.parametrize("family", [AF_INET, AF_INET6], ids=["ipv4", "ipv6"])

# linux/tcp.h, tcpi_options
TIMESTAMPS, SACK, WINDOW_SCALING, ECN = 1, 2, 4, 8
ALL_BUT_ECN = TIMESTAMPS | SACK | WINDOW_SCALING
SIZE = 1 << 20

# The kernel's half of an exchange over `sock`: both directions at once, then what it knows of the connection.
EXCHANGE = """
data = os.urandom(size)
sender = threading.Thread(target=sock.sendall, args=(data,))
sender.start()
parts, length = [], 0
while length < size:
    parts.append(sock.recv(1 << 20))
    length += len(parts[-1])
sender.join()
report.update(sent=digest(data), received=digest(b"".join(parts)))
report["options"] = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[5]
sock.close()
"""
KERNEL_CONNECTS = f"sock = socket.create_connection((host, port))\n{EXCHANGE}"
KERNEL_ACCEPTS = f"""
server = socket.create_server((host, port), family=family)
ready()
sock, _address = server.accept()
{EXCHANGE}
"""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_all(sock) -> bytes:
    parts = []
    while part := sock.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


@contextlib.contextmanager
def background(work, *arguments):
    """Runs `work` in a thread beside the block; gives a function that waits for what it returns."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, *arguments)
        yield lambda: future.result(30)


def exchange(sock, size: int) -> tuple[str, str]:
    """Our half: digests of what we sent and received."""
    data = os.urandom(size)
    with sock, background(sock.sendall, data) as sent:
        received = read_all(sock)
        sent()
    return digest(data), digest(received)


def both_ways(link, family: int, *, kernel_connects: bool, port: int = 5001, size: int = SIZE) -> int:
    """Bulk in both directions over one connection; the options the kernel says it has."""
    if kernel_connects:
        with link.server(family, port) as server, background(lambda: exchange(server.accept()[0], size)) as ours:
            theirs = link.run(KERNEL_CONNECTS, host=link.ours[family], port=port, size=size)
            sent, received = ours()
    else:
        values = {"host": link.kernel[family], "port": port, "size": size, "family": int(family)}
        with link.started(KERNEL_ACCEPTS, wait=True, **values) as finish:
            sent, received = exchange(link.connect(family, port), size)
            theirs = finish()
    assert (theirs["received"], theirs["sent"]) == (sent, received)
    return theirs["options"]


def gone(link) -> bool:
    """Whether no connection is left in our stack in time."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        with link.runner.entered():
            if not link.stack.tcp.flows:
                return True
        time.sleep(0.01)
    return False


# What is agreed on


@pytest.mark.parametrize("side", ["kernel", "ours"])
@pytest.mark.parametrize(("name", "bit"), [("timestamps", TIMESTAMPS), ("sack", SACK), ("window_scaling", WINDOW_SCALING)])
def test_an_option_that_one_side_does_not_have(make_link, name, bit, side):
    if side == "kernel":
        link = make_link(sysctls={f"net.ipv4.tcp_{name}": 0})
    else:
        link = make_link(config=StackConfig(tcp=TcpConfig(**{name: False})))
    for family in (AF_INET, AF_INET6):
        for kernel_connects in (True, False):
            options = both_ways(link, family, kernel_connects=kernel_connects)
            assert options & ALL_BUT_ECN == ALL_BUT_ECN & ~bit, (family, kernel_connects)


def test_no_option_at_all(make_link):
    off = TcpConfig(timestamps=False, sack=False, window_scaling=False)
    link = make_link(config=StackConfig(tcp=off), offloads=False)
    for kernel_connects in (True, False):
        assert both_ways(link, AF_INET, kernel_connects=kernel_connects) & ALL_BUT_ECN == 0


# Linux: 0 off, 1 asks for it, 2 when asked
@pytest.mark.parametrize(("kernel", "ours", "kernel_connects", "agreed"), [
    (1, "passive", True, True), (2, "on", False, True), (1, "on", True, True), (1, "on", False, True),
    (2, "passive", True, False), (1, "off", True, False), (0, "on", False, False),
])  # fmt: skip
def test_explicit_congestion_notification(make_link, kernel, ours, kernel_connects, agreed):
    """RFC 3168 6.1.1."""
    link = make_link(sysctls={"net.ipv4.tcp_ecn": kernel}, config=StackConfig(tcp=TcpConfig(ecn=ours)))
    for family in (AF_INET, AF_INET6):
        options = both_ways(link, family, kernel_connects=kernel_connects)
        assert bool(options & ECN) == agreed
        assert options & ALL_BUT_ECN == ALL_BUT_ECN


@pytest.mark.parametrize("congestion", ["reno", "cubic"])
def test_the_kernels_controllers_and_ours(make_link, congestion):
    link = make_link(config=StackConfig(tcp=TcpConfig(congestion=congestion)), offloads=False)
    for family in (AF_INET, AF_INET6):
        both_ways(link, family, kernel_connects=True, size=2 * SIZE)
        both_ways(link, family, kernel_connects=False, size=2 * SIZE)


# How connections begin and end


def test_both_open_at_the_same_time(link):
    """RFC 9293 3.5: the SYNs cross."""
    script = """
        sock = socket.socket()
        sock.bind((kernel, 6001))
        ready()
        sock.connect((ours, 6002))
        sock.sendall(b"from the kernel")
        sock.shutdown(socket.SHUT_WR)
        report["received"] = read_all(sock).decode()
    """
    with link.started(script, wait=True, kernel=link.kernel[AF_INET], ours=link.ours[AF_INET]) as finish, link.socket() as sock:
        sock.bind((link.ours[AF_INET], 6002))
        with link.runner.entered():
            time.sleep(0.3)  # the kernel's SYN is there, but nobody looks at it
            sock.setblocking(False)
            assert sock.connect_ex((link.kernel[AF_INET], 6001)) == errno.EINPROGRESS
        sock.settimeout(10)
        time.sleep(0.1)
        sock.sendall(b"from us")
        sock.shutdown(SHUT_WR)
        assert read_all(sock) == b"from the kernel"
        assert finish() == {"received": "from us"}


@both_families
def test_both_close_at_the_same_time(link, family):
    """RFC 9293 3.6, case 3: the FINs cross, and both ends come to TIME-WAIT."""
    script = """
        server = socket.create_server((host, 5011), family=family)
        ready()
        sock, _address = server.accept()
        sock.recv(1)
        time.sleep(0.1)
        sock.shutdown(socket.SHUT_WR)
        report["end"] = sock.recv(10) == b""
        sock.close()
    """
    with link.started(script, wait=True, host=link.kernel[family], family=int(family)) as finish:
        with link.connect(family, 5011) as sock:
            port = sock.getsockname()[1]
            sock.sendall(b"x")
            with link.runner.entered():
                time.sleep(0.4)  # its FIN is there, but nobody looks at it
                sock.shutdown(SHUT_WR)
            assert sock.recv(10) == b""
        assert finish() == {"end": True}
        waiting = link.namespace.run("ss", "-Htan", "state", "time-wait").stdout.decode()
        assert f":{port}" in waiting, waiting


@both_families
def test_the_kernel_aborts_in_the_middle(link, family):
    script = """
        server = socket.create_server((host, 5012), family=family)
        ready()
        sock, _address = server.accept()
        sock.recv(100_000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    """
    with link.started(script, wait=True, host=link.kernel[family], family=int(family)) as finish:
        with link.connect(family, 5012) as sock:
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                sock.sendall(bytes(64 << 20))
            finish()


@both_families
def test_we_abort_in_the_middle(link, family):
    script = """
        server = socket.create_server((host, 5013), family=family)
        ready()
        sock, _address = server.accept()
        try:
            sock.sendall(bytes(64 << 20))
        except (ConnectionResetError, BrokenPipeError) as error:
            report["errno"] = errno.errorcode[error.errno]
    """
    with link.started(script, wait=True, host=link.kernel[family], family=int(family)) as finish:
        with link.connect(family, 5013) as sock:
            sock.recv(100_000)
            sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        assert finish()["errno"] in ("ECONNRESET", "EPIPE")


@both_families
def test_half_closed_for_long_in_both_directions(link, family):
    """After either end of data the other direction carries bulk."""
    script = """
        server = socket.create_server((host, 5014), family=family)
        ready()
        for closes_first in (True, False):
            sock, _address = server.accept()
            data = os.urandom(size)
            if closes_first:
                sock.shutdown(socket.SHUT_WR)
                report["received"] = digest(read_all(sock))
            else:
                assert sock.recv(1) == b""
                sock.sendall(data)
                report["sent"] = digest(data)
            sock.close()
    """
    with link.started(script, wait=True, host=link.kernel[family], family=int(family), size=SIZE) as finish:
        data = os.urandom(SIZE)
        with link.connect(family, 5014) as sock:
            assert sock.recv(1) == b""
            sock.sendall(data)
        with link.connect(family, 5014) as sock:
            sock.shutdown(SHUT_WR)
            received = digest(read_all(sock))
        assert finish() == {"received": digest(data), "sent": received}


# Windows


@both_families
def test_a_kernel_that_reads_in_small_bites(link, family):
    """Its window opens and closes by a few segments (RFC 9293 3.8.6.2.2); nothing is lost and nothing stands still."""
    script = """
        server = socket.socket(family)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, 5015))
        server.listen()
        ready()
        sock, _address = server.accept()
        parts = []
        while part := sock.recv(3000):
            parts.append(part)
            if len(parts) % 40 == 0:
                time.sleep(0.02)
        report["received"] = digest(b"".join(parts))
    """
    with link.started(script, wait=True, host=link.kernel[family], family=int(family)) as finish:
        data = os.urandom(400_000)
        with link.connect(family, 5015) as sock:
            sock.sendall(data)
        assert finish() == {"received": digest(data)}


@both_families
def test_we_read_in_small_bites(make_link, family):
    link = make_link(config=StackConfig(tcp=TcpConfig(receive_buffer=8192, receive_buffer_initial=8192)))
    with link.server(family, 5016) as server:
        script = """
            sock = socket.create_connection((host, 5016))
            data = os.urandom(400_000)
            sock.sendall(data)
            report["sent"] = digest(data)
        """
        with link.started(script, host=link.ours[family]) as finish, server.accept()[0] as sock:
            parts = []
            while part := sock.recv(3000):
                parts.append(part)
                if len(parts) % 40 == 0:
                    time.sleep(0.02)
            assert finish() == {"sent": digest(b"".join(parts))}


def test_windows_that_stay_closed_for_a_second(link):
    """Neither side gives up, and both go on when the reader does; both directions of one connection at once."""
    script = """
        server = socket.create_server((host, 5017), family=family)
        ready()
        sock, _address = server.accept()
        data = os.urandom(size)
        sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
        sender.start()
        time.sleep(1.2)
        report["received"] = digest(read_all(sock))
        sender.join()
        report["sent"] = digest(data)
    """
    size = 12 << 20  # more than the buffers of both ends hold
    with link.started(script, wait=True, host=link.kernel[AF_INET6], family=int(AF_INET6), size=size) as finish:
        data = os.urandom(size)
        with link.connect(AF_INET6, 5017) as sock, background(lambda: (sock.sendall(data), sock.shutdown(SHUT_WR))) as sent:
            time.sleep(1.2)
            received = digest(read_all(sock))
            sent()
        assert finish() == {"received": digest(data), "sent": received}


# Many


def test_a_thousand_short_connections_of_the_kernel(make_link):
    link = make_link()
    with link.server(AF_INET, 5018) as server:

        def serve() -> None:
            for _ in range(1000):
                with server.accept()[0] as sock:
                    sock.sendall(sock.recv(100).upper())

        with background(serve) as served:
            script = """
                def talk(first):
                    right = 0
                    for index in range(first, first + 250):
                        with socket.create_connection((host, 5018)) as sock:
                            sock.sendall(b"hello %d" % index)
                            right += read_all(sock) == b"HELLO %d" % index
                    return right
                with concurrent.futures.ThreadPoolExecutor(4) as pool:
                    report["right"] = sum(pool.map(talk, range(0, 1000, 250)))
            """
            assert link.run(script, host=link.ours[AF_INET]) == {"right": 1000}
            served()


def test_a_thousand_short_connections_of_ours(make_link):
    link = make_link()
    script = """
        server = socket.create_server((host, 5019), family=family, backlog=128)
        ready()
        for _ in range(1000):
            with server.accept()[0] as sock:
                sock.sendall(sock.recv(100).upper())
                sock.shutdown(socket.SHUT_WR)
                report["end"] = sock.recv(1) == b""
    """

    def talk(first: int) -> int:
        right = 0
        for index in range(first, first + 250):
            with link.connect(AF_INET6, 5019) as sock:
                sock.sendall(b"hello %d" % index)
                right += read_all(sock) == b"HELLO %d" % index
        return right

    with link.started(script, wait=True, host=link.kernel[AF_INET6], family=int(AF_INET6)) as finish:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(talk, range(0, 1000, 250))) == 1000
        finish()
    assert gone(link)  # the kernel closed first: TIME-WAIT is its own


# Paths

FAR, FAR6, NEAR, NEAR6 = "10.78.0.2", "fd00:78::2", "10.78.0.1", "fd00:78::1"


class FarLink:
    """A link whose kernel end routes to another namespace, `far`, over a cable whose MTU a test changes."""

    def __init__(self, link, far: namespaces.Namespace):
        self.link = link
        self.far = far
        self.kernel = {AF_INET: FAR, AF_INET6: FAR6}

    def set_mtu(self, mtu: int) -> None:
        for namespace in (self.link.namespace, self.far):
            namespace.run("ip", "link", "set", "far0", "mtu", str(mtu))

    def connect(self, family: int, port: int):
        sock = self.link.socket(family)
        sock.connect((self.kernel[family], port))
        return sock

    def path_mtu(self, family: int) -> int:
        with self.link.runner.entered() as now:
            return self.link.stack.path_mtus.mtu(parse_address(self.kernel[family]), 1500, now)


@pytest.fixture
def far_link(make_link):
    link = make_link(gateways=True, sysctls={"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1})
    with namespaces.Namespace() as far:
        link.namespace.add_veth(far, [f"{NEAR}/24", f"{NEAR6}/64"], [f"{FAR}/24", f"{FAR6}/64"], name="far0")
        far.add_route("default", NEAR)
        far.add_route("default", NEAR6)
        yield FarLink(link, far)


@both_families
def test_a_path_that_becomes_smaller_under_our_flow(far_link, family):
    """RFC 1191, RFC 8201: the router says so, and what was too big goes again in smaller pieces."""
    link, far = far_link.link, far_link.far
    script = """
        server = socket.create_server((host, 5020), family=family)
        ready()
        sock, _address = server.accept()
        report["received"] = digest(read_all(sock))
    """
    with link.started(script, wait=True, namespace=far, host=far_link.kernel[family], family=int(family)) as finish:
        data = os.urandom(4 * SIZE)
        with far_link.connect(family, 5020) as sock:
            sock.sendall(data[:SIZE])
            far_link.set_mtu(1400)
            sock.sendall(data[SIZE : 2 * SIZE])
            time.sleep(0.1)
            far_link.set_mtu(1280)
            sock.sendall(data[2 * SIZE :])
        assert finish() == {"received": digest(data)}
    assert far_link.path_mtu(family) == 1280


@both_families
def test_a_path_that_becomes_smaller_under_the_kernels_flow(far_link, family):
    """The router between tells the kernel; we take what comes."""
    link, far = far_link.link, far_link.far
    with link.server(family, 5021) as server:
        script = """
            sock = socket.create_connection((host, 5021))
            data = os.urandom(size)
            sock.sendall(data)
            report["sent"] = digest(data)
        """
        with link.started(script, namespace=far, host=link.ours[family], size=6 * SIZE) as finish, server.accept()[0] as sock:
            parts = [sock.recv(100_000)]
            link.namespace.run("ip", "link", "set", "tap0", "mtu", "1300")
            parts.append(read_all(sock))
            assert finish() == {"sent": digest(b"".join(parts))}


@both_families
def test_a_path_that_is_small_from_the_beginning(far_link, family):
    link, far = far_link.link, far_link.far
    far_link.set_mtu(1290)
    both = """
        server = socket.create_server((host, 5022), family=family)
        ready()
        sock, _address = server.accept()
        %s
    """ % "\n        ".join(EXCHANGE.strip().splitlines())
    with link.started(both, wait=True, namespace=far, host=far_link.kernel[family], family=int(family), size=SIZE) as finish:
        sent, received = exchange(far_link.connect(family, 5022), SIZE)
        theirs = finish()
    assert (theirs["received"], theirs["sent"]) == (sent, received)


# Keepalive


def test_keepalive_of_both_sides(make_link):
    """Idle connections live on while probes are answered, and end when the other side has gone."""
    link = make_link()
    script = """
        server = socket.create_server((host, 5023))
        ready()
        sock, _address = server.accept()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 1)):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        other, _address = server.accept()
        assert sock.recv(1) == other.recv(1) == b"x"
        sys.stdin.read(1)
    """
    with link.started(script, wait=True, host=link.kernel[AF_INET]) as finish:
        with link.connect(AF_INET, 5023) as probed, link.connect(AF_INET, 5023) as probing:
            probing.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
            for option in (TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT):
                probing.setsockopt(IPPROTO_TCP, option, 1)
            time.sleep(2.6)  # at least two probes each; one without an answer would be the end
            probed.sendall(b"x")
            probing.sendall(b"x")
            link.namespace.run("ip", "link", "set", "tap0", "down")
            probing.settimeout(6)
            with pytest.raises(TimeoutError) as caught:
                probing.recv(1)
            assert caught.value.errno == errno.ETIMEDOUT  # and not the socket's own timeout, which has no number
        finish(stdin="x")
