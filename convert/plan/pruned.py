"""A model without some of its layers: the others move up.

Source: src/llama-quant.cpp, remap_layer, remap_imatrix @ 0c1e570.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from convert.errors import PlanError
from convert.quant_mix import QuantizeOptions, file_order

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from convert.model import GGUFModel

_LAYER: Final = re.compile(r"blk\.(\d+)\.")


def prune(model: GGUFModel, options: QuantizeOptions) -> tuple[GGUFModel, QuantizeOptions]:
    """Leave layers out and number the others anew; importance goes with a tensor to its new name.

    Raises PlanError if a layer is not there, or none would be left.
    """
    if not options.prune_layers:
        return model, options
    new_layers = _renumbered((name for name, _ in model.tensors), options.prune_layers)
    missing = set(options.prune_layers) - set(new_layers)
    if missing:
        raise PlanError(f"`{model.source}` has no layer {min(missing)} to leave out")
    if all(new is None for new in new_layers.values()):
        raise PlanError(f"no layer of `{model.source}` is left")
    names = {name: new for name, _ in model.tensors if (new := _renamed(name, new_layers)) is not None}
    tensors = tuple((names[name], tensor) for name, tensor in model.tensors if name in names)
    if options.importance is not None:
        old_names = {new: old for old, new in names.items()}
        options = replace(options, importance=options.importance.renamed(old_names))
    return replace(model, tensors=tensors), options


def _renumbered(names: Iterable[str], left_out: Collection[int]) -> dict[int, int | None]:
    """Give the layers there are new numbers, in the file's order: without a gap where one is left out."""
    new_layers: dict[int, int | None] = {}
    following = 0
    for name in file_order(names):
        match = _LAYER.search(name)
        if match is None or (layer := int(match[1])) in new_layers:
            continue
        if layer in left_out:
            new_layers[layer] = None
        else:
            new_layers[layer] = layer if layer < min(left_out) else following
            following = (layer if layer < min(left_out) else following) + 1
    return new_layers


def _renamed(name: str, new_layers: dict[int, int | None]) -> str | None:
    match = _LAYER.search(name)
    if match is None:
        return name
    new = new_layers[int(match[1])]
    return None if new is None else f"{name[: match.start(1)]}{new}{name[match.end(1) :]}"
