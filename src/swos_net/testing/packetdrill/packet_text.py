"""Packets in the words of a script, for messages."""

from swos_net.address import format_address
from swos_net.testing.packetdrill.live import ICMP, ICMPV6, LivePacket, LiveTcp, flag_text
from swos_net.testing.packetdrill.script import Ecn, TcpOption
from swos_net.wire.tcp import ACK

_ECN_TEXT = {Ecn.NOT_ECT: "noecn", Ecn.ECT0: "ect0", Ecn.ECT1: "ect1", Ecn.CE: "ce"}


def option_text(option: TcpOption) -> str:
    kind, values = option.kind, option.values
    if kind == "sack":
        return " ".join(["sack", *(f"{left}:{right}" for left, right in values)])
    if kind == "TS":
        return f"TS val {values[0]} ecr {values[1]}"
    if kind == "ECN":
        return " ".join(["ECN", *(f"{name} {count}" for name, count in values)])
    return " ".join([kind, *(value.hex() if isinstance(value, bytes) else str(value) for value in values)]).strip()


def tcp_text(segment: LiveTcp) -> str:
    """In the script's numbers, so after `Flow.outbound`."""
    words = [flag_text(segment.flags), f"{segment.seq}:{(segment.seq + segment.length) & 0xFFFFFFFF}({segment.length})"]
    if segment.flags & ACK:
        words.append(f"ack {segment.ack}")
    words.append(f"win {segment.window}")
    if segment.urgent:
        words.append(f"urg {segment.urgent}")
    if segment.options:
        words.append(f"<{','.join(map(option_text, segment.options))}>")
    return " ".join(words)


def packet_text(packet: LivePacket, segment: LiveTcp | None = None) -> str:
    """A sent packet; `segment` is its segment in the script's numbers, when there is a flow for it."""
    ecn = packet.tos & 3
    head = f"> [{_ECN_TEXT[Ecn(ecn)]}] " if ecn else "> "
    if segment is not None:
        return head + tcp_text(segment)
    transport = packet.transport
    if isinstance(transport, LiveTcp):
        return f"{head}{transport.source_port} > {transport.destination_port} {tcp_text(transport)}"
    if packet.protocol == 17 and transport is not None:
        return f"{head}udp {transport.source_port} > {transport.destination_port} ({packet.length})"
    if packet.protocol in (ICMP, ICMPV6) and transport is not None:
        return f"{head}icmp type {transport.type} code {transport.code}"
    return f"{head}protocol {packet.protocol} from {format_address(packet.source)} to {format_address(packet.destination)}"
