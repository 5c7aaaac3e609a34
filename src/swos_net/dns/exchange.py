"""Questions put to servers, one after the other, until each has its answer.

Who drives it keeps one socket for `attempt` and no other: a new attempt means a new socket, hence a new random port,
which with the random identifiers is what keeps strangers from answering (RFC 5452).

    attempt                       whom to ask, over what; None when it is over
    messages()                    what to send there, once
    received(message, now)        a datagram, or a message of the stream without its length
    attempt_failed(now)           the socket failed: refused, unreachable
    next_deadline(), handle_timeout(now)
"""

from dataclasses import dataclass
from random import Random

from swos_net.dns.config import ResolverConfig
from swos_net.dns.message import Code, Response, emit_query, parse_response
from swos_net.errors import WireError


@dataclass(frozen=True, slots=True)
class Attempt:
    """`server` is (16-byte address, port)."""

    number: int
    server: tuple[bytes, int]
    stream: bool  # TCP: RFC 7766
    edns: bool


class Exchange:
    """`answers` has a Response for each (name, type) that was answered; `over` when no more will come."""

    def __init__(self, config: ResolverConfig, questions: list[tuple[str, int]], random: Random, now: float):
        self.answers: dict[tuple[str, int], Response] = {}
        self.attempt: Attempt | None = None
        self.ignored = 0  # messages that were no answer to what was asked: malformed, forged, late
        self._config = config
        self._open = list(questions)
        self._random = random
        self._identifiers: dict[int, tuple[str, int]] = {}
        self._deadline: float | None = None
        self._number = 0
        self._turns = [(round_, server) for round_ in range(config.attempts) for server in config.servers]
        self._round = 0
        self._next_server(now)

    @property
    def over(self) -> bool:
        return self.attempt is None

    def messages(self) -> list[bytes]:
        """The open questions with new identifiers; a stream wants each with its length before it (RFC 1035 4.2.2)."""
        attempt = self.attempt
        if attempt is None:
            return []
        self._identifiers.clear()
        result = []
        for question in self._open:
            identifier = self._random.getrandbits(16)
            while identifier in self._identifiers:
                identifier = self._random.getrandbits(16)
            self._identifiers[identifier] = question
            message = emit_query(identifier, *question, self._config.udp_payload if attempt.edns else None)
            result.append(len(message).to_bytes(2, "big") + message if attempt.stream else message)
        return result

    def received(self, message: bytes, now: float) -> None:
        attempt = self.attempt
        if attempt is None:
            return
        try:
            response = parse_response(message)
        except WireError:
            self.ignored += 1
            return
        question = self._identifiers.get(response.identifier)
        # RFC 5452 9.1: all of the question must come back
        if question is None or question[0].lower() != response.name.lower() or question[1] != response.kind:
            self.ignored += 1
            return
        if response.truncated:
            if not attempt.stream:
                self._begin(attempt.server, True, True, now)
            else:
                self._next_server(now)
        elif response.code == Code.FORMERR and attempt.edns:
            self._begin(attempt.server, attempt.stream, False, now)  # RFC 6891 7: a server that knows no EDNS
        elif response.code not in (Code.NOERROR, Code.NXDOMAIN):
            self._next_server(now)
        else:
            del self._identifiers[response.identifier]
            self._open.remove(question)
            self.answers[question] = response
            if not self._open:
                self._end()

    def attempt_failed(self, now: float) -> None:
        self._next_server(now)

    def next_deadline(self) -> float | None:
        return self._deadline

    def handle_timeout(self, now: float) -> None:
        if self._deadline is not None and now >= self._deadline:
            self._next_server(now)

    def _next_server(self, now: float) -> None:
        if not self._turns:
            self._end()
            return
        self._round, server = self._turns.pop(0)
        self._begin(server, False, True, now)

    def _begin(self, server: tuple[bytes, int], stream: bool, edns: bool, now: float) -> None:
        self._number += 1
        self._identifiers.clear()
        self.attempt = Attempt(self._number, server, stream, edns)
        self._deadline = now + self._config.timeout * 2**self._round

    def _end(self) -> None:
        self.attempt = None
        self._deadline = None
        self._turns.clear()
