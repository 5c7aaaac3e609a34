"""Which ports are taken: single addresses and wildcards of two families."""

import errno
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.address import UNSPECIFIED4, UNSPECIFIED6, parse_address
from swos_net.stack.ports import EPHEMERAL_FIRST, EPHEMERAL_LAST, BoundPorts, port_bytes

ADDRESSES = [UNSPECIFIED4, UNSPECIFIED6, *map(parse_address, ("10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"))]
WILDCARDS = (UNSPECIFIED4, UNSPECIFIED6)


def conflict(one, other):
    """Two binds of a port that exclude each other."""
    same_family = (one[:12] == UNSPECIFIED4[:12]) == (other[:12] == UNSPECIFIED4[:12])
    return same_family and (one == other or one in WILDCARDS or other in WILDCARDS)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(ADDRESSES), st.integers(1, 3)), max_size=40))
def test_binding_and_releasing(steps):
    ports, model = BoundPorts("TCP"), {}
    for bind, address, port in steps:
        if not bind:
            ports.release(address, port, model.pop((address, port), object()))
            continue
        refused = any(number == port and conflict(address, other) for other, number in model)
        assert ports.taken(address, port) is refused
        owner = object()
        if refused:
            with pytest.raises(OSError) as caught:
                ports.bind(address, port, owner)
            assert caught.value.errno == errno.EADDRINUSE
        else:
            ports.bind(address, port, owner)
            model[address, port] = owner
    for address in ADDRESSES[2:]:
        wildcard = UNSPECIFIED4 if address[:12] == UNSPECIFIED4[:12] else UNSPECIFIED6
        for port in (1, 2, 3):
            expected = model.get((address, port)) or model.get((wildcard, port))
            assert ports.find(address, port_bytes(port), wildcard) is expected


def test_somebody_else_cannot_release_a_port():
    ports, owner = BoundPorts("TCP"), object()
    ports.bind(UNSPECIFIED4, 80, owner)
    ports.release(UNSPECIFIED4, 80, object())
    assert ports.taken(ADDRESSES[2], 80)


def test_the_choice_is_spread_and_every_port_is_found():
    ports, generator = BoundPorts("UDP"), random.Random(1)
    chosen = [ports.choose(ADDRESSES[2], b"secret", generator.randbytes(18), lambda port: False) for _ in range(500)]
    assert len(set(chosen)) > 450
    assert all(EPHEMERAL_FIRST <= port <= EPHEMERAL_LAST for port in chosen)
    assert ports.choose(ADDRESSES[2], b"secret", b"", lambda port: port != 50_000) == 50_000
    with pytest.raises(OSError) as caught:
        ports.choose(ADDRESSES[2], b"secret", b"", lambda port: True)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_the_same_peer_gets_consecutive_ports():
    """RFC 6056 3.3.3: so that one flow's port comes back as late as possible."""
    ports = BoundPorts("TCP")
    first = ports.choose(ADDRESSES[2], b"secret", b"peer", lambda port: False)
    second = ports.choose(ADDRESSES[2], b"secret", b"peer", lambda port: port == first)
    assert (second - first) % (EPHEMERAL_LAST - EPHEMERAL_FIRST + 1) == 1
