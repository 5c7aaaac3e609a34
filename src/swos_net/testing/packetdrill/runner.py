"""Runs scripts against the stack in virtual time.

    result = run_script("handshake.pkt")            # or the text of a script
    assert result.ok, result.report()

Read first: script.py for what a script is, host.py for the stack under test and its clock.  A run takes as long as the
work it does: seconds of a script are jumped over, and times are exact to the microsecond.
"""

from collections.abc import Iterable
from pathlib import Path

from swos_net.address import parse_address
from swos_net.config import StackConfig
from swos_net.errors import WireError
from swos_net.testing.packetdrill.code_blocks import CodeBlocks
from swos_net.testing.packetdrill.commands import Shell
from swos_net.testing.packetdrill.constants import CONSTANTS, errno_name
from swos_net.testing.packetdrill.expressions import is_anything, number_of
from swos_net.testing.packetdrill.flows import Flows
from swos_net.testing.packetdrill.host import Host
from swos_net.testing.packetdrill.matching import Rules
from swos_net.testing.packetdrill.outcome import Mismatch, Result, Unsupported
from swos_net.testing.packetdrill.packet_events import PacketEvents
from swos_net.testing.packetdrill.parser import parse_script
from swos_net.testing.packetdrill.profiles import Profile, profile_named
from swos_net.testing.packetdrill.run_options import RunOptions
from swos_net.testing.packetdrill.scanner import ScriptError
from swos_net.testing.packetdrill.script import (
    Action,
    CodeBlock,
    Command,
    Event,
    EventTime,
    PacketEvent,
    Script,
    SystemCall,
    TimeKind,
)
from swos_net.testing.packetdrill.system_calls import Steps, SystemCalls

_RANGES = (TimeKind.ABSOLUTE_RANGE, TimeKind.RELATIVE_RANGE)
_RELATIVE = (TimeKind.RELATIVE, TimeKind.RELATIVE_RANGE)


def run_script(
    script: "str | Path | Script", *, profile: str | Profile = "linux", config: StackConfig | None = None,
    options: Iterable[str] = (), defined: Iterable[str] = (), ip_version: str | None = None,
    tolerance_usecs: int | None = None,
) -> Result:  # fmt: skip
    """Runs a script: a path, the text of one (anything with a line break), or a parsed `Script`.

    `config` replaces the profile's configuration of the stack; commands of the script still change it.  `options` are
    like those at the head of a script ("--ip_version=ipv6"), which they come before.  `ip_version` is "ipv4", "ipv6" or
    "ipv4-mapped-ipv6" and holds against the script's own.  `tolerance_usecs` likewise: 0 asks for times exact to the
    microsecond.  Never raises for what a script says: see `Result`.
    """
    chosen = profile_named(profile)
    path = ""
    try:
        if not isinstance(script, Script):
            text = str(script)
            if isinstance(script, Path) or "\n" not in text:
                path = text
                text = Path(path).read_text(encoding="utf-8", errors="replace")
            script = parse_script(text, path, {*chosen.defined, *defined})
        path = script.path
        run_options = RunOptions.of(script, options, chosen, ip_version, tolerance_usecs)
    except ScriptError as error:
        return Result(error.path or path, "invalid", error.line, error.message)
    except Unsupported as error:
        return Result(path, "unsupported", 1, str(error))
    return Runner(script, chosen, config or chosen.config, run_options).run()


class _Pending:
    """A system call that has been put to sleep.  `begin` and `end` are microseconds; `end` is None when the script does
    not expect it to block."""

    def __init__(self, event: Event, steps: Steps, begin: int, end: int | None):
        self.event = event
        self.steps = steps
        self.begin = begin
        self.end = end
        self.wake_at: int | None = None
        self.finished_at: int | None = None
        self.value = 0
        self.error: OSError | None = None
        self.problem: Exception | None = None


