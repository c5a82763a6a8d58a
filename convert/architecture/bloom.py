"""BLOOM. Source: conversion/bloom.py, BloomModel @ 0c1e570.

Its query, key and value are one matrix, head by head, which GGUF has one after the other:

    stored    (heads, 3, head_dim) rows        in GGUF    (3, heads, head_dim) rows
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import fused_block, norm, one_after_the_other
from convert.architecture.family import Facts, Family, Rule, n_layers
from convert.architecture.metadata import BLOCK_COUNT, U32, computed, f32, u32
from convert.errors import ConfigError
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.hyperparameters import Hyperparameters

_WIDTH: Final = ("hidden_size", "n_embed")
_HEADS: Final = ("n_head", "num_attention_heads")


def _tensors(h: Hyperparameters, n_tokens: int) -> Iterator[Rule]:
    del n_tokens
    hidden, n_heads = h.size(*_WIDTH), h.size(*_HEADS)
    if hidden % n_heads:
        raise ConfigError(f"`hidden_size` {hidden} is not a multiple of `n_head` {n_heads} in {h.where}")

    make = one_after_the_other(n_heads, (hidden // n_heads,) * 3)
    vocabulary = (h.size("vocab_size"), hidden)
    yield Rule("token_embd.weight", vocabulary)
    yield from norm("token_embd_norm", hidden, bias=True)
    for layer in range(n_layers(h)):
        yield from fused_block(f"blk.{layer}", hidden, 4 * hidden, make=make)
    yield from norm("output_norm", hidden, bias=True)
    yield Rule("output.weight", vocabulary, required=False)


def _context(h: Hyperparameters) -> int:
    return h.size("seq_length") if h.has("seq_length") else h.size(*_WIDTH)


BLOOM: Final = Family(
    hf_names=("BloomForCausalLM", "BloomModel"),
    arch=MODEL_ARCH.BLOOM,
    metadata=(
        computed(Keys.LLM.CONTEXT_LENGTH, U32, _context, ("seq_length",)),
        u32(Keys.LLM.EMBEDDING_LENGTH, *_WIDTH),
        computed(Keys.LLM.FEED_FORWARD_LENGTH, U32, lambda h: 4 * h.size(*_WIDTH)),
        BLOCK_COUNT,
        u32(Keys.Attention.HEAD_COUNT, *_HEADS),
        u32(Keys.Attention.HEAD_COUNT_KV, *_HEADS),
        f32(Keys.Attention.LAYERNORM_EPS, "layer_norm_epsilon"),
        computed(Keys.General.FILE_TYPE, U32, lambda _: 0),
    ),
    tensors=_tensors,
    facts=Facts(epsilons=("attention.layer_norm_epsilon",)),
    renames=((r"transformer\.", ""),),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
