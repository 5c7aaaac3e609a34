"""The capability object: rule text, coverage, attenuation that never amplifies, refusals that say what would help."""

import asyncio
import contextlib
import copy
import errno
import gc
import itertools
import pickle
import socket
import sys
from dataclasses import FrozenInstanceError
from random import Random

import pytest
from hypothesis import assume, given, strategies as st

from swos_net import capability as module
from swos_net.address import BROADCAST4, IPV4_PREFIX, UNSPECIFIED4, UNSPECIFIED6, parse_address
from swos_net.capability import (ALL_PORTS, OPERATIONS, AmplificationError, Capability, CapabilityError,
                                 CapabilityResolveError, Rule, _root, active_capability, current_capability, why)

HOST = parse_address("10.0.2.15")
PEER = parse_address("10.0.2.2")
HOST6 = parse_address("2001:db8::15")
MULTICAST4 = parse_address("224.0.0.251")
MULTICAST6 = parse_address("ff02::fb")


def grant(*rules: str) -> Capability:
    return _root().attenuate(rules)


# --- text ---

@pytest.mark.parametrize("text", [
    "tcp:connect:10.0.2.0/24:80,443",
    "udp:bind,send:*:1024-65535",
    "*:*:*:*",
    "tcp:connect:[2001:db8::/32]:443",
    "icmp:send:0.0.0.0/0:*",
    "tcp:accept:[::/0]:8080",
    "udp:send:224.0.0.251/32:5353",
    "tcp:bind,listen:[::1/128]:22,80,8000-8080",
])
def test_rule_text_round_trip(text):
    assert str(Rule.parse(text)) == text


@pytest.mark.parametrize("text, canonical", [
    ("udp:send,bind:*:53", "udp:bind,send:*:53"),
    ("tcp:connect:10.0.2.2:80", "tcp:connect:10.0.2.2/32:80"),
    ("tcp:connect:[2001:db8::1]:80", "tcp:connect:[2001:db8::1/128]:80"),
    ("tcp:connect:*:443,80,81,82-90", "tcp:connect:*:80-90,443"),
    ("tcp:connect:*:1-100,50-200", "tcp:connect:*:1-200"),
    ("tcp:connect:*:0-65535", "tcp:connect:*:*"),
    ("tcp:connect:[::ffff:10.0.2.0/120]:80", "tcp:connect:10.0.2.0/24:80"),
    ("tcp:accept,bind,connect,listen,raw,resolve,send:*:1", "tcp:*:*:1"),
])
def test_rule_text_has_one_canonical_form(text, canonical):
    assert str(Rule.parse(text)) == canonical


@pytest.mark.parametrize("text, says", [
    ("tcp:connect:10.0.2.0/24", "protocol:operations:prefix:ports"),
    ("tcp:connect", "protocol:operations:prefix:ports"),
    ("sctp:connect:*:*", "protocol must be one of"),
    ("tcp:dial:*:*", "dial"),
    ("tcp::*:*", "operations must be some of"),
    ("tcp:connect:10.0.2.5/24:80", "10.0.2.0/24 or 10.0.2.5/32"),
    ("tcp:connect:10.0.2.0/33:80", "0..32"),
    ("tcp:connect:10.0.2.0/-1:80", "prefix length"),
    ("tcp:connect:[2001:db8::/129]:80", "0..128"),
    ("tcp:connect:[2001:db8::1/32]:80", "bits beyond"),
    ("tcp:connect:[::ffff:0:0/80]:80", "-16"),
    ("tcp:connect:example.org:80", "example.org"),
    ("tcp:connect:*:65536", "0..65535"),
    ("tcp:connect:*:90-80", "does not rise"),
    ("tcp:connect:*:", "port ''"),
    ("tcp:connect:*:+80", "port '+80'"),
    ("tcp:connect:*:80,,443", "port ''"),
    ("tcp:connect:2001:db8::/32:80", "protocol:operations:prefix:ports"),
])
def test_rule_text_that_is_wrong_says_why(text, says):
    with pytest.raises(ValueError, match="rule ") as caught:
        Rule.parse(text)
    assert says in str(caught.value)


