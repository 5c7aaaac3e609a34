"""Files under a root as responses: names, types, links that leave, ranges, what is remembered."""

import errno
import os

import pytest

from swos_tools.http.listing import ENTRIES_MAX
from swos_tools.http.message import Request
from swos_tools.http.static import READ_AT_ONCE, StaticFiles, origin_form


def make_request(target, method=b"GET", **headers):
    request = Request()
    request.method = method
    request.target = target
    request.version = "1.1"
    request.headers = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return request


def get(files, target, method=b"GET", **headers):
    """(status, header dictionary, content) of a request."""
    response = files.respond(make_request(target, method, **headers))
    fields = dict(line.split(b": ", 1) for line in response.fields.split(b"\r\n")[:-1])
    body = response.body
    if response.file is not None:
        body = os.pread(response.file.fd, response.file.count, response.file.offset)
        os.close(response.file.fd)
    return response.status, fields, body


def test_a_file(files, site):
    status, fields, body = get(files, b"/hello.txt")
    assert (status, body) == (200, b"hello, world\n")
    assert fields == {b"Content-Type": b"text/plain; charset=utf-8", b"Content-Length": b"13",
                      b"Last-Modified": b"Tue, 14 Nov 2023 22:13:20 GMT", b"Accept-Ranges": b"bytes",
                      b"ETag": b'"%x-d"' % os.stat(site / "hello.txt").st_ctime_ns}


def test_head_is_get_without_the_content(files):
    for target in (b"/hello.txt", b"/big.bin", b"/", b"/with/", b"/nothing"):
        status, fields, _ = get(files, target)
        assert get(files, target, b"HEAD") == (status, fields, b"")


def test_a_large_file_is_not_read(files, site):
    response = files.respond(make_request(b"/big.bin"))
    assert response.body == b"" and response.file.offset == 0 and response.file.count == 1 << 19
    os.close(response.file.fd)
    (site / "limit").write_bytes(b"x" * READ_AT_ONCE)
    assert files.respond(make_request(b"/limit")).file is None


def test_the_empty_file(files):
    status, fields, body = get(files, b"/empty.txt")
    assert (status, fields[b"Content-Length"], body) == (200, b"0", b"")


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"get"])
def test_other_methods(files, method):
    status, fields, body = get(files, b"/hello.txt", method)
    assert (status, fields, body) == (405, {b"Allow": b"GET, HEAD", b"Content-Length": b"0"}, b"")


# Names

@pytest.mark.parametrize("target", [
    b"/nothing", b"/sub/nothing", b"/hello.txt/", b"/hello.txt/index.html", b"/nothing/", b"/a\0b", b"/%00",
    b"/" + b"n" * 300, b"/HELLO.TXT", b"/%zz", b"/hello.txt%",
])
def test_not_found_has_no_content(files, target):
    assert get(files, target) == (404, {b"Content-Length": b"0"}, b"")


@pytest.mark.parametrize("target", [
    b"/../secret", b"/..", b"/sub/../hello.txt", b"/%2e%2e/secret", b"/.%2E/secret", b"/sub/..%2fhello.txt",
    b"/a..b", b"/...",
])
def test_two_dots_anywhere(files, site, target):
    (site.parent / "secret").write_bytes(b"secret")
    (site / "a..b").write_bytes(b"the reference system refuses this name too")
    assert get(files, target)[0] == 404


def test_percent_decoding(files, site):
    (site / "a b%é?#.txt").write_bytes(b"odd name")
    assert get(files, b"/a%20b%25%c3%A9%3f%23.txt")[2] == b"odd name"
    assert get(files, b"/%68ello.txt")[0] == 200
    assert get(files, b"/sub%2fnote.txt")[2] == b"a note"


def test_names_that_are_no_text(files, site):
    with open(os.fsencode(site) + b"/\xff\xfe.txt", "wb") as file:
        file.write(b"bytes")
    assert get(files, b"/%ff%fe.txt")[2] == b"bytes"


def test_the_query_is_left_out(files):
    assert get(files, b"/hello.txt?a=b?c/../d")[0] == 200


def test_hidden_files_are_served(files):
    assert get(files, b"/.hidden")[2] == b"seen"


def test_paths_up_to_4096_bytes(files, site):
    # far beyond the 200 bytes of the reference system
    deep = "/".join(["d" * 200] * 15)
    (site / deep).mkdir(parents=True)
    (site / deep / "file").write_bytes(b"deep down")
    assert get(files, b"/" + deep.encode() + b"/file")[2] == b"deep down"
    assert get(files, b"/" + b"x/" * 2047 + b"x")[0] == 404
    assert get(files, b"/" + b"x/" * 2047 + b"xx")[0] == 414


