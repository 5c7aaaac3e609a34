"""DHCPv4 behaviour: the server for guests of a link and the client of an interface."""

from dataclasses import dataclass


@dataclass(slots=True)
class DhcpDatagram:
    """A UDP datagram to send; the source port is that of the role, 67 of a server and 68 of a client.

    Addresses are 16 bytes.  `destination_link_address` is where it goes without address resolution, because the
    receiver cannot answer for its IP address yet; None has the address resolved as usual.
    """

    payload: bytes
    destination: bytes
    destination_link_address: bytes | None
    destination_port: int
    source: bytes


LINK_BROADCAST = b"\xff" * 6
