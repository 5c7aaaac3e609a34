"""The shell commands of scripts, understood and not run: settings change the stack's configuration, probes ask it.

A command is a line of programs joined by `|`, `;`, `&&` or `||`.  PROGRAMS has the known ones; each gets its words, what
comes through the pipe and a `Shell`, and returns (status, text).  Unknown ones succeed and are noted.
"""

import ast
import operator
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from swos_net.address import parse_address
from swos_net.tcp.state import State
from swos_net.testing.packetdrill.probes import connection_lines, proc_net_tcp
from swos_net.testing.packetdrill.sysctls import UnknownSetting, apply_setting

if TYPE_CHECKING:
    from swos_net.testing.packetdrill.host import Host
    from swos_net.testing.packetdrill.system_calls import SystemCalls

Program = Callable[["Shell", list[str], str], tuple[int, str]]

_ARITHMETIC = re.compile(r"\$\(\(([0-9+*/ ()-]+)\)\)")
_ARITHMETIC_OPERATIONS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.floordiv,
}  # fmt: skip
_REDIRECTION = re.compile(r"\s*[12&]?>>?\s*(?:&\d|[^\s;|&]+)")
_CONTINUATION = re.compile(r"\\\n\s*")
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*$", re.MULTILINE)
_SEPARATOR = re.compile(r"\n|;|&&|\|\|?")


class Shell:
    """What the commands of one script act on.  `notes` collects what had no effect."""

    def __init__(self, host: "Host", process: "SystemCalls", notes: list[str]):
        self.host = host
        self.process = process
        self.notes = notes

    def run(self, text: str) -> int:
        """The exit status of the last program."""
        text = _CONTINUATION.sub(" ", text)
        text = _ARITHMETIC.sub(lambda match: _arithmetic(match[1]), text)
        text = _COMMENT.sub("", text)
        status, piped = 0, ""
        separator = "\n"
        for words, following in _programs(text):
            skipped = (separator == "&&" and status) or (separator == "||" and not status)
            if not skipped:
                status, output = self._program(words, piped if separator == "|" else "")
                piped = output
            separator = following
        return status

    def _program(self, words: list[str], piped: str) -> tuple[int, str]:
        words = [word for word in words if not re.fullmatch(r"[A-Za-z_]\w*=\S*", word) or word != words[0]]
        if not words:
            return 0, ""
        if words[0] in ("sudo", "exec", "command"):
            words = words[1:]
        name = words[0].rpartition("/")[2]
        program = PROGRAMS.get(name)
        if program is None:
            if not name.startswith("sysctl_restore"):
                self.note(" ".join(words))
            return 0, ""
        return program(self, words[1:], piped)

    def note(self, text: str) -> None:
        self.notes.append(text)


def _programs(text: str) -> list[tuple[list[str], str]]:
    """(words, what separates it from the next) of each program; quotes protect."""
    programs = []
    for line in text.split("\n"):
        line = _REDIRECTION.sub(" ", line)
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
        lexer.whitespace_split = True
        lexer.commenters = ""
        words: list[str] = []
        try:
            tokens = list(lexer)
        except ValueError:
            tokens = line.split()
        for token in tokens:
            if token and set(token) <= set(";|&"):
                programs.append((words, token))
                words = []
            else:
                words.append(token)
        programs.append((words, "\n"))
    return [(words, separator) for words, separator in programs if words or separator == "|"]


