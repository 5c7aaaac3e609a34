"""Shell text that is understood and never run."""

import pytest

from swos_net.config import StackConfig
from swos_net.testing.packetdrill import run_script
from swos_net.testing.packetdrill.sysctls import UnknownSetting, apply_setting

SERVER = """    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
   +0 bind(3, ..., ...) = 0
   +0 listen(3, 1) = 0
   +0 < S 0:0(0) win 5000 <mss 1000>
   +0 > S. 0:0(0) ack 1 <mss 1460>
   +0 < . 1:1(0) ack 1 win 5000
   +0 accept(3, ..., ...) = 4
"""


@pytest.mark.parametrize(
    "name, value, field, expected",
    [
        ("net.ipv4.tcp_sack", "0", "sack", False),
        ("/proc/sys/net/ipv4/tcp_sack", "0", "sack", False),
        ("net.ipv4.tcp_ecn", "1", "ecn", "on"),
        ("net.ipv4.tcp_rmem", "4096 5000 6000", "receive_buffer", 6000),
        ("net.ipv4.tcp_rto_min_us", "50000", "rto_min", 0.05),
        ("net.ipv4.tcp_rfc1337", "0", "ignore_reset_in_time_wait", False),
        ("net.ipv4.tcp_congestion_control", "cubic", "congestion", "cubic"),
        ("net.inet.tcp.insecure_rst", "1", "reset_in_window", True),
        ("net.inet.tcp.insecure_syn", "1", "syn_in_window", True),
        ("net.inet.tcp.drop_synfin", "1", "drop_syn_fin", True),
        ("net.inet.tcp.rexmit_min", "30", "rto_min", 0.03),
        ("net.inet.tcp.ecn.maxretries", "2", "ecn_syn_retries", 2),
    ],
)
def test_settings(name, value, field, expected):
    changed = apply_setting(StackConfig(), name, value)
    assert getattr(changed.tcp, field) == (pytest.approx(expected) if isinstance(expected, float) else expected)


@pytest.mark.parametrize(
    "name, value",
    [
        ("net.ipv4.tcp_none", "1"),
        ("net.ipv4.tcp_sack", "many"),
        ("net.ipv4.tcp_ecn", "7"),
        ("net.ipv4.tcp_congestion_control", "magic"),
        ("kern.none", "1"),
    ],
)
def test_settings_that_are_none(name, value):
    with pytest.raises(UnknownSetting):
        apply_setting(StackConfig(), name, value)


@pytest.mark.parametrize(
    "command, succeeds",
    [
        ("true", True),
        ("false", False),
        ("false || true", True),
        ("true && false", False),
        ("false; true", True),
        ("echo one two | grep -c two | grep 1", True),
        ("echo one | grep two", False),
        ("echo a b c | awk '{print $2}' | grep b", True),
        ("test 1 = 1 && [ 2 -eq 2 ]", True),
        ("sockstat -4 -P tcp -s | grep -c ESTABLISHED | grep 1", True),
        ("sockstat -4 -P tcp -s -p 8080 | grep -c LISTEN | grep 1", True),
        ("sockstat -4 -P tcp -s -p 9090 | grep LISTEN", False),
        ('grep " 0A " /proc/net/tcp | grep ":1F90"', True),
        ('grep " 01 " /proc/net/tcp | grep ":1F90"', True),
        ('grep " 06 " /proc/net/tcp', False),
        ("sysctl -w net.ipv4.tcp_sack=$((2-1)) > /dev/null 2>&1", True),
        ("true # false", True),
    ],
)
def test_programs(command, succeeds):
    result = run_script(SERVER + f"+0 `{command}`\n")
    assert result.ok is succeeds, result.report()


def test_nothing_of_the_machine_is_touched(tmp_path):
    victim = tmp_path / "file"
    victim.write_text("still here")
    result = run_script(f"0 `rm -f {victim}; touch {tmp_path}/new; echo x > {victim}`\n0 `true`\n")
    assert result.ok
    assert victim.read_text() == "still here" and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_routes_change_the_path():
    script = SERVER.replace("<mss 1460>", "<...>")
    script += "+0 write(4, ..., 1000) = 1000\n+0 > . 1:601(600) ack 1\n+0 > P. 601:1001(400) ack 1\n"
    assert not run_script(script).ok
    run_script("`ip route change 192.0.2.1 via 192.168.0.2 dev tun0 mtu lock 640`\n" + script).check()