@pytest.mark.parametrize(("target", "form"), [
    (b"/a?b", b"/a?b"),
    (b"http://host:80/a?b", b"/a?b"),
    (b"HTTPS://host/", b"/"),
    (b"http://host", b"/"),
    (b"http://host?q=/x", b"/?q=/x"),
    (b"ftp://host/a", b"ftp://host/a"),
    (b"*", b"*"),
])
def test_request_targets(target, form):
    assert origin_form(target) == form


def test_targets_without_a_path(files):
    assert get(files, b"http://any/hello.txt")[0] == 200
    assert get(files, b"*")[0] == 400
    assert get(files, b"ftp://host/a")[0] == 400


# Directories

def test_index(files, site):
    assert get(files, b"/with/")[2] == b"<p>inside</p>"
    (site / "index.html").write_bytes(b"<p>root</p>")
    status, fields, body = get(files, b"/")
    assert (status, fields[b"Content-Type"], body) == (200, b"text/html; charset=utf-8", b"<p>root</p>")


def test_listing(files):
    status, fields, body = get(files, b"/")
    assert status == 200 and fields[b"Content-Type"] == b"text/html; charset=utf-8"
    assert int(fields[b"Content-Length"]) == len(body)
    assert b"<title>Index of /</title>" in body and b"../" not in body
    assert b'<a href="hello.txt">hello.txt</a>' in body and b'<a href="sub/">sub/</a>' in body
    assert body.index(b"sub/") < body.index(b"empty.txt") < body.index(b"hello.txt")
    assert b"Index of /sub/" in get(files, b"/sub/")[2]
    assert b'<a href="../">' in get(files, b"/sub/")[2]


def test_listing_escapes(files, site):
    (site / "sub" / "a:b\"'%").write_bytes(b"")
    (site / "<script>").mkdir()
    body = get(files, b"/sub/")[2]
    assert b"<i>" not in body and b'<a href="%3Ci%3E%26.txt">&lt;i&gt;&amp;.txt</a>' in body
    assert b'<a href="a%3Ab%22%27%25">a:b&quot;&#x27;%</a>' in body
    assert b"<title>Index of /&lt;script&gt;/</title>" in get(files, b"/<script>/")[2]


def test_listing_of_names_that_are_no_text(files, site):
    (site / "raw").mkdir()
    open(os.fsencode(site) + b"/raw/\xff", "wb").close()
    assert '<a href="%FF">\ufffd</a>'.encode() in get(files, b"/raw/")[2]


def test_listing_has_an_end(files, site, monkeypatch):
    monkeypatch.setattr("swos_tools.http.listing.ENTRIES_MAX", 3)
    body = get(files, b"/")[2]
    assert body.count(b"<li>") == 4 and b"more than 3 entries" in body
    assert ENTRIES_MAX == 10000


def test_no_listing(site):
    files = StaticFiles(str(site), listing=False)
    assert get(files, b"/sub/")[0] == 404
    assert get(files, b"/with/")[0] == 200


@pytest.mark.parametrize(("target", "location"), [
    (b"/sub", b"/sub/"),
    (b"/sub?a=b", b"/sub/?a=b"),
    (b"//sub", b"/sub/"),  # not //sub/, another host
    (b"/%73ub", b"/sub/"),
])
def test_a_directory_without_its_slash(files, target, location):
    status, fields, body = get(files, target)
    assert (status, fields, body) == (301, {b"Location": location, b"Content-Length": b"0"}, b"")


def test_a_location_stays_one_line(files, site):
    (site / "a\r\nb ü").mkdir()
    assert get(files, b"/a%0d%0ab%20%c3%bc")[1][b"Location"] == b"/a%0D%0Ab%20%C3%BC/"


# What is no file, and errors

def test_links(files, site):
    (site.parent / "secret").write_bytes(b"secret")
    (site.parent / "www-other").mkdir()
    (site.parent / "www-other" / "f").write_bytes(b"beside")
    (site / "inside").symlink_to(site / "hello.txt")
    (site / "relative").symlink_to("sub/note.txt")
    (site / "outside").symlink_to(site.parent / "secret")
    (site / "up").symlink_to("../secret")
    (site / "dir").symlink_to(site.parent)
    (site / "sibling").symlink_to(site.parent / "www-other")
    (site / "loop").symlink_to("loop")
    (site / "dangling").symlink_to("nowhere")
    assert get(files, b"/inside")[2] == b"hello, world\n"
    assert get(files, b"/relative")[2] == b"a note"
    for name in (b"outside", b"up", b"dir", b"dir/", b"dir/secret", b"dir/www/hello.txt/", b"sibling/f", b"loop",
                 b"dangling"):
        assert get(files, b"/" + name)[0] == 404, name
    # back inside by way of outside: what counts is where the file is
    assert get(files, b"/dir/www/hello.txt")[0] == 200


