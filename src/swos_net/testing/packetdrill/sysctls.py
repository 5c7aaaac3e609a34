"""`sysctl` settings of Linux and FreeBSD, in terms of this stack's configuration.

A setting is a function (StackConfig, words of the value) -> StackConfig.  Settings that change nothing that can be seen
here are in IGNORED; all others are reported by the runner.
"""

from collections.abc import Callable
from dataclasses import fields, replace

from swos_net.config import StackConfig, TcpConfig
from swos_net.tcp.congestion import CONTROLLERS

Setting = Callable[[StackConfig, list[str]], StackConfig]
_TCP_FIELDS = frozenset(field.name for field in fields(TcpConfig))


class UnknownSetting(Exception):
    """A setting, or a value of one, that this stack has nothing for."""


def _tcp(config: StackConfig, **changes: object) -> StackConfig:
    missing = [name for name in changes if name not in _TCP_FIELDS]
    if missing:
        raise UnknownSetting(f"TcpConfig has no {', '.join(missing)}")
    return replace(config, tcp=replace(config.tcp, **changes))


def _switch(*names: str) -> Setting:
    return lambda config, words: _tcp(config, **dict.fromkeys(names, int(words[0], 0) != 0))


def _integer(name: str) -> Setting:
    return lambda config, words: _tcp(config, **{name: int(words[0], 0)})


def _seconds(name: str, unit: float = 1.0) -> Setting:
    return lambda config, words: _tcp(config, **{name: int(words[0], 0) * unit})


def _choice(name: str, choices: dict[str, str]) -> Setting:
    def apply(config: StackConfig, words: list[str]) -> StackConfig:
        if words[0] not in choices:
            raise UnknownSetting(f"{name} has nothing for {words[0]}")
        return _tcp(config, **{name: choices[words[0]]})

    return apply


def _receive_memory(config: StackConfig, words: list[str]) -> StackConfig:
    return _tcp(config, receive_buffer_initial=int(words[1], 0), receive_buffer=int(words[2], 0))


def _send_memory(config: StackConfig, words: list[str]) -> StackConfig:
    return _tcp(config, send_buffer_initial=int(words[1], 0), send_buffer=int(words[2], 0))


def _congestion(config: StackConfig, words: list[str]) -> StackConfig:
    name = {"newreno": "reno"}.get(words[0], words[0])
    if name not in CONTROLLERS:
        raise UnknownSetting(f"there is no congestion control {words[0]}")
    return _tcp(config, congestion=name)


def _nothing(config: StackConfig, words: list[str]) -> StackConfig:
    return config


_ECN = _choice("ecn", {"0": "off", "1": "on", "2": "passive"})

LINUX: dict[str, Setting] = {
    "tcp_rmem": _receive_memory,
    "tcp_wmem": _send_memory,
    "tcp_timestamps": _switch("timestamps"),
    "tcp_window_scaling": _switch("window_scaling"),
    "tcp_sack": _switch("sack"),
    "tcp_frto": _switch("f_rto"),
    "tcp_syn_retries": _integer("syn_retries"),
    "tcp_synack_retries": _integer("syn_ack_retries"),
    "tcp_retries2": _integer("data_retries"),
    "tcp_reordering": _integer("duplicate_threshold"),
    "tcp_congestion_control": _congestion,
    "tcp_slow_start_after_idle": _switch("slow_start_after_idle"),
    "tcp_early_retrans": _switch("tail_loss_probe"),
    "tcp_recovery": _switch("rack"),
    "tcp_ecn": _ECN,
    "tcp_syncookies": _choice("syn_cookies", {"0": "never", "1": "overflow", "2": "always"}),
    "tcp_mtu_probing": _choice("mtu_probing", {"0": "off", "1": "black-hole", "2": "on"}),
    "tcp_base_mss": _integer("base_mss"),
    "tcp_keepalive_time": _seconds("keepalive_idle"),
    "tcp_keepalive_intvl": _seconds("keepalive_interval"),
    "tcp_keepalive_probes": _integer("keepalive_probes"),
    "tcp_fin_timeout": _seconds("fin_wait_2"),
    "tcp_rto_min_us": _seconds("rto_min", 1e-6),
    "tcp_rto_max_ms": _seconds("rto_max", 1e-3),
    "tcp_moderate_rcvbuf": _switch("auto_tuning"),
    "tcp_max_tw_buckets": _integer("time_wait_max"),
    "tcp_max_orphans": _integer("orphans_max"),
    "tcp_orphan_retries": _integer("orphan_retries"),
    "tcp_rfc1337": _switch("ignore_reset_in_time_wait"),
    "tcp_challenge_ack_limit": _integer("challenge_acks_per_second"),
}

