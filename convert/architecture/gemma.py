"""Gemma and Gemma 2. Source: conversion/gemma.py, GemmaModel and Gemma2Model @ 0c1e570.

A norm is multiplied by 1 + weight, and GGUF holds the sum. The embeddings are the output matrix, always.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import attention, embeddings, feed_forward, norm, tied_output
from convert.architecture.family import Facts, Family, n_layers
from convert.architecture.metadata import (
    BLOCK_COUNT,
    GELU,
    ROPE_BEYOND_DEFAULTS,
    U32,
    computed,
    f32,
    head_dim,
    meant,
    required,
    u32,
    window_period,
)
from convert.tokenizer import GEMMA_1_TOKENIZER, GEMMA_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.family import Rule
    from convert.architecture.given import Given
    from convert.architecture.hyperparameters import Hyperparameters


def _tensors(h: Hyperparameters, n_tokens: int, *, post_norms: bool) -> Iterator[Rule]:
    del n_tokens
    yield from embeddings(h)
    for layer in range(n_layers(h)):
        yield from gemma_layer(h, f"blk.{layer}", post_norms=post_norms)
    yield from norm("output_norm", h.size("hidden_size"), plus_one=True)


def gemma_layer(h: Hyperparameters, block: str, *, post_norms: bool = True, head_norms: bool = False) -> Iterator[Rule]:
    """Yield a layer. post_norms: there are norms behind attention and feed-forward too."""
    hidden = h.size("hidden_size")
    yield from norm(f"{block}.attn_norm", hidden, plus_one=True)
    yield from attention(h, block, head_norms=head_norms, plus_one=True, output_bias=False)
    yield from norm(f"{block}.ffn_norm", hidden, plus_one=True)
    yield from feed_forward(hidden, h.size("intermediate_size"), block, biases=False)
    if post_norms:
        yield from norm(f"{block}.post_attention_norm", hidden, plus_one=True)
        yield from norm(f"{block}.post_ffw_norm", hidden, plus_one=True)


_METADATA: Final = (
    u32(Keys.LLM.CONTEXT_LENGTH, "max_position_embeddings"),
    u32(Keys.LLM.EMBEDDING_LENGTH, "hidden_size"),
    BLOCK_COUNT,
    u32(Keys.LLM.FEED_FORWARD_LENGTH, "intermediate_size"),
    u32(Keys.Attention.HEAD_COUNT, "num_attention_heads"),
    u32(Keys.Attention.HEAD_COUNT_KV, "num_key_value_heads", "num_attention_heads"),
    required(f32(Keys.Attention.LAYERNORM_RMS_EPS, "rms_norm_eps"), "rms_norm_eps"),
    computed(Keys.Attention.KEY_LENGTH, U32, head_dim, ("head_dim",)),
    computed(Keys.Attention.VALUE_LENGTH, U32, head_dim),
    computed(Keys.General.FILE_TYPE, U32, lambda _: 0),
)
# By which llama.cpp takes a Gemma for the one of 27 billion, whose scale of queries is another.
LAYERS_OF_27B: Final = (46, 62)


def _scale_of_queries(given: Given) -> int:
    if given.said("num_hidden_layers") in LAYERS_OF_27B:
        return int(given.said("hidden_size") // given.said("num_attention_heads"))
    return int(given.get(Keys.Attention.KEY_LENGTH) or given.said("head_dim"))


SCALE_OF_QUERIES: Final = meant(query_pre_attn_scalar=_scale_of_queries)
_FACTS: Final = Facts(epsilons=("attention.layer_norm_rms_epsilon",), rows_are_heads=True)

GEMMA: Final = Family(
    hf_names=("GemmaForCausalLM",),
    arch=MODEL_ARCH.GEMMA,
    metadata=(GELU, *_METADATA, ROPE_BEYOND_DEFAULTS),
    tensors=partial(_tensors, post_norms=False),
    facts=_FACTS,
    left_out=tied_output,
    tokenizer=GEMMA_1_TOKENIZER,
)
GEMMA2: Final = Family(
    hf_names=("Gemma2ForCausalLM",),
    arch=MODEL_ARCH.GEMMA2,
    metadata=(
        GELU,
        *_METADATA,
        required(f32(Keys.LLM.ATTN_LOGIT_SOFTCAPPING, "attn_logit_softcapping"), "attn_logit_softcapping"),
        required(f32(Keys.LLM.FINAL_LOGIT_SOFTCAPPING, "final_logit_softcapping"), "final_logit_softcapping"),
        required(u32(Keys.Attention.SLIDING_WINDOW, "sliding_window"), "sliding_window"),
        ROPE_BEYOND_DEFAULTS,
        window_period(2),
        SCALE_OF_QUERIES,
    ),
    tensors=partial(_tensors, post_norms=True),
    facts=_FACTS,
    left_out=tied_output,
    tokenizer=GEMMA_TOKENIZER,
)
