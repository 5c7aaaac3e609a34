"""The benchmarks: one guest per peer and round, the same clients in each, medians side by side.

    python benchmarks/run.py [--rounds 3] [--turns 3] [--seconds 2] [--peers ours,libslirp] [--cases ping,rr] [--no-tap]

All guests of a round are up at once and take turns with each case, so that a machine that gets slower does so for all.  Read benchmarks/README.md for what
the figures mean, then peers, cases and report.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))

import tap_pytcp  # noqa: E402
from cases import CASES  # noqa: E402
from lab.guest_image import GuestImage, build_guest  # noqa: E402
from lab.packages import LabError  # noqa: E402
from lab.qemu import BENCHMARK_CPUS, Emulator, Guest, find_emulator  # noqa: E402
from peers import GUEST, PEERS, PREFIX, STACK, Ours, Peer  # noqa: E402
from processes import build_netload, say  # noqa: E402
from report import Results  # noqa: E402

ARCHITECTURE = "x86_64"
INSTALLED, BACKPORTS = "installed", "bookworm-backports"
MSIX_FOR_ALL = (8,)  # the QEMU from which vhost-user has MSI-X under emulation, as the peers' devices always have


def build_image(netload: Path) -> GuestImage:
    """The guest: iperf3 and netload, its address set without DHCP so that every peer gets the same."""
    return build_guest(ARCHITECTURE, programs=("iperf3",), dhcp=False, slaac=False,
                       commands=f"ip addr add {GUEST}/{PREFIX} dev eth0", files={"usr/bin/netload": netload})


class Running:
    """A booted guest on its peer, both ended by `with`."""

    def __init__(self, peer: Peer, image: GuestImage, emulator: Emulator):
        self.peer = peer
        self.results = Results()  # of this boot
        with contextlib.ExitStack() as stack:
            stack.enter_context(peer)
            with peer.surroundings():
                self.guest = Guest(image, peer.network(), emulator=emulator, cpu=BENCHMARK_CPUS[ARCHITECTURE])
            stack.enter_context(self.guest)
            self.guest.wait_ready()
            status, text = self.guest.run(f"ip link set eth0 mtu {peer.mtu} && arping -c 1 -w 5 -I eth0 {STACK}")
            if status:
                raise LabError(f"the guest does not reach {STACK}: {text.strip()}")
            self._stack = stack.pop_all()

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *exception) -> None:
        with self._stack:
            if exception == (None, None, None):
                self.guest.power_off()

    def measure(self, case: str, seconds: float) -> None:
        """One turn of a case; LabError when it gave nothing."""
        self.results.add(self.peer.name, CASES[case](self.guest, self.peer, seconds))
        self.peer.check()


def choose_emulator(suite: str) -> Emulator:
    """The QEMU of that Debian suite, or the installed one; without a wish, one that treats every peer alike."""
    if suite:
        return find_emulator(ARCHITECTURE, "" if suite == INSTALLED else suite)
    with contextlib.suppress(LabError):
        installed = find_emulator(ARCHITECTURE)
        if installed.version >= MSIX_FOR_ALL:
            return installed
    try:
        return find_emulator(ARCHITECTURE, BACKPORTS)
    except LabError as error:
        say(f"no QEMU of {BACKPORTS} ({error}): the installed one has slower interrupts for vhost-user than for the others")
        return find_emulator(ARCHITECTURE)


def run_rounds(arguments, folder: Path, results: Results) -> int:
    """`rounds` times a boot of every peer, all of them up at once; how many cases or whole guests of ours failed."""
    netload = build_netload(folder)
    image = build_image(netload)
    emulator = choose_emulator(arguments.qemu)
    say(f"QEMU {'.'.join(map(str, emulator.version))}")
    chosen = []
    for name in arguments.peers:
        reason = PEERS[name].why_not()
        if reason:
            say(f"left out, {PEERS[name].label}: {reason}")
        else:
            chosen.append(PEERS[name])
    failures = 0
    for number in range(1, arguments.rounds + 1):
        with contextlib.ExitStack() as ends:
            running = []
            for kind in chosen:
                own = folder / f"{kind.name}-{number}"
                own.mkdir()
                try:
                    running.append(ends.enter_context(Running(kind(own, netload), image, emulator)))
                except LabError as error:
                    say(f"round {number}, {kind.label}: {error}")
                    failures += kind is Ours
            for case in arguments.cases:
                failures += take_turns(running, case, number, arguments)
            for each in running:
                say(f"round {number}, {each.peer.label}: {Results.line(each.results.medians(each.peer.name))}")
                results.include(each.results)
    return failures


def take_turns(running: list[Running], case: str, number: int, arguments) -> int:
    """Every guest runs the case `turns` times, one after the other and each time in another order; how often ours failed.

    So neighbours in time are compared, on a machine whose speed may change from one second to the next.
    """
    begun = time.monotonic()
    failures = 0
    for turn in range(arguments.turns):
        first = (number + turn) % max(1, len(running))
        for each in running[first:] + running[:first]:
            try:
                each.measure(case, arguments.seconds)
            except LabError as error:
                say(f"round {number}, {each.peer.label}, {case}: {error}")
                failures += each.peer.name == Ours.name
    say(f"round {number}, {case}: {time.monotonic() - begun:.0f} s")
    return failures


def names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """A parser of "a,b" that accepts names of `known`."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return chosen

    return parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="guests per peer (3)")
    parser.add_argument("--turns", type=int, default=3, help="how often each guest runs each case (3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a case each time (2)")
    parser.add_argument("--peers", type=names(PEERS), default=list(PEERS), help=f"of {','.join(PEERS)}")
    parser.add_argument("--cases", type=names(CASES), default=list(CASES), help=f"of {','.join(CASES)}")
    parser.add_argument("--qemu", default="", metavar="SUITE", help=f"QEMU of this Debian suite, or the {INSTALLED!r} one "
                        f"(the installed one from version 8 on, else that of {BACKPORTS})")
    parser.add_argument("--no-tap", dest="tap", action="store_false", help="leave the comparison over TAP out")
    parser.add_argument("--profile", default="", metavar="FILE", help="cProfile of our process, of the last round")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for the rows")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    Ours.profile = os.path.abspath(arguments.profile) if arguments.profile else ""
    results = Results()
    failures = 0
    try:
        with tempfile.TemporaryDirectory(prefix="swos-bench-") as folder:
            failures = run_rounds(arguments, Path(folder), results)
            if arguments.tap:
                reason = tap_pytcp.why_not()
                if reason:
                    say(f"left out, {tap_pytcp.LABEL}: {reason}")
                else:
                    failures += tap_pytcp.run_rounds(Path(folder), results, arguments.rounds, arguments.turns * arguments.seconds, say)
    except LabError as error:
        say(f"benchmarks: {error}")
        failures += 1
    except KeyboardInterrupt:
        return 130
    say()
    say(results.table())
    say(f"rows: {results.write(arguments.results)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
