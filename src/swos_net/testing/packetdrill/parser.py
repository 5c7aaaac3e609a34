"""From the text of a script to its events.

    script = parse_script(text, path="handshake.pkt")

The language is the one of packetdrill scripts: options (`--ip_version=ipv4`), a command, events, a command.  An event is
a time and a packet, a system call, shell text or Python.  Packets are read by packet_parser.py.
"""

import re
from collections.abc import Iterable

from swos_net.testing.packetdrill.packet_parser import parse_packet
from swos_net.testing.packetdrill.scanner import Scanner, ScriptError, select_sections
from swos_net.testing.packetdrill.script import (
    Action,
    Anything,
    Array,
    Assignment,
    Call,
    CodeBlock,
    Command,
    Event,
    EventTime,
    Expression,
    Name,
    Number,
    Operation,
    Script,
    Structure,
    SystemCall,
    Text,
    TimeKind,
)

_OPTION = re.compile(r"--?([A-Za-z][A-Za-z0-9_]*)(?:[ \t]*=[ \t]*|[ \t]+(?=[A-Za-z]\w*=))?")
_OPTION_VALUE = re.compile(r"(?:[^\s\"`/#]|/(?![/*])|\"[^\"]*\"|`[^`]*`)+")
_TIME = re.compile(r"\d+\.\d+|\.\d+|\d+\.(?!\.)|\d+")
_CALL = re.compile(r"([A-Za-z_]\w*)\s*\(")
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]+|\d+")
_WORD = re.compile(r"[A-Za-z_]\w*")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_NOTE = re.compile(r"\(([^()\n]*(?:\([^()\n]*\)[^()\n]*)*)\)")
_ERRNO = re.compile(r"E[A-Z0-9]+\b")
_OPERATOR = re.compile(r"\||&|<<|\^")
_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v", b"e": b"\x1b"}


def parse_script(text: str, path: str = "", defined: Iterable[str] = ()) -> Script:
    """Reads a whole script; `defined` are the names for which `#ifdef` holds.  ScriptError with the line otherwise."""
    scanner = Scanner(select_sections(text, frozenset(defined), path), path)
    script = Script(path)
    while match := scanner.take(_OPTION):
        value = ""
        if match[0].rstrip().endswith("=") or match[0][-1] in " \t":
            taken = scanner.take(_OPTION_VALUE)
            value = taken[0] if taken else ""
        script.options.append((match[1], value.strip('"')))
    while not scanner.at_end():
        if scanner.peek_text("`"):
            command = Command(_backquoted(scanner))
            (script.cleanup if script.events else script.setup).append(command)
            continue
        if script.cleanup:
            # a command between events without a time of its own: it runs where it stands
            for command in script.cleanup:
                script.events.append(Event(script.events[-1].line, EventTime(TimeKind.RELATIVE), command, f"`{command.text}`"))
            script.cleanup.clear()
        script.events.append(_event(scanner))
    return script


def _event(scanner: Scanner) -> Event:
    line = scanner.line
    start = scanner.position
    time, end = _event_time(scanner)
    action = _action(scanner, end)
    text = " ".join(scanner.text[start : scanner.position].split())
    return Event(line, time, action, text)


def _usecs(scanner: Scanner, *, negative: bool = False) -> int:
    return round(float(scanner.expect(_TIME, "a time")[0]) * 1_000_000)


def _event_time(scanner: Scanner) -> tuple[EventTime, int | None]:
    """The time, and the end of a blocking call in the same terms."""
    if scanner.take_text("*"):
        return EventTime(TimeKind.ANY), None
    relative = scanner.take_text("+")
    usecs = _usecs(scanner)
    if scanner.take_text("..."):
        return EventTime(TimeKind.RELATIVE if relative else TimeKind.ABSOLUTE, usecs), _usecs(scanner)
    if scanner.take_text("~"):
        scanner.take_text("+")
        kind = TimeKind.RELATIVE_RANGE if relative else TimeKind.ABSOLUTE_RANGE
        end = _usecs(scanner)
        if end < usecs:
            raise scanner.error("a range of time that ends before it begins")
        return EventTime(kind, usecs, end), None
    return EventTime(TimeKind.RELATIVE if relative else TimeKind.ABSOLUTE, usecs), None


