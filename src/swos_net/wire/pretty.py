"""One line of text for a frame, in the manner of tcpdump, for traces and test failures.

Any bytes can be described: what does not follow its format is shown as `[malformed: reason]`.  Checksums of TCP and
UDP are not looked at, since an offloading sender leaves them open.
"""

from swos_net.address import UNSPECIFIED4, format_address, format_mac
from swos_net.errors import WireError
from swos_net.link import Medium
from swos_net.wire import arp, dhcpv4, ethernet, icmpv4, icmpv6, ipv4, ipv6, ndisc, tcp, udp

_TCP_FLAGS = (
    (tcp.SYN, "S"),
    (tcp.FIN, "F"),
    (tcp.RST, "R"),
    (tcp.PSH, "P"),
    (tcp.URG, "U"),
    (tcp.ECE, "E"),
    (tcp.CWR, "W"),
    (tcp.ACK, "."),
)
_ICMPV4_UNREACHABLE = {0: "net", 1: "host", 2: "protocol", 3: "port", 4: "fragmentation needed", 13: "admin prohibited"}
_ICMPV6_UNREACHABLE = {0: "no route", 1: "admin prohibited", 2: "beyond scope", 3: "address", 4: "port"}


def describe_frame(frame: bytes, medium: Medium = Medium.ETHERNET, link_addresses: bool = False) -> str:
    """`frame` from its link header on; `link_addresses` puts the MAC addresses in front of IP packets too."""
    frame = bytes(frame)
    if medium is Medium.IP:
        return describe_packet(frame)
    try:
        header = ethernet.parse(frame)
    except WireError as error:
        return _malformed("Ethernet", error, frame)
    payload = frame[ethernet.HEADER_LENGTH :]
    macs = f"{format_mac(header.source)} > {format_mac(header.destination)} "
    if header.ethertype in (ethernet.ETHERTYPE_IPV4, ethernet.ETHERTYPE_IPV6):
        return (macs if link_addresses else "") + describe_packet(payload)
    if header.ethertype == ethernet.ETHERTYPE_ARP:
        return macs + _arp(payload)
    return f"{macs}ethertype {header.ethertype:#06x}, length {len(payload)}"


def describe_packet(packet: bytes) -> str:
    """`packet` from its IP header on."""
    packet = bytes(packet)
    version = packet[0] >> 4 if packet else 0
    try:
        if version == 4:
            return _ipv4(packet)
        if version == 6:
            return _ipv6(packet)
    except WireError as error:
        return _malformed(f"IP{version}", error, packet)
    return f"not IP, length {len(packet)}: {packet[:16].hex()}"


def _malformed(what: str, error: WireError, data: bytes) -> str:
    return f"{what} [malformed: {error.reason}], length {len(data)}"


def _arp(payload: bytes) -> str:
    try:
        packet = arp.parse(payload)
    except WireError as error:
        return _malformed("ARP", error, payload)
    sender = format_address(packet.sender_address)
    target = format_address(packet.target_address)
    if packet.operation == arp.REPLY:
        return f"ARP reply {sender} is-at {format_mac(packet.sender_link_address)}"
    if packet.sender_address == UNSPECIFIED4:
        return f"ARP probe who-has {target}"
    if sender == target:
        return f"ARP announcement {sender} is-at {format_mac(packet.sender_link_address)}"
    return f"ARP who-has {target} tell {sender}"


def _ipv4(packet: bytes) -> str:
    header = ipv4.parse(packet)
    payload = packet[header.header_length : header.total_length]
    if header.fragment_offset or header.flags & ipv4.MORE_FRAGMENTS:
        more = "+" if header.flags & ipv4.MORE_FRAGMENTS else ""
        return _between("IP", header) + (
            f"fragment id {header.identification} offset {header.fragment_offset}{more},"
            f" protocol {header.protocol}, length {len(payload)}"
        )
    return _transport("IP", header, header.protocol, payload)


