"""How things look: consoles, sizes, foreign text, lines, progress, warnings, errors."""

from __future__ import annotations

import re
import time
import warnings
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Task

    from convert.errors import ConvertError

_UNLIMITED: Final = 100_000
_with_bar: Final[list[Console]] = []
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
# ECMA-48: control sequences (colours, the cursor), operating system commands (titles, links), other escapes.
_CONTROL: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_COMMAND: Final = re.compile(r"(?<=`)convert (?=[a-z…])")


def size(nbytes: float) -> str:
    """Write a length for people: `2.20 GB`; powers of 1000, as disks are sold."""
    unit = 0
    while nbytes >= 1000 and unit < len(_UNITS) - 1:  # noqa: PLR2004
        nbytes /= 1000
        unit += 1
    return f"{nbytes:.0f} B" if unit == 0 else f"{nbytes:.3g} {_UNITS[unit]}"


def count(number: int) -> str:
    """Write a number of parameters for people: `1.10 B`."""
    for limit, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return str(number)


def counted(number: int, thing: str) -> str:
    """Write how many there are: `1 file`, `2 files`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def stderr() -> Console:
    """Return the console that people read; while a bar is shown, the bar's, above which lines go."""
    return _with_bar[-1] if _with_bar else _console(stderr=True)


def stdout() -> Console:
    """Return the console that programs may read."""
    return _console(stderr=False)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704 - called where rich has caught it, which then would exit with 1; `cli` knows better


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _UNLIMITED  # a file or a pipe has no width to cut a path to
    return console


def harmless(text: str) -> str:
    """Make foreign text one line that does not drive the terminal: control characters are shown, not sent."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def plain_lines(text: str) -> list[str]:
    """Take a program's text apart into its lines, without the codes for colours and the like that it sends."""
    return [harmless(line.expandtabs(4)) for line in _CONTROL.sub("", text).splitlines()]


def say(console: Console, text: str, *, label: str = "", style: str = "") -> None:
    """Print text, which may be foreign and of several lines, wrapped at words; a word is never broken.

    label: stands before the first line, in its style. All other lines are indented, so that none can pose as one.
    """
    indent = " " * (len(label) + 1 if label and len(label) < 10 else 2)  # noqa: PLR2004 - `warning:` is a label
    for number, line in enumerate(plain_lines(text) or [""]):
        first = Text.assemble((label, style), " ") if label and number == 0 else Text(indent if number else "")
        for place, piece in enumerate(wrapped(line, console.width - len(indent))):
            console.print((first if place == 0 else Text(indent)) + Text(piece), soft_wrap=True)


def wrapped(text: str, width: int) -> list[str]:
    """Cut text into lines of so many columns, between words; a longer word is a line of its own."""
    lines, line = [], ""
    for word in re.findall(r"\s*\S+", text):
        if line and cell_len(line + word) > width:
            lines.append(line)
            line = word.lstrip()
        else:
            line += word
    return [*lines, line]


def show_error(error: ConvertError, *, program: str = "convert") -> None:
    """Print `error: …`, a blank line, `hint: …`. program: what the command is called here, for hints that name it."""
    from convert.remote import said  # noqa: PLC0415 - what is rarely needed

    console = stderr()
    say(console, said(error.message), label="error:", style="bold red")
    if error.hint:
        console.print()
        say(console, _COMMAND.sub(f"{program} ", said(error.hint)), label="hint:", style="bold")


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Print warnings as `warning: …` instead of Python's way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)  # between packages; a user can do nothing about it
        yield
    for warning in caught:
        say(stderr(), str(warning.message), label="warning:", style="bold yellow")


class _Reading(ProgressColumn):
    """The rate at which bytes come, over the last seconds."""

    def __init__(self, received: Callable[[], int]) -> None:
        super().__init__()
        self._received = received
        self._seen = deque([(time.monotonic(), received())], maxlen=50)  # drawn ten times a second

    def render(self, task: Task) -> Text:
        del task
        (then, before), (now, count) = self._seen[0], (time.monotonic(), self._received())
        self._seen.append((now, count))
        return Text(f"reading {size((count - before) / max(now - then, 1e-3))}/s" if count else "")


@contextmanager
def byte_progress(
    total: int, received: Callable[[], int] = lambda: 0, *, doing: str = "writing"
) -> Iterator[Callable[[int], None]]:
    """Show a bar of bytes while the work goes on, and that they are brought to the disk; only on a terminal.

    received: how many bytes have come from elsewhere so far; where any do, their rate is shown beside that of writing.
    """
    console = stderr()
    times = (TransferSpeedColumn(), TimeRemainingColumn(), _Reading(received))
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), *times)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        _with_bar.append(console)
        task = progress.add_task(doing, total=total)

        def advance(nbytes: int) -> None:
            progress.advance(task, nbytes)
            if progress.tasks[0].finished and doing == "writing":
                progress.update(task, description="flushing to disk")

        try:
            yield advance
        finally:
            _with_bar.remove(console)
