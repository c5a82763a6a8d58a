"""In which turns files are made while others are uploaded: each turn is a read of the model, for all files of it.

    sparing_time   the largest file, whose upload takes longest, then all others while it is uploaded
    sparing_disk   so that no more than the largest lies on the disk: it alone, then others as far as they fit together

The parts of a split file count as one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convert.plan import packed

if TYPE_CHECKING:
    from convert.plan import Plan


@dataclass(frozen=True, slots=True)
class Turns:
    """Which files are made together. groups: indices of the plan's outputs, in the order of the turns.

    nbytes: that lie on the disk at most. deletes: each file goes as soon as the Hub has it.
    """

    groups: tuple[tuple[int, ...], ...]
    nbytes: int
    deletes: bool

    @property
    def note(self) -> str | None:
        """Say what it costs, if it costs anything."""
        n_reads = len(self.groups)
        reads = "one read" if n_reads == 1 else f"{n_reads} reads"
        if self.deletes:
            return f"each file is deleted once the Hub has it, so the files are made in {reads} of the model"
        made = "the largest file is uploaded while the others are made"
        return f"{made}, which takes {reads} of the model" if n_reads > 1 else None


Taking = Callable[["Plan", Collection[int]], Turns]  # the plan, the outputs that are to be made


def sparing_time(plan: Plan, indices: Collection[int]) -> Turns:
    """Make the largest file first, and the others in one read."""
    units = sorted(_units(plan, indices), key=lambda unit: -_nbytes(plan, unit))
    groups = (tuple(units[0]), tuple(index for unit in units[1:] for index in unit)) if units else ()
    return Turns(tuple(filter(None, groups)), sum(_nbytes(plan, unit) for unit in units), deletes=False)


def sparing_disk(plan: Plan, indices: Collection[int]) -> Turns:
    """Make no more at a time than the largest file takes."""
    units = _units(plan, indices)
    sizes = [_nbytes(plan, unit) for unit in units]
    groups = (tuple(index for number in group for index in units[number]) for group in packed(sizes))
    return Turns(tuple(groups), max(sizes, default=0), deletes=True)


def _units(plan: Plan, indices: Collection[int]) -> list[list[int]]:
    """Put what is made together: the files of one model, those of them that are to be made."""
    numbers = iter(range(len(plan.outputs)))
    models = [[next(numbers) for _ in files] for files in plan.models]
    return list(filter(None, ([index for index in model if index in indices] for model in models)))


def _nbytes(plan: Plan, indices: Collection[int]) -> int:
    return sum(plan.outputs[index].nbytes for index in indices)
