"""Whatever arrives in whatever pieces: nothing is raised, and the pieces make no difference."""

import asyncio
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swos_tools.http.message import Limits
from swos_tools.http.protocol import SLICE, HttpProtocol
from swos_tools.http.service import HttpService
from swos_tools.http.static import StaticFiles

WALL_CLOCK = 1_800_000_000 * 10 ** 9
KNOBS = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
WORDS = [b"GET ", b"HEAD ", b"POST ", b"/", b"/hello.txt", b"/big.bin", b"/sub", b"..", b"%2e", b"%", b"?q",
         b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"Host: h\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n",
         b"Range: bytes=", b"1-2", b"-5", b"99-", b"If-None-Match: *\r\n", b"If-Range: ", b"If-Modified-Since: ",
         b"Tue, 14 Nov 2023 22:13:20 GMT", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
         b"5\r\nabcde\r\n",
         b"0\r\n", b"Expect: 100-continue\r\n", b"Upgrade: x\r\nConnection: upgrade\r\n", b"\r\n", b"\r\n\r\n", b"\0",
         b"a" * 300, b"A: " + b"b" * 5000 + b"\r\n"]
REQUESTS = [b"GET /hello.txt HTTP/1.1\r\nHost: h\r\n\r\n", b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /big.bin HTTP/1.1\r\nHost: h\r\nRange: bytes=7-100007\r\n\r\n",
            b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\nGET / H",
            b"GET /nothing HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"GET /hello.txt HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            b"GET /hello.txt HTTP/1.1\r\nHost: h\r\nA: " + b"b" * 9000 + b"\r\n\r\n"]

anything = st.binary(max_size=400)
likely = st.lists(st.one_of(st.sampled_from(WORDS), st.sampled_from(REQUESTS), st.binary(max_size=5)),
                  max_size=30).map(b"".join)
cuts = st.lists(st.integers(0, 1 << 16), max_size=20)


def pieces(data, places):
    places = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)])]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("www")
    (root / "hello.txt").write_bytes(b"hello, world\n")
    (root / "big.bin").write_bytes(os.urandom(200_000))
    (root / "sub").mkdir()
    return str(root)


def exchange(root, chunks, transport, end=True):
    """What a server sends for `chunks`; the client reads all the time, and ends its direction at the end."""
    problems = []

    async def run():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        service = HttpService(StaticFiles(root, wall_clock=lambda: WALL_CLOCK), clock=lambda: 0.0,
                              wall_clock=lambda: WALL_CLOCK, limits=Limits(body=2000))
        protocol = HttpProtocol(service)
        transport.connect(protocol)
        for chunk in chunks:
            while not transport.reading:
                transport.drain()
                await asyncio.sleep(0)
            if transport.is_closing():
                break
            protocol.data_received(chunk)
            assert len(protocol._unparsed) <= len(chunk) + SLICE
        ended = not end
        for _ in range(1000):
            transport.drain()
            await asyncio.sleep(0)
            if not ended and transport.reading and not transport.is_closing():
                ended = True
                if not protocol.eof_received():
                    transport.close()
            if transport.is_closing() or not end and not transport.waiting and transport.reading:
                break
        assert transport.is_closing() or not end
        protocol.connection_lost(None)
        assert not service.connections

    before = os.listdir("/proc/self/fd")
    asyncio.run(run())
    assert os.listdir("/proc/self/fd") == before
    assert not problems
    return bytes(transport.sent)


@KNOBS
@given(data=st.one_of(anything, likely), places=cuts, room=st.sampled_from([0, 1000, 1 << 30]))
def test_nothing_is_raised(root, fake_transport, data, places, room):
    exchange(root, pieces(data, places), fake_transport(room))


@KNOBS
@given(data=likely, places=cuts)
def test_nothing_is_raised_with_a_send_ring(root, write_file_transport, data, places):
    exchange(root, pieces(data, places), write_file_transport(50_000))


@KNOBS
@given(requests=st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=8), places=cuts,
       room=st.sampled_from([0, 3000, 1 << 30]))
def test_pieces_make_no_difference(root, fake_transport, requests, places, room):
    whole = exchange(root, requests, fake_transport())
    assert whole
    assert exchange(root, pieces(b"".join(requests), places), fake_transport(room)) == whole
    assert exchange(root, [b"".join(requests)], fake_transport()) == whole


@KNOBS
@given(data=likely, places=cuts)
def test_a_connection_lost_at_any_time(root, fake_transport, data, places):
    exchange(root, pieces(data, places), fake_transport(1000), end=False)
