import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.address import ALL_NODES6, parse_address
from swos_net.link import Medium
from swos_net.wire import dhcpv4, ethernet, icmpv4, icmpv6, ipv4, ipv6, ndisc, tcp, udp
from swos_net.wire.pretty import describe_frame, describe_packet

A4, B4 = parse_address("10.9.0.1"), parse_address("10.9.0.2")
A6, B6 = parse_address("fe80::1"), parse_address("fe80::2")


def packet4(protocol: int, payload: bytes, **fields) -> bytes:
    return ipv4.emit(ipv4.Ipv4Header(A4, B4, protocol, **fields), payload)


def packet6(next_header: int, payload: bytes) -> bytes:
    return ipv6.emit(ipv6.Ipv6Header(A6, B6, next_header), payload)


EXPECTED = {
    "mld_report6": "IP6 :: > ff02::16: ICMP6 type 143 code 0, length 28",
    "dad6": "IP6 :: > ff02::1:ff00:a: ICMP6 neighbor solicitation, who has fe80::ff:fe00:a, length 32",
    "router_solicitation6": "IP6 fe80::ff:fe00:a > ff02::2: ICMP6 router solicitation, length 16",
    "arp_request": "02:00:00:00:00:0a > ff:ff:ff:ff:ff:ff ARP who-has 10.9.0.2 tell 10.9.0.1",
    "arp_reply": "02:00:00:00:00:0b > 02:00:00:00:00:0a ARP reply 10.9.0.2 is-at 02:00:00:00:00:0b",
    "udp4": "IP 10.9.0.1.41362 > 10.9.0.2.9: UDP, length 9",
    "port_unreachable4": "IP 10.9.0.2 > 10.9.0.1: ICMP unreachable, port, length 45",
    "syn4": (
        "IP 10.9.0.1.41864 > 10.9.0.2.7777: Flags [S], seq 3257459571, win 64240,"
        " options [mss 1460,sackOK,TS val 1127253171 ecr 0,wscale 10], length 0"
    ),
    "syn_ack4": (
        "IP 10.9.0.2.7777 > 10.9.0.1.41864: Flags [S.], seq 3299327296, ack 3257459572, win 65160,"
        " options [mss 1460,sackOK,TS val 886778774 ecr 1127253171,wscale 10], length 0"
    ),
    "data4": (
        "IP 10.9.0.1.41864 > 10.9.0.2.7777: Flags [P.], seq 3257459572:3257459581, ack 3299327297, win 63,"
        " options [TS val 1127253171 ecr 886778774], length 9"
    ),
    "echo_request4": "IP 10.9.0.1 > 10.9.0.2: ICMP echo request, id 77, seq 1, length 21",
    "echo_reply4": "IP 10.9.0.2 > 10.9.0.1: ICMP echo reply, id 77, seq 1, length 21",
    "neighbor_solicitation6": (
        "IP6 fd09::1 > ff02::1:ff00:2: ICMP6 neighbor solicitation, who has fd09::2, length 32"
    ),
    "neighbor_advertisement6": (
        "IP6 fd09::2 > fd09::1: ICMP6 neighbor advertisement, target fd09::2, flags [SO],"
        " is-at 02:00:00:00:00:0b, length 32"
    ),
    "udp6": "IP6 fd09::1.47193 > fd09::2.9: UDP, length 9",
    "port_unreachable6": "IP6 fd09::2 > fd09::1: ICMP6 unreachable, port, length 65",
    "syn6": (
        "IP6 fd09::1.35880 > fd09::2.7777: Flags [S], seq 48849254, win 64800,"
        " options [mss 1440,sackOK,TS val 3657533406 ecr 0,wscale 10], length 0"
    ),
    "data6": (
        "IP6 fd09::1.35880 > fd09::2.7777: Flags [P.], seq 48849255:48849264, ack 1881135772, win 64,"
        " options [TS val 3657533406 ecr 3077974273], length 9"
    ),
    "echo_reply6": "IP6 fd09::2 > fd09::1: ICMP6 echo reply, id 77, seq 1, length 21",
}


def test_the_frames_of_linux(linux_frame):
    name, frame = linux_frame
    assert describe_frame(frame) == EXPECTED[name]
    assert describe_frame(memoryview(frame)[14:], Medium.IP) == EXPECTED[name] or name.startswith("arp")


def test_link_addresses_on_request(frames):
    text = describe_frame(frames["udp4"], link_addresses=True)
    assert text == "02:00:00:00:00:0a > 02:00:00:00:00:0b " + EXPECTED["udp4"]


