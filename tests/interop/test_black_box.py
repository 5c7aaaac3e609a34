"""Tools that others wrote to look at hosts from outside, at us and at the Linux kernel in the same run.

The kernel's answers are the reference.  Where ours differ, a table says how and why.
"""

import concurrent.futures
import itertools
import re
import shutil
import time
from collections.abc import Callable

import pytest

from lab import namespaces

WHY_NOT = namespaces.why_not()
pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.kernel_sockets,
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "available"),
    pytest.mark.xdist_group("network"),
]

US, US6 = "10.77.0.2", "fd00:77::2"
PACKAGES = {"atk6-implementation6": "thc-ipv6", "atk6-fragmentation6": "thc-ipv6"}
NOTHING = ""


class Hosts:
    """`ours` and `linux`: the namespaces from which the tools look at either."""

    def __init__(self, ours: namespaces.Namespace, linux: namespaces.Namespace):
        self.namespaces = {"ours": ours, "linux": linux}

    def ask(self, *command: str, timeout: float = 60.0) -> tuple[str, str]:
        """(what a tool prints about us, and about Linux); both run at the same time."""
        return self.both(lambda namespace: output(namespace, command, timeout))

    def both(self, look: Callable[[namespaces.Namespace], object]) -> tuple:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return tuple(pool.map(look, self.namespaces.values()))


def output(namespace: namespaces.Namespace, command: tuple[str, ...], timeout: float = 60.0) -> str:
    result = namespace.run(*command, check=False, timeout=timeout)
    return (result.stdout + result.stderr).decode(errors="replace")


def needs(tool: str) -> pytest.MarkDecorator:
    """Skips where the tool is missing, and says which package brings it."""
    found = shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin")
    return pytest.mark.skipif(not found, reason=f"there is no {tool}: apt-get install {PACKAGES.get(tool, tool)}")


@pytest.fixture(scope="module")
def hosts(our_end, linux_end) -> Hosts:
    found = Hosts(our_end, linux_end)
    # an address of the kernel that is still being made sure of is not used as a source
    for _ in range(100):
        if all("1 received" in text for text in found.ask("ping", "-c", "1", "-W", "1", US6)):
            break
        time.sleep(0.1)
    return found


# nmap


def fingerprint(text: str) -> dict[str, dict[str, str]]:
    """nmap's OS fingerprint: {probe: {field: value}}."""
    joined = "".join(line[3:] for line in text.splitlines() if line.startswith("OS:"))
    if not joined:  # answers that came too slowly for its database are printed in another form
        joined = "".join(re.findall(r"^[A-Z0-9]+\(.*\)$", text, re.MULTILINE))
    assert joined, text
    found = {}
    for probe, inside in re.findall(r"([A-Z0-9]+)\(([^)]*)\)", joined):
        fields = [part.partition("=") for part in inside.split("%")]
        found[probe] = {name: value for name, _, value in fields}
    return found


@pytest.fixture(scope="module")
def nmap4(hosts) -> tuple[dict, dict]:
    texts = hosts.ask("nmap", "-n", "-Pn", "-O", "--max-os-tries", "1", "-d1", "-p", "80,81", US)
    return tuple(map(fingerprint, texts))


@pytest.fixture(scope="module")
def nmap6(hosts) -> tuple[dict, dict]:
    texts = hosts.ask("nmap", "-6", "-n", "-Pn", "-O", "--max-os-tries", "1", "-d1", "-p", "80,81", US6)
    return tuple(map(fingerprint, texts))


def raw(value: str) -> bytes:
    """An IPv6 packet as nmap writes it: XX for what it hides, {n} for n times the byte before."""
    digits = re.sub(r"(..)\{(\d+)\}", lambda found: found[1] * int(found[2]), value.replace("XX", "00"))
    return bytes.fromhex(digits)


