"""Whole runs: what passes, what is noticed, and how it is told."""

import subprocess
import sys

import pytest

from swos_net.config import StackConfig, TcpConfig
from swos_net.testing.packetdrill import LINUX, parse_script, run_script
from swos_net.testing.packetdrill.__main__ import main

HANDSHAKE = """    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
   +0 bind(3, ..., ...) = 0
   +0 listen(3, 1) = 0
   +0 < S 0:0(0) win 5000 <mss 1000,sackOK,nop,nop>
   +0 > S. 0:0(0) ack 1 win 65535 <mss 1460,nop,nop,sackOK>
  +.1 < . 1:1(0) ack 1 win 5000
   +0 accept(3, ..., ...) = 4
"""
GOOD = HANDSHAKE + """
   +0 write(4, ..., 2000) = 2000
   +0 > P. 1:2001(2000) ack 1
  +.1 < . 1:1(0) ack 1 win 5000 <sack 1001:2001,nop,nop>
+.025 > . 1:1001(1000) ack 1
  +.1 < P. 1:101(100) ack 2001 win 5000
   +0 > . 2001:2001(0) ack 101
   +0 read(4, ..., 1000) = 100
   +0 %{ assert tcpi_total_retrans == 1 }%
+0...0.5 read(4, ..., 1000) = 0
  +.5 < F. 101:101(0) ack 2001 win 5000
   +0 > . 2001:2001(0) ack 102
"""


def test_a_script_that_passes():
    result = run_script(GOOD)
    assert result.ok and result.usecs == 825_000, result.report()
    assert result.check() is result
    assert any("> P. " in line for line in result.trace)


MUTATIONS = [
    # what the script says, what a wrong one says, and what the report has of it
    ("> S. 0:0(0) ack 1 win 65535", "> S. 0:0(0) ack 2 win 65535", "ack 2 expected, 1 seen"),
    ("> S. 0:0(0) ack 1 win 65535", "> S. 0:0(0) ack 1 win 65534", "win 65534 expected, 65535 seen"),
    ("<mss 1460,nop,nop,sackOK>", "<mss 1459,nop,nop,sackOK>", "mss"),
    ("<mss 1460,nop,nop,sackOK>", "<mss 1460,sackOK,nop,nop>", "options"),
    ("<mss 1460,nop,nop,sackOK>", "<mss 1460>", "options"),
    ("> P. 1:2001(2000) ack 1", "> P. 1:1901(1900) ack 1", "1900 bytes expected"),
    ("> P. 1:2001(2000) ack 1", "> P. 2:2002(2000) ack 1", "sequence number 2 expected, 1 seen"),
    ("> P. 1:2001(2000) ack 1", "> PF. 1:2001(2000) ack 1", "flags"),
    ("> P. 1:2001(2000) ack 1", "> [ect0] P. 1:2001(2000) ack 1", "ECN ECT0 expected"),
    ("> P. 1:2001(2000) ack 1", "> P. 1:2001(2000) ack 1 <nop,nop,TS val 1 ecr 1>", "options"),
    ("> P. 1:2001(2000) ack 1", "> P. 1:2001(2000) ack 1 urg 3", "urg 3 expected"),
    ("> P. 1:2001(2000) ack 1", "> udp (2000)", "a UDP datagram expected"),
    ("+.025 >", "+.035 >", "sent at 0.225000 s, expected at 0.235000 s"),
    ("+.025 >", "+.015 >", "nothing was sent by 0.219000 s"),
    ("+.025 > . 1:1001(1000)", "+.03~+.05 > . 1:1001(1000)", "expected between"),
    ("read(4, ..., 1000) = 100", "read(4, ..., 1000) = 99", "read() returned 100, 99 expected"),
    ("read(4, ..., 1000) = 100", "read(4, ..., 1000) = -1 EAGAIN (Resource temporarily unavailable)", "returned 100"),
    ("read(4, ..., 1000) = 100", 'read(4, "other bytes", 1000) = 100', "expected in the buffer"),
    ("write(4, ..., 2000) = 2000", "write(5, ..., 2000) = 2000", "EBADF"),
    ("write(4, ..., 2000) = 2000", "write(4, ..., 2000) = -1 EPIPE (Broken pipe)", "returned 2000"),
    ("assert tcpi_total_retrans == 1", "assert tcpi_total_retrans == 2", "tcpi_total_retrans == 2"),
    ("assert tcpi_total_retrans == 1", "assert tcpi_nonsense", "NameError"),
    ("+0...0.5 read", "+0...0.4 read", "returned at 0.825000 s, expected at 0.725000 s"),
    ("  +.5 < F. 101:101(0) ack 2001 win 5000\n   +0 > . 2001:2001(0) ack 102\n", "", "still blocked"),
    ("+0...0.5 read", "+0...0.8 read", "returned at 0.825000 s, expected at 1.125000 s"),
    ("+0...0.5 read", "+0 read", "blocks"),
    ("  +.5 < F.", "  +.5 `false`\n+0 < F.", "failed with status 1"),
]  # fmt: skip


