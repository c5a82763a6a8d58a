"""Several plans as one: the files of a model's text and of what is beside it, made together or not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from convert.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from convert.model import LeftOut
    from convert.plan.data import Plan, Task


def joined(plans: Sequence[Plan]) -> Plan:
    """Put plans of one source together, the first one's model in front; what one of them writes is not left out.

    Raises PlanError if two outputs have one path.
    """
    if len(plans) == 1:
        return plans[0]
    outputs = tuple(output for plan in plans for output in plan.outputs)
    if len({output.path for output in outputs}) < len(outputs):
        raise PlanError("two outputs have one path")
    return replace(
        plans[0],
        n_parameters=sum(plan.n_parameters for plan in plans),
        source_nbytes=sum(plan.source_nbytes for plan in plans),
        outputs=outputs,
        tasks=tuple(_moved(plans)),
        notes=tuple(dict.fromkeys(note for plan in plans for note in plan.notes)),
        left_out=tuple(_left_out_of_all(plans)),
    )


def _moved(plans: Sequence[Plan]) -> Iterator[Task]:
    """Yield all tasks, with places counted in all outputs."""
    first = 0
    for plan in plans:
        for task in plan.tasks:
            targets = (
                replace(target, places=tuple((first + index, offset) for index, offset in target.places))
                for target in task.targets
            )
            yield replace(task, targets=tuple(targets))
        first += len(plan.outputs)


def _left_out_of_all(plans: Sequence[Plan]) -> Iterator[LeftOut]:
    names = [{name for group in plan.left_out for name, _ in group.tensors} for plan in plans]
    for group in plans[0].left_out:
        kept = {name for name, _ in group.tensors}.intersection(*names[1:])
        if rest := group.without({name for name, _ in group.tensors} - kept).tensors:
            yield replace(group, tensors=rest)
