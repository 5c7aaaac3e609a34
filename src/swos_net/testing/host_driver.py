"""The driver of a simulated host's stack: who enters it does so at the network's `now`.

Read first: runtime/driver.py, network.py.  Whoever runs the network (`Network.run`, or the loop of aio.py) serves all of
its stacks at once; nothing here moves a frame.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from swos_net.runtime.driver import Driver

if TYPE_CHECKING:
    from swos_net.testing.aio import NetworkLoop
    from swos_net.testing.network import Network


class _Entry:
    """What `entered()` gives: one object for all, without a state of its own."""

    __slots__ = ("_driver",)

    def __init__(self, driver: "HostDriver"):
        self._driver = driver

    def __enter__(self) -> float:
        driver = self._driver
        driver.check_serving()
        driver.lock.acquire()
        return driver.clock.now

    def __exit__(self, *exception: object) -> None:
        driver = self._driver
        driver.lock.release()
        if driver.loop is not None:
            driver.loop.stack_left()


class HostDriver(Driver):
    """Made by its `Host`; `loop` is the one that runs the network, None while none does."""

    def __init__(self, stack: Any, network: "Network", wake: Callable[[], None]):
        """`wake()` has the network look at the host again."""
        super().__init__(stack)
        self.network = network
        self.clock = network.clock
        self.lock = network.lock
        self.loop: NetworkLoop | None = None
        self._wake = wake
        self._entry = _Entry(self)

    def begin(self, loop: "NetworkLoop") -> None:
        self.loop = loop

    def end(self, loop: "NetworkLoop") -> None:
        self.loop = None

    @property
    def has_abandoned(self) -> bool:
        """Whether there are sockets to be closed that nobody refers to any more."""
        return bool(self._abandoned)

    def entered(self) -> _Entry:
        return self._entry

    def wait(self, core: Any, mask: int, deadline: float | None) -> None:
        """Only for jobs of an executor of the loop: RuntimeError in any other thread, where waiting would stop time."""
        if self.loop is None:
            raise RuntimeError("a call that blocks cannot wait in a simulated network, whose time passes in Network.run: "
                               "make the socket non-blocking, or use it in a job of swos_net.testing.aio")  # fmt: skip
        self.loop.wait_in_thread(core, mask, deadline)

    def wake(self) -> None:
        self._wake()
        if self.loop is not None:
            self.loop.stack_left()

    def woken(self, core: Any) -> None:
        if self.loop is not None:
            self.loop.socket_closed(core)
