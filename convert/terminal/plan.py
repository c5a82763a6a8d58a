"""What a run is going to do."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from convert import stream
from convert.remote import said
from convert.terminal.look import count, counted, say, size, stdout
from convert.terminal.table import show_pairs, show_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from convert.model import LeftOut
    from convert.plan import Output, Plan


def show_plan(plan: Plan, console: Console, *, at_once: int | None = None) -> None:
    """Print the plan in a few lines: source, architecture, outputs, total size, disk.

    at_once: bytes that lie on the disk at most, where that is not all.
    """
    show_pairs(console, _lines(plan, at_once))


def _lines(plan: Plan, at_once: int | None) -> Iterator[tuple[str, str]]:
    source = said(str(plan.source))
    ranges = "" if source == str(plan.source) else ", read by ranges"
    yield "source", f"{source}{ranges}  ({size(plan.source_nbytes)}, {count(plan.n_parameters)} parameters)"
    definition = f"  (definition: {plan.definition})" if plan.definition else ""
    yield "model", f"{plan.architecture}{definition}"
    label = "outputs" if len(plan.outputs) > 1 else "output"
    if len(plan.outputs) == 1:
        yield label, f"{plan.outputs[0].path}  {size(plan.nbytes)}"
    else:
        root = os.path.commonpath([output.path.parent for output in plan.outputs]) or "."
        yield label, f"{root}/"
        for files in plan.models:
            yield "", f"  {os.path.relpath(files[0].path, root)}  {_sizes(files)}"
    yield "disk", _disk(plan, at_once)
    for group in plan.left_out:
        yield "left out", _left_out(group)
    for note in plan.notes:
        yield "note", said(note)


def _sizes(files: Sequence[Output]) -> str:
    """Say how large a model is; of one in parts also how many these are, and the largest."""
    nbytes = [output.nbytes for output in files]
    parts = f"  in {len(files)} parts, the largest {size(max(nbytes))}" if len(files) > 1 else ""
    return f"{size(sum(nbytes))}{parts}"


def _left_out(group: LeftOut) -> str:
    names = [name for name, _ in group.tensors]
    n_tensors = counted(len(names), "tensor")
    text = f"{group.group}: {n_tensors}, {size(group.nbytes)}, {group.reason} (`{names[0]}` …)"
    return (
        text if group.other_file is None else f"{text}; `--{group.other_file} f16` writes them to a file of their own"
    )


def _disk(plan: Plan, at_once: int | None) -> str:
    free = size(shutil.disk_usage(stream.existing_parent(plan.outputs[0].path)).free)
    turns = "" if at_once is None else f", at most {size(at_once)} at a time"
    return f"{size(plan.nbytes)} to write{turns}, {free} free"


def show_whole_plan(plan: Plan, *, at_once: int | None = None) -> None:
    """Print everything that a run would do: exact lengths, disk, and each tensor's type with the rule that chose it."""
    console = stdout()
    show_plan(plan, console, at_once=at_once)
    console.print(f"\n{plan.nbytes} bytes in all")
    for output in plan.outputs:
        console.print()
        say(console, f"{output.path}  {output.nbytes} bytes, {counted(len(output.tensors), 'tensor')}")
        rows = [
            (f"  {pattern}", f"{n_tensors}x", type_name, why)
            for (pattern, type_name, why), n_tensors in _choices(output).items()
        ]
        show_table(console, ("  tensors", "", "type", "because"), rows)


def _choices(output: Output) -> dict[tuple[str, str, str], int]:
    """Count the tensors of one name in all layers that have one type for one reason; names in the file's order."""
    counts: dict[str, Counter[tuple[str, str, str]]] = defaultdict(Counter)
    for tensor in output.tensors:
        pattern = re.sub(r"\.\d+\.", ".*.", tensor.name)
        counts[pattern][pattern, tensor.type.name, output.reasons.get(tensor.name, "the type asked for")] += 1
    return {choice: n_tensors for counted in counts.values() for choice, n_tensors in counted.items()}
