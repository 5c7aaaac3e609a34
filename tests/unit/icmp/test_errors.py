"""ICMP errors: what is said about what, how often, and what a received one tells."""

import pytest
from hypothesis import given, strategies as st

from swos_net.address import parse_address
from swos_net.config import StackConfig
from swos_net.icmp.errors import IcmpErrorPolicy, QuotedPacket, parse_error
from swos_net.wire import icmpv4, icmpv6, ipv4, ipv6

US, PEER = parse_address("10.0.2.2"), parse_address("10.0.2.15")
US6, PEER6 = parse_address("2001:db8::2"), parse_address("2001:db8::15")
UDP = bytes.fromhex("9c40 0035 0010 0000") + b"12345678"
TCP = bytes.fromhex("9c40 0050 01020304 00000000 5002 ffff 0000 0000")

UNREACHABLE4 = (icmpv4.DESTINATION_UNREACHABLE, icmpv4.PORT_UNREACHABLE)
UNREACHABLE6 = (icmpv6.DESTINATION_UNREACHABLE, icmpv6.PORT_UNREACHABLE)
TOO_BIG = (icmpv6.PACKET_TOO_BIG, 0)
BAD_OPTION = (icmpv6.PARAMETER_PROBLEM, icmpv6.UNRECOGNIZED_OPTION)
BAD_FIELD = (icmpv6.PARAMETER_PROBLEM, icmpv6.ERRONEOUS_FIELD)


def packet4(payload=UDP, source=PEER, destination=US, protocol=ipv4.PROTOCOL_UDP, **fields):
    return ipv4.emit(ipv4.Ipv4Header(source, destination, protocol, **fields), payload)


def packet6(payload=UDP, source=PEER6, destination=US6, next_header=ipv6.PROTOCOL_UDP):
    return ipv6.emit(ipv6.Ipv6Header(source, destination, next_header), payload)


def fragment6(offset, next_header=ipv6.PROTOCOL_UDP, payload=UDP):
    return packet6(ipv6.emit_fragment(ipv6.FragmentHeader(next_header, offset, True, 7)) + payload,
                   next_header=ipv6.FRAGMENT)


@pytest.fixture
def policy():
    return IcmpErrorPolicy(StackConfig(hop_limit=33))


def ask(policy, packet, kind_and_code, info=0, link_broadcast=False, now=0.0):
    return policy.error_for(packet, *kind_and_code, info=info, source=US if packet[:1] < b"\x60" else US6,
                            link_broadcast=link_broadcast, now=now)


# --- what is sent ---

@pytest.mark.parametrize("length, quoted", [(8, 28), (520, 540), (528, 548), (529, 548), (1400, 548)])
def test_ipv4_error_quotes_up_to_576_bytes(policy, length, quoted):
    packet = packet4(UDP + bytes(length - 16) if length > 16 else UDP[:length])
    error = ask(policy, packet, UNREACHABLE4)
    header = ipv4.parse(error)
    assert (header.source, header.destination, header.protocol, header.ttl) == (US, PEER, ipv4.PROTOCOL_ICMP, 33)
    message = icmpv4.parse(error[header.header_length:])
    assert (message.type, message.code, message.rest) == (3, 3, 0)
    assert message.payload == packet[:quoted] and len(error) <= 576
    assert policy.counters == {"sent": 1}


@pytest.mark.parametrize("length, quoted", [(16, 56), (1192, 1232), (1193, 1232), (1460, 1232)])
def test_ipv6_error_quotes_up_to_1280_bytes(policy, length, quoted):
    packet = packet6(UDP + bytes(length - 16))
    error = ask(policy, packet, UNREACHABLE6)
    header = ipv6.parse(error)
    assert (header.source, header.destination, header.next_header, header.hop_limit) == (US6, PEER6, 58, 33)
    message = icmpv6.parse(error[40:], US6, PEER6)
    assert (message.type, message.code, message.rest) == (1, 4, 0)
    assert message.payload == packet[:quoted] and len(error) <= 1280


def test_link_padding_is_not_quoted(policy):
    error = ask(policy, packet4(UDP) + bytes(10), UNREACHABLE4)
    assert icmpv4.parse(error[20:]).payload == packet4(UDP)
    error = ask(policy, packet6(UDP) + bytes(10), UNREACHABLE6)
    assert icmpv6.parse(error[40:], US6, PEER6).payload == packet6(UDP)


