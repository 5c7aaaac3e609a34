"""What is measured in one guest: each case runs a client inside and gives measurements.

Read peers first.  A case sees a booted guest and the peer that carries it; which peer that is makes no difference.
"""

import json
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from lab.packages import LabError
from lab.qemu import Guest
from peers import STACK, Peer
from processes import cpu_seconds

TO_STACK, TO_GUEST, BOTH = "guest-to-stack", "stack-to-guest", "both"
LOWER, HIGHER = "lower", "higher"
PING_INTERVAL = 0.02
PATIENCE = 60.0  # s beyond a case's own length; emulated guests start programs slowly


@dataclass(frozen=True, slots=True)
class Metric:
    """What a number means; `better` is "higher" or "lower"."""

    case: str
    direction: str
    unit: str
    better: str


TCP = {direction: Metric("tcp", direction, "Mbit/s", HIGHER) for direction in (TO_STACK, TO_GUEST)}
HOST_CPU = {direction: Metric("host-cpu", direction, "s/GB", LOWER) for direction in (TO_STACK, TO_GUEST)}
QEMU_CPU = {direction: Metric("qemu-cpu", direction, "s/GB", LOWER) for direction in (TO_STACK, TO_GUEST)}
PING_P50, PING_P99 = (Metric(f"ping-{rank}", BOTH, "us", LOWER) for rank in ("p50", "p99"))
RR_P50, RR_P99 = (Metric(f"tcp-rr-{rank}", BOTH, "us", LOWER) for rank in ("p50", "p99"))
CONNECTIONS = Metric("tcp-connections", BOTH, "1/s", HIGHER)

# A run is {metric: value}; a metric that could not be measured is left out.
Values = dict[Metric, float]


def run_guest(guest: Guest, command: str, timeout: float) -> str:
    """What a command in the guest printed; LabError when it failed."""
    status, output = guest.run(command, timeout)
    if status:
        raise LabError(f"in the guest, {command.split(' >')[0]!r} ended with status {status}: {output.strip()[-500:]}")
    return output


def bulk(direction: str) -> Callable[[Guest, Peer, float], Values]:
    """iperf3, one connection, whole seconds; the rate is that of the receiver."""

    def run(guest: Guest, peer: Peer, seconds: float) -> Values:
        reverse = " -R" if direction == TO_GUEST else ""
        pids = peer.pids()
        host, qemu = sum(map(cpu_seconds, pids)), cpu_seconds(guest.process.pid)
        # The report is long and the console slow: only the receiver's totals are printed.
        output = run_guest(
            guest,
            f"iperf3 -c {STACK} -p {peer.ports().iperf3} -t {max(1, round(seconds))}{reverse} -J >/tmp/report;"
            " sed -n '/\"sum_received\"/,/}/p;/\"error\"/p' /tmp/report",
            seconds + PATIENCE)
        host, qemu = sum(map(cpu_seconds, pids)) - host, cpu_seconds(guest.process.pid) - qemu
        report = json.loads("{" + output.strip().rstrip(",") + "}") if output.strip() else {}
        received = report.get("sum_received", {})
        if report.get("error") or not received.get("bytes"):
            raise LabError(f"iperf3 moved nothing: {report.get('error', 'no report')}")
        gigabytes = received["bytes"] / 1e9
        return {TCP[direction]: received["bits_per_second"] / 1e6, HOST_CPU[direction]: host / gigabytes,
                QEMU_CPU[direction]: qemu / gigabytes}

    return run


def ping(guest: Guest, peer: Peer, seconds: float) -> Values:
    """ICMP echo, one at a time."""
    count = max(20, round(seconds / PING_INTERVAL))
    _status, output = guest.run(f"ping -c {count} -i {PING_INTERVAL} {STACK}", seconds + PATIENCE)
    times = sorted(float(value) * 1e3 for value in re.findall(r" time=([\d.]+) ms", output))
    if len(times) < count * 0.9:
        raise LabError(f"{len(times)} of {count} pings were answered")
    return {PING_P50: statistics.median(times), PING_P99: percentile(times, 0.99)}


def request_response(guest: Guest, peer: Peer, seconds: float) -> Values:
    """One byte there and back over one connection, again and again."""
    found = netload(run_guest(guest, f"netload rr {STACK} {peer.ports().echo} {seconds:g}", seconds + PATIENCE))
    return {RR_P50: found["p50"], RR_P99: found["p99"]}


def connections(guest: Guest, peer: Peer, seconds: float) -> Values:
    """Connect, one byte there and back, close; one after the other."""
    found = netload(run_guest(guest, f"netload crr {STACK} {peer.ports().echo} {seconds:g}", seconds + PATIENCE))
    return {CONNECTIONS: found["rate"]}


def netload(output: str) -> dict[str, float]:
    """What netload printed, as numbers."""
    return {name: float(value) for name, value in re.findall(r"^(\w+) ([\d.]+)$", output, re.MULTILINE)}


def percentile(ascending: list[float], share: float) -> float:
    return ascending[min(len(ascending) - 1, int(len(ascending) * share))]


CASES: dict[str, Callable[[Guest, Peer, float], Values]] = {
    TO_STACK: bulk(TO_STACK),
    TO_GUEST: bulk(TO_GUEST),
    "ping": ping,
    "rr": request_response,
    "crr": connections,
}
