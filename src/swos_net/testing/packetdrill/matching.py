"""Whether a packet the stack sent is the one that a script expects, and if not, in what it differs."""

from dataclasses import dataclass

from swos_net.testing.packetdrill.flows import Flow
from swos_net.testing.packetdrill.live import LivePacket, LiveTcp, flag_bits, flag_text
from swos_net.testing.packetdrill.packet_text import option_text
from swos_net.testing.packetdrill.script import Ecn, IpFields, TcpOption, TcpPacket
from swos_net.wire.tcp import ACK, FIN, PSH

_MASK = 0xFFFFFFFF
_PADDING = ("nop", "eol")


@dataclass(frozen=True, slots=True)
class Rules:
    """How exact a comparison is.  `tick_usecs` is the length of one tick of our timestamps, 0: they are not checked."""

    options_in_order: bool = True
    check_window: bool = True
    tick_usecs: int = 0
    tolerance_usecs: int = 4000
    mss: int = 1460


def ip_differences(expected: IpFields, packet: LivePacket) -> list[str]:
    differences = []
    if expected.ecn is not None:
        ecn = Ecn(packet.tos & 3)
        if ecn is not expected.ecn and not (expected.ecn is Ecn.ECT_ANY and ecn in (Ecn.ECT0, Ecn.ECT1)):
            differences.append(f"ECN {expected.ecn.name} expected, {ecn.name} seen")
    if expected.tos is not None and packet.tos != expected.tos:
        differences.append(f"TOS {expected.tos:#04x} expected, {packet.tos:#04x} seen")
    if expected.ttl is not None and packet.ttl != expected.ttl:
        differences.append(f"TTL {expected.ttl} expected, {packet.ttl} seen")
    if expected.flow_label is not None and packet.flow_label != expected.flow_label:
        differences.append(f"flow label {expected.flow_label:#x} expected, {packet.flow_label:#x} seen")
    return differences


def tcp_differences(expected: TcpPacket, seen: LiveTcp, flow: Flow, rules: Rules) -> list[str]:
    """`seen` is in the script's numbers (`Flow.outbound`), except for an absolute packet, where it is as on the wire."""
    differences = []
    flags = flag_bits(expected.flags)
    if flags != seen.flags:
        differences.append(f"flags {flag_text(flags)} expected, {flag_text(seen.flags)} seen")
    if expected.start is not None and expected.start & _MASK != seen.seq:
        differences.append(f"sequence number {expected.start} expected, {seen.seq} seen")
    if expected.length != seen.length:
        differences.append(f"{expected.length} bytes expected, {seen.length} seen")
    if flags & ACK and expected.ack is not None and expected.ack & _MASK != seen.ack:
        differences.append(f"ack {expected.ack} expected, {seen.ack} seen")
    if rules.check_window and expected.window is not None and expected.window != seen.window:
        differences.append(f"win {expected.window} expected, {seen.window} seen")
    if expected.urgent is not None and expected.urgent != seen.urgent:
        differences.append(f"urg {expected.urgent} expected, {seen.urgent} seen")
    if expected.options is not None:
        differences += option_differences(expected.options, seen.options, flow, rules)
    return differences


def option_differences(
    expected: tuple[TcpOption, ...], seen: tuple[TcpOption, ...], flow: Flow, rules: Rules
) -> list[str]:
    """Options in their order with their padding, or without both when `rules` say so."""
    if not rules.options_in_order:
        expected = tuple(sorted((option for option in expected if option.kind not in _PADDING), key=_kind))
        seen = tuple(sorted((option for option in seen if option.kind not in _PADDING), key=_kind))
    if [option.kind for option in expected] != [option.kind for option in seen]:
        return [f"options <{_options_text(expected)}> expected, <{_options_text(seen)}> seen"]
    differences = []
    for wanted, shown in zip(expected, seen):
        if wanted.kind == "TS":
            differences += _timestamp_differences(wanted, shown, flow, rules)
        elif wanted.kind == "mss" and wanted.values == ("MSS",):
            if shown.values != (rules.mss,):
                differences.append(f"mss {rules.mss} expected, {shown.values[0]} seen")
        elif wanted.kind == "md5" and isinstance(wanted.values[0], str):
            continue  # "valid": who signs must say whether it is
        elif wanted.values != shown.values:
            differences.append(f"<{option_text(wanted)}> expected, <{option_text(shown)}> seen")
    return differences


def _timestamp_differences(wanted: TcpOption, shown: TcpOption, flow: Flow, rules: Rules) -> list[str]:
    differences = []
    if wanted.values[1] != shown.values[1]:
        differences.append(f"TS ecr {wanted.values[1]} expected, {shown.values[1]} seen")
    if rules.tick_usecs and flow.first_timestamp is not None:
        script, wire = flow.first_timestamp
        behind = _signed((wanted.values[0] - script) - (shown.values[0] - wire))
        if abs(behind) * rules.tick_usecs > max(rules.tolerance_usecs, rules.tick_usecs):
            seen = (shown.values[0] - wire + script) & _MASK
            differences.append(f"TS val {wanted.values[0]} expected, {seen} seen")
    return differences


def may_continue(first: LiveTcp, following: LiveTcp) -> bool:
    """Whether two sent segments are pieces of what could have been one: the next bytes, nothing else new."""
    same = ~(PSH | FIN)
    return (
        following.seq == (first.seq + first.length) & _MASK
        and following.length > 0
        and not first.flags & FIN
        and first.flags & same == following.flags & same
        and first.ack == following.ack
    )


def merged(first: LiveTcp, following: LiveTcp) -> LiveTcp:
    """Two pieces as one: the numbers of the first, the flags of both, the window of the last."""
    return LiveTcp(first.source_port, first.destination_port, first.seq, first.ack, first.flags | following.flags,
                   following.window, first.urgent, first.options, first.length + following.length)  # fmt: skip


def _kind(option: TcpOption) -> str:
    return option.kind


def _options_text(options: tuple[TcpOption, ...]) -> str:
    return ",".join(map(option_text, options))


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 32) if value & 0x80000000 else value