def test_links_without_proc(files, site):
    files._names_of_descriptors = False
    test_links(files, site)


def test_a_root_that_is_a_link_may_move(site, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "new.txt").write_bytes(b"new")
    link = tmp_path / "current"
    link.symlink_to(site)
    files = StaticFiles(str(link))
    assert get(files, b"/hello.txt")[0] == 200
    link.unlink()
    link.symlink_to(other)
    assert get(files, b"/new.txt")[2] == b"new"
    assert get(files, b"/hello.txt")[0] == 404


def test_the_root_of_the_file_system(site):
    files = StaticFiles("/")
    assert get(files, os.fsencode(site) + b"/hello.txt")[2] == b"hello, world\n"


def test_a_fifo_does_not_stop_the_server(files, site):
    os.mkfifo(site / "fifo")
    assert get(files, b"/fifo")[0] == 404


@pytest.mark.parametrize(("code", "status"), [
    (errno.EACCES, 403), (errno.EPERM, 403), (errno.EMFILE, 503), (errno.ENFILE, 503), (errno.EIO, 500),
    (errno.ENXIO, 404),
])
def test_errors_of_the_file_system(files, monkeypatch, code, status):
    def refuse(*arguments):
        raise OSError(code, os.strerror(code))
    monkeypatch.setattr(os, "open", refuse)
    assert get(files, b"/hello.txt")[0] == status


def test_a_file_that_shrinks_while_it_is_read(files, monkeypatch):
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: b"short")
    assert get(files, b"/hello.txt")[0] == 500


def test_no_descriptor_stays_open(files, site):
    os.mkfifo(site / "fifo")
    (site / "outside").symlink_to(site.parent)
    before = os.listdir("/proc/self/fd")
    for target in (b"/", b"/sub", b"/hello.txt", b"/nothing", b"/fifo", b"/outside", b"/with/", b"/big.bin"):
        for extra in ({}, {"range": b"bytes=9999999-"}, {"range": b"bytes=-100000"}, {"if_none_match": b"*"},
                      {"if_match": b'"no"'}):
            for method in (b"GET", b"HEAD"):
                get(files, target, method, **extra)
    assert os.listdir("/proc/self/fd") == before


