"""What one worker does at a time: some tensors that follow one another, for every output; or rows of a large one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from convert.checkpoint import matrix_shape
from convert.stream.slices import Slice, cut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.plan import Plan, Task

# Bytes that a unit writes: seconds of work, so that little is lost with a worker and all end at about the same time.
_LEAST: Final = 32_000_000
_MOST: Final = 1_000_000_000
_USUAL_COUNT: Final = 256


@dataclass(frozen=True, slots=True)
class Unit:
    """number: from 1. tasks: of the plan, one after the other. rows: of the one task's tensor; None for all rows."""

    number: int
    tasks: range
    rows: range | None = None


def cut_plan(plan: Plan, nbytes: int | None = None) -> tuple[Unit, ...]:
    """Cut a plan into units that write about so many bytes; by default, as many as keep a cluster busy.

    A unit never crosses from a part of a split output to the next: where one type is made, it lies in one file.
    """
    limit = nbytes or max(min(plan.nbytes // _USUAL_COUNT, _MOST), _LEAST)
    return tuple(Unit(number, *found) for number, found in enumerate(_found(plan, limit), 1))


def _found(plan: Plan, limit: int) -> Iterator[tuple[range, range | None]]:
    first = held = 0
    for index, task in enumerate(plan.tasks):
        written = _written(task)
        if index > first and (held + written > limit or outputs_of(task) != outputs_of(plan.tasks[index - 1])):
            yield range(first, index), None
            first, held = index, 0
        if written > limit:
            yield from ((range(index, index + 1), rows) for rows in _rows(task, limit))
            first = index + 1
        else:
            held += written
    if first < len(plan.tasks):
        yield range(first, len(plan.tasks)), None


def _rows(task: Task, limit: int) -> Iterator[range]:
    slices = list(cut(task))
    step = max(limit * len(slices) // _written(task), 1)
    for first in range(0, len(slices), step):
        yield range(slices[first].rows.start, slices[min(first + step, len(slices)) - 1].rows.stop)


def outputs_of(task: Task) -> frozenset[int]:
    """Return the outputs that a task's tensor goes to."""
    return frozenset(output for target in task.targets for output, _ in target.places)


def slices_of(plan: Plan, unit: Unit) -> Iterator[Slice]:
    """Return a unit's slices: together, those of all units are the plan's."""
    pieces = chain.from_iterable(cut(plan.tasks[index]) for index in unit.tasks)
    return (piece for piece in pieces if unit.rows is None or piece.rows.start in unit.rows)


def nbytes_of(plan: Plan, unit: Unit) -> int:
    """Count what a unit writes, to all outputs together."""
    if unit.rows is None:
        return sum(_written(plan.tasks[index]) for index in unit.tasks)
    return sum(_in_all(piece) for piece in slices_of(plan, unit))


def tensors_of(plan: Plan, unit: Unit) -> str:
    """Name a unit's tensors, for people."""
    first, last = plan.tasks[unit.tasks[0]].name, plan.tasks[unit.tasks[-1]].name
    if unit.rows is not None:
        return f"rows {unit.rows.start} to {unit.rows.stop - 1} of `{first}`"
    return f"`{first}`" if first == last else f"`{first}` to `{last}`"


def _written(task: Task) -> int:
    n_rows, n_cols = matrix_shape(task.tensor.shape)
    return _in_all(Slice(task, range(n_rows), n_cols))


def _in_all(piece: Slice) -> int:
    return sum(piece.nbytes_in(target.type) * len(target.places) for target in piece.task.targets)
