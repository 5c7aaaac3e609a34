"""A web application by the ASGI specification, for the examples of servers of such: uvicorn, hypercorn."""

import hashlib
import random

HELLO = b"Hello from a stack in Python.\n"
CHUNK = 65536


def content(size: int) -> bytes:
    """What `GET /bytes/size` answers."""
    return random.Random(size).randbytes(size)


async def app(scope, receive, send) -> None:
    """GET / says hello, GET /bytes/N gives N bytes in chunks, POST /sha256 the digest of what is sent."""
    if scope["type"] == "lifespan":
        for moment in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{moment}.complete"})
        return
    method, path = scope["method"], scope["path"]
    if (method, path) == ("GET", "/"):
        await answer(send, 200, HELLO)
    elif method == "GET" and path.startswith("/bytes/"):
        await answer(send, 200, content(int(path.removeprefix("/bytes/"))))
    elif (method, path) == ("POST", "/sha256"):
        digest = hashlib.sha256()
        more = True
        while more:
            event = await receive()
            digest.update(event.get("body", b""))
            more = event.get("more_body", False)
        await answer(send, 200, digest.hexdigest().encode())
    else:
        await answer(send, 404, b"nothing here\n")


async def answer(send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for start in range(0, len(body), CHUNK):
        await send({"type": "http.response.body", "body": body[start : start + CHUNK], "more_body": True})
    await send({"type": "http.response.body"})
