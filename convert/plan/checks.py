"""Whether an importance matrix fits the model, and what it lacks: before anything is written."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from convert.codec import CODECS
from convert.errors import PlanError, Remedy
from convert.model import tensor_type
from convert.quant_mix import ModelFacts, QuantizeOptions, Role, may_be_quantized, needs_importance, role_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from convert.checkpoint import Tensor
    from convert.gguf_file import TensorInfo
    from convert.importance import ImportanceEntry
    from convert.model import GGUFModel
    from convert.plan.data import Task
    from convert.quant_mix import FileType

_SHOWN: Final = 3


def n_importance_values(tensor: Tensor) -> int:
    """Count the columns whose importance can be known: those of each expert of a stack."""
    return tensor.shape[-1] * (tensor.shape[-3] if len(tensor.shape) > 2 else 1)  # noqa: PLR2004


def check_importance(
    model: GGUFModel, outputs: Mapping[FileType, Sequence[TensorInfo]], options: QuantizeOptions
) -> None:
    """Check that entries have the model's names and sizes, and that no tensor lacks importance that it needs.

    Raises PlanError that names what is wrong.
    """
    tensors = dict(model.tensors)
    entries = {} if options.importance is None else options.importance.entries
    if options.importance is not None and entries and not entries.keys() & tensors.keys():
        raise PlanError(
            f"`{options.importance.file}` has importance for {_some(entries)}, and for none of this model's tensors",
            hint="it was made from another model",
        )
    for name in entries.keys() & tensors.keys():
        wanted = n_importance_values(tensors[name])
        if entries[name].n_values != wanted and role_of(name) is not Role.EMBEDDING:
            raise PlanError(
                f"the importance of `{name}` has {entries[name].n_values} values, the tensor {wanted} columns",
                hint="it was made from another model",
            )
    _check_needed(model, outputs, options)


def _check_needed(model: GGUFModel, outputs: Mapping[FileType, Sequence[TensorInfo]], options: QuantizeOptions) -> None:
    lacking: dict[str, list[str]] = defaultdict(list)
    for wanted, tensors in outputs.items():
        for name in _lacking(model, wanted, tensors, options):
            lacking[wanted.name.lower()].append(name)
    if not lacking:
        return
    names = list(dict.fromkeys(name for names in lacking.values() for name in names))
    raise PlanError(
        f"{', '.join(lacking)} cannot be made without the importance of {_some(names)}",
        remedies=(Remedy.GIVE_IMPORTANCE, Remedy.OTHER_TYPES),
    )


def _lacking(
    model: GGUFModel, wanted: FileType, tensors: Sequence[TensorInfo], options: QuantizeOptions
) -> Iterator[str]:
    """Yield the tensors that need importance and have none.

    Parity: without any, those too that the source has in their type already; with some, only those that are made.
    """
    if wanted.copies:
        return
    entries = {} if options.importance is None else options.importance.entries
    facts = ModelFacts.of(model.values, options.overridden)
    stored = {name: tensor_type(tensor) for name, tensor in model.tensors}
    for info in tensors:
        is_made = info.type is not stored.get(info.name, info.type) or not options.has_importance
        may_be = may_be_quantized(info.name, info.shape, facts, options)
        needs = may_be and needs_importance(info.name, info.type, wanted)
        cannot = info.type in CODECS and CODECS[info.type].needs_importance
        if is_made and (needs or cannot) and info.name not in entries:
            yield info.name


def importance_notes(tasks: Iterable[Task], options: QuantizeOptions) -> tuple[str, ...]:
    """Say what an importance matrix lacks, and what that means."""
    if options.importance is None:
        return ()
    tasks = list(tasks)
    names = {task.name for task in tasks}
    notes = []
    if unknown := [name for name in options.importance.entries if name not in names]:
        notes.append(f"importance that no tensor here takes: {_some(unknown)}")
    if without := [task.name for task in tasks if _is_made_without(task)]:
        notes.append(f"made as without an importance matrix, for it has nothing of them: {_some(without)}")
    entries = [task.importance for task in tasks if task.importance is not None]
    if unseen := [entry for entry in entries if entry.unseen]:
        notes.append(
            f"experts that the importance matrix has not seen; all their columns count alike: {_unseen(unseen)}"
        )
    return tuple(notes)


def _is_made_without(task: Task) -> bool:
    """Whether a tensor that importance would change has none; embeddings and output matrix usually have none."""
    made = (target.type for target in task.targets if target.type is not task.type)
    takes = any(target in CODECS and CODECS[target].takes_importance for target in made)
    return takes and task.importance is None and role_of(task.name) not in (Role.EMBEDDING, Role.OUTPUT)


def _unseen(entries: Iterable[ImportanceEntry]) -> str:
    """List layers, and how many of their experts were not seen; a layer's matrices mostly agree."""
    by_layer: dict[str, int] = {}
    total: dict[str, int] = {}
    for entry in entries:
        match = re.match(r"blk\.(\d+)\.", entry.name)
        layer = f"layer {match[1]}" if match else f"`{entry.name}`"
        by_layer[layer] = max(by_layer.get(layer, 0), len(entry.unseen))
        total[layer] = len(entry.counts)
    return ", ".join(f"{layer} {count} of {total[layer]}" for layer, count in by_layer.items())


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(f"`{name}`" for name in listed[:_SHOWN]) + more