def _ipv6(packet: bytes) -> str:
    header = ipv6.parse(packet)
    packet = packet[: ipv6.HEADER_LENGTH + header.payload_length]
    chain = ipv6.walk_extensions(packet, header.next_header)
    payload = packet[chain.offset :]
    if chain.problem is not None:
        return _between("IP6", header) + f"extension header not acceptable at {chain.problem.pointer}"
    if chain.fragment is not None:
        more = "+" if chain.fragment.more_fragments else ""
        return _between("IP6", header) + (
            f"fragment id {chain.fragment.identification} offset {chain.fragment.offset}{more},"
            f" protocol {chain.protocol}, length {len(payload)}"
        )
    return _transport("IP6", header, chain.protocol, payload)


def _between(name: str, header: ipv4.Ipv4Header | ipv6.Ipv6Header, ports: tuple[int, int] | None = None) -> str:
    source = format_address(header.source)
    destination = format_address(header.destination)
    if ports is None:
        return f"{name} {source} > {destination}: "
    return f"{name} {source}.{ports[0]} > {destination}.{ports[1]}: "


def _transport(name: str, header: ipv4.Ipv4Header | ipv6.Ipv6Header, protocol: int, payload: bytes) -> str:
    try:
        if protocol == tcp.PROTOCOL_TCP:
            segment = tcp.parse(payload)
            return _between(name, header, (segment.source_port, segment.destination_port)) + _tcp(segment, payload)
        if protocol == udp.PROTOCOL_UDP:
            datagram = udp.parse(payload)
            ports = (datagram.source_port, datagram.destination_port)
            return _between(name, header, ports) + _udp(ports, payload[udp.HEADER_LENGTH : datagram.length])
        if protocol == ipv4.PROTOCOL_ICMP and name == "IP":
            return _between(name, header) + _icmpv4(payload)
        if protocol == ipv6.PROTOCOL_ICMPV6 and name == "IP6":
            return _between(name, header) + _icmpv6(payload, header)
    except WireError as error:
        return _between(name, header) + _malformed(f"protocol {protocol}", error, payload)
    return _between(name, header) + f"protocol {protocol}, length {len(payload)}"


def _tcp(segment: tcp.TcpHeader, payload: bytes) -> str:
    length = len(payload) - segment.header_length
    flags = "".join(letter for bit, letter in _TCP_FLAGS if segment.flags & bit) or "none"
    text = f"Flags [{flags}], seq {segment.seq}"
    if length:
        text += f":{(segment.seq + length) & 0xFFFFFFFF}"
    if segment.flags & tcp.ACK:
        text += f", ack {segment.ack}"
    text += f", win {segment.window}"
    if segment.flags & tcp.URG:
        text += f", urg {segment.urgent_pointer}"
    if segment.options:
        text += f", options [{_tcp_options(segment.options)}]"
    return f"{text}, length {length}"


def _tcp_options(data: bytes) -> str:
    try:
        options = tcp.parse_options(data)
    except WireError:
        return f"malformed {data.hex()}"
    words = []
    if options.mss is not None:
        words.append(f"mss {options.mss}")
    if options.sack_permitted:
        words.append("sackOK")
    if options.ts_val is not None:
        words.append(f"TS val {options.ts_val} ecr {options.ts_ecr}")
    if options.window_scale is not None:
        words.append(f"wscale {options.window_scale}")
    if options.sack_blocks:
        words.append("sack " + " ".join(f"{{{left}:{right}}}" for left, right in options.sack_blocks))
    return ",".join(words)


def _udp(ports: tuple[int, int], data: bytes) -> str:
    if dhcpv4.SERVER_PORT in ports and ports[0] in (dhcpv4.SERVER_PORT, dhcpv4.CLIENT_PORT):
        return _dhcpv4(data)
    return f"UDP, length {len(data)}"


