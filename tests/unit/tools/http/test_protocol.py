"""One HTTP connection on a transport that only remembers: order, limits, deadlines, flow control, the end."""

import asyncio
import os

import pytest

from swos_tools.http.protocol import COALESCE, SLICE

from swos_tools.http.message import Limits

GET = b"GET /hello.txt HTTP/1.1\r\nHost: h\r\n\r\n"
BIG = b"GET /big.bin HTTP/1.1\r\nHost: h\r\n\r\n"
NOTE = b"GET /sub/note.txt HTTP/1.1\r\nHost: h\r\n\r\n"
BIG_SIZE = 1 << 19
HELLO = b"hello, world\n"


def descriptors():
    return len(os.listdir("/proc/self/fd"))


# One request after the other

async def test_a_response(connection, log):
    connection.feed(GET)
    head, _, body = bytes(connection.transport.sent).partition(b"\r\n\r\n")
    assert body == HELLO
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    assert lines[1] == b"Date: Fri, 15 Jan 2027 08:00:00 GMT"
    assert lines[2] == b"Content-Type: text/plain; charset=utf-8"
    assert lines[3] == b"Last-Modified: Tue, 14 Nov 2023 22:13:20 GMT"
    assert lines[4].startswith(b'ETag: "') and lines[5:] == [b"Accept-Ranges: bytes", b"Content-Length: 13"]
    assert log == ["httpd: 200 /hello.txt"]


async def test_several_requests_on_one_connection(connection, log):
    for _ in range(3):
        connection.feed(GET, b"GET /nothing?a=b HTTP/1.1\r\nHost: h\r\n\r\n")
    assert [response.status for response in connection.responses()] == [200, 404] * 3
    assert log == ["httpd: 200 /hello.txt", "httpd: 404 /nothing"] * 3
    assert not connection.transport.closed


async def test_byte_by_byte(connection):
    connection.feed(*(bytes([byte]) for byte in GET + NOTE))
    assert [response.body for response in connection.responses()] == [HELLO, b"a note"]


async def test_head(connection):
    connection.feed(GET.replace(b"GET", b"HEAD") + BIG.replace(b"GET", b"HEAD") + GET)
    first, second, third = connection.responses("HEAD", "HEAD")
    assert first.headers == third.headers and second.headers["content-length"] == str(BIG_SIZE)
    assert (first.body, second.body, third.body) == (b"", b"", HELLO)


@pytest.mark.parametrize(("version", "field", "kept", "answer"), [
    (b"1.1", b"", True, None),
    (b"1.1", b"Connection: keep-alive\r\n", True, None),
    (b"1.1", b"Connection: close\r\n", False, "close"),
    (b"1.0", b"", False, "close"),
    (b"1.0", b"Connection: close\r\n", False, "close"),
    (b"1.0", b"Connection: Keep-Alive\r\n", True, "keep-alive"),
])
async def test_keep_alive(connection, version, field, kept, answer):
    connection.feed(b"GET /hello.txt HTTP/" + version + b"\r\nHost: h\r\n" + field + b"\r\n")
    response, = connection.responses()
    assert (response.status, response.version, response.headers.get("connection")) == (200, "HTTP/1.1", answer)
    assert connection.transport.closed is not kept
    connection.feed(GET)
    assert len(connection.responses()) == (2 if kept else 1)


async def test_the_connection_closes_after_the_whole_file(connect, fake_transport):
    connection = connect(fake_transport(room=1000))
    connection.feed(BIG.replace(b"Host", b"Connection: close\r\nHost"))
    assert not connection.transport.closed
    while not connection.transport.closed:
        connection.transport.drain()
        await connection.turns(1)
    assert len(connection.responses()[0].body) == BIG_SIZE


@pytest.mark.parametrize("field", [b"Range: bytes=1-2", b"range:bytes=1-2", b"RANGE: bytes=1-2  "])
async def test_header_fields_reach_the_files(connection, field):
    connection.feed(b"GET /hello.txt HTTP/1.1\r\nHost: h\r\n" + field + b"\r\n\r\n")
    response, = connection.responses()
    assert (response.status, response.body) == (206, b"el")