@pytest.mark.parametrize(
    ("packet", "text"),
    [
        (
            packet4(17, bytes(16), flags=ipv4.MORE_FRAGMENTS, identification=7, fragment_offset=8),
            "fragment id 7 offset 8+, protocol 17, length 16",
        ),
        (packet4(47, bytes(5)), "protocol 47, length 5"),
        (packet4(6, bytes(5)), "protocol 6 [malformed: truncated], length 5"),
        (
            packet4(1, icmpv4.emit(icmpv4.unreachable(4, b"", 1400))),
            "ICMP unreachable, fragmentation needed, mtu 1400, length 8",
        ),
        (packet4(1, icmpv4.emit(icmpv4.time_exceeded(0, b""))), "ICMP time exceeded, code 0, length 8"),
        (packet4(1, icmpv4.emit(icmpv4.parameter_problem(20, b""))), "ICMP parameter problem, pointer 20, length 8"),
        (packet4(1, icmpv4.emit(icmpv4.Icmpv4Message(13, 0, 0, b""))), "ICMP type 13 code 0, length 8"),
        (packet4(58, bytes(8)), "protocol 58, length 8"),
        (
            packet6(44, ipv6.emit_fragment(ipv6.FragmentHeader(6, 8, False, 9)) + bytes(3)),
            "fragment id 9 offset 8, protocol 6, length 3",
        ),
        (packet6(43, bytes((59, 0, 0, 1)) + bytes(4)), "extension header not acceptable at 42"),
        (packet6(58, icmpv6.emit(icmpv6.packet_too_big(1280, b""), A6, B6)), "packet too big, mtu 1280, length 8"),
        (packet6(58, icmpv6.emit(icmpv6.time_exceeded(0, b""), A6, B6)), "time exceeded, code 0, length 8"),
        (
            packet6(58, icmpv6.emit(icmpv6.parameter_problem(1, 40, b""), A6, B6)),
            "parameter problem, code 1, pointer 40, length 8",
        ),
        (packet6(58, bytes(8)), "protocol 58 [malformed: bad_icmp_checksum], length 8"),
        (packet6(58, ndisc.emit(ndisc.Redirect(B6, A6), A6, B6)), "ICMP6 redirect, fe80::1 via fe80::2, length 40"),
        (
            packet6(
                58,
                ndisc.emit(
                    ndisc.RouterAdvertisement(
                        router_lifetime=30,
                        options=ndisc.NdOptions(
                            prefixes=[ndisc.PrefixInformation(parse_address("fd00::"), 64, True, True, 1, 1)]
                        ),
                    ),
                    A6,
                    B6,
                ),
            ),
            "ICMP6 router advertisement, lifetime 30, prefix fd00::/64, length 48",
        ),
        (b"", "not IP, length 0: "),
        (b"\x99", "not IP, length 1: 99"),
        (b"\x45\0\0", "IP4 [malformed: truncated], length 3"),
        (b"\x60" + bytes(20), "IP6 [malformed: truncated], length 21"),
    ],
)
def test_packets(packet, text):
    assert describe_packet(packet).endswith(text)


def test_tcp_flags_urgent_and_sack():
    options = tcp.emit_options(tcp.TcpOptions(sack_blocks=((5, 9), (20, 30))))
    header = tcp.TcpHeader(1, 2, 0xFFFFFFFF, 7, tcp.URG | tcp.ACK | tcp.FIN | tcp.ECE | tcp.CWR, 9, options, 3)
    text = describe_packet(packet4(6, tcp.emit(header, b"xy", A4, B4)))
    assert text == (
        "IP 10.9.0.1.1 > 10.9.0.2.2: Flags [FUEW.], seq 4294967295:1, ack 7, win 9, urg 3,"
        " options [sack {5:9} {20:30}], length 2"
    )
    header = tcp.TcpHeader(1, 2, 0, 0, 0, 0, b"\x02\x00\0\0")
    assert "Flags [none], seq 0, win 0, options [malformed 02000000]" in describe_packet(
        packet4(6, tcp.emit(header, b"", A4, B4))
    )


def test_dhcp():
    message = dhcpv4.DhcpMessage(
        dhcpv4.BOOT_REPLY,
        0xABC,
        bytes.fromhex("02000000000a"),
        {dhcpv4.MESSAGE_TYPE: b"\x02"},
        your_address=parse_address("10.9.0.7"),
    )
    datagram = udp.emit(udp.UdpHeader(67, 68), dhcpv4.emit(message), A4, B4)
    assert describe_packet(packet4(17, datagram)).endswith(
        ": DHCP OFFER, xid 0xabc, from 02:00:00:00:00:0a, your address 10.9.0.7, length 300"
    )
    datagram = udp.emit(udp.UdpHeader(68, 67), b"short", A4, B4)
    assert describe_packet(packet4(17, datagram)).endswith("DHCP [malformed: truncated], length 5")


def test_other_frames():
    header = ethernet.EthernetHeader(ethernet.BROADCAST, bytes(6), 0x88CC)
    assert describe_frame(ethernet.emit(header, b"abc")).endswith("ethertype 0x88cc, length 3")
    assert describe_frame(b"abc") == "Ethernet [malformed: truncated], length 3"
    header.ethertype = ethernet.ETHERTYPE_ARP
    assert describe_frame(ethernet.emit(header, b"abc")).endswith("ARP [malformed: truncated], length 3")


@given(st.sampled_from([0x0800, 0x0806, 0x86DD]), st.binary(max_size=100))
def test_any_frame_is_one_line(ethertype, payload):
    header = ethernet.EthernetHeader(ethernet.BROADCAST, bytes(6), ethertype)
    for text in (describe_frame(ethernet.emit(header, payload)), describe_frame(payload, Medium.IP)):
        assert text and "\n" not in text


@given(st.sampled_from([1, 6, 17]), st.binary(max_size=60))
def test_any_ipv4_payload_is_one_line(protocol, payload):
    assert describe_packet(packet4(protocol, payload)).startswith("IP 10.9.0.1")


@given(st.integers(133, 137), st.binary(max_size=60))
def test_any_neighbor_discovery_message_is_one_line(kind, body):
    data = bytes((kind, 0, 0, 0)) + body
    data = data[:2] + icmpv6.checksum(data, A6, ALL_NODES6).to_bytes(2, "big") + data[4:]
    packet = ipv6.emit(ipv6.Ipv6Header(A6, ALL_NODES6, 58, 255), data)
    assert describe_packet(packet).startswith("IP6 fe80::1 > ff02::1: ")


@given(st.binary(max_size=80))
def test_any_dhcp_payload_is_one_line(data):
    datagram = udp.emit(udp.UdpHeader(68, 67), bytes((1, 1, 6, 0)) + bytes(232) + dhcpv4.COOKIE + data, A4, B4)
    assert ": DHCP" in describe_packet(packet4(17, datagram))
