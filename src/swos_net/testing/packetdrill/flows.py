"""What a script's numbers mean on the wire: ports, sequence numbers and timestamps of each connection.

A script counts sequence numbers from its own initial ones and timestamps from its own first one; the stack chooses
others.  A `Flow` learns them from the first packet that shows them, and translates both ways.  The other end is the
script, so the numbers of its segments are those on the wire.
"""

from dataclasses import dataclass, field

from swos_net.testing.packetdrill.live import LiveTcp, flag_bits
from swos_net.testing.packetdrill.script import TcpOption, TcpPacket
from swos_net.wire.tcp import ACK, SYN

_MASK = 0xFFFFFFFF


@dataclass(slots=True, eq=False)
class Flow:
    """One connection, seen from the stack.  `local_port` is 0 until the stack has chosen one.

    `offset` is what to add to a script's number of our side to get the wire's; None while nothing was sent.
    """

    protocol: int
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    offset: int | None = None
    script_ports: tuple[int, int] | None = None  # (local, remote) where the script writes other ones
    timestamps: dict[int, int] = field(default_factory=dict)  # script's value to the wire's
    first_timestamp: tuple[int, int] | None = None  # (script's, wire's)

    @property
    def ports(self) -> tuple[int, int]:
        return self.local_port, self.remote_port

    def forget_numbers(self) -> None:
        """A new incarnation: sequence numbers and timestamps are learned anew."""
        self.offset = None
        self.timestamps.clear()
        self.first_timestamp = None

    def to_wire(self, number: int) -> int:
        """A number of our side's sequence space, as the script counts, to the wire's."""
        return (number + (self.offset or 0)) & _MASK

    def to_script(self, number: int) -> int:
        return (number - (self.offset or 0)) & _MASK

    # Inbound

    def inbound(self, packet: TcpPacket, mss: int) -> LiveTcp:
        """The script's segment as it goes on the wire."""
        seq = packet.start or 0
        ack = packet.ack
        if ack is None:
            ack_on_wire = 0
        elif packet.absolute:
            ack_on_wire = ack
        else:
            ack_on_wire = self.to_wire(ack)
        options = tuple(self._inbound_option(option, mss) for option in packet.options or ())
        return LiveTcp(self.remote_port, self.local_port, seq & _MASK, ack_on_wire, flag_bits(packet.flags),
                       65535 if packet.window is None else packet.window, packet.urgent or 0, options,
                       packet.length)  # fmt: skip

    def _inbound_option(self, option: TcpOption, mss: int) -> TcpOption:
        if option.kind == "TS":
            return TcpOption("TS", (option.values[0], self.echo_to_wire(option.values[1])))
        if option.kind == "sack":  # the blocks are of our side's sequence space
            return TcpOption("sack", tuple((self.to_wire(left), self.to_wire(right)) for left, right in option.values))
        if option.kind == "mss" and option.values == ("MSS",):
            return TcpOption("mss", (mss,))
        return option

    def echo_to_wire(self, value: int) -> int:
        """A timestamp echo of the script: what it once saw, or as far from the first value as the script counts."""
        if value in self.timestamps:
            return self.timestamps[value]
        if self.first_timestamp is None or value == 0:
            return value
        script, wire = self.first_timestamp
        return (wire + value - script) & _MASK

    # Outbound

    def learn(self, expected: TcpPacket, seen: LiveTcp) -> None:
        """Takes the initial sequence number and the timestamp's offset from a packet that is taken for the expected."""
        if self.offset is None and not expected.absolute and expected.start is not None and seen.flags & SYN:
            self.offset = (seen.seq - expected.start) & _MASK
        wanted = next((option for option in expected.options or () if option.kind == "TS"), None)
        shown = next((option for option in seen.options if option.kind == "TS"), None)
        if wanted is not None and shown is not None:
            if self.first_timestamp is None:
                self.first_timestamp = wanted.values[0], shown.values[0]
            self.timestamps[wanted.values[0]] = shown.values[0]

    def outbound(self, seen: LiveTcp) -> LiveTcp:
        """A sent segment in the script's numbers; its timestamp stays the wire's."""
        return LiveTcp(seen.source_port, seen.destination_port, self.to_script(seen.seq), seen.ack if seen.flags & ACK else 0,
                       seen.flags, seen.window, seen.urgent, seen.options, seen.length)  # fmt: skip


class Flows:
    """The flows of a run; `current` is the one that packets without ports belong to."""

    def __init__(self, local: bytes, remote: bytes, first_remote_port: int):
        self.local = local
        self.remote = remote
        self.flows: list[Flow] = []
        self.current: Flow | None = None
        self.bound_port = 0
        self._remote_port = first_remote_port

    def next_remote_port(self) -> int:
        port = self._remote_port
        self._remote_port += 1
        return port

    def bound(self, port: int) -> None:
        """A socket was bound: packets without ports now go to it."""
        self.bound_port = port
        self.current = None

    def connecting(self, protocol: int, remote: bytes, remote_port: int, local_port: int = 0) -> Flow:
        """An active open; its local port may show with its first packet."""
        flow = Flow(protocol, self.local, local_port, remote, remote_port)
        self.flows.append(flow)
        self.current = flow
        return flow

    def arriving(self, protocol: int, script_ports: tuple[int, int] | None) -> Flow:
        """The flow of a packet from the script; `script_ports` are (source, destination) where it writes them."""
        if script_ports is not None:
            wanted = script_ports[1], script_ports[0]
            for flow in self.flows:
                if flow.protocol == protocol and wanted in (flow.ports, flow.script_ports):
                    return flow
            local_port, remote_port = self.bound_port or wanted[0], wanted[1]
            return self._add(Flow(protocol, self.local, local_port, self.remote, remote_port, script_ports=wanted))
        if self.current is not None and self.current.protocol == protocol:
            return self.current
        return self._add(Flow(protocol, self.local, self.bound_port, self.remote, self.next_remote_port()))

    def _add(self, flow: Flow) -> Flow:
        self.flows.append(flow)
        self.current = flow
        return flow

    def of_packet(self, protocol: int, local: bytes, local_port: int, remote: bytes, remote_port: int) -> Flow | None:
        """The flow of a packet that the stack sent; an active open takes the port shown by its first one."""
        for flow in reversed(self.flows):
            if flow.protocol == protocol and flow.ports == (local_port, remote_port) and flow.remote == remote:
                return flow
        for flow in self.flows:
            if flow.protocol == protocol and not flow.local_port and flow.remote_port == remote_port and flow.remote == remote:
                flow.local_port = local_port
                flow.local = local
                return flow
        return None

    def of_ports(self, protocol: int, local_port: int, remote_port: int) -> Flow | None:
        for flow in reversed(self.flows):
            if flow.protocol == protocol and flow.ports == (local_port, remote_port):
                return flow
        return None
