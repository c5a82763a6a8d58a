"""Tensors of one number each, which GGUF has as metadata: a list with a number for each layer.

These are the only values that are read before the plan.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gguf import GGUFValueType

from convert.architecture.family import Family, Numbers, n_layers
from convert.checkpoint import SourceFiles, StoredType
from convert.checkpoint.packed.values import as_float32
from convert.checkpoint.views import read_rows
from convert.errors import PlanError
from convert.gguf_file import KeyValue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.architecture.hyperparameters import Hyperparameters
    from convert.checkpoint import Tensor


def take_numbers(
    family: Family, h: Hyperparameters, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, KeyValue], Mapping[str, Tensor]]:
    """Give the lists, by key, in the order in which the checkpoint completes them; and the tensors that are left.

    Raises PlanError where a layer has no number, or several.
    """
    position = {name: index for index, name in enumerate(tensors)}
    named = [(numbers, _names(numbers, h, tensors)) for numbers in family.numbers]
    named.sort(key=lambda item: max(position[name] for name in item[1]))
    files = SourceFiles()
    found = {
        numbers.key: KeyValue(
            numbers.key,
            tuple(_number(tensors[name], files) for name in names),
            GGUFValueType.ARRAY,
            GGUFValueType.FLOAT32,
        )
        for numbers, names in named
    }
    files.close()
    taken = {name for _, names in named for name in names}
    return found, {name: tensor for name, tensor in tensors.items() if name not in taken} if taken else tensors


def _names(numbers: Numbers, h: Hyperparameters, tensors: Mapping[str, Tensor]) -> list[str]:
    by_layer = {int(match[1]): name for name in tensors if (match := re.fullmatch(numbers.pattern, name))}
    if sorted(by_layer) != list(range(n_layers(h))):
        raise PlanError(f"the checkpoint has `{numbers.key}` of {len(by_layer)} layers, the model has {n_layers(h)}")
    return [by_layer[layer] for layer in range(n_layers(h))]


def _number(tensor: Tensor, files: SourceFiles) -> float:
    if tensor.shape not in ((), (1,)) or not isinstance(tensor.dtype, StoredType):
        raise PlanError(f"tensor `{tensor.name}` has shape {tensor.shape}, wanted one number")
    return float(as_float32(read_rows(tensor, files, range(1)), tensor.dtype)[0, 0])
