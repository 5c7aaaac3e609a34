"""Stands in for the package of this name, so that suites which can run on it run on a stack's event loop, unedited."""

import asyncio
import os

from swos_loops import Loop, factory

__version__ = "0.23.0"
__path__ += os.environ.get("SWOS_LOOPS_UVLOOP", "").split()  # where its own test helpers are

from uvloop import loop  # noqa: E402

__all__ = ["EventLoopPolicy", "Loop", "install", "loop", "new_event_loop", "run"]


def new_event_loop():
    return factory()


class EventLoopPolicy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self):
        return factory()


def install():
    asyncio.set_event_loop_policy(EventLoopPolicy())


def run(main, *, debug=None, **options):
    with asyncio.Runner(loop_factory=factory, debug=debug) as runner:
        return runner.run(main)
