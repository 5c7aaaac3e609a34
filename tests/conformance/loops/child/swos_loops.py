"""What a child process of the loop suites stands on: one stack, its capability active everywhere, no kernel network.

A pytest plugin as well: it leaves out what $SWOS_LOOPS_OMIT (patterns) says, keeps only $SWOS_LOOPS_ONLY (names) when
there is such a thing, both JSON, and writes outcomes as lines of JSON to the descriptor $SWOS_LOOPS_RESULTS.
"""

import asyncio
import faulthandler
import fnmatch
import json
import os
import socket
import sys
from pathlib import Path

from swos_net.address import parse_address
from swos_net.asyncio import LoopDriver, SwosEventLoop
from swos_net.device.pair import make_pair
from swos_net.runtime.poll import Poller
from swos_net.socket.ambient import inherit_in_threads
from swos_net.stack.stack import Stack

made = 0  # loops
kernel_sockets = []
TEXT_MAX = 4000


def _refuse_kernel_sockets(event, arguments):
    # an audit hook cannot be taken away again
    if event == "socket.__new__" and arguments[1] in (socket.AF_INET, socket.AF_INET6):
        kernel_sockets.append(str(arguments[1:]))
        raise AssertionError("a kernel Internet socket")


class Loop(SwosEventLoop):
    """Suites tell asyncio's own loop by its module, and then expect what it does."""

    __module__ = "asyncio.swos_loops"

    def __init__(self):
        global made
        made += 1
        super().__init__(stack.root)


def factory():
    return Loop()


def _machine():
    """(name, MAC address) of an interface of the machine: some tests look up its link-local address in the kernel."""
    for line in Path("/proc/net/if_inet6").read_text().split("\n"):
        address, name = line.partition(" ")[0], line.split(" ")[-1]
        if address.startswith("fe80") and address[22:26] == "fffe":
            packed = bytes.fromhex(address)
            return name, bytes([packed[8] ^ 2]) + packed[9:11] + packed[13:16]
    return "eth0", b"\x02\x00\x00\x00\x00\x01"


def _host():
    """A stack that looks like this machine, on a wire that nobody else is at."""
    name, mac = _machine()
    poller = Poller(Stack(name="localhost"))
    device, _far = make_pair(addresses=(mac, b"\x02\x00\x00\x00\x00\xff"))
    with LoopDriver(poller).entered() as now:
        interface = poller.attach(device, now, name)
        poller.stack.add_address(interface, parse_address("192.0.2.1"), 24, now)
        poller.stack.add_address(interface, parse_address("2001:db8::1"), 64, now)
    # anyio looks up a name that differs in the two versions of IDNA
    poller.stack.names.hosts.add("192.0.2.10", "xn--fa-hia.de")
    poller.stack.names.hosts.add("192.0.2.11", "fass.de")
    return poller.stack


faulthandler.enable()
stack = _host()
active = stack.root.activate()
active.__enter__()
inherit_in_threads()
sys.addaudithook(_refuse_kernel_sockets)
asyncio.new_event_loop = factory

import uvloop  # noqa: E402, F401  # the stand-in, before a suite's folder can come first


class _Outcomes:
    def __init__(self, descriptor):
        self._file = open(descriptor, "w")

    def _write(self, **line):
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            outcome = "skipped" if hasattr(report, "wasxfail") else report.outcome
            self._write(test=report.nodeid, outcome=outcome, text=report.longreprtext[-TEXT_MAX:] if outcome == "failed" else "")

    def pytest_sessionfinish(self):
        self._write(loops=made, kernel_sockets=kernel_sockets)
        self._file.close()


def pytest_configure(config):
    descriptor = os.environ.get("SWOS_LOOPS_RESULTS")
    if descriptor:
        config.pluginmanager.register(_Outcomes(int(descriptor)))


def pytest_collection_modifyitems(config, items):
    omit = json.loads(os.environ.get("SWOS_LOOPS_OMIT", "[]"))
    only = json.loads(os.environ.get("SWOS_LOOPS_ONLY", "null"))
    kept = [item for item in items if not any(fnmatch.fnmatchcase(item.nodeid, pattern) for pattern in omit)
            and (only is None or item.nodeid in only)]  # fmt: skip
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