def test_rule_of_parts_is_checked_too():
    with pytest.raises(ValueError, match="16 bytes"):
        Rule(OPERATIONS, "tcp", b"\x0a\0\0\0", 8)
    with pytest.raises(ValueError, match="needs a prefix"):
        Rule(OPERATIONS, "tcp", None, 8)
    with pytest.raises(ValueError, match="needs ports"):
        Rule(OPERATIONS, "tcp", None, 0, ())
    with pytest.raises(FrozenInstanceError):
        Rule(OPERATIONS).protocol = "udp"


# --- decisions ---

@pytest.mark.parametrize("rule, operation, protocol, address, port, allowed", [
    ("tcp:connect:10.0.2.0/24:80,443", "connect", "tcp", "10.0.2.255", 443, True),
    ("tcp:connect:10.0.2.0/24:80,443", "connect", "tcp", "10.0.3.0", 443, False),
    ("tcp:connect:10.0.2.0/24:80,443", "connect", "tcp", "10.0.2.2", 81, False),
    ("tcp:connect:10.0.2.0/24:80,443", "connect", "udp", "10.0.2.2", 80, False),
    ("tcp:connect:10.0.2.0/24:80,443", "bind", "tcp", "10.0.2.2", 80, False),
    ("*:connect:10.0.2.0/24:80", "connect", "udp", "10.0.2.2", 80, True),
    ("tcp:connect:0.0.0.0/0:80", "connect", "tcp", "203.0.113.9", 80, True),
    ("tcp:connect:0.0.0.0/0:80", "connect", "tcp", "2001:db8::1", 80, False),
    ("tcp:connect:[::/0]:80", "connect", "tcp", "2001:db8::1", 80, True),
    ("tcp:connect:[::/0]:80", "connect", "tcp", "10.0.2.2", 80, False),       # a mapped address is IPv4
    ("tcp:connect:[::/0]:80", "connect", "tcp", "::ffff:10.0.2.2", 80, False),
    ("tcp:connect:10.0.2.0/24:80", "connect", "tcp", "::ffff:10.0.2.2", 80, True),
    ("tcp:connect:[2001:db8::/33]:80", "connect", "tcp", "2001:db8:8000::1", 80, False),
    ("icmp:send:10.0.2.0/24:*", "send", "icmp", "10.0.2.2", 0, True),
    ("udp:send:*:5353", "send", "udp", "224.0.0.251", 5353, True),
    ("udp:send:0.0.0.0/0:5353", "send", "udp", "224.0.0.251", 5353, True),
    ("udp:send:128.0.0.0/1:5353", "send", "udp", "224.0.0.251", 5353, False),  # multicast under a unicast prefix
    ("udp:send:224.0.0.0/4:5353", "send", "udp", "224.0.0.251", 5353, True),
    ("udp:send:224.0.0.0/3:5353", "send", "udp", "224.0.0.251", 5353, False),
    ("udp:send:128.0.0.0/1:67", "send", "udp", "255.255.255.255", 67, False),
    ("udp:send:255.255.255.255/32:67", "send", "udp", "255.255.255.255", 67, True),
    ("tcp:bind:0.0.0.0/8:80", "bind", "tcp", "0.0.0.0", 80, False),
    ("tcp:bind:0.0.0.0/32:80", "bind", "tcp", "0.0.0.0", 80, True),
    ("tcp:bind:10.0.2.15/32:80", "bind", "tcp", "0.0.0.0", 80, False),
    ("tcp:bind:[::/1]:80", "bind", "tcp", "::", 80, False),
    ("tcp:bind:[::/128]:80", "bind", "tcp", "::", 80, True),
    ("udp:send:[f000::/4]:5353", "send", "udp", "ff02::fb", 5353, False),
    ("udp:send:[ff00::/8]:5353", "send", "udp", "ff02::fb", 5353, True),
])
def test_decision(rule, operation, protocol, address, port, allowed):
    capability = grant(rule)
    for _ in range(2):  # decided, then cached
        assert capability.allows(operation, protocol, parse_address(address), port) is allowed
        if allowed:
            capability.check(operation, protocol, parse_address(address), port)
        else:
            with pytest.raises(CapabilityError):
                capability.check(operation, protocol, parse_address(address), port)


