"""sendmsg() and recvmsg(): see system_calls.py."""

import errno

from swos_net.errors import os_error
from swos_net.testing.packetdrill.addresses import address_of, check_address
from swos_net.testing.packetdrill.constants import CONSTANTS
from swos_net.testing.packetdrill.expressions import is_anything, is_null, items_of, number_of
from swos_net.testing.packetdrill.live import UDP
from swos_net.testing.packetdrill.outcome import Mismatch, Unsupported
from swos_net.testing.packetdrill.script import Anything, Expression, Number, Structure, SystemCall

SOCK_STREAM = 1
MSG_ZEROCOPY = 0x4000000
MSG_FASTOPEN = 0x20000000
_ANCILLARY_MAX = 4096


def _message(process, call: SystemCall) -> dict[str, Expression]:
    message = process.argument(call, 1)
    if is_null(message):
        raise os_error(errno.EFAULT)
    if not isinstance(message, Structure):
        raise Mismatch(f"a message is {{msg_name(...)=..., msg_iov(1)=[...], ...}}, not {message}")
    return message.fields()


def _sendmsg(process, call: SystemCall):
    file = process.socket(process.argument(call, 0))
    fields = _message(process, call)
    flags = number_of(process.argument(call, 2)) if len(call.arguments) > 2 else 0
    if flags & (MSG_ZEROCOPY | MSG_FASTOPEN):
        raise Unsupported("MSG_ZEROCOPY" if flags & MSG_ZEROCOPY else "TCP Fast Open (MSG_FASTOPEN)")
    if "msg_control" in fields and items_of(fields["msg_control"], "msg_control"):
        raise Unsupported("ancillary data with sendmsg()")
    buffers = [process.payload(*vector) for vector in process.vectors(fields.get("msg_iov", Anything()))]
    core = file.core
    if core.type == SOCK_STREAM:
        return (yield from process.send_all(file, b"".join(buffers), flags, None))
    name = fields.get("msg_name", Anything())
    address = address_of(name, process.remote, process.profile.remote_port, core.family)
    remote = core.parse_peer(address)
    if process.flows.current is None:
        process.flows.connecting(UDP, remote[0], remote[1], file.local_port)
    return core.send_message(buffers, [], flags, address, process.host.now)


def _recvmsg(process, call: SystemCall):
    file = process.socket(process.argument(call, 0))
    fields = _message(process, call)
    flags = number_of(process.argument(call, 2)) if len(call.arguments) > 2 else 0
    vectors = process.vectors(fields.get("msg_iov", Anything()))
    length = sum(length for _, length in vectors)
    while True:
        try:
            data, ancillary, message_flags, address = file.core.receive_message(
                length, _ANCILLARY_MAX, flags, process.host.now
            )
            break
        except BlockingIOError:
            if not process.blocks(file, flags) or flags & CONSTANTS["MSG_ERRQUEUE"]:
                raise
        yield
    offset = 0
    for buffer, size in vectors:
        process.check_data(buffer, data[offset : offset + size])
        offset += size
    wanted_flags = fields.get("msg_flags", Anything())
    if not is_anything(wanted_flags) and number_of(wanted_flags) != message_flags:
        raise Mismatch(f"msg_flags {wanted_flags} expected, {message_flags:#x} found")
    if "msg_name" in fields and address:
        check_address(fields["msg_name"], address)
    if "msg_control" in fields:
        _check_ancillary(items_of(fields["msg_control"], "msg_control"), ancillary)
    return len(data)


def _check_ancillary(wanted: tuple[Expression, ...], found: list[tuple[int, int, bytes]]) -> None:
    if len(wanted) != len(found):
        raise Mismatch(f"{len(wanted)} control messages expected, {len(found)} found")
    for item, (level, kind, data) in zip(wanted, found):
        fields = item.fields() if isinstance(item, Structure) else {}
        expected = number_of(fields.get("cmsg_level", Number(level))), number_of(fields.get("cmsg_type", Number(kind)))
        if expected != (level, kind):
            raise Mismatch(f"control message {expected} expected, {(level, kind)} found")
        value = fields.get("cmsg_data", Anything())
        if isinstance(value, Structure):
            raise Unsupported(f"control message {item}")
        if not is_anything(value) and number_of(value) != int.from_bytes(data[:4], "little", signed=len(data) > 1):
            raise Mismatch(f"{value} expected in a control message, {data.hex()} found")


CALLS = {"sendmsg": _sendmsg, "recvmsg": _recvmsg}
