"""What came of a run, and the exceptions that end one."""

from dataclasses import dataclass, field


class Mismatch(Exception):
    """The stack did something else than the script says."""


class Unsupported(Exception):
    """The script asks for something that this stack, or its runner, does not have."""


@dataclass(slots=True)
class Result:
    """`status` is "passed", "failed", "unsupported" (what is missing is in `message`) or "invalid" (no script).

    `line` is the script's line that `message` is about.  `trace` has a line of text for every packet, call and command
    with its time in seconds; `notes` are commands and settings that had no effect.
    """

    path: str
    status: str = "passed"
    line: int = 0
    message: str = ""
    usecs: int = 0
    trace: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.status == "passed"

    def report(self, *, lines: int = 12) -> str:
        """Some lines that say what went wrong; one line for a script that passed."""
        name = self.path or "<script>"
        if self.ok:
            return f"{name}: passed ({self.usecs / 1e6:.6f} s)"
        text = [f"{name}:{self.line}: {self.status}: {self.message}"]
        if self.trace and self.status == "failed":
            text += ["what happened before:", *(f"    {line}" for line in self.trace[-lines:])]
        if self.notes:
            text += ["without effect: " + "; ".join(dict.fromkeys(self.notes))]
        return "\n".join(text)

    def check(self) -> "Result":
        """Raises AssertionError with the report unless the script passed."""
        if not self.ok:
            raise AssertionError(self.report())
        return self
