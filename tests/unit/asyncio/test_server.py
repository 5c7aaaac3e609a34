"""Servers: accepting, closing, factories that fail."""

import asyncio

import pytest


async def connect(net, recorder, port=80, address=None):
    _, protocol = await net.client.create_connection(recorder, address or net.address, port, capability=net.root)
    return protocol


async def arrived(made, count=1):
    """The last ACK of a handshake takes a moment longer than our side of it."""
    while len(made) < count:
        await asyncio.sleep(0)


async def test_one_listener_for_both_families(net, recorder):
    made = []
    server = await net.server.create_server(
        lambda: made.append(recorder()) or made[-1], None, 80, capability=net.server_root
    )
    assert server.is_serving() and server.sockname[1] == 80 and server.get_loop() is asyncio.get_running_loop()
    for address in (net.address, net.address6):
        client = await connect(net, recorder, address=address)
        client.transport.write(b"hello")
        await arrived(made)
        await made[-1].until(lambda: made[-1].data == b"hello")
        client.transport.close()
        made.clear()
    server.close()


async def test_closing_ends_accepting_but_no_connection(net, recorder):
    made = []
    server = await net.server.create_server(
        lambda: made.append(recorder()) or made[-1], net.address, 80, capability=net.server_root
    )
    client = await connect(net, recorder)
    await arrived(made)
    server.close()
    server.close()
    assert not server.is_serving()
    await server.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await connect(net, recorder)
    client.transport.write(b"still")
    await made[0].until(lambda: made[0].data == b"still")
    again = await net.server.create_server(recorder, net.address, 80, capability=net.server_root)
    again.close()


async def test_a_factory_that_fails_costs_one_connection(net, recorder):
    reported, made = [], []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    def factory():
        made.append(recorder())
        if len(made) == 1:
            raise ValueError("a mistake")
        return made[-1]

    server = await net.server.create_server(factory, net.address, 80, capability=net.server_root)
    first = await connect(net, recorder)
    assert await first.lost is None
    assert isinstance(reported[0]["exception"], ValueError)
    second = await connect(net, recorder)
    second.transport.write(b"x")
    await arrived(made, 2)
    await made[1].until(lambda: made[1].data == b"x")
    server.close()


async def test_serving_for_ever_ends_with_close_and_with_cancellation(net, recorder):
    server = await net.server.create_server(recorder, net.address, 80, capability=net.server_root)
    task = asyncio.ensure_future(server.serve_forever())
    await asyncio.sleep(0)
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    server = await net.server.create_server(recorder, net.address, 80, capability=net.server_root)
    task = asyncio.ensure_future(server.serve_forever())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.is_serving()


async def test_as_a_context_manager(net, recorder):
    async with await net.server.create_server(recorder, net.address, 80, capability=net.server_root) as server:
        await connect(net, recorder)
    assert not server.is_serving()


async def test_streams(net):
    async def upper(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()

    async with await net.server.start_server(upper, net.address6, 7, capability=net.server_root):
        reader, writer = await net.client.open_connection(net.address6, 7, capability=net.root)
        writer.write(b"one\ntwo\n")
        writer.write_eof()
        assert await reader.read() == b"ONE\nTWO\n"
        writer.close()
        await writer.wait_closed()


async def test_many_connections_at_once(net):
    async def echo(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def ask(number):
        reader, writer = await net.client.open_connection(net.address, 7, capability=net.root)
        for round_ in range(5):
            message = b"%d %d" % (number, round_) * 20
            writer.write(message)
            assert await reader.readexactly(len(message)) == message
        writer.close()
        await writer.wait_closed()
        return number

    async with await net.server.start_server(echo, net.address, 7, capability=net.server_root):
        assert await asyncio.wait_for(asyncio.gather(*map(ask, range(60))), 20) == list(range(60))