async def test_repeated_fields_are_joined(connection):
    # RFC 9110 5.3: two ranges, which we ignore together
    connection.feed(b"GET /hello.txt HTTP/1.1\r\nHost: h\r\nRange: bytes=1-2\r\nRange: bytes=3-4\r\n\r\n")
    assert connection.responses()[0].status == 200


async def test_fields_of_one_request_do_not_reach_the_next(connection):
    connection.feed(GET.replace(b"Host", b"Range: bytes=1-2\r\nHost") + GET)
    assert [response.status for response in connection.responses()] == [206, 200]


# Pipelining

async def test_pipelined_responses_keep_their_order(connection, site):
    with open(site / "huge.bin", "wb") as file:
        file.truncate(3 << 20)  # more than one turn's
    connection.feed(GET + BIG + NOTE + BIG.replace(b"big", b"huge") + GET)
    await connection.turns()
    bodies = [response.body for response in connection.responses()]
    assert [len(body) for body in bodies] == [13, BIG_SIZE, 6, 3 << 20, 13]


async def test_pipelined_small_responses_are_one_write(connection, site):
    connection.feed(GET * 20)
    assert len(connection.responses()) == 20 and len(connection.transport.writes) == 1
    (site / "hello.txt").write_bytes(b"x" * 30_000)
    connection.feed(GET * 20)
    assert len(connection.responses()) == 40 and max(connection.transport.writes) < COALESCE + 31_000


