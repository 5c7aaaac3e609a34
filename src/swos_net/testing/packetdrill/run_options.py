"""The options of a run: the caller's and those at the head of the script, with the defaults of the language."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from swos_net.testing.packetdrill.constants import CONSTANTS
from swos_net.testing.packetdrill.outcome import Unsupported
from swos_net.testing.packetdrill.profiles import Profile
from swos_net.testing.packetdrill.scanner import ScriptError
from swos_net.testing.packetdrill.script import Script

IP_VERSIONS = ("ipv4", "ipv6", "ipv4-mapped-ipv6")
_ADDRESSES = {  # local, gateway, remote and the length of the local prefix
    4: ("192.168.0.1", "192.168.0.2", "192.0.2.1", 16),
    6: ("fd3d:0a0b:17d6::1", "fd3d:0a0b:17d6::2", "fd3d:fa7b:d17d::1", 64),
}
_IGNORED = frozenset((
    "verbose", "v", "dry_run", "wire_client", "wire_server", "wire_server_ip", "wire_server_port", "wire_client_dev",
    "wire_server_dev", "so_filename", "so_flags", "init_scripts", "speed", "persistent_tun_dev", "tun_dev", "is_anyip",
    "send_omit_free", "debug", "psp_udp_port", "netmask_ip", "code_command", "code_format", "code_sockopt", "non_fatal",
    "fm", "cookie", "tcp_md5_secret", "dev",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunOptions:
    """`family` is that of the packets, `socket_family` that of the sockets: they differ for mapped addresses."""

    profile: Profile
    family: int
    socket_family: int
    local: str
    gateway: str
    remote: str
    prefix_length: int
    mtu: int
    mss: int
    tolerance_usecs: int
    tolerance_percent: float
    tick_usecs: int
    strict_segments: bool
    options_in_order: bool
    check_window: bool = True

    @classmethod
    def of(cls, script: Script, options: Iterable[str], profile: Profile, ip_version: str | None,
           tolerance_usecs: int | None) -> "RunOptions":  # fmt: skip
        """ScriptError for an option that is not understood, Unsupported for one that cannot be followed."""
        values: dict[str, str] = {}
        for option in options:
            name, _, value = option.lstrip("-").partition("=")
            values[name] = value
        values |= {name: value for name, value in script.options if name not in ("D", "define")}
        for name in values:
            if name not in _KNOWN and name not in _IGNORED:
                raise ScriptError(f"option --{name} is not known", script.path, 1)
        if "udp_encapsulation" in values:
            raise Unsupported("TCP over UDP (--udp_encapsulation)")
        version = ip_version or values.get("ip_version", "ipv4")
        if version not in IP_VERSIONS:
            raise ScriptError(f"--ip_version is one of {', '.join(IP_VERSIONS)}, not {version!r}", script.path, 1)
        family = 6 if version == "ipv6" else 4
        local, gateway, remote, length = _ADDRESSES[family]
        local = _address(values.get("local_ip"), family) or local
        remote = _address(values.get("remote_ip"), family) or remote
        gateway = _address(values.get("gateway_ip"), family) or _neighbour(local, gateway, length)
        mtu = int(values.get("mtu") or (profile.mtu if family == 4 else profile.mtu6))
        headers = 40 if family == 4 else 60
        tolerance = tolerance_usecs
        if tolerance is None:
            tolerance = int(values.get("tolerance_usecs") or profile.tolerance_usecs)
        return cls(
            profile, family, CONSTANTS["AF_INET" if version == "ipv4" else "AF_INET6"], local, gateway, remote, length, mtu,
            int(values.get("mss") or mtu - headers), tolerance, float(values.get("tolerance_percent") or 0),
            int(values.get("tcp_ts_tick_usecs") or 0), "strict_segments" in values, profile.options_in_order,
        )  # fmt: skip


_KNOWN = frozenset((
    "ip_version", "local_ip", "gateway_ip", "remote_ip", "mtu", "mss", "tolerance_usecs", "tolerance_percent",
    "tcp_ts_tick_usecs", "tcp_ts_ecr_scaled", "strict_segments", "udp_encapsulation", "bind_port", "connect_port",
))  # fmt: skip


def _address(text: str | None, family: int) -> str | None:
    """The address, without a prefix length; None for one of the other family, which is for another --ip_version."""
    if not text:
        return None
    address = ipaddress.ip_interface(text).ip
    return str(address) if address.version == family else None


def _neighbour(local: str, gateway: str, length: int) -> str:
    """The usual gateway, or one on the network of a local address that the script chose."""
    network = ipaddress.ip_interface(f"{local}/{length}").network
    if ipaddress.ip_address(gateway) in network and gateway != local:
        return gateway
    return str(ipaddress.ip_address(local) + 1)
