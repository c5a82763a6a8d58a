"""StableLM and StableLM 2. Source: conversion/stablelm.py @ 0c1e570.

StableLM 2 12B has a norm for each head, which GGUF has stacked, and runs attention and feed-forward side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import attention, decoder, feed_forward, norm
from convert.architecture.family import Facts, Family, Rule
from convert.architecture.metadata import (
    BLOCK_COUNT,
    BOOL,
    ROPE_BEYOND_DEFAULTS,
    U32,
    computed,
    f32,
    head_dim,
    u32,
)
from convert.architecture.rope import rope_of
from convert.architecture.rope_back import rotary_part
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.hyperparameters import Hyperparameters


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    hidden, size = h.size("hidden_size"), head_dim(h)
    yield from norm(f"{block}.attn_norm", hidden, bias=True)
    yield from attention(h, block)
    if h.flag("qk_layernorm"):
        yield Rule(f"{block}.attn_q_norm.weight", (size,), n_stacked=h.size("num_attention_heads"))
        yield Rule(f"{block}.attn_k_norm.weight", (size,), n_stacked=h.size("num_key_value_heads"))
    if not h.flag("use_parallel_residual"):
        yield from norm(f"{block}.ffn_norm", hidden, bias=True)
    yield from feed_forward(hidden, h.size("intermediate_size"), block)


def _n_rotated(h: Hyperparameters) -> int:
    part = rope_of(h).number("partial_rotary_factor")
    return int((0.25 if part is None else part) * (h.size("hidden_size") // h.size("num_attention_heads")))


STABLELM: Final = Family(
    hf_names=("StableLmForCausalLM", "StableLMEpochForCausalLM"),
    arch=MODEL_ARCH.STABLELM,
    metadata=(
        u32(Keys.LLM.CONTEXT_LENGTH, "max_position_embeddings"),
        u32(Keys.LLM.EMBEDDING_LENGTH, "hidden_size"),
        BLOCK_COUNT,
        u32(Keys.LLM.FEED_FORWARD_LENGTH, "intermediate_size"),
        computed(Keys.Rope.DIMENSION_COUNT, U32, _n_rotated, rotary_part()),
        u32(Keys.Attention.HEAD_COUNT, "num_attention_heads"),
        u32(Keys.Attention.HEAD_COUNT_KV, "num_key_value_heads"),
        computed(
            Keys.LLM.USE_PARALLEL_RESIDUAL,
            BOOL,
            lambda h: h.get("use_parallel_residual") is not False,
            ("use_parallel_residual",),
        ),
        f32(Keys.Attention.LAYERNORM_EPS, "layer_norm_eps", "norm_eps"),
        computed(Keys.General.FILE_TYPE, U32, lambda _: 0),
        ROPE_BEYOND_DEFAULTS,
    ),
    tensors=decoder(_block, bias=True, needs_output=True),
    facts=Facts(epsilons=("attention.layer_norm_epsilon",), rows_are_heads=True),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
