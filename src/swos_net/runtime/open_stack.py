"""From a few words to a stack on a device: what tools and examples begin with."""

import ipaddress
import random as random_module
from collections.abc import Iterable

from swos_net import clock
from swos_net.address import from_packed, parse_address
from swos_net.config import StackConfig
from swos_net.device.open_device import open_device
from swos_net.runtime.poll import Poller
from swos_net.stack.interface import Interface
from swos_net.stack.stack import Stack


def open_stack(
    device, *, addresses: Iterable[str] = (), gateways: Iterable[str] = (), config: StackConfig | None = None,
    random: random_module.Random | None = None, now: float | None = None, name: str = "stack", **device_options,
) -> Poller:  # fmt: skip
    """A stack with one interface on `device`, not yet running (see `asyncio.StackRunner`, `runtime.threaded`).

    `device` is a Device or a text such as "tap:swos0" or "vhost-user:vm.sock"; `addresses` are "10.0.2.2/24",
    `gateways` addresses of default routers.  ValueError for text that is no address, OSError when the device cannot
    be opened.
    """
    interfaces = [ipaddress.ip_interface(address) for address in addresses]
    gateway_addresses = [parse_address(gateway) for gateway in gateways]
    if isinstance(device, str):
        device = open_device(device, **device_options)
    elif device_options:
        raise TypeError(f"options {', '.join(device_options)} belong to a device given as text")
    poller = Poller(Stack(config, random=random, name=name))
    now = clock.monotonic() if now is None else now
    configure(poller, poller.attach(device, now), interfaces, gateway_addresses, now)
    return poller


def configure(poller: Poller, interface: Interface, interfaces, gateways: Iterable[bytes], now: float) -> None:
    """Addresses (as `ipaddress` interfaces) and default routes."""
    for item in interfaces:
        poller.stack.add_address(interface, from_packed(item.ip.packed), item.network.prefixlen, now)
    for gateway in gateways:
        poller.stack.add_gateway(interface, gateway)
