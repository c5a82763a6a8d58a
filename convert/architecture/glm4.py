"""GLM-4 and GLM-4 MoE (4.5, 4.6, Air). Source: conversion/glm.py, Glm4Model and Glm4MoeModel @ 0c1e570.

The mixture's layers that predict several tokens are written where the checkpoint has them.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from gguf import MODEL_ARCH, ExpertGatingFuncType, Keys

from convert.architecture.blocks import attention, decoder, experts, feed_forward, linear, norm, vocabulary_size
from convert.architecture.family import FUSED_EXPERTS, Facts, Family, Rule, n_layers
from convert.architecture.metadata import BOOL, COMMON, U32, computed, count, f32, head_dim, u32
from convert.architecture.rope import rope_of
from convert.architecture.rope_back import rotary_part
from convert.tokenizer import GLM4_MOE_TOKENIZER, GLM4_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convert.architecture.given import Given
    from convert.architecture.hyperparameters import Hyperparameters
    from convert.checkpoint.views import Constant


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden, inner = h.size("hidden_size"), h.size("intermediate_size")
    yield from norm(f"{block}.attn_norm", hidden)
    yield from attention(h, block)
    yield from norm(f"{block}.post_attention_norm", hidden)
    yield from norm(f"{block}.ffn_norm", hidden)
    yield from linear(f"{block}.ffn_up", 2 * inner, hidden)  # gate above up
    yield from linear(f"{block}.ffn_down", hidden, inner)
    yield from norm(f"{block}.post_ffw_norm", hidden)


def _n_rotated(h: Hyperparameters) -> int:
    part = rope_of(h).number("partial_rotary_factor")
    return int(head_dim(h) * (0.5 if part is None else part))


GLM4: Final = Family(
    hf_names=("Glm4ForCausalLM",),
    arch=MODEL_ARCH.GLM4,
    metadata=(*COMMON, computed(Keys.Rope.DIMENSION_COUNT, U32, _n_rotated, rotary_part())),
    tensors=decoder(_block),
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True),
    tokenizer=GLM4_TOKENIZER,
)


def _n_predicting(h: Hyperparameters) -> int:
    return h.optional_count("num_nextn_predict_layers") or 0


def n_blocks(h: Hyperparameters) -> int:
    """Count the blocks with those that predict several tokens."""
    return n_layers(h) + _n_predicting(h)


def _mixture_block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden, inner = h.size("hidden_size"), h.size("moe_intermediate_size")
    yield from norm(f"{block}.attn_norm", hidden)
    yield from attention(h, block, head_norms=h.flag("use_qk_norm"))
    yield from norm(f"{block}.post_attention_norm", hidden)
    if int(block.removeprefix("blk.")) < (h.optional_count("first_k_dense_replace") or 0):
        yield from feed_forward(hidden, h.size("intermediate_size"), block)
        return
    yield Rule(f"{block}.exp_probs_b.bias", (h.size("n_routed_experts"),), required=False)
    yield from experts(h, inner, block)
    n_shared = h.optional_count("n_shared_experts")
    if n_shared:
        yield from feed_forward(hidden, n_shared * inner, block, suffix="_shexp")


def _mixture(h: Hyperparameters, n_tokens: int) -> Iterator[Rule | Constant]:
    yield from decoder(_mixture_block)(h, n_tokens)
    for layer in range(n_layers(h), n_blocks(h)):
        rules = chain(_mixture_block(h, f"blk.{layer}"), predicting(h, f"blk.{layer}"))
        yield from (replace(rule, required=False) for rule in rules)


def predicting(h: Hyperparameters, block: str) -> Iterator[Rule]:
    """Yield what a block that predicts the token behind the next one has beside the others."""
    hidden, vocabulary = h.size("hidden_size"), (vocabulary_size(h), h.size("hidden_size"))
    yield Rule(f"{block}.nextn.eh_proj.weight", (hidden, 2 * hidden))
    yield Rule(f"{block}.nextn.embed_tokens.weight", vocabulary)
    yield Rule(f"{block}.nextn.shared_head_head.weight", vocabulary)
    for part in ("enorm", "hnorm", "shared_head_norm"):
        yield from norm(f"{block}.nextn.{part}", hidden)


def layers_without_predicting(given: Given) -> Mapping[str, Any]:
    """Count the blocks without those that predict several tokens."""
    n_predicting = given.get(Keys.LLM.NEXTN_PREDICT_LAYERS) or 0
    return {
        "num_hidden_layers": given.get(Keys.LLM.BLOCK_COUNT) - n_predicting,
        "num_nextn_predict_layers": n_predicting,
    }


GLM4_MOE: Final = Family(
    hf_names=("Glm4MoeForCausalLM",),
    arch=MODEL_ARCH.GLM4_MOE,
    metadata=(
        *COMMON,
        computed(Keys.LLM.BLOCK_COUNT, U32, n_blocks, layers_without_predicting),
        computed(Keys.Rope.DIMENSION_COUNT, U32, _n_rotated, rotary_part()),
        u32(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, "moe_intermediate_size"),
        count(Keys.LLM.EXPERT_SHARED_COUNT, "n_shared_experts"),
        count(Keys.LLM.LEADING_DENSE_BLOCK_COUNT, "first_k_dense_replace"),
        computed(Keys.LLM.EXPERT_GATING_FUNC, U32, lambda _: int(ExpertGatingFuncType.SIGMOID)),
        f32(Keys.LLM.EXPERT_WEIGHTS_SCALE, "routed_scaling_factor"),
        computed(Keys.LLM.EXPERT_WEIGHTS_NORM, BOOL, lambda h: h.get("norm_topk_prob"), ("norm_topk_prob",)),
        count(Keys.LLM.NEXTN_PREDICT_LAYERS, "num_nextn_predict_layers"),
    ),
    tensors=_mixture,
    facts=GLM4.facts,
    parts=FUSED_EXPERTS,
    tokenizer=GLM4_MOE_TOKENIZER,
    n_blocks=n_blocks,
)