def _action(scanner: Scanner, end: int | None) -> Action:
    if end is not None:
        return _system_call(scanner, end)
    if scanner.peek_text("`"):
        return Command(_backquoted(scanner))
    if scanner.take_text("%{"):
        return CodeBlock(scanner.until("}%", "Python code"))
    if scanner.peek_text("<") or scanner.peek_text(">"):
        return parse_packet(scanner)
    return _system_call(scanner, None)


def _backquoted(scanner: Scanner) -> str:
    scanner.expect_text("`")
    return scanner.until("`", "a command")


def _system_call(scanner: Scanner, end: int | None) -> SystemCall:
    match = scanner.take(_CALL)
    if match is None:
        raise scanner.error("a packet (< or >), a system call, `command` or %{ code }% expected")
    arguments = _expressions(scanner, ")")
    scanner.expect_text("=")
    result = _expression(scanner)
    error = None
    if not scanner.at_line_end() and (word := scanner.take(_ERRNO)):
        error = word[0]
    note = ""
    if not scanner.at_line_end() and (taken := scanner.take(_NOTE)):
        note = taken[1].strip()
    return SystemCall(match[1], arguments, result, error, note, end)


def _expressions(scanner: Scanner, end: str) -> tuple[Expression, ...]:
    """A list up to and with `end`."""
    items: list[Expression] = []
    while not scanner.take_text(end):
        if items:
            scanner.expect_text(",")
            if scanner.take_text(end):  # a comma after the last one
                break
        items.append(_expression(scanner))
    return tuple(items)


def _expression(scanner: Scanner) -> Expression:
    left = _operand(scanner)
    while operator := scanner.take(_OPERATOR):
        left = Operation(operator[0], left, _operand(scanner))
    return left


def _operand(scanner: Scanner) -> Expression:
    if scanner.take_text("..."):
        return Anything()
    for sign in "-~":
        if scanner.take_text(sign):
            operand = _operand(scanner)
            if sign == "-" and isinstance(operand, Number):
                return Number(-operand.value)
            return Operation(sign, None, operand)
    if match := scanner.take(_NUMBER):
        return Number(int(match[0], 16 if match[0][:2] in ("0x", "0X") else 10))
    if match := scanner.take(_STRING):
        value = unescape(match[1])
        while more := scanner.take(_STRING):  # neighbours make one, as in C
            value += unescape(more[1])
        return Text(value, scanner.take_text("..."))
    if scanner.take_text("["):
        return Array(_expressions(scanner, "]"))
    if scanner.take_text("{"):
        return Structure(_expressions(scanner, "}"))
    if scanner.take_text("("):
        inner = _expression(scanner)
        scanner.expect_text(")")
        return inner
    match = scanner.expect(_WORD, "a value")
    count = None
    if scanner.take_text("("):
        arguments = _expressions(scanner, ")")
        if not scanner.peek_text("="):
            return Call(match[0], arguments)
        count = arguments[0] if arguments else Anything()
    if scanner.peek_text("=") and not scanner.peek_text("=="):
        scanner.expect_text("=")
        return Assignment(match[0], _expression(scanner), count)
    return Name(match[0])


def unescape(text: str) -> bytes:
    """The bytes of a C string."""

    def replace(match: re.Match) -> bytes:
        code = match[1]
        if code[:1] == b"x":
            return bytes((int(code[1:], 16),))
        if code.isdigit():
            return bytes((int(code, 8) & 0xFF,))
        return _ESCAPED.get(code, code)

    return _ESCAPE.sub(replace, text.encode())


__all__ = ["ScriptError", "parse_script", "unescape"]
