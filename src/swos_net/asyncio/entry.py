"""Ways in: `run` for a program, `new_event_loop` and `loop_factory` for whoever wants a loop, a policy for the rest.

    swos_net.asyncio.run(main(), "tap:swos0", addresses=["10.0.0.2/24"])

    with open_stack("tap:swos0", addresses=[...]).stack.root.activate():      # a stack that is open already
        asyncio.run(main(), loop_factory=swos_net.asyncio.new_event_loop)     # from 3.12; asyncio.Runner in 3.11
        uvicorn.run(app, loop="swos_net.asyncio:new_event_loop")
        anyio.run(main, backend_options={"loop_factory": swos_net.asyncio.new_event_loop})
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from swos_net.asyncio.driver import LoopDriver
from swos_net.asyncio.loop import SwosEventLoop
from swos_net.capability import Capability, current_capability
from swos_net.runtime.open_stack import open_stack
from swos_net.runtime.poll import Poller

T = TypeVar("T")


def new_event_loop(device: Any = None, *, capability: Capability | None = None, allow: str | None = None, **options: Any) -> SwosEventLoop:
    """A loop on the stack of `capability`; without one, and without `device`, of the capability that is active.

    `device` is what `open_stack` takes, with its `options`, or a `Poller`; a stack that is opened here is closed with
    the loop.  `allow` narrows the authority to these rules.  CapabilityError when none is active, OSError and ValueError
    as from `open_stack`.
    """
    driver = None
    if device is not None:
        poller = device if isinstance(device, Poller) else open_stack(device, **options)
        driver = LoopDriver.of(poller)
        capability = capability or poller.stack.root
    elif options:
        raise TypeError(f"options {', '.join(options)} belong to a device")
    capability = capability or current_capability()
    try:
        loop = SwosEventLoop(capability if allow is None else capability.attenuate(allow))
    except BaseException:
        if driver is not None and driver.poller is not device:
            driver.stop()
        raise
    if driver is not None and driver.poller is not device:
        loop.own(driver)
    return loop


def loop_factory(device: Any = None, **options: Any) -> Callable[[], SwosEventLoop]:
    """`new_event_loop` with its arguments, for those who call a factory without any."""
    return lambda: new_event_loop(device, **options)


def run(main: Coroutine[Any, Any, T], device: Any = None, *, debug: bool | None = None, **options: Any) -> T:
    """As asyncio.run, on the loop that `new_event_loop(device, **options)` makes, whose capability is active inside."""
    return run_with(loop_factory(device, **options), main, debug=debug)


def run_with(factory: Callable[[], SwosEventLoop], main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """As asyncio.run, in the loop that `factory` makes, which is closed at the end; its capability is active inside."""
    if not asyncio.iscoroutine(main):
        raise ValueError(f"a coroutine was expected, got {main!r}")
    try:
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("run() cannot be called from a running event loop")
        loop = factory()
    except BaseException:
        main.close()
        raise
    with loop.capability.activate():
        if sys.version_info >= (3, 11):
            with asyncio.Runner(debug=debug, loop_factory=lambda: loop) as runner:
                return runner.run(main)
        return _run(main, loop, debug)


def _run(main: Coroutine[Any, Any, T], loop: SwosEventLoop, debug: bool | None) -> T:
    """What asyncio.Runner does, for Python 3.10."""
    try:
        asyncio.set_event_loop(loop)
        if debug is not None:
            loop.set_debug(debug)
        return loop.run_until_complete(main)
    finally:
        try:
            asyncio.runners._cancel_all_tasks(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def event_loop_policy(factory: Callable[[], asyncio.AbstractEventLoop] = new_event_loop) -> Any:
    """For programs that take their loop from `asyncio.new_event_loop()`: give it to `asyncio.set_event_loop_policy`.

    asyncio drops policies with Python 3.16; there, hand the factory over.
    """
    base = type(asyncio.get_event_loop_policy())

    class StackEventLoopPolicy(base):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            return factory()

    return StackEventLoopPolicy()
