"""TAP and TUN devices against the kernel's own side of them, each test in a network namespace of its own."""

import errno
import fcntl
import json
import os
import pwd
import socket
import subprocess

import pytest

from lab import namespaces
from swos_net.dataplane.burst import Burst
from swos_net.device import tap as tap_module
from swos_net.device.open_device import open_device
from swos_net.device.tap import TapDevice, TunDevice
from swos_net.errors import DeviceError
from swos_net.link import Medium, Offload

WHY_NOT = namespaces.why_not()
needs_root = [pytest.mark.needs_root, pytest.mark.kernel_sockets, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "available")]
ALL = Offload.CHECKSUM | Offload.TSO4 | Offload.TSO6
NOBODY = 65534


@pytest.fixture
def inside(kit):
    """The test runs in a namespace of its own; `ip` runs there as well."""
    with namespaces.Namespace() as namespace, namespace.entered():
        with open("/proc/sys/net/ipv6/conf/default/accept_dad", "w") as file:
            file.write("0")
        yield lambda *arguments: json.loads(subprocess.run(["ip", "-j", *arguments], capture_output=True, check=True).stdout or b"[]")


@pytest.fixture
def opened():
    """Opens devices that are closed at the end."""
    devices = []

    def open_one(kind, *arguments, **options):
        devices.append(kind(*arguments, **options))
        return devices[-1]

    yield open_one
    for device in devices:
        device.close()


def packet_socket(name: str, ethertype: int = 0x0800) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ethertype))
    sock.bind((name, ethertype))
    sock.settimeout(5.0)
    return sock


def received_ipv4(device, kit) -> list[bytes]:
    """IPv4 frames of one look; the kernel multicasts over IPv6 whenever it likes."""
    at = device.link.link_header
    return [frame for frame in kit.received(device) if (frame[12:14] == b"\x08\x00" if at else frame[0] >> 4 == 4)]


def wait_for_ipv4(device, kit) -> list[bytes]:
    while kit.readable(device, 5.0):
        if frames := received_ipv4(device, kit):
            return frames
    raise AssertionError("nothing came")


