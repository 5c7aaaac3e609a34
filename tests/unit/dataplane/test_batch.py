"""Segments rendered in C, taken apart again by the wire modules."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swos_net.dataplane.batch import SEGMENTS, Batch, FlowPath, link_limits
from swos_net.dataplane.byte_ring import ByteRing
from swos_net.link import LinkFeatures, Medium, Offload
from swos_net.wire import ethernet, ipv4, ipv6, tcp, udp
from swos_net.wire.checksum import internet_checksum, pseudo_header_sum

MAPPED = bytes(10) + b"\xff\xff"
OURS, THEIRS = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
ADDRESSES = {4: (MAPPED + b"\x0a\0\0\x01", MAPPED + b"\x0a\0\0\x02"),
             6: (b"\x20\x01" + bytes(13) + b"\x01", b"\x20\x01" + bytes(13) + b"\x02")}  # fmt: skip
GSO = {4: 1, 6: 4}


def path_of(family, identification=0xFFFE):
    local, remote = ADDRESSES[family]
    path = FlowPath(local, 1234, remote, 80, 55, identification)
    path.set_link(OURS, THEIRS)
    return path


def links():
    """Media, MTUs and what the far end takes."""
    for medium in Medium:
        for mtu in (576, 1500, 9000):
            for offloads in (
                Offload.NONE,
                Offload.CHECKSUM,
                Offload.CHECKSUM | Offload.TSO4,
                Offload.CHECKSUM | Offload.TSO4 | Offload.TSO6,
            ):
                header = 14 if medium is Medium.ETHERNET else 0
                frame_max = (65535 if offloads & (Offload.TSO4 | Offload.TSO6) else mtu) + header
                yield LinkFeatures(medium, mtu, OURS if header else None, offloads, frame_max)


LINKS = list(links())


def taken_apart(frame, link, family, state):
    """(IP header, rest of the packet) with link header, lengths and checksums checked."""
    if link.medium is Medium.ETHERNET:
        header = ethernet.parse(frame)
        assert (header.destination, header.source) == (THEIRS, OURS)
        assert header.ethertype == (0x0800 if family == 4 else 0x86DD)
        frame = frame[14:]
    if family == 4:
        header = ipv4.parse(frame)
        assert header.total_length == len(frame) and header.ttl == 55 and not header.options
        protocol, body = header.protocol, frame[20:]
    else:
        header = ipv6.parse(frame)
        assert header.payload_length == len(frame) - 40 and header.hop_limit == 55
        protocol, body = header.next_header, frame[40:]
    assert (header.source, header.destination) == ADDRESSES[family]
    at = 16 if protocol == 6 else 6
    pseudo = pseudo_header_sum(header.source, header.destination, protocol, len(body))
    if link.offloads & Offload.CHECKSUM:
        assert state == 1, "left to the link"
        # VIRTIO 1.2 5.1.6.2: the field holds the sum of the pseudo header, which the sum from there on completes
        body = body[:at] + internet_checksum(body).to_bytes(2, "big") + body[at + 2 :]
    else:
        assert state == 0
    assert internet_checksum(body, pseudo) == 0
    return header, protocol, body


@settings(max_examples=250)
@given(
    st.sampled_from(LINKS), st.sampled_from([4, 6]), st.one_of(st.integers(0, 65000), st.integers(64000, 300_000)),
    st.sampled_from([100, 500, 536, 1220, 1448, 1460]), st.integers(0, 255), st.integers(0, 0xFFFFFFFF),
    st.integers(0, 10), st.integers(0, 4095), st.integers(0, 3),
)  # fmt: skip
def test_tcp_segments(link, family, length, size, flags, seq, option_words, start, ecn):
    overhead = (20 if family == 4 else 40) + 20 + 4 * option_words
    size = min(size, link.mtu - overhead)
    ring = ByteRing(1 << 19)
    ring.write(bytes(start + 500_000))
    ring.consume(start + 500_000 - 1)  # the payload wraps around the end of the ring
    ring.consume(0)
    data = bytes((number * 7 + start) & 255 for number in range(length))
    position = ring.tail
    assert ring.write(data) == length
    options = bytes([1]) * 4 * option_words
    batch, path = Batch(), path_of(family)
    batch.path = path.pointer
    batch.add_tcp(seq, 0xDEADBEEF, flags, 4321, options, ring, position, length, size, ecn)
    batch.seal()
    frames = list(batch.frames(link_limits(link)))
    assert batch.sent

    tso = link.offloads & Offload.CHECKSUM and link.offloads & (Offload.TSO4 if family == 4 else Offload.TSO6)
    room = 65535 - overhead
    payload = size if not tso else length if length <= room else room // size * size  # of one frame
    assert len(frames) == (1 if length <= size else -(-length // payload))
    collected = b""
    for index, (frame, state, gso_type, gso_size) in enumerate(frames):
        first, last = index == 0, index == len(frames) - 1
        assert len(frame) <= link.frame_max
        header, protocol, body = taken_apart(frame, link, family, state)
        segment = tcp.parse(body)
        assert protocol == 6 and (segment.source_port, segment.destination_port) == (1234, 80)
        assert segment.seq == (seq + len(collected)) & 0xFFFFFFFF and segment.ack == 0xDEADBEEF
        assert (segment.window, segment.options, segment.urgent_pointer) == (4321, options, 0)
        expected = flags
        if not last:
            expected &= ~(tcp.FIN | tcp.PSH)
        if not first:
            expected &= ~tcp.CWR  # RFC 3168 6.1.2
        assert segment.flags == expected
        payload = body[segment.header_length :]
        if len(payload) > size:
            assert (gso_type, gso_size) == (GSO[family], size)
        else:
            assert (gso_type, gso_size) == (0, 0)
        if family == 4:
            assert header.identification == (0xFFFE + index) & 0xFFFF
            assert header.flags == ipv4.DONT_FRAGMENT and header.tos == ecn
        else:
            assert header.traffic_class == ecn
        collected += payload
    assert collected == data
    assert path.c.identification == (0xFFFE + len(frames)) & 0xFFFF
    assert batch.c.frames == len(frames) and batch.c.bytes == sum(len(frame[0]) for frame in frames)


@settings(max_examples=200)
@given(st.sampled_from(LINKS), st.sampled_from([4, 6]), st.binary(max_size=520))
def test_datagrams(link, family, payload):
    batch, path = Batch(), path_of(family)
    batch.path = path.pointer
    batch.add_udp(payload)
    batch.seal()
    ((frame, state, gso_type, _),) = batch.frames(link_limits(link))
    header, protocol, body = taken_apart(frame, link, family, state)
    datagram = udp.parse(body)
    assert protocol == 17 and gso_type == 0 and body[8:] == payload
    assert (datagram.source_port, datagram.destination_port) == (1234, 80)
    if not link.offloads & Offload.CHECKSUM:
        assert datagram.checksum != 0  # RFC 768
    if family == 4:
        assert header.flags == 0


def test_a_datagram_whose_checksum_is_zero_says_all_ones():
    found = 0
    for number in range(70_000):
        payload = number.to_bytes(4, "big")
        local, remote = ADDRESSES[4]
        if udp.parse(udp.emit(udp.UdpHeader(1234, 80), payload, local, remote)).checksum == 0xFFFF:
            found += 1
            batch, path = Batch(), path_of(4)
            batch.path = path.pointer
            batch.add_udp(payload)
            assert udp.parse(batch.packet(0)[20:]).checksum == 0xFFFF
    assert found


def test_segments_of_several_flows_keep_their_order():
    batch, paths, ring = Batch(), [path_of(4), path_of(6)], ByteRing(4096)
    ring.write(bytes(range(100)))
    frame = OURS + THEIRS + b"\x08\x06" + bytes(28)
    batch.add_frame(frame)
    for number in range(4):
        batch.path = paths[number % 2].pointer
        batch.add_tcp(number, 0, 16, 1, b"", ring, number * 10, 10, 1460)
    assert len(batch) == 5 and batch.room == SEGMENTS - 5
    batch.seal()
    assert not batch.sent
    frames = [item[0] for item in batch.frames(link_limits(LinkFeatures()))]
    assert frames[0] == frame
    assert [item[12:14] for item in frames[1:]] == [b"\x08\x00", b"\x86\xdd"] * 2
    assert [item[-10:] for item in frames[1:]] == [bytes(range(start, start + 10)) for start in (0, 10, 20, 30)]
    batch.clear()
    assert len(batch) == 0 and batch.kept == [] and list(batch.frames(link_limits(LinkFeatures()))) == []


def test_what_the_link_does_not_carry_is_left_out_and_the_rest_goes():
    batch, path, ring = Batch(), path_of(4), ByteRing(4096)
    ring.write(bytes(3000))
    plain = LinkFeatures(Medium.ETHERNET, 1500, OURS, Offload.NONE, 1514)
    batch.path = path.pointer
    batch.add_tcp(0, 0, 16, 0, b"", ring, 0, 1461, 1461)
    batch.add_frame(bytes(1515))
    batch.add_tcp(1, 0, 16, 0, b"", ring, 0, 1460, 1460)
    batch.seal()
    ((frame, *_),) = batch.frames(link_limits(plain))
    assert tcp.parse(frame[34:]).seq == 1 and batch.sent and batch.c.frames == 1


def test_numbers_are_taken_modulo_two_to_the_32():
    batch, path = Batch(), path_of(6)
    batch.path = path.pointer
    batch.add_tcp((1 << 40) + 5, (1 << 33) + 6, 16, 7)
    segment = tcp.parse(batch.packet(0)[40:])
    assert (segment.seq, segment.ack, segment.window) == (5, 6, 7)


@pytest.mark.parametrize("family", [4, 6])
def test_one_packet_for_later(family):
    batch, path, ring = Batch(), path_of(family), ByteRing(4096)
    ring.write(b"hello")
    batch.path = path.pointer
    batch.add_tcp(9, 8, 24, 7, b"", ring, 0, 5, 1460)
    batch.add_udp(b"world")
    batch.add_frame(b"frame")
    plain = LinkFeatures(Medium.IP, 1500, None, Offload.NONE, 1500)
    assert taken_apart(batch.packet(0), plain, family, 0)[2][20:] == b"hello"
    assert taken_apart(batch.packet(1), plain, family, 0)[2][8:] == b"world"
    assert batch.packet(2) == b"", "a frame has its link header already"
