"""What a run is going to do."""

from __future__ import annotations

import re
import shutil
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from convert import stream
from convert.terminal.look import count, escape, make_grid, size, stdout

if TYPE_CHECKING:
    from rich.console import Console

    from convert.plan import Output, Plan


def show_plan(plan: Plan, console: Console) -> None:
    """Print the plan in a few lines: source, architecture, outputs, total size, disk."""
    grid = make_grid()
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
    """Print everything that a run would do: exact lengths, disk, and each tensor's type with the rule that chose it."""
    console = stdout()
    show_plan(plan, console)
    console.print(f"\n{plan.nbytes} bytes in all")
    for output in plan.outputs:
        console.print(f"\n{escape(str(output.path))}  {output.nbytes} bytes, {len(output.tensors)} tensors")
        table = make_grid()
        for (pattern, type_name, why), n_tensors in _choices(output).items():
            table.add_row("", escape(pattern), f"{n_tensors}x", type_name, escape(why))
        console.print(table)


def _choices(output: Output) -> dict[tuple[str, str, str], int]:
    """Count the tensors of one name in all layers that have one type for one reason; names in the file's order."""
    counts: dict[str, Counter[tuple[str, str, str]]] = defaultdict(Counter)
    for tensor in output.tensors:
        pattern = re.sub(r"\.\d+\.", ".*.", tensor.name)
        counts[pattern][pattern, tensor.type.name, output.reasons.get(tensor.name, "the type asked for")] += 1
    return {choice: n_tensors for counted in counts.values() for choice, n_tensors in counted.items()}