def _dhcpv4(data: bytes) -> str:
    try:
        message = dhcpv4.parse(data)
    except WireError as error:
        return _malformed("DHCP", error, data)
    kind = message.message_type
    name = dhcpv4.MessageType(kind).name if kind in list(dhcpv4.MessageType) else f"type {kind}"
    text = f"DHCP {name}, xid {message.transaction_id:#x}, from {format_mac(message.hardware_address)}"
    if message.your_address != UNSPECIFIED4:
        text += f", your address {format_address(message.your_address)}"
    return f"{text}, length {len(data)}"


def _icmpv4(payload: bytes) -> str:
    message = icmpv4.parse(payload)
    if message.type in (icmpv4.ECHO_REQUEST, icmpv4.ECHO_REPLY):
        kind = "request" if message.type == icmpv4.ECHO_REQUEST else "reply"
        return f"ICMP echo {kind}, id {message.identifier}, seq {message.sequence}, length {len(payload)}"
    if message.type == icmpv4.DESTINATION_UNREACHABLE:
        text = f"ICMP unreachable, {_ICMPV4_UNREACHABLE.get(message.code, message.code)}"
        if message.code == icmpv4.FRAGMENTATION_NEEDED:
            text += f", mtu {message.next_hop_mtu}"
    elif message.type == icmpv4.TIME_EXCEEDED:
        text = f"ICMP time exceeded, code {message.code}"
    elif message.type == icmpv4.PARAMETER_PROBLEM:
        text = f"ICMP parameter problem, pointer {message.pointer}"
    else:
        text = f"ICMP type {message.type} code {message.code}"
    return f"{text}, length {len(payload)}"


def _icmpv6(payload: bytes, header: ipv6.Ipv6Header) -> str:
    message = icmpv6.parse(payload, header.source, header.destination)
    if message.type in (icmpv6.ECHO_REQUEST, icmpv6.ECHO_REPLY):
        kind = "request" if message.type == icmpv6.ECHO_REQUEST else "reply"
        return f"ICMP6 echo {kind}, id {message.identifier}, seq {message.sequence}, length {len(payload)}"
    if message.type == icmpv6.DESTINATION_UNREACHABLE:
        text = f"ICMP6 unreachable, {_ICMPV6_UNREACHABLE.get(message.code, message.code)}"
    elif message.type == icmpv6.PACKET_TOO_BIG:
        text = f"ICMP6 packet too big, mtu {message.mtu}"
    elif message.type == icmpv6.TIME_EXCEEDED:
        text = f"ICMP6 time exceeded, code {message.code}"
    elif message.type == icmpv6.PARAMETER_PROBLEM:
        text = f"ICMP6 parameter problem, code {message.code}, pointer {message.pointer}"
    elif ndisc.ROUTER_SOLICITATION <= message.type <= ndisc.REDIRECT:
        text = "ICMP6 " + _ndisc(ndisc.parse(payload, header.source, header.destination))
    else:
        text = f"ICMP6 type {message.type} code {message.code}"
    return f"{text}, length {len(payload)}"


def _ndisc(message: ndisc.NdMessage) -> str:
    kind = type(message)
    if kind is ndisc.NeighborSolicitation:
        return f"neighbor solicitation, who has {format_address(message.target)}"
    if kind is ndisc.NeighborAdvertisement:
        flags = ("R" if message.router else "") + ("S" if message.solicited else "") + ("O" if message.override else "")
        text = f"neighbor advertisement, target {format_address(message.target)}, flags [{flags}]"
        if message.options.target_link_address is not None:
            text += f", is-at {format_mac(message.options.target_link_address)}"
        return text
    if kind is ndisc.RouterSolicitation:
        return "router solicitation"
    if kind is ndisc.RouterAdvertisement:
        prefixes = "".join(
            f", prefix {format_address(prefix.prefix)}/{prefix.length}" for prefix in message.options.prefixes
        )
        return f"router advertisement, lifetime {message.router_lifetime}{prefixes}"
    return f"redirect, {format_address(message.destination)} via {format_address(message.target)}"
