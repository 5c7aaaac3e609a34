"""getaddrinfo and its relatives: the C library's own answers to the same arguments, and names of the stack's own."""

import contextvars
import socket
from random import Random

import _socket
import pytest

from swos_net.address import parse_address
from swos_net.capability import CapabilityError
from swos_net.ip.destinations import sort_destinations
from swos_net.link import LinkFeatures, Medium
from swos_net.socket import resolver
from swos_net.stack.stack import Stack

S, D, R = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW
FOUR, SIX = socket.AF_INET, socket.AF_INET6


@pytest.fixture
def stack():
    stack = Stack(random=Random(1), name="here")
    interface = stack.add_interface(LinkFeatures(Medium.ETHERNET, 1500, b"\2\0\0\0\0\1"), 0.0, "net0")
    for address, length in (("10.0.2.2", 24), ("2001:db8::2", 64)):
        stack.add_address(interface, parse_address(address), length, 0.0)
    return stack


@pytest.fixture
def active(stack):
    with stack.root.activate():
        yield stack


def outcome(function, *arguments):
    try:
        result = function(*arguments)
    except (OSError, TypeError, ValueError, OverflowError) as error:
        return type(error), error.args
    return result


def kernel_outcome(function, *arguments):
    """Where no capability is active: otherwise the kernel's is refused."""
    result = contextvars.Context().run(outcome, function, *arguments)
    if isinstance(result, tuple) and result[0] is socket.herror and result[1][0] == 0:
        # the C library looked nothing up and left its h_errno as another call had set it
        return socket.herror, (3, "Unknown server error")
    return result


NUMERIC = [
    (None, 80), (None, 80, 0, S, 0, socket.AI_PASSIVE), (None, None), ("", 80), (b"127.0.0.1", "http"), ("127.0.0.1", None),
    ("127.1", 80, 0, S), ("127.0.0.1", 80, SIX), ("127.0.0.1", 80, SIX, S, 0, socket.AI_V4MAPPED), ("::1", 80, FOUR),
    ("127.0.0.1", "domain"), ("127.0.0.1", "domain", 0, R), ("127.0.0.1", "nosuch"),
    ("127.0.0.1", "http", 0, S, 0, socket.AI_NUMERICSERV), ("foo", 80, 0, 0, 0, socket.AI_NUMERICHOST), ("127.0.0.1", 80, 99),
    ("127.0.0.1", 80, 0, 99), ("127.0.0.1", 80, 0, S, 17), ("127.0.0.1", 80, 0, 0, 6), ("127.0.0.1", 80, 0, 0, 99),
    ("127.0.0.1", None, 0, 0, 99), ("127.0.0.1", None, 0, D, 99), ("127.0.0.1", 80, 0, R, 1), ("127.0.0.1", 80, 0, R),
    ("127.0.0.1", None, 0, R), ("127.0.0.1", 80, 0, 0, 0, 0x8000000), (None, 80, 0, S, 0, socket.AI_CANONNAME),
    ("127.0.0.1", 80, 0, 0, 0, socket.AI_CANONNAME), ("fe80::1%7", 80, 0, S), ("::1%nosuch", 80, 0, S), (5, 80),
    ("127.0.0.1", 1.5), ("127.0.0.1", -1, 0, S), ("127.0.0.1", 70000, 0, S), ("127.0.0.1", 1 << 70, 0, S), ("127.0.0.1", "", 0, S),
    ("127.0.0.1", " 80", 0, S), ("127.0.0.1", "+80", 0, S), ("127.0.0.1 x", 80, 0, S, 0, 4), ("::ffff:1.2.3.4", 80, 0, S),
    ("a" * 64, 80), (".", 80), ("::", 80, 0, S), ("127.0.0.1", "http", 0, D), ("127.0.0.1", "80x", 0, S), ("0x7f.1", 80, 0, S),
    ("127.0.0.1", 80, 1), ("127.0.0.1", "domain", 0, 0, 17), ("127.0.0.1", "http", 0, 0, 17),
    ("::1", 80, SIX, S, 0, socket.AI_V4MAPPED | socket.AI_ALL), ("127.0.0.1%1", 80, 0, S, 0, 4), ("fe80::1%0", 80, 0, S),
    ("01.02.03.04", 80, 0, S), ("1.2.3.4.5", 80, 0, S, 0, 4), ("256", 80, 0, S), ("4294967295", 80, 0, S),
    ("4294967296", 80, 0, S, 0, 4), ("09", 80, 0, S, 0, 4), ("127.0.0.1", True, 0, S), ("127.0.0.1", bytearray(b"80"), 0, S),
    (bytearray(b"127.0.0.1"), 80, 0, S), ("127.0.0.1", b"http", 0, S), ("127.0.0.1", "HTTP", 0, S), ("127.0.0.1", "\0", 0, S),
    ("127.0.0.1", 1 << 31, 0, S), ("127.0.0.1", (1 << 63) - 1, 0, S), ("127.0.0.1", 1 << 63, 0, S), ("127.0.0.1", -(1 << 63), 0, S),
    ("127.0.0.1", str(1 << 63), 0, S), ("127.0.0.1", str(1 << 64), 0, S), ("127.0.0.1", str(-(1 << 64)), 0, S), ("127.0.0.1", "-1", 0, S),
    ("127.0.0.1", "-4294967216", 0, S), ("127.0.0.1", "4294967376", 0, S), ("127.0.0.1", "-1", 0, S, 0, socket.AI_NUMERICSERV),
    ("127.0.0.1", 0, 0, S, 0, 0x80), ("127.0.0.1", 0, 0, S, 0, socket.AI_ADDRCONFIG),
]  # fmt: skip


