"""Low-rank factors of fused experts, as peft's `target_parameters` saves them, for the experts one by one.

    …mlp.experts.base_layer.lora_A   (experts * r, hidden)      the first parameter that is targeted; each further one
    …mlp.experts.base_layer.lora_B   (2 * inner, r * experts)   wraps those before it, so it stands one level up
    …mlp.experts.lora_A              (experts * r, inner)
    …mlp.experts.lora_B              (hidden, r * experts)

Rows e*r … of A are expert e's; of B's columns, every one whose number leaves e when divided by the experts. The rows of
gate_up_proj's B are those of w1, then those of w3.
Source: peft 0.21.2, tuners/lora/layer.py (ParamWrapper.get_delta_weight), tuners_utils.py (_inject_parameters).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from convert.adapter.targets import targeted_parameter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.adapter.base_names import BaseNames
    from convert.adapter.config import AdapterConfig

_MODULE: Final = re.compile(r"(?P<experts>(?P<layer>.+)\.mlp\.experts)(?P<wrapped>(\.base_layer)*)")
# In the order of the module's parameters; which matrices of an expert each holds, one above the other, as files name
# them: Mixtral's, then those of Qwen's, DeepSeek's and others.
_PARAMETERS: Final = {
    "gate_up_proj": (
        ("block_sparse_moe.experts.{}.w1", "block_sparse_moe.experts.{}.w3"),
        ("mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj"),
    ),
    "down_proj": (("block_sparse_moe.experts.{}.w2",), ("mlp.experts.{}.down_proj",)),
}


@dataclass(frozen=True, slots=True)
class FusedExperts:
    """One fused parameter. name: as `rank_pattern` matches it. experts: each one's tensors, by their names in files."""

    name: str
    experts: tuple[tuple[str, ...], ...]


def find_experts(config: AdapterConfig, base: BaseNames, module: str) -> FusedExperts | None:
    """Say which parameter a module's factors belong to; None for a module that is no stack of experts."""
    match = _MODULE.fullmatch(module)
    if match is None:
        return None
    targeted = [name for name in _PARAMETERS if targeted_parameter(config, f"{match['experts']}.{name}")]
    index = len(targeted) - 1 - match["wrapped"].count(".base_layer")
    if not 0 <= index < len(targeted):
        return None
    parameter = targeted[index]
    found = (tuple(_experts(base, match["layer"], parts)) for parts in _PARAMETERS[parameter])
    experts = next((experts for experts in found if experts), None)
    return FusedExperts(f"{match['experts']}.{parameter}", experts) if experts else None


def _experts(base: BaseNames, layer: str, parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    expert = 0
    while True:
        names = [base.find(f"{layer}.{part.format(expert)}.weight") for part in parts]
        found = tuple(name for name in names if name is not None)
        if len(found) != len(parts):
            return
        yield found
        expert += 1
