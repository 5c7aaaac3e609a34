"""From text to events, and what is said of text that is none."""

import pytest

from swos_net.testing.packetdrill import ScriptError, parse_script
from swos_net.testing.packetdrill.script import (
    Array,
    CodeBlock,
    Command,
    Ecn,
    EventTime,
    IcmpPacket,
    Name,
    Number,
    PacketEvent,
    SystemCall,
    TcpOption,
    TcpPacket,
    TimeKind,
    UdpPacket,
)


def only(text):
    (event,) = parse_script(text).events
    return event


def packet(text):
    return only(f"0 < {text}").action.packet


@pytest.mark.parametrize(
    "text, time",
    [
        ("0", EventTime(TimeKind.ABSOLUTE)),
        ("1.5", EventTime(TimeKind.ABSOLUTE, 1_500_000)),
        ("+0", EventTime(TimeKind.RELATIVE)),
        ("+.002", EventTime(TimeKind.RELATIVE, 2_000)),
        ("+ 0.000001", EventTime(TimeKind.RELATIVE, 1)),
        ("*", EventTime(TimeKind.ANY)),
        ("1~1.5", EventTime(TimeKind.ABSOLUTE_RANGE, 1_000_000, 1_500_000)),
        ("+.1~+.25", EventTime(TimeKind.RELATIVE_RANGE, 100_000, 250_000)),
    ],
)
def test_times(text, time):
    assert only(f"{text} > . 1:1(0) ack 1").time == time


@pytest.mark.parametrize(
    "text, expected",
    [
        ("S 0:0(0) win 65535 <mss 1000,sackOK>",
         TcpPacket("S", 0, 0, 0, None, 65535, None, (TcpOption("mss", (1000,)), TcpOption("sackOK")))),
        (". 1:1001(1000) ack 1", TcpPacket(".", 1, 1001, 1000, 1)),
        ("P. 1:11(10) ack 5 win 0 <...>", TcpPacket("P.", 1, 11, 10, 5, 0, options=None)),
        ("U. 1:2(1) ack 1 urg 1", TcpPacket("U.", 1, 2, 1, 1, urgent=1)),
        (". 1:1(0) ack 1 <nop,nop,sack 1001:2001 3001:4001>",
         TcpPacket(".", 1, 1, 0, 1, options=(TcpOption("nop"), TcpOption("nop"), TcpOption("sack", ((1001, 2001), (3001, 4001)))))),
        (". 1:1(0) ack 1 <nop,nop,TS val 5 ecr 6>",
         TcpPacket(".", 1, 1, 0, 1, options=(TcpOption("nop"), TcpOption("nop"), TcpOption("TS", (5, 6))))),
        ("40000>8080 S 0:0(0) win 1", TcpPacket("S", 0, 0, 0, None, 1, ports=(40000, 8080))),
        ("S. ...(0) ack 7", TcpPacket("S.", None, None, 0, 7)),
        ("R 5:5(0)!", TcpPacket("R", 5, 5, 0, absolute=True)),
        ("udp (1000)", UdpPacket(1000)),
        ("icmp unreachable frag_needed mtu 1200 [1:1001(1000)]",
         IcmpPacket("unreachable", "frag_needed", 1200, quoted=TcpPacket("", 1, 1001, 1000))),
    ],
)  # fmt: skip
def test_packets(text, expected):
    found = packet(text)
    if isinstance(found, IcmpPacket):
        assert (found.type, found.code, found.mtu) == (expected.type, expected.code, expected.mtu)
        assert (found.quoted.start, found.quoted.length) == (1, 1000)
    else:
        assert found == expected


@pytest.mark.parametrize("word, ecn", [("noecn", Ecn.NOT_ECT), ("ect0", Ecn.ECT0), ("ect1", Ecn.ECT1), ("ce", Ecn.CE)])
def test_ip_fields(word, ecn):
    assert only(f"0 < [{word}] . 1:1(0) ack 1 win 1").action.ip.ecn is ecn


def test_system_calls():
    event = only("+.1...0.3 read(4, ..., 1000) = -1 EAGAIN (Resource temporarily unavailable)")
    call = event.action
    assert isinstance(call, SystemCall) and call.name == "read" and call.end == 300_000
    assert (call.error, call.note) == ("EAGAIN", "Resource temporarily unavailable")
    call = only("0 setsockopt(3, SOL_SOCKET, SO_REUSEADDR, [1], 4) = 0").action
    assert call.arguments[1] == Name("SOL_SOCKET") and call.arguments[3] == Array((Number(1),)) and call.result == Number(0)


def test_the_order_of_things():
    script = parse_script("""--tolerance_usecs=10
// a remark
`sysctl -w a=1`
0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3  # another
/* and
   another */
+0 %{ assert True }%
+0 `true`
+0 > S 0:0(0) <...>
`cleanup`
""")
    assert script.options == [("tolerance_usecs", "10")]
    assert script.setup == [Command("sysctl -w a=1")] and script.cleanup == [Command("cleanup")]
    assert [type(event.action) for event in script.events] == [SystemCall, CodeBlock, Command, PacketEvent]
    assert [event.line for event in script.events] == [4, 7, 8, 9]


@pytest.mark.parametrize("defined, flags", [((), "F"), (("STANDARD",), "R."), (("FreeBSD",), "S."), (("STANDARD", "FreeBSD"), "R.")])
def test_sections(defined, flags):
    text = "#ifdef STANDARD\n0 > R. 1:1(0) ack 1\n#else\n#ifdef FreeBSD\n0 > S. 1:1(0) ack 1\n#else\n0 > F 1:1(0)\n#endif\n#endif\n"
    (event,) = parse_script(text, defined=defined).events
    assert event.action.packet.flags == flags


@pytest.mark.parametrize(
    "text, line",
    [
        ("0 < Q 0:0(0) win 1", 1),
        ("0 socket(", 1),
        ("\n\n+ > . 1:1(0) ack 1", 3),
        ("0 > . 1:5(3) ack 1", 1),
        ("0 > . 1:1(0) ack 1 <mss>", 1),
        ("`never closed", 1),
        ("0 %{ assert True", 1),
        ("#ifdef A\n0 `true`\n", 1),
        ("0 read(3, ..., 10)", 1),
    ],
)
def test_what_is_no_script(text, line):
    with pytest.raises(ScriptError) as told:
        parse_script(text, "some.pkt")
    assert told.value.line in (line, line + 1, line + 2) and told.value.message
