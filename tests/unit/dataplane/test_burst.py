"""Frames decoded in C against the same frames taken apart by the wire modules: true ones and changed ones."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swos_net.dataplane.burst import FRAMES, Burst, BytesPayload, DropReason, FrameFlag, FramePayload
from swos_net.dataplane.byte_ring import ByteRing
from swos_net.errors import WireError
from swos_net.link import Medium
from swos_net.wire import ethernet, icmpv4, ipv4, ipv6, tcp, udp
from swos_net.wire.checksum import internet_checksum, pseudo_header_sum

MAPPED = bytes(10) + b"\xff\xff"
FIELDS = (
    "flow", "verdict", "ethertype", "protocol", "hop_limit", "traffic_class", "flags", "tcp_flags", "options",
    "window", "network", "transport", "payload_offset", "segment_size", "payload_length", "frame_length",
    "seq", "ack", "ts_val", "ts_ecr", "fragment_offset", "more_fragments", "identification",
)  # fmt: skip
HEADER_COPY = 256


class Undecided(Exception):
    """The two may differ: a limit of the decoder."""


def decode(frame, medium, **offload):
    burst = Burst(arena=False)
    assert burst.add(frame, medium, **offload)
    (record,) = burst.records()
    return dict(zip(FIELDS, record)), burst


def reference(frame, medium):
    """What a frame means by the wire modules; WireError when it is to be dropped."""
    network, found = 0, {}
    if medium is Medium.ETHERNET:
        link = ethernet.parse(frame)
        network, ethertype = 14, link.ethertype
        if ethernet.is_group(link.source):
            raise WireError("bad_source")
        found["group"] = ethernet.is_group(link.destination)
    else:
        if not frame:
            raise WireError("truncated")
        ethertype = {4: 0x0800, 6: 0x86DD}.get(frame[0] >> 4)
    found["ethertype"] = ethertype
    packet = frame[network:]
    if ethertype == 0x0800:
        header = ipv4.parse(packet)
        if header.source[12] >= 224:
            raise WireError("bad_source")
        end, transport, protocol = header.total_length, header.header_length, header.protocol
        found |= dict(hop_limit=header.ttl, traffic_class=header.tos, identification=header.identification)
        found["fragment"] = (header.fragment_offset, bool(header.flags & ipv4.MORE_FRAGMENTS))
    elif ethertype == 0x86DD:
        header = ipv6.parse(packet)
        if header.source[0] == 0xFF:
            raise WireError("bad_source")
        end = 40 + header.payload_length
        packet_only = packet[:end]
        if header.next_header in (0, 43, 44, 60):
            check_length(packet_only, header.next_header)
        chain = ipv6.walk_extensions(packet_only, header.next_header)
        if chain.problem is not None:
            raise WireError("bad_extension")
        transport, protocol = chain.offset, chain.protocol
        found |= dict(hop_limit=header.hop_limit, traffic_class=header.traffic_class)
        found["fragment"] = (chain.fragment.offset, chain.fragment.more_fragments) if chain.fragment else (0, False)
        if chain.fragment:
            found["identification"] = chain.fragment.identification
    elif ethertype == 0x0806 and medium is Medium.ETHERNET:
        return found
    else:
        raise WireError("bad_ethertype")
    found |= dict(local=header.destination, remote=header.source, protocol=protocol, transport=network + transport)
    if network + transport + 60 > HEADER_COPY:
        raise Undecided
    if found["fragment"] != (0, False):
        return found | dict(payload=packet[transport:end])
    body = packet[transport:end]
    if protocol == 6:
        segment = tcp.parse(body)
        options = tcp.parse_options(segment.options)
        if not tcp.checksum_valid(body, header.source, header.destination):
            raise WireError("bad_transport_checksum")
        found |= dict(ports=(segment.destination_port, segment.source_port), seq=segment.seq, ack=segment.ack,
                      tcp_flags=segment.flags, window=segment.window, timestamps=(options.ts_val, options.ts_ecr),
                      sack=bool(options.sack_blocks), payload=body[segment.header_length :])  # fmt: skip
    elif protocol == 17:
        datagram = udp.parse(body)
        if not udp.checksum_valid(body, datagram, header.source, header.destination):
            raise WireError("bad_transport_checksum")
        found |= dict(ports=(datagram.destination_port, datagram.source_port), payload=body[8 : datagram.length])
    elif protocol == (58 if ethertype == 0x86DD else 1):
        if len(body) < 4:
            raise WireError("bad_transport_header")
        initial = pseudo_header_sum(header.source, header.destination, 58, len(body)) if protocol == 58 else 0
        if internet_checksum(body, initial) != 0:
            raise WireError("bad_transport_checksum")
        found["payload"] = body
    else:
        found |= dict(unknown=True, payload=body)
    return found


def check_length(packet, next_header):
    """Undecided when the chain is longer than the decoder goes."""
    offset, count = 40, 0
    while next_header in (0, 43, 44, 60):
        count += 1
        if count > 7:
            raise Undecided
        if offset + 8 > len(packet):
            return
        length = 8 if next_header == 44 else packet[offset + 1] * 8 + 8
        if offset + length > HEADER_COPY - 80:
            raise Undecided
        if (
            next_header == 44
            and (packet[offset + 2 : offset + 4] != b"\0\0")
            and int.from_bytes(packet[offset + 2 : offset + 4], "big") & 0xFFF9
        ):
            return
        next_header = packet[offset]
        offset += length


def compare(frame, medium):
    """Decodes both ways; gives whether the frame was taken."""
    record, burst = decode(frame, medium)
    verdict = DropReason(record["verdict"])
    try:
        expected = reference(frame, medium)
    except WireError as error:
        assert verdict is not DropReason.NONE, f"the wire modules say {error.reason}"
        return False
    except Undecided:
        return None
    assert verdict is DropReason.NONE, verdict
    assert record["ethertype"] == expected["ethertype"]
    flags = record["flags"]
    assert bool(flags & (FrameFlag.LINK_BROADCAST | FrameFlag.LINK_MULTICAST)) is expected.get("group", False)
    assert bool(flags & FrameFlag.LINK_BROADCAST) is (medium is Medium.ETHERNET and frame[:6] == b"\xff" * 6)
    if expected["ethertype"] == 0x0806:
        return True
    assert (record["flow"][:16], record["flow"][16:32]) == (expected["local"], expected["remote"])
    for name in ("protocol", "hop_limit", "traffic_class", "transport"):
        assert record[name] == expected[name], name
    assert bool(flags & FrameFlag.FRAGMENT) is (expected["fragment"] != (0, False))
    if flags & FrameFlag.FRAGMENT:
        assert (record["fragment_offset"], bool(record["more_fragments"])) == expected["fragment"]
        assert record["identification"] == expected["identification"]
    assert bool(flags & FrameFlag.UNKNOWN_PROTOCOL) is expected.get("unknown", False)
    if "ports" in expected:
        ports = record["flow"][32:34], record["flow"][34:36]
        assert tuple(int.from_bytes(port, "big") for port in ports) == expected["ports"]
    if "seq" in expected:
        for name in ("seq", "ack", "tcp_flags", "window"):
            assert record[name] == expected[name], name
        if expected["timestamps"] == (None, None):
            assert not record["options"] & 1
        else:
            assert record["options"] & 1 and (record["ts_val"], record["ts_ecr"]) == expected["timestamps"]
        assert not expected["sack"] or record["options"] & 2
    at = (
        "transport"
        if flags & (FrameFlag.FRAGMENT | FrameFlag.UNKNOWN_PROTOCOL) or record["protocol"] in (1, 58)
        else "payload_offset"
    )
    assert burst.copy(0, record[at], record["payload_length"]) == expected["payload"]
    assert record["payload_length"] == len(expected["payload"])
    return True


addresses4 = st.binary(min_size=4, max_size=4).map(lambda packed: MAPPED + bytes([packed[0] % 224]) + packed[1:])
addresses6 = st.binary(min_size=16, max_size=16).map(lambda packed: b"\x20" + packed[1:])
payloads = st.binary(max_size=100)
ports = st.integers(0, 65535)
words = st.integers(0, 0xFFFFFFFF)
tcp_options = st.builds(
    tcp.TcpOptions, mss=st.none() | ports, window_scale=st.none() | st.integers(0, 255), sack_permitted=st.booleans(),
    sack_blocks=st.lists(st.tuples(words, words), max_size=3).map(tuple),
).flatmap(lambda options: st.tuples(st.just(options), st.none() | st.tuples(words, words)))  # fmt: skip


@st.composite
def transports(draw, source, destination):
    kind = draw(st.sampled_from(["tcp", "tcp", "udp", "icmp", "other"]))
    payload = draw(payloads)
    if kind == "tcp":
        options, stamps = draw(tcp_options)
        if stamps:
            options.ts_val, options.ts_ecr = stamps
        header = tcp.TcpHeader(draw(ports), draw(ports), draw(words), draw(words), draw(st.integers(0, 255)),
                               draw(ports), tcp.emit_options(options))  # fmt: skip
        return 6, tcp.emit(header, payload, source, destination)
    if kind == "udp":
        return 17, udp.emit(udp.UdpHeader(draw(ports), draw(ports)), payload, source, destination)
    if kind == "icmp":
        body = bytes([draw(st.integers(0, 255)), 0, 0, 0]) + payload
        protocol = 1 if source[:12] == MAPPED else 58
        initial = 0 if protocol == 1 else pseudo_header_sum(source, destination, 58, len(body))
        return protocol, body[:2] + internet_checksum(body, initial).to_bytes(2, "big") + body[4:]
    return draw(st.sampled_from([2, 50, 89, 132, 253])), payload


@st.composite
def packets(draw):
    if draw(st.booleans()):
        source, destination = draw(addresses4), draw(addresses4)
        protocol, body = draw(transports(source, destination))
        options = bytes([1]) * 4 * draw(st.integers(0, 10))
        flags, offset = draw(
            st.sampled_from([(0, 0), (ipv4.DONT_FRAGMENT, 0), (0, 0), (ipv4.MORE_FRAGMENTS, 0), (0, 800)])
        )
        header = ipv4.Ipv4Header(source, destination, protocol, draw(st.integers(0, 255)), draw(st.integers(0, 255)),
                                 draw(ports), flags, offset, options)  # fmt: skip
        return ipv4.emit(header, body)
    source, destination = draw(addresses6), draw(addresses6)
    protocol, body = draw(transports(source, destination))
    chain = b""
    for kind in reversed(draw(st.lists(st.sampled_from([43, 44, 60]), max_size=3))):
        if kind == 44:
            fragment = ipv6.FragmentHeader(
                protocol, draw(st.sampled_from([0, 0, 8, 1448])), draw(st.booleans()), draw(words)
            )
            chain = ipv6.emit_fragment(fragment) + chain
        elif kind == 43:
            chain = bytes([protocol, 0, 4, 0]) + bytes(4) + chain
        else:
            chain = bytes([protocol, 0, 1, 4]) + bytes(4) + chain
        protocol = kind
    if draw(st.booleans()) and draw(st.booleans()):
        chain, protocol = bytes([protocol, 1, 1, 12]) + bytes(12) + chain, 0
    header = ipv6.Ipv6Header(source, destination, protocol, draw(st.integers(0, 255)), draw(st.integers(0, 255)),
                             draw(st.integers(0, 0xFFFFF)))  # fmt: skip
    return ipv6.emit(header, chain + body)


@st.composite
def frames(draw):
    """(frame, medium); on Ethernet with padding behind the packet."""
    packet = draw(packets())
    if draw(st.booleans()):
        return packet, Medium.IP
    destination = draw(st.sampled_from([b"\x02\0\0\0\0\x01", b"\xff" * 6, b"\x33\x33\0\0\0\x01"]))
    ethertype = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    header = ethernet.EthernetHeader(destination, b"\x02\0\0\0\0\x02", ethertype)
    return ethernet.emit(header, packet) + bytes(draw(st.sampled_from([0, 0, 6, 46]))), Medium.ETHERNET


@settings(max_examples=200)
@given(frames())
def test_a_true_frame_says_the_same_to_both(given_):
    assert compare(*given_) is not False


@settings(max_examples=200)
@given(frames(), st.randoms(use_true_random=False), st.booleans())
def test_a_changed_frame_says_the_same_to_both(given_, generator, mend):
    frame, medium = given_
    frame = bytearray(frame)
    for _ in range(generator.randrange(1, 4)):
        at = generator.randrange(min(len(frame), 90)) if frame else 0
        if generator.random() < 0.15:
            del frame[at:]
        elif frame:
            frame[at] = generator.choice((0, 1, 255, frame[at] ^ 1 << generator.randrange(8), generator.randrange(256)))
    if mend:
        frame = mended(frame, 14 if medium is Medium.ETHERNET else 0)
    compare(bytes(frame), medium)


def mended(frame, at):
    """With a right IPv4 header checksum, so that what lies behind it is reached."""
    if len(frame) >= at + 20 and frame[at] >> 4 == 4:
        length = (frame[at] & 15) * 4
        frame[at + 10 : at + 12] = bytes(2)
        frame[at + 10 : at + 12] = internet_checksum(bytes(frame[at : at + length])).to_bytes(2, "big")
    return frame


@settings(max_examples=200)
@given(st.binary(max_size=120), st.sampled_from([0x45, 0x46, 0x60, 0x4F, 0x65, 0]), st.sampled_from(list(Medium)),
       st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x12\x34"]))  # fmt: skip
def test_random_bytes_say_the_same_to_both(data, first, medium, ethertype):
    packet = bytes([first]) + data
    compare(b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02" + ethertype + packet if medium is Medium.ETHERNET else packet, medium)


@pytest.mark.parametrize("name", [
    "syn4", "syn_ack4", "data4", "udp4", "port_unreachable4", "echo_request4", "syn6", "data6", "udp6",
    "port_unreachable6", "echo_reply6", "dad6", "mld_report6", "arp_request", "neighbor_solicitation6",
])  # fmt: skip
def test_frames_of_linux(name, linux_frames):
    """The checksums of TCP and UDP are left open in some captures: then the claim that they were checked is needed."""
    frame = linux_frames[name]
    record, _ = decode(frame, Medium.ETHERNET, checksum=2)
    assert DropReason(record["verdict"]) is DropReason.NONE
    assert record["frame_length"] <= len(frame)


def test_claims_about_checksums_and_super_segments():
    source, destination = MAPPED + b"\x0a\0\0\x01", MAPPED + b"\x0a\0\0\x02"
    raw = bytearray(tcp.emit(tcp.TcpHeader(1, 2, 3, 4, 16, 5), bytes(3000), source, destination))
    raw[16] ^= 1
    packet = ipv4.emit(ipv4.Ipv4Header(source, destination, 6), bytes(raw))
    assert decode(packet, Medium.IP)[0]["verdict"] == DropReason.BAD_TRANSPORT_CHECKSUM
    for checksum in (1, 2):
        record, _ = decode(packet, Medium.IP, checksum=checksum, gso_type=1, gso_size=1448)
        assert (
            record["verdict"] == 0 and record["flags"] & FrameFlag.CHECKSUM_TRUSTED and record["segment_size"] == 1448
        )
    assert decode(packet, Medium.IP, checksum=1, gso_type=4, gso_size=1448)[0]["verdict"] == DropReason.BAD_OFFLOAD
    datagram = ipv4.emit(
        ipv4.Ipv4Header(source, destination, 17), udp.emit(udp.UdpHeader(1, 2), b"x", source, destination)
    )
    assert decode(datagram, Medium.IP, checksum=1, gso_type=1, gso_size=1448)[0]["verdict"] == DropReason.BAD_OFFLOAD
    part = ipv4.emit(ipv4.Ipv4Header(source, destination, 17, flags=ipv4.MORE_FRAGMENTS), bytes(8))
    assert decode(part, Medium.IP, checksum=1)[0]["verdict"] == DropReason.BAD_OFFLOAD


def test_a_burst_holds_so_many_frames_and_can_be_used_again():
    burst = Burst(arena=False)
    taken = [burst.add(bytes([0x45, number]) * 20, Medium.IP) for number in range(FRAMES + 3)]
    assert taken == [True] * FRAMES + [False] * 3 and len(burst) == FRAMES
    assert len(list(burst.records())) == FRAMES
    assert burst.offload(0) == (0, 0, 0)
    burst.clear()
    assert len(burst) == 0 and list(burst.records()) == [] and burst.kept == []
    assert burst.add(b"\x60", Medium.IP, checksum=2, gso_type=1, gso_size=9)
    assert burst.offload(0) == (2, 1, 9)


def test_headers_and_copies_stay_inside_their_frame():
    burst = Burst(arena=False)
    frame = bytes(range(200))
    burst.add(frame, Medium.IP)
    burst.add(b"\xee" * 50, Medium.IP)
    assert burst.copy(0, 150, 1000) == frame[150:]
    assert burst.copy(0, 200, 10) == b"" and burst.copy(7, 0, 10) == b""
    assert burst.header(0, 10, 20) == frame[10:20]
    assert burst.header(1, 0, 50) == b"\xee" * 50


@settings(max_examples=100)
@given(st.binary(min_size=1, max_size=3000), st.data())
def test_both_payloads_fill_a_ring_alike(data, draws):
    burst = Burst(arena=False)
    burst.add(b"\x45" * 30 + data, Medium.IP)
    skip = draws.draw(st.integers(0, len(data)))
    length = draws.draw(st.integers(0, len(data) - skip))
    position = draws.draw(st.integers(0, 5000))
    contents = []
    for payload in (FramePayload(burst.c, 0, 30, len(data)), BytesPayload(data)):
        assert len(payload) == len(data) and payload.tobytes() == data
        ring = ByteRing(4096)
        ring.write(b"head")
        appended = payload.append_to(ring, skip, length)
        stored = payload.store_in(ring, position + ring.tail, skip, length)
        contents.append((appended, stored, ring.read(5000)))
        gap = position
        if stored == length and gap == 0:
            ring.advance(stored)
            contents[-1] += (ring.read(5000),)
    assert contents[0] == contents[1]
    assert contents[0][2] == b"head" + data[skip : skip + length]


def stream(parts, *, seq=1000, start=0, stamps=None, **header):
    """Frames of one flow that carry `parts` one after the other."""
    source, destination = MAPPED + b"\x0a\0\0\x01", MAPPED + b"\x0a\0\0\x02"
    frames = []
    for index, part in enumerate(parts):
        options = tcp.emit_options(tcp.TcpOptions(ts_val=stamps, ts_ecr=7)) if stamps else b""
        fields = dict(flags=16, window=500 + index, ack=1 + index) | header
        fields = tcp.TcpHeader(1, 2, (seq + start) & 0xFFFFFFFF, options=options, **fields)
        raw = tcp.emit(fields, part, source, destination)
        frames.append(ipv4.emit(ipv4.Ipv4Header(source, destination, 6), raw))
        start += len(part)
    return frames


def merged(frames):
    """(burst, records) after joining runs."""
    burst = Burst(arena=False)
    for frame in frames:
        assert burst.add(frame, Medium.IP)
    burst.merge_runs()
    return burst, [dict(zip(FIELDS, record)) for record in burst.records()]


@settings(max_examples=150)
@given(st.lists(st.binary(min_size=1, max_size=400), min_size=1, max_size=20), st.booleans(), st.data())
def test_a_run_of_segments_is_one_segment(parts, stamped, draws):
    data = b"".join(parts)
    burst, records = merged(stream(parts, seq=0xFFFFFF00, stamps=99 if stamped else None))
    head = records[0]
    assert [record["verdict"] for record in records] == [0] + [DropReason.MERGED] * (len(parts) - 1)
    assert (head["seq"], head["payload_length"]) == (0xFFFFFF00, len(data))
    assert (head["ack"], head["window"]) == (len(parts), 499 + len(parts)), "what the last one says"
    skip = draws.draw(st.integers(0, len(data)))
    length = draws.draw(st.integers(0, len(data) - skip))
    payload = FramePayload(burst.c, 0, head["payload_offset"], len(data))
    ring = ByteRing(16384)
    assert payload.append_to(ring, skip, length) == length
    assert payload.store_in(ring, ring.tail + 5, skip, length) == length
    ring.advance(length + 5)
    assert ring.read(length) == data[skip : skip + length]
    ring.consume(5)
    assert ring.read(length) == data[skip : skip + length]


@pytest.mark.parametrize("second", [
    dict(start=101), dict(start=99), dict(flags=17), dict(flags=16 | 4), dict(flags=16 | 32), dict(flags=16 | 2),
    dict(stamps=5), dict(parts=[b""]),
], ids=repr)  # fmt: skip
def test_what_does_not_simply_go_on_stays_apart(second):
    arguments = dict(parts=[bytes(10)], start=100) | second
    _, records = merged(stream([bytes(100)]) + stream(**arguments))
    assert [record["verdict"] for record in records] == [0, 0]
    assert records[0]["payload_length"] == 100


def test_runs_of_several_flows_and_bad_frames_between_them():
    first, second = stream([bytes(10)] * 3), stream([bytes(20)] * 2, seq=5)
    other = [
        frame[:12] + frame[16:20] + frame[12:16] + frame[20:] for frame in second
    ]  # the addresses swapped: sums stay
    broken = bytes([first[2][0] ^ 0x10]) + first[2][1:]
    _, records = merged(first[:2] + other + [broken] + first[2:])
    lengths = [record["payload_length"] for record in records if not record["verdict"]]
    assert lengths == [20, 40, 10]


def test_a_burst_keeps_what_it_points_into():
    burst = Burst(arena=False)
    generator = random.Random(1)
    expected = []
    for _ in range(20):
        frame = generator.randbytes(500)
        expected.append(frame[:])
        burst.add(frame, Medium.IP)
        del frame
    assert [burst.copy(index, 0, 500) for index in range(20)] == expected


def test_the_checksum_of_an_echo_reply_of_zeros_is_not_zero():
    """RFC 1624 3: one's complement has two zeros, and only one of them is right here."""
    request = icmpv4.emit(icmpv4.echo_request(0, 0))
    _, burst = decode(ipv4.emit(ipv4.Ipv4Header(MAPPED + bytes((10, 0, 0, 1)), MAPPED + bytes((10, 0, 0, 2)), 1, 64), request), Medium.IP)
    assert burst.echo_reply(0, Medium.IP, 64)[20:] == b"\0\0\xff\xff" + bytes(4)
