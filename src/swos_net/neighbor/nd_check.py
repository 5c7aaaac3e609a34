"""Which Neighbor Discovery messages count: the checks that hosts and routers make alike.

Read first: `validate` of wire/ndisc.py.
"""

from typing import Protocol

from swos_net.address import is_ipv4, is_multicast
from swos_net.errors import WireError
from swos_net.wire import ndisc


class MessageCounters(Protocol):
    """What of a NdCounters or RouterAdvertiserCounters is counted here."""

    malformed: int
    invalid: int                    # well-formed but against the rules of RFC 4861


def parse_valid(
    message: bytes, source: bytes, destination: bytes, hop_limit: int, counters: MessageCounters
) -> ndisc.NdMessage | None:
    """The record of an ICMPv6 message of type 133 to 137; None once it is counted as malformed or invalid."""
    try:
        record = ndisc.parse(message, source, destination)
    except WireError:
        counters.malformed += 1
        return None
    try:
        ndisc.validate(record, source, destination, hop_limit)
    except WireError:
        counters.invalid += 1
        return None
    # A mapped or group address as source would be another's entry in the cache.
    if is_multicast(source) or is_ipv4(source):
        counters.invalid += 1
        return None
    return record
