"""How a value from elsewhere is shown in a message: quoted, harmless to a terminal, and not too long."""

from __future__ import annotations

import re
from collections import deque
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Final

MAX_SHOWN_CHARS: Final = 120
_MOST_LINES: Final = 6
# A line that tells what went wrong; but not one of these: CMake's checks, Ninja's steps, a warning, "something failed".
_ERROR: Final = re.compile(r"\b(?:error|fatal|failed|not found)\b|undefined (?:reference|symbol)", re.IGNORECASE)
_NO_ERROR: Final = re.compile(r"-- |\[\s*\d+[/%]|ninja: build stopped|g?make.*: \*\*\*|.*\bwarning:")
_HEADING: Final = re.compile(r"CMake Error.*:$")  # what it is stands in the next line
_STEP_FAILED: Final = "FAILED: "  # Ninja's; the step's command line is next


def shown(text: object) -> str:
    """Quote a name from a hostile file: in backticks, unprintable characters escaped, cut to a readable length.

    A Path is not cut: the system bounds it, and its last part matters most.
    """
    cut = str(text)
    if len(cut) > MAX_SHOWN_CHARS and not isinstance(text, PurePath):
        cut = cut[: MAX_SHOWN_CHARS - 1] + "…"
    escaped = (char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in cut)
    return f"`{''.join(escaped)}`"


def shown_list(names: list[str], *, most: int = 8) -> str:
    """Quote several names, and count those that there is no room for."""
    listed = ", ".join(shown(name) for name in names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


def nearest(path: Path) -> str | None:
    """Suggest what stands where a path does not, under almost its name; None where nothing does."""
    parent = path.absolute().parent
    try:
        names = [entry.name for entry in parent.iterdir() if entry.name != path.name] if parent.is_dir() else []
    except OSError:
        return None
    found = get_close_matches(path.name, names, n=3, cutoff=0.7)
    return f"is it {' or '.join(shown(path.parent / name) for name in found)}?" if found else None


class Excerpt:
    """What is worth showing of all that a program said: from its first error on, some lines; else its last ones."""

    def __init__(self) -> None:
        self.error: str | None = None
        self._lines: deque[str] = deque(maxlen=_MOST_LINES)
        self._after_failed = self._after_heading = False

    def take(self, line: str) -> None:
        """Hear a line, in order."""
        is_command, self._after_failed = self._after_failed, line.startswith(_STEP_FAILED)
        if is_command or self._after_failed or not line.strip() or _NO_ERROR.match(line):
            return
        if self.error is None and _HEADING.match(line):
            self._after_heading = True
        elif self.error is None and (self._after_heading or _ERROR.search(line)):
            self.error = line.strip()
            self._lines.clear()
        elif self.error is None or len(self._lines) < _MOST_LINES:
            self._lines.append(line)

    @property
    def after_error(self) -> list[str]:
        """The lines after the error; or, where there was none, the last."""
        return list(self._lines)

    @property
    def lines(self) -> list[str]:
        """All of it."""
        return ([] if self.error is None else [self.error]) + self.after_error


def excerpt(text: str) -> Excerpt:
    """Take what is worth showing of a whole text."""
    taken = Excerpt()
    for line in text.splitlines():
        taken.take(line)
    return taken
