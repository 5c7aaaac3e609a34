"""What every benchmark does: says how far it is, builds the load program, starts processes with their output in a file,
times them and ends them by their own id."""

import atexit
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from lab.packages import LabError

HERE = Path(__file__).resolve().parent
READY_DEADLINE = 30.0
END_DEADLINE = 5.0


def say(line: str = "") -> None:
    print(line, flush=True)


def build_netload(folder: Path) -> Path:
    """The static client and server program; LabError without a compiler."""
    target = folder / "netload"
    result = subprocess.run(["cc", "-std=c11", "-O2", "-static", "-o", str(target), str(HERE / "guest/netload.c")],
                            capture_output=True, text=True)
    if result.returncode:
        raise LabError(f"benchmarks/guest/netload.c does not compile: {result.stderr.strip()}")
    return target


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process so far, user and system, in seconds (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


class Process:
    """One running program; `log` is the file with everything it printed."""

    def __init__(self, command: Sequence[str], log: Path):
        self.command = list(command)
        self.log = log
        with open(log, "wb") as output:
            self._process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        return self._process.pid

    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, condition, what: str, timeout: float = READY_DEADLINE) -> None:
        """Wait until `condition()` holds; LabError when the program ends before, or after `timeout` s."""
        deadline = time.monotonic() + timeout
        while not condition():
            if self._process.poll() is not None:
                raise LabError(f"{self._end()} before it {what}: {self.tail()}")
            if time.monotonic() > deadline:
                raise LabError(f"{self.describe()} has not {what} after {timeout:.0f} s: {self.tail()}")
            time.sleep(0.02)

    def wait_for_line(self, text: str, timeout: float = READY_DEADLINE) -> None:
        """Wait until `text` is in its output."""
        self.wait_for(lambda: text in self.output(), f"printed {text!r}", timeout)

    def check(self) -> None:
        """LabError when it has ended on its own."""
        if self._process.poll() is not None:
            raise LabError(f"{self._end()} during the run: {self.tail()}")

    def describe(self) -> str:
        """The program's name, or its script's."""
        scripts = [word for word in self.command if word.endswith(".py")]
        return Path((scripts or self.command)[0]).name

    def _end(self) -> str:
        return f"{self.describe()} ended with status {self._process.returncode}"

    def tail(self) -> str:
        return " | ".join(self.output().strip().splitlines()[-6:]) or "it printed nothing"

    def stop(self) -> int:
        """End it, and return its exit status; harmless when it has ended."""
        atexit.unregister(self.stop)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_DEADLINE)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()
