"""ERNIE 4.5 and its mixture. Source: conversion/ernie.py @ 0c1e570."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import attention, decoder, experts, feed_forward, gated_block, norm
from convert.architecture.family import FUSED_EXPERTS, Facts, Family, Rule, n_layers
from convert.architecture.metadata import COMMON, U32, Row, Value, computed, count, u32
from convert.errors import UnsupportedError
from convert.tokenizer import ERNIE_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.hyperparameters import Hyperparameters

ERNIE4_5: Final = Family(
    hf_names=("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
    arch=MODEL_ARCH.ERNIE4_5,
    metadata=COMMON,
    tensors=decoder(partial(gated_block, interleave=False)),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    renames=((r"^ernie\.", "model."),),
    tokenizer=ERNIE_TOKENIZER,
)


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden, inner, n_experts = h.size("hidden_size"), h.size("moe_intermediate_size"), h.size("moe_num_experts")
    layer = int(block.removeprefix("blk."))
    every, first = h.optional_size("moe_layer_interval") or 1, h.optional_count("moe_layer_start_index") or 0
    if layer < first or (layer + 1) % every:
        yield from gated_block(h, block)
        return
    yield from norm(f"{block}.attn_norm", hidden)
    yield from attention(h, block)
    yield from norm(f"{block}.ffn_norm", hidden)
    yield Rule(f"{block}.exp_probs_b.bias", (1, n_experts), required=False)
    yield from experts(h.replaced(num_experts=n_experts), inner, block, order=("gate", "up", "down"))
    n_shared = h.optional_count("moe_num_shared_experts")
    if n_shared:
        yield from feed_forward(hidden, n_shared * inner, block, suffix="_shexp")


def _check_last(h: Hyperparameters) -> Iterator[Value]:
    if h.optional_count("moe_layer_end_index") not in (None, n_layers(h) - 1):
        raise UnsupportedError(
            f"`moe_layer_end_index` in {h.where} is not the last layer: llama.cpp has no dense ones behind"
        )
    yield from ()


def _shared_size(h: Hyperparameters) -> int | None:
    # The reference takes the dense size divided by the heads of keys, which is the same in the published models.
    return (h.optional_count("moe_num_shared_experts") or 0) * h.size("moe_intermediate_size") or None


ERNIE4_5_MOE: Final = Family(
    hf_names=("Ernie4_5_MoeForCausalLM",),
    arch=MODEL_ARCH.ERNIE4_5_MOE,
    metadata=(
        Row(_check_last),
        *COMMON,
        u32(Keys.LLM.EXPERT_COUNT, "moe_num_experts"),
        u32(Keys.LLM.EXPERT_USED_COUNT, "moe_k"),
        u32(Keys.LLM.INTERLEAVE_MOE_LAYER_STEP, "moe_layer_interval"),
        count(Keys.LLM.LEADING_DENSE_BLOCK_COUNT, "moe_layer_start_index"),
        u32(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, "moe_intermediate_size"),
        count(Keys.LLM.EXPERT_SHARED_COUNT, "moe_num_shared_experts"),
        computed(Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH, U32, _shared_size),
    ),
    tensors=decoder(_block),
    facts=ERNIE4_5.facts,
    parts=FUSED_EXPERTS,
    left_out=lambda _h, name: "layers that predict several tokens (MTP)" if name.startswith("model.mtp_") else None,
    tokenizer=ERNIE_TOKENIZER,
)
