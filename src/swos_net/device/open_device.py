"""Devices from text."""


def open_device(spec: str, **options):
    kind, _, rest = spec.partition(":")
    if kind == "vhost-user":
        from swos_net.device.vhost_user.device import VhostUserDevice

        return VhostUserDevice(rest, **options)
    raise ValueError(f"unknown device kind {kind!r}")