@needs("nmap")
@pytest.mark.parametrize("probe", ["T1", "T2", "T4", "T5", "T6", "T7"])
def test_resets_are_those_of_the_kernel(nmap4, probe):
    """T1: SYN to an open port; T2: no flags; T4: ACK; T5 to T7: SYN, ACK, FIN|PSH|URG to a closed port (RFC 9293 3.10.7.1 and 2)."""
    ours, linux = nmap4
    assert ours[probe] == linux[probe]


@needs("nmap")
def test_sequence_numbers_are_as_hard_to_guess_as_the_kernels(nmap4):
    """RFC 6528: SP grades how hard, 8 for each bit; GCD is what all differences have in common."""
    ours, linux = (found["SEQ"] for found in nmap4)
    assert int(ours["SP"], 16) >= int(linux["SP"], 16) - 16
    assert int(ours["GCD"], 16) <= 8  # of six random numbers


@needs("nmap")
def test_identifications_cannot_be_predicted(nmap4):
    """RFC 7739, RFC 6864: no packet of one flow tells what another's had."""
    for probe in ("TI", "CI", "II"):
        assert nmap4[0]["SEQ"].get(probe, "Z") in ("Z", "RD", "RI")


@needs("nmap")
def test_options_come_in_the_order_of_the_kernels(nmap4):
    """All six probes, each with other options; the scale of the window is each stack's own."""
    ours, linux = ({name: re.sub("W[0-9A-F]$", "W", options) for name, options in found["OPS"].items()} for found in nmap4)
    assert ours == linux


@needs("nmap")
def test_the_window_does_not_depend_on_the_probe(nmap4):
    windows = set(nmap4[0]["WIN"].values())
    assert len(windows) == 1 and int(windows.pop(), 16) >= 0x4000


@needs("nmap")
def test_explicit_congestion_notification_is_taken_up(nmap4):
    """CC=Y: a SYN with ECE and CWR is answered with ECE alone (RFC 3168 6.1.1), as the kernel does."""
    ours, linux = (found["ECN"] for found in nmap4)
    assert {name: ours[name] for name in ("R", "DF", "T", "CC", "Q")} == {name: linux[name] for name in ("R", "DF", "T", "CC", "Q")}


@needs("nmap")
def test_icmp_errors_quote_what_they_are_about(nmap4):
    """Length of the error, and of the quote its length, identification, checksums and data: all as they were sent."""
    ours, linux = (found["U1"] for found in nmap4)
    names = set(linux) - {"DF"}  # RFC 6864 4.1: ours is never fragmented, and says so
    assert {name: ours[name] for name in names} == {name: linux[name] for name in names}


@needs("nmap")
def test_echoes(nmap4):
    ours, linux = (found["IE"] for found in nmap4)
    # RFC 792: the code of a reply is 0, whatever the request's was; Linux copies it
    assert ours == linux | {"CD": "Z"}


@needs("nmap")
def test_probes_of_ipv6_are_answered_as_by_the_kernel(nmap6):
    ours, linux = nmap6
    # T3 is SYN|FIN|URG|PSH to an open port: RFC 9293 takes it for a SYN, Linux for an attack
    probes = [name for name in linux if name not in ("SCAN", "EXTRA")]
    assert [name for name in ours if name not in ("SCAN", "EXTRA", "T3")] == probes
    for name in ("TECN", "T4", "T5", "T6", "T7"):
        mine, theirs = raw(ours[name]["P"])[40:], raw(linux[name]["P"])[40:]
        assert mine[12:14] == theirs[12:14], name  # length and flags
        assert (mine[4:12] == bytes(8)) == (theirs[4:12] == bytes(8)), name
    for name in ("IE1", "IE2", "U1"):
        mine, theirs = raw(ours[name]["P"]), raw(linux[name]["P"])
        # type, and what follows the checksum; the code of an echo reply is 0 (RFC 4443 4.2), Linux copies the request's
        assert (len(mine), mine[40], mine[44:48]) == (len(theirs), theirs[40], theirs[44:48]), name
        assert mine[41] == (0 if name == "IE1" else theirs[41]), name


# hping3