class Runner:
    """One run of one script."""

    def __init__(self, script: Script, profile: Profile, config: StackConfig, options: RunOptions):
        self.script = script
        self.options = options
        self.result = Result(script.path)
        local, remote = parse_address(options.local), parse_address(options.remote)
        addresses = [(local, options.prefix_length)]
        self.host = Host(config, addresses, [parse_address(options.gateway)], options.mtu)
        self.flows = Flows(local, remote, profile.first_remote_port)
        self.process = SystemCalls(
            self.host, self.flows, options.profile, socket_family=options.socket_family, local=options.local,
            remote=options.remote, mss=options.mss,
        )  # fmt: skip
        self.shell = Shell(self.host, self.process, self.result.notes)
        rules = Rules(
            options.options_in_order, options.check_window, options.tick_usecs, options.tolerance_usecs, options.mss
        )
        self.packets = PacketEvents(self.host, self.flows, rules, options.family, strict_segments=options.strict_segments)
        self.code = CodeBlocks()
        self.pending: _Pending | None = None
        self.host.progressed = self._resume
        self._seen: dict[int, object] = {}  # sent packets that are in the trace, by identity; kept, so that it stays theirs
        self._last_usecs = 0  # when the event before was done: relative times count from there
        self._line = 0

    def run(self) -> Result:
        result = self.result
        try:
            for command in self.script.setup:
                self._command(command)
            for event in self.script.events:
                self._line = event.line
                self._event(event)
                self._last_usecs = self.host.usecs
                self._check_overdue()
            self._finish_pending()
        except (Mismatch, OSError, RuntimeError, WireError) as error:
            result.status, result.message, result.line = "failed", _text_of(error), self._line
        except Unsupported as error:
            result.status, result.message, result.line = "unsupported", str(error), self._line
        except ScriptError as error:
            result.status, result.message, result.line = "invalid", error.message, error.line or self._line
        finally:
            self._trace_sent()
            result.usecs = self.host.usecs
            for command in self.script.cleanup:
                self.shell.run(command.text)
            self._close()
        return result

    def _close(self) -> None:
        self.host.progressed = None
        for number in sorted(self.process.files):
            try:
                self.process.files[number].close(self.host.now)
            except OSError:
                pass  # whatever its state, it goes with the host
        self.host.close()

    # Events and their time

    def _event(self, event: Event) -> None:
        action = event.action
        if isinstance(action, PacketEvent) and not action.inbound:
            self._expect(event, action)
            return
        if event.time.kind is not TimeKind.ANY:
            self._advance_to(self._begin(event.time))
        self._act(event, action)

    def _act(self, event: Event, action: Action) -> None:
        if isinstance(action, PacketEvent):
            self._trace(event.text.partition("<")[1] + event.text.partition("<")[2])
            self.packets.inject(action)
        elif isinstance(action, SystemCall):
            self._system_call(event, action)
        elif isinstance(action, CodeBlock):
            socket = self.process.last_socket
            self.code.run(action.text, socket.core if socket else None, self.host.now, self.script.path, event.line)
        else:
            self._command(action)

    def _begin(self, time: EventTime) -> int:
        return time.usecs + (self._last_usecs if time.kind in _RELATIVE else 0)

    def _advance_to(self, usecs: int) -> None:
        """Lets time pass, also for a call that sleeps until a time of its own."""
        pending = self.pending
        while pending is not None and pending.wake_at is not None and pending.finished_at is None and pending.wake_at <= usecs:
            wake_at = pending.wake_at
            self.host.advance_to(wake_at)
            self._resume()
            if pending.wake_at == wake_at and pending.finished_at is None:
                break
        self.host.advance_to(usecs)
        self._trace_sent()

    def _trace(self, text: str) -> None:
        self._trace_sent()
        self.result.trace.append(f"{self.host.usecs / 1e6:10.6f} {text}")

    def _trace_sent(self) -> None:
        """What was sent and not looked at yet, once."""
        for packet in [*self.packets.ignored, *self.host.sent]:
            if packet.raw is not None and id(packet) not in self._seen:
                self._seen[id(packet)] = packet
                self.result.trace.append(f"{packet.usecs / 1e6:10.6f} {self.packets.describe(packet)}")

    # Packets that the stack is to send

    def _expect(self, event: Event, action: PacketEvent) -> None:
        time = event.time
        tolerance = self.options.tolerance_usecs
        begin = self._begin(time)
        end = begin
        if time.kind in _RANGES:
            end = time.end + (self._last_usecs if time.kind is TimeKind.RELATIVE_RANGE else 0)
        tolerance = max(tolerance, int((begin - self._last_usecs) * self.options.tolerance_percent / 100))

        def there() -> bool:
            return self.packets.next_sent(action) is not None

        limit = None if time.kind is TimeKind.ANY else end + tolerance
        if not there():
            if limit is None:
                while not there() and self.host.step():
                    pass
            else:
                self._advance_until(limit, there)
        if not there():
            self._trace_sent()
            waited = "ever" if limit is None else f"by {limit / 1e6:.6f} s"
            raise Mismatch(f"nothing was sent {waited}; expected: {event.text}{self._next_hint()}")
        self._trace_sent()
        first = self.packets.next_sent(action)
        self._gather(action, limit)
        packets = self._match(event, action)
        if time.kind is TimeKind.ANY:
            return
        for packet in packets:
            if not begin - tolerance <= packet.usecs <= end + tolerance:
                raise Mismatch(
                    f"sent at {packet.usecs / 1e6:.6f} s, expected {_time_text(begin, end)}: {self.packets.describe(first)}"
                )

    def _advance_until(self, limit: int, there) -> None:
        """To `limit`, or until what is waited for has been sent; a sleeping call goes on meanwhile."""
        pending = self.pending
        if pending is not None and pending.wake_at is not None and pending.wake_at < limit:
            self.host.advance_to(pending.wake_at, there)
            self._resume()
        self.host.advance_to(limit, there)

    def _gather(self, action: PacketEvent, limit: int | None) -> None:
        """Waits for the rest of what the script shows as one segment."""
        length = action.packet.length if hasattr(action.packet, "length") else 0
        if self.options.strict_segments or limit is None:
            return

        def enough() -> bool:
            return sum(packet.length for packet in self.host.sent) >= length

        if length > self.host.sent[0].length > 0 and not enough():
            self.host.advance_to(limit, enough)
            self._trace_sent()

    def _match(self, event: Event, action: PacketEvent):
        try:
            return self.packets.match(action)
        except Mismatch as error:
            raise Mismatch(f"{error}; expected: {event.text}") from None

    def _next_hint(self) -> str:
        """When the stack would have sent something, if it is going to."""
        due = self.host.next_usecs()
        return "" if due is None else f" (its next timer is due at {due / 1e6:.6f} s)"

    # System calls

    def _system_call(self, event: Event, call: SystemCall) -> None:
        self._finish_pending()
        begin = self.host.usecs
        self._trace(event.text.partition(" ")[2])
        end = None
        if call.end is not None:
            end = call.end + (self._last_usecs if event.time.kind is TimeKind.RELATIVE else 0)
        self.pending = pending = _Pending(event, self.process.call(call), begin, end)
        self._resume()
        self.host.settle()
        self._trace_sent()
        if pending.finished_at is None and end is None:
            # not expected to block: it has the time that a call may take
            self._advance_until(begin + self.options.tolerance_usecs, lambda: pending.finished_at is not None)
            if pending.finished_at is None:
                raise Mismatch(f"{call.name}() blocks, {_result_text(call)} expected at once")
        if pending.finished_at is not None:
            self._finished(pending)

    def _resume(self) -> None:
        """Lets the sleeping call look whether it can go on."""
        pending = self.pending
        if pending is None or pending.finished_at is not None:
            return
        try:
            pending.wake_at = next(pending.steps)
            return
        except StopIteration as stop:
            pending.value = stop.value
        except OSError as error:
            pending.error = error
        except (Mismatch, Unsupported, ScriptError) as error:
            pending.problem = error
        pending.finished_at = self.host.usecs
        self.host.flush()

    def _finish_pending(self) -> None:
        """Waits for the call that sleeps, if there is one, as long as the script gives it."""
        pending = self.pending
        if pending is None:
            return
        if pending.finished_at is None and pending.end is not None:
            limit = pending.end + self.options.tolerance_usecs
            while pending.finished_at is None and self.host.usecs < limit:
                stop = limit if pending.wake_at is None else min(limit, max(pending.wake_at, self.host.usecs + 1))
                self.host.advance_to(stop, lambda: pending.finished_at is not None)
                self._resume()
        if pending.finished_at is None:
            self._line = pending.event.line
            raise Mismatch(f"still blocked at {self.host.usecs / 1e6:.6f} s: {pending.event.text}")
        self._finished(pending)

    def _check_overdue(self) -> None:
        pending = self.pending
        if pending is None:
            return
        if pending.finished_at is not None:
            self._finished(pending)
        elif pending.end is not None and self.host.usecs > pending.end + self.options.tolerance_usecs:
            self._finish_pending()

    def _finished(self, pending: _Pending) -> None:
        """Compares what a call returned, and when, with the script."""
        self.pending = None
        self._line = pending.event.line
        call = pending.event.action
        if pending.problem is not None:
            if isinstance(pending.problem, Mismatch):
                raise Mismatch(f"{call.name}(): {pending.problem}")
            raise pending.problem
        self._check_result(call, pending)
        tolerance = self.options.tolerance_usecs
        if pending.end is not None and abs(pending.finished_at - pending.end) > tolerance:
            raise Mismatch(
                f"{call.name}() returned at {pending.finished_at / 1e6:.6f} s, expected at {pending.end / 1e6:.6f} s"
            )

    def _check_result(self, call: SystemCall, pending: _Pending) -> None:
        wanted = None if is_anything(call.result) else number_of(call.result)
        if pending.error is not None:
            name = errno_name(pending.error.errno)
            if wanted is not None and wanted != -1:
                raise Mismatch(f"{call.name}() failed with {name}, {_result_text(call)} expected")
            if call.error is not None and not self._same_error(call.error, pending.error.errno):
                raise Mismatch(f"{call.name}() failed with {name}, {call.error} expected")
            return
        if wanted is not None and wanted != pending.value:
            raise Mismatch(f"{call.name}() returned {pending.value}, {_result_text(call)} expected")

    def _same_error(self, wanted: str, code: int) -> bool:
        if wanted not in CONSTANTS:
            return False
        return CONSTANTS[wanted] == code or (wanted, errno_name(code)) in self.options.profile.same_errors

    # Commands

    def _command(self, command: Command) -> None:
        self._trace(f"`{' '.join(command.text.split())[:100]}`")
        status = self.shell.run(command.text)
        self.host.settle()
        if status:
            raise Mismatch(f"`{' '.join(command.text.split())}` failed with status {status}")


def _text_of(error: Exception) -> str:
    if isinstance(error, WireError):
        return f"the stack sent a packet that is not well-formed: {error.reason}"
    return str(error)


def _result_text(call: SystemCall) -> str:
    return f"{call.result} {call.error}" if call.error else str(call.result)


def _time_text(begin: int, end: int) -> str:
    if begin == end:
        return f"at {begin / 1e6:.6f} s"
    return f"between {begin / 1e6:.6f} s and {end / 1e6:.6f} s"
