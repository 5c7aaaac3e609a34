"""The runner: connecting, failing, draining, stopping."""

import asyncio
import errno

import pytest

from swos_net.asyncio import StackRunner
from swos_net.capability import CapabilityError
from swos_net.device.pair import make_pair
from swos_net.runtime.open_stack import open_stack


async def test_a_connection_that_is_refused(net, recorder):
    with pytest.raises(ConnectionRefusedError):
        await net.client.create_connection(recorder, net.address, 81, capability=net.root)
    assert not net.client.stack.tcp.flows


async def test_a_connection_that_nobody_answers(net, recorder):
    net.server.stack.tcp.segment_without_flow = lambda *arguments: 0  # deaf
    with pytest.raises(TimeoutError) if hasattr(asyncio, "timeout") else pytest.raises(OSError):
        await asyncio.wait_for(net.client.create_connection(recorder, net.address, 81, capability=net.root), 5)


async def test_a_connection_that_is_cancelled_leaves_nothing(net, recorder):
    task = asyncio.ensure_future(net.client.create_connection(recorder, "10.0.0.99", 80, capability=net.root))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not net.client.stack.tcp.flows


async def test_from_a_port_of_our_choice(net, recorder):
    client, server = None, await net.server.create_server(recorder, net.address, 80, capability=net.server_root)
    transport, client = await net.client.create_connection(
        recorder, net.address, 80, capability=net.root, local_addr=("10.0.0.1", 4321)
    )
    assert transport.get_extra_info("sockname") == ("10.0.0.1", 4321)
    server.close()


async def test_what_the_capability_does_not_allow(net, recorder):
    none = net.root.attenuate("tcp:connect:10.0.0.2:80")
    for attempt in (
        net.client.create_connection(recorder, net.address, 81, capability=none),
        net.client.create_server(recorder, None, 80, capability=none),
        net.client.create_datagram_endpoint(asyncio.DatagramProtocol, (None, 53), capability=none),
    ):
        with pytest.raises(CapabilityError):
            await attempt


async def test_draining_waits_for_what_closed_connections_still_send(net, recorder):
    client, server = await net.connected()
    server.transport.pause_reading()
    client.transport.write(bytes(100_000))
    await asyncio.sleep(0.02)
    client.transport.write(b"")
    assert await net.client.drain(0.01), "an open transport is not waited for"
    client.transport.close()
    server.transport.resume_reading()
    await client.lost
    assert await net.client.drain(5)
    await server.until(lambda: len(server.data) == 100_000)


async def test_draining_gives_up(net, recorder):
    client, server = await net.connected()
    server.transport.pause_reading()
    client.transport.write(bytes(100_000))
    client.transport.abort()
    await client.lost
    assert not await net.client.drain(0.05)


async def test_stopping_sends_what_is_ready_and_closes_the_device():
    one, other = make_pair()
    async with StackRunner(open_stack(one, addresses=["10.0.0.1/24"])) as runner:
        assert other.link_up
    assert not other.link_up
    runner.stop()
    other.close()


async def test_nobody_waits_for_a_stack_that_has_been_stopped(net, recorder):
    client, _ = await net.connected()
    waiting = asyncio.ensure_future(net.client.create_connection(recorder, "10.0.0.99", 80, capability=net.root))
    await asyncio.sleep(0.01)
    net.client.stop()
    error = await asyncio.wait_for(client.lost, 5)
    assert error.errno == errno.ENETDOWN
    with pytest.raises(OSError) as caught:
        await asyncio.wait_for(waiting, 5)
    assert caught.value.errno == errno.ENETDOWN


async def test_a_device_that_fails_ends_every_connection(net, recorder):
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    client, _ = await net.connected()

    def gone(burst):
        raise OSError(errno.ENODEV, "gone")

    device = net.client.poller.ports[0].device
    device.receive = gone
    device._wake()
    error = await asyncio.wait_for(client.lost, 5)
    assert error.errno == errno.ENETDOWN
    assert reported and reported[0]["exception"].errno == errno.ENODEV


async def test_timers_run_without_traffic(net, recorder):
    """A SYN is sent again although no descriptor becomes readable."""
    sent = []
    device = net.client.poller.ports[0].device
    transmit = device.transmit
    device.transmit = lambda batch: sent.append(batch.count) or transmit(batch)
    net.server.stack.tcp.segment_without_flow = lambda *arguments: 0
    task = asyncio.ensure_future(net.client.create_connection(recorder, net.address, 81, capability=net.root))
    await asyncio.sleep(0.25)
    assert len(sent) >= 3  # ARP, SYN, SYN
    task.cancel()
    with pytest.raises((asyncio.CancelledError, OSError)):
        await task