FLAGS = ["", "-S", "-A", "-F", "-R", "-P", "-U", "-S -A", "-S -R", "-S -P -U", "-F -A", "-F -P -U", "-R -A", "-F -S -R -P -A -U"]


# Left to itself hping3 draws these from the second of its start.
NUMBERS = ("-M", "1000", "-L", "2000")


def hping(namespace: namespaces.Namespace, *arguments: str) -> str:
    """What of an answer does not vary: flags, acknowledgment, and for a reset its number; nothing when none came in a second."""
    text = output(namespace, ("hping3", "-c", "1", "-n", "-V", *NUMBERS, *arguments, US))
    found = re.search(r"flags=(\S+) .*\nseq=(\d+) ack=(\d+)", text)
    if found:
        flags, seq, ack = found.groups()
        return f"{flags} {seq} {ack}" if "R" in flags else f"{flags} {ack}"
    if icmp := re.search(r"ICMP .* (?=from)", text):
        return icmp[0].strip()
    if re.search(r"icmp_seq=\d", text):
        return "echo reply"
    return NOTHING


def differences(hosts: Hosts, probes: list[tuple[str, ...]], at_once: int) -> list[tuple]:
    """(probe, our answer, Linux's) where these differ, three times; `at_once` probes wait for their answers at the same time.

    What differs is asked again alone: a machine that is busy elsewhere may take longer to answer than hping3 waits.
    """
    # Of a packet in pieces hping3 takes the lower byte of its process number for the identification, and where that is 0
    # the kernel gives each piece another.  Nor may a piece belong to what an earlier probe has left behind.
    identifications = itertools.count(1)

    def ask(asked: list[tuple[str, ...]], at_once: int) -> list[tuple]:
        numbered = [("-N", str(next(identifications)), *probe) for probe in asked]

        def look(namespace: namespaces.Namespace) -> list[str]:
            with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
                return list(pool.map(lambda probe: hping(namespace, *probe), numbered))

        return [answer for answer in zip(asked, *hosts.both(look)) if answer[1] != answer[2]]

    found = ask(probes, at_once)
    for _ in range(2):
        found = ask([probe for probe, _, _ in found], at_once=1)
    return found


@needs("hping3")
@pytest.mark.parametrize("first_port", [8000, 9000], ids=["open", "closed"])
@pytest.mark.parametrize("length", [0, 10])
def test_flags_to_no_connection(hosts, first_port, length):
    """RFC 9293 3.10.7.1 and 3.10.7.2: which flags are answered, with which numbers."""
    probes = [("-d", str(length), "-p", str(first_port + index), *flags.split()) for index, flags in enumerate(FLAGS)]
    assert not differences(hosts, probes, at_once=8)


@needs("hping3")
def test_damaged_and_divided_packets(hosts):
    probes = [
        "-S -p 80 -b", "-S -p 80 -O 4", "-S -p 80 -O 15", "-1 -b", "-2 -p 9 -b",  # checksums and lengths that are wrong
        "-S -p 80 -f", "-S -p 80 -f -d 100", "-S -p 80 -x", "-S -p 80 -g 64",  # fragments: all, and one alone
        "-1", "-1 -d 3000", "-1 -d 3000 -m 64", "-1 -K 3", "-1 -t 0", "-1 -y -d 1472", "-1 -C 17",
        "-2 -p 9", "-2 -p 9 -d 2000", "-0 -H 253", "-0 -H 59",
    ]  # fmt: skip
    assert not differences(hosts, [tuple(probe.split()) for probe in probes], at_once=1)


@needs("hping3")
def test_what_hping3_hears_when_there_is_an_answer(hosts):
    """So that the silence of the other tests means something."""
    ours = hosts.namespaces["ours"]
    for probe, answer in {"-S -p 80": "SA 1001", "-S -p 81": "RA 0 1001", "-1": "echo reply",
                          "-2 -p 9": "ICMP Port Unreachable", "-0 -H 253": "ICMP Protocol Unreachable"}.items():  # fmt: skip
        assert answer in (hping(ours, *probe.split()) for _ in range(3)), probe


