"""QEMU without an operating system: the test is the driver, right or hostile, of a virtio-mmio NIC that we serve."""

import contextlib
import struct

import pytest
from lab import qtest
from lab.qemu import vhost_user_network
from lab.qtest import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Descriptor, MmioNic, QtestMachine
from swos_net.address import parse_address
from swos_net.config import ReassemblyConfig
from swos_net.ip.fragmentation import fragment
from swos_net.ip.reassembly import Reassembler
from swos_net.wire import arp, ethernet, icmpv4, ipv4

pytestmark = pytest.mark.xdist_group("guest")

GUEST4, HOST4 = parse_address("10.0.2.77"), parse_address("10.0.2.2")
FEATURES = qtest.F_VERSION_1 | qtest.F_MAC
OFFLOADS = (
    qtest.F_CSUM | qtest.F_GUEST_CSUM | qtest.F_HOST_TSO4 | qtest.F_HOST_TSO6 | qtest.F_GUEST_TSO4 | qtest.F_GUEST_TSO6
    | qtest.F_MRG_RXBUF | qtest.F_INDIRECT_DESC | qtest.F_EVENT_IDX
)  # fmt: skip
NO_OFFLOAD = bytes(qtest.NET_HEADER_SIZE)


@contextlib.contextmanager
def machine_on(served, **options):
    with QtestMachine(vhost_user_network(served.path, **options)) as machine:
        yield machine, MmioNic(machine)
        assert machine.alive, machine.log


def arp_request(nic) -> bytes:
    header = ethernet.EthernetHeader(b"\xff" * 6, nic.mac, ethernet.ETHERTYPE_ARP)
    return ethernet.emit(header, arp.request(nic.mac, GUEST4, HOST4))


def receive_until(nic, wanted, tries=40):
    """The first received frame that `wanted` gives something for, and that (advertisements come in between)."""
    for _ in range(tries):
        for _header, frame in nic.receive(timeout=0.25):
            found = wanted(frame)
            if found is not None:
                return found
    pytest.fail("the frame that was waited for never came")


def arp_reply_of(frame):
    if frame[12:14] != b"\x08\x06":
        return None
    packet = arp.parse(frame[14:])
    return packet if packet.operation == arp.REPLY and packet.sender_address == HOST4 else None


def ask_for_arp(nic, *, pair=0, head=0):
    """The ordinary proof of life: an ARP request, and its answer."""
    assert nic.send(arp_request(nic), pair=pair, head=head)
    return receive_until(nic, arp_reply_of)


def test_a_driver_gets_an_arp_reply(serve):
    served = serve()
    with machine_on(served) as (_, nic):
        nic.start(FEATURES)
        nic.post_receive()
        ask_for_arp(nic)
    assert served.happened("negotiated")


@pytest.mark.parametrize("size", [16, 256, 1024])
def test_ring_sizes(serve, size):
    served = serve()
    with machine_on(served) as (_, nic):
        nic.start(FEATURES | OFFLOADS, size=size)
        nic.post_receive()
        ask_for_arp(nic)


def test_all_that_we_offer_is_offered_to_the_guest(serve):
    with machine_on(serve()) as (_, nic):
        assert nic.offered() & (OFFLOADS | FEATURES) == OFFLOADS | FEATURES


def test_a_frame_in_one_byte_descriptors(serve):
    """N2: header and frame may be cut anywhere."""
    with machine_on(serve()) as (_, nic):
        nic.start(FEATURES)
        nic.post_receive()
        data = NO_OFFLOAD + arp_request(nic)
        address = nic.machine.place(data)
        nic.rings[1].chain(0, [(address + index, 1, 0) for index in range(len(data))])
        nic.rings[1].expose(0)
        assert nic.rings[1].wait() == [(0, 0)]
        receive_until(nic, arp_reply_of)


def test_an_indirect_chain(serve):
    with machine_on(serve()) as (_, nic):
        nic.start(FEATURES | qtest.F_INDIRECT_DESC)
        nic.post_receive()
        header, frame = nic.machine.place(NO_OFFLOAD), nic.machine.place(arp_request(nic))
        nic.rings[1].indirect(3, [Descriptor(header, 12, DESC_NEXT, 1), Descriptor(frame, len(arp_request(nic)), 0, 0)])
        nic.rings[1].expose(3)
        assert nic.rings[1].wait() == [(3, 0)]
        receive_until(nic, arp_reply_of)


def test_a_large_echo_comes_back_in_mergeable_buffers(serve):
    """Fragments in, one datagram reassembled, fragments out: every path of a big ping."""
    served = serve()
    with machine_on(served) as (_, nic):
        nic.start(FEATURES | OFFLOADS)
        nic.post_receive(count=32)
        host_mac = ask_for_arp(nic).sender_link_address
        echo = icmpv4.emit(icmpv4.echo_request(7, 1, bytes(8000)))
        packet = ipv4.emit(ipv4.Ipv4Header(GUEST4, HOST4, 1, identification=5), echo)
        for head, part in enumerate(fragment(packet, 1500, 5)):
            assert nic.send(ethernet.emit(ethernet.EthernetHeader(host_mac, nic.mac, 0x0800), part), head=4 * head)
        reassembler = Reassembler(ReassemblyConfig())

        def echo_reply_of(frame):
            if frame[12:14] != b"\x08\x00":
                return None
            header = ipv4.parse(frame[14:])
            key = (header.source, header.destination, header.protocol, header.identification)
            more = bool(header.flags & ipv4.MORE_FRAGMENTS)
            data = frame[14 + header.header_length : 14 + header.total_length]
            return reassembler.fragment_received(key, header.fragment_offset, more, data, frame[14:34], 0.0)

        assert icmpv4.parse(receive_until(nic, echo_reply_of).payload).payload == bytes(8000)


