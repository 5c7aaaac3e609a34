"""What the command-line programs share: options for the stack, opening it, one-line errors, log lines.

No program is here, and no code of the network.
"""

import argparse
import asyncio
import contextlib
import ipaddress
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TextIO

from swos_net import Capability, Rule
from swos_net import open_stack as build_stack
from swos_net.address import parse_mac
from swos_net.asyncio import StackRunner
from swos_net.device.open_device import KINDS


class ArgumentParser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of the whole usage; exit status 2 as ever."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def add_stack_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `open_stack` and `tool_capability` read, each checked for its form."""
    group = parser.add_argument_group("network")
    group.add_argument("--device", required=True, metavar="KIND:WHERE",
                       help=f"link to the network: {', '.join(form for form, _ in KINDS.values())}")
    group.add_argument("--address", action="append", default=[], metavar="A/P", type=_text(ipaddress.ip_interface),
                       help="own IPv4 or IPv6 address with its prefix length; repeatable")
    group.add_argument("--gateway", action="append", default=[], metavar="A", type=_text(ipaddress.ip_address),
                       help="default router, one for each family")
    group.add_argument("--dhcp", action="store_true", help="ask a DHCP server on the link for an IPv4 address")
    group.add_argument("--dhcp-server", action=argparse.BooleanOptionalAction, default=None,
                       help="lease IPv4 addresses to the other side (default: where a guest is there)")
    group.add_argument("--ra", metavar="PREFIX", type=_text(ipaddress.IPv6Network),
                       help="advertise an IPv6 prefix to the other side")
    group.add_argument("--mac", metavar="MAC", type=_text(parse_mac), help="own link address")
    group.add_argument("--mtu", metavar="BYTES", type=number(68, 65535), help="longest IP packet on the link")
    group.add_argument("--pcap", metavar="FILE", help="record every frame")
    group.add_argument("--allow", action="append", default=[], metavar="RULE", type=_text(Rule.parse),
                       help="protocol:operations:prefix:ports; with this option the program may do what these rules "
                            "say and no more, without it what it needs; repeatable")
    group.add_argument("--deny", action="append", default=[], metavar="RULE", type=_text(Rule.parse),
                       help="what the program may not do, whatever --allow says; repeatable")
    group.add_argument("--name-server", action="append", default=[], metavar="A", type=_text(ipaddress.ip_address),
                       help="DNS server to ask (default: those of the lease); repeatable")


@contextlib.asynccontextmanager
async def open_stack(arguments: argparse.Namespace) -> AsyncIterator[StackRunner]:
    """Opens device and stack and runs them on this event loop: `async with open_stack(arguments) as runner`.

    OSError or ValueError when that cannot be done, with a text that says what is missing.
    """
    async with StackRunner(build_stack(arguments.device, **stack_settings(arguments))) as runner:
        yield runner


def stack_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_stack_options` that were given, under the names the library has for them."""
    settings = {
        "addresses": arguments.address, "gateways": arguments.gateway, "dhcp": arguments.dhcp,
        "dhcp_server": arguments.dhcp_server, "ra": arguments.ra, "mac": arguments.mac, "mtu": arguments.mtu,
        "pcap": arguments.pcap, "name_servers": arguments.name_server,
    }
    return {name: value for name, value in settings.items() if value or value is False and name == "dhcp_server"}


def tool_capability(root: Capability, arguments: argparse.Namespace, needed: Iterable[str], label: str) -> Capability:
    """The authority a program runs with: the rules of --allow, or what it needs, less those of --deny."""
    return root.attenuate(arguments.allow or needed, label, deny=arguments.deny)


def number(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a decimal number within low..high."""
    def convert(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or len(text) > 12 or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number within {low}..{high}")
        return int(text)
    return convert


def _text(check: Callable[[str], object]) -> Callable[[str], str]:
    """An argparse type: text that `check` takes; its ValueError becomes the message."""
    def convert(text: str) -> str:
        try:
            check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text
    return convert


def reason(error: BaseException) -> str:
    """The text of an error without its number."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class LineLog:
    """Lines to a text stream, flushed once per turn of the event loop: a burst of requests costs one system call."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream: TextIO | None = sys.stdout if stream is None else stream
        self._lines: list[str] = []

    def write(self, line: str) -> None:
        """Takes one line, without its end."""
        if not self._lines:
            asyncio.get_running_loop().call_soon(self.flush)
        self._lines.append(line)

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        if not lines or self._stream is None:
            return
        try:
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None  # nobody reads any more: that is no reason to stop serving
