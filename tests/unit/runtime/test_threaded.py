"""The thread that serves a stack: it wakes up when it has to, sends what callers queue, and tells when it ends."""

import errno
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from swos_net.address import parse_address
from swos_net.config import StackConfig, TcpConfig
from swos_net.device.packets import PacketDevice
from swos_net.device.pair import make_pair
from swos_net.link import LinkFeatures, Medium, Offload
from swos_net.runtime.driver import drivers
from swos_net.runtime.open_stack import open_stack
from swos_net.runtime.poll import Poller
from swos_net.runtime.threaded import ThreadedRunner
from swos_net.socket.core import SocketCore
from swos_net.stack.stack import Stack


class Stubborn:
    """A device over a descriptor that is always writable but takes nothing the first times."""

    wants_write = True
    link_up = True

    def __init__(self, refusals):
        self.link = LinkFeatures(Medium.IP, 1500, None, Offload.NONE, 1500)
        self.refusals = refusals
        self.sent = threading.Event()
        self._reading, self._writing = os.pipe()

    def fileno(self):
        return self._writing

    def receive(self, burst):
        return 0

    def release(self, burst):
        pass

    def transmit(self, batch):
        if self.refusals:
            self.refusals -= 1
            return False
        self.sent.set()
        return True

    def counters(self):
        return {}

    def close(self):
        for descriptor in (self._reading, self._writing):
            os.close(descriptor)


def send(runner, payload=b"x"):
    with runner.entered() as now:
        endpoint = runner.stack.udp_open(runner.stack.root, bytes(16), dual_stack=True)
        endpoint.send_to(payload, parse_address("10.0.0.2"), 53, now)


def test_what_a_caller_queues_goes_out_before_it_leaves():
    device = PacketDevice()
    with ThreadedRunner(open_stack(device, addresses=["10.0.0.1/24"])) as runner:
        device.take()
        send(runner, b"hello")
        (packet,) = device.take()
        assert packet.endswith(b"hello")


def test_what_a_caller_queues_goes_out_when_it_leaves_by_an_exception():
    device = PacketDevice()
    with ThreadedRunner(open_stack(device, addresses=["10.0.0.1/24"])) as runner:
        device.take()
        with pytest.raises(ZeroDivisionError):
            with runner.entered() as now:
                endpoint = runner.stack.udp_open(runner.stack.root, bytes(16), dual_stack=True)
                endpoint.send_to(b"before", parse_address("10.0.0.2"), 53, now)
                raise ZeroDivisionError
        (packet,) = device.take()
        assert packet.endswith(b"before")


def test_before_the_thread_runs_calls_are_possible():
    runner = ThreadedRunner(open_stack(PacketDevice(), addresses=["10.0.0.1/24"]))
    send(runner)
    runner.start()
    runner.stop()


def test_a_full_device_is_tried_again_when_it_becomes_writable():
    device = Stubborn(refusals=2)
    with ThreadedRunner(open_stack(device, addresses=["10.0.0.1/24"])) as runner:
        time.sleep(0.02)  # the thread sleeps
        send(runner)
        assert device.sent.wait(2), "nobody waits for the descriptor to become writable"


def test_a_deadline_that_a_caller_sets_is_kept():
    device = PacketDevice()
    config = StackConfig(tcp=TcpConfig(rto_initial=0.1))
    with ThreadedRunner(open_stack(device, addresses=["10.0.0.1/24"], config=config)) as runner:
        time.sleep(0.02)
        with runner.entered() as now:
            runner.stack.tcp_connect(runner.stack.root, parse_address("10.0.0.2"), 80, now)
        assert len(device.take()) == 1
        end = time.monotonic() + 3
        while not (again := device.take()) and time.monotonic() < end:
            time.sleep(0.02)
        assert again, "the SYN was not sent again"


def test_stopping_closes_the_devices_and_is_idempotent():
    one, other = make_pair()
    runner = ThreadedRunner(open_stack(one, addresses=["10.0.0.1/24"]))
    runner.start()
    assert runner.serving
    runner.stop()
    runner.stop()
    assert not runner.serving and not other.link_up
    with pytest.raises(OSError) as caught:
        with runner.entered():
            pass
    assert caught.value.errno == errno.ENETDOWN
    other.close()


def test_a_device_that_fails_ends_every_connection(caplog):
    class Failing(Stubborn):
        broken = False

        def receive(self, burst):
            if self.broken:
                raise OSError(errno.ENODEV, "gone")
            return 0

    device = Failing(0)
    with ThreadedRunner(open_stack(device, addresses=["10.0.0.1/24"])) as runner:
        with runner.entered() as now:
            endpoint = runner.stack.tcp_connect(runner.stack.root, parse_address("10.0.0.2"), 80, now)
        with runner.entered():
            core = SocketCore(runner.stack, runner.stack.root, socket.AF_INET, socket.SOCK_DGRAM)
        with caplog.at_level(logging.CRITICAL):
            threading.Timer(0.05, lambda: (setattr(device, "broken", True), runner.wake())).start()
            runner.wait(core, select.POLLIN, time.monotonic() + 5)  # who waits is woken, and learns why when he tries again
        assert endpoint.connection.tcb.error == errno.ENETDOWN
        with pytest.raises(OSError) as caught:
            with runner.entered():
                pass
        assert caught.value.errno == errno.ENETDOWN


