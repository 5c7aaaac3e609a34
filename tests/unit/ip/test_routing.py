"""Longest prefix match and source address selection."""

import ipaddress

import pytest
from hypothesis import given, strategies as st

from swos_net.address import format_address, parse_address
from swos_net.ip import routing
from swos_net.ip.routing import InterfaceAddress, Route, RouteTable, scope, select_source


def route(text, interface=1, gateway=None, **more):
    prefix, _, length = text.partition("/")
    return Route(parse_address(prefix), int(length), interface, gateway and parse_address(gateway), **more)


def candidate(text, **states):
    address, _, length = text.partition("/")
    return InterfaceAddress(parse_address(address), int(length), **states)


TABLE = RouteTable([
    route("0.0.0.0/0", gateway="10.0.2.2"),
    route("10.0.2.0/24"),
    route("10.0.0.0/8", interface=2, gateway="10.9.9.9"),
    route("10.0.2.128/25", interface=3),
    route("10.0.2.200/32", interface=4),
    route("fe80::/64", interface=1),
    route("fe80::/64", interface=2),
    route("2001:db8::/32", interface=2),
    route("::/0", interface=1, gateway="fe80::1"),
])


@pytest.mark.parametrize("destination, interface, prefix", [
    ("10.0.2.15", 1, "10.0.2.0"), ("10.0.2.129", 3, "10.0.2.128"), ("10.0.2.200", 4, "10.0.2.200"),
    ("10.1.0.1", 2, "10.0.0.0"), ("192.0.2.1", 1, "0.0.0.0"), ("2001:db8::1", 2, "2001:db8::"),
    ("2001:db9::1", 1, "::"), ("fe80::5", 1, "fe80::"),
])
def test_longest_prefix_wins(destination, interface, prefix):
    for _ in range(2):  # searched, then cached
        found = TABLE.lookup(parse_address(destination))
        assert (found.interface, format_address(found.prefix)) == (interface, prefix)


def test_interface_restricts_the_search():
    assert TABLE.lookup(parse_address("fe80::5"), 2).interface == 2
    assert TABLE.lookup(parse_address("10.0.2.200"), 1).length == 24  # on to a shorter prefix
    assert TABLE.lookup(parse_address("fe80::5"), 4) is None
    assert TABLE.lookup(parse_address("fe80::5")).interface == 1


def test_families_do_not_mix():
    only4 = RouteTable([route("0.0.0.0/0")])
    only6 = RouteTable([route("::/0")])
    assert only4.lookup(parse_address("2001:db8::1")) is None and only6.lookup(parse_address("10.0.0.1")) is None
    assert RouteTable().lookup(parse_address("10.0.0.1")) is None


def test_metric_then_order_decides_between_equal_prefixes():
    table = RouteTable([route("0.0.0.0/0", 1, metric=20), route("0.0.0.0/0", 2, metric=10),
                        route("0.0.0.0/0", 3, metric=10)])
    assert table.lookup(parse_address("192.0.2.1")).interface == 2


def test_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(routing, "LOOKUPS_MAX", 8)
    table = RouteTable([route("10.0.0.0/8")])
    for number in range(50):
        assert table.lookup(parse_address(f"10.0.0.{number}")) is table.routes[0]
        assert table.lookup(parse_address(f"11.0.0.{number}")) is None
        assert len(table._lookups) <= 8


@pytest.mark.parametrize("arguments, says", [
    (("10.0.2.1/24",), "beyond its length"), (("10.0.0.0/33",), "0..32"), (("2001:db8::1/64",), "beyond its length"),
    (("10.0.0.0/8", 1, "fe80::1"), "not of the family"),
])
def test_wrong_routes_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        route(*arguments)


networks = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda n: ipaddress.IPv4Network(n, strict=False)),
    st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(lambda n: ipaddress.IPv6Network(n, strict=False)))


@given(st.lists(networks, max_size=8), st.data())
def test_lookup_agrees_with_a_plain_search(prefixes, data):
    choices = [st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address),
               st.integers(2**64, 2**128 - 1).map(ipaddress.IPv6Address)]
    prefixes = [prefix for prefix in prefixes
                if prefix.version == 4 or prefix.network_address >= ipaddress.IPv6Address(2**64)]
    if prefixes:
        choices.append(st.sampled_from(prefixes).map(lambda network: network.network_address))
    destination = data.draw(st.one_of(choices))
    table = RouteTable(Route(parse_address(prefix.network_address), prefix.prefixlen, index)
                       for index, prefix in enumerate(prefixes))
    matching = [(prefix.prefixlen, -index) for index, prefix in enumerate(prefixes)
                if prefix.version == destination.version and destination in prefix]
    found = table.lookup(parse_address(destination))
    assert (found and (found.length, -found.interface)) == (max(matching) if matching else None)


