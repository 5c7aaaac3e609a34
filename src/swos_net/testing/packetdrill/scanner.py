"""The text of a script, read left to right: blanks, comments, `#ifdef` sections and the position of an error.

What a piece of text is depends on where it stands (`1:1(0)`, `abcd1234`, `S.`), so there are no tokens: the parser asks
for the pattern it expects.  Read first: parser.py.
"""

import re

_BLANK = re.compile(r"(?:[ \t\r\n\f]+|//[^\n]*|/\*.*?\*/|#[^\n]*)+", re.DOTALL)
_BLANK_ON_LINE = re.compile(r"(?:[ \t\r\f]+|//[^\n]*|/\*.*?\*/|#[^\n]*)+", re.DOTALL)
_DIRECTIVE = re.compile(r"[ \t]*#[ \t]*(ifdef|ifndef|else|endif|if|elif)\b[ \t]*(.*)$")


class ScriptError(ValueError):
    """A script that cannot be read or asks for something that is not there; the text begins with file and line."""

    def __init__(self, message: str, path: str = "", line: int = 0):
        super().__init__(f"{path or '<script>'}:{line}: {message}" if line else message)
        self.message = message
        self.path = path
        self.line = line


class Scanner:
    """`text` and how far it has been read."""

    def __init__(self, text: str, path: str = ""):
        self.text = text
        self.path = path
        self.position = 0

    @property
    def line(self) -> int:
        """The number of the line that is read next, from 1; blanks before it are passed over."""
        self.skip()
        return self.text.count("\n", 0, self.position) + 1

    def error(self, message: str) -> ScriptError:
        """An error at the present position; raise it."""
        line = self.line
        rest = self.text[self.position : self.position + 60].split("\n")[0]
        return ScriptError(f"{message} at {rest!r}" if rest else f"{message} at the end", self.path, line)

    def skip(self) -> None:
        """Over blanks, ends of lines and comments."""
        match = _BLANK.match(self.text, self.position)
        if match:
            self.position = match.end()

    def skip_on_line(self) -> None:
        """Over blanks and comments, but not to the next line."""
        match = _BLANK_ON_LINE.match(self.text, self.position)
        if match:
            self.position = match.end()

    def at_end(self) -> bool:
        self.skip()
        return self.position >= len(self.text)

    def at_line_end(self) -> bool:
        self.skip_on_line()
        return self.position >= len(self.text) or self.text[self.position] == "\n"

    def take(self, pattern: re.Pattern) -> re.Match | None:
        """What matches after blanks, which is then behind; None, and nothing moves but blanks, when it does not."""
        self.skip()
        match = pattern.match(self.text, self.position)
        if match:
            self.position = match.end()
        return match

    def peek(self, pattern: re.Pattern) -> re.Match | None:
        self.skip()
        return pattern.match(self.text, self.position)

    def take_text(self, text: str) -> bool:
        """Whether exactly `text` comes next, which is then behind."""
        self.skip()
        if self.text.startswith(text, self.position):
            self.position += len(text)
            return True
        return False

    def peek_text(self, text: str) -> bool:
        self.skip()
        return self.text.startswith(text, self.position)

    def expect(self, pattern: re.Pattern, what: str) -> re.Match:
        match = self.take(pattern)
        if match is None:
            raise self.error(f"{what} expected")
        return match

    def expect_text(self, text: str) -> None:
        if not self.take_text(text):
            raise self.error(f"{text!r} expected")

    def until(self, end: str, what: str) -> str:
        """Everything before `end`, which is then behind too."""
        found = self.text.find(end, self.position)
        if found < 0:
            raise self.error(f"{what} without its end {end!r}")
        taken = self.text[self.position : found]
        self.position = found + len(end)
        return taken


def select_sections(text: str, defined: frozenset[str], path: str = "") -> str:
    """Leaves the sections between `#ifdef NAME`, `#ifndef NAME`, `#else` and `#endif` that hold for `defined`.

    Lines that fall away stay as empty ones, so that line numbers keep their meaning.
    """
    if "#" not in text:
        return text
    lines = []
    kept: list[bool] = []
    for number, line in enumerate(text.split("\n"), 1):
        match = _DIRECTIVE.match(line)
        if match is None:
            lines.append(line if all(kept) else "")
            continue
        kind, name = match[1], match[2].strip()
        if kind in ("ifdef", "ifndef"):
            kept.append((name in defined) == (kind == "ifdef"))
        elif kind in ("if", "elif"):
            raise ScriptError(f"#{kind}: only #ifdef and #ifndef are read", path, number)
        elif not kept:
            raise ScriptError(f"#{kind} without #ifdef", path, number)
        elif kind == "else":
            kept[-1] = not kept[-1]
        else:
            kept.pop()
        lines.append("")
    if kept:
        raise ScriptError("#ifdef without #endif", path, len(lines))
    return "\n".join(lines)
