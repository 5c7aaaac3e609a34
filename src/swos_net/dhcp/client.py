"""The DHCPv4 client of one interface.

Read first: RFC 2131 4.4 with its figure 5.  The first acceptable offer is taken.  When no server answers in time, the
user network of QEMU is assumed (`Fallback`) while the client goes on asking.  Probing the leased address is the
caller's: it has `decline`.  No random wait before the first message (4.4.1), no INFORM, no leases kept on disk.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from random import Random

from swos_net.address import (BROADCAST4, UNSPECIFIED4, format_address, is_ipv4, is_loopback, is_multicast,
                              parse_address, prefix_matches, to_packed)
from swos_net.dhcp import LINK_BROADCAST, DhcpDatagram
from swos_net.errors import WireError
from swos_net.wire import dhcpv4
from swos_net.wire.dhcpv4 import DhcpMessage, MessageType

INFINITE = 0xFFFFFFFF  # RFC 2131 3.3

_PARAMETERS = bytes([dhcpv4.SUBNET_MASK, dhcpv4.ROUTER, dhcpv4.DNS_SERVER, dhcpv4.INTERFACE_MTU, dhcpv4.LEASE_TIME,
                     dhcpv4.RENEWAL_TIME, dhcpv4.REBINDING_TIME])
_REQUEST_ATTEMPTS = 4  # RFC 2131 3.1: retransmitted for some 60 seconds
_REBOOT_ATTEMPTS = 2  # a server that does not know us is silent: better to ask for any address soon
_DNS_MAX = 8
# Bounds on what waits to be taken by the caller
_OUTPUT_MAX = 16
_EVENTS_MAX = 64


@dataclass(frozen=True, slots=True)
class Fallback:
    """What is assumed without a server: the user network of QEMU, as SwiftOS does."""

    address: bytes = parse_address("10.0.2.15")
    prefix_length: int = 24
    router: bytes | None = parse_address("10.0.2.2")
    dns: tuple[bytes, ...] = (parse_address("10.0.2.3"),)


@dataclass(frozen=True, slots=True)
class DhcpClientConfig:
    """Times are seconds.  `fallback` None means: wait for a server however long it takes."""

    hostname: str = ""
    client_identifier: bytes | None = None  # None: hardware type and address (RFC 2132 9.14)
    # An address had before: confirmed with INIT-REBOOT rather than asking for any (RFC 2131 4.4.2)
    previous_address: bytes | None = None
    # Replies reach an interface without an address only as broadcasts (RFC 2131 4.1)
    broadcast: bool = True
    fallback: Fallback | None = field(default_factory=Fallback)
    fallback_after: float = 4.0  # from the start to the first offer
    fallback_acknowledgment: float = 2.0  # from an offer to its acknowledgment
    # RFC 2131 4.1: doubled up to the maximum, each a second more or less by chance
    retransmit_first: float = 4.0
    retransmit_max: float = 64.0

    def __post_init__(self) -> None:
        if len(self.hostname) > 63 or not self.hostname.isascii():
            raise ValueError(f"host name {self.hostname!r} has more than 63 characters, or some beyond ASCII")
        if self.client_identifier is not None and not 2 <= len(self.client_identifier) <= 64:
            raise ValueError("a client identifier has 2 to 64 bytes, the first of them its type (RFC 2132 9.14)")
        if self.previous_address is not None and not is_ipv4(self.previous_address):
            raise ValueError(f"previous address {format_address(self.previous_address)} is not IPv4")


class ClientState(IntEnum):
    """RFC 2131 figure 5; INIT is a client that is stopped or waits to begin again."""

    INIT = 0
    SELECTING = 1
    REQUESTING = 2
    REBOOTING = 3
    BOUND = 4
    RENEWING = 5
    REBINDING = 6


@dataclass(slots=True)
class LeaseBound:
    """The interface has `address` for `seconds` from when it asked; comes again with every renewal, and then takes
    the place of what was said before.  `mtu` is None when the server says nothing sensible."""

    address: bytes
    prefix_length: int
    router: bytes | None
    dns: tuple[bytes, ...]
    mtu: int | None
    seconds: int
    server: bytes


@dataclass(slots=True)
class LeaseLost:
    """The address must not be used any longer.  `reason` is "expired", "refused", "declined" or "released"."""

    address: bytes
    reason: str


@dataclass(slots=True)
class FallbackUsed:
    """No server yet; `reason` is "no offer" or "no acknowledgment".  A LeaseBound that follows takes its place."""

    address: bytes
    prefix_length: int
    router: bytes | None
    dns: tuple[bytes, ...]
    reason: str


Event = LeaseBound | LeaseLost | FallbackUsed


class DhcpClient:
    """Call `start`; hand over what comes to port 68 and send what comes out, until `release` or `stop`.

    `counters` counts messages received by type name and drops by reason.
    """

    def __init__(self, config: DhcpClientConfig, hardware_address: bytes, random: Random):
        self._config = config
        self._hardware_address = hardware_address
        self._random = random
        self._state = ClientState.INIT
        self._transaction_id = 0
        self._previous_address: bytes | None = None
        self._began = 0.0  # when this transaction did
        self._seconds = 0  # since then, for the secs field
        self._sent = 0.0  # when the last request went, from which a lease counts (RFC 2131 4.4.1)
        self._attempts = 0
        self._refusals = 0
        self._offer: DhcpMessage | None = None  # once bound: all that offer and acknowledgments said
        self._bound: LeaseBound | None = None
        # Deadlines: None does not run
        self._retransmit_at: float | None = None
        self._fallback_at: float | None = None
        self._renew_at: float | None = None
        self._rebind_at: float | None = None
        self._expire_at: float | None = None
        self._output: deque[DhcpDatagram] = deque(maxlen=_OUTPUT_MAX)
        self._events: deque[Event] = deque(maxlen=_EVENTS_MAX)
        self.counters: Counter[str] = Counter()

    @property
    def state(self) -> ClientState:
        return self._state

    @property
    def lease(self) -> LeaseBound | None:
        """The lease in force."""
        return self._bound

    # --- the user's calls ---

    def start(self, now: float) -> None:
        self._fallback_at = None if self._config.fallback is None else now + self._config.fallback_after
        self._init(now, self._config.previous_address)

    def stop(self) -> None:
        """Ends without a word; a lease runs out at the server."""
        self._state = ClientState.INIT
        self._offer = self._bound = None
        self._retransmit_at = self._fallback_at = self._renew_at = self._rebind_at = self._expire_at = None

    def release(self, now: float) -> None:
        """Gives the lease back (RFC 2131 4.4.6) and stops."""
        if self._bound is not None:
            lease = self._bound
            self._new_transaction(now)
            options = {dhcpv4.SERVER_IDENTIFIER: to_packed(lease.server)}
            self._send(MessageType.RELEASE, options, lease.address, lease.server)
            self._lose("released")
        self.stop()

    def decline(self, now: float) -> None:
        """Tells the server that somebody else uses the leased address, and begins again after ten seconds
        (RFC 2131 3.1 step 5)."""
        if self._bound is None:
            return
        lease = self._bound
        self._new_transaction(now)
        self._send(MessageType.DECLINE, {dhcpv4.REQUESTED_ADDRESS: to_packed(lease.address),
                                         dhcpv4.SERVER_IDENTIFIER: to_packed(lease.server)})
        self._lose("declined")
        self.stop()
        self._retransmit_at = now + 10.0

    # --- the five verbs ---

    def message_received(self, payload: bytes, source: bytes, now: float) -> None:
        """A UDP payload that came to port 68 from the IP address `source` (16 bytes)."""
        try:
            message = dhcpv4.parse(payload)
        except WireError as error:
            return self._drop(error.reason)
        if message.operation != dhcpv4.BOOT_REPLY or message.hardware_address != self._hardware_address:
            return self._drop("not_for_us")
        if message.transaction_id != self._transaction_id or self._state in (ClientState.INIT, ClientState.BOUND):
            return self._drop("unexpected")
        kind = message.message_type
        server = dhcpv4.address_option(message, dhcpv4.SERVER_IDENTIFIER) or source
        if self._state == ClientState.REQUESTING and server != self._offer.server_address:
            return self._drop("unexpected")  # another server's, or nobody's
        if kind == MessageType.OFFER and self._state == ClientState.SELECTING:
            self._offer_received(message, server, now)
        elif kind == MessageType.ACK and self._state != ClientState.SELECTING:
            self._acknowledgment_received(message, server, now)
        elif kind == MessageType.NAK and self._state != ClientState.SELECTING:
            self._refusal_received(now)
        else:
            self._drop("unexpected")

    def messages_to_send(self, now: float) -> list[DhcpDatagram]:
        output = list(self._output)
        self._output.clear()
        return output

    def next_deadline(self) -> float | None:
        running = [deadline for deadline in (self._retransmit_at, self._fallback_at, self._renew_at, self._rebind_at,
                                             self._expire_at) if deadline is not None]
        return min(running) if running else None

    def handle_timeout(self, now: float) -> None:
        if _due(self._fallback_at, now):
            self._use_fallback()
        if _due(self._expire_at, now):
            self._lose("expired")
            self._init(now)  # RFC 2131 4.4.5
        elif _due(self._rebind_at, now):
            self._rebind_at = self._renew_at = None
            self._state = ClientState.REBINDING
            self._new_transaction(now)
            self._transmit(now)
        elif _due(self._renew_at, now):
            self._renew_at = None
            self._state = ClientState.RENEWING
            self._new_transaction(now)
            self._transmit(now)
        elif _due(self._retransmit_at, now):
            given_up = (self._state == ClientState.REQUESTING and self._attempts >= _REQUEST_ATTEMPTS
                        or self._state == ClientState.REBOOTING and self._attempts >= _REBOOT_ATTEMPTS)
            if given_up or self._state == ClientState.INIT:
                self._init(now)
            else:
                self._transmit(now)

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    # --- states ---

    def _init(self, now: float, previous_address: bytes | None = None) -> None:
        """To INIT-REBOOT with an address to confirm, else to SELECTING."""
        self._offer = self._bound = None
        self._renew_at = self._rebind_at = self._expire_at = None
        self._new_transaction(now)
        self._previous_address = previous_address
        self._state = ClientState.SELECTING if previous_address is None else ClientState.REBOOTING
        self._transmit(now)

    def _new_transaction(self, now: float) -> None:
        self._transaction_id = self._random.getrandbits(32)
        self._began = now
        self._seconds = 0
        self._attempts = 0

    def _offer_received(self, message: DhcpMessage, server: bytes, now: float) -> None:
        if not _is_host(message.your_address) or not _is_host(server):
            return self._drop("bad_address")
        self.counters["offer"] += 1
        message.server_address = server  # what the request names
        self._offer = message
        self._state = ClientState.REQUESTING
        self._attempts = 0
        if self._fallback_at is not None:
            self._fallback_at = max(self._fallback_at, now + self._config.fallback_acknowledgment)
        self._transmit(now)  # RFC 2131 4.4.1: with the transaction id of the offer

    def _acknowledgment_received(self, message: DhcpMessage, server: bytes, now: float) -> None:
        if not _is_host(message.your_address) or not _is_host(server):
            return self._drop("bad_address")
        seconds = self._option(message, lambda m: dhcpv4.integer_option(m, dhcpv4.LEASE_TIME))
        if not seconds:
            return self._drop("no_lease_time")  # RFC 2131 4.3.1: a server MUST say it
        self.counters["ack"] += 1
        self._bound = self._lease_of(message, server, seconds)
        self._set_lease_times(message, seconds)
        message.options = (self._offer.options if self._offer is not None else {}) | message.options
        self._offer = message
        self._refusals = 0
        self._retransmit_at = self._fallback_at = None
        self._state = ClientState.BOUND
        self._events.append(self._bound)

    def _refusal_received(self, now: float) -> None:
        self.counters["nak"] += 1
        if self._bound is not None:
            self._lose("refused")
        self._refusals += 1
        if self._refusals == 1:
            return self._init(now)
        # a server that offers what it then refuses is not asked as fast as it answers
        self._state = ClientState.INIT
        self._offer = None
        self._renew_at = self._rebind_at = self._expire_at = None
        self._retransmit_at = now + min(2.0 ** min(self._refusals, 16), self._config.retransmit_max)

    def _lease_of(self, message: DhcpMessage, server: bytes, seconds: int) -> LeaseBound:
        """What the acknowledgment says; options missing there are taken from the offer, then from the fallback as
        far as it belongs to the same network.  A renewal changes what it names."""
        fallback = self._config.fallback or Fallback(dns=(), router=None)
        address = message.your_address
        length = self._option(message, dhcpv4.prefix_length) or fallback.prefix_length
        router = self._option(message, lambda m: dhcpv4.address_option(m, dhcpv4.ROUTER))
        if router is None and fallback.router is not None and prefix_matches(fallback.router, address, length):
            router = fallback.router
        dns = self._option(message, lambda m: dhcpv4.addresses_option(m, dhcpv4.DNS_SERVER) or None)
        if dns is None:
            dns = [one for one in fallback.dns if prefix_matches(one, address, length)]
        mtu = self._option(message, lambda m: dhcpv4.integer_option(m, dhcpv4.INTERFACE_MTU, 2))
        if mtu is not None and mtu < 68:  # RFC 2132 5.1
            mtu = None
        return LeaseBound(address, length, router, tuple(dns[:_DNS_MAX]), mtu, seconds, server)

    def _option(self, message: DhcpMessage, read: Callable[[DhcpMessage], object]) -> object:
        value = read(message)
        return read(self._offer) if value is None and self._offer is not None else value

    def _set_lease_times(self, message: DhcpMessage, seconds: int) -> None:
        if seconds == INFINITE:
            self._renew_at = self._rebind_at = self._expire_at = None
            return
        t1 = self._option(message, lambda m: dhcpv4.integer_option(m, dhcpv4.RENEWAL_TIME))
        t2 = self._option(message, lambda m: dhcpv4.integer_option(m, dhcpv4.REBINDING_TIME))
        if t1 is None or t2 is None or not 0 < t1 < t2 < seconds:
            t1, t2 = seconds * 0.5, seconds * 0.875  # RFC 2131 4.4.5
        self._renew_at, self._rebind_at, self._expire_at = self._sent + t1, self._sent + t2, self._sent + seconds

    def _lose(self, reason: str) -> None:
        self._events.append(LeaseLost(self._bound.address, reason))
        self._bound = None

    def _use_fallback(self) -> None:
        self._fallback_at = None
        fallback = self._config.fallback
        reason = "no acknowledgment" if self._state == ClientState.REQUESTING else "no offer"
        self._events.append(FallbackUsed(fallback.address, fallback.prefix_length, fallback.router, fallback.dns,
                                         reason))

    # --- messages ---

    def _transmit(self, now: float) -> None:
        """Sends what the state asks for and sets the time of the next attempt (RFC 2131 4.4.1 table 5)."""
        self._attempts += 1
        self._sent = now
        if self._state != ClientState.REQUESTING:  # RFC 2131 4.4.1: there the same as in the DISCOVER
            self._seconds = min(int(now - self._began), 0xFFFF)
        if self._state == ClientState.SELECTING:
            self._send(MessageType.DISCOVER, {})
        elif self._state == ClientState.REQUESTING:
            self._send(MessageType.REQUEST, {dhcpv4.REQUESTED_ADDRESS: to_packed(self._offer.your_address),
                                             dhcpv4.SERVER_IDENTIFIER: to_packed(self._offer.server_address)})
        elif self._state == ClientState.REBOOTING:
            self._send(MessageType.REQUEST, {dhcpv4.REQUESTED_ADDRESS: to_packed(self._previous_address)})
        else:  # RENEWING, REBINDING: neither option
            renewing = self._state == ClientState.RENEWING
            self._send(MessageType.REQUEST, {}, self._bound.address,
                       self._bound.server if renewing else BROADCAST4)
            # RFC 2131 4.4.5: half the time that is left, at least a minute
            left = (self._rebind_at if renewing else self._expire_at) - now
            self._retransmit_at = now + max(left / 2, 60.0)
            return
        wait = min(self._config.retransmit_first * 2.0 ** min(self._attempts - 1, 16), self._config.retransmit_max)
        self._retransmit_at = now + wait + self._random.uniform(-1.0, 1.0) * min(1.0, wait / 4)

    def _send(self, kind: MessageType, options: dict[int, bytes], client_address: bytes = UNSPECIFIED4,
              destination: bytes = BROADCAST4) -> None:
        identifier = self._config.client_identifier
        fixed = {dhcpv4.MESSAGE_TYPE: bytes([kind]),
                 dhcpv4.CLIENT_IDENTIFIER: identifier or bytes([dhcpv4.HARDWARE_ETHERNET]) + self._hardware_address}
        asking = {}
        if kind in (MessageType.DISCOVER, MessageType.REQUEST):
            asking = {dhcpv4.MAXIMUM_MESSAGE_SIZE: (576).to_bytes(2, "big"),
                      dhcpv4.PARAMETER_REQUEST_LIST: _PARAMETERS}
            if self._config.hostname:
                asking[dhcpv4.HOST_NAME] = self._config.hostname.encode()
        broadcast = self._config.broadcast and asking and client_address == UNSPECIFIED4
        message = DhcpMessage(dhcpv4.BOOT_REQUEST, self._transaction_id, self._hardware_address,
                              fixed | options | asking, seconds=self._seconds,
                              flags=dhcpv4.BROADCAST if broadcast else 0, client_address=client_address)
        self._output.append(DhcpDatagram(dhcpv4.emit(message), destination,
                                         LINK_BROADCAST if destination == BROADCAST4 else None,
                                         dhcpv4.SERVER_PORT, client_address))

    def _drop(self, reason: str) -> None:
        self.counters[reason] += 1


def _due(deadline: float | None, now: float) -> bool:
    return deadline is not None and deadline <= now


def _is_host(address: bytes) -> bool:
    return not (address == UNSPECIFIED4 or address == BROADCAST4 or is_multicast(address) or is_loopback(address))
