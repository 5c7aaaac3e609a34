"""Splitting packets, checked by parsing the fragments and putting them together again."""

import errno

import pytest
from hypothesis import given, strategies as st

from swos_net.address import parse_address
from swos_net.config import ReassemblyConfig
from swos_net.errors import WireError
from swos_net.ip.fragmentation import fragment
from swos_net.ip.reassembly import Reassembler
from swos_net.wire import ipv4, ipv6

SOURCE, DESTINATION = parse_address("10.0.2.15"), parse_address("10.0.2.2")
SOURCE6, DESTINATION6 = parse_address("2001:db8::15"), parse_address("2001:db8::2")


def pattern(length):
    return bytes(index * 7 % 251 for index in range(length))


def packet4(payload, **fields):
    return ipv4.emit(ipv4.Ipv4Header(SOURCE, DESTINATION, ipv4.PROTOCOL_UDP, **fields), payload)


def packet6(payload, extensions=b"", next_header=ipv6.PROTOCOL_UDP):
    return ipv6.emit(ipv6.Ipv6Header(SOURCE6, DESTINATION6, next_header), extensions + payload)


def reassemble(fragments, order=None):
    """(header of the first fragment, payload) by the stack's own reassembler."""
    reassembler = Reassembler(ReassemblyConfig(fragments_per_datagram=8192))
    result = None
    for index in order or range(len(fragments)):
        packet = fragments[index]
        if packet[0] >> 4 == 4:
            header = ipv4.parse(packet)
            start, offset = header.header_length, header.fragment_offset
            more = bool(header.flags & ipv4.MORE_FRAGMENTS)
            key = (header.source, header.destination, header.protocol, header.identification)
        else:
            header = ipv6.parse(packet)
            chain = ipv6.walk_extensions(packet, header.next_header)
            start, offset, more = chain.offset, chain.fragment.offset, chain.fragment.more_fragments
            key = (header.source, header.destination, 0, chain.fragment.identification)
        assert result is None, "complete before the last fragment"
        result = reassembler.fragment_received(key, offset, more, packet[start:], packet[:start], 0.0)
    assert not reassembler.counters and len(reassembler) == 0
    return result


def test_a_packet_that_fits_stays_whole():
    packet = packet4(pattern(100), flags=ipv4.DONT_FRAGMENT)
    assert fragment(packet, 120, 1) == [packet]
    packet = packet6(pattern(1240))
    assert fragment(packet, 1280, 1) == [packet]


@given(st.integers(1, 4000), st.integers(68, 1500), st.randoms())
def test_ipv4_fragments_reassemble(length, mtu, random):
    payload = pattern(length)
    packet = packet4(payload, tos=0x28, ttl=17)
    fragments = fragment(packet, mtu, 0xBEEF)
    if len(packet) <= mtu:
        assert fragments == [packet]
        return
    assert len(fragments) > 1 and all(len(one) <= mtu for one in fragments)
    headers = [ipv4.parse(one) for one in fragments]  # checks the checksums
    assert {(h.identification, h.ttl, h.tos, h.protocol) for h in headers} == {(0xBEEF, 17, 0x28, 17)}
    assert [bool(h.flags & ipv4.MORE_FRAGMENTS) for h in headers] == [True] * (len(headers) - 1) + [False]
    assert len({len(one) for one in fragments[:-1]}) == 1 and len(fragments[0]) > mtu - 8  # no needless ones
    order = list(range(len(fragments)))
    random.shuffle(order)
    assert reassemble(fragments, order).payload == payload


def test_ipv4_options_are_copied_by_their_flag():
    record_route = bytes([7, 7, 4]) + bytes(4)  # not copied
    stream = bytes([0x88, 4, 1, 2])  # copied
    source_route = bytes([0x83, 7, 4]) + bytes(4)  # copied
    options = record_route + b"\x01" + stream + source_route + b"\0"
    payload = pattern(300)
    first, *later = fragment(packet4(payload, options=options), 108, 7)
    assert ipv4.parse(first).options == options
    assert later and all(ipv4.parse(one).options == stream + source_route + b"\0" for one in later)
    assert reassemble([first, *later]).payload == payload


