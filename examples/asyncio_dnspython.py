"""dnspython's resolver, unmodified, asking a small server of names over UDP, and over TCP where the answer is long.

    python3 examples/asyncio_dnspython.py        needs: pip install dnspython
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncio_hosts
import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.zone
from sync_hosts import SERVER

from swos_net import Capability

LONG = " ".join(f'"{number:03} {"x" * 200}"' for number in range(40))
ZONE = dns.zone.from_text(f"""
$ORIGIN test.
$TTL 60
@      SOA   ns.test. root.test. 1 3600 600 86400 60
@      NS    ns.test.
ns     A     {SERVER}
server A     {SERVER}
server AAAA  2001:db8::2
long   TXT   {LONG}
""", relativize=False)


class Names(asyncio.DatagramProtocol):
    """Answers from ZONE; `asked` counts questions by the protocol they came over."""

    def __init__(self):
        self.asked = {"udp": 0, "tcp": 0}
        self._transport = None

    def answer(self, query: bytes, over: str) -> bytes:
        """The response to a message; over UDP cut off where the asker has no room for it (RFC 1035 4.2.1)."""
        self.asked[over] += 1
        question = dns.message.from_wire(query)
        response = dns.message.make_response(question)
        response.flags |= dns.flags.AA
        name, kind = question.question[0].name, question.question[0].rdtype
        if ZONE.get_node(name) is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif found := ZONE.get_rrset(name, kind):
            response.answer.append(found)
        size = 65535 if over == "tcp" else max(512, question.payload)
        return response.to_wire(max_size=size, prefer_truncation=True)

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple) -> None:
        self._transport.sendto(self.answer(data, "udp"), address)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one question; messages have their length before them (RFC 1035 4.2.2)."""
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError):
            query = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            response = self.answer(query, "tcp")
            writer.write(len(response).to_bytes(2, "big") + response)


@contextlib.asynccontextmanager
async def serving(capability: Capability) -> AsyncIterator[Names]:
    """A server of names on port 53 of both protocols."""
    names = Names()
    with capability.attenuate("udp:bind,send:*:* tcp:bind,listen,accept:*:53", "names").activate():
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: names, ("0.0.0.0", 53))
        server = await asyncio.start_server(names.connected, "0.0.0.0", 53)
    try:
        yield names
    finally:
        transport.close()
        server.close()
        await server.wait_closed()


@contextlib.contextmanager
def resolver(capability: Capability):
    """A resolver of that server's, which may ask it and nobody else."""
    made = dns.asyncresolver.Resolver(configure=False)
    made.nameservers = [SERVER]
    with capability.attenuate(f"udp:send:{SERVER}:53 tcp:connect:{SERVER}:53").activate():
        yield made


async def main(client: Capability, server: Capability) -> None:
    async with serving(server) as names:
        with resolver(client) as resolve:
            print("server.test is", (await resolve.resolve("server.test", "A"))[0])
            print("long.test has", len((await resolve.resolve("long.test", "TXT"))[0].strings), "strings")
            print("asked over", names.asked)


if __name__ == "__main__":
    asyncio_hosts.run(main)
