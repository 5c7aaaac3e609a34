"""A DHCPv4 server for the guests of one link.

Read first: RFC 2131 3 and 4.3, RFC 2132, RFC 4039 (rapid commit), RFC 6842 (client identifier in replies); which
client has which address is kept in `leases`.  Relay agents are served when they are on the server's own network.
No BOOTP, no FORCERENEW, no DNS updates, no probing of an address before it is offered.
"""

from collections import Counter, deque
from dataclasses import dataclass
from random import Random

from swos_net.address import BROADCAST4, UNSPECIFIED4, prefix_matches, to_packed
from swos_net.dhcp import LINK_BROADCAST, DhcpDatagram
from swos_net.dhcp.leases import INFINITE, DhcpServerConfig, Lease, LeaseState, LeaseTable
from swos_net.errors import WireError
from swos_net.wire import dhcpv4
from swos_net.wire.dhcpv4 import DhcpMessage, MessageType

# Bounds on what waits to be taken by the caller
OUTPUT_MAX = 256
EVENTS_MAX = 1024

_RELAY_AGENT_INFORMATION = 82  # RFC 3046
_HOST_NAME_MAX = 64


@dataclass(slots=True)
class LeaseGranted:
    """A client was told that it has `address` for `seconds`; comes again with every renewal."""

    mac: bytes
    address: bytes
    hostname: str | None
    seconds: int


@dataclass(slots=True)
class LeaseReleased:
    """A client gave its address back."""

    mac: bytes
    address: bytes


@dataclass(slots=True)
class LeaseExpired:
    """A client did not renew its lease."""

    mac: bytes
    address: bytes


@dataclass(slots=True)
class AddressDeclined:
    """A client found that somebody else uses the address (RFC 2131 4.3.3): the network is worth a look."""

    mac: bytes
    address: bytes


Event = LeaseGranted | LeaseReleased | LeaseExpired | AddressDeclined


