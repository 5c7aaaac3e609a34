"""The values of expressions: numbers out of names, flags and arithmetic."""

from swos_net.testing.packetdrill.constants import CONSTANTS
from swos_net.testing.packetdrill.scanner import ScriptError
from swos_net.testing.packetdrill.script import (
    Anything,
    Array,
    Call,
    Expression,
    Name,
    Number,
    Operation,
    Text,
)

_OPERATIONS = {
    "|": lambda left, right: left | right,
    "&": lambda left, right: left & right,
    "^": lambda left, right: left ^ right,
    "<<": lambda left, right: left << right,
}


def number_of(expression: Expression, names: dict[str, int] = CONSTANTS) -> int:
    """The number an expression stands for; ScriptError for a name nobody knows, or what is no number."""
    match expression:
        case Number(value):
            return value
        case Name(name):
            if name not in names:
                raise ScriptError(f"the constant {name} is not known here")
            return names[name]
        case Operation("-", None, right):
            return -number_of(right, names)
        case Operation("~", None, right):
            return ~number_of(right, names)
        case Operation(operator, left, right):
            return _OPERATIONS[operator](number_of(left, names), number_of(right, names))
        case Call("htons" | "htonl" | "ntohs" | "ntohl", (argument,)):
            return number_of(argument, names)
    raise ScriptError(f"{expression} is no number")


def is_anything(expression: Expression) -> bool:
    return isinstance(expression, Anything)


def is_null(expression: Expression) -> bool:
    return isinstance(expression, Name) and expression.name == "NULL"


def items_of(expression: Expression, what: str) -> tuple[Expression, ...]:
    """Of an array; ScriptError otherwise."""
    if not isinstance(expression, Array):
        raise ScriptError(f"{what} is an array, [...], not {expression}")
    return expression.items


def text_of(expression: Expression, what: str) -> str:
    if not isinstance(expression, Text):
        raise ScriptError(f"{what} is a string, not {expression}")
    return expression.value.decode()
