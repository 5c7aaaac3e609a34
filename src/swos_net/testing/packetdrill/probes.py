"""What programs that list sockets would print about the stack under test."""

from swos_net.address import format_address, is_ipv4, to_packed
from swos_net.stack.stack import Stack
from swos_net.tcp.state import State
from swos_net.testing.packetdrill.constants import TCP_STATES
from swos_net.testing.packetdrill.descriptors import OpenFile, Socket

_BSD_NAMES = {
    State.CLOSED: "CLOSED", State.SYN_SENT: "SYN_SENT", State.SYN_RECEIVED: "SYN_RCVD", State.ESTABLISHED: "ESTABLISHED",
    State.FIN_WAIT_1: "FIN_WAIT_1", State.FIN_WAIT_2: "FIN_WAIT_2", State.CLOSE_WAIT: "CLOSE_WAIT", State.CLOSING: "CLOSING",
    State.LAST_ACK: "LAST_ACK", State.TIME_WAIT: "TIME_WAIT",
}  # fmt: skip
_LINUX_NUMBERS = {
    State.SYN_SENT: "TCP_SYN_SENT", State.SYN_RECEIVED: "TCP_SYN_RECV", State.ESTABLISHED: "TCP_ESTABLISHED",
    State.FIN_WAIT_1: "TCP_FIN_WAIT1", State.FIN_WAIT_2: "TCP_FIN_WAIT2", State.CLOSE_WAIT: "TCP_CLOSE_WAIT",
    State.CLOSING: "TCP_CLOSING", State.LAST_ACK: "TCP_LAST_ACK", State.TIME_WAIT: "TCP_TIME_WAIT",
}  # fmt: skip


def connection_lines(stack: Stack, files: dict[int, OpenFile], ports: set[int] | None) -> list[str]:
    """As FreeBSD's `sockstat -s -P tcp` lists TCP sockets, those without a descriptor too."""
    lines = []
    told = set()
    for number, file in files.items():
        if not isinstance(file, Socket) or file.core.type != 1:
            continue
        endpoint = getattr(file.core, "endpoint", None)
        owner = f"root packetdril 1000 {number} {'tcp4' if file.core.family == 2 else 'tcp6'}"
        if endpoint is not None:
            told.add(endpoint)
            name = _BSD_NAMES[endpoint.state]
            lines.append((endpoint.local_port, endpoint.remote_port, f"{owner} {_ends(endpoint)} {name}"))
        else:
            port = file.local_port
            lines.append((port, 0, f"{owner} *:{port or '*'} *:* {'LISTEN' if file.listening else 'CLOSED'}"))
    for endpoint in stack.tcp.flows.values():
        if endpoint not in told:
            family = "tcp4" if is_ipv4(endpoint.local) else "tcp6"
            line = f"? ? ? ? {family} {_ends(endpoint)} {_BSD_NAMES[endpoint.state]}"
            lines.append((endpoint.local_port, endpoint.remote_port, line))
    return [line for local, remote, line in lines if ports is None or local in ports or remote in ports]


def _ends(endpoint) -> str:
    return (
        f"{format_address(endpoint.local)}:{endpoint.local_port} {format_address(endpoint.remote)}:{endpoint.remote_port}"
    )


def proc_net_tcp(stack: Stack, files: dict[int, OpenFile], path: str) -> str:
    """/proc/net/tcp or /proc/net/tcp6, as far as scripts look: addresses, ports, states; "" for any other path."""
    if path not in ("/proc/net/tcp", "/proc/net/tcp6"):
        return ""
    ipv4 = path == "/proc/net/tcp"
    lines = ["  sl  local_address rem_address   st"]
    for file in files.values():
        if isinstance(file, Socket) and file.listening and (file.core.family == 2) == ipv4:
            anybody = "0" * (8 if ipv4 else 32)
            lines.append(f"   0: {anybody}:{file.local_port:04X} {anybody}:0000 {TCP_STATES['TCP_LISTEN']:02X} ")
    for endpoint in stack.tcp.flows.values():
        if is_ipv4(endpoint.local) == ipv4 and endpoint.state in _LINUX_NUMBERS:
            state = TCP_STATES[_LINUX_NUMBERS[endpoint.state]]
            local = _proc_address(endpoint.local, endpoint.local_port)
            lines.append(f"   0: {local} {_proc_address(endpoint.remote, endpoint.remote_port)} {state:02X} ")
    return "\n".join(lines) + "\n"


def _proc_address(address: bytes, port: int) -> str:
    words = to_packed(address)
    return "".join(words[at : at + 4][::-1].hex().upper() for at in range(0, len(words), 4)) + f":{port:04X}"
