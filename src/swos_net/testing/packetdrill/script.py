"""What a script says, as data: events in their order, packets and system calls as they are written.

Numbers are those of the script: relative sequence numbers, its own timestamps and descriptors.  Nothing here knows the
stack.  parser.py makes these, runner.py acts on them.
"""

from dataclasses import dataclass, field
from enum import IntEnum


class TimeKind(IntEnum):
    ABSOLUTE = 0  # 1.5: since the start
    RELATIVE = 1  # +.1: since the event before
    ANY = 2  # *: whenever it happens
    ABSOLUTE_RANGE = 3  # 1~1.5
    RELATIVE_RANGE = 4  # +.1~+.2


@dataclass(frozen=True, slots=True)
class EventTime:
    """Microseconds; `end` belongs to ranges."""

    kind: TimeKind
    usecs: int = 0
    end: int = 0


# Expressions: the arguments and results of system calls


@dataclass(frozen=True, slots=True)
class Anything:
    """`...`"""

    def __str__(self) -> str:
        return "..."


@dataclass(frozen=True, slots=True)
class Number:
    value: int

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Name:
    """A constant, a flag or an errno."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Text:
    """A string in quotes; `open` when `...` follows it: only the beginning counts."""

    value: bytes
    open: bool = False

    def __str__(self) -> str:
        return repr(self.value)[1:] + ("..." if self.open else "")


@dataclass(frozen=True, slots=True)
class Operation:
    """`left | right` and the like; `left` is None for a sign or `~` before `right`."""

    operator: str
    left: "Expression | None"
    right: "Expression"

    def __str__(self) -> str:
        return f"{self.operator}{self.right}" if self.left is None else f"{self.left}{self.operator}{self.right}"


@dataclass(frozen=True, slots=True)
class Call:
    """`htons(8080)`, `inet_addr("1.2.3.4")`, and `msg_iov(2)` before its `=`."""

    name: str
    arguments: tuple["Expression", ...]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.arguments))})"


@dataclass(frozen=True, slots=True)
class Assignment:
    """`name = value` inside a structure; `count` is the number in parentheses after the name, as in `msg_iov(2)=`."""

    name: str
    value: "Expression"
    count: "Expression | None" = None

    def __str__(self) -> str:
        return f"{self.name}{f'({self.count})' if self.count is not None else ''}={self.value}"


@dataclass(frozen=True, slots=True)
class Array:
    items: tuple["Expression", ...]

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.items))}]"


@dataclass(frozen=True, slots=True)
class Structure:
    """`{...}`: fields by name where they have one, else by place."""

    items: tuple["Expression", ...]

    def fields(self) -> dict[str, "Expression"]:
        return {item.name: item.value for item in self.items if isinstance(item, Assignment)}

    def __str__(self) -> str:
        return f"{{{', '.join(map(str, self.items))}}}"


Expression = Anything | Number | Name | Text | Operation | Call | Assignment | Array | Structure


@dataclass(frozen=True, slots=True)
class SystemCall:
    """`end` is the time after `...`, in microseconds, when the call is meant to block."""

    name: str
    arguments: tuple[Expression, ...]
    result: Expression
    error: str | None = None
    note: str = ""
    end: int | None = None


# Packets


class Ecn(IntEnum):
    """The two ECN bits of the IP header (RFC 3168 5); ECT_ANY is either of the ECT code points."""

    NOT_ECT = 0
    ECT1 = 1
    ECT0 = 2
    CE = 3
    ECT_ANY = 4


@dataclass(frozen=True, slots=True)
class IpFields:
    """None: not said, so not checked; on the way in the usual value.  `tos` is the whole byte, ECN included."""

    ecn: Ecn | None = None
    tos: int | None = None
    ttl: int | None = None
    flow_label: int | None = None
    other: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TcpOption:
    """One option in the script's words: `kind` is "mss", "wscale", "sackOK", "sack", "TS", "nop", "eol", "md5", "FO",
    "FOEXP", "ECN", or a word nobody here knows, whose text is then all there is in `values`.

    `values` are its numbers; for "sack" pairs (left, right), for "ECN" pairs (name, number), for cookies bytes.
    """

    kind: str
    values: tuple = ()


@dataclass(frozen=True, slots=True)
class TcpPacket:
    """`start` and `end` are None where the script has `...`.  `flags` is the text ("S.", "P.", "SEW", "-").

    `options` is None for `<...>`; an empty tuple says that there are none.  `ack`, `window` and `urgent` are None when
    they are not written.  `absolute`: the sequence numbers are those of the wire.  The value of "mss" may be a name.
    """

    flags: str
    start: int | None
    end: int | None
    length: int
    ack: int | None = None
    window: int | None = None
    urgent: int | None = None
    options: tuple[TcpOption, ...] | None = ()
    ports: tuple[int, int] | None = None
    udp_ports: tuple[int, int] | None = None  # of the UDP datagram that carries the segment
    absolute: bool = False


@dataclass(frozen=True, slots=True)
class UdpPacket:
    length: int
    ports: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class IcmpPacket:
    """An ICMP message of the script's family.  `quoted` is the packet it is about, if one is written: a TcpPacket, a
    UdpPacket, or a number of bytes."""

    type: str
    code: str | None = None
    mtu: int | None = None
    identifier: int | None = None
    quoted: "TcpPacket | UdpPacket | int | None" = None


@dataclass(frozen=True, slots=True)
class PacketEvent:
    """`wrapped` names the headers around the packet's own ("ipv4 ...", "gre", "mpls ..."), outermost first."""

    inbound: bool
    packet: TcpPacket | UdpPacket | IcmpPacket
    ip: IpFields = IpFields()
    wrapped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """Shell text between backticks."""

    text: str


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """Python between %{ and }%."""

    text: str


Action = PacketEvent | SystemCall | Command | CodeBlock


@dataclass(frozen=True, slots=True)
class Event:
    """`text` is the script's own, for messages."""

    line: int
    time: EventTime
    action: Action
    text: str


@dataclass(slots=True)
class Script:
    """`options` are those of the head in their order, without the dashes; `setup` and `cleanup` are the commands
    before the first and after the last event."""

    path: str
    options: list[tuple[str, str]] = field(default_factory=list)
    setup: list[Command] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    cleanup: list[Command] = field(default_factory=list)
