"""The selector of a loop that serves stacks: `select` sends, sleeps for as long as loop and stacks allow, and polls.

Read first: driver.py, deliveries.py.  To asyncio it is the selector of the loop's other descriptors: kernel sockets,
pipes, what `add_reader` was given.
"""

import select
import selectors
from collections.abc import Callable, Collection
from typing import Any

from swos_net.asyncio.driver import LoopDriver
from swos_net.dataplane.prompt import Prompt, Sleeper
from swos_net.device.base import PromptDevice

PAUSE = 0.005  # seconds between an answer that needed nobody and what is left to do about it


class StackSelector(selectors.DefaultSelector):
    """`select` is asyncio's only place to sleep, so that is where stacks are served."""

    def __init__(self, time: Callable[[], float], has_work: Callable[[], bool], polled: Callable[[], None]):
        """`has_work` says whether the loop may not sleep; `polled` is called when the stacks may have had something to tell."""
        super().__init__()
        self.drivers: list[LoopDriver] = []
        self.asleep = False
        self.turns = 0
        self._asleep_until: float | None = None
        self._time = time
        self._has_work = has_work
        self._polled = polled
        self._devices: dict[int, tuple[LoopDriver, Any]] = {}
        self._waiting_for_room: set[int] = set()  # devices that took no more
        self._prompting: dict[LoopDriver, list[Prompt]] = {}
        self._prompters: list[LoopDriver] = []  # those of the sleeper's prompts, in their order
        self._sleeper = Sleeper(())

    def _wait(self, timeout: float | None, first: LoopDriver | None, limit: float | None) -> tuple[list[LoopDriver], list]:
        """Sleeps; what `_sorted_out` gives.  A device that can answer something without us does it before anything else.

        Who asked is then left in peace for a moment: he may wait for this very processor.  `timeout` is the `first`
        driver's, which may find that there is time until `limit`.
        """
        try:
            decides = None
            for driver, prompts in self._prompting.items():
                driver.begin_answering(prompts)
                if driver is first:
                    decides = next((prompt for prompt in prompts if prompt.knows_deadline), None)
            if decides is not None:
                self._asleep_until = None
            told, found = self._sleeper.sleep(self.fileno(), timeout, PAUSE, decides, limit)
        finally:
            self.asleep = False  # what they have to tell needs nobody to wake us
            for driver in self._prompting:
                if driver.lock.answering:
                    with driver.lock:
                        pass  # which ends it
        touched, others = [], []
        keys = self.get_map()
        for descriptor, event in found:
            # as asyncio's own selector has it: an error is both
            mask = (event & ~select.EPOLLOUT and selectors.EVENT_READ) | (event & ~select.EPOLLIN and selectors.EVENT_WRITE)
            if descriptor in self._devices:
                touched.append(self._ready(descriptor, mask))
            elif key := keys.get(descriptor):  # a file that was closed too early is told of, too
                others.append((key, mask & key.events))
        if told:
            touched += [driver for index, driver in enumerate(self._prompters) if told >> index & 1]
        return touched, others

    def _ready(self, descriptor: int, mask: int) -> LoopDriver:
        """The driver of a device that has something."""
        driver, port = self._devices[descriptor]
        if mask & selectors.EVENT_WRITE and descriptor in self._waiting_for_room:
            port.blocked = False
        return driver

    def attach(self, driver: LoopDriver) -> None:
        """From now on the driver's devices are waited for."""
        self.drivers.append(driver)
        for port in driver.poller.ports:
            self._devices[port.device.fileno()] = driver, port
            self.register(port.device.fileno(), selectors.EVENT_READ, None)
        self._find_prompts()

    def detach(self, driver: LoopDriver) -> None:
        self.drivers.remove(driver)
        for descriptor, (owner, _) in list(self._devices.items()):
            if owner is driver:
                del self._devices[descriptor]
                self._waiting_for_room.discard(descriptor)
                self.unregister(descriptor)
        self._find_prompts()

    def _find_prompts(self) -> None:
        found = [(driver, port.device.prompt) for driver, port in self._devices.values() if isinstance(port.device, PromptDevice)]
        self._prompting = {driver: [prompt for owner, prompt in found if owner is driver] for driver, _ in found}
        self._prompters = [driver for driver, _ in found]
        self._sleeper = Sleeper(prompt for _, prompt in found)

    def select(self, timeout: float | None = None) -> list:
        drivers = self.drivers
        self._asleep_until = None  # other threads' news count from here on
        self.asleep = True
        self.turns += 1
        try:
            now = self._time()
            due, first, limit = None, None, timeout
            for driver in drivers:
                wanted = driver.flush(now)
                if driver.more and not self._has_work():
                    driver.poll(now)
                    wanted = driver.flush(now)
                if wanted is not None and (due is None or wanted < due):
                    due, first, wanted = wanted, driver, due
                if wanted is not None and (limit is None or wanted - now < limit):
                    limit = wanted - now
            for descriptor, (_, port) in self._devices.items():
                if port.blocked or descriptor in self._waiting_for_room:
                    self._follow_writability(descriptor, port)
            if self._has_work():
                timeout = 0
            elif due is not None:
                left = max(0.0, due - now)
                if timeout is None or left < timeout:
                    timeout = left
                else:
                    first = None
            self._asleep_until = None if timeout is None else now + timeout
            if self._prompting and timeout != 0:
                touched, events = self._wait(timeout, first, limit)
            else:
                touched, events = self._sorted_out(super().select(timeout))
        finally:
            self.asleep = False
        now = self._time()
        for driver in drivers:
            if driver in touched or due is not None and due <= now and driver.due_at(now):
                driver.poll(now)
                if not self._has_work():
                    driver.flush(now)  # answers of the stack itself: no callback has anything to add
        self._polled()
        return events

    def sleeps_beyond(self, due: float) -> bool:
        """For other threads, inside a stack: whether the loop has to be woken for something that is due then."""
        return self.asleep and (self._asleep_until is None or due < self._asleep_until)

    def _sorted_out(self, events: list) -> tuple[Collection[LoopDriver], list]:
        """(the drivers whose devices have something, the loop's own events)."""
        if not events or not self._devices:
            return (), events
        touched, others = [], []
        for event in events:
            key, mask = event
            if key.data is not None:
                others.append(event)
            else:
                touched.append(self._ready(key.fd, mask))
        return touched, others

    def _follow_writability(self, descriptor: int, port: Any) -> None:
        waits = port.blocked and port.device.wants_write
        if waits != (descriptor in self._waiting_for_room):
            (self._waiting_for_room.add if waits else self._waiting_for_room.discard)(descriptor)
            self.modify(descriptor, selectors.EVENT_READ | (selectors.EVENT_WRITE if waits else 0), None)