class TestWithTheKernel:
    pytestmark = needs_root

    def test_the_link_says_what_it_is(self, inside, opened, kit):
        device = opened(TapDevice, "tap7")
        (shown,) = inside("link", "show", "tap7")
        link = device.link
        assert device.name == "tap7" and device.link_up and device.wants_write
        assert (link.medium, link.mtu, link.offloads, link.frame_max) == (Medium.ETHERNET, 1500, ALL, 65549)
        assert link.address != bytes.fromhex(shown["address"].replace(":", "")) and link.address[0] & 3 == 2
        plain = opened(TapDevice, offloads=False, mac=kit.OUR_MAC)
        assert (plain.link.offloads, plain.link.frame_max, plain.link.address) == (Offload.NONE, 1514, kit.OUR_MAC)
        tun = opened(TunDevice, "tun7")
        assert (tun.link.medium, tun.link.address, tun.link.offloads, tun.link.frame_max) == (Medium.IP, None, ALL, 65535)

    def test_the_descriptor_never_blocks_and_is_not_inherited(self, inside, opened):
        device = opened(TapDevice)
        assert not os.get_blocking(device.fileno()) and not os.get_inheritable(device.fileno())
        assert device.receive(Burst()) == 0

    def test_the_kernels_own_address_is_refused(self, inside, opened):
        opened(TapDevice, "tap0")
        (shown,) = inside("link", "show", "tap0")
        kernel = bytes.fromhex(shown["address"].replace(":", ""))
        inside("tuntap", "add", "dev", "tap1", "mode", "tap")
        inside("link", "set", "tap1", "address", kernel.hex(":"))
        with pytest.raises(ValueError, match="kernel's address on tap1"):
            TapDevice("tap1", mac=kernel)

    @pytest.mark.parametrize("offloads", [True, False])
    def test_frames_both_ways(self, inside, opened, kit, offloads):
        device = opened(TapDevice, "tap0", offloads=offloads, up=True)
        with packet_socket("tap0") as peer:
            frames = [kit.udp_frame(b"x" * size) for size in (20, 21, 1472)]
            for frame in frames:
                peer.send(frame)
            received = []
            while len(received) < 3:
                received += wait_for_ipv4(device, kit)
            assert received == frames
            assert device.transmit(kit.udp_batch(b"one", b"two"))
            assert [peer.recv(2000)[42:45] for _ in range(2)] == [b"one", b"two"]
        counters = device.counters()
        assert counters["transmit_frames"] == 2 and counters["transmit_bytes"] == 90 and counters["receive_frames"] >= 3

    @pytest.mark.parametrize("six", [False, True])
    @pytest.mark.parametrize("offloads", [True, False])
    def test_a_super_segment_crosses_whole_only_with_offloads(self, inside, opened, kit, six, offloads):
        device = opened(TapDevice, "tap0", offloads=offloads, up=True)
        data = bytes(range(250)) * 40
        headers = 74 if six else 54
        with packet_socket("tap0", 0x86DD if six else 0x0800) as peer:
            assert device.transmit(kit.tcp_batch(data, 1440, six=six))
            got = []
            while sum(map(len, got)) < len(data):
                frame = peer.recv(70000)
                if frame[:6] == kit.PEER_MAC:
                    got.append(frame[headers:])
            assert b"".join(got) == data and len(got) == (1 if offloads else 7)

    @pytest.mark.parametrize("offloads", [True, False])
    def test_what_the_kernel_sends_is_sound_whoever_had_the_interface_before(self, inside, opened, kit, offloads):
        """The features of a persistent interface outlive its user: none may be left on for one who cannot take them."""
        inside("tuntap", "add", "dev", "tap0", "mode", "tap")
        TapDevice("tap0", offloads=not offloads).close()
        device = opened(TapDevice, "tap0", offloads=offloads, up=True, host_address="192.0.2.2/24")
        inside("neigh", "add", "192.0.2.1", "lladdr", kit.OUR_MAC.hex(":"), "dev", "tap0")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"payload", ("192.0.2.1", 5000))
        burst = Burst()
        while kit.readable(device, 5.0):
            burst.clear()
            device.receive(burst)
            records = [record for record in burst.records() if record[2] == 0x0800 and record[3] == 17]
            if records:
                break
        assert [record[1] for record in records] == [0]
        assert bool(records[0][6] & 32) is offloads  # FRAME_CHECKSUM_TRUSTED: the kernel left it to us

    def test_an_interface_of_ones_own_stays_and_a_new_one_goes(self, inside, kit):
        inside("tuntap", "add", "dev", "kept", "mode", "tap")
        for name in ("kept", "gone"):
            device = TapDevice(name)
            device.close()
            device.close()
            assert not device.link_up
        assert {"kept"} == {shown["ifname"] for shown in inside("link", "show")} - {"lo"}

    def test_the_kernels_side_is_configured(self, inside, opened):
        addresses = ["192.0.2.1/25", "2001:db8::1/112", "fd00::1/64"]
        opened(TapDevice, "tap0", mtu=1400, up=True, host_address=addresses)
        (shown,) = inside("addr", "show", "tap0")
        present = {f"{item['local']}/{item['prefixlen']}" for item in shown["addr_info"]}
        assert present >= set(addresses) and shown["mtu"] == 1400 and "UP" in shown["flags"]
        tun = opened(TunDevice, "tun0", up=True, host_address="198.51.100.1/24")
        (shown,) = inside("addr", "show", tun.name)
        assert shown["addr_info"][0]["local"] == "198.51.100.1" and shown["addr_info"][0]["prefixlen"] == 24

    def test_the_interfaces_mtu_is_taken_over(self, inside, opened):
        inside("tuntap", "add", "dev", "tap0", "mode", "tap")
        inside("link", "set", "tap0", "mtu", "9000")
        assert opened(TapDevice, "tap0").link.mtu == 9000

    def test_an_mtu_that_the_kernel_refuses(self, inside, kit):
        with pytest.raises(OSError, match="ip link set tap0 mtu 65535") as caught:
            TapDevice("tap0", mtu=65535)
        assert caught.value.errno == errno.EINVAL

    def test_one_that_is_open_elsewhere_or_of_another_kind(self, inside, opened):
        opened(TapDevice, "tap0")
        with pytest.raises(OSError, match="another process has it open") as caught:
            TapDevice("tap0")
        assert caught.value.errno == errno.EBUSY
        inside("tuntap", "add", "dev", "tun0", "mode", "tun")
        with pytest.raises(OSError, match="not a tap interface") as caught:
            TapDevice("tun0")
        assert caught.value.errno == errno.EINVAL

    def test_an_interface_that_is_down_drops_frames(self, inside, opened, kit):
        device = opened(TapDevice, "tap0")
        assert device.transmit(kit.udp_batch(b"one", b"two"))
        assert device.counters()["dropped"] == 2 and device.counters()["transmit_frames"] == 0
        assert device.link_up

    @pytest.mark.parametrize("call", ["receive", "transmit"])
    def test_an_interface_that_was_deleted_is_the_end_of_the_device(self, inside, opened, kit, call):
        device = opened(TapDevice, "tap0")
        inside("link", "del", "tap0")
        with pytest.raises(DeviceError, match="tap0 has gone"):
            if call == "receive":
                device.receive(Burst())
            else:
                device.transmit(kit.udp_batch(b"x"))
        assert not device.link_up

    def test_packets_cross_a_tun_device(self, inside, opened, kit):
        device = opened(TunDevice, "tun0", up=True, host_address="192.0.2.2/24")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("192.0.2.2", 4000))
            sock.settimeout(5.0)
            sock.sendto(b"to us", ("192.0.2.1", 5000))
            assert wait_for_ipv4(device, kit)[0][28:] == b"to us"
            assert device.transmit(kit.udp_batch(b"from us"))
            assert sock.recvfrom(100) == (b"from us", ("192.0.2.1", 5000))

    def test_open_device_knows_both(self, inside, opened, kit):
        tap = opened(open_device, "tap:tap3", mac=kit.OUR_MAC.hex(":"), mtu=1300, offloads=False)
        assert isinstance(tap, TapDevice) and (tap.name, tap.link.address, tap.link.mtu) == ("tap3", kit.OUR_MAC, 1300)
        assert isinstance(opened(open_device, "tun:tun3"), TunDevice)

    @pytest.mark.parametrize("owned", [True, False])
    def test_an_ordinary_user_needs_an_interface_of_his_own(self, inside, owned):
        inside("tuntap", "add", "dev", "mine", "mode", "tap", "user", str(NOBODY))
        ended, end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                os.environ["USER"] = pwd.getpwuid(NOBODY).pw_name
                if owned:
                    TapDevice("mine").close()
                    os.write(end, b"opened")
                else:
                    TapDevice("other")
            except PermissionError as error:
                os.write(end, f"{error.errno} {error}".encode())
            finally:
                os._exit(0)
        os.close(end)
        os.waitpid(child, 0)
        with open(ended, encoding="utf-8") as file:
            told = file.read()
        if owned:
            assert told == "opened"
        else:
            assert told.startswith(f"{errno.EPERM} ") and "`ip tuntap add dev other mode tap user nobody`" in told