@pytest.mark.parametrize("options", [b"\x44\0\0\0", b"\x44\x01\0\0", b"\x44\x09\0\0", b"\x01\x01\x01\x44"])
def test_ipv4_malformed_options(options):
    with pytest.raises(WireError):
        fragment(packet4(pattern(300), options=options), 100, 7)


def test_ipv4_fragment_of_a_fragment_keeps_its_place():
    payload = pattern(800)
    middle = packet4(payload, flags=ipv4.MORE_FRAGMENTS, fragment_offset=1600, identification=9)
    headers = [ipv4.parse(one) for one in fragment(middle, 420, 9)]
    assert [(h.fragment_offset, h.flags) for h in headers] == [(1600, 0x2000), (2000, 0x2000)]


def test_ipv4_dont_fragment_is_obeyed():
    with pytest.raises(OSError) as caught:
        fragment(packet4(pattern(600), flags=ipv4.DONT_FRAGMENT), 576, 1)
    assert caught.value.errno == errno.EMSGSIZE and "576" in str(caught.value)


@pytest.mark.parametrize("packet, mtu", [(packet4(pattern(600)), 27), (packet6(pattern(600)), 55)])
def test_mtu_without_room(packet, mtu):
    with pytest.raises(OSError) as caught:
        fragment(packet, mtu, 1)
    assert caught.value.errno == errno.EMSGSIZE


@given(st.integers(1, 6000), st.integers(1280, 1500), st.randoms())
def test_ipv6_fragments_reassemble(length, mtu, random):
    payload = pattern(length)
    packet = packet6(payload)
    fragments = fragment(packet, mtu, 0xDEADBEEF)
    if len(packet) <= mtu:
        assert fragments == [packet]
        return
    assert all(len(one) <= mtu for one in fragments) and len(fragments[0]) > mtu - 8
    order = list(range(len(fragments)))
    random.shuffle(order)
    whole = reassemble(fragments, order)
    assert whole.payload == payload
    assert whole.header[6] == ipv6.FRAGMENT and whole.header[40] == ipv6.PROTOCOL_UDP
    assert whole.header[44:48] == b"\xde\xad\xbe\xef"


def extension(kind_of_next, units=0):
    """A header of (units + 1) * 8 bytes: padding as options, or no segments left as a route."""
    return bytes([kind_of_next, units, 1, units * 8 + 4]) + bytes(units * 8 + 4)


def route_header(kind_of_next):
    return bytes([kind_of_next, 0, 3, 0]) + bytes(4)


@pytest.mark.parametrize("chain, extensions, unfragmentable", [
    (ipv6.HOP_BY_HOP, extension(ipv6.PROTOCOL_UDP, 1), 16),
    (ipv6.DESTINATION_OPTIONS, extension(ipv6.PROTOCOL_UDP), 0),
    (ipv6.HOP_BY_HOP, extension(ipv6.DESTINATION_OPTIONS) + extension(ipv6.PROTOCOL_UDP), 8),
    (ipv6.ROUTING, route_header(ipv6.DESTINATION_OPTIONS) + extension(ipv6.PROTOCOL_UDP), 8),
    (ipv6.HOP_BY_HOP, extension(ipv6.DESTINATION_OPTIONS) + extension(ipv6.ROUTING)
     + route_header(ipv6.PROTOCOL_UDP), 24),
])
def test_ipv6_fragment_header_follows_the_per_fragment_headers(chain, extensions, unfragmentable):
    payload = pattern(2000)
    packet = packet6(payload, extensions, chain)
    fragments = fragment(packet, 1280, 5)
    boundary = 40 + unfragmentable
    for one in fragments:
        walked = ipv6.walk_extensions(one, ipv6.parse(one).next_header)
        assert walked.fragment is not None and walked.offset == boundary + 8
        changed = [index for index in range(boundary) if one[index] != packet[index] and index not in (4, 5)]
        assert len(changed) == 1 and one[changed[0]] == ipv6.FRAGMENT
    assert reassemble(fragments).payload == extensions[unfragmentable:] + payload


def test_ipv6_truncated_extension():
    with pytest.raises(WireError):
        fragment(packet6(pattern(100), bytes([ipv6.PROTOCOL_UDP, 200]), ipv6.HOP_BY_HOP), 80, 1)