def test_root_allows_everything_and_no_rules_allow_nothing():
    nothing = _root().attenuate(())
    for operation in OPERATIONS:
        for address in (HOST, HOST6, MULTICAST4, MULTICAST6, UNSPECIFIED4, UNSPECIFIED6, BROADCAST4):
            assert _root().allows(operation, "tcp", address, 80)
            assert not nothing.allows(operation, "tcp", address, 80)


@pytest.mark.parametrize("arguments", [
    ("dial", "tcp", HOST, 80), ("connect", "sctp", HOST, 80), ("connect", "tcp", b"\x0a\0\0\x01", 80)])
def test_a_question_that_makes_no_sense_is_the_callers_mistake(arguments):
    with pytest.raises(ValueError, match="no such check"):
        _root().check(*arguments)


@pytest.mark.parametrize("rules, operation, protocol, address, port, says", [
    ((), "connect", "tcp", HOST, 80, "has no tcp connect rule"),
    (("udp:*:*:*",), "connect", "tcp", HOST, 80, "has no tcp connect rule"),
    (("tcp:connect:10.0.3.0/24:80",), "connect", "tcp", HOST, 80, "covers the address"),
    (("tcp:connect:10.0.2.0/24:443",), "connect", "tcp", HOST, 80, "covers the port"),
    (("udp:send:128.0.0.0/1:5353",), "send", "udp", MULTICAST4, 5353, "covers the address"),
    (("tcp:bind:[2001:db8::/32]:80",), "bind", "tcp", UNSPECIFIED6, 80, "covers the address"),
])
def test_refusal_names_a_rule_that_would_do(rules, operation, protocol, address, port, says):
    with pytest.raises(PermissionError) as caught:
        grant(*rules).check(operation, protocol, address, port)
    error = caught.value
    assert isinstance(error, CapabilityError) and error.errno == errno.EACCES
    assert error.operation == operation and error.target.startswith(protocol) and error.target.endswith(f":{port}")
    assert says in error.reason and error.reason in str(error)
    hint = str(error).partition("the rule ")[2].partition(" would allow it")[0]
    assert grant(hint).allows(operation, protocol, address, port)


def test_cache_of_decisions_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "DECISIONS_MAX", 8)
    capability = grant("tcp:connect:10.0.0.0/8:*")
    for port in range(100):
        assert capability.allows("connect", "tcp", HOST, port)
        assert not capability.allows("connect", "tcp", HOST6, port)
        assert len(capability._decisions) <= 8


# --- attenuation ---

@pytest.mark.parametrize("parent, child", [
    ("tcp:connect:10.0.2.0/24:80", "tcp:connect:10.0.0.0/16:80"),
    ("tcp:connect:10.0.2.0/24:80", "tcp:connect:*:80"),
    ("tcp:connect:10.0.2.0/24:80", "tcp:connect:0.0.0.0/0:80"),
    ("tcp:connect:10.0.2.0/24:80", "tcp:connect:10.0.2.0/24:80,81"),
    ("tcp:connect:10.0.2.0/24:80", "*:connect:10.0.2.0/24:80"),
    ("tcp:connect:10.0.2.0/24:80", "udp:connect:10.0.2.0/24:80"),
    ("tcp:connect:10.0.2.0/24:80", "tcp:connect,bind:10.0.2.0/24:80"),
    ("tcp:connect:[::/0]:80", "tcp:connect:10.0.2.0/24:80"),
    ("tcp:connect:[::/0]:80", "tcp:connect:*:80"),
    ("udp:send:128.0.0.0/1:*", "udp:send:224.0.0.0/4:*"),
    ("udp:send:128.0.0.0/1:*", "udp:send:255.255.255.255/32:*"),
    ("tcp:bind:0.0.0.0/8:*", "tcp:bind:0.0.0.0/32:*"),
])
def test_amplification_is_refused(parent, child):
    with pytest.raises(AmplificationError) as caught:
        grant(parent).attenuate([child])
    assert caught.value.errno == errno.EPERM
    assert str(Rule.parse(child)) in str(caught.value) and parent in str(caught.value)


