"""MPT. Source: conversion/mpt.py @ 0c1e570."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gguf import MODEL_ARCH, Keys

from convert.architecture.blocks import fused_block, norm
from convert.architecture.family import Facts, Family, Rule, n_layers
from convert.architecture.metadata import BLOCK_COUNT, F32, U32, Row, Value, computed, only, u32
from convert.errors import UnsupportedError
from convert.fields import Fields
from convert.tokenizer import BYTE_LEVEL_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convert.architecture.given import Given
    from convert.architecture.hyperparameters import Hyperparameters

# What of `attn_config` llama.cpp computes in one way only.
_ONLY: Final[tuple[tuple[str, tuple[Any, ...]], ...]] = (
    ("attn_type", ("multihead_attention",)),
    ("softmax_scale", (None,)),
    ("prefix_lm", (False, None)),
    ("qk_ln", (False, None)),
)


def _attention(h: Hyperparameters) -> Fields:
    return Fields(h.mapping("attn_config"), f"`attn_config` of {h.where}")


def _check_attention(h: Hyperparameters) -> Iterator[Value]:
    fields = _attention(h)
    for key, values in _ONLY:
        if fields.has(key) and fields.get(key) not in values:
            raise UnsupportedError(f"`{key}` in {fields.where} is {fields.get(key)!r:.60}, which llama.cpp has not")
    yield from ()


def _inner(h: Hyperparameters) -> int:
    return (h.optional_size("expansion_ratio") or 4) * h.size("d_model")


def _tensors(h: Hyperparameters, n_tokens: int) -> Iterator[Rule]:
    del n_tokens
    hidden = h.size("d_model")
    yield Rule("token_embd.weight", (h.size("vocab_size"), hidden))
    for layer in range(n_layers(h)):
        yield from fused_block(f"blk.{layer}", hidden, _inner(h), bias=False)
    yield from norm("output_norm", hidden)
    yield Rule("output.weight", (h.size("vocab_size"), hidden), required=False)


def _expansion(given: Given) -> Mapping[str, Any]:
    return {"expansion_ratio": given.get(Keys.LLM.FEED_FORWARD_LENGTH) // given.said("d_model")}


def _of_attention(given: Given) -> Mapping[str, Any]:
    bias = given.get(Keys.Attention.MAX_ALIBI_BIAS) or 0.0
    stated = {"alibi": bool(bias), "clip_qkv": given.get(Keys.Attention.CLAMP_KQV)}
    return {"attn_config": stated | ({"alibi_bias_max": int(bias) if bias == int(bias) else bias} if bias else {})}


MPT: Final = Family(
    hf_names=("MPTForCausalLM", "MptForCausalLM"),
    arch=MODEL_ARCH.MPT,
    metadata=(
        only(("logit_scale",)),
        Row(_check_attention),
        u32(Keys.LLM.CONTEXT_LENGTH, "max_seq_len"),
        u32(Keys.LLM.EMBEDDING_LENGTH, "d_model"),
        BLOCK_COUNT,
        computed(Keys.LLM.FEED_FORWARD_LENGTH, U32, _inner, _expansion),
        u32(Keys.Attention.HEAD_COUNT, "n_heads"),
        computed(
            Keys.Attention.LAYERNORM_EPS, F32, lambda h: h.number("layer_norm_epsilon") or 1e-5, ("layer_norm_epsilon",)
        ),
        computed(Keys.Attention.CLAMP_KQV, F32, lambda h: _attention(h).number("clip_qkv"), _of_attention),
        computed(
            Keys.Attention.MAX_ALIBI_BIAS,
            F32,
            lambda h: _attention(h).number("alibi_bias_max") if _attention(h).flag("alibi") else 0.0,
            _of_attention,
        ),
    ),
    tensors=_tensors,
    facts=Facts(epsilons=("attention.layer_norm_epsilon",)),
    tokenizer=BYTE_LEVEL_TOKENIZER,
)
