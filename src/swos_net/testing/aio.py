"""asyncio programs, unchanged, on the hosts of a simulated network, in its time.

    network = Network(seed=1)
    client = network.add_host("client", addresses=["10.0.0.1/24"])
    server = network.add_host("server", addresses=["10.0.0.2/24"])
    network.link(client, server, delay=0.1, loss=0.05)
    answer = aio.run(ask("server"), on=client, beside={server: serve()})

Read first: network.py, asyncio/loop.py.  All programs run in one loop, whose `time()` is the network's.  They take no
time: when all of them wait, the clock jumps to the next timer or frame, whichever is earlier.  So `asyncio.sleep(3600)`
costs microseconds, and the same seed gives the same run, to the last frame.  Which host a socket belongs to follows the
capability that is active where it is made; tasks inherit it.

What is real:
- jobs of an executor (`asyncio.to_thread`): time stands still until they are done.  In them sockets may block, in the
  network's time.  What jobs and programs do at the same instant may happen in either order.
- `call_soon_threadsafe`, at whatever time it is.  Other threads are not waited for: wait for them in a job.
- `time.time()`, `time.sleep()`, and randomness that nobody seeded, such as TLS's.
There are no pipes, subprocesses or other descriptors of the kernel, except those of a stack's sockets.
"""

import asyncio
import math
import selectors
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from swos_net.asyncio.entry import run_with
from swos_net.asyncio.loop import SwosEventLoop
from swos_net.asyncio.selector import StackSelector
from swos_net.capability import Capability, active_capability
from swos_net.socket.readiness import mirror_at
from swos_net.testing.host import Host
from swos_net.testing.host_driver import HostDriver
from swos_net.testing.jobs import Job, Jobs
from swos_net.testing.network import Network

T = TypeVar("T")

LIMIT = 7 * 86400.0  # seconds
TASKS_SHOWN = 20
TURNS_PER_INSTANT = 100_000
ASYNCIO = str(Path(asyncio.__file__).parent)
HERE = str(Path(__file__))


class Stalled(RuntimeError):
    """The programs would never end: the text says since when, and where each task waits."""


def run(main: Coroutine[Any, Any, T], on: Host, *, beside: Mapping[Host, Coroutine] | None = None, limit: float = LIMIT,
        debug: bool | None = None) -> T:  # fmt: skip
    """As asyncio.run: runs `main` on the host `on` to its end and returns what it gives; then every task is cancelled.

    `beside` are programs on other hosts, begun before it; one that fails ends the run with its exception.  Stalled when
    nothing would ever happen again, or when `limit` seconds have passed.  The network goes on from where it was, and may
    be run again, by this or by `Network.run`.
    """
    programs = [main, *(beside or {}).values()]
    for program in programs:
        if not asyncio.iscoroutine(program):
            raise ValueError(f"a coroutine was expected, got {program!r}")
    return run_with(lambda: NetworkLoop(on.network, on.capability, limit=limit), _together(main, on, beside or {}), debug=debug)


