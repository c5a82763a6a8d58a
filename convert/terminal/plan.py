"""What a run is going to do."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

from convert import stream
from convert.terminal.look import count, escape, make_grid, size, stdout

if TYPE_CHECKING:
    from rich.console import Console

    from convert.model import LeftOut
    from convert.plan import Output, Plan


def show_plan(plan: Plan, console: Console) -> None:
    """Print the plan in a few lines: source, architecture, outputs, total size, disk."""
    grid = make_grid()
    grid.add_row(
        "source", escape(f"{plan.source}  ({size(plan.source_nbytes)}, {count(plan.n_parameters)} parameters)")
    )
    definition = f"  (definition: {plan.definition})" if plan.definition else ""
    grid.add_row("model", escape(f"{plan.architecture}{definition}"))
    for index, output in enumerate(plan.outputs):
        grid.add_row("outputs" if index == 0 else "", f"{escape(str(output.path))}  [dim]{size(output.nbytes)}[/]")
    grid.add_row("disk", escape(_disk(plan)))
    for group in plan.left_out:
        grid.add_row("left out", escape(_left_out(group)))
    for note in plan.notes:
        grid.add_row("note", escape(note))
    console.print(grid)


def _left_out(group: LeftOut) -> str:
    names = [name for name, _ in group.tensors]
    text = f"{group.group}: {len(names)} tensors, {size(group.nbytes)}, {group.reason} (`{names[0]}` …)"
    return (
        text if group.other_file is None else f"{text}; `--{group.other_file} f16` writes them to a file of their own"
    )


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
        table = make_grid()
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
