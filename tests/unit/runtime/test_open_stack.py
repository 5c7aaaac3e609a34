"""A stack from a few words, its DHCP services and its advertisements, in virtual time over a wire in memory."""

import random

import pytest
from swos_net.address import format_address, parse_address
from swos_net.device.pair import make_pair
from swos_net.dhcp.client import DhcpClientConfig, FallbackUsed, LeaseBound
from swos_net.dhcp.server import LeaseGranted
from swos_net.neighbor.ndisc import PrefixDiscovered
from swos_net.runtime.open_stack import advertised_prefix, default_dhcp_server, open_stack


def drive(pollers, until, start=0.0):
    """Polls everybody, jumping from deadline to deadline, until `until()` or a minute has passed."""
    now = start
    while now < start + 60:
        while any([poller.poll(now) for poller in pollers]):
            pass
        for poller in pollers:
            poller.poll(now)
        if until():
            return now
        deadlines = [deadline for poller in pollers if (deadline := poller.next_deadline()) is not None]
        now = max(now + 0.0001, min(deadlines, default=now + 1))
    pytest.fail("it never happened")


@pytest.fixture
def ends():
    first, second = make_pair()
    yield first, second
    first.close()
    second.close()


def opened(device, seed, **options):
    poller = open_stack(device, random=random.Random(seed), now=0.0, **options)
    events = []
    poller.stack.on_event = lambda event, interface: events.append(event)
    return poller, events


def test_a_client_gets_a_lease_from_the_server_on_the_link(ends):
    server, told = opened(ends[0], 1, addresses=["10.0.2.2/24"], dhcp_server=True)
    client, heard = opened(ends[1], 2, dhcp=True)
    drive([server, client], lambda: any(isinstance(event, LeaseBound) for event in heard))
    granted = next(event for event in told if isinstance(event, LeaseGranted))
    assert format_address(granted.address) == "10.0.2.15"
    interface, next_hop, source = client.stack.route_to(parse_address("192.0.2.1"))
    assert (format_address(next_hop), format_address(source)) == ("10.0.2.2", "10.0.2.15")


def test_a_client_without_a_server_falls_back(ends):
    client, heard = opened(ends[0], 1, dhcp=True)
    drive([client], lambda: any(isinstance(event, FallbackUsed) for event in heard))
    assert client.stack.is_local(parse_address("10.0.2.15"))


def test_a_lost_lease_takes_its_address_and_routes_along(ends):
    client, heard = opened(ends[0], 1, dhcp=DhcpClientConfig())
    now = drive([client], lambda: any(isinstance(event, FallbackUsed) for event in heard))
    address = parse_address("10.0.2.15")
    client.stack.remove_address(client.stack.interfaces[0], address, now)
    assert not client.stack.is_local(address)
    with pytest.raises(OSError, match="no route"):
        client.stack.route_to(parse_address("10.0.2.2"))


def test_an_advertised_prefix_is_heard(ends):
    router, _ = opened(ends[0], 1, addresses=["fd00:5705::2/64"], ra="fd00:5705::/64")
    host, heard = opened(ends[1], 2)
    drive([router, host], lambda: any(isinstance(event, PrefixDiscovered) for event in heard))
    event = next(event for event in heard if isinstance(event, PrefixDiscovered))
    assert format_address(event.prefix.prefix) == "fd00:5705::" and event.prefix.length == 64


def test_default_pool_leaves_our_own_address_out():
    import ipaddress

    config = default_dhcp_server([ipaddress.ip_interface("10.0.2.2/24")], 1500)
    assert format_address(config.pool_first) == "10.0.2.15" and format_address(config.pool_last) == "10.0.2.254"
    small = default_dhcp_server([ipaddress.ip_interface("192.168.7.1/29")], 1500)
    assert format_address(small.pool_first) == "192.168.7.4" and format_address(small.pool_last) == "192.168.7.6"


def test_a_server_without_a_network_says_what_to_do(ends):
    with pytest.raises(ValueError, match=r"give one, such as 10\.0\.2\.2/24"):
        open_stack(ends[0], dhcp_server=True)


def test_an_mtu_below_ipv6s_minimum_is_not_advertised():
    assert advertised_prefix("fd00::/64", 1000).mtu is None
    assert advertised_prefix("fd00::/64", 1400).mtu == 1400


@pytest.mark.parametrize(("options", "error"), [
    ({"addresses": ["nonsense"]}, ValueError),
    ({"gateways": ["10.0.0.300"]}, ValueError),
    ({"mtu": 1400}, TypeError),
])  # fmt: skip
def test_wrong_words_are_refused(ends, options, error):
    with pytest.raises(error):
        open_stack(ends[0], **options)


def test_an_unknown_device_names_the_known_ones():
    with pytest.raises(ValueError, match="vhost-user:PATH"):
        open_stack("carrier-pigeon:coop")
