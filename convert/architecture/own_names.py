"""A checkpoint's names as its family has them: without what stands before every one, and without heads of value models.

    pretrained_model.model.layers.0.…   TRL, with `v_head.…` beside it
    base_model.model.model.layers.0.…   a PeftModel; with an adapter that is not merged it is an error
    policy.…, actor.…, student.…, language_model.…, _forward_module.…

Which prefixes there are nobody knows: any that leaves names that the family has a place for is taken off.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from convert.architecture.mapping import place_finder
from convert.architecture.not_text import HEAD, text_name
from convert.checkpoint import TensorSource
from convert.checkpoint.views import Rows
from convert.errors import UnsupportedError
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from convert.architecture.family import Family
    from convert.architecture.hyperparameters import Hyperparameters
    from convert.checkpoint import Tensor

_ADAPTER: Final = re.compile(r"\.(lora_(A|B|embedding_A|embedding_B|magnitude_vector)|modules_to_save)\.")
_BASE_LAYER: Final = ".base_layer."  # what peft puts around a layer that an adapter changes


@dataclass(frozen=True, slots=True)
class OwnNames:
    """A model's tensors by the family's names, and a line on each thing that was done for the plan to show."""

    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()


def with_counts(family: Family, h: Hyperparameters, names: Iterable[str]) -> Hyperparameters:
    """Put into the hyperparameters what of layers the tensors tell."""
    if family.counted is None:
        return h
    pattern = re.compile(family.counted.pattern)
    layers = {found[1] for name in names if (found := pattern.search(name))}
    return h.replaced(**{family.counted.key: len(layers)})


def own_names(family: Family, h: Hyperparameters, tensors: Mapping[str, Tensor]) -> OwnNames:
    """Take off a prefix that leaves more names that the family has a place for; heads keep theirs.

    Raises UnsupportedError for a model saved together with an adapter that is not merged into it.
    """
    tensors = _named(tensors, {name: text_name(h, name) for name in tensors})
    has_place = place_finder(family, h)
    if all(map(has_place, tensors)):
        return OwnNames(tensors)
    _refuse_adapter(tensors)
    bodies = [name for name in tensors if not (HEAD.search(name) and not has_place(name))]
    prefix = _prefix(bodies, has_place)
    names = dict.fromkeys(tensors, "") | {name: name.removeprefix(prefix).replace(_BASE_LAYER, ".") for name in bodies}
    named = _named(tensors, {name: new or name for name, new in names.items()})
    return OwnNames(named, (f"removed {shown(prefix)} from tensor names",) * bool(prefix))


def _named(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> Mapping[str, Tensor]:
    """Give the tensors by other names; as they are where two would have one."""
    if all(name == new for name, new in names.items()):
        return tensors
    named = {new: _renamed(tensors[name], new) for name, new in names.items()}
    return named if len(named) == len(names) else tensors


def _refuse_adapter(names: Mapping[str, Tensor]) -> None:
    found = [name for name in names if _ADAPTER.search(name)]
    if found:
        raise UnsupportedError(
            f"the checkpoint holds a model together with an adapter that is not merged: {shown_list(found, most=3)}",
            hint="save it again after `model.merge_and_unload()`, or save the adapter alone with `save_pretrained()`",
        )


def _prefix(names: Sequence[str], has_place: Callable[[str], bool]) -> str:
    """Return the prefix of all names that leaves the most names in their place; empty where none does better."""
    shared = os.path.commonprefix(list(names))  # noqa: RUF071 - no paths
    ends = [0, *(place + 1 for place, char in enumerate(shared) if char == ".")]

    def n_placed(end: int) -> int:
        return sum(has_place(name[end:].replace(_BASE_LAYER, ".")) for name in names)

    return shared[: max(ends, key=n_placed)]


def _renamed(tensor: Tensor, name: str) -> Tensor:
    if tensor.name == name:
        return tensor
    return replace(tensor, name=name) if isinstance(tensor, TensorSource) else Rows(tensor, name, tensor.shape)
