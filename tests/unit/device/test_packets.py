"""Packets fed to and taken from a device without a link."""

import threading

import pytest

from swos_net.device.packets import QUEUE_PACKETS, PacketDevice
from swos_net.link import Medium, Offload


@pytest.fixture
def device(kit):
    device = PacketDevice(mtu=1400)
    yield device
    device.close()


def test_the_link_says_what_it_is(device):
    assert (device.link.medium, device.link.mtu, device.link.address) == (Medium.IP, 1400, None)
    assert (device.link.offloads, device.link.frame_max, device.link_up) == (Offload.NONE, 1400, True)
    for mtu in (67, 65536):
        with pytest.raises(ValueError, match="MTU"):
            PacketDevice(mtu=mtu)


def test_what_is_fed_is_received_and_the_descriptor_tells(device, kit):
    packets = [kit.udp_packet(b"one"), kit.udp_packet(b"two")]
    assert not kit.readable(device)
    assert device.feed(packets[0]) and device.feed(bytearray(packets[1]))
    assert kit.readable(device)
    assert kit.received(device) == packets
    assert kit.received(device) == [] and not kit.readable(device)
    assert device.counters()["receive_bytes"] == sum(map(len, packets))


def test_what_the_feeder_does_with_its_buffer_afterwards_is_not_seen(device, kit):
    buffer = bytearray(kit.udp_packet(b"before"))
    device.feed(buffer)
    buffer[:] = bytes(len(buffer))
    assert kit.received(device) == [kit.udp_packet(b"before")]


@pytest.mark.parametrize("packet", [b"", bytes(65536)])
def test_what_cannot_be_a_packet_is_the_feeders_mistake(device, packet):
    with pytest.raises(ValueError, match="1 to 65535"):
        device.feed(packet)


def test_a_full_queue_drops_and_says_so(device, kit):
    packet = kit.udp_packet(b"x")
    assert all(device.feed(packet) for _ in range(QUEUE_PACKETS))
    assert not device.feed(packet)
    assert device.counters()["dropped"] == 1
    received = 0
    while frames := kit.received(device):
        received += len(frames)
    assert received == QUEUE_PACKETS


def test_what_is_sent_is_taken_once_with_whole_checksums(device, kit):
    device.transmit(kit.udp_batch(b"one", b"two"))
    one, two = device.take()
    assert (one[28:], two[28:]) == (b"one", b"two")
    assert device.take() == []
    assert device.feed(one)
    from swos_net.dataplane.burst import Burst

    burst = Burst()
    assert device.receive(burst) == 1
    assert not list(burst.records())[0][1]  # the decoder verifies both checksums


def test_output_is_told_when_it_appears_and_not_again_before_it_was_taken(kit):
    told = []
    device = PacketDevice(on_output=lambda: told.append(len(device.take())))
    device.transmit(kit.udp_batch(b"one", b"two"))
    assert told == [2]
    device.on_output = lambda: told.append("again")
    device.transmit(kit.udp_batch(b"three"))
    device.transmit(kit.udp_batch(b"four"))
    assert told == [2, "again"]
    device.close()


def test_nobody_takes_then_the_stack_waits_and_is_woken(device, kit):
    for _ in range(QUEUE_PACKETS // 64):
        assert device.transmit(kit.udp_batch(*[b"x"] * 64))
    batch = kit.udp_batch(b"late")
    assert not device.transmit(batch) and not batch.sent
    assert not kit.readable(device)
    assert len(device.take()) == QUEUE_PACKETS
    assert kit.readable(device)
    assert device.transmit(batch) and len(device.take()) == 1


def test_feeding_from_another_thread_loses_nothing(device, kit):
    packets = [kit.udp_packet(b"%d" % index) for index in range(500)]
    feeder = threading.Thread(target=lambda: [device.feed(packet) for packet in packets])
    feeder.start()
    received = []
    while len(received) < len(packets) and kit.readable(device, 5.0):
        received += kit.received(device)
    feeder.join()
    assert received == packets


def test_after_close_nothing_goes_in_or_out(kit):
    device = PacketDevice()
    device.close()
    device.close()
    assert not device.feed(b"x")
    assert device.transmit(kit.udp_batch(b"x")) and device.take() == []
