"""The stack and the Linux kernel at the two ends of a TAP device."""

import errno
import hashlib
import os
import subprocess
import threading
import time

import pytest

from lab import namespaces
from swos_net.socket import AF_INET, AF_INET6, SOCK_DGRAM
from swos_net.socket import socket as Socket

WHY_NOT = namespaces.why_not()
pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.kernel_sockets,
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "available"),
    pytest.mark.xdist_group("network"),
]
both_families = pytest.mark.parametrize("family", [AF_INET, AF_INET6], ids=["ipv4", "ipv6"])

BULK = 9 << 20
DATAGRAM_SIZES = [0, 1, 1400, 1472, 1473, 4000]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_all(sock: Socket) -> bytes:
    parts = []
    while part := sock.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


class Background:
    """Runs `work` in a thread; `result()` gives what it returned, or raises what it raised."""

    def __init__(self, work, *arguments):
        self._outcome = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work, *arguments), daemon=True)
        self._thread.start()

    def _run(self, work, *arguments) -> None:
        try:
            self._outcome = work(*arguments)
        except BaseException as error:
            self._error = error

    def result(self):
        self._thread.join(30)
        assert not self._thread.is_alive(), "the other side is still waiting"
        if self._error is not None:
            raise self._error
        return self._outcome


# What the kernel's side does with a connection `sock`: everything it sends and receives, both at once
KERNEL_BULK = """
data = os.urandom(size)
sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
sender.start()
received = read_all(sock)
sender.join()
report.update(sent=digest(data), received=digest(received), length=len(received))
"""


def exchange_bulk(sock: Socket, size: int) -> tuple[str, str, int]:
    """Our side of it: (digest of what we sent, digest of what we received, its length)."""
    data = os.urandom(size)
    sender = Background(lambda: (sock.sendall(data), sock.shutdown(1)))
    received = read_all(sock)
    sender.result()
    sock.close()
    return digest(data), digest(received), len(received)


def wait_until(link, condition) -> bool:
    """Whether the stack comes to fulfil `condition` in time."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with link.runner.lock:
            if condition():
                return True
        time.sleep(0.01)
    return False


def serve_bulk(link, family: int, size: int, port: int = 5001) -> None:
    """The kernel connects; both directions at once, both ends compared."""
    with link.server(family, port) as server:
        ours = Background(lambda: exchange_bulk(server.accept()[0], size))
        theirs = link.run(f"sock = socket.create_connection((host, port))\n{KERNEL_BULK}", host=link.ours[family], port=port, size=size)
        sent, received, length = ours.result()
    assert (theirs["received"], theirs["length"]) == (sent, size)
    assert (received, length) == (theirs["sent"], size)


def connect_bulk(link, family: int, size: int, port: int = 5002) -> None:
    """We connect."""
    script = f"""
