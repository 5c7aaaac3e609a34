"""Looking names up, with servers that answer, lie, stay silent or refuse; time and chance are given."""

from random import Random

import dnslib
import pytest

from swos_net.address import LOOPBACK4, LOOPBACK6, parse_address
from swos_net.dns.config import Names, ResolverConfig
from swos_net.dns.lookup import Lookup, Outcome
from swos_net.dns.message import Kind

FIRST, SECOND = ((parse_address(text), 53) for text in ("192.0.2.53", "192.0.2.54"))
BOTH = (Kind.A, Kind.AAAA)


class Server:
    """Answers from zone lines; `asked` are (server, stream, edns, name, kind) in their order."""

    def __init__(self, *zone, **behaviour):
        self.records = [record for line in zone for record in dnslib.RR.fromZone(line)]
        self.asked = []
        self.behaviour = behaviour

    def answer(self, attempt, message):
        query = dnslib.DNSRecord.parse(message[2:] if attempt.stream else message)
        name, kind = str(query.q.qname).rstrip("."), query.q.qtype
        self.asked.append((attempt.server, attempt.stream, attempt.edns, name, kind))
        behave = self.behaviour.get("behave")
        reply = query.reply()
        current = name.lower()
        for _ in range(10):
            found = [record for record in self.records if str(record.rname).rstrip(".").lower() == current
                     and record.rtype in (kind, Kind.CNAME)]  # fmt: skip
            for record in found:
                reply.add_answer(record)
            aliases = [record for record in found if record.rtype == Kind.CNAME]
            if not aliases or self.behaviour.get("short"):
                break
            current = str(aliases[0].rdata.label).rstrip(".").lower()
        if not any(str(record.rname).rstrip(".").lower() == name.lower() for record in self.records):
            reply.header.rcode = 3
        if behave is not None:
            reply = behave(attempt, reply)
        return None if reply is None else reply.pack()


def resolve(server, name, kinds=BOTH, names=None, now=0.0, **config):
    """The result, and when it came; servers answer at once or never."""
    names = names or Names("host", ResolverConfig(**{"servers": (FIRST, SECOND), **config}))
    lookup = Lookup(names, name, kinds, Random(1), now)
    for _ in range(500):
        if lookup.result is not None:
            return lookup.result, now
        exchange = lookup.exchange
        if exchange.over:
            lookup.advance(now)
            continue
        attempt = exchange.attempt
        for message in exchange.messages():
            reply = server.answer(attempt, message)
            if reply is not None:
                exchange.received(reply, now)
            if exchange.attempt is not attempt:
                break
        if exchange.attempt is attempt:
            now = exchange.next_deadline()
            exchange.handle_timeout(now)
    raise AssertionError("no end")


def addresses(result):
    return list(result.data)


def test_both_families_at_once():
    server = Server("www.example.org 60 A 192.0.2.1", "www.example.org 60 AAAA 2001:db8::1")
    result, now = resolve(server, "www.example.org")
    assert result.outcome is Outcome.FOUND and now == 0.0
    assert addresses(result) == [parse_address("192.0.2.1"), parse_address("2001:db8::1")]
    assert [entry[3:] for entry in server.asked] == [("www.example.org", Kind.A), ("www.example.org", Kind.AAAA)]


def test_aliases_are_followed_within_an_answer_and_with_more_questions():
    zone = ("www.example.org 60 CNAME a.example.net", "a.example.net 60 CNAME b.example.net", "b.example.net 60 A 192.0.2.9")
    for short in (False, True):
        server = Server(*zone, short=short)
        result, _ = resolve(server, "WWW.example.org", (Kind.A,))
        assert (result.canonical, addresses(result)) == ("b.example.net", [parse_address("192.0.2.9")])
        assert len(server.asked) == (3 if short else 1)


def test_an_alias_to_itself_ends():
    server = Server("a.example.org 60 CNAME b.example.org", "b.example.org 60 CNAME a.example.org")
    result, _ = resolve(server, "a.example.org")
    assert result.outcome is Outcome.NO_ANSWER


def test_what_is_not_there():
    server = Server("mail.example.org 60 AAAA 2001:db8::2")
    assert resolve(server, "nothing.example.org")[0].outcome is Outcome.NO_NAME
    assert resolve(server, "mail.example.org", (Kind.A,))[0].outcome is Outcome.NO_DATA


def test_the_next_server_is_asked_when_one_is_silent_or_refuses():
    def silent(attempt, reply):
        return None if attempt.server == FIRST else reply

    def refuses(attempt, reply):
        reply.header.rcode = 5 if attempt.server == FIRST else 0
        return reply

    for behave, when in ((silent, 2.0), (refuses, 0.0)):
        server = Server("a.org 60 A 192.0.2.1", behave=behave)
        result, now = resolve(server, "a.org", (Kind.A,))
        assert (result.outcome, now) == (Outcome.FOUND, when)
        assert [entry[0] for entry in server.asked] == [FIRST, SECOND]


def test_nobody_answers():
    server = Server(behave=lambda attempt, reply: None)
    result, now = resolve(server, "a.org", (Kind.A,))
    assert result.outcome is Outcome.NO_ANSWER
    assert now == 2 * (2.0 + 4.0 + 8.0) and len(server.asked) == 6


