"""What came out: medians over rounds and turns, ratios to each peer, goals, and the rows for other programs.

The format of the rows is in benchmarks/README.md.
"""

import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from cases import BOTH, HIGHER, HOST_CPU, LOWER, PING_P50, TCP, TO_GUEST, TO_STACK, Metric, Values

OURS = "ours"
TAP_TCP = {direction: Metric("tap-tcp", direction, "Mbit/s", HIGHER) for direction in (TO_STACK, TO_GUEST)}
TAP_CPU = {direction: Metric("tap-host-cpu", direction, "s/GB", LOWER) for direction in (TO_STACK, TO_GUEST)}
TAP_RR = Metric("tap-tcp-rr", "both", "1/s", HIGHER)
# one flow over a simulated link, see linux_goodput.py; CAPACITY is what the link could carry
GOODPUT_LOSS = Metric("goodput-loss", "both", "Mbit/s", HIGHER)
GOODPUT_FAR = Metric("goodput-far", "both", "Mbit/s", HIGHER)
CAPACITY = "the-link"
# web servers in Python, see http_requests.py
LINUX = "linux"
HTTP_CONNECTIONS = (1, 16, 64)


def http_rate(server: str, connections: int) -> Metric:
    return Metric(f"http-{server}-{connections}", BOTH, "1/s", HIGHER)


def http_cpu(server: str, connections: int) -> Metric:
    return Metric(f"http-{server}-{connections}-cpu", BOTH, "s/1000", LOWER)


# (metric, peer): what ours / theirs is to be, at least where higher is better and at most where lower is.
GOALS: dict[tuple[Metric, str], float] = {
    (TCP[TO_STACK], "libslirp"): 10.0,
    (TCP[TO_STACK], "passt-vu-1500"): 3.5,
    (TCP[TO_STACK], "passt-vu-65520"): 1.5,
    (TCP[TO_GUEST], "libslirp"): 3.0,
    (TCP[TO_GUEST], "passt-vu-1500"): 1.5,
    (TCP[TO_GUEST], "passt-vu-65520"): 0.8,
    **{(HOST_CPU[direction], peer): 1.0 for direction in (TO_STACK, TO_GUEST)
       for peer in ("passt-stream", "passt-vu-1500", "passt-vu-65520")},
    (PING_P50, "libslirp"): 1.0,
    (TAP_TCP[TO_STACK], "pmd-pytcp"): 50.0,
    (TAP_TCP[TO_GUEST], "pmd-pytcp"): 50.0,
    (TAP_RR, "pmd-pytcp"): 10.0,
    (GOODPUT_LOSS, "linux-cubic"): 0.9,
    (GOODPUT_FAR, CAPACITY): 0.9,
    **{(http_rate(server, count), LINUX): 0.7 for server in ("aiohttp", "uvicorn") for count in HTTP_CONNECTIONS},
}


class Results:
    """The values of every turn of every round, by peer and metric."""

    def __init__(self):
        self._samples: dict[str, dict[Metric, list[float]]] = {}

    def add(self, name: str, values: Values) -> None:
        """Values of `name`, a peer or OURS, from one turn."""
        mine = self._samples.setdefault(name, {})
        for metric, value in values.items():
            mine.setdefault(metric, []).append(value)

    def include(self, other: "Results") -> None:
        """All values of `other` as well."""
        for name, theirs in other._samples.items():
            mine = self._samples.setdefault(name, {})
            for metric, values in theirs.items():
                mine.setdefault(metric, []).extend(values)

    def medians(self, name: str) -> Values:
        return {metric: statistics.median(values) for metric, values in self._samples.get(name, {}).items()}

    def median(self, name: str, metric: Metric) -> float | None:
        samples = self._samples.get(name, {}).get(metric)
        return statistics.median(samples) if samples else None

    def peers(self) -> list[str]:
        return [name for name in self._samples if name != OURS]

    def metrics(self) -> list[Metric]:
        return list(dict.fromkeys(metric for mine in self._samples.values() for metric in mine))

    def ratio(self, metric: Metric, peer: str) -> float | None:
        """ours / theirs, of the medians."""
        ours, theirs = self.median(OURS, metric), self.median(peer, metric)
        return ours / theirs if ours is not None and theirs else None

    def rows(self) -> Iterator[dict]:
        """One row per metric and peer that both sides have."""
        for metric in self.metrics():
            for peer in self.peers():
                ratio = self.ratio(metric, peer)
                if ratio is not None:
                    yield {"case": metric.case, "direction": metric.direction, "unit": metric.unit,
                           "better": metric.better, "ours": _rounded(self.median(OURS, metric)), "peer": peer,
                           "theirs": _rounded(self.median(peer, metric)), "ratio": _rounded(ratio)}

    def write(self, folder: Path) -> Path:
        """The rows as JSON in a file of their own."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{time.strftime('%Y-%m-%dT%H%M%S')}-{os.uname().machine}-{os.cpu_count()}cpu.json"
        path.write_text("[\n" + ",\n".join(json.dumps(row) for row in self.rows()) + "\n]\n")
        return path

    @staticmethod
    def line(values: Values) -> str:
        """Values of one peer."""
        return ", ".join(f"{metric.case}{_arrow(metric)} {_shown(value)} {metric.unit}"
                         for metric, value in values.items())

    def table(self) -> str:
        """Medians with the ratio ours / theirs in brackets, then each goal with whether it was reached."""
        names = ([OURS] if OURS in self._samples else []) + self.peers()
        lines = [["median of all turns", *names]]
        for metric in self.metrics():
            cells = [f"{metric.case}{_arrow(metric)}, {metric.unit}"]
            for name in names:
                value, ratio = self.median(name, metric), self.ratio(metric, name)
                cell = "-" if value is None else _shown(value)
                cells.append(cell if name == OURS or ratio is None else f"{cell} ({_shown(ratio)}x)")
            lines.append(cells)
        widths = [max(len(line[column]) for line in lines) for column in range(len(names) + 1)]
        text = "\n".join("  ".join(cell.rjust(width) if column else cell.ljust(width)
                                   for column, (cell, width) in enumerate(zip(line, widths, strict=True)))
                         for line in lines)
        goals = "\n".join(self.goals())
        return f"{text}\n(in brackets: ours / theirs)\n" + (f"\n{goals}\n" if goals else "")

    def goals(self) -> Iterator[str]:
        """A line per goal whose two sides were measured."""
        for (metric, peer), goal in GOALS.items():
            ratio = self.ratio(metric, peer)
            if ratio is None:
                continue
            reached = ratio >= goal if metric.better == HIGHER else ratio <= goal
            sign = ">=" if metric.better == HIGHER else "<="
            yield (f"{'PASS' if reached else 'MISS'}  {metric.case}{_arrow(metric)} against {peer}: {_shown(ratio)}x, "
                   f"goal {sign} {goal:g}x")


def _arrow(metric: Metric) -> str:
    return {TO_STACK: " guest to stack", TO_GUEST: " stack to guest"}.get(metric.direction, "")


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
