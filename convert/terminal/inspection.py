"""What a checkpoint or a GGUF file holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from convert.terminal.look import count, counted, size, stdout
from convert.terminal.memory import show_memory
from convert.terminal.table import show_pairs, show_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console

    from convert.inspection import Inspection
    from convert.llama_cpp.front_end import KnownArchitecture


def show_inspection(inspection: Inspection, *, with_tensors: bool) -> None:
    """Print what a checkpoint or a GGUF file holds."""
    console = stdout()
    show_pairs(console, _summary(inspection))
    if inspection.memory is not None:
        show_memory(inspection.memory, inspection.outputs, console)
    if inspection.metadata:
        console.print("\nmetadata")
        show_pairs(console, ((key, _one_line(value)) for key, value in inspection.metadata.items()), before="  ")
    if with_tensors:
        console.print()
        (_show_importance if inspection.importance else _show_tensors)(console, inspection)


def show_architectures(known: Iterable[KnownArchitecture]) -> None:
    """Print every class, whose definition it is, what files can be made, and which of these are tested."""
    rows = [[each.name, each.definition, ", ".join(each.files), ", ".join(each.tested) or "-"] for each in known]
    show_table(stdout(), ["class", "definition", "files", "tested byte for byte"], rows)


def _summary(inspection: Inspection) -> Iterator[tuple[str, str]]:
    yield inspection.kind, inspection.path
    yield "architecture", inspection.architecture
    if inspection.n_parameters is not None:
        yield "parameters", f"{count(inspection.n_parameters)} ({inspection.n_parameters})"
    yield "stored", ", ".join(f"{kind} {size(nbytes)} ({nbytes})" for kind, nbytes in inspection.stored.items())
    for note in inspection.notes:
        yield "note", note
    if inspection.problem:
        yield "cannot be converted", inspection.problem


def _show_importance(console: Console, inspection: Inspection) -> None:
    rows = []
    for row in inspection.importance:
        seen = f"{row.n_experts - row.n_unseen} of {row.n_experts}" if row.n_experts > 1 else ""
        numbers = (f"{row.mean:.4g}", f"{row.highest:.4g}", f"{row.active:.1%}")
        rows.append([f"  {row.name}", str(row.n_values), str(row.count), seen, *numbers])
    heads = [counted(len(rows), "tensor"), "columns", "used", "experts seen", "mean", "highest", "active"]
    show_table(console, heads, rows)


def _show_tensors(console: Console, inspection: Inspection) -> None:
    decoded = {tensor.name: tensor for tensor in inspection.decoded}
    largest = {tensor.part_of: tensor.name for tensor in sorted(inspection.tensors, key=lambda part: part.nbytes)}
    rows = []
    for tensor in inspection.tensors:
        whole = decoded.get(tensor.part_of or "")
        becomes = ""
        if whole is not None and largest[whole.name] == tensor.name:
            becomes = f"{whole.type} {_dimensions(whole.shape)}"
        elif whole is not None:
            becomes = "a part of it"
        row = [f"  {tensor.name}", _dimensions(tensor.shape), tensor.type, str(tensor.nbytes)]
        rows.append([*row, becomes] if inspection.decoded else row)
    heads = [counted(len(rows), "tensor"), "shape", "type", "bytes"]
    show_table(console, [*heads, "what it decodes to"] if inspection.decoded else heads, rows)


def _dimensions(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _one_line(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.replace("\n", "\\n")
    limit = 100
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
