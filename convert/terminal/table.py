"""Tables that fit: names are shortened in the middle, never folded; where that is not enough, a row becomes lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.text import Text

from convert.terminal.look import harmless, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

_GAP: Final = 2
_SHORTEST_NAME: Final = 24


def shorten(name: str, width: int) -> str:
    """Cut a name in its middle to so many columns: its beginning and its end tell most."""
    if cell_len(name) <= width:
        return name
    head = (width - 1) // 2
    return f"{name[:head]}…{name[len(name) - (width - 1 - head) :]}"


def show_pairs(console: Console, pairs: Iterable[tuple[str, str]], *, before: str = "") -> None:
    """Print labels and what they stand for, wrapped at words beside them; words are never broken.

    before: in front of every line.
    """
    listed = [(harmless(label), harmless(text)) for label, text in pairs]
    width = max((cell_len(label) for label, _ in listed), default=0) + _GAP
    if len(before) + width > console.width // 2:  # labels as long as lines: what they stand for goes below
        width = 4
    for label, text in listed:
        beside = cell_len(label) + _GAP <= width
        if not beside:
            _line(console, before + label)
        room = max(console.width - len(before) - width, 20)
        for number, piece in enumerate(wrapped(text, room)):
            head = label if beside and number == 0 else ""
            _line(console, f"{before}{head}{' ' * (width - cell_len(head))}{piece}")


def width_of(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Count the columns that a table takes as it is."""
    columns = zip(heads, *rows, strict=True)
    return sum(max(map(cell_len, column)) for column in columns) + _GAP * (len(heads) - 1)


def show_table(
    console: Console, heads: Sequence[str], rows: Sequence[Sequence[str]], *, names: int = 0, right: bool = False
) -> None:
    """Print a table. names: the column that may be shortened. right: the others are numbers.

    Where it does not fit, each row is printed as its name, and below it what the other columns say.
    """
    cells = [[harmless(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(heads, *cells, strict=True)]
    room = console.width - sum(widths) + widths[names] - _GAP * (len(widths) - 1)
    if room < min(widths[names], _SHORTEST_NAME):
        _show_rows(console, heads, cells, names)
        return
    widths[names] = min(widths[names], room)
    for row in (heads, *cells):
        line = ""
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            text = shorten(cell, width)
            space = " " * (width - cell_len(text))
            line += (space + text if right and index != names else text + space) + " " * _GAP
        _line(console, line.rstrip())


def _show_rows(console: Console, heads: Sequence[str], rows: Sequence[Sequence[str]], names: int) -> None:
    for row in rows:
        _line(console, shorten(row[names], max(console.width, _SHORTEST_NAME)))
        said = [(head, cell) for index, (head, cell) in enumerate(zip(heads, row, strict=True)) if index != names]
        show_pairs(console, [(head, cell) for head, cell in said if cell], before="  ")


def _line(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