FREEBSD: dict[str, Setting] = {
    "net.inet.tcp.rfc1323": _switch("timestamps", "window_scaling"),
    "net.inet.tcp.sack.enable": _switch("sack"),
    "net.inet.tcp.ecn.enable": _ECN,
    "kern.ipc.maxsockbuf": lambda config, words: _tcp(config, receive_buffer=min(int(words[0]), 1 << 30)),
    "net.inet.tcp.recvspace": _integer("receive_buffer_initial"),
    "net.inet.tcp.sendspace": lambda config, words: _tcp(
        config, send_buffer_initial=int(words[0]), send_buffer=max(int(words[0]), config.tcp.send_buffer)
    ),
    "net.inet.tcp.rexmit_initial": _seconds("rto_initial", 1e-3),
    "net.inet.tcp.rexmit_min": _seconds("rto_min", 1e-3),
    "net.inet.tcp.delacktime": _seconds("delayed_ack", 1e-3),
    "net.inet.tcp.keepidle": _seconds("keepalive_idle", 1e-3),
    "net.inet.tcp.keepintvl": _seconds("keepalive_interval", 1e-3),
    "net.inet.tcp.keepcnt": _integer("keepalive_probes"),
    "net.inet.tcp.finwait2_timeout": _seconds("fin_wait_2", 1e-3),
    "net.inet.tcp.msl": _seconds("time_wait", 2e-3),
    "net.inet.tcp.syncookies": _choice("syn_cookies", {"0": "never", "1": "overflow"}),
    "net.inet.tcp.cc.algorithm": _congestion,
    "net.inet.tcp.recvbuf_auto": _switch("auto_tuning"),
    "net.inet.tcp.insecure_rst": _switch("reset_in_window"),
    "net.inet.tcp.insecure_syn": _switch("syn_in_window"),
    "net.inet.tcp.drop_synfin": _switch("drop_syn_fin"),
    "net.inet.tcp.ecn.maxretries": _integer("ecn_syn_retries"),
}

IGNORED = frozenset((
    # Linux: nothing here to see, or how a kernel batches its work
    "tcp_dsack", "tcp_fack", "tcp_tso_win_divisor", "tcp_pacing_ss_ratio", "tcp_pacing_ca_ratio", "tcp_min_tso_segs",
    "tcp_tso_rtt_log", "tcp_limit_output_bytes", "tcp_autocorking", "tcp_no_metrics_save", "tcp_invalid_ratelimit",
    "tcp_app_win", "tcp_adv_win_scale", "tcp_comp_sack_nr", "tcp_comp_sack_delay_ns", "tcp_comp_sack_slack_ns",
    "tcp_fastopen", "tcp_fastopen_key", "tcp_ecn_option", "tcp_ecn_option_beacon", "tcp_ecn_fallback", "tcp_tw_reuse",
    "tcp_mem", "tcp_probe_interval", "tcp_probe_threshold", "tcp_max_syn_backlog", "tcp_backlog_ack_defer",
    # FreeBSD
    "net.inet.tcp.rexmit_drop_options", "net.inet.tcp.keepinit",
    "net.inet.tcp.blackhole", "net.inet.tcp.rexmit_slop", "net.inet.tcp.hostcache.purgenow", "net.inet.tcp.rfc5827",
    "net.inet.tcp.fastopen.enabled", "net.inet.tcp.functions_default", "net.inet.tcp.hostcache.enable",
))  # fmt: skip


def apply_setting(config: StackConfig, name: str, value: str) -> StackConfig:
    """The configuration after `sysctl name=value`; UnknownSetting when it means nothing to this stack."""
    name = name.replace("/", ".").removeprefix(".proc.sys.")
    short = name.removeprefix("net.ipv4.").removeprefix("net.ipv6.")
    if name in IGNORED or short in IGNORED or name.startswith(("net.core.", "net.inet.tcp.fastopen.")):
        return config
    setting = FREEBSD.get(name) or (LINUX.get(short) if short != name else None)
    if setting is None:
        raise UnknownSetting(f"sysctl {name} is not known")
    words = value.strip("\"'").split()
    try:
        return setting(config, words)
    except (ValueError, IndexError):
        raise UnknownSetting(f"sysctl {name}={value} is no setting") from None