def test_a_device_that_fails_under_a_caller(caplog):
    """The call does what it can, as one whose packets are lost; those that follow learn why."""

    class Failing(Stubborn):
        def transmit(self, batch):
            raise OSError(errno.ENODEV, "gone")

    with ThreadedRunner(open_stack(Failing(0), addresses=["10.0.0.1/24"])) as runner:
        with caplog.at_level(logging.CRITICAL):
            with runner.entered() as now:
                endpoint = runner.stack.tcp_connect(runner.stack.root, parse_address("10.0.0.2"), 80, now)
            assert endpoint.connection.tcb.error == errno.ENETDOWN
            with pytest.raises(OSError) as caught:
                send(runner)
        assert caught.value.errno == errno.ENETDOWN
        runner._thread.join(5)
        assert not runner._thread.is_alive()


class TestWaiting:
    @pytest.fixture
    def runner(self):
        with ThreadedRunner(Poller(Stack())) as runner:
            yield runner

    @staticmethod
    def datagram(runner, port=0):
        with runner.entered() as now:
            core = SocketCore(runner.stack, runner.stack.root, socket.AF_INET, socket.SOCK_DGRAM)
            core.bind(("127.0.0.1", port), now)
        return core

    def test_what_is_ready_is_not_waited_for(self, runner):
        runner.wait(self.datagram(runner), select.POLLOUT, 0.0)

    def test_until_the_time_is_over(self, runner):
        core = self.datagram(runner)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            runner.wait(core, select.POLLIN, started + 0.05)
        assert 0.05 <= time.monotonic() - started < 2
        assert not core._watchers, "nobody is told any more"

    def test_threads_that_wait_for_the_same_socket_all_wake_up(self, runner):
        core, other = self.datagram(runner), self.datagram(runner)
        deadline = time.monotonic() + 5
        threads = [threading.Thread(target=runner.wait, args=(core, select.POLLIN, deadline), daemon=True) for _ in range(5)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        with runner.entered() as now:
            other.send_to(b"x", 0, core.getsockname(), now)
        for thread in threads:
            thread.join(5)
        assert time.monotonic() < deadline and not any(thread.is_alive() for thread in threads)

    def test_nobody_waits_for_a_socket_that_is_closed(self, runner):
        core = self.datagram(runner)
        thread = threading.Thread(target=runner.wait, args=(core, select.POLLIN, None), daemon=True)
        thread.start()
        time.sleep(0.02)
        with runner.entered() as now:
            core.close(now)
            runner.woken(core)
        thread.join(5)
        assert not thread.is_alive()

    def test_a_signal_handler_may_raise(self, runner):
        def handler(number, frame):
            raise ZeroDivisionError

        core = self.datagram(runner)
        before = signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(ZeroDivisionError):
                runner.wait(core, select.POLLIN, time.monotonic() + 5)
        finally:
            signal.signal(signal.SIGALRM, before)
        with runner.entered():
            assert not core._watchers

    def test_entries_nest_and_send_at_the_outermost_end(self, runner):
        core, other = self.datagram(runner), self.datagram(runner)
        with runner.entered():
            with runner.entered() as now:
                core.send_to(b"x", 0, other.getsockname(), now)
            assert not other.poll() & select.POLLIN
        assert other.poll() & select.POLLIN


def test_what_is_abandoned_is_closed_soon():
    with ThreadedRunner(Poller(Stack())) as runner:
        core = TestWaiting.datagram(runner)
        runner.abandon(core)
        end = time.monotonic() + 5
        while not core.closed and time.monotonic() < end:
            time.sleep(0.01)
        assert core.closed


def test_the_stack_knows_who_serves_it():
    stack = Stack()
    assert stack.driver is None
    runner = ThreadedRunner(Poller(stack))
    assert stack.driver is runner and runner in drivers()
    runner.stop()


def test_a_forked_child_is_told_that_it_has_no_stack():
    """The lock is held by another thread at the moment of the fork, so that an entry in the child would wait for ever."""
    with ThreadedRunner(Poller(Stack())) as runner:
        held, done = threading.Event(), threading.Event()

        def hold():
            with runner.entered():
                held.set()
                done.wait(5)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(5)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            signal.alarm(10)
            try:
                runner.abandon(None)
                with runner.entered():
                    pass
            except OSError as error:
                os.write(writing, str(error).encode())
            runner.stop()
            os._exit(0)
        done.set()
        thread.join(5)
        os.close(writing)
        with open(reading) as text:
            assert "forked" in text.read()
        assert os.waitpid(child, 0)[1] == 0
        assert runner.serving


PROGRAM = """
import atexit, threading, time
from swos_net import socket
from swos_net.runtime.poll import Poller
from swos_net.runtime.threaded import ThreadedRunner
from swos_net.stack.stack import Stack
runner = ThreadedRunner(Poller(Stack()))
runner.start()
with runner.stack.root.activate():
    kept = socket.create_server(("127.0.0.1", 0))
    def accept():
        try:
            kept.accept()
        except OSError as error:
            print(error)
threading.Thread(target=accept, daemon=True).start()
time.sleep(0.05)
print("end")
"""


def test_the_end_of_a_program_that_stops_nothing_is_clean():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], capture_output=True, text=True, timeout=30,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("end")