def create_task(program: Coroutine[Any, Any, T], on: Host, *, name: str | None = None) -> "asyncio.Task[T]":
    """As asyncio.create_task: from inside `run`, a task on a host."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, NetworkLoop) or loop.network is not on.network:
        raise RuntimeError(f"{on} is a host of another network than the running loop's")
    with on.capability.activate():
        return loop.create_task(program, name=name)


async def _together(main: Coroutine, on: Host, beside: Mapping[Host, Coroutine]) -> Any:
    others = [create_task(program, host) for host, program in beside.items()]
    program = create_task(main, on)
    try:
        waited = {program, *others}
        while not program.done():
            done, waited = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            for task in others:
                if task in done and not task.cancelled():
                    task.result()
        return program.result()
    finally:
        await _cancelled([program, *others])


async def _cancelled(tasks: list[asyncio.Task]) -> None:
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)
    for task in pending:
        if not task.cancelled():
            task.result()  # it failed on its way out


class NetworkLoop(SwosEventLoop):
    """The loop of all hosts of a network: for `asyncio.Runner(loop_factory=lambda: NetworkLoop(network))` and the like.

    `capability` says whose sockets those are that are made where no capability is active; without one they are refused.
    """

    turns_per_instant = TURNS_PER_INSTANT  # more without time passing: a task never waits

    def __init__(self, network: Network, capability: Capability | None = None, *, limit: float = LIMIT):
        """`limit`: how many seconds each run may take."""
        self.network = network
        self.limit = limit
        self._jobs = Jobs(network.lock, self)
        self._thread = 0
        self._numbers = count(1)
        super().__init__(capability)
        self._selector.begin()
        self.set_task_factory(NetworkTask)

    def _make_selector(self) -> StackSelector:
        return NetworkSelector(self, self.network, self._jobs)

    def time(self) -> float:
        """The network's `now`."""
        return self.network.clock.now

    def serve(self, stack: Any) -> HostDriver:
        """RuntimeError unless it is the stack of one of the network's hosts."""
        driver = stack.driver
        if driver not in self._selector.drivers:
            if not isinstance(driver, HostDriver) or driver.network is not self.network:
                raise RuntimeError(f"{stack.name} is no host of this network, whose time passes as it likes")
            driver.check_serving()
            self._selector.attach(driver)
            if self.is_running():
                driver.begin(self)
        return driver

    def run_forever(self) -> None:
        for host in self.network.hosts:
            self.serve(host.stack)
            self.network.wake(host)  # it may have been changed in ways that nobody saw
        self._thread = threading.get_ident()
        self._selector.give_up = self.time() + self.limit
        super().run_forever()

    def next_timer(self) -> float | None:
        """When the next callback of `call_at` is due."""
        return self._scheduled[0].when() if self._scheduled else None

    def new_number(self) -> int:
        """One more than the one before."""
        return next(self._numbers)

    # Threads

    def run_in_executor(self, executor: Any, function: Callable[..., T], *arguments: Any) -> "asyncio.Future[T]":
        """Time stands still until the job is done, except while its thread waits for a socket of a host."""
        job = Job(function)
        # what goes to another process has to be picklable, and cannot use our sockets
        called = function if isinstance(executor, ProcessPoolExecutor) else self._jobs.in_thread(job)
        self._jobs.add(job)
        try:
            future = super().run_in_executor(executor, called, *arguments)
        except BaseException:
            self._jobs.returned(job, False)
            raise
        future.add_done_callback(lambda future: self._jobs.returned(job, future.cancelled()))
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """A thread that waits for what will never come is interrupted: ECANCELED.  No `timeout` is needed."""
        self._jobs.ending = True
        try:
            await super().shutdown_default_executor()
        finally:
            self._jobs.ending = False

    def close(self) -> None:
        if not self.is_running():
            self._jobs.interrupt()
        super().close()

    def stack_left(self) -> None:
        """Somebody has been inside a stack; for any thread."""
        if self._selector.asleep and threading.get_ident() != self._thread:
            self._write_to_self()

    def wait_in_thread(self, core: Any, mask: int, deadline: float | None) -> None:
        """As `Driver.wait`, for the threads of jobs."""
        self._jobs.wait(core, mask, deadline)

    def socket_closed(self, core: Any) -> None:
        """As `Driver.woken`."""
        self._jobs.socket_closed(core)

    # What there is not

    async def _make_subprocess_transport(self, *arguments: Any, **keywords: Any) -> Any:
        raise _refusal("subprocesses")

    def _make_read_pipe_transport(self, *arguments: Any, **keywords: Any) -> Any:
        raise _refusal("pipes")

    _make_write_pipe_transport = _make_read_pipe_transport


class NetworkTask(asyncio.Task):
    """A task whose hash is its number, so that sets of tasks, such as those that asyncio cancels, have an order."""

    def __init__(self, loop: NetworkLoop, program: Coroutine, **options: Any):
        self.number = loop.new_number()
        capability = options["context"].run(active_capability) if options.get("context") else active_capability()
        self.host = "no host" if capability is None else capability.issuer.name
        super().__init__(program, loop=loop, **options)

    def __hash__(self) -> int:
        return self.number

    def set_name(self, name: object) -> None:
        if name is not None:  # Python 3.12 and 3.13 say None for those without
            super().set_name(name)


