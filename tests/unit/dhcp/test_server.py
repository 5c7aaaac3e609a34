"""The DHCP server as its clients see it, in the order of RFC 2131."""

import pytest
from hypothesis import given, strategies as st

from swos_net.address import BROADCAST4, UNSPECIFIED4, parse_address, parse_mac, to_packed
from swos_net.dhcp import LINK_BROADCAST
from swos_net.dhcp.server import (EVENTS_MAX, OUTPUT_MAX, AddressDeclined, LeaseExpired, LeaseGranted, LeaseReleased)
from swos_net.wire import dhcpv4
from swos_net.wire.dhcpv4 import DhcpMessage, MessageType

MAC = parse_mac("52:54:00:12:34:56")
OTHER_MAC = parse_mac("52:54:00:12:34:57")
US = parse_address("10.0.2.2")
FIRST, SECOND = parse_address("10.0.2.15"), parse_address("10.0.2.16")


def kinds(replies):
    return [MessageType(message.message_type).name for message, _ in replies]


# --- DISCOVER ---

def test_offer_carries_everything(guest):
    (offer, datagram), = guest.discover()
    assert (offer.operation, offer.transaction_id, offer.hardware_address) == (dhcpv4.BOOT_REPLY, 0xC0FFEE, MAC)
    assert offer.message_type == MessageType.OFFER and offer.your_address == FIRST
    assert (offer.client_address, offer.server_address, offer.relay_address) == (UNSPECIFIED4,) * 3
    assert dhcpv4.prefix_length(offer) == 24
    assert dhcpv4.addresses_option(offer, dhcpv4.ROUTER) == [US]
    assert dhcpv4.addresses_option(offer, dhcpv4.DNS_SERVER) == [parse_address("10.0.2.3")]
    assert dhcpv4.address_option(offer, dhcpv4.SERVER_IDENTIFIER) == US
    assert dhcpv4.address_option(offer, dhcpv4.BROADCAST_ADDRESS) == parse_address("10.0.2.255")
    assert dhcpv4.text_option(offer, dhcpv4.DOMAIN_NAME) == "guest.example"
    assert dhcpv4.integer_option(offer, dhcpv4.INTERFACE_MTU, 2) == 1400
    lease, t1, t2 = (dhcpv4.integer_option(offer, code) for code in (51, 58, 59))
    assert lease == 3600 and 0.47 * lease < t1 <= lease / 2 and 0.85 * lease < t2 <= lease * 7 / 8
    assert datagram.source == US


def test_client_gets_what_it_asks_for_in_its_order_mask_before_router(guest):
    (offer, _), = guest.discover({dhcpv4.PARAMETER_REQUEST_LIST: bytes([6, 3, 42, 1, 3])})
    assert list(offer.options) == [53, 54, 51, 58, 59, 1, 6, 3]


def test_renewal_times_are_spread(make_server, new_guest):
    guest = new_guest(make_server())
    assert len({guest.discover()[0][0].options[dhcpv4.RENEWAL_TIME] for _ in range(10)}) > 5


def test_what_is_not_configured_is_not_sent(make_server, new_guest):
    (offer, _), = new_guest(make_server(router=None, dns=(), domain="", mtu=None)).discover()
    assert set(offer.options) == {53, 54, 51, 58, 59, 1, 28}


@pytest.mark.parametrize("asked, given", [(600, 600), (1, 60), (10**6, 3600), (0xFFFFFFFF, 3600)])
def test_client_may_ask_for_a_shorter_lease(guest, drain, asked, given):
    options = {dhcpv4.LEASE_TIME: asked.to_bytes(4, "big")}
    (offer, _), = guest.discover(options)
    (ack, _), = guest.select(offer.your_address, options=options)
    assert dhcpv4.integer_option(ack, dhcpv4.LEASE_TIME) == given
    assert drain(guest.server)[0].seconds == given and guest.server.next_deadline() <= given


def test_infinite_lease(make_server, new_guest):
    guest = new_guest(make_server(lease_seconds=0xFFFFFFFF))
    (offer, _), = guest.discover()
    assert offer.options[dhcpv4.LEASE_TIME] == b"\xff" * 4 and dhcpv4.RENEWAL_TIME not in offer.options
    guest.select(offer.your_address)
    guest.server.handle_timeout(1e12)
    assert kinds(guest.renew(offer.your_address)) == ["ACK"] and guest.server.counters["ack"] == 2


