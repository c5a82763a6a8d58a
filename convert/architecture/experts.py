"""Mixtral's experts, in the two ways that they are saved.

    one by one    model.layers.L.block_sparse_moe.experts.E.{w1,w2,w3}.weight, and …block_sparse_moe.gate.weight
    fused         model.layers.L.mlp.experts.gate_up_proj   (experts, 2 x inner, hidden): w1 above w3
                  model.layers.L.mlp.experts.down_proj      (experts, hidden, inner): w2

`from_pretrained` and `save_pretrained` know the first; the second is what a state dict of transformers 5 holds.
Source: conversion/llama.py, LlamaModel.modify_tensors @ 0c1e570; transformers 5.23, modeling_mixtral.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from convert.architecture.family import SourcePart
from convert.checkpoint.views import Rows
from convert.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convert.checkpoint import Tensor
    from convert.model_config import ModelConfig

# In the order of the reference's file.
EXPERT_OUTPUTS: Final[Mapping[str, str]] = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}

_ONE: Final = re.compile(r"model\.layers\.(\d+)\.block_sparse_moe\.experts\.(\d+)\.(w[123])\.weight")
_FUSED: Final = re.compile(r"(model\.layers\.\d+)\.mlp\.experts\.(gate_up_proj|down_proj)")
_ROUTER: Final = re.compile(r"(model\.layers\.\d+)\.mlp\.gate\.weight")
_PARTS: Final[Mapping[str, tuple[str, ...]]] = {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}


def expert_part(name: str) -> SourcePart | None:
    """Say which place in which stack an expert's tensor takes; None for any other name."""
    match = _ONE.fullmatch(name)
    if match is None:
        return None
    layer, index, part = match.groups()
    return SourcePart(f"blk.{int(layer)}.{EXPERT_OUTPUTS[part]}.weight", int(index))


def unfuse_experts(config: ModelConfig, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Give fused experts as single ones, as windows of the same bytes; other tensors as they are.

    Raises PlanError if a fused tensor's shape contradicts the config.
    """
    if config.n_experts is None:
        return tensors
    plain = (part for source in tensors.values() for part in _plain(source, config.n_experts))
    return {source.name: source for source in plain}


def _plain(source: Tensor, n_experts: int) -> Iterator[Tensor]:
    fused, router = _FUSED.fullmatch(source.name), _ROUTER.fullmatch(source.name)
    if fused is not None:
        yield from _split(source, n_experts, f"{fused[1]}.block_sparse_moe.experts", _PARTS[fused[2]])
    elif router is not None:
        yield Rows(source, f"{router[1]}.block_sparse_moe.gate.weight", source.shape)
    else:
        yield source


def _split(source: Tensor, n_experts: int, prefix: str, parts: tuple[str, ...]) -> Iterator[Tensor]:
    if len(source.shape) != 3 or source.shape[0] != n_experts or source.shape[1] % len(parts):  # noqa: PLR2004
        raise PlanError(f"tensor `{source.name}` has shape {source.shape}, config.json says {n_experts} experts")
    n_rows, n_cols = source.shape[1] // len(parts), source.shape[2]
    first_row = 0
    for expert in range(n_experts):
        for part in parts:
            yield Rows(source, f"{prefix}.{expert}.{part}.weight", (n_rows, n_cols), first_row)
            first_row += n_rows
