"""poll() and epoll_*(): see system_calls.py."""

import errno
import select

from swos_net.errors import os_error
from swos_net.testing.packetdrill.constants import CONSTANTS
from swos_net.testing.packetdrill.descriptors import Epoll, Socket
from swos_net.testing.packetdrill.expressions import is_anything, items_of, number_of
from swos_net.testing.packetdrill.outcome import Mismatch
from swos_net.testing.packetdrill.script import Array, Expression, Number, Structure, SystemCall

POLLIN = select.POLLIN
POLLOUT = select.POLLOUT
POLLERR = select.POLLERR
POLLHUP = select.POLLHUP
POLLNVAL = select.POLLNVAL


def _deadline(process, expression: Expression) -> int | None:
    """Microseconds since the start at which a call with this timeout in milliseconds returns; None: never."""
    milliseconds = number_of(expression)
    return None if milliseconds < 0 else process.host.usecs + milliseconds * 1000


def _poll(process, call: SystemCall):
    entries = []
    for item in items_of(process.argument(call, 0), "what to poll"):
        fields = item.fields() if isinstance(item, Structure) else {}
        entries.append((number_of(fields["fd"]), number_of(fields["events"]), fields.get("revents")))
    deadline = _deadline(process, process.argument(call, 2))
    while True:
        seen = [_readiness(process, number, events) for number, events, _ in entries]
        if any(seen) or (deadline is not None and process.host.usecs >= deadline):
            break
        yield deadline
    for (number, _, wanted), mask in zip(entries, seen):
        if wanted is not None and not is_anything(wanted) and number_of(wanted) != mask:
            raise Mismatch(f"revents {wanted} expected for descriptor {number}, {mask_text(mask, 'POLL')} seen")
    return sum(map(bool, seen))


def _readiness(process, number: int, events: int) -> int:
    if number < 0:
        return 0
    if number not in process.files:
        return POLLNVAL
    return process.files[number].poll() & (events | POLLERR | POLLHUP)


def mask_text(mask: int, prefix: str) -> str:
    names = ("IN", "PRI", "OUT", "ERR", "HUP", "NVAL", "RDHUP")
    return "|".join(prefix + name for name in names if mask & CONSTANTS.get(prefix + name, 0)) or "0"


def _epoll_create(process, call: SystemCall):
    return process.opened(call, Epoll())
    yield


def _epoll(process, expression: Expression) -> Epoll:
    file = process.file(expression)
    if not isinstance(file, Epoll):
        raise os_error(errno.EINVAL)
    return file


def _epoll_ctl(process, call: SystemCall):
    epoll = _epoll(process, process.argument(call, 0))
    file = process.file(process.argument(call, 2))
    if not isinstance(file, Socket):
        raise os_error(errno.EPERM)
    operation = str(process.argument(call, 1))
    if operation == "EPOLL_CTL_DEL":
        if file not in epoll.interests:
            raise os_error(errno.ENOENT)
        epoll.remove(file)
        return 0
    events, data = _event(process.argument(call, 3))
    if (operation == "EPOLL_CTL_ADD") == (file in epoll.interests):
        raise os_error(errno.EEXIST if operation == "EPOLL_CTL_ADD" else errno.ENOENT)
    (epoll.add if operation == "EPOLL_CTL_ADD" else epoll.modify)(file, events, data)
    return 0
    yield


def _event(expression: Expression) -> tuple[int, int]:
    """(events, data) of {events=..., fd=...}."""
    fields = expression.fields() if isinstance(expression, Structure) else {}
    data = next((fields[name] for name in ("fd", "ptr", "u32", "u64") if name in fields), Number(0))
    return number_of(fields.get("events", Number(0))), number_of(data)


def _epoll_wait(process, call: SystemCall):
    epoll = _epoll(process, process.argument(call, 0))
    wanted = process.argument(call, 1)
    limit = number_of(process.argument(call, 2))
    deadline = _deadline(process, process.argument(call, 3))
    if limit <= 0:
        raise os_error(errno.EINVAL)
    while not (found := epoll.ready(limit)) and (deadline is None or process.host.usecs < deadline):
        yield deadline
    expected = wanted.items if isinstance(wanted, Array) else (wanted,)
    for item, (mask, data) in zip(expected, found):
        if is_anything(item):
            continue
        events, number = _event(item)
        if (events & 0xFFFFFF, number) != (mask, data):
            seen = f"{{events={mask_text(mask, 'EPOLL')}, fd={data}}}"
            raise Mismatch(f"{item} expected, {seen} seen")
    return len(found)


CALLS = {
    "poll": _poll,
    "epoll_create": _epoll_create,
    "epoll_create1": _epoll_create,
    "epoll_ctl": _epoll_ctl,
    "epoll_wait": _epoll_wait,
}