def test_one_parent_rule_must_cover_a_child_rule():
    parent = grant("tcp:connect:10.0.0.0/9:80", "tcp:connect:10.128.0.0/9:80", "tcp:bind:*:1-10", "tcp:bind:*:11-20")
    with pytest.raises(AmplificationError):
        parent.attenuate("tcp:connect:10.0.0.0/8:80")
    with pytest.raises(AmplificationError):
        parent.attenuate("tcp:bind:*:5-15")
    # the ranges of one rule do count together
    assert grant("tcp:bind:*:1-10,11-20").attenuate("tcp:bind:*:5-15").allows("bind", "tcp", HOST, 11)


def test_attenuate_takes_text_rules_and_mixtures():
    root = _root("stack")
    child = root.attenuate("tcp:connect:10.0.2.0/24:80\n udp:send:*:53", label="guest")
    assert [str(rule) for rule in child.rules] == ["tcp:connect:10.0.2.0/24:80", "udp:send:*:53"]
    assert (child.label, child.depth, child.parent) == ("guest", 1, root)
    grandchild = child.attenuate([Rule.parse("udp:send:10.0.2.3/32:53"), "tcp:connect:10.0.2.0/25:80"])
    assert (grandchild.label, grandchild.depth, grandchild.parent) == ("guest", 2, child)
    assert root.depth == 0 and root.parent is None
    assert "guest" in repr(grandchild) and "udp:send:10.0.2.3/32:53" in repr(grandchild)


def test_accepted_socket_may_only_answer_its_peer():
    listener = grant("tcp:bind,listen:10.0.2.15/32:8080", "tcp:accept:10.0.2.0/24:8080")
    accepted = listener.narrowed_to_peer("tcp", HOST, 8080, PEER, 40000)
    accepted.check("send", "tcp", PEER, 40000)
    assert accepted.parent is listener and "10.0.2.2:40000" in accepted.label
    for operation in OPERATIONS - {"send"}:
        assert not accepted.allows(operation, "tcp", PEER, 40000)
        assert not accepted.allows(operation, "tcp", HOST, 8080)
    assert not accepted.allows("send", "udp", PEER, 40000)
    assert not accepted.allows("send", "tcp", PEER, 40001)
    assert not accepted.allows("send", "tcp", HOST, 40000)
    with pytest.raises(AmplificationError):
        accepted.attenuate(str(listener.rules[0]))


def test_accepting_needs_the_right_to_accept():
    listener = grant("tcp:bind,listen:*:8080", "tcp:accept:10.0.2.0/24:8080")
    for remote, local_port in ((parse_address("10.0.3.1"), 8080), (PEER, 8081), (HOST6, 8080)):
        with pytest.raises(CapabilityError) as caught:
            listener.narrowed_to_peer("tcp", HOST, local_port, remote, 40000)
        assert caught.value.operation == "accept"


def test_no_way_around():
    capability = grant("tcp:connect:*:80")
    with pytest.raises(TypeError, match="attenuate"):
        Capability()
    with pytest.raises(AttributeError, match="immutable"):
        capability.rules = _root().rules
    with pytest.raises(AttributeError, match="immutable"):
        del capability.rules
    for copier in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied"):
            copier(capability)


