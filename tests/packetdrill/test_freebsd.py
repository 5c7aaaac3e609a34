"""FreeBSD's tcp-testsuite, where it is at hand: windows, options and times as the scripts say them.

The scripts are another project's and no part of this one: SWOS_CONFORMANCE names the folder that holds them as
`freebsd-tcp-testsuite`.  Where a script knows two behaviours, the standard's and FreeBSD's, the branch "FreeBSD" is run:
that is what `TcpConfig.dialect` is for.  `freebsd_exceptions.txt` says which scripts do not pass, where and why; one of
those that passes, or fails elsewhere, is an error here, too.
"""

import os
import re
from pathlib import Path

import pytest
from swos_net.testing.packetdrill import FREEBSD, run_script

ROOT = Path(__file__).parent.parent.parent
SUITE = Path(os.environ.get("SWOS_CONFORMANCE", ROOT.parent / "shared" / "conformance")) / "freebsd-tcp-testsuite"
SCRIPTS = sorted(SUITE.rglob("*.pkt")) if SUITE.is_dir() else []
EXCEPTION = re.compile(r"(?P<name>[\w-]+\.pkt):(?P<line>\d+): (?P<section>RFC \d+ [\d.]+|unsupported): .+")
MISSING = f"no scripts at {SUITE}: set SWOS_CONFORMANCE to the folder that holds freebsd-tcp-testsuite"


def read_exceptions():
    """Script to (line, status); empty lines and # lines say nothing."""
    exceptions = {}
    for text in Path(__file__).with_name("freebsd_exceptions.txt").read_text(encoding="utf-8").splitlines():
        if text and not text.startswith("#"):
            match = EXCEPTION.fullmatch(text)
            assert match, f"not 'script:line: RFC section: reason': {text}"
            assert match["name"] not in exceptions, f"{match['name']} is there twice"
            status = "unsupported" if match["section"] == "unsupported" else "failed"
            exceptions[match["name"]] = int(match["line"]), status
    return exceptions


EXCEPTIONS = read_exceptions()
at_hand = pytest.mark.skipif(not SCRIPTS, reason=MISSING)


@at_hand
def test_exceptions_are_few_and_true():
    assert EXCEPTIONS.keys() <= {path.name for path in SCRIPTS}
    assert len(EXCEPTIONS) <= 0.05 * len(SCRIPTS)


@at_hand
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path):
    result = run_script(path, profile=FREEBSD)
    if path.name in EXCEPTIONS:
        assert (result.line, result.status) == EXCEPTIONS[path.name], f"not as freebsd_exceptions.txt says: {result.report()}"
    else:
        result.check()
