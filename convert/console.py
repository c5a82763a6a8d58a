"""How plans, progress, results and errors look in a terminal.

stdout is for what one may pipe (a dry run, `inspect`, JSON); everything else goes to stderr.
Readable without colour; NO_COLOR is honoured (by rich).
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from convert import stream
from convert.memory import GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from convert.errors import ConvertError
    from convert.inspection import Inspection
    from convert.memory import Group, Memory, MemoryRow
    from convert.plan import Output, Plan

_UNLIMITED = 100_000
_UNITS = ("B", "kB", "MB", "GB", "TB")
_TWO_LINES = {"embeddings": "embed-\ndings", "attention": "atten-\ntion", "feed-forward": "feed-\nforward"}


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


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _UNLIMITED  # a file or a pipe has no width to cut a path to
    return console


def escape(text: str) -> str:
    """Make foreign text harmless: rich's markup, and characters that would drive the terminal."""
    return escape_markup("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text))


def _grid() -> Table:
    """Make a table of aligned columns, whose cells are folded and never cut."""
    grid = Table.grid(padding=(0, 2))
    for _ in range(5):
        grid.add_column(overflow="fold")
    return grid


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


def show_plan(plan: Plan, console: Console) -> None:
    """Print the plan in a few lines: source, architecture, outputs, total size, disk."""
    grid = _grid()
    grid.add_row(
        "source", escape(f"{plan.source}  ({size(plan.source_nbytes)}, {count(plan.n_parameters)} parameters)")
    )
    grid.add_row("model", escape(plan.architecture))
    for index, output in enumerate(plan.outputs):
        grid.add_row("outputs" if index == 0 else "", f"{escape(str(output.path))}  [dim]{size(output.nbytes)}[/]")
    grid.add_row("disk", escape(_disk(plan)))
    for note in plan.notes:
        grid.add_row("note", escape(note))
    console.print(grid)


def _disk(plan: Plan) -> str:
    directory = stream.existing_parent(plan.outputs[0].path)
    return f"{size(plan.nbytes)} to write, {size(shutil.disk_usage(directory).free)} free"


def show_whole_plan(plan: Plan) -> None:
    """Print everything that a run would do: exact lengths, disk, and each deviation in type with its reason."""
    console = stdout()
    show_plan(plan, console)
    console.print(f"\n{plan.nbytes} bytes in all")
    for output in plan.outputs:
        console.print(f"\n{escape(str(output.path))}  {output.nbytes} bytes, {len(output.tensors)} tensors")
        table = _grid()
        for pattern, (n_tensors, type_name, reason) in _grouped_reasons(output).items():
            table.add_row("", escape(pattern), f"{n_tensors}x", type_name, reason)
        console.print(table)


def _grouped_reasons(output: Output) -> dict[str, tuple[int, str, str]]:
    grouped: dict[str, tuple[int, str, str]] = {}
    for tensor in output.tensors:
        reason = output.reasons.get(tensor.name)
        if reason is not None:
            pattern = re.sub(r"\.\d+\.", ".*.", tensor.name)
            n_tensors = grouped.get(pattern, (0, "", ""))[0]
            grouped[pattern] = (n_tensors + 1, tensor.type.name, reason)
    return grouped


def plan_as_json(plan: Plan) -> str:
    """Give the whole plan as JSON: every output and every tensor's type, offset and length."""
    outputs = [
        {
            "path": str(output.path),
            "type": output.label,
            "nbytes": output.nbytes,
            "tensors": [
                {
                    "name": tensor.name,
                    "shape": tensor.shape,
                    "type": tensor.type.name,
                    "offset": tensor.offset,
                    "nbytes": tensor.nbytes,
                    "reason": output.reasons.get(tensor.name),
                }
                for tensor in output.tensors
            ],
        }
        for output in plan.outputs
    ]
    document = {
        "source": str(plan.source),
        "architecture": plan.architecture,
        "n_parameters": plan.n_parameters,
        "source_nbytes": plan.source_nbytes,
        "nbytes": plan.nbytes,
        "notes": plan.notes,
        "outputs": outputs,
    }
    return json.dumps(document, indent=2)


@contextmanager
def byte_progress(total: int) -> Iterator[stream.Progress]:
    """Show a bar of bytes while the work goes on; only on a terminal."""
    console = stderr()
    columns = (TextColumn("writing"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("writing", total=total)
        yield lambda nbytes: progress.advance(task, nbytes)


def show_report(report: stream.Report) -> None:
    """Print each file with its size, and the time."""
    console = stderr()
    grid = _grid()
    for output in report.outputs:
        state = "" if output.written else "kept: complete, and equal to the plan"
        grid.add_row(escape(str(output.path)), size(output.nbytes), state)
    console.print(grid)
    written = [output.nbytes for output in report.outputs if output.written]
    console.print(f"{len(written)} files, {size(sum(written))}, in {report.seconds:.1f} s")


def show_inspection(inspection: Inspection, *, with_tensors: bool) -> None:
    """Print what a checkpoint or a GGUF file holds."""
    console = stdout()
    console.print(_inspection_summary(inspection))
    if inspection.memory is not None:
        _show_memory(inspection.memory, inspection.outputs, console)
    if inspection.metadata:
        console.print("\nmetadata")
        console.print(_two_columns((key, _one_line(value)) for key, value in inspection.metadata.items()))
    if with_tensors:
        console.print(f"\n{len(inspection.tensors)} tensors (shape, type, bytes{_packed_too(inspection)})")
        console.print(_tensor_table(inspection))


def _inspection_summary(inspection: Inspection) -> Table:
    grid = _grid()
    grid.add_row(inspection.kind, escape(inspection.path))
    grid.add_row("architecture", escape(inspection.architecture))
    if inspection.n_parameters is not None:
        grid.add_row("parameters", f"{count(inspection.n_parameters)} ({inspection.n_parameters})")
    grid.add_row("stored", ", ".join(f"{kind} {size(nbytes)} ({nbytes})" for kind, nbytes in inspection.stored.items()))
    for note in inspection.notes:
        grid.add_row("note", escape(note))
    if inspection.problem:
        grid.add_row("cannot be converted", escape(inspection.problem))
    return grid


def _show_memory(memory: Memory, outputs: Mapping[str, int], console: Console) -> None:
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


def _packed_too(inspection: Inspection) -> str:
    return ", what it decodes to" if inspection.decoded else ""


def _tensor_table(inspection: Inspection) -> Table:
    decoded = {tensor.name: tensor for tensor in inspection.decoded}
    largest = {tensor.part_of: tensor.name for tensor in sorted(inspection.tensors, key=lambda part: part.nbytes)}
    table = _grid()
    for tensor in inspection.tensors:
        whole = decoded.get(tensor.part_of or "")
        becomes = ""
        if whole is not None and largest[whole.name] == tensor.name:
            becomes = f"{whole.type} {_dimensions(whole.shape)}"
        elif whole is not None:
            becomes = "a part of it"
        table.add_row(f"  {escape(tensor.name)}", _dimensions(tensor.shape), tensor.type, str(tensor.nbytes), becomes)
    return table


def _dimensions(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _two_columns(rows: Iterable[tuple[str, str]]) -> Table:
    grid = _grid()
    for left, right in rows:
        grid.add_row(f"  {escape(left)}", escape(right))
    return grid


def _one_line(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.replace("\n", "\\n")
    limit = 100
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