def test_requested_address_and_clients_apart(server, new_guest):
    wanted = {dhcpv4.REQUESTED_ADDRESS: to_packed(parse_address("10.0.2.20"))}
    (offer, _), = new_guest(server).discover(wanted)
    assert offer.your_address == parse_address("10.0.2.20")
    (offer, _), = new_guest(server, OTHER_MAC).discover(wanted)
    assert offer.your_address == FIRST
    # RFC 2131 2: the identifier, where there is one, tells clients apart, not the hardware address
    (offer, _), = new_guest(server, MAC, b"\x00container").discover()
    assert offer.your_address == SECOND
    (offer, _), = new_guest(server, OTHER_MAC, b"\x00container").discover()
    assert offer.your_address == SECOND
    assert offer.options[dhcpv4.CLIENT_IDENTIFIER] == b"\x00container"  # RFC 6842


def test_one_byte_identifier_is_none(server, new_guest):
    (first, _), = new_guest(server, MAC, b"x").discover()
    (second, _), = new_guest(server, OTHER_MAC, b"x").discover()
    assert first.your_address != second.your_address


def test_empty_pool_is_silent(make_server, new_guest):
    server = make_server(pool_last=SECOND)
    for number in range(4):
        replies = new_guest(server, bytes([2, 0, 0, 0, 0, number])).discover()
        assert len(replies) == (number < 2)
    assert server.counters["pool_exhausted"] == 2
    server.handle_timeout(60.0)  # nobody took the offers
    assert len(new_guest(server, OTHER_MAC).discover()) == 1


def test_rapid_commit(make_server, new_guest, drain):
    server = make_server()
    (ack, _), = new_guest(server).discover({dhcpv4.RAPID_COMMIT: b"", dhcpv4.HOST_NAME: b"vm1"})
    assert ack.message_type == MessageType.ACK and dhcpv4.RAPID_COMMIT in ack.options
    assert drain(server) == [LeaseGranted(MAC, FIRST, "vm1", 3600)]
    (offer, _), = new_guest(make_server(rapid_commit=False)).discover({dhcpv4.RAPID_COMMIT: b""})
    assert offer.message_type == MessageType.OFFER and dhcpv4.RAPID_COMMIT not in offer.options


# --- where replies go: RFC 2131 4.1 ---

@pytest.mark.parametrize("fields, destination, link, port", [
    (dict(), FIRST, MAC, 68),
    (dict(flags=dhcpv4.BROADCAST), BROADCAST4, LINK_BROADCAST, 68),
    (dict(relay_address=parse_address("10.0.2.9")), parse_address("10.0.2.9"), None, 67),
    (dict(relay_address=parse_address("10.0.2.9"), flags=dhcpv4.BROADCAST), parse_address("10.0.2.9"), None, 67),
])
def test_reply_addressing(guest, fields, destination, link, port):
    (offer, datagram), = guest.discover(**fields)
    assert (datagram.destination, datagram.destination_link_address, datagram.destination_port) == (
        destination, link, port)
    assert offer.flags == fields.get("flags", 0) and offer.relay_address == fields.get("relay_address", UNSPECIFIED4)
    (_, datagram), = guest.select(offer.your_address, **fields)
    assert (datagram.destination, datagram.destination_link_address, datagram.destination_port) == (
        destination, link, port)


def test_renewal_is_answered_to_the_address(guest):
    address = guest.bind()
    (ack, datagram), = guest.renew(address, flags=dhcpv4.BROADCAST)
    assert (ack.client_address, ack.your_address) == (address, address)
    assert (datagram.destination, datagram.destination_link_address, datagram.destination_port) == (address, None, 68)


def test_refusal_is_broadcast(guest):
    guest.bind()
    (nak, datagram), = guest.renew(SECOND)
    assert nak.message_type == MessageType.NAK and nak.your_address == nak.client_address == UNSPECIFIED4
    assert set(nak.options) == {53, 54, 56}
    assert (datagram.destination, datagram.destination_link_address) == (BROADCAST4, LINK_BROADCAST)
    relay = parse_address("10.0.2.9")
    (nak, datagram), = guest.renew(SECOND, relay_address=relay)
    assert nak.flags == dhcpv4.BROADCAST and (datagram.destination, datagram.destination_port) == (relay, 67)


