"""GPT-2, and StarCoder, which is one with one head of keys and values: positions are learned.

GPT-2's matrices are stored transposed (transformers' Conv1D), StarCoder's are not.
Source: conversion/gpt2.py, GPT2Model; conversion/starcoder.py, StarCoderModel @ 0c1e570.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import Make, Matrix, fused_block, linear, norm
from convert.architecture.family import Facts, Family, Rule, as_stored, n_layers
from convert.architecture.metadata import BLOCK_COUNT, U32, computed, f32, only, u32
from convert.checkpoint.views import Transposed
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.architecture.hyperparameters import Hyperparameters
    from convert.checkpoint import Tensor

_WIDTH: Final = ("n_embd", "hidden_size")
_HEADS: Final = ("n_head", "num_attention_heads")
_LENGTH: Final = ("n_ctx", "n_positions", "max_position_embeddings")


def _transposed(tensor: Tensor) -> Tensor:
    return Transposed(tensor, tensor.name)


def _conv1d(name: str, n_out: int, n_in: int, make: Make = as_stored, *, needs_bias: bool = False) -> Iterator[Rule]:
    del make
    yield Rule(f"{name}.weight", (n_in, n_out), _transposed)
    yield Rule(f"{name}.bias", (n_out,), required=needs_bias)


def _inner(h: Hyperparameters) -> int:
    return h.optional_size("n_inner") or 4 * h.size(*_WIDTH)


def _tensors(h: Hyperparameters, _n_tokens: int, *, matrix: Matrix, one_key: bool) -> Iterator[Rule]:
    hidden = h.size(*_WIDTH)
    n_qkv = hidden + 2 * (hidden // h.size(*_HEADS)) if one_key else 3 * hidden
    yield Rule("token_embd.weight", (h.size("vocab_size"), hidden))
    yield Rule("position_embd.weight", (h.size(*_LENGTH), hidden))
    for layer in range(n_layers(h)):
        yield from fused_block(f"blk.{layer}", hidden, _inner(h), matrix=matrix, n_qkv=n_qkv)
    yield from norm("output_norm", hidden, bias=True)
    yield Rule("output.weight", (h.size("vocab_size"), hidden), required=False)


def _left_out(_h: Hyperparameters, name: str) -> str | None:
    return "causal masks" if name.endswith((".attn.bias", ".attn.masked_bias")) else None


GPT2: Final = Family(
    hf_names=("GPT2LMHeadModel",),
    arch=MODEL_ARCH.GPT2,
    metadata=(
        only(("scale_attn_weights",), (True,)),
        only(("scale_attn_by_inverse_layer_idx",), (False,)),
        only(("add_cross_attention",), (False,)),
        BLOCK_COUNT,
        u32(Keys.LLM.CONTEXT_LENGTH, *_LENGTH),
        u32(Keys.LLM.EMBEDDING_LENGTH, *_WIDTH),
        computed(Keys.LLM.FEED_FORWARD_LENGTH, U32, _inner, ("n_inner",)),
        u32(Keys.Attention.HEAD_COUNT, *_HEADS),
        f32(Keys.Attention.LAYERNORM_EPS, "layer_norm_epsilon"),
        computed(Keys.General.FILE_TYPE, U32, lambda _: 0),
    ),
    tensors=partial(_tensors, matrix=_conv1d, one_key=False),
    facts=Facts(epsilons=("attention.layer_norm_epsilon",)),
    left_out=_left_out,
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
STARCODER: Final = Family(
    hf_names=("GPTBigCodeForCausalLM",),
    arch=MODEL_ARCH.STARCODER,
    metadata=(
        only(("scale_attn_weights",), (True,)),
        only(("multi_query",), (True,)),
        only(("add_cross_attention",), (False,)),
        u32(Keys.LLM.CONTEXT_LENGTH, "n_positions"),
        u32(Keys.LLM.EMBEDDING_LENGTH, "n_embd"),
        computed(Keys.LLM.FEED_FORWARD_LENGTH, U32, _inner, ("n_inner",)),
        BLOCK_COUNT,
        u32(Keys.Attention.HEAD_COUNT, "n_head"),
        computed(Keys.Attention.HEAD_COUNT_KV, U32, lambda _: 1),
        f32(Keys.Attention.LAYERNORM_EPS, "layer_norm_epsilon"),
        computed(Keys.General.FILE_TYPE, U32, lambda _: 0),
    ),
    tensors=partial(_tensors, matrix=linear, one_key=True),
    facts=GPT2.facts,
    left_out=_left_out,
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