def test_a_search_list_is_not_continued_when_a_name_is_in_doubt():
    server = Server("a.second.org 60 A 192.0.2.66", behave=lambda attempt, reply: None)
    result, _ = resolve(server, "a", (Kind.A,), search=("first.org", "second.org"), attempts=1)
    assert result.outcome is Outcome.NO_ANSWER
    assert {entry[3] for entry in server.asked} == {"a.first.org"}


def test_a_truncated_answer_is_asked_for_again_over_tcp():
    def truncated(attempt, reply):
        reply.header.tc = not attempt.stream
        return reply

    server = Server("big.org 60 A 192.0.2.1", "big.org 60 AAAA 2001:db8::1", behave=truncated)
    result, _ = resolve(server, "big.org")
    assert len(addresses(result)) == 2
    assert [entry[:2] for entry in server.asked] == [(FIRST, False), (FIRST, True), (FIRST, True)]


def test_a_server_without_edns_is_asked_without():
    def old(attempt, reply):
        reply.header.rcode = 1 if attempt.edns else 0
        return reply

    server = Server("a.org 60 A 192.0.2.1", behave=old)
    assert resolve(server, "a.org", (Kind.A,))[0].outcome is Outcome.FOUND
    assert [entry[2] for entry in server.asked] == [True, False]


@pytest.mark.parametrize("forge", ["identifier", "name", "kind"])
def test_an_answer_to_another_question_is_not_believed(forge):
    def lies(attempt, reply):
        if attempt.server == FIRST:
            if forge == "identifier":
                reply.header.id ^= 1
            elif forge == "name":
                reply.q.qname = dnslib.DNSLabel("b.org")
            else:
                reply.q.qtype = Kind.AAAA
        return reply

    server = Server("a.org 60 A 192.0.2.1", behave=lies)
    result, now = resolve(server, "a.org", (Kind.A,))
    assert result.outcome is Outcome.FOUND and now == 2.0


def test_what_was_not_asked_for_is_not_remembered():
    def adds(attempt, reply):
        reply.add_answer(*dnslib.RR.fromZone("bank.org 86400 A 203.0.113.66"))
        return reply

    names = Names("host", ResolverConfig((FIRST,)))
    resolve(Server("a.org 60 A 192.0.2.1", behave=adds), "a.org", (Kind.A,), names)
    assert names.cache.get("a.org", Kind.A, 0.0) and names.cache.get("bank.org", Kind.A, 0.0) is None


def test_answers_are_good_for_their_time():
    names = Names("host", ResolverConfig((FIRST,)))
    server = Server("a.org 60 A 192.0.2.1")
    for now, asked in ((0.0, 1), (59.0, 1), (60.5, 2)):
        assert resolve(server, "A.ORG", (Kind.A,), names, now)[0].outcome is Outcome.FOUND
        assert len(server.asked) == asked
    for now, asked in ((0.0, 3), (20.0, 3), (100.0, 4)):  # an absence, too
        assert resolve(server, "none.org", (Kind.A,), names, now)[0].outcome is Outcome.NO_NAME
        assert len(server.asked) == asked


@pytest.mark.parametrize("name, ndots, asked", [
    ("a", 1, ["a.x.org", "a.y.org", "a"]), ("a.b", 1, ["a.b", "a.b.x.org", "a.b.y.org"]),
    ("a.b", 2, ["a.b.x.org", "a.b.y.org", "a.b"]), ("a.", 1, ["a"]),
])  # fmt: skip
def test_the_search_list(name, ndots, asked):
    server = Server()
    resolve(server, name, (Kind.A,), search=("x.org", "y.org."), ndots=ndots)
    assert [entry[3] for entry in server.asked] == asked


def test_without_servers():
    assert resolve(Server(), "a.org", servers=())[0].outcome is Outcome.NO_SERVER


def test_the_cache_is_bounded():
    names = Names("host", ResolverConfig((FIRST,), cache_names=10))
    for number in range(50):
        resolve(Server(), f"n{number}.org", (Kind.A,), names)
    assert len(names.cache) == 10 and names.cache.get("n49.org", Kind.A, 0.0) is not None


def test_identifiers_are_drawn_by_chance():
    names = Names("host", ResolverConfig((FIRST,)))
    seen = {Lookup(names, "a.org", (Kind.A,), Random(seed), 0.0).exchange.messages()[0][:2] for seed in range(50)}
    assert len(seen) > 45


def test_hosts_table():
    names = Names("host")
    names.hosts.read(["# a comment", "192.0.2.7 printer printer.lan # here", "2001:db8::7\tPrinter", ""])
    assert names.hosts.addresses("PRINTER.") == (parse_address("192.0.2.7"), parse_address("2001:db8::7"))
    assert names.hosts.names(parse_address("192.0.2.7")) == ("printer", "printer.lan")
    assert names.hosts.addresses("localhost") == names.hosts.addresses("x.localhost") == (LOOPBACK4, LOOPBACK6)
    assert names.hosts.names(LOOPBACK6) == ("localhost",) and names.hosts.names(parse_address("10.0.0.1")) == ()
    with pytest.raises(ValueError, match="nonsense"):
        names.hosts.read(["nonsense host"])