def test_relay_options_come_back_last(guest):
    (offer, _), = guest.discover({82: b"\x01\x04port", 12: b"vm"}, relay_address=parse_address("10.0.2.9"))
    assert list(offer.options.items())[-1] == (82, b"\x01\x04port")


def test_replies_are_not_aimed_at_other_networks(guest):
    victim = parse_address("192.0.2.1")
    assert guest.discover(relay_address=victim) == []
    assert guest.server.counters["relayed"] == 1
    (_, datagram), = guest.discover(client_address=victim)
    assert datagram.destination == FIRST and datagram.destination_link_address == MAC
    assert guest.send(MessageType.INFORM, client_address=victim) == []


# --- REQUEST: RFC 2131 4.3.2 ---

def test_selecting(guest, drain):
    (offer, _), = guest.discover()
    (ack, _), = guest.select(offer.your_address, options={dhcpv4.HOST_NAME: b"vm1"})
    assert ack.message_type == MessageType.ACK and ack.your_address == FIRST
    assert drain(guest.server) == [LeaseGranted(MAC, FIRST, "vm1", 3600)]
    assert kinds(guest.select(offer.your_address)) == ["ACK"]  # a retransmission


@pytest.mark.parametrize("hostname, shown", [
    (b"vm\0", "vm"), (b"", None), (b"\x1b[31m", None), (b"\xff", None), (b"h" * 200, "h" * 64)])
def test_hostname_is_text(guest, drain, hostname, shown):
    guest.discover()
    guest.select(FIRST, options={dhcpv4.HOST_NAME: hostname})
    assert drain(guest.server)[0].hostname == shown


def test_selecting_another_server_frees_the_offer(make_server, new_guest, drain):
    server = make_server(pool_last=FIRST)
    guest, other = new_guest(server), new_guest(server, OTHER_MAC)
    guest.discover()
    assert other.discover() == []
    assert guest.select(FIRST, server=parse_address("10.0.2.9")) == [] and drain(server) == []
    assert len(other.discover()) == 1


def test_selecting_another_server_keeps_a_lease_in_force(server, guest, new_guest):
    guest.bind()
    guest.select(SECOND, server=parse_address("10.0.2.9"))
    assert new_guest(server, OTHER_MAC).bind() == SECOND


def test_selecting_what_was_not_offered(server, guest, new_guest):
    guest.discover()
    assert kinds(guest.select(SECOND)) == ["NAK"]
    assert kinds(guest.select(US)) == ["NAK"]
    other = new_guest(server, OTHER_MAC)
    assert kinds(other.select(FIRST)) == ["NAK"]
    assert guest.send(MessageType.REQUEST, {dhcpv4.SERVER_IDENTIFIER: to_packed(US)}) == []
    assert server.counters["bad_dhcp_option"] == 1


def test_late_request_for_an_expired_offer_is_granted_while_free(server, guest, new_guest):
    guest.discover()
    server.handle_timeout(60.0)
    guest.now = 61.0
    assert kinds(guest.select(FIRST)) == ["ACK"]


def test_init_reboot(server, guest, new_guest):
    address = guest.bind()
    (ack, datagram), = guest.reboot(address)
    assert ack.message_type == MessageType.ACK and ack.your_address == address
    assert datagram.destination == address and datagram.destination_link_address == MAC
    assert kinds(guest.reboot(SECOND)) == ["NAK"]
    assert kinds(guest.reboot(parse_address("192.168.1.5"))) == ["NAK"]
    assert kinds(new_guest(server, OTHER_MAC).reboot(address)) == ["NAK"]
    assert guest.send(MessageType.REQUEST) == []


@pytest.mark.parametrize("verb", ["reboot", "renew"])
def test_unknown_client(make_server, new_guest, drain, verb):
    # the only server of the link learns what it has forgotten
    guest = new_guest(make_server())
    assert kinds(getattr(guest, verb)(SECOND)) == ["ACK"] and drain(guest.server)[0].address == SECOND
    for stranger in (parse_address("10.0.2.77"), US):
        assert kinds(getattr(new_guest(make_server()), verb)(stranger)) == ["NAK"]
    # one of several is silent, but for a wrong network
    guest = new_guest(make_server(authoritative=False))
    assert getattr(guest, verb)(SECOND) == [] and guest.server.counters["unknown_client"] == 1
    assert kinds(getattr(guest, verb)(parse_address("192.168.1.5"))) == ["NAK"]


