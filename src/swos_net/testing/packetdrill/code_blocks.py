"""Python between %{ and }%: run where it stands, with the names of TCP_INFO bound to what the socket under test says.

All blocks of a script share one set of names, so that one can go on with another's.  A script's Python can do whatever
Python can: run scripts that you trust.
"""

import struct
import textwrap

from swos_net.testing.packetdrill.constants import CONSTANTS, TCP_CODE_NAMES
from swos_net.testing.packetdrill.outcome import Mismatch

SOL_TCP = 6
TCP_INFO = 11
TCP_CC_INFO = 26
SO_MEMINFO = 55

# struct tcp_info of Linux's uapi: name and format of each field, in order
_FIELDS = (
    *((name, "B") for name in ("state", "ca_state", "retransmits", "probes", "backoff", "options", "wscales", "app_limited")),
    *((name, "I") for name in (
        "rto", "ato", "snd_mss", "rcv_mss", "unacked", "sacked", "lost", "retrans", "fackets", "last_data_sent",
        "last_ack_sent", "last_data_recv", "last_ack_recv", "pmtu", "rcv_ssthresh", "rtt", "rttvar", "snd_ssthresh",
        "snd_cwnd", "advmss", "reordering", "rcv_rtt", "rcv_space", "total_retrans")),
    *((name, "Q") for name in ("pacing_rate", "max_pacing_rate", "bytes_acked", "bytes_received")),
    *((name, "I") for name in ("segs_out", "segs_in", "notsent_bytes", "min_rtt", "data_segs_in", "data_segs_out")),
    *((name, "Q") for name in ("delivery_rate", "busy_time", "rwnd_limited", "sndbuf_limited")),
    *((name, "I") for name in ("delivered", "delivered_ce")),
    *((name, "Q") for name in ("bytes_sent", "bytes_retrans")),
    *((name, "I") for name in ("dsack_dups", "reord_seen", "rcv_ooopack", "snd_wnd", "rcv_wnd", "rehash")),
)  # fmt: skip
_STRUCT = struct.Struct("=" + "".join(kind for _, kind in _FIELDS))
_BSD_STATES = (
    "CLOSED", "LISTEN", "SYN_SENT", "SYN_RECEIVED", "ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT_1", "CLOSING", "LAST_ACK",
    "FIN_WAIT_2", "TIME_WAIT",
)  # fmt: skip
# how FreeBSD's scripts call the states that Linux's numbers stand for
_BSD_NAMES = {f"TCPI_{name}": number for name, number in zip(_BSD_STATES, (7, 10, 2, 3, 1, 8, 4, 11, 9, 5, 6))}


def tcp_info(core, now: float) -> dict[str, int]:
    """TCP_INFO of a socket by field, with the prefix that scripts use; fields that a stack leaves out are 0."""
    raw = core.getsockopt(SOL_TCP, TCP_INFO, _STRUCT.size, now)
    if isinstance(raw, int):
        raise TypeError("TCP_INFO is a structure")
    values = _STRUCT.unpack(raw[: _STRUCT.size] + bytes(max(0, _STRUCT.size - len(raw))))
    info = {f"tcpi_{name}": value for (name, _), value in zip(_FIELDS, values)}
    scales = info.pop("tcpi_wscales")
    info["tcpi_snd_wscale"], info["tcpi_rcv_wscale"] = scales & 15, scales >> 4
    info["tcpi_delivery_rate_app_limited"] = info["tcpi_app_limited"] & 1
    return info


class CodeBlocks:
    """The Python of one script."""

    def __init__(self) -> None:
        self.names: dict[str, object] = dict(TCP_CODE_NAMES) | _BSD_NAMES
        self.names |= {name: value for name, value in CONSTANTS.items() if name.startswith(("E", "TCP_", "SO_"))}
        self.names |= TCP_CODE_NAMES
        self.printed: list[str] = []
        self.names["print"] = self._print

    def _print(self, *values: object, sep: str = " ", **_arguments: object) -> None:
        self.printed.append(sep.join(map(str, values)))

    def run(self, text: str, core, now: float, path: str, line: int) -> None:
        """Mismatch when an assertion fails or the code does not run."""
        first, newline, rest = text.partition("\n")
        source = first.strip() + newline + textwrap.dedent(rest) if first.strip() else textwrap.dedent(rest)
        source = source.rstrip() + "\n"
        if core is not None:
            self.names |= tcp_info(core, now)
        try:
            code = compile("\n" * (line - 1) + source, path or "<script>", "exec")
            exec(code, self.names)
        except AssertionError as error:
            raise Mismatch(f"assertion failed: {_failed_line(source, error, line)} ({error})") from None
        except Exception as error:
            raise Mismatch(f"the code does not run: {type(error).__name__}: {error}") from error


def _failed_line(source: str, error: AssertionError, line: int) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    number = trace.tb_lineno - line if trace is not None else 0
    lines = source.splitlines()
    return lines[number].strip() if 0 <= number < len(lines) else source.strip()