# thc-ipv6

# Checks of implementation6 by number that are asked here: a check that is passed takes 0.1 s, silence up to 3 s.
# What Linux is silent about too is asked where silence is a rule.
IMPLEMENTATION6 = [
    1, 3, 5, 7, 11, 12, 13, 14, 15, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 30, 32, 35, 37, 38, 39, 41, 42, 47, 49, 50, 52, 54, 56,
]  # fmt: skip
# RFC 2675 3 is for nodes that know jumbograms: to others its option is one of the unknown, to be told as that
IMPLEMENTATION6_OURS = {47: "FAILED - error reply [4:2]"}
# Not asked, and different: 4, 8, 9, 10 (more extension headers than the 8 we walk over: RFC 8504 5.3 lets a node limit
# them), 43 to 46 (Linux refuses long padding, which RFC 8200 4.2 allows), 48 (a jumbogram again).


@needs("atk6-implementation6")
def test_extension_headers_and_fragments_of_ipv6(hosts):
    def look(namespace: namespaces.Namespace) -> dict[int, str]:
        # one after the other: the tool takes an answer to another of its processes for its own
        return {number: check(namespace, number) for number in IMPLEMENTATION6}

    def check(namespace: namespaces.Namespace, number: int) -> str:
        text = output(namespace, ("atk6-implementation6", "-p", "tap0", US6, str(number)))
        return text.strip().splitlines()[-1].rpartition("\t")[2]

    ours, linux = hosts.both(look)
    assert linux[1].startswith("PASSED") and linux[19].startswith("FAILED - error")
    expected = linux | IMPLEMENTATION6_OURS
    assert {number: answer for number, answer in ours.items() if answer != expected[number]} == {}


@needs("atk6-fragmentation6")
def test_a_storm_of_fragments_is_survived(hosts):
    """Overlapping, replaced, missing and endless fragments; the pings at the end are answered."""
    numbers = [7, 8, 12, 16, 27, 33]

    def look(namespace: namespaces.Namespace) -> str:
        for number in numbers:
            text = output(namespace, ("atk6-fragmentation6", "-p", "tap0", US6, str(number)))
            assert "ATTACK" in text, text
        return output(namespace, ("ping", "-c", "3", "-i", "0.05", "-W", "2", "-s", "4000", US6))

    for text in hosts.both(look):
        assert "3 received, 0% packet loss" in text, text


# fping, arping, ndisc6


@needs("fping")
@pytest.mark.parametrize("address", [US, US6])
@pytest.mark.parametrize("size", [0, 1, 1452, 1453, 1472, 1473, 9000, 30001, 65400])
def test_echoes_of_every_size(hosts, address, size):
    for text in hosts.ask("fping", "-c", "2", "-p", "20", "-t", "2000", "-b", str(size), address):
        assert "2/2/0%" in text, text


@needs("arping")
@pytest.mark.parametrize(("arguments", "answers"), [
    (US, 1),
    (f"-0 {US}", 1),  # from nobody: what RFC 5227 calls a probe
    (f"-S 10.77.0.77 {US}", 1),
    (f"-S {US} {US}", 0),  # somebody else announces our address
    ("10.77.0.9", 0),
    ("10.77.0.255", 0),
])  # fmt: skip
def test_who_has(hosts, arguments, answers):
    for text in hosts.ask("arping", "-c", "1", "-w", "1", "-i", "tap0", *arguments.split()):
        assert f" {answers} packets received" in text, text


@needs("ndisc6")
@pytest.mark.parametrize("arguments", [US6, f"-m {US6}", f"-s fd00:77::1 {US6}", "fd00:77::9"])
def test_neighbor_solicitations(hosts, arguments):
    texts = hosts.ask("ndisc6", "-r", "1", "-w", "700", *arguments.split(), "tap0")
    ours, linux = (re.sub(r"(address: )\S+", r"\1", text) for text in texts)
    assert ours == linux
    assert ("Target link-layer address" in ours) == arguments.endswith(US6)
