"""Who may hold a port beside whom, who hears what, and the choice of an ephemeral one."""

import errno
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swos_net.address import UNSPECIFIED4, UNSPECIFIED6, parse_address
from swos_net.stack.ports import (
    EPHEMERAL_FIRST,
    EPHEMERAL_LAST,
    REUSE_ADDRESS,
    REUSE_PORT,
    BoundPorts,
    PortClaim,
    overlap,
    port_bytes,
)

ADDRESSES = [UNSPECIFIED4, UNSPECIFIED6, *map(parse_address, ("10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"))]
WILDCARDS = (UNSPECIFIED4, UNSPECIFIED6)
DUAL = (UNSPECIFIED6, UNSPECIFIED4)
PEER = parse_address("192.0.2.9")


def ipv4(address):
    return address[:12] == UNSPECIFIED4[:12]


def flow(local, port, remote=PEER, remote_port=9):
    return local + remote + port_bytes(port) + port_bytes(remote_port)


def conflict(one, other):
    """Two binds of a port that exclude each other."""
    return ipv4(one) == ipv4(other) and (one == other or one in WILDCARDS or other in WILDCARDS)


def refused(ports, claim, port):
    with pytest.raises(OSError) as caught:
        ports.claim(claim, port)
    assert caught.value.errno == errno.EADDRINUSE


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(ADDRESSES), st.integers(1, 3)), max_size=40))
def test_holding_and_releasing(steps):
    ports, model = BoundPorts("TCP"), {}
    for bind, address, port in steps:
        if not bind:
            if (address, port) in model:
                claim = model.pop((address, port))
                ports.release(claim)
                ports.unlisten(claim, (address,), port)
            continue
        claim = PortClaim((address,))
        if any(number == port and conflict(address, other) for other, number in model):
            assert ports.held(port, (address,))
            refused(ports, claim, port)
        else:
            ports.claim(claim, port)
            ports.listen(claim, (address,), port)
            model[address, port] = claim
    for address in ADDRESSES[2:]:
        wildcard = UNSPECIFIED4 if ipv4(address) else UNSPECIFIED6
        for port in (1, 2, 3):
            expected = model.get((address, port)) or model.get((wildcard, port))
            assert ports.find(flow(address, port)) is expected
            assert ports.all_at(address, port_bytes(port)) == ([expected] if expected else [])


def test_somebody_else_cannot_release_a_port():
    ports, owner = BoundPorts("TCP"), PortClaim((UNSPECIFIED4,))
    ports.claim(owner, 80)
    other = PortClaim((UNSPECIFIED4,))
    other.local_port = 80
    ports.release(other)
    assert ports.held(80, (ADDRESSES[2],))
    ports.release(owner)
    ports.release(owner)
    assert not ports.held(80, (ADDRESSES[2],))


def test_a_wildcard_of_both_families_excludes_both():
    assert overlap(DUAL, (ADDRESSES[2],)) and overlap((ADDRESSES[4],), DUAL)
    assert not overlap((UNSPECIFIED6,), (ADDRESSES[2],)) and not overlap((ADDRESSES[2],), (ADDRESSES[3],))


@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ({}, {}, None),
        ({"reuse_address": True}, {}, None),
        ({}, {"reuse_address": True}, None),
        ({"reuse_address": True}, {"reuse_address": True}, "unless listening"),
        ({"reuse_port": True}, {"reuse_address": True}, None),
        ({"reuse_port": True}, {"reuse_port": True}, "always"),
        ({"reuse_port": True, "reuse_address": True}, {"reuse_port": True}, "always"),
    ],
)
def test_sharing_is_linuxs(first, second, shared, listening):
    ports, one, other = BoundPorts("TCP"), PortClaim((UNSPECIFIED4,), **first), PortClaim((ADDRESSES[2],), **second)
    ports.claim(one, 80)
    one.listening = listening
    if shared == "always" or (shared and not listening):
        ports.claim(other, 80)
    else:
        refused(ports, other, 80)


@pytest.mark.parametrize("left", [0, REUSE_ADDRESS, REUSE_PORT, REUSE_ADDRESS | REUSE_PORT])
@pytest.mark.parametrize("reuse_address", [False, True])
@pytest.mark.parametrize("reuse_port", [False, True])
def test_connections_keep_a_port_from_those_who_do_not_share(left, reuse_address, reuse_port):
    ports = BoundPorts("TCP")
    ports.flow_opened(80, True, left)
    ports.flow_opened(80, True, left)
    claim = PortClaim((UNSPECIFIED4,), reuse_address=reuse_address, reuse_port=reuse_port)
    expected = not (left & REUSE_ADDRESS and reuse_address) and not (left & REUSE_PORT and reuse_port)
    assert ports.flows_in_the_way(claim, 80) is expected
    assert not ports.flows_in_the_way(claim, 81) and not ports.flows_in_the_way(PortClaim((UNSPECIFIED6,)), 80)
    ports.flow_closed(80, True, left)
    assert ports.flows_in_the_way(claim, 80) is expected
    ports.flow_closed(80, True, left)
    assert not ports.flows_in_the_way(claim, 80)


class Hearer:
    def __init__(self, reuse_port):
        self.reuse_port = reuse_port


def test_a_group_shares_the_flows_evenly_and_each_keeps_its_own():
    ports, group = BoundPorts("UDP", seed=7), [Hearer(True) for _ in range(4)]
    for member in group:
        ports.listen(member, DUAL, 53)
    flows = [flow(ADDRESSES[2], 53, PEER, port) for port in range(1000, 3000)]
    found = [ports.find(each) for each in flows]
    assert all(400 < found.count(member) < 600 for member in group)
    assert [ports.find(each) for each in flows] == found
    ports.unlisten(group[0], DUAL, 53)
    assert group[0] not in map(ports.find, flows)
    for member in group[1:]:
        ports.unlisten(member, DUAL, 53)
    assert ports.find(flows[0]) is None and not ports._receivers


def test_without_reuse_port_the_last_one_hears():
    ports, one, other = BoundPorts("UDP"), Hearer(False), Hearer(False)
    ports.listen(one, (UNSPECIFIED4,), 53)
    ports.listen(other, (UNSPECIFIED4,), 53)
    assert ports.find(flow(ADDRESSES[2], 53)) is other
    assert ports.all_at(ADDRESSES[2], port_bytes(53)) == [one, other]
    ports.unlisten(other, (UNSPECIFIED4,), 53)
    assert ports.find(flow(ADDRESSES[2], 53)) is one


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
