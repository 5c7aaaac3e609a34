"""The command: python -m swos_net.testing.packetdrill [--profile freebsd] [--ip_version=ipv6] FILE|DIRECTORY ..."""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from swos_net.testing.packetdrill.profiles import PROFILES
from swos_net.testing.packetdrill.run_options import IP_VERSIONS
from swos_net.testing.packetdrill.runner import run_script


def main(arguments: list[str] | None = None) -> int:
    """Runs scripts and prints a line for each; 0 when none failed, 1 when one did, 2 when there were none."""
    parser = argparse.ArgumentParser(
        prog="python -m swos_net.testing.packetdrill",
        description="Runs packetdrill scripts against the stack, in virtual time.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE|DIRECTORY")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="linux", help="what the scripts take for granted")
    parser.add_argument("--ip_version", choices=IP_VERSIONS, help="against the scripts' own")
    parser.add_argument("--tolerance_usecs", type=int, help="how far a time may be off; 0: exact to the microsecond")
    parser.add_argument("--define", action="append", default=[], metavar="NAME", help="a name for which #ifdef holds")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="as at the head of a script")
    parser.add_argument("-v", "--verbose", action="store_true", help="show every packet and call")
    parser.add_argument("-q", "--quiet", action="store_true", help="show failures and the sum only")
    chosen = parser.parse_args(arguments)
    counts: Counter[str] = Counter()
    began = time.perf_counter()
    missing = [path for path in chosen.paths if not path.exists()]
    if missing:
        print(f"there is no {', '.join(map(str, missing))}", file=sys.stderr)
        return 2
    for path in find_scripts(chosen.paths):
        result = run_script(
            path, profile=chosen.profile, options=chosen.option, defined=chosen.define, ip_version=chosen.ip_version,
            tolerance_usecs=chosen.tolerance_usecs,
        )  # fmt: skip
        counts[result.status] += 1
        if chosen.verbose:
            print("\n".join(result.trace))
        if not chosen.quiet or result.status in ("failed", "invalid"):
            print(result.report())
    if not counts:
        print("no scripts found", file=sys.stderr)
        return 2
    summary = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    print(f"{summary} in {time.perf_counter() - began:.1f} s")
    return 1 if counts["failed"] or counts["invalid"] else 0


def find_scripts(paths: list[Path]) -> list[Path]:
    """The files themselves, and every *.pkt below directories, in order."""
    found: list[Path] = []
    for path in paths:
        found += sorted(path.rglob("*.pkt")) if path.is_dir() else [path]
    return found


if __name__ == "__main__":
    sys.exit(main())
