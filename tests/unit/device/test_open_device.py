"""Devices from text: each kind with its options, and what is told about a text that is none."""

import pytest

from swos_net.device.dgram import DgramDevice
from swos_net.device.open_device import KINDS, open_device
from swos_net.device.stream import StreamDevice
from swos_net.device.vhost_user.device import VhostUserDevice


@pytest.mark.parametrize("spec", ["", "tap", "tap:", "stream", "hub:x", "vhost_user:x", ":x"])
def test_what_is_no_device_is_answered_with_all_that_are(spec):
    with pytest.raises(ValueError) as caught:
        open_device(spec)
    assert all(f"{kind}:" in str(caught.value) for kind in KINDS) and repr(spec) in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "device_class"),
    [
        ("vhost-user", VhostUserDevice),
        ("vhost-user-connect", VhostUserDevice),
        ("stream", StreamDevice),
        ("stream-connect", StreamDevice),
        ("dgram", DgramDevice),
    ],
)
def test_kinds_with_a_path(tmp_path, kit, kind, device_class):
    path = tmp_path / "link.sock"
    device = open_device(f"{kind}:{path}", mac="52:54:00:12:34:56", mtu=1400)
    assert isinstance(device, device_class) and not device.link_up
    assert (device.link.address, device.link.mtu) == (bytes.fromhex("525400123456"), 1400)
    assert path.exists() is not kind.endswith("-connect")
    device.close()


def test_a_datagram_device_has_a_second_path_if_it_is_given(tmp_path, kit):
    for text, remote in ((f"dgram:{tmp_path}/a,{tmp_path}/b", f"{tmp_path}/b"), (f"dgram:{tmp_path}/a", None)):
        device = open_device(text)
        assert device.remote == remote
        device.close()


@pytest.mark.parametrize("options", [{"mac": "52:54:00"}, {"mac": "no"}, {"mac": b"\x01" * 6}, {"mtu": 1}])
def test_wrong_options(tmp_path, kit, options):
    with pytest.raises(ValueError):
        open_device(f"stream:{tmp_path}/link.sock", **options)
    assert not list(tmp_path.iterdir())


def test_options_that_a_kind_has_not(tmp_path, kit):
    with pytest.raises(TypeError, match="queue_pairs"):
        open_device(f"stream:{tmp_path}/link.sock", queue_pairs=2)
