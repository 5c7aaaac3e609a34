"""TAP and TUN devices: the Linux kernel at the other end of the link.

With offloads a virtio_net_hdr goes before each frame (Documentation/networking/tuntap.rst of Linux, VIRTIO 1.2 5.1.6):
super-segments and unfinished checksums cross whole in both directions.
"""

import errno
import fcntl
import ipaddress
import logging
import os
import socket
import struct
from collections.abc import Iterable

import pytun

from swos_net.dataplane.batch import link_limits
from swos_net.dataplane.fd_link import PACKETS, FdLink
from swos_net.device.options import ETHERNET_HEADER, MTU_MAX, checked_mtu, own_mac
from swos_net.errors import DeviceError, os_error
from swos_net.link import LinkFeatures, Medium, Offload

log = logging.getLogger(__name__)

NAME_MAX = 15  # IFNAMSIZ without the final 0
VNET_HEADER = 10
ALL_OFFLOADS = Offload.CHECKSUM | Offload.TSO4 | Offload.TSO6

# linux/if_tun.h, linux/sockios.h
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
TUNSETVNETLE = 0x400454DC
SIOCSIFADDR = 0x8916
SIOCGIFINDEX = 0x8933
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 1, 2, 4


class KernelLink:
    """What TapDevice and TunDevice have in common.

    `name` is that of the interface: an existing one is used (without privileges if it is persistent and belongs to the
    user), otherwise it is made and lives as long as the device.  An empty name, or one with %d, lets the kernel choose.
    `mtu` sets the interface's, None takes it over.  Without `offloads` both sides send nothing but whole frames.  For
    convenience, with CAP_NET_ADMIN: `host_address` ("10.0.2.1/24", "fd00::1/64", or several) for the kernel's side of
    the link, and `up` sets it up.

    DeviceError without TUN in this kernel or container, PermissionError without the right to it, EBUSY when another
    process has it, EINVAL when the interface is of another kind.  Not thread-safe; nothing here blocks.
    """

    medium: Medium
    _flag: int
    _mode: str
    wants_write = True

    def __init__(
        self,
        name: str = "",
        *,
        mac: bytes | None = None,
        mtu: int | None = None,
        offloads: bool = True,
        up: bool = False,
        host_address: str | Iterable[str] = (),
    ):
        if len(os.fsencode(name)) > NAME_MAX:
            raise ValueError(f"an interface's name has at most {NAME_MAX} bytes: {name!r}")
        if mtu is not None:
            checked_mtu(mtu)
        addresses = [host_address] if isinstance(host_address, str) else host_address
        addresses = [ipaddress.ip_interface(address) for address in addresses]
        self._tun = self._open(name, offloads)
        try:
            os.set_blocking(self._tun.fileno(), False)
            os.set_inheritable(self._tun.fileno(), False)
            self.name: str = self._tun.name
            address = self._own_address(mac)
            self._set_up_offloads(offloads)
            mtu = self._set_mtu(mtu)
            for item in addresses:
                self._add_host_address(item)
            if up:
                self._configure(self._tun.up, f"ip link set {self.name} up")
        except BaseException:
            self._tun.close()
            raise
        link_header = ETHERNET_HEADER if self.medium is Medium.ETHERNET else 0
        frame_max = link_header + (MTU_MAX if offloads else mtu)
        self.link = LinkFeatures(self.medium, mtu, address, ALL_OFFLOADS if offloads else Offload.NONE, frame_max)
        self.link_up = True
        self._limits = link_limits(self.link)
        self._frames = FdLink(
            self._tun.fileno(), PACKETS, self.medium, header_size=VNET_HEADER if offloads else 0, offloads=self.link.offloads
        )
        self._closed = False

    def fileno(self) -> int:
        return self._tun.fileno()

    def receive(self, burst) -> int:
        try:
            return self._frames.receive(burst)
        except (EOFError, OSError) as error:
            raise self._gone(error) from None

    def release(self, burst) -> None:
        pass

    def transmit(self, batch) -> bool:
        """A kernel's side that is not up refuses frames: they are dropped and counted."""
        try:
            return self._frames.transmit(batch, self._limits)
        except OSError as error:
            raise self._gone(error) from None

    def counters(self) -> dict[str, int]:
        return self._frames.counters()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.link_up = False
            self._tun.close()

    def _gone(self, error: Exception) -> DeviceError:
        self.link_up = False
        return DeviceError(f"interface {self.name} has gone: {error}", getattr(error, "errno", None) or errno.ENODEV)

    def _open(self, name: str, offloads: bool):
        flags = self._flag | pytun.IFF_NO_PI | (pytun.IFF_VNET_HDR if offloads else 0)
        what = name or f"a new {self._mode} interface"
        try:
            return pytun.TunTapDevice(name, flags)
        except OSError as error:
            code = error.errno or errno.EINVAL
        if code in (errno.EPERM, errno.EACCES):
            create = f"ip tuntap add dev {name or 'NAME'} mode {self._mode} user {_user()}"
            raise os_error(
                code, f"{what}: run once as root `{create}` and `ip link set {name or 'NAME'} up`, or run with CAP_NET_ADMIN"
            )
        if code in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise DeviceError(
                f"{what}: /dev/net/tun is not usable here: `modprobe tun`, or give the container --device /dev/net/tun", code
            )
        if code == errno.EBUSY:
            raise os_error(code, f"{what}: another process has it open; end it or choose another name")
        if code == errno.EINVAL:
            raise os_error(code, f"{what}: the interface is not a {self._mode} interface with one queue; choose another name")
        raise os_error(code, what)

    def _own_address(self, mac: bytes | None) -> bytes | None:
        raise NotImplementedError

    def _set_up_offloads(self, offloads: bool) -> None:
        """A persistent interface still has what its last user set."""
        descriptor = self._tun.fileno()
        if offloads:
            for request, value in ((TUNSETVNETHDRSZ, VNET_HEADER), (TUNSETVNETLE, 1)):
                fcntl.ioctl(descriptor, request, struct.pack("i", value))
        try:
            fcntl.ioctl(descriptor, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 if offloads else 0)
        except OSError as error:
            if not offloads:
                raise
            log.warning("%s: the kernel keeps its offloads to itself: %s", self.name, error)

    def _set_mtu(self, mtu: int | None) -> int:
        present = self._tun.mtu
        if mtu is None or mtu == present:
            return checked_mtu(present)

        def set_mtu() -> None:
            self._tun.mtu = mtu

        self._configure(set_mtu, f"ip link set {self.name} mtu {mtu}")
        return mtu

    def _add_host_address(self, item: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> None:
        self._configure(lambda: self._assign(item), f"ip addr add {item} dev {self.name}")

    def _assign(self, item: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> None:
        if item.version == 4:
            self._tun.addr = str(item.ip)
            self._tun.netmask = str(item.netmask)
            return
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            request = struct.pack("16si20x", self.name.encode(), 0)
            (index,) = struct.unpack_from("i", fcntl.ioctl(sock, SIOCGIFINDEX, request), 16)
            # struct in6_ifreq
            fcntl.ioctl(sock, SIOCSIFADDR, struct.pack("16sIi", item.ip.packed, item.network.prefixlen, index))

    def _configure(self, action, command: str) -> None:
        try:
            action()
        except OSError as error:
            code = error.errno or errno.EINVAL
            raise os_error(code, f"interface {self.name}: run as root `{command}`") from None


class TapDevice(KernelLink):
    """An Ethernet link to the kernel; see KernelLink for the arguments.

    `mac` is our own address, not the one that the interface shows; a random one when it is None.
    """

    medium = Medium.ETHERNET
    _flag = pytun.IFF_TAP
    _mode = "tap"

    def _own_address(self, mac: bytes | None) -> bytes:
        kernel = bytes(self._tun.hwaddr)
        own = own_mac(mac)
        while own == kernel:
            if mac is not None:
                raise ValueError(f"{mac.hex(':')} is the kernel's address on {self.name}: the two ends of a link need two")
            own = own_mac(None)
        return own


class TunDevice(KernelLink):
    """A link to the kernel that carries IP packets and has no link addresses; see KernelLink for the arguments."""

    medium = Medium.IP
    _flag = pytun.IFF_TUN
    _mode = "tun"

    def _own_address(self, mac: bytes | None) -> None:
        if mac is not None:
            raise ValueError("a TUN device has no link addresses")


def _user() -> str:
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or str(os.getuid())
