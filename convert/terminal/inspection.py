"""What a checkpoint or a GGUF file holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from convert.terminal.look import count, escape, make_grid, size, stdout
from convert.terminal.memory import show_memory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from convert.inspection import Inspection
    from convert.llama_cpp.front_end import KnownArchitecture


def show_inspection(inspection: Inspection, *, with_tensors: bool) -> None:
    """Print what a checkpoint or a GGUF file holds."""
    console = stdout()
    console.print(_inspection_summary(inspection))
    if inspection.memory is not None:
        show_memory(inspection.memory, inspection.outputs, console)
    if inspection.metadata:
        console.print("\nmetadata")
        console.print(_two_columns((key, _one_line(value)) for key, value in inspection.metadata.items()))
    if with_tensors:
        console.print(f"\n{len(inspection.tensors)} tensors (shape, type, bytes{_packed_too(inspection)})")
        console.print(_tensor_table(inspection))


def show_architectures(known: Iterable[KnownArchitecture]) -> None:
    """Print every class, whose definition it is, what files can be made, and which of these are tested."""
    grid = make_grid()
    grid.add_row("class", "definition", "files", "tested byte for byte")
    for each in known:
        grid.add_row(each.name, each.definition, ", ".join(each.files), ", ".join(each.tested) or "-")
    stdout().print(grid)


def _inspection_summary(inspection: Inspection) -> Table:
    grid = make_grid()
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


def _packed_too(inspection: Inspection) -> str:
    return ", what it decodes to" if inspection.decoded else ""


def _tensor_table(inspection: Inspection) -> Table:
    decoded = {tensor.name: tensor for tensor in inspection.decoded}
    largest = {tensor.part_of: tensor.name for tensor in sorted(inspection.tensors, key=lambda part: part.nbytes)}
    table = make_grid()
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
    grid = make_grid()
    for left, right in rows:
        grid.add_row(f"  {escape(left)}", escape(right))
    return grid


def _one_line(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.replace("\n", "\\n")
    limit = 100
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
