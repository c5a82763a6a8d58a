"""Carry a plan out shard by shard: a killed run keeps its complete shards, and the next one makes the others.

What exists is compared before anything is written; the small files come last, config.json last of all, so that the
directory is no model before it is whole.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from convert.errors import OutputError
from convert.process import usable_processors
from convert.shown import shown, shown_list
from convert.stream import (
    Progress,
    Report,
    Writing,
    WrittenOutput,
    carry_out,
    check_room,
    outputs_to_make,
    remove_abandoned,
)

if TYPE_CHECKING:
    from pathlib import Path

    from convert.dequantization.data import DequantizePlan
    from convert.plan import Output, Plan

# Workers' slices are what takes memory: these stay under 512 MB on a machine of any size.
MAX_JOBS: Final = 16


def carry_out_dequantize(
    plan: DequantizePlan,
    writing: Writing = Writing(),  # noqa: B008 - frozen
    *,
    progress: Progress | None = None,
) -> Report:
    """Make the directory that a plan describes; arguments and errors as for `carry_out`.

    Raises OutputError too for a directory that holds files which the plan does not.
    """
    started = time.monotonic()
    to_make = check_outputs(plan, force=writing.force)
    writing = replace(writing, jobs=writing.jobs or min(usable_processors(), MAX_JOBS))
    written: dict[Path, WrittenOutput] = {}
    for part in _existing_first(plan, to_make):
        report = carry_out(part, writing, progress=progress)
        written |= {output.path: output for output in report.outputs}
    return Report(tuple(written[output.path] for output in plan.outputs), time.monotonic() - started)


def check_outputs(plan: DequantizePlan, *, force: bool) -> list[dict[int, Output]]:
    """See that the directory can take the files, and say which are to be written, for each part of the plan.

    Raises OutputError for files in the way, or too little room.
    """
    _refuse_foreign(plan)
    to_make = [outputs_to_make(part, force=force) for part in plan.plans]
    remove_abandoned([plan.outdir])
    check_room([output for part in to_make for output in part.values()])
    return to_make


def _existing_first(plan: DequantizePlan, to_make: list[dict[int, Output]]) -> list[Plan]:
    """Order the shards: those that exist are compared before another is written. The small files stay last."""
    *shards, side_files = plan.plans
    order = sorted(range(len(shards)), key=lambda index: bool(to_make[index]))
    return [*(shards[index] for index in order), side_files]


def _refuse_foreign(plan: DequantizePlan) -> None:
    """Refuse a directory with other files in it: they might be loaded, or uploaded, as if they were this model's."""
    if not plan.outdir.is_dir():
        return
    planned = {output.path for output in plan.outputs} | {output.path.parent for output in plan.outputs}
    others = sorted(path.name for path in plan.outdir.iterdir() if path not in planned and path.name[0] != ".")
    if others:
        raise OutputError(
            f"{shown(plan.outdir)} holds what this run would not write: {shown_list(others)}",
            hint="choose another directory, or move these away",
        )
