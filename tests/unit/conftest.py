"""What tests of several parts need."""

import threading

import pytest

PATIENCE = 10.0


class Threads(list):
    """Those that a test has started; what one of them raises is raised by `wait`."""

    def __init__(self):
        self._failures = []

    def __call__(self, function, *arguments) -> threading.Thread:
        def work():
            try:
                function(*arguments)
            except BaseException as error:
                self._failures.append(error)

        self.append(threading.Thread(target=work, daemon=True))
        self[-1].start()
        return self[-1]

    def wait(self) -> None:
        for thread in self:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        if self._failures:
            raise self._failures.pop()


@pytest.fixture
def threads():
    """`threads(function, *arguments)` starts one; `threads.wait()`, at the end at the latest, waits for all of them."""
    started = Threads()
    yield started
    started.wait()
