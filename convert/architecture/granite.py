"""Granite, dense and with experts, with shared ones and without: Llama with factors of its own.

Source: conversion/granite.py, GraniteModel and GraniteMoeModel @ 0c1e570. Experts are stored fused:

    model.layers.L.block_sparse_moe.input_linear.weight    (experts, 2 x inner, hidden): gate above up
    model.layers.L.shared_mlp.input_linear.weight          (2 x inner, hidden)
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import attention, decoder, experts, feed_forward, gated_block, norm
from convert.architecture.family import Parts, Rule, n_experts
from convert.architecture.llama import LLAMA
from convert.architecture.metadata import F32, U32, Row, changed, computed
from convert.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.hyperparameters import Hyperparameters

_LAYER: Final = r"(model\.layers\.\d+)"


def _without_head_dim(h: Hyperparameters) -> Hyperparameters:
    n_heads, hidden = h.size("num_attention_heads"), h.size("hidden_size")
    if h.optional_size("head_dim") not in (None, hidden // n_heads):
        raise UnsupportedError(f"`head_dim` in {h.where} is not `hidden_size` / `num_attention_heads`")
    return h.replaced(head_dim=None)


def _factor(key: str, name: str) -> Row:
    return computed(key, F32, lambda h: h.number(name) or None, (name,))


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden, shared = h.size("hidden_size"), h.optional_count("shared_intermediate_size")
    yield from norm(f"{block}.attn_norm", hidden)
    yield from attention(h, block, interleave=True)
    yield from norm(f"{block}.ffn_norm", hidden)
    if n_experts(h) is not None:
        yield from experts(h, h.size("intermediate_size"), block)
    if shared:
        yield from feed_forward(hidden, shared, block, suffix="_shexp")


GRANITE: Final = replace(
    LLAMA,
    hf_names=("GraniteForCausalLM",),
    arch=MODEL_ARCH.GRANITE,
    metadata=(
        *changed(LLAMA.metadata, _without_head_dim),
        _factor(Keys.Attention.SCALE, "attention_multiplier"),
        _factor(Keys.LLM.EMBEDDING_SCALE, "embedding_multiplier"),
        _factor(Keys.LLM.RESIDUAL_SCALE, "residual_multiplier"),
        _factor(Keys.LLM.LOGIT_SCALE, "logits_scaling"),
    ),
    tensors=decoder(partial(gated_block, interleave=True), rope_freqs=True),
    parts=(),
    renames=(),
)
GRANITE_MOE: Final = replace(
    GRANITE,
    hf_names=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
    arch=MODEL_ARCH.GRANITE_MOE,
    metadata=(
        *GRANITE.metadata,
        computed(
            Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH,
            U32,
            lambda h: h.optional_count("shared_intermediate_size") or None,
            ("shared_intermediate_size",),
        ),
    ),
    tensors=decoder(_block, rope_freqs=True),
    parts=(
        Parts(
            rf"{_LAYER}\.block_sparse_moe\.input_linear\.weight",
            (r"\1.mlp.experts.gate_proj.weight", r"\1.mlp.experts.up_proj.weight"),
        ),
        Parts(rf"{_LAYER}\.block_sparse_moe\.output_linear\.weight", (r"\1.mlp.experts.down_proj.weight",)),
        Parts(
            rf"{_LAYER}\.shared_mlp\.input_linear\.weight",
            (r"\1.mlp.shared_experts.gate_proj.weight", r"\1.mlp.shared_experts.up_proj.weight"),
        ),
        Parts(rf"{_LAYER}\.shared_mlp\.output_linear\.weight", (r"\1.mlp.shared_experts.down_proj.weight",)),
    ),
)