def test_info_stands_where_the_type_has_it(policy):
    message = icmpv4.parse(ask(policy, packet4(), (icmpv4.DESTINATION_UNREACHABLE, 4), info=1400)[20:])
    assert message.next_hop_mtu == 1400
    message = icmpv4.parse(ask(policy, packet4(), (icmpv4.PARAMETER_PROBLEM, 0), info=21)[20:])
    assert message.pointer == 21
    message = icmpv6.parse(ask(policy, packet6(), TOO_BIG, info=1300)[40:], US6, PEER6)
    assert message.mtu == 1300
    message = icmpv6.parse(ask(policy, packet6(), BAD_FIELD, info=42)[40:], US6, PEER6)
    assert message.pointer == 42


# --- what is not ---

@pytest.mark.parametrize("packet, link_broadcast, reason", [
    (packet4(icmpv4.emit(icmpv4.unreachable(3, packet4())), protocol=1), False, "icmp_error"),
    (packet4(icmpv4.emit(icmpv4.time_exceeded(0, packet4())), protocol=1), False, "icmp_error"),
    (packet4(icmpv4.emit(icmpv4.parameter_problem(1, packet4())), protocol=1), False, "icmp_error"),
    (packet4(b"\x05\x01" + bytes(6), protocol=1), False, "icmp_error"),
    (packet4(b"\x04\x00" + bytes(6), protocol=1), False, "icmp_error"),
    (packet4(b"", protocol=1), False, "malformed"),  # no telling what it was
    (packet4(fragment_offset=8), False, "fragment"),
    (packet4(destination=parse_address("255.255.255.255")), False, "broadcast"),
    (packet4(), True, "broadcast"),
    (packet4(destination=parse_address("224.0.0.1")), False, "multicast"),
    (packet4(source=parse_address("0.0.0.0")), False, "source"),
    (packet4(source=parse_address("127.0.0.1")), False, "source"),
    (packet4(source=parse_address("224.0.0.1")), False, "source"),
    (packet4(source=parse_address("255.255.255.255")), False, "source"),
    (packet4(source=parse_address("240.0.0.1")), False, "source"),
    (b"\x45" + bytes(18), False, "malformed"),
    (b"\x44" + bytes(30), False, "malformed"),
    (b"", False, "malformed"),
])
def test_ipv4_silence(policy, packet, link_broadcast, reason):
    assert ask(policy, packet, UNREACHABLE4, link_broadcast=link_broadcast) is None
    assert policy.counters == {reason: 1}


@pytest.mark.parametrize("packet", [
    packet4(icmpv4.emit(icmpv4.echo_request(1, 2, b"x")), protocol=1),
    packet4(flags=ipv4.MORE_FRAGMENTS),  # the first fragment
    packet4(TCP, protocol=6),
    packet4(options=b"\x44\x04\x05\x00"),
])
def test_ipv4_no_silence_beyond_need(policy, packet):
    assert ask(policy, packet, UNREACHABLE4) is not None


def icmp6(message, **fields):
    return packet6(icmpv6.emit(message, PEER6, US6), next_header=58, **fields)


DESTINATION_OPTIONS = bytes([58, 0, 0x80, 4]) + bytes(4)  # with an option that is not known

SILENT6 = [
    (icmp6(icmpv6.unreachable(4, packet6())), UNREACHABLE6, False, "icmp_error"),
    (icmp6(icmpv6.Icmpv6Message(100, 0, 0, bytes(8))), UNREACHABLE6, False, "icmp_error"),
    (icmp6(icmpv6.Icmpv6Message(137, 0, 0, bytes(32))), UNREACHABLE6, False, "icmp_error"),
    (packet6(DESTINATION_OPTIONS + icmpv6.emit(icmpv6.unreachable(4, b""), PEER6, US6),
             next_header=ipv6.DESTINATION_OPTIONS), BAD_OPTION, False, "icmp_error"),
    (packet6(b"", next_header=58), UNREACHABLE6, False, "malformed"),
    (fragment6(8), UNREACHABLE6, False, "fragment"),
    (fragment6(8), (icmpv6.TIME_EXCEEDED, 1), False, "fragment"),
    (packet6(destination=parse_address("ff02::1")), UNREACHABLE6, False, "multicast"),
    (packet6(destination=parse_address("ff02::1")), BAD_FIELD, False, "multicast"),
    (packet6(), UNREACHABLE6, True, "broadcast"),
    (packet6(source=parse_address("::")), TOO_BIG, False, "source"),
    (packet6(source=parse_address("ff02::1")), BAD_OPTION, False, "source"),
    (packet6(source=parse_address("::1")), UNREACHABLE6, False, "source"),
    (packet6()[:39], UNREACHABLE6, False, "malformed"),
    (packet6(b"\x11\x09", next_header=ipv6.DESTINATION_OPTIONS), UNREACHABLE6, False, "malformed"),
]