@pytest.mark.kernel_sockets  # the C library orders addresses by asking the kernel
@pytest.mark.parametrize("arguments", NUMERIC, ids=repr)
def test_numbers_are_taken_as_the_c_library_takes_them(active, arguments):
    assert outcome(resolver.getaddrinfo, *arguments) == kernel_outcome(_socket.getaddrinfo, *arguments)


NAMEINFO = [
    (("127.0.0.1", 80), 3), (("::1", 80), 3), (("::1", 80, 1, 0), 3), (("::1", 80, 1 << 20, 2), 3), (("127.0.0.1", 80, 0, 0), 3),
    ("x", 0), (("foo", 80), 3), (("127.0.0.1",), 0), (("127.0.0.1", 70000), 3), (("127.0.0.1", -1), 3), (("127.0.0.1", "80"), 3),
    (("127.0.0.1", 53), 1 | 16), (("127.0.0.1", 80), 1), (("127.0.0.1", 80), 2), ((1, 2), 3), (("::1", 80, 0, 7), 3),
]  # fmt: skip


@pytest.mark.kernel_sockets
@pytest.mark.parametrize("arguments", NAMEINFO, ids=repr)
def test_numbers_are_written_as_the_c_library_writes_them(active, arguments):
    assert outcome(resolver.getnameinfo, *arguments) == kernel_outcome(_socket.getnameinfo, *arguments)


@pytest.mark.parametrize("function", ["gethostbyname", "gethostbyname_ex", "gethostbyaddr"])
@pytest.mark.parametrize("name", ["", "<broadcast>", "127.0.0.1", b"127.0.0.1", bytearray(b"127.0.0.1"), "127.1", None, 5])
@pytest.mark.kernel_sockets
def test_the_older_calls(active, function, name):
    assert outcome(getattr(resolver, function), name) == kernel_outcome(getattr(_socket, function), name)


