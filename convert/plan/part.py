"""Some of a plan's files alone: what is made at one time, where not all have room at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from convert.plan.data import Plan, Task


def part(plan: Plan, indices: Sequence[int]) -> Plan:
    """Give the plan of some outputs, in the order given. indices: in the plan's outputs."""
    moved = {old: new for new, old in enumerate(indices)}
    return replace(plan, outputs=tuple(plan.outputs[index] for index in indices), tasks=tuple(_tasks(plan, moved)))


def _tasks(plan: Plan, moved: dict[int, int]) -> Iterator[Task]:
    for task in plan.tasks:
        targets = (
            replace(target, places=tuple((moved[index], offset) for index, offset in target.places if index in moved))
            for target in task.targets
        )
        if kept := tuple(target for target in targets if target.places):
            yield replace(task, targets=kept)


def packed(sizes: Sequence[int]) -> list[list[int]]:
    """Group files so that no group is longer than the longest file, in few groups; the first has the longest.

    sizes: bytes of each file. Returns indices: each group takes, the longest first, what still fits into it.

    >>> packed([16, 8, 5, 4, 6])
    [[0], [1, 4], [2, 3]]
    """
    room = max(sizes, default=0)
    groups: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        fits = (group for group in groups if sum(sizes[each] for each in group) + sizes[index] <= room)
        group = next(fits, None)
        if group is None:
            groups.append([index])
        else:
            group.append(index)
    return groups