@pytest.mark.parametrize("packet, kind_and_code, link_broadcast, reason", SILENT6)
def test_ipv6_silence(policy, packet, kind_and_code, link_broadcast, reason):
    assert ask(policy, packet, kind_and_code, link_broadcast=link_broadcast) is None
    assert policy.counters == {reason: 1}


@pytest.mark.parametrize("packet, kind_and_code, link_broadcast", [
    (packet6(destination=parse_address("ff02::1")), TOO_BIG, True),
    (packet6(destination=parse_address("ff02::1")), BAD_OPTION, True),
    (icmp6(icmpv6.echo_request(1, 2, b"x")), UNREACHABLE6, False),
    (fragment6(0), UNREACHABLE6, False),
    (fragment6(0), (icmpv6.TIME_EXCEEDED, 1), False),
    (fragment6(8), BAD_FIELD, False),
    (fragment6(8, 58), BAD_FIELD, False),
    (packet6(b"", next_header=59), BAD_FIELD, False),
])
def test_ipv6_no_silence_beyond_need(policy, packet, kind_and_code, link_broadcast):
    assert ask(policy, packet, kind_and_code, link_broadcast=link_broadcast) is not None


def test_rate_is_limited():
    policy = IcmpErrorPolicy(StackConfig(icmp_errors_per_second=10.0, icmp_error_burst=3))
    assert [ask(policy, packet4(), UNREACHABLE4, now=5.0) is not None for _ in range(5)] == [True] * 3 + [False] * 2
    assert ask(policy, packet6(), UNREACHABLE6, now=5.05) is None  # one bucket for both families
    assert ask(policy, packet6(), UNREACHABLE6, now=5.101) is not None
    assert ask(policy, packet4(), UNREACHABLE4, now=5.102) is None
    # a long silence saves up no more than the burst
    assert sum(ask(policy, packet4(), UNREACHABLE4, now=1000.0) is not None for _ in range(10)) == 3
    assert policy.counters == {"sent": 7, "rate_limited": 11}


def test_suppressed_errors_take_no_token():
    policy = IcmpErrorPolicy(StackConfig(icmp_errors_per_second=1.0, icmp_error_burst=1))
    for _ in range(5):
        ask(policy, packet4(), UNREACHABLE4, link_broadcast=True)
    assert ask(policy, packet4(), UNREACHABLE4) is not None


# --- received errors ---

def test_port_unreachable_names_the_socket():
    quote = packet4(UDP, US, PEER)
    error = icmpv4.emit(icmpv4.unreachable(3, quote))
    assert parse_error(4, error) == QuotedPacket(3, 3, 0, US, PEER, 17, 40000, 53, None, len(quote))
    quote = packet6(UDP, US6, PEER6)
    error = icmpv6.emit(icmpv6.unreachable(4, quote), PEER6, US6)
    assert parse_error(6, error) == QuotedPacket(1, 4, 0, US6, PEER6, 17, 40000, 53, None, len(quote))


def test_too_big_carries_mtu_and_tcp_sequence():
    quote = packet4(TCP + bytes(1460), US, PEER, 6)
    error = icmpv4.emit(icmpv4.unreachable(icmpv4.FRAGMENTATION_NEEDED, quote[:28], 1400))
    assert parse_error(4, error) == QuotedPacket(3, 4, 1400, US, PEER, 6, 40000, 80, 0x01020304, 1500)
    quote = packet6(TCP + bytes(1440), US6, PEER6, 6)
    error = icmpv6.emit(icmpv6.packet_too_big(1300, quote), PEER6, US6)
    assert parse_error(6, error) == QuotedPacket(2, 0, 1300, US6, PEER6, 6, 40000, 80, 0x01020304, 1500)


def test_parameter_problem_carries_its_pointer():
    assert parse_error(4, icmpv4.emit(icmpv4.parameter_problem(20, packet4(UDP, US, PEER)))).info == 20
    problem = icmpv6.emit(icmpv6.parameter_problem(1, 40, packet6(UDP, US6, PEER6)), PEER6, US6)
    assert (parse_error(6, problem).kind, parse_error(6, problem).code, parse_error(6, problem).info) == (4, 1, 40)


def test_info_is_read_only_where_there_is_one():
    quote = packet4(UDP, US, PEER)
    other = icmpv4.Icmpv4Message(icmpv4.DESTINATION_UNREACHABLE, icmpv4.PORT_UNREACHABLE, 1400, quote)
    assert parse_error(4, icmpv4.emit(other)).info == 0
    other = icmpv4.Icmpv4Message(icmpv4.TIME_EXCEEDED, 4, 1400, quote)
    assert parse_error(4, icmpv4.emit(other)).info == 0
    too_big = icmpv6.emit(icmpv6.packet_too_big(0x01020304, packet6(UDP, US6, PEER6)), PEER6, US6)
    assert parse_error(6, too_big).info == 0x01020304  # all four bytes


