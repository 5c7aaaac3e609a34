"""The thread that serves a stack: it wakes up when it has to, sends what callers queue, and tells when it ends."""

import errno
import logging
import os
import threading
import time

import pytest

from swos_net.address import parse_address
from swos_net.config import StackConfig, TcpConfig
from swos_net.device.packets import PacketDevice
from swos_net.device.pair import make_pair
from swos_net.link import LinkFeatures, Medium, Offload
from swos_net.runtime.open_stack import open_stack
from swos_net.runtime.threaded import ThreadedRunner


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
        condition = runner.new_condition()
        with condition, caplog.at_level(logging.CRITICAL):
            device.broken = True
            runner.wake()
            assert condition.wait(2)
        assert endpoint.connection.tcb.error == errno.ENETDOWN
        with pytest.raises(OSError) as caught:
            with runner.entered():
                pass
        assert caught.value.errno == errno.ENETDOWN