addresses = st.one_of(
    st.sampled_from([HOST, HOST6, MULTICAST4, MULTICAST6, UNSPECIFIED4, UNSPECIFIED6, BROADCAST4,
                     parse_address("240.0.0.1"), parse_address("0.0.0.1"), parse_address("fe80::1")]),
    st.binary(min_size=4, max_size=4).map(lambda packed: IPV4_PREFIX + packed),
    st.binary(min_size=16, max_size=16))


@st.composite
def rules(draw):
    prefix, length = None, 0
    if draw(st.booleans()):
        address = draw(addresses)
        width = 32 if address.startswith(IPV4_PREFIX) else 128
        length = draw(st.one_of(st.integers(0, width), st.sampled_from([0, 1, 3, 4, 8, width])))
        prefix = (int.from_bytes(address, "big") >> (width - length) << (width - length)).to_bytes(16, "big")
        if width == 128 and prefix.startswith(IPV4_PREFIX):
            prefix, length = None, 0
    ports = draw(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda pair: tuple(sorted(pair))),
                          min_size=1, max_size=3))
    return Rule(frozenset(draw(st.sets(st.sampled_from(sorted(OPERATIONS)), min_size=1))),
                draw(st.sampled_from(["tcp", "udp", "icmp", "*"])), prefix, length,
                draw(st.sampled_from([ALL_PORTS, tuple(ports)])))


@given(rules())
def test_any_rule_survives_its_text(rule):
    assert Rule.parse(str(rule)) == rule


@given(rules(), st.data())
def test_a_covered_rule_allows_nothing_more(parent, data):
    """Children inside the parent's prefix are drawn too, so that both outcomes of `covers` come up."""
    child = data.draw(rules())
    if parent.prefix is not None and data.draw(st.booleans()):
        width = 32 if parent.prefix.startswith(IPV4_PREFIX) else 128
        length = data.draw(st.integers(parent.length, width))
        inside = int.from_bytes(parent.prefix, "big") | data.draw(st.integers(0, (1 << (width - parent.length)) - 1))
        prefix = (inside >> (width - length) << (width - length)).to_bytes(16, "big")
        assume(prefix.startswith(IPV4_PREFIX) == (width == 32))
        child = Rule(parent.operations, parent.protocol, prefix, length, parent.ports)
    held = _root().attenuate([parent])
    try:
        derived = held.attenuate([child])
    except AmplificationError:
        assert not parent.covers(child)
        return
    probes = [data.draw(addresses)] + ([child.prefix] if child.prefix is not None else [])
    for address in probes:
        for operation in child.operations:
            for protocol in ("tcp", "udp", "icmp"):
                for port in (0, 4, 8, 65535):
                    assert held.allows(operation, protocol, address, port) or not derived.allows(
                        operation, protocol, address, port)


# --- denials ---

def test_what_is_denied_is_refused_whatever_the_rules_say():
    capability = _root().attenuate("tcp:connect:10.0.0.0/8:*", deny="tcp:connect:10.0.2.0/24:*")
    assert capability.allows("connect", "tcp", parse_address("10.0.3.1"), 80)
    with pytest.raises(CapabilityError, match="denies tcp:connect:10.0.2.0/24") as caught:
        capability.check("connect", "tcp", HOST, 80)
    assert "would allow" not in str(caught.value)


def test_denials_are_inherited_and_only_grow():
    parent = _root().attenuate("tcp:connect:*:*", deny="*:*:169.254.169.254:*")
    child = parent.attenuate("tcp:connect:169.254.0.0/16:*", deny=[Rule.parse("tcp:connect:169.254.1.1:80")])
    for address in ("169.254.169.254", "169.254.1.1"):
        assert not child.allows("connect", "tcp", parse_address(address), 80)
    assert child.allows("connect", "tcp", parse_address("169.254.1.1"), 81)
    assert set(child.denials) > set(parent.denials)
    listener = _root().attenuate("tcp:accept:*:80", deny="tcp:send:10.0.2.15:*")
    assert not listener.narrowed_to_peer("tcp", PEER, 80, HOST, 40000).allows("send", "tcp", HOST, 40000)


