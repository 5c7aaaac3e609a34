"""Socket addresses as scripts write them, to and from the standard library's tuples."""

from swos_net.testing.packetdrill.constants import CONSTANTS
from swos_net.testing.packetdrill.expressions import is_anything, is_null, number_of
from swos_net.testing.packetdrill.outcome import Mismatch, Unsupported
from swos_net.testing.packetdrill.script import Call, Expression, Name, Structure, Text

AF_INET6 = CONSTANTS["AF_INET6"]


def address_of(expression: Expression, host: str, port: int, family: int) -> tuple:
    """`...` is (host, port); {sa_family=..., sin_port=htons(8080), sin_addr=inet_addr("...")} says its own."""
    if is_anything(expression) or is_null(expression):
        return _tuple(host, port, family)
    if not isinstance(expression, Structure):
        raise Unsupported(f"address {expression}")
    fields = expression.fields()
    port_field = next((fields[name] for name in ("sin_port", "sin6_port") if name in fields), None)
    host_field = next((fields[name] for name in ("sin_addr", "sin6_addr") if name in fields), None)
    if port_field is not None and not is_anything(port_field):
        port = number_of(port_field)
    if host_field is not None and not is_anything(host_field):
        host = _host(host_field, family)
    return _tuple(host, port, family)


def check_address(expression: Expression, address: tuple) -> None:
    """Mismatch unless `address` is the one that the script says."""
    if is_anything(expression) or is_null(expression) or not isinstance(expression, Structure):
        return
    fields = expression.fields()
    if not {"sin_port", "sin6_port", "sin_addr", "sin6_addr"} & fields.keys():
        return
    wanted = address_of(expression, address[0], address[1], AF_INET6 if ":" in address[0] else CONSTANTS["AF_INET"])
    if wanted[:2] != address[:2]:
        raise Mismatch(f"address {wanted[0]} port {wanted[1]} expected, {address[0]} port {address[1]} seen")


def _tuple(host: str, port: int, family: int) -> tuple:
    if family == AF_INET6:
        if ":" not in host:
            host = f"::ffff:{host}"
        return host, port, 0, 0
    return host, port


def _host(expression: Expression, family: int) -> str:
    match expression:
        case Call("inet_addr" | "inet_pton" | "inet6_addr", (Text(value), *_)):
            return value.decode()
        case Call(_, (*_, Text(value))):
            return value.decode()
        case Text(value):
            return value.decode()
        case Name("INADDR_ANY" | "in6addr_any"):
            return "::" if family == AF_INET6 else "0.0.0.0"
    raise Unsupported(f"address {expression}")