class NetworkSelector(StackSelector):
    """Where time passes: `select` is where an asyncio loop would sleep."""

    def __init__(self, loop: NetworkLoop, network: Network, jobs: "Jobs"):
        super().__init__(loop.time, loop._has_work, loop._stacks_polled)
        self.give_up = 0.0
        self._begun = False
        self._loop = loop
        self._network = network
        self._jobs = jobs
        self._restless = 0  # turns since time passed or a job was waited for

    def begin(self) -> None:
        """From now on only descriptors of stack sockets are watched: asyncio has registered its own."""
        self._begun = True

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self._begun and mirror_at(fileobj if isinstance(fileobj, int) else fileobj.fileno()) is None:
            raise _refusal("descriptors of the kernel")
        return super().register(fileobj, events, data)

    def attach(self, driver: Any) -> None:
        self.drivers.append(driver)

    def detach(self, driver: Any) -> None:
        self.drivers.remove(driver)

    def select(self, timeout: float | None = None) -> list:
        self.turns += 1
        self._settle()
        events = self._kernel(0)
        if timeout is not None and timeout <= 0:
            self._stays_busy()
            return events
        while not events and not self._has_work():
            if self._jobs.awaited:
                events = self._await_jobs()
            elif self._pass_time():
                break
            else:
                self._settle()
                events = self._kernel(0)
            self._restless = 0
        return events

    def _settle(self) -> None:
        with self._network.lock:
            self._network.settle()
        self._polled()

    def _kernel(self, timeout: float | None) -> list:
        return super(StackSelector, self).select(timeout)

    def _await_jobs(self) -> list:
        """Sleeps, really, until a thread has something to say."""
        with self._network.lock:
            self._network.settle()
            self.asleep = True  # who enters a stack from here on wakes us
        try:
            self._polled()
            return [] if self._has_work() else self._kernel(None)
        finally:
            self.asleep = False
            self._settle()

    def _pass_time(self) -> bool:
        """Jumps to what comes next; whether the loop has a timer due then."""
        network = self._network
        timer, following = self._loop.next_timer(), network.next_event()
        times = [time for time in (timer, following) if time is not None]
        at = min(times, default=math.inf)
        if at > self.give_up:
            if self._jobs.ending and self._jobs.interrupt():
                return False
            if not times:
                raise self._stalled("nothing will ever happen again: no timer runs and no frame is under way")
            self.give_up += self._loop.limit  # cancelled tasks may take their time
            raise self._stalled(f"{self._loop.limit:g} s were not enough")
        with network.lock:
            network.happen(at)
        return timer is not None and timer <= network.now

    def _stays_busy(self) -> None:
        self._restless += 1
        if self._restless > self._loop.turns_per_instant and not self._jobs.awaited:
            self._restless = 0
            raise self._stalled("no time passes, since the programs never all wait; one that asks again and again "
                                "after asyncio.sleep(0) wants an event, or a longer sleep")  # fmt: skip

    def _stalled(self, why: str) -> Stalled:
        network = self._network
        tasks = sorted(asyncio.all_tasks(self._loop), key=lambda task: getattr(task, "number", 0))
        waits = [f"  {getattr(task, 'host', '?')}: {task.get_name()} {_place(task)}" for task in tasks]
        waits = [line for line in waits if HERE not in line] or waits
        if len(waits) > TASKS_SHOWN:
            waits[TASKS_SHOWN:] = [f"  and {len(waits) - TASKS_SHOWN} more tasks"]
        lines = [f"at {network.now:g} s {why}", *waits, f"  {network.situation(0.0)}"]
        return Stalled("\n".join(lines))


def _refusal(what: str) -> NotImplementedError:
    return NotImplementedError(f"there are no {what} in a simulated network: nobody knows how much of its time they take")


def _place(task: asyncio.Task) -> str:
    """Where a task waits: the innermost line that is not asyncio's."""
    place = f"in {task.get_coro().__qualname__}"
    waiting = task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None) or getattr(waiting, "ag_frame", None)
        if frame is not None and not frame.f_code.co_filename.startswith(ASYNCIO):
            place = f"in {waiting.__qualname__}, {frame.f_code.co_filename}:{frame.f_lineno}"
        following = None
        for name in ("cr_await", "gi_yieldfrom", "ag_await"):
            following = following or getattr(waiting, name, None)
        waiting = following
    return place