def test_renewing_extends_the_lease(server, guest, drain):
    address = guest.bind()
    guest.now = 1800.0
    assert kinds(guest.renew(address)) == ["ACK"]
    server.handle_timeout(3600.0)
    server.handle_timeout(5399.0)
    drain(server)
    assert server.next_deadline() == 5400.0
    server.handle_timeout(5400.0)
    assert drain(server) == [LeaseExpired(MAC, address)]
    assert server.next_deadline() is None
    guest.now = 5500.0
    assert kinds(guest.renew(address)) == ["ACK"]  # late, but nobody else has it


def test_expired_address_goes_to_who_needs_it_and_its_client_is_told(make_server, new_guest):
    server = make_server(pool_last=FIRST)
    guest, other = new_guest(server), new_guest(server, OTHER_MAC)
    guest.bind()
    assert other.discover() == []
    server.handle_timeout(3600.0)
    other.now = guest.now = 3601.0
    assert other.bind() == FIRST
    assert kinds(guest.renew(FIRST)) == ["NAK"]


def test_static_lease(make_server, new_guest):
    static = parse_address("10.0.2.100")
    server = make_server(static_leases={OTHER_MAC: static})
    assert kinds(new_guest(server).reboot(static)) == ["NAK"]
    assert new_guest(server, OTHER_MAC, b"boot loader").bind() == static
    assert new_guest(server, OTHER_MAC, b"system").bind() == static
    assert new_guest(server).bind() == FIRST


# --- DECLINE, RELEASE, INFORM ---

def give_back(guest, kind, address, server=US, **fields):
    options = {dhcpv4.SERVER_IDENTIFIER: to_packed(server)}
    if kind == MessageType.DECLINE:
        options[dhcpv4.REQUESTED_ADDRESS] = to_packed(address)
    else:
        fields = dict(client_address=address, source=address) | fields
    return guest.send(kind, options, **fields)


def test_declined_address_is_not_given_again(server, guest, drain):
    guest.bind()
    drain(server)
    assert give_back(guest, MessageType.DECLINE, FIRST) == []
    assert drain(server) == [AddressDeclined(MAC, FIRST)]
    assert guest.bind() == SECOND
    assert kinds(guest.reboot(FIRST)) == ["NAK"]
    server.handle_timeout(3600.0)
    guest.now = 3601.0
    assert guest.bind() == SECOND


def test_release(server, guest, new_guest, drain):
    guest.bind()
    drain(server)
    assert give_back(guest, MessageType.RELEASE, FIRST) == []
    assert drain(server) == [LeaseReleased(MAC, FIRST)]
    server.handle_timeout(10000.0)
    assert drain(server) == [] and guest.bind() == FIRST  # remembered


@pytest.mark.parametrize("kind", [MessageType.DECLINE, MessageType.RELEASE])
def test_nobody_gives_back_what_is_not_theirs(server, guest, new_guest, drain, kind):
    guest.bind()
    drain(server)
    stranger = new_guest(server, OTHER_MAC)
    give_back(stranger, kind, FIRST)
    give_back(guest, kind, SECOND)
    give_back(guest, kind, FIRST, server=parse_address("10.0.2.9"))
    assert drain(server) == [] and server.counters["not_its_lease"] == 3
    if kind == MessageType.RELEASE:
        give_back(guest, kind, FIRST, source=SECOND)
        assert server.counters["spoofed"] == 1
    assert kinds(guest.renew(FIRST)) == ["ACK"]
    give_back(guest, kind, FIRST)
    give_back(guest, kind, FIRST)
    assert len(drain(server)) == 2 and server.counters["not_its_lease"] == 4


def test_inform(guest, drain):
    address = parse_address("10.0.2.200")
    (ack, datagram), = guest.send(MessageType.INFORM, source=address, client_address=address)
    assert ack.message_type == MessageType.ACK and ack.your_address == UNSPECIFIED4
    assert ack.client_address == address == datagram.destination
    assert not {51, 58, 59} & set(ack.options) and dhcpv4.addresses_option(ack, dhcpv4.ROUTER) == [US]
    assert drain(guest.server) == []
    assert guest.send(MessageType.INFORM) == []


