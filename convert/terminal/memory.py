"""What a model takes in memory, in every precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.memory import GROUPS
from convert.terminal.look import count, say, size
from convert.terminal.table import show_table, width_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console

    from convert.memory import Group, Memory, MemoryRow


def show_memory(memory: Memory, outputs: Mapping[str, int], console: Console) -> None:
    """Print the bytes of each group in each precision, then those of each GGUF file."""
    loaded = [row for row in memory.rows if row.format != "gguf"]
    files = [row for row in memory.rows if row.format == "gguf"]
    names = [group for group in GROUPS if any(group in row.groups for row in memory.rows)]
    rows = [
        [label, *(count(counts.get(name, 0)) for name in names), "", ""]
        for label, counts in (
            ("parameters", {group.name: group.n_parameters for group in memory.groups}),
            ("packed", {group.name: group.n_packed for group in memory.groups}),
        )
    ]
    for row in loaded:
        footprint = None if row.parameters_nbytes is None else row.parameters_nbytes + (memory.buffers_nbytes or 0)
        rows.append(_memory_row(row, names, footprint))
    console.print()
    heads = ["memory", *names, "bytes", "footprint"]
    wanted = width_of(heads, rows)
    _show(console, heads, rows, whole=wanted <= console.width)
    console.print()
    for note in _memory_notes(memory):
        say(console, note)
    if files:
        console.print()
        rows = [_memory_row(row, names, outputs[row.precision]) for row in files]
        _show(console, ["as GGUF", *names, "bytes", "file"], rows, whole=wanted <= console.width)
    if wanted > console.width:
        console.print()
        say(console, f"by group of tensors: in a terminal of {wanted} columns, or in a file")


def _show(console: Console, heads: list[str], rows: list[list[str]], *, whole: bool) -> None:
    """Print a table; where it does not fit, without the groups of tensors."""
    if not whole:
        rows = [[row[0], *row[-2:]] for row in rows if row[-2]]
    show_table(console, heads if whole else [heads[0], *heads[-2:]], rows, right=True)


def _memory_row(row: MemoryRow, names: Sequence[Group], last: int | None) -> list[str]:
    cells = (size(row.groups[name]) if name in row.groups else "" for name in names)
    return [row.precision, *cells, str(row.nbytes), "" if last is None else str(last)]


def _memory_notes(memory: Memory) -> Iterator[str]:
    """Say what the rows and columns mean, where that is not plain."""
    yield f"packed: in linear layers that bitsandbytes takes; it keeps the others in {memory.rest}"
    yield "bytes: weights and statistics, as files hold them"
    call = "get_memory_footprint(return_buffers=False)" if memory.buffers_nbytes is None else "get_memory_footprint()"
    yield f"footprint: what transformers' {call} says; statistics are not in it"
    texts: dict[tuple[int, int], list[str]] = {}
    for row in memory.rows:
        if row.text_nbytes[1]:
            texts.setdefault(row.text_nbytes, []).append(row.precision)
    if texts:
        said = "; ".join(f"{', '.join(names)} {_range(*nbytes)}" for nbytes, names in texts.items())
        yield f"not in bytes: the JSON beside each packed layer: {said}"
    yield from memory.notes


def _range(fewest: int, most: int) -> str:
    return f"{fewest} B" if fewest == most else f"{fewest} to {most} B"