def test_localhost_and_our_own_name_need_no_server(active):
    assert [entry[4][0] for entry in resolver.getaddrinfo("localhost", 80, 0, S)] == ["::1", "127.0.0.1"]
    assert [entry[4][0] for entry in resolver.getaddrinfo("a.localhost", 80, FOUR, S)] == ["127.0.0.1"]
    assert {entry[4][0] for entry in resolver.getaddrinfo("HERE", 80, 0, S)} >= {"10.0.2.2", "2001:db8::2"}
    assert resolver.gethostname() == "here" and resolver.gethostbyname("here") == "10.0.2.2"
    assert resolver.getnameinfo(("10.0.2.2", 80), 0) == ("here", "http")
    assert resolver.getnameinfo(("::1", 9), socket.NI_NUMERICSERV) == ("localhost", "9")
    assert resolver.gethostbyname_ex("localhost") == ("localhost", [], ["127.0.0.1"])


def test_the_hosts_table_has_canonical_names_and_aliases(active):
    active.names.hosts.add("10.0.2.9", "printer.lan", "printer")
    entry, = resolver.getaddrinfo("Printer", "ipp", 0, 0, 0, socket.AI_CANONNAME)
    assert (entry[3], entry[4]) == ("printer", ("10.0.2.9", 631))
    assert resolver.gethostbyaddr("10.0.2.9") == ("printer.lan", ["printer"], ["10.0.2.9"])
    assert resolver.getaddrinfo("printer", 80, SIX, S, 0, socket.AI_V4MAPPED)[0][4] == ("::ffff:10.0.2.9", 80, 0, 0)
    with pytest.raises(socket.gaierror) as caught:
        resolver.getaddrinfo("printer", 80, SIX)
    assert caught.value.errno == socket.EAI_NONAME


def test_addresses_for_sockets(active):
    assert resolver.host_address("", FOUR) == "0.0.0.0" and resolver.host_address("", SIX) == "::"
    assert resolver.host_address("<broadcast>", FOUR) == "255.255.255.255"
    assert resolver.host_address(b"127.1", FOUR) == "127.0.0.1"
    assert resolver.host_address("fe80::1%net0", SIX) == f"fe80::1%{active.interfaces[-1].number}"
    with pytest.raises(OSError, match="mismatched"):
        resolver.host_address("<broadcast>", SIX)


def test_without_a_capability_nothing_is_said():
    for call in (lambda: resolver.getaddrinfo("127.0.0.1", 80), lambda: resolver.gethostbyname("localhost"),
                 lambda: resolver.getnameinfo(("127.0.0.1", 80), 0), resolver.gethostname):  # fmt: skip
        with pytest.raises(CapabilityError):
            call()


def test_destinations_are_ordered_as_rfc_6724_says():
    """The examples of section 10.2."""
    def order(*pairs):
        return [pair[0] for pair in pairs], sort_destinations(
            (parse_address(to), None if source is None else parse_address(source), deprecated)
            for to, source, deprecated in reversed(pairs)
        )

    for pairs in (
        (("2001:db8:1::1", "2001:db8:1::2", False), ("198.51.100.121", "169.254.13.78", False)),
        (("198.51.100.121", "198.51.100.117", False), ("2001:db8:1::1", "fe80::1", False)),
        (("2001:db8:1::1", "2001:db8:1::2", False), ("10.1.2.3", "10.1.2.4", False)),
        (("fe80::1", "fe80::2", False), ("2001:db8:1::1", "2001:db8:1::2", False)),
        (("2002:c633:6401::1", "2002:c633:6401::2", False), ("2001:db8:1::1", "2002:c633:6401::2", False)),
        (("2001:db8:1::1", "2001:db8:1::2", False), ("2002:c633:6401::1", "2002:c633:6401::2", False)),
        (("10.1.2.3", "10.1.2.4", False), ("2001:db8:1::1", None, False)),
        (("2001:db8:1::1", "2001:db8:1::2", False), ("2001:db8:2::1", "2001:db8:2::2", True)),
    ):
        wanted, got = order(*pairs)
        assert got == [parse_address(text) for text in wanted]
