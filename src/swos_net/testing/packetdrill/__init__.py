"""packetdrill scripts against this stack: no root, no kernel, no waiting.

    from swos_net.testing.packetdrill import run_script

    def test_handshake():
        run_script("tests/handshake.pkt").check()

    def test_with_my_configuration():
        config = StackConfig(tcp=TcpConfig(sack=False))
        run_script('''
             0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
            +0 bind(3, ..., ...) = 0
            +0 listen(3, 1) = 0
            +0 < S 0:0(0) win 65535 <mss 1000,sackOK>
            +0 > S. 0:0(0) ack 1 <mss 1460>
        ''', config=config).check()

`check()` raises AssertionError with the line of the script, what was expected, what was seen and what went before.
From a shell: `python -m swos_net.testing.packetdrill FILE|DIRECTORY ...`.

The reader and the runner are written from the language's description.  Not there: TCP Fast Open, TCP-MD5 signatures,
headers around packets (GRE, MPLS, IP in IP), zero-copy and timestamping control messages; a script that needs one of
them is reported as "unsupported".
"""

from swos_net.testing.packetdrill.outcome import Result
from swos_net.testing.packetdrill.parser import parse_script
from swos_net.testing.packetdrill.profiles import FREEBSD, LINUX, PROFILES, Profile
from swos_net.testing.packetdrill.runner import run_script
from swos_net.testing.packetdrill.scanner import ScriptError

__all__ = ["FREEBSD", "LINUX", "PROFILES", "Profile", "Result", "ScriptError", "parse_script", "run_script"]
