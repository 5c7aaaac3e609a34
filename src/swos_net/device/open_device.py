"""Devices from a text, as tools and configurations give them."""

from swos_net.address import parse_mac
from swos_net.device.base import Device


def _vhost_user(role: str):
    def make(path: str, **options) -> Device:
        from swos_net.device.vhost_user.device import VhostUserDevice

        return VhostUserDevice(path, role=role, **options)

    return make


def _stream(role: str):
    def make(path: str, **options) -> Device:
        from swos_net.device.stream import StreamDevice

        return StreamDevice(path, role=role, **options)

    return make


def _dgram(paths: str, **options) -> Device:
    from swos_net.device.dgram import DgramDevice

    local, comma, remote = paths.partition(",")
    return DgramDevice(local, remote if comma else None, **options)


def _tap(name: str, **options) -> Device:
    from swos_net.device.tap import TapDevice

    return TapDevice(name, **options)


def _tun(name: str, **options) -> Device:
    from swos_net.device.tap import TunDevice

    return TunDevice(name, **options)


# kind: (its form, how it is made); each imports its module when it is wanted, so that no kind needs another's libraries
KINDS = {
    "vhost-user": ("vhost-user:PATH", _vhost_user("listen")),
    "vhost-user-connect": ("vhost-user-connect:PATH", _vhost_user("connect")),
    "tap": ("tap:NAME", _tap),
    "tun": ("tun:NAME", _tun),
    "stream": ("stream:PATH", _stream("listen")),
    "stream-connect": ("stream-connect:PATH", _stream("connect")),
    "dgram": ("dgram:LOCAL[,REMOTE]", _dgram),
}


def open_device(spec: str, *, mac: str | bytes | None = None, mtu: int | None = None, pcap=None, **options) -> Device:
    """Opens the device that `spec` names:

    "vhost-user:PATH", "vhost-user-connect:PATH", "tap:NAME", "tun:NAME", "stream:PATH", "stream-connect:PATH" or
    "dgram:LOCAL[,REMOTE]".  `mac` is our address ("52:54:00:12:34:56" or 6 bytes), `mtu` counts bytes of an IP packet,
    None leaves each to the device.  `pcap` is the file of a capture (see PcapTap).  Other options are those of the
    device's class.

    ValueError for another kind or a wrong option; OSError when the device cannot be opened.
    """
    kind, _, rest = spec.partition(":")
    if kind not in KINDS or not rest:
        forms = ", ".join(form for form, _make in KINDS.values())
        raise ValueError(f"no device {spec!r}: devices are {forms}")
    if mac is not None:
        options["mac"] = parse_mac(mac) if isinstance(mac, str) else bytes(mac)
    if mtu is not None:
        options["mtu"] = mtu
    device = KINDS[kind][1](rest, **options)
    if pcap is None:
        return device
    try:
        from swos_net.device.pcap import PcapTap

        return PcapTap(device, pcap)
    except BaseException:
        device.close()
        raise