def test_least_quote_that_names_a_socket():
    assert parse_error(4, icmpv4.emit(icmpv4.unreachable(3, packet4(UDP, US, PEER)[:24]))).remote_port == 53
    quote = packet4(TCP, US, PEER, 6)[:28]
    assert parse_error(4, icmpv4.emit(icmpv4.unreachable(3, quote))).sequence == 0x01020304


def test_quoted_echo_has_identifier_and_sequence():
    echo = icmpv4.emit(icmpv4.echo_request(0xABCD, 9, b"x"))
    quoted = parse_error(4, icmpv4.emit(icmpv4.time_exceeded(0, packet4(echo, US, PEER, 1))))
    assert (quoted.local_port, quoted.remote_port, quoted.sequence) == (0xABCD, 0, 9)
    echo = icmpv6.emit(icmpv6.echo_request(0xABCD, 9, b"x"), US6, PEER6)
    quoted = parse_error(6, icmpv6.emit(icmpv6.time_exceeded(0, packet6(echo, US6, PEER6, 58)), PEER6, US6))
    assert (quoted.local_port, quoted.remote_port, quoted.sequence) == (0xABCD, 0, 9)


def test_ports_are_found_behind_options_and_extensions():
    quote = packet4(UDP, US, PEER, options=b"\x01" * 8)
    assert parse_error(4, icmpv4.emit(icmpv4.unreachable(3, quote))).remote_port == 53
    quote = packet6(bytes([44, 0, 1, 4]) + bytes(4) + ipv6.emit_fragment(ipv6.FragmentHeader(17, 0, True, 1)) + UDP,
                    US6, PEER6, ipv6.DESTINATION_OPTIONS)
    assert parse_error(6, icmpv6.emit(icmpv6.unreachable(4, quote), PEER6, US6)).remote_port == 53


def test_unknown_ipv6_error_goes_to_its_endpoint():
    error = icmpv6.emit(icmpv6.Icmpv6Message(100, 3, 7, packet6(UDP, US6, PEER6)), PEER6, US6)
    assert (parse_error(6, error).kind, parse_error(6, error).code, parse_error(6, error).info) == (100, 3, 0)


def test_other_protocols_have_no_ports():
    assert parse_error(4, icmpv4.emit(icmpv4.unreachable(2, packet4(b"", US, PEER, 132)))) == QuotedPacket(
        3, 2, 0, US, PEER, 132, 0, 0, None, 20)


@pytest.mark.parametrize("family, message", [
    (4, icmpv4.emit(icmpv4.echo_request(1, 2, packet4()))),
    (4, icmpv4.emit(icmpv4.Icmpv4Message(icmpv4.SOURCE_QUENCH, 0, 0, packet4()))),
    (4, icmpv4.emit(icmpv4.Icmpv4Message(icmpv4.REDIRECT, 1, 0, packet4()))),
    (4, icmpv4.emit(icmpv4.unreachable(3, packet4(fragment_offset=8)))),
    (4, icmpv4.emit(icmpv4.unreachable(3, packet4(UDP[:3])))),
    (4, icmpv4.emit(icmpv4.unreachable(3, packet4(TCP, protocol=6)[:27]))),
    (4, icmpv4.emit(icmpv4.unreachable(3, packet4()[:19]))),
    (4, icmpv4.emit(icmpv4.unreachable(3, packet6()))),
    (6, icmpv6.emit(icmpv6.unreachable(4, packet4()), PEER6, US6)),
    (6, icmpv6.emit(icmpv6.echo_request(1, 2, packet6()), PEER6, US6)),
    (6, icmpv6.emit(icmpv6.unreachable(4, fragment6(8)), PEER6, US6)),
    (6, icmpv6.emit(icmpv6.unreachable(4, packet6(b"\x11\x09", next_header=60)), PEER6, US6)),
    (4, b""), (6, b"\x01"),
])
def test_what_concerns_no_endpoint(family, message):
    assert parse_error(family, message) is None


@given(st.sampled_from([4, 6]), st.binary(max_size=120), st.integers(0, 5))
def test_no_bytes_raise(family, noise, kind):
    parse_error(family, bytes([kind]) + noise)
    version = bytes([0x45 if family == 4 else 0x60])
    parse_error(family, bytes([3 if family == 4 else 1, 0]) + bytes(6) + version + noise)
    policy = IcmpErrorPolicy(StackConfig())
    error = ask(policy, version + noise, UNREACHABLE4 if family == 4 else UNREACHABLE6)
    assert (error is not None) == (policy.counters["sent"] == 1) and policy.counters.total() == 1
