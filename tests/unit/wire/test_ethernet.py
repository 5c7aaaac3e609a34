import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.errors import WireError
from swos_net.wire import ethernet
from swos_net.wire.ethernet import EthernetHeader

address = st.binary(min_size=6, max_size=6)
headers = st.builds(EthernetHeader, address, address, st.integers(0, 0xFFFF))


@given(headers, st.binary(max_size=60))
def test_round_trip(header, payload):
    frame = ethernet.emit(header, payload)
    assert ethernet.parse(memoryview(frame)) == header
    assert frame[ethernet.HEADER_LENGTH :] == payload


@pytest.mark.parametrize("length", range(ethernet.HEADER_LENGTH))
def test_a_short_frame_is_truncated(length):
    with pytest.raises(WireError, match="truncated"):
        ethernet.parse(bytes(length))


def test_a_frame_of_linux(frames):
    header = ethernet.parse(frames["arp_request"])
    assert header == EthernetHeader(ethernet.BROADCAST, bytes.fromhex("02000000000a"), ethernet.ETHERTYPE_ARP)
    assert ethernet.is_group(header.destination) and not ethernet.is_group(header.source)