HOSTILE = {
    "D2_head_beyond_the_table": lambda nic, ring: ring.expose(ring.size + 5),
    "D2_next_beyond_the_table": lambda nic, ring: (
        ring.describe(0, Descriptor(nic.machine.allocate(64), 64, DESC_NEXT, 60000)),
        ring.expose(0),
    ),
    "D3_loop": lambda nic, ring: (
        ring.describe(0, Descriptor(nic.machine.allocate(64), 64, DESC_NEXT, 1)),
        ring.describe(1, Descriptor(nic.machine.allocate(64), 64, DESC_NEXT, 0)),
        ring.expose(0),
    ),
    "D4_indirect_length_not_a_multiple_of_16": lambda nic, ring: (
        ring.indirect(0, [Descriptor(nic.machine.allocate(64), 64, 0, 0)], length=17),
        ring.expose(0),
    ),
    "D4_indirect_in_indirect": lambda nic, ring: (
        ring.indirect(0, [Descriptor(nic.machine.allocate(64), 64, DESC_INDIRECT, 0)]),
        ring.expose(0),
    ),
    "D4_indirect_of_length_zero": lambda nic, ring: (ring.indirect(0, [], length=0), ring.expose(0)),
    "D6_writable_in_the_transmit_ring": lambda nic, ring: (
        ring.describe(0, Descriptor(nic.machine.allocate(64), 64, DESC_WRITE, 0)),
        ring.expose(0),
    ),
    "D8_address_outside_memory": lambda nic, ring: (ring.describe(0, Descriptor(0x1000, 64, 0, 0)), ring.expose(0)),
    "D8_address_wraps_around": lambda nic, ring: (ring.describe(0, Descriptor((1 << 64) - 16, 64, 0, 0)), ring.expose(0)),
    "D6_longer_than_any_frame": lambda nic, ring: (
        ring.describe(0, Descriptor(nic.machine.memory_start, 32 << 20, 0, 0)),
        ring.expose(0),
    ),
    "V6_available_index_jumps": lambda nic, ring: (ring.set_avail_index(40000), ring.notify()),
}


@pytest.mark.parametrize("check", HOSTILE)
def test_a_hostile_ring_is_lost_and_nothing_else(serve, check):
    served, neighbour = serve(), serve()
    with machine_on(served) as (_, nic), machine_on(neighbour) as (_, other):
        nic.start(FEATURES | qtest.F_INDIRECT_DESC)
        nic.post_receive()
        other.start(FEATURES)
        other.post_receive()
        HOSTILE[check](nic, nic.rings[1])
        nic.rings[1].wait(timeout=0.3)
        # the process lives, the other guest is served, and the guest can start over
        ask_for_arp(other)
        broken, dropped = served.happened("ring_broken"), served.device.counters()["receive_dropped"]
        assert broken or dropped, f"{check} went unnoticed: {served.device.counters()}"
        nic.start(FEATURES)
        nic.post_receive()
        ask_for_arp(nic)


def test_a_frame_with_a_lying_net_header_is_dropped_and_the_ring_goes_on(serve):
    """N3: the checksum would lie outside the frame."""
    served = serve()
    with machine_on(served) as (_, nic):
        nic.start(FEATURES | OFFLOADS)
        nic.post_receive()
        lie = struct.pack("<BBHHHHH", 1, 0, 0, 0, 65000, 65000, 0)
        assert nic.send(arp_request(nic), header=lie)
        ask_for_arp(nic, head=2)
        assert served.device.counters()["receive_dropped"] == 1


def test_reset_in_flight_and_again(serve):
    served = serve()
    with machine_on(served) as (_, nic):
        for _ in range(5):
            nic.start(FEATURES)
            nic.post_receive()
            for head in range(0, 16, 2):
                nic.send(arp_request(nic), head=head, timeout=0)
            nic.reset()
        nic.start(FEATURES)
        nic.post_receive()
        ask_for_arp(nic)


def test_qemu_comes_and_goes(serve):
    served = serve()
    for _ in range(3):
        with machine_on(served) as (_, nic):
            nic.start(FEATURES)
            nic.post_receive()
            ask_for_arp(nic)
    assert len(served.happened("connected")) == 3


def test_receive_ring_without_buffers_waits_for_them(serve):
    served = serve()
    with machine_on(served) as (_, nic):
        nic.start(FEATURES)
        assert nic.send(arp_request(nic))
        assert nic.receive(timeout=0.2) == []
        nic.post_receive()
        receive_until(nic, arp_reply_of)


def test_several_queue_pairs(serve):
    served = serve(queue_pairs=2)
    with QtestMachine(vhost_user_network(served.path, queue_pairs=2)) as machine:
        nic = MmioNic(machine)
        nic.start(FEATURES | qtest.F_CTRL_VQ | qtest.F_MQ, queue_pairs=2)
        nic.post_receive()
        assert nic.set_queue_pairs(2) == 0
        assert nic.send(arp_request(nic), pair=1)
        receive_until(nic, arp_reply_of)