def test_wrong_options_are_told_before_anything_is_opened(monkeypatch, kit):
    monkeypatch.setattr(tap_module.pytun, "TunTapDevice", None)
    for options, message in (
        ({"name": "x" * 16}, "15 bytes"),
        ({"mtu": 67}, "MTU"),
        ({"host_address": "10.0.0.1/33"}, "10.0.0.1/33"),
    ):
        with pytest.raises(ValueError, match=message):
            TapDevice(**options)


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENODEV])
def test_without_tun_it_is_told_how_to_get_it(monkeypatch, kit, code):
    def refuse(_name, _flags):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tap_module.pytun, "TunTapDevice", refuse)
    with pytest.raises(DeviceError, match="modprobe tun") as caught:
        TapDevice("tap0")
    assert caught.value.errno == code


def test_a_kernel_that_keeps_its_offloads_is_no_failure(monkeypatch, kit, caplog):
    """Our super-segments need none of it: they go in a virtio_net_hdr."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    class FakeTun:
        name, mtu, hwaddr = "fake0", 1500, kit.PEER_MAC

        def __init__(self, _name, flags):
            assert flags & tap_module.pytun.IFF_VNET_HDR

        def fileno(self):
            return ours.fileno()

        def close(self):
            ours.close()

    def ioctl(_descriptor, request, _argument):
        if request == tap_module.TUNSETOFFLOAD:
            raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(tap_module.pytun, "TunTapDevice", FakeTun)
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    device = TapDevice("fake0")
    assert device.link.offloads == ALL and "keeps its offloads" in caplog.text
    device.transmit(kit.tcp_batch(bytes(5000), 1460))
    raw = theirs.recv(70000)
    # NEEDS_CSUM, TCPv4, header length, gso_size, start and offset of the checksum
    assert raw[:10] == bytes([1, 1]) + b"\x36\0" + (1460).to_bytes(2, "little") + b"\x22\0" + b"\x10\0"
    assert len(raw) == 10 + 54 + 5000
    theirs.send(bytes(10))  # a header without a frame
    theirs.send(b"\x01" + bytes(9) + kit.udp_frame(b"x"))  # a checksum that starts in the link header
    assert kit.received(device) == [] and device.counters()["dropped"] == 2
    device.close()
    theirs.close()
