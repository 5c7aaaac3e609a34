"""For every test: the kernel's own Internet sockets are not used, so that a test that passes passed on ours."""

import socket
import sys

import pytest
from hypothesis import settings

# The machines that run this are shared: an example may take long without being wrong.  Every run tries the same ones.
settings.register_profile("unhurried", deadline=None, derandomize=True)
settings.load_profile("unhurried")


class _SocketGuard:
    """An audit hook (it can't be taken away again) that is armed while a test without the marker runs."""

    def __init__(self):
        self.armed = False

    def __call__(self, event, arguments):
        if event == "socket.__new__" and self.armed and arguments[1] in (socket.AF_INET, socket.AF_INET6):
            raise AssertionError("a kernel Internet socket in a test that is not marked kernel_sockets")


def pytest_configure(config):
    config.socket_guard = _SocketGuard()
    sys.addaudithook(config.socket_guard)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    guard = item.config.socket_guard
    guard.armed = item.get_closest_marker("kernel_sockets") is None
    try:
        return (yield)
    finally:
        guard.armed = False
