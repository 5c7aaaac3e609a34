"""The options of IPPROTO_TCP, and how a connection gets everything that was set on its socket.

Read first: options.py.  Options may be set before there is a connection: they are kept, and `apply_to_connection` brings
them to the transmission control block once it exists.
"""

import errno
from collections.abc import Callable
from typing import Any

from swos_net.address import is_ipv4
from swos_net.errors import os_error
from swos_net.socket.constants import IPPROTO_TCP
from swos_net.socket.options import RATE_UNLIMITED, STREAM, define
from swos_net.stack.tcp_endpoint import TcpEndpoint
from swos_net.tcp.congestion import CONTROLLERS
from swos_net.tcp.info import TcpInfo, tcp_info
from swos_net.tcp.state import State

CONGESTION_NAME_MAX = 16
MSS_UNCONNECTED = 536  # RFC 9293 3.7.1
MSS_USER_MIN, MSS_USER_MAX = 88, 32767  # Linux: TCP_MIN_MSS, MAX_TCP_WINDOW
WINDOW_MIN = 2304
DEFER_INTERVAL_MAX = 120  # Linux: TCP_RTO_MAX


def apply_to_connection(core, endpoint: TcpEndpoint, now: float) -> None:
    """Everything that was set so far, for a connection that has sent nothing yet."""
    for name, value in core._values.items():
        act = _ACTIONS.get(name)
        if act is not None:
            act(endpoint, value, now)


def changed(core, name: str, value: Any, now: float) -> None:
    """An option was set: a connection that exists follows at once."""
    endpoint = core.endpoint
    if endpoint is not None:
        _ACTIONS[name](endpoint, value, now)
        endpoint.changed(now)


# What an option does to a connection


def _nodelay(endpoint: TcpEndpoint, value: int, now: float) -> None:
    tcb = endpoint.connection.tcb
    tcb.nodelay = bool(value)
    tcb.push_now = tcb.nodelay and tcb.snd_nxt < tcb.data_end


def _cork(endpoint: TcpEndpoint, value: int, now: float) -> None:
    endpoint.connection.tcb.cork = bool(value)


def _maximum_segment(endpoint: TcpEndpoint, value: int, now: float) -> None:
    tcb = endpoint.connection.tcb
    if value and value < tcb.link_mss and tcb.state <= State.SYN_SENT:
        tcb.link_mss = value
        tcb.mss = min(tcb.mss, value)
        tcb.rcv_mss = min(tcb.rcv_mss, value)


def _keepalive(endpoint: TcpEndpoint, value: int, now: float) -> None:
    endpoint.connection.set_keepalive(bool(value), now)


def _keepalive_idle(endpoint: TcpEndpoint, value: int, now: float) -> None:
    tcb = endpoint.connection.tcb
    tcb.keepalive_idle = float(value)
    if tcb.keepalive_on and tcb.state >= State.ESTABLISHED:
        tcb.timers.keepalive = max(now, tcb.last_received + value)


def _keepalive_interval(endpoint: TcpEndpoint, value: int, now: float) -> None:
    endpoint.connection.tcb.keepalive_interval = float(value)


def _keepalive_count(endpoint: TcpEndpoint, value: int, now: float) -> None:
    endpoint.connection.tcb.keepalive_probe_limit = value


def _syn_count(endpoint: TcpEndpoint, value: int, now: float) -> None:
    endpoint.connection.tcb.syn_retries = value


def _user_timeout(endpoint: TcpEndpoint, value: int, now: float) -> None:
    endpoint.connection.tcb.user_timeout = value / 1000


def _quick_ack(endpoint: TcpEndpoint, value: int, now: float) -> None:
    tcb = endpoint.connection.tcb
    tcb.quick_ack_on = bool(value & 1)
    if tcb.quick_ack_on and tcb.ack_pending:
        tcb.ack_now = True


def _congestion(endpoint: TcpEndpoint, value: str, now: float) -> None:
    endpoint.connection.set_congestion(value)