# --- what is not for us, and bounds ---

@pytest.mark.parametrize("payload, reason", [
    (b"", "truncated"), (bytes(300), "bad_dhcp_operation"),
    (dhcpv4.emit(DhcpMessage(dhcpv4.BOOT_REPLY, 1, MAC, {53: b"\x01"})), "not_for_a_server"),
    (dhcpv4.emit(DhcpMessage(dhcpv4.BOOT_REQUEST, 1, MAC, {})), "not_for_a_server"),
    (dhcpv4.emit(DhcpMessage(dhcpv4.BOOT_REQUEST, 1, MAC, {53: b"\x02"})), "not_for_a_server"),
    (dhcpv4.emit(DhcpMessage(dhcpv4.BOOT_REQUEST, 1, MAC, {53: b"\x63"})), "not_for_a_server"),
    (dhcpv4.emit(DhcpMessage(dhcpv4.BOOT_REQUEST, 1, MAC[:5], {53: b"\x01"})), "bad_dhcp_hardware"),
    (dhcpv4.emit(DhcpMessage(dhcpv4.BOOT_REQUEST, 1, b"\xff" * 6, {53: b"\x01"})), "bad_dhcp_hardware"),
    (dhcpv4.emit(DhcpMessage(dhcpv4.BOOT_REQUEST, 1, bytes(6), {53: b"\x01"})), "bad_dhcp_hardware"),
    (dhcpv4.emit(DhcpMessage(dhcpv4.BOOT_REQUEST, 1, MAC, {53: b"\x01"}, hardware_type=6)), "bad_dhcp_hardware"),
])
def test_dropped_and_counted(server, payload, reason):
    server.message_received(payload, UNSPECIFIED4, 0.0)
    assert server.messages_to_send(0.0) == [] and server.counters == {reason: 1}


def test_reply_that_would_be_too_long_is_not_sent(guest):
    assert guest.discover({82: b"x" * 255}, relay_address=parse_address("10.0.2.9")) == []
    assert guest.server.counters["reply_too_long"] == 1


def test_fullest_configuration_fits(make_server, new_guest):
    server = make_server(dns=tuple(parse_address(f"10.0.2.{n}") for n in range(3, 11)), domain="d" * 200)
    (offer, datagram), = new_guest(server).discover({dhcpv4.RAPID_COMMIT: b""})
    assert len(datagram.payload) <= 548 and len(dhcpv4.addresses_option(offer, 6)) == 8


def test_what_nobody_takes_is_bounded(server):
    message = dhcpv4.emit(DhcpMessage(dhcpv4.BOOT_REQUEST, 1, MAC, {53: b"\x01", dhcpv4.RAPID_COMMIT: b""}))
    for _ in range(EVENTS_MAX + 10):
        server.message_received(message, UNSPECIFIED4, 0.0)
    assert len(server.messages_to_send(0.0)) == OUTPUT_MAX and server.messages_to_send(0.0) == []
    assert server.counters["output_full"] == EVENTS_MAX + 10 - OUTPUT_MAX
    assert len(list(iter(server.next_event, None))) == EVENTS_MAX


@given(st.integers(1, 8), st.dictionaries(st.sampled_from([12, 50, 51, 54, 55, 57, 61, 80, 82]),
                                          st.binary(max_size=20), max_size=6),
       st.binary(min_size=8, max_size=8), st.integers(0, 0xFFFF))
def test_no_message_breaks_the_server(kind, options, addresses, flags):
    from random import Random
    from swos_net.address import IPV4_PREFIX
    from swos_net.dhcp.server import DhcpServer, DhcpServerConfig
    server = DhcpServer(DhcpServerConfig(US, FIRST, SECOND), Random(1))
    for client in (UNSPECIFIED4, FIRST, IPV4_PREFIX + addresses[:4]):
        message = DhcpMessage(dhcpv4.BOOT_REQUEST, 1, MAC, {53: bytes([kind])} | options, flags=flags,
                              client_address=client)
        server.message_received(dhcpv4.emit(message), client, 0.0)
        for datagram in server.messages_to_send(0.0):
            reply = dhcpv4.parse(datagram.payload)
            assert reply.your_address in (UNSPECIFIED4, FIRST, SECOND)
    server.handle_timeout(1e9)
    assert server.next_deadline() is None