def test_a_root_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        StaticFiles(str(tmp_path / "nothing"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        StaticFiles(str(tmp_path / "file"))


# Types

@pytest.mark.parametrize(("name", "expected"), [
    # the reference system's five
    (b"a.html", b"text/html; charset=utf-8"), (b"a.txt", b"text/plain; charset=utf-8"),
    (b"a.css", b"text/css; charset=utf-8"), (b"a.js", b"text/javascript; charset=utf-8"),
    (b"a.json", b"application/json"),
    # and beyond
    (b"A.HTML", b"text/html; charset=utf-8"), (b"a.png", b"image/png"), (b"a.svg", b"image/svg+xml"),
    (b"a.tar.gz", b"application/gzip"), (b"a.wasm", b"application/wasm"), (b"a.woff2", b"font/woff2"),
    (b"a", b"application/octet-stream"), (b"a.", b"application/octet-stream"), (b"", b"application/octet-stream"),
    (b"a.unknown", b"application/octet-stream"), (b".html", b"application/octet-stream"),
    (b"a.html/b", b"application/octet-stream"), (b"\xff.txt", b"text/plain; charset=utf-8"),
])
def test_content_types(files, name, expected):
    assert files.content_type(b"/" + name) == expected


# Ranges and preconditions on real files; the rules themselves are in test_conditional

@pytest.mark.parametrize("name", [b"/big.bin", b"/sub/note.txt"])
def test_ranges(files, site, name):
    content = (site / name[1:].decode()).read_bytes()
    status, fields, body = get(files, name, range=b"bytes=2-4")
    assert (status, body) == (206, content[2:5])
    assert fields[b"Content-Range"] == b"bytes 2-4/%d" % len(content) and fields[b"Content-Length"] == b"3"
    assert get(files, name, range=b"bytes=-2")[2] == content[-2:]
    assert get(files, name, range=b"bytes=1-")[2] == content[1:]
    assert get(files, name, range=b"bytes=0-1,2-3")[2] == content


def test_a_long_range_is_sent_from_the_file(files):
    response = files.respond(make_request(b"/big.bin", range=b"bytes=100-"))
    assert response.status == 206 and (response.file.offset, response.file.count) == (100, (1 << 19) - 100)
    os.close(response.file.fd)


def test_a_range_beyond_the_end(files):
    status, fields, body = get(files, b"/hello.txt", range=b"bytes=13-")
    assert (status, fields, body) == (416, {b"Content-Range": b"bytes */13", b"Content-Length": b"0"}, b"")


def test_head_has_no_ranges(files):
    # RFC 9110 14.2
    status, fields, _ = get(files, b"/hello.txt", b"HEAD", range=b"bytes=0-1")
    assert status == 200 and fields[b"Content-Length"] == b"13"


def test_if_range(files):
    etag = get(files, b"/hello.txt")[1][b"ETag"]
    assert get(files, b"/hello.txt", range=b"bytes=0-1", if_range=etag)[0] == 206
    assert get(files, b"/hello.txt", range=b"bytes=0-1", if_range=b'"other"')[0] == 200


def test_not_modified(files):
    _, fields, _ = get(files, b"/hello.txt")
    status, again, body = get(files, b"/hello.txt", if_none_match=fields[b"ETag"])
    assert (status, body) == (304, b"")
    assert again == {name: fields[name] for name in (b"ETag", b"Last-Modified", b"Accept-Ranges")}
    assert get(files, b"/hello.txt", if_modified_since=fields[b"Last-Modified"])[0] == 304
    assert get(files, b"/big.bin", b"HEAD", if_none_match=b"*")[0] == 304
    # RFC 9110 13.2.2: the precondition is looked at before the range
    assert get(files, b"/hello.txt", if_none_match=b"*", range=b"bytes=0-1")[0] == 304


def test_precondition_failed(files):
    assert get(files, b"/hello.txt", if_match=b'"other"')[0] == 412


# What is remembered

def remembered(site, later):
    return StaticFiles(str(site), wall_clock=lambda: os.stat(site / "hello.txt").st_ctime_ns + later * 10 ** 9)


def test_a_settled_file_is_read_once(site, monkeypatch):
    files = remembered(site, 100)
    first = get(files, b"/hello.txt")
    opened = []
    monkeypatch.setattr(os, "open", lambda *arguments: opened.append(arguments))
    assert get(files, b"/hello.txt") == first
    assert get(files, b"/hello.txt", range=b"bytes=1-2")[2] == b"el"
    assert get(files, b"/hello.txt", if_none_match=first[1][b"ETag"])[0] == 304
    assert get(files, b"/hello.txt", b"HEAD") == (200, first[1], b"")
    assert opened == []


def test_every_change_is_seen(site):
    files = remembered(site, 100)
    path = site / "hello.txt"
    _, fields, body = get(files, b"/hello.txt")
    assert body == b"hello, world\n"
    before = os.stat(path)
    # same length, same mtime, same inode: only ctime tells; a coarse clock may need a moment for it
    while os.stat(path).st_ctime_ns == before.st_ctime_ns:
        path.write_bytes(b"HELLO, WORLD\n")
        os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    _, now, body = get(files, b"/hello.txt", if_none_match=fields[b"ETag"])
    assert body == b"HELLO, WORLD\n" and now[b"Last-Modified"] == fields[b"Last-Modified"]
    path.unlink()
    assert get(files, b"/hello.txt")[0] == 404
    path.mkdir()
    assert get(files, b"/hello.txt")[0] == 301


def test_a_remembered_name_that_now_leaves(site):
    files = remembered(site, 100)
    (site.parent / "secret").write_bytes(b"secret")
    assert get(files, b"/hello.txt")[0] == 200
    (site / "hello.txt").unlink()
    (site / "hello.txt").symlink_to("../secret")
    assert get(files, b"/hello.txt")[0] == 404


def test_a_fresh_file_is_not_remembered(site):
    files = remembered(site, 1)
    get(files, b"/hello.txt")
    assert not files._contents


def test_memory_is_bounded(site, monkeypatch):
    monkeypatch.setattr("swos_tools.http.static.REMEMBERED_MAX", 5000)
    files = remembered(site, 100)
    sizes = []
    for count in range(20):
        get(files, b"/" + b"/" * count + b"hello.txt")  # one file by many names
        sizes.append(len(files._contents))
    assert sizes[:7] == [1, 2, 3, 4, 0, 1, 2] and max(sizes) == 4
