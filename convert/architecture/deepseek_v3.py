"""DeepSeek-V2 and V3. Source: conversion/deepseek.py, DeepseekV2Model @ 0c1e570.

Multi-head latent attention: `kv_b_proj` holds, head by head, what unpacks keys and what unpacks values. GGUF has the
two apart, the keys' transposed, so that attention runs on the packed ones:

    kv_b   (heads, nope + v, rank)      k_b   (heads, rank, nope)      v_b   (heads, v, rank)
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from gguf import MODEL_ARCH, ExpertGatingFuncType, Keys

from convert.architecture.blocks import embeddings, experts, feed_forward, linear, norm, output, tied_output
from convert.architecture.family import FUSED_EXPERTS, N_EXPERTS, Facts, Family, Rule, n_experts, n_layers
from convert.architecture.metadata import BOOL, COMMON, F32, U32, computed, f32, late_gating, meant, u32
from convert.architecture.rope_back import in_scaling
from convert.checkpoint.views import Blocks, Transposed
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convert.architecture.given import Given
    from convert.architecture.hyperparameters import Hyperparameters
    from convert.checkpoint import Tensor


def _n_dense(h: Hyperparameters) -> int:
    """Count the leading layers without experts."""
    dense, kinds = h.optional_count("first_k_dense_replace"), h.texts("mlp_layer_types")
    if dense is None and kinds is not None:
        dense = len(list(takewhile(lambda kind: kind == "dense", kinds)))
    return (0 if n_experts(h) else n_layers(h)) if dense is None else dense


def _rank(h: Hyperparameters) -> int:
    return h.size("kv_lora_rank")


def _tensors(h: Hyperparameters, n_tokens: int) -> Iterator[Rule]:
    del n_tokens
    hidden = h.size("hidden_size")
    yield from embeddings(h)
    for layer in range(n_layers(h)):
        yield from latent_block(h, f"blk.{layer}")
    yield from norm("output_norm", hidden)
    yield from output(h)


def latent_block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    """Yield a block with latent attention, dense or with experts."""
    hidden = h.size("hidden_size")
    yield from norm(f"{block}.attn_norm", hidden)
    yield from _latent_attention(h, block)
    yield from norm(f"{block}.ffn_norm", hidden)
    if int(block.removeprefix("blk.")) < _n_dense(h):
        yield from feed_forward(hidden, h.size("intermediate_size"), block)
    else:
        yield from _experts(h, block)


def _latent_attention(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden, n_heads, rank = h.size("hidden_size"), h.size("num_attention_heads"), _rank(h)
    nope, rotary, v = h.size("qk_nope_head_dim"), h.size("qk_rope_head_dim"), h.size("v_head_dim")
    q_rank, q_rows = h.optional_size("q_lora_rank"), n_heads * (nope + rotary)
    if q_rank is None:
        yield from linear(f"{block}.attn_q", q_rows, hidden)
    else:
        yield from linear(f"{block}.attn_q_a", q_rank, hidden)
        yield from norm(f"{block}.attn_q_a_norm", q_rank)
        yield from linear(f"{block}.attn_q_b", q_rows, q_rank)
    yield from linear(f"{block}.attn_kv_a_mqa", rank + rotary, hidden)
    yield from norm(f"{block}.attn_kv_a_norm", rank)
    kv_b = (n_heads * (nope + v), rank)

    def keys(tensor: Tensor) -> Tensor:
        return Transposed(Blocks(tensor, tensor.name, (n_heads, nope, rank), nope + v, 0, nope), tensor.name)

    def values(tensor: Tensor) -> Tensor:
        return Blocks(tensor, tensor.name, (n_heads, v, rank), nope + v, nope, v)

    yield Rule(f"{block}.attn_k_b.weight", kv_b, keys, of=f"{block}.attn_kv_b.weight")
    yield Rule(f"{block}.attn_v_b.weight", kv_b, values, of=f"{block}.attn_kv_b.weight")
    yield from linear(f"{block}.attn_output", hidden, n_heads * v)


def _experts(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden, inner = h.size("hidden_size"), h.size("moe_intermediate_size")
    yield Rule(f"{block}.exp_probs_b.bias", (n_experts(h) or 0,), required=False)
    yield from experts(h, inner, block)
    n_shared = h.optional_count("n_shared_experts")
    if n_shared:
        yield from feed_forward(hidden, n_shared * inner, block, suffix="_shexp")


def _left_out(h: Hyperparameters, name: str) -> str | None:
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    if layer is not None and int(layer[1]) >= n_layers(h):
        return "layers that predict several tokens (MTP)"
    return tied_output(h, name)


def _log_multiplier(h: Hyperparameters) -> float | None:
    scale = h.rope.number("mscale_all_dim")
    return None if scale is None else 0.1 * scale


def _gating(h: Hyperparameters) -> int | None:
    # transformers scores experts by a sigmoid and leaves `scoring_func` out when it saves; the reference then writes
    # nothing, and llama.cpp takes a softmax.
    return None if h.get("scoring_func") is not None else int(ExpertGatingFuncType.SIGMOID)


def _shared(given: Given) -> Mapping[str, Any]:
    return {"n_shared_experts": given.get(Keys.LLM.EXPERT_SHARED_COUNT) or None}


def _norm_of_weights(given: Given) -> Mapping[str, Any]:
    return {"norm_topk_prob": bool(given.get(Keys.LLM.EXPERT_WEIGHTS_NORM))}


def _n_not_rotated(given: Given) -> int:
    return int(given.get(Keys.Attention.KEY_LENGTH_MLA) - given.get(Keys.Rope.DIMENSION_COUNT))


_SCALE_OF_ALL: Final = in_scaling(Keys.Rope.SCALING_YARN_LOG_MUL, "mscale_all_dim", 10.0, also=("mscale",))

DEEPSEEK_V2: Final = Family(
    hf_names=("DeepseekV2ForCausalLM",),
    arch=MODEL_ARCH.DEEPSEEK2,
    metadata=(
        *COMMON,
        computed(Keys.Attention.HEAD_COUNT_KV, U32, lambda _: 1),  # attention runs on one packed head
        f32(Keys.Attention.LAYERNORM_RMS_EPS, "rms_norm_eps", default=1e-6),
        computed(Keys.LLM.LEADING_DENSE_BLOCK_COUNT, U32, _n_dense, ("first_k_dense_replace",)),
        u32(Keys.LLM.VOCAB_SIZE, "vocab_size"),
        u32(Keys.Attention.Q_LORA_RANK, "q_lora_rank"),
        computed(Keys.Attention.KV_LORA_RANK, U32, _rank, ("kv_lora_rank",)),
        computed(Keys.Attention.KEY_LENGTH, U32, lambda h: _rank(h) + h.size("qk_rope_head_dim")),
        computed(Keys.Attention.VALUE_LENGTH, U32, _rank),
        computed(Keys.Attention.KEY_LENGTH_MLA, U32, lambda h: h.size("qk_nope_head_dim") + h.size("qk_rope_head_dim")),
        u32(Keys.Attention.VALUE_LENGTH_MLA, "v_head_dim"),
        u32(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, "moe_intermediate_size", "intermediate_size"),
        computed(Keys.LLM.EXPERT_COUNT, U32, n_experts, N_EXPERTS),
        computed(Keys.LLM.EXPERT_SHARED_COUNT, U32, lambda h: h.optional_count("n_shared_experts") or 0, _shared),
        f32(Keys.LLM.EXPERT_WEIGHTS_SCALE, "routed_scaling_factor"),
        computed(Keys.LLM.EXPERT_WEIGHTS_NORM, BOOL, lambda h: h.flag("norm_topk_prob") or None, _norm_of_weights),
        u32(Keys.Rope.DIMENSION_COUNT, "qk_rope_head_dim"),
        computed(Keys.Rope.SCALING_YARN_LOG_MUL, F32, _log_multiplier, _SCALE_OF_ALL),
        meant(num_key_value_heads=lambda given: given.said("num_attention_heads"), qk_nope_head_dim=_n_not_rotated),
    ),
    tensors=_tensors,
    facts=Facts(epsilons=("attention.layer_norm_rms_epsilon",)),
    parts=FUSED_EXPERTS,
    left_out=_left_out,
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
DEEPSEEK_V3: Final = replace(
    DEEPSEEK_V2,
    hf_names=("DeepseekV3ForCausalLM",),
    metadata=(*DEEPSEEK_V2.metadata, late_gating(_gating)),
)
