"""The order in which the addresses of one name are tried (RFC 6724 section 6).

Read first: routing.py, which chooses the source for each.  Rules 4 (home addresses) and 7 (encapsulation) have nothing
to work on here.
"""

from collections.abc import Iterable

from swos_net.address import is_ipv4
from swos_net.ip.routing import _common_prefix, _label, scope

# RFC 6724 2.1, by the labels of the same table
_PRECEDENCE = {0: 50, 1: 40, 4: 35, 2: 30, 5: 5, 13: 3, 3: 1, 11: 1, 12: 1}


def sort_destinations(destinations: Iterable[tuple[bytes, bytes | None, bool]]) -> list[bytes]:
    """Addresses, best first, of (destination, the source it would be reached from or None, whether that is deprecated).

    Equals stay in the order they came in (rule 10).
    """
    return [destination for destination, _, _ in sorted(destinations, key=lambda item: _rank(*item))]


def _rank(destination: bytes, source: bytes | None, deprecated: bool) -> tuple:
    """Less is better; the positions are rules 1, 2, 3, 5, 6, 8 and 9."""
    label = _label(destination)
    precedence = -_PRECEDENCE[label]
    if source is None:
        return (True, True, True, True, precedence, scope(destination), 0)
    # rule 9 compares addresses of one family; between two IPv4 addresses it would undo a server's rotation
    common = 0 if is_ipv4(destination) else -_common_prefix(source, destination)
    return (False, scope(source) != scope(destination), deprecated, _label(source) != label, precedence, scope(destination), common)