def _arithmetic(text: str) -> str:
    """`15*1024*1024` and the like; what is no arithmetic stays as it is."""
    try:
        return str(_value(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, ValueError, ZeroDivisionError):
        return text


def _value(node: ast.expr) -> int:
    match node:
        case ast.Constant(int(number)):
            return number
        case ast.BinOp(left, operation, right) if type(operation) in _ARITHMETIC_OPERATIONS:
            return _ARITHMETIC_OPERATIONS[type(operation)](_value(left), _value(right))
        case ast.UnaryOp(ast.USub(), operand):
            return -_value(operand)
    raise ValueError("no arithmetic")


# Settings


def _sysctl(shell: Shell, words: list[str], piped: str) -> tuple[int, str]:
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("-") or not equals:
            continue
        _set(shell, name, value)
    return 0, ""


def _set_sysctls(shell: Shell, words: list[str], piped: str) -> tuple[int, str]:
    """Google's helper: `set_sysctls.py /proc/sys/net/ipv4/tcp_x=y ...`."""
    for word in words:
        path, equals, value = word.partition("=")
        if equals:
            _set(shell, path.removeprefix("/proc/sys/").replace("/", "."), value)
    return 0, ""


def _set(shell: Shell, name: str, value: str) -> None:
    stack = shell.host.stack
    if name == "net.inet.tcp.recvspace" and shell.process.profile.segment_rounded_buffers:
        value = shell.process.set_receive_space(int(value))
    try:
        stack.config = apply_setting(stack.config, name, value)
    except UnknownSetting as error:
        shell.note(str(error))


def _defaults(shell: Shell, words: list[str], piped: str) -> tuple[int, str]:
    """`defaults.sh`, with which Google's scripts begin: the values it is known to set."""
    for name, value in _DEFAULTS.items():
        _set(shell, f"net.ipv4.{name}", value)
    return 0, ""


_DEFAULTS = {
    "tcp_rmem": "4096 540000 15728640",
    "tcp_wmem": "4096 262144 4194304",
    "tcp_timestamps": "1",
    "tcp_syn_retries": "5",
    "tcp_synack_retries": "5",
    "tcp_frto": "2",
    "tcp_sack": "1",
    "tcp_reordering": "3",
    "tcp_congestion_control": "cubic",
    "tcp_slow_start_after_idle": "0",
    "tcp_early_retrans": "4",
    "tcp_recovery": "1",
    "tcp_ecn": "0",
    "tcp_syncookies": "1",
}


def _ip(shell: Shell, words: list[str], piped: str) -> tuple[int, str]:
    """`ip route change DESTINATION ... mtu lock 1500 advmss 1460 initcwnd 10`; `ip tcp_metrics flush`."""
    words = [word for word in words if not word.startswith("-")]
    if words[:1] == ["tcp_metrics"]:
        return 0, ""
    if words[:1] not in (["route"], ["r"]) or len(words) < 3:
        shell.note("ip " + " ".join(words))
        return 0, ""
    values = {}
    for name in ("mtu", "advmss", "initcwnd", "initrwnd"):
        if name in words:
            at = words.index(name) + 1
            at += words[at : at + 1] == ["lock"]
            values[name] = int(words[at])
    if "initcwnd" in values:
        _apply_tcp(shell, initial_window_segments=values.pop("initcwnd"))
    if "mtu" in values:
        destination = words[2].partition("/")[0]
        stack, now = shell.host.stack, shell.host.now
        remote = parse_address(destination) if destination != "default" else parse_address(shell.process.remote)
        if not stack.path_mtus.update(remote, values["mtu"], now):
            shell.note(f"ip route mtu {values['mtu']}: not below the path's MTU")
        values.pop("mtu")
    for name, value in values.items():
        shell.note(f"ip route {name} {value}")
    return 0, ""


def _apply_tcp(shell: Shell, **changes: object) -> None:
    stack = shell.host.stack
    stack.config = replace(stack.config, tcp=replace(stack.config.tcp, **changes))


def _silent(shell: Shell, words: list[str], piped: str) -> tuple[int, str]:
    """Programs whose effect cannot be seen here."""
    return 0, ""


# Probes


def _sockstat(shell: Shell, words: list[str], piped: str) -> tuple[int, str]:
    """FreeBSD's list of sockets; `-p PORTS` and `-P PROTOCOLS` choose."""
    ports = None
    if "-p" in words:
        ports = {int(port) for port in words[words.index("-p") + 1].split(",")}
    lines = connection_lines(shell.host.stack, shell.process.files, ports)
    return 0, "".join(line + "\n" for line in lines)


def _tcpdrop(shell: Shell, words: list[str], piped: str) -> tuple[int, str]:
    """`tcpdrop -s STATE`: ends every connection in that state without a word."""
    if words[:1] != ["-s"] or len(words) < 2:
        shell.note("tcpdrop " + " ".join(words))
        return 1, ""
    wanted = words[1].replace("-", "_")
    for endpoint in list(shell.host.stack.tcp.flows.values()):
        if endpoint.state.name in (wanted, wanted.replace("RCVD", "RECEIVED")):
            if endpoint.state is State.TIME_WAIT:
                endpoint.connection.abort(shell.host.now)
            else:
                endpoint.connection.fail(104)
            endpoint.changed(shell.host.now)
    return 0, ""


def _grep(shell: Shell, words: list[str], piped: str) -> tuple[int, str]:
    options = [word for word in words if word.startswith("-") and len(word) > 1]
    rest = [word for word in words if word not in options]
    if not rest:
        return 2, ""
    text = piped
    if len(rest) > 1:
        text = "".join(proc_net_tcp(shell.host.stack, shell.process.files, path) for path in rest[1:])
    pattern = re.compile(rest[0] if "-F" not in options else re.escape(rest[0]), re.IGNORECASE if "-i" in options else 0)
    inverted = any("v" in option for option in options)
    lines = [line for line in text.splitlines() if bool(pattern.search(line)) != inverted]
    status = 0 if lines else 1
    if any("c" in option for option in options):
        return status, f"{len(lines)}\n"
    return status, "".join(line + "\n" for line in lines)


def _awk(shell: Shell, words: list[str], piped: str) -> tuple[int, str]:
    """`awk '{print $8}'`."""
    match = re.fullmatch(r"\s*\{\s*print\s+\$(\d+)\s*;?\s*\}\s*", words[0] if words else "")
    if match is None:
        shell.note("awk " + " ".join(words))
        return 0, piped
    column = int(match[1]) - 1
    rows = [line.split() for line in piped.splitlines()]
    return 0, "".join((row[column] if column < len(row) else "") + "\n" for row in rows)


def _cat(shell: Shell, words: list[str], piped: str) -> tuple[int, str]:
    return 0, "".join(proc_net_tcp(shell.host.stack, shell.process.files, path) for path in words) if words else piped


def _echo(shell: Shell, words: list[str], piped: str) -> tuple[int, str]:
    return 0, " ".join(word for word in words if word not in ("-n", "-e")) + "\n"


def _wc(shell: Shell, words: list[str], piped: str) -> tuple[int, str]:
    return 0, f"{len(piped.splitlines())}\n"


def _test(shell: Shell, words: list[str], piped: str) -> tuple[int, str]:
    words = [word for word in words if word != "]"]
    match words:
        case [left, "=" | "==", right]:
            return int(left != right), ""
        case [left, "!=", right]:
            return int(left == right), ""
        case [left, "-eq", right]:
            return int(int(left) != int(right)), ""
        case ["-n", left]:
            return int(not left), ""
        case ["-z", left]:
            return int(bool(left)), ""
    shell.note("test " + " ".join(words))
    return 0, ""


def _dd(shell: Shell, words: list[str], piped: str) -> tuple[int, str]:
    """`dd bs=1 count=5 of=FILE`: a file for sendfile(), which exists for this script alone."""
    values = dict(word.split("=", 1) for word in words if "=" in word)
    if "of" in values:
        shell.process.disk[values["of"]] = _size(values.get("bs", "512")) * int(values.get("count", "1"))
    return 0, ""


def _truncate(shell: Shell, words: list[str], piped: str) -> tuple[int, str]:
    if "-s" in words:
        shell.process.disk[words[-1]] = _size(words[words.index("-s") + 1])
    return 0, ""


def _rm(shell: Shell, words: list[str], piped: str) -> tuple[int, str]:
    for word in words:
        shell.process.disk.pop(word, None)
    return 0, ""


def _size(text: str) -> int:
    units = {"k": 1024, "K": 1024, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def _false(shell: Shell, words: list[str], piped: str) -> tuple[int, str]:
    return 1, ""


PROGRAMS: dict[str, Program] = {
    "sysctl": _sysctl, "set_sysctls.py": _set_sysctls, "defaults.sh": _defaults, "ip": _ip,
    "ethtool": _silent, "nstat": _silent, "kldload": _silent, "kldunload": _silent, "sleep": _silent, "true": _silent,
    ":": _silent, "sync": _silent, "tcpdrop": _tcpdrop, "sockstat": _sockstat, "grep": _grep, "egrep": _grep, "awk": _awk,
    "cat": _cat, "echo": _echo, "wc": _wc, "test": _test, "[": _test, "dd": _dd, "truncate": _truncate, "rm": _rm,
    "false": _false,
}  # fmt: skip
