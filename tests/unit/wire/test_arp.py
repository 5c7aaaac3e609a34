import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.address import IPV4_PREFIX, UNSPECIFIED4, parse_address
from swos_net.errors import WireError
from swos_net.wire import arp
from swos_net.wire.arp import ArpPacket

A, B = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")
IP_A, IP_B = parse_address("10.9.0.1"), parse_address("10.9.0.2")

link = st.binary(min_size=6, max_size=6)
address = st.binary(min_size=4, max_size=4).map(lambda packed: IPV4_PREFIX + packed)
packets = st.builds(ArpPacket, st.sampled_from([arp.REQUEST, arp.REPLY]), link, address, link, address)


@given(packets, st.binary(max_size=18))
def test_round_trip_with_padding(packet, padding):
    data = arp.emit(packet)
    assert len(data) == arp.PACKET_LENGTH
    assert arp.parse(memoryview(data + padding)) == packet


@given(st.binary(max_size=64))
def test_any_bytes_parse_or_are_a_wire_error(data):
    try:
        packet = arp.parse(data)
    except WireError:
        return
    assert arp.emit(packet) == data[: arp.PACKET_LENGTH]


def test_the_packets_of_linux(frames):
    assert frames["arp_request"][14:] == arp.request(A, IP_A, IP_B)
    assert frames["arp_reply"][14:] == arp.reply(B, IP_B, A, IP_A)


def test_probe_and_announcement():
    assert arp.parse(arp.probe(A, IP_A)) == ArpPacket(arp.REQUEST, A, UNSPECIFIED4, bytes(6), IP_A)
    assert arp.parse(arp.announcement(A, IP_A)) == ArpPacket(arp.REQUEST, A, IP_A, bytes(6), IP_A)


@pytest.mark.parametrize(
    ("position", "value", "reason"),
    [
        (1, 6, "bad_arp_type"),
        (3, 6, "bad_arp_type"),
        (4, 8, "bad_arp_type"),
        (5, 16, "bad_arp_type"),
        (7, 0, "bad_arp_operation"),
        (7, 3, "bad_arp_operation"),
        (6, 1, "bad_arp_operation"),
    ],
)
def test_other_types_are_refused(position, value, reason):
    data = bytearray(arp.request(A, IP_A, IP_B))
    data[position] = value
    with pytest.raises(WireError, match=reason):
        arp.parse(data)


def test_truncated():
    with pytest.raises(WireError, match="truncated"):
        arp.parse(arp.request(A, IP_A, IP_B)[:-1])
