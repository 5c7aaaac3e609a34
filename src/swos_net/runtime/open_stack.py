"""From a few words to a stack on a device: what tools and examples begin with."""

import ipaddress
import random as random_module
from collections.abc import Iterable

from swos_net import clock
from swos_net.address import from_packed, parse_address
from swos_net.config import StackConfig
from swos_net.device.open_device import open_device
from swos_net.dhcp.client import DhcpClientConfig
from swos_net.dhcp.leases import DhcpServerConfig
from swos_net.dns.config import DNS_PORT, ResolverConfig
from swos_net.neighbor.router_advertiser import AdvertisedPrefix, RouterAdvertiserConfig
from swos_net.runtime.poll import Poller
from swos_net.stack.dhcp_service import DhcpClientService, DhcpServerService
from swos_net.stack.interface import Interface
from swos_net.stack.stack import Stack

POOL_OFFSET = 15  # the first guest gets .15, as from QEMU's own user network


def open_stack(
    device, *, addresses: Iterable[str] = (), gateways: Iterable[str] = (), dhcp: bool | DhcpClientConfig = False,
    dhcp_server: bool | DhcpServerConfig | None = None, ra: str | RouterAdvertiserConfig | None = None,
    config: StackConfig | None = None, random: random_module.Random | None = None, now: float | None = None,
    name: str = "stack", name_servers: Iterable[str] = (), **device_options,
) -> Poller:  # fmt: skip
    """A stack with one interface on `device`, not yet running (see `asyncio.StackRunner`, `runtime.threaded`).

    `device` is a Device or a text such as "tap:swos0" or "vhost-user:vm.sock"; options of `open_device` may follow.
    `addresses` are "10.0.2.2/24", `gateways` addresses of default routers.  `dhcp` asks for an address.  `name_servers`
    are addresses of DNS servers (none: those of the lease).
    `dhcp_server` leases addresses of our first IPv4 network; None does so where a guest is at the other end.  `ra` is
    a prefix such as "fd00:5705::/64" to advertise.  ValueError for text that is no address, OSError when the device
    cannot be opened.
    """
    interfaces = [ipaddress.ip_interface(address) for address in addresses]
    gateway_addresses = [parse_address(gateway) for gateway in gateways]
    servers = tuple((parse_address(server), DNS_PORT) for server in name_servers)
    guest = isinstance(device, str) and device.partition(":")[0] in GUEST_KINDS
    if isinstance(device, str):
        device = open_device(device, **device_options)
    elif device_options:
        raise TypeError(f"options {', '.join(device_options)} belong to a device given as text")
    try:
        poller = Poller(Stack(config, random=random, name=name))
        poller.stack.names.config = ResolverConfig(servers)
        now = clock.monotonic() if now is None else now
        interface = poller.attach(device, now)
        for item in interfaces:
            poller.stack.add_address(interface, from_packed(item.ip.packed), item.network.prefixlen, now)
        for gateway in gateway_addresses:
            poller.stack.add_gateway(interface, gateway)
        _add_services(poller.stack, interface, interfaces, dhcp, guest if dhcp_server is None else dhcp_server, dhcp_server is None, ra, now)
    except BaseException:
        device.close()
        raise
    return poller


# devices with a guest at the other end, which expects a lease
GUEST_KINDS = frozenset({"vhost-user", "vhost-user-connect", "stream", "stream-connect", "dgram"})


def _add_services(stack: Stack, interface: Interface, interfaces: list, dhcp, dhcp_server, by_default: bool, ra, now: float) -> None:
    if dhcp_server:
        if not isinstance(dhcp_server, DhcpServerConfig):
            dhcp_server = default_dhcp_server(interfaces, interface.link.mtu, needed=not by_default)
        if dhcp_server is not None:
            DhcpServerService(interface, dhcp_server)
    if dhcp:
        DhcpClientService(interface, dhcp if isinstance(dhcp, DhcpClientConfig) else DhcpClientConfig(), now)
    if ra:
        interface.advertise(ra if isinstance(ra, RouterAdvertiserConfig) else advertised_prefix(ra, interface.link.mtu), now)


def default_dhcp_server(interfaces: Iterable, mtu: int, *, needed: bool = True) -> DhcpServerConfig | None:
    """Leases of the first IPv4 network among `interfaces` (of `ipaddress`), with us as router.

    ValueError, or None unless `needed`, when there is no network with room for others.
    """
    for item in interfaces:
        network = item.network
        if network.version == 4 and network.prefixlen <= 29:
            first = min(POOL_OFFSET, network.num_addresses // 2)
            last = min(network.num_addresses - 2, first + 239)
            return DhcpServerConfig(
                from_packed(item.ip.packed), from_packed(network[first].packed), from_packed(network[last].packed),
                network.prefixlen, router=from_packed(item.ip.packed), mtu=mtu,
            )  # fmt: skip
    if needed:
        raise ValueError("a DHCP server needs an IPv4 address with a prefix of 29 bits or fewer: give one, such as 10.0.2.2/24")
    return None


def advertised_prefix(prefix: str, mtu: int) -> RouterAdvertiserConfig:
    """Hosts on the link form an address of `prefix`; no default route is offered, since nothing is forwarded."""
    network = ipaddress.IPv6Network(prefix)
    advertised = AdvertisedPrefix(from_packed(network.network_address.packed), network.prefixlen)
    return RouterAdvertiserConfig(prefixes=(advertised,), mtu=mtu if mtu >= 1280 else None, router_lifetime=0)