@pytest.mark.parametrize("denial, operation, address, allowed", [
    ("tcp:bind:10.0.2.2:80", "bind", "0.0.0.0", False),    # every address is also this one
    ("tcp:bind:10.0.2.2:80", "bind", "::", True),
    ("tcp:bind:[2001:db8::1]:80", "bind", "::", False),
    ("tcp:bind:10.0.2.2:81", "bind", "0.0.0.0", True),
    ("tcp:connect:128.0.0.0/1:*", "connect", "224.0.0.251", False),  # a rule would not hold multicast, a denial does
    ("tcp:connect:10.0.2.0/24:80", "connect", "::ffff:10.0.2.9", False),
])  # fmt: skip
def test_denials_leave_no_gap(denial, operation, address, allowed):
    assert _root().attenuate("*:*:*:*", deny=denial).allows(operation, "tcp", parse_address(address), 80) is allowed


def test_a_capability_survives_its_text():
    text = "tcp:connect:10.0.2.0/24:80,443 udp:bind,send:*:1024-65535 icmp:send:[2001:db8::/32]:* !*:*:10.0.2.9/32:* !tcp:*:*:25"
    capability = _root().attenuate(text)
    assert str(capability) == text and text in repr(capability)
    again = _root().attenuate(str(capability))
    assert (again.rules, again.denials) == (capability.rules, capability.denials)
    assert again.attenuate(str(again)).denials == again.denials


@pytest.mark.parametrize("short, full", [
    ("icmp:send:10.0.2.0/24", "icmp:send:10.0.2.0/24:*"),
    ("icmp:send:*", "icmp:send:*:*"),
    ("raw:raw:[2001:db8::/32]", "raw:raw:[2001:db8::/32]:*"),
    ("raw:*:10.0.2.2", "raw:*:10.0.2.2/32:*"),
])
def test_protocols_without_ports_need_none_in_text(short, full):
    assert str(Rule.parse(short)) == full


def test_raw_is_a_protocol_of_its_own():
    capability = grant("icmp:raw:*")
    assert capability.allows("raw", "icmp", HOST, 0) and not capability.allows("raw", "raw", HOST, 0)


# --- activation ---

class Issuer:
    pass


def test_what_is_active_is_known_inside_the_block_alone():
    capability = _root()
    with pytest.raises(CapabilityError, match="no capability is active") as caught:
        current_capability()
    assert caught.value.errno == errno.EACCES and active_capability() is None
    with capability.activate() as given:
        assert given is current_capability() is active_capability() is capability
        inner = capability.attenuate("tcp:connect:*:80")
        with inner.activate():
            assert current_capability() is inner
        assert current_capability() is capability
        with contextlib.suppress(KeyError), inner.activate():
            raise KeyError
        assert current_capability() is capability
    assert active_capability() is None


def test_tasks_inherit_what_is_active_and_threads_do_not():
    capability = _root()

    async def inside():
        return active_capability()

    async def main():
        loop = asyncio.get_running_loop()
        with capability.activate():
            task = asyncio.create_task(inside())
            other = asyncio.create_task(asyncio.to_thread(active_capability))
            pool = loop.run_in_executor(None, active_capability)
        return await task, await other, await pool, await inside()

    assert asyncio.run(main()) == (capability, capability, None, None)


def test_preparations_run_once_and_before_the_first_activation(monkeypatch):
    waiting, done = [], []
    monkeypatch.setattr(module, "_before_activation", waiting)

    def fails():
        done.append("failed")
        raise ImportError("not there")

    module.before_activation(fails)
    for _ in range(2):  # a preparation that failed is not forgotten: the block is never entered without it
        with pytest.raises(ImportError), _root().activate():
            pytest.fail("entered")
    waiting[:] = [lambda: done.append(active_capability())]
    for _ in range(2):
        with _root().activate():
            pass
    assert done == ["failed", "failed", None]