def _send_buffer(endpoint: TcpEndpoint, value: int, now: float) -> None:
    endpoint.connection.set_send_buffer(value // 2)


def _receive_buffer(endpoint: TcpEndpoint, value: int, now: float) -> None:
    endpoint.connection.set_receive_buffer(value // 2)


def _window_clamp(endpoint: TcpEndpoint, value: int, now: float) -> None:
    if value and value < endpoint.connection.tcb.receive_limit:
        endpoint.connection.set_receive_buffer(value)


def _orphan_time(endpoint: TcpEndpoint, value: int, now: float) -> None:
    endpoint.connection.tcb.fin_wait_2 = float(max(value, 0))


def _defer_accept(endpoint: TcpEndpoint, value: int, now: float) -> None:
    if value and endpoint.listener is not None:
        endpoint.connection.tcb.defer_until = now + value


def _not_sent_low(endpoint: TcpEndpoint, value: int, now: float) -> None:
    endpoint.connection.tcb.not_sent_low = value & 0xFFFFFFFF  # the kernel keeps it unsigned


def _receive_low(endpoint: TcpEndpoint, value: int, now: float) -> None:
    endpoint.connection.set_receive_low(value)


def _pacing_rate(endpoint: TcpEndpoint, value: float | None, now: float) -> None:
    endpoint.connection.set_pacing_rate(None if value in (0, RATE_UNLIMITED) else value)


def _hop_limit(endpoint: TcpEndpoint, value: int, now: float) -> None:
    endpoint.path.c.hop_limit = endpoint.stack.config.hop_limit if value == -1 else value


def _traffic_class(endpoint: TcpEndpoint, value: int, now: float) -> None:
    endpoint.path.c.traffic_class = value


def _only(act: Callable[[TcpEndpoint, int, float], None], *, ipv4: bool) -> Callable[[TcpEndpoint, int, float], None]:
    """`act` on connections over IPv4, or over IPv6: an IPv6 socket keeps values for both."""

    def act_if(endpoint: TcpEndpoint, value: int, now: float) -> None:
        if is_ipv4(endpoint.remote) is ipv4:
            act(endpoint, value, now)

    return act_if


_ACTIONS = {
    "nodelay": _nodelay, "cork": _cork, "maximum_segment": _maximum_segment, "keepalive": _keepalive,
    "keepalive_idle": _keepalive_idle, "keepalive_interval": _keepalive_interval, "keepalive_count": _keepalive_count,
    "syn_count": _syn_count, "user_timeout": _user_timeout, "quick_ack": _quick_ack, "congestion": _congestion,
    "send_buffer": _send_buffer, "receive_buffer": _receive_buffer, "window_clamp": _window_clamp, "orphan_time": _orphan_time,
    "defer_accept": _defer_accept, "not_sent_low": _not_sent_low, "receive_low": _receive_low, "pacing_rate": _pacing_rate,
    "ttl": _only(_hop_limit, ipv4=True), "hops": _only(_hop_limit, ipv4=False),
    "tos": _only(_traffic_class, ipv4=True), "tclass": _only(_traffic_class, ipv4=False),
}  # fmt: skip


# The table


def _put(name: str):
    return lambda core, value, now: changed(core, name, value, now)


def _put_maximum_segment(core, value: int, now: float) -> None:
    if value and not MSS_USER_MIN <= value <= MSS_USER_MAX:
        raise os_error(errno.EINVAL, f"a segment size is within {MSS_USER_MIN}..{MSS_USER_MAX}")
    changed(core, "maximum_segment", value, now)


def _get_maximum_segment(core, now: float) -> int:
    if core.endpoint is None or core.endpoint.state is State.CLOSED:
        return core.option("maximum_segment") or MSS_UNCONNECTED
    return core.endpoint.connection.tcb.mss


def _put_congestion(core, value: bytes, now: float) -> None:
    if not value:
        raise os_error(errno.EINVAL, "a congestion control has a name")
    name = value[: CONGESTION_NAME_MAX - 1].split(b"\0")[0].decode("ascii", "replace")
    if name not in CONTROLLERS:
        raise os_error(errno.ENOENT, f"congestion control {name!r} is not known: use {', '.join(CONTROLLERS)}")
    core._values["congestion"] = name
    changed(core, "congestion", name, now)


def _get_congestion(core, now: float) -> bytes:
    return core.option("congestion", core.stack.config.tcp.congestion).encode().ljust(CONGESTION_NAME_MAX, b"\0")


def _put_user_timeout(core, value: int, now: float) -> None:
    if value < 0:
        raise os_error(errno.EINVAL, "a timeout is not negative")
    changed(core, "user_timeout", value, now)


def _put_orphan_time(core, value: int, now: float) -> int:
    """TCP_LINGER2: -1 for no time at all, 0 for the default; more than 120 s is cut."""
    seconds = -1 if value < 0 else min(value, 120)
    changed(core, "orphan_time", seconds or core.stack.config.tcp.fin_wait_2, now)
    return seconds


def _get_orphan_time(core, now: float) -> int:
    return core.option("orphan_time") or int(core.stack.config.tcp.fin_wait_2)


def _put_defer_accept(core, value: int, now: float) -> int:
    """TCP_DEFER_ACCEPT: whole retransmission intervals of a SYN,ACK, as the kernel counts it."""
    if value <= 0:
        return 0
    period = interval = 1
    while period < value and interval < DEFER_INTERVAL_MAX:
        interval = min(2 * interval, DEFER_INTERVAL_MAX)
        period += interval
    return period + -(-max(value - period, 0) // DEFER_INTERVAL_MAX) * DEFER_INTERVAL_MAX


def _put_window_clamp(core, value: int, now: float) -> int:
    if not value:
        if core.endpoint is not None and core.endpoint.state is not State.CLOSED:
            raise os_error(errno.EINVAL, "the clamp of a connection is not taken away")
        return 0
    value = max(value, WINDOW_MIN // 2)
    changed(core, "window_clamp", value, now)
    return value


def _get_info(core, now: float) -> bytes:
    return core.information(now)


def information(endpoint: TcpEndpoint, now: float) -> bytes:
    """struct tcp_info of a connection."""
    return tcp_info(endpoint.connection.tcb, now).pack()


def no_information(core) -> bytes:
    """The same of a socket without a connection; of a listening one with its queue, as the kernel has it."""
    info = TcpInfo(tcpi_state=7, tcpi_snd_mss=MSS_UNCONNECTED)
    if core.listener is not None:
        queue = core.listener.queue
        info.tcpi_state, info.tcpi_unacked, info.tcpi_sacked = 10, len(queue.accepted), queue.backlog - 1
    return info.pack()


def _refused(core, value: Any, now: float) -> None:
    raise os_error(errno.EOPNOTSUPP, "TCP Fast Open is not offered")


def _tcp_options() -> None:
    def tcp(number: int, name: str, **fields: Any) -> None:
        define(IPPROTO_TCP, number, name, kinds=STREAM, **fields)

    def configured(name: str, field: str):
        return lambda core, now: core.option(name) or int(getattr(core.stack.config.tcp, field))

    tcp(1, "nodelay", boolean=True, put=_put("nodelay"))
    tcp(2, "maximum_segment", get=_get_maximum_segment, put=_put_maximum_segment)
    tcp(3, "cork", boolean=True, put=_put("cork"))
    tcp(4, "keepalive_idle", low=1, high=32767, get=configured("keepalive_idle", "keepalive_idle"), put=_put("keepalive_idle"))
    tcp(5, "keepalive_interval", low=1, high=32767, get=configured("keepalive_interval", "keepalive_interval"),
        put=_put("keepalive_interval"))  # fmt: skip
    tcp(6, "keepalive_count", low=1, high=127, get=configured("keepalive_count", "keepalive_probes"), put=_put("keepalive_count"))
    tcp(7, "syn_count", low=1, high=127, get=configured("syn_count", "syn_retries"), put=_put("syn_count"))
    tcp(8, "orphan_time", get=_get_orphan_time, put=_put_orphan_time)
    tcp(9, "defer_accept", put=_put_defer_accept)
    tcp(10, "window_clamp", low=0, put=_put_window_clamp)
    tcp(11, "TCP_INFO", writable=False, get=_get_info)
    tcp(12, "quick_ack", default=1, get=lambda core, now: core.option("quick_ack", 1) & 1, put=_put("quick_ack"))
    tcp(13, "TCP_CONGESTION", raw=True, get=_get_congestion, put=_put_congestion)
    tcp(18, "user_timeout", put=_put_user_timeout)
    tcp(23, "TCP_FASTOPEN", put=_refused)
    tcp(24, "TCP_TIMESTAMP")
    tcp(25, "not_sent_low", put=_put("not_sent_low"))
    tcp(26, "TCP_CC_INFO", writable=False, get=lambda core, now: bytes(20))
    tcp(30, "TCP_FASTOPEN_CONNECT", put=_refused)
    tcp(36, "TCP_INQ", boolean=True)


_tcp_options()
