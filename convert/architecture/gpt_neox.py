"""GPT-NeoX and Pythia. Source: conversion/gptneox.py @ 0c1e570. Query, key and value are stored as BLOOM's are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import decoder, fused_block, one_after_the_other
from convert.architecture.family import Facts, Family
from convert.architecture.metadata import BLOCK_COUNT, BOOL, ROPE_BEYOND_DEFAULTS, U32, computed, f32, only, u32
from convert.architecture.rope import rope_of
from convert.architecture.rope_back import rotary_part
from convert.errors import ConfigError
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.family import Rule
    from convert.architecture.hyperparameters import Hyperparameters


def _head(h: Hyperparameters) -> int:
    hidden, n_heads = h.size("hidden_size"), h.size("num_attention_heads")
    if hidden % n_heads:
        raise ConfigError(f"`hidden_size` {hidden} is not a multiple of `num_attention_heads` {n_heads} in {h.where}")
    return hidden // n_heads


def _block(h: Hyperparameters, block: str) -> Iterator[Rule]:
    make = one_after_the_other(h.size("num_attention_heads"), (_head(h),) * 3)
    yield from fused_block(block, h.size("hidden_size"), h.size("intermediate_size"), make=make)


def _n_rotated(h: Hyperparameters) -> int:
    """Count what of a head is rotated; transformers 5 has moved the key, and the reference does not find it."""
    parts = (h.number("rotary_pct"), rope_of(h).number("partial_rotary_factor"), 0.25)
    return int(next(part for part in parts if part is not None) * _head(h))


GPT_NEOX: Final = Family(
    hf_names=("GPTNeoXForCausalLM",),
    arch=MODEL_ARCH.GPTNEOX,
    metadata=(
        only(("attention_bias",), (True,)),
        u32(Keys.LLM.CONTEXT_LENGTH, "max_position_embeddings"),
        u32(Keys.LLM.EMBEDDING_LENGTH, "hidden_size"),
        BLOCK_COUNT,
        u32(Keys.LLM.FEED_FORWARD_LENGTH, "intermediate_size"),
        computed(Keys.Rope.DIMENSION_COUNT, U32, _n_rotated, rotary_part("rotary_pct")),
        u32(Keys.Attention.HEAD_COUNT, "num_attention_heads"),
        computed(
            Keys.LLM.USE_PARALLEL_RESIDUAL,
            BOOL,
            lambda h: h.get("use_parallel_residual") is not False,
            ("use_parallel_residual",),
        ),
        f32(Keys.Attention.LAYERNORM_EPS, "layer_norm_eps"),
        ROPE_BEYOND_DEFAULTS,
    ),
    tensors=decoder(_block, bias=True, needs_output=True),
    facts=Facts(epsilons=("attention.layer_norm_epsilon",)),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