server = socket.create_server((host, port), family={int(family)})
ready()
sock, _address = server.accept()
{KERNEL_BULK}
"""
    with link.started(script, wait=True, host=link.kernel[family], port=port, size=size) as finish:
        sent, received, length = exchange_bulk(link.connect(family, port), size)
        theirs = finish()
    assert (theirs["received"], theirs["length"]) == (sent, size)
    assert (received, length) == (theirs["sent"], size)


@pytest.mark.parametrize("size", [56, 1400, 8000])
@both_families
def test_the_kernels_ping_is_answered(link, family, size):
    command = ["ping", "-c", "3", "-i", "0.05", "-W", "2", "-s", str(size), link.ours[family]]
    done = link.namespace.run(*command, check=False)
    assert b"3 received, 0% packet loss" in done.stdout, done.stdout.decode()


@both_families
def test_bulk_over_a_connection_of_the_kernel(link, family):
    serve_bulk(link, family, BULK)


@both_families
def test_bulk_over_a_connection_of_ours(link, family):
    connect_bulk(link, family, BULK)


def test_super_segments_cross_whole_in_both_directions(link):
    before = link.device.counters()
    serve_bulk(link, AF_INET, BULK)
    after = link.device.counters()
    for direction in ("receive", "transmit"):
        frames = after[f"{direction}_frames"] - before[f"{direction}_frames"]
        length = after[f"{direction}_bytes"] - before[f"{direction}_bytes"]
        # acknowledgements of the other direction are frames too
        assert length > BULK and length / frames > 10000, (direction, frames, length)


@both_families
def test_bulk_without_offloads(make_link, family):
    link = make_link(offloads=False)
    serve_bulk(link, family, 2 << 20)
    connect_bulk(link, family, 2 << 20)
    counters = link.device.counters()
    for direction in ("receive", "transmit"):
        assert counters[f"{direction}_bytes"] / counters[f"{direction}_frames"] <= 1514
    assert counters["dropped"] == 0


@pytest.mark.parametrize("offloads", [True, False])
def test_bulk_and_datagrams_at_the_smallest_mtu_of_ipv6(make_link, offloads):
    link = make_link(offloads=offloads, mtu=1280)
    assert link.stack.interfaces[0].link.mtu == 1280
    for family in (AF_INET, AF_INET6):
        serve_bulk(link, family, 1 << 20)
        echo_to_kernel(link, family)
        echo_from_kernel(link, family)


@both_families
def test_a_link_without_link_addresses(make_link, family):
    link = make_link(kind="tun")
    # several, since the kernel may still be making its own address sure
    done = link.namespace.run("ping", "-c", "5", "-i", "0.2", "-W", "2", "-s", "4000", link.ours[family])
    assert b" 0 received" not in done.stdout
    serve_bulk(link, family, BULK)
    connect_bulk(link, family, 1 << 20)
    echo_to_kernel(link, family)
    assert link.device.counters()["dropped"] == 0


def test_the_kernel_waits_while_we_do_not_read(link):
    """The window closes, is probed, and opens again."""
    with link.server(AF_INET, 5009) as server:
        script = "sock = socket.create_connection((host, 5009))\nreport['sent'] = digest(data := os.urandom(size)); sock.sendall(data)"
        with link.started(script, host=link.ours[AF_INET], size=BULK) as finish:
            sock, _address = server.accept()
            (endpoint,) = [flow for flow in link.stack.tcp.flows.values() if flow.local_port == 5009]
            tcb = endpoint.connection.tcb
            # Linux does not fill the last bit of a window, but waits with its probes until it is closed altogether
            assert wait_until(link, lambda: tcb.receive_room < 65536)
            time.sleep(0.5)
            received = read_all(sock)
            assert len(received) == BULK and finish() == {"sent": digest(received)}
            sock.close()


def test_we_wait_while_the_kernel_does_not_read(link):
    script = """
        server = socket.create_server((host, 5010))
        ready()
        sock, _address = server.accept()
        sys.stdin.read(1)
        report["received"] = digest(read_all(sock))
    """
    with link.started(script, wait=True, host=link.kernel[AF_INET]) as finish:
        sock = link.connect(AF_INET, 5010)
        (endpoint,) = [flow for flow in link.stack.tcp.flows.values() if flow.remote_port == 5010]
        data = os.urandom(BULK)
        sender = Background(lambda: (sock.sendall(data), sock.close()))
        tcb = endpoint.connection.tcb
        assert wait_until(link, lambda: tcb.snd_wnd == 0)
        assert wait_until(link, lambda: tcb.persist_backoff >= 3)
        # what answers a probe is no duplicate acknowledgment, which would be a sign of loss
        assert (tcb.snd_wnd, tcb.retransmitted_segments) == (0, 0)
        assert finish(stdin="x") == {"received": digest(data)}
        sender.result()


@both_families
def test_after_our_end_of_data_the_kernel_still_sends(link, family):
    script = """
        server = socket.create_server((host, port), family=family)
        ready()
        sock, _address = server.accept()
        question = read_all(sock)
        sock.sendall(question[::-1] * 1000)
        sock.close()
    """
    with link.started(script, wait=True, host=link.kernel[family], port=5003, family=int(family)) as finish:
        sock = link.connect(family, 5003)
        sock.sendall(b"question")
        sock.shutdown(1)
        assert read_all(sock) == b"noitseuq" * 1000
        with pytest.raises(BrokenPipeError):
            sock.send(b"more")
        sock.close()
        finish()


@both_families
def test_after_the_kernels_end_of_data_we_still_send(link, family):
    def answer() -> None:
        sock, _address = server.accept()
        question = read_all(sock)
        sock.sendall(question[::-1] * 1000)
        sock.close()

    with link.server(family, 5004) as server:
        ours = Background(answer)
        script = """
            sock = socket.create_connection((host, port))
            sock.sendall(b"question")
            sock.shutdown(socket.SHUT_WR)
            report["right"] = read_all(sock) == b"noitseuq" * 1000
        """
        assert link.run(script, host=link.ours[family], port=5004) == {"right": True}
        ours.result()


@both_families
def test_a_port_without_a_listener_refuses(link, family):
    script = """
        try:
            socket.create_connection((host, port))
        except OSError as error:
            report["errno"] = errno.errorcode[error.errno]
    """
    assert link.run(script, host=link.ours[family], port=4444) == {"errno": "ECONNREFUSED"}
    with pytest.raises(ConnectionRefusedError):
        link.connect(family, 4444)


@both_families
def test_a_reset_is_told_in_both_directions(link, family):
    script = """
        server = socket.create_server((host, port), family=family)
        ready()
        sock, _address = server.accept()
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        sock, _address = server.accept()
        sock.sendall(b"never read")
        try:
            while sock.recv(100):
                pass
            report["end"] = True
        except ConnectionResetError:
            report["reset"] = True
    """
    with link.started(script, wait=True, host=link.kernel[family], port=5005, family=int(family)) as finish:
        sock = link.connect(family, 5005)
        sock.sendall(b"xy")
        with pytest.raises(ConnectionResetError):
            sock.recv(10)
        sock.close()
        sock = link.connect(family, 5005)
        assert sock.recv(1) == b"n"
        sock.close()  # with unread data: RFC 2525 2.17
        assert finish() == {"reset": True}


def echo_from_kernel(link, family: int) -> None:
    """The kernel sends datagrams of all sizes and gets them back."""
    echo = link.socket(family, SOCK_DGRAM)
    echo.bind((link.ours[family], 7))

    def serve() -> None:
        for _ in DATAGRAM_SIZES:
            data, sender = echo.recvfrom(65536)
            echo.sendto(data, sender)

    ours = Background(serve)
    script = """
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.connect((host, 7))
        report["right"] = []
        for size in sizes:
            data = os.urandom(size)
            sock.send(data)
            report["right"].append(sock.recv(65536) == data)
    """
    got = link.run(script, host=link.ours[family], family=int(family), sizes=DATAGRAM_SIZES)
    ours.result()
    echo.close()
    assert got == {"right": [True] * len(DATAGRAM_SIZES)}


def echo_to_kernel(link, family: int) -> None:
    """We send datagrams of all sizes and get them back."""
    script = """
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind((host, 7))
        ready()
        for _ in range(count):
            data, sender = sock.recvfrom(65536)
            sock.sendto(data, sender)
    """
    with link.started(script, wait=True, host=link.kernel[family], family=int(family), count=len(DATAGRAM_SIZES)) as finish:
        sock = link.socket(family, SOCK_DGRAM)
        for size in DATAGRAM_SIZES:
            data = os.urandom(size)
            sock.sendto(data, (link.kernel[family], 7))
            received, sender = sock.recvfrom(65536)
            assert received == data and sender[:2] == (link.kernel[family], 7)
        sock.close()
        finish()


@both_families
def test_datagrams_of_the_kernel_come_back(link, family):
    echo_from_kernel(link, family)


@both_families
def test_datagrams_of_ours_come_back(link, family):
    echo_to_kernel(link, family)


@both_families
def test_a_datagram_to_a_closed_port_is_refused_in_both_directions(link, family):
    script = """
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.connect((host, 4445))
        sock.send(b"anybody?")
        try:
            sock.recv(10)
        except OSError as error:
            report["errno"] = errno.errorcode[error.errno]
    """
    assert link.run(script, host=link.ours[family], family=int(family)) == {"errno": "ECONNREFUSED"}
    sock = link.socket(family, SOCK_DGRAM)
    sock.connect((link.kernel[family], 4445))
    sock.send(b"anybody?")
    with pytest.raises(ConnectionRefusedError):
        sock.recv(10)
    sock.close()


@both_families
def test_two_hundred_short_connections_of_the_kernel(link, family):
    def serve() -> int:
        served = 0
        for _ in range(200):
            sock, _address = server.accept()
            sock.sendall(sock.recv(100).upper())
            sock.close()
            served += 1
        return served

    with link.server(family, 5006) as server:
        ours = Background(serve)
        script = """
            report["right"] = 0
            for index in range(200):
                with socket.create_connection((host, port)) as sock:
                    sock.sendall(b"hello %d" % index)
                    report["right"] += read_all(sock) == b"HELLO %d" % index
        """
        assert link.run(script, host=link.ours[family], port=5006) == {"right": 200}
        assert ours.result() == 200


@both_families
def test_two_hundred_short_connections_of_ours(link, family):
    script = """
        server = socket.create_server((host, port), family=family, backlog=128)
        ready()
        for _ in range(200):
            sock, _address = server.accept()
            with sock:
                sock.sendall(sock.recv(100).upper())
    """
    with link.started(script, wait=True, host=link.kernel[family], port=5007, family=int(family)) as finish:
        for index in range(200):
            sock = link.connect(family, 5007)
            sock.sendall(b"hello %d" % index)
            assert read_all(sock) == b"HELLO %d" % index
            sock.close()
        finish()


def test_nothing_is_left_of_all_those_connections(make_link):
    """Connections that the kernel closed first leave nothing in the stack."""
    link = make_link()
    with link.server(AF_INET, 5008) as server:

        def serve() -> None:
            for _ in range(20):
                sock, _address = server.accept()
                assert read_all(sock) == b"x"
                sock.close()

        ours = Background(serve)
        script = """
            for _ in range(20):
                with socket.create_connection((host, 5008)) as sock:
                    sock.sendall(b"x")
                    sock.shutdown(socket.SHUT_WR)
                    assert read_all(sock) == b""
        """
        link.run(script, host=link.ours[AF_INET])
        ours.result()
    link.namespace.run("ping", "-c", "1", link.ours[AF_INET])  # what the kernel acknowledged last has arrived
    assert not link.stack.tcp.flows


def test_a_link_that_goes_away_is_told_to_who_uses_the_stack(make_link):
    """Also to who waits without a timeout."""
    link = make_link()
    threading.Timer(0.2, link.namespace.run, ("ip", "link", "del", "tap0")).start()
    with link.socket(AF_INET, SOCK_DGRAM) as sock, pytest.raises(OSError, match="tap0 has gone") as caught:
        sock.recv(10)
    assert caught.value.errno == errno.ENETDOWN