async def test_a_flood_of_requests_is_answered_slice_by_slice(connection, log):
    count = 4000
    connection.feed(GET * count)
    assert 0 < len(log) <= SLICE // len(GET) + 1
    assert not connection.transport.reading
    await connection.turns(count * len(GET) // SLICE + 5)
    assert len(connection.responses()) == count
    assert connection.transport.reading
    assert max(connection.transport.writes) < 2 * COALESCE


# Content of requests

async def test_other_methods_keep_the_connection(connection, log):
    connection.feed(b"POST /hello.txt HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nGET /" + GET)
    refused, served = connection.responses()
    assert (refused.status, refused.headers["allow"], refused.body) == (405, "GET, HEAD", b"")
    assert served.status == 200
    assert log == ["httpd: 405 /hello.txt", "httpd: 200 /hello.txt"]


async def test_content_of_a_get_is_thrown_away(connection):
    connection.feed(GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 100000\r\n\r\n"), *[b"x" * 1000] * 100, GET)
    assert [response.status for response in connection.responses()] == [200, 200]


async def test_chunked_content_and_its_trailer(connection):
    connection.feed(b"GET /hello.txt HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
                    b"5\r\nGET /\r\n0\r\nRange: bytes=0-0\r\nHost: again\r\n\r\n" + GET)
    # RFC 9110 6.5.1: a trailer field is no header field
    assert [response.status for response in connection.responses()] == [200, 200]


@pytest.mark.parametrize(("method", "status"), [(b"GET", 413), (b"POST", 405)])
async def test_too_much_content_announced(connect, method, status):
    connection = connect(body=1000)
    connection.feed(GET.replace(b"GET", method).replace(b"\r\n\r\n", b"\r\nContent-Length: 1001\r\n\r\n"))
    response, = connection.responses()
    assert (response.status, response.headers["connection"]) == (status, "close")
    assert connection.transport.ended


async def test_as_much_content_as_allowed(connect):
    connection = connect(body=1000)
    connection.feed(GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 1000\r\n\r\n"), b"x" * 1000)
    assert connection.responses()[0].status == 200


@pytest.mark.parametrize("chunk", [b"3e8\r\n" + b"x" * 1000 + b"\r\n", b"1;" + b"e" * 500 + b"\r\nx\r\n",
                                   b"1\r\nx\r\n" * 100])
async def test_too_much_content_in_chunks(connect, chunk):
    connection = connect(body=1000)
    connection.feed(GET.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"))
    fed = 0
    while not connection.transport.sent and fed < 3 * SLICE:
        connection.feed(chunk)
        fed += len(chunk)
    assert connection.responses()[0].status == 413


async def test_endless_trailer(connect):
    connection = connect(body=1000)
    connection.feed(GET.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: "), *[b"a" * 1000] * 12)
    assert connection.responses()[0].status == 413


async def test_length_and_chunks_together(connection):
    # RFC 9112 6.3: the way requests are smuggled
    connection.feed(b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
                    b"0\r\n\r\n" + GET)
    response, = connection.responses()
    assert response.status == 400


# Expect

async def test_continue(connection, log):
    head, content = GET.replace(b"\r\n\r\n", b"\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n"), b"abc"
    connection.feed(head)
    assert bytes(connection.transport.sent) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.feed(content + GET)
    assert [response.status for response in connection.responses()] == [100, 200, 200]
    assert len(log) == 2


async def test_continue_waits_for_its_turn(connect, fake_transport):
    connection = connect(fake_transport(room=1000))
    head = GET.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    connection.feed(BIG + head)
    assert b"100 Continue" not in connection.transport.sent
    while b"100 Continue" not in connection.transport.sent:
        connection.transport.drain()
        await connection.turns(1)
    connection.feed(b"abc")
    connection.transport.drain()
    await connection.turns(1)
    assert [response.status for response in connection.responses()] == [200, 100, 200]


@pytest.mark.parametrize(("method", "version", "expect", "status"), [
    (b"GET", b"1.1", b"200-ok", 417),
    (b"PUT", b"1.1", b"100-continue", 405),
])
async def test_expectations_refused_without_the_content(connection, method, version, expect, status):
    connection.feed(b"%b / HTTP/%b\r\nHost: h\r\nExpect: %b\r\nContent-Length: 3\r\n\r\n" % (method, version, expect))
    response, = connection.responses()
    assert (response.status, response.headers["connection"]) == (status, "close")
    assert response.headers.get("allow") == ("GET, HEAD" if status == 405 else None)


async def test_http_1_0_expects_nothing(connection):
    # RFC 9110 10.1.1
    connection.feed(b"GET /hello.txt HTTP/1.0\r\nExpect: 100-continue\r\n\r\n")
    assert [response.status for response in connection.responses()] == [200]


# What is refused, and the end after it

@pytest.mark.parametrize(("data", "status"), [
    (b"\x16\x03\x01\x02\x00\x01\x00", 400),                     # TLS
    (b"HELLO\r\n", 400),
    (b"GET /\x80 HTTP/1.1\r\n", 400),
    (b"GET / HTTP/1.1\nHost: h\n\n", 400),
    (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),                           # RFC 9112 3.2
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET /\r\n\r\n", 505),                                    # HTTP/0.9
    (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
])
async def test_refusals(connection, log, data, status):
    connection.feed(GET + data + GET)
    served, refused = connection.responses()
    assert (served.status, refused.status, refused.body) == (200, status, b"")
    assert refused.headers["connection"] == "close"
    assert len(log) == 2 and log[1].startswith(f"httpd: {status} ")
    # our direction has ended, the other is read to its end
    assert connection.transport.ended and not connection.transport.closed and connection.transport.reading


async def test_http_1_0_needs_no_host(connection):
    connection.feed(b"GET /hello.txt HTTP/1.0\r\n\r\n")
    assert connection.responses()[0].status == 200


async def test_after_a_refusal_what_arrives_is_thrown_away(connection, clock, service):
    connection.feed(b"nonsense\r\n")
    sent = bytes(connection.transport.sent)
    connection.feed(*[GET * 100] * 100)
    assert connection.transport.sent == sent and not connection.protocol._unparsed
    assert not connection.protocol.eof_received()  # the transport closes itself then
    connection.transport.drain()
    clock.now += 1.9
    service.sweep(clock.now)
    assert not connection.transport.aborted
    clock.now += 0.2
    service.sweep(clock.now)
    assert connection.transport.aborted


async def test_a_refusal_comes_after_what_was_asked_before(connection):
    connection.feed(GET + BIG[:20] + b"\0" + GET)
    assert [response.status for response in connection.responses()] == [200, 400]


@pytest.mark.parametrize("data", [
    b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n" + GET,
    GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 60\r\n\r\n") + GET,
])
async def test_an_upgrade_is_declined_and_ends_the_connection(connection, data):
    connection.feed(data)
    response, = connection.responses()
    assert response.status == (405 if data.startswith(b"CONNECT") else 200)
    assert response.headers["connection"] == "close" and connection.transport.closed


# Sizes

async def test_a_target_too_long(connection, log):
    connection.feed(b"GET /" + b"a" * 8191, b"a HTTP/1.1\r\nHost: h\r\n\r\n")
    await connection.turns()
    assert connection.responses()[0].status == 414
    assert log == ["httpd: 414 -"]


async def test_a_target_too_long_is_not_awaited_to_its_end(connection):
    connection.feed(*[b"GET /" + b"a" * 1000] + [b"a" * 1000] * 8)
    assert connection.responses()[0].status == 414


async def test_a_path_too_long_keeps_the_connection(connection):
    connection.feed(b"GET /" + b"a" * 4096 + b" HTTP/1.1\r\nHost: h\r\n\r\n" + GET)
    assert [response.status for response in connection.responses()] == [414, 200]


def header_of(size):
    """A request whose fields count `size` bytes."""
    return b"GET /hello.txt HTTP/1.1\r\nHost: h\r\nA: " + b"a" * (size - 9 - 5) + b"\r\n\r\n"


@pytest.mark.parametrize("step", [1 << 20, 5000, 1460])
@pytest.mark.parametrize(("size", "status"), [(16384, 200), (16385, 431)])
async def test_size_of_the_header(connection, size, status, step):
    data = GET + header_of(size)
    for start in range(0, len(data), step):
        connection.feed(data[start:start + step])
        await connection.turns()
    assert [response.status for response in connection.responses()] == [200, status]


async def test_many_small_fields(connection):
    connection.feed(*[GET[:-2]] + [b"A: b\r\n" * 100] * 40)
    assert connection.responses()[0].status == 431


@pytest.mark.parametrize("endless", [b"A: " + b"a" * 997, b"a" * 1000, b" " * 1000])
async def test_a_field_without_end(connection, endless):
    connection.feed(GET[:-2] + b"A: ", *[endless] * 40)
    assert connection.responses()[0].status in (400, 431)
    assert connection.transport.ended


# Deadlines

async def test_idle_connections_close(connection, clock, service):
    clock.now += 59
    connection.feed(GET)
    clock.now += 59
    connection.transport.drain()
    service.sweep(clock.now)
    assert not connection.transport.closed
    clock.now += 2
    service.sweep(clock.now)
    assert connection.transport.closed and len(connection.responses()) == 1


async def test_idle_time_begins_with_the_response(connection, clock, service):
    connection.feed(GET[:10])
    clock.now += 20
    connection.feed(GET[10:])
    connection.transport.drain()
    clock.now += 59
    service.sweep(clock.now)
    assert len(connection.responses()) == 1 and not connection.transport.closed
    # and that of a request with its first byte
    connection.feed(GET[:10])
    clock.now += 29
    service.sweep(clock.now)
    assert len(connection.responses()) == 1


async def test_empty_lines_are_no_request(connection, clock, service):
    for _ in range(61):
        clock.now += 1
        connection.feed(b"\r\n")
        service.sweep(clock.now)
    assert connection.transport.closed and not connection.transport.sent


@pytest.mark.parametrize("head", [b"", GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 99\r\n\r\n")])
async def test_slow_requests(connection, clock, service, head):
    connection.feed(head + b"G")
    for _ in range(29):
        clock.now += 1
        connection.feed(b"E" if head else b"")
        service.sweep(clock.now)
        if not head:
            break
    clock.now = 1029.5
    service.sweep(clock.now)
    assert not connection.transport.sent
    clock.now = 1030.0
    service.sweep(clock.now)
    response, = connection.responses()
    assert response.status == 408 and connection.transport.ended


async def test_a_slow_reader_may_take_its_time(connect, fake_transport, clock, service):
    connection = connect(fake_transport(room=100_000))
    connection.feed(BIG)
    while connection.transport.waiting:
        connection.transport.drain(1000)
        service.sweep(clock.now)
        await connection.turns(1)
        clock.now += 100
    assert not connection.transport.aborted and len(connection.responses()[0].body) == BIG_SIZE


@pytest.mark.parametrize("request_bytes", [BIG, GET, b"nonsense\r\n"])
async def test_a_reader_that_stopped(connect, fake_transport, clock, service, request_bytes):
    connection = connect(fake_transport(room=10))
    before = descriptors()
    connection.feed(request_bytes)
    service.sweep(clock.now)
    for _ in range(119):
        clock.now += 1
        service.sweep(clock.now)
    assert not connection.transport.aborted
    clock.now += 1
    service.sweep(clock.now)
    assert connection.transport.aborted
    connection.lose()
    assert descriptors() == before


async def test_the_sweep_runs_while_there_are_connections(connect, service):
    assert service._sweep is None
    first, second = connect(), connect()
    assert service._sweep is not None
    first.lose()
    assert service._sweep is not None
    second.lose()
    assert service._sweep is None and not service.connections


# Flow control

async def test_no_answers_while_the_transport_is_full(connect, fake_transport, log):
    connection = connect(fake_transport(room=1000))
    connection.feed(GET * 10)
    connection.feed(GET * 10, GET * 10)
    assert connection.transport.paused and not connection.transport.reading
    answered = len(log)
    assert answered < 20
    await connection.turns()
    assert len(log) == answered
    while connection.transport.paused:
        connection.transport.drain()
    await connection.turns()
    assert len(connection.responses()) == 30 and connection.transport.reading


async def test_a_client_that_does_not_read_fills_nothing(connect, fake_transport, service):
    connection = connect(fake_transport(room=1000))
    connection.feed(BIG)
    fed = 0
    while connection.transport.reading and fed < 10_000_000:
        connection.feed(GET * 100)
        fed += 100
        await connection.turns(2)
    assert fed <= 200
    assert len(connection.protocol._unparsed) <= 100 * len(GET)


async def test_files_go_chunk_by_chunk(connect, fake_transport):
    connection = connect(fake_transport(room=300_000))
    connection.feed(BIG + GET)
    assert max(connection.transport.writes) <= 256 * 1024
    assert len(connection.transport.sent) < 300_000 + 256 * 1024
    connection.transport.drain()
    await connection.turns()
    assert [len(response.body) for response in connection.responses()] == [BIG_SIZE, 13]


async def test_files_go_straight_into_the_ring(connect, write_file_transport):
    connection = connect(write_file_transport(room=100_000))
    connection.feed(BIG + GET)
    assert len(connection.transport.sent) == 100_000
    for _ in range(10):
        connection.transport.drain()
    assert [len(response.body) for response in connection.responses()] == [BIG_SIZE, 13]
    assert max(connection.transport.writes) < 1000


async def test_other_connections_have_their_turn(connect, site, log):
    with open(site / "huge.bin", "wb") as file:
        file.truncate(64 << 20)
    greedy, other = connect(), connect()
    greedy.feed(b"GET /huge.bin HTTP/1.1\r\nHost: h\r\n\r\n")
    other.feed(GET)
    assert len(greedy.transport.sent) < 2 << 20  # although it never said stop
    assert other.responses()[0].body == HELLO
    await greedy.turns(70)
    assert len(greedy.responses()[0].body) == 64 << 20


@pytest.mark.parametrize("kind", ["fake_transport", "write_file_transport"])
async def test_a_file_that_shrinks_breaks_the_connection(connect, site, kind, request):
    connection = connect(request.getfixturevalue(kind)(room=1000))
    before = descriptors()
    connection.feed(BIG + GET)
    os.truncate(site / "big.bin", 2000)
    for _ in range(3):
        connection.transport.drain()
        await connection.turns(2)
    assert connection.transport.aborted and descriptors() == before
    assert b"hello" not in connection.transport.sent


# The end

async def test_a_half_closed_connection_gets_its_answers(connect, fake_transport):
    connection = connect(fake_transport(room=1000))
    connection.feed(BIG + GET)
    assert connection.protocol.eof_received()
    while not connection.transport.closed:
        connection.transport.drain()
        await connection.turns(1)
    assert [response.status for response in connection.responses()] == [200, 200]


async def test_reading_does_not_resume_after_the_end(connect, fake_transport):
    # a transport would report the end once more
    connection = connect(fake_transport(room=1000))
    connection.feed(BIG, GET, BIG)
    assert not connection.transport.reading
    assert connection.protocol.eof_received()
    while not connection.transport.closed:
        connection.transport.drain()
        await connection.turns(1)
    assert not connection.transport.reading and len(connection.responses()) == 3


@pytest.mark.parametrize("data", [b"", GET, GET[:10], GET + NOTE[:20]])
async def test_end_of_an_idle_or_unfinished_connection(connection, data):
    connection.feed(data)
    assert not connection.protocol.eof_received()


async def test_a_lost_connection_leaves_nothing(connect, fake_transport, service, log):
    before = descriptors()
    connection = connect(fake_transport(room=1000))
    connection.feed(BIG + GET * 1000)
    assert descriptors() == before + 1
    connection.lose()
    connection.transport.drain()
    await connection.turns()
    assert descriptors() == before and not service.connections
    assert log == ["httpd: 200 /big.bin"]


async def test_a_transport_that_is_closing_gets_no_more(connect, fake_transport):
    connection = connect(fake_transport(room=1000))
    connection.feed(BIG)
    sent = len(connection.transport.sent)
    connection.transport.closed = True
    connection.transport.drain()
    await connection.turns()
    assert len(connection.transport.sent) == sent


async def test_too_many_connections(connect, log):
    served = [connect(connections=2) for _ in range(2)]
    told = [connect(connections=2) for _ in range(2)]
    cut = connect(connections=2)
    for connection in told:
        response, = connection.responses()
        assert (response.status, response.headers["retry-after"]) == (503, "1")
        connection.feed(GET)
        assert len(connection.responses()) == 1
    assert cut.transport.aborted and not cut.transport.sent
    for connection in told + [cut, served[0]]:
        connection.lose()
    again = connect(connections=2)
    for connection in (served[1], again):
        connection.feed(GET)
        assert connection.responses()[0].status == 200
    assert log == ["httpd: 503 -"] * 2 + ["httpd: 200 /hello.txt"] * 2


async def test_stop(connect, fake_transport, service):
    idle, busy, asking = connect(), connect(fake_transport(room=1000)), connect()
    busy.feed(BIG + GET)
    asking.feed(GET[:10])
    stopping = asyncio.ensure_future(service.stop(60))
    await idle.turns(2)
    assert idle.transport.closed and not busy.transport.closed and not asking.transport.closed
    idle.lose()
    asking.feed(GET[10:])
    assert asking.responses()[0].headers["connection"] == "close" and asking.transport.closed
    asking.lose()
    while not busy.transport.closed:
        assert not stopping.done()
        busy.transport.drain()
        await busy.turns(1)
    busy.lose()
    await stopping
    assert len(busy.responses()[0].body) == BIG_SIZE


async def test_stop_does_not_wait_for_ever(connect, fake_transport, service):
    connection = connect(fake_transport(room=1000))
    connection.feed(BIG)
    await service.stop(0)
    assert connection.transport.aborted


async def test_stop_without_connections(service):
    await service.stop(60)


# Log

@pytest.mark.parametrize(("target", "line"), [
    (b"/a%0ahttpd:%20200%20/b", "httpd: 404 /a%0ahttpd:%20200%20/b"),
    (b"/hello.txt?secret=1", "httpd: 200 /hello.txt"),
    (b"http://h/hello.txt", "httpd: 200 http://h/hello.txt"),
])
async def test_log_lines(connection, log, target, line):
    connection.feed(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n")
    assert log == [line]


async def test_the_date_goes_on(connection, service):
    service._wall_clock = lambda: 784111777 * 10 ** 9
    connection.feed(GET)
    service._wall_clock = lambda: 784111778 * 10 ** 9 - 1
    connection.feed(GET)
    service._wall_clock = lambda: 784111778 * 10 ** 9
    connection.feed(GET)
    assert [response.headers["date"] for response in connection.responses()] == [
        "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT"]


async def test_without_a_log(connection, service):
    service._log = None
    connection.feed(GET)
    assert connection.responses()[0].status == 200


async def test_limits_of_the_reference_system_are_passed():
    limits = Limits()
    assert limits.connections > 8 and limits.path > 200