@pytest.mark.parametrize("destination, candidates, chosen", [
    # the examples of RFC 6724 10.1 that apply
    ("2001:db8:1::1", ["2001:db8:3::1/64", "fe80::1/64"], "2001:db8:3::1"),
    ("ff05::1", ["2001:db8:3::1/64", "fe80::1/64"], "2001:db8:3::1"),
    ("2001:db8:1::1", ["2001:db8:1::1/64", "2001:db8:2::1/64"], "2001:db8:1::1"),
    ("fe80::1", ["fe80::2/64", "2001:db8:1::1/64"], "fe80::2"),
    ("2001:db8:1::1", ["2001:db8:1::2/64", "2001:db8:3::2/64"], "2001:db8:1::2"),
    ("2002:c633:6401::1", ["2002:c633:6401::d5e3:7953:13eb:22e8/64", "2001:db8:1::2/64"],
     "2002:c633:6401::d5e3:7953:13eb:22e8"),
    ("2001:db8:1::d5e3:0:0:1", ["2001:db8:1::2/64", "2001:db8:1::d5e3:7953:13eb:22e8/64"], "2001:db8:1::2"),
    # rule 2
    ("ff02::1", ["2001:db8::1/64", "fe80::1/64"], "fe80::1"),
    ("2001:db8::9", ["fe80::1/64"], "fe80::1"),
    ("2001:db8::9", ["fe80::1/64", "fec0::1/64"], "fec0::1"),
    # rule 6: unique local to unique local
    ("fd00:1::1", ["2001:db8::1/64", "fd00:2::1/64"], "fd00:2::1"),
    ("2001:db8:1::1", ["fd00:2::1/64", "2600::1/64"], "2600::1"),
    # rule 8, IPv4
    ("10.0.3.9", ["10.0.2.15/24", "10.0.3.15/24"], "10.0.3.15"),
    ("192.0.2.1", ["169.254.1.1/16", "10.0.2.15/24"], "10.0.2.15"),
    ("169.254.7.7", ["10.0.2.15/24", "169.254.1.1/16"], "169.254.1.1"),
    # families and unfit candidates
    ("192.0.2.1", ["2001:db8::1/64"], None),
    ("2001:db8::1", ["10.0.2.15/24"], None),
    ("192.0.2.1", ["0.0.0.0/0", "224.0.0.1/4"], None),
    ("192.0.2.1", [], None),
])
def test_source_selection(destination, candidates, chosen):
    found = select_source(parse_address(destination), [candidate(text) for text in candidates])
    assert found == (chosen and parse_address(chosen))
    reverse = select_source(parse_address(destination), [candidate(text) for text in reversed(candidates)])
    if destination != "2001:db8:1::d5e3:0:0:1":  # there the order decides
        assert reverse == found


@pytest.mark.parametrize("address, expected", [
    ("10.0.2.15", 14), ("169.254.1.1", 2), ("127.0.0.1", 2), ("::1", 2), ("fe80::1", 2), ("febf::1", 2),
    ("fec0::1", 5), ("feff::1", 5), ("fd00::1", 14), ("2001:db8::1", 14), ("ffc0::1", 0), ("ff01::1", 1),
    ("ff02::1", 2), ("ff05::1", 5), ("ff0e::1", 14), ("fe00::1", 14), ("7ec0::1", 14)])
def test_scope(address, expected):
    assert scope(parse_address(address)) == expected


# RFC 6724 2.1: one address of each label, all of global scope
LABELLED = ["2600::1", "2002::1", "2001::1", "fd00::1", "::2:1", "3ffe::1"]


@pytest.mark.parametrize("destination, other", [(one, two) for one in LABELLED for two in LABELLED if one != two])
def test_labels_are_told_apart(destination, other):
    """Rule 6 alone: with prefix length 0 rule 8 has nothing to say."""
    same = parse_address(destination)[:15] + b"\x99"
    candidates = [InterfaceAddress(parse_address(other), 0), InterfaceAddress(same, 0)]
    assert select_source(parse_address(destination), candidates) == same


def test_deprecated_loses_to_preferred_but_not_to_scope():
    destination = parse_address("2001:db8:1::1")
    deprecated = candidate("2001:db8:1::5/64", deprecated=True)
    assert select_source(destination, [deprecated, candidate("2600::1/64")]) == parse_address("2600::1")
    assert select_source(destination, [deprecated, candidate("fe80::1/64")]) == deprecated.address
    assert select_source(deprecated.address, [candidate("2600::1/64"), deprecated]) == deprecated.address  # rule 1


def test_tentative_address_is_never_a_source():
    assert select_source(parse_address("fe80::1"), [candidate("fe80::2/64", tentative=True)]) is None