def test_the_issuer_is_known_to_what_is_derived_and_not_kept_alive():
    issuer = Issuer()
    root = _root("root", issuer)
    derived = root.attenuate("tcp:*:*:80").narrowed_to_peer("tcp", HOST, 80, PEER, 1)
    assert root.issuer is derived.issuer is issuer
    del issuer
    gc.collect()
    assert root.issuer is derived.issuer is None
    assert _root().issuer is None


# --- errors behind errors ---

def test_why_finds_what_a_library_wrapped():
    denied = CapabilityError("connect", "tcp 10.0.2.2:80", "no rule")

    class Wrapper(Exception):
        def __init__(self, reason):
            super().__init__("it did not work")
            self.reason = reason

    def raised(wrap):
        try:
            try:
                raise denied
            except OSError as error:
                wrap(error)
        except Exception as error:
            return error

    def cause(error):
        raise RuntimeError("wrapped") from error

    def context(error):
        raise RuntimeError("wrapped")

    def hidden(error):
        raise Wrapper(error) from None

    def argument(error):
        raise ConnectionError(Wrapper(error)) from None

    for wrap in (cause, context, hidden, argument):
        assert why(raised(wrap)) is denied, wrap
    assert why(denied) is denied
    assert why(ExceptionGroup("several", [ValueError(), denied]) if sys.version_info >= (3, 11) else denied) is denied
    circle = RuntimeError()
    circle.__cause__ = ValueError(circle)
    circle.__cause__.__cause__ = circle
    assert why(circle) is None


def test_a_refused_look_up_is_an_error_of_both_kinds():
    error = CapabilityResolveError("resolve", "example.org", "no rule")
    assert isinstance(error, socket.gaierror) and isinstance(error, CapabilityError) and isinstance(error, PermissionError)
    assert error.errno == socket.EAI_FAIL and "example.org" in str(error)


def test_many_rules_decide_as_each_of_them_would():
    """Rules are found by their prefix; what is found must not depend on that."""
    random = Random(1)
    networks = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3", "0.0.0.0/0", "224.0.0.0/4", "0.0.0.0", "*",
                "[::/0]", "[2001:db8::/32]", "[2001:db8::1]", "[::]", "[ff00::/8]"]  # fmt: skip
    addresses = list(map(parse_address, ("10.1.2.3", "10.1.2.4", "10.1.9.9", "10.9.9.9", "192.0.2.1", "0.0.0.0", "224.0.0.1",
                                         "255.255.255.255", "::", "::1", "2001:db8::1", "2001:db8::2", "ff02::1", "fe80::1")))  # fmt: skip

    def some_rules(count):
        return [Rule.parse(f"{random.choice(['tcp', 'udp', '*'])}:{random.choice(['connect', 'bind', 'connect,bind', '*'])}:"
                           f"{random.choice(networks)}:{random.choice(['80', '1-1024', '*'])}") for _ in range(count)]  # fmt: skip

    decisions = set()
    for _ in range(40):
        rules, denials = some_rules(random.randrange(6)), some_rules(random.randrange(3))
        capability = _root().attenuate(rules, deny=denials)
        for address, operation, protocol, port in itertools.product(addresses, ("connect", "bind"), ("tcp", "udp"), (80, 8080)):
            expected = any(operation in rule.operations and rule.protocol in ("*", protocol) and rule.covers_address(address)
                           and rule.covers_port(port) for rule in rules)  # fmt: skip
            expected = expected and not any(denial.forbids(operation, protocol, address, port) for denial in denials)
            assert capability.allows(operation, protocol, address, port) == expected
            decisions.add(expected)
    assert decisions == {True, False}
