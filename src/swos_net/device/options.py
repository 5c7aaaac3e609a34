"""What devices are told about a link, checked once for all of them."""

import os

from swos_net.link import LinkFeatures, Medium, Offload

MTU_MIN, MTU_MAX = 68, 65535  # RFC 791 3.2: every link carries 68 bytes; the length field ends at 65535
ETHERNET_HEADER = 14


def own_mac(mac: bytes | None) -> bytes:
    """The 6 bytes of a unicast address, a random locally administered one (IEEE 802) for None; ValueError."""
    if mac is None:
        return b"\x02" + os.urandom(5)
    mac = bytes(mac)
    if len(mac) != 6 or mac[0] & 1 or not any(mac):
        raise ValueError("mac is the 6 bytes of a unicast address")
    return mac


def checked_mtu(mtu: int) -> int:
    """ValueError unless `mtu` is one that an IP packet can have."""
    if not MTU_MIN <= mtu <= MTU_MAX:
        raise ValueError(f"an MTU is {MTU_MIN} to {MTU_MAX} bytes of an IP packet, not {mtu}")
    return mtu


def plain_ethernet(mac: bytes | None, mtu: int) -> LinkFeatures:
    """An Ethernet link whose other end takes nothing but complete frames of at most `mtu` bytes of IP."""
    return LinkFeatures(Medium.ETHERNET, checked_mtu(mtu), own_mac(mac), Offload.NONE, ETHERNET_HEADER + mtu)