@pytest.mark.parametrize("good, bad, told", MUTATIONS)
def test_what_is_wrong_is_noticed(good, bad, told):
    assert good in GOOD
    text = GOOD.replace(good, bad, 1)
    result = run_script(text)
    assert result.status == "failed" and told in result.message, result.report()
    assert 0 < result.line <= text.count("\n") + 1
    with pytest.raises(AssertionError, match="what happened before"):
        result.check()


def test_times_may_be_off_a_little_or_not_at_all():
    late = GOOD.replace("+.025 >", "+.024 >")
    assert run_script(late).ok
    assert run_script(late, tolerance_usecs=0).status == "failed"
    assert run_script("--tolerance_usecs=500\n" + late).status == "failed"
    assert run_script("--tolerance_usecs=500\n" + late, tolerance_usecs=2000).ok
    assert run_script(GOOD, tolerance_usecs=0).ok


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "ipv4-mapped-ipv6"])
def test_every_family(family):
    run_script(GOOD, ip_version=family).check()


def test_a_script_is_text_a_path_or_parsed(tmp_path):
    path = tmp_path / "good.pkt"
    path.write_text(GOOD)
    assert run_script(path).ok and run_script(str(path)).ok and run_script(parse_script(GOOD)).ok
    assert run_script(path).path == str(path)


def test_the_callers_configuration_and_the_scripts():
    config = StackConfig(tcp=TcpConfig(sack=False, window_scaling=False, timestamps=False))
    assert "options" in run_script(GOOD, config=config).message
    back = "`sysctl -q net.ipv4.tcp_sack=1`\n" + GOOD
    run_script(back, config=StackConfig(tcp=TcpConfig(sack=False, receive_buffer_initial=131072))).check()


def test_what_has_no_effect_is_told():
    result = run_script("`sysctl -q net.ipv4.tcp_there_is_none=1; frobnicate`\n" + GOOD)
    assert result.ok
    assert any("tcp_there_is_none" in note for note in result.notes) and "frobnicate" in result.notes


@pytest.mark.parametrize(
    "text, status, told",
    [
        ("0 socket(\n", "invalid", ""),
        ("--no_such_option=1\n0 `true`\n", "invalid", "no_such_option"),
        ("0 `true`\n0 frobnicate(3) = 0\n", "unsupported", "frobnicate"),
        ("0 `true`\n0 < S 0:0(0) win 1 <FO,nop,nop>\n", "unsupported", "Fast Open"),
        ("--udp_encapsulation=sender:1,packetdrill:2\n0 `true`\n", "unsupported", "UDP"),
    ],
)
def test_what_is_not_run(text, status, told):
    result = run_script(text)
    assert result.status == status and told in result.message and not result.ok


def test_profiles():
    syn = "0 socket(..., SOCK_STREAM|SOCK_NONBLOCK, IPPROTO_TCP) = 3\n+0 connect(3, ..., ...) = -1 EINPROGRESS\n"
    linux = syn + "+0 > S 0:0(0) <mss 1460,sackOK,TS val 1 ecr 0,nop,wscale 6>\n"
    freebsd = syn + "+0 > S 0:0(0) <mss 1460,nop,wscale 6,sackOK,TS val 1 ecr 0>\n"
    assert run_script(linux, profile="linux").ok and run_script(freebsd, profile="freebsd").ok
    assert not run_script(linux, profile="freebsd").ok and not run_script(freebsd, profile=LINUX).ok
    with pytest.raises(ValueError, match="freebsd, linux|linux, freebsd"):
        run_script(linux, profile="plan9")


def test_a_run_leaves_nothing_behind():
    """Runs do not know of each other: the same script gives the same trace."""
    assert run_script(GOOD).trace == run_script(GOOD).trace


def test_hours_take_no_time():
    script = HANDSHAKE + "+7200 write(4, ..., 10) = 10\n+0 > P. 1:11(10) ack 1\n+.1 < . 1:1(0) ack 11 win 5000\n"
    assert run_script(script).check().usecs > 7200e6


def test_the_command(tmp_path, capsys):
    (tmp_path / "good.pkt").write_text(GOOD)
    assert main([str(tmp_path)]) == 0
    assert "1 passed" in capsys.readouterr().out
    (tmp_path / "wrong.pkt").write_text(GOOD.replace("ack 101", "ack 102"))
    assert main(["-q", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "wrong.pkt:" in out and "ack 102 expected, 101 seen" in out and "good.pkt" not in out
    assert main([str(tmp_path / "nothing")]) == 2
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2


def test_it_can_be_started_as_a_module(tmp_path):
    (tmp_path / "good.pkt").write_text(GOOD)
    done = subprocess.run(
        [sys.executable, "-m", "swos_net.testing.packetdrill", str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