class DhcpServer:
    """`counters` counts what was received by message type name and what was dropped by reason.

    `random` spreads renewal times (RFC 2131 4.4.5).
    """

    def __init__(self, config: DhcpServerConfig, random: Random):
        self._config = config
        self._random = random
        self._leases = LeaseTable(config)
        self._output: deque[DhcpDatagram] = deque()
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self.counters: Counter[str] = Counter()

    def message_received(self, payload: bytes, source: bytes, now: float) -> None:
        """A UDP payload that came to port 67 from the IP address `source` (16 bytes)."""
        try:
            message = dhcpv4.parse(payload)
        except WireError as error:
            return self._drop(error.reason)
        kind = message.message_type
        if message.operation != dhcpv4.BOOT_REQUEST or kind is None:
            return self._drop("not_for_a_server")
        mac = message.hardware_address
        if message.hardware_type != dhcpv4.HARDWARE_ETHERNET or len(mac) != 6 or mac[0] & 1 or not any(mac):
            return self._drop("bad_dhcp_hardware")
        relay = message.relay_address
        if relay != UNSPECIFIED4 and not self._on_network(relay):
            return self._drop("relayed")  # the answer would go to any host a guest names
        if relay == UNSPECIFIED4 and message.client_address != UNSPECIFIED4 and source not in (
                message.client_address, UNSPECIFIED4):
            return self._drop("spoofed")
        handler = _HANDLERS.get(kind)
        if handler is None:
            return self._drop("not_for_a_server")
        self.counters[MessageType(kind).name.lower()] += 1
        handler(self, message, _client_of(message), now)

    def messages_to_send(self, now: float) -> list[DhcpDatagram]:
        """Everything that waits, in order; it is the caller's now."""
        output = list(self._output)
        self._output.clear()
        return output

    def next_deadline(self) -> float | None:
        return self._leases.next_deadline()

    def handle_timeout(self, now: float) -> None:
        for lease in self._leases.expire(now):
            self._events.append(LeaseExpired(lease.mac, lease.address))

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    # --- messages, in the order of RFC 2131 4.3 ---

    def _discover(self, message: DhcpMessage, client: bytes, now: float) -> None:
        requested = dhcpv4.address_option(message, dhcpv4.REQUESTED_ADDRESS)
        address = self._leases.select(client, message.hardware_address, requested)
        if address is None:
            return self._drop("pool_exhausted")
        lease = self._leases.assign(address, client, message.hardware_address)
        if self._config.rapid_commit and dhcpv4.RAPID_COMMIT in message.options:
            return self._grant(message, lease, now, {dhcpv4.RAPID_COMMIT: b""})  # RFC 4039 3.1
        if lease.state != LeaseState.BOUND:
            self._leases.activate(lease, LeaseState.OFFERED, now + self._config.offer_seconds)
        self._reply(message, MessageType.OFFER, lease.address, self._lease_times(self._seconds(message)))

    def _request(self, message: DhcpMessage, client: bytes, now: float) -> None:
        requested = dhcpv4.address_option(message, dhcpv4.REQUESTED_ADDRESS)
        if dhcpv4.SERVER_IDENTIFIER in message.options:
            self._request_selecting(message, client, requested, now)
        elif message.client_address != UNSPECIFIED4:  # RENEWING, REBINDING
            self._request_known(message, client, message.client_address, now)
        elif requested is not None:  # INIT-REBOOT
            self._request_known(message, client, requested, now)
        else:
            self._drop("bad_dhcp_option")

    def _request_selecting(self, message: DhcpMessage, client: bytes, requested: bytes | None, now: float) -> None:
        lease = self._leases.lease_of(client)
        if not self._names_us(message):
            if lease is not None and lease.state == LeaseState.OFFERED:
                self._leases.release(lease)  # RFC 2131 3.1 step 4: the offer was turned down
            return
        if requested is None:
            return self._drop("bad_dhcp_option")
        offered = lease is not None and lease.state != LeaseState.IDLE
        if offered and lease.address != requested or not self._leases.is_available(
                requested, client, message.hardware_address):
            return self._refuse(message, "not the address that was offered")
        self._grant(message, self._leases.assign(requested, client, message.hardware_address), now)

    def _request_known(self, message: DhcpMessage, client: bytes, address: bytes, now: float) -> None:
        """A client that believes it has `address` (RFC 2131 4.3.2: INIT-REBOOT, RENEWING, REBINDING)."""
        if not self._on_network(address):
            return self._refuse(message, "that address is not of this network")
        lease = self._leases.lease_of(client)
        if lease is None and not self._config.authoritative:
            return self._drop("unknown_client")  # RFC 2131 4.3.2: MUST remain silent
        if lease is not None and lease.address != address or not self._leases.is_available(
                address, client, message.hardware_address):
            return self._refuse(message, "that address is not yours")
        self._grant(message, self._leases.assign(address, client, message.hardware_address), now)

    def _decline(self, message: DhcpMessage, client: bytes, now: float) -> None:
        lease = self._leases.lease_of(client)
        address = dhcpv4.address_option(message, dhcpv4.REQUESTED_ADDRESS)
        if lease is None or lease.address != address or lease.state == LeaseState.IDLE or not self._names_us(message):
            return self._drop("not_its_lease")
        self._leases.decline(lease, now)
        self._events.append(AddressDeclined(message.hardware_address, lease.address))

    def _release(self, message: DhcpMessage, client: bytes, now: float) -> None:
        lease = self._leases.lease_of(client)
        if (lease is None or lease.address != message.client_address or lease.state != LeaseState.BOUND
                or not self._names_us(message)):
            return self._drop("not_its_lease")
        self._leases.release(lease)
        self._events.append(LeaseReleased(message.hardware_address, lease.address))

    def _inform(self, message: DhcpMessage, client: bytes, now: float) -> None:
        if not self._on_network(message.client_address):
            return self._drop("spoofed")
        # RFC 2131 4.3.5: neither an address nor lease times
        self._reply(message, MessageType.ACK, UNSPECIFIED4, {})

    # --- answers ---

    def _grant(self, message: DhcpMessage, lease: Lease, now: float, more: dict[int, bytes] | None = None) -> None:
        seconds = self._seconds(message)
        expires = float("inf") if seconds == INFINITE else now + seconds
        self._leases.activate(lease, LeaseState.BOUND, expires)
        hostname = dhcpv4.text_option(message, dhcpv4.HOST_NAME)
        lease.hostname = hostname and hostname[:_HOST_NAME_MAX]
        self._events.append(LeaseGranted(lease.mac, lease.address, lease.hostname, seconds))
        self._reply(message, MessageType.ACK, lease.address, self._lease_times(seconds) | (more or {}))

    def _refuse(self, message: DhcpMessage, text: str) -> None:
        self._send(message, MessageType.NAK, UNSPECIFIED4, {dhcpv4.MESSAGE: text.encode()})

    def _reply(self, message: DhcpMessage, kind: MessageType, address: bytes, options: dict[int, bytes]) -> None:
        """An OFFER or ACK with `options` and the parameters the client asked for."""
        config = self._config
        offered = {
            dhcpv4.SUBNET_MASK: dhcpv4.emit_mask(config.prefix_length),
            dhcpv4.ROUTER: b"" if config.router is None else to_packed(config.router),
            dhcpv4.DNS_SERVER: b"".join(map(to_packed, config.dns)),
            dhcpv4.DOMAIN_NAME: config.domain.encode(),
            dhcpv4.INTERFACE_MTU: b"" if config.mtu is None else config.mtu.to_bytes(2, "big"),
            dhcpv4.BROADCAST_ADDRESS: self._broadcast_address(),
        }
        wanted = list(message.options.get(dhcpv4.PARAMETER_REQUEST_LIST, offered))
        if dhcpv4.SUBNET_MASK in wanted:
            wanted.insert(0, dhcpv4.SUBNET_MASK)  # RFC 2132 3.3: before the routers
        # RFC 2132 9.8: in the order asked for
        self._send(message, kind, address, options | {code: offered[code] for code in wanted if offered.get(code)})

    def _send(self, message: DhcpMessage, kind: MessageType, address: bytes, options: dict[int, bytes]) -> None:
        """The reply to `message`, with the fields of RFC 2131 4.3.1 table 3."""
        fixed = {dhcpv4.MESSAGE_TYPE: bytes([kind]), dhcpv4.SERVER_IDENTIFIER: to_packed(self._config.server_address)}
        echoed = {code: message.options[code] for code in (dhcpv4.CLIENT_IDENTIFIER, _RELAY_AGENT_INFORMATION)
                  if code in message.options}  # RFC 6842 3; RFC 3046 2.2: last
        relayed = message.relay_address != UNSPECIFIED4
        refused = kind == MessageType.NAK
        reply = DhcpMessage(
            dhcpv4.BOOT_REPLY, message.transaction_id, message.hardware_address, fixed | options | echoed,
            # RFC 2131 4.3.2: a relay has to broadcast a NAK, for the client has no use of its address
            flags=message.flags | dhcpv4.BROADCAST if refused and relayed else message.flags,
            client_address=message.client_address if kind == MessageType.ACK else UNSPECIFIED4,
            your_address=address, relay_address=message.relay_address)
        try:
            payload = dhcpv4.emit(reply)
        except ValueError:
            return self._drop("reply_too_long")  # what the client or relay wants echoed does not fit
        if len(self._output) >= OUTPUT_MAX:
            return self._drop("output_full")
        link_address, port = None, dhcpv4.CLIENT_PORT
        # RFC 2131 4.1
        if relayed:
            destination, port = message.relay_address, dhcpv4.SERVER_PORT
        elif refused:
            destination, link_address = BROADCAST4, LINK_BROADCAST
        elif self._on_network(message.client_address):
            destination = message.client_address
        elif message.flags & dhcpv4.BROADCAST:
            destination, link_address = BROADCAST4, LINK_BROADCAST
        else:
            destination, link_address = address, message.hardware_address
        self.counters[kind.name.lower()] += 1
        self._output.append(DhcpDatagram(payload, destination, link_address, port, self._config.server_address))

    def _seconds(self, message: DhcpMessage) -> int:
        """RFC 2131 4.3.1: what the client asks for when it is less, but no less than a minute."""
        wanted = dhcpv4.integer_option(message, dhcpv4.LEASE_TIME)
        if wanted is None:
            return self._config.lease_seconds
        return min(max(wanted, 60), self._config.lease_seconds)

    def _lease_times(self, seconds: int) -> dict[int, bytes]:
        """RFC 2131 4.4.5: renewal after a half, rebinding after seven eighths, a little earlier by chance."""
        times = {dhcpv4.LEASE_TIME: seconds}
        if seconds != INFINITE:
            times[dhcpv4.RENEWAL_TIME] = int(seconds * (0.5 - self._random.uniform(0.0, 0.02)))
            times[dhcpv4.REBINDING_TIME] = int(seconds * (0.875 - self._random.uniform(0.0, 0.02)))
        return {code: value.to_bytes(4, "big") for code, value in times.items()}

    def _broadcast_address(self) -> bytes:
        host_bits = (1 << (32 - self._config.prefix_length)) - 1
        return (int.from_bytes(to_packed(self._config.server_address), "big") | host_bits).to_bytes(4, "big")

    def _names_us(self, message: DhcpMessage) -> bool:
        return dhcpv4.address_option(message, dhcpv4.SERVER_IDENTIFIER) == self._config.server_address

    def _on_network(self, address: bytes) -> bool:
        return prefix_matches(address, self._config.server_address, self._config.prefix_length)

    def _drop(self, reason: str) -> None:
        self.counters[reason] += 1


def _client_of(message: DhcpMessage) -> bytes:
    """RFC 2131 2, RFC 2132 9.14: option 61 (at least two bytes), else hardware type and address."""
    identifier = message.options.get(dhcpv4.CLIENT_IDENTIFIER, b"")
    return identifier if len(identifier) >= 2 else bytes([message.hardware_type]) + message.hardware_address


_HANDLERS = {
    MessageType.DISCOVER: DhcpServer._discover,
    MessageType.REQUEST: DhcpServer._request,
    MessageType.DECLINE: DhcpServer._decline,
    MessageType.RELEASE: DhcpServer._release,
    MessageType.INFORM: DhcpServer._inform,
}
