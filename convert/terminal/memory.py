"""What a model takes in memory, in every precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from convert.memory import GROUPS
from convert.terminal.look import count, escape, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console

    from convert.memory import Group, Memory, MemoryRow

_TWO_LINES = {"embeddings": "embed-\ndings", "attention": "atten-\ntion", "feed-forward": "feed-\nforward"}


def show_memory(memory: Memory, outputs: Mapping[str, int], console: Console) -> None:
    """Print the bytes of each group in each precision, then those of each GGUF file."""
    loaded = [row for row in memory.rows if row.format != "gguf"]
    files = [row for row in memory.rows if row.format == "gguf"]
    names = [group for group in GROUPS if any(group in row.groups for row in memory.rows)]
    table = _memory_grid(["memory", *names, "bytes", "footprint"])
    for label, counts in (
        ("parameters", {group.name: group.n_parameters for group in memory.groups}),
        ("packed", {group.name: group.n_packed for group in memory.groups}),
    ):
        table.add_row(label, *(count(counts.get(name, 0)) for name in names), "", "", style="dim")
    for row in loaded:
        footprint = None if row.parameters_nbytes is None else row.parameters_nbytes + (memory.buffers_nbytes or 0)
        _add_memory_row(table, row, names, footprint)
    console.print("", table, "", *map(escape, _memory_notes(memory)), sep="\n")
    if files:
        table = _memory_grid(["as GGUF", *names, "bytes", "file"])
        for row in files:
            _add_memory_row(table, row, names, outputs[row.precision])
        console.print("", table, sep="\n")


def _memory_grid(heads: Sequence[str]) -> Table:
    table = Table.grid(padding=(0, 2))
    for index, _ in enumerate(heads):
        table.add_column(justify="right" if index else "left", overflow="fold", no_wrap=index > 0)
    table.add_row(*(_TWO_LINES.get(head, f"\n{head}") for head in heads))
    return table


def _add_memory_row(table: Table, row: MemoryRow, names: Sequence[Group], last: int | None) -> None:
    cells = (size(row.groups[name]) if name in row.groups else "" for name in names)
    table.add_row(row.precision, *cells, str(row.nbytes), "" if last is None else str(last))


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
