"""Frames and batches that device tests send, and a check that they give their descriptors back."""

import os
import select

import pytest

from swos_net.address import parse_address
from swos_net.dataplane.batch import Batch, FlowPath
from swos_net.dataplane.burst import Burst
from swos_net.dataplane.byte_ring import ByteRing
from swos_net.wire import ipv4, udp

OUR_MAC = bytes.fromhex("020000000001")
PEER_MAC = bytes.fromhex("020000000002")
ACK, PSH = 16, 8


OURS, PEERS = parse_address("192.0.2.1"), parse_address("192.0.2.2")
OURS6, PEERS6 = parse_address("2001:db8::1"), parse_address("2001:db8::2")


def udp_packet(payload: bytes, source: bytes = PEERS, destination: bytes = OURS) -> bytes:
    """A complete IPv4 packet from the peer to us."""
    datagram = udp.emit(udp.UdpHeader(4000, 5000), payload, source, destination)
    return ipv4.emit(ipv4.Ipv4Header(source, destination, 17, 64, identification=7), datagram)


def udp_frame(payload: bytes) -> bytes:
    return OUR_MAC + PEER_MAC + b"\x08\x00" + udp_packet(payload)


class Kit:
    """What the tests take from here."""

    OUR_MAC, PEER_MAC = OUR_MAC, PEER_MAC
    udp_packet = staticmethod(udp_packet)
    udp_frame = staticmethod(udp_frame)

    @staticmethod
    def path(*, six: bool = False, identification: int = 100) -> FlowPath:
        """A flow from us to the peer, its link addresses filled in."""
        path = FlowPath(OURS6 if six else OURS, 5000, PEERS6 if six else PEERS, 4000, 64, identification)
        path.set_link(OUR_MAC, PEER_MAC)
        return path

    @classmethod
    def udp_batch(cls, *payloads: bytes, path: FlowPath | None = None) -> Batch:
        batch = Batch()
        path = path or cls.path()
        batch.path = path.pointer
        batch.kept.append(path)
        for payload in payloads:
            batch.add_udp(payload)
        batch.seal()
        return batch

    @classmethod
    def tcp_batch(cls, data: bytes, segment_size: int, *, six: bool = False, path: FlowPath | None = None) -> Batch:
        """One super-segment with `data`."""
        ring = ByteRing(1 << 17)
        assert ring.write(data) == len(data)
        batch = Batch()
        path = path or cls.path(six=six)
        batch.path = path.pointer
        batch.kept.append(path)
        batch.add_tcp(1000, 2000, ACK | PSH, 512, ring=ring, position=0, length=len(data), segment_size=segment_size)
        batch.seal()
        return batch

    @staticmethod
    def received(device, burst: Burst | None = None) -> list[bytes]:
        """Whole frames of one burst."""
        burst = burst or Burst()
        burst.clear()
        count = device.receive(burst)
        frames = [burst.copy(index, 0, 70000) for index in range(count)]
        device.release(burst)
        return frames

    @staticmethod
    def readable(device, seconds: float = 0.0) -> bool:
        """Whether the device's descriptor is, or becomes, readable."""
        return bool(select.select([device], [], [], seconds)[0])

    @staticmethod
    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def kit():
    """`Kit`, and afterwards as many open descriptors as before."""
    before = Kit.open_descriptors()
    yield Kit
    assert Kit.open_descriptors() == before
