"""Our own scripts, a folder for each topic: what goes over the wire, to the segment and the microsecond, as Linux does
it where RFCs leave a choice.  Every one is also run with a change that must make it fail."""

import re
from pathlib import Path

import pytest
from swos_net.testing.packetdrill import run_script

SCRIPTS = Path(__file__).parent / "scripts"
PATHS = sorted(SCRIPTS.rglob("*.pkt"))
ICMP = re.compile(r"^[ +~.\d]*[<>] icmp ", re.MULTILINE)  # says its family itself
SENT = re.compile(r"^(?P<time> *[+~.\d]+ +)> (?P<ends>\S+>\S+ )?(?P<ecn>\[\w+\] )?(?P<flags>[FSRPEW.U]+) ", re.MULTILINE)
RETURNED = re.compile(r"\) = (?P<result>-?\d+)(?P<error> [A-Z]+ \(.*\))?$", re.MULTILINE)


def name_of(path):
    return str(path.relative_to(SCRIPTS).with_suffix(""))


RUNS = [
    pytest.param(path, family, id=f"{name_of(path)}-{family or 'own'}")
    for path in PATHS
    for family in ((None,) if ICMP.search(path.read_text(encoding="utf-8")) else ("ipv4", "ipv6", "ipv4-mapped-ipv6"))
]


@pytest.mark.parametrize("path, family", RUNS)
def test_script(path, family):
    run_script(path, ip_version=family, tolerance_usecs=0).check()


@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_another_segment_is_noticed(path):
    """The last segment that the script waits for, with other flags, or the last result with another value."""
    text = path.read_text(encoding="utf-8")
    sent = list(SENT.finditer(text))
    if sent:
        start, end = sent[-1].span("flags")
        changed = text[:start] + ("PU." if sent[-1]["flags"] != "PU." else "F.") + text[end:]
    else:
        start, end = list(RETURNED.finditer(text))[-1].span("result")
        changed = text[:start] + "77" + text[end:]
    assert changed != text
    result = run_script(changed)
    assert result.status == "failed", result.report()


@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_another_time_is_noticed(path):
    """The last segment that the script waits for, half a second earlier or later."""
    text = path.read_text(encoding="utf-8")
    sent = list(SENT.finditer(text))
    if not sent:
        pytest.skip("the script waits for no segment")
    start, end = sent[-1].span("time")
    time = sent[-1]["time"].strip()
    changed = f"{text[:start]}{'+3.7' if '~' in time else f'+{float(time) + 3.7:.3f}'} {text[end:]}"
    result = run_script(changed)
    assert result.status == "failed", result.report()


def test_every_topic_has_its_scripts():
    topics = {path.parent.name: 0 for path in PATHS}
    for path in PATHS:
        topics[path.parent.name] += 1
    assert len(topics) >= 20 and min(topics.values()) >= 5, topics


def test_every_script_says_what_it_is_about():
    assert [name_of(path) for path in PATHS if not path.read_text(encoding="utf-8").startswith("// ")] == []
