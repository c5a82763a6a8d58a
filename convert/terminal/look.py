"""How things look: consoles, sizes, foreign text, tables, progress, warnings, errors; no other room is needed here."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from convert.errors import ConvertError

_UNLIMITED = 100_000
_UNITS = ("B", "kB", "MB", "GB", "TB")


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


def stderr() -> Console:
    """Return the console that people read."""
    return _console(stderr=True)


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


def escape(text: str) -> str:
    """Make foreign text harmless: rich's markup, and characters that would drive the terminal."""
    return escape_markup("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text))


def make_grid() -> Table:
    """Make a table of aligned columns, whose cells are folded and never cut."""
    table = Table.grid(padding=(0, 2))
    for _ in range(5):
        table.add_column(overflow="fold")
    return table


def show_error(error: ConvertError) -> None:
    """Print `error: …`, a blank line, `hint: …`."""
    console = stderr()
    console.print(f"[bold red]error:[/] {escape(error.message)}")
    if error.hint:
        console.print(f"\n[bold]hint:[/] {escape(error.hint)}")


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Print warnings as `warning: …`, one line each, instead of Python's way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        yield
    for warning in caught:
        stderr().print(f"[bold yellow]warning:[/] {escape(str(warning.message))}")


@contextmanager
def byte_progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar of bytes while the work goes on; only on a terminal."""
    console = stderr()
    columns = (TextColumn("writing"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("writing", total=total)
        yield lambda nbytes: progress.advance(task, nbytes)
